//! Tests `upcase serve` under systemd: listening sockets that it inherits, its notifications to the
//! service manager, and the unit files in `deploy/systemd`.

mod common;

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as UnixAddr, UnixDatagram};
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use common::{
    Ended, Process, Serve, TIMEOUT, connect, expect_fin, installed, read, skip, until, upcase,
};
use nix::sys::signal::Signal;
use socket2::SockRef;

/// Returns the command, run so that it inherits these sockets from descriptor 3 on.
fn with_sockets(sockets: &[&dyn Handed], command: &Command) -> Command {
    for_process("$$", sockets, command)
}

/// Returns a shell command that passes the sockets on, sets `LISTEN_PID` to `id` and replaces
/// itself with the command, so that `$$` as the id is that of the server's process.
fn for_process(id: &str, sockets: &[&dyn Handed], command: &Command) -> Command {
    let mut moves = String::new();
    let places: Vec<usize> = (3..).take(sockets.len()).collect();
    // Move the sockets to high descriptors first: each may have the target number of another one.
    for (socket, place) in sockets.iter().zip(&places) {
        moves += &format!("exec {}<&{}; ", place + 100, socket.descriptor());
    }
    for place in &places {
        moves += &format!("exec {place}<&{0} {0}<&-; ", place + 100);
    }
    let mut shell = Command::new("bash");
    let script = format!("{moves} LISTEN_PID={id} exec \"$0\" \"$@\"");
    shell.args(["-c", &script]).arg(command.get_program());
    shell.args(command.get_args());
    shell.env("LISTEN_FDS", sockets.len().to_string());
    shell
}

/// A descriptor that children inherit.
trait Handed {
    fn descriptor(&self) -> i32;
}

impl<T: AsFd> Handed for T {
    fn descriptor(&self) -> i32 {
        SockRef::from(self).set_cloexec(false).unwrap();
        self.as_fd().as_raw_fd()
    }
}

fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

fn echoes(client: &mut TcpStream, text: &str) {
    client.write_all(text.as_bytes()).unwrap();
    let reply = read(client, text.len());
    assert_eq!(reply, text.to_ascii_uppercase().as_bytes());
}

#[test]
fn inherited_sockets_replace_the_default_listener() {
    let (first, first_address) = listener();
    let second = TcpListener::bind("[::1]:0").unwrap();
    let addresses = [first_address, second.local_addr().unwrap()];
    for arguments in ["serve", "serve --shards 2"] {
        let command = with_sockets(&[&first, &second], &upcase(arguments));
        let serve = Serve::launch(command, 2);
        assert_eq!(serve.addresses, addresses);
        for _ in 0..10 {
            for address in addresses {
                echoes(&mut connect(address), "abc");
            }
        }
        serve.stop();
    }

    let both = upcase("serve --listen 127.0.0.1:0 --mss 1000");
    let serve = Serve::launch(with_sockets(&[&first], &both), 2);
    assert_eq!(
        serve.addresses[1], first_address,
        "the server's own sockets precede the inherited one"
    );
    for &address in &serve.addresses {
        let mut client = connect(address);
        echoes(&mut client, "abc");
        // The socket options are set on either socket.
        let mss = SockRef::from(&client).tcp_mss().unwrap();
        assert_eq!(mss, 988, "{address}");
    }
    serve.stop();
}

/// While no server runs, clients wait in the accept queue, and the next process serves them.
#[test]
fn clients_notice_nothing_of_a_restart() {
    let (socket, address) = listener();
    let mut early = connect(address);
    early.write_all(b"before any server").unwrap();
    let over = AtomicBool::new(false);
    let served = AtomicU32::new(0);
    thread::scope(|scope| {
        let come_and_go = || {
            while !over.load(Ordering::Relaxed) {
                common::exchange_and_close(&connect(address), b"again");
                served.fetch_add(1, Ordering::Relaxed);
            }
        };
        let clients = [0; 4].map(|_| scope.spawn(come_and_go));
        for round in 1..=5 {
            let serve = Serve::launch(with_sockets(&[&socket], &upcase("serve")), 1);
            let before = served.load(Ordering::Relaxed);
            until("it serves", || served.load(Ordering::Relaxed) > before + 50);
            if round == 5 {
                over.store(true, Ordering::Relaxed);
                until("all clients have left", || {
                    clients.iter().all(|client| client.is_finished())
                });
            }
            serve.stop();
        }
    });
    assert_eq!(read(&mut early, 17), b"BEFORE ANY SERVER");
}

/// The process that passed the socket on keeps it open: events of the socket must not wake a server
/// that has stopped listening on it.
#[test]
fn a_stopping_server_sleeps_although_clients_come() {
    let (socket, address) = listener();
    let serve = Serve::launch(with_sockets(&[&socket], &upcase("serve")), 1);
    let mut stuck = connect(address);
    // The client never reads, so the server has bytes pending for it as long as the test runs.
    let while_it_is_read = Duration::from_millis(500);
    stuck.set_write_timeout(Some(while_it_is_read)).unwrap();
    while stuck.write(&[b'x'; 65536]).is_ok() {}
    serve.process.signal(Signal::SIGTERM);
    serve.process.wait_for_stderr("stopping");
    let sleeps = serve.process.sleeps();
    let clients: Vec<TcpStream> = (0..100).map(|_| connect(address)).collect();
    let woken = serve.process.sleeps() - sleeps;
    assert!(
        woken < 25,
        "woken {woken} times by {} clients",
        clients.len()
    );
}

#[test]
fn what_cannot_be_listened_on_is_one_line_and_exit_code_3() {
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    let file = fs::File::open("/dev/null").unwrap();
    let (socket, address) = listener();
    let stream = connect(address);
    drop(socket);
    let cases: [(&dyn Handed, &str); 3] = [
        (
            &udp,
            "that LISTEN_FDS names: fd 3 is not a valid tcp socket",
        ),
        (&file, "that LISTEN_FDS names: fd 3 is not a socket"),
        (&stream, "the socket does not listen"),
    ];
    for (socket, words) in cases {
        let mut command = with_sockets(&[socket], &upcase("serve"));
        let ended = Ended::from(command.output().unwrap()).expect(3);
        assert_eq!(ended.stdout, "");
        assert_eq!(ended.stderr.lines().count(), 1, "{ended:?}");
        assert!(ended.stderr.contains(words), "{ended:?}");
    }
}

#[test]
fn sockets_for_another_process_are_left_alone() {
    let (socket, address) = listener();
    let command = upcase("serve --listen 127.0.0.1:0");
    let serve = Serve::launch(for_process("1", &[&socket], &command), 1);
    assert_ne!(serve.address(), address);
    echoes(&mut serve.connect(), "abc");
    serve.stop();
}

#[test]
fn it_works_with_systemd_itself() {
    if !installed("systemd-socket-activate") {
        return skip("no systemd-socket-activate (package systemd)");
    }
    let (socket, address) = listener();
    drop(socket);
    let mut command = Command::new("systemd-socket-activate");
    command.args(["--listen", &address.to_string()]);
    command.args([env!("CARGO_BIN_EXE_upcase"), "serve"]);
    let activator = Process::piped(command);
    activator.wait_for_stderr("Listening on");
    // The first client starts the server.
    let mut client = connect(address);
    echoes(&mut client, "abc");
    drop(client);
    activator.signal(Signal::SIGTERM);
    activator.wait_for_stderr("stopped: accepted 1, closed 1 (finished 1)");
}

/// The receiving end of a service manager's notification socket.
struct Manager(UnixDatagram);

impl Manager {
    fn new(socket: UnixDatagram) -> Manager {
        socket.set_read_timeout(Some(TIMEOUT)).unwrap();
        Manager(socket)
    }

    fn hears(&self, message: &str) {
        let mut bytes = [0; 4096];
        let length = self.0.recv(&mut bytes).expect("a message");
        let reported = String::from_utf8_lossy(&bytes[..length]);
        assert!(reported.starts_with(message), "{reported}");
    }
}

/// Starts a server, stops it, and checks that it notifies the manager of both.
fn a_life(name: &str, arguments: &str, manager: &Manager) {
    let mut command = upcase(&format!("serve --listen 127.0.0.1:0 {arguments}"));
    command.env("NOTIFY_SOCKET", name);
    let serve = Serve::launch(command, 1);
    manager.hears("READY=1\n");
    let mut client = serve.connect();
    echoes(&mut client, "abc");
    serve.process.signal(Signal::SIGTERM);
    manager.hears("STOPPING=1\n");
    expect_fin(&mut client);
    drop(client);
    serve.stop();
}

#[test]
fn the_service_manager_hears_when_it_is_ready_and_when_it_stops() {
    let path = notify_path();
    let manager = Manager::new(UnixDatagram::bind(&path).unwrap());
    for arguments in ["--sandbox off", "--sandbox auto", "--shards 2"] {
        a_life(path.to_str().unwrap(), arguments, &manager);
    }
    fs::remove_file(&path).unwrap();

    let name = format!("upcase-test-notify-{}", std::process::id());
    let address = UnixAddr::from_abstract_name(&name).unwrap();
    let manager = Manager::new(UnixDatagram::bind_addr(&address).unwrap());
    a_life(&format!("@{name}"), "", &manager);
}

#[test]
fn a_service_manager_that_is_not_there_is_a_warning() {
    let mut command = upcase("serve --listen 127.0.0.1:0");
    command.env("NOTIFY_SOCKET", "/upcase-test/nobody");
    let serve = Serve::launch(command, 1);
    serve.process.wait_for_stderr("cannot notify ");
    echoes(&mut serve.connect(), "abc");
    serve.stop();
}

fn notify_path() -> PathBuf {
    std::env::temp_dir().join(format!("upcase-test-notify-{}", std::process::id()))
}

/// systemd checks the unit files that upcase ships: `systemd-analyze security` and `verify`.
#[test]
fn the_units_are_well_formed_and_leave_little_open() {
    if !installed("systemd-analyze") {
        return skip("no systemd-analyze (package systemd)");
    }
    let units = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("deploy/systemd");
    let (service, socket) = (units.join("upcase.service"), units.join("upcase.socket"));
    let mut analyze = Command::new("systemd-analyze");
    analyze.args(["security", "--offline=true", "--threshold=20", "--no-pager"]);
    let judged = Ended::from(analyze.arg(&service).output().unwrap());
    assert_eq!(judged.code, Some(0), "exposed by 2.0 or more: {judged:#?}");

    let mut analyze = Command::new("systemd-analyze");
    let judged = Ended::from(
        analyze
            .arg("verify")
            .args([&service, &socket])
            .output()
            .unwrap(),
    );
    let mut lines = judged.stderr.lines();
    // The program is not installed where this is tested.
    let fault = lines.find(|line| !line.contains("upcase is not executable"));
    assert_eq!(fault, None, "{judged:#?}");
}

/// Returns the value of a setting in the service unit.
fn setting(key: &str) -> String {
    let unit = include_str!("../deploy/systemd/upcase.service");
    let mut values = unit.lines().filter_map(|line| line.strip_prefix(key));
    let value = values.find_map(|rest| rest.strip_prefix('='));
    value.unwrap_or_else(|| panic!("{key}")).to_string()
}

/// Returns the number that follows an option in `ExecStart`.
fn option(name: &str) -> f64 {
    let command = setting("ExecStart");
    let mut words = command.split_whitespace().skip_while(|word| *word != name);
    let value = words.nth(1).unwrap_or_else(|| panic!("{name}"));
    value.trim_end_matches('s').parse().unwrap()
}

/// Settings whose need was observed on a real systemd: each keeps the port open, or keeps an
/// ordinary exit from counting as a failure.
#[test]
fn the_units_keep_the_port_open_and_fit_their_limits() {
    let socket = include_str!("../deploy/systemd/upcase.socket");
    assert!(
        socket.contains("\nFreeBind=yes\n"),
        "an address that is configured after boot"
    );
    // When systemd refuses all further starts, it closes the socket unit as well.
    assert_eq!(setting("StartLimitIntervalSec"), "0");
    assert_eq!(setting("Restart"), "on-failure");
    let unit = include_str!("../deploy/systemd/upcase.service");
    assert!(!unit.contains("\nRestartPreventExitStatus="));
    assert!(
        setting("RestartSec").parse::<u32>().unwrap() >= 5,
        "no storm of restarts"
    );
    assert_eq!(setting("SuccessExitStatus"), "1");
    let stop: f64 = setting("TimeoutStopSec").parse().unwrap();
    assert!(stop > option("--drain-timeout") + 5.0);
    // The calculation in the comment of the unit file.
    let needed = option("--max-connections") * 0.7e6 + 20e6;
    let bytes = |key| {
        let value = setting(key);
        value.strip_suffix('G').unwrap().parse::<f64>().unwrap() * f64::from(1 << 30)
    };
    assert!(bytes("MemoryHigh") >= needed, "{needed}");
    assert!(bytes("MemoryMax") > bytes("MemoryHigh"));
    assert!(setting("LimitNOFILE").parse::<f64>().unwrap() > option("--max-connections") + 64.0);
}

/// With the `ExecStart` command of the unit, a client that never reads and a client that keeps
/// sending delay a restart by no more than the drain timeout. Clients that connect during the drain
/// are served by the next process.
#[test]
fn a_restart_with_the_command_of_the_unit_is_short() {
    let command = setting("ExecStart");
    let arguments = command.split_once(" serve ").unwrap().1;
    let arguments = format!(
        "serve {}",
        arguments.replace("--sandbox on", "--sandbox auto")
    );
    let (socket, address) = listener();
    let mut serve = Serve::launch(with_sockets(&[&socket], &upcase(&arguments)), 1);
    let mut stuck = connect(address);
    stuck
        .set_write_timeout(Some(Duration::from_millis(300)))
        .unwrap();
    while stuck.write(&[b'x'; 65536]).is_ok() {}
    let mut talker = connect(address);
    echoes(&mut talker, "abc");
    let talking = thread::spawn(move || {
        let mut reply = [0; 3];
        while talker.write_all(b"abc").is_ok() && talker.read_exact(&mut reply).is_ok() {
            thread::sleep(Duration::from_millis(50));
        }
    });
    let begun = Instant::now();
    serve.process.signal(Signal::SIGTERM);
    serve.process.wait_for_stderr("stopping: ");
    let mut waiting: Vec<TcpStream> = (0..20).map(|_| connect(address)).collect();
    assert_eq!(serve.process.wait().code(), Some(1), "a client was reset");
    let drained = begun.elapsed();
    assert!(drained < Duration::from_secs(6), "{drained:?}");
    let next = Serve::launch(with_sockets(&[&socket], &upcase(&arguments)), 1);
    waiting.iter_mut().for_each(|client| echoes(client, "abc"));
    drop(waiting);
    next.stop();
    talking.join().unwrap();
}

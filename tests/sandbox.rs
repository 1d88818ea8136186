//! Tests the sandbox of `serve`: every thread has given up its privileges, serving works without
//! them, and every other attempt ends the process.

mod common;

use std::alloc::Layout;
use std::fs::{self, File};
use std::hint::black_box;
use std::io::{self, IoSliceMut, IsTerminal, Write};
use std::mem::ManuallyDrop;
use std::net::{Shutdown, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::Duration;

use common::terminal::Terminal;
use common::{Serve, Temporary, expect_fin, read, skip, upcase};
use nix::libc;
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{MsgFlags, SockaddrIn, SockaddrStorage};
use nix::sys::uio::{RemoteIoVec, process_vm_readv};
use nix::unistd::{Pid, Uid};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompFilter, TargetArch, apply_filter, sock_filter,
};
use upcase::sys::files::append;
use upcase::sys::sandbox::{Role, Sandbox, close_files, filters};

/// Environment variable that names the attempt of a child process.
const ATTEMPT: &str = "UPCASE_TEST_ATTEMPT";

/// Environment variable with the folder in which such a child may write its log.
const FOLDER: &str = "UPCASE_TEST_FOLDER";

/// Returns whether this kernel has all of the sandbox; if not, reports that the test is skipped.
#[track_caller]
fn is_here() -> bool {
    let tried = thread::spawn(|| Sandbox::raise().complete());
    let missing = tried.join().unwrap().err();
    if let Some(error) = &missing {
        skip(&error.to_string());
    }
    missing.is_none()
}

/// Returns a line of the status of every thread.
fn statuses(serve: &Serve, key: &str) -> Vec<String> {
    let tasks = fs::read_dir(format!("/proc/{}/task", serve.process.id())).unwrap();
    tasks
        .filter_map(|task| {
            // The thread that printed the address may be about to end.
            let status = fs::read_to_string(task.unwrap().path().join("status")).ok()?;
            let mut lines = status.lines().filter_map(|line| line.split_once(":\t"));
            Some(lines.find(|(name, _)| *name == key).unwrap().1.to_string())
        })
        .collect()
}

#[test]
fn every_thread_has_a_filter_and_gains_no_privileges() {
    if !is_here() {
        return;
    }
    for (arguments, threads) in [("", 2), ("--sandbox on", 2), ("--sandbox on --shards 3", 4)] {
        let serve = Serve::start(arguments);
        serve.process.wait_for_stderr("sandbox: no files (Landlock");
        let all_are = |key, value: &str| statuses(&serve, key) == vec![value; threads];
        common::until("each has a filter", || all_are("Seccomp", "2"));
        assert!(all_are("NoNewPrivs", "1"));
        let mut client = serve.connect();
        client.write_all(b"abc").unwrap();
        assert_eq!(read(&mut client, 3), b"ABC");
        drop(client);
        serve.stop();
    }
    let serve = Serve::start("--sandbox off");
    common::until("none has", || statuses(&serve, "Seccomp") == ["0", "0"]);
}

/// The other tests of `serve` run in the sandbox too, since it is the default. This one covers what
/// they leave out.
#[test]
fn serving_goes_on_in_the_sandbox_whatever_happens() {
    if !is_here() {
        return;
    }
    let log = Temporary::new(b"");
    let terminal = Terminal::new();
    let script = format!(
        "exec {} serve --listen 127.0.0.1:0 --sandbox on -v --log-file {} 2>&0",
        env!("CARGO_BIN_EXE_upcase"),
        log.0.display()
    );
    let mut command = Command::new("sh");
    command.args(["-c", &script]);
    command.stdin(terminal.slave());
    let mut serve = Serve::launch(command, 1);
    // The terminal is read, else it would fill up.
    let shown = thread::spawn(move || terminal.shown());

    let reset = socket2::Socket::from(serve.connect());
    reset.set_linger(Some(Duration::ZERO)).unwrap();
    drop(reset);
    serve.process.signal(Signal::SIGSTOP);
    serve.process.signal(Signal::SIGCONT);
    let mut client = serve.connect();
    client.write_all(b"still there").unwrap();
    assert_eq!(read(&mut client, 11), b"STILL THERE");
    client.shutdown(Shutdown::Write).unwrap();
    expect_fin(&mut client);
    serve.process.signal(Signal::SIGUSR1);
    // A client that never reads is reset at the second signal.
    let mut stuck = serve.connect();
    stuck
        .set_write_timeout(Some(Duration::from_millis(300)))
        .unwrap();
    while stuck.write(&[b'x'; 65536]).is_ok() {}
    serve.process.signal(Signal::SIGTERM);
    common::until("it is stopping", || {
        fs::read_to_string(&log.0).unwrap().contains("stopping: ")
    });
    serve.process.signal(Signal::SIGTERM);
    assert_eq!(serve.process.wait().code(), Some(1));
    for reported in [fs::read_to_string(&log.0).unwrap(), shown.join().unwrap()] {
        for words in ["sandbox: no files", "closed: reset", "accepted 3, closed 3"] {
            assert!(reported.contains(words), "{words}: {reported}");
        }
    }
}

#[test]
fn a_kernel_without_it_is_a_refusal_or_a_word_in_the_log() {
    let refused = "no Landlock: this kernel does not support it), all system calls (no seccomp: ";
    let ended = in_child("serve without a sandbox, on");
    let reported = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.code(), Some(3), "{reported}");
    let line = format!("upcase: sandbox: all files ({refused}");
    assert!(reported.contains(&line), "{reported}");
    assert!(!String::from_utf8_lossy(&ended.stdout).contains("listening"));

    let serve = Serve::launch(child("serve without a sandbox, auto"), 1);
    serve.process.wait_for_stderr(refused);
    let mut client = serve.connect();
    client.write_all(b"abc").unwrap();
    assert_eq!(read(&mut client, 3), b"ABC");
    drop(client);
    serve.stop();
}

#[test]
fn why_a_wall_cannot_be_raised_is_reported_once() {
    if !is_here() {
        return;
    }
    let ended = in_child("serve where Landlock fails");
    let reported = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.code(), Some(3), "{reported}");
    let line = "upcase: sandbox: all files (no Landlock: failed to restrict the calling thread: \
                Argument list too long (os error 7)), few system calls (seccomp); use --sandbox \
                auto to run with the available restrictions";
    assert_eq!(reported.lines().last(), Some(line));
}

#[test]
fn calls_that_a_reactor_does_not_need_are_fatal() {
    if !is_here() {
        return;
    }
    for (name, _) in FATAL {
        let ended = in_child(name);
        let signal = ended.status.signal();
        assert_eq!(signal, Some(libc::SIGSYS), "{name}: {ended:?}");
    }
}

#[test]
fn what_the_libraries_may_try_is_survived() {
    if !is_here() {
        return;
    }
    for name in [
        "open for reading",
        "ask for the names of a backtrace",
        "give memory back",
        "Landlock alone",
    ] {
        let ended = in_child(name);
        assert!(ended.status.success(), "{name}: {ended:?}");
    }
    // The process ends as it would without a sandbox, with its message, and not by a violation.
    for backtrace in ["0", "1", "full"] {
        let mut child = child("run out of memory");
        let ended = child.env("RUST_BACKTRACE", backtrace).output().unwrap();
        assert_eq!(ended.status.signal(), Some(libc::SIGABRT), "{ended:?}");
        let reported = String::from_utf8_lossy(&ended.stderr);
        assert!(
            reported.contains("memory allocation of 64 bytes failed"),
            "{ended:?}"
        );
    }
    for backtrace in ["0", "1"] {
        let ended = child("panic").env("RUST_BACKTRACE", backtrace).output();
        let ended = ended.unwrap();
        assert_eq!(ended.status.code(), Some(101), "{ended:?}");
        assert!(String::from_utf8_lossy(&ended.stderr).contains("this is logged"));
    }
}

/// The thread that writes the log can use its file, and nothing of the clients.
#[test]
fn a_writer_of_the_log_can_do_nothing_else() {
    if !is_here() {
        return;
    }
    let folder = Temporary::new(b"");
    fs::remove_file(&folder.0).unwrap();
    fs::create_dir(&folder.0).unwrap();
    let in_child = |name: &str| {
        let mut child = child(&format!("log: {name}"));
        child.env(FOLDER, &folder.0).output().unwrap()
    };
    for name in [
        "append to the log again",
        "append elsewhere",
        "read the log",
    ] {
        let ended = in_child(name);
        assert!(ended.status.success(), "{name}: {ended:?}");
    }
    for name in ["receive", "accept", "poll for events", "truncate the log"] {
        let ended = in_child(name);
        let signal = ended.status.signal();
        assert_eq!(signal, Some(libc::SIGSYS), "{name}: {ended:?}");
    }
    assert_eq!(fs::read(folder.0.join("log")).unwrap(), b"line");
    fs::remove_dir_all(&folder.0).unwrap();
}

/// Enters the sandbox of the writer of the log, and makes this attempt.
fn as_writer(attempt: &str) {
    let folder = PathBuf::from(std::env::var(FOLDER).unwrap());
    let path = folder.join("log");
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    // Finding out which sandbox is possible here confines the thread that does it, so another one
    // does.
    let sandbox = thread::spawn(|| Sandbox::raise().complete());
    let sandbox = sandbox.join().unwrap().unwrap();
    sandbox.enter_log(std::slice::from_ref(&folder)).unwrap();
    match attempt {
        "append to the log again" => append(&path).unwrap().write_all(b"line").unwrap(),
        "append elsewhere" => {
            let error = append(&folder.with_extension("other")).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
        }
        "read the log" => {
            let error = File::open(&path).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
        }
        "receive" => drop(socket.recv(&mut [0])),
        "accept" => drop(listener.accept()),
        "poll for events" => drop(mio::Poll::new()),
        _ => drop(File::create(&path)),
    }
}

/// The kernel itself runs the filter, for the number of every system call.
#[test]
fn of_all_system_calls_the_kernel_leaves_those_of_the_list() {
    if !is_here() {
        return;
    }
    let programs = filters(Role::Reactor).unwrap();
    let programs = programs.map(|filter| filter.iter().map(hexadecimal).collect::<String>());
    let output = Command::new("python3")
        .args(["-c", include_str!("data/system-calls.py")])
        .args(programs)
        .stdin(Stdio::null())
        .output();
    let Ok(output) = output else {
        return skip("no python3");
    };
    let survived = String::from_utf8_lossy(&output.stdout);
    let mut survived: Vec<i64> = survived
        .split_whitespace()
        .map(|number| number.parse().unwrap())
        .collect();
    // The kernel exempts uretprobe(2) and uprobe(2) from every filter; they end a process that is
    // not being probed.
    #[cfg(target_arch = "x86_64")]
    survived.retain(|number| ![335, 336].contains(number));
    // With all arguments 0, calls whose permission depends on an argument die, except mprotect(2),
    // which then requests nothing.
    let mut left = vec![
        libc::SYS_epoll_pwait,
        libc::SYS_accept4,
        libc::SYS_brk,
        libc::SYS_clock_gettime,
        libc::SYS_close,
        libc::SYS_epoll_ctl,
        libc::SYS_exit,
        libc::SYS_exit_group,
        libc::SYS_futex,
        libc::SYS_getcwd,
        libc::SYS_getrandom,
        libc::SYS_getpid,
        libc::SYS_gettid,
        libc::SYS_madvise,
        libc::SYS_mprotect,
        libc::SYS_mremap,
        libc::SYS_munmap,
        libc::SYS_readlink,
        libc::SYS_readlinkat,
        libc::SYS_recvfrom,
        libc::SYS_restart_syscall,
        libc::SYS_rt_sigprocmask,
        libc::SYS_rt_sigreturn,
        libc::SYS_sched_yield,
        libc::SYS_sendto,
        libc::SYS_shutdown,
        libc::SYS_sigaltstack,
        libc::SYS_timerfd_settime,
        libc::SYS_write,
    ];
    #[cfg(target_arch = "x86_64")]
    left.push(libc::SYS_epoll_wait);
    left.sort_unstable();
    let reported = String::from_utf8_lossy(&output.stderr);
    assert_eq!(survived, left, "{reported}");
}

/// Returns an instruction in hexadecimal as the kernel reads it, linux/filter.h.
fn hexadecimal(line: &sock_filter) -> String {
    let (code, k) = (line.code.to_ne_bytes(), line.k.to_ne_bytes());
    let bytes = [&code[..], &[line.jt, line.jf], &k].concat();
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Objects that an attempt may use, made before the sandbox is entered.
struct Prepared {
    own: Pid,
    parent: Pid,
    socket: UdpSocket,
    file: Temporary,
}

type Attempt = (&'static str, fn(&Prepared));

/// Attempts that must end their process.
const FATAL: &[Attempt] = &[
    ("open for writing", |_| {
        let _ = File::options().write(true).open("/dev/null");
    }),
    ("make a file", |prepared| {
        let _ = File::create_new(&prepared.file.0);
    }),
    ("remove a file", |prepared| {
        let _ = fs::remove_file(&prepared.file.0);
    }),
    ("look at a file", |_| {
        let _ = fs::metadata("/");
    }),
    ("change directory", |_| {
        let _ = std::env::set_current_dir("/");
    }),
    ("new UDP socket", |_| {
        let _ = UdpSocket::bind("127.0.0.1:0");
    }),
    ("new TCP connection", |_| {
        let _ = TcpStream::connect("127.0.0.1:9");
    }),
    ("pair of sockets", |_| {
        let _ = UnixStream::pair();
    }),
    ("connect an open socket", |prepared| {
        let address = SockaddrIn::new(127, 0, 0, 1, 9);
        let _ = nix::sys::socket::connect(prepared.socket.as_raw_fd(), &address);
    }),
    ("bind an open socket", |prepared| {
        let address = SockaddrIn::new(127, 0, 0, 1, 0);
        let _ = nix::sys::socket::bind(prepared.socket.as_raw_fd(), &address);
    }),
    ("set another socket option", |prepared| {
        let _ = prepared.socket.set_broadcast(true);
    }),
    ("ask for another socket option", |prepared| {
        let _ = prepared.socket.broadcast();
    }),
    ("send with control messages", |prepared| {
        let (socket, flags) = (prepared.socket.as_raw_fd(), MsgFlags::empty());
        let _ = nix::sys::socket::sendmsg::<SockaddrStorage>(socket, &[], &[], flags, None);
    }),
    ("run a program", |_| {
        let _ = nix::unistd::execv(c"/bin/true", &[c"true"]);
    }),
    ("start a thread", |_| {
        let _ = thread::Builder::new().spawn(|| {});
    }),
    ("signal itself", |prepared| {
        let _ = kill(prepared.own, None);
    }),
    ("signal its parent", |prepared| {
        let _ = kill(prepared.parent, Signal::SIGCONT);
    }),
    ("trace its parent", |prepared| {
        let _ = nix::sys::ptrace::attach(prepared.parent);
    }),
    ("read another's memory", |prepared| {
        let mut bytes = [0; 8];
        let there = [RemoteIoVec { base: 4096, len: 8 }];
        let mut here = [IoSliceMut::new(&mut bytes)];
        let _ = process_vm_readv(prepared.parent, &mut here, &there);
    }),
    ("become another user", |_| {
        let _ = nix::unistd::setuid(Uid::from_raw(65534));
    }),
    ("change a limit", |_| {
        let files = nix::sys::resource::Resource::RLIMIT_NOFILE;
        let _ = nix::sys::resource::setrlimit(files, 100, 100);
    }),
    ("ask a terminal", |_| {
        let _ = io::stdin().is_terminal();
    }),
    ("make a pipe", |_| {
        let _ = nix::unistd::pipe();
    }),
    ("copy a descriptor", |prepared| {
        let _ = prepared.socket.try_clone();
    }),
    ("sleep", |_| thread::sleep(Duration::from_millis(1))),
];

/// Attempts that must be survived, or that end in another way.
const OTHER: &[Attempt] = &[
    ("open for reading", |_| {
        let error = File::open("/dev/null").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
    }),
    ("ask for the names of a backtrace", |_| {
        for error in [
            fs::read_link("/proc/self/exe").unwrap_err(),
            std::env::current_dir().unwrap_err(),
        ] {
            assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
        }
    }),
    ("give memory back", |_| {
        // More than the allocator keeps, in pieces that are too small for a mapping of their own.
        let pieces: Vec<Vec<u8>> = (0..400).map(|_| black_box(vec![1; 100_000])).collect();
        drop(black_box(pieces));
    }),
    ("panic", |_| panic!("this is logged")),
    ("run out of memory", |_| {
        std::alloc::handle_alloc_error(Layout::new::<[u8; 64]>())
    }),
];

#[test]
#[ignore = "the other tests run it, in a process of its own"]
fn attempt() {
    let Ok(name) = std::env::var(ATTEMPT) else {
        return;
    };
    match &name[..] {
        "serve without a sandbox, on" => serve_without("on"),
        "serve without a sandbox, auto" => serve_without("auto"),
        "serve where Landlock fails" => serve_where_landlock_fails(),
        "Landlock alone" => only_landlock(),
        name if name.starts_with("log: ") => as_writer(&name["log: ".len()..]),
        name => {
            let mut attempts = FATAL.iter().chain(OTHER);
            let (_, attempt) = attempts.find(|(known, _)| *known == name).unwrap();
            // A panic must not try to remove the file, and a killed process cannot.
            let prepared = ManuallyDrop::new(Prepared {
                own: Pid::this(),
                parent: Pid::parent(),
                socket: UdpSocket::bind("127.0.0.1:0").unwrap(),
                file: Temporary::new(b""),
            });
            fs::remove_file(&prepared.file.0).unwrap();
            let sandbox = Sandbox::raise().complete().unwrap();
            sandbox.enter(Role::Reactor).unwrap();
            attempt(&prepared);
        }
    }
}

fn child(attempt: &str) -> Command {
    let mut command = common::attempt();
    command.env(ATTEMPT, attempt);
    command
}

fn in_child(attempt: &str) -> Output {
    child(attempt).output().unwrap()
}

/// Becomes a server on a kernel that knows neither Landlock nor seccomp.
fn serve_without(sandbox: &str) {
    let missing = [libc::SYS_landlock_create_ruleset, libc::SYS_seccomp];
    serve_where_calls_fail(&missing, libc::ENOSYS, sandbox);
}

/// Becomes a server in the maximum number of layers of Landlock, so that it cannot enter another.
fn serve_where_landlock_fails() {
    serve_where_calls_fail(&[libc::SYS_landlock_restrict_self], libc::E2BIG, "on");
}

fn serve_where_calls_fail(calls: &[libc::c_long], errno: i32, sandbox: &str) {
    let filter = SeccompFilter::new(
        calls.iter().map(|call| (*call, vec![])).collect(),
        SeccompAction::Allow,
        SeccompAction::Errno(errno as u32),
        TargetArch::try_from(std::env::consts::ARCH).unwrap(),
    );
    let program: BpfProgram = filter.unwrap().try_into().unwrap();
    apply_filter(&program).unwrap();
    let mut command = upcase(&format!("serve --listen 127.0.0.1:0 --sandbox {sandbox}"));
    panic!("{}", command.exec());
}

fn only_landlock() {
    close_files().unwrap();
    for opened in [
        File::open("/dev/null"),
        File::create("/tmp/upcase-test-never"),
    ] {
        assert_eq!(opened.unwrap_err().raw_os_error(), Some(libc::EACCES));
    }
    // Landlock does not forbid this; seccomp does.
    UdpSocket::bind("127.0.0.1:0").unwrap();
}

//! Two hosts in one machine: network namespaces that a veth pair joins, 10.77.0.1 and 10.77.0.2. Or
//! two hosts with an emulated path between them, see [`super::path`]. Or one host with only a
//! loopback interface, on which the test itself runs.
//!
//! Every lab has namespaces of its own, so several labs can exist at the same time. They are
//! removed when the lab is dropped, also after a failing test. The namespaces that a killed test
//! left behind are removed by the next lab.

use std::fs::File;
use std::panic::resume_unwind;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use nix::sched::{CloneFlags, setns};

use super::path::{Bridge, Path as Way};

/// The two hosts.
#[derive(Debug)]
pub struct Lab {
    server: String,
    client: String,
    /// A third host between the two, and the bridge that runs there.
    between: Option<(String, Bridge)>,
}

/// The address of the server's host.
pub const SERVER: &str = "10.77.0.1";
/// The address of the client's host.
pub const CLIENT: &str = "10.77.0.2";

const PREFIX: &str = "upcase-lab";

/// The interfaces of a bridge: towards the client, towards the server.
const ENDS: [&str; 2] = ["client", "server"];

/// Runs `body` on a host of its own, to which its sockets and the processes that it starts belong.
/// `None`: this is impossible here, and the reason has been printed.
#[track_caller]
pub fn alone<T: Send>(body: impl FnOnce() -> T + Send) -> Option<T> {
    let host = Alone::build()?;
    let enter_and_run = || {
        let namespace = File::open(format!("/run/netns/{}", host.0)).unwrap();
        setns(namespace, CloneFlags::CLONE_NEWNET).expect("it may be entered");
        body()
    };
    // Only this thread, and the threads and processes that it starts, are in the namespace.
    let outcome = thread::scope(|scope| scope.spawn(enter_and_run).join());
    Some(outcome.unwrap_or_else(|panic| resume_unwind(panic)))
}

/// The single host of a test.
#[derive(Debug)]
struct Alone(String);

impl Alone {
    #[track_caller]
    fn build() -> Option<Alone> {
        let name = new_name()?;
        let host = Alone(add(&format!("{name}-alone"))?);
        let command = format!("-n {} link set lo up", host.0);
        ip(&command).unwrap_or_else(|error| panic!("ip {command}: {error}"));
        Some(host)
    }
}

impl Drop for Alone {
    fn drop(&mut self) {
        let _ = ip(&format!("netns delete {}", self.0));
    }
}

/// Returns a name that no other test has, and removes the namespaces that killed tests left behind.
#[track_caller]
fn new_name() -> Option<String> {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    if !super::installed("ip") {
        super::skip("no `ip` (package iproute2)");
        return None;
    }
    sweep();
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    Some(format!("{PREFIX}-{}-{number}", std::process::id()))
}

/// Creates the first namespace of a test. `None`: this is impossible here.
#[track_caller]
fn add(name: &str) -> Option<String> {
    match ip(&format!("netns add {name}")) {
        Ok(()) => Some(name.to_string()),
        Err(error) => {
            super::skip(&format!(
                "no network namespace, it needs root: {}",
                error.trim()
            ));
            None
        }
    }
}

impl Lab {
    /// Builds the hosts. `None`: this is impossible here, and the reason has been printed.
    #[track_caller]
    pub fn build() -> Option<Lab> {
        let name = new_name()?;
        let lab = Lab {
            server: add(&format!("{name}-server"))?,
            client: format!("{name}-client"),
            between: None,
        };
        let (server, client) = (&lab.server, &lab.client);
        for command in [
            format!("netns add {client}"),
            format!("-n {server} link add wire type veth peer name wire netns {client}"),
            format!("-n {server} address add {SERVER}/24 dev wire"),
            format!("-n {client} address add {CLIENT}/24 dev wire"),
            format!("-n {server} link set lo up"),
            format!("-n {client} link set lo up"),
            format!("-n {server} link set wire mtu 1500 up"),
            format!("-n {client} link set wire mtu 1500 up"),
        ] {
            ip(&command).unwrap_or_else(|error| panic!("ip {command}: {error}"));
        }
        Some(lab)
    }

    /// Builds the hosts with a bridge between them, whose thread runs on the CPU and with the
    /// priority of `place`, see [`super::peers::settle`].
    #[track_caller]
    pub fn with_path(path: Way, place: (u32, bool)) -> Option<Lab> {
        let name = new_name()?;
        let mut lab = Lab {
            server: add(&format!("{name}-server"))?,
            client: format!("{name}-client"),
            between: None,
        };
        let (server, client) = (&lab.server, &lab.client);
        let between = format!("{name}-between");
        let mut commands = vec![
            format!("netns add {client}"),
            format!("netns add {between}"),
        ];
        for (host, address, end) in [(client, CLIENT, ENDS[0]), (server, SERVER, ENDS[1])] {
            commands.extend([
                format!("-n {host} link add wire type veth peer name {end} netns {between}"),
                format!("-n {host} address add {address}/24 dev wire"),
                format!("-n {host} link set lo up"),
                // With this, a packet socket gets no segment that the link itself would have to
                // split.
                format!("-n {host} link set wire mtu 1500 gso_max_segs 1 up"),
                format!("-n {between} link set {end} mtu 1500 addrgenmode none up"),
            ]);
        }
        for command in commands {
            ip(&command).unwrap_or_else(|error| panic!("ip {command}: {error}"));
        }
        let namespace = format!("/run/netns/{between}");
        let enter = move || {
            let namespace = File::open(namespace).unwrap();
            setns(namespace, CloneFlags::CLONE_NEWNET).expect("it may be entered");
        };
        let bridge = Bridge::start(path, enter, ENDS, place);
        lab.between = Some((between, bridge));
        Some(lab)
    }

    /// Returns the command, changed to run on the server's host.
    pub fn on_server(&self, command: &Command) -> Command {
        on(&self.server, command)
    }

    /// Returns the command, changed to run on the client's host.
    pub fn on_client(&self, command: &Command) -> Command {
        on(&self.client, command)
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        // The bridge ends first, so that no process is left on its host.
        let between = self.between.take().map(|(name, _)| name);
        for name in [&self.server, &self.client].into_iter().chain(&between) {
            let _ = ip(&format!("netns delete {name}"));
        }
    }
}

/// Returns a command whose arguments are separated by spaces.
pub fn words(command: &str) -> Command {
    let mut words = command.split_whitespace();
    let mut command = Command::new(words.next().unwrap());
    command.args(words);
    command
}

/// Runs a command, such as one on a host of a lab, and panics if it fails.
pub fn done(mut command: Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {output:?}");
}

fn on(namespace: &str, command: &Command) -> Command {
    let mut on = Command::new("ip");
    on.args(["netns", "exec", namespace])
        .arg(command.get_program())
        .args(command.get_args());
    on
}

fn ip(arguments: &str) -> Result<(), String> {
    let output = Command::new("ip")
        .args(arguments.split_whitespace())
        .output()
        .map_err(|error| error.to_string())?;
    if output.status.success() {
        Ok(())
    } else {
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

/// Removes the namespaces of test processes that no longer run.
fn sweep() {
    let Ok(entries) = std::fs::read_dir("/run/netns") else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let owner = name
            .strip_prefix(PREFIX)
            .and_then(|rest| rest.split('-').nth(1))
            .filter(|owner| !Path::new(&format!("/proc/{owner}")).exists());
        if owner.is_some() {
            let _ = ip(&format!("netns delete {name}"));
        }
    }
}

//! Code that the tests share: the binary run as a user runs it, servers that end with their test,
//! and waiting for a condition instead of for a fixed time.

// Each test file uses only a part of this.
#![allow(dead_code)]

pub mod craft;
pub mod crowd;
pub mod files;
pub mod lab;
pub mod log;
pub mod path;
pub mod peers;
pub mod program;
pub mod puppet;
pub mod quota;
pub mod ratio;
pub mod report;
pub mod sniff_output;
pub mod stalled;
pub mod terminal;
pub mod totals;
pub mod tshark;
pub mod witness;
pub mod wrap;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Time after which a test that waits for something fails: far more than a slow machine needs.
pub const TIMEOUT: Duration = Duration::from_secs(30);

/// Options of `load` for tests that do not examine what set the pace: on a busy machine it may be
/// anything.
pub const ANY_PACE: &str = "--allow client-bound,network-bound,inconclusive";

/// Returns a command for the binary under test, with arguments separated by spaces.
pub fn upcase(arguments: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_upcase"));
    command.args(arguments.split_whitespace());
    command.stdin(Stdio::null());
    command
}

/// Returns a command that runs the ignored test `attempt` of this test binary in a process of its
/// own.
pub fn attempt() -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["attempt", "--exact", "--ignored", "--nocapture", "-q"]);
    command.stdin(Stdio::null());
    command
}

/// Runs the binary to its end.
pub fn run(arguments: &str) -> Ended {
    Ended::from(upcase(arguments).output().expect("the binary starts"))
}

/// Runs the binary to its end while writing these pieces to its standard input, one after the
/// other.
pub fn run_with_input<'a>(arguments: &str, pieces: impl Iterator<Item = &'a [u8]>) -> Ended {
    let mut command = upcase(arguments);
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary starts");
    let mut pipe = child.stdin.take().expect("it is a pipe");
    for piece in pieces {
        pipe.write_all(piece).expect("it reads to the end");
    }
    drop(pipe);
    Ended::from(child.wait_with_output().expect("it is a child"))
}

/// Runs `sniff` on a file.
pub fn sniff(file: &Temporary, arguments: &str) -> Ended {
    run(&format!("sniff --read {} {arguments}", file.0.display()))
}

/// The exit code and the output of a command that has ended.
#[derive(Debug)]
pub struct Ended {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl From<Output> for Ended {
    fn from(output: Output) -> Self {
        Ended {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

impl Ended {
    /// Checks the exit code; the panic message shows the whole output.
    #[track_caller]
    pub fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{self:#?}");
        assert!(!self.stderr.contains("panicked"), "{self:#?}");
        self
    }

    /// Parses standard output as JSON.
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:#?}"))
    }
}

/// A process that is killed when it is dropped, also when the test fails.
#[derive(Debug)]
pub struct Process {
    child: Child,
    stderr: Arc<Mutex<String>>,
    /// The thread that reads standard error. It ends when the process, and every other process that
    /// has the same standard error, has closed it.
    collector: Option<JoinHandle<()>>,
}

/// Time for which the collector may go on after the end of the process, whose children may live on.
const COLLECTED: Duration = Duration::from_secs(5);

impl Process {
    /// Starts a command and collects its standard error.
    pub fn start(mut command: Command) -> Process {
        let mut child = command.stderr(Stdio::piped()).spawn().expect("it starts");
        let stderr = Arc::new(Mutex::new(String::new()));
        let collector = child.stderr.take().map(|pipe| {
            let collected = Arc::clone(&stderr);
            thread::spawn(move || {
                for line in BufReader::new(pipe).lines().map_while(Result::ok) {
                    let mut collected = collected.lock().unwrap();
                    collected.push_str(&line);
                    collected.push('\n');
                }
            })
        });
        Process {
            child,
            stderr,
            collector,
        }
    }

    /// Starts a command like [`Process::start`] and keeps its standard output for
    /// [`Process::ended`].
    pub fn piped(mut command: Command) -> Process {
        command.stdout(Stdio::piped());
        Process::start(command)
    }

    /// Reads its standard output to the end and waits until it ends.
    #[track_caller]
    pub fn ended(&mut self) -> Ended {
        let mut stdout = String::new();
        let mut pipe = self
            .child
            .stdout
            .take()
            .expect("a process started as piped");
        pipe.read_to_string(&mut stdout).expect("text");
        Ended {
            code: self.wait().code(),
            stdout,
            stderr: self.stderr(),
        }
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    pub fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// Returns what the process has written to standard error so far.
    pub fn stderr(&self) -> String {
        self.stderr.lock().unwrap().clone()
    }

    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id() as i32), signal).expect("the process exists");
    }

    /// Returns its resident memory in bytes.
    pub fn resident(&self) -> u64 {
        self.status("VmRSS") * 1024
    }

    /// Returns its peak resident memory in bytes; `None` if the process has ended.
    pub fn peak_resident(&self) -> Option<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.id())).ok()?;
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("VmHWM:"))?;
        let kib: u64 = line.trim().trim_end_matches(" kB").parse().ok()?;
        Some(kib * 1024)
    }

    /// Returns the number of its voluntary context switches: how many times its main thread has
    /// blocked.
    pub fn sleeps(&self) -> u64 {
        self.status("voluntary_ctxt_switches")
    }

    /// Returns its CPU time in clock ticks, user and system.
    pub fn cpu_ticks(&self) -> u64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.id())).unwrap();
        let fields = stat.rsplit_once(')').unwrap().1;
        let fields: Vec<&str> = fields.split_whitespace().collect();
        fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
    }

    /// Returns the directory in /proc of the thread with this name.
    #[track_caller]
    pub fn thread(&self, name: &str) -> PathBuf {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.id())).unwrap();
        let mut tasks = tasks.map(|task| task.unwrap().path());
        let is_it = |task: &PathBuf| {
            let its_name = std::fs::read_to_string(task.join("comm"));
            its_name.is_ok_and(|its_name| its_name.trim_end() == name)
        };
        tasks.find(is_it).expect(name)
    }

    /// Returns a number from /proc/PID/status.
    fn status(&self, name: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.id())).unwrap();
        let mut lines = status.lines().filter_map(|line| line.split_once(':'));
        let (_, value) = lines.find(|(key, _)| *key == name).unwrap();
        value.split_whitespace().next().unwrap().parse().unwrap()
    }

    /// Waits until the process ends.
    #[track_caller]
    pub fn wait(&mut self) -> ExitStatus {
        let mut status = None;
        until("the process has ended", || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        // The collector may not have read the last lines yet.
        let deadline = Instant::now() + COLLECTED;
        let collector = self.collector.as_ref();
        while collector.is_some_and(|it| !it.is_finished()) && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(1));
        }
        status.unwrap()
    }

    /// Waits until the process has written this text to standard error.
    #[track_caller]
    pub fn wait_for_stderr(&self, text: &str) {
        until_with(
            || self.stderr().contains(text),
            || format!("{text:?} in {}", self.stderr()),
        );
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A running `upcase serve`.
#[derive(Debug)]
pub struct Serve {
    pub process: Process,
    pub addresses: Vec<SocketAddr>,
}

impl Serve {
    /// Starts a server on a free port of the loopback, with these further arguments.
    pub fn start(arguments: &str) -> Serve {
        Serve::launch(
            upcase(&format!("serve --listen 127.0.0.1:0 {arguments}")),
            1,
        )
    }

    /// Starts a command that becomes a server with this number of listeners.
    pub fn launch(mut command: Command, listeners: usize) -> Serve {
        const LISTENING: &str = "listening on ";
        let mut process = Process::start({
            command.stdout(Stdio::piped());
            command
        });
        let stdout = process.child().stdout.take().expect("a pipe");
        // Where the command is a test binary, the lines of the test harness precede.
        let addresses: Vec<SocketAddr> = BufReader::new(stdout)
            .lines()
            .map_while(Result::ok)
            .skip_while(|line| !line.starts_with(LISTENING))
            .take(listeners)
            .map(|line| line.strip_prefix(LISTENING).expect(&line).parse().unwrap())
            .collect();
        assert_eq!(addresses.len(), listeners, "{}", process.stderr());
        Serve { process, addresses }
    }

    pub fn address(&self) -> SocketAddr {
        self.addresses[0]
    }

    pub fn connect(&self) -> TcpStream {
        connect(self.address())
    }

    /// Makes the server log its state by SIGUSR1, and returns the line of it that contains `mark`.
    #[track_caller]
    pub fn log_state(&self, mark: &str) -> String {
        let before = self.process.stderr().matches(mark).count();
        self.process.signal(Signal::SIGUSR1);
        until("the server logs its state", || {
            self.process.stderr().matches(mark).count() > before
        });
        let log = self.process.stderr();
        log.lines()
            .rfind(|line| line.contains(mark))
            .unwrap()
            .to_string()
    }

    /// Stops the server with SIGTERM, checks the exit code, and returns the last line: the totals.
    #[track_caller]
    pub fn stop(mut self) -> String {
        self.process.signal(Signal::SIGTERM);
        self.ends(0)
    }

    /// Waits until the server ends, checks the exit code, and returns the totals in its last line.
    #[track_caller]
    pub fn ends(&mut self, code: i32) -> String {
        let status = self.process.wait();
        assert_eq!(status.code(), Some(code), "{}", self.process.stderr());
        self.process.wait_for_stderr("stopped: ");
        let stderr = self.process.stderr();
        let line = stderr.lines().last().expect("a line");
        line.split_once("stopped: ")
            .expect("the totals come last")
            .1
            .to_string()
    }
}

/// Connects with timeouts, so that reads and writes fail instead of blocking the test forever.
pub fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).expect("it listens");
    stream.set_read_timeout(Some(TIMEOUT)).unwrap();
    stream.set_write_timeout(Some(TIMEOUT)).unwrap();
    stream
}

/// Reads exactly this number of bytes.
#[track_caller]
pub fn read(stream: &mut TcpStream, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    stream.read_exact(&mut bytes).unwrap();
    bytes
}

/// Checks that only the end of the stream is left to read.
#[track_caller]
pub fn expect_fin(stream: &mut TcpStream) {
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).expect("FIN, and no reset");
    assert_eq!(rest, b"", "surplus bytes");
}

/// Sends all bytes and FIN while reading, and checks that every byte is echoed, followed by FIN.
pub fn exchange_and_close(client: &TcpStream, bytes: &[u8]) {
    thread::scope(|scope| {
        let mut sender = client.try_clone().unwrap();
        scope.spawn(move || {
            sender.write_all(bytes).unwrap();
            sender.shutdown(Shutdown::Write).unwrap();
        });
        let mut reply = Vec::new();
        let mut receiver = client;
        receiver.read_to_end(&mut reply).unwrap();
        assert!(reply == bytes.to_ascii_uppercase(), "{} bytes", reply.len());
    });
}

/// Returns an address on which no process listens.
pub fn unused_address() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap()
}

/// Waits until a condition is true; panics after [`TIMEOUT`].
#[track_caller]
pub fn until(what: &str, mut condition: impl FnMut() -> bool) {
    until_with(&mut condition, || what.to_string());
}

#[track_caller]
fn until_with(mut condition: impl FnMut() -> bool, what: impl Fn() -> String) {
    let deadline = Instant::now() + TIMEOUT;
    while !condition() {
        assert!(Instant::now() < deadline, "gave up waiting: {}", what());
        thread::sleep(Duration::from_millis(2));
    }
}

/// Returns pseudo-random bytes with all 256 values, the same in every run.
pub fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x1234_5678_9abc_def1_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    let mut bytes: Vec<u8> = (0..length.div_ceil(8)).flat_map(|_| next()).collect();
    bytes.truncate(length);
    bytes
}

/// A file that is removed when it is dropped.
#[derive(Debug)]
pub struct Temporary(pub PathBuf);

impl Temporary {
    /// Creates a file with a unique name and this content.
    pub fn new(bytes: &[u8]) -> Temporary {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("upcase-test-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::write(&path, bytes).unwrap();
        Temporary(path)
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Returns whether a program is in one of the directories of PATH.
pub fn installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
}

/// Prints why a test cannot run here. Panics if UPCASE_REQUIRE_LAB is set, which requires all
/// tests.
#[track_caller]
pub fn skip(reason: &str) {
    assert!(
        std::env::var_os("UPCASE_REQUIRE_LAB").is_none(),
        "required by UPCASE_REQUIRE_LAB, and cannot run: {reason}"
    );
    // The test harness captures eprintln!, so this writes to standard error directly.
    let _ = writeln!(std::io::stderr(), "skipped: {reason}");
}

//! Starts a process, exchanges lines with it over its standard input and output, and reads its CPU
//! time and memory. The process is killed by its own id when it is dropped, also after a failure.

use std::fs;
use std::io::{self, BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::sys::signal::{Signal, kill};
use nix::time::ClockId;
use nix::unistd::Pid;

/// A running process.
#[derive(Debug)]
pub struct Process {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Process {
    /// Starts a process with pipes as its standard input and output.
    pub fn start(command: &mut Command) -> anyhow::Result<Process> {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {command:?}"))?;
        let input = child.stdin.take();
        let output = child.stdout.take().context("no pipe")?;
        Ok(Process {
            child,
            input,
            output: BufReader::new(output),
        })
    }

    /// Starts a process like [`Process::start`], on one CPU only.
    pub fn start_on(core: usize, command: &mut Command) -> anyhow::Result<Process> {
        let ours = sched_getaffinity(Pid::this())?;
        pin(core)?;
        let process = Process::start(command);
        sched_setaffinity(Pid::this(), &ours)?;
        process
    }

    /// Returns the process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Writes a line to the standard input of the process.
    pub fn write_line(&mut self, line: &str) -> io::Result<()> {
        let input = self.input.as_mut().ok_or(io::ErrorKind::BrokenPipe)?;
        writeln!(input, "{line}")
    }

    /// Waits for the next line of its standard output and returns it. An error if the output has
    /// ended.
    pub fn hear(&mut self) -> anyhow::Result<String> {
        let mut line = String::new();
        if self.output.read_line(&mut line)? == 0 {
            bail!("process {} printed nothing more", self.pid());
        }
        Ok(line.trim_end().to_string())
    }

    /// Reads the next line of a server and returns the address in it, on which the server listens.
    pub fn address(&mut self) -> anyhow::Result<SocketAddr> {
        let line = self.hear()?;
        let address = line.strip_prefix("listening on ");
        let address = address.with_context(|| format!("{line:?} is no address"))?;
        Ok(address.parse()?)
    }

    /// Returns the CPU time of all its threads so far in user and kernel, ended threads included.
    pub fn cpu(&self) -> anyhow::Result<Duration> {
        let clock = ClockId::pid_cpu_clock_id(self.nix_pid())?;
        Ok(clock.now()?.into())
    }

    /// Returns a size from its /proc/PID/status, such as `VmRSS`, in bytes.
    pub fn memory(&self, field: &str) -> anyhow::Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid()))?;
        kibibytes(&status, field).with_context(|| format!("no {field} of {}", self.pid()))
    }

    /// Sends a signal to the process.
    pub fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        Ok(kill(self.nix_pid(), signal)?)
    }

    /// Returns whether the process is running.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Closes its standard input and waits until it ends. An error if that takes longer than
    /// `timeout`.
    pub fn finish(&mut self, timeout: Duration) -> anyhow::Result<ExitStatus> {
        self.input = None;
        let end = Instant::now() + timeout;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            if Instant::now() >= end {
                bail!("process {} does not end", self.pid());
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    fn nix_pid(&self) -> Pid {
        Pid::from_raw(self.pid() as i32)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Restricts this process to one CPU.
pub fn pin(core: usize) -> anyhow::Result<()> {
    let mut cores = CpuSet::new();
    cores.set(core)?;
    Ok(sched_setaffinity(Pid::this(), &cores)?)
}

/// Returns the CPUs that this process may use.
pub fn cores() -> anyhow::Result<Vec<usize>> {
    let ours = sched_getaffinity(Pid::this())?;
    let all = 0..CpuSet::count();
    Ok(all.filter(|&core| ours.is_set(core) == Ok(true)).collect())
}

/// Returns whether a program can be started.
pub fn is_installed(program: &str) -> bool {
    Command::new(program)
        .arg("--version")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok()
}

/// Returns the value of a line such as `VmRSS: 1234 kB`, in bytes.
pub fn kibibytes(text: &str, field: &str) -> Option<u64> {
    let mut lines = text.lines();
    let value = lines.find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))?;
    let number: u64 = value.split_whitespace().next()?.parse().ok()?;
    Some(number * 1024)
}

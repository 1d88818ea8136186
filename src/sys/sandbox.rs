//! Least privilege: drops the rights that `serve` does not need any more once everything is bound
//! and opened. A client that exploited a fault in this program would gain no more than what is
//! left.
//!
//! Three restrictions, which nothing in the process can lift again:
//!
//! - **no new privileges**, prctl(2): executing a set-user-ID program grants none.
//! - **Landlock**, landlock(7): no file can be opened, made, removed or executed, no TCP port bound
//!   or connected to, no process outside reached by a signal or an abstract Unix socket. As much of
//!   this as the kernel supports: files since Linux 5.13, TCP since 6.7, the last two since 6.12.
//! - **seccomp**, seccomp(2): only the system calls in the tables below are allowed, and every
//!   other one ends the process with SIGSYS. That covers what an older Landlock leaves open.
//!
//! Dropped: opening files, /proc included; new sockets; programs, processes, threads; signals to
//! other processes, ptrace; executable memory; ioctl, io_uring, bpf; users, limits, namespaces,
//! mounts. Kept: the descriptors that are open by then, clients from the listeners, anonymous
//! memory, clocks, the log, and exiting. The threads that write the log keep less: no clients; but
//! the thread of `--log-file` can make and append to files in that file's folder, to reopen the
//! file on SIGHUP.
//!
//! Threads that are started later inherit the Landlock restrictions; system calls are dropped by
//! each thread for itself, so that each keeps what its [`Role`] needs and no more:
//!
//! ```text
//!   log      started first ──► enter_log ─► its work
//!   main     bind, open ─► raise ─┘ ─► start threads ─► enter(its role) ─► its work
//!   threads                                 └─► enter(its role) ─► its work
//! ```
//!
//! A system call that a list lacks is reported in the kernel's log, `type=1326 … syscall=NUMBER`.
//! Tools that add system calls to the process need `--sandbox off`: fault injection by strace,
//! coverage, sanitizers.

use std::collections::BTreeMap;
use std::env::consts::ARCH;
use std::fmt;
use std::path::PathBuf;
use std::process;

use anyhow::{Context, bail};
use landlock::{
    ABI, Access, AccessFs, AccessNet, LandlockStatus, PathBeneath, PathFd, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetStatus, Scope,
};
use nix::libc::{self, c_int, c_long};
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition,
    SeccompFilter, SeccompRule, TargetArch, apply_filter, sock_filter,
};

use crate::causes;

/// The work of a thread, which determines the system calls that it keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Runs a reactor and serves its clients; waits for the other threads, and ends the process.
    Reactor,
    /// Runs a reactor that answers requests for metrics, from files that are open.
    Metrics,
    /// Writes the log to an open file.
    Log,
    /// Writes the log to a file, and opens it again by its name.
    LogFile,
}

/// The restrictions of this process.
#[derive(Clone, Debug)]
pub struct Sandbox {
    landlock: Wall,
    seccomp: Wall,
}

#[derive(Clone, Debug)]
enum Wall {
    /// In force, with this description for the log.
    Up(String),
    /// Not in force, for this reason.
    Down(String),
}

impl Sandbox {
    /// Returns a sandbox without restrictions.
    pub fn none() -> Sandbox {
        let down = || Wall::Down("disabled by --sandbox off".to_string());
        Sandbox {
            landlock: down(),
            seccomp: down(),
        }
    }

    /// Denies access to files for this thread and those it starts from now on, and finds out
    /// whether system calls can be dropped, which [`Sandbox::enter`] does.
    pub fn raise() -> Sandbox {
        Sandbox {
            landlock: Wall::of(close_files()),
            seccomp: Wall::of(try_seccomp()),
        }
    }

    /// Returns an error unless every restriction is in force.
    pub fn complete(self) -> anyhow::Result<Sandbox> {
        match (&self.landlock, &self.seccomp) {
            (Wall::Up(_), Wall::Up(_)) => Ok(self),
            _ => bail!("{self}; use --sandbox auto to run with the available restrictions"),
        }
    }

    /// Returns whether any restriction is in force.
    pub fn is_up(&self) -> bool {
        matches!(self.landlock, Wall::Up(_)) || matches!(self.seccomp, Wall::Up(_))
    }

    /// Drops all system calls of this thread but those of its role, for good.
    pub fn enter(&self, role: Role) -> anyhow::Result<()> {
        match self.seccomp {
            Wall::Up(_) => give_up_calls(role),
            Wall::Down(_) => Ok(()),
        }
    }

    /// Restricts a thread that writes the log and was started before [`Sandbox::raise`]: it can
    /// only make files in these folders, and append to them.
    pub fn enter_log(&self, folders: &[PathBuf]) -> anyhow::Result<()> {
        if let Wall::Up(_) = self.landlock {
            close_files_but(folders)?;
        }
        self.enter(match folders {
            [] => Role::Log,
            _ => Role::LogFile,
        })
    }
}

impl Wall {
    fn of(raised: anyhow::Result<String>) -> Wall {
        match raised {
            Ok(words) => Wall::Up(words),
            Err(reason) => Wall::Down(causes::with_causes(&reason)),
        }
    }
}

/// One line, such as `sandbox: no files (Landlock 7), few system calls (seccomp)`.
impl fmt::Display for Sandbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sandbox: ")?;
        match &self.landlock {
            Wall::Up(words) => write!(f, "no files ({words})")?,
            Wall::Down(reason) => write!(f, "all files (no Landlock: {reason})")?,
        }
        match &self.seccomp {
            Wall::Up(words) => write!(f, ", few system calls ({words})"),
            Wall::Down(reason) => write!(f, ", all system calls (no seccomp: {reason})"),
        }
    }
}

/// Denies access to files by Landlock alone, with no new privileges. Returns the version of
/// Landlock. See landlock(7).
///
/// No rule allows anything again, except for the thread of a log file. The rights are those of
/// version 6, the last version with a right that was tested here; later rights (UDP, Unix sockets
/// by path) need sockets or paths, which seccomp denies to every thread.
pub fn close_files() -> anyhow::Result<String> {
    close_files_but(&[])
}

/// Denies access to files like [`close_files`], but allows making and writing files in these
/// folders.
fn close_files_but(folders: &[PathBuf]) -> anyhow::Result<String> {
    let mut rules = Ruleset::default()
        .handle_access(AccessFs::from_all(ABI::V6))?
        .handle_access(AccessNet::from_all(ABI::V6))?
        .scope(Scope::from_all(ABI::V6))?
        .create()?;
    for folder in folders {
        let writing = AccessFs::WriteFile | AccessFs::MakeReg;
        rules = rules.add_rule(PathBeneath::new(PathFd::new(folder)?, writing))?;
    }
    let status = rules.restrict_self()?;
    match (status.ruleset, status.landlock) {
        (RulesetStatus::NotEnforced, LandlockStatus::NotEnabled) => {
            bail!("it is disabled in this kernel (boot parameter lsm=)")
        }
        (RulesetStatus::NotEnforced, _) => bail!("this kernel does not support it"),
        (_, LandlockStatus::Available { effective_abi, .. }) => {
            Ok(format!("Landlock {}", effective_abi as i32))
        }
        (_, status) => bail!("{status:?}"),
    }
}

/// Checks that this kernel, and any container around this process, allow a thread to drop system
/// calls, by a filter that drops none. The check does not use a thread of its own, since in a
/// process that once had two threads glibc's wrappers of calls that may block take longer.
fn try_seccomp() -> anyhow::Result<String> {
    let allow_all = sock_filter {
        code: (libc::BPF_RET | libc::BPF_K) as u16,
        jt: 0,
        jf: 0,
        k: libc::SECCOMP_RET_ALLOW,
    };
    apply_filter(&[allow_all])?;
    Ok("seccomp".to_string())
}

fn give_up_calls(role: Role) -> anyhow::Result<()> {
    for filter in filters(role).context("cannot build the seccomp filters")? {
        apply_filter(&filter)?;
    }
    Ok(())
}

/// Returns the two filters that the kernel runs before each system call of a thread; the stricter
/// of their results counts.
///
/// The first filter refuses to open a file for reading, and the second kills the process for all
/// other ways of opening. The allocator of glibc reads /proc/sys/vm/overcommit_memory when a thread
/// first gives memory back; it accepts a refusal, and must not end the server. The first filter
/// also refuses the calls of std for a backtrace (`RUST_BACKTRACE`) when memory has run out; the
/// backtrace then has no names.
///
/// The form of the filters does not affect the calls that every message needs: the kernel finds out
/// beforehand which calls are allowed whatever their arguments (Linux 5.11), and runs no filter for
/// them. The remaining cost, 40 ns per call, arises with a filter of one instruction as well.
pub fn filters(role: Role) -> Result<[BpfProgram; 2], BackendError> {
    let target = TargetArch::try_from(ARCH)?;
    // A call with an empty list of rules is refused whatever its arguments.
    let refused = match role {
        Role::LogFile => vec![SeccompRule::new(vec![is(
            2,
            libc::O_RDONLY | libc::O_CLOEXEC,
        )?])?],
        Role::Reactor | Role::Metrics | Role::Log => vec![],
    };
    let mut refusals = BTreeMap::from([(libc::SYS_openat, refused)]);
    refusals.extend(REFUSED.iter().map(|call| (*call, vec![])));
    let refuse = SeccompFilter::new(
        refusals,
        SeccompAction::Allow,
        SeccompAction::Errno(libc::EACCES as u32),
        target,
    )?;
    let kill = SeccompFilter::new(
        rules(role)?,
        SeccompAction::KillProcess,
        SeccompAction::Allow,
        target,
    )?;
    Ok([refuse.try_into()?, kill.try_into()?])
}

/// System calls that every thread needs, whatever the arguments.
const EVERY_THREAD: &[c_long] = &[
    // The log; locks; waiting for a thread; and continuing to wait with a timeout after SIGSTOP and
    // SIGCONT.
    libc::SYS_write,
    libc::SYS_futex,
    libc::SYS_sched_yield,
    libc::SYS_restart_syscall,
    // Memory, beside what `rules` allows of mmap(2) and mprotect(2).
    libc::SYS_brk,
    libc::SYS_mremap,
    libc::SYS_munmap,
    libc::SYS_madvise,
    // Clocks that the vDSO cannot read on some machines; the seed of a thread's first HashMap.
    libc::SYS_clock_gettime,
    libc::SYS_getrandom,
    // Closing a file, ending a thread with its signal stack, and ending the process.
    libc::SYS_close,
    libc::SYS_rt_sigreturn,
    libc::SYS_rt_sigprocmask,
    libc::SYS_sigaltstack,
    libc::SYS_exit,
    libc::SYS_exit_group,
    // A panic prints a message with the ID of its thread. abort(3) needs the ID of the process.
    libc::SYS_gettid,
    libc::SYS_getpid,
];

/// System calls that are refused and do not end the process: reading the current folder, and the
/// name of the program.
const REFUSED: &[c_long] = &[
    libc::SYS_getcwd,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_readlink,
    libc::SYS_readlinkat,
];

/// System calls that a thread with a reactor and clients needs, whatever the arguments.
const SERVING: &[c_long] = &[
    // A signal handler may run in any thread that serves, and notifies the reactor.
    libc::SYS_sendto,
    // Clients.
    libc::SYS_accept4,
    libc::SYS_recvfrom,
    libc::SYS_shutdown,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_epoll_wait,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_ctl,
    libc::SYS_timerfd_settime,
];

/// System calls for figures of the process, which come from open files under /proc and from
/// getrusage(2).
const METRICS: &[c_long] = &[libc::SYS_pread64, libc::SYS_getrusage];

/// System calls that wait for an output that another process has made non-blocking.
const WRITING: &[c_long] = &[
    #[cfg(target_arch = "x86_64")]
    libc::SYS_poll,
    libc::SYS_ppoll,
];

fn rules(role: Role) -> Result<BTreeMap<c_long, Vec<SeccompRule>>, BackendError> {
    let own: [&[c_long]; 2] = match role {
        Role::Reactor => [SERVING, &[]],
        Role::Metrics => [SERVING, METRICS],
        Role::Log | Role::LogFile => [WRITING, &[]],
    };
    let calls = EVERY_THREAD.iter().chain(REFUSED);
    let calls = calls.chain(own.into_iter().flatten());
    let mut rules: BTreeMap<c_long, Vec<SeccompRule>> = calls.map(|&call| (call, vec![])).collect();
    // Anonymous memory that is not executable.
    let anonymous = has(3, libc::MAP_ANONYMOUS, libc::MAP_ANONYMOUS)?;
    let no_program = has(2, libc::PROT_EXEC, 0)?;
    let memory = SeccompRule::new(vec![anonymous, no_program.clone()])?;
    rules.insert(libc::SYS_mmap, vec![memory]);
    rules.insert(
        libc::SYS_mprotect,
        vec![SeccompRule::new(vec![no_program])?],
    );
    // abort(3), when memory has run out: this process sends SIGABRT to itself.
    let ours = is(0, process::id() as c_int)?;
    let abort = SeccompRule::new(vec![ours, is(2, libc::SIGABRT)?])?;
    rules.insert(libc::SYS_tgkill, vec![abort]);
    // Opening for reading, which the other filter refuses.
    let for_reading = is(2, libc::O_RDONLY | libc::O_CLOEXEC)?;
    let mut opening = vec![SeccompRule::new(vec![for_reading])?];
    if role == Role::LogFile {
        // The flags of `files::append`.
        let appending = libc::O_WRONLY | libc::O_CREAT | libc::O_APPEND;
        let appending = appending | libc::O_NONBLOCK | libc::O_CLOEXEC;
        opening.push(SeccompRule::new(vec![is(2, appending)?])?);
    }
    rules.insert(libc::SYS_openat, opening);
    // A debug build of std checks that a descriptor is open before it closes it.
    if cfg!(debug_assertions) {
        let ask = SeccompRule::new(vec![is(1, libc::F_GETFD)?])?;
        rules.insert(libc::SYS_fcntl, vec![ask]);
    }
    match role {
        Role::Reactor => {
            // The state of a client's output, and the number of clients in an accept queue.
            let progress = option(libc::IPPROTO_TCP, libc::TCP_INFO)?;
            rules.insert(libc::SYS_getsockopt, vec![progress]);
            // Resetting a client; dropping SYNs at a listener; probing a silent client.
            let reset = option(libc::SOL_SOCKET, libc::SO_LINGER)?;
            let quiesce = option(libc::SOL_SOCKET, libc::SO_ATTACH_FILTER)?;
            let probe = option(libc::IPPROTO_TCP, libc::TCP_KEEPIDLE)?;
            rules.insert(libc::SYS_setsockopt, vec![reset, quiesce, probe]);
        }
        Role::Metrics => {
            // The size of an open file, without a path; reading the limits of this process.
            let by_no_name = has(2, libc::AT_EMPTY_PATH, libc::AT_EMPTY_PATH)?;
            rules.insert(libc::SYS_statx, vec![SeccompRule::new(vec![by_no_name])?]);
            let to_be_told = SeccompRule::new(vec![is(0, 0)?, is_null(2)?])?;
            rules.insert(libc::SYS_prlimit64, vec![to_be_told]);
        }
        Role::Log | Role::LogFile => {}
    }
    Ok(rules)
}

/// Returns the rule for one socket option: the second and third argument of getsockopt(2) and
/// setsockopt(2).
fn option(level: c_int, name: c_int) -> Result<SeccompRule, BackendError> {
    SeccompRule::new(vec![is(1, level)?, is(2, name)?])
}

fn is_null(argument: u8) -> Result<SeccompCondition, BackendError> {
    SeccompCondition::new(argument, SeccompCmpArgLen::Qword, SeccompCmpOp::Eq, 0)
}

fn is(argument: u8, value: c_int) -> Result<SeccompCondition, BackendError> {
    let equal = SeccompCmpOp::Eq;
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, equal, value as u64)
}

/// Returns the condition that the bits of an argument in `mask` are those of `value`.
fn has(argument: u8, mask: c_int, value: c_int) -> Result<SeccompCondition, BackendError> {
    let masked = SeccompCmpOp::MaskedEq(mask as u64);
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, masked, value as u64)
}

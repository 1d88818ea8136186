//! Least privilege: what `serve` gives up once everything is bound and opened. A client that found
//! a fault in this program would find no more than what is left here.
//!
//! Three walls, which nothing in the process can take down again:
//!
//! - **no new privileges**, prctl(2): a set-user-ID program gives none.
//! - **Landlock**, landlock(7): no file can be opened, made, removed or run, no TCP port bound or
//!   connected to, no process outside reached by a signal or an abstract Unix socket. As much of
//!   it as the kernel knows: files since Linux 5.13, TCP since 6.7, the last two since 6.12.
//! - **seccomp**, seccomp(2): the system calls in the tables below are left, and every other one
//!   ends the process with SIGSYS. That covers what an older Landlock leaves open.
//!
//! Given up: opening files, /proc included; new sockets; programs, processes, threads; signals to
//! anybody, ptrace; executable memory; ioctl, io_uring, bpf; users, limits, namespaces, mounts.
//! Kept: the descriptors that are open by then, clients from the listeners, anonymous memory,
//! clocks, the log, and the end.
//!
//! Landlock is handed down to threads that are started later; system calls are given up thread by
//! thread, so that each keeps what its [`Role`] needs and no more:
//!
//! ```text
//!   main     bind, open ─► raise ─► start threads ─► enter(its role) ─► its work
//!   threads                              └─► enter(its role) ─► its work
//! ```
//!
//! A call that a list lacks is told by the kernel's log, `type=1326 … syscall=NUMBER`. Whatever
//! adds calls of its own needs `--sandbox off`: strace's injected faults, coverage, sanitizers.

use std::collections::BTreeMap;
use std::env::consts::ARCH;
use std::fmt;

use anyhow::{Context, bail};
use landlock::{
    ABI, Access, AccessFs, AccessNet, LandlockStatus, Ruleset, RulesetAttr, RulesetStatus, Scope,
};
use nix::libc::{self, c_int, c_long};
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition,
    SeccompFilter, SeccompRule, TargetArch, apply_filter, sock_filter,
};

/// What a thread does, and so which system calls it keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Runs a reactor and serves its clients; waits for the other threads, and ends the process.
    Reactor,
    /// Runs a reactor that answers requests for metrics, from files that are open.
    Metrics,
}

/// The walls around this process.
#[derive(Clone, Debug)]
pub struct Sandbox {
    landlock: Wall,
    seccomp: Wall,
}

#[derive(Clone, Debug)]
enum Wall {
    /// With these words for the log.
    Up(String),
    /// For this reason.
    Down(String),
}

impl Sandbox {
    /// No walls.
    pub fn none() -> Sandbox {
        let down = || Wall::Down("not wanted".to_string());
        Sandbox {
            landlock: down(),
            seccomp: down(),
        }
    }

    /// Closes the file system to this thread and to those it starts from now on, and finds out
    /// whether system calls can be given up, which [`Sandbox::enter`] does.
    pub fn raise() -> Sandbox {
        Sandbox {
            landlock: Wall::of(close_files()),
            seccomp: Wall::of(try_seccomp()),
        }
    }

    /// An error unless every wall is up.
    pub fn complete(self) -> anyhow::Result<Sandbox> {
        match (&self.landlock, &self.seccomp) {
            (Wall::Up(_), Wall::Up(_)) => Ok(self),
            _ => bail!("{self}; --sandbox auto takes what there is"),
        }
    }

    /// Gives up the system calls of this thread but those of its role, for good.
    pub fn enter(&self, role: Role) -> anyhow::Result<()> {
        match self.seccomp {
            Wall::Up(_) => give_up_calls(role),
            Wall::Down(_) => Ok(()),
        }
    }
}

impl Wall {
    fn of(raised: anyhow::Result<String>) -> Wall {
        match raised {
            Ok(words) => Wall::Up(words),
            Err(reason) => Wall::Down(format!("{reason:#}")),
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

/// The Landlock wall alone, with no new privileges; tells its version. See landlock(7).
///
/// Nothing is handed back through rules. The rights are those of version 6, the last that had a
/// right that was tried here; what later ones add (UDP, Unix sockets by path) needs sockets or
/// names, which seccomp leaves to nobody.
pub fn close_files() -> anyhow::Result<String> {
    let status = Ruleset::default()
        .handle_access(AccessFs::from_all(ABI::V6))?
        .handle_access(AccessNet::from_all(ABI::V6))?
        .scope(Scope::from_all(ABI::V6))?
        .create()?
        .restrict_self()?;
    match (status.ruleset, status.landlock) {
        (RulesetStatus::NotEnforced, LandlockStatus::NotEnabled) => {
            bail!("it is off in this kernel (lsm= at boot)")
        }
        (RulesetStatus::NotEnforced, _) => bail!("this kernel has none"),
        (_, LandlockStatus::Available { effective_abi, .. }) => {
            Ok(format!("Landlock {}", effective_abi as i32))
        }
        (_, status) => bail!("{status:?}"),
    }
}

/// Whether this kernel, and whatever contains this process, lets calls be given up: tried with a
/// program that gives up none. It is not tried in a thread of its own, since in a process that once
/// had two the wrappers of glibc take longer for each call that may block.
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
    for filter in filters(role).context("cannot make the list of system calls")? {
        apply_filter(&filter)?;
    }
    Ok(())
}

/// The programs that the kernel runs before each system call of a thread; of their answers the
/// strictest counts.
///
/// The first refuses to open a file for reading, and the second kills for all other ways of
/// opening: the allocator of glibc reads /proc/sys/vm/overcommit_memory when a thread first gives
/// memory back, takes no for an answer, and must not end the server.
///
/// How they are written makes none of the calls faster that every message needs: the kernel finds
/// out beforehand which calls are allowed whatever their arguments (Linux 5.11), and runs nothing
/// for those. What is left, 40 ns a call, a filter of one instruction costs as well.
pub fn filters(role: Role) -> Result<[BpfProgram; 2], BackendError> {
    let target = TargetArch::try_from(ARCH)?;
    let refuse = SeccompFilter::new(
        BTreeMap::from([(libc::SYS_openat, vec![])]),
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

/// What every thread needs, whatever the arguments.
const EVERY_THREAD: &[c_long] = &[
    // The log. A signal runs its handler in any thread, which tells the reactor with sendto(2).
    libc::SYS_write,
    libc::SYS_sendto,
    libc::SYS_rt_sigreturn,
    // Locks, waiting for a thread; and waiting on with a time limit after SIGSTOP and SIGCONT.
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
    // The end of a socket, of a thread with its signal stack, and of the process.
    libc::SYS_close,
    libc::SYS_rt_sigprocmask,
    libc::SYS_sigaltstack,
    libc::SYS_exit,
    libc::SYS_exit_group,
    // A panic tells its thread's number, and its message shall be heard.
    libc::SYS_gettid,
    // Clients.
    libc::SYS_accept4,
    libc::SYS_recvfrom,
    libc::SYS_shutdown,
    // The reactor.
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_ctl,
    libc::SYS_timerfd_settime,
];

/// Figures of the process, from files under /proc that are open.
const METRICS: &[c_long] = &[libc::SYS_pread64, libc::SYS_getrusage];

fn rules(role: Role) -> Result<BTreeMap<c_long, Vec<SeccompRule>>, BackendError> {
    let own: &[c_long] = match role {
        Role::Reactor => &[],
        Role::Metrics => METRICS,
    };
    let calls = EVERY_THREAD.iter().chain(own);
    let mut rules: BTreeMap<c_long, Vec<SeccompRule>> = calls.map(|&call| (call, vec![])).collect();
    // Memory that is no file and holds no program.
    let anonymous = has(3, libc::MAP_ANONYMOUS, libc::MAP_ANONYMOUS)?;
    let no_program = has(2, libc::PROT_EXEC, 0)?;
    let memory = SeccompRule::new(vec![anonymous, no_program.clone()])?;
    rules.insert(libc::SYS_mmap, vec![memory]);
    rules.insert(
        libc::SYS_mprotect,
        vec![SeccompRule::new(vec![no_program])?],
    );
    // The other filter refuses this.
    let for_reading = is(2, libc::O_RDONLY | libc::O_CLOEXEC)?;
    rules.insert(libc::SYS_openat, vec![SeccompRule::new(vec![for_reading])?]);
    // A debug build of std asks before it closes a descriptor whether that is open.
    if cfg!(debug_assertions) {
        let ask = SeccompRule::new(vec![is(1, libc::F_GETFD)?])?;
        rules.insert(libc::SYS_fcntl, vec![ask]);
    }
    match role {
        Role::Reactor => {
            // How a client takes its replies, and how many wait to be accepted.
            let progress = option(libc::IPPROTO_TCP, libc::TCP_INFO)?;
            rules.insert(libc::SYS_getsockopt, vec![progress]);
            // Resetting a client; taking no more of them.
            let reset = option(libc::SOL_SOCKET, libc::SO_LINGER)?;
            let hush = option(libc::SOL_SOCKET, libc::SO_ATTACH_FILTER)?;
            rules.insert(libc::SYS_setsockopt, vec![reset, hush]);
        }
        Role::Metrics => {
            // The size of an open file, by no name; the limits of this process, to be told.
            let by_no_name = has(2, libc::AT_EMPTY_PATH, libc::AT_EMPTY_PATH)?;
            rules.insert(libc::SYS_statx, vec![SeccompRule::new(vec![by_no_name])?]);
            let to_be_told = SeccompRule::new(vec![is(0, 0)?, is_null(2)?])?;
            rules.insert(libc::SYS_prlimit64, vec![to_be_told]);
        }
    }
    Ok(rules)
}

/// One socket option: the second and third argument of getsockopt(2) and setsockopt(2).
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

/// The bits of an argument that `mask` names are those of `value`.
fn has(argument: u8, mask: c_int, value: c_int) -> Result<SeccompCondition, BackendError> {
    let masked = SeccompCmpOp::MaskedEq(mask as u64);
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, masked, value as u64)
}

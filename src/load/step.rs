//! The steps of a connection's life at which a system call can fail without a fault of the peer.
//! Pure.
//!
//! Such a failure costs only the connection at which it happens, and the run goes on. The report
//! counts it by step and errno: "Cannot allocate memory" alone does not show what to check.

use std::fmt;
use std::io;

/// A step of a connection's life, named after its call; first those of a connection that is not up
/// yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// socket(2).
    Open,
    /// setsockopt(2) of what the plan asks for.
    Configure,
    /// bind(2) of the local address.
    Bind,
    /// connect(2), and its outcome: SO_ERROR.
    Connect,
    /// epoll_ctl(2).
    Register,
    /// setsockopt(2) of SO_TIMESTAMPING.
    KeepTimes,
    /// Reading the kernel's times: recvmsg(2) with MSG_ERRQUEUE.
    ReadTimes,
    /// send(2).
    Send,
    /// recv(2).
    Receive,
    /// shutdown(2).
    Finish,
    /// setsockopt(2) of SO_LINGER.
    Linger,
    /// getsockopt(2) of TCP_INFO.
    ReadInfo,
}

/// A call that failed, and its step.
#[derive(Debug)]
pub struct Failure {
    /// The step.
    pub step: Step,
    /// What the call returned.
    pub error: io::Error,
}

impl Step {
    /// Returns a function that turns the error of this step into a failure.
    pub fn failed(self) -> impl FnOnce(io::Error) -> Failure {
        move |error| Failure { step: self, error }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Step::Open => "opening a socket",
            Step::Configure => "setting a socket option",
            Step::Bind => "binding the local address",
            Step::Connect => "connecting",
            Step::Register => "registering with epoll",
            Step::KeepTimes => "switching on kernel timestamps",
            Step::ReadTimes => "reading kernel timestamps",
            Step::Send => "sending",
            Step::Receive => "receiving",
            Step::Finish => "sending FIN",
            Step::Linger => "preparing a reset (SO_LINGER)",
            Step::ReadInfo => "reading TCP_INFO",
        })
    }
}

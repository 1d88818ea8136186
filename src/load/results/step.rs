//! The steps in the life of a connection at which a system call can fail through no fault of the
//! peer. Pure.
//!
//! Such a failure affects only its own connection, and the run continues. The report counts
//! failures by step and errno: "Cannot allocate memory" alone does not show what to check.

use std::fmt;
use std::io;

use serde::{Deserialize, Serialize};

/// A step in the life of a connection, named after its call. Steps of a connection that is not
/// established yet are first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Step {
    /// socket(2).
    Open,
    /// setsockopt(2) of the options in the plan.
    Configure,
    /// bind(2) of the local address.
    Bind,
    /// connect(2), and its result in SO_ERROR.
    Connect,
    /// epoll_ctl(2).
    Register,
    /// setsockopt(2) of SO_TIMESTAMPING.
    KeepTimes,
    /// recvmsg(2) with MSG_ERRQUEUE, which reads the kernel's timestamps.
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

/// A failed call, and its step.
#[derive(Debug)]
pub struct Failure {
    /// The step.
    pub step: Step,
    /// The error that the call returned.
    pub error: io::Error,
}

impl Step {
    /// Returns a function that turns an error of this step into a failure.
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

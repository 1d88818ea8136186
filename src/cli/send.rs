//! `upcase send`: its options, and the job that they describe.

use std::ffi::OsString;
use std::io;
use std::time::Duration;

use anyhow::Context;
use clap::Args;

use crate::cli::numbers::positive_duration;
use crate::cli::options::{MssArg, resolve};
use crate::cli::output::Outcome;
use crate::cli::values::{Target, target};
use crate::send::{self, Input, SendJob, SendOutcome};
use crate::sys::socket::Options;

#[derive(Debug, Args)]
pub(super) struct SendArgs {
    /// The server: HOST, HOST:PORT, [IPv6]:PORT or [fe80::1%eth0]:PORT; port 12000 if none is given
    #[arg(value_name = "TARGET", value_parser = target)]
    target: Target,
    /// Messages to send, each after the reply to the one before [default: the lines of standard
    /// input, each without its LF; an empty line is not sent, and printed as an empty line]
    #[arg(value_name = "MESSAGE")]
    messages: Vec<OsString>,
    #[command(flatten)]
    mss: MssArg,
    /// Maximum time to wait for the connection, each part of a reply, and the server's close
    #[arg(long, value_name = "TIME", value_parser = positive_duration, default_value = "10s")]
    timeout: Duration,
}

pub(super) fn run(args: SendArgs) -> anyhow::Result<Outcome> {
    let job = SendJob {
        targets: resolve(&args.target)?,
        messages: args
            .messages
            .into_iter()
            .map(OsString::into_encoded_bytes)
            .collect(),
        options: Options {
            mss: args.mss.mss,
            ..Options::default()
        },
        timeout: args.timeout,
    };
    let input = match job.messages.is_empty() {
        true => Input::with_editor(),
        false => Input::plain(),
    };
    let input = input.context("cannot read standard input")?;
    let ending = send::run(&job, input, io::stdout())?;
    Ok(match ending {
        SendOutcome::Good => Outcome::Good,
        SendOutcome::Bad => Outcome::Bad,
        SendOutcome::Unfinished => Outcome::Inconclusive,
    })
}

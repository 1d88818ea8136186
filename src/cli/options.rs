//! Options that several commands share, and their conversion to socket options.

use std::net::SocketAddr;

use anyhow::anyhow;
use clap::Args;

use crate::address::resolve;
use crate::address::{PORT_DEFAULT, check_target};
use crate::cli::values::{Target, buffer_size, mss};
use crate::sys::socket::Options;

#[derive(Clone, Debug, Args)]
pub(super) struct MssArg {
    /// TCP_MAXSEG, 88 to 32767: maximum segment size, in both directions. Timestamps take 12 bytes
    /// of each segment
    #[arg(long, value_name = "BYTES", value_parser = mss)]
    pub(super) mss: Option<u16>,
}

#[derive(Clone, Debug, Args)]
pub(super) struct BufferArgs {
    /// SO_RCVBUF, such as 64KiB; the kernel doubles it for its own bookkeeping
    #[arg(long, value_name = "SIZE", value_parser = buffer_size)]
    recv_buffer: Option<usize>,
    /// SO_SNDBUF, such as 64KiB; the kernel doubles it for its own bookkeeping
    #[arg(long, value_name = "SIZE", value_parser = buffer_size)]
    send_buffer: Option<usize>,
}

/// Returns the socket options that the command line requests.
pub(super) fn options(mss: &MssArg, buffers: &BufferArgs) -> Options {
    Options {
        mss: mss.mss,
        recv_buffer: buffers.recv_buffer,
        send_buffer: buffers.send_buffer,
        ..Options::default()
    }
}

/// Returns every address of a target.
pub(super) fn resolve(Target(address): &Target) -> anyhow::Result<Vec<SocketAddr>> {
    let addresses = resolve::resolve(address, PORT_DEFAULT)?;
    for found in &addresses {
        // A name may resolve to an address that is refused when it is typed.
        check_target(found.ip())
            .map_err(|error| anyhow!("the host {address} cannot be used: {error}"))?;
    }
    Ok(addresses)
}

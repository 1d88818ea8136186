//! What can be typed: commands, options, their help.

use std::ffi::OsString;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::RangedU64ValueParser;
use clap::{ArgGroup, Args, Parser, Subcommand, ValueEnum};

use crate::cli::values::{
    Target, buffer_size, listen_address, message_size, mss, positive_duration, target,
};

/// A TCP echo pair for measuring and teaching TCP: the server answers in upper case
#[derive(Debug, Parser)]
#[command(
    version,
    subcommand_required = true,
    after_help = "Exit codes: 0 all well; 1 carried out, and something is wrong; 2 wrong usage; \
                  3 could not run."
)]
pub struct Cli {
    #[command(subcommand)]
    pub(super) command: Command,
    #[command(flatten)]
    pub(super) log: LogArgs,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Send back every byte that comes, ASCII letters in upper case
    Serve(ServeArgs),
    /// Send messages and print the replies
    Send(SendArgs),
    /// Load a server with many connections, verify every reply, measure its response
    Load(LoadArgs),
    /// Tell a conversation on the wire packet by packet, live or from a file, and judge it
    Sniff(SniffArgs),
}

#[derive(Debug, Args)]
pub(super) struct LogArgs {
    /// Tell more: every connection, every message
    #[arg(
        short,
        long,
        global = true,
        conflicts_with = "quiet",
        display_order = 100
    )]
    pub(super) verbose: bool,
    /// Tell errors only
    #[arg(short, long, global = true, display_order = 100)]
    pub(super) quiet: bool,
    /// Keep the log in this file as well (appended)
    #[arg(long, global = true, value_name = "PATH", display_order = 100)]
    pub(super) log_file: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(super) struct ServeArgs {
    /// Where to listen, IPv4 or [IPv6]; port 0: any free one; may be repeated
    #[arg(long, value_name = "ADDR:PORT", value_parser = listen_address,
          default_value = "127.0.0.1:12000")]
    pub(super) listen: Vec<SocketAddr>,
    #[command(flatten)]
    pub(super) mss: MssArg,
    #[command(flatten)]
    pub(super) buffers: BufferArgs,
    /// Clients that may wait to be accepted [default: 4096, or what the kernel allows]
    #[arg(long, value_name = "N",
          value_parser = clap::value_parser!(u32).range(1..=i64::from(i32::MAX)))]
    pub(super) backlog: Option<u32>,
    /// Leave Nagle's algorithm on; otherwise TCP_NODELAY is set
    #[arg(long)]
    pub(super) nagle: bool,
}

#[derive(Debug, Args)]
pub(super) struct SendArgs {
    /// The server, as address or name with port
    #[arg(value_name = "TARGET", value_parser = target)]
    pub(super) target: Target,
    /// What to send, one reply each [default: the lines of standard input]
    #[arg(value_name = "MESSAGE")]
    pub(super) messages: Vec<OsString>,
    #[command(flatten)]
    pub(super) mss: MssArg,
    /// How long to wait for the connection, for each part of a reply, and for the end
    #[arg(long, value_name = "TIME", value_parser = positive_duration, default_value = "10s")]
    pub(super) timeout: Duration,
}

#[derive(Debug, Args)]
pub(super) struct LoadArgs {
    /// The server, as address or name with port [default: one of its own, in this process]
    #[arg(value_name = "TARGET", value_parser = target)]
    pub(super) target: Option<Target>,
    /// Connections; all are up before the first message and stay up to the end
    #[arg(long, value_name = "N", default_value_t = 1000,
          value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    pub(super) connections: u32,
    /// Bytes of a message, such as 64 or 16KiB (1 to 1GiB)
    #[arg(long, value_name = "SIZE", value_parser = message_size, default_value = "64")]
    pub(super) size: usize,
    /// Messages in flight on each connection
    #[arg(long, value_name = "N", default_value_t = 1,
          value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub(super) depth: u32,
    /// How long to send [default: 10s]
    #[arg(long, value_name = "TIME", value_parser = positive_duration)]
    pub(super) duration: Option<Duration>,
    /// How many messages to send in all, dealt evenly to the connections; given up when no reply
    /// comes for 10 s
    #[arg(long, value_name = "N", conflicts_with = "duration",
          value_parser = RangedU64ValueParser::<u64>::new().range(1..))]
    pub(super) messages: Option<u64>,
    /// Connections to open a second [default: as fast as they come up]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) connect_rate: Option<u32>,
    #[command(flatten)]
    pub(super) mss: MssArg,
    #[command(flatten)]
    pub(super) buffers: BufferArgs,
    /// Local addresses, used in turn
    #[arg(long, value_name = "ADDR,...", value_delimiter = ',')]
    pub(super) source: Vec<IpAddr>,
    /// What the messages are made of: printable ASCII with a lower-case letter in every message, or
    /// all 256 byte values
    #[arg(long, value_enum, default_value_t = PayloadArg::Text)]
    pub(super) payload: PayloadArg,
    /// What the bytes of the messages are computed from
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(super) seed: u64,
    /// How to print the report: a page for a person, or one object on one line
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub(super) format: Format,
}

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("source").required(true).args(["interface", "read"]))]
pub(super) struct SniffArgs {
    /// Capture on this interface, or on `any`; needs CAP_NET_RAW
    #[arg(long, value_name = "IF")]
    pub(super) interface: Option<String>,
    /// Tell this file, pcap or pcapng; `-` is standard input
    #[arg(long, value_name = "FILE")]
    pub(super) read: Option<PathBuf>,
    /// TCP port of the server [default: 12000 with --interface, all with --read]
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub(super) port: Option<u16>,
    /// Keep what is captured in this file, as pcapng
    #[arg(long, value_name = "FILE", requires = "interface")]
    pub(super) write: Option<PathBuf>,
    /// Stop after so many packets
    #[arg(long, value_name = "N", value_parser = RangedU64ValueParser::<u64>::new().range(1..))]
    pub(super) count: Option<u64>,
    /// Stop after this time
    #[arg(long, value_name = "TIME", value_parser = positive_duration, requires = "interface")]
    pub(super) duration: Option<Duration>,
    /// Stop when so many connections have ended
    #[arg(long, value_name = "N", value_parser = RangedU64ValueParser::<u64>::new().range(1..))]
    pub(super) flows: Option<u64>,
    /// Tell sequence numbers from the first one of each side, as Wireshark does by default
    #[arg(long)]
    pub(super) relative: bool,
    /// Tell connections and the verdict only, not every segment
    #[arg(long)]
    pub(super) brief: bool,
    /// Bytes of a payload that are shown
    #[arg(long, value_name = "BYTES", default_value_t = 60)]
    pub(super) width: u16,
    /// A page for a terminal, one JSON object a line, or a document to keep
    #[arg(long, value_enum, default_value_t = SniffFormat::Text)]
    pub(super) format: SniffFormat,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum SniffFormat {
    Text,
    Json,
    Markdown,
}

#[derive(Debug, Args)]
pub(super) struct MssArg {
    /// TCP_MAXSEG, 88 to 32767: the largest segment, both ways. A segment carries 12 bytes less,
    /// which go to timestamps
    #[arg(long, value_name = "BYTES", value_parser = mss)]
    pub(super) mss: Option<u16>,
}

#[derive(Debug, Args)]
pub(super) struct BufferArgs {
    /// SO_RCVBUF, such as 64KiB; the kernel doubles it for its own bookkeeping
    #[arg(long, value_name = "SIZE", value_parser = buffer_size)]
    pub(super) recv_buffer: Option<usize>,
    /// SO_SNDBUF, such as 64KiB; the kernel doubles it for its own bookkeeping
    #[arg(long, value_name = "SIZE", value_parser = buffer_size)]
    pub(super) send_buffer: Option<usize>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum PayloadArg {
    Text,
    Bytes,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum Format {
    Text,
    Json,
}

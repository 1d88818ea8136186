//! What can be typed: commands, options, their help.

use std::ffi::OsString;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::RangedU64ValueParser;
use clap::{ArgGroup, Args, Parser, Subcommand, ValueEnum};

use crate::cli::values::{
    Target, Timeout, UnsentMost, buffer_size, bytes_a_second, duration, idle_timeout, interval,
    keepalive, listen_address, message_sizes, mss, positive_duration, rate, target, timeout,
    unsent_most,
};
use crate::load::assertion::Demand;
use crate::load::schedule::Rate;
use crate::load::sizes::Sizes;

/// How long `load` sends, unless it is said.
pub(super) const DURATION_DEFAULT: Duration = Duration::from_secs(10);

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
    Load(Box<LoadArgs>),
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
    /// Where to listen, IPv4 or [IPv6]; port 0: any free one; may be repeated; beside the sockets
    /// that systemd hands over [default: those alone, else 127.0.0.1:12000]
    #[arg(long, value_name = "ADDR:PORT", value_parser = listen_address)]
    pub(super) listen: Vec<SocketAddr>,
    #[command(flatten)]
    pub(super) mss: MssArg,
    #[command(flatten)]
    pub(super) buffers: BufferArgs,
    /// TCP_NOTSENT_LOWAT: replies that the kernel takes beyond what the client's window does;
    /// without it, each client that never reads would hold eight times as much of its memory
    #[arg(long, value_name = "SIZE|off", value_parser = unsent_most, default_value = "256KiB")]
    pub(super) notsent_lowat: UnsentMost,
    /// Clients that may wait to be accepted [default: 4096, or what the kernel allows]
    #[arg(long, value_name = "N",
          value_parser = clap::value_parser!(u32).range(1..=i64::from(i32::MAX)))]
    pub(super) backlog: Option<u32>,
    /// Leave Nagle's algorithm on; otherwise TCP_NODELAY is set
    #[arg(long)]
    pub(super) nagle: bool,
    /// Give up at the start what serving does not need: opening files, new sockets, programs, all
    /// but some 30 system calls; `auto`: as far as the kernel can, `on`: in full or not at all
    #[arg(long, value_enum, default_value_t = SandboxArg::Auto)]
    pub(super) sandbox: SandboxArg,
    /// Share the port with other processes, so that a new server can start beside the old one
    #[arg(long)]
    pub(super) reuse_port: bool,
    /// Reactors, each in a thread of its own; the kernel spreads the clients over them
    #[arg(long, value_name = "N", default_value_t = 1,
          value_parser = RangedU64ValueParser::<usize>::new().range(1..=256))]
    pub(super) shards: usize,
    /// Serve Prometheus metrics at http://ADDR:PORT/metrics, and at /healthz whether the server
    /// takes clients: 200, or 503 once it is stopping; port 0: any free one
    #[arg(long, value_name = "ADDR:PORT", value_parser = listen_address)]
    pub(super) metrics: Option<SocketAddr>,
    #[command(flatten)]
    pub(super) limits: LimitArgs,
    #[command(flatten)]
    pub(super) patience: PatienceArgs,
    #[command(flatten)]
    pub(super) fairness: FairnessArgs,
}

/// Each limit protects the server, or the machine, from something; the help says from what.
#[derive(Debug, Args)]
#[command(next_help_heading = "Limits of the whole process, divided among its shards")]
pub(super) struct LimitArgs {
    /// Clients at a time; at the cap who comes waits in the kernel's queue, and nobody is reset
    /// [default: the limit on descriptors, less a reserve]
    #[arg(long, value_name = "N",
          value_parser = RangedU64ValueParser::<usize>::new().range(1..=100_000_000))]
    pub(super) max_connections: Option<usize>,
    /// Clients of one IPv4 address or IPv6 /64; who comes beyond is reset. Each shard counts its
    /// share, rounded up; the kernel spreads the connections over them by chance [default: no
    /// limit, since one machine that loads the server is the normal client]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) max_connections_per_ip: Option<u32>,
}

/// How patient the server is.
#[derive(Debug, Args)]
#[command(next_help_heading = "Patience")]
pub(super) struct PatienceArgs {
    /// Close a client that is owed nothing and has been silent for so long; off: a client that
    /// thinks does no harm, and --keepalive finds those that have vanished
    #[arg(long, value_name = "TIME|off", value_parser = idle_timeout, default_value = "off")]
    pub(super) idle_timeout: Timeout,
    /// Reset a client that is owed replies and does not acknowledge, in each such time, all of them
    /// or --min-rate times this time: it would hold memory of the kernel for ever
    #[arg(long, value_name = "TIME|off", value_parser = timeout, default_value = "30s")]
    pub(super) stall_timeout: Timeout,
    /// What a client that is owed replies must take on average, in bytes a second; a modem does
    #[arg(long, value_name = "BYTES", value_parser = bytes_a_second, default_value = "512")]
    pub(super) min_rate: u64,
    /// Let the kernel ask a client that has been silent for so long whether it is still there, and
    /// drop it after four questions without an answer: it may have lost its power or its network
    #[arg(long, value_name = "TIME|off", value_parser = keepalive, default_value = "2m")]
    pub(super) keepalive: Timeout,
    /// After SIGTERM, serve for at most so long: who has been silent for a second gets FIN, and all
    /// the others a second before its end; who is owed replies at its end is reset
    #[arg(long, value_name = "TIME", value_parser = positive_duration, default_value = "10s")]
    pub(super) drain_timeout: Duration,
}

/// How the loop's time is shared out.
#[derive(Debug, Args)]
#[command(next_help_heading = "Fairness")]
pub(super) struct FairnessArgs {
    /// Clients that one listener may accept in a turn of the loop, so that a storm of connects
    /// leaves time for those who are connected
    #[arg(long, value_name = "N", default_value_t = 256,
          value_parser = RangedU64ValueParser::<usize>::new().range(1..=1_000_000))]
    pub(super) turn_accepts: usize,
    /// Bytes that one connection may have echoed in a turn of the loop before the others get
    /// theirs, rounded up to whole reads: of 64 KiB, or of 256 KiB when at most four are ready
    #[arg(long, value_name = "BYTES", value_parser = buffer_size, default_value = "64KiB")]
    pub(super) turn_bytes: usize,
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
    /// The servers, as address or name with port, used in turn [default: one of its own, in this
    /// process]
    #[arg(value_name = "TARGET", value_parser = target)]
    pub(super) targets: Vec<Target>,
    /// Connections at a time; all are up before the first message
    #[arg(long, value_name = "N", default_value_t = 1000,
          value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    pub(super) connections: u32,
    /// Messages a second over all connections, such as 5000 or 333.3, by a schedule that does not
    /// wait for the server [default: closed loop, the next message when a reply is complete]
    #[arg(long, value_name = "N", value_parser = rate)]
    pub(super) rate: Option<Rate>,
    /// How the gaps between scheduled messages are spread
    #[arg(long, value_enum, default_value_t = ArrivalsArg::Constant, requires = "rate")]
    pub(super) arrivals: ArrivalsArg,
    /// Which connection a scheduled message goes to: the one that has been free the longest, or
    /// each has a line of its own
    #[arg(long, value_enum, default_value_t = PacingArg::Global, requires = "rate")]
    pub(super) pacing: PacingArg,
    /// In a closed loop, the time between a reply and the next message
    #[arg(long, value_name = "TIME", value_parser = positive_duration, conflicts_with = "rate")]
    pub(super) think: Option<Duration>,
    /// Do not sleep in the last 60 µs before a message is due: takes a whole CPU, and sends within
    /// a microsecond
    #[arg(long, requires = "rate")]
    pub(super) spin: bool,
    /// Bytes of a message: one size such as 64 or 16KiB (1 to 1GiB), a range such as 64..1500, or
    /// shares such as 64:90%,16KiB:10%
    #[arg(long, value_name = "SIZE", value_parser = message_sizes, default_value = "64")]
    pub(super) size: Sizes,
    /// Messages in flight on each connection
    #[arg(long, value_name = "N", default_value_t = 1,
          value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub(super) depth: u32,
    /// How long to send, the warm-up included [default: 10s]
    #[arg(long, value_name = "TIME", value_parser = positive_duration)]
    pub(super) duration: Option<Duration>,
    /// How many messages to send in all, in a closed loop dealt evenly to the connections; given up
    /// when no reply comes for 10 s
    #[arg(long, value_name = "N", conflicts_with = "duration",
          value_parser = RangedU64ValueParser::<u64>::new().range(1..))]
    pub(super) messages: Option<u64>,
    /// Messages due so soon after the start are not part of the result
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "0s",
          conflicts_with = "messages")]
    pub(super) warmup: Duration,
    /// How long to wait at the end for what is outstanding
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "1s")]
    pub(super) drain: Duration,
    /// The age at which a message counts as timed out [default: none]
    #[arg(long, value_name = "TIME", value_parser = positive_duration)]
    pub(super) timeout: Option<Duration>,
    /// Connections to open a second at the start [default: as fast as they come up]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) connect_rate: Option<u32>,
    /// Replace a connection by a new one after so many messages
    #[arg(long, value_name = "N", value_parser = RangedU64ValueParser::<u64>::new().range(1..))]
    pub(super) churn: Option<u64>,
    /// How a connection is ended that is replaced: in order, which leaves its port in TIME_WAIT, or
    /// by a reset
    #[arg(long, value_enum, default_value_t = CloseArg::Fin, requires = "churn")]
    pub(super) close: CloseArg,
    /// Threads that share the connections and the schedule, each with a reactor of its own
    #[arg(long, value_name = "N", default_value_t = 1,
          value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub(super) threads: u32,
    #[command(flatten)]
    pub(super) mss: MssArg,
    #[command(flatten)]
    pub(super) buffers: BufferArgs,
    /// Local addresses, used in turn
    #[arg(long, value_name = "ADDR,...", value_delimiter = ',')]
    pub(super) source: Vec<IpAddr>,
    /// What the messages are made of: `text`, printable ASCII with a lower-case letter in every
    /// message; `bytes`, all 256 values; or a file, read round and round
    #[arg(long, value_name = "text|bytes|FILE", default_value = "text")]
    pub(super) payload: PathBuf,
    /// What bytes, sizes and gaps are computed from
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(super) seed: u64,
    /// Of the first N connections, split each response by the kernel's own times of sending and
    /// receiving (SO_TIMESTAMPING)
    #[arg(long, value_name = "N", num_args = 0..=1, require_equals = true,
          default_missing_value = "8",
          value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) kernel_timestamps: Option<u32>,
    /// Demand of the result, else exit code 1; may be repeated: p99<2ms, service.p50<1ms,
    /// errors=0, rate>=0.999
    #[arg(long, value_name = "DEMAND", value_parser = clap::value_parser!(Demand))]
    pub(super) assert: Vec<Demand>,
    /// Take this verdict for good as well
    #[arg(long, value_name = "VERDICT,...", value_enum, value_delimiter = ',')]
    pub(super) allow: Vec<AllowArg>,
    /// How often to tell how it goes, in the log (-v) and in the interval log
    #[arg(long, value_name = "TIME", value_parser = interval, default_value = "1s")]
    pub(super) interval: Duration,
    /// Write an object for every interval to this file, one a line, warm-up and drain included
    #[arg(long, value_name = "FILE")]
    pub(super) interval_log: Option<PathBuf>,
    /// How to print the report: a page for a person, or one object on one line
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub(super) format: Format,
}

impl Cli {
    /// What no single option can tell.
    pub(super) fn check(&self) -> Result<(), String> {
        match &self.command {
            Command::Serve(args) => args.check(),
            Command::Load(args) => args.check(),
            Command::Send(_) | Command::Sniff(_) => Ok(()),
        }
    }
}

impl ServeArgs {
    fn check(&self) -> Result<(), String> {
        match self.limits.max_connections {
            Some(most) if most < self.shards => Err(format!(
                "--max-connections {most} is less than --shards {}: each takes at least one",
                self.shards
            )),
            _ => Ok(()),
        }
    }
}

impl LoadArgs {
    fn check(&self) -> Result<(), String> {
        let duration = self.duration.unwrap_or(DURATION_DEFAULT);
        if self.messages.is_none() && self.warmup >= duration {
            let (warmup, duration) = (
                humantime::format_duration(self.warmup),
                humantime::format_duration(duration),
            );
            return Err(format!(
                "--warmup {warmup} leaves nothing of --duration {duration}"
            ));
        }
        if self.threads > self.connections {
            return Err(format!(
                "--threads {} is more than --connections {}",
                self.threads, self.connections
            ));
        }
        if self.rate.is_none() && self.assert.iter().any(Demand::is_about_rate) {
            return Err("--assert rate needs --rate: a closed loop asks for none".to_string());
        }
        Ok(())
    }
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
pub(super) enum SandboxArg {
    Auto,
    On,
    Off,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum ArrivalsArg {
    Constant,
    Poisson,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum PacingArg {
    Global,
    PerConnection,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum CloseArg {
    Fin,
    Rst,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum AllowArg {
    ClientBound,
    NetworkBound,
    ServerBound,
    Failed,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum Format {
    Text,
    Json,
}

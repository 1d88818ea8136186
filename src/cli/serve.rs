//! `upcase serve`: its options, and the server that they describe.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::{Args, ValueEnum};
use log::{info, warn};

use crate::address::resolve::{self, display_address, means_not_local};
use crate::address::{Address, Host, PORT_DEFAULT};
use crate::cli::numbers::{integer, positive_duration};
use crate::cli::options::{BufferArgs, MssArg, options};
use crate::cli::output::{Outcome, print};
use crate::cli::values::{
    Timeout, UnsentMost, buffer_size, bytes_a_second, idle_timeout, keepalive, metrics_address,
    notsent_lowat, timeout,
};
use crate::logging;
use crate::server::engine::kernel;
use crate::server::limits::Limits;
use crate::server::metrics::{self, MetricsServer, Subject};
use crate::server::{self, Ended, Server};
use crate::sys::sandbox::Sandbox;
use crate::sys::socket::{Families, Options};
use crate::sys::systemd::{self, Notifier};
use crate::sys::{descriptor_limit, socket};
use crate::units::{counted, grouped};

/// The address to listen on when neither an option nor systemd names one.
const LISTEN_DEFAULT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), PORT_DEFAULT);

/// Maximum time that the reader of standard output may delay the server when it prints its first
/// lines.
const PRINT_WAIT: Duration = Duration::from_secs(1);

#[derive(Debug, Args)]
pub(super) struct ServeArgs {
    /// Address to listen on: IPv4, [IPv6], [fe80::1%eth0] or a name of this host, with a port. Port
    /// 0: any free port; PORT, :PORT and *:PORT: all addresses. [::] accepts IPv4 clients as well,
    /// unless an IPv4 listener has the same port. May be repeated, and adds to the sockets that
    /// systemd passes [default: only those, or 127.0.0.1:12000 without any]
    #[arg(long, value_name = "ADDR:PORT", value_parser = Address::parse)]
    listen: Vec<Address>,
    #[command(flatten)]
    mss: MssArg,
    #[command(flatten)]
    buffers: BufferArgs,
    /// TCP_NOTSENT_LOWAT: bytes of replies that the kernel buffers beyond the client's receive
    /// window; off: a client that never reads can occupy eight times as much kernel memory
    #[arg(long, value_name = "SIZE|off", value_parser = notsent_lowat, default_value = "256KiB")]
    notsent_lowat: UnsentMost,
    /// Maximum length of the accept queue, in clients [default: 4096, or what the kernel allows]
    #[arg(long, value_name = "N",
          value_parser = integer::<u32>(1, i32::MAX as u64))]
    backlog: Option<u32>,
    /// Leave Nagle's algorithm on; otherwise TCP_NODELAY is set
    #[arg(long)]
    nagle: bool,
    /// Drop privileges that serving does not need, at the start: opening files, making sockets,
    /// running programs, all but some 30 system calls
    #[arg(long, value_enum, default_value_t = SandboxMode::Auto)]
    sandbox: SandboxMode,
    /// Share the port with other processes, so that a new server can start beside the old one
    #[arg(long)]
    reuse_port: bool,
    /// Number of reactors, each in its own thread; the kernel distributes the clients among them
    #[arg(long, value_name = "N", default_value_t = 1,
          value_parser = integer::<usize>(1, 256))]
    shards: usize,
    /// Serve Prometheus metrics at http://ADDR:PORT/metrics, and a health check at /healthz: 200,
    /// or 503 when the server is stopping or does not respond; port 0: any free port
    #[arg(long, value_name = "ADDR:PORT", value_parser = metrics_address)]
    metrics: Option<Address>,
    #[command(flatten)]
    limits: LimitArgs,
    #[command(flatten)]
    timeouts: TimeoutArgs,
    #[command(flatten)]
    fairness: FairnessArgs,
}

/// The limits of the whole process, which protect the server and its machine from too many clients.
#[derive(Debug, Args)]
#[command(next_help_heading = "Limits of the whole process, shared by its shards")]
struct LimitArgs {
    /// Maximum number of clients at a time; beyond it, new clients wait in the accept queue, and
    /// none is reset [default: the limit on descriptors, less a reserve]
    #[arg(long, value_name = "N",
          value_parser = integer::<usize>(1, 100_000_000))]
    max_connections: Option<usize>,
    /// Maximum number of clients per IPv4 address or IPv6 /64; further ones are reset [default: no
    /// limit, since the normal client is one machine that generates load]
    #[arg(long, value_name = "N", value_parser = integer::<u32>(1, u32::MAX.into()))]
    max_connections_per_ip: Option<u32>,
}

/// The timeouts of the server for its clients.
#[derive(Debug, Args)]
#[command(next_help_heading = "Timeouts")]
struct TimeoutArgs {
    /// Close a client that has no outstanding replies and has been silent for this time; off:
    /// never, since an idle client does no harm, and --keepalive detects those that have vanished
    #[arg(long, value_name = "TIME|off", value_parser = idle_timeout, default_value = "off")]
    idle_timeout: Timeout,
    /// Reset a client with outstanding replies that acknowledges, in each period of this length,
    /// neither all of them nor --min-rate times this time: it would occupy kernel memory for ever
    #[arg(long, value_name = "TIME|off", value_parser = timeout, default_value = "30s")]
    stall_timeout: Timeout,
    /// Minimum average rate at which a client must acknowledge its replies, in bytes per second; a
    /// modem is faster [default: 512]
    #[arg(long, value_name = "BYTES", value_parser = bytes_a_second)]
    min_rate: Option<u64>,
    /// Probe a client that has been silent for almost this time (13/16 to 15/16 of it, so that not
    /// all are probed at once), four times, TIME/4 apart or at least 1s; reset it if it answers
    /// none, TIME + 4 x TIME/4 after its last segment: it has lost its power or its network
    #[arg(long, value_name = "TIME|off", value_parser = keepalive, default_value = "2m")]
    keepalive: Timeout,
    /// Maximum time to serve after SIGTERM: a client that has been silent for a second is sent FIN,
    /// all others are a second before the end; a client with outstanding replies at the end is
    /// reset
    #[arg(long, value_name = "TIME", value_parser = positive_duration, default_value = "10s")]
    drain_timeout: Duration,
}

/// The budgets of clients in a turn of the event loop.
#[derive(Debug, Args)]
#[command(next_help_heading = "Fairness")]
struct FairnessArgs {
    /// Maximum number of clients that one listener accepts in a turn of the event loop, so that a
    /// burst of connects leaves time for connected clients
    #[arg(long, value_name = "N", default_value_t = 256,
          value_parser = integer::<usize>(1, 1_000_000))]
    turn_accepts: usize,
    /// Maximum number of bytes of one connection that are echoed in a turn of the event loop before
    /// the others are served, rounded up to whole reads: of 64 KiB, or of 256 KiB when at most four
    /// are ready
    #[arg(long, value_name = "BYTES", value_parser = buffer_size, default_value = "64KiB")]
    turn_bytes: usize,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum SandboxMode {
    /// Drop what the kernel can drop
    Auto,
    /// Drop all of it, or fail
    On,
    /// Drop nothing
    Off,
}

impl ServeArgs {
    pub(super) fn check(&self) -> Result<(), String> {
        if self.timeouts.min_rate.is_some() && self.timeouts.stall_timeout.0.is_none() {
            return Err(
                "--min-rate has no effect with --stall-timeout off: remove one of them".to_string(),
            );
        }
        self.check_addresses()
    }

    /// Refuses to listen on an address twice, except with port 0, any free port.
    fn check_addresses(&self) -> Result<(), String> {
        let is_fixed = |address: &&Address| address.port != Some(0);
        for (index, address) in self.listen.iter().enumerate().filter(|(_, a)| is_fixed(a)) {
            if self.listen[..index].contains(address) {
                return Err(format!("--listen {address} is given twice"));
            }
            let covers = |other: &&Address| other.covers(address);
            if let Some(wildcard) = self.listen.iter().find(covers) {
                return Err(format!(
                    "--listen {wildcard} includes {address} already: remove one of them"
                ));
            }
        }
        match self.metrics.as_ref().filter(is_fixed) {
            Some(address) if self.listen.contains(address) => Err(format!(
                "--listen and --metrics are both {address}: each needs a port of its own"
            )),
            _ => Ok(()),
        }
    }
}

pub(super) fn run(args: ServeArgs) -> anyhow::Result<Outcome> {
    socket::check_kernel()?;
    let descriptors =
        descriptor_limit::raise_descriptor_limit().context("cannot read RLIMIT_NOFILE")?;
    let wanted = args.sandbox;
    let metrics = args.metrics.as_ref().map(metrics_on).transpose()?;
    let config = server_config(args, descriptors)?;
    let mut server = Server::bind(&config)?;
    let signals = server.obey_signals(logging::has_file());
    signals.context("cannot handle signals")?;
    server.notify(Notifier::from_env());
    let metrics_server = metrics
        .map(|address| MetricsServer::bind(address, config.reuse_port))
        .transpose()?;
    let sandbox = match wanted {
        SandboxMode::Auto => Sandbox::raise(),
        SandboxMode::On => Sandbox::raise().complete()?,
        SandboxMode::Off => Sandbox::none(),
    };
    print_in_time(listening_lines(&server, metrics_server.as_ref()))?;
    if sandbox.is_up() {
        let walls = sandbox.clone();
        logging::confine(move |folders| walls.enter_log(folders))?;
    }
    server.confine(&sandbox);
    log_families(&server, &config);
    if let Some(metrics_server) = metrics_server {
        let subject = Subject {
            snapshots: server.snapshots(),
            shards: config.shards,
            limits: config.limits,
        };
        let started = metrics_server.start(subject, sandbox.clone());
        started.context("cannot serve metrics")?;
    }
    info!("{sandbox}");
    let most = config.limits.max_connections;
    info!(
        "serving at most {} at a time",
        counted(most as u64, "client")
    );
    let Ended { totals, failure } = server.run().context("cannot start the shards")?;
    info!("stopped: {totals}");
    if let Some(error) = failure {
        return Err(error).context("the server failed");
    }
    if totals.accepted != totals.closed_in_all() {
        bail!(
            "accepted and closed connections differ in number: this is a bug in upcase, please \
             report it"
        );
    }
    Ok(match totals.failures() {
        0 => Outcome::Good,
        _ => Outcome::Bad,
    })
}

/// Prints in a separate thread, which a stalled reader may block for ever. The server does not wait
/// for it longer than `PRINT_WAIT`, and signals can end the server during that time.
fn print_in_time(text: String) -> anyhow::Result<()> {
    let (sender, printed) = mpsc::channel();
    let printing = move || {
        let _ = sender.send(print(&text));
    };
    let thread = thread::Builder::new().spawn(printing);
    let thread = thread.context("cannot start a thread to print the addresses")?;
    match printed.recv_timeout(PRINT_WAIT) {
        Ok(result) => {
            let _ = thread.join(); // It has printed everything, and ends.
            result
        }
        Err(_) => {
            warn!("standard output is blocked: the addresses of the server were not printed");
            Ok(())
        }
    }
}

/// Returns a line for each address that the server listens on.
fn listening_lines(server: &Server, metrics_server: Option<&MetricsServer>) -> String {
    let listening = server.addresses();
    let mut lines: String = listening
        .map(|address| format!("listening on {}\n", display_address(address)))
        .collect();
    if let Some(metrics_server) = metrics_server {
        // In a URL the zone of an address is written with %25 (RFC 6874).
        let address = display_address(metrics_server.address()).replace('%', "%25");
        lines.push_str(&format!("metrics on http://{address}/metrics\n"));
    }
    lines
}

/// Logs for every IPv6 wildcard whether IPv4 clients can connect to it, which its address does not
/// show.
fn log_families(server: &Server, config: &server::Config) {
    let ours = server.addresses().take(config.listen.len());
    for (index, address) in ours.enumerate() {
        match config.families(index) {
            _ if !address.is_ipv6() || !address.ip().is_unspecified() => {}
            Families::Both => info!("{address} accepts IPv4 clients as well"),
            Families::Ipv6 => {
                info!("{address} accepts IPv6 clients only: an IPv4 listener has the same port")
            }
        }
    }
}

/// Returns every address to listen on. For a name, these are its addresses that this host has:
/// `localhost` has an IPv6 address even where IPv6 is disabled.
fn listen_on(typed: &Address) -> anyhow::Result<Vec<SocketAddr>> {
    let cannot = || format!("cannot listen on {typed}");
    let mut addresses = resolve::resolve(typed, PORT_DEFAULT).with_context(cannot)?;
    let is_here = |address: &SocketAddr| {
        let checked = socket::check_source(SocketAddr::new(address.ip(), 0));
        !checked.is_err_and(|error| means_not_local(&error))
    };
    match &typed.host {
        Host::Ip(..) => {}
        Host::Name(_) => {
            addresses.retain(is_here);
            if addresses.is_empty() {
                bail!("{}: the name has no address of this host", cannot());
            }
        }
        Host::Any => {
            for address in addresses.iter_mut().filter(|address| !is_here(address)) {
                address.set_ip(Ipv4Addr::UNSPECIFIED.into());
            }
        }
    }
    Ok(addresses)
}

/// Returns the address of the metrics page: of several, the first.
fn metrics_on(typed: &Address) -> anyhow::Result<SocketAddr> {
    let addresses = listen_on(typed)?;
    let first = addresses.first();
    first.copied().context("there is no address for --metrics")
}

fn server_config(args: ServeArgs, descriptors: u64) -> anyhow::Result<server::Config> {
    let inherited: Vec<_> = systemd::sockets()?.into_iter().map(Arc::new).collect();
    let mut listen = Vec::new();
    for typed in &args.listen {
        for address in listen_on(typed)? {
            if address.port() == 0 || !listen.contains(&address) {
                listen.push(address);
            }
        }
    }
    if listen.is_empty() && inherited.is_empty() {
        listen.push(LISTEN_DEFAULT);
    }
    let room = room_for_clients(&args, listen.len() + inherited.len(), descriptors)?;
    let most = args.limits.max_connections.unwrap_or(room);
    if most > room {
        let (limit, room) = (grouped(descriptors), grouped(room as u64));
        warn!(
            "--max-connections {most}: the limit on descriptors, {limit}, allows only {room} \
             clients; raise it (ulimit -n, LimitNOFILE=)"
        );
    }
    if args.reuse_port && !kernel::migrates() {
        warn!(
            "--reuse-port: clients that connect while a server stops may have to retry after a \
             second; with sysctl net.ipv4.tcp_migrate_req=1 the kernel moves them to another server"
        );
    }
    let limits = limits(&args, most.min(room));
    Ok(server::Config {
        options: Options {
            nagle: args.nagle,
            probes: args.timeouts.keepalive.0.is_some(),
            user_timeout: user_timeout(&limits),
            notsent_lowat: args.notsent_lowat.0,
            ..options(&args.mss, &args.buffers)
        },
        listen,
        inherited,
        backlog: args.backlog,
        reuse_port: args.reuse_port,
        shards: args.shards,
        limits,
    })
}

fn limits(args: &ServeArgs, most: usize) -> Limits {
    let default = Limits::default();
    Limits {
        max_connections: most,
        max_connections_per_ip: args.limits.max_connections_per_ip,
        idle_timeout: args.timeouts.idle_timeout.0,
        stall_timeout: args.timeouts.stall_timeout.0,
        min_rate: args.timeouts.min_rate.unwrap_or(default.min_rate),
        keepalive: args.timeouts.keepalive.0,
        turn_bytes: args.fairness.turn_bytes,
        turn_accepts: args.fairness.turn_accepts,
        drain_timeout: args.timeouts.drain_timeout,
        ..default
    }
}

/// Returns TCP_USER_TIMEOUT, which ends connections that the stall timeout does not cover: closed
/// ones whose last replies are not acknowledged. It must not expire before the stall timeout, since
/// it resets a slow reader whose window stays closed for that time; nor before a silent client has
/// received all keep-alive probes, since with an unanswered probe the kernel gives up after this
/// time.
fn user_timeout(limits: &Limits) -> Option<Duration> {
    const STALL_TIMEOUTS: u32 = 4;
    let stall = limits.stall_timeout?.saturating_mul(STALL_TIMEOUTS);
    Some(stall.max(limits.keepalive_end().unwrap_or_default()))
}

/// Returns the number of clients for which the limit on descriptors leaves room.
fn room_for_clients(args: &ServeArgs, listeners: usize, descriptors: u64) -> anyhow::Result<usize> {
    let shards = args.shards as u64;
    let listeners = listeners as u64 * shards;
    let shard =
        descriptor_limit::DESCRIPTORS_OF_A_REACTOR + descriptor_limit::DESCRIPTORS_OF_SIGNALS;
    let reactors = shard * shards;
    let metrics = args.metrics.as_ref().map_or(0, |_| metrics::DESCRIPTORS);
    let ours = reactors + listeners + metrics;
    let own = descriptor_limit::open_descriptors() + ours + descriptor_limit::DESCRIPTOR_SPARE;
    match descriptors.saturating_sub(own) {
        0 => bail!(
            "the limit on descriptors, {} (RLIMIT_NOFILE), leaves no room for clients: the server \
             itself needs {}",
            grouped(descriptors),
            grouped(own)
        ),
        room => Ok(room as usize),
    }
}

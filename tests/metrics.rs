//! Tests `upcase serve --metrics` as a process: the figures are right, and the page stays available
//! whatever its scrapers do.

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use common::{
    ANY_PACE, Process, Serve, Temporary, connect, expect_fin, installed, read, run, skip, until,
    upcase,
};
use nix::sys::signal::Signal;

/// Total time that a request for the page may take.
const EXCHANGE_TIMEOUT: Duration = Duration::from_secs(2);

/// A server with a metrics page.
struct Watched {
    serve: Serve,
    page: SocketAddr,
}

impl Watched {
    fn start(arguments: &str) -> Watched {
        Watched::at("127.0.0.1:0 --metrics 127.0.0.1:0", arguments)
    }

    fn at(listen: &str, arguments: &str) -> Watched {
        let mut command = upcase(&format!("serve --listen {listen} {arguments}"));
        command.stdout(Stdio::piped());
        let mut process = Process::start(command);
        let stdout = process.child().stdout.take().expect("a pipe");
        let mut lines = BufReader::new(stdout).lines().map_while(Result::ok);
        let mut reported = |before: &str, after: &str| -> SocketAddr {
            let line = lines.next().unwrap_or_else(|| process.stderr());
            let address = line.strip_prefix(before).expect(&line);
            address.strip_suffix(after).expect(&line).parse().unwrap()
        };
        let addresses = vec![reported("listening on ", "")];
        let page = reported("metrics on http://", "/metrics");
        let serve = Serve { process, addresses };
        Watched { serve, page }
    }

    fn scrape(&self) -> Figures {
        let reply = ask(self.page, "GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(reply.status, "200 OK");
        Figures::of(&reply.body)
    }

    /// Waits until a figure has this value, and returns the figures.
    #[track_caller]
    fn when(&self, name: &str, value: f64) -> Figures {
        let mut figures = self.scrape();
        until(&format!("{name} is {value}"), || {
            figures = self.scrape();
            figures.get(name) == value
        });
        figures
    }
}

/// The figures of a page by name and labels.
#[derive(Debug)]
struct Figures(BTreeMap<String, f64>);

impl Figures {
    fn of(page: &str) -> Figures {
        let lines = page.lines().filter(|line| !line.starts_with('#'));
        let figure = |line: &str| {
            let (name, value) = line.rsplit_once(' ').expect("a name and a value");
            (name.to_string(), value.parse().expect("a number"))
        };
        Figures(lines.map(figure).collect())
    }

    #[track_caller]
    fn get(&self, name: &str) -> f64 {
        let figure = self.0.get(name);
        *figure.unwrap_or_else(|| panic!("{name} in {self:#?}"))
    }

    fn closed(&self, reason: &str) -> f64 {
        self.get(&format!("upcase_closed_total{{reason=\"{reason}\"}}"))
    }

    fn sum(&self, prefix: &str) -> f64 {
        let named = self.0.iter().filter(|(name, _)| name.starts_with(prefix));
        named.map(|(_, value)| value).sum()
    }

    /// Checks that every accepted client is connected or was closed, for a reason.
    #[track_caller]
    fn balance(&self) {
        let open = self.get("upcase_connections");
        let closed = self.sum("upcase_closed_total");
        assert_eq!(
            self.get("upcase_accepted_total"),
            open + closed,
            "{self:#?}"
        );
    }

    /// Checks that the buckets of a histogram only grow, up to its count.
    #[track_caller]
    fn accumulate(&self, name: &str) {
        let prefix = format!("{name}_bucket{{le=\"");
        let bucket = |(key, value): (&String, &f64)| {
            let bound = key.strip_prefix(&prefix)?.strip_suffix("\"}")?;
            Some((bound.parse::<f64>().unwrap(), *value))
        };
        let mut buckets: Vec<(f64, f64)> = self.0.iter().filter_map(bucket).collect();
        buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
        assert!(buckets.is_sorted_by(|a, b| a.1 <= b.1), "{buckets:?}");
        let last = buckets.last().expect("a bucket");
        assert_eq!(*last, (f64::INFINITY, self.get(&format!("{name}_count"))));
    }
}

/// A reply over HTTP.
#[derive(Debug)]
struct Reply {
    status: String,
    headers: BTreeMap<String, String>,
    body: String,
}

impl Reply {
    /// Reads to the end of the stream, and checks what every reply must have.
    #[track_caller]
    fn read(stream: &mut TcpStream) -> Reply {
        let mut bytes = Vec::new();
        let end = stream.read_to_end(&mut bytes);
        let text = String::from_utf8(bytes).expect("text");
        assert!(end.is_ok(), "{end:?} after {text:?}");
        let (head, body) = text.split_once("\r\n\r\n").expect(&text);
        let (first, headers) = head.split_once("\r\n").expect(&text);
        let header = |line: &str| {
            let (name, value) = line.split_once(": ").expect(line);
            (name.to_ascii_lowercase(), value.to_string())
        };
        let reply = Reply {
            status: first.strip_prefix("HTTP/1.1 ").expect(first).to_string(),
            headers: headers.split("\r\n").map(header).collect(),
            body: body.to_string(),
        };
        assert_eq!(reply.headers["connection"], "close", "{reply:?}");
        let length: usize = reply.headers["content-length"].parse().unwrap();
        assert!(
            reply.body.is_empty() || length == reply.body.len(),
            "{reply:?}"
        );
        reply
    }
}

#[track_caller]
fn ask(page: SocketAddr, request: &str) -> Reply {
    let mut stream = connect(page);
    stream.write_all(request.as_bytes()).unwrap();
    Reply::read(&mut stream)
}

fn echo(client: &mut TcpStream, text: &str) {
    client.write_all(text.as_bytes()).unwrap();
    assert_eq!(
        read(client, text.len()),
        text.to_ascii_uppercase().as_bytes()
    );
}

/// Runs a client that closes in order, one that resets, and one that stays, which it returns.
fn converse(serve: &Serve) -> TcpStream {
    let mut ends = serve.connect();
    echo(&mut ends, "hello");
    ends.shutdown(Shutdown::Write).unwrap();
    expect_fin(&mut ends);
    let resets = socket2::Socket::from(serve.connect());
    resets.set_linger(Some(Duration::ZERO)).unwrap();
    drop(resets);
    let mut stays = serve.connect();
    echo(&mut stays, "still here");
    stays
}

#[test]
fn the_page_has_what_has_happened() {
    let watched = Watched::start("--max-connections 77 --idle-timeout 1h");
    let client = converse(&watched.serve);
    let figures = watched.when("upcase_closed_total{reason=\"reset\"}", 1.0);
    figures.balance();
    for (name, value) in [
        ("upcase_accepted_total", 3.0),
        ("upcase_connections", 1.0),
        ("upcase_received_bytes_total", 15.0),
        ("upcase_sent_bytes_total", 15.0),
        ("upcase_pending_bytes", 0.0),
        ("upcase_stopping", 0.0),
        ("upcase_shards", 1.0),
        ("upcase_silent_shards", 0.0),
        ("upcase_log_lines_dropped_total", 0.0),
        ("upcase_limit_connections", 77.0),
        ("upcase_limit_idle_seconds", 3600.0),
        ("upcase_limit_stall_seconds", 30.0),
    ] {
        assert_eq!(figures.get(name), value, "{name}");
    }
    assert_eq!(figures.closed("finished"), 1.0);
    assert_eq!(
        figures.closed("timed_out"),
        0.0,
        "reported although it is 0"
    );
    assert!(figures.get("upcase_turn_events_count") >= 4.0);
    figures.accumulate("upcase_turn_events");
    figures.accumulate("upcase_turn_seconds");
    drop(client);
}

#[test]
fn the_figures_of_the_process_are_those_of_the_kernel() {
    let watched = Watched::start("--shards 3");
    let mut scraper = connect(watched.page);
    scraper.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").unwrap();
    let figures = Figures::of(&Reply::read(&mut scraper).body);
    let process = format!("/proc/{}", watched.serve.process.id());
    // The server still has the scraper's descriptor open, as when it counted.
    let open = fs::read_dir(format!("{process}/fd")).unwrap().count();
    assert_eq!(figures.get("process_open_fds"), open as f64);
    assert_eq!(
        figures.get("process_threads"),
        5.0,
        "three shards, the page and the log"
    );
    let names: Vec<String> = fs::read_dir(format!("{process}/task"))
        .unwrap()
        .map(|task| fs::read_to_string(task.unwrap().path().join("comm")).unwrap())
        .collect();
    assert!(names.contains(&"metrics\n".to_string()), "{names:?}");
    let resident = watched.serve.process.resident() as f64;
    let ratio = figures.get("process_resident_memory_bytes") / resident;
    assert!((0.8..1.25).contains(&ratio), "{ratio}");
    assert!(figures.get("process_virtual_memory_bytes") > resident);
    assert!(figures.get("process_cpu_seconds_total") > 0.0);
    assert!(figures.get("process_max_fds") >= open as f64);
    assert!(figures.get("process_start_time_seconds") > 1.6e9);
}

#[test]
fn sigusr1_logs_the_totals_of_the_page_in_one_line() {
    let watched = Watched::start("--shards 3");
    let clients: Vec<TcpStream> = (0..8).map(|_| converse(&watched.serve)).collect();
    let figures = watched.when("upcase_closed_total{reason=\"reset\"}", 8.0);
    assert_eq!(figures.get("upcase_accepted_total"), 24.0);
    assert_eq!(figures.get("upcase_connections"), clients.len() as f64);
    let line = format!(
        "{} open, 0 bytes pending, accepted {}, closed {} (finished {}, reset {}), \
         {} bytes in, {} bytes out\n",
        figures.get("upcase_connections"),
        figures.get("upcase_accepted_total"),
        figures.sum("upcase_closed_total"),
        figures.closed("finished"),
        figures.closed("reset"),
        figures.get("upcase_received_bytes_total"),
        figures.get("upcase_sent_bytes_total"),
    );
    watched.serve.process.signal(Signal::SIGUSR1);
    watched.serve.process.wait_for_stderr(&line);
    let reported = watched.serve.process.stderr();
    assert_eq!(reported.matches(" open, ").count(), 1, "{reported}");
}

#[test]
fn the_books_balance_on_every_page_while_clients_come_and_go() {
    let watched = Watched::start("--shards 2");
    let load = format!(
        "load {} --connections 100 --churn 5 --duration 2s --format json {ANY_PACE}",
        watched.serve.address()
    );
    let mut load = Process::piped(upcase(&load));
    let (mut pages, mut most) = (0, 0.0);
    while load.child().try_wait().unwrap().is_none() {
        let figures = watched.scrape();
        figures.balance();
        assert_eq!(figures.get("upcase_silent_shards"), 0.0);
        let received = figures.get("upcase_received_bytes_total");
        assert!(received >= most, "a counter decreased");
        (pages, most) = (pages + 1, received);
    }
    let report = load.ended().expect(0).json();
    let figures = watched.when("upcase_connections", 0.0);
    figures.balance();
    assert!(pages >= 10, "{pages} pages");
    let verified = report["verified"].as_f64().expect("a number");
    assert_eq!(report["unanswered"], 0);
    assert_eq!(figures.get("upcase_received_bytes_total"), 64.0 * verified);
    assert_eq!(figures.get("upcase_sent_bytes_total"), 64.0 * verified);
    figures.accumulate("upcase_turn_seconds");
}

#[test]
fn replies_are_what_http_asks_for() {
    let watched = Watched::start("");
    let asked = |request: &str| ask(watched.page, request);
    let get = asked("GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n");
    let kind = "text/plain; version=0.0.4; charset=utf-8";
    assert_eq!(get.headers["content-type"], kind);
    let head = asked("HEAD /metrics HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!((head.status.as_str(), head.body.as_str()), ("200 OK", ""));
    assert_eq!(head.headers["content-type"], kind);
    let length: usize = head.headers["content-length"].parse().unwrap();
    assert!(length.abs_diff(get.body.len()) < 100, "{length}");
    let health = asked("GET /healthz HTTP/1.0\r\n\r\n");
    assert_eq!(
        (health.status.as_str(), health.body.as_str()),
        ("200 OK", "ok\n")
    );
    let post = asked("POST /metrics HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc");
    assert_eq!(post.status, "405 Method Not Allowed");
    assert_eq!(post.headers["allow"], "GET, HEAD");
    let huge = format!("GET /metrics HTTP/1.0\r\nA: {}\r\n\r\n", "b".repeat(40_000));
    for (request, status) in [
        ("GET / HTTP/1.0\r\n\r\n", "404 Not Found"),
        ("HEAD / HTTP/1.0\r\n\r\n", "404 Not Found"),
        ("GET /metrics HTTP/1.1\r\n\r\n", "400 Bad Request"),
        ("\0\u{1}garbage\r\n", "400 Bad Request"),
        (&huge, "431 Request Header Fields Too Large"),
    ] {
        assert_eq!(asked(request).status, status, "{request:?}");
    }
    let half_closed = |request: &str| {
        let mut stream = connect(watched.page);
        stream.write_all(request.as_bytes()).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        Reply::read(&mut stream).status
    };
    assert_eq!(half_closed("GET /metrics HTTP/1.0\r\n\r\n"), "200 OK");
    assert_eq!(half_closed("GET /metrics HTTP/1.0\r\n"), "400 Bad Request");
}

#[test]
fn a_slow_scraper_has_two_seconds_in_total() {
    let watched = Watched::start("");
    let begun = Instant::now();
    let mut slow = connect(watched.page);
    let mut says_nothing = connect(watched.page);
    slow.write_all(b"GET /metrics HTTP/1.0\r\nA: ").unwrap();
    let pause = Duration::from_millis(50);
    slow.set_read_timeout(Some(pause)).unwrap();
    let mut first = [0; 1];
    // Each byte arrives in time; together they exceed the time of a request.
    while let Err(error) = slow.peek(&mut first) {
        let is_quiet = matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut);
        assert!(is_quiet, "{error}");
        let _ = slow.write_all(b"b");
    }
    assert!(begun.elapsed() >= EXCHANGE_TIMEOUT, "{:?}", begun.elapsed());
    let mut reply = [0; 28];
    slow.read_exact(&mut reply).unwrap();
    assert_eq!(&reply, b"HTTP/1.1 408 Request Timeout");
    expect_fin(&mut says_nothing);
}

#[test]
fn hostile_scrapers_neither_keep_others_from_the_page_nor_clients_from_their_replies() {
    let watched = Watched::start("");
    let mut client = watched.serve.connect();
    echo(&mut client, "before");
    let descriptors = watched.scrape().get("process_open_fds");
    let huge = format!("GET /metrics HTTP/1.0\r\nA: {}", "b".repeat(100_000));
    let begins = ["", "G", "GET /metrics HTTP/1.0\r\n", "\0\0\0\0", &huge];
    let mut hostile: Vec<TcpStream> = Vec::new();
    for _ in 0..20 {
        for begin in begins {
            let mut stream = connect(watched.page);
            stream.set_nonblocking(true).unwrap();
            // The server may have closed the connection already.
            let _ = stream.write_all(begin.as_bytes());
            if begin.len() == 1 {
                let _ = stream.shutdown(Shutdown::Write);
            }
            hostile.push(stream);
        }
        let begun = Instant::now();
        watched.scrape().balance();
        assert!(begun.elapsed() < EXCHANGE_TIMEOUT, "{:?}", begun.elapsed());
        echo(&mut client, "undisturbed");
    }
    // The scrapers still have their sockets open, and the server has closed its own.
    assert_eq!(hostile.len(), 100);
    until("all scrapers have left", || {
        watched.scrape().get("process_open_fds") <= descriptors
    });
    watched.serve.process.wait_for_stderr("serving at most");
    let log = watched.serve.process.stderr();
    assert_eq!(log.lines().count(), 2, "nothing of it is logged: {log}");
    drop((hostile, client));
    let totals = watched.serve.stop();
    assert!(totals.starts_with("accepted 1, closed 1"), "{totals}");
}

/// Sends without reading until the kernel accepts no more, so that replies are pending.
fn owed_replies(serve: &Serve) -> TcpStream {
    let mut client = serve.connect();
    client.set_nonblocking(true).unwrap();
    let chunk = vec![b'x'; 1 << 20];
    let mut full_since = Instant::now();
    while full_since.elapsed() < Duration::from_millis(200) {
        match client.write(&chunk) {
            Ok(count) => {
                assert!(count > 0);
                full_since = Instant::now();
            }
            Err(_) => thread::sleep(Duration::from_millis(5)),
        }
    }
    client.set_nonblocking(false).unwrap();
    client
}

#[test]
fn a_stopping_server_is_unhealthy_and_still_serves_metrics() {
    let mut watched = Watched::start("--shards 2 --drain-timeout 1m");
    let mut client = owed_replies(&watched.serve);
    assert!(watched.scrape().get("upcase_pending_bytes") > 0.0);
    watched.serve.process.signal(Signal::SIGTERM);
    let figures = watched.when("upcase_stopping", 1.0);
    assert_eq!(figures.get("upcase_connections"), 1.0);
    let health = ask(watched.page, "GET /healthz HTTP/1.0\r\n\r\n");
    assert_eq!(health.status, "503 Service Unavailable");
    assert_eq!(health.body, "stopping\n");
    // One shard has no clients and ends soon; a snapshot does not wait for it from then on.
    watched.serve.process.signal(Signal::SIGUSR1);
    watched.serve.process.wait_for_stderr("1 open, ");
    watched.when("upcase_silent_shards", 0.0);

    // Neither the page nor a scraper of it keeps the process alive.
    let scraper = connect(watched.page);
    client.shutdown(Shutdown::Write).unwrap();
    std::io::copy(&mut client, &mut std::io::sink()).unwrap();
    watched.serve.ends(0);
    drop(scraper);
}

#[test]
fn with_reuse_port_a_new_server_shares_the_page() {
    let first = Watched::at("127.0.0.1:0 --metrics 127.0.0.1:0", "--reuse-port");
    let both = format!("{} --metrics {}", first.serve.address(), first.page);
    let second = Watched::at(&both, "--reuse-port");
    first.serve.stop();
    assert_eq!(second.scrape().get("upcase_stopping"), 0.0);
}

#[test]
fn an_address_in_use_is_one_line_and_exit_code_3() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let arguments = format!("serve --listen 127.0.0.1:0 --metrics {address}");
    let ended = run(&arguments).expect(3);
    assert_eq!(ended.stdout, "");
    let reported = format!(
        "upcase: cannot serve metrics on {address}: Address already in use (os error 98); \
         `ss -ltnp` shows the program that uses it. Two servers can share a port if both have \
         --reuse-port\n"
    );
    assert_eq!(ended.stderr, reported);
}

#[test]
fn promtool_accepts_the_page() {
    if !installed("promtool") {
        return skip("promtool is not installed (Debian: prometheus)");
    }
    let watched = Watched::start("--shards 2 --idle-timeout 1m --max-connections-per-ip 100");
    let _client = converse(&watched.serve);
    let reply = ask(watched.page, "GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n");
    let page = Temporary::new(reply.body.as_bytes());
    let checked = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(fs::File::open(&page.0).unwrap())
        .output()
        .unwrap();
    let reported =
        String::from_utf8_lossy(&checked.stderr) + String::from_utf8_lossy(&checked.stdout);
    assert!(
        checked.status.success() && reported.is_empty(),
        "{reported}"
    );
}

#[test]
fn where_there_is_no_proc_the_error_names_it_and_not_the_address() {
    let binary = env!("CARGO_BIN_EXE_upcase");
    let script = format!(
        "umount -l /proc || exit 99
         exec {binary} serve --listen 127.0.0.1:0 --metrics 127.0.0.1:0"
    );
    let mut command = std::process::Command::new("unshare");
    command.args(["--mount", "sh", "-c", &script]);
    let ended = common::Ended::from(command.output().expect("unshare"));
    if ended.code == Some(1) || ended.code == Some(99) {
        return common::skip(&format!("no mount namespace: {}", ended.stderr));
    }
    let ended = ended.expect(3);
    assert!(ended.stderr.contains("cannot read /proc"), "{ended:?}");
    assert!(!ended.stderr.contains("127.0.0.1"), "{ended:?}");
    assert_eq!(ended.stderr.lines().count(), 1, "{ended:?}");
}

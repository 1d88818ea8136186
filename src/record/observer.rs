//! Observes what surrounds a run while it goes on: the client's process and host, and the metrics
//! of the server.
//!
//! The metrics are fetched in a thread of their own, so that a server that answers slowly delays
//! neither the run nor its record. When a fetch fails, there are no metrics until the next one
//! succeeds: no data is never shown as zero.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::str::FromStr;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use log::warn;

use crate::record::interval::{Client, Surroundings};
use crate::sys::process_stats::Source;
use crate::sys::snmp;

/// Maximum time for connecting to the metrics server, and for each read.
const FETCH_TIMEOUT: Duration = Duration::from_secs(1);

/// Maximum time for a whole answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);

/// Maximum size of an answer in bytes. That of `upcase serve` has about 10 KB.
const ANSWER_MOST: usize = 1 << 20;

/// Maximum number of metrics that are kept of an answer: each is in every line of the record.
const METRICS_MOST: usize = 500;

/// Reads the figures that surround a run.
#[derive(Debug)]
pub struct Observer {
    process: Option<Source>,
    server: Option<Fetcher>,
}

/// The address of a metrics page: `http://HOST:PORT/PATH`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MetricsUrl {
    /// Host and port, as they are typed.
    authority: String,
    port: u16,
    host: String,
    path: String,
}

/// A thread that fetches metrics. It ends when this is dropped.
#[derive(Debug)]
struct Fetcher {
    latest: Arc<Mutex<Option<BTreeMap<String, f64>>>>,
    _stop: Sender<()>,
}

impl Observer {
    /// Begins to observe; fetches the metrics of a server once in `period` if it has an address.
    pub fn start(server: Option<MetricsUrl>, period: Duration) -> io::Result<Observer> {
        let server = server.map(|url| Fetcher::start(url, period)).transpose()?;
        let process = Source::open();
        let process = process.inspect_err(|error| {
            warn!("the record has no figures of this process: {error}");
        });
        Ok(Observer {
            process: process.ok(),
            server,
        })
    }

    /// Returns the figures at this moment.
    pub fn observe(&self) -> Surroundings {
        let stats = self.process.as_ref().map(Source::read).unwrap_or_default();
        let latest = self.server.as_ref().map(|server| &server.latest);
        Surroundings {
            client: Client {
                cpu_s: stats.cpu_seconds,
                resident_bytes: stats.resident_bytes,
                descriptors: stats.open_descriptors,
                segments_resent: snmp::segments_resent(),
            },
            server: latest.and_then(|latest| {
                latest
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .clone()
            }),
        }
    }
}

impl FromStr for MetricsUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<MetricsUrl, String> {
        let wrong = || format!("not an address such as http://10.0.0.1:9100/metrics: {text}");
        let rest = text.strip_prefix("http://").ok_or_else(wrong)?;
        let (authority, path) = match rest.find('/') {
            Some(at) => rest.split_at(at),
            None => (rest, "/metrics"),
        };
        let (host, port) = authority.rsplit_once(':').ok_or_else(wrong)?;
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let is_plain = |text: &str| text.bytes().all(|byte| byte.is_ascii_graphic());
        if host.is_empty() || !is_plain(authority) || !is_plain(path) {
            return Err(wrong());
        }
        Ok(MetricsUrl {
            authority: authority.to_string(),
            port: port.parse().map_err(|_| wrong())?,
            host: host.to_string(),
            path: path.to_string(),
        })
    }
}

impl fmt::Display for MetricsUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}{}", self.authority, self.path)
    }
}

impl Fetcher {
    fn start(url: MetricsUrl, period: Duration) -> io::Result<Fetcher> {
        let (stop, stopped) = mpsc::channel();
        let latest = Arc::new(Mutex::new(None));
        let shared = Arc::clone(&latest);
        let name = "metrics client".to_string();
        thread::Builder::new()
            .name(name)
            .spawn(move || fetch_repeatedly(&url, period, &shared, &stopped))?;
        Ok(Fetcher {
            latest,
            _stop: stop,
        })
    }
}

fn fetch_repeatedly(
    url: &MetricsUrl,
    period: Duration,
    latest: &Mutex<Option<BTreeMap<String, f64>>>,
    stopped: &Receiver<()>,
) {
    let mut is_failing = false;
    loop {
        let fetched = fetch(url);
        if let Err(error) = &fetched
            && !is_failing
        {
            warn!("cannot fetch the metrics of the server from {url}: {error}");
        }
        is_failing = fetched.is_err();
        *latest.lock().unwrap_or_else(PoisonError::into_inner) = fetched.ok();
        if stopped.recv_timeout(period) != Err(RecvTimeoutError::Timeout) {
            return;
        }
    }
}

fn fetch(url: &MetricsUrl) -> io::Result<BTreeMap<String, f64>> {
    let mut addresses = (url.host.as_str(), url.port).to_socket_addrs()?;
    let address = addresses.next();
    let address = address.ok_or_else(|| io::Error::other("the name has no address"))?;
    let mut stream = TcpStream::connect_timeout(&address, FETCH_TIMEOUT)?;
    stream.set_read_timeout(Some(FETCH_TIMEOUT))?;
    stream.set_write_timeout(Some(FETCH_TIMEOUT))?;
    // An answer to HTTP/1.0 has no chunks and ends with the connection.
    let MetricsUrl {
        authority, path, ..
    } = url;
    let request = format!("GET {path} HTTP/1.0\r\nHost: {authority}\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let answer = read_all(stream)?;
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut response = httparse::Response::new(&mut headers);
    let wrong = || io::Error::other("the answer is not HTTP");
    let length = match response.parse(&answer) {
        Ok(httparse::Status::Complete(length)) => length,
        _ => return Err(wrong()),
    };
    match response.code {
        Some(200) => Ok(metrics(&String::from_utf8_lossy(&answer[length..]))),
        Some(code) => Err(io::Error::other(format!(
            "the answer has the status {code}"
        ))),
        None => Err(wrong()),
    }
}

/// Reads an answer until its end.
fn read_all(mut stream: TcpStream) -> io::Result<Vec<u8>> {
    let deadline = Instant::now() + ANSWER_TIMEOUT;
    let mut answer = Vec::new();
    let mut piece = [0; 16 * 1024];
    loop {
        match stream.read(&mut piece)? {
            0 => return Ok(answer),
            count => answer.extend_from_slice(&piece[..count]),
        }
        if answer.len() > ANSWER_MOST || Instant::now() > deadline {
            return Err(io::Error::other("the answer is too long or takes too long"));
        }
    }
}

/// Returns the metrics of a page in the text format of Prometheus, by name and labels. Values that
/// are no numbers are left out.
fn metrics(page: &str) -> BTreeMap<String, f64> {
    let lines = page.lines().filter(|line| !line.starts_with('#'));
    let metric = |line: &str| {
        let end = line.rfind('}').map(|end| end + 1);
        let end = end.or_else(|| line.find(' '))?;
        let (name, rest) = line.split_at(end);
        let value: f64 = rest.split_whitespace().next()?.parse().ok()?;
        value.is_finite().then(|| (name.to_string(), value))
    };
    lines.filter_map(metric).take(METRICS_MOST).collect()
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn an_address_has_a_host_a_port_and_a_path() {
        for (text, shown) in [
            ("http://10.0.0.1:9100", "http://10.0.0.1:9100/metrics"),
            ("http://localhost:9100/m?x=1", "http://localhost:9100/m?x=1"),
            ("http://[::1]:9100/metrics", "http://[::1]:9100/metrics"),
        ] {
            let url: MetricsUrl = text.parse().unwrap();
            assert_eq!(url.to_string(), shown);
        }
        for wrong in [
            "",
            "localhost:9100",
            "https://a:1",
            "http://a",
            "http://a:b",
            "http://:1",
        ] {
            let error = wrong.parse::<MetricsUrl>().unwrap_err();
            assert!(
                error.starts_with("not an address such as http://"),
                "{error}"
            );
        }
        assert!("http://a:1/x y".parse::<MetricsUrl>().is_err());
        assert!("http://a:1/x\r\nB: c".parse::<MetricsUrl>().is_err());
    }

    #[test]
    fn metrics_are_read_by_name_and_labels() {
        let page = "# HELP a text\n# TYPE a counter\na 3\nb{x=\"1 2\",y=\"}\"} 4.5 1700000000\n\
                    c NaN\nd\n";
        let found: Vec<_> = metrics(page).into_iter().collect();
        let expected = [
            ("a".to_string(), 3.0),
            ("b{x=\"1 2\",y=\"}\"}".to_string(), 4.5),
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn an_answer_is_fetched_and_a_failure_is_an_error() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url: MetricsUrl = format!("http://{}", listener.local_addr().unwrap())
            .parse()
            .unwrap();
        let answers = [
            "HTTP/1.1 200 OK\r\n\r\nup 1\n",
            "HTTP/1.1 404 No\r\n\r\n",
            "nonsense",
        ];
        let server = thread::spawn(move || {
            for answer in answers {
                let (mut stream, _) = listener.accept().unwrap();
                let mut request = [0; 512];
                let count = stream.read(&mut request).unwrap();
                assert!(request[..count].starts_with(b"GET /metrics HTTP/1.0\r\n"));
                stream.write_all(answer.as_bytes()).unwrap();
            }
        });
        assert_eq!(fetch(&url).unwrap()["up"], 1.0);
        let errors = [(); 2].map(|()| fetch(&url).unwrap_err().to_string());
        assert_eq!(
            errors,
            ["the answer has the status 404", "the answer is not HTTP"]
        );
        server.join().unwrap();
        fetch(&url).expect_err("nobody listens any more");
    }
}

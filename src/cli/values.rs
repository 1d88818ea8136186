//! Parses and checks the values of options, so that no other code handles unchecked values. Plain
//! numbers, sizes and times are read by [`crate::cli::numbers`], addresses by [`crate::address`].

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use bytesize::ByteSize;

use crate::address::resolve;
use crate::address::{self, Address, Host, PORT_DEFAULT};
use crate::cli::numbers::{bytes, decimal, duration, duration_or_off, integer, positive_duration};
use crate::load::latency::percentile::{self, Percentile};
use crate::load::plan::profile::{self, Level, Profile};
use crate::load::plan::schedule::{Rate, RateOverTime};
use crate::load::plan::sizes::Sizes;
use crate::sys::socket::MSS_RANGE;

/// A server to connect to: a host, and a port, by default that of upcase. Its name is not resolved
/// yet.
#[derive(Clone, Debug)]
pub(super) struct Target(pub(super) Address);

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Reads an address to listen on that must have a port, since there is no default port for it.
pub(super) fn metrics_address(text: &str) -> Result<Address, String> {
    let address = Address::parse(text)?;
    match address.port {
        Some(_) => Ok(address),
        None => Err(format!("the port is missing: {address}:9100")),
    }
}

/// Reads the address of a server. It has one host, and its port is not 0.
pub(super) fn target(text: &str) -> Result<Target, String> {
    let address = Address::parse(text)?;
    if address.host == Host::Any {
        let port = address.port.unwrap_or(PORT_DEFAULT);
        return Err(format!("the host is missing: 127.0.0.1:{port}"));
    }
    if let Host::Ip(ip, _) = address.host {
        address::check_target(ip)?;
    }
    match address.port {
        Some(0) => Err(format!(
            "nothing can listen on port 0: name the port of the server, such as {PORT_DEFAULT}"
        )),
        port => Ok(Target(Address {
            port: port.or(Some(PORT_DEFAULT)),
            ..address
        })),
    }
}

/// Reads the port of a server.
pub(super) fn port(text: &str) -> Result<u16, String> {
    match integer(1, u16::MAX.into())(text) {
        Err(error) if error.starts_with("at most") => {
            Err(format!("a port is at most {}", u16::MAX))
        }
        Err(error) if error.starts_with("at least") => Err(format!("a port is {error}")),
        read => read,
    }
}

/// A local address to connect from.
#[derive(Clone, Debug)]
pub(super) struct Source {
    typed: String,
    ip: std::net::IpAddr,
    zone: Option<address::Zone>,
}

/// Reads a local address: IPv4, or IPv6 with or without brackets.
pub(super) fn source(text: &str) -> Result<Source, String> {
    let (ip, zone) = address::parse_ip(text)?;
    Ok(Source {
        typed: text.to_string(),
        ip,
        zone,
    })
}

impl Source {
    /// Returns the address with port 0, its zone as an index.
    pub(super) fn address(&self) -> anyhow::Result<SocketAddr> {
        resolve::socket_address(self.ip, self.zone.as_ref(), 0)
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.typed.fmt(f)
    }
}

pub(super) fn mss(text: &str) -> Result<u16, String> {
    let (least, most) = (*MSS_RANGE.start(), *MSS_RANGE.end());
    integer(least.into(), most.into())(text)
        .map_err(|error| format!("{error}: the kernel accepts {least} to {most} bytes"))
}

pub(super) fn buffer_size(text: &str) -> Result<usize, String> {
    size(text, i32::MAX as u64, "64KiB")
}

/// Reads one size, a range `A..B`, or sizes with shares `A:90%,B:10%`.
pub(super) fn message_sizes(text: &str) -> Result<Sizes, String> {
    if let Some((first, last)) = text.split_once("..") {
        let (first, last) = (message_size(first)?, message_size(last)?);
        return if first <= last {
            Ok(Sizes::Uniform(first, last))
        } else {
            Err(format!("{first} is more than {last}"))
        };
    }
    if !text.contains(':') {
        return message_size(text).map(Sizes::Fixed);
    }
    let shares = text.split(',').map(share);
    let shares = shares.collect::<Result<Vec<_>, String>>()?;
    let sum: f64 = shares.iter().map(|(_, share)| share).sum();
    if (sum - 100.0).abs() > 1e-6 {
        return Err(format!("the shares add up to {sum} %, not 100 %"));
    }
    Ok(Sizes::Mixed(shares))
}

/// Reads a size with its share in percent: `64:90%`.
fn share(part: &str) -> Result<(usize, f64), String> {
    let (size, share) = part
        .split_once(':')
        .ok_or_else(|| format!("'{part}' has no share, such as 64:10%"))?;
    let size = message_size(size.trim())?;
    let percent = share
        .trim()
        .strip_suffix('%')
        .and_then(|share| share.parse().ok());
    let percent = percent.filter(|percent| (0.0..=100.0).contains(percent));
    let percent = percent.ok_or_else(|| format!("'{share}' is not a share such as 10%"))?;
    Ok((size, percent))
}

fn message_size(text: &str) -> Result<usize, String> {
    const EXAMPLE: &str = "64, 16KiB, 64..1500 or 64:90%,16KiB:10%";
    size(text, ByteSize::gib(1).as_u64(), EXAMPLE)
}

fn size(text: &str, most: u64, example: &str) -> Result<usize, String> {
    let size = bytes(text, 1, most, example)?;
    usize::try_from(size).map_err(|error| error.to_string())
}

/// Maximum rate in messages a second. No machine sends that many over sockets, and at the end of a
/// run against a server that does not answer, each scheduled message is counted individually.
const RATE_MAX: u64 = profile::RATE_MAX;

/// Reads one rate, or a profile of rates with their times: `5000`, `100..5000:30s,5000:60s`.
pub(super) fn rates(text: &str) -> Result<RateOverTime, String> {
    if !text.contains(':') {
        return match text.split_once("..") {
            Some(_) => Err(format!(
                "a ramp needs its length, as in {text}:60s; stages are separated by commas"
            )),
            None => rate(text).map(RateOverTime::Constant),
        };
    }
    let level = |text: &str| {
        // A rate of 0 is a pause, or the end of a ramp.
        let is_zero =
            decimal(text).is_some_and(|digits| digits.bytes().all(|it| b"0.".contains(&it)));
        let digits = match is_zero {
            true => "0".to_string(),
            false => {
                rate(text)?;
                decimal(text).unwrap_or_default()
            }
        };
        Level::parse(&digits).ok_or_else(|| format!("'{text}' is not a rate such as 5000"))
    };
    Profile::parse(text, level, positive_duration).map(RateOverTime::Profile)
}

/// Reads one rate, such as `5000` or `333.3`.
pub(super) fn rate(text: &str) -> Result<Rate, String> {
    const ABOVE: &str = "not a rate above 0, such as 5000 or 333.3";
    if text.starts_with('-') {
        return Err(ABOVE.to_string());
    }
    let digits = decimal(text).ok_or(ABOVE)?;
    if digits
        .split_once('.')
        .is_some_and(|(_, rest)| rest.len() > 6)
    {
        return Err("a rate has at most 6 decimals".to_string());
    }
    match Rate::parse(&digits) {
        Some(rate) if rate.per_second() <= RATE_MAX as f64 => Ok(rate),
        None if digits.bytes().all(|byte| b"0.".contains(&byte)) => Err(ABOVE.to_string()),
        _ => Err("at most 10,000,000 a second".to_string()),
    }
}

/// A timeout; `None` for `off`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Timeout(pub(super) Option<Duration>);

pub(super) fn timeout(text: &str) -> Result<Timeout, String> {
    duration_or_off(text).map(Timeout)
}

/// Limit on the unsent bytes that the kernel accepts for a connection; `None` for `off`, where the
/// send buffer is the limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct UnsentMost(pub(super) Option<u32>);

pub(super) fn notsent_lowat(text: &str) -> Result<UnsentMost, String> {
    match text {
        "off" => Ok(UnsentMost(None)),
        _ => match bytes(text, 1, i32::MAX as u64, "256KiB") {
            Ok(bytes) => Ok(UnsentMost(Some(bytes as u32))),
            Err(error) => Err(format!("{error}, or off")),
        },
    }
}

/// Reads an idle timeout. The kernel reports silence in milliseconds of 32 bits: at most 49 days.
pub(super) fn idle_timeout(text: &str) -> Result<Timeout, String> {
    const MOST: Duration = Duration::from_secs(49 * 24 * 3600);
    match timeout(text)? {
        Timeout(Some(time)) if time > MOST => {
            Err("at most 49 days, the longest silence that the kernel measures, or off".to_string())
        }
        timeout => Ok(timeout),
    }
}

/// Reads a time that TCP_KEEPIDLE accepts, tcp(7): whole seconds up to 32767; or `off`.
pub(super) fn keepalive(text: &str) -> Result<Timeout, String> {
    let is_taken = |time: Duration| {
        let is_whole = time.subsec_nanos() == 0;
        is_whole && (1..=32767).contains(&time.as_secs())
    };
    match humantime::parse_duration(text) {
        Ok(time) if !is_taken(time) => {
            Err("the kernel accepts whole seconds, 1s to 32767s, or off".to_string())
        }
        _ => timeout(text),
    }
}

pub(super) fn bytes_a_second(text: &str) -> Result<u64, String> {
    bytes(text, 1, 1 << 40, "512 or 16KiB")
}

/// A label of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Label {
    pub(super) key: String,
    pub(super) value: String,
}

/// Reads a label: `KEY=VALUE`. The key can be used as the name of a column.
pub(super) fn label(text: &str) -> Result<Label, String> {
    let is_plain = |key: &str| {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        !key.is_empty() && key.bytes().all(plain)
    };
    match text.split_once('=') {
        Some((key, value)) if is_plain(key) => Ok(Label {
            key: key.to_string(),
            value: value.to_string(),
        }),
        _ => Err("use KEY=VALUE, with a key of letters, digits, '-', '_' and '.'".to_string()),
    }
}

/// Percentiles in ascending order, each once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Percentiles(pub(super) Vec<Percentile>);

/// Reads a list of percentiles: `50,90,99,99.99`.
pub(super) fn percentiles(text: &str) -> Result<Percentiles, String> {
    percentile::parse_list(text).map(Percentiles)
}

/// The shortest interval between reports. More frequent ones would be of no use to a reader.
const INTERVAL_MIN: Duration = Duration::from_millis(10);

pub(super) fn interval(text: &str) -> Result<Duration, String> {
    match positive_duration(text) {
        Ok(interval) if interval >= INTERVAL_MIN => Ok(interval),
        Ok(_) => Err("at least 10ms".to_string()),
        Err(error) if duration(text).is_ok() => Err(format!("{error}: at least 10ms")),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_a_host_with_the_port_of_upcase_or_its_own() {
        for (text, read) in [
            ("host:1", "host:1"),
            ("host", "host:12000"),
            ("10.77.0.1", "10.77.0.1:12000"),
            ("[::1]", "[::1]:12000"),
            ("[fe80::1%eth0]", "[fe80::1%eth0]:12000"),
            ("tcp://host:80", "host:80"),
        ] {
            assert_eq!(target(text).unwrap().to_string(), read);
        }
        for (text, message) in [
            (":12000", "the host is missing: 127.0.0.1:12000"),
            ("12001", "the host is missing: 127.0.0.1:12001"),
            ("*", "the host is missing: 127.0.0.1:12000"),
            (
                "host:0",
                "nothing can listen on port 0: name the port of the server, such as 12000",
            ),
            (
                "0.0.0.0:5",
                "0.0.0.0 is the unspecified address: use an address of a host, such as 127.0.0.1",
            ),
            (
                "[::]:5",
                ":: is the unspecified address: use an address of a host, such as ::1",
            ),
        ] {
            assert_eq!(target(text).unwrap_err(), message);
        }
    }

    #[test]
    fn a_metrics_address_has_a_port_of_its_own() {
        assert!(metrics_address(":9100").is_ok() && metrics_address("[::1]:0").is_ok());
        let error = metrics_address("[::1]").unwrap_err();
        assert_eq!(error, "the port is missing: [::1]:9100");
    }

    #[test]
    fn sizes_of_messages_may_be_spread() {
        assert_eq!(message_sizes("64"), Ok(Sizes::Fixed(64)));
        assert_eq!(message_sizes("1GiB"), Ok(Sizes::Fixed(1 << 30)));
        assert_eq!(message_sizes("64..1500"), Ok(Sizes::Uniform(64, 1500)));
        let mixed = vec![(64, 90.0), (16 << 10, 10.0)];
        assert_eq!(message_sizes("64:90%,16KiB:10%"), Ok(Sizes::Mixed(mixed)));
        for bad in [
            "0..5",
            "9..5",
            "1..",
            "..",
            "64:90%",
            "64:90%,65:11%",
            "64:x%,65:1%",
            "64:50,65:50",
            "64,65",
            "1,000",
            "64:100%,",
            "64:-5%,65:105%",
        ] {
            assert!(message_sizes(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_rate_has_one_form_and_a_bound_in_words() {
        for (text, rate_of) in [
            ("5000", "5,000"),
            ("5,000", "5,000"),
            ("5k", "5,000"),
            ("333.3", "333.3"),
            ("1.5k", "1,500"),
            ("10M", "10,000,000"),
        ] {
            assert_eq!(rate(text).unwrap().to_string(), rate_of);
        }
        for (text, message) in [
            ("0", "not a rate above 0, such as 5000 or 333.3"),
            ("0.0", "not a rate above 0, such as 5000 or 333.3"),
            ("-5", "not a rate above 0, such as 5000 or 333.3"),
            ("1e3", "not a rate above 0, such as 5000 or 333.3"),
            ("x", "not a rate above 0, such as 5000 or 333.3"),
            ("10000001", "at most 10,000,000 a second"),
            ("99999999999999999999999", "at most 10,000,000 a second"),
            ("1.2345678", "a rate has at most 6 decimals"),
        ] {
            assert_eq!(rate(text), Err(message.to_string()), "{text}");
        }
    }

    #[test]
    fn timeouts_may_be_off() {
        assert!(keepalive("off").is_ok() && keepalive("32767s").is_ok());
        assert!(idle_timeout("49days").is_ok() && idle_timeout("50days").is_err());
        for bad in ["0s", "Off", "none", "500ms", "1500ms", "32768s", ""] {
            assert!(keepalive(bad).is_err(), "{bad}");
        }
        assert_eq!(interval("5ms"), Err("at least 10ms".to_string()));
        let zero = "it must be longer than 0: at least 10ms";
        assert_eq!(interval("0s"), Err(zero.to_string()));
    }

    #[test]
    fn the_kernel_may_take_as_much_as_it_likes() {
        assert_eq!(notsent_lowat("off"), Ok(UnsentMost(None)));
        let by_default = UnsentMost(Some(crate::server::limits::UNSENT_MOST));
        assert_eq!(notsent_lowat("256KiB"), Ok(by_default));
        for bad in ["0", "2GiB", "none", ""] {
            assert!(notsent_lowat(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_mss_is_what_the_kernel_takes() {
        assert_eq!((mss("88"), mss("32767")), (Ok(88), Ok(32767)));
        for bad in ["87", "32768", "65536", "-1", "x", ""] {
            let error = mss(bad).unwrap_err();
            assert!(
                error.contains("the kernel accepts 88 to 32767 bytes"),
                "{error}"
            );
        }
    }
}

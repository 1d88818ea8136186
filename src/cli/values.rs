//! Values as they are typed, read and checked: past this file there is no other.

use std::net::SocketAddr;
use std::time::Duration;

use bytesize::ByteSize;

use crate::load::schedule::Rate;
use crate::load::sizes::Sizes;
use crate::socket::MSS_RANGE;

/// A server as it was named: `HOST:PORT`, not looked up yet.
#[derive(Clone, Debug)]
pub(super) struct Target(pub(super) String);

pub(super) fn listen_address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| {
        "not an address with a port, such as 127.0.0.1:12000 or [::1]:12000".to_string()
    })
}

/// `HOST:PORT`: the port is a number from 1 to 65535, and a host of digits and dots, or one in
/// brackets, is an address.
pub(super) fn target(text: &str) -> Result<Target, String> {
    const FORM: &str = "not a host with a port, such as 10.77.0.1:12000, [::1]:12000 or host:12000";
    let (host, port) = text.rsplit_once(':').ok_or(FORM)?;
    let port: u16 = port
        .parse()
        .map_err(|_| "the port is not a number up to 65535")?;
    if port == 0 {
        return Err("nothing can listen on port 0".to_string());
    }
    let looks_like_address =
        host.chars().all(|c| c.is_ascii_digit() || c == '.') || host.contains([':', '[', ']']);
    if looks_like_address && text.parse::<SocketAddr>().is_err() {
        return Err(FORM.to_string());
    }
    Ok(Target(text.to_string()))
}

pub(super) fn mss(text: &str) -> Result<u16, String> {
    let (least, most) = (MSS_RANGE.start(), MSS_RANGE.end());
    text.parse()
        .ok()
        .filter(|mss| MSS_RANGE.contains(mss))
        .ok_or_else(|| format!("the kernel takes {least} to {most} bytes"))
}

pub(super) fn buffer_size(text: &str) -> Result<usize, String> {
    size(text, 1, i32::MAX as u64)
}

fn message_size(text: &str) -> Result<usize, String> {
    size(text, 1, ByteSize::gib(1).as_u64())
}

/// One size, a range `A..B`, or sizes with shares `A:90%,B:10%`.
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
    let share = |part: &str| {
        let (size, share) = part
            .split_once(':')
            .ok_or_else(|| format!("{part} has no share, such as {part}:10%"))?;
        let percent = share
            .trim()
            .strip_suffix('%')
            .and_then(|share| share.parse().ok());
        let percent = percent.filter(|percent| (0.0..=100.0).contains(percent));
        let percent = percent.ok_or_else(|| format!("{share} is not a share such as 10%"))?;
        Ok((message_size(size.trim())?, percent))
    };
    let shares = text
        .split(',')
        .map(share)
        .collect::<Result<Vec<_>, String>>()?;
    let sum: f64 = shares.iter().map(|(_, share)| share).sum();
    if (sum - 100.0).abs() > 1e-6 {
        return Err(format!("the shares make {sum} %, not 100 %"));
    }
    Ok(Sizes::Mixed(shares))
}

/// Messages a second. No machine sends so many over sockets; at the end of a run against a server
/// that does not answer, each one is booked.
const RATE_MAX: f64 = 1e7;

pub(super) fn rate(text: &str) -> Result<Rate, String> {
    Rate::parse(text)
        .filter(|rate| rate.per_second() <= RATE_MAX)
        .ok_or_else(|| format!("not a rate above 0 and up to {RATE_MAX}, such as 5000 or 333.3"))
}

fn size(text: &str, least: u64, most: u64) -> Result<usize, String> {
    let size: ByteSize = text.parse()?;
    let bytes = size.as_u64();
    if !(least..=most).contains(&bytes) {
        return Err(format!("{bytes} is not in {least}..={most} bytes"));
    }
    usize::try_from(bytes).map_err(|error| error.to_string())
}

/// The longest time that can be asked for: beyond it arithmetic with instants has an end.
const DURATION_MAX: Duration = Duration::from_secs(365 * 24 * 3600);

pub(super) fn positive_duration(text: &str) -> Result<Duration, String> {
    let duration = duration(text)?;
    if duration.is_zero() {
        return Err("it must be longer than 0".to_string());
    }
    Ok(duration)
}

/// A time after which patience ends, or `off`: never.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Timeout(pub(super) Option<Duration>);

pub(super) fn timeout(text: &str) -> Result<Timeout, String> {
    match text {
        "off" => Ok(Timeout(None)),
        _ => Ok(Timeout(Some(positive_duration(text)?))),
    }
}

/// Bytes not sent yet that the kernel takes for a connection, or `off`: what its buffer holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct UnsentMost(pub(super) Option<u32>);

pub(super) fn unsent_most(text: &str) -> Result<UnsentMost, String> {
    match text {
        "off" => Ok(UnsentMost(None)),
        _ => Ok(UnsentMost(Some(size(text, 1, i32::MAX as u64)? as u32))),
    }
}

/// The kernel tells silence in milliseconds of 32 bits: 49 days.
pub(super) fn idle_timeout(text: &str) -> Result<Timeout, String> {
    const MOST: Duration = Duration::from_secs(49 * 24 * 3600);
    match timeout(text)? {
        Timeout(Some(time)) if time > MOST => {
            Err("the kernel counts silence up to 49 days".to_string())
        }
        timeout => Ok(timeout),
    }
}

/// What TCP_KEEPIDLE takes: whole seconds up to 32767.
pub(super) fn keepalive(text: &str) -> Result<Timeout, String> {
    let timeout = timeout(text)?;
    match timeout.0 {
        Some(time) if !(1..=32767).contains(&time.as_secs()) => {
            Err("the kernel takes 1s to 32767s, or off".to_string())
        }
        _ => Ok(timeout),
    }
}

pub(super) fn bytes_a_second(text: &str) -> Result<u64, String> {
    size(text, 1, 1 << 40).map(|bytes| bytes as u64)
}

/// What is told more often than this is told for nobody.
const INTERVAL_MIN: Duration = Duration::from_millis(10);

pub(super) fn interval(text: &str) -> Result<Duration, String> {
    let interval = duration(text)?;
    if interval < INTERVAL_MIN {
        return Err("it must be at least 10ms".to_string());
    }
    Ok(interval)
}

pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let duration = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if duration > DURATION_MAX {
        return Err("it must be at most 365 days".to_string());
    }
    Ok(duration)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_a_host_or_an_address_with_a_port() {
        for good in [
            "host:1",
            "10.77.0.1:12000",
            "[::1]:65535",
            "a.b-c:80",
            "1host:2",
        ] {
            assert!(target(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "host",
            ":",
            "host:",
            ":12000",
            "host:0",
            "host:65536",
            "host:x",
            "::1",
            "::1:80",
            "1.2.3:80",
            "999.1.1.1:80",
            "[::1:80",
            "[]:80",
            "12000",
        ] {
            assert!(target(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn sizes_have_units_and_bounds() {
        assert_eq!(message_size("64"), Ok(64));
        assert_eq!(message_size("16KiB"), Ok(16 << 10));
        assert_eq!(message_size("1GiB"), Ok(1 << 30));
        for bad in ["0", "1025MiB", "-1", "many", "", "99999999999999999999"] {
            assert!(message_size(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn sizes_of_messages_may_be_spread() {
        assert_eq!(message_sizes("64"), Ok(Sizes::Fixed(64)));
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
            "64:100%,",
            "64:-5%,65:105%",
        ] {
            assert!(message_sizes(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn times_have_units_and_bounds() {
        assert_eq!(positive_duration("1500ms"), Ok(Duration::from_millis(1500)));
        assert!(positive_duration("365days").is_ok());
        for bad in ["0s", "1", "-1s", "366days", "500000000000years", ""] {
            assert!(positive_duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn patience_may_be_off() {
        assert_eq!(timeout("off"), Ok(Timeout(None)));
        assert_eq!(timeout("2s"), Ok(Timeout(Some(Duration::from_secs(2)))));
        assert!(keepalive("off").is_ok() && keepalive("32767s").is_ok());
        assert!(idle_timeout("49days").is_ok() && idle_timeout("50days").is_err());
        for bad in ["0s", "Off", "none", "500ms", "32768s", ""] {
            assert!(keepalive(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_kernel_may_take_as_much_as_it_likes() {
        assert_eq!(unsent_most("off"), Ok(UnsentMost(None)));
        let by_default = UnsentMost(Some(crate::server::limits::UNSENT_MOST));
        assert_eq!(unsent_most("256KiB"), Ok(by_default));
        for bad in ["0", "2GiB", "none", ""] {
            assert!(unsent_most(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_mss_is_what_the_kernel_takes() {
        assert_eq!((mss("88"), mss("32767")), (Ok(88), Ok(32767)));
        for bad in ["87", "32768", "65536", "-1", "x", ""] {
            assert_eq!(
                mss(bad),
                Err("the kernel takes 88 to 32767 bytes".to_string())
            );
        }
    }
}

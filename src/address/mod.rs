//! Parses network addresses as users type them. Pure.
//!
//! An address is read in two steps. This file parses its form, and reports syntax errors without
//! consulting the machine. [`crate::address::resolve`] then looks up what only the machine knows:
//! the index of an interface and the addresses of a name.
//!
//! These forms are read, each with the prefix `tcp://` as well:
//!
//! ```text
//! HOST  HOST:PORT                     a name or an IPv4 address
//! [IPv6]  [IPv6]:PORT                 an IPv6 address, in brackets
//! [fe80::1%eth0]:PORT  [fe80::1%2]    with its zone: an interface, by name or index (RFC 4007)
//! PORT  :PORT  *:PORT                 every address of this host
//! ```
//!
//! Invariants: a link-local address has a zone, since it is ambiguous without its link; no other
//! address has one. An IPv4 address that is written within IPv6 (`::ffff:10.0.0.1`) becomes IPv4.
//! Multicast addresses and 255.255.255.255 are refused, since they denote several hosts.

pub mod happy_eyeballs;
pub mod resolve;

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// The port of an upcase server, unless another one is given.
pub const PORT_DEFAULT: u16 = 12000;

/// A parsed address. Its name, if it has one, is not resolved yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// The part before the port.
    pub host: Host,
    /// The port, when there is one.
    pub port: Option<u16>,
}

/// The host of an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Host {
    /// Every address of this host, IPv4 and IPv6.
    Any,
    /// An address, with its zone when it is link-local.
    Ip(IpAddr, Option<Zone>),
    /// A name that has to be resolved.
    Name(String),
}

/// The interface of a link-local address: its name, or its index in decimal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Zone(pub String);

/// The longest name of an interface in bytes: IFNAMSIZ less the final zero, linux/if.h.
const INTERFACE_NAME_BYTES_MAX: usize = 15;

/// The longest name of a host in bytes (RFC 1035, 2.3.4).
const HOST_NAME_BYTES_MAX: usize = 253;

impl Address {
    /// Returns whether this is the wildcard address of a family, and `other` another address of
    /// that family with the same port: a host does not allow listening on both.
    pub fn covers(&self, other: &Address) -> bool {
        match (&self.host, &other.host) {
            (Host::Ip(all, _), Host::Ip(one, _)) => {
                let is_wider = all.is_unspecified() && !one.is_unspecified();
                is_wider && all.is_ipv4() == one.is_ipv4() && self.port == other.port
            }
            _ => false,
        }
    }

    /// Parses one of the forms above. The error describes the fault in words.
    pub fn parse(text: &str) -> Result<Address, String> {
        let text = without_scheme(text)?;
        if text.is_empty() {
            return Err("the address is empty".to_string());
        }
        if text.contains(',') {
            return Err("more than one address: give each separately".to_string());
        }
        let (host, port) = split(&text)?;
        Ok(Address {
            host: host_of(host)?,
            port: port.map(port_of).transpose()?,
        })
    }
}

/// Reads an IP address without a port, with or without brackets: a local address to bind to.
pub fn parse_ip(text: &str) -> Result<(IpAddr, Option<Zone>), String> {
    const FORM: &str = "not an IP address such as 10.77.0.2 or fe80::1%eth0";
    let inner = text
        .strip_prefix('[')
        .and_then(|text| text.strip_suffix(']'));
    let inner = inner.unwrap_or(text);
    if inner.contains(':') {
        return match ipv6(inner) {
            Ok(Host::Ip(ip, zone)) => Ok((ip, zone)),
            Err(error) if !error.starts_with('\'') => Err(error),
            _ => Err(FORM.to_string()),
        };
    }
    let ip: Ipv4Addr = inner.parse().map_err(|_| FORM)?;
    check_unicast(ip.into())?;
    Ok((ip.into(), None))
}

/// Checks that an address denotes one host: it is neither a multicast nor the broadcast address.
/// The error says which of them it is, and what to write instead.
pub fn check_unicast(ip: IpAddr) -> Result<(), String> {
    let is_broadcast = ip == IpAddr::V4(Ipv4Addr::BROADCAST);
    let kind = match (ip.is_multicast(), is_broadcast) {
        (true, _) => "a multicast",
        (_, true) => "the broadcast",
        _ => return Ok(()),
    };
    Err(several_hosts_error(ip, kind))
}

/// Returns the error for an address that denotes several hosts; `kind` is `a multicast`, for
/// example.
pub fn several_hosts_error(ip: IpAddr, kind: &str) -> String {
    format!("{ip} is {kind} address, but a TCP connection has two ends: use an address of one host")
}

/// Checks that an address can be that of a server: it is not the unspecified address. The error
/// says what the address denotes.
pub fn check_target(ip: IpAddr) -> Result<(), String> {
    if !ip.is_unspecified() {
        return Ok(());
    }
    let loopback: IpAddr = match ip {
        IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
    };
    Err(format!(
        "{ip} is the unspecified address: use an address of a host, such as {loopback}"
    ))
}

/// Returns an address without its port, its zone by index: `fe80::1%2`.
pub fn without_port(address: SocketAddr) -> String {
    match address {
        SocketAddr::V6(v6) if v6.scope_id() > 0 => format!("{}%{}", v6.ip(), v6.scope_id()),
        _ => address.ip().to_string(),
    }
}

/// Writes the form that [`Address::parse`] reads.
impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Any => write!(f, "*")?,
            Host::Ip(ip, None) if ip.is_ipv6() => write!(f, "[{ip}]")?,
            Host::Ip(ip, Some(Zone(zone))) => write!(f, "[{ip}%{zone}]")?,
            Host::Ip(ip, None) => write!(f, "{ip}")?,
            Host::Name(name) => write!(f, "{name}")?,
        }
        match self.port {
            Some(port) => write!(f, ":{port}"),
            None => Ok(()),
        }
    }
}

/// Removes `tcp://`, and replaces `%25` with `%`: a URL may have the zone in that form (RFC 6874).
fn without_scheme(text: &str) -> Result<String, String> {
    let Some((scheme, rest)) = text.split_once("://") else {
        return Ok(text.to_string());
    };
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    if !scheme.eq_ignore_ascii_case("tcp") {
        return Err(format!(
            "upcase does not speak {scheme}, it sends plain bytes over TCP: write HOST:PORT or \
             tcp://HOST:PORT"
        ));
    }
    Ok(rest.replacen("%25", "%", 1))
}

/// Separates host and port; an IPv6 address keeps its brackets.
fn split(text: &str) -> Result<(&str, Option<&str>), String> {
    if text.starts_with('[') {
        let end = text.find(']').ok_or("the ] of [IPv6] is missing")? + 1;
        let (host, rest) = text.split_at(end);
        return match (rest.is_empty(), rest.strip_prefix(':')) {
            (true, _) => Ok((host, None)),
            (false, Some(port)) => Ok((host, Some(port))),
            (false, None) => Err(format!(
                "unexpected '{rest}' after the ]: only :PORT may follow"
            )),
        };
    }
    match text.matches(':').count() {
        0 if text.bytes().all(|byte| byte.is_ascii_digit()) => Ok(("", Some(text))),
        0 => Ok((text, None)),
        1 => Ok(text
            .split_once(':')
            .map_or((text, None), |(host, port)| (host, Some(port)))),
        _ => Err(format!(
            "an IPv6 address must be in brackets, such as {}",
            match ipv6(text) {
                Ok(_) => format!("[{text}]:{PORT_DEFAULT}"),
                Err(_) => format!("[::1]:{PORT_DEFAULT}"),
            }
        )),
    }
}

fn port_of(text: &str) -> Result<u16, String> {
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    match (text, text.strip_prefix('-')) {
        ("", _) => Err("the port is missing after the colon".to_string()),
        (_, Some(rest)) if digits(rest) => Err("a port is at least 1".to_string()),
        _ if digits(text) => text
            .parse()
            .map_err(|_| format!("a port is at most {}", u16::MAX)),
        _ => Err(format!("'{text}' is not a port such as {PORT_DEFAULT}")),
    }
}

fn host_of(text: &str) -> Result<Host, String> {
    if text.is_empty() || text == "*" {
        return Ok(Host::Any);
    }
    if let Some(inner) = text.strip_prefix('[') {
        return ipv6(inner.strip_suffix(']').unwrap_or(inner));
    }
    if let Ok(ip) = text.parse::<Ipv4Addr>() {
        check_unicast(ip.into())?;
        return Ok(Host::Ip(ip.into(), None));
    }
    if text
        .bytes()
        .all(|byte| byte.is_ascii_digit() || byte == b'.')
    {
        return Err(format!(
            "'{text}' is not an IPv4 address, which has four numbers up to 255"
        ));
    }
    if text.contains('%') {
        return Err(format!(
            "'{text}' has a zone, which only an IPv6 address in brackets may have, such as \
             [fe80::1%eth0]:{PORT_DEFAULT}"
        ));
    }
    let foreign = |c: char| !c.is_alphanumeric() && !"-_.".contains(c);
    if let Some(foreign) = text.chars().find(|c| foreign(*c)) {
        let foreign = foreign.escape_default();
        return Err(format!("'{foreign}' cannot be in the name of a host"));
    }
    if text.starts_with(['-', '.']) {
        return Err(format!("'{text}' is not the name of a host"));
    }
    if text.len() > HOST_NAME_BYTES_MAX {
        return Err(format!(
            "the name of a host has at most {HOST_NAME_BYTES_MAX} bytes"
        ));
    }
    Ok(Host::Name(text.to_string()))
}

/// Parses an IPv6 address without its brackets, and enforces the invariant about zones.
fn ipv6(text: &str) -> Result<Host, String> {
    let (address, zone) = match text.split_once('%') {
        Some((address, zone)) => (address, Some(zone)),
        None => (text, None),
    };
    let ip: Ipv6Addr = address
        .parse()
        .map_err(|_| format!("'{address}' is not an IPv6 address such as ::1"))?;
    check_unicast(ip.to_canonical())?;
    if zone.is_some() != ip.is_unicast_link_local() {
        return Err(match zone {
            None => {
                format!("a link-local address needs %interface, such as {ip}%eth0")
            }
            Some(zone) => format!("%{zone} has no meaning here: {ip} is not a link-local address"),
        });
    }
    // The kernel allows brackets in a name, but here one belongs to an address whose other bracket
    // is missing.
    let foreign = |c: char| c.is_whitespace() || c.is_control() || "/%:[]".contains(c);
    match zone {
        Some("") => Err("the interface is missing after the %".to_string()),
        Some(zone) if zone.len() > INTERFACE_NAME_BYTES_MAX || zone.contains(foreign) => Err(
            format!("'{}' is not the name of an interface", zone.escape_debug()),
        ),
        Some(zone) => Ok(Host::Ip(ip.into(), Some(Zone(zone.to_string())))),
        None => Ok(Host::Ip(IpAddr::V6(ip).to_canonical(), None)),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ip(text: &str) -> Host {
        Host::Ip(text.parse().unwrap(), None)
    }

    fn name(text: &str) -> Host {
        Host::Name(text.to_string())
    }

    fn link_local(zone: &str) -> Host {
        Host::Ip("fe80::1".parse().unwrap(), Some(Zone(zone.to_string())))
    }

    #[test]
    fn every_form_is_read() {
        for (text, host, port) in [
            ("host:1", name("host"), Some(1)),
            ("host", name("host"), None),
            ("a.b-c_d.:80", name("a.b-c_d."), Some(80)),
            ("1host:2", name("1host"), Some(2)),
            ("bücher.example:2", name("bücher.example"), Some(2)),
            ("10.77.0.1:12000", ip("10.77.0.1"), Some(12000)),
            ("10.77.0.1", ip("10.77.0.1"), None),
            ("[::1]:65535", ip("::1"), Some(65535)),
            ("[::1]", ip("::1"), None),
            ("[::]:0", ip("::"), Some(0)),
            ("[::ffff:10.0.0.1]:5", ip("10.0.0.1"), Some(5)),
            ("[fe80::1%eth0]:12000", link_local("eth0"), Some(12000)),
            ("[fe80::1%2]", link_local("2"), None),
            ("[fe80::1%br-a.7@x]:1", link_local("br-a.7@x"), Some(1)),
            ("tcp://[fe80::1%25eth0]:9/", link_local("eth0"), Some(9)),
            ("TCP://host:9", name("host"), Some(9)),
            ("tcp://host", name("host"), None),
            ("12000", Host::Any, Some(12000)),
            (":12000", Host::Any, Some(12000)),
            ("*:12000", Host::Any, Some(12000)),
            ("*", Host::Any, None),
        ] {
            let address = Address { host, port };
            assert_eq!(Address::parse(text), Ok(address), "{text}");
        }
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (text, message) in [
            ("", "the address is empty"),
            ("tcp://", "the address is empty"),
            ("host:", "the port is missing after the colon"),
            ("[::1]:", "the port is missing after the colon"),
            ("host:65536", "a port is at most 65535"),
            ("host:99999999999999999999", "a port is at most 65535"),
            ("99999", "a port is at most 65535"),
            ("host:-1", "a port is at least 1"),
            ("host:http", "'http' is not a port such as 12000"),
            ("::1", "must be in brackets, such as [::1]:12000"),
            ("::1:80", "must be in brackets"),
            ("fe80::1%eth0", "such as [fe80::1%eth0]:12000"),
            ("a:b:c", "must be in brackets"),
            ("1.2.3:80", "'1.2.3' is not an IPv4 address"),
            ("999.1.1.1:80", "'999.1.1.1' is not an IPv4 address"),
            ("[::1:80", "the ] of [IPv6] is missing"),
            ("[::1]80", "unexpected '80' after the ]"),
            ("[]:80", "'' is not an IPv6 address"),
            ("[10.0.0.1]:80", "'10.0.0.1' is not an IPv6 address"),
            ("[host]:80", "'host' is not an IPv6 address"),
            ("[fe80::1]:80", "a link-local address needs %interface"),
            ("[febf::1]:80", "a link-local address needs %interface"),
            ("[fe80::1%]:80", "the interface is missing after the %"),
            ("[fe80::1%a%b]:80", "'a%b' is not the name of an interface"),
            ("[fe80::1%a[b]:80", "'a[b' is not the name of an interface"),
            ("[fe80::1%sixteen-letters-]:80", "is not the name of an int"),
            (
                "[::1%lo]:80",
                "%lo has no meaning here: ::1 is not a link-local",
            ),
            ("10.0.0.1%eth0:80", "has a zone, which only an IPv6 address"),
            ("http://host:80", "upcase does not speak http"),
            ("udp://host:80", "upcase does not speak udp"),
            ("tcp://host:80/path", "'80/path' is not a port"),
            ("me@host:80", "'@' cannot be in the name of a host"),
            ("-1", "'-1' is not the name of a host"),
            (".host:80", "'.host' is not the name of a host"),
            ("224.0.0.1:80", "224.0.0.1 is a multicast address, but"),
            (
                "239.255.255.255",
                "connection has two ends: use an address of one host",
            ),
            (
                "255.255.255.255:80",
                "255.255.255.255 is the broadcast address",
            ),
            ("[ff02::1]:80", "ff02::1 is a multicast address"),
            ("[ff02::1%lo]:80", "ff02::1 is a multicast address"),
            ("[::ffff:224.0.0.1]:80", "224.0.0.1 is a multicast address"),
            ("a:1,b:1", "more than one address: give each separately"),
            ("two words:80", "' ' cannot be in the name of a host"),
        ] {
            let error = Address::parse(text).unwrap_err();
            assert!(error.contains(message), "{text}: {error}");
        }
    }

    #[test]
    fn a_local_address_has_no_port() {
        assert_eq!(parse_ip("::1"), parse_ip("[::1]"));
        let zone = Some(Zone("eth0".to_string()));
        let link_local = Ok(("fe80::1".parse().unwrap(), zone));
        assert_eq!(parse_ip("fe80::1%eth0"), link_local);
        for bad in ["", "10.0.0.1:5", "[::1]:5", "host", "*", "1.2"] {
            assert!(parse_ip(bad).unwrap_err().starts_with("not an IP"), "{bad}");
        }
        let error = parse_ip("fe80::1").unwrap_err();
        assert!(error.ends_with("needs %interface, such as fe80::1%eth0"));
        for several in ["224.0.0.1", "255.255.255.255", "ff02::1", "[ff02::1%lo]"] {
            let error = parse_ip(several).unwrap_err();
            assert!(error.ends_with("use an address of one host"), "{error}");
        }
    }

    proptest! {
        #[test]
        fn what_is_printed_is_read_as_the_same(
            v4: bool, bits: u128, port in proptest::option::of(any::<u16>()),
        ) {
            let ip = match v4 {
                true => IpAddr::V4((bits as u32).into()),
                false => IpAddr::V6(bits.into()).to_canonical(),
            };
            prop_assume!(check_unicast(ip).is_ok());
            let link_local = matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local());
            let zone = link_local.then(|| Zone("eth0".to_string()));
            let address = Address { host: Host::Ip(ip, zone), port };
            prop_assert_eq!(Address::parse(&address.to_string()), Ok(address));
        }

        #[test]
        fn any_text_is_read_or_refused(text in r"[\[\]:%.*a-f0-9/ ]{0,20}|.{0,20}") {
            if let Ok(address) = Address::parse(&text) {
                prop_assert_eq!(Address::parse(&address.to_string()), Ok(address));
            }
        }
    }
}

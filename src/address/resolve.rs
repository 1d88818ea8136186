//! Looks up the facts about an address that only this machine knows: the index of an interface, the
//! addresses of a name, and whether an address belongs to this host.
//!
//! A socket address holds the zone of a link-local address as an index, `%2`. A person reads and
//! types the name, `%eth0`: [`display_address`] returns an address in that form.

use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6, ToSocketAddrs};

use anyhow::{Context, anyhow, bail};
use socket2::{Domain, Socket, Type};

use crate::address::{Address, Host, Zone, check_unicast, several_hosts_error, without_port};
use crate::sys::interface;

/// Returns every socket address of an address, in the order of getaddrinfo(3) and without
/// duplicates. `port` is used for an address without a port. [`Host::Any`] becomes `[::]`.
pub fn resolve(address: &Address, port: u16) -> anyhow::Result<Vec<SocketAddr>> {
    let port = address.port.unwrap_or(port);
    match &address.host {
        Host::Any => Ok(vec![(Ipv6Addr::UNSPECIFIED, port).into()]),
        Host::Ip(ip, zone) => Ok(vec![socket_address(*ip, zone.as_ref(), port)?]),
        Host::Name(name) => {
            let found = (name.as_str(), port).to_socket_addrs();
            let found = found.with_context(|| format!("cannot resolve the host name {name}"))?;
            let mut addresses: Vec<SocketAddr> = Vec::new();
            for address in found {
                check(address.ip()).with_context(|| format!("the host {name} cannot be used"))?;
                if !addresses.contains(&address) {
                    addresses.push(address);
                }
            }
            match addresses.is_empty() {
                true => Err(anyhow!("the host name {name} has no address")),
                false => Ok(addresses),
            }
        }
    }
}

/// Returns a socket address with the index of its zone.
pub fn socket_address(ip: IpAddr, zone: Option<&Zone>, port: u16) -> anyhow::Result<SocketAddr> {
    check(ip)?;
    match (ip, zone) {
        (IpAddr::V6(ip), Some(zone)) => {
            Ok(SocketAddrV6::new(ip, port, 0, interface_index(zone)?).into())
        }
        _ => Ok(SocketAddr::new(ip, port)),
    }
}

/// Checks that an address denotes one host: it is neither a multicast nor a broadcast address. The
/// kernel is asked for the broadcast addresses of this host's networks, such as `10.77.0.255`.
fn check(ip: IpAddr) -> anyhow::Result<()> {
    check_unicast(ip).map_err(anyhow::Error::msg)?;
    match is_broadcast(ip) {
        Ok(true) => bail!("{}", several_hosts_error(ip, "a broadcast")),
        // Without a route or a socket, using the address fails later, with an error of its own.
        _ => Ok(()),
    }
}

/// Returns whether the kernel treats this as a broadcast address: it then connects a UDP socket to
/// it only when SO_BROADCAST is set, udp(7). Connecting sends no packet.
fn is_broadcast(ip: IpAddr) -> io::Result<bool> {
    const PORT: u16 = 9;
    if !ip.is_ipv4() {
        return Ok(false);
    }
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
    let address = SocketAddr::new(ip, PORT).into();
    match socket.connect(&address) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {}
        _ => return Ok(false),
    }
    socket.set_broadcast(true)?;
    Ok(socket.connect(&address).is_ok())
}

/// Returns the index of an interface. A name has precedence over an index, since an interface may
/// be named `7`.
fn interface_index(Zone(zone): &Zone) -> anyhow::Result<u32> {
    if let Some(index) = interface::index(zone.as_str()) {
        return Ok(index);
    }
    // The kernel numbers interfaces with positive ints.
    let index = zone.parse::<i32>().ok().filter(|&index| index > 0);
    let index = index.map(i32::unsigned_abs);
    let index = index.filter(|&index| interface::name(index).is_some());
    index.ok_or_else(|| anyhow!("there is no interface {zone} (see `ip link`)"))
}

/// Returns an address as a person types it, its zone by name: `[fe80::1%eth0]:12000`.
pub fn display_address(address: SocketAddr) -> String {
    match zone(address) {
        Some(zone) => format!("[{}%{zone}]:{}", address.ip(), address.port()),
        None => address.to_string(),
    }
}

/// Returns an address without its port as a person types it: `fe80::1%eth0`.
pub fn display_ip(address: SocketAddr) -> String {
    match zone(address) {
        Some(zone) => format!("{}%{zone}", address.ip()),
        None => without_port(address),
    }
}

/// Returns the name of an address's zone; `None` when it has no zone, or one without a name.
fn zone(address: SocketAddr) -> Option<String> {
    match address {
        SocketAddr::V6(v6) if v6.scope_id() > 0 => interface::name(v6.scope_id()),
        _ => None,
    }
}

/// Returns whether an error of bind(2) means that this host does not have the address: it belongs
/// to another host, or its family is not supported.
pub fn means_not_local(error: &io::Error) -> bool {
    use crate::sys::errno::{EADDRNOTAVAIL, EAFNOSUPPORT};
    matches!(error.raw_os_error(), Some(EADDRNOTAVAIL | EAFNOSUPPORT))
}

/// Returns the error for an address that this host cannot bind to, such as "cannot listen on ...",
/// with advice on common causes.
pub fn bind_error(what: &str, address: SocketAddr, error: io::Error) -> anyhow::Error {
    use crate::sys::errno::{EACCES, EADDRINUSE};
    let advice = match error.raw_os_error() {
        Some(EADDRINUSE) => {
            "; `ss -ltnp` shows the program that uses it. Two servers can share a port if both \
             have --reuse-port"
        }
        Some(EACCES) => "; ports below 1024 need root or CAP_NET_BIND_SERVICE",
        _ if means_not_local(&error) => "; `ip address` lists the addresses that this host has",
        _ => "",
    };
    let address = display_address(address);
    anyhow!("cannot {what} on {address}: {error}{advice}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(text: &str) -> anyhow::Result<Vec<SocketAddr>> {
        resolve(&Address::parse(text).unwrap(), 12000)
    }

    #[test]
    fn a_zone_is_found_by_name_and_by_index() {
        let lo = interface::index("lo").unwrap();
        for zone in ["lo".to_string(), lo.to_string()] {
            let found = all(&format!("[fe80::1%{zone}]:7")).unwrap();
            let expected = SocketAddrV6::new("fe80::1".parse().unwrap(), 7, 0, lo);
            assert_eq!(found, [SocketAddr::V6(expected)]);
            assert_eq!(display_address(found[0]), "[fe80::1%lo]:7");
        }
        for zone in ["eth-none", "0", "99999999", "4000000000", "99999999999"] {
            let error = all(&format!("[fe80::1%{zone}]:7")).unwrap_err().to_string();
            let message = format!("there is no interface {zone} ");
            assert!(error.contains(&message), "{error}");
        }
    }

    #[test]
    fn an_address_without_a_port_has_that_of_upcase() {
        assert_eq!(
            all("127.0.0.1").unwrap(),
            ["127.0.0.1:12000".parse().unwrap()]
        );
        assert_eq!(all("[::1]:5").unwrap(), ["[::1]:5".parse().unwrap()]);
        assert_eq!(all("*:5").unwrap(), ["[::]:5".parse().unwrap()]);
        let local = all("localhost").unwrap();
        assert!(local.iter().all(|address| address.ip().is_loopback()));
    }

    #[test]
    fn a_broadcast_address_of_a_network_of_this_host_is_refused() {
        let error = all("127.255.255.255:5").unwrap_err().to_string();
        let message = "127.255.255.255 is a broadcast address, but a TCP connection has two ends";
        assert!(error.starts_with(message), "{error}");
        assert!(all("127.255.255.254:5").is_ok());
    }

    #[test]
    fn a_local_address_is_shown_without_its_port() {
        assert_eq!(display_ip("10.0.0.1:0".parse().unwrap()), "10.0.0.1");
        assert_eq!(display_ip("[::1]:0".parse().unwrap()), "::1");
        let link_local = all("[fe80::1%lo]:0").unwrap()[0];
        assert_eq!(display_ip(link_local), "fe80::1%lo");
    }
}

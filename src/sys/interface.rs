//! Names and indexes of network interfaces, netdevice(7).

use nix::net::if_::{if_indextoname, if_nametoindex};

/// Returns the index of the interface with this name.
pub fn index(name: &str) -> Option<u32> {
    if_nametoindex(name).ok()
}

/// Returns the name of the interface with this index. nix reports success with an empty name for an
/// index that no interface has.
pub fn name(index: u32) -> Option<String> {
    let name = if_indextoname(index).ok()?;
    let name = name.to_string_lossy().into_owned();
    (!name.is_empty()).then_some(name)
}

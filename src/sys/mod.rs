//! What only Linux has, behind small interfaces that the rest of the program uses; the one other
//! place is the event for urgent data in the reactor, which mio provides on few systems.
//!
//! A port to another system writes these modules again: sockets with their options, a timer with a
//! descriptor, the kernel's timestamps, the capture filter, the sandbox, service notification, and
//! the figures of the process and its threads.

#[cfg(not(target_os = "linux"))]
compile_error!("upcase runs on Linux; a port to another system begins with the modules in src/sys");

// A token of mio is a usize, and holds a generation and an index of 32 bits each.
#[cfg(not(target_pointer_width = "64"))]
compile_error!("upcase needs 64-bit pointers: the tokens of src/reactor/slots.rs have 64 bits");

pub mod bpf;
pub mod cpu_sample;
pub mod descriptor_limit;
pub mod errno;
pub mod files;
pub mod interface;
pub mod machine;
pub mod monotonic;
pub mod packet_socket;
pub mod poll;
pub mod process_stats;
pub mod sandbox;
pub mod snmp;
pub mod socket;
pub mod sysctl;
pub mod systemd;
pub mod terminal;
pub mod thread;
pub mod timerfd;
pub mod timestamps;
pub mod worker;

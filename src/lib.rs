//! upcase: a TCP echo pair for measuring and teaching TCP.

pub mod cli;
pub mod load;
pub mod logging;
pub mod process;
pub mod progress;
pub mod reactor;
pub mod report;
pub mod send;
pub mod server;
pub mod socket;
pub mod stream;

//! Judges a finished run: the verdict on whose limit its numbers show, and the user's assertions.

pub mod assertion;
mod client;
mod connecting;
mod failures;
mod network;
mod pace;
mod server;
mod thresholds;
pub mod verdict;

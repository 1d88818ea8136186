//! Tests the search for the highest rate (`load --find-max`) and the curve of `load --sweep`: the
//! decisions against another implementation and in simulation, the commands from outside, and the
//! search against servers with a programmed knee.

#[path = "../common/mod.rs"]
mod common;

mod classification;
mod commands;
mod knee;
mod simulation;

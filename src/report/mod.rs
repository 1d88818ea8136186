//! The result of a run for its reader: a page for a person, an object for a program. Pure: data in,
//! text out.

pub mod json;
pub mod text;

//! Renders the result of a run: as a page of text for a person, or as JSON for a program. Pure:
//! data in, text out.

pub mod columns;
pub mod json;
pub mod progress;
pub mod text;

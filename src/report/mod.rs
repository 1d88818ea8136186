//! Renders the result of a run: as text or a page for a person, as JSON or a table for a program.
//! Pure: data in, text out.

pub mod ci;
pub mod columns;
pub mod csv;
pub mod grid;
pub mod hgrm;
pub mod json;
pub mod outcomes;
pub mod page;
pub mod percentiles;
pub mod progress;
pub mod stages;
pub mod text;

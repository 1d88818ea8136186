//! The output of `sniff`: segments in words, and the document around them as text, Markdown or
//! JSON.

pub mod calendar;
pub mod document;
pub mod json;
pub mod markdown;
pub mod results;
pub mod text;
pub mod transcript;

//! Appends texts and numbers to a string, faster than with `std::fmt`. A capture has millions of
//! segments with a dozen numbers each, and general formatting would take most of the time of the
//! whole work. Pure.

use std::fmt::Write;

use crate::units::{Counted, grouped};

/// A value that can be appended to a text.
pub trait Part {
    /// Appends the value to `out`.
    fn put(&self, out: &mut String);
}

impl Part for &str {
    fn put(&self, out: &mut String) {
        out.push_str(self);
    }
}

impl Part for Counted<'_> {
    fn put(&self, out: &mut String) {
        let (count, stem, ending) = self.parts();
        match count {
            0..1000 => count.put(out),
            // Writing to a string cannot fail.
            _ => {
                let _ = write!(out, "{}", grouped(count));
            }
        }
        for part in [" ", stem, ending] {
            out.push_str(part);
        }
    }
}

macro_rules! numbers {
    ($($number:ty)*) => {
        $(impl Part for $number {
            fn put(&self, out: &mut String) {
                out.push_str(itoa::Buffer::new().format(*self));
            }
        })*
    };
}

numbers!(u8 u16 u32 u64 i64);

/// Appends parts, one after the other.
macro_rules! put {
    ($out:expr, $($part:expr),+ $(,)?) => {{
        $($crate::sniff::print::text::Part::put(&$part, $out);)+
    }};
}

pub(crate) use put;

/// Appends names, with a separator between them.
pub fn list<'a>(out: &mut String, names: impl Iterator<Item = &'a str>, separator: &str) {
    for (place, name) in names.enumerate() {
        if place > 0 {
            out.push_str(separator);
        }
        out.push_str(name);
    }
}

/// Appends a number with at least `places` characters, filled up on the left with `fill`.
pub fn padded(out: &mut String, number: u64, fill: char, places: usize) {
    let mut digits = itoa::Buffer::new();
    let digits = digits.format(number);
    for _ in digits.len()..places {
        out.push(fill);
    }
    out.push_str(digits);
}

/// Appends a text in which characters that control a terminal, or are invisible, are escaped.
pub fn visible(out: &mut String, text: &str) {
    visible_but(out, text, |_| false);
}

/// Appends a text in which the characters that [`visible`] escapes are escaped, and those for which
/// `also` returns true.
pub fn visible_but(out: &mut String, text: &str, also: impl Fn(char) -> bool) {
    let mut rest = text;
    while let Some(place) =
        rest.find(|character| is_invisible_or_control(character) || also(character))
    {
        out.push_str(&rest[..place]);
        let special = rest[place..].chars().next().unwrap_or_default();
        out.extend(special.escape_default());
        rest = &rest[place + special.len_utf8()..];
    }
    out.push_str(rest);
}

/// Returns true for characters that control a terminal, or are invisible.
fn is_invisible_or_control(character: char) -> bool {
    let invisible = matches!(
        character,
        '\u{ad}'
            | '\u{61c}'
            | '\u{180e}'
            | '\u{200b}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}'
            | '\u{feff}'
            | '\u{fff9}'..='\u{fffb}'
            | '\u{e0000}'..='\u{e007f}'
    );
    // Every space counts as invisible, except the ASCII one.
    let space = character.is_whitespace() && character != ' ';
    invisible || space || character.is_control()
}

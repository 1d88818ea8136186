//! Text put together from its parts. A capture has millions of segments with a dozen numbers each,
//! and formatting them in the general way would be most of the whole work. Pure.

/// A part of a text.
pub trait Part {
    /// Appends it.
    fn put(&self, out: &mut String);
}

impl Part for &str {
    fn put(&self, out: &mut String) {
        out.push_str(self);
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
        $($crate::capture::text::Part::put(&$part, $out);)+
    }};
}

pub(crate) use put;

/// Appends names, separated.
pub fn list<'a>(out: &mut String, names: impl Iterator<Item = &'a str>, separator: &str) {
    for (place, name) in names.enumerate() {
        if place > 0 {
            out.push_str(separator);
        }
        out.push_str(name);
    }
}

/// Appends a number in so many places at least, the first of them filled.
pub fn padded(out: &mut String, number: u64, fill: char, places: usize) {
    let mut digits = itoa::Buffer::new();
    let digits = digits.format(number);
    for _ in digits.len()..places {
        out.push(fill);
    }
    out.push_str(digits);
}

//! Escapes text for the page, in elements and in quoted attributes alike. Everything that a user, a
//! server or the kernel can word goes through it. Pure.
//!
//! Invariant: the escaped text has no character that ends an element's text or an attribute, and a
//! browser shows it as the text that it was; characters that cannot be shown, or that would reorder
//! the text around them, are shown as a replacement character.

use std::fmt::{self, Display, Write};

/// A text that is escaped when it is written.
#[derive(Clone, Copy, Debug)]
pub struct Escaped<'a>(&'a str);

/// Returns a text in a form that can be written into the page.
pub fn escape(text: &str) -> Escaped<'_> {
    Escaped(text)
}

impl Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for character in self.0.chars() {
            match character {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '"' => f.write_str("&quot;")?,
                '\'' => f.write_str("&#39;")?,
                '\n' | '\t' => f.write_char(character)?,
                other if other.is_control() || reorders(other) => f.write_char('\u{FFFD}')?,
                other => f.write_char(other)?,
            }
        }
        Ok(())
    }
}

/// Returns whether a character changes the direction of the text after it.
fn reorders(character: char) -> bool {
    matches!(
        character,
        '\u{061C}' | '\u{200E}' | '\u{200F}' | '\u{202A}'..='\u{202E}' | '\u{2066}'..='\u{2069}'
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Decodes what [`escape`] encodes.
    fn decoded(text: &str) -> String {
        let entities = [
            ("&lt;", "<"),
            ("&gt;", ">"),
            ("&quot;", "\""),
            ("&#39;", "'"),
            ("&amp;", "&"),
        ];
        let decode = |text: String, (entity, character)| text.replace(entity, character);
        entities.into_iter().fold(text.to_string(), decode)
    }

    #[test]
    fn text_cannot_become_an_element_or_end_an_attribute() {
        let text = "</style><script>alert('1')</script> \" onload=\"x\" & \u{202E}\0";
        let expected = "&lt;/style&gt;&lt;script&gt;alert(&#39;1&#39;)&lt;/script&gt; &quot; \
                        onload=&quot;x&quot; &amp; \u{FFFD}\u{FFFD}";
        assert_eq!(escape(text).to_string(), expected);
    }

    proptest! {
        #[test]
        fn any_text_is_shown_as_it_is(text in any::<String>()) {
            let escaped = escape(&text).to_string();
            prop_assert!(!escaped.contains(['<', '>', '"', '\'']), "{escaped}");
            let shown = |it: char| {
                let is_shown = it == '\n' || it == '\t' || !(it.is_control() || reorders(it));
                if is_shown { it } else { '\u{FFFD}' }
            };
            let expected: String = text.chars().map(shown).collect();
            prop_assert_eq!(decoded(&escaped), expected);
        }

        #[test]
        fn every_ampersand_begins_an_entity(text in "[&a-z;#<>\"']{0,40}") {
            let escaped = escape(&text).to_string();
            for rest in escaped.split('&').skip(1) {
                let entity = rest.split(';').next().unwrap_or_default();
                prop_assert!(["amp", "lt", "gt", "quot", "#39"].contains(&entity), "{escaped}");
            }
        }
    }
}

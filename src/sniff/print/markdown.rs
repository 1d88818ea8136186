//! Escapes text for a Markdown document, so that it is shown as it is even where Markdown
//! (CommonMark, GitHub's) or HTML gives its characters a meaning. Pure.
//!
//! Payload bytes are put into code spans, where only backticks have a meaning and runs of spaces
//! are kept. In other text each character that can have a meaning is escaped: with a backslash
//! where every dialect supports that, else as a character reference.

/// Appends a text as a code span. The text has no line breaks: the caller escapes those of a
/// payload.
pub fn code_span(out: &mut String, text: &str) {
    if text.is_empty() {
        return; // Markdown has no empty code span.
    }
    let runs = text.split(|character| character != '`').map(str::len);
    let fence = "`".repeat(runs.max().unwrap_or(0) + 1);
    let (first, last) = (text.starts_with('`'), text.ends_with('`'));
    let blank = text.trim_matches(' ').is_empty();
    let spaces = text.starts_with(' ') && text.ends_with(' ') && !blank;
    // A Markdown parser removes one space from each end.
    let pad = if first || last || spaces { " " } else { "" };
    for part in [&fence, pad, text, pad, &fence] {
        out.push_str(part);
    }
}

/// Appends a text outside of code spans, within a line that begins with something else.
pub fn escape(out: &mut String, text: &str) {
    for character in text.chars() {
        match character {
            '\\' | '`' | '*' | '_' | '[' | ']' | '!' | '#' => {
                out.push('\\');
                out.push(character);
            }
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '|' => out.push_str("&#124;"),
            '~' => out.push_str("&#126;"),
            '$' => out.push_str("&#36;"),
            '@' => out.push_str("&#64;"),
            '^' => out.push_str("&#94;"),
            _ => out.push(character),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use pulldown_cmark::{Event, Options, Parser, Tag, TagEnd};

    use super::*;

    /// Returns the rendered text of one line of a document, and whether it has nothing but text and
    /// code spans.
    fn rendered(markdown: &str) -> (String, bool) {
        let mut options = Options::all();
        // Smart punctuation changes the characters of a text on purpose.
        options.remove(Options::ENABLE_SMART_PUNCTUATION);
        options.remove(Options::ENABLE_OLD_FOOTNOTES);
        let (mut text, mut plain) = (String::new(), true);
        for event in Parser::new_ext(markdown, options) {
            match event {
                Event::Text(part) | Event::Code(part) => text.push_str(&part),
                Event::Start(Tag::Paragraph) | Event::End(TagEnd::Paragraph) => {}
                _ => plain = false,
            }
        }
        (text, plain)
    }

    fn check(text: &str) {
        let mut span = "It says: ".to_string();
        code_span(&mut span, text);
        span.push('.');
        let expected = format!("It says: {text}.");
        assert_eq!(rendered(&span), (expected.clone(), true), "{span}");
        let mut escaped = "It says: ".to_string();
        escape(&mut escaped, text);
        escaped.push('.');
        assert_eq!(rendered(&escaped), (expected, true), "{escaped}");
    }

    #[test]
    fn what_markdown_and_html_take_for_theirs_is_shown() {
        for text in [
            "&amp; &lt; &copy; &#65;",
            "<b>bold</b> <!-- gone --> <script>alert(1)</script> <a@b.c>",
            "*a* _b_ **c** __d__ ~~e~~ ~f~ ^g^ $h$ ==i==",
            "`a` ``b`` ` ``` ````",
            "`",
            "``a",
            "a``",
            " a ",
            "   ",
            r"\ \\ \* \a \& \` \",
            "[a](b) ![c](d) [e][f] [^1] [[w]] [ ] a",
            "|a|b|",
            "# 1. - + > = a",
            "http://a.b www.a.b a@b.c @user #12 :smile:",
            "a  b   c",
            "Ünï漢字 \u{1f600}",
        ] {
            check(text);
        }
    }

    proptest! {
        #[test]
        fn any_text_is_shown_as_it_is(text in "[ -~éß漢]{1,40}") {
            // The text of a paragraph, unlike a code span, has no spaces at its end.
            check(&format!("\"{text}\""));
        }

        #[test]
        fn marks_close_together_are_shown(text in "[`*_<>&\\\\\\[\\]()!|~$a \"]{1,24}") {
            check(&format!("\"{text}\""));
        }
    }
}

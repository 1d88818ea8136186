//! Formats an error and its causes for people, on one line. Pure.

/// Returns an error and its causes on one line, each of them once: where the text of an error ends
/// with that of its cause, the cause is not repeated.
pub fn with_causes(error: &anyhow::Error) -> String {
    let mut line = String::new();
    for cause in error.chain() {
        let cause = cause.to_string();
        if line.ends_with(&cause) {
            continue;
        }
        if !line.is_empty() {
            line.push_str(": ");
        }
        line.push_str(&cause);
    }
    line
}

#[cfg(test)]
mod tests {
    use std::{error, fmt, io};

    use anyhow::Context;

    use super::*;

    /// An error whose text contains that of its cause, as in some libraries.
    #[derive(Debug)]
    struct Repeating(io::Error);

    impl fmt::Display for Repeating {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "a call failed: {}", self.0)
        }
    }

    impl error::Error for Repeating {
        fn source(&self) -> Option<&(dyn error::Error + 'static)> {
            Some(&self.0)
        }
    }

    #[test]
    fn every_cause_is_reported_once() {
        let cause = || io::Error::other("no room");
        let repeating = Err::<(), _>(Repeating(cause())).context("it did not start");
        let line = with_causes(&repeating.unwrap_err());
        assert_eq!(line, "it did not start: a call failed: no room");
        let plain = Err::<(), _>(cause()).context("a call failed");
        let plain = plain.context("it did not start").unwrap_err();
        assert_eq!(
            with_causes(&plain),
            "it did not start: a call failed: no room"
        );
    }
}

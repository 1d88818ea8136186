//! Checks the server's log for its rate limit.

use std::collections::BTreeMap;

/// Checks that a repeated condition is logged at most once a second. Lines that differ only in
/// numbers are the same condition.
pub fn check_rate(log: &str) -> Result<(), String> {
    let mut last = BTreeMap::new();
    for line in log.lines() {
        let Some((time, text)) = line.split_once("Z [") else {
            return Err(format!("no line of a log: {line}"));
        };
        let is_number = |byte: char| byte.is_ascii_digit() || byte == ',';
        let condition: String = text.chars().filter(|byte| !is_number(*byte)).collect();
        let time = milliseconds(time).ok_or_else(|| format!("no time: {line}"))?;
        if let Some(before) = last.insert(condition, time)
            && time < before + 995
        {
            return Err(format!("logged twice within a second: {log}"));
        }
    }
    Ok(())
}

/// Returns the milliseconds since midnight of a time such as `2026-01-31T12:00:00.123`.
fn milliseconds(time: &str) -> Option<u64> {
    let (_, clock) = time.split_once('T')?;
    let parts: Option<Vec<u64>> = clock
        .split([':', '.'])
        .map(|part| part.parse().ok())
        .collect();
    match parts?[..] {
        [hours, minutes, seconds, rest] => {
            Some(((hours * 60 + minutes) * 60 + seconds) * 1000 + rest)
        }
        _ => None,
    }
}

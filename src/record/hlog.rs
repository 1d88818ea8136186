//! Writes and reads HdrHistogram logs: the times of a run, one histogram per interval, which other
//! programs can read. Pure.
//!
//! ```text
//!   #[Histogram log format version 1.3]
//!   #[StartTime: 1764500000.250 (seconds since epoch), 2026-11-30T10:53:20.25Z]
//!   #[BaseTime: 1764500000.250 (seconds since epoch)]
//!   "StartTimestamp","Interval_Length","Interval_Max","Interval_Compressed_Histogram"
//!   0.012000,1.000000,3.251,HISTFAAAAC...
//!   Tag=unanswered,0.012000,1.000000,1000.342,HISTFAAAAB...
//! ```
//!
//! Each interval has one line without a tag: the messages of the run that ended in it. Lines with a
//! tag follow where there are such messages: those without a correct reply, with their age as a
//! lower bound, and those of the warm-up. Each message is in one line only, so a reader that
//! ignores tags counts each message once. Times before the start of the run belong to connecting.
//!
//! The version line, the legend and the base are needed by some readers: HdrHistogram_c refuses a
//! log without a version or with a longer line than 127 bytes before the first interval, and the
//! Java reader omits intervals whose time it cannot place. Values are in nanoseconds; by convention
//! the column of the maximum is in milliseconds.

use std::time::Duration;

use hdrhistogram::Histogram;

use crate::load::latency::Latency;
use crate::load::latency::encoded::{decode, encode};
use crate::record::description::Begun;
use crate::record::whole_lines;

/// The legend of the columns.
const LEGEND: &str =
    r#""StartTimestamp","Interval_Length","Interval_Max","Interval_Compressed_Histogram""#;

/// Maximum length of a line before the first interval, in bytes, with its end: HdrHistogram_c reads
/// such a line into a buffer of 128.
#[cfg(test)]
const HEADER_LINE_MOST: usize = 127;

/// The divisor of the maximum: nanoseconds in a millisecond.
const MAX_DIVISOR: f64 = 1e6;

/// The beginning of a line with a tag.
const TAG: &str = "Tag=";

/// The tags of the lines of an interval; see the module's docs.
const UNANSWERED: &str = "unanswered";
const WARMUP: &str = "warmup";
const WARMUP_UNANSWERED: &str = "warmup-unanswered";

/// One interval of a log that is written.
#[derive(Clone, Debug, Default)]
pub struct LogInterval {
    /// The beginning of the interval, as a time after the base of the log.
    pub from: Duration,
    /// The length of the interval.
    pub length: Duration,
    /// Messages of the warm-up.
    pub warmup: Latency,
    /// Messages of the run.
    pub run: Latency,
}

/// What a log contains.
#[derive(Clone, Debug, Default)]
pub struct Log {
    /// The intervals in the order of the file.
    pub intervals: Vec<LoggedInterval>,
    /// The sum of the intervals: messages of the warm-up, and messages of the run.
    pub warmup: Latency,
    /// See `warmup`.
    pub run: Latency,
    /// Lines that could not be read, each with its number and the reason.
    pub problems: Vec<String>,
}

/// One interval of a log that was read. Its histograms are kept as the text in which they were
/// written, which takes a hundredth of the memory.
#[derive(Clone, Debug, Default)]
pub struct LoggedInterval {
    texts: Vec<Encoded>,
}

/// The text of a histogram.
#[derive(Clone, Debug)]
struct Encoded {
    text: String,
    /// Whether its samples are lower bounds.
    is_bound: bool,
    is_warmup: bool,
}

impl LoggedInterval {
    /// Returns the times of the interval, with those of the warm-up.
    pub fn times(&self) -> Latency {
        let mut times = self.part(false);
        times.merge(&self.part(true));
        times
    }

    fn part(&self, is_warmup: bool) -> Latency {
        let mut times = Latency::default();
        for encoded in self
            .texts
            .iter()
            .filter(|encoded| encoded.is_warmup == is_warmup)
        {
            // The text was decoded before.
            if let Ok(histogram) = decode(&encoded.text) {
                times.merge(&latency(histogram, encoded.is_bound));
            }
        }
        times
    }
}

/// Returns the samples of a histogram, either as measured durations or as lower bounds.
fn latency(histogram: Histogram<u64>, is_bound: bool) -> Latency {
    match is_bound {
        false => Latency::from_histograms(histogram, None),
        true => Latency::from_histograms(Latency::default().known().clone(), Some(histogram)),
    }
}

/// Returns the beginning of a log. `what` names the values.
pub fn header(begun: &Begun, what: &str) -> String {
    let Begun { unix_s, utc, .. } = begun;
    format!(
        "#[Histogram log format version 1.3]\n\
         #[upcase: {what}]\n\
         #[upcase: values in nanoseconds, Interval_Max in milliseconds]\n\
         #[upcase: tag {UNANSWERED}: ages of messages without a correct reply]\n\
         #[upcase: tags {WARMUP} and {WARMUP_UNANSWERED}: messages due in the warm-up]\n\
         #[StartTime: {unix_s:.3} (seconds since epoch), {utc}]\n\
         #[BaseTime: {unix_s:.3} (seconds since epoch)]\n\
         {LEGEND}\n"
    )
}

/// Returns the lines of an interval.
pub fn lines(interval: &LogInterval) -> String {
    let LogInterval {
        from,
        length,
        warmup,
        run,
    } = interval;
    let tagged = [
        (UNANSWERED, run.censored()),
        (WARMUP, Some(warmup.known())),
        (WARMUP_UNANSWERED, warmup.censored()),
    ];
    let mut text = line(None, *from, *length, run.known());
    for (tag, histogram) in tagged {
        if let Some(histogram) = histogram.filter(|histogram| !histogram.is_empty()) {
            text += &line(Some(tag), *from, *length, histogram);
        }
    }
    text
}

fn line(tag: Option<&str>, from: Duration, length: Duration, of: &Histogram<u64>) -> String {
    let tag = tag.map_or(String::new(), |tag| format!("{TAG}{tag},"));
    format!(
        "{tag}{:.6},{:.6},{:.3},{}\n",
        from.as_secs_f64(),
        length.as_secs_f64(),
        of.max() as f64 / MAX_DIVISOR,
        encode(of)
    )
}

/// Reads a log. Lines that cannot be read are left out and named.
pub fn parse(text: &str) -> Log {
    let mut log = Log::default();
    for (number, line) in whole_lines(text).enumerate() {
        if line.is_empty() || line.starts_with('#') || line.starts_with('"') {
            continue;
        }
        if let Err(error) = log.add(line) {
            log.problems.push(format!("line {}: {error}", number + 1));
            // The intervals after it stay in their places.
            if !line.starts_with(TAG) {
                log.intervals.push(LoggedInterval::default());
            }
        }
    }
    log
}

impl Log {
    /// Removes all intervals but the first `count`.
    pub fn truncate(&mut self, count: usize) {
        for extra in self.intervals.drain(count.min(self.intervals.len())..) {
            self.warmup = self.warmup.since(&extra.part(true));
            self.run = self.run.since(&extra.part(false));
        }
    }

    fn add(&mut self, line: &str) -> Result<(), String> {
        let (tag, rest) = match line.strip_prefix(TAG) {
            Some(tagged) => tagged.split_once(',').ok_or("a tag and nothing else")?,
            None => ("", line),
        };
        let mut fields = rest.splitn(4, ',');
        let mut field = |name: &str| fields.next().ok_or(format!("{name} is missing"));
        seconds(field("the start")?)?;
        seconds(field("the length")?)?;
        field("the maximum")?;
        let text = field("the histogram")?;
        let histogram = decode(text)?;
        let (is_bound, is_warmup) = match tag {
            "" => (false, false),
            UNANSWERED => (true, false),
            WARMUP => (false, true),
            WARMUP_UNANSWERED => (true, true),
            other => return Err(format!("an unknown tag: {other}")),
        };
        if tag.is_empty() {
            self.intervals.push(LoggedInterval::default());
        }
        let last = self.intervals.last_mut();
        let interval = last.ok_or("a line with a tag before the first without one")?;
        interval.texts.push(Encoded {
            text: text.to_string(),
            is_bound,
            is_warmup,
        });
        let sum = if is_warmup {
            &mut self.warmup
        } else {
            &mut self.run
        };
        sum.merge(&latency(histogram, is_bound));
        Ok(())
    }
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: Option<f64> = text.parse().ok();
    let duration = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    duration.ok_or(format!("not a time in seconds: {text}"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn begun() -> Begun {
        Begun {
            utc: "2026-11-30T10:53:20.25Z".to_string(),
            unix_s: 1_764_500_000.25,
            monotonic_s: 12.0,
        }
    }

    fn latency() -> impl Strategy<Value = Latency> {
        let values = || prop::collection::vec(0u64..1 << 40, 0..20);
        (values(), values()).prop_map(|(known, censored)| {
            let mut latency = Latency::default();
            known
                .iter()
                .for_each(|n| latency.record(Duration::from_nanos(*n)));
            censored
                .iter()
                .for_each(|n| latency.record_at_least(Duration::from_nanos(*n)));
            latency
        })
    }

    proptest! {
        #[test]
        fn what_is_read_is_what_was_written(
            intervals in prop::collection::vec((latency(), latency()), 0..6),
            cut in any::<prop::sample::Index>(),
        ) {
            let mut text = header(&begun(), "response times");
            let mut ends = vec![text.len()];
            for (number, (warmup, run)) in intervals.iter().enumerate() {
                text += &lines(&LogInterval {
                    from: Duration::from_millis(number as u64 * 1000),
                    length: Duration::from_secs(1),
                    warmup: warmup.clone(),
                    run: run.clone(),
                });
                ends.push(text.len());
            }
            let log = parse(&text);
            prop_assert!(log.problems.is_empty(), "{:?}", log.problems);
            prop_assert_eq!(log.intervals.len(), intervals.len());
            let (mut all_warmup, mut all_run) = (Latency::default(), Latency::default());
            for (found, (warmup, run)) in log.intervals.iter().zip(&intervals) {
                let mut written = warmup.clone();
                written.merge(run);
                prop_assert!(found.times().has_same_samples(&written));
                all_warmup.merge(warmup);
                all_run.merge(run);
            }
            for (found, written) in [(&log.warmup, all_warmup), (&log.run, all_run)] {
                prop_assert!(found.has_same_samples(&written));
            }
            let mut first = log.clone();
            first.truncate(1);
            let of_first = log.intervals.first().map(LoggedInterval::times).unwrap_or_default();
            let mut kept = first.warmup.clone();
            kept.merge(&first.run);
            prop_assert!(kept.has_same_samples(&of_first));
            // A file that was cut anywhere holds what was complete, and is no broken file.
            let cut = cut.index(text.len() + 1);
            let log = parse(&text[..cut]);
            prop_assert!(log.problems.is_empty(), "{:?}", log.problems);
            let complete = ends.iter().filter(|end| **end <= cut).count();
            prop_assert!(log.intervals.len() + 1 >= complete);
        }
    }

    #[test]
    fn a_line_that_is_broken_is_named_and_the_others_are_read() {
        let good = lines(&LogInterval::default());
        let text = format!("{good}0.0,1.0,2.0,no sense\nTag=x,{good}0.0,soon,1.0,AAAA\n{good}");
        let log = parse(&text);
        // Those that cannot be read keep their places.
        assert_eq!(log.intervals.len(), 4);
        assert_eq!(log.problems.len(), 3);
        assert!(log.problems[0].starts_with("line 2: not base64"), "{log:?}");
        assert_eq!(log.problems[1], "line 3: an unknown tag: x");
        assert_eq!(log.problems[2], "line 4: not a time in seconds: soon");
    }

    #[test]
    fn a_log_begins_with_what_readers_need() {
        let header = header(&begun(), "response times");
        let lines: Vec<&str> = header.lines().collect();
        assert_eq!(lines[0], "#[Histogram log format version 1.3]");
        for (_, what) in crate::record::LOGS {
            let header = super::header(&begun(), what);
            assert!(header.lines().all(|line| line.len() < HEADER_LINE_MOST));
        }
        let start = "#[StartTime: 1764500000.250 (seconds since epoch), 2026-11-30T10:53:20.25Z]";
        assert_eq!(lines[5], start);
        assert_eq!(
            lines[6],
            "#[BaseTime: 1764500000.250 (seconds since epoch)]"
        );
        assert_eq!(lines.last(), Some(&LEGEND));
    }
}

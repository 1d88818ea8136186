//! The metrics page: the state of the server in the text format of Prometheus, version 0.0.4. Pure.
//!
//! Names follow <https://prometheus.io/docs/practices/naming/>; those of the process are the ones
//! that the official client libraries use.

use std::time::Duration;

use prometheus::TextEncoder;
use prometheus::proto::{
    Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType,
};

use crate::server::limits::Limits;
use crate::server::stats::{CloseReason, Log2Histogram, Snapshot, Totals};
use crate::sys::process_stats::ProcessStats;

/// The media type of the page, to which the character set is added.
pub const KIND: &str = "text/plain; version=0.0.4";

const MICROS_A_SECOND: f64 = 1e6;

/// The data on the page.
#[derive(Clone, Copy, Debug)]
pub struct Page<'a> {
    /// The sum over all shards.
    pub snapshot: &'a Snapshot,
    /// Number of shards.
    pub shards: usize,
    /// Number of shards that did not answer in time.
    pub silent: usize,
    /// The limits of the whole process.
    pub limits: &'a Limits,
    /// The figures of the process.
    pub process_stats: &'a ProcessStats,
    /// Number of lines of the log that were dropped.
    pub log_lines_dropped: u64,
}

impl Page<'_> {
    /// Returns the page as text. The error would be a family without a name or a value, of which
    /// there is none.
    pub fn text(&self) -> prometheus::Result<String> {
        TextEncoder::new().encode_to_string(&self.families())
    }

    fn families(&self) -> Vec<MetricFamily> {
        let mut families = self.server();
        families.extend(counters(&self.snapshot.totals));
        families.extend(limits(self.limits));
        families.extend(process(self.process_stats));
        families
    }

    fn server(&self) -> Vec<MetricFamily> {
        let Snapshot {
            totals: _,
            open,
            pending_bytes,
            is_stopping,
        } = self.snapshot;
        let version = labelled(gauge_of(1.0), "version", env!("CARGO_PKG_VERSION"));
        vec![
            family(
                "upcase_build_info",
                "Always 1; the version is in the label.",
                MetricType::GAUGE,
                vec![version],
            ),
            gauge("upcase_connections", "Clients that are connected.", *open),
            gauge(
                "upcase_pending_bytes",
                "Bytes received and converted that the kernel has not accepted yet.",
                *pending_bytes,
            ),
            gauge(
                "upcase_stopping",
                "1 once the server has begun to stop, 0 before.",
                u64::from(*is_stopping),
            ),
            gauge(
                "upcase_shards",
                "Reactors, each in a thread of its own.",
                self.shards as u64,
            ),
            gauge(
                "upcase_silent_shards",
                "Shards that did not respond in time and are counted with their previous figures.",
                self.silent as u64,
            ),
            counter(
                "upcase_log_lines_dropped_total",
                "Log lines that were dropped: standard error or the log file did not accept them.",
                self.log_lines_dropped,
            ),
        ]
    }
}

fn counters(totals: &Totals) -> Vec<MetricFamily> {
    let closed = CloseReason::ALL.iter().map(|&reason| {
        let name = reason.name().replace(' ', "_");
        labelled(counter_of(totals.closed(reason) as f64), "reason", &name)
    });
    vec![
        counter(
            "upcase_accepted_total",
            "Clients accepted.",
            totals.accepted,
        ),
        family(
            "upcase_closed_total",
            "Connections that ended, by reason; with upcase_connections they add up to \
             upcase_accepted_total.",
            MetricType::COUNTER,
            closed.collect(),
        ),
        counter(
            "upcase_received_bytes_total",
            "Bytes received from clients.",
            totals.traffic.bytes_in,
        ),
        counter(
            "upcase_sent_bytes_total",
            "Bytes of replies that the kernel has accepted for sending.",
            totals.traffic.bytes_out,
        ),
        counter(
            "upcase_stale_events_total",
            "Events of connections that were closed already.",
            totals.stale_events,
        ),
        counter(
            "upcase_lost_in_queue_total",
            "Clients that were lost before they could be accepted.",
            totals.lost,
        ),
        counter(
            "upcase_turned_away_total",
            "Clients that were reset in the accept queue when their listener closed.",
            totals.reset_in_queue,
        ),
        pauses(
            "upcase_accept_pauses_total",
            "Pauses in accepting: at the limit on clients, or out of descriptors or memory.",
            totals.full.count as f64,
            totals.exhausted.count as f64,
        ),
        pauses(
            "upcase_accept_pause_seconds_total",
            "Time in pauses in accepting, summed over the shards.",
            totals.full.time.as_secs_f64(),
            totals.exhausted.time.as_secs_f64(),
        ),
        histogram(
            "upcase_turn_events",
            "Events handled in a turn of the event loop.",
            &totals.turns.events,
            1.0,
        ),
        histogram(
            "upcase_turn_seconds",
            "Time from the first event of a turn to its end, rounded to microseconds.",
            &totals.turns.micros,
            MICROS_A_SECOND,
        ),
    ]
}

fn limits(limits: &Limits) -> Vec<MetricFamily> {
    let always = [
        gauge(
            "upcase_limit_connections",
            "Maximum number of clients at a time, shared by all shards.",
            limits.max_connections as u64,
        ),
        gauge(
            "upcase_limit_rate_bytes_per_second",
            "Minimum average rate at which a client must acknowledge its replies.",
            limits.min_rate,
        ),
        gauge(
            "upcase_limit_read_bytes",
            "Maximum number of bytes of one read, and of the pending bytes of a connection.",
            limits.large_read_bytes as u64,
        ),
        gauge(
            "upcase_limit_turn_bytes",
            "Maximum number of bytes of one connection that are echoed in a turn.",
            limits.turn_bytes as u64,
        ),
        gauge(
            "upcase_limit_turn_accepts",
            "Maximum number of clients that one listener accepts in a turn.",
            limits.turn_accepts as u64,
        ),
        seconds(
            "upcase_limit_drain_seconds",
            "Maximum time for which a stopping server continues to serve.",
            limits.drain_timeout,
        ),
    ];
    let where_set = [
        limits.max_connections_per_ip.map(|most| {
            let help = "Maximum number of clients per IPv4 address or IPv6 /64; absent: no limit.";
            gauge("upcase_limit_connections_per_ip", help, u64::from(most))
        }),
        limits.idle_timeout.map(|time| {
            let help = "Maximum time for which a client may be silent; absent: no limit.";
            seconds("upcase_limit_idle_seconds", help, time)
        }),
        limits.stall_timeout.map(|time| {
            let help = "Time in which a client must acknowledge its replies; absent: no limit.";
            seconds("upcase_limit_stall_seconds", help, time)
        }),
    ];
    let where_set = where_set.into_iter().flatten();
    always.into_iter().chain(where_set).collect()
}

/// Returns the metrics of the process, with the names and help texts of the official client
/// libraries.
fn process(process_stats: &ProcessStats) -> Vec<MetricFamily> {
    let known = |name, help, value: Option<u64>| Some(gauge(name, help, value?));
    let cpu = process_stats.cpu_seconds.map(|seconds| {
        let help = "Total user and system CPU time spent in seconds.";
        let metrics = vec![counter_of(seconds)];
        family(
            "process_cpu_seconds_total",
            help,
            MetricType::COUNTER,
            metrics,
        )
    });
    let started = process_stats.started.map(|seconds| {
        let help = "Start time of the process since unix epoch in seconds.";
        let metrics = vec![gauge_of(seconds)];
        family(
            "process_start_time_seconds",
            help,
            MetricType::GAUGE,
            metrics,
        )
    });
    let families = [
        cpu,
        started,
        known(
            "process_resident_memory_bytes",
            "Resident memory size in bytes.",
            process_stats.resident_bytes,
        ),
        known(
            "process_virtual_memory_bytes",
            "Virtual memory size in bytes.",
            process_stats.virtual_bytes,
        ),
        known(
            "process_threads",
            "Number of OS threads in the process.",
            process_stats.threads,
        ),
        known(
            "process_open_fds",
            "Number of open file descriptors.",
            process_stats.open_descriptors,
        ),
        known(
            "process_max_fds",
            "Maximum number of open file descriptors.",
            process_stats.most_descriptors,
        ),
    ];
    families.into_iter().flatten().collect()
}

/// Returns a histogram. Its values divided by `parts` are in the unit of its name.
fn histogram<const N: usize>(
    name: &str,
    help: &str,
    log2: &Log2Histogram<N>,
    parts: f64,
) -> MetricFamily {
    let mut count = 0;
    let mut buckets = Vec::with_capacity(N - 1);
    for (place, more) in log2.counts.iter().enumerate() {
        count += more;
        // The last bucket has no bound: the encoder writes it as +Inf, from the count.
        if place < N - 1 {
            let mut bucket = Bucket::default();
            bucket.set_upper_bound((1_u64 << place) as f64 / parts);
            bucket.set_cumulative_count(count);
            buckets.push(bucket);
        }
    }
    let mut histogram = Histogram::default();
    histogram.set_bucket(buckets);
    histogram.set_sample_count(count);
    histogram.set_sample_sum(log2.sum as f64 / parts);
    let mut metric = Metric::default();
    metric.set_histogram(histogram);
    family(name, help, MetricType::HISTOGRAM, vec![metric])
}

fn pauses(name: &str, help: &str, full: f64, exhausted: f64) -> MetricFamily {
    let metrics = vec![
        labelled(counter_of(full), "cause", "full"),
        labelled(counter_of(exhausted), "cause", "exhausted"),
    ];
    family(name, help, MetricType::COUNTER, metrics)
}

fn counter(name: &str, help: &str, value: u64) -> MetricFamily {
    let metrics = vec![counter_of(value as f64)];
    family(name, help, MetricType::COUNTER, metrics)
}

fn gauge(name: &str, help: &str, value: u64) -> MetricFamily {
    let metrics = vec![gauge_of(value as f64)];
    family(name, help, MetricType::GAUGE, metrics)
}

fn seconds(name: &str, help: &str, time: Duration) -> MetricFamily {
    let metrics = vec![gauge_of(time.as_secs_f64())];
    family(name, help, MetricType::GAUGE, metrics)
}

fn family(name: &str, help: &str, kind: MetricType, metrics: Vec<Metric>) -> MetricFamily {
    let mut family = MetricFamily::default();
    family.set_name(name.to_string());
    family.set_help(help.to_string());
    family.set_field_type(kind);
    family.set_metric(metrics);
    family
}

fn counter_of(value: f64) -> Metric {
    let mut counter = Counter::default();
    counter.set_value(value);
    let mut metric = Metric::default();
    metric.set_counter(counter);
    metric
}

fn gauge_of(value: f64) -> Metric {
    let mut gauge = Gauge::default();
    gauge.set_value(value);
    Metric::from_gauge(gauge)
}

fn labelled(mut metric: Metric, name: &str, value: &str) -> Metric {
    let mut label = LabelPair::default();
    label.set_name(name.to_string());
    label.set_value(value.to_string());
    metric.set_label(vec![label]);
    metric
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::stats::{Pauses, Traffic};

    fn snapshot() -> Snapshot {
        let mut snapshot = Snapshot {
            open: 9,
            pending_bytes: 10,
            is_stopping: true,
            ..Snapshot::default()
        };
        let totals = &mut snapshot.totals;
        totals.accepted = 1_000_000_012;
        totals.traffic = Traffic {
            bytes_in: 9_007_199_254_740_991,
            bytes_out: 8,
        };
        (totals.stale_events, totals.lost, totals.reset_in_queue) = (3, 4, 5);
        totals.full = Pauses {
            count: 6,
            time: Duration::from_millis(1_500),
        };
        totals.exhausted = Pauses {
            count: 7,
            time: Duration::from_micros(1),
        };
        for (place, &reason) in CloseReason::ALL.iter().enumerate() {
            (0..place).for_each(|_| totals.count_close(reason));
        }
        for value in [0, 1, 2, 3, 1024, 5000] {
            totals.turns.events.count(value);
        }
        for value in [1, 1_000_000, 3_000_000] {
            totals.turns.micros.count(value);
        }
        snapshot
    }

    fn page(limits: &Limits, process_stats: &ProcessStats) -> (String, Vec<MetricFamily>) {
        let page = Page {
            snapshot: &snapshot(),
            shards: 4,
            silent: 1,
            limits,
            process_stats,
            log_lines_dropped: 12,
        };
        (page.text().unwrap(), page.families())
    }

    fn all_stats() -> ProcessStats {
        ProcessStats {
            cpu_seconds: Some(0.25),
            resident_bytes: Some(4096),
            virtual_bytes: Some(8192),
            threads: Some(5),
            open_descriptors: Some(20),
            most_descriptors: Some(20_000),
            started: Some(1_700_000_000.5),
        }
    }

    #[test]
    fn every_family_has_a_name_of_its_own_and_help() {
        let limits = Limits {
            max_connections_per_ip: Some(1),
            idle_timeout: Some(Duration::from_secs(1)),
            ..Limits::default()
        };
        let (_, families) = page(&limits, &all_stats());
        let mut names: Vec<&str> = families.iter().map(MetricFamily::name).collect();
        names.sort_unstable();
        let count = names.len();
        names.dedup();
        assert_eq!(names.len(), count);
        for family in &families {
            assert!(family.help().ends_with('.'), "{}", family.name());
            assert!(!family.get_metric().is_empty(), "{}", family.name());
        }
    }

    #[test]
    fn the_page_is_the_snapshot() {
        let limits = Limits {
            max_connections: 1234,
            ..Limits::default()
        };
        let (text, _) = page(&limits, &all_stats());
        for line in [
            "upcase_connections 9",
            "upcase_pending_bytes 10",
            "upcase_stopping 1",
            "upcase_shards 4",
            "upcase_silent_shards 1",
            "upcase_accepted_total 1000000012",
            "upcase_closed_total{reason=\"finished\"} 0",
            "upcase_closed_total{reason=\"timed_out\"} 2",
            "upcase_closed_total{reason=\"failed\"} 9",
            "upcase_received_bytes_total 9007199254740991",
            "upcase_sent_bytes_total 8",
            "upcase_stale_events_total 3",
            "upcase_lost_in_queue_total 4",
            "upcase_turned_away_total 5",
            "upcase_accept_pauses_total{cause=\"full\"} 6",
            "upcase_accept_pauses_total{cause=\"exhausted\"} 7",
            "upcase_accept_pause_seconds_total{cause=\"full\"} 1.5",
            "upcase_accept_pause_seconds_total{cause=\"exhausted\"} 0.000001",
            "upcase_turn_events_bucket{le=\"1\"} 2",
            "upcase_turn_events_bucket{le=\"4\"} 4",
            "upcase_turn_events_bucket{le=\"1024\"} 5",
            "upcase_turn_events_bucket{le=\"+Inf\"} 6",
            "upcase_turn_events_sum 6030",
            "upcase_turn_events_count 6",
            "upcase_turn_seconds_bucket{le=\"0.000001\"} 1",
            "upcase_turn_seconds_bucket{le=\"1.048576\"} 2",
            "upcase_turn_seconds_bucket{le=\"+Inf\"} 3",
            "upcase_turn_seconds_sum 4.000001",
            "upcase_limit_connections 1234",
            "upcase_limit_stall_seconds 30",
            "process_cpu_seconds_total 0.25",
            "process_open_fds 20",
            "process_start_time_seconds 1700000000.5",
        ] {
            assert!(text.lines().any(|is| is == line), "{line} in {text}");
        }
    }

    #[test]
    fn what_is_not_known_or_not_limited_is_not_told() {
        let (text, _) = page(&Limits::default(), &ProcessStats::default());
        assert!(!text.contains("process_"), "{text}");
        assert!(!text.contains("upcase_limit_idle_seconds"), "{text}");
        assert!(!text.contains("upcase_limit_connections_per_ip"), "{text}");
    }
}

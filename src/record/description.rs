//! What a run was, apart from what it measured: when, where, by which build and with which options.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::sys::{machine, monotonic, sysctl};

/// The kernel's settings that affect a run most.
const SETTINGS: [&str; 10] = [
    "net.core.somaxconn",
    "net.core.rmem_max",
    "net.core.wmem_max",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_wmem",
    "net.ipv4.tcp_mem",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.tcp_congestion_control",
    "net.ipv4.tcp_max_syn_backlog",
    "net.ipv4.tcp_tw_reuse",
];

/// The description of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Description {
    /// The version of upcase.
    pub version: String,
    /// The architecture and the profile of the build, such as `x86_64-linux, release`.
    pub build: String,
    /// The command line that repeats the run, quoted for a shell.
    pub command: String,
    /// Every option by its name, with its value, defaults included.
    pub options: BTreeMap<String, OptionValue>,
    /// The time at which the process began the run, before connections were opened.
    pub begun: Begun,
    /// The machine that carried out the run.
    pub host: Host,
    /// The kernel's settings, see `SETTINGS`; without those that this kernel lacks.
    pub sysctls: BTreeMap<String, String>,
    /// `--note`.
    pub note: Option<String>,
    /// `--label`.
    pub labels: BTreeMap<String, String>,
}

/// The value of an option.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum OptionValue {
    /// Whether an option that takes no value is given.
    Flag(bool),
    /// The value as it was typed, or the default.
    One(String),
    /// The values of an option that may be repeated.
    Several(Vec<String>),
    /// The option was not given, and has no default.
    Absent,
}

impl OptionValue {
    /// Returns the values as they were typed.
    pub fn values(&self) -> &[String] {
        match self {
            OptionValue::One(value) => std::slice::from_ref(value),
            OptionValue::Several(values) => values,
            OptionValue::Flag(_) | OptionValue::Absent => &[],
        }
    }
}

impl fmt::Display for OptionValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            OptionValue::Flag(true) => f.write_str("on"),
            OptionValue::Flag(false) => f.write_str("off"),
            OptionValue::One(_) | OptionValue::Several(_) => f.write_str(&self.values().join(", ")),
            OptionValue::Absent => f.write_str("not given"),
        }
    }
}

/// One moment by two clocks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Begun {
    /// In UTC, as in RFC 3339, with microseconds.
    pub utc: String,
    /// In seconds since 1970.
    pub unix_s: f64,
    /// By CLOCK_MONOTONIC of the host, in seconds.
    pub monotonic_s: f64,
}

/// The machine that carried out a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Host {
    /// Its name.
    pub name: String,
    /// Name and release of its kernel.
    pub kernel: String,
    /// The model of its CPUs, as far as the kernel knows it.
    pub cpu: Option<String>,
    /// Number of CPUs that the process may use.
    pub cpus: usize,
}

impl Description {
    /// Describes a run that begins now on this machine.
    pub fn new(
        command: String,
        options: BTreeMap<String, OptionValue>,
        note: Option<String>,
        labels: BTreeMap<String, String>,
    ) -> Description {
        let read = |name: &&str| Some((name.to_string(), sysctl::read(name)?));
        Description {
            version: env!("CARGO_PKG_VERSION").to_string(),
            build: build(),
            command,
            options,
            begun: Begun::now(),
            host: Host::this(),
            sysctls: SETTINGS.iter().filter_map(read).collect(),
            note,
            labels,
        }
    }
}

impl Begun {
    /// Returns the time at an instant of this process.
    pub fn at(instant: Instant) -> Begun {
        let passed = Instant::now().saturating_duration_since(instant);
        let to_come = instant.saturating_duration_since(Instant::now());
        Begun::new(
            SystemTime::now() - passed + to_come,
            monotonic::reading(instant),
        )
    }

    fn now() -> Begun {
        Begun::at(Instant::now())
    }

    fn new(now: SystemTime, reading: i64) -> Begun {
        let since_1970 = now.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        Begun {
            utc: utc(now),
            unix_s: since_1970.as_secs_f64(),
            monotonic_s: reading as f64 / 1e9,
        }
    }
}

impl Host {
    fn this() -> Host {
        Host {
            name: machine::name(),
            kernel: machine::kernel(),
            cpu: machine::cpu_model(),
            cpus: machine::cpus(),
        }
    }
}

/// Returns the architecture, the system and the profile of this build.
fn build() -> String {
    let (architecture, system) = (std::env::consts::ARCH, std::env::consts::OS);
    let profile = if cfg!(debug_assertions) {
        "debug"
    } else {
        "release"
    };
    format!("{architecture}-{system}, {profile}")
}

/// Returns a time in UTC as in RFC 3339, with microseconds.
fn utc(time: SystemTime) -> String {
    let time = Timestamp::try_from(time);
    time.map_or(String::new(), |time| format!("{time:.6}"))
}

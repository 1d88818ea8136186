//! Tests whether the simulations find bugs (mutation tests): each patch of `planted/` breaks one
//! rule of the server, or of the load generator, in a copy of the sources, and their simulation
//! must fail there within a minute, or within twice the time that it takes without a bug.
//!
//! A patch begins with the rule that it breaks. The copy has a target directory of its own, in
//! which the dependencies are built once.
//!
//! `UPCASE_PLANTED=name` applies only the patches whose name contains this text.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// Time after which a bug counts as not found, unless the simulation takes more than half of it
/// without a bug: on a slow machine the limit is twice that time.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Maximum time of a simulation without a bug.
const SOUND_TIMEOUT: Duration = Duration::from_secs(180);

/// Message of a simulation whose random runs covered too little: that is no finding.
const COVERAGE: &str = "the runs are to show everything";

/// Maximum number of characters of a finding that are printed: some hold the whole state of a run.
const FINDING_SHOWN: usize = 120;

/// A simulation that must find bugs.
struct Hunter {
    /// Folder of its bugs, in `planted/`.
    folder: &'static str,
    test: &'static str,
    /// Path of its sources.
    path: &'static str,
    /// Filter of its tests that are run; if empty, all are run.
    filter: &'static str,
    /// Text before the seed in its output, if the failed test uses random numbers.
    seed: &'static str,
}

const HUNTERS: [Hunter; 2] = [
    Hunter {
        folder: "server",
        test: "server_simulation",
        path: "tests/server_simulation",
        filter: "swarm",
        seed: "UPCASE_SERVER_SEED=",
    },
    Hunter {
        folder: "load",
        test: "simulation",
        path: "tests/simulation",
        filter: "",
        seed: "UPCASE_SEED=",
    },
];

impl Hunter {
    /// Returns the patches of the bugs that it must find.
    fn patches(&self) -> Vec<PathBuf> {
        let wanted = std::env::var("UPCASE_PLANTED").unwrap_or_default();
        let entries = fs::read_dir(source("tests/planted").join(self.folder)).unwrap();
        let mut patches: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
        patches.retain(|patch| name(patch).contains(&wanted));
        patches.sort();
        patches
    }
}

/// A copy of the sources that is removed with its test.
struct Copy {
    folder: PathBuf,
}

impl Copy {
    fn new() -> Copy {
        let folder = std::env::temp_dir().join(format!("upcase-planted-{}", std::process::id()));
        let copy = Copy { folder };
        copy.files("src");
        for hunter in &HUNTERS {
            copy.files(hunter.path);
        }
        fs::copy(source("Cargo.lock"), copy.folder.join("Cargo.lock")).unwrap();
        let manifest = fs::read_to_string(source("Cargo.toml")).unwrap();
        fs::write(copy.folder.join("Cargo.toml"), slim(&manifest)).unwrap();
        copy
    }

    /// Copies the files under this path.
    fn files(&self, path: &str) {
        let (from, to) = (source(path), self.folder.join(path));
        if from.is_dir() {
            fs::create_dir_all(&to).unwrap();
            for entry in fs::read_dir(&from).unwrap() {
                let name = entry.unwrap().file_name();
                self.files(&format!("{path}/{}", name.to_str().unwrap()));
            }
        } else {
            fs::create_dir_all(to.parent().unwrap()).unwrap();
            fs::copy(&from, &to).unwrap();
        }
    }

    /// Applies a patch, or reverts it.
    fn patch(&self, patch: &Path, takes_back: bool) {
        let mut command = Command::new("patch");
        command.args([
            "--strip=1",
            "--fuzz=0",
            "--forward",
            "--silent",
            "--no-backup-if-mismatch",
        ]);
        command.arg(format!("--input={}", patch.display()));
        if takes_back {
            command.arg("--reverse");
        }
        let done = command.current_dir(&self.folder).status();
        let done = done.expect("the program `patch` is installed");
        assert!(done.success(), "{} no longer applies", patch.display());
    }

    /// Builds a simulation, and returns the path of its executable.
    fn build(&self, hunter: &Hunter) -> Result<PathBuf, String> {
        let built = Command::new(env!("CARGO"))
            .args([
                "test",
                "--offline",
                "--no-run",
                "--message-format=json",
                "--test",
                hunter.test,
            ])
            .env("CARGO_TARGET_DIR", self.folder.join("target"))
            .env("CARGO_PROFILE_DEV_DEBUG", "0")
            .env("CARGO_INCREMENTAL", "1")
            // Optimization across the units of the library would take longer than what it saves.
            .env("CARGO_PROFILE_DEV_LTO", "off")
            .current_dir(&self.folder)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let messages = String::from_utf8_lossy(&built.stdout);
        let executable = messages
            .lines()
            .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
            .filter(|message| message["target"]["name"] == hunter.test)
            .find_map(|message| message["executable"].as_str().map(PathBuf::from));
        executable.ok_or_else(|| String::from_utf8_lossy(&built.stderr).into_owned())
    }

    /// Builds a simulation and runs it, with the effort that it has in every test run, until its
    /// first finding.
    fn run(&self, hunter: &Hunter, bug: &str, timeout: Duration) -> Outcome {
        let executable = self.build(hunter);
        let executable = executable.unwrap_or_else(|why| panic!("{bug} does not compile: {why}"));
        let path = self.folder.join("output");
        let output = File::create(&path).unwrap();
        let begun = Instant::now();
        let mut child = Command::new(executable)
            .args([hunter.filter, "--nocapture", "--test-threads=1"])
            .env("RUST_BACKTRACE", "0")
            .env_remove("UPCASE_SERVER_SEED")
            .env_remove("UPCASE_SEED")
            .stdin(Stdio::null())
            .stdout(output.try_clone().unwrap())
            .stderr(output)
            .spawn()
            .unwrap();
        loop {
            let status = child.try_wait().unwrap();
            let seconds = begun.elapsed().as_secs_f64();
            // The run may be writing a character of several bytes.
            let output = String::from_utf8_lossy(&fs::read(&path).unwrap()).into_owned();
            let has_failed = output.lines().any(|line| line.ends_with("FAILED"));
            let outcome = Outcome {
                passed: match status {
                    Some(status) => Some(status.success()),
                    None => has_failed.then_some(false),
                },
                seconds,
                output,
            };
            if status.is_some() {
                return outcome;
            }
            if outcome.finding().is_some() || begun.elapsed() > timeout {
                child.kill().unwrap();
                child.wait().unwrap();
                return outcome;
            }
            thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// The outcome of a run of a simulation.
struct Outcome {
    /// Whether the run passed; `None` if it did not end in time.
    passed: Option<bool>,
    seconds: f64,
    output: String,
}

impl Outcome {
    /// Returns the first line of the report of the bug. `None` if there is no report, or if the run
    /// passed or did not end.
    fn finding(&self) -> Option<&str> {
        if self.passed != Some(false) {
            return None;
        }
        let panics = self.output.split("panicked at").skip(1);
        let mut reported = panics.map(|panic| panic.lines().nth(1).unwrap_or_default());
        reported.find(|reported| !reported.contains(COVERAGE))
    }

    /// Returns a seed with which the bug is found, or `-` if a test without random numbers finds
    /// it.
    fn seed(&self, hunter: &Hunter) -> &str {
        let rest = self.output.split_once(hunter.seed).map(|(_, rest)| rest);
        let seed = rest.and_then(|rest| rest.split_whitespace().next());
        seed.unwrap_or("-")
    }
}

fn source(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// Returns the manifest without the dependencies of benchmarks and of other tests.
fn slim(manifest: &str) -> String {
    let manifest = manifest.split("[[bench]]").next().unwrap();
    let lines = manifest.lines();
    let lines =
        lines.filter(|line| !line.starts_with("criterion") && !line.starts_with("proptest"));
    lines.flat_map(|line| [line, "\n"]).collect()
}

fn name(patch: &Path) -> &str {
    patch.file_stem().unwrap().to_str().unwrap()
}

#[test]
fn every_patch_is_small_and_says_which_rule_it_breaks() {
    for patch in HUNTERS.iter().flat_map(Hunter::patches) {
        let text = fs::read_to_string(&patch).unwrap();
        assert!(text.starts_with("# "), "{patch:?} does not state its rule");
        assert_eq!(text.matches("\n+++ b/src/").count(), 1, "{patch:?}");
        let added = text.lines().filter(|line| line.starts_with('+')).count() - 1;
        let removed = text.lines().filter(|line| line.starts_with('-')).count() - 1;
        assert!(added <= 5 && removed <= 5, "{patch:?} is large");
    }
}

/// Returns the text that each hunk of a patch expects: its context and the lines that it removes.
fn expected(patch: &str) -> Vec<String> {
    let hunks = patch.split("\n@@ ").skip(1);
    let text = |hunk: &str| {
        let lines = hunk.lines().skip(1);
        let old = lines.filter(|line| !line.starts_with('+'));
        old.map(|line| line.get(1..).unwrap_or_default().to_string() + "\n")
            .collect()
    };
    hunks.map(text).collect()
}

#[test]
fn every_patch_fits_the_code_as_it_is() {
    let mut misfits = Vec::new();
    for path in HUNTERS.iter().flat_map(Hunter::patches) {
        let patch = fs::read_to_string(&path).unwrap();
        let file = patch.lines().find_map(|line| line.strip_prefix("+++ b/"));
        let code = fs::read_to_string(source(file.unwrap())).unwrap();
        let hunks = expected(&patch);
        if hunks.is_empty() || !hunks.iter().all(|hunk| code.contains(hunk)) {
            misfits.push(name(&path).to_string());
        }
    }
    assert_eq!(
        misfits,
        Vec::<String>::new(),
        "these patches no longer match the code"
    );
}

#[test]
#[ignore = "builds a changed copy for each of the planted bugs"]
fn the_simulations_find_every_planted_bug() {
    let copy = Copy::new();
    let (mut count, mut missed) = (0, Vec::new());
    for hunter in &HUNTERS {
        let sound = copy.run(hunter, "without a bug it", SOUND_TIMEOUT);
        assert_eq!(sound.passed, Some(true), "without a bug: {}", sound.output);
        let timeout = TIMEOUT.max(Duration::from_secs_f64(sound.seconds * 2.0));
        println!("{}: passes in {:.1} s", hunter.test, sound.seconds);
        println!("{:<48} {:>7} {:>7}  finding", "bug", "seconds", "seed");
        for patch in hunter.patches() {
            copy.patch(&patch, false);
            let outcome = copy.run(hunter, name(&patch), timeout);
            copy.patch(&patch, true);
            count += 1;
            let (name, seconds) = (name(&patch), outcome.seconds);
            match outcome.finding() {
                Some(reported) => {
                    let seed = outcome.seed(hunter);
                    let reported: String = reported.chars().take(FINDING_SHOWN).collect();
                    println!("{name:<48} {seconds:>7.1} {seed:>7}  {reported}");
                }
                None => {
                    println!("{name:<48} {seconds:>7.1}          not found");
                    missed.push(name.to_string());
                }
            }
        }
    }
    assert!(count > 0, "no bug has this name");
    println!("{} of {count} found", count - missed.len());
    assert_eq!(
        missed,
        Vec::<String>::new(),
        "the simulations do not find these"
    );
}

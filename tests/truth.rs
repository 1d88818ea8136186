//! Tests how often the verdict of `load` is right: in every situation of [`situations`], many
//! times, on a quiet and on a busy machine, with a table of the verdicts; in runs against healthy
//! servers, where neither side may be blamed; and in the assertion of a rate against servers whose
//! rate is known.
//!
//! Takes more than an hour: run by hand, by `.ci/long`. Every verdict counts, and no run is
//! repeated.
//!
//! `UPCASE_SITUATION='a name, or a part of some'` runs these situations alone (`open loops`,
//! `closed loops`: all of a kind; several are separated by `|`), `UPCASE_QUIET=1 UPCASE_BUSY=0`
//! sets the number of runs, `UPCASE_SEED=2` other seeds, `UPCASE_JUDGED=PATH` another build of
//! `load`.

mod common;
mod situations;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use common::peers::busy_loops_among_others;
use common::program::{Course, Lanes, Program, Work};
use common::report::Report;
use situations::networks::long_way;
use situations::servers::{KNEE, LOGNORMAL, TAIL, UNIFORM, apart, in_turn};
use situations::{
    Bench, CLIENT_CPU, FAILED, INCONCLUSIVE, Mark, Pace, SERVER_CPU, Situation, VALID, WORDS, all,
    can_be_made, is_disturbed, judge, ms, us, witness, word,
};

/// Number of runs of each situation on a quiet machine, and on a busy one.
const QUIET: u64 = 10;
const BUSY: u64 = 5;

/// Number of attempts for each run that is wanted: on a host that is busy for long, fewer runs are
/// made.
const ATTEMPTS: u64 = 2;

/// Maximum share of the verdicts that may blame the wrong side.
const WRONG_SIDE_MAX: f64 = 0.02;

/// Minimum share of the verdicts that must be right on a quiet machine.
const RIGHT_MIN: f64 = 0.90;

fn number(variable: &str, default: u64) -> u64 {
    let text = std::env::var(variable).ok();
    text.map_or(default, |text| text.parse().expect("a number"))
}

/// The runs of one situation on one kind of machine.
struct Row {
    situation: &'static Situation,
    /// The number of runs by their verdict, in the order of [`WORDS`].
    words: [usize; WORDS.len()],
    /// The words that were right in a run.
    right_words: [bool; WORDS.len()],
    right: usize,
    inconclusive: usize,
    wrong_side: usize,
    false_valid: usize,
    /// Runs that ended without a report, or with one that contradicts itself.
    lost: usize,
}

impl Row {
    fn new(situation: &'static Situation) -> Row {
        Row {
            situation,
            words: [0; WORDS.len()],
            right_words: [false; WORDS.len()],
            right: 0,
            inconclusive: 0,
            wrong_side: 0,
            false_valid: 0,
            lost: 0,
        }
    }

    fn count(&mut self, report: &Report, mark: Mark) {
        let place = WORDS.iter().position(|it| *it == word(report));
        let place = place.expect("one of the words");
        self.words[place] += 1;
        self.right_words[place] |= mark == Mark::Right;
        *match mark {
            Mark::Right => &mut self.right,
            Mark::Inconclusive => &mut self.inconclusive,
            Mark::WrongSide => &mut self.wrong_side,
            Mark::FalseValid => &mut self.false_valid,
        } += 1;
    }

    /// Adds other runs of the same situation.
    fn add(&mut self, other: Row) {
        let Row {
            situation: _,
            words,
            right_words,
            right,
            inconclusive,
            wrong_side,
            false_valid,
            lost,
        } = other;
        for place in 0..WORDS.len() {
            self.words[place] += words[place];
            self.right_words[place] |= right_words[place];
        }
        self.right += right;
        self.inconclusive += inconclusive;
        self.wrong_side += wrong_side;
        self.false_valid += false_valid;
        self.lost += lost;
    }

    fn runs(&self) -> usize {
        self.words.iter().sum::<usize>() + self.lost
    }
}

/// Runs a situation until there are `times` runs on the requested kind of machine, and prints every
/// run. Returns the runs on a quiet and those on a busy machine.
///
/// A run during which the host took more than 1 % of the time was not on a quiet machine, whatever
/// was requested: it counts as one on a busy machine, and another one is made.
fn repeat(situation: &'static Situation, is_busy: bool, times: u64) -> [Row; 2] {
    let mut rows = [Row::new(situation), Row::new(situation)];
    let base = number("UPCASE_SEED", 1) * 1000;
    for seed in base + 1..=base + times * ATTEMPTS {
        if rows[usize::from(is_busy)].runs() >= times as usize {
            break;
        }
        let bench = Bench { is_busy, seed };
        let busy_loops =
            is_busy.then(|| [SERVER_CPU, CLIENT_CPU].map(|cpu| busy_loops_among_others(cpu, 1)));
        let begun = Instant::now();
        let judged = catch_unwind(AssertUnwindSafe(|| {
            let witness = witness();
            let report = (situation.inject)(&bench);
            let witnessed = witness.end();
            let report = report?;
            let was_busy = is_busy || is_disturbed(situation, &report, witnessed, begun.elapsed());
            if !witnessed.is_zero() {
                println!("    the CPU was away for {witnessed:.1?}");
            }
            // No busy loop runs beside server and generator then: what is right on a quiet machine
            // is right as well.
            let mark = match situation.mark(&report, is_busy) {
                Mark::Right => Mark::Right,
                _ => situation.mark(&report, was_busy),
            };
            Some((was_busy, mark, report))
        }));
        let seconds = begun.elapsed().as_secs_f64();
        drop(busy_loops);
        let machine = match &judged {
            Ok(Some((true, ..))) if !is_busy => "busy host",
            _ if is_busy => "busy",
            _ => "quiet",
        };
        let name = situation.name;
        print!("{machine}, seed {seed}, {seconds:.1} s: {name}: ");
        match judged {
            Ok(Some((was_busy, mark, report))) => {
                rows[usize::from(was_busy)].count(&report, mark);
                print_run(&report, mark);
            }
            Ok(None) => {
                println!("cannot be produced here");
                break;
            }
            Err(_) => {
                rows[usize::from(is_busy)].lost += 1;
                println!("no report");
            }
        }
    }
    rows
}

fn print_run(report: &Report, mark: Mark) {
    let (verdict, why) = (report.verdict(), report.sentences());
    println!("{verdict}, {mark:?}: {why}");
    let share = |name| 100.0 * report.number(&format!("evidence/{name}"));
    let (busy, starved) = (share("busy"), share("starved"));
    println!("    generator: busy for {busy:.0} %, starved for {starved:.0} %");
    if mark != Mark::Right {
        println!("    advice: {}", report.0["evidence"]["advice"]);
    }
}

/// Returns the situations that `UPCASE_SITUATION` selects.
fn chosen() -> Vec<&'static Situation> {
    let Ok(asked) = std::env::var("UPCASE_SITUATION") else {
        return all().collect();
    };
    let mut some = Vec::new();
    for part in asked.split('|') {
        let whole: Vec<_> = all().filter(|it| it.name == part).collect();
        let meant = |situation: &&Situation| match part {
            "open loops" => situation.pace == Pace::Open,
            "closed loops" => situation.pace == Pace::Closed,
            _ if whole.is_empty() => situation.name.contains(part),
            name => situation.name == name,
        };
        let before = some.len();
        some.extend(all().filter(meant));
        assert!(some.len() > before, "no situation is called {part}");
    }
    some
}

/// Prints the verdicts of all situations on one kind of machine.
fn print_matrix(is_busy: bool, rows: &[Row]) {
    let heads = [
        "valid", "up to", "client", "network", "server", "failed", "inconcl.", "lost",
    ];
    if rows.iter().all(|row| row.runs() == 0) {
        return;
    }
    let title = if is_busy {
        "On a busy machine"
    } else {
        "On a quiet machine"
    };
    println!("\n{title}; runs with a mark: * right, ! wrong");
    print!("{:<58}{:<24}", "situation", "right");
    heads.iter().for_each(|head| print!("{head:>9}"));
    println!("{:>7}", "wrong");
    for row in rows {
        let situation = row.situation;
        let right = situation
            .when_busy
            .filter(|_| is_busy)
            .unwrap_or(situation.right);
        print!("{:<58}{:<24}", situation.name, right.join(" "));
        let words = WORDS.iter().zip(row.words).zip(row.right_words);
        for ((word, count), is_right) in words {
            let mark = match count {
                0 => String::new(),
                _ if is_right => format!("{count}*"),
                _ if *word == INCONCLUSIVE => format!("{count} "),
                _ => format!("{count}!"),
            };
            print!("{mark:>9}");
        }
        let wrong = row.wrong_side + row.false_valid + row.lost;
        let wrong = if wrong == 0 {
            String::new()
        } else {
            wrong.to_string()
        };
        println!("{:>9}{wrong:>7}", row.lost);
    }
}

/// The sums of some rows.
struct Sums {
    runs: usize,
    right: usize,
    inconclusive: usize,
    wrong_side: usize,
    false_valid: usize,
    lost: usize,
}

impl Sums {
    fn of<'a>(rows: impl Iterator<Item = &'a Row> + Clone) -> Sums {
        let sum = |of: fn(&Row) -> usize| rows.clone().map(of).sum();
        Sums {
            runs: sum(Row::runs),
            right: sum(|row| row.right),
            inconclusive: sum(|row| row.inconclusive),
            wrong_side: sum(|row| row.wrong_side),
            false_valid: sum(|row| row.false_valid),
            lost: sum(|row| row.lost),
        }
    }

    fn share(&self, count: usize) -> f64 {
        count as f64 / self.runs.max(1) as f64
    }

    fn print(&self, title: &str) {
        let Sums {
            runs,
            false_valid,
            lost,
            ..
        } = self;
        let percent = |count| 100.0 * self.share(count);
        println!(
            "{title}: {runs} runs, right {:.1} %, inconclusive {:.1} %, wrong side {:.1} % ({}), \
             false valid {false_valid}, no report {lost}",
            percent(self.right),
            percent(self.inconclusive),
            percent(self.wrong_side),
            self.wrong_side,
        );
    }
}

#[test]
#[ignore = "more than an hour, pinned to two CPUs; see .ci/long"]
fn the_words_are_right_in_every_situation() {
    if !can_be_made() {
        return;
    }
    let begun = Instant::now();
    let (mut quiet, mut busy) = (Vec::new(), Vec::new());
    for situation in chosen() {
        let [on_quiet, disturbed] = repeat(situation, false, number("UPCASE_QUIET", QUIET));
        let [_, mut on_busy] = repeat(situation, true, number("UPCASE_BUSY", BUSY));
        on_busy.add(disturbed);
        quiet.push(on_quiet);
        busy.push(on_busy);
    }
    print_matrix(false, &quiet);
    print_matrix(true, &busy);
    let all = || quiet.iter().chain(&busy);
    let (sums, on_quiet) = (Sums::of(all()), Sums::of(quiet.iter()));
    println!();
    on_quiet.print("quiet");
    Sums::of(busy.iter()).print("busy");
    for pace in [Pace::Open, Pace::Closed] {
        let of = quiet.iter().filter(|row| row.situation.pace == pace);
        Sums::of(of).print(&format!("quiet, {pace:?} loops"));
    }
    sums.print("all");
    println!("took {:.0} s", begun.elapsed().as_secs_f64());
    assert_eq!(
        (sums.false_valid, sums.lost),
        (0, 0),
        "false valids, lost runs"
    );
    assert!(
        sums.share(sums.wrong_side) <= WRONG_SIDE_MAX,
        "verdicts blame the wrong side"
    );
    assert!(
        on_quiet.share(on_quiet.right) >= RIGHT_MIN,
        "too few verdicts are right"
    );
    let others = on_quiet.runs - on_quiet.right - on_quiet.inconclusive;
    assert_eq!(
        others, 0,
        "on a quiet machine a verdict is right, or inconclusive"
    );
}

#[test]
#[ignore = "a minute, pinned to two CPUs"]
fn the_words_are_right_in_selected_situations() {
    judge(
        "UPCASE_SITUATION",
        all().filter(|situation| situation.is_selected),
    );
}

/// A healthy server, and a run against it.
type Healthy = (&'static str, fn(&Bench) -> Option<Report>);

const HEALTHY: [Healthy; 10] = [
    ("a fast server", |bench| {
        bench.load(
            bench.serve().address(),
            "--connections 50 --rate 2000 --duration 1s",
        )
    }),
    ("replies of 5 ms", |bench| {
        let work = Work::Always(ms(5));
        apart(bench, work, "--connections 50 --rate 1000 --duration 1s")
    }),
    ("replies of 0 to 100 ms", |bench| {
        apart(bench, UNIFORM, "--connections 100 --rate 500 --duration 1s")
    }),
    ("lognormal replies", |bench| {
        apart(
            bench,
            LOGNORMAL,
            "--connections 100 --rate 1000 --duration 1s",
        )
    }),
    ("one of a hundred replies takes 500 ms", |bench| {
        apart(bench, TAIL, "--connections 100 --rate 300 --duration 1s")
    }),
    ("M/M/1 at 0.5", |bench| {
        let arguments = "--connections 100 --rate 500 --arrivals poisson --duration 1s";
        in_turn(bench, Work::Exponential(ms(1)), arguments)
    }),
    ("half of what the server can do", |bench| {
        in_turn(
            bench,
            Work::Always(us(500)),
            "--connections 50 --rate 1000 --duration 1s",
        )
    }),
    ("churn", |bench| {
        let arguments = "--connections 50 --churn 10 --rate 1000 --duration 1s";
        bench.load(bench.serve().address(), arguments)
    }),
    ("a long way", |bench| {
        long_way(bench, "--connections 50 --rate 500 --duration 1s")
    }),
    ("a closed loop", |bench| {
        bench.load(bench.serve().address(), "--connections 20 --duration 1s")
    }),
];

/// Number of runs against healthy servers, and the maximum share of them that may not be `valid`.
const HEALTHY_RUNS: u64 = 200;
const FALSE_ALARMS_MAX: f64 = 0.02;

#[test]
#[ignore = "six minutes, pinned to two CPUs; see .ci/long"]
fn nobody_is_blamed_for_a_healthy_server() {
    if !can_be_made() {
        return;
    }
    let begun = Instant::now();
    let (mut runs, mut alarms) = (0_u64, Vec::new());
    for seed in 1..=number("UPCASE_HEALTHY", HEALTHY_RUNS).div_ceil(HEALTHY.len() as u64) {
        for (name, run) in HEALTHY {
            let is_busy = false;
            let Some(report) = run(&Bench { is_busy, seed }) else {
                continue;
            };
            runs += 1;
            if word(&report) != VALID {
                let (verdict, why) = (report.verdict(), report.sentences());
                println!("{name}, seed {seed}: {verdict}: {why}");
                alarms.push(format!("{name}: {verdict}"));
            }
        }
    }
    let took = begun.elapsed().as_secs_f64();
    println!(
        "{} of {runs} runs are not valid, in {took:.0} s",
        alarms.len()
    );
    assert!(
        alarms.len() as f64 <= runs as f64 * FALSE_ALARMS_MAX,
        "{alarms:#?}"
    );
}

/// A server, whether an asserted rate holds for it, and a run that asserts the rate.
type Asserted = (&'static str, bool, fn(&Bench, &str) -> Option<Report>);

const ASSERTED: [Asserted; 4] = [
    ("replies of 0 to 100 ms", true, |bench, demand| {
        let run = "--connections 100 --rate 500 --duration 2s";
        apart(bench, UNIFORM, &format!("{run} {demand}"))
    }),
    (
        "one of a hundred replies takes 500 ms",
        true,
        |bench, demand| {
            let run = "--connections 100 --rate 500 --duration 2s";
            apart(bench, TAIL, &format!("{run} {demand}"))
        },
    ),
    ("lognormal replies", true, |bench, demand| {
        let run = "--connections 200 --rate 1000 --duration 2s";
        apart(bench, LOGNORMAL, &format!("{run} {demand}"))
    }),
    ("rate 1 % above the knee", false, |bench, demand| {
        let run = "--connections 200 --rate 1010 --duration 4s --drain 5s";
        in_turn(bench, KNEE, &format!("{run} {demand}"))
    }),
];

/// Number of runs that assert each rate.
const ASSERTIONS: u64 = 5;

#[test]
#[ignore = "a minute, pinned to two CPUs; see .ci/long"]
fn a_rate_that_was_kept_up_holds_and_one_beyond_the_knee_does_not() {
    if !can_be_made() {
        return;
    }
    let mut wrong = Vec::new();
    for (name, holds, run) in ASSERTED {
        for seed in 1..=ASSERTIONS {
            let is_busy = false;
            let Some(report) = run(&Bench { is_busy, seed }, "--assert rate>=0.999") else {
                continue;
            };
            let assertion = &report.0["assertions"][0];
            let said = format!("{name}, seed {seed}: {assertion}");
            println!("{said}");
            if assertion["holds"] != holds {
                wrong.push(said);
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn the_table_is_broad() {
    let situations: Vec<_> = all().collect();
    assert!(situations.len() >= 40);
    let closed = situations
        .iter()
        .filter(|it| it.pace == Pace::Closed)
        .count();
    let open = situations.len() - closed;
    assert!(
        closed.abs_diff(open) <= situations.len() / 20,
        "{closed} closed, {open} open"
    );
    let mut names: Vec<_> = situations.iter().map(|it| it.name).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), situations.len(), "each has a name of its own");
    for situation in &situations {
        let name = situation.name;
        assert!(
            !situation.right.is_empty() && !situation.why.is_empty(),
            "{name}"
        );
        assert!(!situation.right.contains(&INCONCLUSIVE), "{name}");
        let is_closed = name.starts_with("closed loop: ");
        assert_eq!(is_closed, situation.pace == Pace::Closed, "{name}");
    }
    let selected = situations.iter().filter(|it| it.is_selected).count();
    assert!((12..=15).contains(&selected), "{selected}");
}

/// Returns a report with this verdict, and the percentile up to which it is valid.
fn report(verdict: &str, up_to: Option<&str>) -> Report {
    Report(serde_json::json!({ "verdict": verdict, "valid_up_to": up_to, "evidence": {} }))
}

#[test]
fn verdicts_are_marked_against_the_right_ones() {
    let of = |right| Situation {
        right,
        ..situations::OPEN
    };
    let mark = |right, verdict| of(right).mark(&report(verdict, None), false);
    assert_eq!(mark(&[VALID], VALID), Mark::Right);
    assert_eq!(mark(&[VALID], "valid up to p99"), Mark::Right);
    assert_eq!(mark(&[FAILED], VALID), Mark::FalseValid);
    assert_eq!(mark(&[situations::VALID_UP_TO], VALID), Mark::FalseValid);
    assert_eq!(
        mark(&[situations::VALID_UP_TO], "valid up to p90"),
        Mark::Right
    );
    assert_eq!(mark(&[VALID], situations::SERVER), Mark::WrongSide);
    assert_eq!(mark(&[VALID], INCONCLUSIVE), Mark::Inconclusive);
    assert_eq!(word(&report(VALID, Some("p99"))), situations::VALID_UP_TO);
    // On a busy machine `client-bound` is right as well, except where messages were lost.
    let busy = |right| of(right).mark(&report(situations::CLIENT, None), true);
    assert_eq!(
        (busy(&[VALID]), busy(&[FAILED])),
        (Mark::Right, Mark::WrongSide)
    );
    let silent = Situation {
        names_cause: |_| false,
        ..of(&[VALID, FAILED])
    };
    assert_eq!(silent.mark(&report(VALID, None), false), Mark::FalseValid);
    assert_eq!(silent.mark(&report(FAILED, None), false), Mark::WrongSide);
}

/// Returns the times at which replies are due to messages that arrive at a steady pace.
fn course(program: Program, gap: Duration, messages: u32) -> Vec<Duration> {
    let mut course = Course::new(program);
    let due = |number: u32| course.due(gap * number, false);
    (0..messages).map(due).collect()
}

#[test]
fn a_queue_empties_as_fast_as_the_program_says() {
    let program = Program::of(Lanes::InTurn, KNEE, 1);
    let due = course(program, us(990), 4000);
    assert_eq!(due.last(), Some(&ms(4000)), "each in its turn, never idle");
    let program = Program::of(Lanes::Apart, KNEE, 1);
    assert_eq!(
        course(program, us(990), 100).last(),
        Some(&(us(990) * 99 + ms(1)))
    );
}

#[test]
fn a_server_does_nothing_in_its_pauses() {
    let program = Program {
        pauses: Some((Work::Always(ms(270)), Work::Always(ms(30)))),
        ..Program::of(Lanes::Apart, Work::Always(ms(1)), 1)
    };
    let due = course(program, ms(10), 100);
    // The pauses are from 270 to 300 ms, from 570 to 600, and so on.
    assert_eq!(due[26..31], [261, 301, 301, 301, 301].map(ms));
    assert_eq!(due[60], ms(601));
    let program = Program {
        lanes: Lanes::InTurn,
        ..program
    };
    assert_eq!(
        course(program, ms(10), 100)[26..31],
        [261, 301, 302, 303, 304].map(ms)
    );
}

#[test]
fn what_is_drawn_has_the_spread_that_was_asked_for() {
    const COUNT: u32 = 20_000;
    let mean = |work| {
        let due = course(Program::of(Lanes::Apart, work, 1), us(1), COUNT);
        let held = due
            .iter()
            .zip(0..)
            .map(|(due, number)| *due - us(1) * number);
        held.sum::<Duration>() / COUNT
    };
    // The tolerances are four standard errors.
    let is_near = |work, expected: Duration, error: f64| {
        let found = mean(work);
        let far = found.abs_diff(expected);
        assert!(
            far < expected.mul_f64(error),
            "{work:?}: {found:?}, not {expected:?}"
        );
    };
    is_near(UNIFORM, ms(50), 0.017);
    is_near(Work::Exponential(ms(1)), ms(1), 0.029);
    is_near(TAIL, us(5990), 0.24);
    // The mean of a lognormal is its median times the root of e, at a sigma of one.
    is_near(LOGNORMAL, us(1600).mul_f64(0.5_f64.exp()), 0.038);
    let seeds = [1, 1, 2].map(|seed| course(Program::of(Lanes::Apart, UNIFORM, seed), ms(1), 9));
    assert!(
        seeds[0] == seeds[1] && seeds[0] != seeds[2],
        "a seed is all that it depends on"
    );
}

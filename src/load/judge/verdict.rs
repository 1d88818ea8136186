//! Judges a run: whether its numbers are those of the server, and if not, what limited them. Pure:
//! the measurements yield a verdict, the sentences that support it, and advice.
//!
//! The verdict is the first in this table whose rule holds:
//!
//! | verdict | rule, in the file | exit code |
//! |---|---|---|
//! | failed | messages or connections were lost, wrong or not answered (`failures`) | 1 |
//! | inconclusive | nothing was measured: the run was ended before a message was due | 4 |
//! | client-bound | the generator's own part is visible in a percentile up to p99 (`client`) | 4 |
//! | network-bound | segments were lost, or delayed on the path (`network`) | 1 |
//! | server-bound | the server did not keep up, or stopped for a while (`server`) | 1 |
//! | valid | none of these; in a closed loop, it is known what set the pace (`pace`) | 0 |
//! | inconclusive | none of these, and it is not known; or a part of the run is not known | 4 |
//!
//! A run that its own client limited shows nothing about the server, so client-bound precedes the
//! verdicts that blame the network or the server. Messages that a generator without idle time did
//! not get to send, or whose replies it did not get to read, are no failure. A valid run in which
//! the generator's part is visible only above p99 is valid up to the highest printed percentile
//! below.
//!
//! Open and closed loops are judged by the same rules. A closed loop requests no rate, so a slow
//! server does not fail it: the server sets the pace, and so may a generator that is busy all the
//! time.
//!
//! A run with a server of its own shares the CPUs of this machine with it by design. The
//! generator's waits for a CPU are excused up to the CPU time that the server used during the run:
//! they may all have been waits for the server. A lateness that these waits can explain is excused
//! as well. The rest counts as in any other run: other processes, a thread without idle time, a
//! process that was stopped.
//!
//! The assertions about a run (`--assert`) are compared with its numbers. Where one does not hold
//! and the numbers are the generator's, it is undecided: exit code 4 instead of 1.
//!
//! The stages of a rate profile are judged like runs of their own, by the messages that were due in
//! them and by what was measured during them. Their verdicts do not change that of the run: a valid
//! run names the stages that are not.
//!
//! Advice follows from evidence. A server that went away explains everything that was slow, so then
//! there is no advice about the slowness.

use std::fmt;
use std::io;
use std::time::Duration;

use clap::ValueEnum;

use crate::echo::Expect;
use crate::load::judge::assertion::{Assertion, Condition, Outcome};
use crate::load::judge::client::{client_limits, first_visible, has_no_time, percentile_below};
use crate::load::judge::connecting::slow_connecting;
use crate::load::judge::failures::{absence, failures, nothing_measured, own_lack};
use crate::load::judge::network::{network_limits, unanswered_probes};
use crate::load::judge::pace::pace;
use crate::load::judge::server::server_limits;
use crate::load::judge::thresholds::visible;
use crate::load::latency::percentile::Percentile;
use crate::load::plan::profile::Stage;
use crate::load::results::ErrorKind;
use crate::load::results::summary::Summary;
use crate::units::{counted, short};

/// The verdict about a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Verdict {
    /// The numbers are those of the server.
    #[value(skip)]
    Valid,
    /// The generator was late: the numbers are the generator's.
    ClientBound,
    /// The network lost or delayed what was sent.
    NetworkBound,
    /// The server did not keep up.
    ServerBound,
    /// The measurements do not show what limited the run.
    Inconclusive,
    /// Messages were lost, wrong or not answered.
    Failed,
}

/// A verdict, with its evidence and advice.
#[derive(Clone, Debug, PartialEq)]
pub struct Findings {
    /// The verdict.
    pub verdict: Verdict,
    /// The percentile up to which a valid run is valid; above it, the numbers are the generator's.
    /// `None`: the run is valid at every percentile.
    pub valid_up_to: Option<Percentile>,
    /// The sentences of evidence, those that decided first.
    pub evidence: Vec<String>,
    /// The advice; empty when there is nothing to do.
    pub advice: Vec<String>,
}

/// The result of a run and its judgement.
#[derive(Clone, Debug)]
pub struct Judged {
    /// The result.
    pub summary: Summary,
    /// The verdict, with its evidence and advice.
    pub findings: Findings,
    /// The assertions about the run, and whether they hold.
    pub assertions: Vec<Assertion>,
    /// The stages of the profile; empty without one, and where their results are not known.
    pub stages: Vec<JudgedStage>,
    /// Verdicts that are accepted as good (`--allow`).
    pub allowed: Vec<Verdict>,
}

/// A stage of a rate profile and its judgement.
#[derive(Clone, Debug)]
pub struct JudgedStage {
    /// The stage.
    pub stage: Stage,
    /// Its result, in the form of a run.
    pub summary: Summary,
    /// Its verdict; `None` for a pause, in which nothing is due.
    pub findings: Option<Findings>,
}

/// The outcome of a run, which corresponds to an exit code that all commands share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunOutcome {
    /// The run can be trusted, or its verdict was allowed, and every assertion holds.
    Good,
    /// Nothing is wrong, but the measurements do not prove that all is well.
    Inconclusive,
    /// Something is wrong.
    Wrong,
}

impl Judged {
    /// Judges a run, and evaluates the assertions about it.
    pub fn new(summary: Summary, conditions: &[Condition], allowed: Vec<Verdict>) -> Judged {
        let mut findings = judge(&summary);
        let stages = judge_stages(&summary);
        if findings.verdict == Verdict::Valid {
            findings
                .evidence
                .extend(stages.iter().filter_map(remark_on_stage));
        }
        if findings.is_open(&allowed) {
            findings.advice.push(format!(
                "--allow {} accepts such a run: exit code 0 instead of 4",
                findings.verdict
            ));
        }
        let check = |condition: &Condition| {
            let (summary, findings) = match condition.stage() {
                None => (&summary, Some(&findings)),
                Some(index) => match stages.get(index) {
                    None => return condition.unknown(),
                    Some(stage) => (&stage.summary, stage.findings.as_ref()),
                },
            };
            let assertion = condition.check(&summary.results, summary.rate_share());
            let valid_up_to = findings.map_or(100.0, |findings| findings.up_to(&allowed));
            match assertion.outcome {
                Outcome::Fails if condition.is_beyond(valid_up_to) => assertion.undecided(),
                // The part of the run that is not known may decide otherwise.
                Outcome::Holds if !summary.gaps.is_empty() => assertion.undecided(),
                _ => assertion,
            }
        };
        Judged {
            assertions: conditions.iter().map(check).collect(),
            stages,
            findings,
            allowed,
            summary,
        }
    }

    /// Returns the outcome that the verdict and the assertions lead to.
    pub fn standing(&self) -> RunOutcome {
        let verdict = self.findings.verdict;
        let any = |outcome| {
            let mut outcomes = self.assertions.iter().map(|assertion| assertion.outcome);
            outcomes.any(|found| found == outcome)
        };
        match verdict {
            _ if any(Outcome::Fails) || self.summary.lacks_a_file() => RunOutcome::Wrong,
            Verdict::NetworkBound | Verdict::ServerBound | Verdict::Failed
                if !self.allowed.contains(&verdict) =>
            {
                RunOutcome::Wrong
            }
            _ if any(Outcome::Undecided) => RunOutcome::Inconclusive,
            Verdict::ClientBound | Verdict::Inconclusive if !self.allowed.contains(&verdict) => {
                RunOutcome::Inconclusive
            }
            _ => RunOutcome::Good,
        }
    }

    /// Returns whether the outcome of the run is good.
    pub fn is_good(&self) -> bool {
        self.standing() == RunOutcome::Good
    }
}

impl Verdict {
    /// Returns the name of the verdict, as it is printed and as `--allow` accepts it.
    pub fn name(self) -> &'static str {
        match self {
            Verdict::Valid => "valid",
            Verdict::ClientBound => "client-bound",
            Verdict::NetworkBound => "network-bound",
            Verdict::ServerBound => "server-bound",
            Verdict::Inconclusive => "inconclusive",
            Verdict::Failed => "failed",
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Findings {
    /// Returns whether assertions about times and rates that do not hold are undecided. With a
    /// verdict that is allowed, they are decided and may fail.
    fn is_open(&self, allowed: &[Verdict]) -> bool {
        let is_unknown = matches!(self.verdict, Verdict::ClientBound | Verdict::Inconclusive);
        is_unknown && !allowed.contains(&self.verdict)
    }

    /// Returns the percentile up to which the numbers are those of the server.
    fn up_to(&self, allowed: &[Verdict]) -> f64 {
        match self.valid_up_to {
            _ if self.is_open(allowed) => 0.0,
            Some(percentile) => percentile.percent(),
            None => 100.0,
        }
    }

    fn new(verdict: Verdict, evidence: Vec<String>, advice: &[&str]) -> Findings {
        Findings {
            verdict,
            valid_up_to: None,
            evidence,
            advice: advice.iter().map(|advice| advice.to_string()).collect(),
        }
    }
}

/// Judges the stages of the profile of a run.
fn judge_stages(summary: &Summary) -> Vec<JudgedStage> {
    let profile = summary.plan.profile.iter();
    let stages = profile.flat_map(|profile| profile.stages().enumerate());
    let judged = stages.map_while(|(index, stage)| {
        let summary = summary.of_stage(index)?;
        Some(JudgedStage {
            stage: *stage,
            findings: (!stage.is_pause()).then(|| judge(&summary)),
            summary,
        })
    });
    judged.collect()
}

/// Returns a remark on a stage that is not valid.
fn remark_on_stage(stage: &JudgedStage) -> Option<String> {
    let verdict = stage.findings.as_ref()?.verdict;
    let number = stage.summary.stage? + 1;
    (verdict != Verdict::Valid).then(|| format!("stage {number} ({}) is {verdict}", stage.stage))
}

/// Judges a run by the table in the module's docs.
pub fn judge(summary: &Summary) -> Findings {
    let failures = failures(summary);
    let mut findings = if failures.is_empty() {
        judge_limits(summary)
    } else if ran_out_of_time(summary) {
        let mut findings = judge_limits(summary);
        findings.evidence.extend(failures);
        findings
    } else {
        judge_failed(summary, failures)
    };
    if !summary.gaps.is_empty() {
        findings = of_a_part(findings, &summary.gaps);
    }
    for sentences in remarks(summary) {
        if !findings.evidence.contains(&sentences) {
            findings.evidence.push(sentences);
        }
    }
    findings
}

/// Returns the findings about a run of which only a part is known: a fault or a limit in that part
/// remains one, but the part does not show that the whole run was valid.
fn of_a_part(findings: Findings, gaps: &[String]) -> Findings {
    if findings.verdict == Verdict::Valid {
        return Findings::new(Verdict::Inconclusive, gaps.to_vec(), &[]);
    }
    Findings {
        evidence: [findings.evidence, gaps.to_vec()].concat(),
        ..findings
    }
}

/// Returns whether nothing is wrong except unanswered messages that a generator without idle time
/// did not handle by the end: it had no turn in which to send them or to read their replies.
fn ran_out_of_time(summary: &Summary) -> bool {
    let mut counts = summary.results.counts;
    counts.merge(&summary.warmup.counts);
    let unanswered = counts.unanswered;
    let lost = counts.settled() - counts.verified - unanswered + counts.failed;
    let is_right = lost == 0 && summary.results.errors.is_empty() && summary.not_opened() == 0;
    let targets = summary.plan.targets.iter().zip(&summary.targets);
    let mut absences = targets.filter_map(|(address, target)| absence(address, target, summary));
    let is_own = has_no_time(summary) && !client_limits(summary).is_empty();
    unanswered > 0 && is_right && is_own && absences.next().is_none()
}

/// Returns why a run failed: servers that went away, the causes of its errors, or else its limit.
fn judge_failed(summary: &Summary, evidence: Vec<String>) -> Findings {
    let known = evidence.len();
    let mut findings = Findings::new(Verdict::Failed, evidence, &[]);
    let targets = summary.plan.targets.iter().zip(&summary.targets);
    let lacks = targets.clone();
    let lacks = lacks.filter_map(|(address, target)| own_lack(address, target));
    findings.evidence.extend(lacks);
    let is_own = findings.evidence.len() > known;
    for (address, target) in targets {
        if let Some((sentence, advice)) = absence(address, target, summary) {
            findings.evidence.push(sentence);
            findings.advice.push(advice);
        }
    }
    // When a server process ends, some connections are closed at once, too.
    let is_away = !findings.advice.is_empty();
    let kinds = summary.results.errors.keys();
    let kinds = kinds.filter(|kind| !is_away || **kind != ErrorKind::ClosedAtOnce);
    let remedies = kinds.filter_map(|kind| kind.remedy()).map(str::to_string);
    for remedy in remedies {
        if !findings.advice.contains(&remedy) {
            findings.advice.push(remedy);
        }
    }
    // The limit may be the cause of the failure; but a lack of resources on this machine can look
    // like a slow server.
    let limits = judge_limits(summary);
    let was_reported = match limits.verdict {
        Verdict::Valid | Verdict::Inconclusive => false,
        Verdict::ServerBound => !is_own,
        Verdict::ClientBound | Verdict::NetworkBound | Verdict::Failed => true,
    };
    if was_reported {
        findings.evidence.extend(limits.evidence);
        if findings.advice.is_empty() {
            findings.advice.extend(limits.advice);
        }
    }
    findings
}

/// Returns what limited the run, as if every reply had been correct.
fn judge_limits(summary: &Summary) -> Findings {
    let is_open = summary.asked_rate().is_some();
    if let Some(nothing) = nothing_measured(summary) {
        return Findings::new(Verdict::Inconclusive, vec![nothing.to_string()], &[]);
    }
    let client = client_limits(summary);
    if !client.is_empty() {
        let mut findings = Findings::new(Verdict::ClientBound, client, &[]);
        findings.advice.push(
            match is_open {
                true => {
                    "run the generator on another machine, give it a CPU of its own or more \
                     --threads, or use a lower --rate"
                }
                false => "run the generator on another machine, or give it a CPU of its own",
            }
            .to_string(),
        );
        if is_open && !summary.plan.spin {
            let spin = "--spin keeps it awake for the last 60 µs before a message is due, which \
                        uses a whole CPU from about 15,000 messages/s on";
            findings.advice.push(spin.to_string());
        }
        return findings;
    }
    let network = network_limits(summary);
    if !network.is_empty() {
        let advice = ["check the links between the two machines, and their queues"];
        return Findings::new(Verdict::NetworkBound, network, &advice);
    }
    let server = server_limits(summary);
    if !server.is_empty() {
        let advice = match is_open {
            true => {
                "use a lower --rate, or more --connections or --depth if the round trip is long, \
                 or find out what delays the server"
            }
            false => "find out what delays the server",
        };
        return Findings::new(Verdict::ServerBound, server, &[advice]);
    }
    judge_unlimited(summary, is_open)
}

/// Returns the verdict about a run without any limit.
fn judge_unlimited(summary: &Summary, is_open: bool) -> Findings {
    let right = match summary.plan.expect {
        Expect::Upper | Expect::Same => "correct",
        Expect::Anything => "complete",
    };
    let kept = if !is_open {
        match pace(summary) {
            Ok(pace) => pace,
            Err(unknown) => {
                let advice = "--kernel-timestamps shows when replies reached this machine; `upcase \
                              sniff` on the server's host shows when messages reached it, and when \
                              it answered";
                return Findings::new(Verdict::Inconclusive, vec![unknown], &[advice]);
            }
        }
    } else if visible(&summary.results.own, summary).is_some() {
        format!(
            "every reply was {right}, and messages that were sent late had waited for the built-in \
             server"
        )
    } else {
        format!("every message was sent in time, and every reply was {right}")
    };
    let mut findings = Findings::new(Verdict::Valid, vec![kept], &[]);
    if let Some(part) = first_visible(summary) {
        findings.valid_up_to = percentile_below(part.point, &summary.plan);
        findings.evidence.push(format!(
            "from {} on the generator itself delayed messages: {} of a response of {}",
            part.point,
            short(part.own),
            short(part.response)
        ));
    }
    findings
}

/// Returns remarks that do not affect the verdict but should be known.
fn remarks(summary: &Summary) -> Vec<String> {
    let mut sentences = Vec::new();
    let evidence = &summary.evidence;
    if summary.plan.expect == Expect::Anything && summary.results.counts.verified > 0 {
        sentences.push(
            "nothing was verified: with --expect none the bytes of the replies are counted, not \
             compared"
                .to_string(),
        );
    }
    if summary.asked_rate().is_some()
        && let Some((point, late)) = visible(&summary.results.own, summary)
        && late.value <= summary.waited_for_own_server()
    {
        sentences.push(format!(
            "the generator shared the CPUs of this machine with the built-in server and waited {} \
             in total for a CPU: its lateness was {point} {}",
            short(summary.waited_for_own_server()),
            short(late.value)
        ));
    }
    for (errno, count) in &evidence.network.unread {
        sentences.push(format!(
            "TCP_INFO could not be read {}, so the evidence about the network is \
             incomplete: {}",
            counted(*count, "time"),
            io::Error::from_raw_os_error(*errno)
        ));
    }
    if evidence.machine.stolen > Duration::ZERO {
        sentences.push(format!(
            "the host took {} of CPU time from this machine",
            short(evidence.machine.stolen)
        ));
    }
    sentences.extend(slow_connecting(summary));
    sentences.extend(unanswered_probes(summary));
    sentences
}

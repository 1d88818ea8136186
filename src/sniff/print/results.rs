//! The results that a document shows: flows that are over, and the verdict on the whole capture.
//! Pure data.

use std::time::Duration;

use crate::echo::Expect;
use crate::sniff::flow::account::{COMPLETE, INCOMPLETE, WRONG};
use crate::sniff::flow::{Finding, Flow, FlowNumber, Judgement};

/// The result of a finished capture.
#[derive(Clone, Debug, Default)]
pub struct Verdict {
    /// Number of packets: of any kind from a file, of the flows only in a live capture.
    pub packets: u64,
    /// Number of flows reported.
    pub flows: u64,
    /// Number of flows in which something is wrong.
    pub flows_at_fault: u64,
    /// Number of flows in which nothing was found wrong, but which the capture does not hold
    /// completely.
    pub flows_incomplete: u64,
    /// The expected replies.
    pub expect: Expect,
    /// Number of packets that were dropped before they could be captured.
    pub dropped: u64,
    /// Number of ended flows that were reported before late segments could arrive, since there were
    /// too many flows.
    pub reported_early: u64,
    /// Whether the reader of the document closed it, so that the capture was ended early.
    pub abandoned: bool,
    /// Faults of the capture itself, and what is missing from it.
    pub faults: Vec<CaptureFault>,
    /// Remarks on the capture that are not faults, such as protocols that were not dissected.
    pub notes: Vec<String>,
    /// The findings about flows, each with the number of its flow; only a limited number is kept.
    pub findings: Vec<(FlowNumber, Finding)>,
    /// Delays measured at the point of capture.
    pub delays: Vec<Delay>,
}

/// Something that is wrong with the capture itself, or missing from it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CaptureFault {
    /// The number of the packet; `None` when it concerns the whole capture.
    pub packet: Option<u64>,
    /// Whether it reports that something is not known, rather than that something is wrong.
    pub absence: bool,
    /// A sentence that describes it.
    pub text: String,
}

/// A distribution of times.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delay {
    /// The stable name in JSON, without the unit.
    pub name: &'static str,
    /// The title in text and Markdown.
    pub title: &'static str,
    /// Number of times measured.
    pub count: u64,
    /// The median, the 99th percentile and the longest; `None` when there are none.
    pub points: Option<[Duration; 3]>,
}

impl Verdict {
    /// Returns whether something is wrong with a flow or with the capture.
    pub fn is_wrong(&self) -> bool {
        self.flows_at_fault > 0 || self.faults.iter().any(|fault| !fault.absence)
    }

    /// Returns whether all packets were captured and everything is well.
    pub fn is_good(&self) -> bool {
        let is_complete = self.flows_incomplete == 0 && self.dropped == 0 && !self.abandoned;
        !self.is_wrong() && is_complete && self.faults.is_empty()
    }

    /// Returns its name in documents.
    pub fn name(&self) -> &'static str {
        match (self.is_wrong(), self.is_good()) {
            (true, _) => WRONG,
            (false, true) => COMPLETE,
            (false, false) => INCOMPLETE,
        }
    }
}

/// A flow that is over.
#[derive(Clone, Copy, Debug)]
pub struct Ended<'a> {
    /// The number of the flow.
    pub number: FlowNumber,
    /// The flow itself.
    pub flow: &'a Flow,
    /// The judgement on it.
    pub judgement: &'a Judgement,
    /// Whether packets of this capture were dropped, so that what is missing may have been sent.
    pub lossy: bool,
}

//! The exchange of requests and replies: adds payload to the streams, compares each reply with its
//! request, and measures how long it took. Pure.

use std::collections::VecDeque;
use std::time::Duration;

use crate::echo::{Difference, Expect};
use crate::sniff::flow::analysis::Analysis;
use crate::sniff::flow::finding::Role;
use crate::sniff::flow::observation::{Packet, Timing};
use crate::sniff::flow::side::{Side, TIMED_MAX};
use crate::sniff::flow::sides::Sides;
use crate::sniff::flow::stream::Comparison;
use crate::sniff::packet::segment::{Flags, Segment};

/// Maximum capacity of the queue of requests that an idle connection keeps.
const REQUESTS_IDLE: usize = 4;

/// The exchange of one connection.
#[derive(Debug)]
pub struct Exchange {
    comparison: Comparison,
    /// The requests whose replies are awaited.
    requests: VecDeque<Request>,
}

/// A request whose reply is awaited. On the wire a message ends with a segment that has the PSH
/// flag.
#[derive(Clone, Copy, Debug)]
struct Request {
    start: u64,
    end: u64,
    /// Time of its last byte; `None` until that was seen.
    complete: Option<Duration>,
    /// Whether its reply began before the request was complete.
    answered_early: bool,
}

impl Exchange {
    /// Returns an exchange without bytes.
    pub fn new(expect: Expect) -> Exchange {
        Exchange {
            comparison: Comparison::new(expect),
            requests: VecDeque::new(),
        }
    }

    /// Returns the comparison of the replies with the requests.
    pub fn comparison(&self) -> &Comparison {
        &self.comparison
    }

    /// Adds the payload of a segment to the stream of its sender. Returns the first byte that was
    /// sent before with another value, and whether there are bytes after the FIN.
    pub fn add(
        &mut self,
        side: &mut Side,
        from: Role,
        packet: Packet,
        segment: &Segment<'_>,
        analysis: Analysis,
        timings: &mut Vec<Timing>,
    ) -> (Option<Difference>, bool) {
        if segment.flags.has(Flags::RST) {
            return (None, false);
        }
        let syn = u32::from(segment.flags.has(Flags::SYN));
        let start = segment.seq.wrapping_add(syn);
        if syn == 0 || segment.length > 0 {
            side.record_seq(start);
        }
        // The byte of a keep-alive is not data, and may have any value (RFC 9293, section 3.8.4).
        if segment.length == 0 || analysis.has(Analysis::KEEP_ALIVE) {
            return (None, false);
        }
        let probes_window = analysis.has(Analysis::ZERO_WINDOW_PROBE);
        if !probes_window && side.may_be_keep_alive(segment) {
            side.uncertain_byte.get_or_insert(packet.number);
            return (None, false);
        }
        let fin = side.fin();
        let stream = side.begin_at(start);
        let before = stream.delivered();
        let end = stream.offset(start) + i64::from(segment.length);
        let beyond = fin.map_or(0, |fin| (end - fin as i64).clamp(0, segment.length.into()));
        let length = segment.length - beyond as u32;
        let payload = &segment.payload[..segment.payload.len().min(length as usize)];
        let altered = stream.add((start, length), packet.number, payload);
        let after = stream.delivered();
        side.update_acknowledged(packet.time);
        if after > before {
            let end = side.offset(segment.seq.wrapping_add(segment.span()));
            side.time_acknowledgment(u64::try_from(end).unwrap_or(0), packet.time);
            match from {
                Role::Client => {
                    let complete = segment.flags.has(Flags::PSH).then_some(packet.time);
                    self.record_request((before, after), complete);
                }
                Role::Server => self.time_replies(after, packet.time, timings),
            }
        }
        (altered, beyond > 0)
    }

    /// Records a part of a request, and the time when the request is complete with it.
    fn record_request(&mut self, (start, end): (u64, u64), complete: Option<Duration>) {
        let room = self.requests.len() < TIMED_MAX;
        match self.requests.back_mut() {
            Some(request) if request.complete.is_none() && request.end == start => {
                request.end = end;
                request.complete = complete;
            }
            _ if room => self.requests.push_back(Request {
                start,
                end,
                complete,
                answered_early: false,
            }),
            _ => {}
        }
    }

    /// Measures the delay of each reply that begins before this offset.
    fn time_replies(&mut self, end: u64, now: Duration, timings: &mut Vec<Timing>) {
        while let Some(request) = self.requests.front_mut()
            && request.start < end
        {
            // A reply that begins before its request ends has no delay.
            match request.complete {
                None => {
                    request.answered_early = true;
                    break;
                }
                Some(_) if request.answered_early => {}
                Some(complete) => timings.push(Timing::Reply(now.saturating_sub(complete))),
            }
            self.requests.pop_front();
        }
        if self.requests.is_empty() && self.requests.capacity() > REQUESTS_IDLE {
            self.requests = VecDeque::new();
        }
    }

    /// Compares the reply with the request as far as both have been received, and drops the bytes
    /// that are not needed any more. Returns the first wrong byte and its packet.
    pub fn compare(&mut self, sides: &mut Sides) -> Option<(u64, Difference)> {
        let comparable = sides.are_comparable() && self.comparison.expect() != Expect::Anything;
        let (request, reply) = (&mut sides.client.stream, &mut sides.server.stream);
        let mut wrong = None;
        let mut compared = u64::MAX;
        if comparable && let (Some(request), Some(reply)) = (&request, &reply) {
            wrong = self.comparison.advance(request, reply);
            compared = self.comparison.offset();
        }
        for stream in [request, reply].into_iter().flatten() {
            stream.release(compared);
        }
        wrong
    }

    /// Returns the bytes of memory that its buffer takes.
    pub fn cost(&self) -> usize {
        self.requests.capacity() * size_of::<Request>()
    }

    /// Drops the requests: their replies are not timed any more.
    pub fn drop_requests(&mut self) {
        self.requests = VecDeque::new();
    }
}

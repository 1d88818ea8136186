//! Judges a connection after its last segment: adds to its faults what the capture lacks, and
//! concludes from that and from the accounts of both directions. Pure.

use crate::echo::Expect;
use crate::sniff::flow::account::{Conclusion, Proof};
use crate::sniff::flow::{Fault, Finding, Flow, Judgement, Note, Role};

impl Flow {
    /// Returns the judgement on the connection, once no segment can follow.
    pub fn judge(&mut self) -> Judgement {
        self.finish_streams();
        let mut findings = Vec::new();
        findings.extend(self.judge_handshake().map(|fault| Finding {
            packet: self.first_packet,
            fault,
        }));
        findings.extend(self.findings.iter().copied());
        findings.extend(self.close.reset().map(|reset| Finding {
            packet: Some(reset.packet),
            fault: Fault::Reset(reset.from),
        }));
        self.judge_sides(&mut findings);
        self.judge_replies(&mut findings);
        let (request, reply) = (self.sides.client.account(), self.sides.server.account());
        let comparison = self.exchange.comparison();
        let compared = match comparison.expect() {
            Expect::Anything => None,
            Expect::Upper | Expect::Same => Some(comparison.compared()),
        };
        let is_wrong = findings.iter().any(|finding| !finding.fault.is_gap());
        let conclusion = match Proof::prove(&request, &reply, compared) {
            _ if is_wrong => Conclusion::Wrong,
            Some(proof) if findings.is_empty() => Conclusion::Complete(proof),
            _ => Conclusion::Incomplete,
        };
        Judgement {
            findings,
            notes: self.notes(),
            conclusion,
        }
    }

    /// Returns the fault for the first part of the handshake that was not seen.
    fn judge_handshake(&self) -> Option<Fault> {
        let (client, server) = (&self.sides.client, &self.sides.server);
        // The handshake of a refused connection ends with its SYN.
        let refused = self.close.reset().is_some() && server.stream.is_none();
        match (client.has_syn(), server.has_syn()) {
            (true, _) if refused => None,
            (false, _) => Some(Fault::NoSyn),
            (_, false) => Some(Fault::NoSynAck),
            _ if self.is_established() => None,
            _ => Some(Fault::NoHandshakeAck),
        }
    }

    /// Adds the findings about each direction alone.
    fn judge_sides(&self, findings: &mut Vec<Finding>) {
        for role in [Role::Client, Role::Server] {
            let side = self.sides.get(role);
            let mut add = |fault| {
                findings.push(Finding {
                    packet: side.last_packet,
                    fault,
                });
            };
            let account = side.account();
            let is_unconfirmed = side.has_syn() && !side.starts_at_syn();
            let sent = account.length_max() > 0 || account.fin.is_some();
            if is_unconfirmed && sent {
                add(Fault::NotAfterSyn(role));
            } else if let Some(missing) = account.missing() {
                add(Fault::NotCaptured(role, missing));
            }
            if self.close.reset().is_some() {
                continue;
            }
            if account.lacks_only_fin() {
                add(Fault::FinNotCaptured(role));
            } else if account.fin.is_none() {
                add(Fault::NotClosed(role));
            }
            let open = account.unacknowledged();
            if open > 0 {
                add(Fault::Unacknowledged(role, open));
            }
        }
    }

    /// Adds the findings about the replies to the requests.
    fn judge_replies(&self, findings: &mut Vec<Finding>) {
        let (request, reply) = (self.sides.client.account(), self.sides.server.account());
        let comparison = self.exchange.comparison();
        if comparison.expect() == Expect::Anything {
            return;
        }
        let mut add = |bytes, fault| {
            if bytes > 0 {
                findings.push(Finding {
                    packet: None,
                    fault,
                });
            }
        };
        let (asked, answered) = (request.length_min(), reply.length());
        if !self.sides.are_comparable() {
            return add(answered, Fault::Unchecked(answered));
        }
        // With holes in both directions, the bytes after them may belong to another connection.
        let have_holes = request.missing().is_some() && reply.missing().is_some();
        // The server received what it acknowledged. If it closes without a reply to that, there
        // will be none.
        let unanswered = match reply.fin {
            Some(fin) if !have_holes => asked.min(request.acknowledged).saturating_sub(fin),
            _ => 0,
        };
        let open = asked.saturating_sub(answered) - unanswered;
        let surplus = match (reply.captured == answered, &self.sides.server.stream) {
            (true, _) => answered.saturating_sub(request.length_max()),
            (false, Some(stream)) => stream.captured_from(request.length_max()),
            (false, None) => 0,
        };
        let unchecked = asked.min(answered).saturating_sub(comparison.compared());
        let (surplus, unchecked) = match have_holes {
            true => (0, unchecked + surplus),
            false => (surplus, unchecked),
        };
        add(unanswered, Fault::Unanswered(unanswered));
        add(open, Fault::NotAnsweredYet(open));
        add(surplus, Fault::Surplus(surplus));
        add(unchecked, Fault::Unchecked(unchecked));
    }

    /// Returns the anomalies that had no effect.
    fn notes(&self) -> Vec<Note> {
        let mut notes = Vec::new();
        for role in [Role::Client, Role::Server] {
            let side = self.sides.get(role);
            let strays = side.strays;
            if strays.count > 0 {
                notes.push(Note::Outside {
                    role,
                    count: strays.count,
                    first: strays.first,
                });
            }
            let uncertain = side.uncertain_byte;
            let uncertain = uncertain.filter(|_| side.account().missing().is_some());
            notes.extend(uncertain.map(|packet| Note::UncertainByte(role, packet)));
            if side.was_acknowledged_unsent() {
                notes.push(Note::AcknowledgedUnsent(role.other()));
            }
        }
        let challenged = self.close.challenged();
        notes.extend(challenged.map(|(role, packet)| Note::ChallengedReset(role, packet)));
        notes
    }
}

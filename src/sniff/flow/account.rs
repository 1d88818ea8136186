//! Counts the bytes of one direction, and proves from the counts of both that all is well. Pure.
//!
//! Three numbers show how long a stream is: the bytes seen, the sequence numbers that the peer
//! acknowledged, and the position of the FIN. They differ when the capture lacks packets. So "all
//! well" is not the absence of findings: it is a value of type [`Proof`], and its only
//! constructor requires of both directions that the SYN was seen, that all of these numbers are
//! equal, and that every byte of the reply was compared with its byte of the request.
//!
//! ```text
//!   SYN   0                    captured ┐
//!    ├────┼─────────────────────────────┤ sent ┐
//!         │    bytes of the stream      │      ├ all equal, or some are missing
//!         └─────────────────────────────┴ fin ─┘   acknowledged = fin + 1
//! ```
//!
//! All numbers are offsets: 0 is the first byte after the SYN, and a FIN takes the number after the
//! last byte, as in the sequence numbers of TCP. An acknowledgment of a number beyond all bytes
//! seen may therefore be that of a FIN which the capture lacks; the length is then known to within
//! one byte.

/// The byte counts of one direction, as far as they are known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Account {
    /// Whether the SYN was seen, so that offset 0 is the first byte.
    pub starts_at_syn: bool,
    /// Number of bytes that the capture holds, each counted once.
    pub captured: u64,
    /// The end of the highest byte that was seen.
    pub sent: u64,
    /// The highest number that the peer acknowledged; a FIN counts as one. Once the FIN was seen,
    /// numbers beyond it are ignored.
    pub acknowledged: u64,
    /// The highest number beyond those that were seen sent, as known from an acknowledgment or from
    /// the sender's own sequence numbers; 0 when there is none.
    pub highest_implied: u64,
    /// Number of bytes before the FIN; `None` when no FIN was seen.
    pub fin: Option<u64>,
}

/// Bytes of a direction that are known to exist and are not in the capture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Missing {
    /// Number of missing sequence numbers.
    pub count: u64,
    /// Whether the last one may be that of the FIN.
    pub may_include_fin: bool,
}

impl Account {
    /// Returns the minimum length of this stream, in bytes.
    pub fn length_min(&self) -> u64 {
        match self.fin {
            Some(fin) => fin,
            None => self.sent.max(self.highest_implied.saturating_sub(1)),
        }
    }

    /// Returns the maximum length of this stream, in bytes, as far as the capture shows.
    pub fn length_max(&self) -> u64 {
        match self.fin {
            Some(fin) => fin,
            None => self.sent.max(self.highest_implied),
        }
    }

    /// Returns the length to print: a single number beyond all bytes seen is taken for that of a
    /// FIN.
    pub fn length(&self) -> u64 {
        match self.lacks_only_fin() {
            true => self.length_min(),
            false => self.length_max(),
        }
    }

    /// Returns the bytes that are not in the capture.
    pub fn missing(&self) -> Option<Missing> {
        let count = self.length().saturating_sub(self.captured);
        let beyond = self.length() > self.sent;
        (count > 0).then_some(Missing {
            count,
            may_include_fin: self.fin.is_none() && beyond,
        })
    }

    /// Returns true when exactly one number beyond all bytes seen is known and no FIN was seen:
    /// most likely it is the FIN's, but it may be that of a last byte.
    pub fn lacks_only_fin(&self) -> bool {
        self.fin.is_none() && self.highest_implied == self.sent + 1
    }

    /// Returns the number of sequence numbers that were sent and not acknowledged.
    pub fn unacknowledged(&self) -> u64 {
        let end = self.fin.map_or(self.sent, |fin| fin + 1);
        end.saturating_sub(self.acknowledged)
    }

    /// Returns the length of the stream, if all of it was captured and acknowledged.
    fn complete_length(&self) -> Option<u64> {
        let fin = self.fin?;
        let is_complete = self.starts_at_syn
            && self.captured == fin
            && self.sent == fin
            && self.acknowledged == fin + 1;
        is_complete.then_some(fin)
    }
}

/// The proof that a connection is complete and correct, as far as its bytes show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Proof(());

impl Proof {
    /// Returns the proof, if there is one. `compared`: the number of bytes of the reply that were
    /// compared with their bytes of the request; `None` when the two are not to be compared.
    pub fn prove(request: &Account, reply: &Account, compared: Option<u64>) -> Option<Proof> {
        let (asked, answered) = (request.complete_length()?, reply.complete_length()?);
        let is_answered = compared.is_none_or(|compared| asked == answered && compared == answered);
        is_answered.then_some(Proof(()))
    }
}

/// The conclusion about a connection or a capture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Conclusion {
    /// Everything was captured and is correct.
    Complete(Proof),
    /// Nothing was found wrong, but the capture does not hold everything that is needed for a
    /// proof.
    Incomplete,
    /// Something is wrong, and the capture shows it.
    Wrong,
}

impl Conclusion {
    /// Returns its name in documents.
    pub fn name(self) -> &'static str {
        match self {
            Conclusion::Complete(_) => COMPLETE,
            Conclusion::Incomplete => INCOMPLETE,
            Conclusion::Wrong => WRONG,
        }
    }
}

/// The name of [`Conclusion::Complete`].
pub const COMPLETE: &str = "all well";
/// The name of [`Conclusion::Incomplete`].
pub const INCOMPLETE: &str = "incomplete";
/// The name of [`Conclusion::Wrong`].
pub const WRONG: &str = "wrong";

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn complete(length: u64) -> Account {
        Account {
            starts_at_syn: true,
            captured: length,
            sent: length,
            acknowledged: length + 1,
            highest_implied: 0,
            fin: Some(length),
        }
    }

    #[test]
    fn equal_numbers_are_the_only_proof() {
        let all = complete(9);
        assert!(Proof::prove(&all, &all, Some(9)).is_some());
        assert!(Proof::prove(&all, &all, Some(8)).is_none());
        assert!(Proof::prove(&all, &complete(10), Some(9)).is_none());
        assert!(Proof::prove(&all, &complete(10), None).is_some());
    }

    proptest! {
        #[test]
        fn no_proof_over_a_number_that_differs(
            captured in 0u64..4, sent in 0u64..4, acknowledged in 0u64..5,
            fin in prop::option::of(0u64..4), starts_at_syn: bool, compared in 0u64..4,
        ) {
            let account =
                Account { starts_at_syn, captured, sent, acknowledged, highest_implied: 0, fin };
            let equal = account == complete(captured) && compared == captured;
            let proof = Proof::prove(&account, &complete(captured), Some(compared));
            prop_assert_eq!(proof.is_some(), equal);
            let proof = Proof::prove(&complete(captured), &account, Some(compared));
            prop_assert_eq!(proof.is_some(), equal);
        }
    }

    #[test]
    fn a_number_beyond_all_that_came_may_be_that_of_the_fin() {
        let came = Account {
            starts_at_syn: true,
            captured: 9,
            sent: 9,
            ..Account::default()
        };
        let fin = Account {
            highest_implied: 10,
            ..came
        };
        assert!(fin.lacks_only_fin());
        assert_eq!((fin.length(), fin.missing()), (9, None));
        let more = Account {
            highest_implied: 14,
            ..came
        };
        let missing = Missing {
            count: 5,
            may_include_fin: true,
        };
        assert_eq!((more.length(), more.missing()), (14, Some(missing)));
        assert_eq!((more.length_min(), more.length_max()), (13, 14));
        let hole = Account {
            captured: 4,
            ..came
        };
        let missing = Missing {
            count: 5,
            may_include_fin: false,
        };
        assert_eq!(hole.missing(), Some(missing));
    }
}

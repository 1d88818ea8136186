//! Plays a script on a stage: records what each client has sent, and checks what it reads.

use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

use super::{Action, Manner, Payload, Script, Setup, Stage, Step, pattern};
use crate::common::TIMEOUT;

/// Time between two attempts of an operation that was not possible at once.
const TICK: Duration = Duration::from_micros(500);

/// Time without an accepted byte after which the buffers are full: long enough for the server to
/// read, and for the probe of a window that is too small for the next segment, which takes 200 ms.
const FULL_AFTER: Duration = Duration::from_millis(500);

/// Maximum number of bytes that is sent or received in one call.
const CHUNK: usize = 64 << 10;

/// The result of a script.
#[derive(Clone, Debug, Default)]
pub struct Played {
    /// Number of connections that the clients of each name have made.
    pub connects: BTreeMap<String, u64>,
    /// Number of bytes that all clients received, each of which was checked.
    pub received: u64,
}

/// Plays a script to its end, and then closes all open connections.
pub fn play<S: Stage>(script: &Script, stage: &mut S) -> Result<Played, String> {
    let mut player = Player {
        stage,
        crowds: BTreeMap::new(),
        played: Played::default(),
    };
    player.steps(&script.steps)?;
    for puppet in player.crowds.into_values().flatten() {
        if let Some(client) = puppet.client {
            player.stage.close(client);
        }
    }
    Ok(player.played)
}

struct Player<'a, S: Stage> {
    stage: &'a mut S,
    crowds: BTreeMap<String, Vec<Puppet<S::Client>>>,
    played: Played,
}

struct Puppet<C> {
    setup: Setup,
    client: Option<C>,
    ledger: Ledger,
}

impl<C> Puppet<C> {
    fn new() -> Self {
        Puppet {
            setup: Setup::default(),
            client: None,
            ledger: Ledger::default(),
        }
    }
}

impl<S: Stage> Player<'_, S> {
    fn steps(&mut self, steps: &[Step]) -> Result<(), String> {
        for step in steps {
            match &step.action {
                Action::Pause(time) => self.stage.wait(*time),
                Action::Operator(order) => self.stage.order(*order),
                Action::Repeat(count, steps) => {
                    for _ in 0..*count {
                        self.steps(steps)?;
                    }
                }
                Action::Crowd(size) => {
                    let crowd = (0..*size).map(|_| Puppet::new()).collect();
                    self.crowds.insert(step.client.clone(), crowd);
                }
                action => {
                    let crowd = self.crowds.entry(step.client.clone());
                    let crowd = crowd.or_insert_with(|| vec![Puppet::new()]);
                    for puppet in crowd {
                        let acted = act(self.stage, puppet, action, &mut self.played.received);
                        acted.map_err(|error| {
                            let sent = puppet.ledger.sent.len();
                            let received = puppet.ledger.place;
                            format!("{step:?}: {error} (sent {sent}, received {received})")
                        })?;
                    }
                    if *action == Action::Connect {
                        let crowd = self.crowds[&step.client].len() as u64;
                        let connects = &mut self.played.connects;
                        *connects.entry(step.client.clone()).or_default() += crowd;
                    }
                }
            }
        }
        Ok(())
    }
}

/// Performs one action of one client.
fn act<S: Stage>(
    stage: &mut S,
    puppet: &mut Puppet<S::Client>,
    action: &Action,
    received: &mut u64,
) -> Result<(), String> {
    match action {
        Action::Mss(mss) => puppet.setup.mss = Some(*mss),
        Action::ReceiveBuffer(bytes) => puppet.setup.receive_buffer = Some(*bytes),
        Action::SendBuffer(bytes) => puppet.setup.send_buffer = Some(*bytes),
        Action::Connect => {
            if let Some(before) = puppet.client.take() {
                stage.close(before);
            }
            puppet.client = Some(
                stage
                    .connect(puppet.setup)
                    .map_err(|error| error.to_string())?,
            );
            puppet.ledger = Ledger::default();
        }
        Action::Reset | Action::Close => {
            let client = puppet.client.take().ok_or("it is not connected")?;
            match action {
                Action::Reset => stage.reset(client),
                _ => stage.close(client),
            }
        }
        action => {
            let client = puppet.client.as_mut().ok_or("it is not connected")?;
            let mut talk = Talk {
                stage,
                client,
                ledger: &mut puppet.ledger,
                received,
            };
            talk.act(action)?;
        }
    }
    Ok(())
}

/// A connected client.
struct Talk<'a, S: Stage> {
    stage: &'a mut S,
    client: &'a mut S::Client,
    ledger: &'a mut Ledger,
    received: &'a mut u64,
}

/// The result of an attempt to receive.
enum Received {
    Bytes,
    Nothing,
    End,
    Reset,
}

impl<S: Stage> Talk<'_, S> {
    fn act(&mut self, action: &Action) -> Result<(), String> {
        match action {
            Action::Send(payload) => {
                let bytes = self.ledger.bytes_of(payload);
                self.send(&bytes, Manner::Plain)
            }
            Action::SendAndShut(payload) => {
                let bytes = self.ledger.bytes_of(payload);
                self.send(&bytes, Manner::Last)?;
                self.shut()
            }
            Action::Urgent(byte) => self.send(&[*byte], Manner::Urgent),
            Action::Exchange(count) => self.exchange(*count),
            Action::Full => self.fill(),
            Action::Read(bytes) => {
                let owed = self.ledger.owed(bytes.len());
                if owed != *bytes {
                    return Err(format!("{owed:?} are owed, not {bytes:?}"));
                }
                self.read(bytes.len())
            }
            Action::ReadCount(count) => self.read(*count),
            Action::ReadAll => self.read(self.ledger.owed(usize::MAX).len()),
            Action::End => self.expect_end(false),
            Action::Gone => self.expect_end(true),
            Action::Shut => self.shut(),
            other => Err(format!("{other:?} is no action of one client")),
        }
    }

    fn shut(&mut self) -> Result<(), String> {
        let shut = self.stage.shut(self.client);
        shut.map_err(|error| error.to_string())
    }

    /// Sends all bytes; reads nothing while waiting.
    fn send(&mut self, bytes: &[u8], manner: Manner) -> Result<(), String> {
        let mut rest = bytes;
        self.retry_until(|talk| {
            rest = &rest[talk.offer(rest, manner)?..];
            Ok(rest.is_empty())
        })
    }

    /// Sends the bytes that are accepted now.
    fn offer(&mut self, bytes: &[u8], manner: Manner) -> Result<usize, String> {
        let part = &bytes[..bytes.len().min(CHUNK)];
        match self.stage.send(self.client, part, manner) {
            Ok(count) => {
                self.ledger.note_sent(&part[..count], manner);
                Ok(count)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
            Err(error) => Err(format!("it cannot send: {error}")),
        }
    }

    fn exchange(&mut self, count: usize) -> Result<(), String> {
        let bytes = self.ledger.bytes_of(&Payload::Pattern(count));
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            self.retry_until(|talk| {
                let sent = talk.offer(rest, Manner::Plain)?;
                rest = &rest[sent..];
                match talk.hear(CHUNK)? {
                    Received::Bytes => Ok(true),
                    Received::Nothing => Ok(sent > 0),
                    Received::End | Received::Reset => {
                        Err("it ended within an exchange".to_string())
                    }
                }
            })?;
        }
        self.read(self.ledger.owed(usize::MAX).len())
    }

    fn fill(&mut self) -> Result<(), String> {
        let mut full_since = self.stage.now();
        let mut bytes = self.ledger.bytes_of(&Payload::Pattern(CHUNK));
        while self.stage.now() < full_since + FULL_AFTER {
            match self.offer(&bytes, Manner::Plain)? {
                0 => self.stage.wait(TICK),
                _ => {
                    full_since = self.stage.now();
                    bytes = self.ledger.bytes_of(&Payload::Pattern(CHUNK));
                }
            }
        }
        Ok(())
    }

    fn read(&mut self, count: usize) -> Result<(), String> {
        let mut missing = count;
        self.retry_until(|talk| {
            let before = talk.ledger.answered;
            if missing > 0 {
                match talk.hear(missing)? {
                    Received::End => return Err(format!("FIN, and {missing} bytes are missing")),
                    Received::Reset => return Err(format!("RST, and {missing} bytes are missing")),
                    Received::Bytes | Received::Nothing => {}
                }
            }
            missing -= talk.ledger.answered - before;
            Ok(missing == 0)
        })
    }

    /// Waits for FIN without any bytes before it; leniently, for FIN or RST after any replies.
    fn expect_end(&mut self, leniently: bool) -> Result<(), String> {
        let owed = self.ledger.owed(usize::MAX).len();
        if owed > 0 && !leniently {
            return Err(format!("{owed} bytes are still owed"));
        }
        self.retry_until(|talk| match talk.hear(CHUNK)? {
            Received::End => Ok(true),
            Received::Reset if leniently => Ok(true),
            Received::Reset => Err("RST arrived instead of FIN".to_string()),
            Received::Bytes | Received::Nothing => Ok(false),
        })
    }

    /// Receives once and checks the bytes.
    fn hear(&mut self, most: usize) -> Result<Received, String> {
        let mut buffer = [0; CHUNK];
        let buffer = &mut buffer[..most.min(CHUNK)];
        match self.stage.receive(self.client, buffer) {
            Ok(0) => Ok(Received::End),
            Ok(count) => {
                *self.received += count as u64;
                self.ledger.check(&buffer[..count])?;
                Ok(Received::Bytes)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Received::Nothing),
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe
                ) =>
            {
                Ok(Received::Reset)
            }
            Err(error) => Err(format!("it cannot receive: {error}")),
        }
    }

    /// Repeats an attempt until it succeeds. Fails if there was no progress for [`TIMEOUT`].
    fn retry_until(
        &mut self,
        mut attempt: impl FnMut(&mut Self) -> Result<bool, String>,
    ) -> Result<(), String> {
        let mut progress = self.progress();
        let mut deadline = self.stage.now() + TIMEOUT;
        while !attempt(self)? {
            if self.progress() != progress {
                progress = self.progress();
                deadline = self.stage.now() + TIMEOUT;
            } else if self.stage.now() > deadline {
                return Err("gave up waiting".to_string());
            } else {
                self.stage.wait(TICK);
            }
        }
        Ok(())
    }

    fn progress(&self) -> (usize, usize) {
        (self.ledger.sent.len(), self.ledger.place)
    }
}

/// The bytes that a client has sent, and how much of them was answered.
#[derive(Debug, Default)]
struct Ledger {
    sent: Vec<u8>,
    /// The place in `sent` before which everything was answered, or is urgent and was left out.
    place: usize,
    /// Number of bytes that were answered.
    answered: usize,
    /// The places of urgent bytes. The receiver's kernel leaves them out of the stream. But it
    /// keeps only one mark at a time, so a byte that is followed by another urgent one may arrive
    /// as an ordinary byte.
    urgent: BTreeMap<usize, MayComeInline>,
}

type MayComeInline = bool;

impl Ledger {
    fn bytes_of(&self, payload: &Payload) -> Vec<u8> {
        match payload {
            Payload::Text(text) => text.clone(),
            Payload::Pattern(count) => {
                let from = self.sent.len();
                (from..from + count).map(pattern).collect()
            }
        }
    }

    fn note_sent(&mut self, bytes: &[u8], manner: Manner) {
        if manner == Manner::Urgent && !bytes.is_empty() {
            self.urgent.values_mut().for_each(|inline| *inline = true);
            self.urgent.insert(self.sent.len(), false);
        }
        self.sent.extend_from_slice(bytes);
    }

    /// Returns the replies that are outstanding, at most the first `most` bytes.
    fn owed(&self, most: usize) -> Vec<u8> {
        let rest = (self.place..self.sent.len()).filter(|place| !self.urgent.contains_key(place));
        let owed = rest.map(|place| self.sent[place].to_ascii_uppercase());
        owed.take(most).collect()
    }

    fn check(&mut self, bytes: &[u8]) -> Result<(), String> {
        for &byte in bytes {
            while let Some(&inline) = self.urgent.get(&self.place)
                && !(inline && self.sent[self.place].to_ascii_uppercase() == byte)
            {
                self.place += 1;
            }
            let place = self.place;
            match self.sent.get(place).map(u8::to_ascii_uppercase) {
                Some(expected) if expected == byte => {}
                Some(other) => {
                    return Err(format!("byte {place} was returned as {byte}, not {other}"));
                }
                None => return Err(format!("surplus byte {byte} after {place}")),
            }
            self.answered += usize::from(!self.urgent.contains_key(&place));
            self.place += 1;
        }
        Ok(())
    }
}

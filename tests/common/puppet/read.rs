//! Parses scripts of scripted clients from text.

use std::collections::BTreeMap;
use std::iter::Peekable;
use std::time::Duration;
use std::vec::IntoIter;

use super::{Action, Order, Payload, Script, Step};

/// The name of the client if a script names none.
const SOMEBODY: &str = "client";

/// Parses all scripts of a text. Blank lines separate them, and lines with `#` are comments. The
/// first line of a script is its name, followed by a colon and the server's arguments if there are
/// any; the other lines are the script.
pub fn scripts(text: &str) -> Result<Vec<Script>, String> {
    let mut scripts: Vec<Script> = Vec::new();
    for block in text.split("\n\n") {
        let lines: Vec<&str> = block
            .lines()
            .filter(|line| !line.starts_with('#') && !line.trim().is_empty())
            .collect();
        let Some((name, lines)) = lines.split_first() else {
            continue;
        };
        let (name, arguments) = name.split_once(':').unwrap_or((name, ""));
        let script = script(name, arguments, &lines.join("\n"))
            .map_err(|error| format!("script {name}: {error}"))?;
        if scripts.iter().any(|other| other.name == name) {
            return Err(format!("script {name} is defined twice"));
        }
        scripts.push(script);
    }
    Ok(scripts)
}

fn script(name: &str, arguments: &str, text: &str) -> Result<Script, String> {
    let (steps, ends) = text.rsplit_once("=>").ok_or("it has no => with its end")?;
    let mut reader = Reader {
        tokens: tokens(steps)?.into_iter().peekable(),
        client: SOMEBODY.to_string(),
    };
    let steps = reader.steps()?;
    if let Some(token) = reader.tokens.next() {
        return Err(format!("{token:?} is one too many"));
    }
    Ok(Script {
        name: name.to_string(),
        arguments: arguments.trim().to_string(),
        steps,
        ends: expected_ends(ends),
    })
}

/// Parses the expected ends, such as `finished|reset`, `a finished, b reset` or `nobody`.
fn expected_ends(text: &str) -> BTreeMap<String, Vec<String>> {
    text.split(',')
        .map(str::trim)
        .filter(|end| *end != "nobody")
        .map(|end| {
            let (client, reasons) = end.split_once(' ').unwrap_or((SOMEBODY, end));
            let reasons = reasons
                .split('|')
                .map(|reason| reason.trim().replace('-', " "));
            (client.to_string(), reasons.collect())
        })
        .collect()
}

#[derive(Clone, Debug, PartialEq)]
enum Token {
    Word(String),
    Text(Vec<u8>),
    Mark(char),
}

fn tokens(text: &str) -> Result<Vec<Token>, String> {
    let mut tokens = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        let length = match first {
            '"' => {
                let length = rest[1..].find('"').ok_or("a text has no end")?;
                tokens.push(Token::Text(rest.as_bytes()[1..=length].to_vec()));
                length + 2
            }
            ';' | '(' | ')' | ':' => {
                tokens.push(Token::Mark(first));
                1
            }
            _ => {
                let end = |byte: char| byte.is_whitespace() || "\";():".contains(byte);
                let length = rest.find(end).unwrap_or(rest.len());
                tokens.push(Token::Word(rest[..length].to_string()));
                length
            }
        };
        rest = rest[length..].trim_start();
    }
    Ok(tokens)
}

struct Reader {
    tokens: Peekable<IntoIter<Token>>,
    client: String,
}

impl Reader {
    fn steps(&mut self) -> Result<Vec<Step>, String> {
        let mut steps = Vec::new();
        loop {
            let mut word = self.word()?;
            if self.takes(':') {
                let (name, count) = word.split_once('*').unwrap_or((&word, ""));
                self.client = name.to_string();
                if !count.is_empty() {
                    steps.push(self.step(Action::Crowd(number(count)?)));
                }
                word = self.word()?;
            }
            let action = self.action(&word)?;
            steps.push(self.step(action));
            if !self.takes(';') {
                return Ok(steps);
            }
        }
    }

    fn step(&self, action: Action) -> Step {
        Step {
            client: self.client.clone(),
            action,
        }
    }

    fn action(&mut self, word: &str) -> Result<Action, String> {
        Ok(match word {
            "mss" => Action::Mss(self.number()? as u32),
            "receive-buffer" => Action::ReceiveBuffer(self.number()?),
            "send-buffer" => Action::SendBuffer(self.number()?),
            "connect" => Action::Connect,
            "send" => Action::Send(self.payload()?),
            "send-and-shut" => Action::SendAndShut(self.payload()?),
            "exchange" => Action::Exchange(self.number()?),
            "full" => Action::Full,
            "urgent" => match self.payload()? {
                Payload::Text(text) if text.len() == 1 => Action::Urgent(text[0]),
                other => return Err(format!("urgent data is one byte, not {other:?}")),
            },
            "read" => match self.payload()? {
                Payload::Text(text) => Action::Read(text),
                Payload::Pattern(count) => Action::ReadCount(count),
            },
            "read-all" => Action::ReadAll,
            "end" => Action::End,
            "gone" => Action::Gone,
            "shut" => Action::Shut,
            "reset" => Action::Reset,
            "close" => Action::Close,
            "pause" => Action::Pause(self.time()?),
            "repeat" => self.repeat()?,
            "stop" => Action::Operator(Order::Stop),
            "freeze" => Action::Operator(Order::Freeze),
            "thaw" => Action::Operator(Order::Thaw),
            other => return Err(format!("{other} is no action")),
        })
    }

    fn repeat(&mut self) -> Result<Action, String> {
        let count = self.number()?;
        if !self.takes('(') {
            return Err("repeat N has no (".to_string());
        }
        let steps = self.steps()?;
        if !self.takes(')') {
            return Err("repeat N ( has no )".to_string());
        }
        Ok(Action::Repeat(count, steps))
    }

    fn payload(&mut self) -> Result<Payload, String> {
        if let Some(Token::Text(text)) = self.tokens.peek() {
            let text = text.clone();
            self.tokens.next();
            return Ok(Payload::Text(text));
        }
        match self.word()?.as_str() {
            "every-byte" => Ok(Payload::Text((0..=255).collect())),
            count => number(count).map(Payload::Pattern),
        }
    }

    fn number(&mut self) -> Result<usize, String> {
        number(&self.word()?)
    }

    fn time(&mut self) -> Result<Duration, String> {
        let word = self.word()?;
        let milliseconds = word.strip_suffix("ms").and_then(|text| text.parse().ok());
        let milliseconds = milliseconds.ok_or_else(|| format!("{word} is no time such as 20ms"))?;
        Ok(Duration::from_millis(milliseconds))
    }

    fn word(&mut self) -> Result<String, String> {
        match self.tokens.next() {
            Some(Token::Word(word)) => Ok(word),
            other => Err(format!("a word was expected, and there is {other:?}")),
        }
    }

    fn takes(&mut self, mark: char) -> bool {
        self.tokens
            .next_if(|token| *token == Token::Mark(mark))
            .is_some()
    }
}

/// Parses a number such as `100`, `64KiB` or `1MiB`.
fn number(text: &str) -> Result<usize, String> {
    let (digits, unit) = match (text.strip_suffix("KiB"), text.strip_suffix("MiB")) {
        (Some(digits), _) => (digits, 1 << 10),
        (_, Some(digits)) => (digits, 1 << 20),
        _ => (text, 1),
    };
    let number: Result<usize, _> = digits.parse();
    number
        .map(|number| number * unit)
        .map_err(|_| format!("{text} is no number"))
}

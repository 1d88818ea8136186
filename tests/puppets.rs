//! Tests the real server with scripted clients (puppets) over real sockets: every script of
//! `common/puppets.txt` has a server of its own, whose totals must report how each client ended.
//!
//! `UPCASE_PUPPET=name` plays only the scripts whose name contains this text.

mod common;

use std::io::{self, Read};
use std::net::Shutdown;
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use common::puppet::play::play;
use common::puppet::read::scripts;
use common::puppet::{Manner, Order, Script, Setup, Stage};
use common::totals::Totals;
use common::{Serve, TIMEOUT, peers};
use nix::libc;
use nix::sys::signal::Signal;
use socket2::{Domain, Protocol, Socket, Type};

/// Number of scripts that are played at a time: they wait most of the time.
const PLAYS: usize = 12;

const SCRIPTS: &str = include_str!("common/puppets.txt");

#[test]
fn every_puppet_is_answered_in_full_or_has_a_named_end() {
    let wanted = std::env::var("UPCASE_PUPPET").unwrap_or_default();
    let mut waiting = scripts(SCRIPTS).unwrap();
    assert!(waiting.len() >= 40, "{} scripts", waiting.len());
    waiting.retain(|script| script.name.contains(&wanted));
    waiting.reverse();
    let waiting = Mutex::new(waiting);
    let faults = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..PLAYS {
            scope.spawn(|| {
                while let Some(script) = next(&waiting) {
                    if let Err(fault) = perform(&script) {
                        let name = &script.name;
                        faults.lock().unwrap().push(format!("{name}: {fault}"));
                    }
                }
            });
        }
    });
    let faults = faults.into_inner().unwrap();
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

fn next(waiting: &Mutex<Vec<Script>>) -> Option<Script> {
    waiting.lock().unwrap().pop()
}

#[test]
fn what_is_no_script_is_reported() {
    for (text, fault) in [
        ("a\nconnect", "no => with its end"),
        ("a\nconnect; fly => finished", "fly is no action"),
        ("a\nconnect; send => finished", "a word was expected"),
        ("a\nconnect; send abc => finished", "abc is no number"),
        ("a\nrepeat 2 (connect => finished", "has no )"),
        ("a\nconnect) => finished", "one too many"),
        ("a\nsend \"abc => finished", "a text has no end"),
        ("a\npause 20 => finished", "no time such as 20ms"),
        (
            "a\nconnect => finished\n\na\nconnect => finished",
            "a is defined twice",
        ),
    ] {
        let reported = scripts(text).expect_err(text);
        assert!(reported.contains(fault), "{reported}");
    }
}

/// Plays a script against a server of its own, and compares the server's totals with it.
fn perform(script: &Script) -> Result<(), String> {
    let mut stage = Theatre {
        serve: Serve::start(&script.arguments),
        begun: Instant::now(),
        frozen: false,
        stops: 0,
    };
    let played = play(script, &mut stage)?;
    if stage.stops == 0 {
        stage.serve.process.signal(Signal::SIGTERM);
    }
    let process = &mut stage.serve.process;
    let code = process.wait().code();
    process.wait_for_stderr("stopped: ");
    let log = process.stderr();
    let totals = log.rsplit_once("stopped: ").map_or("", |(_, last)| last);
    let totals: Totals = totals.trim_end().parse()?;
    script.judge(&played, &totals)?;
    let expected = i32::from(totals.closed("cut") > 0);
    if code != Some(expected) || log.contains("panicked") {
        return Err(format!("exit code {code:?}: {log}"));
    }
    Ok(())
}

/// The real server, and clients on the kernel's sockets.
struct Theatre {
    serve: Serve,
    begun: Instant,
    frozen: bool,
    stops: usize,
}

impl Theatre {
    /// Sends a signal to stop the server. The second one differs from the first: of two equal
    /// pending signals, the kernel delivers one, signal(7). After the second the server ends.
    fn stop(&mut self) {
        let process = &mut self.serve.process;
        self.stops += 1;
        let signals = [Signal::SIGTERM, Signal::SIGINT];
        process.signal(signals[self.stops - 1]);
        match self.stops {
            _ if self.frozen => {}
            1 => process.wait_for_stderr("stop"),
            _ => drop(process.wait()),
        }
    }
}

impl Stage for Theatre {
    type Client = Socket;

    fn connect(&mut self, setup: Setup) -> io::Result<Socket> {
        let address = self.serve.address();
        let domain = Domain::for_address(address);
        let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?;
        socket.set_tcp_nodelay(true)?;
        if let Some(mss) = setup.mss {
            socket.set_tcp_mss(mss)?;
        }
        if let Some(bytes) = setup.receive_buffer {
            socket.set_recv_buffer_size(bytes)?;
        }
        if let Some(bytes) = setup.send_buffer {
            socket.set_send_buffer_size(bytes)?;
        }
        socket.connect_timeout(&address.into(), TIMEOUT)?;
        socket.set_nonblocking(true)?;
        Ok(socket)
    }

    fn send(&mut self, client: &mut Socket, bytes: &[u8], manner: Manner) -> io::Result<usize> {
        let flags = match manner {
            Manner::Plain => 0,
            Manner::Urgent => libc::MSG_OOB,
            Manner::Last => libc::MSG_MORE,
        };
        client.send_with_flags(bytes, flags | libc::MSG_NOSIGNAL)
    }

    fn receive(&mut self, client: &mut Socket, buffer: &mut [u8]) -> io::Result<usize> {
        client.read(buffer)
    }

    fn shut(&mut self, client: &mut Socket) -> io::Result<()> {
        client.shutdown(Shutdown::Write)
    }

    fn reset(&mut self, client: Socket) {
        client.set_linger(Some(Duration::ZERO)).unwrap();
    }

    fn close(&mut self, client: Socket) {
        drop(client);
    }

    fn order(&mut self, order: Order) {
        match order {
            Order::Stop => self.stop(),
            Order::Freeze => {
                peers::halt(&self.serve.process);
                self.frozen = true;
            }
            Order::Thaw => {
                self.serve.process.signal(Signal::SIGCONT);
                self.frozen = false;
            }
        }
    }

    fn wait(&mut self, time: Duration) {
        thread::sleep(time);
    }

    fn now(&self) -> Duration {
        self.begun.elapsed()
    }
}

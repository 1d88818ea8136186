//! Tests the output of `upcase sniff`: Markdown that renders payloads unchanged, times with date
//! and zone, windows and options, rows that fit a terminal, and outputs that cannot be written. The
//! outputs of the other commands are tested in the same way.

use std::fs::File;
use std::io::Read;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::common::craft::{ACK, PSH, Talk};
use crate::common::files::Shape;
use crate::common::sniff_output::objects;
use crate::common::terminal::Terminal;
use crate::common::{self, ANY_PACE, Ended, Process, Serve, Temporary, run, sniff, upcase};
use nix::sys::signal::Signal;
use proptest::prelude::*;
use pulldown_cmark::{Event, Options, Parser, Tag, TagEnd};
use serde_json::Value;

const DATA: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data");

/// 2026-11-22, 07:23:10 UTC, in seconds since 1970.
const NOON: u64 = 1_795_332_190;

fn sample() -> String {
    format!("{DATA}/uppercase-echo-python.pcap")
}

/// Returns a pcap file of IP packets, with their times in seconds since 1970.
fn pcap<'a>(packets: impl Iterator<Item = (u64, &'a [u8])>) -> Temporary {
    let frames = (0..).zip(packets).map(|(number, (time, packet))| {
        let time = Duration::from_secs(time) + Duration::from_micros(number);
        (time, packet.to_vec())
    });
    Temporary::new(&Shape::plain(101).file(&frames.collect::<Vec<_>>()))
}

/// Returns a conversation in which the sides take turns with these payloads, the client first.
fn conversation(payloads: &[Vec<u8>]) -> Talk {
    let mut talk = Talk::open(40_000, 1000, 2000);
    for (number, payload) in payloads.iter().enumerate() {
        talk.say(number % 2 == 0, PSH | ACK, payload.len());
        let packet = talk.packets.last_mut().unwrap();
        let start = packet.len() - payload.len();
        packet[start..].copy_from_slice(payload);
    }
    talk.close();
    talk
}

fn kept(talk: &Talk) -> Temporary {
    pcap(talk.packets.iter().map(|packet| (NOON, &packet[..])))
}

/// Returns what a reader of a Markdown document sees: the text of every paragraph and item, a line
/// each.
fn rendered(markdown: &str) -> Vec<String> {
    let mut options = Options::all();
    // These extensions change the characters of a text on purpose.
    options.remove(Options::ENABLE_SMART_PUNCTUATION);
    options.remove(Options::ENABLE_OLD_FOOTNOTES);
    let mut lines = vec![String::new()];
    for event in Parser::new_ext(markdown, options) {
        let line = lines.last_mut().unwrap();
        match event {
            Event::Text(text) | Event::Code(text) => line.push_str(&text),
            Event::HardBreak
            | Event::End(TagEnd::Paragraph | TagEnd::Item | TagEnd::Heading(_)) => {
                lines.push(String::new());
            }
            Event::Start(Tag::Paragraph | Tag::Item | Tag::Heading { .. } | Tag::List(_)) => {}
            Event::Start(Tag::Strong | Tag::Emphasis) => {}
            Event::End(TagEnd::Strong | TagEnd::Emphasis | TagEnd::List(_)) => {}
            other => panic!("{other:?} in {markdown}"),
        }
    }
    lines
}

/// Compares the Markdown of a capture with its text: every sentence and every finding.
fn check_markdown(payloads: &[Vec<u8>]) {
    let file = kept(&conversation(payloads));
    let arguments = "--width 2000 --utc";
    let text = sniff(&file, arguments).stdout;
    let markdown = sniff(&file, &format!("{arguments} --format markdown")).stdout;
    let seen = rendered(&markdown);
    let sentences = |line: &&str| line.starts_with("The ");
    let said: Vec<&str> = text
        .lines()
        .map(str::trim_start)
        .filter(sentences)
        .collect();
    let shown: Vec<&str> = seen.iter().map(String::as_str).filter(sentences).collect();
    assert_eq!(said.len(), payloads.len() + 6);
    for (said, shown) in said.iter().zip(&shown) {
        assert_eq!(shown, said, "{markdown}");
    }
    assert_eq!(said.len(), shown.len());
    for line in text.lines().map(str::trim_start) {
        if line.starts_with("WRONG: ") || line.starts_with("INCOMPLETE: ") {
            assert!(seen.iter().any(|shown| shown == line), "{line}: {markdown}");
        }
    }
}

#[test]
fn what_markdown_and_html_take_for_theirs_is_shown_in_a_document() {
    check_markdown(
        &[
            "<b>bold</b> &amp; &lt; &#65; <!-- gone -->",
            "<SCRIPT>ALERT('1')</SCRIPT>",
            "`a` ``b`` ``` ` \\` \\",
            "**a** __b__ ~~c~~ $d$ ^e^ ==f==",
            "[a](http://b) ![c](d) [^1] https://e.f www.g.h i@j.k @user #1",
            "| a | b |\n|---|---|\n# c\n- d\n1. e\n> f\n***\n    g",
            ":100: :smile: a  b   c\t\"d\" 'e'",
            "\u{202e}abc\u{200b}\u{ad}\u{a0}\u{1f600}é漢\u{0}\u{7f}\u{fffd}",
            "`",
            "```",
            "*",
            "<",
        ]
        .map(|text| text.as_bytes().to_vec()),
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn any_payload_is_shown_in_markdown_as_in_text(
        bytes in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..60), 30),
        marks in prop::collection::vec("[`*_<>&\\\\\\[\\]()!|~$#@:/a \"\n-]{1,40}", 30),
        texts in prop::collection::vec("\\PC{1,30}", 30),
    ) {
        let marks = marks.into_iter().chain(texts).map(String::into_bytes);
        check_markdown(&bytes.into_iter().chain(marks).collect::<Vec<_>>());
    }
}

/// Runs a command in another time zone.
fn in_zone(zone: &str, arguments: &str) -> Ended {
    let mut command = upcase(arguments);
    command.env("TZ", zone);
    Ended::from(command.output().unwrap())
}

#[test]
fn times_have_their_date_and_their_zone() {
    let read = format!("sniff --read {}", sample());
    for (zone, arguments, first, second) in [
        ("UTC", "", "2026-11-22, times in UTC", "07:23:10.534722"),
        ("", "", "2026-11-22, times in UTC", "07:23:10.534722"),
        (
            "CET-1CEST,M3.5.0,M10.5.0/3",
            "",
            "2026-11-22, times in CET (UTC+01:00)",
            "08:23:10.534722",
        ),
        (
            "CET-1CEST,M3.5.0,M10.5.0/3",
            "--utc",
            "2026-11-22, times in UTC",
            "07:23:10.534722",
        ),
        (
            "<+1245>-12:45",
            "",
            "2026-11-22, times in UTC+12:45",
            "20:08:10.534722",
        ),
        (
            "Nowhere/Atall",
            "",
            "2026-11-22, times in UTC, as the local time zone is not known",
            "07:23:10.534722",
        ),
    ] {
        let reported = in_zone(zone, &format!("{read} {arguments}"))
            .expect(0)
            .stdout;
        let mut lines = reported.lines();
        assert_eq!(lines.next(), Some(first), "{zone}");
        let packet = lines.next().unwrap();
        assert!(
            packet.starts_with(&format!("    1  {second}  ")),
            "{packet}"
        );
        let markdown = in_zone(zone, &format!("{read} {arguments} --format markdown"));
        let markdown = markdown.expect(0).stdout;
        assert!(markdown.contains(&format!("\n## {first}\n")), "{markdown}");
        assert!(
            markdown.contains(&format!("\n**1.** {second}, ")),
            "{markdown}"
        );
    }
    for (zone, arguments, date) in [
        ("<-0330>3:30", "", "2026-11-22T03:53:10.534722000-03:30"),
        ("<-0330>3:30", "--utc", "2026-11-22T07:23:10.534722000Z"),
    ] {
        let reported = in_zone(zone, &format!("{read} {arguments} --format json"));
        let first = reported
            .expect(0)
            .stdout
            .lines()
            .next()
            .unwrap()
            .to_string();
        let first: Value = serde_json::from_str(&first).unwrap();
        assert_eq!(first["date"], date);
        assert_eq!(first["time"], "1795332190.534722000");
    }
}

#[test]
fn a_change_of_the_date_and_of_the_clocks_is_said_within_a_capture() {
    // 2026-10-25, 01:00:00 UTC: clocks in Berlin go from 03:00 back to 02:00.
    const BACK: u64 = 1_792_890_000;
    let midnight = BACK / 86_400 * 86_400;
    let talk = conversation(&[]);
    let times = [midnight - 7201, midnight - 7200, BACK - 1, BACK, BACK, BACK];
    let packets = talk.packets.iter().map(|packet| &packet[..]);
    let file = pcap(times.into_iter().zip(packets));
    let command = format!("sniff --read {}", file.0.display());
    let reported = in_zone("CET-1CEST,M3.5.0,M10.5.0/3", &command)
        .expect(0)
        .stdout;
    let said: Vec<&str> = reported
        .lines()
        .take_while(|line| !line.starts_with("flow"))
        .filter(|line| !line.starts_with("       "))
        .map(|line| {
            line.get(7..22)
                .filter(|_| line.starts_with(' '))
                .unwrap_or(line)
        })
        .collect();
    assert_eq!(
        said,
        [
            "2026-10-24, times in CEST (UTC+02:00)",
            "23:59:59.000000",
            "2026-10-25, times in CEST (UTC+02:00)",
            "00:00:00.000001",
            "02:59:59.000002",
            "2026-10-25, times in CET (UTC+01:00)",
            "02:00:00.000003",
            "02:00:00.000004",
            "02:00:00.000005",
        ]
    );
    // Without segments there are no times.
    let brief = in_zone("UTC", &format!("{command} --brief"))
        .expect(0)
        .stdout;
    assert!(brief.starts_with("flow 1: "), "{brief}");
}

/// Returns the line with the fields of a packet.
fn fields(reported: &str, number: usize) -> String {
    let start = format!("{number:5}  ");
    let line = reported.lines().find(|line| line.starts_with(&start));
    line.unwrap_or_else(|| panic!("{number}: {reported}"))
        .to_string()
}

#[test]
fn windows_are_in_bytes_and_in_brackets_as_they_stand_in_the_header() {
    let read = format!("sniff --read {}", sample());
    let reported = run(&read).expect(0).stdout;
    assert!(
        fields(&reported, 1).contains(" win [64240] MSS 1460 scale 10 SACK timestamps"),
        "{reported}"
    );
    assert!(fields(&reported, 3).ends_with(" win 64512"), "{reported}");
    let reported = run(&format!("{read} -v")).expect(0).stdout;
    let times = "TSval 374048009 TSecr 2394820881";
    assert!(
        fields(&reported, 3).ends_with(&format!(" win 64512 [63] {times}")),
        "{reported}"
    );
    assert!(
        fields(&reported, 1).ends_with(" SACK TSval 374048009 TSecr 0"),
        "{reported}"
    );
    let markdown = run(&format!("{read} -v --format markdown"))
        .expect(0)
        .stdout;
    assert!(
        markdown.contains(&format!(" win 64512 [63] {times}`")),
        "{markdown}"
    );

    let reported = run(&format!("{read} --format json")).expect(0).stdout;
    let begins = |line: &str| {
        let kinds = ["segment", "flow", "verdict"];
        let begin = |kind| format!(r#"{{"kind":"{kind}","schema":"upcase.sniff/1","#);
        kinds.map(begin).iter().any(|begin| line.starts_with(begin))
    };
    assert!(reported.lines().all(begins), "{reported}");
    let lines = objects(&reported);
    let (syn, ack) = (&lines[0], &lines[2]);
    assert_eq!(
        (&syn["window"], &syn["window_scaled"]),
        (&64240.into(), &Value::Null)
    );
    assert_eq!(
        (&syn["scale"], &syn["sack_permitted"]),
        (&10.into(), &true.into())
    );
    assert_eq!(
        (&ack["window"], &ack["window_scaled"]),
        (&63.into(), &64512.into())
    );
    assert_eq!(
        (&ack["tsval"], &ack["tsecr"]),
        (&374048009.into(), &2394820881_u32.into())
    );
    assert_eq!((&ack["sack"], &ack["scale"]), (&Value::Null, &Value::Null));

    // The offered scale is not accepted: windows are unscaled, and known to be so.
    let file = format!("{DATA}/sniff/window-scale-offered-not-accepted.pcap");
    let reported = run(&format!("sniff --read {file}")).stdout;
    let brackets: Vec<bool> = reported
        .lines()
        .filter_map(|line| line.split_once(" win "))
        .map(|(_, window)| window.starts_with('['))
        .collect();
    assert_eq!(brackets[..3], [true, true, false], "{reported}");
    assert!(!brackets[2..].contains(&true), "{reported}");

    // Without a SYN the scale is unknown.
    let talk = conversation(&[b"hello".to_vec(), b"HELLO".to_vec()]);
    let late = pcap(talk.packets[3..].iter().map(|packet| (NOON, &packet[..])));
    let reported = sniff(&late, "").stdout;
    assert!(fields(&reported, 1).ends_with(" win [1000]"), "{reported}");
}

#[test]
fn reported_ranges_are_shown() {
    let file = format!("{DATA}/sniff/sack-hole-resent-not-at-ack.pcap");
    let reported = run(&format!("sniff --read {file} --format json")).stdout;
    let lines = objects(&reported);
    let reports: Vec<&Value> = lines
        .iter()
        .filter(|line| line["sack"].is_array())
        .collect();
    assert!(!reports.is_empty(), "{reported}");
    let plain = run(&format!("sniff --read {file} -v")).stdout;
    let relative = run(&format!("sniff --read {file} -v --relative")).stdout;
    for report in reports {
        let number = report["number"].as_u64().unwrap() as usize;
        let (ack, ranges) = (
            report["ack"].as_u64().unwrap(),
            report["sack"].as_array().unwrap(),
        );
        let shown_ack: u64 = fields(&relative, number)
            .split_once(" ack ")
            .and_then(|(_, rest)| rest.split(' ').next()?.parse().ok())
            .unwrap();
        for range in ranges {
            let ends = [0, 1].map(|end| range[end].as_u64().unwrap());
            let part = format!(" SACK {}-{}", ends[0], ends[1]);
            assert!(fields(&plain, number).contains(&part), "{part}: {plain}");
            let ends = ends.map(|end| end - ack + shown_ack);
            let part = format!(" SACK {}-{}", ends[0], ends[1]);
            assert!(
                fields(&relative, number).contains(&part),
                "{part}: {relative}"
            );
        }
    }
}

/// Returns the output of a command on a terminal of this many columns.
fn on_terminal(mut command: Command, columns: u16) -> String {
    let terminal = Terminal::with_columns(columns);
    command
        .env("TERM", "xterm")
        .stdin(Stdio::null())
        .stderr(Stdio::null());
    let mut child = command.stdout(terminal.slave()).spawn().unwrap();
    drop(command);
    let shown = terminal.shown();
    child.wait().unwrap();
    shown.replace("\r\n", "\n")
}

/// Returns a text without its colours.
fn colourless(text: &str) -> String {
    let mut parts = text.split('\u{1b}');
    let mut plain = parts.next().unwrap_or_default().to_string();
    for part in parts {
        plain.push_str(part.split_once('m').expect("a colour").1);
    }
    plain
}

/// Returns the words of a text, without row breaks, indents and repeated spaces.
fn words(text: &str) -> Vec<&str> {
    text.split_whitespace().collect()
}

#[test]
fn rows_fit_the_terminal_and_break_between_fields_and_words() {
    let payloads = [
        b"the quick brown fox jumps over the lazy dog, and \xe6\xbc\xa2\xe5\xad\x97".to_vec(),
        b"x".repeat(60),
    ];
    let file = kept(&conversation(&payloads));
    let arguments = format!("sniff --utc -v --read {}", file.0.display());
    let whole = run(&arguments).stdout;
    for columns in [200, 80, 60, 40, 20] {
        let shown = on_terminal(upcase(&arguments), columns);
        assert!(shown.contains("\u{1b}[36m"), "coloured: {shown:?}");
        let plain = colourless(&shown);
        for row in plain.lines() {
            let width = upcase::report::columns::width(row);
            assert!(width <= columns.into(), "{columns}: {row:?}\n{plain}");
        }
        if columns >= 80 {
            assert_eq!(words(&plain), words(&whole), "{columns}");
        }
        let squeezed = |text: &str| text.split_whitespace().collect::<String>();
        assert_eq!(squeezed(&plain), squeezed(&whole), "{columns}");
    }
    let mut command = upcase(&arguments);
    command.env("NO_COLOR", "1");
    assert!(!on_terminal(command, 80).contains('\u{1b}'));
}

#[test]
fn the_report_of_a_load_fits_the_terminal() {
    for columns in [200, 80, 60, 40, 20] {
        let command = upcase("load --connections 1 --rate 200 --duration 300ms");
        let shown = on_terminal(command, columns);
        for row in shown.lines() {
            let width = upcase::report::columns::width(row);
            assert!(width <= columns.into(), "{columns}: {row:?}\n{shown}");
        }
        for part in ["response", "blocked", "connect", "p50", "max", "verdict"] {
            assert!(shown.contains(part), "{columns}: {part} in {shown}");
        }
        let flat = words(&shown).join(" ");
        assert!(flat.contains(" 1 connection, 64"), "{shown}");
        assert!(flat.contains("1 opened, 0 failed"), "{shown}");
    }
}

#[test]
fn the_rows_of_several_targets_fit_the_terminal() {
    let (one, two) = (Serve::start(""), common::unused_address());
    for columns in [200, 80, 60, 40, 20] {
        let arguments = "--connections 2 --rate 200 --duration 300ms --drain 0s";
        let command = upcase(&format!("load {} {two} {arguments}", one.address()));
        let shown = on_terminal(command, columns);
        for row in shown.lines() {
            let width = upcase::report::columns::width(row);
            assert!(width <= columns.into(), "{columns}: {row:?}\n{shown}");
        }
        let (_, targets) = shown.split_once("\ntargets ").expect("a part for them");
        // In one row where there is room for it.
        let row = targets
            .lines()
            .find(|row| row.starts_with(&one.address().to_string()));
        let fields = words(row.expect("its address is not broken")).len();
        assert_eq!(fields > 7, columns >= 80, "{columns}: {shown}");
        let flat = words(targets).join(" ");
        assert!(
            flat.starts_with("messages were sent to the targets in turn: equal shares"),
            "{shown}"
        );
        assert!(
            flat.contains("30 unanswered; 0 connections opened, "),
            "{shown}"
        );
    }
}

/// Runs a command whose standard output is this file.
fn into(arguments: &str, path: &str) -> Ended {
    let mut command = upcase(arguments);
    command.stdin(Stdio::null());
    command.stdout(File::options().write(true).open(path).unwrap());
    command.stderr(Stdio::piped());
    Ended::from(command.spawn().unwrap().wait_with_output().unwrap())
}

#[test]
fn an_output_that_cannot_be_written_is_named() {
    let serve = Serve::start("");
    for arguments in [
        "--help".to_string(),
        "sniff --help".to_string(),
        "--version".to_string(),
        format!("sniff --read {}", sample()),
        format!("sniff --read {} --format json", sample()),
        "load -q --connections 1 --messages 1".to_string(),
        "serve -q --listen 127.0.0.1:0".to_string(),
    ] {
        let ended = into(&arguments, "/dev/full").expect(3);
        let reported = "upcase: cannot write to standard output: No space left on device";
        assert!(
            ended.stderr.starts_with(reported),
            "{arguments}: {}",
            ended.stderr
        );
        assert_eq!(
            ended.stderr.lines().count(),
            1,
            "{arguments}: {}",
            ended.stderr
        );
    }
    serve.stop();
}

/// Runs a command whose standard output is a pipe without a reader.
fn into_nothing(arguments: &str) -> Ended {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut command = upcase(arguments);
    command
        .stdin(Stdio::null())
        .stdout(writer)
        .stderr(Stdio::piped());
    let child = command.spawn().unwrap();
    drop(command);
    Ended::from(child.wait_with_output().unwrap())
}

#[test]
fn a_pipe_that_nobody_reads_ends_a_command_quietly() {
    for (arguments, code) in [
        ("--help".to_string(), 0),
        ("load --help".to_string(), 0),
        ("--version".to_string(), 0),
        // The whole file was examined, and its verdict is the exit code.
        (format!("sniff --read {}", sample()), 0),
        (
            format!("load -q --connections 1 --messages 1 {ANY_PACE}"),
            0,
        ),
    ] {
        let ended = into_nothing(&arguments).expect(code);
        assert_eq!(ended.stderr, "", "{arguments}");
    }
    // A capture whose transcript exceeds one write is not examined to its end.
    let mut talk = Talk::open(40_000, 1000, 2000);
    for _ in 0..2000 {
        talk.say(true, PSH | ACK, 10);
        talk.say(false, ACK, 0);
    }
    let file = kept(&talk);
    let ended = into_nothing(&format!("sniff --read {}", file.0.display())).expect(4);
    assert_eq!(ended.stderr, "");
    // A server has nothing more to print, and continues.
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut command = upcase("serve --listen 127.0.0.1:0");
    command.stdout(writer);
    let mut serve = Process::start(command);
    serve.wait_for_stderr("serving at most");
    serve.signal(Signal::SIGTERM);
    assert_eq!(serve.wait().code(), Some(0));
}

#[test]
fn what_cannot_be_read_or_kept_is_said_with_its_reason() {
    let sample = sample();
    let cases: [(&[&str], i32, &str); 8] = [
        (
            &["--read", "/etc"],
            3,
            "cannot read /etc: it is a directory",
        ),
        (
            &["--read", "/nowhere"],
            3,
            "cannot read /nowhere: No such file",
        ),
        (
            &["--read", "a\nb\u{1b}"],
            3,
            "cannot read a\\nb\\u{1b}: No such file",
        ),
        (&["--interface", ""], 2, "--interface: the name is empty"),
        (&["--read", ""], 2, "--read: the name is empty"),
        (
            &["--interface", "lo", "--write", ""],
            2,
            "--write: the name is empty",
        ),
        (
            &["--read", &sample, "--duration", "1s"],
            2,
            "--duration needs --interface",
        ),
        (
            &["--interface", "lo", "--read", &sample],
            2,
            "cannot be used with",
        ),
    ];
    for (arguments, code, reported) in cases {
        let mut command = upcase("sniff");
        command.args(arguments);
        let ended = Ended::from(command.output().unwrap()).expect(code);
        assert_eq!(ended.stdout, "", "{arguments:?}");
        assert_eq!(
            ended.stderr.lines().count(),
            1,
            "{arguments:?}: {}",
            ended.stderr
        );
        assert!(
            ended.stderr.contains(reported),
            "{arguments:?}: {}",
            ended.stderr
        );
    }
}

/// Starts a live capture on the loopback, and waits until it captures.
fn capture(port: u16, arguments: &str, output: Stdio) -> Process {
    let mut command = upcase(&format!("sniff --interface lo --port {port} {arguments}"));
    command.stdout(output);
    let sniff = Process::start(command);
    sniff.wait_for_stderr("capturing");
    sniff
}

#[test]
fn packets_go_to_standard_output_and_the_transcript_to_standard_error() {
    if !nix::unistd::geteuid().is_root() {
        return common::skip("capturing needs root");
    }
    let serve = Serve::start("");
    let port = serve.address().port();
    let mut sniff = capture(port, "--flows 1 --write -", Stdio::piped());
    let mut packets = sniff.child().stdout.take().unwrap();
    run(&format!("send {} hello", serve.address())).expect(0);
    let mut file = Vec::new();
    packets.read_to_end(&mut file).unwrap();
    assert_eq!(sniff.wait().code(), Some(0));
    assert!(sniff.stderr().contains("\"HELLO\""), "{}", sniff.stderr());
    assert!(
        sniff.stderr().contains("verdict: all well"),
        "{}",
        sniff.stderr()
    );
    let reported = read_again(&file);
    assert!(
        reported.contains("\"HELLO\"") && reported.contains("verdict: all well"),
        "{reported}"
    );

    // A reader that closes the pipe ends the capture.
    let mut sniff = capture(port, "--write -", Stdio::piped());
    drop(sniff.child().stdout.take());
    run(&format!("send {} hello", serve.address())).expect(0);
    let code = sniff.wait().code();
    assert!(matches!(code, Some(1 | 4)), "{code:?}: {}", sniff.stderr());
    assert!(!sniff.stderr().contains("roken pipe"), "{}", sniff.stderr());
    serve.stop();
}

/// Returns the transcript of a capture file.
fn read_again(file: &[u8]) -> String {
    sniff(&Temporary::new(file), "").expect(0).stdout
}

#[test]
fn one_of_a_thing_is_no_plural() {
    let mut talk = conversation(&[b"a".to_vec(), b"A".to_vec()]);
    let reported = sniff(&kept(&talk), "").expect(0).stdout;
    for part in [
        "The client sends 1 byte, 1001 (offset 0): \"a\"",
        "8 segments, 1 request byte, 1 reply byte",
        "8 packets, 1 flow, 0 at fault, 0 incomplete",
    ] {
        assert!(reported.contains(part), "{part}: {reported}");
    }
    talk = conversation(&[vec![b'a'; 1400], vec![b'A'; 1400]]);
    let reported = sniff(&kept(&talk), "").expect(0).stdout;
    assert!(reported.contains("1,400 request bytes"), "{reported}");
    assert!(
        reported.contains("The client sends 1,400 bytes, 1001 to 2400 "),
        "{reported}"
    );
}

#[test]
fn the_readme_shows_what_is_printed() {
    let readme = include_str!("../../README.md");
    let (_, rest) = readme
        .split_once("The beginning and the end of `upcase ")
        .unwrap();
    let (command, rest) = rest.split_once('`').unwrap();
    let (_, rest) = rest.split_once("```text\n").unwrap();
    let (shown, _) = rest.split_once("```").unwrap();
    let (beginning, end) = shown.split_once("...\n").unwrap();
    let mut command = upcase(command);
    command.current_dir(env!("CARGO_MANIFEST_DIR"));
    let reported = Ended::from(command.output().unwrap()).expect(0).stdout;
    assert!(reported.starts_with(beginning), "{reported}");
    assert!(reported.ends_with(end), "{reported}");
}

//! Tests upcase over a link between two hosts: the documented conversation, the MSS in force,
//! thousands of connections, and the probes of `load`. The hosts are network namespaces, see
//! [`common::lab`].

mod common;

use std::process::{Command, Stdio};
use std::time::Duration;

use common::lab::{Lab, SERVER, done, words};
use common::path::{Path, Way};
use common::{ANY_PACE, Ended, Serve, upcase};
use serde_json::{Value, json};

/// Starts a server on its host, reachable from the other.
fn serve(lab: &Lab, arguments: &str) -> Serve {
    let command = upcase(&format!("serve --listen {SERVER}:12000 {arguments}"));
    Serve::launch(lab.on_server(&command), 1)
}

/// Runs a command on the client's host to its end.
#[track_caller]
fn on_client(lab: &Lab, arguments: &str) -> Ended {
    let mut command = lab.on_client(&upcase(arguments));
    Ended::from(command.output().unwrap()).expect(0)
}

#[test]
fn the_documented_conversation_between_two_hosts() {
    let Some(lab) = Lab::build() else { return };
    let serve = serve(&lab, "");
    let mut send = upcase(&format!("send {SERVER}:12000"));
    send.args(["Yahel Jacoby, Yoav Tamir", "id one: 30a, id two: 31b"]);
    let ended = Ended::from(lab.on_client(&send).output().unwrap()).expect(0);
    assert_eq!(
        ended.stdout,
        "YAHEL JACOBY, YOAV TAMIR\nID ONE: 30A, ID TWO: 31B\n"
    );
    assert_eq!(
        serve.stop(),
        "accepted 1, closed 1 (finished 1), 48 bytes in, 48 bytes out"
    );
}

#[test]
fn the_mss_in_force_is_the_smaller_of_both_less_the_timestamps() {
    let Some(lab) = Lab::build() else { return };
    for (server, client, in_force) in [
        ("", "", 1448),
        ("--mss 1000", "", 988),
        ("", "--mss 1000", 988),
        ("--mss 500", "--mss 1000", 488),
    ] {
        let serve = serve(&lab, server);
        let ended = on_client(&lab, &format!("send {SERVER}:12000 hello -v {client}"));
        let reported = format!("MSS in force: {in_force} bytes of payload");
        assert!(
            ended.stderr.contains(&reported),
            "{reported}: {}",
            ended.stderr
        );
        serve.stop();
    }
}

#[test]
fn the_servers_own_segments_keep_to_the_mss() {
    let Some(lab) = Lab::build() else { return };
    for (server, client, in_force) in [
        ("", "", 1448),
        ("--mss 1000", "", 988),
        ("", "--mss 1000", 988),
    ] {
        let serve = serve(&lab, server);
        // The client keeps its connection open while `ss` reads the state of the server's socket.
        let mut load = upcase(&format!("load {SERVER}:12000 --connections 1 {client}"));
        load.args(["--duration", "1h", "--size", "3000"]);
        let load = common::Process::start({
            let mut command = lab.on_client(&load);
            command.stdout(Stdio::null());
            command
        });
        let mut ss = Command::new("ss");
        ss.args(["-Htni", "state", "established", "sport", "=", ":12000"]);
        let reported = format!(" mss:{in_force} ");
        common::until(&reported, || {
            let output = lab.on_server(&ss).output().unwrap();
            String::from_utf8_lossy(&output.stdout).contains(&reported)
        });
        drop(load);
        serve.stop();
    }
}

#[test]
fn five_thousand_connections_between_two_hosts_are_all_verified() {
    let Some(lab) = Lab::build() else { return };
    let serve = serve(&lab, "");
    let arguments =
        format!("load {SERVER}:12000 --connections 5000 --messages 20000 --format json {ANY_PACE}");
    let report = on_client(&lab, &arguments).json();
    assert_eq!(report["connections_opened"], 5000);
    assert_eq!(report["verified"], 20_000);
    let totals = serve.stop();
    let expected =
        "accepted 5,000, closed 5,000 (finished 5,000), 1,280,000 bytes in, 1,280,000 bytes out";
    assert_eq!(totals, expected);
}

/// Returns the evidence of a run with probes and `-v`, and the line of its log about the probes.
/// Unless `may_open_raw`, the run has no right to raw sockets.
fn probed(lab: &Lab, may_open_raw: bool) -> (Value, String) {
    let load =
        format!("load {SERVER}:12000 --rate 50 --duration 1500ms -v --format json {ANY_PACE}");
    let mut command = upcase(&load);
    if !may_open_raw {
        let mut limited = Command::new("setpriv");
        limited.args(["--bounding-set=-net_raw", "--inh-caps=-net_raw"]);
        limited.arg(command.get_program()).args(command.get_args());
        command = limited;
    }
    let ended = Ended::from(lab.on_client(&command).output().unwrap());
    let report = ended.json();
    assert_eq!(report["verified"], 75, "{report:#}");
    let mut lines = ended.stderr.lines();
    let line = lines.find(|line| line.contains("probes ("));
    let line = line.unwrap_or_else(|| panic!("no line of probes: {}", ended.stderr));
    (report["evidence"].clone(), line.to_string())
}

/// Makes the server's host drop arriving packets that match a rule.
fn drop_on_server(lab: &Lab, rule: &str) {
    for command in [
        "nft add table ip test",
        "nft add chain ip test input { type filter hook input priority 0 ; }",
        &format!("nft add rule ip test input {rule} drop"),
    ] {
        done(lab.on_server(&words(command)));
    }
}

#[test]
fn the_targets_kernel_is_asked_in_a_way_that_is_allowed() {
    let Some(lab) = Lab::build() else { return };
    let _serve = serve(&lab, "");
    let mut open = words("sysctl -w");
    open.arg("net.ipv4.ping_group_range=0 2147483647");
    for (is_open, may_open_raw, how) in [
        (false, true, "ICMP echo"),
        (false, false, "UDP to a closed port"),
        (true, false, "ICMP echo"),
    ] {
        if !may_open_raw && !common::installed("setpriv") {
            return common::skip("no setpriv (package util-linux)");
        }
        if is_open {
            done(lab.on_client(&open));
        }
        let (evidence, line) = probed(&lab, may_open_raw);
        let probe = &evidence["probe"];
        assert_eq!(probe["how"], json!([how]), "{probe:#}");
        let asked = (&probe["targets"], &probe["silent"], &probe["lost"]);
        assert_eq!(asked, (&json!(1), &json!(0), &json!(0)), "{probe:#}");
        // Answers arrive once a second over UDP, fifty times over ICMP; a busy machine may send
        // fewer.
        let answered = probe["answered"].as_u64().unwrap();
        let expected = if how == "ICMP echo" { 5..=76 } else { 1..=2 };
        assert!(expected.contains(&answered), "{probe:#}");
        let least = probe["least_us"].as_f64().unwrap();
        assert!(least > 0.0 && least < 1e6, "{probe:#}");
        let reported = format!("probes ({how}): {answered} answered, 0 lost; round trip min ");
        assert!(line.contains(&reported), "{line}");
    }
}

#[test]
fn a_target_whose_kernel_does_not_answer_is_no_evidence() {
    let Some(lab) = Lab::build() else { return };
    if !common::installed("nft") {
        return common::skip("no nft (package nftables)");
    }
    let _serve = serve(&lab, "");
    drop_on_server(&lab, "ip protocol icmp");
    let (evidence, line) = probed(&lab, true);
    let probe = &evidence["probe"];
    let seen = (&probe["silent"], &probe["answered"], &probe["least_us"]);
    assert_eq!(seen, (&json!(1), &json!(0), &Value::Null), "{probe:#}");
    assert!(line.contains("probes (ICMP echo): 0 answered, "), "{line}");
    let reported = evidence["sentences"].to_string();
    let expected = "1 of 1 target did not answer probes (ICMP echo)";
    assert!(reported.contains(expected), "{reported}");
}

#[test]
fn a_message_that_is_lost_twice_is_seen_and_what_tcp_counted_of_it_is_reported() {
    let Some(lab) = Lab::build() else { return };
    if !common::installed("nft") {
        return common::skip("no nft (package nftables)");
    }
    let _serve = serve(&lab, "");
    // Drop the first of every forty data segments, and the probe that is sent to see whether it is
    // lost: so it is retransmitted once more after a timeout.
    let rule = "ip protocol tcp meta length > 60 numgen inc mod 40 < 2";
    drop_on_server(&lab, rule);
    let load =
        format!("load {SERVER}:12000 --connections 1 --messages 100 --format json {ANY_PACE}");
    let evidence = on_client(&lab, &load).json()["evidence"].clone();
    let count = |name: &str| evidence.pointer(name).unwrap().as_u64().unwrap();
    // On a busy machine a loss may be repaired without a timeout.
    assert!((1..=3).contains(&count("/host/timeouts")), "{evidence:#}");
    // The lost message carried the acknowledgment of the reply before it: that reply is
    // retransmitted.
    let came_twice = count("/host/segments_came_twice");
    assert!((1..=2).contains(&came_twice), "{evidence:#}");
    assert_eq!(count("/host/listen_overflows"), 0, "{evidence:#}");
    // A sample is taken between 100 ms and the probe after 200 ms, unless sampling itself is late.
    let seen = count("/way/under_way_unacknowledged");
    assert!((1..=3).contains(&seen), "{evidence:#}");
}

#[test]
fn a_large_message_through_a_small_window_is_not_held_up_by_a_long_way() {
    let way = Way {
        delay: Duration::from_millis(15),
        ..Way::default()
    };
    let path = Path {
        requests: way,
        replies: way,
        seed: 1,
    };
    let Some(lab) = Lab::with_path(path, (0, true)) else {
        return;
    };
    // A message takes several windows, and the last one leaves the send buffer after 100 ms.
    let _serve = serve(&lab, "--recv-buffer 64KiB");
    let load = format!(
        "load {SERVER}:12000 --connections 10 --rate 20 --size 300KiB --duration 3s --format json \
         {ANY_PACE}"
    );
    let evidence = on_client(&lab, &load).json()["evidence"].clone();
    let examined = evidence["way"]["under_way_examined"].as_u64().unwrap();
    assert!(examined >= 10, "{evidence:#}");
    let reported = evidence["sentences"].to_string();
    assert!(!reported.contains("were not acknowledged"), "{evidence:#}");
}

#[test]
fn a_lab_leaves_nothing_behind_also_when_its_test_fails() {
    let Some(lab) = Lab::build() else { return };
    let name = format!("{lab:?}");
    let failed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || {
        let _lab = lab;
        panic!("a failing test, as intended");
    }));
    assert!(failed.is_err());
    for entry in std::fs::read_dir("/run/netns").unwrap().flatten() {
        let left = entry.file_name().to_string_lossy().into_owned();
        assert!(!name.contains(&format!("{left:?}")), "{left} is left");
    }
}

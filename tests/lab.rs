//! Over a link between two hosts: the documented conversation, the MSS in force, thousands of
//! connections. The hosts are network namespaces, see [`common::lab`].

mod common;

use common::lab::{Lab, SERVER};
use common::{ANY_PACE, Ended, Serve, upcase};

/// A server on its host, reachable from the other.
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
        let told = format!("MSS in force: {in_force} bytes of payload");
        assert!(ended.stderr.contains(&told), "{told}: {}", ended.stderr);
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
        // The client holds its connection while the server's kernel is asked.
        let mut load = upcase(&format!("load {SERVER}:12000 --connections 1 {client}"));
        load.args(["--duration", "1h", "--size", "3000"]);
        let load = common::Process::start({
            let mut command = lab.on_client(&load);
            command.stdout(std::process::Stdio::null());
            command
        });
        let mut ss = std::process::Command::new("ss");
        ss.args(["-Htni", "state", "established", "sport", "=", ":12000"]);
        let told = format!(" mss:{in_force} ");
        common::until(&told, || {
            let output = lab.on_server(&ss).output().unwrap();
            String::from_utf8_lossy(&output.stdout).contains(&told)
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

//! What the command line refuses: one clear line on standard error, nothing on standard output, and
//! the right exit code. What cannot run at all is told by the files of the commands.

mod common;

use common::run;

#[test]
fn wrong_usage_is_one_line_and_exit_code_2() {
    let cases = [
        (
            "serve --listen nonsense",
            "'nonsense' for '--listen <ADDR:PORT>'",
        ),
        (
            "serve --listen 127.0.0.1:99999",
            "not an address with a port",
        ),
        (
            "serve --mss 50",
            "'50' for '--mss <BYTES>': the kernel takes 88 to 32767 bytes",
        ),
        ("serve --metrics 9090", "'9090' for '--metrics <ADDR:PORT>'"),
        ("serve --mss 32768", "the kernel takes 88 to 32767 bytes"),
        ("serve --backlog 0", "0 is not in 1..=2147483647"),
        ("serve --send-buffer 0", "0 is not in 1..=2147483647 bytes"),
        ("serve -v -q", "cannot be used with"),
        ("serve --nonsense", "unexpected argument '--nonsense'"),
        ("send", "required arguments were not provided: <TARGET>"),
        ("send nonsense hello", "not a host with a port"),
        (
            "send 127.0.0.1:12000 --timeout 0s",
            "it must be longer than 0",
        ),
        ("load --size 0", "0 is not in 1..=1073741824 bytes"),
        ("load --connections 0", "0 is not in 1..=10000000"),
        ("load --connections many", "'many' for '--connections <N>'"),
        ("load --depth 0", "0 is not in 1..=65536"),
        (
            "load --duration 500000000000years",
            "it must be at most 365 days",
        ),
        ("load --duration 1s --messages 5", "cannot be used with"),
        ("load 127.0.0.1:0", "nothing can listen on port 0"),
        ("load 999.1.1.1:12000", "not a host with a port"),
        (
            "load --source nonsense",
            "'nonsense' for '--source <ADDR,...>'",
        ),
        ("nonsense", "unrecognized subcommand 'nonsense'"),
    ];
    refused(&cases);
}

#[test]
fn wrong_plans_are_one_line_and_exit_code_2() {
    refused(&[
        ("load --size 64:50%", "the shares make 50 %, not 100 %"),
        ("load --size 9..5", "9 is more than 5"),
        ("load --rate 0", "not a rate above 0"),
        ("load --rate 1e3", "not a rate above 0"),
        ("load --arrivals poisson", "not provided: --rate <N>"),
        ("load --rate 5 --think 1s", "cannot be used with"),
        ("load --close rst", "not provided: --churn <N>"),
        (
            "load --warmup 10s",
            "--warmup 10s leaves nothing of --duration 10s",
        ),
        (
            "load --threads 5 --connections 4",
            "--threads 5 is more than --connections 4",
        ),
        ("load --assert rate>=1", "--assert rate needs --rate"),
        ("load --assert p99<2", "the bound of p99 is not a time"),
        ("load --assert speed>2", "speed is not known"),
        ("load --allow nonsense", "'nonsense' for '--allow"),
    ]);
}

/// Each command line is answered with one line that holds these words, and exit code 2.
#[track_caller]
fn refused(cases: &[(&str, &str)]) {
    for (arguments, told) in cases.iter().copied() {
        let ended = run(arguments).expect(2);
        assert_eq!(ended.stdout, "", "{arguments}");
        assert_eq!(
            ended.stderr.lines().count(),
            1,
            "{arguments}: {}",
            ended.stderr
        );
        assert!(
            ended.stderr.starts_with("upcase: "),
            "{arguments}: {}",
            ended.stderr
        );
        assert!(ended.stderr.contains(told), "{arguments}: {}", ended.stderr);
    }
}

#[test]
fn what_cannot_run_is_one_line_and_exit_code_3() {
    let cases = [
        (
            "send nobody.invalid:12000 hello",
            "cannot find the host of nobody.invalid:12000",
        ),
        (
            "load nobody.invalid:12000",
            "cannot find the host of nobody.invalid:12000",
        ),
        (
            "load --source ::1",
            "--source ::1 cannot reach a server on 127.0.0.1",
        ),
        (
            "load 127.0.0.1:9 --source ::1",
            "no address of the family of every --source",
        ),
        (
            "serve --listen 192.0.2.1:12000",
            "cannot listen on 192.0.2.1:12000",
        ),
        (
            "serve --log-file /nowhere/log",
            "cannot open the log file /nowhere/log",
        ),
    ];
    for (arguments, told) in cases {
        let ended = run(arguments).expect(3);
        assert_eq!(ended.stdout, "", "{arguments}");
        assert_eq!(
            ended.stderr.lines().count(),
            1,
            "{arguments}: {}",
            ended.stderr
        );
        assert!(ended.stderr.contains(told), "{arguments}: {}", ended.stderr);
    }
}

#[test]
fn help_and_version_are_exit_code_0() {
    for arguments in [
        "--help",
        "serve --help",
        "send --help",
        "load --help",
        "--version",
    ] {
        let ended = run(arguments).expect(0);
        assert_eq!(ended.stderr, "", "{arguments}");
        assert!(
            ended.stdout.contains("upcase"),
            "{arguments}: {}",
            ended.stdout
        );
    }
}

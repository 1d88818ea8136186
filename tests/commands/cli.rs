//! Tests the errors of the command line and the forms of values that it accepts: a wrong command
//! line gives one clear line on standard error, nothing on standard output, and the right exit
//! code. Other failures at run time are tested in the files of the commands.

use crate::common::{self, Serve, run};

/// Wrong command lines of `serve`, each with a part of its error message.
const SERVE: &[(&str, &str)] = &[
    ("serve -v -q", "--verbose cannot be used with --quiet"),
    ("serve -q -q", "--quiet is given more than once"),
    ("serve foo", "serve takes no argument 'foo' (see"),
    (
        "serve 127.0.0.1:12000",
        "to listen on an address, use --listen 127.0.0.1:12000",
    ),
    ("serve --nonsense", "there is no option --nonsense"),
    (
        "serve --lisen 127.0.0.1:0",
        "there is no option --lisen: did you mean --listen?",
    ),
    (
        "serve --port 5",
        "--port is an option of sniff, not of serve: to listen on an address, use --listen",
    ),
    (
        "serve -p 5",
        "there is no option -p: to listen on an address, use --listen ADDR:PORT",
    ),
    (
        "serve --rate 5",
        "--rate is an option of load, not of serve",
    ),
    (
        "serve --connections 5",
        "an option of load, not of serve: did you mean --max-connections?",
    ),
    ("serve --listen", "'--listen <ADDR:PORT>' needs a value"),
    (
        "serve --listen=",
        "'--listen <ADDR:PORT>' needs a value: the address is empty",
    ),
    ("serve --listen -1", "'-1' is not the name of a host"),
    (
        "serve --listen 127.0.0.1:99999",
        "'127.0.0.1:99999' for '--listen <ADDR:PORT>': a port is at most 65535",
    ),
    ("serve --listen 99999", "a port is at most 65535"),
    ("serve --listen 127.0.0.1:-1", "a port is at least 1"),
    (
        "serve --listen 127.0.0.1:",
        "the port is missing after the colon",
    ),
    (
        "serve --listen 127.0.0.1:http",
        "'http' is not a port such as 12000",
    ),
    (
        "serve --listen 127.0.0.256:5",
        "'127.0.0.256' is not an IPv4 address",
    ),
    (
        "serve --listen [fe80::1]:5",
        "a link-local address needs %interface, such as fe80::1%eth0",
    ),
    (
        "serve --listen [::1%lo]:5",
        "%lo has no meaning here: ::1 is not a link-local address",
    ),
    (
        "serve --listen [fe80::1%]:5",
        "the interface is missing after the %",
    ),
    (
        "serve --listen ::1:5",
        "an IPv6 address must be in brackets",
    ),
    ("serve --listen http://a:5", "upcase does not speak http"),
    (
        "serve --listen 127.0.0.1:7 --listen 127.0.0.1:7",
        "--listen 127.0.0.1:7 is given twice",
    ),
    (
        "serve --listen 127.0.0.1:7 --metrics 127.0.0.1:7",
        "--listen and --metrics are both 127.0.0.1:7",
    ),
    (
        "serve --metrics 127.0.0.1",
        "the port is missing: 127.0.0.1:9100",
    ),
    (
        "serve --metrics [fe80::1]:5",
        "a link-local address needs %interface",
    ),
    (
        "serve --max-connections -5",
        "'-5' for '--max-connections <N>': at least 1",
    ),
    (
        "serve --max-connections abc",
        "not a whole number such as 1000",
    ),
    (
        "serve --max-connections --nagle",
        "'--max-connections <N>' needs a value, and --nagle follows",
    ),
    ("serve --max-connections-per-ip 0", "at least 1"),
    (
        "serve --listen 0.0.0.0:12998 --listen 127.0.0.1:12998",
        "--listen 0.0.0.0:12998 includes 127.0.0.1:12998 already: remove one of them",
    ),
    (
        "serve --keepalive 100000h",
        "the kernel accepts whole seconds, 1s to 32767s, or off",
    ),
    ("serve --shards 257", "at most 256"),
    (
        "serve --shards 1 --shards 2",
        "--shards is given more than once",
    ),
    ("serve --backlog 0", "at least 1"),
    ("serve --backlog 9999999999", "at most 2,147,483,647"),
    ("serve --sandbox maybe", "write auto, on or off"),
    (
        "serve --sandbox",
        "'--sandbox <SANDBOX>' needs a value: auto, on or off",
    ),
    ("serve --nagle=yes", "--nagle takes no value 'yes'"),
    (
        "serve --idle-timeout never",
        "not a time such as 30s, or off",
    ),
    ("serve --idle-timeout 0", "it must be longer than 0, or off"),
    (
        "serve --idle-timeout -3s",
        "it must be longer than 0, or off",
    ),
    (
        "serve --idle-timeout 30",
        "the unit is missing: 30s or 30ms, or off",
    ),
    (
        "serve --stall-timeout none",
        "not a time such as 30s, or off",
    ),
    (
        "serve --min-rate 1KiB --stall-timeout off",
        "--min-rate has no effect with --stall-timeout off",
    ),
    (
        "serve --min-rate 512 --stall-timeout off",
        "--min-rate has no effect with --stall-timeout off",
    ),
    ("serve --min-rate 0", "at least 1 byte"),
    (
        "serve --keepalive 500ms",
        "the kernel accepts whole seconds, 1s to 32767s, or off",
    ),
    (
        "serve --drain-timeout off",
        "not a time such as 10s or 500ms",
    ),
    ("serve --turn-bytes 3GiB", "at most 2147483647 bytes"),
    ("serve --turn-accepts 0", "at least 1"),
    (
        "serve --notsent-lowat x",
        "not a size such as 256KiB, or off",
    ),
    (
        "serve --mss 50",
        "at least 88: the kernel accepts 88 to 32767 bytes",
    ),
    (
        "serve --mss 32768",
        "at most 32,767: the kernel accepts 88 to 32767 bytes",
    ),
    ("serve --send-buffer 0", "at least 1 byte"),
    ("serve --send-buffer -5", "at least 1 byte"),
    ("serve --recv-buffer 1.5", "a whole number of bytes"),
];

/// Wrong command lines of `load`.
const LOAD: &[(&str, &str)] = &[
    (
        "load --rate 100..500",
        "a ramp needs its length, as in 100..500:60s",
    ),
    (
        "load --rate 100:1s,500",
        "'500' has no length, such as 5000:20s",
    ),
    (
        "load --rate 5,000:1s",
        "'5' has no length, such as 5000:20s",
    ),
    ("load --rate 100..:1s", "not a rate above 0"),
    ("load --rate 100:0s", "it must be longer than 0"),
    ("load --rate 0:1s", "no message is ever due"),
    (
        "load --rate 100:1s --duration 1s",
        "--duration cannot be used with the profile of --rate, whose stages last 1s",
    ),
    (
        "load --rate 100..0:1s,5:2s --messages 5",
        "--messages cannot be used with the profile of --rate, whose stages last 3s",
    ),
    (
        "load --rate 100:1s --warmup 1s",
        "--warmup 1s must be shorter than the stages of --rate together, 1s",
    ),
    (
        "load --rate 100:1s --assert stage[2].errors=0",
        "there is no stage 2, the profile of --rate has 1 stage",
    ),
    (
        "load --rate 100 --assert stage[1].errors=0",
        "is about a stage, and the run has no profile with stages",
    ),
    ("load --assert stage[0].errors=0", "counted from 1"),
    ("load --arrivals poisson", "--arrivals needs --rate"),
    ("load --pacing global", "--pacing needs --rate"),
    ("load --spin", "--spin needs --rate"),
    ("load --close rst", "--close needs --churn"),
    (
        "load 127.0.0.1 127.0.0.2 127.0.0.3 --connections 2",
        "--connections 2 is fewer than the 3 targets",
    ),
    (
        "load --arrivals bursty --rate 5",
        "write constant or poisson",
    ),
    (
        "load --connections -1",
        "'-1' for '--connections <N>': at least 1",
    ),
    ("load --connections 0", "at least 1"),
    ("load --connections", "'--connections <N>' needs a value"),
    (
        "load --connections --rate 5",
        "'--connections <N>' needs a value, and --rate follows",
    ),
    (
        "load --connections abc",
        "'abc' for '--connections <N>': not a whole number such as 1000",
    ),
    ("load --connections 1,5", "not a whole number such as 1000"),
    ("load --connections 1e3", "not a whole number such as 1000"),
    (
        "load --connections 99999999999999999999",
        "at most 10,000,000",
    ),
    (
        "load --conections 5",
        "there is no option --conections: did you mean --connections?",
    ),
    (
        "load --rate -5",
        "not a rate above 0, such as 5000 or 333.3",
    ),
    ("load --rate 0", "not a rate above 0, such as 5000 or 333.3"),
    (
        "load --rate 1e3",
        "not a rate above 0, such as 5000 or 333.3",
    ),
    ("load --rate 99999999", "at most 10,000,000 a second"),
    (
        "load --rate 5 --think 1s",
        "--rate cannot be used with --think",
    ),
    ("load --think -1s", "it must be longer than 0"),
    (
        "load --size abc",
        "not a size such as 64, 16KiB, 64..1500 or 64:90%,16KiB:10%",
    ),
    ("load --size 0", "at least 1 byte"),
    ("load --size -1", "at least 1 byte"),
    ("load --size 2GiB", "at most 1GiB"),
    ("load --size 9..5", "9 is more than 5"),
    ("load --size 64:50%", "the shares add up to 50 %, not 100 %"),
    ("load --depth 99999", "at most 65,536"),
    ("load --duration 1x", "not a time such as 10s or 500ms"),
    ("load --duration -3s", "it must be longer than 0"),
    ("load --duration 1", "the unit is missing: 1s or 1ms"),
    ("load --duration 500000000000years", "at most 365 days"),
    (
        "load --duration 1s --messages 5",
        "--duration cannot be used with --messages",
    ),
    ("load --messages 0", "at least 1"),
    ("load --warmup -1s", "it must be at least 0s"),
    (
        "load --warmup 10s",
        "--warmup 10s must be shorter than --duration 10s",
    ),
    ("load --drain x", "not a time such as 10s or 500ms"),
    ("load --churn 0", "at least 1"),
    ("load --connect-rate -1", "at least 1"),
    (
        "load --threads 5 --connections 4",
        "--threads 5 is more than --connections 4",
    ),
    ("load --threads 9999", "at most 1,024"),
    ("load --seed -1", "at least 0"),
    (
        "load --source nonsense",
        "not an IP address such as 10.77.0.2 or fe80::1%eth0",
    ),
    ("load --source 127.0.0.1:5", "not an IP address"),
    (
        "load --source fe80::1",
        "a link-local address needs %interface",
    ),
    ("load --kernel-timestamps -1", "at least 1"),
    (
        "load --kernel-timestamps 5 --depth 0",
        "'0' for '--depth <N>': at least 1",
    ),
    ("load --assert p99=2ms", "use <=, as in p99<=2ms"),
    ("load --assert rate=1 --rate 5", "use >=, as in rate>=1"),
    ("load --assert errors<0", "nothing is less than 0"),
    ("load --assert rate>=1", "--assert rate needs --rate"),
    ("load --assert p99<2", "the bound of p99 is not a time"),
    ("load --assert speed>2", "unknown metric speed"),
    (
        "load --allow nonsense",
        "write client-bound, network-bound, server-bound, inconclusive or failed",
    ),
    ("load --interval 1ms", "at least 10ms"),
    (
        "load --percentiles 50,100",
        "'100' is not a percentile: use a number above 0 and below 100, such as 99.9",
    ),
    (
        "load --percentiles 99.1234567",
        "'99.1234567' has more than 6 decimals: use at most 6",
    ),
    (
        "load --percentiles 1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17",
        "17 percentiles are too many for a table: use at most 16",
    ),
    (
        "load 127.0.0.1:0",
        "nothing can listen on port 0: name the port of the server, such as 12000",
    ),
    (
        "load 0.0.0.0:5",
        "0.0.0.0 is the unspecified address: use an address of a host, such as 127.0.0.1",
    ),
    ("load http://host", "upcase does not speak http"),
    ("load *:5", "the host is missing: 127.0.0.1:5"),
];

/// Wrong command lines of `duel`, `send` and `sniff`, and without a valid command.
const OTHERS: &[(&str, &str)] = &[
    (
        "duel a",
        "a duel is between two servers, and one is given: duel TARGET_A TARGET_B",
    ),
    (
        "duel a b --duration 3s",
        "duel does not take --duration: --slice is the length",
    ),
    (
        "duel a b --messages 3",
        "duel does not take --messages: --slice is the length",
    ),
    (
        "duel a b --interval-log x",
        "duel does not take --interval-log: --record DIR keeps",
    ),
    (
        "duel a b --assert p99<1ms",
        "duel does not take --assert: --fail-if has the conditions",
    ),
    (
        "duel a b --warmup 3s",
        "--warmup 3s must be shorter than --slice 3s",
    ),
    (
        "duel a b --server-metrics http://a:9100/metrics",
        "--server-metrics needs --record DIR: the metrics are kept nowhere else",
    ),
    ("duel a b --spin", "--spin needs --rate"),
    ("duel a b --rounds 0", "'0' for '--rounds <N>': at least 1"),
    ("send", "TARGET is missing: HOST or HOST:PORT"),
    ("send host:0 x", "nothing can listen on port 0"),
    ("send [::]:5 x", ":: is the unspecified address"),
    ("send host:70000 x", "a port is at most 65535"),
    ("send [::1 x", "the ] of [IPv6] is missing"),
    (
        "send ::1 x",
        "an IPv6 address must be in brackets, such as [::1]:12000",
    ),
    ("send 12000 x", "the host is missing: 127.0.0.1:12000"),
    ("send :12001 x", "the host is missing: 127.0.0.1:12001"),
    ("send 999.1.1.1 x", "'999.1.1.1' is not an IPv4 address"),
    (
        "send http://127.0.0.1:80 x",
        "upcase does not speak http, it sends plain bytes over TCP",
    ),
    ("send tcp:// x", "the address is empty"),
    ("send [fe80::1] x", "a link-local address needs %interface"),
    (
        "send 127.0.0.1:1 -5",
        "put a message that begins with - after --, as in -- -5",
    ),
    (
        "send 127.0.0.1:1 --bogus",
        "there is no option --bogus; put a message that begins with -",
    ),
    (
        "send 127.0.0.1:1 --rate 5 x",
        "--rate is an option of load, not of send",
    ),
    (
        "send --timeout 1x 127.0.0.1:1",
        "not a time such as 10s or 500ms",
    ),
    ("send --timeout 0s 127.0.0.1:1", "it must be longer than 0"),
    (
        "send 127.0.0.1:1 --timeout=",
        "'--timeout <TIME>' needs a value",
    ),
    ("sniff", "--interface <IF> or --read <FILE> is missing"),
    ("sniff capture.pcap", "for a file use --read capture.pcap"),
    (
        "sniff --interface lo --read x",
        "--interface cannot be used with --read",
    ),
    ("sniff --read x --port 0", "a port is at least 1"),
    ("sniff --read x --port 70000", "a port is at most 65535"),
    ("sniff --read x --count 0", "at least 1"),
    ("sniff --read x --flows -1", "at least 1"),
    ("sniff --read x --width 99999", "at most 65,535"),
    (
        "sniff --read x --format xml",
        "write text, json or markdown",
    ),
    ("laod", "there is no command 'laod': did you mean load?"),
    (
        "nonsense",
        "there is no command 'nonsense': write serve, send, load, sniff, report, compare, duel or",
    ),
    (
        "-v",
        "the command is missing: serve, send, load, sniff, report, compare, duel or help",
    ),
    ("--log-file", "'--log-file <PATH>' needs a value"),
];

/// Valid command lines that cannot be carried out.
const CANNOT_RUN: &[(&str, &str)] = &[
    (
        "load --payload /dev/zero",
        "the payload /dev/zero is too large: at most 64MiB",
    ),
    (
        "send nobody.invalid hello",
        "cannot resolve the host name nobody.invalid",
    ),
    (
        "load nobody.invalid:12000",
        "cannot resolve the host name nobody.invalid",
    ),
    (
        "send [fe80::1%eth-none] x",
        "there is no interface eth-none",
    ),
    (
        "serve --listen [fe80::1%99999999]:5",
        "there is no interface 99999999",
    ),
    (
        "serve --listen nobody.invalid:5",
        "cannot listen on nobody.invalid:5: cannot resolve the host name nobody.invalid",
    ),
    (
        "serve --listen 192.0.2.1:12000",
        "Cannot assign requested address (os error 99); `ip address` lists the addresses",
    ),
    (
        "load --source ::1",
        "--source ::1 cannot reach a server on 127.0.0.1",
    ),
    (
        "load 127.0.0.1:9 --source ::1",
        "no address of the same family as every --source",
    ),
    (
        "load --source 192.0.2.1",
        "--source 192.0.2.1 is not an address of this host",
    ),
    (
        "load --source fe80::1%eth-none",
        "there is no interface eth-none",
    ),
    (
        "serve --log-file /nowhere/log",
        "cannot open the log file /nowhere/log",
    ),
];

/// Command lines with valid values. They fail later, because their source is not a local address.
const TAKEN: &[&str] = &[
    "load --connections 1,000",
    "load --connections 1k --threads 10",
    "load --rate 5,000 --arrivals poisson",
    "load --rate 0..1.5k:10s,1.5k:1m,0:2s --assert stage[3].errors=0",
    "load --rate 1.5k --pacing per-connection --spin",
    "load --rate 1.5k --pacing first-free",
    "load --size 16KiB --seed 18446744073709551615",
    "load --kernel-timestamps 5",
    "load --kernel-timestamps=5",
    "load --kernel-timestamps",
    "load --messages 1k --churn 10 --close rst",
    "load --assert p99<=2ms --assert errors=0 --assert p50>0ms",
    "load --drain 0s --warmup 0s",
    "load --percentiles 99.99,p50,50",
];

#[test]
fn wrong_usage_is_one_line_and_exit_code_2() {
    for (arguments, reported) in SERVE.iter().chain(LOAD).chain(OTHERS) {
        is_answered(arguments, 2, reported);
    }
}

#[test]
fn what_cannot_run_is_one_line_and_exit_code_3() {
    for (arguments, reported) in CANNOT_RUN {
        is_answered(arguments, 3, reported);
    }
}

#[test]
fn numbers_have_more_than_one_form() {
    for arguments in TAKEN {
        let arguments = format!("{arguments} --source 192.0.2.1");
        is_answered(
            &arguments,
            3,
            "--source 192.0.2.1 is not an address of this host",
        );
    }
}

#[test]
fn an_address_of_several_hosts_is_refused_wherever_one_is_taken() {
    for (address, code, reported) in [
        ("224.0.0.1", 2, "224.0.0.1 is a multicast address"),
        ("[ff02::1]", 2, "ff02::1 is a multicast address"),
        ("[ff02::1%lo]", 2, "ff02::1 is a multicast address"),
        ("255.255.255.255", 2, "255.255.255.255 is the broadcast"),
        ("127.255.255.255", 3, "127.255.255.255 is a broadcast"),
    ] {
        for arguments in [
            format!("send {address}:5 x"),
            format!("load {address}:5"),
            format!("load --source {address}"),
            format!("serve --listen {address}:5"),
            format!("serve --metrics {address}:5"),
        ] {
            is_answered(&arguments, code, reported);
            is_answered(&arguments, code, "use an address of one host");
        }
    }
}

/// Checks that a command line gives one line of error that contains `reported`.
#[track_caller]
fn is_answered(arguments: &str, code: i32, reported: &str) {
    let ended = run(arguments);
    assert_eq!(ended.code, Some(code), "{arguments}: {ended:?}");
    assert_eq!(ended.stdout, "", "{arguments}");
    let lines = ended.stderr.lines().count();
    assert_eq!(lines, 1, "{arguments}: {}", ended.stderr);
    assert!(
        ended.stderr.starts_with("upcase: "),
        "{arguments}: {}",
        ended.stderr
    );
    assert!(
        ended.stderr.contains(reported),
        "{arguments}: {}",
        ended.stderr
    );
}

#[test]
fn control_characters_of_a_value_do_not_reach_the_terminal() {
    let ended = common::Ended::from(
        common::upcase("load --size")
            .arg("\u{1b}[31mred\nline")
            .output()
            .unwrap(),
    );
    assert_eq!(ended.code, Some(2));
    assert_eq!(ended.stderr.lines().count(), 1, "{ended:?}");
    assert!(!ended.stderr.contains('\u{1b}'), "{ended:?}");
}

#[test]
fn a_target_has_the_port_of_upcase_unless_it_has_its_own() {
    let serve = Serve::start("");
    let ended = run(&format!("send tcp://{} hello", serve.address())).expect(0);
    assert_eq!(ended.stdout, "HELLO\n");
    // No server is needed on port 12000: the error names the port.
    let ended = run("send 127.0.0.77 hello --timeout 1s").expect(3);
    assert!(
        ended
            .stderr
            .contains("cannot connect to 127.0.0.77:12000: "),
        "{ended:?}"
    );
}

#[test]
fn help_and_version_are_exit_code_0() {
    for arguments in [
        "--help",
        "serve --help",
        "send --help",
        "load --help",
        "sniff --help",
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

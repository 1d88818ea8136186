//! Tests plan files: options of `load` and `duel` in a file, printed and read back.

use std::fs;

use serde_json::{Value, json};

use super::record::Folder;
use crate::common::{Ended, Serve, Temporary, run};

/// Runs `load` with a plan.
fn load(plan: &str, arguments: &str) -> Ended {
    let file = Temporary::new(plan.as_bytes());
    run(&format!("load --plan {} {arguments}", file.0.display()))
}

#[test]
fn a_plan_is_carried_out_and_described_in_the_record() {
    let (serve, folder) = (Serve::start(""), Folder::new());
    let address = serve.address();
    let plan = format!(
        "targets = [\"{address}\"]\nconnections = 3\nmessages = 30\n\
         kernel-timestamps = true\nallow = \"client-bound,network-bound,inconclusive\"\n\
         record = \"{}\"\nassert = [\"errors=0\"]\nformat = \"json\"\n\
         label = {{ purpose = \"a plan\" }}\n",
        folder.name()
    );
    let report = load(&plan, "--messages 60 --note typed").expect(0).json();
    assert_eq!(report["verified"], 60);
    assert_eq!(report["connections"], 3);
    assert_eq!(report["assertions"].as_array().unwrap().len(), 1);
    let described = fs::read_to_string(folder.path().join("run.json")).unwrap();
    let described: Value = serde_json::from_str(&described).unwrap();
    let options = &described["options"];
    assert_eq!(options["targets"], json!([address.to_string()]));
    assert_eq!(options["connections"], "3");
    assert_eq!(options["messages"], "60");
    assert_eq!(options["kernel-timestamps"], "8");
    assert_eq!(options["plan"], Value::Null);
    assert_eq!(described["labels"], json!({ "purpose": "a plan" }));
    assert_eq!(described["note"], "typed");
}

#[test]
fn a_printed_plan_is_the_same_plan() {
    let printed = |arguments: &str| {
        let ended = run(&format!("{arguments} --print-plan")).expect(0);
        assert_eq!(ended.stderr, "");
        ended.stdout
    };
    for arguments in [
        "load",
        "load 10.0.0.1 [::1]:5 --rate 5k --spin --timeout 3s --churn 5",
        "load --messages 500 --kernel-timestamps --assert p99<2ms --assert errors=0",
        "load --think 1ms --label a=b=c --payload bytes -v --percentiles 50",
        "duel a b --rounds 4 --slice 500ms --format markdown",
        "duel a b --connections 5 --record /nonexistent/x --rate 9 --arrivals poisson",
    ] {
        let plan = printed(arguments);
        let file = Temporary::new(plan.as_bytes());
        let command = arguments.split(' ').next().unwrap();
        let again = printed(&format!("{command} --plan {}", file.0.display()));
        assert_eq!(again, plan, "{arguments}");
    }
    // A run without a rate has no arrivals, and its duration is the default.
    let plan = printed("load");
    assert!(
        plan.contains("\nduration = \"10s\"\n") && !plan.contains("arrivals"),
        "{plan}"
    );
}

#[test]
fn the_examples_are_plans() {
    let examples = concat!(env!("CARGO_MANIFEST_DIR"), "/examples");
    for (name, lines) in [
        (
            "soak",
            [
                "duration = \"72h\"",
                "label = [\"purpose=soak\"]",
                "rate = 5000",
            ],
        ),
        (
            "ci",
            [
                "kernel-timestamps = 8",
                "percentiles = \"50,90,99\"",
                "duration = \"5s\"",
            ],
        ),
    ] {
        let plan = run(&format!("load --plan {examples}/{name}.toml --print-plan")).expect(0);
        for line in lines {
            assert!(plan.stdout.contains(&format!("\n{line}\n")), "{plan:?}");
        }
    }
    let serve = Serve::start("");
    let address = serve.address();
    let check = format!("load --plan {examples}/ci.toml {address}");
    let short = "--duration 300ms --warmup 0s --connections 5 --allow network-bound,server-bound";
    let report = run(&format!("{check} {short},client-bound,inconclusive"));
    assert_eq!(report.expect(0).json()["schema"], "upcase.load/1");
}

#[test]
fn a_duel_has_a_plan_as_well() {
    let serve = Serve::start("");
    let address = serve.address();
    let plan = format!(
        "targets = [\"{address}\", \"{address}\"]\nrounds = 1\nslice = \"50ms\"\n\
         format = \"json\"\nconnections = 2\n\
         allow = [\"client-bound\", \"inconclusive\"]\nfail-if = [\"p50 slower by 5%\"]\n"
    );
    let file = Temporary::new(plan.as_bytes());
    let duel = |arguments: &str| run(&format!("duel --plan {} {arguments}", file.0.display()));
    let report = duel("--slice 60ms").expect(4).json();
    assert_eq!(report["duel"]["slice_s"], 0.06);
    assert_eq!(report["conditions"][0]["outcome"], "undecided");
    let refused = duel("--duration 3s").expect(2);
    assert!(
        refused.stderr.contains("duel does not take --duration"),
        "{refused:?}"
    );
}

#[test]
fn a_wrong_plan_is_one_line_of_error() {
    let deep = format!("a = {}", "[".repeat(100_000));
    let tables = "a={b=".repeat(60_000);
    let keys = format!("{} = 1", vec!["a"; 100_000].join("."));
    let long = format!("note = \"{}\"", "x".repeat(1 << 20));
    for (plan, code, error) in [
        (
            "connectoins = 5",
            2,
            ", line 1: there is no option connectoins: did you mean connections?",
        ),
        (
            "\nconnections = 0",
            2,
            ", line 2: invalid value '0' for '--connections <N>': at least 1",
        ),
        ("size = ", 2, ", line 1: not valid TOML: "),
        ("\u{1b}[31m = 3", 2, ", line 1: "),
        (
            "\"\\u001b[31m\" = 3",
            2,
            ", line 1: load has no option [31m",
        ),
        (
            "note = \"\\u001b\"\nsize = \"\\u001b\"",
            2,
            ", line 2: invalid value '?' for '--size",
        ),
        (&deep, 2, ", line 1: not valid TOML: "),
        (&tables, 2, ", line 1: not valid TOML: "),
        (&keys, 2, ", line 1: not valid TOML: "),
        (&long, 3, "cannot read the plan "),
    ] {
        let ended = load(plan, "--print-plan").expect(code);
        assert_eq!(ended.stdout, "");
        assert_eq!(ended.stderr.lines().count(), 1, "{ended:?}");
        assert!(ended.stderr.contains(error), "{ended:?}");
        assert!(!ended.stderr.contains('\u{1b}'), "{ended:?}");
    }
    let binary = Temporary::new(&[0xff, 0xfe, 0, 1, 2]);
    let ended = run(&format!("load --plan {}", binary.0.display())).expect(2);
    assert!(
        ended.stderr.contains("not valid TOML: it is not UTF-8"),
        "{ended:?}"
    );
    for path in ["/nonexistent/plan.toml", "/tmp", "/dev/zero"] {
        let ended = run(&format!("load --plan {path}")).expect(3);
        let error = format!("upcase: cannot read the plan {path}: ");
        assert!(ended.stderr.starts_with(&error), "{ended:?}");
        assert_eq!(ended.stderr.lines().count(), 1, "{ended:?}");
    }
}

//! `touchline doctor --json`.

use serde_json::Value;

use crate::common::program::{finish, touchline};

#[test]
fn the_report_has_a_check_for_every_line_of_the_list_and_the_same_exit_code() {
    // The second has no pack.
    for (arguments, result) in [(&["doctor"][..], "ok"), (&["doctor", "--pack", "/nowhere/pack"], "missing")] {
        let list = finish(touchline().env("NO_COLOR", "1").args(arguments));
        let report = finish(touchline().args(arguments).arg("--json"));
        assert_eq!(list.status.code(), report.status.code());
        let report: Value = serde_json::from_slice(&report.stdout).expect("standard output is one JSON object");
        assert_eq!(report["version"], env!("CARGO_PKG_VERSION"));
        let checks = report["checks"].as_array().unwrap();
        let has = |check: &Value, key: &str| check[key].as_str().unwrap().to_owned();
        let lines = String::from_utf8(list.stdout).unwrap();
        for check in checks {
            assert_eq!(check.as_object().unwrap().len(), 5, "{check}");
            assert!(
                ["gstreamer", "plugin", "decoder", "pack", "machine"].contains(&has(check, "area").as_str()),
                "{check}"
            );
            let (name, word) = (has(check, "name"), has(check, "result").replace("missing", "MISSING"));
            let is_listed = |line: &str| {
                line.trim_start().split_once("  ").is_some_and(|(of, rest)| of == word && rest.starts_with(&name))
            };
            assert!(lines.lines().any(is_listed), "{check}: {lines}");
            let is_package_named =
                check["package"].as_str().is_none_or(|package| has(check, "detail").contains(package));
            assert!(is_package_named, "{check}");
        }
        let of_checks = lines
            .lines()
            .filter(|line| ["ok", "warning", "MISSING"].iter().any(|word| line.trim_start().starts_with(word)));
        assert_eq!(of_checks.count(), checks.len(), "{lines}");
        let pack = checks.iter().find(|check| check["area"] == "pack").unwrap();
        assert_eq!(pack["result"], result, "{pack}");
        let is_missing = checks.iter().any(|check| check["result"] == "missing");
        assert_eq!(report["ok"], !is_missing);
        for package in report["packages"].as_array().unwrap() {
            assert!(checks.iter().any(|check| check["package"] == *package), "{package}");
        }
        if is_missing {
            assert_eq!(list.status.code(), Some(2));
        }
    }
}

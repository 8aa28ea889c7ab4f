//! The order of modules: within a crate, modules import only modules below them. Cargo keeps the order of the crates.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use crate::sources;

/// The modules of each crate, lowest first. Those on one line form one room and may import each other.
const ORDER: &[(&str, &[&[&str]])] = &[
    (
        "core",
        &[
            &["markup", "userinfo"],
            &["redact"],
            &["cause"],
            &["error"],
            &["clock", "time"],
            &["timecode"],
            &["labels", "signal", "tier"],
            &["colours"],
            &["limits"],
            &["threads"],
            &["observer"],
            &["pool"],
            &["pcm"],
            &["frame"],
            &["incident", "item"],
            &["selection"],
            &["clip"],
            &["decision"],
            &["vote"],
            &["expectation"],
            &["segment"],
            &["fusion"],
        ],
    ),
    (
        "media",
        &[
            &["options"],
            &["convert"],
            &["tone"],
            &["wav"],
            &["boxes"],
            &["truncation", "timecode_track"],
            &["still", "jpeg"],
            &["overlay"],
            &["source_clock"],
            &["pcr"],
            &["outlet"],
            &["threaded"],
            &["registry", "uri"],
            &["facts"],
            &["replay"],
            &["template"],
            &["guard", "web"],
            &["supervise", "stalls"],
            &["probe"],
            &["hls"],
            &["gst", "plugins"],
            &["worker"],
        ],
    ),
    ("compute", &[&["gpu"], &["features"], &["nn"], &["models"], &["backend"], &["infer"]]),
    (
        "learn",
        &[
            &["dataset"],
            &["held_out"],
            &["inputs"],
            &["lbfgs"],
            &["augment"],
            &["measure"],
            &["optimizer"],
            &["record"],
            &["resources"],
            &["rules"],
            &["net"],
            &["rows"],
            &["classes"],
            &["fit"],
            &["train"],
            &["evaluate"],
            &["report"],
            &["calibrate"],
            &["adapt"],
            &["pack"],
        ],
    ),
    (
        "serve",
        &[
            &["nearest"],
            &["schedule"],
            &["config"],
            &["connect"],
            &["metrics"],
            &["backlog"],
            &["relief"],
            &["frame_share"],
            &["clips"],
            &["record"],
            &["control"],
            &["sink"],
            &["hub"],
            &["export"],
            &["teach"],
            &["fleet"],
            &["http"],
            &["live"],
            &["store"],
            &["deliver"],
            &["shadow"],
            &["recording"],
            &["outputs"],
            &["workers"],
            &["update"],
            &["archive"],
            &["run"],
        ],
    ),
];

/// The text without comments, and without the unit tests at its end, which may import anything.
fn code(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap();
    let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
    text.lines().filter(|line| !line.trim_start().starts_with("//")).map(|line| format!("{line}\n")).collect()
}

/// The names that follow `root` in `code`, where `root` begins a path.
fn imports<'a>(code: &'a str, root: &str) -> BTreeSet<&'a str> {
    let mut found = BTreeSet::new();
    for (at, _) in code.match_indices(root) {
        if code[..at].ends_with(|c: char| c == ':' || c == '_' || c.is_alphanumeric()) {
            continue;
        }
        let rest = &code[at + root.len()..];
        if let Some(list) = rest.strip_prefix('{') {
            let (mut depth, mut is_start) = (0, true);
            for (at, c) in list.char_indices() {
                match c {
                    '{' => depth += 1,
                    '}' if depth == 0 => break,
                    '}' => depth -= 1,
                    ',' if depth == 0 => is_start = true,
                    c if is_start && c.is_alphabetic() => {
                        found.insert(name(&list[at..]));
                        is_start = false;
                    }
                    _ => {}
                }
            }
        } else {
            found.insert(name(rest));
        }
    }
    found
}

fn name(text: &str) -> &str {
    text.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap()
}

/// The number of modules around and including that of the file `place`, which is relative to the root of its crate.
fn depth(place: &Path) -> usize {
    place.components().count() - usize::from(place.ends_with("mod.rs"))
}

#[test]
fn modules_import_only_modules_below_them() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut wrong = Vec::new();
    for (member, order) in ORDER {
        let root = source.join(member);
        let level = |module: &str| order.iter().position(|room| room.contains(&module));
        for path in sources(&root) {
            let place = path.strip_prefix(&root).unwrap();
            let module = place.iter().next().unwrap().to_str().unwrap().trim_end_matches(".rs");
            let stem = path.file_stem().unwrap().to_str().unwrap();
            let is_test = stem.ends_with("tests") || stem == "testing";
            let is_test = is_test || place.iter().any(|part| part == "tests" || part == "examples");
            if module == "lib" || is_test {
                continue;
            }
            let Some(own) = level(module) else {
                wrong.push(format!(
                    "src/{member}/{module} has no place in the order; give it one in tests/layout/imports.rs"
                ));
                continue;
            };
            let code = code(&path);
            let mut found = imports(&code, "crate::");
            found.extend(imports(&code, &"super::".repeat(depth(place))));
            for import in found {
                if level(import).is_some_and(|other| other > own) {
                    wrong.push(format!("{} imports {import}, which is above it", path.display()));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn imports_are_found() {
    let code = "use crate::{a::{b, c}, d};\nfn f() { crate::e::g() }\npub(crate) mod h;\nuse super::super::{i::j, k};\nuse super::l;\n";
    assert_eq!(imports(code, "crate::").into_iter().collect::<Vec<_>>(), ["a", "d", "e"]);
    assert_eq!(depth(Path::new("x/y.rs")), 2);
    assert_eq!(imports(code, "super::super::").into_iter().collect::<Vec<_>>(), ["i", "k"]);
    assert_eq!(depth(Path::new("x/mod.rs")), 1);
    assert_eq!(imports(code, "super::").into_iter().collect::<Vec<_>>(), ["l", "super"]);
}

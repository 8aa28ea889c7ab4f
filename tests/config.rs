//! `touchline config`: the commands check, show and schema.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::{Value, json};

fn touchline(arguments: &[&str], variables: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_touchline"));
    // Variables that the machine sets would be read as settings.
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("TOUCHLINE_") {
            command.env_remove(name);
        }
    }
    command.args(arguments).envs(variables.iter().copied()).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn shipped() -> Vec<std::path::PathBuf> {
    let deploy = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy");
    ["container", "systemd", "kubernetes/base"].map(|folder| deploy.join(folder).join("touchline.toml")).to_vec()
}

#[test]
fn check_accepts_the_shipped_files_and_lists_every_mistake() {
    for path in shipped() {
        let output = touchline(&["config", "check", path.to_str().unwrap()], &[]);
        assert!(output.status.success(), "{}", text(&output.stderr));
        assert!(text(&output.stdout).contains("valid"), "{}", text(&output.stdout));
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bad.toml");
    let file = "max_streams = 0\nlinegr = true\n[vote]\nwindow = 0\n[[stream]]\nuri = \"gopher://ann:hidden77@h/\"\n\
                latency_ms = \"hidden77\"\n";
    std::fs::write(&path, file).unwrap();
    // `check` ignores the environment.
    let output = touchline(&["config", "check", path.to_str().unwrap()], &[("TOUCHLINE_MAX_STREAMS", "0")]);
    let errors = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{errors}");
    for words in
        ["bad.toml:1: max_streams: 0", "did you mean linger?", "bad.toml:4: vote: ", "bad.toml:7: latency_ms: "]
    {
        assert!(errors.contains(words), "no {words} in {errors}");
    }
    assert!(errors.contains("4 mistakes") && !errors.contains("hidden77"), "{errors}");
    let output = touchline(&["config", "check", "/no/such/file.toml"], &[]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("/no/such/file.toml"));
}

#[test]
fn show_names_the_origin_of_each_value_and_masks_secrets() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("t.toml");
    let file = "max_streams = 5\nretry = true\n[[stream]]\nid = \"court\"\nuri = \"rtsp://ann:hidden77@cam.example/live?token=hidden88\"\n";
    std::fs::write(&path, file).unwrap();
    let config = path.to_str().unwrap();
    let arguments = ["config", "show", "--config", config, "--retry=false", "--json", "b=rtmp://h/app/hidden99key"];
    let variables = [("TOUCHLINE_BATCH_MAX", "9"), ("TOUCHLINE_ADMIN_TOKEN", "hidden00hidden00hidden00")];
    let output = touchline(&arguments, &variables);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let shown: Value = serde_json::from_slice(&output.stdout).unwrap();
    for (key, value, from, place) in [
        ("max_streams", json!(5), "file", format!("{config}:1")),
        ("retry", json!(false), "flag", "--retry".to_owned()),
        ("batch_max", json!(9), "environment", "TOUCHLINE_BATCH_MAX".to_owned()),
        ("vote.onset", json!(0.6), "default", "default".to_owned()),
        ("access.admin_token", json!("***"), "environment", "TOUCHLINE_ADMIN_TOKEN".to_owned()),
    ] {
        assert_eq!(shown["settings"][key], json!({ "value": value, "from": from, "place": place }), "{key}");
    }
    let ids: Vec<&str> = shown["streams"].as_array().unwrap().iter().map(|s| s["id"].as_str().unwrap()).collect();
    assert_eq!(ids, ["court", "b"]);
    let table = touchline(&arguments.map(|a| if a == "--json" { "--quiet" } else { a }), &variables);
    let table = text(&table.stdout);
    assert!(table.contains("cam.example") && table.contains("TOUCHLINE_BATCH_MAX"), "{table}");
    for hidden in ["hidden77", "hidden88", "hidden99", "hidden00"] {
        assert!(!table.contains(hidden) && !text(&output.stdout).contains(hidden), "{hidden}: {table}");
    }
    let output = touchline(&["config", "show"], &[("TOUCHLINE_LATENCY_MS", "90000")]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("TOUCHLINE_LATENCY_MS: 90000 is not allowed; choose 0 to 60000"));
}

#[test]
fn the_schema_agrees_with_check() {
    let output = touchline(&["config", "schema"], &[]);
    assert!(output.status.success());
    let schema: Value = serde_json::from_slice(&output.stdout).unwrap();
    let validator = jsonschema::validator_for(&schema).unwrap();
    let parse = |text: &str| -> Value { serde_json::to_value(toml::from_str::<toml::Table>(text).unwrap()).unwrap() };
    for path in shipped() {
        let file = parse(&std::fs::read_to_string(&path).unwrap());
        let errors: Vec<String> = validator.iter_errors(&file).map(|e| e.to_string()).collect();
        assert!(errors.is_empty(), "{}: {errors:?}", path.display());
    }
    for bad in [
        "max_streams = 0",
        "max_streams = 4097",
        "latency_ms = 60001",
        "speed = 9",
        "rtsp_transport = \"quic\"",
        "batch_max = \"4\"",
        "[vote]\nwindow = 601",
        "[vote]\nonset = 1.5",
        "[tls]\ncertificate = \"x\"",
        "[[stream]]\nid = \"a\"",
        "[[stream]]\nuri = \"x\"\nkind = \"dash\"",
        "[[sink]]\nname = \"a\"\nspool = \"/s\"\nkind = \"fax\"",
        "[[sink]]\nkind = \"exec\"\nspool = \"/s\"\ncommand = [\"x\"]",
        "[[sink]]\nname = \"a b\"\nkind = \"exec\"\nspool = \"/s\"\ncommand = [\"x\"]",
        "[[sink]]\nname = \"a\"\nkind = \"exec\"\nspool = \"/s\"\ncommand = [\"x\"]\nkinds = [\"estimate\"]",
        "[[sink]]\nname = \"a\"\nkind = \"exec\"\nspool = \"/s\"\ncommand = [\"x\"]\nspool_max_mb = 0",
    ] {
        assert!(!validator.is_valid(&parse(bad)), "{bad}");
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bad.toml");
        std::fs::write(&path, bad).unwrap();
        assert_eq!(touchline(&["config", "check", path.to_str().unwrap()], &[]).status.code(), Some(2), "{bad}");
    }
}

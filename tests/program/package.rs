//! The Debian package: it is made, unpacked as a system would, and its program runs from there.

use std::path::Path;
use std::process::Command;

use crate::common::Fixtures;
use crate::common::program::{self, touchline};

/// Runs a command and returns its output, which must be a success.
fn output(command: &mut Command) -> String {
    let done = program::finish(command);
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    assert!(done.status.success(), "{command:?}: {said}");
    String::from_utf8_lossy(&done.stdout).into_owned()
}

#[test]
fn the_package_holds_a_program_that_finds_its_pack() {
    let fixtures = Fixtures::new();
    let place = fixtures.path();
    output(
        Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/package.sh"))
            .args(["--program", program::path(), "--out"])
            .arg(place),
    );
    let files: Vec<_> = std::fs::read_dir(place).unwrap().map(|entry| entry.unwrap().path()).collect();
    let ending = |ending: &str| files.iter().find(|path| path.to_string_lossy().ends_with(ending)).unwrap();
    let (package, archive) = (ending(".deb"), ending(".tar.gz"));

    let depends = output(Command::new("dpkg-deb").arg("-f").arg(package).arg("Depends"));
    for library in ["libc6", "libgstreamer1.0-0", "gstreamer1.0-libav", "systemd-standalone-sysusers"] {
        assert!(depends.contains(library), "{depends}");
    }
    let system = place.join("system");
    output(Command::new("dpkg-deb").arg("-R").arg(package).arg(&system));
    for script in ["postinst", "prerm", "postrm"] {
        output(Command::new("sh").arg("-n").arg(system.join("DEBIAN").join(script)));
    }
    let installed = system.join("usr/bin/touchline");
    let clip = fixtures
        .make("clip.mp4", "-f lavfi -i testsrc2=size=320x240:rate=25:duration=2 -c:v libx264 -preset ultrafast");
    let label = output(Command::new(&installed).arg("score").arg(&clip).current_dir(place));
    assert!(label.starts_with(clip.to_str().unwrap()) && label.contains("2 s"), "{label}");
    let config = system.join("etc/touchline/touchline.toml");
    assert!(output(Command::new(&installed).args(["config", "check"]).arg(config)).contains("valid, 0 streams"));

    output(Command::new("bash").arg("-n").arg(system.join("usr/share/bash-completion/completions/touchline")));
    let page = output(Command::new("zcat").arg(system.join("usr/share/man/man1/touchline-run.1.gz")));
    assert!(page.contains(".TH touchline-run 1") && page.contains("vote\\-window"), "{page}");
    let listed = output(Command::new("tar").arg("-tzf").arg(archive));
    for file in ["bin/touchline", "share/touchline/weights/compact/pack.toml", "lib/systemd/system/touchline.service"] {
        assert!(listed.lines().any(|line| line.ends_with(file)), "{file}: {listed}");
    }
}

#[test]
fn the_version_names_features_and_gstreamer() {
    let said = output(touchline().arg("--version"));
    assert!(said.starts_with(concat!("touchline ", env!("CARGO_PKG_VERSION"), "\ncommit: ")), "{said}");
    assert!(said.contains("features: ") && said.contains("GStreamer 1."), "{said}");
    let said = output(touchline().arg("-V"));
    assert_eq!(said.trim(), concat!("touchline ", env!("CARGO_PKG_VERSION")));
}

#[test]
fn manual_pages_need_a_folder() {
    let missing = Path::new("/nonexistent/pages");
    let done = program::finish(touchline().arg("manual").arg("--out").arg(missing));
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    assert!(done.status.code() == Some(5) && said.contains("existing directory"), "{said}");
}

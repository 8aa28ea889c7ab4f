//! The servers of `../shared/field` with the material of these tests, if that folder exists.

use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use touchline_core::cause::Cause;

use super::case::{Case, Expect, Site, all, counts, fails, fails_with_cause, in_runs, or, run, secs, shows, whole};
use super::lost::without;
use super::material::{self, BASE, BIG, WIDE};
use super::play::PlayOptions;
use crate::common::wait::until;
use crate::common::{Child, Fixtures, free_tcp_port};

fn folder() -> Option<PathBuf> {
    let folder = std::env::var_os("TOUCHLINE_SHARED")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared"), PathBuf::from)
        .join("field");
    folder.join("hls_server.py").is_file().then_some(folder)
}

/// Starts the server. Returns it with its URL.
fn serve(script: &Path, media: &Path) -> (Child, String) {
    let port = free_tcp_port();
    let child = Command::new("python3")
        .arg(script)
        .arg(port.to_string())
        .arg(media)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("python3 is installed");
    until("an answer of the field's server", || TcpStream::connect(("127.0.0.1", port)).is_ok());
    (Child(child), format!("http://127.0.0.1:{port}"))
}

/// The names in the script's table of malformed playlists.
fn malformed(script: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(script).expect("the script exists");
    let table = text.split("MALFORMED={").nth(1).and_then(|rest| rest.split("\nclass ").next()).unwrap_or_default();
    let name = |line: &str| Some(line.trim().strip_prefix('\'')?.split_once("':")?.0.to_owned());
    table.lines().filter_map(name).collect()
}

/// The outcome that the field's list requires for a malformed playlist, where it is unambiguous. Others must only end in time.
fn expected_of_malformed(name: &str) -> Expect {
    // The segment lasts two seconds, but its playlist declares six.
    let plays = || counts(2..=2, 2..=6);
    match name {
        "zero_dur" | "nan_dur" | "neg_dur" | "extinf_no_uri" | "key_nouri" | "key_badiv" => {
            fails(&["damaged playlist"])
        }
        "ok" | "bad_utf8" | "pdt_bad" | "pdt_y" | "var_ok" | "var_media_miss" | "bw_none" | "media_404"
        | "media_vidonly" => plays(),
        "key_none" => fails_with_cause(&[Cause::Encrypted], &["encrypted", "DRM"]),
        "var_404" => fails(&["404"]),
        _ => Expect::Anything,
    }
}

#[test]
fn field_servers_yield_every_second_once() {
    let Some(folder) = folder() else {
        // The servers of the other tests cover the same material.
        eprintln!("../shared/field is missing: its servers are not tested");
        return assert!(material::files().contains_key("ts/index.m3u8"));
    };
    let media = Fixtures::new();
    for (name, bytes) in material::files() {
        let path = media.path().join("hls").join(name);
        std::fs::create_dir_all(path.parent().expect("a file is in a folder")).expect("a temporary folder");
        std::fs::write(path, bytes).expect("the temporary folder is writable");
    }
    let script = folder.join("hls_server.py");
    let (_server, url) = serve(&script, media.path());
    let of = |path: &str, expect: Expect| {
        Case::new(format!("field: {path}"), Site::new(), expect).at(&format!("{url}/{path}"))
    };
    let height = |case: Case, frame_height: u32| case.options(PlayOptions { frame_height, ..PlayOptions::recording() });
    let or_fails = |expect: Expect, word: &'static str| or(expect, fails(&[word]));
    let drm = || fails_with_cause(&[Cause::Encrypted], &["encrypted", "DRM"]);
    let sound = || counts(12..=12, 12..=12);
    let mut cases = vec![
        of("lost/x.m3u8", shows(without(&[2]))),
        of("gap/x.m3u8", shows(without(&[2]))),
        of("subonly/m.m3u8", whole()),
        of("subs/m.m3u8", whole()),
        of("aud2only/m.m3u8", whole()),
        of("ifonly/m.m3u8", whole()),
        of("disc/x.m3u8", in_runs(3, all([secs(BASE, 0..6), secs(WIDE, 0..4), secs(BASE, 6..10)]))),
        of("afirst2/m.m3u8", whole()),
        height(of("ladder/m.m3u8", whole()), 240),
        height(of("ladder/m.m3u8", shows(secs(BIG, 0..12))), 360),
        of("dead1st/m.m3u8", whole()),
        of("space/x.m3u8", whole()),
        of("gzip/x.m3u8", whole()),
        of("gzseg/x.m3u8", whole()),
        of("html/x.m3u8", fails(&["a web page"])),
        of("drm/x.m3u8", drm()),
        of("keyskd/x.m3u8", drm()),
        of("key403/x.m3u8", fails_with_cause(&[Cause::Forbidden, Cause::Encrypted], &["403"])),
        of("php/stream.php", whole()),
        of("define/x.m3u8", or_fails(whole(), "EXT-X-DEFINE")),
        of("aac/x.m3u8", or_fails(sound(), "AAC")),
        of("noinf/x.m3u8", or_fails(whole(), "damaged playlist")),
        of("bom/x.m3u8", whole()),
        of("redir/live.m3u8", whole()),
        of("br/index.m3u8", whole()),
        of("brts/index.m3u8", whole()),
        of("epoch/x.m3u8", whole()),
        of("wrap/x.m3u8", whole()),
        of("sepa/m.m3u8", whole()),
        of("cmaf/m.m3u8", whole()),
        of("aacid3/x.m3u8", sound()),
        of("png/x.m3u8", whole()),
    ];
    // The field's server encrypts with the openssl command.
    if Command::new("openssl").arg("version").stdout(Stdio::null()).status().is_ok_and(|s| s.success()) {
        cases.push(of("aes/x.m3u8", whole()));
    }
    let names = malformed(&script);
    assert!(names.len() > 40, "the table of the script is read: {names:?}");
    cases.extend(names.iter().map(|name| of(&format!("malformed/{name}.m3u8"), expected_of_malformed(name)).mute()));
    run(cases);
}

//! Bad input from the user. Each mistake gives one line with cause and advice and the documented exit code. The program
//! does not panic and keeps the records that it has written.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use crate::common::Fixtures;
use crate::common::http::HttpServer;
use crate::common::program::{self, touchline};

const PASSWORD: &str = "tr0ub4dor-and-3";

struct Case {
    arguments: Vec<String>,
    code: i32,
    /// Words that the error line must contain.
    expected: &'static [&'static str],
}

fn case(code: i32, arguments: &[&str], expected: &'static [&'static str]) -> Case {
    Case { arguments: arguments.iter().map(|a| (*a).to_owned()).collect(), code, expected }
}

fn check(case: &Case) -> Output {
    let output = program::finish(touchline().args(&case.arguments));
    let error = String::from_utf8_lossy(&output.stderr);
    let context = format!("touchline {}\n{error}", case.arguments.join(" "));
    assert_eq!(output.status.code(), Some(case.code), "{context}");
    assert!(!error.contains("panicked"), "{context}");
    assert!(!error.contains(PASSWORD), "the password is shown: {context}");
    let lines: Vec<&str> = error.lines().filter(|l| l.starts_with("touchline: ") || l.starts_with("error: ")).collect();
    assert!(!lines.is_empty() && lines.len() <= 2, "expected one or two error lines: {context}");
    for word in case.expected {
        assert!(lines[0].contains(word), "the line lacks {word:?}: {context}");
    }
    output
}

/// A copy of the shipped pack that a test may damage.
fn pack_copy(dir: &Path) -> PathBuf {
    let to = dir.join("pack");
    std::fs::create_dir(&to).unwrap();
    for entry in std::fs::read_dir(program::pack()).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
    }
    to
}

fn edit(path: &Path, from: &str, to: &str) {
    let text = std::fs::read_to_string(path).unwrap();
    assert!(text.contains(from), "{} has no {from:?}", path.display());
    std::fs::write(path, text.replacen(from, to, 1)).unwrap();
}

#[test]
fn invalid_sources_are_errors() {
    let fixtures = Fixtures::new();
    let text =
        fixtures.write("notes.mp4", b"These are notes about the match, not a film of it.\n".repeat(40).as_slice());
    let text = text.to_str().unwrap();
    let subtitles = fixtures.write("lines.srt", b"1\n00:00:00,000 --> 00:00:02,000\nNo picture, no sound.\n");
    let no_media = fixtures.make("subtitles.mkv", &format!("-i {} -c:s srt", subtitles.display()));
    let no_media = no_media.to_str().unwrap();
    let origin = HttpServer::start(fixtures.path());
    let missing = origin.url("gone.m3u8");
    let refused = format!("rtsp://ann:{PASSWORD}@127.0.0.1:{}/live", crate::common::free_tcp_port());
    for case in [
        case(2, &["run", "--listen", "off", "gopher://example/live"], &["gopher", "known are", "rtsp"]),
        case(2, &["run", "--listen", "off"], &["nothing to watch", "touchline run"]),
        case(3, &["run", "--listen", "off", &refused], &["refused"]),
        case(3, &["run", "--listen", "off", "rtsp://no-such-host.invalid/live"], &["no-such-host.invalid"]),
        case(3, &["run", "--listen", "off", &missing], &["404"]),
        case(3, &["run", "--listen", "off", text], &["notes.mp4"]),
        case(3, &["run", "--listen", "off", no_media], &["no video and no audio"]),
        case(3, &["run", "--listen", "off", "/no/such/file.mp4"], &["/no/such/file.mp4"]),
        case(3, &["score", text], &["notes.mp4"]),
        case(3, &["score", "/no/such/file.mp4"], &["/no/such/file.mp4"]),
    ] {
        check(&case);
    }
}

#[test]
fn damaged_packs_are_errors() {
    let dir = tempfile::tempdir().unwrap();
    let input = dir.path().join("anything.mp4");
    std::fs::write(&input, b"x").unwrap();
    let check_damaged = |damage: &dyn Fn(&Path), expected: &'static [&'static str]| {
        let dir = tempfile::tempdir().unwrap();
        let pack = pack_copy(dir.path());
        damage(&pack);
        let arguments = ["score", "--pack", pack.to_str().unwrap(), input.to_str().unwrap()];
        check(&case(4, &arguments, expected));
    };
    check_damaged(&|pack| std::fs::remove_file(pack.join("pack.toml")).unwrap(), &["pack.toml", "--pack"]);
    check_damaged(
        &|pack| std::fs::write(pack.join("pack.toml"), "format = 1\n= nonsense").unwrap(),
        &["pack.toml line 2"],
    );
    check_damaged(&|pack| edit(&pack.join("pack.toml"), "format = 1", "format = 1\nspeed = 9"), &["speed"]);
    check_damaged(&|pack| edit(&pack.join("pack.toml"), "format = 1", "format = 7"), &["format = 7"]);
    check_damaged(&|pack| edit(&pack.join("pack.toml"), "\"tennis\",", ""), &["tennis"]);
    check_damaged(&|pack| std::fs::remove_file(pack.join("rgb.safetensors")).unwrap(), &["rgb.safetensors"]);
    check_damaged(&|pack| std::fs::remove_file(pack.join("rgb.int8.safetensors")).unwrap(), &["rgb.int8.safetensors"]);
    check_damaged(
        &|pack| {
            let path = pack.join("flow.safetensors");
            let mut bytes = std::fs::read(&path).unwrap();
            let last = bytes.len() - 1;
            bytes[last] ^= 1;
            std::fs::write(&path, bytes).unwrap();
        },
        &["flow.safetensors", "SHA-256"],
    );
}

#[test]
fn invalid_settings_and_outputs_are_errors() {
    let fixtures = Fixtures::new();
    let config = fixtures.write("bad.toml", b"listen = \"127.0.0.1:0\"\n[vote]\nwindwo = 5\n");
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    let uri = "testsrc://?seconds=1";
    for case in [
        case(2, &["run", "--config", config.to_str().unwrap()], &["bad.toml:3: ", "windwo", "vote.window"]),
        case(2, &["run", "--listen", "8080", uri], &["8080", "127.0.0.1:8080"]),
        case(2, &["run", "--listen", "off", "--vote-window", "0", uri], &["vote window"]),
        case(2, &["run", "--listen", "off", "a=testsrc://?seconds=1", "a=testsrc://?seconds=2"], &["\"a\"", "twice"]),
        case(5, &["run", "--listen", &taken, uri], &["in use"]),
        case(5, &["run", "--listen", "off", "--jsonl", "/no/such/dir/out.jsonl", uri], &["/no/such/dir/out.jsonl"]),
        case(5, &["score", "--summary", "/no/such/dir/out.csv", config.to_str().unwrap()], &["/no/such/dir/out.csv"]),
    ] {
        check(&case);
    }
}

#[test]
fn an_output_that_is_an_input_is_refused_and_the_input_stays() {
    let fixtures = Fixtures::new();
    let path = |name: &str| fixtures.path().join(name).to_str().unwrap().to_owned();
    for name in ["match.mp4", "match.ts"] {
        fixtures.clip(name, 1);
    }
    std::os::unix::fs::symlink(path("match.mp4"), path("link.jsonl")).unwrap();
    fixtures.write("match.jsonl", b"{\"type\":\"second\"}\n");
    std::fs::copy(path("match.mp4"), path("match-0001-tennis.mp4")).unwrap();
    let names = ["match.mp4", "match.ts", "match.jsonl", "match-0001-tennis.mp4"];
    let before = names.map(|name| std::fs::read(path(name)).unwrap());
    let dir = fixtures.path().to_str().unwrap();
    let (mp4, ts, jsonl, link) = (path("match.mp4"), path("match.ts"), path("match.jsonl"), path("link.jsonl"));
    let (hls, uri) = (format!("hls:{dir}"), format!("file://{mp4}"));
    for arguments in [
        &["score", &mp4, "--jsonl", &mp4][..],
        &["score", dir, "--summary", &ts],
        &["score", &mp4, "--jsonl", &link],
        &["score", dir, "--clips", dir],
        &["wav", &mp4, "-o", &mp4],
        &["wav", &uri, "-o", &mp4],
        &["render", &mp4, "-o", &mp4],
        &["render", &ts, "-o", &hls],
        &["export", "--from", &jsonl, "--format", "csv", "-o", &jsonl],
        &["export", "--from", &jsonl, "--media", &mp4, "--format", "csv", "-o", &mp4],
        &["run", "--listen", "off", &mp4, "--jsonl", &mp4],
        &["run", "--listen", "off", &uri, "--jsonl", &link],
    ] {
        check(&case(2, arguments, &["replaced", "name another"]));
        assert!(names.map(|name| std::fs::read(path(name)).unwrap()) == before, "{arguments:?}");
    }
}

#[test]
fn names_that_hide_what_they_contain_are_refused_and_not_shown() {
    let fixtures = Fixtures::new();
    let clip = fixtures.clip("match\u{2066}\n.mp4", 1);
    let (clip, out) = (clip.to_str().unwrap(), fixtures.path().join("a\u{202e}4pm.txt"));
    let out = out.to_str().unwrap();
    for arguments in [
        &["score", clip, "--jsonl", out][..],
        &["score", clip, "--summary", out],
        &["score", clip, "--clips", out],
        &["wav", clip, "-o", out],
        &["export", "--from", clip, "--format", "csv", "-o", out],
        &["render", clip, "-o", &format!("{out}.mp4")],
    ] {
        let output = check(&case(2, arguments, &["invisible characters; rename it"]));
        assert!(!String::from_utf8_lossy(&output.stderr).contains('\u{202e}'), "{arguments:?}");
        assert!(!Path::new(out).exists(), "{arguments:?}");
    }
    // Names of inputs are shown on one line.
    let output = program::finish(touchline().args(["score", clip]));
    let (printed, log) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && printed.contains("match\u{fffd}\u{fffd}.mp4\t"), "{printed}{log}");
    assert!(printed.lines().count() == 1 && !format!("{printed}{log}").contains('\u{2066}'), "{printed}{log}");
    let missing = format!("{clip}.gone");
    let output = check(&case(3, &["score", &missing], &["mp4.gone"]));
    assert!(!String::from_utf8_lossy(&output.stderr).contains('\u{2066}'));
}

#[test]
fn one_bad_file_does_not_stop_the_rest() {
    let fixtures = Fixtures::new();
    let media = tempfile::tempdir().unwrap();
    std::fs::copy(fixtures.clip("a.mp4", 2), media.path().join("a.mp4")).unwrap();
    std::fs::write(media.path().join("b.mp4"), "no film").unwrap();
    std::fs::copy(fixtures.clip("c.mp4", 2), media.path().join("c.mp4")).unwrap();
    let summary = fixtures.path().join("labels.csv");
    let jsonl = fixtures.path().join("seconds.jsonl");
    let output = check(&case(
        7,
        &[
            "score",
            media.path().to_str().unwrap(),
            "--summary",
            summary.to_str().unwrap(),
            "--jsonl",
            jsonl.to_str().unwrap(),
        ],
        &["b.mp4"],
    ));
    assert!(String::from_utf8_lossy(&output.stderr).contains("1 of 3 inputs failed"));
    let rows = std::fs::read_to_string(&summary).unwrap();
    let states: Vec<&str> = rows.lines().map(|row| row.rsplit(',').next().unwrap()).collect();
    assert_eq!(states, ["state", "whole", "failed", "whole"], "{rows}");
    let records = std::fs::read_to_string(&jsonl).unwrap();
    assert!(records.contains("a.mp4") && records.contains("c.mp4"), "{records}");
}

#[test]
fn records_written_before_a_failure_stay() {
    let fixtures = Fixtures::new();
    let jsonl = fixtures.write("out.jsonl", b"{\"type\":\"earlier\"}\n");
    let clip = fixtures.clip("good.mp4", 3);
    let gone = format!("srt://127.0.0.1:{}?passphrase={PASSWORD}", crate::common::free_udp_port());
    let output =
        program::finish(touchline().args(["run", "--listen", "off", "--jsonl"]).arg(&jsonl).arg(&clip).arg(&gone));
    assert_eq!(output.status.code(), Some(3), "{}", String::from_utf8_lossy(&output.stderr));
    let text = std::fs::read_to_string(&jsonl).unwrap();
    let count = |kind: &str| text.lines().filter(|l| l.starts_with(&format!("{{\"type\":\"{kind}\""))).count();
    assert_eq!((count("earlier"), count("second")), (1, 3), "{text}");
    assert!(!text.contains(PASSWORD) && !String::from_utf8_lossy(&output.stderr).contains(PASSWORD));
}

#[test]
fn one_stream_that_cannot_be_opened_ends_the_run_at_once() {
    let _alone = crate::common::alone();
    // The program would retry the first source for ever. Its clip thread waits for data that never arrives.
    let silent = format!("srt://127.0.0.1:{}", crate::common::free_udp_port());
    check(&case(3, &["run", "--listen", "off", "--retry", &silent, "/no/such/file.mp4"], &["/no/such/file.mp4"]));
}

#[test]
fn a_missing_file_is_one_failed_input() {
    let fixtures = Fixtures::new();
    let good = fixtures.clip("good.mp4", 1);
    let output = check(&case(7, &["score", "/no/such/file.mp4", good.to_str().unwrap()], &["/no/such/file.mp4"]));
    assert!(String::from_utf8_lossy(&output.stdout).contains("good.mp4"));
}

#[test]
fn truncated_and_unsupported_files_are_reported_as_such() {
    let fixtures = Fixtures::new();
    let clip = std::fs::read(fixtures.clip("whole.mp4", 4)).unwrap();
    let no_index = fixtures.write("no_index.mp4", &clip[..clip.len() / 2]);
    let fast = fixtures
        .make("fast.mp4", &format!("-i {} -c copy -movflags faststart", fixtures.path().join("whole.mp4").display()));
    let fast = std::fs::read(fast).unwrap();
    let cut = fixtures.write("cut.mp4", &fast[..fast.len() * 6 / 10]);
    let heic = fixtures.write("x.heic", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic and what follows");
    let avif = fixtures.write("x.avif", b"\0\0\0\x1cftypavif\0\0\0\0avifmif1miaf");
    let phone = fixtures.write("phone.jpg", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic and what follows");
    // Only the header of a picture of 65535 x 65535. Such a file once blocked all later files.
    let gif = fixtures.write("huge.gif", b"GIF89a\xff\xff\xff\xff\x00\x00\x00");
    let mut bomb = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\xea\x60\0\0\xea\x60\x08\x02\0\0\0".to_vec();
    bomb.extend([0x7e, 0x36, 0x0b, 0x21, 0, 0, 0, 0]);
    let bomb = fixtures.write("bomb.png", &bomb);
    for (path, expected) in [
        (&no_index, &["no_index.mp4", "cut off", "moov"] as &'static [&'static str]),
        (&heic, &["x.heic", "HEIC pictures are not supported", "JPEG"]),
        (&phone, &["phone.jpg", "HEIC pictures are not supported", "JPEG"]),
        (&avif, &["x.avif", "AVIF pictures are not supported", "JPEG"]),
        (&gif, &["huge.gif", "GIF pictures are not supported"]),
        (&bomb, &["bomb.png"]),
    ] {
        check(&case(3, &["score", path.to_str().unwrap()], expected));
    }
    let summary = fixtures.path().join("labels.csv");
    let arguments = ["score", gif.to_str().unwrap(), cut.to_str().unwrap(), "--summary", summary.to_str().unwrap()];
    let output = program::finish(touchline().args(arguments));
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(7), "{error}");
    assert!(error.contains("huge.gif: GIF") && error.contains("cut.mp4: the file is cut off"), "{error}");
    let rows = std::fs::read_to_string(summary).unwrap();
    assert!(rows.lines().nth(1).is_some_and(|row| row.ends_with(",failed")), "{rows}");
    assert!(rows.lines().nth(2).is_some_and(|row| row.ends_with(",0,cut-off") && !row.contains(",0,0,")), "{rows}");
}

#[test]
fn names_that_are_not_utf8_work_and_a_pipe_without_a_reader_is_an_error() {
    use std::os::unix::ffi::OsStrExt;

    let fixtures = Fixtures::new();
    let odd = fixtures.path().join(std::ffi::OsStr::from_bytes(b"caf\xe9 \xff.mp4"));
    std::fs::copy(fixtures.clip("a.mp4", 2), &odd).unwrap();
    let output = program::finish(touchline().arg("score").arg(&odd));
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(String::from_utf8_lossy(&output.stdout).contains("2 s"));

    let pipe = fixtures.path().join("records");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let (pipe, clip) = (pipe.to_str().unwrap(), fixtures.path().join("a.mp4"));
    let clip = clip.to_str().unwrap();
    check(&case(5, &["score", clip, "--jsonl", pipe], &["records", "has no reader", "start the reader"]));
    check(&case(5, &["score", clip, "--summary", pipe], &["records", "has no reader"]));
    check(&case(3, &["score", pipe], &["records", "is a FIFO"]));
    let mut reader = Command::new("cat").arg(pipe).stdout(std::process::Stdio::piped()).spawn().unwrap();
    // The program fails until the reader has opened the pipe.
    let until = std::time::Instant::now() + Duration::from_secs(60);
    while program::finish(touchline().args(["score", clip, "--jsonl", pipe])).status.code() != Some(0) {
        assert!(std::time::Instant::now() < until, "the reader did not open the pipe");
    }
    let mut read = String::new();
    std::io::Read::read_to_string(&mut reader.stdout.take().unwrap(), &mut read).unwrap();
    reader.wait().unwrap();
    assert_eq!(read.lines().filter(|l| l.starts_with("{\"type\":\"second\"")).count(), 2, "{read}");
}

#[test]
fn help_names_the_exit_codes() {
    let help = Command::new(program::path()).arg("--help").output().unwrap();
    let text = String::from_utf8_lossy(&help.stdout);
    for code in 0..=7 {
        assert!(text.contains(&format!("\n  {code}  ")), "exit code {code} is not in --help");
    }
}

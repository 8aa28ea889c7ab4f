//! Live outputs: pictures with the label that go to real receivers, read back with FFmpeg.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::common::api::{ask, wait_until_ready};
use crate::common::live::Live;
use crate::common::pictures::{flash_and_beep, flashes_and_beeps};
use crate::common::program::{self, touchline};
use crate::common::rtsp::{Media, RtspServer};
use crate::common::wait::until;
use crate::common::{Child, Fixtures, free_tcp_port, free_udp_port};

/// A receiver: FFmpeg writes what it gets into a file.
struct Receiver {
    address: String,
    path: PathBuf,
    child: Child,
}

impl Receiver {
    /// `input` are FFmpeg's options up to the address that it listens on.
    fn start(fixtures: &Fixtures, name: &str, address: String, input: &str) -> Self {
        let path = fixtures.path().join(name);
        let child = Child::ffmpeg(&format!("{input} -c copy -flush_packets 1 {}", path.display()));
        Self { address, path, child }
    }

    /// Ends it as a user would, so that its file is complete.
    fn stop(mut self) -> PathBuf {
        let pid = self.child.0.id().to_string();
        // It has ended if its sender has.
        let _ = Command::new("kill").args(["-INT", &pid]).status();
        until("the end of the receiver", || self.child.0.try_wait().unwrap().is_some());
        self.path.clone()
    }
}

fn size(path: &Path) -> u64 {
    path.metadata().map_or(0, |meta| meta.len())
}

/// The state of a stream's output.
fn output(live: &Live, stream: &str) -> Value {
    ask(&live.address, "GET", &format!("/api/v1/streams/{stream}"), None, &[]).body["output"].clone()
}

#[test]
fn pictures_with_the_label_reach_every_kind_of_receiver_in_time_with_their_sound() {
    let _alone = crate::common::alone();
    let fixtures = Fixtures::new();
    let source = fixtures.make(
        "source.mp4",
        &format!(
            "{} -c:v libx264 -preset ultrafast -bf 0 -g 25 -pix_fmt yuv420p -c:a aac",
            flash_and_beep((320, 180), 10)
        ),
    );
    let server = RtspServer::start(Media::File { path: source, plays: 30 });
    let (rtmp, srt, udp) = (free_tcp_port(), free_udp_port(), free_udp_port());
    let receivers = [
        Receiver::start(
            &fixtures,
            "rtmp.ts",
            format!("rtmp://127.0.0.1:{rtmp}/live/s3cret-key"),
            &format!("-listen 1 -i rtmp://127.0.0.1:{rtmp}/live/s3cret-key"),
        ),
        Receiver::start(
            &fixtures,
            "srt.ts",
            format!("srt://127.0.0.1:{srt}?passphrase=geheim-geheim"),
            &format!("-i srt://127.0.0.1:{srt}?mode=listener&passphrase=geheim-geheim"),
        ),
        Receiver::start(
            &fixtures,
            "udp.ts",
            format!("udp://127.0.0.1:{udp}"),
            &format!("-i udp://127.0.0.1:{udp}?fifo_size=100000"),
        ),
    ];
    let (file, folder) = (fixtures.path().join("out.mp4"), fixtures.path().join("hls"));
    let addresses: Vec<String> = receivers
        .iter()
        .map(|receiver| receiver.address.clone())
        .chain([file.display().to_string(), format!("hls:{}", folder.display())])
        .collect();
    let mut config = format!(
        "rtsp_transport = \"tcp\"\n[record]\ndir = {:?}\nclips = []\n[overlay]\nposition = \"top-left\"\nsafe_area = 0\n",
        fixtures.path().join("media")
    );
    for (i, address) in addresses.iter().enumerate() {
        let isolation = if i == 1 { "process" } else { "none" };
        config += &format!(
            "[[stream]]\nid = \"s{i}\"\nuri = \"{}\"\nisolation = \"{isolation}\"\noutput = \"{address}\"\n",
            server.url()
        );
    }
    let config = fixtures.write("touchline.toml", config.as_bytes());
    let arguments = ["--config".to_owned(), config.to_str().unwrap().to_owned()];
    let live = Live::start_with(fixtures.path(), "127.0.0.1", &arguments);
    wait_until_ready(&live.address);
    until("the outputs", || (0..5).all(|i| output(&live, &format!("s{i}"))["up"] == true));
    let is_long = |i: usize| output(&live, &format!("s{i}"))["sent"].as_u64().is_some_and(|sent| sent > 850);
    until("twelve seconds of each output", || (0..5).all(is_long));
    for i in 0..5 {
        let shown = output(&live, &format!("s{i}"));
        assert!(shown["failures"] == 0 && shown["last_error"].is_null(), "{shown}");
    }
    let metrics = live.get("/metrics");
    assert!(metrics.contains("touchline_output_up{stream=\"s0\"} 1"), "{metrics}");
    let everything = [live.get("/api/v1/streams"), live.get("/api/v1/streams/s0"), live.get("/api/v1/config"), metrics];
    for secret in ["s3cret-key", "geheim-geheim"] {
        assert!(everything.iter().all(|text| !text.contains(secret)), "{secret} is shown");
    }
    // While data arrive: FFmpeg looks for signals only then.
    let received: Vec<PathBuf> = receivers.into_iter().map(Receiver::stop).collect();
    assert_eq!(live.stop(), 0);
    let playlist = std::fs::read_to_string(folder.join("live.m3u8")).unwrap();
    assert!(playlist.contains("#EXTM3U") && playlist.contains(".ts"), "{playlist}");
    for path in received.into_iter().chain([file, folder.join("live.m3u8")]) {
        let (flashes, beeps) = flashes_and_beeps(&path);
        assert!(flashes.len() >= 2 && beeps.len() >= 2, "{}: {flashes:?} {beeps:?}", path.display());
        // A flash or a beep may be cut off at an end.
        let near = |flash: &f64| beeps.iter().map(|beep| (beep - flash).abs()).fold(f64::MAX, f64::min);
        // Over RTSP, the tracks are in step from the first sender reports on, which come within three seconds.
        let from = flashes[0] + 3.0;
        let apart: Vec<f64> =
            flashes.iter().filter(|flash| **flash > from).map(near).filter(|apart| *apart < 0.9).collect();
        assert!(apart.len() >= 2, "{}: {flashes:?} {beeps:?}", path.display());
        assert!(apart.iter().all(|apart| *apart <= 0.04), "{}: {apart:?} s apart", path.display());
    }
}

#[test]
fn a_receiver_that_is_away_delays_no_decision_and_is_tried_again() {
    let _alone = crate::common::alone();
    let fixtures = Fixtures::new();
    let server = RtspServer::start(Media::Test { video: true, audio: true });
    let port = free_tcp_port();
    let address = format!("rtmp://ann:geheim-{port}@127.0.0.1:{port}/live/s3cret-key");
    let config = format!(
        "rtsp_transport = \"tcp\"\n[record]\ndir = {:?}\nclips = []\n[[stream]]\nid = \"court\"\nuri = \"{}\"\noutput = \"{address}\"\n",
        fixtures.path().join("media"),
        server.url()
    );
    let config = fixtures.write("touchline.toml", config.as_bytes());
    let arguments = ["--config".to_owned(), config.to_str().unwrap().to_owned()];
    let mut live = Live::start_with(fixtures.path(), "127.0.0.1", &arguments);
    wait_until_ready(&live.address);
    until("two failures", || output(&live, "court")["failures"].as_u64() >= Some(2));
    let records = live.wait(|records| records.iter().filter(|record| record["type"] == "second").count() >= 6);
    assert!(records.iter().all(|record| record["reason"] != "overload"), "no second was dropped");
    let failed = output(&live, "court");
    assert_eq!((&failed["last_error"]["kind"], &failed["up"]), (&"unreachable".into(), &false.into()), "{failed}");
    let metrics = live.get("/metrics");
    assert!(metrics.contains("touchline_output_failures_total{cause=\"unreachable\",stream=\"court\"}"), "{metrics}");
    let texts = [failed.to_string(), live.get("/api/v1/streams")];
    assert!(texts.iter().all(|text| !text.contains("geheim") && !text.contains("s3cret")), "{texts:?}");
    let receiver = Receiver::start(
        &fixtures,
        "late.ts",
        address,
        &format!("-listen 1 -i rtmp://127.0.0.1:{port}/live/s3cret-key"),
    );
    until("the receiver", || output(&live, "court")["up"] == true);
    until("pictures", || size(&receiver.path) > 20_000);
    let path = receiver.stop();
    assert_eq!(live.stop(), 0);
    assert!(size(&path) > 20_000);
}

#[test]
fn outputs_that_cannot_work_are_refused_at_the_start() {
    let fixtures = Fixtures::new();
    for (settings, output, code, part) in [
        ("", "udp://127.0.0.1:9", 2, "set dir in [record]"),
        ("[record]\ndir = \"DIR\"\n", "https://ann:geheim@host/x", 2, "unknown scheme"),
        ("[record]\ndir = \"DIR\"\n", "a\\u202e4pm.exe", 2, "control or invisible characters"),
        ("[record]\ndir = \"DIR\"\n[overlay]\ntemplate = \"banner\"\n", "udp://127.0.0.1:9", 2, "bug, label, bars"),
        ("[record]\ndir = \"DIR\"\n[overlay]\nsize = 0\n", "udp://127.0.0.1:9", 2, "choose 1 to 100"),
    ] {
        let folder = fixtures.path().join("media");
        let text = format!(
            "listen = \"off\"\n{}[[stream]]\nuri = \"testsrc://\"\noutput = \"{output}\"\n",
            settings.replace("DIR", folder.to_str().unwrap())
        );
        let config = fixtures.write("touchline.toml", text.as_bytes());
        let refused = program::finish(touchline().args(["run", "--quiet", "--config"]).arg(&config));
        let error = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(refused.status.code() == Some(code) && error.contains(part), "{output}: {error}");
        assert!(!error.contains("geheim") && !error.contains('\u{202e}'), "{error}");
    }
}

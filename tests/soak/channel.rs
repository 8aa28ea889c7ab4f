//! A channel with a packager in real time, and the faults of packagers. The pictures are small, so that the machine is not busy
//! with decoding.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use crate::common::{Fixtures, ffmpeg};
use crate::server::{Answer, Body, Request, Serve, Server};
use parking_lot::Mutex;

/// A fault of a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The packager is killed: connections are refused until it is started again with sequence 0.
    Killed,
    /// The packager is restarted immediately.
    Restarted,
    SegmentsMissing,
    /// Every other segment is missing.
    SomeMissing,
    PlaylistsMissing,
    ServerFails,
    /// Every third answer is an error.
    ServerFailsSometimes,
    SegmentsCut,
    PlaylistsCut,
    /// Dates are of another year or invalid.
    DatesJump,
    /// The last requested variant is lost. A channel without variants loses its playlist.
    VariantDies,
    Malformed,
    Page,
    Frozen,
    Hangs,
    ConnectionsReset,
    Noise,
    /// The playlist has an end mark.
    Ended,
    Advertisement,
}

impl Fault {
    pub const ALL: [Fault; 19] = [
        Fault::Killed,
        Fault::Restarted,
        Fault::SegmentsMissing,
        Fault::SomeMissing,
        Fault::PlaylistsMissing,
        Fault::ServerFails,
        Fault::ServerFailsSometimes,
        Fault::SegmentsCut,
        Fault::PlaylistsCut,
        Fault::DatesJump,
        Fault::VariantDies,
        Fault::Malformed,
        Fault::Page,
        Fault::Frozen,
        Fault::Hangs,
        Fault::ConnectionsReset,
        Fault::Noise,
        Fault::Ended,
        Fault::Advertisement,
    ];
}

/// The lengths of the programme and of the advertisement in seconds. Both repeat.
const PROGRAMME_S: usize = 120;
const ADVERT_S: usize = 20;

/// Segments in a playlist.
const WINDOW: usize = 8;

/// The malformed playlists of [`Fault::Malformed`].
const BAD: [&str; 7] = [
    "#EXTM3U\n",
    "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:nan,\nprogramme/0.ts\n",
    "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:0,\nprogramme/0.ts\n",
    "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:-1,\nprogramme/0.ts\n",
    "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n#EXT-X-ENDLIST\n",
    "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXT-X-MEDIA-SEQUENCE:18446744073709551615\n#EXTINF:1,\nprogramme/0.ts\n",
    "#EXTM3U\n#EXT-X-TARGETDURATION:-1\n#EXT-X-KEY:METHOD=AES-128\n#EXTINF:1,\nprogramme/0.ts\n",
];

/// One-second segments of the programme and of the advertisement.
pub type Material = Arc<[Vec<Arc<[u8]>>; 2]>;

pub fn material(dir: &Fixtures) -> Material {
    let make = |name: &str, pattern: &str, size: &str, seconds: usize| -> Vec<Arc<[u8]>> {
        ffmpeg(
            &format!(
                "-f lavfi -i {pattern}=size={size}:rate=10:duration={seconds} \
                 -f lavfi -i sine=frequency=440:sample_rate=48000:duration={seconds} \
                 -c:v libx264 -preset ultrafast -pix_fmt yuv420p -g 10 -keyint_min 10 -sc_threshold 0 -bf 0 \
                 -c:a aac -b:a 32k -f hls -hls_time 1 -hls_list_size 0 -hls_segment_filename {}/{name}%d.ts",
                dir.path().display()
            ),
            &dir.path().join(format!("{name}.m3u8")),
        );
        let path = |n: usize| dir.path().join(format!("{name}{n}.ts"));
        (0..seconds).map(|n| std::fs::read(path(n)).expect("one segment per second").into()).collect()
    };
    let programme = make("programme", "testsrc2", "160x120", PROGRAMME_S);
    Arc::new([programme, make("advert", "testsrc", "192x108", ADVERT_S)])
}

struct Packager {
    began: Instant,
    /// The first segment of the programme.
    offset: usize,
    /// The segments at which advertisements start (true) and end (false).
    switches: Vec<(usize, bool)>,
    fault: Option<Fault>,
    /// The number of published segments while the playlist is frozen or ended.
    frozen_at: Option<usize>,
    answers: usize,
    /// The folder of the last requested variant, and of the lost one.
    requested: Option<String>,
    lost: Option<String>,
}

impl Packager {
    fn start(offset: usize) -> Self {
        Self {
            began: Instant::now(),
            offset,
            switches: vec![(0, false)],
            fault: None,
            frozen_at: None,
            answers: 0,
            requested: None,
            lost: None,
        }
    }

    fn published(&self) -> usize {
        self.frozen_at.unwrap_or(1 + self.began.elapsed().as_secs() as usize)
    }

    /// Whether segment `n` is an advertisement, and its index in the material.
    fn place(&self, n: usize) -> (bool, usize) {
        let (from, is_advert) = *self.switches.iter().rfind(|(from, _)| *from <= n).unwrap_or(&(0, false));
        let at = if is_advert { (n - from) % ADVERT_S } else { (self.offset + n) % PROGRAMME_S };
        (is_advert, at)
    }

    fn is_break(&self, n: usize) -> bool {
        let (is_advert, at) = self.place(n);
        n > 0 && (self.place(n - 1).0 != is_advert || at == 0)
    }

    fn playlist(&self) -> String {
        let published = self.published();
        let first = published.saturating_sub(WINDOW);
        let breaks = (0..first).filter(|n| self.is_break(*n)).count();
        let mut text = format!(
            "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:1\n#EXT-X-MEDIA-SEQUENCE:{first}\n\
             #EXT-X-DISCONTINUITY-SEQUENCE:{breaks}\n"
        );
        for n in first..published {
            if self.is_break(n) {
                text += "#EXT-X-DISCONTINUITY\n";
            }
            let date = match (self.fault, n % 3) {
                (Some(Fault::DatesJump), 0) => "2031-05-06T07:08:09Z".to_owned(),
                (Some(Fault::DatesJump), 1) => "0000-00-00T99:99:99Z".to_owned(),
                _ => format!("2026-09-13T{:02}:{:02}:{:02}.000Z", n / 3600 % 24, n / 60 % 60, n % 60),
            };
            let (is_advert, at) = self.place(n);
            let folder = if is_advert { "advert" } else { "programme" };
            let _ = writeln!(text, "#EXT-X-PROGRAM-DATE-TIME:{date}\n#EXTINF:1.000,\n{folder}/{at}.ts?n={n}");
        }
        if self.fault == Some(Fault::Ended) {
            text += "#EXT-X-ENDLIST\n";
        }
        text
    }
}

/// A channel and its server. There is no server while the packager is dead.
pub struct Channel {
    packager: Arc<Mutex<Packager>>,
    serve: Serve,
    server: Option<Server>,
    address: SocketAddr,
    has_variants: bool,
}

impl Channel {
    pub fn start(material: Material, has_variants: bool) -> Self {
        let packager = Arc::new(Mutex::new(Packager::start(0)));
        let serving = packager.clone();
        let serve: Serve = Arc::new(move |request| answer(&serving, &material, request));
        let server = Server::start(serve.clone());
        let address = server.address();
        Self { packager, serve, server: Some(server), address, has_variants }
    }

    pub fn url(&self) -> String {
        format!("http://{}/{}.m3u8", self.address, if self.has_variants { "master" } else { "live" })
    }

    pub fn break_down(&mut self, fault: Fault) {
        let mut packager = self.packager.lock();
        packager.fault = Some(fault);
        match fault {
            Fault::Killed => {
                drop(packager);
                self.server = None;
            }
            Fault::Restarted => *packager = Packager::start(packager.offset + 37),
            Fault::Frozen | Fault::Ended => packager.frozen_at = Some(packager.published()),
            Fault::VariantDies => packager.lost = packager.requested.clone().or(Some("live".into())),
            Fault::Advertisement => {
                let from = packager.published();
                packager.switches.push((from, true));
            }
            _ => {}
        }
    }

    pub fn mend(&mut self) {
        let mut packager = self.packager.lock();
        match packager.fault.take() {
            Some(Fault::Killed) => *packager = Packager::start(packager.offset + 37),
            Some(Fault::Advertisement) => {
                let from = packager.published();
                packager.switches.push((from, false));
            }
            _ => {}
        }
        (packager.frozen_at, packager.lost) = (None, None);
        drop(packager);
        if self.server.is_none() {
            self.server = Some(Server::start_on(self.address, self.serve.clone()));
        }
    }
}

fn answer(packager: &Mutex<Packager>, material: &Material, request: &Request) -> Answer {
    let mut packager = packager.lock();
    packager.answers += 1;
    let path = request.path();
    if path == "master.m3u8" {
        let of =
            |name: &str, size: &str| format!("#EXT-X-STREAM-INF:BANDWIDTH=200000,RESOLUTION={size}\n{name}.m3u8\n");
        return Answer::list(format!("#EXTM3U\n{}{}", of("a/live", "160x120"), of("b/live", "160x118")));
    }
    let (variant, name) = match path.split_once('/') {
        Some((variant @ ("a" | "b"), rest)) => (variant, rest),
        _ => ("live", path),
    };
    let is_playlist = name == "live.m3u8";
    if is_playlist {
        packager.requested = Some(variant.to_owned());
    }
    let body = if is_playlist {
        packager.playlist().into_bytes().into()
    } else {
        let (folder, number) = name.split_once('/').unwrap_or((name, ""));
        let kind = usize::from(folder == "advert");
        match number.strip_suffix(".ts").and_then(|n| material[kind].get(n.parse::<usize>().ok()?)) {
            Some(bytes) => bytes.clone(),
            None => return Answer::status(404),
        }
    };
    let nth = request.query("n").and_then(|n| n.parse::<usize>().ok()).unwrap_or(packager.answers);
    let cut = |body: Arc<[u8]>| {
        let sent = body[..body.len() / 2].into();
        Answer::of(Body::Short { sent, declared: body.len(), hang: false })
    };
    if packager.lost.as_deref() == Some(variant) {
        return Answer::status(404);
    }
    match packager.fault {
        Some(Fault::SegmentsMissing) if !is_playlist => Answer::status(404),
        Some(Fault::SomeMissing) if !is_playlist && nth.is_multiple_of(2) => Answer::status(404),
        Some(Fault::PlaylistsMissing) if is_playlist => Answer::status(404),
        Some(Fault::ServerFails) => Answer::status(503),
        Some(Fault::ServerFailsSometimes) if packager.answers.is_multiple_of(3) => Answer::status(500),
        Some(Fault::SegmentsCut) if !is_playlist => cut(body),
        Some(Fault::PlaylistsCut) if is_playlist => cut(body),
        Some(Fault::Malformed) if is_playlist => Answer::list(BAD[packager.answers % BAD.len()]),
        Some(Fault::Page) if is_playlist => Answer::page("<!DOCTYPE html><title>Maintenance</title>"),
        Some(Fault::Hangs) => Answer::of(Body::Hang),
        Some(Fault::ConnectionsReset) => Answer::of(Body::Reset),
        Some(Fault::Noise) if !is_playlist => {
            let noise = |i: u32| (i.wrapping_add(nth as u32).wrapping_mul(2_654_435_761) >> 13) as u8;
            Answer::bytes((0..20_000).map(noise).collect::<Vec<u8>>())
        }
        _ => Answer::bytes(body),
    }
}

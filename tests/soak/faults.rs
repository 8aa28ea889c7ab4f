//! Two streams of each kind, and a script of faults for each from one seed.

use std::time::{Duration, Instant};

use crate::common::origin::{Mood, Origin};
use crate::common::rtsp::{Media, RtspServer};
use crate::common::ts::TsSender;

enum Server {
    Rtsp { server: Option<RtspServer>, port: u16 },
    Hls(Origin),
    Ts(TsSender),
}

/// One stream's server and what it is up to.
struct Stream {
    id: String,
    uri: String,
    server: Server,
    /// When it is mended, or the next fault begins.
    next: Instant,
    /// What mends it; [`None`] while it is well.
    fault: Option<&'static str>,
}

pub struct Bench {
    streams: Vec<Stream>,
    random: u64,
    began: Instant,
    log: Vec<String>,
}

const BOTH: Media = Media::Test { video: true, audio: true };

impl Bench {
    pub fn start(seed: u64) -> Self {
        let mut streams = Vec::new();
        let began = Instant::now();
        for n in 1..=2 {
            let rtsp = RtspServer::start(BOTH);
            let (uri, port) = (rtsp.url(), rtsp.port());
            streams.push((format!("rtsp-{n}"), uri, Server::Rtsp { server: Some(rtsp), port }));
            let origin = Origin::start();
            streams.push((format!("hls-{n}"), origin.url(), Server::Hls(origin)));
            for mut sender in [TsSender::srt(), TsSender::udp()] {
                sender.start();
                let uri = sender.url().to_owned();
                let kind = if uri.starts_with("srt") { "srt" } else { "udp" };
                streams.push((format!("{kind}-{n}"), uri, Server::Ts(sender)));
            }
        }
        let mut bench = Self { streams: Vec::new(), random: seed, began, log: Vec::new() };
        for (id, uri, server) in streams {
            let next = began + Duration::from_secs(12 + bench.below(15));
            bench.streams.push(Stream { id, uri, server, next, fault: None });
        }
        bench
    }

    pub fn streams(&self) -> impl Iterator<Item = (&str, &str)> {
        self.streams.iter().map(|s| (s.id.as_str(), s.uri.as_str()))
    }

    /// A linear congruential generator (Knuth's MMIX constants): the same seed is the same script.
    fn below(&mut self, bound: u64) -> u64 {
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.random >> 33) % bound
    }

    /// Mends what is due, and breaks what is due if `may_break`.
    pub fn turn(&mut self, may_break: bool) {
        for i in 0..self.streams.len() {
            if self.streams[i].next > Instant::now() {
                continue;
            }
            if let Some(fault) = self.streams[i].fault.take() {
                let pause = 15 + self.below(25);
                self.streams[i].mend(fault);
                self.streams[i].next = Instant::now() + Duration::from_secs(pause);
            } else if may_break {
                let (which, lasts) = (self.below(64) as usize, 2 + self.below(14));
                let stream = &mut self.streams[i];
                let fault = stream.break_down(which);
                stream.fault = Some(fault);
                stream.next = Instant::now() + Duration::from_secs(lasts);
                let at_s = self.began.elapsed().as_secs();
                self.log.push(format!("{at_s:>5} s  {:<7} {fault}, for {lasts} s", stream.id));
            }
        }
    }

    /// What was done to whom, and when.
    pub fn log(&self) -> Vec<String> {
        self.log.clone()
    }
}

impl Stream {
    fn break_down(&mut self, which: usize) -> &'static str {
        let pick = |faults: &[&'static str]| faults[which % faults.len()];
        match &mut self.server {
            Server::Rtsp { server, .. } => {
                let fault = pick(&["dies", "no sound", "no pictures", "stalls", "another size"]);
                // Nobody plays a server that has just come back: then there is nothing but dying.
                let playing = server.as_ref().is_some_and(RtspServer::is_playing);
                match fault {
                    "no sound" if playing => server.iter().for_each(|s| s.send("audio", false)),
                    "no pictures" if playing => server.iter().for_each(|s| s.send("video", false)),
                    "stalls" if playing => server.iter().for_each(|s| {
                        s.send("audio", false);
                        s.send("video", false);
                    }),
                    "another size" if playing => server.iter().for_each(|s| s.size(480, 270)),
                    _ => {
                        *server = None;
                        return "dies";
                    }
                }
                fault
            }
            Server::Hls(origin) => {
                let fault = pick(&["404", "503", "frozen", "slow loris", "garbage", "hangs up", "advertisements"]);
                match fault {
                    "404" => origin.mood(Mood::Status(404)),
                    "503" => origin.mood(Mood::Status(503)),
                    "frozen" => origin.mood(Mood::Frozen),
                    "slow loris" => origin.mood(Mood::SlowLoris),
                    "garbage" => origin.mood(Mood::Garbage),
                    "hangs up" => origin.mood(Mood::Hangs),
                    _ => origin.advertise(true),
                }
                fault
            }
            Server::Ts(sender) => {
                let fault = pick(&["dies", "no sound", "no pictures", "stalls", "another size", "jumps an hour ahead"]);
                match fault {
                    "dies" => sender.stop(),
                    "no sound" => sender.send("audio", false),
                    "no pictures" => sender.send("video", false),
                    "stalls" => ["audio", "video"].iter().for_each(|track| sender.send(track, false)),
                    "another size" => sender.size(480, 270),
                    _ => sender.shift(3_600_000_000_000),
                }
                fault
            }
        }
    }

    fn mend(&mut self, fault: &str) {
        match &mut self.server {
            Server::Rtsp { server, port } => match (fault, server.as_ref().filter(|s| s.is_playing())) {
                ("no sound" | "no pictures" | "stalls", Some(server)) => {
                    server.send("audio", true);
                    server.send("video", true);
                }
                ("another size", Some(server)) => server.size(320, 240),
                // The others play again when the next client comes: its pipeline is a new one.
                (_, Some(_)) => {}
                (_, None) => {
                    if server.is_none() {
                        *server = Some(RtspServer::start_on(*port, BOTH));
                    }
                }
            },
            Server::Hls(origin) => {
                origin.mood(Mood::Well);
                origin.advertise(false);
            }
            Server::Ts(sender) => match fault {
                "dies" => sender.start(),
                "another size" => sender.size(320, 240),
                "jumps an hour ahead" => sender.shift(0),
                _ => ["audio", "video"].iter().for_each(|track| sender.send(track, true)),
            },
        }
    }
}

//! Eight HLS channels with random faults from a seed, and two RTSP streams without faults.

use std::time::{Duration, Instant};

use crate::channel::{Channel, Fault};
use crate::common::Fixtures;
use crate::common::rtsp::{Media, RtspServer};

/// One channel and its next action.
struct Stream {
    id: String,
    channel: Channel,
    /// The time of the repair or of the next fault.
    next: Instant,
    is_broken: bool,
}

pub struct Bench {
    streams: Vec<Stream>,
    /// The streams without faults, by id.
    clean: Vec<(String, RtspServer)>,
    random: u64,
    began: Instant,
    log: Vec<String>,
}

impl Bench {
    pub fn start(seed: u64) -> Self {
        let began = Instant::now();
        let clean = (1..=2).map(|n| {
            let media = Media::Test { video: true, audio: true };
            (format!("rtsp-{n}"), RtspServer::start(media))
        });
        let mut bench = Self { streams: Vec::new(), clean: clean.collect(), random: seed, began, log: Vec::new() };
        let dir = Fixtures::new();
        let material = crate::channel::material(&dir);
        for n in 1..=8 {
            let next = began + Duration::from_secs(12 + bench.below(15));
            // Every other channel has two variants.
            let channel = Channel::start(material.clone(), n % 2 == 0);
            bench.streams.push(Stream { id: format!("hls-{n}"), channel, next, is_broken: false });
        }
        bench
    }

    /// The ids and URIs of all streams.
    pub fn streams(&self) -> Vec<(String, String)> {
        let channels = self.streams.iter().map(|s| (s.id.clone(), s.channel.url()));
        channels.chain(self.clean.iter().map(|(id, server)| (id.clone(), server.url()))).collect()
    }

    /// The ids of the streams without faults.
    pub fn clean(&self) -> Vec<String> {
        self.clean.iter().map(|(id, _)| id.clone()).collect()
    }

    /// A random number below `bound`, from a linear congruential generator (Knuth's MMIX constants). The same seed gives the same
    /// faults.
    fn below(&mut self, bound: u64) -> u64 {
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.random >> 33) % bound
    }

    /// Repairs the channels that are due, and starts faults that are due if `may_break`.
    pub fn step(&mut self, may_break: bool) {
        for i in 0..self.streams.len() {
            if self.streams[i].next > Instant::now() {
                continue;
            }
            if std::mem::take(&mut self.streams[i].is_broken) {
                let pause = 10 + self.below(20);
                self.streams[i].channel.mend();
                self.streams[i].next = Instant::now() + Duration::from_secs(pause);
            } else if may_break {
                let fault = Fault::ALL[self.below(Fault::ALL.len() as u64) as usize];
                let lasts = 2 + self.below(12);
                let stream = &mut self.streams[i];
                stream.channel.break_down(fault);
                stream.is_broken = true;
                stream.next = Instant::now() + Duration::from_secs(lasts);
                let at_s = self.began.elapsed().as_secs();
                self.log.push(format!("{at_s:>5} s  {:<7} {fault:?}, for {lasts} s", stream.id));
            }
        }
    }

    /// The faults so far, with their times and streams.
    pub fn log(&self) -> Vec<String> {
        self.log.clone()
    }
}

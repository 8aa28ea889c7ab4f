//! Tests a source: watches its items until its tracks, its formats and its first picture are known, it fails, or the time is over.
//!
//! It reads the channel of a source that its caller has opened, and ends without one. It changes nothing, opens nothing again, and
//! depends on no kind of source.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, select};

use super::facts::{AudioFacts, MediaFacts, SharedFacts};
use super::guard::Refusal;
use touchline_core::cause::Cause;
use touchline_core::clock::{Clock, Deadline};
use touchline_core::error::Error;
use touchline_core::frame::Frame;
use touchline_core::item::{End, MediaItem, Tracks};
use touchline_core::redact;
use touchline_core::time::{NANOS_PER_SECOND, Pts};

/// How often a silent source is checked for the end of the time.
const POLL: Duration = Duration::from_millis(50);

/// How long the first picture waits for what is still unknown: the sound, or the distance of the pictures.
const REST: Duration = Duration::from_secs(2);

/// Pictures whose distance gives the rate, if the stream does not state it: a second at 25 a second, which levels out the jitter of
/// time stamps.
const RATE_PICTURES: usize = 26;

/// What a probe found.
#[derive(Clone, Debug, Default)]
pub struct Probed {
    /// The tracks, if the source opened.
    pub tracks: Option<Tracks>,
    /// Formats and variants, as far as known.
    pub facts: MediaFacts,
    /// From the start to the time at which the tracks were known, ns.
    pub opened_ns: Option<u64>,
    /// The first picture, and from the start to its arrival, ns.
    pub picture: Option<(Frame, u64)>,
    /// Why the source cannot be played. A source may fail after its first picture.
    pub failure: Option<Refusal>,
}

impl Probed {
    /// A source that could not be opened.
    pub fn failed(failure: Refusal) -> Self {
        Self { failure: Some(failure), ..Self::default() }
    }
}

/// The failure of a source whose [`super::Open::open`] returned `error`.
pub fn failure_of(error: Error) -> Refusal {
    match error {
        Error::Source { kind, cause, advice, .. } => Refusal { kind, cause: redact::text(&cause), advice },
        Error::Usage(text) => Refusal::of(Cause::Other, text, "correct the address or its options"),
        other => Refusal::of(Cause::Internal, other.to_string(), "see the log of the program"),
    }
}

/// The failure of a source that has not opened within `limit`.
pub fn timed_out(limit: Duration) -> Refusal {
    let cause = format!("no media arrived within {} s", limit.as_secs());
    Refusal::of(Cause::NoData, cause, "check that the source sends, and that a firewall does not drop its packets")
}

/// The limits of a probe.
pub struct ProbeLimits<'a> {
    /// Measures the time.
    pub clock: &'a Arc<dyn Clock>,
    /// When the source was opened, monotonic clock, ns.
    pub began_ns: u64,
    /// How long the probe may take.
    pub limit: Duration,
    /// The source waits for a caller.
    pub listens: bool,
    /// The probe ends when all senders are dropped.
    pub cancelled: &'a Receiver<Infallible>,
}

/// Reads `items` of a source that reports to `facts`. [`None`]: the probe was cancelled.
pub fn watch(items: &Receiver<MediaItem>, facts: &SharedFacts, limits: &ProbeLimits<'_>) -> Option<Probed> {
    let ProbeLimits { clock, began_ns, limit, listens, cancelled } = *limits;
    let (clock, limit_ns) = (&**clock, u64::try_from(limit.as_nanos()).unwrap_or(u64::MAX));
    let mut watch = ProbeState::default();
    let mut rest: Option<Deadline> = None;
    loop {
        let item = select! {
            recv(items) -> item => Some(item),
            recv(cancelled) -> _ => return None,
            default(POLL) => None,
        };
        let passed_ns = clock.mono_ns().saturating_sub(began_ns);
        let is_over = match item {
            Some(Ok(item)) => watch.take(item, passed_ns),
            // The thread of the source failed.
            Some(Err(_)) => {
                let advice = "see the log of the program";
                watch.found.failure = Some(Refusal::of(Cause::Internal, "the source ended unexpectedly", advice));
                true
            }
            None => false,
        };
        if rest.is_none() && watch.found.picture.is_some() {
            rest = Some(Deadline::after(clock, REST));
        }
        let is_late = passed_ns >= limit_ns || rest.is_some_and(|rest| rest.is_over(clock));
        if is_over || is_late || watch.is_complete(facts) {
            break;
        }
    }
    let mut found = watch.finish(facts);
    if found.tracks.is_none() && found.failure.is_none() {
        found.failure = Some(if listens { no_caller(limit) } else { timed_out(limit) });
    }
    Some(found)
}

fn no_caller(limit: Duration) -> Refusal {
    let cause = format!("no sender connected within {} s", limit.as_secs());
    Refusal::of(Cause::NoCaller, cause, "start the sender; a stream that is saved waits for it without a limit")
}

#[derive(Default)]
struct ProbeState {
    found: Probed,
    has_sound: bool,
    /// Times of the first pictures.
    times: Vec<Pts>,
}

impl ProbeState {
    /// Takes an item that arrived `passed_ns` after the start. Returns whether it is the last.
    fn take(&mut self, item: MediaItem, passed_ns: u64) -> bool {
        match item {
            MediaItem::Opened(tracks) => {
                self.found.opened_ns.get_or_insert(passed_ns);
                self.found.tracks = Some(tracks);
            }
            MediaItem::Frame(frame) => {
                self.time(frame.pts);
                self.found.picture.get_or_insert((frame, passed_ns));
            }
            MediaItem::Unconverted { pts, .. } | MediaItem::Lost { pts } => self.time(pts),
            MediaItem::Pcm(chunk) => {
                self.has_sound = true;
                let (rate, channels) = (Some(chunk.rate), Some(u32::from(chunk.channels)));
                self.found.facts.audio.get_or_insert(AudioFacts { codec: None, rate, channels });
            }
            MediaItem::Ended(End::Failed { kind, cause, advice }) => {
                self.found.failure = Some(Refusal { kind, cause, advice });
                return true;
            }
            MediaItem::Ended(End::Finished) => {
                if self.found.tracks.is_none() {
                    let advice = "check the address and the file";
                    self.found.failure = Some(Refusal::of(Cause::NoTracks, "the source ended without media", advice));
                }
                return true;
            }
            _ => {}
        }
        false
    }

    fn time(&mut self, pts: Pts) {
        if self.times.len() < RATE_PICTURES {
            self.times.push(pts);
        }
    }

    /// Whether everything that the tracks promise is known.
    fn is_complete(&self, facts: &SharedFacts) -> bool {
        let Some(tracks) = self.found.tracks else { return false };
        let has_rate =
            || self.times.len() == RATE_PICTURES || facts.get().video.is_some_and(|video| video.frame_rate.is_some());
        (!tracks.video || self.found.picture.is_some() && has_rate()) && (!tracks.audio || self.has_sound)
    }

    fn finish(self, facts: &SharedFacts) -> Probed {
        let (mut found, mut facts) = (self.found, facts.get());
        let tracks = found.tracks.unwrap_or(Tracks { video: false, audio: false });
        // A container may have tracks that cannot be played.
        facts.video = tracks.video.then(|| facts.video.unwrap_or_default());
        facts.audio = tracks.audio.then(|| facts.audio.or(found.facts.audio).unwrap_or_default());
        if let Some(video) = &mut facts.video {
            video.frame_rate = video.frame_rate.or_else(|| rate(&self.times));
        }
        found.facts = facts;
        found
    }
}

/// Pictures per second, from their times in any order, rounded to hundredths.
fn rate(times: &[Pts]) -> Option<f64> {
    let (first, last) = (times.iter().min()?, times.iter().max()?);
    let span_ns = last.0 - first.0;
    (span_ns > 0 && times.len() > 2).then(|| {
        let rate = (times.len() - 1) as f64 * NANOS_PER_SECOND as f64 / span_ns as f64;
        (rate * 100.0).round() / 100.0
    })
}

#[cfg(test)]
#[path = "probe_tests.rs"]
mod tests;

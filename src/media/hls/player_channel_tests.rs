//! A simulated packager and its server, whose answers depend on simulated time; and a feeder that records its input.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::{Instant, sleep};
use url::Url;

use crate::guard::Refusal;
use crate::hls::attributes::{ByteRange, Variables};
use crate::hls::fetch::Origin;
use crate::hls::player::{DemuxerStart, Feeder, PlayerEnd, PlayerNote, PlaylistPlayer};
use crate::hls::timeline::{TimelineAnchors, TimelinePlacer};
use touchline_core::cause::Cause;
use touchline_core::item::Discontinuity;
use touchline_core::time::NANOS_PER_SECOND as S;

/// The delay of an answer.
const LATENCY: Duration = Duration::from_millis(20);

/// Segment identities of a packager's second life begin here.
pub(super) const LIFE: u32 = 1_000;

pub(super) enum Reply<T> {
    Now(T),
    Failed(Cause),
    Hangs,
}

impl<T> Reply<T> {
    async fn resolve(self, response_timeout: Duration) -> Result<T, Refusal> {
        let refusal = |kind| Refusal::of(kind, "simulated", "");
        sleep(LATENCY).await;
        match self {
            Reply::Now(value) => Ok(value),
            Reply::Failed(kind) => Err(refusal(kind)),
            Reply::Hangs => {
                sleep(response_timeout).await;
                Err(refusal(Cause::NoAnswer))
            }
        }
    }
}

type Playlists = dyn Fn(Duration, usize, &Url) -> Reply<String> + Send + Sync;
type Files = dyn Fn(Duration, usize, &str) -> Reply<Vec<u8>> + Send + Sync;

/// An answer depends on the time since the start, the number of earlier requests for the path, and the address.
pub(super) struct Server {
    began: Instant,
    playlists: Box<Playlists>,
    files: Box<Files>,
    requests: Mutex<Vec<String>>,
}

impl Server {
    pub fn new(
        playlists: impl Fn(Duration, usize, &Url) -> Reply<String> + Send + Sync + 'static,
        files: impl Fn(Duration, usize, &str) -> Reply<Vec<u8>> + Send + Sync + 'static,
    ) -> Arc<Self> {
        let (playlists, files) = (Box::new(playlists), Box::new(files));
        Arc::new(Self { began: Instant::now(), playlists, files, requests: Mutex::default() })
    }

    pub fn of(channel: Channel) -> Arc<Self> {
        let channel = Arc::new(channel);
        let files = channel.clone();
        Self::new(move |at, nth, _| channel.playlist(at, nth), move |_, nth, name| files.file(nth, name))
    }

    /// How often `name` was requested.
    pub fn request_count(&self, name: &str) -> usize {
        self.requests.lock().unwrap().iter().filter(|request| *request == name).count()
    }

    fn record(&self, url: &Url) -> usize {
        let name = url.path()[1..].to_owned();
        let nth = self.request_count(&name);
        self.requests.lock().unwrap().push(name);
        nth
    }
}

impl Origin for Server {
    async fn playlist(&self, url: &Url, response_timeout: Duration) -> Result<(Url, String), Refusal> {
        let reply = (self.playlists)(self.began.elapsed(), self.record(url), url);
        Ok((url.clone(), reply.resolve(response_timeout).await?))
    }

    async fn media(&self, url: &Url, _: Option<ByteRange>, response_timeout: Duration) -> Result<Vec<u8>, Refusal> {
        let reply = (self.files)(self.began.elapsed(), self.record(url), &url.path()[1..]);
        reply.resolve(response_timeout).await
    }
}

pub(super) fn sound(id: u32, starts_s: u64) -> Vec<u8> {
    stamped(id, starts_s * 90_000)
}

/// Sound in ADTS frames with a time stamp. The bytes after the first frame header identify the segment.
pub(super) fn stamped(id: u32, ticks: u64) -> Vec<u8> {
    let mut bytes = vec![b'I', b'D', b'3', 4, 0, 0, 0, 0, 0, 73];
    bytes.extend(b"PRIV\0\0\0\x35\0\0com.apple.streaming.transportStreamTimestamp\0");
    bytes.extend(ticks.to_be_bytes());
    bytes.resize(83, 0);
    bytes.extend([0xff, 0xf1, 0x50, 0x80]);
    bytes.extend(id.to_be_bytes());
    bytes
}

/// How the server treats a segment.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum SegmentBehaviour {
    Fine,
    /// Fails this many times, then succeeds.
    Fails(usize, Cause),
    Lost(Cause),
    Hangs,
    /// Truncated before the first media.
    Cut,
    /// A web page instead of media.
    Page,
    /// The playlist marks it as a gap.
    Gap,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Slot {
    pub seconds: u64,
    /// On the media's own timeline.
    pub starts_s: u64,
    pub is_break: bool,
    pub behaviour: SegmentBehaviour,
}

/// The fault of one playlist answer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Flaw {
    None,
    Failed(Cause),
    Hangs,
    Damaged,
    /// A copy without this many of the newest segments.
    Stale(usize),
}

/// One life of a packager. The playlist lists a segment once its time has passed.
#[derive(Clone, Debug)]
pub(super) struct Life {
    pub from_s: u64,
    pub slots: Vec<Slot>,
}

impl Life {
    /// Continuous segments of `seconds` each.
    pub fn new(count: usize, seconds: u64) -> Self {
        let slot = |n| Slot {
            seconds,
            starts_s: 1_000 + n as u64 * seconds,
            is_break: false,
            behaviour: SegmentBehaviour::Fine,
        };
        Self { from_s: 0, slots: (0..count).map(slot).collect() }
    }

    fn written(&self, at: Duration) -> usize {
        let mut end_s = self.from_s;
        let is_written = |slot: &&Slot| {
            end_s += slot.seconds;
            end_s <= at.as_secs()
        };
        self.slots.iter().take_while(is_written).count()
    }
}

#[derive(Clone, Debug)]
pub(super) struct Channel {
    /// Consecutive lives. Each begins at sequence number 0 with its own segment names.
    pub lives: Vec<Life>,
    pub target_s: u64,
    pub window: usize,
    /// The last life ends with EXT-X-ENDLIST.
    pub ends: bool,
    /// The channel began this long before the client.
    pub age_s: u64,
    /// Flaws by the number of earlier playlist requests.
    pub flaws: Vec<Flaw>,
}

impl Channel {
    pub fn new(life: Life) -> Self {
        let target_s = life.slots.iter().map(|slot| slot.seconds).max().unwrap_or(1);
        Self { lives: vec![life], target_s, window: 1_000, ends: true, age_s: 3 * target_s, flaws: Vec::new() }
    }

    /// The playlist is complete from the start.
    pub fn recording(life: Life) -> Self {
        Self { age_s: 1_000_000, ..Self::new(life) }
    }

    pub fn with_behaviours(mut self, behaviours: &[(usize, SegmentBehaviour)]) -> Self {
        for (n, behaviour) in behaviours {
            self.lives[0].slots[*n].behaviour = *behaviour;
        }
        self
    }

    fn slot(&self, id: u32) -> &Slot {
        &self.lives[(id / LIFE) as usize].slots[(id % LIFE) as usize]
    }

    pub fn playlist(&self, at: Duration, nth: usize) -> Reply<String> {
        match self.flaws.get(nth) {
            None | Some(Flaw::None) => Reply::Now(self.text(at, 0)),
            Some(Flaw::Failed(cause)) => Reply::Failed(*cause),
            Some(Flaw::Hangs) => Reply::Hangs,
            Some(Flaw::Damaged) => Reply::Now("#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:nan,\na0\n".into()),
            Some(Flaw::Stale(by)) => Reply::Now(self.text(at, *by)),
        }
    }

    fn text(&self, at: Duration, stale: usize) -> String {
        let at = at + Duration::from_secs(self.age_s);
        let newest = self.lives.iter().rposition(|life| life.written(at) > 0).unwrap_or(0);
        let life = &self.lives[newest];
        let end = life.written(at).saturating_sub(stale);
        let first = end.saturating_sub(self.window);
        let mut text = format!("#EXTM3U\n#EXT-X-TARGETDURATION:{}\n#EXT-X-MEDIA-SEQUENCE:{first}\n", self.target_s);
        for (n, slot) in life.slots.iter().enumerate().take(end).skip(first) {
            text += if slot.is_break { "#EXT-X-DISCONTINUITY\n" } else { "" };
            text += if slot.behaviour == SegmentBehaviour::Gap { "#EXT-X-GAP\n" } else { "" };
            text += &format!("#EXTINF:{},\n{}\n", slot.seconds, name(newest as u32 * LIFE + n as u32));
        }
        if self.ends && newest + 1 == self.lives.len() && end == life.slots.len() {
            text += "#EXT-X-ENDLIST\n";
        }
        text
    }

    pub fn file(&self, nth: usize, name: &str) -> Reply<Vec<u8>> {
        let id = name[1..].parse::<u32>().expect("the playlist lists only segments");
        let slot = self.slot(id);
        let bytes = sound(id, slot.starts_s);
        match slot.behaviour {
            SegmentBehaviour::Fails(times, cause) if nth < times => Reply::Failed(cause),
            SegmentBehaviour::Fine | SegmentBehaviour::Fails(..) => Reply::Now(bytes),
            SegmentBehaviour::Lost(cause) => Reply::Failed(cause),
            SegmentBehaviour::Hangs => Reply::Hangs,
            SegmentBehaviour::Cut => Reply::Now(bytes[..40].to_vec()),
            SegmentBehaviour::Page => Reply::Now(b"<html>log in</html>".to_vec()),
            SegmentBehaviour::Gap => panic!("{name} is an announced gap, but was requested"),
        }
    }

    /// Checks and summarises the output, see [`Account`].
    pub fn account(&self, events: &[Event]) -> Account {
        Account::new(events, |id| self.slot(id).seconds * S)
    }
}

pub(super) fn name(id: u32) -> String {
    format!("s{id}")
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Event {
    Begin(DemuxerStart),
    /// The segment of this identity.
    Media(u32),
    Other(Vec<u8>),
    Note(PlayerNote),
}

/// Records its input.
#[derive(Clone, Default)]
pub(super) struct Recorder {
    events: Arc<Mutex<Vec<Event>>>,
    /// This many of the next pushes fail.
    pub broken: Arc<AtomicU32>,
}

impl Recorder {
    pub fn events(&self) -> Vec<Event> {
        self.events.lock().unwrap().clone()
    }
}

impl Feeder for Recorder {
    async fn begin(&mut self, beginning: DemuxerStart) -> Result<(), Refusal> {
        self.events.lock().unwrap().push(Event::Begin(beginning));
        Ok(())
    }

    async fn push(&mut self, bytes: Vec<u8>) -> bool {
        let id =
            bytes.strip_prefix(&[0xff, 0xf1, 0x50, 0x80]).and_then(|id| Some(u32::from_be_bytes(id.try_into().ok()?)));
        self.events.lock().unwrap().push(id.map_or(Event::Other(bytes), Event::Media));
        self.broken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1)).is_err()
    }

    fn note(&mut self, note: PlayerNote) {
        self.events.lock().unwrap().push(Event::Note(note));
    }
}

/// The output in order. Checked: media and missing intervals tile the timeline without holes or overlaps, breaks are at the start
/// of the following media, and no demuxer continues across either.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Account {
    pub media: Vec<u32>,
    pub missing: Vec<(u64, u64)>,
    pub breaks: Vec<Discontinuity>,
    pub lost: Vec<Cause>,
    pub elapsed_ns: u64,
}

impl Account {
    pub fn new(events: &[Event], length_ns: impl Fn(u32) -> u64) -> Self {
        let (mut all, mut is_begun) = (Self::default(), false);
        for event in events {
            match event {
                Event::Begin(beginning) => {
                    assert_eq!(beginning.line_ns, all.elapsed_ns, "a demuxer begins at a wrong position");
                    assert_eq!(beginning.tracks, [None, Some(all.elapsed_ns as i64)]);
                    is_begun = true;
                }
                Event::Media(id) => {
                    assert!(is_begun, "{id} continues a demuxer across a hole or a break");
                    assert!(!all.media.contains(id), "{id} was output twice");
                    all.media.push(*id);
                    all.elapsed_ns += length_ns(*id);
                }
                Event::Other(bytes) => panic!("unexpected bytes: {bytes:?}"),
                Event::Note(PlayerNote::Missing { from_ns, to_ns }) => {
                    assert_eq!(*from_ns, all.elapsed_ns, "a missing interval begins at a wrong position");
                    assert!(to_ns > from_ns);
                    all.missing.push((from_ns / S, to_ns / S));
                    (all.elapsed_ns, is_begun) = (*to_ns, false);
                }
                Event::Note(PlayerNote::Break { at_ns, cause }) => {
                    assert_eq!(*at_ns, all.elapsed_ns, "a break has a wrong position");
                    all.breaks.push(*cause);
                    is_begun = false;
                }
                Event::Note(PlayerNote::Lost { cause, .. }) => all.lost.push(*cause),
                Event::Note(PlayerNote::Date { .. } | PlayerNote::Ad { .. } | PlayerNote::Incident(_)) => {}
            }
        }
        assert!(all.media.is_sorted());
        all
    }
}

pub(super) fn url() -> Url {
    Url::parse("http://h.example/live.m3u8").unwrap()
}

pub(super) fn player(server: &Arc<Server>) -> (PlaylistPlayer<Server, Recorder>, Recorder) {
    let recorder = Recorder::default();
    let placer = TimelinePlacer::new(TimelineAnchors::default(), true, 0);
    (PlaylistPlayer::new(server.clone(), recorder.clone(), url(), Variables::default(), placer), recorder)
}

/// Plays until the end.
pub(super) async fn play(server: &Arc<Server>) -> (PlayerEnd, Vec<Event>) {
    let (mut player, recorder) = player(server);
    let end = player.run(None).await;
    player.settle();
    (end, recorder.events())
}

//! The messages between the program and the process of a source, over one socket.
//!
//! A message is the length of its head (four bytes, little endian), the head (JSON), and, for pictures and sound, their raw values.
//! So a picture is copied once into the socket and once out of it. Both sides are the same program; [`VERSION`] detects a mismatch.
//!
//! The program trusts no message, because a compromised process may send anything. Sizes are bounded before memory is allocated,
//! and values are checked before they are used.

use std::io::{self, Read, Write};
use std::sync::atomic::Ordering;

use serde::{Deserialize, Serialize};

use crate::facts::{MediaFacts, VARIANTS_MAX};
use crate::gst::{ConnectionHints, GstOptions};
use crate::guard::SourcesFile;
use crate::outlet::{Counters, DropReason};
use touchline_core::cause::Cause;
use touchline_core::clip::SamplingPlan;
use touchline_core::error::Error;
use touchline_core::frame::{Frame, SIDE_MAX};
use touchline_core::incident::Incident;
use touchline_core::item::{Discontinuity, End, MediaItem, Track, Tracks};
use touchline_core::pcm::PcmChunk;
use touchline_core::pool::Pool;
use touchline_core::redact;
use touchline_core::tier::DecodeTier;
use touchline_core::time::{NANOS_PER_SECOND, Pts, WallTime};
use touchline_core::timecode::TimecodeMark;

/// Version of the messages. Increase it with every change of their form.
pub(super) const VERSION: u16 = 5;

/// The longest head, bytes. The largest contents are a pipeline template and the addresses of some segments.
const HEAD_MAX: usize = 1 << 20;

/// The largest picture, bytes: `frame_height` lines of the widest picture that is decoded.
const PICTURE_MAX: usize = 64 << 20;

/// The longest chunk of sound, values: two seconds of eight channels at 192 kHz, rounded up.
const SOUND_MAX: usize = 4 << 20;

/// The latest valid PTS: 146 years. Later values could overflow in additions.
const PTS_MAX: Pts = Pts(1 << 62);

/// The longest hole in the media, ns. A longer one is an error, and each of its seconds would be counted.
const MISSING_MAX_NS: u64 = 7 * 24 * 3600 * NANOS_PER_SECOND;

/// The longest cause or advice, characters.
const TEXT_MAX: usize = 500;

/// A message of the program.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum WorkerCommand {
    /// The first message: open this source.
    Open(Box<OpenRequest>),
    /// Whether a preview wants pictures that the plan does not sample.
    Wanted(bool),
    /// Decode by this tier.
    Tier(DecodeTier),
    /// Stop in order.
    Stop,
}

/// A request to open a source. It contains secrets, so it is sent over the socket and never on the command line or in the
/// environment, which other users can read.
#[derive(Serialize, Deserialize)]
pub(super) struct OpenRequest {
    pub version: u16,
    pub uri: String,
    pub options: GstOptions,
    /// The source policy, for a guarded source.
    pub sources: Option<SourcesFile>,
    /// Which pictures are converted.
    pub plan: Option<SamplingPlan>,
    /// Which coded pictures are decoded.
    pub tier: DecodeTier,
    /// Hints from earlier connections.
    pub hints: ConnectionHints,
    pub on_demand: Option<bool>,
    /// The origin of the program's monotonic clock.
    pub clock_origin_ns: u64,
}

impl std::fmt::Debug for OpenRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Request").field("id", &self.options.id).finish_non_exhaustive()
    }
}

/// A message of the process.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum WorkerMessage {
    /// The source is open; media or an end follow.
    Started,
    /// The source could not be opened, and the process ends.
    NotOpened(OpenFailure),
    /// Followed by `width * height * 3` bytes.
    Frame {
        width: u32,
        height: u32,
        pts: Pts,
        arrived_ns: u64,
    },
    /// Followed by `values` 32-bit floating-point numbers, little endian.
    Pcm {
        values: usize,
        rate: u32,
        channels: u16,
        pts: Pts,
        arrived_ns: u64,
    },
    Unconverted {
        pts: Pts,
        arrived_ns: u64,
    },
    Lost(Pts),
    Opened(Tracks),
    TrackEnded(Track),
    Wall {
        pts: Pts,
        wall: WallTime,
    },
    Timecode(TimecodeMark),
    Missing {
        from: Pts,
        to: Pts,
    },
    Discontinuity(Discontinuity),
    Incident(Incident),
    /// The last message.
    Ended(End),
    Counts(CounterSnapshot),
    Hints(ConnectionHints),
    Facts(MediaFacts),
    /// Shows that the process is not stuck.
    Alive,
}

/// Why a source was not opened: the error of [`crate::Open::open`].
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum OpenFailure {
    Usage(String),
    Source { kind: Cause, name: String, cause: String, advice: String },
    Other(String),
}

impl From<Error> for OpenFailure {
    fn from(error: Error) -> Self {
        match error {
            Error::Usage(text) => OpenFailure::Usage(text),
            Error::Source { kind, source_name: name, cause, advice } => {
                OpenFailure::Source { kind, name, cause, advice }
            }
            other => OpenFailure::Other(other.to_string()),
        }
    }
}

impl From<OpenFailure> for Error {
    fn from(refused: OpenFailure) -> Self {
        match refused {
            OpenFailure::Usage(text) => Error::Usage(line(&text)),
            OpenFailure::Source { kind, name, cause, advice } => {
                Error::source_failure(kind, line(&name), line(&cause), line(&advice))
            }
            OpenFailure::Other(text) => Error::Internal(line(&text)),
        }
    }
}

/// The values of [`Counters`] at one time.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct CounterSnapshot {
    frames: u64,
    samples: u64,
    untimed: u64,
    undeclared: u64,
    dropped: [u64; DropReason::ALL.len()],
    left_out: u64,
    decoder_fallbacks: u64,
    faults: u64,
    unrecorded: u64,
    abandoned: u64,
    on_demand: Option<bool>,
}

impl CounterSnapshot {
    pub fn of(counters: &Counters) -> Self {
        Self {
            frames: counters.frames.load(Ordering::Relaxed),
            samples: counters.samples.load(Ordering::Relaxed),
            untimed: counters.untimed.load(Ordering::Relaxed),
            undeclared: counters.undeclared.load(Ordering::Relaxed),
            dropped: DropReason::ALL.map(|why| counters.dropped(why)),
            left_out: counters.left_out.load(Ordering::Relaxed),
            decoder_fallbacks: counters.decoder_fallbacks.load(Ordering::Relaxed),
            faults: counters.faults.load(Ordering::Relaxed),
            unrecorded: counters.unrecorded.load(Ordering::Relaxed),
            abandoned: counters.abandoned.load(Ordering::Relaxed),
            on_demand: counters.on_demand.get().copied(),
        }
    }

    /// Adds the difference to `before` to `counters`.
    pub fn add_to(&self, before: &Self, counters: &Counters) {
        let add = |to: &std::sync::atomic::AtomicU64, now: u64, before: u64| {
            to.fetch_add(now.saturating_sub(before), Ordering::Relaxed);
        };
        add(&counters.frames, self.frames, before.frames);
        add(&counters.samples, self.samples, before.samples);
        add(&counters.untimed, self.untimed, before.untimed);
        add(&counters.undeclared, self.undeclared, before.undeclared);
        for why in DropReason::ALL {
            let at = why as usize;
            counters.drop_pictures(why, self.dropped[at].saturating_sub(before.dropped[at]));
        }
        add(&counters.left_out, self.left_out, before.left_out);
        add(&counters.decoder_fallbacks, self.decoder_fallbacks, before.decoder_fallbacks);
        add(&counters.faults, self.faults, before.faults);
        add(&counters.unrecorded, self.unrecorded, before.unrecorded);
        add(&counters.abandoned, self.abandoned, before.abandoned);
        if let Some(on_demand) = self.on_demand {
            counters.on_demand.get_or_init(|| on_demand);
        }
    }
}

/// Writes messages.
pub(super) struct MessageWriter<W> {
    to: W,
    scratch: Vec<u8>,
}

impl<W: Write> MessageWriter<W> {
    pub fn new(to: W) -> Self {
        Self { to, scratch: Vec::new() }
    }

    /// Writes a message without data.
    ///
    /// # Errors
    /// When the other side is gone, or the message cannot be serialised (a path that is not UTF-8).
    pub fn head(&mut self, head: &impl Serialize) -> io::Result<()> {
        self.put_head(head)?;
        self.to.write_all(&self.scratch)
    }

    fn put_head(&mut self, head: &impl Serialize) -> io::Result<()> {
        self.scratch.clear();
        self.scratch.extend([0; 4]);
        serde_json::to_writer(&mut self.scratch, head)?;
        let length = self.scratch.len() - 4;
        if length > HEAD_MAX {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "a message is too long"));
        }
        let length = u32::try_from(length).expect("at most HEAD_MAX");
        self.scratch[..4].copy_from_slice(&length.to_le_bytes());
        Ok(())
    }

    /// Writes an item.
    ///
    /// # Errors
    /// As [`MessageWriter::head`].
    pub fn item(&mut self, item: MediaItem) -> io::Result<()> {
        let head = match item {
            MediaItem::Frame(Frame { data, width, height, pts, arrived_ns }) => {
                self.put_head(&WorkerMessage::Frame { width, height, pts, arrived_ns })?;
                self.to.write_all(&self.scratch)?;
                return self.to.write_all(&data);
            }
            MediaItem::Pcm(PcmChunk { data, rate, channels, pts, arrived_ns }) => {
                self.put_head(&WorkerMessage::Pcm { values: data.len(), rate, channels, pts, arrived_ns })?;
                self.scratch.extend(data.iter().flat_map(|value| value.to_le_bytes()));
                return self.to.write_all(&self.scratch);
            }
            MediaItem::Unconverted { pts, arrived_ns } => WorkerMessage::Unconverted { pts, arrived_ns },
            MediaItem::Lost { pts } => WorkerMessage::Lost(pts),
            MediaItem::Opened(tracks) => WorkerMessage::Opened(tracks),
            MediaItem::TrackEnded(track) => WorkerMessage::TrackEnded(track),
            MediaItem::Wall { pts, wall } => WorkerMessage::Wall { pts, wall },
            MediaItem::Timecode(mark) => WorkerMessage::Timecode(mark),
            MediaItem::Missing { from, to } => WorkerMessage::Missing { from, to },
            MediaItem::Discontinuity(why) => WorkerMessage::Discontinuity(why),
            MediaItem::Incident(incident) => WorkerMessage::Incident(incident),
            MediaItem::Ended(end) => WorkerMessage::Ended(end),
        };
        self.head(&head)
    }
}

/// A message from a process, checked.
#[derive(Debug)]
pub(super) enum ReceivedMessage {
    Item(MediaItem),
    Started,
    NotOpened(OpenFailure),
    Counts(CounterSnapshot),
    Hints(ConnectionHints),
    Facts(MediaFacts),
    Alive,
}

/// Why a message cannot be read.
#[derive(Debug)]
pub(super) enum ReadError {
    /// The other side closed the socket.
    Closed,
    /// The message is invalid.
    Invalid(String),
    /// Reading failed or timed out.
    Failed(io::Error),
}

impl From<io::Error> for ReadError {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::UnexpectedEof { ReadError::Closed } else { ReadError::Failed(error) }
    }
}

fn invalid(what: impl Into<String>) -> ReadError {
    ReadError::Invalid(what.into())
}

/// Reads messages.
pub(super) struct MessageReader<R> {
    from: R,
    scratch: Vec<u8>,
    pictures: Pool<u8>,
    sound: Pool<f32>,
}

impl<R: Read> MessageReader<R> {
    pub fn new(from: R, pictures: Pool<u8>, sound: Pool<f32>) -> Self {
        Self { from, scratch: Vec::new(), pictures, sound }
    }

    /// The underlying reader.
    pub fn from(&mut self) -> &mut R {
        &mut self.from
    }

    /// Reads the head of the next message.
    ///
    /// # Errors
    /// When there is none, or it is invalid.
    pub fn head<T: for<'de> Deserialize<'de>>(&mut self) -> Result<T, ReadError> {
        let mut length = [0; 4];
        self.from.read_exact(&mut length)?;
        let length = u32::from_le_bytes(length) as usize;
        if length > HEAD_MAX {
            return Err(invalid(format!("a message of {length} bytes")));
        }
        self.fill_scratch(length)?;
        // Without the text of serde's error, which may quote the message.
        serde_json::from_slice(&self.scratch).map_err(|e| invalid(format!("a malformed message ({:?})", e.classify())))
    }

    fn fill_scratch(&mut self, length: usize) -> Result<(), ReadError> {
        self.scratch.resize(length, 0);
        Ok(self.from.read_exact(&mut self.scratch)?)
    }

    /// Reads the next message of a process. `now_ns` is the monotonic time, which limits arrival times.
    ///
    /// # Errors
    /// When there is none, or it is invalid.
    pub fn next_message(&mut self, now_ns: impl FnOnce() -> u64) -> Result<ReceivedMessage, ReadError> {
        let item = match self.head::<WorkerMessage>()? {
            WorkerMessage::Started => return Ok(ReceivedMessage::Started),
            WorkerMessage::NotOpened(why) => return Ok(ReceivedMessage::NotOpened(why)),
            WorkerMessage::Counts(counts) => return Ok(ReceivedMessage::Counts(counts)),
            WorkerMessage::Hints(hints) => return Ok(ReceivedMessage::Hints(hints)),
            WorkerMessage::Facts(facts) => return Ok(ReceivedMessage::Facts(bounded(facts))),
            WorkerMessage::Alive => return Ok(ReceivedMessage::Alive),
            WorkerMessage::Frame { width, height, pts, arrived_ns } => {
                let size = u64::from(width) * u64::from(height) * 3;
                let is_sound = (1..=SIDE_MAX).contains(&width) && (1..=SIDE_MAX).contains(&height);
                let size = usize::try_from(size).ok().filter(|size| is_sound && *size <= PICTURE_MAX);
                let size = size.ok_or_else(|| invalid(format!("a picture of {width}×{height} pixels")))?;
                let mut data = self.pictures.take();
                data.resize(size, 0);
                self.from.read_exact(&mut data)?;
                MediaItem::Frame(Frame::new(data, width, height, checked(pts)?, arrived_ns.min(now_ns())))
            }
            WorkerMessage::Pcm { values, rate, channels, pts, arrived_ns } => {
                let is_whole = rate > 0 && channels > 0 && values % usize::from(channels) == 0;
                if !is_whole || values > SOUND_MAX {
                    let text = format!("{values} values of sound at {rate} Hz in {channels} channels");
                    return Err(invalid(text));
                }
                self.fill_scratch(values * 4)?;
                let mut data = self.sound.take();
                let (numbers, _) = self.scratch.as_chunks::<4>();
                data.extend(numbers.iter().map(|bytes| f32::from_le_bytes(*bytes)));
                MediaItem::Pcm(PcmChunk::new(data, rate, channels, checked(pts)?, arrived_ns.min(now_ns())))
            }
            WorkerMessage::Unconverted { pts, arrived_ns } => {
                MediaItem::Unconverted { pts: checked(pts)?, arrived_ns: arrived_ns.min(now_ns()) }
            }
            WorkerMessage::Lost(pts) => MediaItem::Lost { pts: checked(pts)? },
            WorkerMessage::Opened(tracks) => MediaItem::Opened(tracks),
            WorkerMessage::TrackEnded(track) => MediaItem::TrackEnded(track),
            WorkerMessage::Wall { pts, wall } => MediaItem::Wall { pts: checked(pts)?, wall },
            WorkerMessage::Timecode(mark) => {
                if !(0..mark.rate.frames_in_day()).contains(&mark.frame) {
                    return Err(invalid(format!("the timecode of frame {}", mark.frame)));
                }
                MediaItem::Timecode(TimecodeMark { pts: checked(mark.pts)?, ..mark })
            }
            WorkerMessage::Missing { from, to } => {
                let length_ns = to.0.checked_sub(from.0);
                if length_ns.is_none_or(|ns| ns > MISSING_MAX_NS) {
                    return Err(invalid(format!("a hole from {} to {} ns", from.0, to.0)));
                }
                MediaItem::Missing { from: checked(from)?, to: checked(to)? }
            }
            WorkerMessage::Discontinuity(why) => MediaItem::Discontinuity(why),
            WorkerMessage::Incident(incident) => MediaItem::Incident(incident),
            WorkerMessage::Ended(End::Finished) => MediaItem::Ended(End::Finished),
            WorkerMessage::Ended(End::Failed { kind, cause, advice }) => {
                MediaItem::Ended(End::Failed { kind, cause: line(&cause), advice: line(&advice) })
            }
        };
        Ok(ReceivedMessage::Item(item))
    }
}

fn checked(pts: Pts) -> Result<Pts, ReadError> {
    if pts <= PTS_MAX { Ok(pts) } else { Err(invalid(format!("the time {} ns", pts.0))) }
}

/// `facts` with a limited number of variants and with lines of limited length.
fn bounded(mut facts: MediaFacts) -> MediaFacts {
    facts.variants.truncate(VARIANTS_MAX);
    let codecs = [
        facts.video.as_mut().and_then(|video| video.codec.as_mut()),
        facts.audio.as_mut().and_then(|audio| audio.codec.as_mut()),
    ];
    let codecs = codecs.into_iter().chain(facts.variants.iter_mut().map(|variant| variant.codecs.as_mut()));
    codecs.flatten().for_each(|codec| *codec = line(codec));
    facts
}

/// Returns `text` as one redacted line of limited length.
fn line(text: &str) -> String {
    let short: String = text.chars().take(TEXT_MAX).map(|c| if c.is_control() { ' ' } else { c }).collect();
    redact::text(&short)
}

#[cfg(test)]
#[path = "protocol_tests.rs"]
mod tests;

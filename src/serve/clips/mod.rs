//! Event clips: their names, their sidecars, and how one is made of cut media.
//!
//! A clip is complete when its sidecar exists: the sidecar is written last. All files are written under another name, synced, and
//! renamed, so that a file under its own name is whole.

mod store;

use std::path::Path;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use touchline_core::item::Discontinuity;
use touchline_core::time::{NANOS_PER_SECOND, Pts, RunId};
use touchline_media::gst::clips::{self, ClipError, ClipFile};

pub use self::store::{ClipStore, create_dir, remove_unfinished};

/// The longest name of a clip without its extension, bytes: file systems allow 255, and suffixes follow.
const NAME_MAX: usize = 160;

/// What a clip is made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ClipReason {
    /// A segment: a class was on air.
    Segment,
    /// An event.
    Event,
    /// A request over the API.
    Request,
}

/// Why a part of a clip has no media.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum MissingReason {
    /// The source was opened again.
    Reconnect,
    /// PTS jumped forward.
    JumpForward,
    /// PTS jumped back.
    JumpBack,
    /// A track was added.
    Tracks,
    /// The playlist has an `EXT-X-DISCONTINUITY`.
    Playlist,
    /// The stream had not begun, or had ended.
    StreamEnd,
    /// The stream was paused or removed.
    Stopped,
    /// The program ended.
    ProgramEnd,
    /// The program was killed.
    Killed,
    /// The ring no longer had it, or could not be written.
    Ring,
}

impl From<Discontinuity> for MissingReason {
    fn from(cause: Discontinuity) -> Self {
        match cause {
            Discontinuity::Reconnect => MissingReason::Reconnect,
            Discontinuity::JumpForward => MissingReason::JumpForward,
            Discontinuity::JumpBack => MissingReason::JumpBack,
            Discontinuity::Tracks => MissingReason::Tracks,
            Discontinuity::Playlist => MissingReason::Playlist,
        }
    }
}

/// A part of the wanted time that has no media.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct MissingSpan {
    /// Why.
    pub reason: MissingReason,
    /// Its start, PTS in nanoseconds.
    pub from_pts_ns: Pts,
    /// Its end.
    pub to_pts_ns: Pts,
}

/// The sidecar of a clip: what is in its files, and what was decided about its time.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Clip")]
pub struct Sidecar {
    /// Version of this form: 1.
    pub version: u32,
    /// Name of the clip: the name of its files without suffix.
    pub id: String,
    /// Id of the stream, or path of the recording.
    pub stream: String,
    /// What the clip was made for.
    pub reason: ClipReason,
    /// The class on air.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub class: Option<String>,
    /// The run of the decisions.
    pub run: RunId,
    /// Start of what the clip was made for, without pre-roll, PTS in nanoseconds.
    pub from_pts_ns: Pts,
    /// Its end, without post-roll.
    pub to_pts_ns: Pts,
    /// Media files in order. Another file begins where the format changes.
    pub media: Vec<ClipMedia>,
    /// Parts of the wanted time, pre- and post-roll included, that have no media.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<MissingSpan>,
    /// The poster.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub poster: Option<Poster>,
    /// The decisions about the time of the clip, as `--jsonl` writes them.
    #[schemars(with = "Vec<serde_json::Map<String, serde_json::Value>>")]
    pub records: Vec<Box<RawValue>>,
}

/// A media file of a clip.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct ClipMedia {
    /// File name.
    pub file: String,
    /// Size.
    pub bytes: u64,
    /// PTS of time 0 of the file, in nanoseconds.
    pub begin_pts_ns: Pts,
    /// PTS of its end.
    pub end_pts_ns: Pts,
    /// Wall time of time 0 of the file, nanoseconds since 1970-01-01 UTC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub began_unix_ns: Option<i64>,
    /// Coding of the pictures, as a media type of GStreamer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub video: Option<String>,
    /// Coding of the sound.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub audio: Option<String>,
    /// File with its sound alone: WAV, 16 bits or 32-bit floating point.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wav: Option<String>,
}

impl From<ClipFile> for ClipMedia {
    fn from(file: ClipFile) -> Self {
        let ClipFile { file, bytes, begin, end, video, audio, .. } = file;
        Self { file, bytes, begin_pts_ns: begin, end_pts_ns: end, began_unix_ns: None, video, audio, wav: None }
    }
}

/// The poster of a clip.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Poster {
    /// File name.
    pub file: String,
    /// PTS of its picture, in nanoseconds.
    pub pts_ns: Pts,
}

/// The record of a second or of an event.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DecisionRecord {
    /// The run.
    pub run: RunId,
    /// Number of the second in the run.
    pub index: u64,
    /// The record: one JSON object.
    pub json: String,
}

/// Why a requested clip was not made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClipRefusal {
    /// The request is not valid; the text is the cause.
    Invalid(String),
    /// Its end is not decided yet.
    NotYet,
    /// It could not be cut.
    Clip(ClipError),
}

/// Makes clips on request.
pub trait ClipMaker: Send + Sync {
    /// Cuts a stream between two wall times, nanoseconds since 1970-01-01 UTC. Takes the time of copying the media.
    ///
    /// # Errors
    /// Why it was not made.
    fn make(&self, stream: &str, from_ns: i64, to_ns: i64) -> Result<Sidecar, ClipRefusal>;
}

/// The clips, as the API uses them.
#[derive(Clone)]
pub struct ClipAccess {
    /// The clips that there are.
    pub store: ClipStore,
    /// Makes more.
    pub maker: Arc<dyn ClipMaker>,
}

/// What a clip is about.
#[derive(Clone, Debug)]
pub struct ClipSubject<'a> {
    /// Id of the stream.
    pub stream: &'a str,
    /// Why it is made.
    pub reason: ClipReason,
    /// The class on air.
    pub class: Option<&'a str>,
    /// The run.
    pub run: RunId,
    /// Start, without pre-roll.
    pub from: Pts,
    /// End, without post-roll.
    pub to: Pts,
    /// Second of the poster.
    pub strongest: u64,
    /// Wall time of a PTS, nanoseconds since 1970-01-01 UTC.
    pub wall: Option<(Pts, i64)>,
    /// Parts of the wanted time that have no media.
    pub missing: Vec<MissingSpan>,
    /// Whether its sound is also written as a WAV file.
    pub wav: bool,
}

/// Completes a clip whose media are cut: makes the poster and the WAV files, and writes the sidecar.
///
/// # Errors
/// If the sidecar cannot be written. Then no file of the clip stays. A poster or a WAV file that cannot be made is logged and left out:
/// the media are whole.
pub fn complete(
    dir: &Path,
    name: &str,
    subject: &ClipSubject<'_>,
    files: Vec<ClipFile>,
    records: &[DecisionRecord],
) -> std::io::Result<Sidecar> {
    let poster = poster(dir, name, subject.strongest, &files);
    let mut media: Vec<ClipMedia> = files.into_iter().map(ClipMedia::from).collect();
    for (i, file) in media.iter_mut().enumerate() {
        if subject.wav && file.audio.is_some() {
            file.wav = wav(dir, name, i, &file.file);
        }
        let Some((pts, unix_ns)) = subject.wall else { continue };
        let since_ns = i128::from(file.begin_pts_ns.0) - i128::from(pts.0);
        file.began_unix_ns = i64::try_from(i128::from(unix_ns) + since_ns).ok();
    }
    let begin = media.iter().map(|media| media.begin_pts_ns).min().unwrap_or(subject.from);
    let end = media.iter().map(|media| media.end_pts_ns).max().unwrap_or(subject.to);
    let is_within = |record: &&DecisionRecord| {
        let second = Pts::from_second(record.index);
        record.run == subject.run && second.plus(NANOS_PER_SECOND) > begin && second < end
    };
    let records = records.iter().filter(is_within).filter_map(|record| RawValue::from_string(record.json.clone()).ok());
    let sidecar = Sidecar {
        version: 1,
        id: name.into(),
        stream: subject.stream.into(),
        reason: subject.reason,
        class: subject.class.map(str::to_owned),
        run: subject.run,
        from_pts_ns: subject.from,
        to_pts_ns: subject.to,
        media,
        missing: subject.missing.clone(),
        poster,
        records: records.collect(),
    };
    let mut json = serde_json::to_vec_pretty(&sidecar)?;
    json.push(b'\n');
    let written = clips::write_whole(dir, &format!("{name}.json"), &json);
    if written.is_err() {
        // They may be gone already.
        sidecar.files().for_each(|file| drop(std::fs::remove_file(dir.join(file))));
    }
    written.map(|()| sidecar)
}

impl Sidecar {
    /// The names of its files but for the sidecar itself.
    pub fn files(&self) -> impl Iterator<Item = &str> {
        let media = self.media.iter().flat_map(|media| [Some(media.file.as_str()), media.wav.as_deref()]);
        media.chain([self.poster.as_ref().map(|poster| poster.file.as_str())]).flatten()
    }
}

/// Writes the sound of a media file.
fn wav(dir: &Path, name: &str, place: usize, media: &str) -> Option<String> {
    let file = if place == 0 { format!("{name}.wav") } else { format!("{name}-{}.wav", place + 1) };
    match clips::wav(dir, media, &file) {
        Ok(_) => Some(file),
        Err(cause) => {
            tracing::warn!("clip {name}: no WAV file: {cause}; the clip itself is whole");
            None
        }
    }
}

/// Writes the picture in the middle of the second `strongest`.
fn poster(dir: &Path, name: &str, strongest: u64, files: &[ClipFile]) -> Option<Poster> {
    let wanted = Pts::from_second(strongest).plus(NANOS_PER_SECOND / 2);
    let with_pictures = || files.iter().filter(|file| file.video.is_some());
    let media =
        with_pictures().find(|file| file.begin <= wanted && wanted < file.end).or(with_pictures().next_back())?;
    // Where the strongest second has no pictures, the poster is from the middle.
    let is_within = media.begin <= wanted && wanted < media.end;
    let at_ns = if is_within { media.begin.distance(wanted) } else { media.begin.distance(media.end) / 2 };
    let file = format!("{name}.jpg");
    match clips::poster(dir, &media.file, at_ns, &file) {
        Ok(()) => Some(Poster { file, pts_ns: media.begin.plus(at_ns) }),
        Err(cause) => {
            tracing::warn!("clip {name}: no poster: {cause}; the clip itself is whole");
            None
        }
    }
}

/// A file name of `parts`, joined with `-`: letters and digits of any script, `.` and `_` stay, all else becomes `_`.
pub fn name(parts: &[&str]) -> String {
    let safe = |c: char| if c.is_alphanumeric() || matches!(c, '.' | '_' | '-') { c } else { '_' };
    let mut name: String = parts.join("-").chars().map(safe).collect();
    while name.len() > NAME_MAX {
        name.pop();
    }
    // Hidden files, and the names of directories, begin with a dot.
    if name.starts_with('.') {
        name.replace_range(..1, "_");
    }
    name
}

/// Whether a clip of this id may be of `stream`: the ids of its clips begin alike.
pub fn is_of(id: &str, stream: &str) -> bool {
    id.strip_prefix(&name(&[stream])).is_some_and(|rest| rest.starts_with('-'))
}

/// The id of a clip of a ring: the stream, wall time in ms, run and PTS in ms, and what it is about.
pub fn id(stream: &str, unix_ms: i64, (run, pts): (RunId, Pts), label: &str) -> String {
    name(&[stream, &unix_ms.to_string(), &format!("{}.{}", run.0, pts.0 / 1_000_000), label])
}

/// Whether a name has the form of [`id`].
fn is_id(name: &str) -> bool {
    let is_number = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    let is_place = |part: &str| part.split_once('.').is_some_and(|(run, ms)| is_number(run) && is_number(ms));
    let parts: Vec<&str> = name.split('-').collect();
    parts.windows(4).any(|parts| is_number(parts[1]) && is_place(parts[2]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_told_from_other_names() {
        for stream in ["court-1", "7", "a.b_c"] {
            let id = id(stream, 1_700_000_000_000, (RunId(3), Pts::from_second(5)), "table-tennis-segment");
            assert!(is_id(&id) && is_id(&format!("{id}-2")), "{id}");
        }
        for other in ["holiday", "2024-05-01", "a-1-2-3", "match-2024-1.5", "-1-1.1"] {
            assert!(!is_id(other), "{other}");
        }
    }

    #[test]
    fn names_are_safe_file_names() {
        assert_eq!(name(&["court 1/\"final\"\u{202e}", "0001", "tennis"]), "court_1__final__-0001-tennis");
        assert_eq!(name(&["../x"]), "_._x");
        assert_eq!(name(&["Fußball-決勝"]), "Fußball-決勝");
        let long = name(&[&"ß".repeat(300), "1"]);
        assert!(long.len() <= NAME_MAX && long.starts_with("ßß"), "{long}");
    }

    #[test]
    fn the_sidecar_has_the_decisions_of_its_span() {
        let dir = tempfile::tempdir().unwrap();
        let second = |run: u32, index: u64| DecisionRecord {
            run: RunId(run),
            index,
            json: format!(r#"{{"type":"second","run":{run},"index":{index},"probabilities":{{"tennis":0.900000}}}}"#),
        };
        let records: Vec<DecisionRecord> = (0..9).map(|index| second(0, index)).chain([second(1, 4)]).collect();
        let file = ClipFile {
            file: "a.mp4".into(),
            bytes: 7,
            begin: Pts(2_500_000_000),
            end: Pts(6_000_000_000),
            video: None,
            audio: Some("audio/mpeg, mpegversion=4".into()),
            holes: Vec::new(),
        };
        let subject = ClipSubject {
            stream: "a",
            reason: ClipReason::Segment,
            class: Some("tennis"),
            run: RunId(0),
            from: Pts::from_second(4),
            to: Pts::from_second(5),
            strongest: 4,
            wall: Some((Pts::from_second(3), 1_700_000_000_000_000_000)),
            missing: Vec::new(),
            wav: false,
        };
        complete(dir.path(), "a", &subject, vec![file], &records).unwrap();
        let text = std::fs::read_to_string(dir.path().join("a.json")).unwrap();
        let sidecar: Sidecar = serde_json::from_str(&text).unwrap();
        let index =
            |record: &RawValue| serde_json::from_str::<serde_json::Value>(record.get()).unwrap()["index"].as_u64();
        let indices: Vec<u64> = sidecar.records.iter().filter_map(|record| index(record)).collect();
        assert_eq!(indices, [2, 3, 4, 5]);
        assert!(sidecar.records[0].get().contains("0.900000"), "records are unchanged");
        assert_eq!((sidecar.media[0].begin_pts_ns.0, sidecar.poster.is_none()), (2_500_000_000, true));
        assert_eq!(sidecar.media[0].began_unix_ns, Some(1_699_999_999_500_000_000));
    }
}

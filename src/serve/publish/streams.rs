//! The desk where streams are added, changed and removed while the program runs, and what is known of the configuration
//! file's last reading.
//!
//! Not here: who carries it out (`cli::run::warden`), and who may ask over HTTP (`stream_routes`).

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crossbeam_channel::{Receiver, Sender, bounded};
use serde::{Deserialize, Deserializer, Serialize};
use tokio::sync::oneshot;

use super::format::rfc3339;
use super::record::to_json;
use crate::config::{LatencyMs, RtspTransport, StreamFile, StreamSettings, VoteFile, stream_id, stream_label};
use touchline_media::options::{Isolation, SourceKind, VariantChoice};

/// Requests that wait to be looked at; looking takes microseconds.
const ASKS: usize = 16;

/// Longest URI that is taken, bytes: longer ones are mistakes.
const URI_MAX: usize = 2048;

/// A stream that is asked for: the body of POST.
#[derive(Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewStream {
    /// Absent: made from the URI.
    pub id: Option<String>,
    pub uri: String,
    pub label: Option<String>,
    pub latency_ms: Option<u32>,
    pub rtsp_transport: Option<RtspTransport>,
    pub kind: Option<SourceKind>,
    pub variant: Option<VariantChoice>,
    pub max_height: Option<u32>,
    pub audio_language: Option<String>,
    pub isolation: Option<Isolation>,
    pub enabled: Option<bool>,
    pub retry: Option<bool>,
    #[serde(default)]
    pub vote: VoteFile,
}

impl fmt::Debug for NewStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let uri = touchline_core::redact::uri(&self.uri);
        f.debug_struct("NewStream").field("id", &self.id).field("uri", &uri).finish_non_exhaustive()
    }
}

/// A change that is asked for: the body of PATCH. What is absent stays; `null` takes the value of the run.
#[derive(Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StreamPatch {
    pub uri: Option<String>,
    #[serde(default, deserialize_with = "given")]
    pub label: Option<Option<String>>,
    pub latency_ms: Option<u32>,
    pub rtsp_transport: Option<RtspTransport>,
    #[serde(default, deserialize_with = "given")]
    pub kind: Option<Option<SourceKind>>,
    pub variant: Option<VariantChoice>,
    #[serde(default, deserialize_with = "given")]
    pub max_height: Option<Option<u32>>,
    #[serde(default, deserialize_with = "given")]
    pub audio_language: Option<Option<String>>,
    #[serde(default, deserialize_with = "given")]
    pub isolation: Option<Option<Isolation>>,
    /// `true` also opens a stream again that has ended or failed.
    pub enabled: Option<bool>,
    #[serde(default, deserialize_with = "given")]
    pub retry: Option<Option<bool>>,
    #[serde(default, deserialize_with = "given")]
    pub vote: Option<Option<VotePatch>>,
}

/// As [`StreamPatch`], of the vote.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VotePatch {
    #[serde(default, deserialize_with = "given")]
    pub window: Option<Option<u32>>,
    #[serde(default, deserialize_with = "given")]
    pub stride: Option<Option<u32>>,
    #[serde(default, deserialize_with = "given")]
    pub onset: Option<Option<f32>>,
    #[serde(default, deserialize_with = "given")]
    pub offset: Option<Option<f32>>,
}

/// Tells `null` from absence.
fn given<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

impl NewStream {
    /// # Errors
    /// [`RefusedKind::Invalid`] naming the value that cannot be.
    pub fn check(&self) -> Result<(), Refused> {
        if let Some(id) = &self.id {
            stream_id(id).map_err(|e| Refused::invalid(e, "choose another id, or leave it out"))?;
        }
        check_uri(&self.uri)?;
        check_label(self.label.as_deref())?;
        check_latency(self.latency_ms)
    }

    /// The settings of the stream, as `id`.
    pub fn settings(self, id: String, latency_ms: u32) -> StreamSettings {
        let file = StreamFile {
            id: None,
            uri: self.uri,
            // A template of the file system is the operator's.
            pipeline: None,
            // It was checked.
            latency_ms: self.latency_ms.and_then(|ms| LatencyMs::try_from(i64::from(ms)).ok()),
            rtsp_transport: self.rtsp_transport,
            kind: self.kind,
            variant: self.variant,
            max_height: self.max_height,
            audio_language: self.audio_language,
            isolation: self.isolation,
            label: self.label,
            enabled: self.enabled,
            retry: self.retry,
            vote: self.vote,
        };
        file.settings(id, latency_ms)
    }
}

impl StreamPatch {
    /// # Errors
    /// [`RefusedKind::Invalid`] naming the value that cannot be.
    pub fn check(&self) -> Result<(), Refused> {
        if let Some(uri) = &self.uri {
            check_uri(uri)?;
        }
        check_label(self.label.as_ref().and_then(Option::as_deref))?;
        check_latency(self.latency_ms)
    }

    /// `settings` with the changes.
    pub fn apply(&self, settings: &StreamSettings) -> StreamSettings {
        let mut new = settings.clone();
        if let Some(uri) = &self.uri {
            new.uri.clone_from(uri);
        }
        if let Some(label) = &self.label {
            new.label.clone_from(label);
        }
        new.latency_ms = self.latency_ms.unwrap_or(new.latency_ms);
        new.rtsp_transport = self.rtsp_transport.unwrap_or(new.rtsp_transport);
        new.kind = self.kind.unwrap_or(new.kind);
        new.hls.variant = self.variant.unwrap_or(new.hls.variant);
        new.hls.max_height = self.max_height.unwrap_or(new.hls.max_height);
        if let Some(language) = &self.audio_language {
            new.hls.audio_language.clone_from(language);
        }
        new.isolation = self.isolation.unwrap_or(new.isolation);
        new.enabled = self.enabled.unwrap_or(new.enabled);
        new.retry = self.retry.unwrap_or(new.retry);
        match &self.vote {
            None => {}
            Some(None) => new.vote = VoteFile::default(),
            Some(Some(vote)) => {
                new.vote = VoteFile {
                    window: vote.window.unwrap_or(new.vote.window),
                    stride: vote.stride.unwrap_or(new.vote.stride),
                    onset: vote.onset.unwrap_or(new.vote.onset),
                    offset: vote.offset.unwrap_or(new.vote.offset),
                }
            }
        }
        new
    }
}

fn check_uri(uri: &str) -> Result<(), Refused> {
    if uri.is_empty() || uri.len() > URI_MAX || uri.chars().any(char::is_control) {
        let error = format!("the uri is empty, longer than {URI_MAX} bytes, or holds control characters");
        return Err(Refused::invalid(error, "give a URI as in rtsp://camera.example/live"));
    }
    Ok(())
}

fn check_label(label: Option<&str>) -> Result<(), Refused> {
    label.map_or(Ok(()), stream_label).map_err(|e| Refused::invalid(e, "choose another label, or leave it out"))
}

fn check_latency(latency_ms: Option<u32>) -> Result<(), Refused> {
    let Some(ms) = latency_ms else { return Ok(()) };
    // The same bounds as in the configuration file.
    LatencyMs::try_from(i64::from(ms))
        .map(drop)
        .map_err(|e| Refused::invalid(format!("latency_ms: {e}"), "choose another latency_ms, or leave it out"))
}

/// Why a stream was not added, changed or removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum RefusedKind {
    /// There is no such stream.
    Unknown,
    /// There is one with that id.
    Duplicate,
    /// There are as many as there may be.
    Limit,
    /// It belongs to the configuration file or the command line.
    NotOwned,
    /// Another change of it is under way, or too many requests wait.
    Busy,
    /// Its settings are other ones by now.
    Outdated,
    /// A value that cannot be.
    Invalid,
    /// The source cannot be opened.
    Source,
    /// The store does not take it.
    Store,
    /// The program is not ready, or ends.
    NotReady,
}

/// A refusal, for people and programs.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{error}; {advice}")]
pub struct Refused {
    pub kind: RefusedKind,
    pub error: String,
    pub advice: String,
}

impl Refused {
    pub fn new(kind: RefusedKind, error: impl Into<String>, advice: impl Into<String>) -> Self {
        Self {
            kind,
            error: touchline_core::redact::text(&error.into()),
            advice: touchline_core::redact::text(&advice.into()),
        }
    }

    fn invalid(error: String, advice: &str) -> Self {
        Self::new(RefusedKind::Invalid, error, advice)
    }
}

/// What is asked for.
#[derive(Clone, Debug)]
pub enum Wanted {
    Add(NewStream),
    /// `generation`: only when the settings are still of this version.
    Change {
        id: String,
        patch: Box<StreamPatch>,
        generation: Option<u64>,
    },
    Remove {
        id: String,
        generation: Option<u64>,
    },
}

impl fmt::Debug for StreamPatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let uri = self.uri.as_deref().map(touchline_core::redact::uri);
        f.debug_struct("StreamPatch").field("uri", &uri).field("enabled", &self.enabled).finish_non_exhaustive()
    }
}

/// The id of the stream that was added, changed or removed, when that is done and durable.
pub type Outcome = Result<String, Refused>;

/// A request on its way to the warden.
#[derive(Debug)]
pub struct StreamAsk {
    pub wanted: Wanted,
    pub answer: oneshot::Sender<Outcome>,
}

/// Where changes of the streams are asked for. Cloning shares it.
#[derive(Clone, Debug)]
pub struct StreamDesk {
    asks: Sender<StreamAsk>,
    config: Arc<ConfigBoard>,
}

impl StreamDesk {
    /// A desk, and where its requests come out.
    pub fn new() -> (Self, Receiver<StreamAsk>) {
        let (asks, out) = bounded(ASKS);
        (Self { asks, config: Arc::default() }, out)
    }

    /// Asks for a change; the outcome comes over the channel.
    ///
    /// # Errors
    /// [`RefusedKind::Busy`] when too many wait, [`RefusedKind::NotReady`] when nobody takes requests.
    pub fn ask(&self, wanted: Wanted) -> Result<oneshot::Receiver<Outcome>, Refused> {
        let (answer, outcome) = oneshot::channel();
        match self.asks.try_send(StreamAsk { wanted, answer }) {
            Ok(()) => Ok(outcome),
            Err(e) if e.is_full() => {
                Err(Refused::new(RefusedKind::Busy, "too many changes wait", "ask again in a second"))
            }
            Err(_) => Err(Self::ends()),
        }
    }

    /// The refusal when nobody carries out changes any more.
    pub fn ends() -> Refused {
        Refused::new(RefusedKind::NotReady, "the program ends", "ask again when it has been started again")
    }

    /// What is known of the configuration file.
    pub fn config(&self) -> &ConfigBoard {
        &self.config
    }
}

/// What `GET /api/v1/config` shows.
#[derive(Debug, Default)]
pub struct ConfigBoard {
    state: Mutex<ConfigState>,
}

#[derive(Debug, Default)]
struct ConfigState {
    /// Its name, not where it lies.
    file: Option<String>,
    applied: u64,
    refused: u64,
    last: Option<LastReload>,
}

#[derive(Clone, Debug, Serialize)]
struct LastReload {
    at: String,
    outcome: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    changes: Option<ReloadChanges>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// What another reading of the configuration file changed: ids, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ReloadChanges {
    pub added: Vec<String>,
    pub removed: Vec<String>,
    pub changed: Vec<String>,
    /// Keys that differ and count only after a restart.
    pub needs_restart: Vec<String>,
}

#[derive(Serialize)]
struct ConfigView<'a> {
    file: Option<&'a str>,
    reloads: ReloadsView<'a>,
}

#[derive(Serialize)]
struct ReloadsView<'a> {
    applied: u64,
    refused: u64,
    last: Option<&'a LastReload>,
}

impl ConfigBoard {
    fn state(&self) -> MutexGuard<'_, ConfigState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The program was started with this file.
    pub fn set_file(&self, name: String) {
        self.state().file = Some(name);
    }

    /// The file was read again at `unix_ns`, nanoseconds since 1970-01-01 UTC.
    pub fn reloaded(&self, unix_ns: i64, outcome: Result<ReloadChanges, String>) {
        let mut state = self.state();
        let at = rfc3339(unix_ns);
        state.last = Some(match outcome {
            Ok(changes) => {
                state.applied += 1;
                LastReload { at, outcome: "applied", changes: Some(changes), error: None }
            }
            Err(error) => {
                state.refused += 1;
                LastReload { at, outcome: "refused", changes: None, error: Some(touchline_core::redact::text(&error)) }
            }
        });
    }

    /// The answer of `GET /api/v1/config`.
    pub fn json(&self) -> String {
        let state = self.state();
        to_json(&ConfigView {
            file: state.file.as_deref(),
            reloads: ReloadsView { applied: state.applied, refused: state.refused, last: state.last.as_ref() },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn new(text: &str) -> NewStream {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn a_patch_changes_what_it_names_and_null_takes_a_value_away() {
        let stream = new(r#"{"uri": "rtsp://h/a", "label": "A", "retry": false, "vote": {"window": 5, "onset": 0.7}}"#);
        let settings = stream.settings("a".into(), 200);
        assert_eq!((settings.latency_ms, settings.enabled, settings.isolation), (200, true, None));
        let patch = |text: &str| serde_json::from_str::<StreamPatch>(text).unwrap().apply(&settings);
        assert_eq!(patch("{}"), settings);
        assert_eq!(
            patch(r#"{"label": null, "retry": null}"#),
            StreamSettings { label: None, retry: None, ..settings.clone() }
        );
        let inside = patch(r#"{"isolation": "none"}"#);
        assert_eq!(inside.isolation, Some(Isolation::None));
        let taken_back: StreamPatch = serde_json::from_str(r#"{"isolation": null}"#).unwrap();
        assert_eq!(taken_back.apply(&inside), settings);
        let voted = patch(r#"{"vote": {"window": null, "stride": 2}}"#);
        assert_eq!(voted.vote, VoteFile { window: None, stride: Some(2), onset: Some(0.7), offset: None });
        assert_eq!(patch(r#"{"vote": null}"#).vote, VoteFile::default());
        assert!(serde_json::from_str::<StreamPatch>(r#"{"urk": 1}"#).unwrap_err().to_string().contains("urk"));
    }

    #[test]
    fn values_that_cannot_be_are_named() {
        for (text, word) in [
            (r#"{"uri": ""}"#, "uri"),
            (r#"{"uri": "rtsp://h/\u0000"}"#, "uri"),
            (r#"{"uri": "rtsp://h/a", "id": "a/b"}"#, "a/b"),
            (r#"{"uri": "rtsp://h/a", "label": "two\nlines"}"#, "label"),
            (r#"{"uri": "rtsp://h/a", "latency_ms": 60001}"#, "latency_ms"),
        ] {
            let refused = new(text).check().unwrap_err();
            assert!(refused.kind == RefusedKind::Invalid && refused.error.contains(word), "{refused}");
        }
        assert_eq!(new(r#"{"uri": "rtsp://h/a"}"#).check(), Ok(()));
    }

    #[test]
    fn refusals_tell_no_secrets() {
        let stream = new(r#"{"uri": "rtsp://ann:geheim77@h/a"}"#);
        assert!(!format!("{stream:?}").contains("geheim77"));
        let refused =
            Refused::new(RefusedKind::Source, "rtsp://ann:geheim77@h/a: no", "look at rtsp://ann:geheim77@h/a");
        assert!(!refused.to_string().contains("geheim77"), "{refused}");
    }

    #[test]
    fn the_desk_is_bounded_and_says_when_nobody_is_there() {
        let (desk, asks) = StreamDesk::new();
        let remove = || desk.ask(Wanted::Remove { id: "a".into(), generation: None });
        let waiting: Vec<_> = (0..ASKS).map(|_| remove().unwrap()).collect();
        assert_eq!(remove().unwrap_err().kind, RefusedKind::Busy);
        drop((asks, waiting));
        assert_eq!(remove().unwrap_err().kind, RefusedKind::NotReady);
    }
}

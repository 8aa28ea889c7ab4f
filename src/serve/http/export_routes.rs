//! `GET /api/v1/streams/{id}/export`: the segments of a stream from the store, as `touchline export` writes them.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::de::value::StrDeserializer;
use serde::de::{DeserializeOwned, IntoDeserializer};
use serde::{Deserialize, de};
use tokio::sync::Semaphore;
use url::Url;
use utoipa::IntoParams;

use super::answer::ApiError;
use super::app_state::AppState;
use super::extract::{PARAMETERS, Parameters, Place};
use super::past::{self, invalid};
use super::stream_routes::StreamPath;
use crate::clips::{self, ClipStore};
use crate::export::{self, Export, ExportOptions, ExportPlacement, Format, Moment, PlacedSegment, Posters, TimeBase};
use crate::hub::{Archive, HistoryFilter, KeptTime};
use crate::record::format::parse_rfc3339;
use crate::record::reader;
use touchline_core::cause::Cause;
use touchline_core::error::Error;
use touchline_core::redact;
use touchline_core::time::NANOS_PER_SECOND;
use touchline_core::timecode::FrameRate;
use touchline_media::guard::SourcePolicy;
use touchline_media::hls::fetch_playlist;

/// Exports at the same time. A day of seconds takes about 50 MB of memory and a second of a core.
pub(crate) static EXPORTS: Semaphore = Semaphore::const_new(1);

/// What is exported, and how.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(crate) struct ExportQuery {
    /// otio (OpenTimelineIO), edl (CMX 3600), webvtt (chapters), webvtt-metadata, daterange (EXT-X-DATERANGE lines), csv, or html.
    #[param(pattern = "^(otio|edl|webvtt|webvtt-metadata|csv|html|daterange)$")]
    format: String,
    /// Exclude segments before this time: wall time such as 2026-03-29T14:00:00Z, or a PTS such as 1:02:03.5 or 90 (seconds).
    from: Option<String>,
    /// Exclude segments that begin at or after this time.
    to: Option<String>,
    /// Frames a second of the timecode: 23.976, 24, 25, 29.97, 29.97df (drop-frame), 30, 48, 50, 59.94, 59.94df, or 60. By default that
    /// of the media, else 25.
    #[param(pattern = r"^\d+(\.\d+)?(df)?$")]
    rate: Option<String>,
    /// Timecode of the first second if timecodes are counted from wall time, else of PTS 0.
    #[param(pattern = r"^\d\d?[:;]\d\d?[:;]\d\d?[:;]\d\d?$")]
    offset: Option<String>,
    /// Time base of the timecodes: timecode (of the media), wall or pts. By default the first of them that every second has.
    #[param(pattern = "^(timecode|wall|pts)$")]
    time: Option<String>,
    /// Wall time of PTS 0, RFC 3339, for seconds without wall time.
    began: Option<String>,
    /// Write the segments as consecutive clips (otio) or events (edl) instead of markers on the whole recording.
    #[param(default = false)]
    cut: Option<bool>,
    /// Include unknown and undecided time and time without programme. csv and html always include them.
    #[param(default = false)]
    all: Option<bool>,
    /// Include in html the picture of each segment that has a clip (`[record]`).
    #[param(default = false)]
    posters: Option<bool>,
    /// URL that otio and edl refer to.
    media: Option<String>,
    /// Address of an HLS media playlist on the server that the stream comes from. The answer of daterange is then a copy with the
    /// lines, whose addresses are absolute. Without it, the answer has the lines only.
    playlist: Option<String>,
}

/// A request that was checked.
struct ExportJob {
    stream: String,
    format: Format,
    placement: ExportPlacement,
    options: ExportOptions,
    /// Address, and the policy for it.
    playlist: Option<(Url, Option<Arc<SourcePolicy>>)>,
    /// The clips whose pictures are included.
    posters: Option<ClipStore>,
    now_ms: i64,
}

const DAY_MS: i64 = 86_400_000;

/// Time that is read before and after an export: longer than the delay of an event.
const MARGIN_MS: i64 = 900_000;

/// Exports segments from the store (`--state`): those of `from` to `to` by wall time, else those of the last day.
#[utoipa::path(get, path = "/api/v1/streams/{id}/export", operation_id = "exportSegments", params(StreamPath, ExportQuery),
    responses(
    (status = 200, description = "The file.", content(
        (serde_json::Value = "application/json"), (String = "text/plain"), (String = "text/vtt"), (String = "text/csv"),
        (String = "text/html"), (String = "application/vnd.apple.mpegurl"))),
    (status = 400, description = "A parameter is unknown, has a wrong form, or format is missing."),
    (status = 404, description = "There is no such stream, the program has no store, or the store has nothing of that time."),
    (status = 422, description = "A value is not allowed, or what was selected does not fit the format."),
    (status = 500, description = "The store cannot be read."),
    (status = 503),
))]
pub(crate) async fn get(
    State(state): State<AppState>,
    Place(StreamPath { id }): Place<StreamPath>,
    Parameters(query): Parameters<ExportQuery>,
) -> Result<Response, ApiError> {
    state.check_ready()?;
    let is_here = state.hub.has_stream(&id);
    let archive = past::archive(&state)?;
    let now_ms = state.hub.clock().unix_ns().div_euclid(1_000_000);
    let job = query.checked(id, &state, now_ms)?;
    let (media_type, extension) = match job.playlist {
        Some(_) => ("application/vnd.apple.mpegurl", "m3u8"),
        None => (job.format.media_type(), job.format.extension()),
    };
    let disposition = format!("attachment; filename=\"{}.{extension}\"", file_name(&job.stream));
    let headers = [(header::CONTENT_TYPE, media_type.to_owned()), (header::CONTENT_DISPOSITION, disposition)];
    let permit = EXPORTS.acquire().await.map_err(|_| ApiError::shutting_down())?;
    let made = tokio::task::spawn_blocking(move || {
        // Kept until the end, also when the client goes away.
        let _permit = permit;
        past::check_stream(is_here, &*archive, &job.stream)?;
        job.run(&*archive)
    });
    let made = made.await;
    let text = made.map_err(|_| ApiError::shutting_down())??;
    Ok((headers, text).into_response())
}

impl ExportQuery {
    fn checked(self, stream: String, state: &AppState, now_ms: i64) -> Result<ExportJob, ApiError> {
        let moment = |key, text: Option<String>| optional(key, text, Moment::parse);
        if self.media.as_ref().is_some_and(|media| !media.contains("://")) {
            return Err(invalid("media", "it is not a URL"));
        }
        let format = named(&self.format).map_err(|e| invalid("format", &e))?;
        let options = ExportOptions {
            cut: self.cut.unwrap_or(false),
            all: self.all.unwrap_or(false),
            media: self.media,
            ..ExportOptions::default()
        };
        options.check(format).map_err(refusal)?;
        let playlist = self.playlist.as_deref().map(|text| playlist(text, &stream, state)).transpose()?;
        if playlist.is_some() && format != Format::DateRange {
            return Err(invalid("playlist", "only the format daterange has a playlist"));
        }
        let posters = match (self.posters, &state.clips) {
            (Some(true), _) if format != Format::Html => {
                return Err(invalid("posters", "they are for the format html"));
            }
            (Some(true), None) => return Err(invalid("posters", "the program makes no clips; set dir in [record]")),
            (Some(true), Some(clips)) => Some(clips.store.clone()),
            _ => None,
        };
        let placement = ExportPlacement {
            rate: optional("rate", self.rate, FrameRate::parse)?,
            offset: self.offset,
            base: optional("time", self.time, named::<TimeBase>)?,
            pts_zero_ns: optional("began", self.began, parse_rfc3339)?,
            from: moment("from", self.from)?,
            to: moment("to", self.to)?,
        };
        Ok(ExportJob { stream, format, placement, options, playlist, posters, now_ms })
    }
}

impl ExportJob {
    /// The time whose seconds are read: a day, or more for a longer time. It begins with the segment that is on air at its begin,
    /// because its event is stored there.
    fn kept_time(&self, archive: &dyn Archive) -> Result<KeptTime, ApiError> {
        let ms = |moment: &Option<Moment>| match moment {
            Some(Moment::Wall(ns)) => Some(ns.div_euclid(1_000_000)),
            _ => None,
        };
        let to_ms = ms(&self.placement.to).unwrap_or(self.now_ms);
        let from_ms = ms(&self.placement.from).unwrap_or(to_ms.saturating_sub(DAY_MS));
        let filter = HistoryFilter {
            streams: Some(vec![self.stream.clone()]),
            classes: None,
            kinds: None,
            from_ms: from_ms.saturating_sub(MARGIN_MS),
            to_ms: from_ms,
            after: None,
            newest_first: false,
            limit: 1,
        };
        let on_air = archive.segments(&filter).map_err(|e| past::unreadable(&e))?;
        let began_ms = on_air.first().map_or(from_ms, |segment| segment.at.at_ms.min(from_ms));
        Ok(KeptTime { from_ms: began_ms.saturating_sub(MARGIN_MS), to_ms: to_ms.saturating_add(MARGIN_MS) })
    }

    /// Waits for the disk.
    fn run(mut self, archive: &dyn Archive) -> Result<String, ApiError> {
        let failed = |e: &dyn std::fmt::Display| {
            ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, e.to_string(), "see the log of the program")
        };
        let lines = archive.seconds(&self.stream, self.kept_time(archive)?).map_err(|e| failed(&e))?;
        let file = reader::read(&lines[..]).map_err(|e| failed(&e))?;
        drop(lines);
        let Some(seconds) = file.streams.get(&self.stream) else {
            let error = format!("the store has no second of {:?} yet", self.stream);
            return Err(ApiError::new(StatusCode::NOT_FOUND, error, "ask again when the stream has played"));
        };
        let export = Export::new(&self.stream, &file.classes, seconds, &self.placement, &self.stream);
        let mut export = export.map_err(refusal)?;
        export.is_silent = file.silent.contains(&self.stream);
        if let Some((url, policy)) = &self.playlist {
            let _known = redact::remember(url.as_str());
            let fetched = fetch_playlist(url, policy.as_ref());
            let text = fetched.map_err(|e| {
                ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, format!("playlist: {}", e.cause), e.advice)
            })?;
            self.options.playlist = Some((redact::uri(url.as_str()), text));
        }
        if let Some(store) = &self.posters {
            self.options.posters = posters(&export, &self.stream, store).map_err(|e| failed(&e))?;
        }
        export::render(&export, self.format, &self.options, &self.stream).map_err(refusal)
    }
}

/// Pictures in a page at most: browsers are slow to open one with more.
const POSTERS_MAX: usize = 300;

/// How much the wall times of a clip and of a segment of one run may differ, ns: clocks drift, and are set.
const CLOCK_DIFFERENCE_NS: u64 = 60 * NANOS_PER_SECOND;

/// Wall time of PTS 0 of a run in which PTS `pts_ns` has the wall time `wall_ns`.
fn wall_of_zero(wall_ns: i64, pts_ns: u64) -> Option<i64> {
    wall_ns.checked_sub_unsigned(pts_ns)
}

/// The pictures of the clips of each segment with a class: the one of the clip that begins first.
fn posters(export: &Export<'_>, stream: &str, store: &ClipStore) -> std::io::Result<Posters> {
    let ids = store.ids()?;
    let clips = ids.iter().filter(|id| clips::is_of(id, stream)).filter_map(|id| store.sidecar(id));
    let mut posters = Posters::new();
    for (clip, poster) in clips.filter_map(|clip| clip.poster.clone().map(|poster| (clip, poster))) {
        let second = poster.pts_ns.0 / NANOS_PER_SECOND;
        // Another machine of a fleet may have used the number of the run.
        let began_ns = clip.media.first().and_then(|media| wall_of_zero(media.began_unix_ns?, media.begin_pts_ns.0));
        let is_shown = |placed: &PlacedSegment| {
            let segment = &placed.segment;
            let segment_ns = segment.began_ns.and_then(|ns| wall_of_zero(ns, segment.first * NANOS_PER_SECOND));
            let is_same_time = began_ns.zip(segment_ns).is_none_or(|(a, b)| a.abs_diff(b) < CLOCK_DIFFERENCE_NS);
            clip.run == segment.run && (segment.first..=segment.last).contains(&second) && is_same_time
        };
        let place = export.segments.iter().position(is_shown);
        let place = place.filter(|i| export.class(&export.segments[*i]).is_some() && !posters.contains_key(i));
        if let Some(place) = place.filter(|_| clip.stream == stream && posters.len() < POSTERS_MAX) {
            // A clip may be removed meanwhile.
            if let Some(picture) = store.path(&poster.file).and_then(|path| std::fs::read(path).ok()) {
                posters.insert(place, format!("data:image/jpeg;base64,{}", STANDARD.encode(picture)));
            }
        }
    }
    Ok(posters)
}

/// The address of a playlist: on the server of the stream, so that clients cannot read other servers through this one.
fn playlist(text: &str, stream: &str, state: &AppState) -> Result<(Url, Option<Arc<SourcePolicy>>), ApiError> {
    let url = Url::parse(text).map_err(|e| invalid("playlist", &format!("it is not a URL: {e}")))?;
    let (source, is_guarded) =
        state.hub.source(stream).ok_or_else(|| invalid("playlist", "there is no such stream"))?;
    let server = |url: &Url| (url.host_str().map(str::to_owned), url.port_or_known_default());
    let is_web = matches!(url.scheme(), "http" | "https");
    if !is_web || Url::parse(&source).map_or(true, |source| server(&source) != server(&url)) {
        return Err(invalid("playlist", "it is not on the server that the stream comes from"));
    }
    Ok((url, is_guarded.then(|| state.streams.as_ref().map(|streams| streams.policy.clone()).unwrap_or_default())))
}

fn optional<T>(
    key: &str,
    text: Option<String>,
    parse: impl Fn(&str) -> Result<T, String>,
) -> Result<Option<T>, ApiError> {
    text.map(|text| parse(&text).map_err(|e| invalid(key, &e))).transpose()
}

/// The value of an enumeration by its name in the documentation.
fn named<T: DeserializeOwned>(name: &str) -> Result<T, String> {
    let name: StrDeserializer<'_, de::value::Error> = name.into_deserializer();
    T::deserialize(name).map_err(|e| e.to_string())
}

fn refusal(error: Error) -> ApiError {
    match error {
        Error::Source { kind: Cause::NotFound, cause, advice, .. } => {
            ApiError::new(StatusCode::NOT_FOUND, cause, advice)
        }
        Error::Source { cause, advice, .. } => ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, cause, advice),
        other => ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, other.to_string(), PARAMETERS),
    }
}

/// An id as part of the name of a file.
fn file_name(id: &str) -> String {
    id.chars().map(|c| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '_' }).collect()
}

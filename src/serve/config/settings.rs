//! Merges the sources of settings into valid [`Settings`], or returns the list of all problems.

use std::collections::{BTreeMap, HashSet};
use std::path::PathBuf;

use serde_json::Value;

use super::file::{ConfigFile, RawTable};
use super::fleet::FleetSettings;
use super::history::HistorySettings;
use super::layers::{Entry, Layer, Problem, ValueOrigin, default_layer, typed};
use super::overlay::OverlaySettings;
use super::raw::{RUN_KEYS, RawSettings, SINK, StreamFile};
use super::record::RecordSettings;
use super::sink::{RecordKind, Sink, SinkSettings, sinks};
use super::teach::TeachSettings;
use super::values::{BatchMax, BatchWaitMs, LatencyMs, Listen, MaxStreams, PrecisionChoice, Shard};
use super::{
    AccessFile, SourcesFile, StreamSettings, stream_group, stream_id, stream_label, streams, streams_beside, time_zone,
};
use crate::schedule::{self, Schedule};
use touchline_compute::features::signal::SignalConfig;
use touchline_compute::gpu::placement::DeviceChoice;
use touchline_core::error::Error;
use touchline_core::labels::ClassSet;
use touchline_core::vote::VoteConfig;
use touchline_media::gst::output::{LabelMode, OutputAddress};
use touchline_media::guard::SourcePolicy;
use touchline_media::options::TierChoice;
use touchline_media::uri::Location;

/// Keys of a run that each of its configured streams takes.
const OF_STREAMS: [&str; 12] = [
    "pipeline",
    "latency_ms",
    "rtsp_transport",
    "isolation",
    "tier",
    "decoder",
    "variant",
    "max_height",
    "audio_language",
    "expect",
    "expect_for_s",
    "schedule",
];

/// The layers of all sources of settings, before merging.
#[derive(Clone, Debug, Default)]
pub struct SettingSources {
    /// The configuration file.
    pub file: ConfigFile,
    /// The environment variables.
    pub environment: Layer,
    /// The flags of the command line.
    pub flags: Layer,
    /// Of the environment.
    pub problems: Vec<Problem>,
    /// Streams that the command line names: id, URI.
    pub named: Vec<(Option<String>, String)>,
}

/// Keys that count only at the start, with their values in words.
pub type Fixed = BTreeMap<&'static str, String>;

/// Certificate and key of the server.
#[derive(Clone, Debug, PartialEq)]
pub struct TlsFile {
    /// File with the certificate chain, PEM.
    pub cert: PathBuf,
    /// File with the private key, PEM.
    pub key: PathBuf,
}

/// A configured stream.
#[derive(Clone, Debug)]
pub struct Stream {
    /// Its settings, valid.
    pub settings: StreamSettings,
    /// Where it is defined.
    pub place: ValueOrigin,
    /// Its values, with those that it takes from the run.
    pub values: Layer,
}

/// The settings of a run, valid.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The pack that decides; `None`: the one that is found.
    pub pack: Option<PathBuf>,
    /// A second pack that is only compared.
    pub shadow: Option<PathBuf>,
    /// The directory whose packs the API may load.
    pub pack_root: Option<PathBuf>,
    /// Reload the pack when its directory changes.
    pub watch_pack: bool,
    /// The API may change the pack.
    pub allow_pack_updates: bool,
    /// Address of the HTTP server.
    pub listen: Listen,
    /// File for the records, or "-" for standard output.
    pub jsonl: Option<String>,
    /// The kinds of records in that file; `None`: all.
    pub jsonl_kinds: Option<Vec<RecordKind>>,
    /// SQLite file of the store.
    pub state: Option<PathBuf>,
    /// Limits of the history in the store.
    pub history: HistorySettings,
    /// Limit of streams at once.
    pub max_streams: MaxStreams,
    /// The part of the configured streams that this process watches.
    pub shard: Option<Shard>,
    /// Play files at their own speed.
    pub realtime: bool,
    /// Retry a stream that cannot be opened at the start.
    pub retry: bool,
    /// Keep the server running after the last stream has ended.
    pub linger: bool,
    /// Print no line per second on the terminal.
    pub quiet: bool,
    /// Number format of the models.
    pub precision: PrecisionChoice,
    /// Device that computes.
    pub device: DeviceChoice,
    /// Most seconds in a batch; `None`: as suits the device.
    pub batch_max: Option<BatchMax>,
    /// How long a second waits for others of its batch; `None`: as suits the device.
    pub batch_wait_ms: Option<BatchWaitMs>,
    /// Look at fewer pictures of each second when there is no time for all.
    pub adaptive: bool,
    /// Which coded pictures of recordings `score` decodes; streams have their own.
    pub tier: TierChoice,
    /// Of streams that have none of their own.
    pub latency_ms: LatencyMs,
    /// The vote of streams without one of their own.
    pub vote: VoteConfig,
    /// When test bars, black, freeze and silence count.
    pub signals: SignalConfig,
    /// The ring and the clips of events; `None`: nothing is recorded.
    pub record: Option<RecordSettings>,
    /// The folder of corrections; `None`: nothing can be corrected.
    pub teach: Option<TeachSettings>,
    /// The label on the picture of outputs.
    pub overlay: OverlaySettings,
    /// The machines that this one shares streams with; `None`: none.
    pub fleet: Option<FleetSettings>,
    /// Tokens of the HTTP server.
    pub access: AccessFile,
    /// Certificate and key of the HTTP server.
    pub tls: Option<TlsFile>,
    /// Which sources the API may open.
    pub sources: SourcesFile,
    /// Streams of the file, of all shards.
    pub streams: Vec<Stream>,
    /// Streams of the command line, of all shards.
    pub named: Vec<Stream>,
    /// Name of this process in deliveries of sinks; `None`: the host name.
    pub instance: Option<String>,
    /// Time zone of the page; `None`: that of the viewer.
    pub time_zone: Option<String>,
    /// Receivers that records are delivered to.
    pub sinks: Vec<Sink>,
    /// Every value that is set, with its place.
    pub values: Layer,
}

/// Merges the sources of settings and validates the result.
///
/// # Errors
/// All problems.
pub fn resolve(sources: SettingSources) -> Result<Settings, Vec<Problem>> {
    let SettingSources { file, environment, flags, problems, named } = sources;
    let mut problems = [file.problems, problems].concat();
    let mut values = default_layer();
    values.extend(file.values);
    values.extend(environment);
    values.extend(flags);
    // Each value was checked alone.
    let raw: RawSettings = match typed(&values) {
        Ok(raw) => raw,
        Err(text) => return Err(vec![Problem { place: ValueOrigin::Default, key: String::new(), text }]),
    };
    let vote = raw.vote.settings().unwrap_or_else(|text| {
        problems.push(Problem { key: "vote".into(), place: place_of(&values, "vote.", &text), text });
        VoteConfig::default()
    });
    let signals = raw.signal.settings().unwrap_or_else(|text| {
        problems.push(Problem { key: "signal".into(), place: place_of(&values, "signal.", &text), text });
        SignalConfig::default()
    });
    let record = raw.record.settings().unwrap_or_else(|text| {
        problems.push(Problem { key: "record".into(), place: place_of(&values, "record.", &text), text });
        None
    });
    let overlay = raw.overlay.settings().unwrap_or_else(|text| {
        problems.push(Problem { key: "overlay".into(), place: place_of(&values, "overlay.", &text), text });
        OverlaySettings::default()
    });
    let fleet = raw.fleet.settings(raw.state.as_deref()).unwrap_or_else(|wrong| {
        problems.extend(wrong.into_iter().map(|(key, text)| {
            let key = format!("fleet.{key}");
            Problem { place: place_of(&values, &key, ""), key, text }
        }));
        None
    });
    if fleet.is_some() && (raw.shard.is_some() || !named.is_empty() || !file.streams.is_empty()) {
        let text = "the machines of a fleet share its streams, which `touchline stream add` adds; remove other streams and the shard";
        problems.push(Problem {
            key: "fleet.url".into(),
            place: place_of(&values, "fleet.url", ""),
            text: text.into(),
        });
    }
    let tls = match (raw.tls.cert, raw.tls.key) {
        (Some(cert), Some(key)) => Some(TlsFile { cert, key }),
        (None, None) => None,
        _ => {
            let text = "a certificate needs its key, and a key its certificate; give both".to_owned();
            problems.push(Problem { key: "tls".into(), place: place_of(&values, "tls.", ""), text });
            None
        }
    };
    let named = named.into_iter().map(|(id, uri)| {
        drop(touchline_core::redact::remember(&uri));
        let entry = |text: String| Entry { value: Value::from(text), place: ValueOrigin::CommandLine };
        let id = id.map(|id| ("id".to_owned(), entry(id)));
        let values = id.into_iter().chain([("uri".to_owned(), entry(uri))]).collect();
        RawTable { place: ValueOrigin::CommandLine, values }
    });
    let mut taken = HashSet::new();
    let of_run = OfRun {
        values: &values,
        vote,
        is_recording: record.is_some(),
        label_mode: overlay.mode,
        time_zone: raw.time_zone.as_deref(),
    };
    let mut check = |stream: RawTable| checked(stream, &of_run, &mut taken, &mut problems);
    let of_file: Vec<CheckedStream> = file.streams.into_iter().filter_map(&mut check).collect();
    let named: Vec<CheckedStream> = named.filter_map(&mut check).collect();
    let sinks = sinks(file.sinks, &mut problems);
    if let Some(Err(_)) = raw.instance.as_deref().map(stream_id) {
        let text = "the name is ill-formed; use 1 to 64 letters, digits, '-', '_' and '.'".to_owned();
        problems.push(Problem { key: "instance".into(), place: place_of(&values, "instance", ""), text });
    }
    if let Some(Err(text)) = raw.time_zone.as_deref().map(time_zone) {
        problems.push(Problem { key: "time_zone".into(), place: place_of(&values, "time_zone", ""), text });
    }
    if !problems.is_empty() {
        return Err(problems);
    }
    let of_file = with_ids(of_file, streams);
    let of_file = of_file.map_err(|e| vec![without_place(&e)])?;
    // The ids of the file's streams do not depend on the command line: they are the same in every process that reads the file.
    let taken = of_file.iter().map(|stream| stream.settings.id.clone()).collect();
    let named = with_ids(named, |files| streams_beside(files, taken)).map_err(|e| vec![without_place(&e)])?;
    let on = |switch: Option<bool>| switch.unwrap_or_default();
    let absent = |key: &str| {
        let text = "there is neither a value nor a default".to_owned();
        vec![Problem { place: ValueOrigin::Default, key: key.to_owned(), text }]
    };
    Ok(Settings {
        pack: raw.pack,
        shadow: raw.shadow,
        pack_root: raw.pack_root,
        watch_pack: on(raw.watch_pack),
        allow_pack_updates: on(raw.allow_pack_updates),
        listen: raw.listen.ok_or_else(|| absent("listen"))?,
        jsonl: raw.jsonl,
        jsonl_kinds: raw.jsonl_kinds,
        state: raw.state,
        history: raw.history.settings(),
        max_streams: raw.max_streams.ok_or_else(|| absent("max_streams"))?,
        shard: raw.shard,
        realtime: on(raw.realtime),
        retry: on(raw.retry),
        linger: on(raw.linger),
        quiet: on(raw.quiet),
        precision: raw.precision.unwrap_or_default(),
        device: raw.device.ok_or_else(|| absent("device"))?,
        batch_max: raw.batch_max,
        batch_wait_ms: raw.batch_wait_ms,
        adaptive: on(raw.adaptive),
        tier: raw.tier.unwrap_or_default(),
        latency_ms: raw.latency_ms.ok_or_else(|| absent("latency_ms"))?,
        vote,
        signals,
        record,
        teach: raw.teach.settings(),
        overlay,
        fleet,
        access: raw.access,
        tls,
        sources: raw.sources.settings(),
        streams: of_file,
        named,
        instance: raw.instance,
        time_zone: raw.time_zone,
        sinks,
        values,
    })
}

/// The error that stops a run: the first problem, and the number of others.
pub fn refused(problems: &[Problem]) -> Error {
    let Some(first) = problems.first() else { return Error::Internal("settings rejected without a problem".into()) };
    Error::Usage(match problems.len() - 1 {
        0 => first.to_string(),
        more => format!("{first} (and {more} more; `touchline config check FILE` lists those of a file)"),
    })
}

fn without_place(error: &Error) -> Problem {
    Problem { place: ValueOrigin::Default, key: String::new(), text: error.to_string() }
}

/// The place to report for `text`: that of a key below `prefix` which `text` names, or else of any that is not a default.
fn place_of(values: &Layer, prefix: &str, text: &str) -> ValueOrigin {
    let given = values.iter().filter(|(path, entry)| path.starts_with(prefix) && entry.place != ValueOrigin::Default);
    let is_named = |path: &str| text.contains(path.trim_start_matches(prefix));
    let found = given.clone().find(|(path, _)| is_named(path)).or_else(|| given.clone().next());
    found.map_or(ValueOrigin::Default, |(_, entry)| entry.place.clone())
}

/// What the check of a stream needs of the run.
struct OfRun<'a> {
    values: &'a Layer,
    vote: VoteConfig,
    is_recording: bool,
    label_mode: LabelMode,
    time_zone: Option<&'a str>,
}

/// A stream without mistakes, and its schedule.
type CheckedStream = (RawTable, StreamFile, Option<Schedule>);

/// Completes a stream with values of the run and checks it. Mistakes are added to `problems`.
fn checked(
    mut stream: RawTable,
    run: &OfRun<'_>,
    taken: &mut HashSet<String>,
    problems: &mut Vec<Problem>,
) -> Option<CheckedStream> {
    for key in OF_STREAMS {
        let Some(entry) = run.values.get(key) else { continue };
        if entry.place.overrides_streams() || !stream.values.contains_key(key) {
            stream.values.insert(key.to_owned(), entry.clone());
        }
    }
    let place = |key: &str| stream.values.get(key).map_or(&stream.place, |entry| &entry.place).clone();
    let mut problem = |key: &str, place: ValueOrigin, text| problems.push(Problem { place, key: key.to_owned(), text });
    let file: StreamFile = match typed(&stream.values) {
        Ok(file) => file,
        Err(text) => {
            problem("stream", stream.place.clone(), text);
            return None;
        }
    };
    if let Some(id) = &file.id {
        if let Err(text) = stream_id(id) {
            problem("id", place("id"), text);
        } else if !taken.insert(id.clone()) {
            problem("id", place("id"), format!("stream id {id:?} is given twice; give every stream its own"));
        }
    }
    if let Some(Err(text)) = file.label.as_deref().map(stream_label) {
        problem("label", place("label"), text);
    }
    if let Some(Err(text)) = file.group.as_deref().map(stream_group) {
        problem("group", place("group"), text);
    }
    if let Some(output) = &file.output {
        if let Err(text) = OutputAddress::parse(output).and_then(|address| run.label_mode.check(&address)) {
            problem("output", place("output"), text);
        } else if !run.is_recording || file.record == Some(false) {
            let text = "an output needs recorded media; set dir in [record], and remove record = false from the stream";
            problem("output", place("output"), text.into());
        }
    }
    if let Err(text) = file.vote.over(run.vote) {
        problem("vote", place_of(&stream.values, "vote.", &text), text);
    }
    let schedule = file.schedule.as_deref().map(|path| Schedule::read(path, run.time_zone)).transpose();
    let schedule = schedule.unwrap_or_else(|text| {
        problem("schedule", place("schedule"), text);
        None
    });
    Some((stream, file, schedule))
}

fn with_ids(
    streams: Vec<CheckedStream>,
    settings: impl FnOnce(Vec<StreamFile>) -> Result<Vec<StreamSettings>, Error>,
) -> Result<Vec<Stream>, Error> {
    let mut files = Vec::with_capacity(streams.len());
    let mut others = Vec::with_capacity(streams.len());
    for (raw, file, schedule) in streams {
        files.push(file);
        others.push((raw, schedule));
    }
    let streams = settings(files)?.into_iter().zip(others);
    let stream = |(settings, (RawTable { place, values }, schedule))| Stream {
        settings: StreamSettings { schedule, ..settings },
        place,
        values,
    };
    Ok(streams.map(stream).collect())
}

impl Settings {
    /// Problems that a run finds only when it starts: unusable addresses, missing folders, too many streams.
    pub fn problems_at_start(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        for stream in self.streams.iter().chain(&self.named) {
            if let Err(e) = Location::parse(&stream.settings.uri) {
                let place = stream.values.get("uri").map_or(&stream.place, |entry| &entry.place).clone();
                problems.push(Problem { place, key: "uri".into(), text: e.to_string() });
            }
        }
        problems.extend(self.sinks.iter().flat_map(Sink::problems_at_start));
        if let Err(e) = SourcePolicy::new(&self.sources) {
            let text = e.to_string();
            problems.push(Problem { place: place_of(&self.values, "sources.", &text), key: "sources".into(), text });
        }
        let (count, most) = (self.streams.len() + self.named.len(), self.max_streams);
        let is_too_many = count > usize::try_from(most.get()).unwrap_or(usize::MAX);
        if is_too_many && self.shard.is_none() {
            let place = self.values.get("max_streams").map_or(ValueOrigin::Default, |entry| entry.place.clone());
            let text = format!("{count} streams are configured and {most} are allowed; leave some out or raise it");
            problems.push(Problem { place, key: "max_streams".into(), text });
        }
        problems
    }

    /// Expectations of streams that name classes which the pack does not have.
    pub fn problems_with_classes(&self, classes: &ClassSet) -> Vec<Problem> {
        let streams = self.streams.iter().chain(&self.named);
        let problem = |stream: &Stream| {
            let text = stream.settings.expectations(classes).err()?;
            let key = if schedule::expected(&stream.settings.expect, classes).is_err() { "expect" } else { "schedule" };
            let place = stream.values.get(key).map_or(&stream.place, |entry| &entry.place).clone();
            Some(Problem { place, key: key.to_owned(), text })
        };
        streams.filter_map(problem).collect()
    }

    /// The keys that count only at the start. The others take effect when the file is read again.
    pub fn fixed(&self) -> Fixed {
        let is_read_again = |key: &str| key.starts_with("vote.") || key == "retry" || OF_STREAMS.contains(&key);
        let keys = RUN_KEYS.keys.iter().map(|key| key.path.as_str()).filter(|key| !is_read_again(key));
        let sinks: Vec<&SinkSettings> = self.sinks.iter().map(|sink| &sink.settings).collect();
        let sinks = (!sinks.is_empty()).then(|| (SINK, format!("{sinks:?}")));
        keys.filter_map(|key| Some((key, self.values.get(key)?.value.to_string()))).chain(sinks).collect()
    }
}

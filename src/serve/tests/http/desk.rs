//! A server whose streams can be added, changed and removed, with sources that need no network.

use std::collections::BTreeMap;
use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender};
use touchline_core::cause::Cause;
use touchline_core::error::{Error, Result};
use touchline_core::item::{MediaItem, Pace, Tracks};
use touchline_core::pcm::PcmChunk;
use touchline_core::pool::Pooled;
use touchline_core::time::Pts;
use touchline_core::vote::VoteConfig;
use touchline_media::facts::{AudioFacts, SharedFacts, VariantFacts, VideoFacts};
use touchline_media::guard::{SourcePolicy, SourcesFile};
use touchline_media::replay::{Replay, Script};
use touchline_media::uri::Kind;
use touchline_media::{Open, Source};
use touchline_serve::config::{StreamSettings, free_id};
use touchline_serve::control::probes::{ProbeControl, ProbeOpener};
use touchline_serve::control::streams::{
    StreamChange, StreamControl, StreamOutcome, StreamRefusal, StreamRefusalKind, StreamRequest,
};
use touchline_serve::http::StreamAccess;
use touchline_serve::http::access::AccessConfig;
use touchline_serve::hub::{Hub, StreamFacts, StreamHandle, StreamOwner};
use touchline_serve::record::StreamState;

use crate::feed::facts;
use crate::support::{Server, add, court, new_hub};

/// An address whose test succeeds.
pub const PLAYS: &str = "http://127.0.0.1:8554/court/master.m3u8";

/// An address of which nothing arrives.
pub const SILENT: &str = "rtsp://127.0.0.1:8554/silent";

/// An address whose server has no such resource.
pub const MISSING: &str = "rtsp://127.0.0.1:8554/missing";

/// The server.
pub struct Desk {
    pub server: Server,
    pub hub: Hub,
    pub probes: ProbeControl,
}

impl Desk {
    pub fn open(access: AccessConfig) -> Self {
        let (hub, clock) = new_hub();
        let (control, requests) = StreamControl::new();
        let manager = SimpleManager { hub: hub.clone(), streams: BTreeMap::new(), version: 1 };
        // Ends with the control, which the server holds.
        std::thread::spawn(move || manager.run(&requests));
        let probes = ProbeControl::new(clock, hub.metrics().clone(), 200);
        probes.connect(Arc::new(ScriptedOpener));
        let sources = SourcesFile { allow_addresses: vec!["127.0.0.1".into()], ..SourcesFile::default() };
        let policy = Arc::new(SourcePolicy::new(&sources).unwrap());
        let streams = StreamAccess { control, policy, probes: probes.clone() };
        Self { server: Server::start_with_streams(hub.clone(), access, streams), hub, probes }
    }
}

/// Plays a picture of a court, except for [`SILENT`] and [`MISSING`].
struct ScriptedOpener;

impl ProbeOpener for ScriptedOpener {
    fn open(&self, settings: &StreamSettings, facts: SharedFacts, to: Sender<MediaItem>) -> Result<Box<dyn Source>> {
        if settings.uri == MISSING {
            return Err(Error::source_failure(Cause::NotFound, "x", "the server has no such stream", "check the path"));
        }
        let mut items = Vec::new();
        if settings.uri != SILENT {
            let variant = |height, bandwidth, chosen| VariantFacts {
                height: Some(height),
                bandwidth,
                codecs: Some("avc1.64001f,mp4a.40.2".into()),
                chosen,
            };
            facts.update(|facts| {
                facts.kind = Some(Kind::Hls);
                facts.video = Some(VideoFacts {
                    codec: Some("H.264".into()),
                    width: Some(1920),
                    height: Some(1080),
                    frame_rate: Some(25.0),
                    interlaced: Some(true),
                });
                let codec = Some("AAC".into());
                facts.audio = Some(AudioFacts { codec, rate: Some(48_000), channels: Some(2) });
                facts.variants =
                    vec![variant(1080, 6_000_000, true), variant(720, 3_200_000, false), variant(360, 800_000, false)];
            });
            let sound = PcmChunk::new(Pooled::detached(vec![0.0; 2]), 48_000, 2, Pts(0), 0);
            items.push(MediaItem::Opened(Tracks { video: true, audio: true }));
            items.extend([MediaItem::Frame(court(0.3)), MediaItem::Pcm(sound)]);
        }
        Replay::new(Pace::Live, vec![Script { items, end: None }]).open(&settings.uri, to)
    }
}

/// The vote of `settings`, checked as the stream manager checks it.
fn vote_of(settings: &StreamSettings) -> Result<VoteConfig, StreamRefusal> {
    let refused = |error: String| StreamRefusal::new(StreamRefusalKind::Invalid, error, "correct vote");
    settings.vote.over(VoteConfig::default()).map_err(refused)
}

/// Carries out requests as the stream manager does, without sources: an enabled stream plays at once.
struct SimpleManager {
    hub: Hub,
    streams: BTreeMap<String, (StreamSettings, u64, StreamHandle)>,
    version: u64,
}

impl SimpleManager {
    fn run(mut self, requests: &Receiver<StreamRequest>) {
        for StreamRequest { change, answer } in requests {
            let outcome = self.carry_out(change);
            let _ = answer.send(outcome);
        }
    }

    fn carry_out(&mut self, change: StreamChange) -> StreamOutcome {
        match change {
            StreamChange::Add(new) => {
                let taken = |id: &str| self.streams.contains_key(id);
                let id = new.id().map_or_else(|| free_id(new.uri(), taken), str::to_owned);
                if taken(&id) {
                    let error = format!("stream {id:?} exists already");
                    return Err(StreamRefusal::new(StreamRefusalKind::Duplicate, error, "choose another id"));
                }
                let settings = new.settings(id.clone(), 200);
                let vote = vote_of(&settings)?;
                let handle = add(&self.hub, &id, &settings.uri);
                self.apply(id, (settings, vote), handle)
            }
            StreamChange::Change { id, patch, generation } => {
                let (settings, handle) = self.found(&id, generation)?;
                patch.check()?;
                let settings = patch.apply(&settings);
                let vote = vote_of(&settings)?;
                self.apply(id, (settings, vote), handle)
            }
            StreamChange::Remove { id, generation } => {
                let (_, handle) = self.found(&id, generation)?;
                handle.set_state(StreamState::Removed);
                self.streams.remove(&id);
                self.hub.remove_stream(&id);
                Ok(id)
            }
        }
    }

    fn found(&self, id: &str, generation: Option<u64>) -> Result<(StreamSettings, StreamHandle), StreamRefusal> {
        let refused = |kind, error: &str| Err(StreamRefusal::new(kind, error, "read the stream again"));
        match self.streams.get(id) {
            None => refused(StreamRefusalKind::NotOwned, "the stream belongs to the configuration file"),
            Some((_, version, _)) if generation.is_some_and(|wanted| wanted != *version) => {
                refused(StreamRefusalKind::Outdated, "the settings changed")
            }
            Some((settings, _, handle)) => Ok((settings.clone(), handle.clone())),
        }
    }

    fn apply(
        &mut self,
        id: String,
        (settings, vote): (StreamSettings, VoteConfig),
        handle: StreamHandle,
    ) -> StreamOutcome {
        self.version += 1;
        handle.set_source(&settings.uri, Pace::Live);
        handle.set_facts(StreamFacts {
            label: settings.label.clone(),
            group: settings.group.clone(),
            origin: StreamOwner::Api,
            enabled: settings.enabled,
            generation: self.version,
            latency_ms: settings.latency_ms,
            rtsp_transport: settings.rtsp_transport,
            tier: settings.tier,
            isolation: settings.isolation(true),
            vote: vote.into(),
            ..facts(None)
        });
        handle.set_tracks(Tracks { video: true, audio: true });
        let state = if settings.enabled { StreamState::Playing } else { StreamState::Paused };
        handle.set_state(state);
        self.streams.insert(id.clone(), (settings, self.version, handle));
        Ok(id)
    }
}

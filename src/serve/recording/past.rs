//! Decided seconds whose media are in the rings: for corrections of seconds that have left the memory.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use parking_lot::Mutex;

use super::cutter::RingCutter;
use crate::hub::{Hub, KeptTime};
use crate::record::reader;
use crate::teach::{PastSecond, PastSeconds, see};
use touchline_core::clip::ClipConfig;
use touchline_core::labels::ClassId;
use touchline_core::segment::{MILLION, Verdict};
use touchline_core::time::{Pts, RunId};
use touchline_media::Open;
use touchline_media::gst::clips::ring::{Arrived, RingAnchor, RingSeconds, ring_seconds};
use touchline_media::gst::clips::{ClipError, SeenSecond};

/// Folder in that of the recording for the media that are being decoded.
const WORK: &str = "decoding";

/// Files of a ring are a minute older than its length at most. What was decided about them is looked for in as much more, ms.
const SLACK_MS: i64 = 180_000;

/// Decodes seconds from the rings again.
pub(super) struct RingPast {
    pub cutter: Arc<RingCutter>,
    pub hub: Hub,
    /// Opens a recording.
    pub opener: Arc<dyn Open>,
    /// How seconds are cut: as those of live streams.
    pub config: ClipConfig,
    /// Held while media are decoded: by one caller at a time, because it takes the processor from the streams.
    pub decoding: Mutex<()>,
}

impl RingPast {
    /// The decided seconds in the store: those of earlier processes.
    fn stored(&self, stream: &str, run: RunId, (from, to): (u64, u64)) -> Option<Vec<PastSecond>> {
        let archive = self.hub.archive()?;
        let now_ms = self.hub.clock().unix_ns().div_euclid(1_000_000);
        let ring_ms = i64::try_from(self.cutter.ring_s() * 1000).unwrap_or(i64::MAX);
        let time = KeptTime { from_ms: now_ms.saturating_sub(ring_ms).saturating_sub(SLACK_MS), to_ms: i64::MAX };
        let unread = |cause: &dyn std::fmt::Display| tracing::warn!("{stream}: its seconds cannot be read: {cause}");
        let lines = archive.seconds(stream, time).inspect_err(|e| unread(e)).ok()?;
        let mut file = reader::read_here(&lines[..]).inspect_err(|e| unread(e)).ok()?;
        let seconds = file.streams.remove(stream)?;
        let classes: Vec<Option<ClassId>> = file.classes.iter().map(|name| self.hub.classes().id(name)).collect();
        let wanted = seconds.seconds().iter().filter(|second| second.run == run && (from..=to).contains(&second.index));
        let decided = wanted.filter_map(|second| {
            let Verdict::Decided { probabilities, .. } = &second.verdict else { return None };
            // The earlier of two with the same probability.
            let (class, probability) = probabilities.iter().enumerate().rev().max_by_key(|(_, p)| **p)?;
            let unix_ns = second.wall_ns?;
            Some(PastSecond {
                index: second.index,
                unix_ns,
                label: classes.get(class).copied().flatten()?,
                probability: (f64::from(*probability) / f64::from(MILLION)) as f32,
                arrived: Arrived::Wall(u64::try_from(unix_ns).ok()?),
            })
        });
        Some(decided.collect())
    }
}

impl PastSeconds for RingPast {
    fn is_recorded(&self, stream: &str) -> bool {
        self.hub.is_recorded(stream)
    }

    fn decided(&self, stream: &str, run: RunId, span: (u64, u64)) -> Vec<PastSecond> {
        let places = self.cutter.places(stream, run, span);
        if places.is_empty() {
            return self.stored(stream, run, span).unwrap_or_default();
        }
        let decided = places.into_iter().filter_map(|place| {
            let (label, probability) = place.top?;
            let label = ClassId(u16::try_from(label).ok()?);
            let arrived = Arrived::Clock(place.arrived_ns);
            Some(PastSecond { index: place.index, unix_ns: place.wall_ns?, label, probability, arrived })
        });
        decided.collect()
    }

    fn see(
        &self,
        stream: &str,
        seconds: &[PastSecond],
        is_cancelled: &dyn Fn() -> bool,
    ) -> Result<BTreeMap<u64, SeenSecond>, ClipError> {
        let mut found = BTreeMap::new();
        let Some(last) = seconds.last() else { return Ok(found) };
        let _decoding = self.decoding.lock();
        // What a killed program left is removed too.
        let work = WorkFolder::new(self.cutter.dir().join(WORK))?;
        let wanted: BTreeSet<u64> = seconds.iter().map(|second| second.index).collect();
        let request = RingSeconds {
            dir: &self.cutter.ring.dir(stream),
            anchor: RingAnchor { pts: Pts::from_second(last.index), arrived: last.arrived, since_unix_ns: 0 },
            wanted: &wanted,
            work: &work.0,
            config: &self.config,
        };
        let mut failed = None;
        ring_seconds(&request, &*self.opener, is_cancelled, &mut |second| match see(
            &second.frames,
            second.audio.as_deref().unwrap_or_default(),
            second.start(),
        ) {
            Ok(seen) => drop(found.insert(second.index, seen)),
            Err(e) => failed = Some(ClipError::Failed(e.to_string())),
        })?;
        failed.map_or(Ok(found), Err)
    }
}

/// A folder that is removed with its files.
struct WorkFolder(std::path::PathBuf);

impl WorkFolder {
    fn new(dir: std::path::PathBuf) -> std::io::Result<Self> {
        let work = Self(dir);
        work.remove();
        std::fs::create_dir_all(&work.0)?;
        Ok(work)
    }

    fn remove(&self) {
        // It may not be there.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

impl Drop for WorkFolder {
    fn drop(&mut self) {
        self.remove();
    }
}

//! `[record]`: the ring of original media, and the clips of events.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::values::Within;

/// Length of a stream's ring, seconds.
pub type RingS = Within<30, 86_400>;
/// Size of all rings, MB.
pub type RingMb = Within<10, 10_000_000>;
/// Seconds before an event.
pub type PreRollS = Within<0, 600>;
/// Seconds after an event.
pub type PostRollS = Within<1, 600>;
/// Age of the oldest clip, days.
pub type KeepDays = Within<1, 36_500>;
/// Size of all clips, MB.
pub type KeepMb = Within<10, 100_000_000>;

/// What clips are made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ClipKind {
    /// An event, with pre- and post-roll.
    Event,
    /// A segment: all the time a class was on air.
    Segment,
}

impl ClipKind {
    /// The names, in the order of the variants.
    pub const NAMES: [&str; 2] = ["event", "segment"];
}

/// `[record]`
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RecordFile {
    /// Folder for the ring of original media and the clips of events. Without it nothing is recorded.
    pub dir: Option<PathBuf>,
    /// Length of the ring of each stream, seconds.
    pub ring_s: Option<RingS>,
    /// Total size of the rings of all streams, MB.
    pub ring_mb: Option<RingMb>,
    /// Seconds of media before the event. The clip begins at the preceding key picture.
    pub pre_roll_s: Option<PreRollS>,
    /// Seconds of media after the event.
    pub post_roll_s: Option<PostRollS>,
    /// Clips are removed after this many days.
    pub keep_days: Option<KeepDays>,
    /// The oldest clips are removed when all clips together exceed this size, MB.
    pub keep_mb: Option<KeepMb>,
    /// Clips to cut: one per event, one per segment, or both; by default events.
    pub clips: Option<Vec<ClipKind>>,
    /// Whether each clip also has its sound as a WAV file; by default not.
    pub wav: Option<bool>,
}

/// The settings of recording, valid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordSettings {
    /// Folder of the ring and the clips.
    pub dir: PathBuf,
    /// Length of the ring of each stream, seconds.
    pub ring_s: u64,
    /// Size of all rings.
    pub ring_bytes: u64,
    /// Before an event, seconds.
    pub pre_roll_s: u64,
    /// After an event, seconds.
    pub post_roll_s: u64,
    /// Clips are kept for this long, seconds.
    pub keep_s: u64,
    /// Size of all clips.
    pub keep_bytes: u64,
    /// Clips to cut.
    pub clips: Vec<ClipKind>,
    /// Whether clips have their sound as a WAV file.
    pub wav: bool,
}

const MEGABYTE: u64 = 1_000_000;

/// The longest clip, seconds.
const CLIP_MAX_S: u64 = 3600;

impl RecordSettings {
    /// The longest clip, seconds: the ring must still have its beginning when it is cut.
    pub fn clip_max_s(&self) -> u64 {
        self.ring_s.min(CLIP_MAX_S)
    }
}

impl RecordFile {
    /// All values without a folder.
    pub(super) fn default_values() -> Self {
        Self {
            dir: None,
            ring_s: Some(RingS::of::<300>()),
            ring_mb: Some(RingMb::of::<4000>()),
            pre_roll_s: Some(PreRollS::of::<10>()),
            post_roll_s: Some(PostRollS::of::<20>()),
            keep_days: Some(KeepDays::of::<30>()),
            keep_mb: Some(KeepMb::of::<20_000>()),
            clips: Some(vec![ClipKind::Event]),
            wav: Some(false),
        }
    }

    /// The settings; `None` without a folder.
    ///
    /// # Errors
    /// If the ring is shorter than a clip.
    pub fn settings(self) -> Result<Option<RecordSettings>, String> {
        let defaults = Self::default_values();
        let ring_s = number(self.ring_s, defaults.ring_s);
        let ring_mb = number(self.ring_mb, defaults.ring_mb);
        let pre_roll_s = number(self.pre_roll_s, defaults.pre_roll_s);
        let post_roll_s = number(self.post_roll_s, defaults.post_roll_s);
        let keep_days = number(self.keep_days, defaults.keep_days);
        let keep_mb = number(self.keep_mb, defaults.keep_mb);
        if ring_s < pre_roll_s + post_roll_s {
            let clip_s = pre_roll_s + post_roll_s;
            return Err(format!(
                "ring_s {ring_s} is shorter than a clip, which has {clip_s} s; choose a longer ring_s"
            ));
        }
        Ok(self.dir.map(|dir| RecordSettings {
            dir,
            ring_s,
            ring_bytes: ring_mb * MEGABYTE,
            pre_roll_s,
            post_roll_s,
            keep_s: keep_days * 86_400,
            keep_bytes: keep_mb * MEGABYTE,
            clips: self.clips.or(defaults.clips).unwrap_or_default(),
            wav: self.wav.unwrap_or_default(),
        }))
    }
}

fn number<const MIN: u32, const MAX: u32>(given: Option<Within<MIN, MAX>>, default: Option<Within<MIN, MAX>>) -> u64 {
    given.or(default).map_or(0, Within::get).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_checked() {
        let dir = || Some(PathBuf::from("/var/lib/touchline/media"));
        assert_eq!(RecordFile::default().settings(), Ok(None));
        let settings = RecordFile { dir: dir(), ring_mb: Some(Within::of::<12>()), ..RecordFile::default() }.settings();
        let settings = settings.unwrap().unwrap();
        assert_eq!((settings.ring_bytes, settings.ring_s, settings.keep_s), (12_000_000, 300, 30 * 86_400));
        let refused = toml::from_str::<RecordFile>("ring_mb = 9").unwrap_err().to_string();
        assert!(refused.contains("ring_mb = 9") && refused.contains("10 to 10000000"), "{refused}");
        let short = RecordFile {
            ring_s: Some(Within::of::<30>()),
            pre_roll_s: Some(Within::of::<20>()),
            ..RecordFile::default()
        };
        assert!(short.settings().unwrap_err().contains("shorter than a clip"));
    }
}

//! `[record]`: the ring of original media, and the clips of events.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

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
    #[schemars(range(min = 30, max = 3600))]
    pub ring_s: Option<u32>,
    /// Size of the rings of all streams, MB.
    #[schemars(range(min = 10, max = 10_000_000))]
    pub ring_mb: Option<u32>,
    /// What a clip has before its event, seconds. It begins at the key picture before that.
    #[schemars(range(min = 0, max = 600))]
    pub pre_roll_s: Option<u32>,
    /// What a clip has after its event, seconds.
    #[schemars(range(min = 1, max = 600))]
    pub post_roll_s: Option<u32>,
    /// Clips that are older are removed, days.
    #[schemars(range(min = 1, max = 36_500))]
    pub keep_days: Option<u32>,
    /// The oldest clips are removed beyond this size of all, MB.
    #[schemars(range(min = 10, max = 100_000_000))]
    pub keep_mb: Option<u32>,
    /// What clips are cut: each event, each segment; by default events.
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
    /// What clips are cut.
    pub clips: Vec<ClipKind>,
    /// Whether clips have their sound as a WAV file.
    pub wav: bool,
}

const MEGABYTE: u64 = 1_000_000;

impl RecordFile {
    /// All values without a folder.
    pub(super) fn default_values() -> Self {
        Self {
            dir: None,
            ring_s: Some(300),
            ring_mb: Some(4000),
            pre_roll_s: Some(10),
            post_roll_s: Some(20),
            keep_days: Some(30),
            keep_mb: Some(20_000),
            clips: Some(vec![ClipKind::Event]),
            wav: Some(false),
        }
    }

    /// The settings; `None` without a folder.
    ///
    /// # Errors
    /// Names the value that is out of bounds.
    pub fn settings(self) -> Result<Option<RecordSettings>, String> {
        let defaults = Self::default_values();
        let within = |key: &str, value: Option<u32>, default: Option<u32>, least: u32, most: u32| {
            let value = value.or(default).unwrap_or(least);
            if (least..=most).contains(&value) {
                return Ok(u64::from(value));
            }
            Err(format!("{key} {value} is not allowed; choose {least} to {most}"))
        };
        let ring_s = within("ring_s", self.ring_s, defaults.ring_s, 30, 3600)?;
        let ring_mb = within("ring_mb", self.ring_mb, defaults.ring_mb, 10, 10_000_000)?;
        let pre_roll_s = within("pre_roll_s", self.pre_roll_s, defaults.pre_roll_s, 0, 600)?;
        let post_roll_s = within("post_roll_s", self.post_roll_s, defaults.post_roll_s, 1, 600)?;
        let keep_days = within("keep_days", self.keep_days, defaults.keep_days, 1, 36_500)?;
        let keep_mb = within("keep_mb", self.keep_mb, defaults.keep_mb, 10, 100_000_000)?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_checked() {
        let dir = || Some(PathBuf::from("/var/lib/touchline/media"));
        assert_eq!(RecordFile::default().settings(), Ok(None));
        let settings =
            RecordFile { dir: dir(), ring_mb: Some(12), ..RecordFile::default() }.settings().unwrap().unwrap();
        assert_eq!((settings.ring_bytes, settings.ring_s, settings.keep_s), (12_000_000, 300, 30 * 86_400));
        let refused = RecordFile { ring_mb: Some(9), ..RecordFile::default() }.settings().unwrap_err();
        assert!(refused.contains("ring_mb 9") && refused.contains("10 to 10000000"), "{refused}");
        let short = RecordFile { ring_s: Some(30), pre_roll_s: Some(20), ..RecordFile::default() };
        assert!(short.settings().unwrap_err().contains("shorter than a clip"));
    }
}

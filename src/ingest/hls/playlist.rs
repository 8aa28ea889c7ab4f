//! Reads HLS playlists: text in, segments and variants out.
//!
//! Source: RFC 8216bis, *HTTP Live Streaming 2nd Edition*, section 4. The one reader in the program. Playlists are hostile input:
//! every length is bounded, nothing panics, and what cannot be played is an error that names the line.

use std::sync::Arc;

use url::Url;

use super::attributes::{Attributes, ByteRange, Variables, seconds_ns};
use super::date::unix_ns;
use crate::time::NANOS_PER_SECOND;

/// Segments of one playlist: 24 hours of one-second segments, and some.
const SEGMENTS_MAX: usize = 100_000;

/// Variants, renditions and parts that are kept.
const LIST_MAX: usize = 1_000;

/// What a playlist says.
#[derive(Clone, Debug)]
pub(super) enum Playlist {
    Multivariant(Multivariant),
    Media(Box<Media>),
}

/// A list of playlists to choose from.
#[derive(Clone, Debug, Default)]
pub(super) struct Multivariant {
    pub variants: Vec<Variant>,
    /// Renditions of sound; those of pictures and subtitles are passed over.
    pub sounds: Vec<Sound>,
    pub variables: Variables,
}

/// `EXT-X-STREAM-INF`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Variant {
    pub url: Url,
    /// Bits a second; 0 where it is not said.
    pub bandwidth: u64,
    /// Lines of its pictures.
    pub height: Option<u32>,
    pub codecs: Option<String>,
    /// The group of its renditions of sound.
    pub sound_group: Option<String>,
}

/// `EXT-X-MEDIA` of type `AUDIO`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Sound {
    pub group: String,
    pub language: Option<String>,
    pub is_default: bool,
    /// [`None`]: the sound is in the variant itself.
    pub url: Option<Url>,
}

/// A list of segments.
#[derive(Clone, Debug, Default)]
pub(super) struct Media {
    /// Sequence number of the first segment.
    pub sequence: u128,
    pub target_ns: u64,
    pub segments: Vec<Segment>,
    /// The segment that is still being written, as far as its parts are there; its duration is not known.
    pub unfinished: Option<Segment>,
    /// `EXT-X-ENDLIST`: nothing more comes.
    pub is_over: bool,
    /// Least distance of playback from the end of the playlist, ns.
    pub hold_back_ns: Option<u64>,
    pub part_hold_back_ns: Option<u64>,
    pub part_target_ns: Option<u64>,
    /// The server holds a reload back until the segment or part that is asked for is there.
    pub can_block: bool,
    /// Beginnings and ends of advertisement breaks with a date of their own: an identity, the date, which of both.
    pub dated_breaks: Vec<(String, i64, AdBreak)>,
}

/// A piece of media and all that is needed to fetch it.
#[derive(Clone, Debug)]
pub(super) struct Segment {
    pub url: Url,
    pub range: Option<ByteRange>,
    pub duration_ns: u64,
    /// It does not go on from the one before.
    pub is_break: bool,
    /// `EXT-X-GAP`: known not to be there.
    pub is_gap: bool,
    /// When its first picture was taken, ns since 1970-01-01 UTC.
    pub made_ns: Option<i64>,
    pub key: Option<Protection>,
    pub map: Option<Arc<Map>>,
    pub parts: Vec<Part>,
    /// An advertisement break begins or ends here.
    pub ad: Option<AdBreak>,
}

/// `EXT-X-PART`: a piece of a segment, for low latency.
#[derive(Clone, Debug)]
pub(super) struct Part {
    pub url: Url,
    pub range: Option<ByteRange>,
    pub duration_ns: u64,
    pub is_gap: bool,
}

/// `EXT-X-MAP`: what a demuxer needs before the first segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Map {
    pub url: Url,
    pub range: Option<ByteRange>,
    pub key: Option<Protection>,
}

/// How media are protected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Protection {
    Key(Arc<Key>),
    /// By something that is not played here; its name.
    Drm(&'static str),
}

/// `EXT-X-KEY` with method `AES-128`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Key {
    pub url: Url,
    /// [`None`]: the sequence number.
    pub iv: Option<[u8; 16]>,
}

/// Which end of an advertisement break.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AdBreak {
    /// The programme is left.
    Out,
    /// The programme is back.
    In,
}

/// Why a text is no playlist that can be played.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Trouble {
    /// Wrong in itself; one line.
    Damaged(String),
    /// Protected by something that is not played here; its name.
    Protected(String),
    /// No playlist at all; what it seems to be.
    Other(&'static str),
}

/// Whether `bytes` begin like a playlist: after a mark of the encoding and blanks.
pub(super) fn is_playlist(bytes: &[u8]) -> bool {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    bytes.trim_ascii_start().starts_with(b"#EXTM3U")
}

impl Playlist {
    /// Reads `text`, which came from `base`. `imported`: the variables of the multivariant playlist that led here. Segments with
    /// sequence numbers below `from` are counted and not kept: of a window of 24 hours only the end is news.
    ///
    /// # Errors
    /// What is wrong.
    pub fn parse(text: &str, base: &Url, imported: &Variables, from: u128) -> Result<Self, Trouble> {
        if !is_playlist(text.as_bytes()) {
            return Err(Trouble::Other("not a playlist"));
        }
        if text.contains('\0') {
            return Err(Trouble::Damaged("it holds NUL bytes".into()));
        }
        let mut reader = Reader::new(base, imported, from);
        for (number, line) in text.trim_start_matches('\u{feff}').split(['\n', '\r']).map(str::trim).enumerate() {
            // Lines are counted as editors do: a carriage return and a line feed are one end.
            if !line.is_empty() {
                let read = if line.contains("{$") {
                    reader.variables.fill(line).map_err(Trouble::Damaged).and_then(|line| reader.line(&line))
                } else {
                    reader.line(line)
                };
                read.map_err(|trouble| match trouble {
                    Trouble::Damaged(why) => Trouble::Damaged(format!("line {}: {why}", line_number(text, number))),
                    other => other,
                })?;
            }
        }
        reader.finish()
    }
}

/// The number, from 1, of the `index`th piece of `text` cut at each carriage return and line feed.
fn line_number(text: &str, index: usize) -> usize {
    let pairs = text.split(['\n', '\r']).take(index).map(str::len).fold((0, 0), |(at, pairs), length| {
        let end = at + length;
        (end + 1, pairs + usize::from(text.get(end..end + 2) == Some("\r\n")))
    });
    index + 1 - pairs.1
}

/// What is read so far.
struct Reader<'a> {
    base: &'a Url,
    imported: &'a Variables,
    from: u128,
    /// Segments that were not kept.
    passed: u128,
    variables: Variables,
    lists: Multivariant,
    media: Media,
    is_multivariant: bool,
    has_target: bool,
    /// Tags that stand before the address they are about.
    variant: Option<Variant>,
    duration_ns: Option<u64>,
    range: Option<String>,
    is_break: bool,
    is_gap: bool,
    made_ns: Option<i64>,
    ad: Option<AdBreak>,
    key: Option<Protection>,
    map: Option<Arc<Map>>,
    parts: Vec<Part>,
    /// Where the next byte range of a resource begins if it does not say so.
    ends: (Option<Url>, u64),
}

impl<'a> Reader<'a> {
    fn new(base: &'a Url, imported: &'a Variables, from: u128) -> Self {
        Self {
            base,
            imported,
            from,
            passed: 0,
            variables: Variables::default(),
            lists: Multivariant::default(),
            media: Media::default(),
            is_multivariant: false,
            has_target: false,
            variant: None,
            duration_ns: None,
            range: None,
            is_break: false,
            is_gap: false,
            made_ns: None,
            ad: None,
            key: None,
            map: None,
            parts: Vec::new(),
            ends: (None, 0),
        }
    }

    fn line(&mut self, line: &str) -> Result<(), Trouble> {
        let Some(tag) = line.strip_prefix('#') else { return self.address(line) };
        let (name, value) = tag.split_once(':').unwrap_or((tag, ""));
        let value = value.trim();
        match name.trim() {
            "EXTINF" => self.duration_ns = Some(duration(value)?),
            "EXT-X-TARGETDURATION" => {
                let wrong = || damaged(format!("the target duration \"{value}\" is no number from 0 to 3600"));
                self.media.target_ns = seconds_ns(value).ok_or_else(wrong)?;
                self.has_target = true;
            }
            "EXT-X-MEDIA-SEQUENCE" => {
                // Counted in more bits than it is written in: there is room behind the last number.
                self.media.sequence = value
                    .parse::<u64>()
                    .map(u128::from)
                    .map_err(|_| damaged(format!("the media sequence \"{value}\" is no usable number")))?;
            }
            "EXT-X-PROGRAM-DATE-TIME" => self.made_ns = unix_ns(value),
            "EXT-X-DISCONTINUITY" => self.is_break = true,
            "EXT-X-GAP" => self.is_gap = true,
            "EXT-X-ENDLIST" => self.media.is_over = true,
            "EXT-X-BYTERANGE" => self.range = Some(value.to_owned()),
            "EXT-X-KEY" => self.key = self.key(&Attributes::parse(value))?,
            "EXT-X-SESSION-KEY" => {
                if let Some(Protection::Drm(name)) = self.key(&Attributes::parse(value))? {
                    return Err(Trouble::Protected(name.into()));
                }
            }
            "EXT-X-MAP" => self.map = Some(Arc::new(self.map(&Attributes::parse(value))?)),
            "EXT-X-PART" => self.part(&Attributes::parse(value))?,
            "EXT-X-PART-INF" => self.media.part_target_ns = Attributes::parse(value).seconds_ns("PART-TARGET"),
            "EXT-X-SERVER-CONTROL" => {
                let control = Attributes::parse(value);
                self.media.hold_back_ns = control.seconds_ns("HOLD-BACK");
                self.media.part_hold_back_ns = control.seconds_ns("PART-HOLD-BACK");
                self.media.can_block = control.is_yes("CAN-BLOCK-RELOAD");
            }
            "EXT-X-DEFINE" => {
                let query = self.base.query();
                self.variables.define(&Attributes::parse(value), self.imported, query).map_err(Trouble::Damaged)?;
            }
            "EXT-X-STREAM-INF" => {
                self.is_multivariant = true;
                self.variant = Some(self.variant(&Attributes::parse(value)));
            }
            "EXT-X-MEDIA" => self.rendition(&Attributes::parse(value))?,
            "EXT-X-I-FRAME-STREAM-INF" => self.is_multivariant = true,
            "EXT-X-DATERANGE" => self.date_range(&Attributes::parse(value)),
            // Older marks of advertisement breaks, in wide use beside EXT-X-DATERANGE.
            "EXT-X-CUE-OUT" => self.ad = Some(AdBreak::Out),
            "EXT-X-CUE-IN" => self.ad = Some(AdBreak::In),
            _ => {}
        }
        Ok(())
    }

    fn address(&mut self, line: &str) -> Result<(), Trouble> {
        if !self.is_multivariant
            && self.range.is_none()
            && self.duration_ns.is_some()
            && self.media.sequence.saturating_add(self.passed) < self.from
        {
            (self.duration_ns, self.made_ns, self.ad) = (None, None, None);
            (self.is_break, self.is_gap, self.passed) = (false, false, self.passed + 1);
            self.parts.clear();
            return Ok(());
        }
        let url = self.join(line)?;
        if let Some(variant) = self.variant.take() {
            if self.lists.variants.len() < LIST_MAX {
                self.lists.variants.push(Variant { url, ..variant });
            }
            return Ok(());
        }
        if self.is_multivariant {
            return Ok(());
        }
        let duration_ns = self.duration_ns.take().ok_or_else(|| damaged("a segment without EXTINF".into()))?;
        if self.media.segments.len() >= SEGMENTS_MAX {
            return Err(damaged(format!("more than {SEGMENTS_MAX} segments")));
        }
        let range = match self.range.take() {
            Some(text) => Some(self.range_of(&text, &url)?),
            None => None,
        };
        self.media.segments.push(Segment {
            url,
            range,
            duration_ns,
            is_break: std::mem::take(&mut self.is_break),
            is_gap: std::mem::take(&mut self.is_gap),
            made_ns: self.made_ns.take(),
            key: self.key.clone(),
            map: self.map.clone(),
            parts: std::mem::take(&mut self.parts),
            ad: self.ad.take(),
        });
        Ok(())
    }

    fn join(&self, address: &str) -> Result<Url, Trouble> {
        let wrong = |_| damaged("an address that cannot be read".into());
        self.base.join(address).map_err(wrong)
    }

    /// The byte range `text` of `url`, and where the next one begins.
    fn range_of(&mut self, text: &str, url: &Url) -> Result<ByteRange, Trouble> {
        let implied = (self.ends.0.as_ref() == Some(url)).then_some(self.ends.1);
        let range = ByteRange::parse(text, implied).map_err(Trouble::Damaged)?;
        self.ends = (Some(url.clone()), range.offset + range.length);
        Ok(range)
    }

    /// The address in a tag.
    fn uri(&self, tag: &Attributes, name: &str) -> Result<Url, Trouble> {
        match tag.get("URI") {
            Some(_) if tag.is_cut => Err(damaged(format!("{name} is cut off"))),
            Some(uri) => self.join(uri),
            None => Err(damaged(format!("{name} without URI"))),
        }
    }

    fn key(&self, tag: &Attributes) -> Result<Option<Protection>, Trouble> {
        let format = tag.get("KEYFORMAT").unwrap_or("identity");
        match tag.get("METHOD").unwrap_or_default() {
            "NONE" => return Ok(None),
            "AES-128" if format == "identity" => {}
            "" => return Err(damaged("a key without METHOD".into())),
            method => return Ok(Some(Protection::Drm(protection(method, format)))),
        }
        let url = self.uri(tag, "a key")?;
        let iv = match tag.get("IV") {
            Some(text) => Some(iv(text).ok_or_else(|| damaged("the IV of a key cannot be read".into()))?),
            None => None,
        };
        Ok(Some(Protection::Key(Arc::new(Key { url, iv }))))
    }

    fn map(&self, tag: &Attributes) -> Result<Map, Trouble> {
        let url = self.uri(tag, "EXT-X-MAP")?;
        let range = tag.get("BYTERANGE").map(|text| ByteRange::parse(text, Some(0))).transpose();
        Ok(Map { url, range: range.map_err(Trouble::Damaged)?, key: self.key.clone() })
    }

    fn part(&mut self, tag: &Attributes) -> Result<(), Trouble> {
        let url = self.uri(tag, "EXT-X-PART")?;
        let wrong = || damaged("the duration of a part cannot be read".into());
        let duration_ns = tag.seconds_ns("DURATION").ok_or_else(wrong)?;
        let range = match tag.get("BYTERANGE") {
            Some(text) => Some(self.range_of(text, &url)?),
            None => None,
        };
        if self.parts.len() < LIST_MAX {
            self.parts.push(Part { url, range, duration_ns, is_gap: tag.is_yes("GAP") });
        }
        Ok(())
    }

    fn variant(&self, tag: &Attributes) -> Variant {
        let height = tag.get("RESOLUTION").and_then(|size| size.split_once(['x', 'X'])?.1.trim().parse().ok());
        Variant {
            url: self.base.clone(),
            bandwidth: tag.get("BANDWIDTH").and_then(|text| text.parse().ok()).unwrap_or(0),
            height: height.filter(|lines| *lines > 0),
            codecs: tag.get("CODECS").map(str::to_owned),
            sound_group: tag.get("AUDIO").map(str::to_owned),
        }
    }

    fn rendition(&mut self, tag: &Attributes) -> Result<(), Trouble> {
        self.is_multivariant = true;
        if tag.get("TYPE") != Some("AUDIO") || self.lists.sounds.len() >= LIST_MAX {
            return Ok(());
        }
        let url = tag.get("URI").map(|uri| self.join(uri)).transpose()?;
        self.lists.sounds.push(Sound {
            group: tag.get("GROUP-ID").unwrap_or_default().to_owned(),
            language: tag.get("LANGUAGE").map(str::to_owned),
            is_default: tag.is_yes("DEFAULT"),
            url,
        });
        Ok(())
    }

    fn date_range(&mut self, tag: &Attributes) {
        let is_ad = |name: &str| tag.names().any(|n| n == name);
        let break_ = match (is_ad("SCTE35-OUT"), is_ad("SCTE35-IN")) {
            (true, _) => AdBreak::Out,
            (_, true) => AdBreak::In,
            _ => return,
        };
        let start = tag.get("START-DATE").and_then(unix_ns);
        let Some(start) = start.filter(|_| self.media.dated_breaks.len() < LIST_MAX) else { return };
        let id = tag.get("ID").unwrap_or_default().to_owned();
        self.media.dated_breaks.push((id.clone(), start, break_));
        let length = tag.seconds_ns("DURATION").filter(|_| break_ == AdBreak::Out && !is_ad("SCTE35-IN"));
        if let Some(end) = length.and_then(|ns| start.checked_add_unsigned(ns)) {
            self.media.dated_breaks.push((id, end, AdBreak::In));
        }
    }

    fn finish(mut self) -> Result<Playlist, Trouble> {
        if self.variant.is_some() {
            return Err(damaged("it ends with a variant that has no address".into()));
        }
        if self.is_multivariant {
            if self.lists.variants.is_empty() {
                return Err(damaged("it names no variant".into()));
            }
            self.lists.variables = self.variables;
            return Ok(Playlist::Multivariant(self.lists));
        }
        if self.duration_ns.is_some() {
            return Err(damaged("it ends with EXTINF and no address".into()));
        }
        let media = &mut self.media;
        media.unfinished = self.parts.first().map(|part| part.url.clone()).map(|url| Segment {
            url,
            range: None,
            duration_ns: 0,
            is_break: self.is_break,
            is_gap: false,
            made_ns: self.made_ns,
            key: self.key,
            map: self.map,
            parts: self.parts,
            ad: self.ad,
        });
        media.sequence = media.sequence.saturating_add(self.passed);
        let is_empty = media.segments.is_empty() && media.unfinished.is_none() && self.passed == 0;
        if is_empty && (media.is_over || !self.has_target) {
            return Err(damaged("it has no segments".into()));
        }
        let longest_ns = media.segments.iter().map(|s| s.duration_ns).max().unwrap_or(0);
        if !media.segments.is_empty() && longest_ns == 0 {
            return Err(damaged("all its segments have the duration 0".into()));
        }
        if media.target_ns == 0 {
            media.target_ns = longest_ns.max(NANOS_PER_SECOND);
        }
        Ok(Playlist::Media(Box::new(self.media)))
    }
}

fn damaged(why: String) -> Trouble {
    Trouble::Damaged(why)
}

fn duration(value: &str) -> Result<u64, Trouble> {
    let text = value.split(',').next().unwrap_or_default().trim();
    seconds_ns(text).ok_or_else(|| {
        let shown: String = text.chars().take(20).collect();
        damaged(format!("the duration \"{shown}\" is no number from 0 to 3600"))
    })
}

fn iv(text: &str) -> Option<[u8; 16]> {
    let digits = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X"))?;
    let value = (1..=32).contains(&digits.len()).then(|| u128::from_str_radix(digits, 16).ok())??;
    Some(value.to_be_bytes())
}

/// The name by which people know a method of protection.
fn protection(method: &str, format: &str) -> &'static str {
    match (method, format.to_ascii_lowercase().as_str()) {
        (_, "com.apple.streamingkeydelivery") => "FairPlay",
        (_, "urn:uuid:edef8ba9-79d6-4ace-a3c8-27dcd51d21ed") => "Widevine",
        (_, "com.microsoft.playready" | "urn:uuid:9a04f079-9840-4286-ab92-e65be0885f95") => "PlayReady",
        ("SAMPLE-AES" | "SAMPLE-AES-CTR", _) => "SAMPLE-AES",
        _ => "a method that is not known here",
    }
}

#[cfg(test)]
#[path = "playlist_tests.rs"]
mod tests;

//! Reads the lines of a playlist, tag by tag.

use std::sync::Arc;

use url::Url;

use super::attributes::{Attributes, ByteRange, Variables, seconds_ns};
use super::date::unix_ns;
use super::playlist::{
    AdBreakEdge, AudioRendition, InitSection, MediaPlaylist, MultivariantPlaylist, PartialSegment, Playlist,
    PlaylistError, Protection, Segment, SegmentKey, Variant,
};
use touchline_core::time::NANOS_PER_SECOND;

/// The most segments of one playlist: 24 hours of one-second segments, with a margin.
const SEGMENTS_MAX: usize = 100_000;

/// The most variants, renditions and parts.
const LIST_MAX: usize = 1_000;

/// The state of reading: the playlist so far, and the tags that apply to the next address.
pub(super) struct PlaylistReader<'a> {
    base: &'a Url,
    imported: &'a Variables,
    from: u128,
    /// Number of segments that were not kept.
    passed: u128,
    pub variables: Variables,
    lists: MultivariantPlaylist,
    media: MediaPlaylist,
    is_multivariant: bool,
    has_target: bool,
    /// Tags that apply to the next address.
    variant: Option<Variant>,
    duration_ns: Option<u64>,
    range: Option<String>,
    is_break: bool,
    is_gap: bool,
    made_ns: Option<i64>,
    ad: Option<AdBreakEdge>,
    key: Option<Protection>,
    map: Option<Arc<InitSection>>,
    parts: Vec<PartialSegment>,
    /// Implied start of the next byte range without an offset: resource and offset.
    ends: (Option<Url>, u64),
}

impl<'a> PlaylistReader<'a> {
    pub fn new(base: &'a Url, imported: &'a Variables, from: u128) -> Self {
        Self {
            base,
            imported,
            from,
            passed: 0,
            variables: Variables::default(),
            lists: MultivariantPlaylist::default(),
            media: MediaPlaylist::default(),
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

    pub fn line(&mut self, line: &str) -> Result<(), PlaylistError> {
        let Some(tag) = line.strip_prefix('#') else { return self.address(line) };
        let (name, value) = tag.split_once(':').unwrap_or((tag, ""));
        let value = value.trim();
        match name.trim() {
            "EXTINF" => self.duration_ns = Some(duration(value)?),
            "EXT-X-TARGETDURATION" => {
                let wrong = || damaged(format!("the target duration \"{value}\" is not a number from 0 to 3600"));
                self.media.target_ns = seconds_ns(value).ok_or_else(wrong)?;
                self.has_target = true;
            }
            "EXT-X-MEDIA-SEQUENCE" => {
                // Stored in more bits than it is written in, so that additions cannot overflow.
                self.media.sequence = value
                    .parse::<u64>()
                    .map(u128::from)
                    .map_err(|_| damaged(format!("the media sequence \"{value}\" is not a valid number")))?;
            }
            "EXT-X-PROGRAM-DATE-TIME" => self.made_ns = unix_ns(value),
            "EXT-X-DISCONTINUITY" => self.is_break = true,
            "EXT-X-GAP" => self.is_gap = true,
            "EXT-X-ENDLIST" => self.media.is_over = true,
            "EXT-X-BYTERANGE" => self.range = Some(value.to_owned()),
            "EXT-X-KEY" => self.key = self.key(&Attributes::parse(value))?,
            "EXT-X-SESSION-KEY" => {
                if let Some(Protection::Drm(name)) = self.key(&Attributes::parse(value))? {
                    return Err(PlaylistError::Protected(name.into()));
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
                self.variables
                    .define(&Attributes::parse(value), self.imported, query)
                    .map_err(PlaylistError::Damaged)?;
            }
            "EXT-X-STREAM-INF" => {
                self.is_multivariant = true;
                self.variant = Some(self.variant(&Attributes::parse(value)));
            }
            "EXT-X-MEDIA" => self.rendition(&Attributes::parse(value))?,
            "EXT-X-I-FRAME-STREAM-INF" => self.is_multivariant = true,
            "EXT-X-DATERANGE" => self.date_range(&Attributes::parse(value)),
            // Older tags for advertisement breaks, widely used beside EXT-X-DATERANGE.
            "EXT-X-CUE-OUT" => self.ad = Some(AdBreakEdge::Out),
            "EXT-X-CUE-IN" => self.ad = Some(AdBreakEdge::In),
            _ => {}
        }
        Ok(())
    }

    fn address(&mut self, line: &str) -> Result<(), PlaylistError> {
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

    fn join(&self, address: &str) -> Result<Url, PlaylistError> {
        let wrong = |_| damaged("an address that cannot be read".into());
        self.base.join(address).map_err(wrong)
    }

    /// The byte range `text` of `url`, and where the next one begins.
    fn range_of(&mut self, text: &str, url: &Url) -> Result<ByteRange, PlaylistError> {
        let implied = (self.ends.0.as_ref() == Some(url)).then_some(self.ends.1);
        let range = ByteRange::parse(text, implied).map_err(PlaylistError::Damaged)?;
        self.ends = (Some(url.clone()), range.offset + range.length);
        Ok(range)
    }

    /// The address in a tag.
    fn uri(&self, tag: &Attributes, name: &str) -> Result<Url, PlaylistError> {
        match tag.get("URI") {
            Some(_) if tag.is_cut => Err(damaged(format!("{name} is cut off"))),
            Some(uri) => self.join(uri),
            None => Err(damaged(format!("{name} without URI"))),
        }
    }

    fn key(&self, tag: &Attributes) -> Result<Option<Protection>, PlaylistError> {
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
        Ok(Some(Protection::Key(Arc::new(SegmentKey { url, iv }))))
    }

    fn map(&self, tag: &Attributes) -> Result<InitSection, PlaylistError> {
        let url = self.uri(tag, "EXT-X-MAP")?;
        let range = tag.get("BYTERANGE").map(|text| ByteRange::parse(text, Some(0))).transpose();
        Ok(InitSection { url, range: range.map_err(PlaylistError::Damaged)?, key: self.key.clone() })
    }

    fn part(&mut self, tag: &Attributes) -> Result<(), PlaylistError> {
        let url = self.uri(tag, "EXT-X-PART")?;
        let wrong = || damaged("the duration of a part cannot be read".into());
        let duration_ns = tag.seconds_ns("DURATION").ok_or_else(wrong)?;
        let range = match tag.get("BYTERANGE") {
            Some(text) => Some(self.range_of(text, &url)?),
            None => None,
        };
        if self.parts.len() < LIST_MAX {
            self.parts.push(PartialSegment { url, range, duration_ns, is_gap: tag.is_yes("GAP") });
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

    fn rendition(&mut self, tag: &Attributes) -> Result<(), PlaylistError> {
        self.is_multivariant = true;
        if tag.get("TYPE") != Some("AUDIO") || self.lists.renditions.len() >= LIST_MAX {
            return Ok(());
        }
        let url = tag.get("URI").map(|uri| self.join(uri)).transpose()?;
        self.lists.renditions.push(AudioRendition {
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
            (true, _) => AdBreakEdge::Out,
            (_, true) => AdBreakEdge::In,
            _ => return,
        };
        let start = tag.get("START-DATE").and_then(unix_ns);
        let Some(start) = start.filter(|_| self.media.dated_breaks.len() < LIST_MAX) else { return };
        let id = tag.get("ID").unwrap_or_default().to_owned();
        self.media.dated_breaks.push((id.clone(), start, break_));
        let length = tag.seconds_ns("DURATION").filter(|_| break_ == AdBreakEdge::Out && !is_ad("SCTE35-IN"));
        if let Some(end) = length.and_then(|ns| start.checked_add_unsigned(ns)) {
            self.media.dated_breaks.push((id, end, AdBreakEdge::In));
        }
    }

    pub fn finish(mut self) -> Result<Playlist, PlaylistError> {
        if self.variant.is_some() {
            return Err(damaged("it ends with a variant that has no address".into()));
        }
        if self.is_multivariant {
            if self.lists.variants.is_empty() {
                return Err(damaged("it has no variant".into()));
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

fn damaged(why: String) -> PlaylistError {
    PlaylistError::Damaged(why)
}

fn duration(value: &str) -> Result<u64, PlaylistError> {
    let text = value.split(',').next().unwrap_or_default().trim();
    seconds_ns(text).ok_or_else(|| {
        let shown: String = text.chars().take(20).collect();
        damaged(format!("the duration \"{shown}\" is not a number from 0 to 3600"))
    })
}

fn iv(text: &str) -> Option<[u8; 16]> {
    let digits = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X"))?;
    let value = (1..=32).contains(&digits.len()).then(|| u128::from_str_radix(digits, 16).ok())??;
    Some(value.to_be_bytes())
}

/// The common name of a method of protection.
fn protection(method: &str, format: &str) -> &'static str {
    match (method, format.to_ascii_lowercase().as_str()) {
        (_, "com.apple.streamingkeydelivery") => "FairPlay",
        (_, "urn:uuid:edef8ba9-79d6-4ace-a3c8-27dcd51d21ed") => "Widevine",
        (_, "com.microsoft.playready" | "urn:uuid:9a04f079-9840-4286-ab92-e65be0885f95") => "PlayReady",
        ("SAMPLE-AES" | "SAMPLE-AES-CTR", _) => "SAMPLE-AES",
        _ => "an unknown method",
    }
}

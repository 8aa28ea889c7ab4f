//! The decode filter: leaves out coded pictures that will not be sampled, before they are decoded ([`DecodeTier`]).
//!
//! Only pictures to which no other picture refers can be left out alone: `nal_ref_idc` 0 in H.264 (ITU-T H.264, 7.4.1), sub-layer
//! non-reference pictures of the highest sub-layer in HEVC (ITU-T H.265, 7.4.2.2), and B-pictures in MPEG-2. All others are needed to
//! decode the pictures after them. A decoder that receives key pictures only is drained after each of them: it would keep the picture
//! until later ones show its place in the order.
//!
//! The filter sees pictures in decoding order, before the times of their neighbours are known, and predicts these from the distance
//! of earlier pictures.

use gstreamer as gst;
use touchline_core::selection::{FrameSelection, FrameSelector};
use touchline_core::tier::DecodeTier;
use touchline_core::time::{NANOS_PER_SECOND, Pts};

/// After this time without a key picture, all pictures are decoded, ns: some encoders refresh the picture bit by bit and send none.
const KEY_WAIT_MAX_NS: u64 = 20 * NANOS_PER_SECOND;

/// Pictures whose distance is measured: more than decoders reorder (16), and several groups of B-pictures.
const TIMES: usize = 48;

/// The latest of these have neighbours that may not have arrived yet.
const UNSETTLED: usize = 16;

/// How a coded picture refers to others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CodedKind {
    /// Others may refer to it.
    Reference,
    /// None refers to it.
    Disposable,
}

/// The coding of a stream, as far as it matters for references.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Coding {
    /// `length_bytes`: the size of the length before each NAL unit; [`None`] with start codes.
    H264 {
        length_bytes: Option<usize>,
    },
    H265 {
        length_bytes: Option<usize>,
    },
    Mpeg2,
    /// All pictures count as references.
    Other,
}

impl Coding {
    fn of(caps: &gst::CapsRef) -> Self {
        let Some(format) = caps.structure(0) else { return Coding::Other };
        let text = |key| format.get::<&str>(key).ok();
        // Each field of an interlaced frame may be a picture of its own, and one alone is of no use.
        let is_progressive = text("interlace-mode").is_none_or(|mode| mode == "progressive");
        let is_whole = text("alignment") == Some("au") && is_progressive;
        let length_bytes = |at: usize| -> Option<Option<usize>> {
            match text("stream-format")? {
                "byte-stream" => Some(None),
                _ => {
                    let header = format.get::<gst::Buffer>("codec_data").ok()?;
                    let header = header.map_readable().ok()?;
                    Some(Some(usize::from(header.get(at)? & 3) + 1))
                }
            }
        };
        // The place of the length's size: ISO/IEC 14496-15, 5.3.3.1 and 8.3.3.1.
        match format.name().as_str() {
            "video/x-h264" if is_whole => {
                length_bytes(4).map_or(Coding::Other, |length_bytes| Coding::H264 { length_bytes })
            }
            "video/x-h265" if is_whole => {
                length_bytes(21).map_or(Coding::Other, |length_bytes| Coding::H265 { length_bytes })
            }
            "video/mpeg" if format.get::<i32>("mpegversion") == Ok(2) && format.get::<bool>("parsed") == Ok(true) => {
                Coding::Mpeg2
            }
            _ => Coding::Other,
        }
    }
}

/// The first bytes of the units of an access unit: NAL units, or the parts after start codes of MPEG-2.
fn units(data: &[u8], length_bytes: Option<usize>) -> impl Iterator<Item = &[u8]> {
    let mut rest = data;
    std::iter::from_fn(move || match length_bytes {
        Some(bytes) => {
            let (length, after) = rest.split_at_checked(bytes)?;
            let length = length.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte));
            let unit = after.get(..length)?;
            rest = &after[length..];
            Some(unit)
        }
        None => {
            let at = rest.windows(3).position(|code| code == [0, 0, 1])?;
            rest = &rest[at + 3..];
            Some(rest)
        }
    })
}

/// The state of the filter for one decoder.
pub(super) struct DecodeFilter {
    selection: FrameSelection,
    selector: Box<dyn FrameSelector>,
    coding: Coding,
    /// Highest temporal sub-layer seen (HEVC).
    highest_layer: u8,
    /// The latest times of pictures, ns, in the order of arrival.
    times: Vec<u64>,
    keys: u32,
    key_ns: Option<u64>,
    /// A reference was left out: pictures up to the next key picture cannot be decoded.
    is_broken: bool,
    /// Time of the key picture that ended such a stretch: pictures shown before it refer to pictures of that stretch.
    resumed_ns: Option<u64>,
    /// The decoder holds a key picture that later pictures would release.
    is_holding: bool,
}

/// What to do with a coded picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FilterAction {
    Decode,
    LeaveOut,
    /// Drain the decoder, then leave the picture out.
    Drain,
}

impl DecodeFilter {
    pub fn new(selection: FrameSelection) -> Self {
        let selector = selection.start();
        Self {
            selection,
            selector,
            coding: Coding::Other,
            highest_layer: 0,
            times: Vec::with_capacity(TIMES),
            keys: 0,
            key_ns: None,
            is_broken: false,
            resumed_ns: None,
            is_holding: false,
        }
    }

    /// Takes the format of the coded pictures.
    pub fn set_format(&mut self, caps: &gst::CapsRef) {
        self.coding = Coding::of(caps);
        tracing::debug!(coding = ?self.coding, "coded pictures");
        (self.highest_layer, self.keys) = (0, 0);
        self.times.clear();
    }

    /// Decides about a coded picture. `running_ns` is its running time, `pts` its time on the stream's timeline.
    pub fn offer(&mut self, buffer: &gst::BufferRef, running_ns: u64, pts: Pts) -> FilterAction {
        let is_key = !buffer.flags().contains(gst::BufferFlags::DELTA_UNIT);
        let kind = match buffer.map_readable() {
            Ok(data) if !is_key => self.kind(&data),
            _ => CodedKind::Reference,
        };
        self.decide(is_key, kind, running_ns, pts)
    }

    fn decide(&mut self, is_key: bool, kind: CodedKind, running_ns: u64, pts: Pts) -> FilterAction {
        if self.times.len() == TIMES {
            self.times.remove(0);
        }
        self.times.push(running_ns);
        let tier = self.selection.tier();
        if is_key {
            self.resumed_ns = self.is_broken.then_some(running_ns);
            (self.keys, self.key_ns, self.is_broken) = (self.keys.saturating_add(1), Some(running_ns), false);
            self.is_holding = tier == DecodeTier::Key;
            return FilterAction::Decode;
        }
        let since_key_ns = self.key_ns.map_or(u64::MAX, |key_ns| running_ns.saturating_sub(key_ns));
        let is_left_out = if since_key_ns > KEY_WAIT_MAX_NS {
            false
        } else if self.is_broken || tier == DecodeTier::Key || self.resumed_ns.is_some_and(|key_ns| running_ns < key_ns)
        {
            true
        } else {
            // The first group of pictures shows the interval and the sub-layers.
            tier != DecodeTier::Full
                && self.keys > 1
                && kind == CodedKind::Disposable
                && !self.selection.is_wanted()
                && !self.selector.may_sample(pts, self.interval_ns())
        };
        if !is_left_out {
            self.is_holding = false;
            return FilterAction::Decode;
        }
        self.is_broken |= kind == CodedKind::Reference && self.resumed_ns.is_none_or(|key_ns| running_ns > key_ns);
        if std::mem::take(&mut self.is_holding) { FilterAction::Drain } else { FilterAction::LeaveOut }
    }

    fn kind(&mut self, data: &[u8]) -> CodedKind {
        let is_disposable = match self.coding {
            // The header of the first slice: all slices of a picture agree.
            Coding::H264 { length_bytes } => units(data, length_bytes)
                .filter_map(|unit| unit.first())
                .find(|header| matches!(*header & 0x1f, 1..=5))
                .is_some_and(|header| header & 0x60 == 0),
            Coding::H265 { length_bytes } => {
                let slice = units(data, length_bytes)
                    .filter_map(|unit| Some(((unit.first()? >> 1) & 0x3f, (unit.get(1)? & 7).saturating_sub(1))))
                    .find(|(kind, _)| *kind < 32);
                slice.is_some_and(|(kind, layer)| {
                    self.highest_layer = self.highest_layer.max(layer);
                    kind < 16 && kind % 2 == 0 && layer == self.highest_layer
                })
            }
            // The picture header: ISO/IEC 13818-2, 6.2.3; picture_coding_type 3 is B.
            Coding::Mpeg2 => units(data, None)
                .find(|unit| unit.first() == Some(&0))
                .is_some_and(|header| header.get(2).is_some_and(|byte| (byte >> 3) & 7 == 3)),
            Coding::Other => false,
        };
        if is_disposable { CodedKind::Disposable } else { CodedKind::Reference }
    }

    /// The greatest distance of neighbouring pictures, ns; 0 before it is known. The greatest, so that pictures at changing distances
    /// are decoded rather than left out.
    fn interval_ns(&self) -> u64 {
        if self.times.len() < TIMES {
            return 0;
        }
        let mut times: [u64; TIMES] = self.times[..].try_into().expect("the list is full");
        times.sort_unstable();
        times[..TIMES - UNSETTLED].windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use touchline_core::clip::{PlanSelector, SamplingPlan};
    use touchline_core::tier::SharedTier;

    const FRAME_NS: u64 = NANOS_PER_SECOND / 25;

    fn filter(tier: &SharedTier) -> DecodeFilter {
        let plan = SamplingPlan { rgb_frames: 2, flow_pairs: 0, flow_gap_ns: FRAME_NS };
        DecodeFilter::new(PlanSelector::selection(&plan).at(tier.clone()))
    }

    /// Twelve seconds in groups of 50 pictures, with three disposable ones between references, in decoding order: for each picture
    /// its number, whether it is a key picture, and the action.
    fn decided(filter: &mut DecodeFilter, from: u64) -> Vec<(u64, bool, FilterAction)> {
        let of_group = |first: u64| {
            let rest = (0..12).flat_map(move |four| [4, 1, 2, 3].map(|n| (first + 4 * four + n, n != 4)));
            std::iter::once((first, false)).chain(rest).chain([(first + 49, false)])
        };
        (0..6)
            .flat_map(|group| of_group(from + 50 * group).collect::<Vec<_>>())
            .map(|(n, is_disposable)| {
                let kind = if is_disposable { CodedKind::Disposable } else { CodedKind::Reference };
                let time = n * FRAME_NS;
                (n, n % 50 == 0, filter.decide(n % 50 == 0, kind, time, Pts(time)))
            })
            .collect()
    }

    #[test]
    fn disposable_pictures_that_are_not_sampled_are_left_out() {
        let lean = SharedTier::new(DecodeTier::Lean);
        let all = decided(&mut filter(&lean), 0);
        assert!(all.iter().take(50).all(|(.., action)| *action == FilterAction::Decode), "the first group is decoded");
        let left_out = |n: u64| all.iter().any(|(at, _, action)| *at == n && *action != FilterAction::Decode);
        // The plan samples pictures 6 and 18 of a second (at 0.25 and 0.75 s); 1 to 3 are between references.
        let of_last_second: Vec<u64> = (275..299).filter(|n| left_out(*n)).map(|n| n - 275).collect();
        assert!(
            !of_last_second.contains(&6) && !of_last_second.contains(&18) && of_last_second.len() >= 14,
            "{of_last_second:?}"
        );
        for tier in [DecodeTier::Full, DecodeTier::Key] {
            let all = decided(&mut filter(&SharedTier::new(tier)), 0);
            let decoded = all.iter().filter(|(_, is_key, action)| *action == FilterAction::Decode && !is_key).count();
            assert_eq!(decoded, if tier == DecodeTier::Full { 294 } else { 0 });
            let drained =
                all.windows(2).all(|pair| (pair[1].2 == FilterAction::Drain) == (tier == DecodeTier::Key && pair[0].1));
            assert!(drained, "the decoder is drained after each key picture, and only then: {tier:?}");
        }
    }

    #[test]
    fn after_a_left_out_reference_decoding_resumes_with_a_key_picture() {
        let tier = SharedTier::new(DecodeTier::Key);
        let mut filter = filter(&tier);
        decided(&mut filter, 0);
        tier.set(DecodeTier::Full);
        let mut offer = |n: u64, is_key| filter.decide(is_key, CodedKind::Reference, n * FRAME_NS, Pts(n * FRAME_NS));
        assert_eq!(offer(301, false), FilterAction::LeaveOut);
        assert_eq!(offer(302, true), FilterAction::Decode);
        assert_eq!(
            offer(300, false),
            FilterAction::LeaveOut,
            "shown before the key picture, so it refers to earlier ones"
        );
        assert_eq!(offer(303, false), FilterAction::Decode);
        tier.set(DecodeTier::Key);
        assert_eq!(offer(304, false), FilterAction::LeaveOut);
        // An encoder without key pictures.
        assert_eq!(offer(303 + 25 * 21, false), FilterAction::Decode);
    }

    #[test]
    fn the_kind_of_a_picture_is_read_from_its_headers() {
        let tier = SharedTier::new(DecodeTier::Lean);
        let kind = |coding, data: &[u8]| DecodeFilter { coding, ..filter(&tier) }.kind(data);
        use CodedKind::{Disposable, Reference};
        let (start, length) = (Coding::H264 { length_bytes: None }, Coding::H264 { length_bytes: Some(4) });
        // A delimiter and a slice: not a reference, and a reference.
        assert_eq!(kind(start, &[0, 0, 0, 1, 9, 0xf0, 0, 0, 1, 0x01, 0x9e]), Disposable);
        assert_eq!(kind(start, &[0, 0, 0, 1, 9, 0xf0, 0, 0, 1, 0x41, 0x9e]), Reference);
        assert_eq!(kind(length, &[0, 0, 0, 2, 9, 0xf0, 0, 0, 0, 2, 0x01, 0x9e]), Disposable);
        assert_eq!(kind(length, &[0, 0, 0, 2, 9, 0xf0, 0, 0, 0, 2, 0x61, 0x9e]), Reference);
        // Truncated, or without a slice.
        for data in [&[][..], &[0, 0, 1], &[0, 0, 0, 9, 1], &[0, 0, 0, 2, 9, 0xf0], &[0xff; 8]] {
            assert_eq!((kind(start, data), kind(length, data)), (Reference, Reference), "{data:?}");
        }
        let h265 = Coding::H265 { length_bytes: None };
        assert_eq!(kind(h265, &[0, 0, 1, 0x00, 0x01]), Disposable, "TRAIL_N");
        assert_eq!(kind(h265, &[0, 0, 1, 0x02, 0x01]), Reference, "TRAIL_R");
        assert_eq!(kind(h265, &[0, 0, 1, 0x26, 0x01]), Reference, "IDR_W_RADL");
        let mut layers = DecodeFilter { coding: h265, ..filter(&tier) };
        assert_eq!(layers.kind(&[0, 0, 1, 0x00, 0x02]), Disposable);
        assert_eq!(layers.kind(&[0, 0, 1, 0x00, 0x01]), Reference, "pictures of the higher sub-layer may refer to it");
        assert_eq!(kind(Coding::Mpeg2, &[0, 0, 1, 0, 0x00, 0x1f, 0xff]), Disposable, "B");
        assert_eq!(kind(Coding::Mpeg2, &[0, 0, 1, 0, 0x00, 0x17, 0xff]), Reference, "P");
        assert_eq!(kind(Coding::Other, &[0, 0, 1, 0x01]), Reference);
    }

    #[test]
    fn the_coding_is_read_from_the_format() {
        super::super::init().unwrap();
        let of = |caps: &str| Coding::of(&caps.parse::<gst::Caps>().unwrap());
        let h264 = "video/x-h264, alignment=(string)au, stream-format=(string)";
        assert_eq!(of(&format!("{h264}byte-stream")), Coding::H264 { length_bytes: None });
        assert_eq!(of(&format!("{h264}avc, codec_data=(buffer)0164001fffe1")), Coding::H264 { length_bytes: Some(4) });
        assert_eq!(of(&format!("{h264}avc")), Coding::Other);
        assert_eq!(of(&format!("{h264}byte-stream, interlace-mode=(string)interleaved")), Coding::Other);
        assert_eq!(of("video/x-h264, alignment=(string)nal, stream-format=(string)byte-stream"), Coding::Other);
        assert_eq!(of("video/mpeg, mpegversion=(int)2, parsed=(boolean)true"), Coding::Mpeg2);
        assert_eq!(of("image/jpeg"), Coding::Other);
    }
}

//! The decode filter: leaves out coded pictures that will not be sampled, before they are decoded ([`DecodeTier`]).
//!
//! Only pictures to which no other picture refers can be left out alone ([`super::coded`]). All others are needed to decode the
//! pictures after them. A decoder that receives key pictures only is drained after each of them: it would keep the picture until later
//! ones show its place in the order.
//!
//! A frame that is coded as two fields is decoded or left out as a whole: what is decided about its first field holds for the second.
//!
//! The filter sees pictures in decoding order, before the times of their neighbours are known, and predicts these from the distance
//! of earlier pictures.

use std::sync::Arc;

use gstreamer as gst;

use super::coded::{CodedField, CodedKind, CodedPicture, CodedReader};
use touchline_core::selection::{DecodeWindow, FrameSelection, FrameSelector};
use touchline_core::tier::DecodeTier;
use touchline_core::time::{NANOS_PER_SECOND, Pts};

/// After this time without a key picture, all pictures are decoded, ns: some encoders refresh the picture bit by bit and send none.
const KEY_WAIT_MAX_NS: u64 = 20 * NANOS_PER_SECOND;

/// Pictures whose distance is measured: more than decoders reorder (16), and several groups of B-pictures.
const TIMES: usize = 48;

/// The latest of these have neighbours that may not have arrived yet.
const UNSETTLED: usize = 16;

/// Groups of pictures after the begin of a window in which errors of the decoder are expected: it lacks the pictures before.
pub(super) const RESUMING_GROUPS: u32 = 2;

/// The state of the filter for one decoder.
///
/// Before the key picture with which its [`DecodeWindow`] begins, it leaves out everything but the first group of pictures.
pub(super) struct DecodeFilter {
    selection: FrameSelection,
    selector: Box<dyn FrameSelector>,
    reader: CodedReader,
    /// The picture before, if it is the first field of a frame: what was decided, and whether others refer to it.
    first_field: Option<(CodedField, FilterAction, CodedKind)>,
    /// That the fields of HEVC are all decoded was logged.
    is_refusal_logged: bool,
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
    /// Until the key picture of the window comes.
    window: Option<Arc<DecodeWindow>>,
    /// The window has not begun.
    is_before: bool,
    /// Groups of pictures in which errors are expected.
    resuming: u32,
}

/// What to do with a coded picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FilterAction {
    Decode,
    LeaveOut,
    /// Leave it out as the second field of a frame, whose time is that of the first.
    LeaveOutSecondField,
    /// Drain the decoder, then leave the picture out.
    Drain,
}

impl DecodeFilter {
    pub fn new(selection: FrameSelection) -> Self {
        let selector = selection.start();
        let window = selection.window().cloned();
        Self {
            is_before: window.as_ref().is_some_and(|window| !window.has_begun()),
            window,
            resuming: 0,
            selection,
            selector,
            reader: CodedReader::new(),
            first_field: None,
            is_refusal_logged: false,
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
        self.reader.set_format(caps);
        if !self.reader.knows_references() {
            // References may lead anywhere.
            (self.window, self.is_before) = (None, false);
        }
        (self.keys, self.first_field) = (0, None);
        self.times.clear();
    }

    /// Decides about a coded picture. `running_ns` is its running time, `pts` its time on the stream's timeline.
    pub fn offer(&mut self, buffer: &gst::BufferRef, running_ns: u64, pts: Pts) -> FilterAction {
        let is_key = !buffer.flags().contains(gst::BufferFlags::DELTA_UNIT);
        let picture = self.reader.read(buffer, is_key);
        self.decide(is_key, picture, running_ns, pts)
    }

    fn decide(&mut self, is_key: bool, picture: CodedPicture, running_ns: u64, pts: Pts) -> FilterAction {
        if let Some(action) = self.second_field(picture) {
            return action;
        }
        if picture.is_loose_field {
            self.log_refusal();
        }
        let action = self.decide_frame(is_key, picture.kind, running_ns, pts);
        self.first_field = picture.field.map(|field| (field, action, picture.kind));
        action
    }

    /// The action for a picture that is the second field of the frame that the picture before began.
    fn second_field(&mut self, picture: CodedPicture) -> Option<FilterAction> {
        let (first, action, kind) = self.first_field.take()?;
        let field = picture.field?;
        if field.is_bottom == first.is_bottom || field.frame_num != first.frame_num {
            return None;
        }
        // No encoder codes one field as a reference and the other not. If one does, the reference is decoded.
        let is_lone = kind == CodedKind::Disposable && picture.kind == CodedKind::Reference;
        Some(if action == FilterAction::Decode || is_lone {
            FilterAction::Decode
        } else {
            FilterAction::LeaveOutSecondField
        })
    }

    fn log_refusal(&mut self) {
        let tier = self.selection.tier();
        if tier != DecodeTier::Full && !std::mem::replace(&mut self.is_refusal_logged, true) {
            tracing::info!(tier = tier.as_str(), "interlaced HEVC: lean and sparse decode every picture");
        }
    }

    /// Whether errors of the decoder are expected, because the window has just begun.
    pub fn is_resuming(&self) -> bool {
        self.is_before || self.resuming > 0
    }

    fn decide_frame(&mut self, is_key: bool, kind: CodedKind, running_ns: u64, pts: Pts) -> FilterAction {
        let was_decoding = !self.is_before || self.keys == 1;
        if is_key {
            self.resuming = self.resuming.saturating_sub(1);
            if self.window.as_ref().is_some_and(|window| window.key(pts)) && self.is_before {
                // The pictures before it were left out.
                (self.is_before, self.is_broken, self.resuming) = (false, true, RESUMING_GROUPS);
            }
        }
        let action = self.decide_in_tier(is_key, kind, running_ns, pts);
        if !self.is_before || self.keys <= 1 {
            return action;
        }
        self.is_holding = false;
        // The decoder outputs what it holds of the first group, so that no picture comes after later times.
        if was_decoding { FilterAction::Drain } else { FilterAction::LeaveOut }
    }

    fn decide_in_tier(&mut self, is_key: bool, kind: CodedKind, running_ns: u64, pts: Pts) -> FilterAction {
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
    use touchline_core::selection::DecodeStart;
    use touchline_core::tier::SharedTier;

    const FRAME_NS: u64 = NANOS_PER_SECOND / 25;

    fn filter(tier: &SharedTier) -> DecodeFilter {
        let plan = SamplingPlan { rgb_frames: 2, flow_pairs: 0, flow_gap_ns: FRAME_NS, signal_frames: 0 };
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
                (n, n % 50 == 0, filter.decide(n % 50 == 0, CodedPicture::frame(kind), time, Pts(time)))
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
    fn a_window_begins_with_its_key_picture() {
        for (start, first) in [(DecodeStart::Key(Pts(150 * FRAME_NS)), 150), (DecodeStart::Never, 300)] {
            let window = Arc::new(DecodeWindow::new(start));
            let plan = SamplingPlan { rgb_frames: 2, flow_pairs: 0, flow_gap_ns: FRAME_NS, signal_frames: 0 };
            let selection = PlanSelector::selection(&plan).within(window.clone());
            let mut filter = DecodeFilter::new(selection.clone());
            for (n, _, action) in decided(&mut filter, 0) {
                let expected = match n {
                    50 => FilterAction::Drain,
                    51.. if n < first => FilterAction::LeaveOut,
                    _ => FilterAction::Decode,
                };
                assert_eq!(action, expected, "{start:?}: picture {n}");
            }
            assert_eq!(window.keys(), [0, 50, 100, 150, 200, 250].map(|n| Pts(n * FRAME_NS)));
            assert_eq!((filter.is_resuming(), window.has_begun()), (first == 300, first == 150));
            // Another decoder of the recording.
            assert_eq!(DecodeFilter::new(selection).is_resuming(), first == 300);
        }
    }

    #[test]
    fn pictures_that_refer_to_what_a_window_lacks_are_left_out() {
        let plan = SamplingPlan { rgb_frames: 2, flow_pairs: 0, flow_gap_ns: FRAME_NS, signal_frames: 0 };
        let window = Arc::new(DecodeWindow::new(DecodeStart::Key(Pts(100 * FRAME_NS))));
        let mut filter = DecodeFilter::new(PlanSelector::selection(&plan).within(window));
        let mut offer = |n: u64, is_key| {
            let frame = CodedPicture::frame(CodedKind::Reference);
            filter.decide(is_key, frame, n * FRAME_NS, Pts(n * FRAME_NS))
        };
        for n in [0, 50, 100] {
            offer(n, true);
        }
        assert_eq!((offer(98, false), offer(99, false)), (FilterAction::LeaveOut, FilterAction::LeaveOut));
        assert_eq!(offer(101, false), FilterAction::Decode);
        // The next open group has all that it refers to.
        assert_eq!((offer(150, true), offer(148, false)), (FilterAction::Decode, FilterAction::Decode));
    }

    #[test]
    fn after_a_left_out_reference_decoding_resumes_with_a_key_picture() {
        let tier = SharedTier::new(DecodeTier::Key);
        let mut filter = filter(&tier);
        decided(&mut filter, 0);
        tier.set(DecodeTier::Full);
        let mut offer = |n: u64, is_key| {
            let frame = CodedPicture::frame(CodedKind::Reference);
            filter.decide(is_key, frame, n * FRAME_NS, Pts(n * FRAME_NS))
        };
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
    fn the_fields_of_a_frame_are_decoded_or_left_out_together() {
        use CodedKind::{Disposable, Reference};
        let tier = SharedTier::new(DecodeTier::Lean);
        let mut filter = filter(&tier);
        let field = |kind, frame_num, is_bottom| CodedPicture {
            field: Some(CodedField { is_bottom, frame_num }),
            ..CodedPicture::frame(kind)
        };
        // Two references, and a frame of disposable fields after each, in decoding order.
        let mut actions = Vec::new();
        for n in 0..150_u64 {
            let (kind, is_key) = (if n % 3 == 2 { Disposable } else { Reference }, n % 51 == 0);
            let time = if n % 3 == 2 { n - 1 } else { n + u64::from(n % 3 == 1) } * FRAME_NS;
            let first = filter.decide(is_key, field(kind, n as u16, false), time, Pts(time));
            let half = time + FRAME_NS / 2;
            actions.push((first, filter.decide(false, field(kind, n as u16, true), half, Pts(half))));
        }
        let (decode, leave_out) = (FilterAction::Decode, (FilterAction::LeaveOut, FilterAction::LeaveOutSecondField));
        assert!(actions.iter().all(|action| *action == (decode, decode) || *action == leave_out), "{actions:?}");
        assert!(actions.iter().filter(|action| **action == leave_out).count() > 20, "{actions:?}");
        // Key pictures: the second field refers to the first, which is a key picture.
        tier.set(DecodeTier::Key);
        let time = 153 * FRAME_NS;
        assert_eq!(filter.decide(true, field(Reference, 0, false), time, Pts(time)), decode);
        assert_eq!(filter.decide(false, field(Reference, 0, true), time, Pts(time)), decode);
        let mut next =
            |frame_num, is_bottom| filter.decide(false, field(Reference, frame_num, is_bottom), time, Pts(time));
        assert_eq!((next(1, false), next(1, true)), (FilterAction::Drain, FilterAction::LeaveOutSecondField));
        // A lost field: the next one begins a frame.
        assert_eq!((next(2, true), next(3, false)), (FilterAction::LeaveOut, FilterAction::LeaveOut));
        assert_eq!((next(4, false), next(4, false)), (FilterAction::LeaveOut, FilterAction::LeaveOut));
    }
}

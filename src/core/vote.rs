//! Sliding vote over seconds, and events by hysteresis on it.
//!
//! Pure: outcomes in order go in, estimates and events come out. A new run empties the window, because seconds before a jump are
//! not evidence for those after it. A class stays on air until an estimate of the new run ends it.
//!
//! Seconds without programme (test bars, black, a frozen picture) have no vote. When the window holds nothing else, all classes
//! leave, and there is no estimate while such a second is the newest. Other gaps do not affect the classes on air.

use std::collections::VecDeque;

use crate::decision::{Event, EventKind, EventReason, SecondOutcome, WindowEstimate};
use crate::labels::ClassId;
use crate::time::RunId;

/// How seconds are voted over, and when a class counts as on air.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct VoteConfig {
    /// Seconds in the window.
    pub window: u32,
    /// Seconds between estimates; 1 gives one a second.
    pub stride: u32,
    /// A class comes on air when its mean probability reaches this.
    pub onset: f32,
    /// A class leaves when its mean probability falls below this.
    pub offset: f32,
    /// Classified seconds the window must hold before a class may come on air.
    pub onset_seconds: u32,
}

impl Default for VoteConfig {
    fn default() -> Self {
        Self { window: 10, stride: 1, onset: 0.6, offset: 0.4, onset_seconds: 3 }
    }
}

impl VoteConfig {
    /// Longest window, seconds.
    pub const WINDOW_MAX: u32 = 600;

    /// Checks all values.
    ///
    /// # Errors
    /// Names the invalid value and the allowed range.
    pub fn validate(&self) -> Result<(), String> {
        if !(1..=Self::WINDOW_MAX).contains(&self.window) {
            return Err(format!("vote window {} s: choose 1 to {}", self.window, Self::WINDOW_MAX));
        }
        if !(1..=self.window).contains(&self.stride) {
            return Err(format!("vote stride {} s: choose 1 to the window ({} s)", self.stride, self.window));
        }
        let unit = 0.0..=1.0;
        if !unit.contains(&self.onset) || !unit.contains(&self.offset) || self.offset > self.onset {
            return Err(format!(
                "event thresholds onset {} and offset {}: choose 0 <= offset <= onset <= 1",
                self.onset, self.offset
            ));
        }
        Ok(())
    }
}

/// The part of a second in the vote.
#[derive(Debug)]
enum Ballot {
    /// Label and probabilities of a classified second.
    Vote(ClassId, Vec<f32>),
    /// There was no programme.
    NoProgramme,
    /// The programme of the second is unknown.
    Gap,
}

/// The vote of one stream.
#[derive(Debug)]
pub struct Voter {
    config: VoteConfig,
    classes: usize,
    run: Option<RunId>,
    ballots: VecDeque<Ballot>,
    since_estimate: u32,
    estimate: Option<WindowEstimate>,
    on_air: Vec<bool>,
    last: Option<(RunId, u64)>,
    /// Of the last classified second.
    known_from: f32,
}

impl Voter {
    /// A vote over `classes` classes.
    pub fn new(config: VoteConfig, classes: usize) -> Self {
        Self {
            config,
            classes,
            run: None,
            ballots: VecDeque::with_capacity(config.window as usize),
            since_estimate: 0,
            estimate: None,
            on_air: vec![false; classes],
            last: None,
            known_from: 0.0,
        }
    }

    /// Applies `config` from the next second on. The window keeps as many of its seconds as fit.
    pub fn set_config(&mut self, config: VoteConfig) {
        let too_many = self.ballots.len().saturating_sub(config.window as usize);
        self.ballots.drain(..too_many);
        self.config = config;
    }

    /// Takes the next second and appends the events it causes. Returns the newest estimate, which is that of this second if the
    /// stride is 1; `None` before the first classified second, and for a second without programme.
    pub fn push(&mut self, outcome: &SecondOutcome, events: &mut Vec<Event>) -> Option<&WindowEstimate> {
        if self.run != Some(outcome.run()) {
            self.run = Some(outcome.run());
            self.ballots.clear();
            self.estimate = None;
            self.since_estimate = 0;
        }
        if self.ballots.len() >= self.config.window as usize {
            self.ballots.pop_front();
        }
        if let SecondOutcome::Predicted(second) = outcome {
            self.known_from = second.known_from;
        }
        self.ballots.push_back(match outcome {
            SecondOutcome::Predicted(p) => Ballot::Vote(p.decision.label, p.decision.probabilities.clone()),
            SecondOutcome::Gap(_) if outcome.is_no_programme() => Ballot::NoProgramme,
            SecondOutcome::Gap(_) => Ballot::Gap,
        });
        self.last = Some((outcome.run(), outcome.index()));
        self.since_estimate += 1;
        if self.since_estimate >= self.config.stride || self.estimate.is_none() {
            self.since_estimate = 0;
            self.estimate = self.count();
            self.hysteresis(outcome, events);
        }
        self.leave_without_programme(outcome, events);
        self.estimate.as_ref().filter(|_| !outcome.is_no_programme())
    }

    /// Takes every class off air once the window holds only seconds without programme, and at least as many seconds as an onset
    /// needs.
    fn leave_without_programme(&mut self, outcome: &SecondOutcome, events: &mut Vec<Event>) {
        let needed = self.config.onset_seconds.min(self.config.window) as usize;
        let is_empty = self.ballots.len() >= needed && self.ballots.iter().all(|b| matches!(b, Ballot::NoProgramme));
        if is_empty {
            let (run, index, reason) = (outcome.run(), outcome.index(), Some(EventReason::NoProgramme));
            for class in (0..self.on_air.len()).filter(|class| std::mem::take(&mut self.on_air[*class])) {
                let class = ClassId(class as u16);
                events.push(Event { kind: EventKind::Offset, class, run, index, probability: 0.0, reason });
            }
        }
    }

    /// The classes on air, ascending.
    pub fn on_air(&self) -> impl Iterator<Item = ClassId> + Clone {
        let on_air = self.on_air.iter().enumerate().filter(|(_, is_on_air)| **is_on_air);
        on_air.map(|(class, _)| ClassId(class as u16))
    }

    /// Ends the stream: every class on air leaves it at the last second.
    pub fn finish(&mut self, events: &mut Vec<Event>) {
        let Some((run, index)) = self.last else { return };
        for (class, on_air) in self.on_air.iter_mut().enumerate() {
            if std::mem::take(on_air) {
                let probability = self.estimate.as_ref().map_or(0.0, |e| e.mean[class]);
                events.push(Event {
                    kind: EventKind::Offset,
                    class: ClassId(class as u16),
                    run,
                    index,
                    probability,
                    reason: Some(EventReason::Ended),
                });
            }
        }
    }

    fn count(&self) -> Option<WindowEstimate> {
        let mut share = vec![0f32; self.classes];
        let mut mean = vec![0f32; self.classes];
        let mut seconds = 0u32;
        for ballot in &self.ballots {
            let Ballot::Vote(label, probabilities) = ballot else { continue };
            seconds += 1;
            share[label.index()] += 1.0;
            for (sum, p) in mean.iter_mut().zip(probabilities) {
                *sum += p;
            }
        }
        if seconds == 0 {
            return None;
        }
        let scale = 1.0 / seconds as f32;
        share.iter_mut().chain(&mut mean).for_each(|v| *v *= scale);
        let best = (0..self.classes)
            .max_by(|&a, &b| share[a].total_cmp(&share[b]).then(mean[a].total_cmp(&mean[b])).then(b.cmp(&a)))
            .expect("a pack has at least one class");
        let gaps = self.ballots.len() as u32 - seconds;
        Some(WindowEstimate { share, mean, label: ClassId(best as u16), seconds, gaps, known_from: self.known_from })
    }

    fn hysteresis(&mut self, outcome: &SecondOutcome, events: &mut Vec<Event>) {
        let Some(estimate) = &self.estimate else { return };
        // A window with too few seconds for an onset also has too few for an offset.
        if estimate.seconds < self.config.onset_seconds.min(self.config.window) {
            return;
        }
        let (run, index) = (outcome.run(), outcome.index());
        // Offsets first, so that a change of sport is an offset followed by an onset.
        for kind in [EventKind::Offset, EventKind::Onset] {
            for (class, on_air) in self.on_air.iter_mut().enumerate() {
                let probability = estimate.mean[class];
                let crossed = match kind {
                    EventKind::Offset => *on_air && probability < self.config.offset,
                    EventKind::Onset => !*on_air && probability >= self.config.onset,
                };
                if crossed {
                    *on_air = kind == EventKind::Onset;
                    events.push(Event { kind, class: ClassId(class as u16), run, index, probability, reason: None });
                }
            }
        }
    }
}

/// The vote over a whole recording. The class with the most seconds wins; ties go to the larger mean probability.
#[derive(Clone, Debug)]
pub struct VideoVote {
    votes: Vec<u32>,
    sum: Vec<f64>,
    seconds: u32,
    gaps: u32,
}

/// The label of a recording.
#[derive(Clone, Debug, PartialEq)]
pub struct VideoLabel {
    /// The class.
    pub label: ClassId,
    /// Mean fused probability of `label` over the classified seconds.
    pub probability: f32,
}

impl VideoVote {
    /// A vote over `classes` classes.
    pub fn new(classes: usize) -> Self {
        Self { votes: vec![0; classes], sum: vec![0.0; classes], seconds: 0, gaps: 0 }
    }

    /// Adds the next second.
    pub fn push(&mut self, outcome: &SecondOutcome) {
        match outcome {
            SecondOutcome::Gap(_) => self.gaps += 1,
            SecondOutcome::Predicted(p) => self.add(p.decision.label, &p.decision.probabilities),
        }
    }

    /// Adds a classified second.
    ///
    /// # Panics
    /// If `label` does not belong to the classes.
    pub fn add(&mut self, label: ClassId, probabilities: &[f32]) {
        self.seconds += 1;
        self.votes[label.index()] += 1;
        for (sum, p) in self.sum.iter_mut().zip(probabilities) {
            *sum += f64::from(*p);
        }
    }

    /// Classified seconds.
    pub fn seconds(&self) -> u32 {
        self.seconds
    }

    /// Seconds without a decision.
    pub fn gaps(&self) -> u32 {
        self.gaps
    }

    /// Mean probability per class over the classified seconds; all 0 when there is none.
    pub fn mean(&self) -> Vec<f32> {
        let seconds = f64::from(self.seconds.max(1));
        self.sum.iter().map(|sum| (sum / seconds) as f32).collect()
    }

    /// The label; `None` when no second was classified.
    pub fn label(&self) -> Option<VideoLabel> {
        if self.seconds == 0 {
            return None;
        }
        let best = (0..self.votes.len())
            .max_by(|&a, &b| {
                self.votes[a].cmp(&self.votes[b]).then(self.sum[a].total_cmp(&self.sum[b])).then(b.cmp(&a))
            })
            .expect("a pack has at least one class");
        let probability = (self.sum[best] / f64::from(self.seconds)) as f32;
        Some(VideoLabel { label: ClassId(best as u16), probability })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clip::{Gap, GapReason};
    use crate::decision::testing::predicted;

    fn second(run: u32, index: u64, label: u16, probability: f32) -> SecondOutcome {
        let mut probabilities = vec![(1.0 - probability) / 2.0; 3];
        probabilities[label as usize] = probability;
        predicted(run, index, label, probabilities)
    }

    fn gap(run: u32, index: u64) -> SecondOutcome {
        SecondOutcome::Gap(Gap::new(RunId(run), index, GapReason::Overload))
    }

    fn voter(window: u32, stride: u32) -> Voter {
        Voter::new(VoteConfig { window, stride, ..VoteConfig::default() }, 3)
    }

    #[test]
    fn shares_and_means_slide() {
        let mut v = voter(3, 1);
        let mut events = Vec::new();
        assert!(v.push(&gap(0, 0), &mut events).is_none(), "nothing is classified yet");
        v.push(&second(0, 1, 1, 0.9), &mut events);
        let e = v.push(&second(0, 2, 2, 0.7), &mut events).unwrap().clone();
        assert_eq!((e.seconds, e.gaps, e.label), (2, 1, ClassId(1)), "a tie of votes goes to the higher mean");
        assert_eq!(e.share, [0.0, 0.5, 0.5]);
        let e = v.push(&second(0, 3, 2, 0.7), &mut events).unwrap().clone();
        assert_eq!((e.seconds, e.gaps, e.label), (3, 0, ClassId(2)), "the gap slid out");
        assert!((e.mean.iter().sum::<f32>() - 1.0).abs() < 1e-5);
    }

    #[test]
    fn stride_holds_the_estimate() {
        let mut v = voter(4, 2);
        let mut events = Vec::new();
        let first = v.push(&second(0, 0, 0, 0.9), &mut events).unwrap().clone();
        assert_eq!(v.push(&second(0, 1, 1, 0.9), &mut events).unwrap(), &first);
        assert_eq!(v.push(&second(0, 2, 1, 0.9), &mut events).unwrap().label, ClassId(1));
    }

    #[test]
    fn a_new_window_keeps_the_seconds_that_fit() {
        let mut v = voter(4, 1);
        let mut events = Vec::new();
        for (index, label) in [(0, 1), (1, 1), (2, 1), (3, 2)] {
            v.push(&second(0, index, label, 0.9), &mut events);
        }
        v.set_config(VoteConfig { window: 2, stride: 1, ..VoteConfig::default() });
        let e = v.push(&second(0, 4, 2, 0.9), &mut events).unwrap().clone();
        assert_eq!((e.seconds, e.label), (2, ClassId(2)), "only the last two remain");
        v.set_config(VoteConfig { window: 4, stride: 1, ..VoteConfig::default() });
        assert_eq!(v.push(&second(0, 5, 2, 0.9), &mut events).unwrap().seconds, 3, "the window grows again");
    }

    #[test]
    fn events_have_hysteresis_and_survive_a_new_run() {
        let mut v = voter(4, 1);
        let mut events = Vec::new();
        let mut feed = |v: &mut Voter, run, index, label, p| {
            let mut new = Vec::new();
            v.push(&second(run, index, label, p), &mut new);
            events.extend(new.iter().map(|e| (e.kind, e.class.0, e.run.0, e.index)));
        };
        feed(&mut v, 0, 0, 1, 0.9);
        feed(&mut v, 0, 1, 1, 0.9);
        feed(&mut v, 0, 2, 1, 0.9); // third classified second: onset
        feed(&mut v, 0, 3, 1, 0.3); // mean falls, but not below the offset threshold
        feed(&mut v, 1, 9, 2, 0.9); // new run: too few seconds in the window
        feed(&mut v, 1, 10, 2, 0.9);
        feed(&mut v, 1, 11, 2, 0.9); // an offset, then an onset
        assert_eq!(events, [(EventKind::Onset, 1, 0, 2), (EventKind::Offset, 1, 1, 11), (EventKind::Onset, 2, 1, 11)]);
        let mut last = Vec::new();
        v.finish(&mut last);
        assert_eq!(last.iter().map(|e| (e.kind, e.class.0, e.index)).collect::<Vec<_>>(), [(EventKind::Offset, 2, 11)]);
        assert_eq!(last[0].reason, Some(EventReason::Ended));
        last.clear();
        v.finish(&mut last);
        assert!(last.is_empty(), "an offset is reported once");
    }

    #[test]
    fn a_window_is_unknown_below_the_threshold_of_the_pack_that_decided_last() {
        let with = |index, probability, known_from| {
            let mut outcome = second(0, index, 1, probability);
            if let SecondOutcome::Predicted(second) = &mut outcome {
                second.known_from = known_from;
                assert_eq!(second.is_unknown(), probability < known_from);
            }
            outcome
        };
        let (mut v, mut events) = (voter(2, 1), Vec::new());
        assert!(!v.push(&with(0, 0.5, 0.0), &mut events).unwrap().is_unknown(), "this pack answers always");
        assert!(v.push(&with(1, 0.5, 0.6), &mut events).unwrap().is_unknown());
        let estimate = v.push(&with(2, 0.7, 0.6), &mut events).unwrap();
        assert!(!estimate.is_unknown() && (estimate.probability() - 0.6).abs() < 1e-6, "the mean is an answer");
        assert!(v.push(&gap(0, 3), &mut events).is_some_and(|e| !e.is_unknown()), "the threshold stays after a gap");
        assert!(!WindowEstimate::empty(3).is_unknown());
    }

    #[test]
    fn a_window_without_programme_takes_every_class_off_air() {
        let bars = |run, index| SecondOutcome::Gap(Gap::new(RunId(run), index, GapReason::NoProgramme));
        let (mut v, mut events) = (voter(4, 2), Vec::new());
        for index in 0..4 {
            v.push(&second(0, index, 1, 0.9), &mut events);
        }
        assert_eq!(events.drain(..).count(), 1, "the class is on air");
        for index in 4..7 {
            assert!(v.push(&bars(0, index), &mut events).is_none(), "there is no estimate without programme");
            assert_eq!(events, [], "the window still holds the class");
        }
        v.push(&bars(0, 7), &mut events);
        let [off] = std::mem::take(&mut events).try_into().unwrap();
        assert_eq!((off.kind, off.class, off.index), (EventKind::Offset, ClassId(1), 7));
        assert_eq!((off.reason, off.probability), (Some(EventReason::NoProgramme), 0.0));
        for index in 8..11 {
            v.push(&second(0, index, 1, 0.9), &mut events);
        }
        v.push(&bars(0, 11), &mut events);
        assert_eq!(events.iter().map(|e| (e.kind, e.reason)).collect::<Vec<_>>(), [(EventKind::Onset, None)]);
        assert!(v.push(&gap(0, 12), &mut events).is_some(), "another gap hides no estimate");
        // A gap of another kind in the window: nothing is known of that second, so the class stays.
        for index in 13..16 {
            v.push(&bars(0, index), &mut events);
        }
        assert_eq!(events.len(), 1);
        // A new run needs as many seconds as an onset.
        for index in 0..2 {
            v.push(&bars(1, index), &mut events);
        }
        assert_eq!(events.len(), 1);
        v.push(&bars(1, 2), &mut events);
        assert_eq!(events.len(), 2);
    }

    #[test]
    fn the_video_label_is_the_vote_of_its_seconds() {
        let mut v = VideoVote::new(3);
        assert_eq!(v.label(), None);
        for (i, (label, p)) in [(0, 0.99), (1, 0.5), (1, 0.5)].into_iter().enumerate() {
            v.push(&second(0, i as u64, label, p));
        }
        v.push(&gap(0, 3));
        let label = v.label().unwrap();
        assert_eq!((label.label, v.seconds(), v.gaps()), (ClassId(1), 3, 1));
    }

    #[test]
    fn invalid_settings_are_named() {
        for (config, word) in [
            (VoteConfig { window: 0, ..VoteConfig::default() }, "window"),
            (VoteConfig { stride: 11, ..VoteConfig::default() }, "stride"),
            (VoteConfig { offset: 0.9, ..VoteConfig::default() }, "offset"),
            (VoteConfig { onset: f32::NAN, ..VoteConfig::default() }, "onset"),
        ] {
            assert!(config.validate().unwrap_err().contains(word));
        }
        assert_eq!(VoteConfig::default().validate(), Ok(()));
    }
}

//! What is expected on air, and when something else has been there for too long.
//!
//! Pure: expectations and decided seconds go in, events come out. Seconds are counted, so that no clock is needed and a recording
//! gives the same events each time.
//!
//! What is on air is what the vote says, with its hysteresis. A second counts in one of three ways:
//!
//! - An expected class is on air: the count returns to zero.
//! - Another class is on air, or there is no programme: the second is counted.
//! - Nothing is known of it (a gap), or the vote is not sure: it changes nothing. Such a second is no evidence of something else.

use crate::decision::{SecondOutcome, WindowEstimate};
use crate::labels::{ClassId, ClassSet};
use crate::time::RunId;

/// Name of an unsure vote in an expectation.
pub const UNKNOWN: &str = "unknown";

/// Name of a picture without programme in an expectation.
pub const NO_PROGRAMME: &str = "no-programme";

/// What may be on air. Empty: nothing is expected, so nothing is unexpected.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Expected {
    /// Ascending.
    classes: Vec<ClassId>,
    unknown: bool,
    no_programme: bool,
}

impl Expected {
    /// Adds the class `name`, [`UNKNOWN`] or [`NO_PROGRAMME`]. Returns false if there is no such class.
    #[must_use]
    pub fn add(&mut self, name: &str, classes: &ClassSet) -> bool {
        match name {
            UNKNOWN => self.unknown = true,
            NO_PROGRAMME => self.no_programme = true,
            name => match classes.id(name) {
                Some(class) => self.add_class(class),
                None => return false,
            },
        }
        true
    }

    fn add_class(&mut self, class: ClassId) {
        if let Err(at) = self.classes.binary_search(&class) {
            self.classes.insert(at, class);
        }
    }

    /// Adds all that `other` allows.
    pub fn extend(&mut self, other: &Self) {
        other.classes.iter().for_each(|class| self.add_class(*class));
        self.unknown |= other.unknown;
        self.no_programme |= other.no_programme;
    }

    /// Whether nothing is expected.
    pub const fn is_empty(&self) -> bool {
        self.classes.is_empty() && !self.unknown && !self.no_programme
    }

    /// The names, classes first.
    ///
    /// # Panics
    /// If a class does not belong to `classes`.
    pub fn names<'a>(&self, classes: &'a ClassSet) -> Vec<&'a str> {
        let others = [(self.unknown, UNKNOWN), (self.no_programme, NO_PROGRAMME)];
        let others = others.into_iter().filter_map(|(is_expected, name)| is_expected.then_some(name));
        self.classes.iter().map(|class| classes.name(*class)).chain(others).collect()
    }
}

/// What is on air.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnAir {
    /// A class.
    Class(ClassId),
    /// There is no programme.
    NoProgramme,
}

impl OnAir {
    /// The name of the class, or [`NO_PROGRAMME`].
    ///
    /// # Panics
    /// If the class does not belong to `classes`.
    pub fn name(self, classes: &ClassSet) -> &str {
        match self {
            Self::Class(class) => classes.name(class),
            Self::NoProgramme => NO_PROGRAMME,
        }
    }
}

/// Why something unexpected ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExpectationEnd {
    /// What is expected is on air.
    OnAir,
    /// Something else is expected, or nothing.
    Changed,
    /// The stream ended.
    Ended,
}

/// Something unexpected has been on air for too long, or has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExpectationEvent {
    /// `None`: it begins.
    pub end: Option<ExpectationEnd>,
    /// What is or was expected.
    pub expected: Expected,
    /// What is on air at this second, if that is known.
    pub on_air: Option<OnAir>,
    /// Run of the second.
    pub run: RunId,
    /// Its number in the run.
    pub index: u64,
    /// Seconds so far with something else on air.
    pub seconds: u32,
}

/// What the watch says about a second.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WatchedSecond {
    /// What is expected at this second.
    pub expected: Expected,
    /// Seconds so far with something else on air, if that is too long. `None`: nothing is unexpected.
    pub unexpected_s: Option<u32>,
    /// What is on air, if that is known.
    pub on_air: Option<OnAir>,
    /// At most an end and a begin.
    pub events: Vec<ExpectationEvent>,
}

/// The evidence of one second.
enum Evidence {
    Expected,
    Other,
    None,
}

/// Compares what is on air in a stream with what is expected.
#[derive(Debug, Default)]
pub struct Watch {
    expected: Expected,
    /// Seconds with something else on air.
    seconds: u32,
    is_unexpected: bool,
    last: Option<(RunId, u64)>,
}

impl Watch {
    /// Takes a second with what the vote says about it: `on_air` are the classes on air after it. Something else is unexpected
    /// after `patience` seconds.
    pub fn take(
        &mut self,
        expected: Expected,
        patience: u32,
        (outcome, estimate): (&SecondOutcome, &WindowEstimate),
        on_air: impl Iterator<Item = ClassId> + Clone,
    ) -> WatchedSecond {
        let (run, index) = (outcome.run(), outcome.index());
        let now = on_air_now(outcome, estimate, on_air.clone());
        let mut events = Vec::new();
        self.last = Some((run, index));
        if expected != self.expected {
            events.extend(self.end(ExpectationEnd::Changed, now));
            self.expected = expected;
        }
        match self.evidence(outcome, estimate, on_air, now) {
            Evidence::Expected => events.extend(self.end(ExpectationEnd::OnAir, now)),
            Evidence::Other => {
                self.seconds = self.seconds.saturating_add(1);
                if self.seconds >= patience && !self.is_unexpected {
                    self.is_unexpected = true;
                    events.push(self.event(None, now, (run, index)));
                }
            }
            Evidence::None => {}
        }
        WatchedSecond {
            expected: self.expected.clone(),
            unexpected_s: self.is_unexpected.then_some(self.seconds),
            on_air: now,
            events,
        }
    }

    /// Ends the stream.
    pub fn finish(&mut self) -> Option<ExpectationEvent> {
        self.end(ExpectationEnd::Ended, None)
    }

    fn evidence(
        &self,
        outcome: &SecondOutcome,
        estimate: &WindowEstimate,
        mut on_air: impl Iterator<Item = ClassId>,
        now: Option<OnAir>,
    ) -> Evidence {
        let is_gap = matches!(outcome, SecondOutcome::Gap(_)) && !outcome.is_no_programme();
        if self.expected.is_empty() || is_gap {
            return Evidence::None;
        }
        let is_sure = !estimate.is_unknown();
        match now {
            // It is on air until the vote says otherwise, also while single seconds are black or unsure.
            _ if on_air.any(|class| self.expected.classes.contains(&class)) => Evidence::Expected,
            Some(OnAir::NoProgramme) if self.expected.no_programme => Evidence::Expected,
            Some(OnAir::NoProgramme) => Evidence::Other,
            Some(OnAir::Class(_)) if is_sure => Evidence::Other,
            _ if self.expected.unknown && estimate.seconds > 0 => Evidence::Expected,
            _ => Evidence::None,
        }
    }

    fn end(&mut self, why: ExpectationEnd, on_air: Option<OnAir>) -> Option<ExpectationEvent> {
        let was_unexpected = std::mem::take(&mut self.is_unexpected);
        let event = self.last.filter(|_| was_unexpected).map(|place| self.event(Some(why), on_air, place));
        self.seconds = 0;
        event
    }

    fn event(
        &self,
        end: Option<ExpectationEnd>,
        on_air: Option<OnAir>,
        (run, index): (RunId, u64),
    ) -> ExpectationEvent {
        ExpectationEvent { end, expected: self.expected.clone(), on_air, run, index, seconds: self.seconds }
    }
}

/// The most probable class on air, or that there is no programme.
fn on_air_now(
    outcome: &SecondOutcome,
    estimate: &WindowEstimate,
    on_air: impl Iterator<Item = ClassId>,
) -> Option<OnAir> {
    if outcome.is_no_programme() {
        return Some(OnAir::NoProgramme);
    }
    let mean = |class: ClassId| estimate.mean.get(class.index()).copied().unwrap_or(0.0);
    // Ties go to the class that comes first.
    let best = on_air.reduce(|best, class| if mean(class) > mean(best) { class } else { best });
    best.map(OnAir::Class)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clip::{Gap, GapReason};
    use crate::decision::testing::predicted;
    use crate::vote::{VoteConfig, Voter};

    const TENNIS: u16 = 0;
    const STUDIO: u16 = 1;

    fn classes() -> ClassSet {
        ClassSet::new(["tennis", "studio", "other"].map(String::from).to_vec()).unwrap()
    }

    fn expected(names: &[&str]) -> Expected {
        let mut expected = Expected::default();
        names.iter().for_each(|name| assert!(expected.add(name, &classes()), "{name}"));
        expected
    }

    /// A stream with a vote over one second, so that what is on air is what a second shows.
    struct Stream {
        watch: Watch,
        voter: Voter,
        index: u64,
        run: u32,
        expected: Expected,
        known_from: f32,
    }

    impl Stream {
        fn expecting(names: &[&str]) -> Self {
            let config = VoteConfig { window: 1, onset_seconds: 1, ..VoteConfig::default() };
            let voter = Voter::new(config, classes().len());
            Self { watch: Watch::default(), voter, index: 0, run: 0, expected: expected(names), known_from: 0.0 }
        }

        fn take(&mut self, outcome: &SecondOutcome) -> WatchedSecond {
            let estimate = self.voter.push(outcome, &mut Vec::new()).cloned();
            let estimate = estimate.unwrap_or_else(|| WindowEstimate::empty(classes().len()));
            self.index += 1;
            self.watch.take(self.expected.clone(), 60, (outcome, &estimate), self.voter.on_air())
        }

        /// `seconds` seconds of a class. Returns the events with the number of the second from the first of these on.
        fn show(&mut self, class: u16, probability: f32, seconds: u64) -> Vec<(u64, Option<ExpectationEnd>, u32)> {
            let mut probabilities = vec![(1.0 - probability) / 2.0; 3];
            probabilities[usize::from(class)] = probability;
            self.repeat(seconds, |stream| {
                let mut outcome = predicted(stream.run, stream.index, class, probabilities.clone());
                if let SecondOutcome::Predicted(second) = &mut outcome {
                    second.known_from = stream.known_from;
                }
                outcome
            })
        }

        fn gaps(&mut self, reason: GapReason, seconds: u64) -> Vec<(u64, Option<ExpectationEnd>, u32)> {
            self.repeat(seconds, |stream| SecondOutcome::Gap(Gap::new(RunId(stream.run), stream.index, reason)))
        }

        fn repeat(
            &mut self,
            seconds: u64,
            second: impl Fn(&Self) -> SecondOutcome,
        ) -> Vec<(u64, Option<ExpectationEnd>, u32)> {
            let mut found = Vec::new();
            for n in 1..=seconds {
                let watched = self.take(&second(self));
                found.extend(watched.events.into_iter().map(|event| (n, event.end, event.seconds)));
            }
            found
        }
    }

    #[test]
    fn something_else_for_a_minute_is_unexpected_once_until_the_expected_class_is_back() {
        let mut stream = Stream::expecting(&["tennis"]);
        assert_eq!(stream.show(TENNIS, 0.9, 500), []);
        assert_eq!(stream.show(STUDIO, 0.9, 59), []);
        assert_eq!(stream.show(TENNIS, 0.9, 1), [], "the count starts over");
        assert_eq!(stream.show(STUDIO, 0.9, 500), [(60, None, 60)]);
        assert_eq!(stream.show(TENNIS, 0.9, 10), [(1, Some(ExpectationEnd::OnAir), 500)]);
        assert_eq!(stream.watch.finish(), None);
    }

    #[test]
    fn what_is_expected_has_the_hysteresis_of_the_vote() {
        let mut stream = Stream::expecting(&["tennis"]);
        stream.show(TENNIS, 0.9, 1);
        // Below the onset, above the offset: tennis is still on air.
        assert_eq!(stream.show(TENNIS, 0.5, 200), []);
        assert_eq!(stream.show(STUDIO, 0.9, 60), [(60, None, 60)]);
        assert_eq!(stream.show(TENNIS, 0.5, 200), [], "tennis has not reached the onset");
        assert_eq!(stream.show(TENNIS, 0.7, 1), [(1, Some(ExpectationEnd::OnAir), 60)]);
    }

    #[test]
    fn gaps_unsure_seconds_and_new_runs_neither_count_nor_start_the_count_over() {
        let mut stream = Stream::expecting(&["tennis"]);
        stream.show(STUDIO, 0.9, 30);
        assert_eq!(stream.gaps(GapReason::Overload, 1000), []);
        assert_eq!(stream.show(STUDIO, 0.34, 1000), [], "no class is on air");
        stream.known_from = 0.95;
        assert_eq!(stream.show(STUDIO, 0.9, 1000), [], "studio is on air and the answer is unknown");
        stream.known_from = 0.0;
        stream.run = 1;
        assert_eq!(stream.show(STUDIO, 0.9, 30), [(30, None, 60)]);
        assert_eq!(stream.gaps(GapReason::NoMedia, 10), [], "it lasts");
    }

    #[test]
    fn a_stream_without_programme_is_unexpected_unless_that_is_expected() {
        let mut stream = Stream::expecting(&["tennis"]);
        // The voter takes tennis off air with the first of these.
        stream.show(TENNIS, 0.9, 5);
        assert_eq!(stream.gaps(GapReason::NoProgramme, 100), [(60, None, 60)]);
        let watched = stream.take(&SecondOutcome::Gap(Gap::new(RunId(0), stream.index, GapReason::NoProgramme)));
        assert_eq!((watched.on_air, watched.unexpected_s), (Some(OnAir::NoProgramme), Some(101)));
        let mut stream = Stream::expecting(&["tennis", NO_PROGRAMME]);
        assert_eq!(stream.gaps(GapReason::NoProgramme, 100), []);
        assert_eq!(stream.show(STUDIO, 0.9, 60), [(60, None, 60)]);
        assert_eq!(stream.gaps(GapReason::NoProgramme, 1), [(1, Some(ExpectationEnd::OnAir), 60)]);
    }

    #[test]
    fn an_unsure_vote_can_be_expected() {
        let mut stream = Stream::expecting(&[UNKNOWN]);
        assert_eq!(stream.gaps(GapReason::NoMedia, 100), [], "a gap is not an unsure vote");
        assert_eq!(stream.show(STUDIO, 0.9, 60), [(60, None, 60)]);
        assert_eq!(stream.show(STUDIO, 0.34, 1), [(1, Some(ExpectationEnd::OnAir), 60)]);
    }

    #[test]
    fn another_expectation_ends_what_was_unexpected_and_starts_the_count_over() {
        let mut stream = Stream::expecting(&["tennis"]);
        stream.show(STUDIO, 0.9, 100);
        stream.expected = expected(&["other"]);
        assert_eq!(stream.show(STUDIO, 0.9, 60), [(1, Some(ExpectationEnd::Changed), 100), (60, None, 60)]);
        stream.expected = expected(&["studio", "tennis"]);
        assert_eq!(stream.show(STUDIO, 0.9, 60), [(1, Some(ExpectationEnd::Changed), 60)]);
        stream.expected = Expected::default();
        assert_eq!(stream.show(STUDIO, 0.9, 600), [], "nothing is expected");
    }

    #[test]
    fn the_end_of_the_stream_ends_what_was_unexpected() {
        let mut stream = Stream::expecting(&["tennis"]);
        stream.show(STUDIO, 0.9, 70);
        let end = stream.watch.finish().unwrap();
        assert_eq!((end.end, end.index, end.seconds), (Some(ExpectationEnd::Ended), 69, 70));
        assert_eq!(end.expected.names(&classes()), ["tennis"]);
        assert_eq!(stream.watch.finish(), None);
    }

    #[test]
    fn the_most_probable_class_on_air_is_named() {
        let outcome = predicted(0, 0, 1, vec![0.1, 0.5, 0.4]);
        let mut estimate = WindowEstimate::empty(3);
        (estimate.mean, estimate.seconds) = (vec![0.1, 0.5, 0.4], 5);
        let on_air = |ids: &[u16]| on_air_now(&outcome, &estimate, ids.iter().copied().map(ClassId));
        assert_eq!(on_air(&[2, 1]), Some(OnAir::Class(ClassId(1))));
        assert_eq!(on_air(&[]), None);
    }

    #[test]
    fn names_are_added_once_and_unknown_ones_are_refused() {
        let mut all = expected(&["studio", NO_PROGRAMME, "tennis", "studio"]);
        all.extend(&expected(&[UNKNOWN, "tennis"]));
        assert_eq!(all.names(&classes()), ["tennis", "studio", UNKNOWN, NO_PROGRAMME]);
        assert!(!all.add("tenis", &classes()) && !all.is_empty() && Expected::default().is_empty());
    }
}

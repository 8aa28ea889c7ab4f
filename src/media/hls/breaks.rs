//! Reduces announcements of advertisement breaks, from playlists and media, to one begin and one end per break.
//!
//! The same break is announced by playlist tags, by SCTE-35 in the media, again before it begins, and once per advertisement.
//! Announcements are kept until the stream reaches their position; then the state decides whether they are new. Pure.

use std::collections::VecDeque;

use super::playlist::AdBreakEdge;
use touchline_core::incident::Incident;
use touchline_core::time::NANOS_PER_SECOND;

/// The most announcements that wait for their position.
const PENDING_MAX: usize = 256;

/// The most announcements that are remembered to detect repetitions.
const KNOWN_MAX: usize = 256;

/// Positions this close are the same, ns: playlists round, and packagers cut at the next key frame.
const SAME_NS: u64 = 2 * NANOS_PER_SECOND;

/// The distance between two advertisements of one break is smaller than this, ns.
const BETWEEN_NS: u64 = NANOS_PER_SECOND;

/// A break without an announced end is over when another begins after this time, ns.
const BREAK_MAX_NS: u64 = 300 * NANOS_PER_SECOND;

/// An announcement of an advertisement break.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct AdAnnouncement {
    pub action: AdAction,
    /// [`None`] for announcements without a segmentation type (playlist tags and `splice_insert`): they end any break.
    pub scope: Option<AdScope>,
    /// Identifies the event for corrections, repetitions and cancellations.
    pub event: Option<AdEventId>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AdAction {
    Out {
        returns_after_ns: Option<u64>,
    },
    In,
    /// The announcement of this event is cancelled.
    Cancelled,
}

/// The extent of an announcement. The end of a smaller one does not end a larger one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum AdScope {
    Advert,
    Opportunity,
    Break,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AdEventId {
    Insert(u32),
    Segmentation(u32),
}

impl From<AdBreakEdge> for AdAnnouncement {
    fn from(side: AdBreakEdge) -> Self {
        let action = match side {
            AdBreakEdge::Out => AdAction::Out { returns_after_ns: None },
            AdBreakEdge::In => AdAction::In,
        };
        Self { action, scope: None, event: None }
    }
}

#[derive(Clone, Copy, Debug)]
struct PendingAd {
    at_ns: u64,
    is_out: bool,
    scope: Option<AdScope>,
    event: Option<AdEventId>,
    /// For an end that follows from the announced length of a break: the start of that break, ns.
    planned_from_ns: Option<u64>,
}

/// Whether the stream is in an advertisement break.
#[derive(Clone, Copy, Debug, Default)]
enum BreakState {
    /// No announcement so far: playback may have begun within a break.
    #[default]
    Unknown,
    Programme,
    Break {
        since_ns: u64,
        scope: Option<AdScope>,
    },
}

/// The breaks of one stream. Positions are on its timeline, ns.
#[derive(Debug, Default)]
pub(crate) struct AdBreaks {
    /// In the order of their positions.
    pending: VecDeque<PendingAd>,
    known: VecDeque<(AdEventId, bool, u64)>,
    state: BreakState,
}

impl AdBreaks {
    /// Takes an announcement for the position `at_ns`.
    pub fn announce(&mut self, at_ns: u64, ad: AdAnnouncement) {
        let AdAnnouncement { action, scope, event } = ad;
        let (is_out, returns_after_ns) = match action {
            AdAction::Out { returns_after_ns } => (true, returns_after_ns),
            AdAction::In => (false, None),
            AdAction::Cancelled => {
                // The same event may be announced again.
                self.known.retain(|known| Some(known.0) != event);
                return self.pending.retain(|pending| pending.event != event);
            }
        };
        if let Some(event) = event {
            let is_same = |known: &(AdEventId, bool, u64)| {
                (known.0, known.1) == (event, is_out) && known.2.abs_diff(at_ns) < SAME_NS
            };
            if self.known.iter().any(is_same) {
                return;
            }
            if self.known.len() == KNOWN_MAX {
                self.known.pop_front();
            }
            self.known.push_back((event, is_out, at_ns));
            // Replaces an announcement of the event for another position, or a planned end.
            self.pending.retain(|pending| pending.event != Some(event) || (pending.is_out && !is_out));
        }
        self.insert(PendingAd { at_ns, is_out, scope, event, planned_from_ns: None });
        if let Some(ns) = returns_after_ns {
            let planned_from_ns = Some(at_ns);
            self.insert(PendingAd { at_ns: at_ns.saturating_add(ns), is_out: false, scope, event, planned_from_ns });
        }
    }

    fn insert(&mut self, new: PendingAd) {
        if self.pending.len() < PENDING_MAX {
            // At equal positions, the end of one break precedes the begin of the next.
            let index = self.pending.partition_point(|p| (p.at_ns, p.is_out) <= (new.at_ns, new.is_out));
            self.pending.insert(index, new);
        }
    }

    /// The next begin or end up to the position `to_ns`.
    pub fn next(&mut self, to_ns: u64) -> Option<Incident> {
        while self.pending.front().is_some_and(|due| due.at_ns <= to_ns) {
            let due = self.pending.pop_front()?;
            let incident = if due.is_out { self.begins(&due) } else { self.ends(&due) };
            if incident.is_some() {
                return incident;
            }
        }
        None
    }

    fn begins(&mut self, due: &PendingAd) -> Option<Incident> {
        match &mut self.state {
            BreakState::Break { since_ns, scope } if due.at_ns.saturating_sub(*since_ns) < BREAK_MAX_NS => {
                if due.at_ns.abs_diff(*since_ns) < SAME_NS {
                    *scope = (*scope).max(due.scope);
                }
                None
            }
            _ => {
                self.state = BreakState::Break { since_ns: due.at_ns, scope: due.scope };
                Some(Incident::AdBreakBegan)
            }
        }
    }

    fn ends(&mut self, due: &PendingAd) -> Option<Incident> {
        let goes_on = |next: &&PendingAd| next.is_out && next.at_ns.saturating_sub(due.at_ns) < BETWEEN_NS;
        match self.state {
            BreakState::Programme => return None,
            BreakState::Unknown if due.planned_from_ns.is_some() => return None,
            BreakState::Unknown => {}
            BreakState::Break { since_ns, scope } => {
                let is_stale = due.planned_from_ns.is_some_and(|from| since_ns > from.saturating_add(SAME_NS));
                let is_part = due.scope.zip(scope).is_some_and(|(due, scope)| due < scope);
                let is_followed = due.scope == Some(AdScope::Advert) && self.pending.iter().any(|p| goes_on(&p));
                if is_stale || is_part || is_followed {
                    return None;
                }
            }
        }
        self.state = BreakState::Programme;
        Some(Incident::AdBreakEnded)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: u64 = NANOS_PER_SECOND;
    const OUT: AdAction = AdAction::Out { returns_after_ns: None };

    fn ad(action: AdAction, scope: Option<AdScope>, event: Option<AdEventId>) -> AdAnnouncement {
        AdAnnouncement { action, scope, event }
    }

    fn insert(id: u32, action: AdAction) -> AdAnnouncement {
        ad(action, None, Some(AdEventId::Insert(id)))
    }

    fn segment(id: u32, scope: AdScope, action: AdAction) -> AdAnnouncement {
        ad(action, Some(scope), Some(AdEventId::Segmentation(id)))
    }

    /// The incidents with their seconds. All announcements are made beforehand.
    fn incidents_of(announced: &[(u64, AdAnnouncement)]) -> Vec<(u64, &'static str)> {
        let mut breaks = AdBreaks::default();
        announced.iter().for_each(|(at_s, ad)| breaks.announce(at_s * S, *ad));
        walk(&mut breaks, 0..1_000)
    }

    fn walk(breaks: &mut AdBreaks, seconds: std::ops::Range<u64>) -> Vec<(u64, &'static str)> {
        let mut all = Vec::new();
        for at_s in seconds {
            while let Some(incident) = breaks.next(at_s * S) {
                all.push((at_s, incident.as_str()));
            }
        }
        all
    }

    const BEGAN: &str = "ad-break-began";
    const ENDED: &str = "ad-break-ended";

    #[test]
    fn tags_and_media_announce_one_break() {
        let incidents = incidents_of(&[
            (10, AdBreakEdge::Out.into()),
            (11, insert(1, AdAction::Out { returns_after_ns: Some(29 * S) })),
            (10, segment(2, AdScope::Opportunity, OUT)),
            (41, AdBreakEdge::In.into()),
            (40, segment(2, AdScope::Opportunity, AdAction::In)),
            (40, insert(1, AdAction::In)),
        ]);
        assert_eq!(incidents, [(10, BEGAN), (40, ENDED)]);
    }

    #[test]
    fn a_break_with_a_planned_end_ends_then_or_earlier() {
        let planned = AdAction::Out { returns_after_ns: Some(30 * S) };
        assert_eq!(incidents_of(&[(10, insert(1, planned))]), [(10, BEGAN), (40, ENDED)]);
        let incidents = incidents_of(&[(10, insert(1, planned)), (25, insert(1, AdAction::In))]);
        assert_eq!(incidents, [(10, BEGAN), (25, ENDED)]);
        // The planned end of one break does not end the next.
        let incidents =
            incidents_of(&[(10, insert(1, planned)), (20, insert(2, AdAction::In)), (35, insert(3, planned))]);
        assert_eq!(incidents, [(10, BEGAN), (20, ENDED), (35, BEGAN), (65, ENDED)]);
    }

    #[test]
    fn parts_of_a_break_neither_begin_nor_end_it() {
        let mut all = vec![(10, segment(1, AdScope::Break, OUT)), (40, segment(1, AdScope::Break, AdAction::In))];
        for n in 0..3 {
            all.push((10 + 10 * n, segment(10 + n as u32, AdScope::Advert, OUT)));
            all.push((20 + 10 * n, segment(10 + n as u32, AdScope::Advert, AdAction::In)));
        }
        assert_eq!(incidents_of(&all), [(10, BEGAN), (40, ENDED)]);
        // Advertisements alone, back to back.
        let adverts: Vec<_> = all.into_iter().filter(|(_, ad)| ad.scope == Some(AdScope::Advert)).collect();
        assert_eq!(incidents_of(&adverts), [(10, BEGAN), (40, ENDED)]);
    }

    #[test]
    fn announcements_can_be_repeated_corrected_and_cancelled() {
        let mut breaks = AdBreaks::default();
        breaks.announce(10 * S, insert(1, OUT));
        breaks.announce(14 * S, insert(1, OUT));
        breaks.announce(50 * S, insert(2, OUT));
        breaks.announce(50 * S, insert(2, AdAction::Cancelled));
        assert_eq!(walk(&mut breaks, 0..20), [(14, BEGAN)]);
        breaks.announce(20 * S, insert(1, AdAction::In));
        assert_eq!(walk(&mut breaks, 20..25), [(20, ENDED)]);
        // Repeated after it is over.
        breaks.announce(14 * S, insert(1, OUT));
        breaks.announce(20 * S, insert(1, AdAction::In));
        assert!(walk(&mut breaks, 25..100).is_empty());
    }

    #[test]
    fn the_end_of_a_running_break_is_reported_and_a_break_without_end_expires() {
        let incidents = incidents_of(&[(5, AdBreakEdge::In.into()), (6, AdBreakEdge::In.into())]);
        assert_eq!(incidents, [(5, ENDED)]);
        let incidents = incidents_of(&[
            (10, AdBreakEdge::Out.into()),
            (20, AdBreakEdge::Out.into()),
            (400, AdBreakEdge::Out.into()),
        ]);
        assert_eq!(incidents, [(10, BEGAN), (400, BEGAN)]);
    }

    #[test]
    fn announcements_are_bounded() {
        let mut breaks = AdBreaks::default();
        for n in 0..10_000 {
            breaks.announce(u64::MAX - u64::from(n), insert(n, AdAction::Out { returns_after_ns: Some(u64::MAX) }));
        }
        assert!(breaks.pending.len() <= PENDING_MAX && breaks.known.len() <= KNOWN_MAX);
    }
}

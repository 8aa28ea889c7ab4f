//! How long a condition has held.

use touchline_core::incident::Incident;
use touchline_core::signal::Signal;
use touchline_core::time::Pts;

/// A condition from its begin to its end. Reports both as incidents when it has lasted for the hold time.
#[derive(Debug)]
pub(super) struct Hold {
    signal: Signal,
    hold_ns: u64,
    /// Begin, while it holds.
    began: Option<Pts>,
    /// Its begin is reported.
    is_on: bool,
}

impl Hold {
    pub fn new(signal: Signal, hold_ns: u64) -> Self {
        Self { signal, hold_ns, began: None, is_on: false }
    }

    /// Whether it holds from `at` on.
    pub fn observe(&mut self, holds: bool, at: Pts, incidents: &mut Vec<Incident>) {
        if holds {
            self.began.get_or_insert(at);
        } else {
            self.end(at, incidents);
        }
    }

    /// It holds from `began` at the latest.
    pub fn observe_since(&mut self, began: Pts) {
        self.began.get_or_insert(began);
    }

    /// It held until `at`, if it held.
    pub fn end(&mut self, at: Pts, incidents: &mut Vec<Incident>) {
        let Some(began) = self.began.take() else { return };
        let lasted_ns = at.0.saturating_sub(began.0);
        if !std::mem::take(&mut self.is_on) {
            // It began and ended between two ends of seconds.
            if lasted_ns < self.hold_ns {
                return;
            }
            incidents.push(Incident::SignalBegan { signal: self.signal, began, lasted_ns });
        }
        incidents.push(Incident::SignalEnded { signal: self.signal, began, lasted_ns });
    }

    /// Whether it has lasted for the hold time at `at`, until which it held.
    pub fn has_lasted(&mut self, at: Pts, incidents: &mut Vec<Incident>) -> bool {
        let Some(began) = self.began else { return false };
        let lasted_ns = at.0.saturating_sub(began.0);
        if lasted_ns < self.hold_ns {
            return false;
        }
        if !std::mem::replace(&mut self.is_on, true) {
            incidents.push(Incident::SignalBegan { signal: self.signal, began, lasted_ns });
        }
        true
    }

    /// Since when it holds.
    pub const fn began(&self) -> Option<Pts> {
        self.began
    }

    /// Whether it has lasted for the hold time at the end of a second.
    pub const fn is_on(&self) -> bool {
        self.is_on
    }

    /// Whether it holds.
    pub fn holds(&self) -> bool {
        self.began.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: u64 = 1_000_000_000;

    fn hold() -> Hold {
        Hold::new(Signal::Black, 2 * S)
    }

    fn named(incidents: &[Incident]) -> Vec<(&'static str, u64, u64)> {
        incidents
            .iter()
            .map(|incident| {
                let (_, began, lasted_ns) = incident.signal().unwrap();
                (incident.as_str(), began.0, lasted_ns)
            })
            .collect()
    }

    #[test]
    fn it_is_reported_once_at_the_hold_time_and_once_at_its_end() {
        let (mut hold, mut out) = (hold(), Vec::new());
        hold.observe(true, Pts(S / 2), &mut out);
        assert!(!hold.has_lasted(Pts(2 * S), &mut out) && out.is_empty(), "a second and a half");
        hold.observe(true, Pts(2 * S), &mut out);
        assert!(hold.has_lasted(Pts(5 * S / 2), &mut out), "two seconds are enough");
        assert!(hold.has_lasted(Pts(3 * S), &mut out));
        hold.observe(false, Pts(4 * S), &mut out);
        hold.observe(false, Pts(5 * S), &mut out);
        assert_eq!(named(&out), [("signal-began", S / 2, 2 * S), ("signal-ended", S / 2, 7 * S / 2)]);
    }

    #[test]
    fn a_short_one_is_not_reported_and_one_that_ends_between_two_checks_is() {
        let (mut hold, mut out) = (hold(), Vec::new());
        hold.observe(true, Pts(S), &mut out);
        hold.observe(false, Pts(3 * S - 1), &mut out);
        assert!(out.is_empty());
        hold.observe(true, Pts(4 * S), &mut out);
        hold.observe(false, Pts(6 * S), &mut out);
        assert_eq!(named(&out), [("signal-began", 4 * S, 2 * S), ("signal-ended", 4 * S, 2 * S)]);
    }
}

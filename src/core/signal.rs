//! Conditions that show in the signal itself: test bars, black, freeze and silence.
//!
//! Detectors find them in the frames and samples of a second (`touchline-compute`, `features::signal`). They are never classified:
//! a second whose picture counts as no programme is a [`Gap`](crate::clip::Gap), and silence is an absent sound.

use std::fmt;

use schemars::JsonSchema;
use serde::ser::{SerializeSeq, Serializer};
use serde::{Deserialize, Deserializer, Serialize};

/// A condition of the signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Signal {
    /// The picture is a pattern of colour bars.
    Bars,
    /// The picture is black.
    Black,
    /// The picture does not change.
    Freeze,
    /// There is sound, and it is silent.
    Silence,
}

impl Signal {
    /// All signals, in the order of records.
    pub const ALL: [Signal; 4] = [Signal::Bars, Signal::Black, Signal::Freeze, Signal::Silence];

    /// All names, in the order of [`Signal::ALL`].
    pub const NAMES: [&str; 4] = ["bars", "black", "freeze", "silence"];

    /// The name in records, settings and metric labels.
    pub const fn as_str(self) -> &'static str {
        match self {
            Signal::Bars => "bars",
            Signal::Black => "black",
            Signal::Freeze => "freeze",
            Signal::Silence => "silence",
        }
    }

    /// The name in texts for people.
    pub const fn title(self) -> &'static str {
        match self {
            Signal::Bars => "colour bars",
            Signal::Black => "black picture",
            Signal::Freeze => "frozen picture",
            Signal::Silence => "silence",
        }
    }

    /// Whether it is a condition of the picture.
    pub const fn is_of_picture(self) -> bool {
        !matches!(self, Signal::Silence)
    }
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A set of signals. Serialises to the list of their names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Signals(u8);

impl Signals {
    /// No signal.
    pub const NONE: Signals = Signals(0);

    /// Adds `signal`.
    pub const fn insert(&mut self, signal: Signal) {
        self.0 |= 1 << signal as u8;
    }

    /// `self` with `signal`.
    #[must_use]
    pub const fn with(mut self, signal: Signal) -> Self {
        self.insert(signal);
        self
    }

    /// Whether `signal` is in the set.
    pub const fn contains(self, signal: Signal) -> bool {
        self.0 & (1 << signal as u8) != 0
    }

    /// Whether the set is empty.
    pub const fn is_empty(&self) -> bool {
        self.0 == 0
    }

    /// Whether the set has a condition of the picture.
    pub fn has_picture(self) -> bool {
        self.iter().any(Signal::is_of_picture)
    }

    /// The signals of the set, in the order of [`Signal::ALL`].
    pub fn iter(self) -> impl Iterator<Item = Signal> {
        Signal::ALL.into_iter().filter(move |signal| self.contains(*signal))
    }

    /// The names for people, separated by commas.
    pub fn titles(self) -> String {
        self.iter().map(Signal::title).collect::<Vec<_>>().join(", ")
    }
}

impl FromIterator<Signal> for Signals {
    fn from_iter<I: IntoIterator<Item = Signal>>(signals: I) -> Self {
        signals.into_iter().fold(Self::NONE, Self::with)
    }
}

impl Serialize for Signals {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut list = serializer.serialize_seq(None)?;
        for signal in self.iter() {
            list.serialize_element(&signal)?;
        }
        list.end()
    }
}

impl<'de> Deserialize<'de> for Signals {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        Vec::<Signal>::deserialize(from).map(|signals| signals.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_keep_their_order_and_know_pictures_from_sound() {
        let both: Signals = [Signal::Silence, Signal::Black, Signal::Black].into_iter().collect();
        assert_eq!(both.iter().map(Signal::as_str).collect::<Vec<_>>(), ["black", "silence"]);
        assert_eq!(both.titles(), "black picture, silence");
        assert!(both.has_picture() && !both.contains(Signal::Bars) && !both.is_empty());
        assert!(!Signals::NONE.with(Signal::Silence).has_picture() && Signals::NONE.is_empty());
        assert_eq!(Signal::ALL.map(Signal::as_str), Signal::NAMES);
        for signal in Signal::ALL {
            assert_eq!(Signals::NONE.with(signal).has_picture(), signal.is_of_picture());
        }
    }
}

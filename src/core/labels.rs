//! Class names and the compact ids that index every probability vector.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The 25 sports of the study Touchline comes from, in its (alphabetical) order.
pub const STUDY_CLASSES: [&str; 25] = [
    "americanfootball",
    "athletics",
    "badminton",
    "baseball",
    "basketball",
    "bowling",
    "boxing",
    "cricket",
    "cycling",
    "fieldhockey",
    "football",
    "formula1",
    "golf",
    "gymnastics",
    "handball",
    "icehockey",
    "lacrosse",
    "rugby",
    "skiing",
    "soccer",
    "swimming",
    "tabletennis",
    "tennis",
    "volleyball",
    "wrestling",
];

/// The class for everything else: studio, advertisements, crowd, unknown sports.
pub const OTHER: &str = "other";

/// Index of a class in its [`ClassSet`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ClassId(pub u16);

impl ClassId {
    /// The id as an index into probability vectors.
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// The classes of one pack, in the order of every probability vector. Names are unique and not empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClassSet {
    names: Vec<String>,
}

impl ClassSet {
    /// A class set with `names` in this order.
    ///
    /// # Errors
    /// If there are no names or too many, or one is empty, malformed or repeated.
    pub fn new(names: Vec<String>) -> Result<Self, String> {
        if names.is_empty() {
            return Err("the class list is empty".into());
        }
        if names.len() > usize::from(u16::MAX) {
            return Err(format!("{} classes are more than 65535", names.len()));
        }
        for (i, name) in names.iter().enumerate() {
            let well_formed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' || c == '-';
            if name.is_empty() || !name.chars().all(well_formed) {
                return Err(format!("class {i} is named {name:?}; use lower-case letters, digits, '-' and '_'"));
            }
            if names[..i].contains(name) {
                return Err(format!("class {name:?} is listed twice"));
            }
        }
        Ok(Self { names })
    }

    /// Number of classes.
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// Always false: a class set has at least one class.
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// All names, in order of their ids.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// The name of `id`.
    ///
    /// # Panics
    /// If `id` does not belong to this set.
    pub fn name(&self, id: ClassId) -> &str {
        &self.names[id.index()]
    }

    /// The id of `name`; `None` if the set has no such class.
    pub fn id(&self, name: &str) -> Option<ClassId> {
        self.names.iter().position(|n| n == name).map(|i| ClassId(i as u16))
    }

    /// All ids, ascending.
    pub fn ids(&self) -> impl Iterator<Item = ClassId> + use<> {
        (0..self.names.len() as u16).map(ClassId)
    }
}

/// One of the three views of a second.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Modality {
    /// The pictures.
    Rgb,
    /// The motion between them.
    Flow,
    /// The sound.
    Audio,
}

impl Modality {
    /// All modalities.
    pub const ALL: [Modality; 3] = [Modality::Rgb, Modality::Flow, Modality::Audio];

    /// The name in packs, records and metric labels.
    pub const fn as_str(self) -> &'static str {
        match self {
            Modality::Rgb => "rgb",
            Modality::Flow => "flow",
            Modality::Audio => "audio",
        }
    }
}

impl std::fmt::Display for Modality {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn class_sets_refuse_invalid_labels() {
        let set = |names: &[&str]| ClassSet::new(names.iter().map(|s| s.to_string()).collect());
        assert!(set(&[]).unwrap_err().contains("empty"));
        assert!(set(&["tennis", "tennis"]).unwrap_err().contains("twice"));
        assert!(set(&["table tennis"]).unwrap_err().contains("table tennis"));
        let study = set(&STUDY_CLASSES).unwrap();
        assert_eq!(study.id("badminton"), Some(ClassId(2)));
        assert_eq!(study.name(ClassId(24)), "wrestling");
        assert_eq!(study.id("chess"), None);
    }
}

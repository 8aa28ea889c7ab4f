//! Finds keys that do not exist, and the key that may be meant.

use schemars::JsonSchema;
use serde_json::Value;

use super::raw::{Keys, plain_schema};

impl Keys {
    /// The keys of `T`, from its schema.
    pub fn of_type<T: JsonSchema>() -> Self {
        Self::of(&plain_schema::<T>())
    }

    /// The key or section that is nearest to `path`, which is neither.
    pub fn nearest(&self, path: &str) -> Option<&str> {
        let (section, name) = split(path);
        let names = self.keys.iter().map(|key| &key.path).chain(&self.sections);
        // Half of a name is near to it as well: latency, latency_ms.
        let is_part = |known: &str| name.len() > 3 && (known.starts_with(name) || name.starts_with(known));
        let distance = |known: &str| if is_part(known) { 1 } else { strsim::damerau_levenshtein(name, known) };
        names
            .map(|known| (distance(split(known).1), split(known).0 != section, known))
            .filter(|(distance, ..)| *distance <= (name.chars().count() / 3).max(1))
            .min()
            .map(|(.., nearest)| nearest.as_str())
    }

    /// The names of the keys in `section`.
    pub fn in_section(&self, section: &str) -> Vec<&str> {
        self.keys.iter().map(|key| split(&key.path)).filter(|(of, _)| *of == section).map(|(_, name)| name).collect()
    }

    /// The first key of `tree` that is unknown.
    pub fn unknown_in(&self, tree: &Value) -> Option<String> {
        self.unknown_below("", tree)
    }

    fn unknown_below(&self, prefix: &str, tree: &Value) -> Option<String> {
        tree.as_object()?.iter().find_map(|(name, value)| {
            let path = format!("{prefix}{name}");
            if self.sections.contains(&path) {
                return self.unknown_below(&format!("{path}."), value);
            }
            self.find(&path).is_none().then_some(path)
        })
    }
}

/// `section.key` → both. A key outside sections has an empty one.
pub(super) fn split(path: &str) -> (&str, &str) {
    path.rsplit_once('.').unwrap_or(("", path))
}

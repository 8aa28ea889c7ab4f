//! Finds keys that do not exist, and the key that may be meant.

use schemars::JsonSchema;
use serde_json::Value;

use super::raw::{Keys, plain_schema};
use crate::nearest::distance_if_near;

impl Keys {
    /// The keys of `T`, from its schema.
    pub fn of_type<T: JsonSchema>() -> Self {
        Self::of(&plain_schema::<T>())
    }

    /// The key or section that is nearest to `path`, which is neither.
    pub fn nearest(&self, path: &str) -> Option<&str> {
        let (section, name) = split(path);
        let names = self.keys.iter().map(|key| &key.path).chain(&self.sections);
        let place = |known| Some((distance_if_near(name, split(known).1, 4)?, split(known).0 != section, known));
        names.filter_map(|known| place(known)).min().map(|(.., nearest)| nearest)
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

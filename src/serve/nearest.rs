//! Names that are nearly another, for messages about misspelt keys and classes.

/// The edit distance of `name` from `known`, if it is at most a third of the name. A part of at least `part` bytes is near as well:
/// latency, latency_ms.
pub(crate) fn distance_if_near(name: &str, known: &str, part: usize) -> Option<usize> {
    let is_part = name.len() >= part && (known.starts_with(name) || name.starts_with(known));
    let distance = if is_part { 1 } else { strsim::damerau_levenshtein(name, known) };
    (distance <= (name.chars().count() / 3).max(1)).then_some(distance)
}

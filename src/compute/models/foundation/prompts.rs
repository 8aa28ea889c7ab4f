//! Prompts: the texts that stand for a class.

use std::collections::BTreeMap;

use touchline_core::labels::OTHER;

/// Prompts by class.
pub type Prompts = BTreeMap<String, Vec<String>>;

/// Prompts of a class for which the user gives none. `{class}` is the name of the class as people write it.
const TEMPLATES: [&str; 4] = [
    "a broadcast picture of {class}",
    "a television picture of a {class} match",
    "a photo of people doing {class}",
    "live coverage of {class}",
];

/// Prompts of the class [`OTHER`].
const OTHER_PROMPTS: [&str; 5] = [
    "a television studio with a presenter",
    "a television advertisement",
    "a news broadcast",
    "a crowd of spectators",
    "a picture without any sport",
];

/// Names of classes as people write them, where they differ from the class.
const SPELLED: [(&str, &str); 6] = [
    ("americanfootball", "american football"),
    ("fieldhockey", "field hockey"),
    ("football", "gaelic football"),
    ("formula1", "formula 1 racing"),
    ("icehockey", "ice hockey"),
    ("tabletennis", "table tennis"),
];

/// The prompts of a class: those given, or the built-in ones.
pub(super) fn prompts_of(given: &Prompts, class: &str) -> Vec<String> {
    let spelled = SPELLED.iter().find(|(name, _)| *name == class).map_or(class, |(_, spelled)| spelled);
    let written: Vec<&str> = match given.get(class) {
        Some(prompts) => prompts.iter().map(String::as_str).collect(),
        None if class == OTHER => OTHER_PROMPTS.to_vec(),
        None => TEMPLATES.to_vec(),
    };
    written.into_iter().map(|prompt| prompt.replace("{class}", spelled)).collect()
}

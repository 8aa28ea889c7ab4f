//! The keys of the bucket as text.

use crate::fleet::FleetKey;

/// The keys that all nodes observe.
pub(super) const WATCHED: &str = "fleet.>";

/// The key of the rollout.
const ROLLOUT: &str = "fleet.rollout";

/// The text of a key. Ids have full stops, which separate the parts of a key; "=" stands for one, and no id has it.
pub(super) fn text_of(key: &FleetKey) -> String {
    let (kind, name) = match key {
        FleetKey::Renewal(node) => ("renewal", node),
        FleetKey::Node(node) => ("fleet.node", node),
        FleetKey::Stream(id) => ("fleet.stream", id),
        FleetKey::Lease(id) => ("fleet.lease", id),
        FleetKey::Pack(node) => ("fleet.pack", node),
        FleetKey::Rollout => return ROLLOUT.to_owned(),
    };
    format!("{kind}.{}", name.replace('.', "="))
}

/// The key of a text; `None` for others.
pub(super) fn key_of(text: &str) -> Option<FleetKey> {
    if text == ROLLOUT {
        return Some(FleetKey::Rollout);
    }
    let (kind, name) = text.rsplit_once('.')?;
    let name = name.replace('=', ".").into();
    match kind {
        "renewal" => Some(FleetKey::Renewal(name)),
        "fleet.node" => Some(FleetKey::Node(name)),
        "fleet.stream" => Some(FleetKey::Stream(name)),
        "fleet.lease" => Some(FleetKey::Lease(name)),
        "fleet.pack" => Some(FleetKey::Pack(name)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_survive_being_text_and_only_renewals_are_not_watched() {
        let of: [fn(&str) -> FleetKey; 5] = [
            |name| FleetKey::Renewal(name.into()),
            |name| FleetKey::Node(name.into()),
            |name| FleetKey::Stream(name.into()),
            |name| FleetKey::Lease(name.into()),
            |name| FleetKey::Pack(name.into()),
        ];
        for make in of {
            for name in ["court.1", ".a.", "node-1_x", "a"] {
                let key = make(name);
                let text = text_of(&key);
                assert_eq!(key_of(&text), Some(key.clone()));
                assert!(!text.contains("..") && !text.ends_with('.'), "{text}");
                assert_eq!(text.starts_with("fleet."), !matches!(key, FleetKey::Renewal(_)));
            }
        }
        assert_eq!(key_of(&text_of(&FleetKey::Rollout)), Some(FleetKey::Rollout));
        assert_eq!(key_of("fleet.other.a"), None);
    }
}

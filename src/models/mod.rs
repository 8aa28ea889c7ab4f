//! The networks and the packs that carry their weights.

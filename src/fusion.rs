//! The class-to-modality table and the decision of one second.

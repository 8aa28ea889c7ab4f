//! Training on labelled recordings, from a folder to a model pack.
//!
//! ```text
//!  recordings, stills ──► dataset (seconds, split by source) ──► rows (views, frozen features) ──► fit ──► run
//!                                                                                              rules ┘      │
//!  report ◄── evaluate ◄── pack (table and temperatures from validation) ◄──────────────────────────────────┘
//! ```
//!
//! Training uses the feature code and the clip builder of serving, so that a model is trained on the inputs that it is later scored on.

#![deny(missing_docs)]

pub mod adapt;
pub mod augment;
pub mod calibrate;
pub mod classes;
pub mod dataset;
pub mod evaluate;
pub mod fit;
pub mod held_out;
pub mod inputs;
mod lbfgs;
pub mod measure;
pub mod net;
pub mod optimizer;
pub mod pack;
pub mod record;
pub mod report;
pub mod resources;
pub mod rows;
pub mod rules;
pub mod train;

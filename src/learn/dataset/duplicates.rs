//! Recordings and stills that show the same, so that they end on one side of a split.

use serde::Serialize;

use super::prints::Print;
use super::{Item, Origin};

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub recordings: usize,
    pub stills: usize,
    pub groups_joined: usize,
    pub lines: Vec<Line>,
}

/// A line of `duplicates.csv`: two items that show the same.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Line {
    pub a: String,
    pub b: String,
}

pub(super) fn find(_items: &mut [(Item, Origin)], _prints: &[Vec<Print>]) -> Found {
    Found::default()
}

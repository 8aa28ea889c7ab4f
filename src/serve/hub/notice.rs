//! A sentence that the page shows to all viewers.

use std::sync::Arc;

use parking_lot::RwLock;

/// A sentence on the page that can change while the program runs. Clones share it.
#[derive(Clone, Debug)]
pub struct Notice(Arc<RwLock<String>>);

impl Notice {
    /// A notice that reads `text`.
    pub fn new(text: impl Into<String>) -> Self {
        Self(Arc::new(RwLock::new(text.into())))
    }

    /// Changes the text. Pages show it within ten seconds.
    pub fn set(&self, text: impl Into<String>) {
        *self.0.write() = text.into();
    }

    /// The text.
    pub fn text(&self) -> String {
        self.0.read().clone()
    }
}

//! The tenure of a stream of a fleet: this node watches it, and may publish it while the fleet's store acknowledges that.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};

/// Until when a node may publish, on the monotonic clock of the process. Cloning shares it.
#[derive(Clone, Debug, Default)]
pub struct PublishingRight(Arc<AtomicU64>);

impl PublishingRight {
    /// Nothing may be published from `until_ns` on, nanoseconds of the monotonic clock.
    pub fn lasts_until(&self, until_ns: u64) {
        self.0.store(until_ns, Ordering::SeqCst);
    }

    /// Whether a record may be published at `now_ns`, nanoseconds of the monotonic clock.
    pub fn holds(&self, now_ns: u64) -> bool {
        now_ns < self.0.load(Ordering::SeqCst)
    }
}

/// The right of a node, whose sessions follow one another.
#[derive(Debug, Default)]
pub struct SessionRight {
    session: u64,
    right: PublishingRight,
}

impl SessionRight {
    /// `session` may publish until `until_ns`, nanoseconds of the monotonic clock. With another session the right of the one before is over
    /// for ever: other nodes have its streams, and what still waits of them must not follow when this node may publish again.
    pub fn lasts_until(&mut self, session: u64, until_ns: u64) {
        if std::mem::replace(&mut self.session, session) != session {
            std::mem::take(&mut self.right).lasts_until(0);
        }
        self.right.lasts_until(until_ns);
    }

    /// The right of the session, for its tenures.
    pub fn current(&self) -> &PublishingRight {
        &self.right
    }
}

/// Whether the records of a stream are published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TenureStage {
    /// The node decides and publishes nothing: another node publishes the stream until this one takes it over.
    Preparing,
    /// The node publishes.
    Publishing,
    /// The node must not publish: the store has not acknowledged it for too long.
    Interrupted,
}

/// The time for which a node watches a stream of a fleet.
#[derive(Debug)]
pub struct FleetTenure {
    node: Arc<str>,
    right: PublishingRight,
    /// 0 before the node has taken the stream.
    epoch: AtomicU64,
    has_decided: AtomicBool,
    /// Nanoseconds since 1970-01-01 UTC; `i64::MIN` if nothing was lost.
    lost_since_ns: AtomicI64,
    /// End of the last published second, nanoseconds since 1970-01-01 UTC; `i64::MIN` before the first.
    published_until_ns: AtomicI64,
}

impl FleetTenure {
    /// A tenure that is being prepared by the node `node`.
    pub fn new(node: Arc<str>, right: PublishingRight) -> Self {
        let (epoch, has_decided) = (AtomicU64::new(0), AtomicBool::new(false));
        let [lost_since_ns, published_until_ns] = [(); 2].map(|()| AtomicI64::new(i64::MIN));
        Self { node, right, epoch, has_decided, lost_since_ns, published_until_ns }
    }

    /// Name of the node.
    pub fn node(&self) -> &str {
        &self.node
    }

    /// Publishes from now on, with this epoch.
    pub fn take(&self, epoch: u64) {
        self.epoch.store(epoch, Ordering::SeqCst);
    }

    /// The epoch of the records; `None` before the node has taken the stream.
    pub fn epoch(&self) -> Option<u64> {
        Some(self.epoch.load(Ordering::SeqCst)).filter(|epoch| *epoch > 0)
    }

    /// What may happen to a second at `now_ns`, nanoseconds of the monotonic clock.
    pub fn stage(&self, now_ns: u64) -> TenureStage {
        match self.epoch() {
            _ if !self.right.holds(now_ns) => TenureStage::Interrupted,
            None => TenureStage::Preparing,
            Some(_) => TenureStage::Publishing,
        }
    }

    /// A second of the stream was decided.
    pub fn decided(&self) {
        self.has_decided.store(true, Ordering::SeqCst);
    }

    /// Whether a second of the stream was decided.
    pub fn has_decided(&self) -> bool {
        self.has_decided.load(Ordering::SeqCst)
    }

    /// A second was published that ends at `unix_ns`, nanoseconds since 1970-01-01 UTC.
    pub fn published(&self, unix_ns: i64) {
        self.published_until_ns.fetch_max(unix_ns, Ordering::SeqCst);
    }

    /// The end of the last published second, nanoseconds since 1970-01-01 UTC; `None` before the first.
    pub fn published_until(&self) -> Option<i64> {
        Some(self.published_until_ns.load(Ordering::SeqCst)).filter(|unix_ns| *unix_ns != i64::MIN)
    }

    /// No node published the stream from `unix_ns` on, nanoseconds since 1970-01-01 UTC.
    pub fn lost_since(&self, unix_ns: i64) {
        self.lost_since_ns.store(unix_ns, Ordering::SeqCst);
    }

    /// Since when no node published the stream, nanoseconds since 1970-01-01 UTC; `None` if nothing was lost.
    pub fn lost(&self) -> Option<i64> {
        Some(self.lost_since_ns.load(Ordering::SeqCst)).filter(|unix_ns| *unix_ns != i64::MIN)
    }

    /// As [`FleetTenure::lost`], once: a span is published by one source of the stream.
    pub fn take_lost(&self) -> Option<i64> {
        Some(self.lost_since_ns.swap(i64::MIN, Ordering::SeqCst)).filter(|unix_ns| *unix_ns != i64::MIN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenure_ends_with_the_right_and_publishes_once_it_is_taken() {
        let right = PublishingRight::default();
        let tenure = FleetTenure::new("a".into(), right.clone());
        assert_eq!((tenure.stage(0), tenure.epoch()), (TenureStage::Interrupted, None));
        right.lasts_until(100);
        assert_eq!(tenure.stage(99), TenureStage::Preparing);
        tenure.take(3);
        assert_eq!((tenure.stage(99), tenure.epoch()), (TenureStage::Publishing, Some(3)));
        assert_eq!(tenure.stage(100), TenureStage::Interrupted);
        right.lasts_until(200);
        assert_eq!(tenure.stage(100), TenureStage::Publishing);
        assert_eq!(tenure.lost(), None);
        tenure.lost_since(7);
        assert_eq!(tenure.published_until(), None);
        tenure.published(9);
        tenure.published(8);
        assert_eq!(tenure.published_until(), Some(9));
        assert_eq!((tenure.lost(), tenure.take_lost(), tenure.take_lost()), (Some(7), Some(7), None));
    }
}

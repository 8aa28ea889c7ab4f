//! A source from memory: sends a script of items in order. For tests and for embedding without GStreamer.

use std::sync::Mutex;
use std::thread::JoinHandle;

use crossbeam_channel::Sender;

use super::outlet::{Outlet, Stopper};
use super::{Open, Source};
use touchline_core::error::{Error, Result};
use touchline_core::item::{End, MediaItem, Pace};

/// Plays one script per call of [`Open::open`], in order. The URI is ignored.
#[derive(Debug)]
pub struct Replay {
    pace: Pace,
    scripts: Mutex<std::vec::IntoIter<Script>>,
}

/// The items of one connection of a [`Replay`].
#[derive(Debug)]
pub struct Script {
    /// Sent in order.
    pub items: Vec<MediaItem>,
    /// How it ends; [`None`]: it sends nothing after the last item and ends on a stop request.
    pub end: Option<End>,
}

impl Replay {
    /// A replay of `scripts`, one per connection.
    pub fn new(pace: Pace, scripts: Vec<Script>) -> Self {
        Self { pace, scripts: Mutex::new(scripts.into_iter()) }
    }

    /// One script that ends with [`End::Finished`].
    pub fn once(pace: Pace, items: Vec<MediaItem>) -> Self {
        Self::new(pace, vec![Script { items, end: Some(End::Finished) }])
    }
}

impl Open for Replay {
    /// # Errors
    /// [`Error::Source`] when all scripts were used.
    fn open(&self, uri: &str, to: Sender<MediaItem>) -> Result<Box<dyn Source>> {
        let script = self.scripts.lock().unwrap_or_else(|e| e.into_inner()).next();
        let Some(Script { items, end }) = script else {
            return Err(Error::source_error(
                touchline_core::redact::uri(uri),
                "nothing left to replay",
                "give more scripts",
            ));
        };
        let outlet = Outlet::new(to);
        let (stopper, sender) = (outlet.stopper(), outlet);
        let thread = std::thread::Builder::new()
            .name("replay".into())
            .spawn(move || {
                let all_sent = items.into_iter().all(|item| sender.send(item).is_ok());
                let end = match end {
                    Some(end) if all_sent => end,
                    _ => {
                        while all_sent && !sender.stopped() {
                            std::thread::park_timeout(std::time::Duration::from_millis(20));
                        }
                        End::Finished
                    }
                };
                sender.send_end(end);
            })
            .map_err(|e| Error::Internal(format!("cannot start the replay thread: {e}")))?;
        Ok(Box::new(ReplaySource { pace: self.pace, stopper, thread: Some(thread) }))
    }
}

struct ReplaySource {
    pace: Pace,
    stopper: Stopper,
    thread: Option<JoinHandle<()>>,
}

impl Source for ReplaySource {
    fn pace(&self) -> Pace {
        self.pace
    }

    fn stop(&mut self) {
        self.stopper.stop();
    }
}

impl Drop for ReplaySource {
    fn drop(&mut self) {
        self.stopper.abandon();
        if let Some(thread) = self.thread.take() {
            // The panic hook has already printed a panic of the thread.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use touchline_core::item::Tracks;

    const OPENED: MediaItem = MediaItem::Opened(Tracks { video: true, audio: false });

    #[test]
    fn items_come_in_order_and_the_end_comes_last() {
        let (to, from) = crossbeam_channel::bounded(1);
        let replay = Replay::once(Pace::File, vec![OPENED, MediaItem::TrackEnded(touchline_core::item::Track::Video)]);
        let source = replay.open("x", to).unwrap();
        assert_eq!(source.pace(), Pace::File);
        let items: Vec<_> = from.iter().collect();
        assert!(
            matches!(items[..], [MediaItem::Opened(_), MediaItem::TrackEnded(_), MediaItem::Ended(End::Finished)]),
            "{items:?}"
        );
        assert!(replay.open("x", crossbeam_channel::bounded(1).0).is_err());
    }

    #[test]
    fn a_full_channel_does_not_keep_a_dropped_source() {
        let (to, _from) = crossbeam_channel::bounded(1);
        let replay = Replay::new(Pace::Live, vec![Script { items: vec![OPENED, OPENED, OPENED], end: None }]);
        drop(replay.open("x", to).unwrap());
    }
}

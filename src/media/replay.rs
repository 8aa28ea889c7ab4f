//! A source from memory: sends a script of items in order. For tests and for embedding without GStreamer.

use crossbeam_channel::Sender;
use parking_lot::Mutex;

use super::{Open, Source, threaded};
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
        let script = self.scripts.lock().next();
        let Some(Script { items, end }) = script else {
            return Err(Error::source_error(
                touchline_core::redact::uri(uri),
                "nothing left to replay",
                "give more scripts",
            ));
        };
        threaded::start("replay", self.pace, to, move |outlet| {
            let all_sent = items.into_iter().all(|item| outlet.send(item).is_ok());
            match end {
                Some(end) if all_sent => end,
                _ => {
                    if all_sent {
                        // Nothing is ever sent there: it returns when the source is asked to stop.
                        let _ = outlet.stopping().recv();
                    }
                    End::Finished
                }
            }
        })
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
    fn dropping_a_source_with_a_full_channel_does_not_block() {
        let (to, _from) = crossbeam_channel::bounded(1);
        let replay = Replay::new(Pace::Live, vec![Script { items: vec![OPENED, OPENED, OPENED], end: None }]);
        drop(replay.open("x", to).unwrap());
    }
}

//! Passes the fetched media of a player to demuxers.

use std::sync::Arc;

use crossbeam_channel::{Sender, bounded};

use super::Decoder;
use super::input::{DemuxerIntake, PlayerMessage, RunningDecoder};
use super::player::{DemuxerStart, Feeder, PlayerNote};
use crate::guard::Refusal;
use touchline_core::cause::Cause;
use touchline_core::item::Tracks;

/// Capacity of the channel between a decoder and the relay: slack for a thread switch. The real buffer is the channel after the
/// relay.
pub(super) const ITEMS_MAX: usize = 4;

/// Feeds one demuxer after the other, and announces each to the relay.
pub(super) struct DemuxerFeed {
    decoder: Arc<dyn Decoder>,
    pub wants: Tracks,
    pub to: Sender<PlayerMessage>,
    current: Option<(Box<dyn super::DemuxerInput>, Arc<DemuxerIntake>)>,
}

impl DemuxerFeed {
    pub fn new(decoder: Arc<dyn Decoder>, wants: Tracks, to: Sender<PlayerMessage>) -> Self {
        Self { decoder, wants, to, current: None }
    }

    pub fn end(&mut self) {
        if let Some((input, _)) = self.current.take() {
            input.end();
        }
    }
}

impl Feeder for DemuxerFeed {
    async fn begin(&mut self, beginning: DemuxerStart) -> Result<(), Refusal> {
        self.end();
        let (decoder, wants, intake) = (self.decoder.clone(), self.wants, Arc::new(DemuxerIntake::default()));
        let (to, from) = bounded(ITEMS_MAX);
        let shared = intake.clone();
        // On a blocking thread: loading plugins and making pipelines takes milliseconds, and this thread serves other streams.
        let begun = tokio::task::spawn_blocking(move || decoder.begin(&beginning, wants, shared, to)).await;
        let failed = |cause: String| Refusal::of(Cause::Other, cause, "run `touchline doctor`");
        let begun = begun.map_err(|e| failed(e.to_string()))?;
        let (source, input) = begun.map_err(|e| failed(e.to_string()))?;
        // Fails when the stream is over.
        let _ = self.to.send(PlayerMessage::Decoding(RunningDecoder { _source: source, from, intake: intake.clone() }));
        self.current = Some((input, intake));
        Ok(())
    }

    async fn push(&mut self, bytes: Vec<u8>) -> bool {
        let Some((input, intake)) = &self.current else { return false };
        if intake.is_closed() || !input.push(bytes) {
            return false;
        }
        while input.is_full() && !intake.is_closed() {
            intake.changed().await;
        }
        !intake.is_closed()
    }

    fn note(&mut self, note: PlayerNote) {
        // Fails when the stream is over.
        let _ = self.to.send(PlayerMessage::Note(note));
    }
}

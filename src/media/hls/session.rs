//! One connection of a web source: detects its content, chooses a variant, and plays it.

use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Sender, bounded};
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep, timeout};
use url::Url;

use super::attributes::Variables;
use super::container::{self, Container};
use super::content::{AddressContent, HttpOrigin, RESPONSE_TIMEOUT, inspect};
use super::cursor::PlaylistMemory;
use super::demuxer_feed::{DemuxerFeed, ITEMS_MAX};
use super::fetch::Origin;
use super::input::{PlayerMessage, RelayInput};
use super::player::{DemuxerStart, Feeder, PlayerEnd, PlayerNote, PlaylistPlayer};
use super::playlist::{MediaPlaylist, MultivariantPlaylist, Variant};
use super::refusals::{read_media, still_over};
use super::relay::Relay;
use super::splice_monitor::SpliceMonitor;
use super::timeline::{TimelineAnchors, TimelinePlacer};
use super::{Decoder, HlsRequest, variant};
use crate::facts::{SharedFacts, VARIANTS_MAX, VariantFacts};
use crate::guard::Refusal;
use crate::options::HlsOptions;
use crate::outlet::{Counters, Outlet};
use crate::web::{WebClient, WebResponse};
use touchline_core::cause::Cause;
use touchline_core::item::{End, MediaItem, Tracks};

/// How long a damaged playlist is read again before it is a failure.
const DAMAGED_MAX: Duration = Duration::from_secs(3);

/// Pause between two of these reads.
const DAMAGED_PAUSE: Duration = Duration::from_secs(1);

/// Pause before separate sound is retried after a failure.
const SOUND_PAUSE: Duration = Duration::from_secs(3);

/// How long separate sound waits for the first picture segment.
const SOUND_WAITS: Duration = Duration::from_secs(20);

/// How many bytes of an endless stream are read before it is inspected.
const STREAM_HEAD: usize = 64 << 10;

/// Capacity for messages of a player: a segment has at most five, and the relay receives them at every step.
const MESSAGES_MAX: usize = 4096;

/// Plays `request` into `outlet`, including the end.
pub(super) fn run(request: &HlsRequest, runtime: &Handle, outlet: &Outlet) {
    let (main_to, main_from) = bounded(MESSAGES_MAX);
    let (sound_to, sound_from) = bounded(MESSAGES_MAX);
    let (recording_to, recording_from) = bounded(1);
    let session = HlsSession {
        web: Arc::new(WebClient::new(request.policy.clone())),
        url: request.url.clone(),
        options: request.options.clone(),
        frame_height: request.frame_height,
        wants: request.wants,
        decoder: request.decoder.clone(),
        counters: request.counters.clone(),
        facts: request.facts.clone(),
        memory: request.memory.clone(),
    };
    let task = runtime.spawn(session.play(main_to, sound_to, recording_to));
    let _stop = AbortOnDrop(task.abort_handle());
    let inputs = vec![RelayInput::new(main_from), RelayInput::new(sound_from)];
    let mut end = Relay::new(inputs, outlet.clone(), request.clock.clone(), request.is_paced).run();
    if recording_from.try_recv().is_ok() {
        end = recording(request, outlet);
    }
    outlet.send_end(end);
}

struct AbortOnDrop(AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Plays a recording by its address, as it is.
fn recording(request: &HlsRequest, outlet: &Outlet) -> End {
    let (to, from) = bounded(ITEMS_MAX);
    let source = match request.decoder.recording(to) {
        Ok(source) => source,
        Err(e) => return super::relay::failed(&e.to_string(), "check the address"),
    };
    let end = loop {
        crossbeam_channel::select! {
            recv(from) -> item => match item {
                Ok(MediaItem::Ended(end)) => break end,
                Ok(item) => if outlet.send(item).is_err() { break End::Finished },
                Err(_) => break End::Finished,
            },
            recv(outlet.stopping()) -> _ => break End::Finished,
        }
    };
    // Its threads may wait for room in the channel.
    drop(from);
    drop(source);
    end
}

/// The state of a session.
struct HlsSession {
    web: Arc<WebClient>,
    url: Url,
    options: HlsOptions,
    frame_height: u32,
    wants: Tracks,
    decoder: Arc<dyn Decoder>,
    counters: Arc<Counters>,
    facts: SharedFacts,
    memory: PlaylistMemory,
}

impl HlsSession {
    async fn play(self, main: Sender<PlayerMessage>, sound: Sender<PlayerMessage>, recording: Sender<()>) {
        let found = self.find().await;
        self.facts.update(|facts| facts.kind = found.as_ref().ok().map(AddressContent::kind));
        let end = match found {
            Err(refusal) => PlayerEnd::Failed(refusal),
            Ok(AddressContent::Recording) => {
                // The relay ends with the players; then `run` checks this channel.
                let _ = recording.send(());
                PlayerEnd::Over
            }
            Ok(AddressContent::Stream(answer, head, container)) => {
                drop(sound);
                // Fails when the source was dropped.
                let _ = main.send(PlayerMessage::Arrival);
                let feeder = DemuxerFeed::new(self.decoder.clone(), self.wants, main.clone());
                PlayerEnd::Failed(stream(feeder, answer, head, container).await)
            }
            Ok(AddressContent::Media(media, url)) => {
                drop(sound);
                self.alone(*media, &url, &main).await
            }
            Ok(AddressContent::Variants(list)) => self.variants(&list, &main, sound).await,
        };
        let _ = main.send(PlayerMessage::End(end));
    }

    /// Detects the content. A damaged playlist is read again for a while.
    async fn find(&self) -> Result<AddressContent, Refusal> {
        let began = Instant::now();
        loop {
            let refusal = match inspect(&self.web, &self.url).await {
                Ok(content) => return Ok(content),
                Err(refusal) => refusal,
            };
            // A playlist that is read while the packager writes it looks damaged.
            if refusal.kind != Cause::Damaged || began.elapsed() > DAMAGED_MAX {
                return Err(refusal);
            }
            sleep(DAMAGED_PAUSE).await;
        }
    }

    /// Plays the best variant that works, and the next one when it fails.
    async fn variants(
        &self,
        list: &MultivariantPlaylist,
        main: &Sender<PlayerMessage>,
        sound: Sender<PlayerMessage>,
    ) -> PlayerEnd {
        let variants = variant::ranked(list, &self.options, self.frame_height);
        let (mut sound, mut beside, mut first) = (Some(sound), None, None);
        let mut main = MainPlayer { to: main.clone(), playing: None };
        // Variants that failed in a row without playing for a while.
        let mut dead = 0;
        // Cyclic: a variant that failed may work again.
        for chosen in variants.iter().cycle() {
            let rendition = variant::sound(list, chosen, &self.options).filter(|_| self.wants.audio);
            let wants = Tracks { audio: self.wants.audio && rendition.is_none(), ..self.wants };
            tracing::debug!(height = chosen.height, bandwidth = chosen.bandwidth, "HLS variant chosen");
            self.facts.update(|facts| facts.variants = facts_of(&variants, chosen));
            let began = Instant::now();
            let choice = PlaylistChoice { url: &chosen.url, variables: &list.variables, wants };
            let refusal = match self.begin(&choice, &mut main).await {
                Err(refusal) => refusal,
                Ok(media) => {
                    let playing = main.playing.as_mut().expect("it was begun");
                    if let Some(url) = &rendition.and_then(|r| r.url)
                        && let Some(to) = sound.take()
                    {
                        let wants = Tracks { video: false, audio: true };
                        beside = Some(self.begin_sound(&PlaylistChoice { url, wants, ..choice }, playing, to));
                    }
                    // Closes the channel: the relay does not wait for sound that no variant has.
                    sound = None;
                    let (player, _) = playing;
                    match player.run(Some(media)).await {
                        PlayerEnd::Failed(refusal) => refusal,
                        PlayerEnd::Over => {
                            player.feeder.end();
                            if beside.is_some() {
                                // The relay may wait for the sound, and this task must outlive that wait.
                                let _ = main.to.send(PlayerMessage::End(PlayerEnd::Over));
                                sleep(SOUND_WAITS).await;
                            }
                            return PlayerEnd::Over;
                        }
                    }
                }
            };
            tracing::info!("an HLS variant failed: {refusal}");
            dead = if began.elapsed() > RESPONSE_TIMEOUT { 1 } else { dead + 1 };
            let is_final = refusal.kind == Cause::Refused;
            first.get_or_insert(refusal);
            if dead >= variants.len() || is_final {
                break;
            }
        }
        if let Some((player, _)) = &mut main.playing {
            player.settle();
        }
        PlayerEnd::Failed(first.unwrap_or_else(|| Refusal::of(Cause::NotFound, "no variant could be played", "")))
    }

    /// Loads the playlist of a variant and prepares the player for it: a new one, or the one of the previous variant.
    async fn begin(&self, choice: &PlaylistChoice<'_>, main: &mut MainPlayer) -> Result<MediaPlaylist, Refusal> {
        let (base, text) = self.fetcher().playlist(choice.url, RESPONSE_TIMEOUT).await?;
        let from = main.playing.as_ref().map_or(0, |(player, _)| player.cursor.wants_from());
        let media = read_media(&text, &base, choice.variables, from)?;
        self.ready(choice, main, &media)?;
        Ok(media)
    }

    fn fetcher(&self) -> Arc<HttpOrigin> {
        Arc::new(HttpOrigin { web: self.web.clone() })
    }

    /// Prepares the player for `choice`, whose playlist is `media`.
    fn ready(&self, choice: &PlaylistChoice<'_>, main: &mut MainPlayer, media: &MediaPlaylist) -> Result<(), Refusal> {
        let is_whole = media.is_over;
        if self.counters.on_demand.get() == Some(&false) && is_whole && main.playing.is_none() {
            // The packager of the channel has not restarted: the rest of the playlist was played already.
            return Err(still_over());
        }
        let PlaylistChoice { url, variables, wants } = *choice;
        let (player, _) = main.playing.get_or_insert_with(|| {
            let anchors = TimelineAnchors::default();
            let placer = TimelinePlacer::new(anchors.clone(), true, 0);
            let feeder = DemuxerFeed::new(self.decoder.clone(), wants, main.to.clone());
            let mut player = PlaylistPlayer::new(self.fetcher(), feeder, url.clone(), variables.clone(), placer);
            player.counters = self.counters.clone();
            if !is_whole {
                player.cursor = self.memory.resume(url, media);
                player.memory = Some(self.memory.clone());
            }
            (player, anchors)
        });
        player.change(url.clone());
        player.feeder.wants = wants;
        Ok(())
    }

    /// Plays the sound of `choice` beside the pictures of a player.
    fn begin_sound(
        &self,
        choice: &PlaylistChoice<'_>,
        (player, anchors): &mut (HttpPlayer, TimelineAnchors),
        to: Sender<PlayerMessage>,
    ) -> AbortOnDrop {
        let (first_to, first_from) = oneshot::channel();
        player.on_first = Some(first_to);
        let feeder = DemuxerFeed::new(self.decoder.clone(), choice.wants, to);
        let placer = TimelinePlacer::new(anchors.clone(), false, 0);
        let beside = PlaylistPlayer::new(self.fetcher(), feeder, choice.url.clone(), choice.variables.clone(), placer);
        AbortOnDrop(tokio::spawn(sound(beside, anchors.clone(), first_from)).abort_handle())
    }

    /// Plays a media playlist that was given directly.
    async fn alone(&self, media: MediaPlaylist, url: &Url, main: &Sender<PlayerMessage>) -> PlayerEnd {
        let mut main = MainPlayer { to: main.clone(), playing: None };
        let choice = PlaylistChoice { url, variables: &Variables::default(), wants: self.wants };
        if let Err(refusal) = self.ready(&choice, &mut main, &media) {
            return PlayerEnd::Failed(refusal);
        }
        let (player, _) = main.playing.as_mut().expect("it was made just now");
        let end = player.run(Some(media)).await;
        player.settle();
        player.feeder.end();
        end
    }
}

/// The facts about `variants`, the largest first.
fn facts_of(variants: &[Variant], chosen: &Variant) -> Vec<VariantFacts> {
    let mut all: Vec<&Variant> = variants.iter().collect();
    all.sort_by_key(|variant| std::cmp::Reverse((variant.height, variant.bandwidth)));
    let of = |variant: &&Variant| VariantFacts {
        height: variant.height,
        bandwidth: variant.bandwidth,
        codecs: variant.codecs.clone(),
        chosen: *variant == chosen,
    };
    all.iter().map(of).take(VARIANTS_MAX).collect()
}

type HttpPlayer = PlaylistPlayer<HttpOrigin, DemuxerFeed>;

/// A media playlist to play.
#[derive(Clone, Copy)]
struct PlaylistChoice<'a> {
    url: &'a Url,
    /// The variables of its multivariant playlist.
    variables: &'a Variables,
    wants: Tracks,
}

/// The main player of a session. It plays one variant after the other.
struct MainPlayer {
    to: Sender<PlayerMessage>,
    playing: Option<(HttpPlayer, TimelineAnchors)>,
}

/// Plays separate sound beside the pictures. It begins at the same segment and is retried as long as the pictures play.
async fn sound(mut player: HttpPlayer, anchors: TimelineAnchors, first: oneshot::Receiver<u128>) {
    player.begins_at = timeout(SOUND_WAITS, first).await.ok().and_then(Result::ok);
    while anchors.is_empty() {
        sleep(Duration::from_millis(20)).await;
    }
    loop {
        match player.run(None).await {
            PlayerEnd::Over => {
                player.feeder.end();
                // Fails when the stream is over.
                let _ = player.feeder.to.send(PlayerMessage::End(PlayerEnd::Over));
                return;
            }
            PlayerEnd::Failed(refusal) => tracing::warn!("the separate sound of the stream failed: {refusal}"),
        }
        if !player.has_media() {
            // Sound that never loaded must not delay the pictures.
            let _ = player.feeder.to.send(PlayerMessage::End(PlayerEnd::Over));
            return;
        }
        sleep(SOUND_PAUSE).await;
    }
}

/// Plays an endless stream until its connection ends.
async fn stream(mut feeder: DemuxerFeed, mut answer: WebResponse, mut head: Vec<u8>, container: Container) -> Refusal {
    let over = |cause: &str| Refusal::of(Cause::Ended, cause, "check the server that sends the stream");
    while head.len() < STREAM_HEAD && container != Container::MotionJpeg {
        match answer.chunk().await {
            Ok(Some(chunk)) => head.extend_from_slice(&chunk),
            Ok(None) => break,
            Err(refusal) => return refusal,
        }
    }
    let starts = container::inspect(&head, None).map_or([None; 2], |opened| opened.starts);
    let apart = |of: usize| Some(container::distance_ns(container, container::begins(&starts)?, starts[of]?));
    let beginning = DemuxerStart { container, tracks: [apart(0), apart(1)], line_ns: 0 };
    if let Err(refusal) = feeder.begin(beginning).await {
        return refusal;
    }
    let (mut next, mut splices) = (head, SpliceMonitor::default());
    loop {
        if container == Container::MpegTs {
            splices.push(&next).into_iter().for_each(|incident| feeder.note(PlayerNote::Incident(incident)));
        }
        if !feeder.push(next).await {
            return Refusal::of(Cause::Damaged, "the stream cannot be decoded any more", "check the sender");
        }
        match answer.chunk().await {
            Ok(Some(chunk)) => next = chunk.to_vec(),
            Ok(None) => {
                feeder.end();
                return over("the server ended the stream");
            }
            Err(refusal) => {
                feeder.end();
                return refusal;
            }
        }
    }
}

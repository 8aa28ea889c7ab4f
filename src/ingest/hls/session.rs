//! One connection of a web source: finds out what is there, chooses a variant, and plays it until its end.

use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Sender, bounded};
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep, timeout};
use url::Url;

use super::attributes::{ByteRange, Variables};
use super::container::{self, Container};
use super::follow::Memory;
use super::lane::{Beginning, Feeder, Lane, LaneEnd, Note, Origin, read_media, refusal_of};
use super::place::{Placer, Ties};
use super::playlist::{Media, Multivariant, Playlist, is_playlist};
use super::relay::{Broken, Decoding, Input, Message, Relay};
use super::{Decoder, Request, sniff, variant};
use crate::ingest::guard::{Refusal, SourcePolicy};
use crate::ingest::incident::Cause;
use crate::ingest::options::HlsOptions;
use crate::ingest::outlet::{Counters, Outlet};
use crate::ingest::uri::Kind;
use crate::ingest::web::{Answer, Web};
use crate::ingest::{End, MediaItem, Tracks};

/// The longest playlist, bytes: 24 hours of two-second segments with addresses of 400 bytes are 18 MB.
const PLAYLIST_MAX: usize = 32 << 20;

/// The longest segment, bytes: a minute at 16 Mbit/s.
const SEGMENT_MAX: usize = 128 << 20;

/// How long an answer may take before anything is known of its server.
const PATIENCE: Duration = Duration::from_secs(8);

/// How many times as long as its first bytes a whole playlist or segment may take: a server must not hold a stream up with a byte
/// now and then.
const PLAYLIST_PATIENCES: u32 = 2;
const SEGMENT_PATIENCES: u32 = 8;

/// How long a playlist that is damaged is read again before that is a failure.
const DAMAGED_MAX: Duration = Duration::from_secs(3);
const DAMAGED_PAUSE: Duration = Duration::from_secs(1);

/// How long after the sound of its own failed it is tried again.
const SOUND_PAUSE: Duration = Duration::from_secs(3);

/// How long the sound waits for the pictures to have begun.
const SOUND_WAITS: Duration = Duration::from_secs(20);

/// Bytes of an endless stream that are waited for before it is looked at.
const STREAM_HEAD: usize = 64 << 10;

/// Messages of a lane that wait: a segment has five at most, and the relay takes them in at every turn.
const MESSAGES_MAX: usize = 4096;

/// Decoded items that wait between a decoder and the relay. Slack for a thread switch; the buffer that matters is the one behind it.
const ITEMS_MAX: usize = 4;

/// Plays `request` into `outlet`, until the end that it sends.
pub(super) fn run(request: &Request, runtime: &Handle, outlet: &Outlet) {
    let (main_to, main_from) = bounded(MESSAGES_MAX);
    let (sound_to, sound_from) = bounded(MESSAGES_MAX);
    let (recording_to, recording_from) = bounded(1);
    let session = Session {
        web: Arc::new(Web::new(request.policy.clone())),
        url: request.url.clone(),
        options: request.options.clone(),
        frame_height: request.frame_height,
        wants: request.wants,
        decoder: request.decoder.clone(),
        counters: request.counters.clone(),
        memory: request.memory.clone(),
    };
    let task = runtime.spawn(session.play(main_to, sound_to, recording_to));
    let _stop = AbortOnDrop(task.abort_handle());
    let inputs = vec![Input::new(main_from), Input::new(sound_from)];
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
fn recording(request: &Request, outlet: &Outlet) -> End {
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

/// What is at `url`, as [`super::classify`] says it.
pub(super) async fn classify(url: &Url, policy: &Arc<SourcePolicy>) -> Option<Kind> {
    match look(&Web::new(policy.clone()), url).await.ok()? {
        Content::Variants(_) | Content::Media(..) => Some(Kind::Hls),
        Content::Stream(..) => Some(Kind::HttpLive),
        Content::Recording => Some(Kind::Http),
    }
}

/// What a session knows.
struct Session {
    web: Arc<Web>,
    url: Url,
    options: HlsOptions,
    frame_height: u32,
    wants: Tracks,
    decoder: Arc<dyn Decoder>,
    counters: Arc<Counters>,
    memory: Memory,
}

/// What is at the address.
enum Content {
    /// A list of variants, and its address.
    Variants(Multivariant),
    Media(Box<Media>, Url),
    Stream(Answer, Vec<u8>, Container),
    Recording,
}

impl Session {
    async fn play(self, main: Sender<Message>, sound: Sender<Message>, recording: Sender<()>) {
        let end = match self.find().await {
            Err(refusal) => LaneEnd::Failed(refusal),
            Ok(Content::Recording) => {
                // The relay ends when the lanes do, and looks here.
                let _ = recording.send(());
                LaneEnd::Over
            }
            Ok(Content::Stream(answer, head, container)) => {
                drop(sound);
                // The relay is gone when nobody wants it any more.
                let _ = main.send(Message::Arrival);
                let feeder = LaneFeeder::new(self.decoder.clone(), self.wants, main.clone());
                LaneEnd::Failed(stream(feeder, answer, head, container).await)
            }
            Ok(Content::Media(media, url)) => {
                drop(sound);
                self.alone(*media, &url, &main).await
            }
            Ok(Content::Variants(list)) => self.variants(&list, &main, sound).await,
        };
        let _ = main.send(Message::End(end));
    }

    /// Finds out what is at the address.
    async fn find(&self) -> Result<Content, Refusal> {
        let began = Instant::now();
        loop {
            let refusal = match look(&self.web, &self.url).await {
                Ok(content) => return Ok(content),
                Err(refusal) => refusal,
            };
            // A packager that writes a playlist while it is read makes it look damaged for a moment.
            if refusal.kind != Cause::Damaged || began.elapsed() > DAMAGED_MAX {
                return Err(refusal);
            }
            sleep(DAMAGED_PAUSE).await;
        }
    }

    /// Plays the best variant that lives, and the next one when it dies.
    async fn variants(&self, list: &Multivariant, main: &Sender<Message>, sound: Sender<Message>) -> LaneEnd {
        let variants = variant::ranked(list, &self.options, self.frame_height);
        let (mut sound, mut beside, mut lane, mut first) = (Some(sound), None, None, None);
        // Variants that failed one after the other, without any of them having played for a while.
        let mut dead = 0;
        // Round and round: one that was dead may live again.
        for chosen in variants.iter().cycle() {
            let rendition = variant::sound(list, chosen, &self.options).filter(|_| self.wants.audio);
            let wants = Tracks { audio: self.wants.audio && rendition.is_none(), ..self.wants };
            tracing::debug!(height = chosen.height, bandwidth = chosen.bandwidth, "HLS variant chosen");
            let began = Instant::now();
            let refusal = match self.begin(&chosen.url, &list.variables, wants, main, &mut lane).await {
                Err(refusal) => refusal,
                Ok(media) => {
                    let (lane, ties) = lane.as_mut().expect("it was begun");
                    if let Some(url) = rendition.and_then(|r| r.url)
                        && let Some(to) = sound.take()
                    {
                        beside = Some(self.begin_sound(url, &list.variables, ties.clone(), lane, to));
                    }
                    // Nobody waits for sound that no variant has.
                    sound = None;
                    match lane.run(Some(media)).await {
                        LaneEnd::Failed(refusal) => refusal,
                        LaneEnd::Over => {
                            lane.feeder.end();
                            if beside.is_some() {
                                // The relay waits for the sound as long as it likes, and this task must outlive the wait.
                                let _ = main.send(Message::End(LaneEnd::Over));
                                sleep(SOUND_WAITS).await;
                            }
                            return LaneEnd::Over;
                        }
                    }
                }
            };
            tracing::info!("an HLS variant failed: {refusal}");
            dead = if began.elapsed() > PATIENCE { 1 } else { dead + 1 };
            let is_final = refusal.kind == Cause::Refused;
            first.get_or_insert(refusal);
            if dead >= variants.len() || is_final {
                break;
            }
        }
        if let Some((lane, _)) = &mut lane {
            lane.settle();
        }
        LaneEnd::Failed(first.unwrap_or_else(|| Refusal::of(Cause::NotFound, "no variant could be played", "")))
    }

    /// Loads the playlist of a variant, and makes the lane ready for it: a new one, or the one that played another before.
    async fn begin(
        &self,
        url: &Url,
        variables: &Variables,
        wants: Tracks,
        main: &Sender<Message>,
        lane: &mut Option<(Playing, Ties)>,
    ) -> Result<Media, Refusal> {
        let fetcher = Arc::new(Fetcher { web: self.web.clone() });
        let (base, text) = fetcher.playlist(url, PATIENCE).await?;
        let from = lane.as_ref().map_or(0, |(lane, _)| lane.follower.wants_from());
        let media = read_media(&text, &base, variables, from)?;
        self.lane_for(url, variables, wants, main, lane, &media)?;
        Ok(media)
    }

    fn lane_for(
        &self,
        url: &Url,
        variables: &Variables,
        wants: Tracks,
        main: &Sender<Message>,
        lane: &mut Option<(Playing, Ties)>,
        media: &Media,
    ) -> Result<(), Refusal> {
        let is_whole = media.is_over;
        if self.counters.on_demand.get() == Some(&false) && is_whole && lane.is_none() {
            // A channel whose packager has not come back: what is left in the playlist was watched already.
            return Err(still_over());
        }
        let (lane, _) = lane.get_or_insert_with(|| {
            let (ties, fetcher) = (Ties::default(), Arc::new(Fetcher { web: self.web.clone() }));
            let placer = Placer::new(ties.clone(), true, 0);
            let feeder = LaneFeeder::new(self.decoder.clone(), wants, main.clone());
            let mut lane = Lane::new(fetcher, feeder, url.clone(), variables.clone(), placer);
            lane.counters = self.counters.clone();
            if !is_whole {
                lane.follower = self.memory.resume(url, media);
                lane.memory = Some(self.memory.clone());
            }
            (lane, ties)
        });
        lane.change(url.clone());
        lane.feeder.wants = wants;
        Ok(())
    }

    /// Plays the sound beside the pictures of `lane`.
    fn begin_sound(
        &self,
        url: Url,
        variables: &Variables,
        ties: Ties,
        lane: &mut Playing,
        to: Sender<Message>,
    ) -> AbortOnDrop {
        let (first_to, first_from) = oneshot::channel();
        lane.on_first = Some(first_to);
        let fetcher = Arc::new(Fetcher { web: self.web.clone() });
        let feeder = LaneFeeder::new(self.decoder.clone(), Tracks { video: false, audio: true }, to);
        let placer = Placer::new(ties.clone(), false, 0);
        let beside = Lane::new(fetcher, feeder, url, variables.clone(), placer);
        AbortOnDrop(tokio::spawn(sound(beside, ties, first_from)).abort_handle())
    }

    /// Plays a list of segments that needs no choice.
    async fn alone(&self, media: Media, url: &Url, main: &Sender<Message>) -> LaneEnd {
        let mut lane = None;
        if let Err(refusal) = self.lane_for(url, &Variables::default(), self.wants, main, &mut lane, &media) {
            return LaneEnd::Failed(refusal);
        }
        let (lane, _) = lane.as_mut().expect("it was made just now");
        let end = lane.run(Some(media)).await;
        lane.settle();
        lane.feeder.end();
        end
    }
}

async fn look(web: &Web, url: &Url) -> Result<Content, Refusal> {
    let mut answer = web.get(url, None, PATIENCE).await?;
    let (mut head, mut is_whole) = (Vec::new(), false);
    while head.len() < sniff::HEAD && !is_whole {
        match answer.chunk().await? {
            Some(chunk) => head.extend_from_slice(&chunk),
            None => is_whole = true,
        }
    }
    let is_compressed = answer.headers.contains_key(hyper::header::CONTENT_ENCODING) || head.starts_with(&[0x1f, 0x8b]);
    if is_playlist(&head) || is_compressed {
        return read(answer, head).await;
    }
    if head.is_empty() || sniff::is_utf16(&head) {
        return Err(not_a_playlist(&head));
    }
    let is_endless = answer.length().is_none() && !is_whole;
    let kind = answer.content_type();
    if kind == "multipart/x-mixed-replace" {
        return Ok(Content::Stream(answer, head, Container::MotionJpeg));
    }
    let container = container::look(&head, None).map(|opened| opened.container);
    match container {
        Ok(container) if is_endless && container != Container::Mp4 => Ok(Content::Stream(answer, head, container)),
        Err(_) if is_text(&head) => Err(not_a_playlist(&head)),
        _ => Ok(Content::Recording),
    }
}

/// Reads the rest of a playlist.
async fn read(answer: Answer, head: Vec<u8>) -> Result<Content, Refusal> {
    let url = answer.url.clone();
    let bytes = answer.rest(head, PLAYLIST_MAX).await?;
    let text = String::from_utf8_lossy(&bytes);
    if !is_playlist(&bytes) {
        return if is_text(&bytes[..bytes.len().min(sniff::HEAD)]) {
            Err(refusal_of(&super::playlist::Trouble::Other("not a playlist"), &text))
        } else {
            Ok(Content::Recording)
        };
    }
    match Playlist::parse(&text, &url, &Variables::default(), 0) {
        Ok(Playlist::Multivariant(list)) => Ok(Content::Variants(list)),
        Ok(Playlist::Media(media)) => Ok(Content::Media(media, url)),
        Err(trouble) => Err(refusal_of(&trouble, &text)),
    }
}

type Playing = Lane<Fetcher, LaneFeeder>;

/// Plays the sound beside the pictures: it begins where they do, and is tried again for as long as they last.
async fn sound(mut lane: Playing, ties: Ties, first: oneshot::Receiver<u128>) {
    lane.begins_at = timeout(SOUND_WAITS, first).await.ok().and_then(Result::ok);
    while ties.is_empty() {
        sleep(Duration::from_millis(20)).await;
    }
    loop {
        match lane.run(None).await {
            LaneEnd::Over => {
                lane.feeder.end();
                // Fails when the stream is over.
                let _ = lane.feeder.to.send(Message::End(LaneEnd::Over));
                return;
            }
            LaneEnd::Failed(refusal) => tracing::warn!("the sound of the stream: {refusal}"),
        }
        if !lane.has_media() {
            // The pictures need not wait for what was never there.
            let _ = lane.feeder.to.send(Message::End(LaneEnd::Over));
            return;
        }
        sleep(SOUND_PAUSE).await;
    }
}

/// Plays an endless stream until it breaks off.
async fn stream(mut feeder: LaneFeeder, mut answer: Answer, mut head: Vec<u8>, container: Container) -> Refusal {
    let over = |cause: &str| Refusal::of(Cause::Ended, cause, "check the server that sends the stream");
    while head.len() < STREAM_HEAD && container != Container::MotionJpeg {
        match answer.chunk().await {
            Ok(Some(chunk)) => head.extend_from_slice(&chunk),
            Ok(None) => break,
            Err(refusal) => return refusal,
        }
    }
    let starts = container::look(&head, None).map_or([None; 2], |opened| opened.starts);
    let apart = |of: usize| Some(container::distance_ns(container, container::begins(&starts)?, starts[of]?));
    let beginning = Beginning { container, tracks: [apart(0), apart(1)], line_ns: 0 };
    if let Err(refusal) = feeder.begin(beginning).await {
        return refusal;
    }
    let mut next = head;
    loop {
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

fn not_a_playlist(head: &[u8]) -> Refusal {
    let cause = format!("not a playlist: {}", sniff::name(head));
    Refusal::of(Cause::NotMedia, cause, "give the address of the stream itself")
}

fn is_text(head: &[u8]) -> bool {
    !head.is_empty()
        && std::str::from_utf8(head).map_or_else(|e| e.valid_up_to() + 4 > head.len(), |_| true)
        && !head.contains(&0)
}

fn still_over() -> Refusal {
    let cause = "the playlist says that the channel is over (EXT-X-ENDLIST)";
    Refusal::of(Cause::Ended, cause, "start the encoder or packager that writes the playlist")
}

fn too_slow() -> Refusal {
    Refusal::of(Cause::NoAnswer, "the server sends too slowly", "check the server and the network")
}

/// Fetches over HTTP.
struct Fetcher {
    web: Arc<Web>,
}

impl Origin for Fetcher {
    async fn playlist(&self, url: &Url, patience: Duration) -> Result<(Url, String), Refusal> {
        let loading = async {
            let answer = self.web.get(url, None, patience).await?;
            let base = answer.url.clone();
            let bytes = answer.rest(Vec::new(), PLAYLIST_MAX).await?;
            Ok((base, String::from_utf8_lossy(&bytes).into_owned()))
        };
        timeout(patience * PLAYLIST_PATIENCES, loading).await.unwrap_or_else(|_| Err(too_slow()))
    }

    async fn media(&self, url: &Url, range: Option<ByteRange>, patience: Duration) -> Result<Vec<u8>, Refusal> {
        let header = range.map(|range| range.header());
        let loading = async {
            let answer = self.web.get(url, header.as_deref(), patience).await?;
            let is_part = answer.status == hyper::StatusCode::PARTIAL_CONTENT;
            Ok((is_part, answer.rest(Vec::new(), SEGMENT_MAX).await?))
        };
        let loaded = timeout(patience * SEGMENT_PATIENCES, loading).await;
        let (is_part, bytes) = loaded.unwrap_or_else(|_| Err(too_slow()))?;
        match range {
            // Servers that do not know ranges send all of it.
            Some(range) if !is_part => {
                let end = range.offset.saturating_add(range.length);
                let part = usize::try_from(range.offset).ok().zip(usize::try_from(end).ok());
                let part = part.and_then(|(from, to)| bytes.get(from..to)).map(<[u8]>::to_vec);
                part.ok_or_else(|| {
                    Refusal::of(Cause::NotFound, "a byte range lies beyond its file", "check the packager")
                })
            }
            _ => Ok(bytes),
        }
    }
}

/// Hands what a lane fetched to demuxers, and tells the relay of them.
struct LaneFeeder {
    decoder: Arc<dyn Decoder>,
    wants: Tracks,
    to: Sender<Message>,
    current: Option<(Box<dyn super::Input>, Arc<Broken>)>,
}

impl LaneFeeder {
    fn new(decoder: Arc<dyn Decoder>, wants: Tracks, to: Sender<Message>) -> Self {
        Self { decoder, wants, to, current: None }
    }

    fn end(&mut self) {
        if let Some((input, _)) = self.current.take() {
            input.end();
        }
    }
}

impl Feeder for LaneFeeder {
    async fn begin(&mut self, beginning: Beginning) -> Result<(), Refusal> {
        self.end();
        let (decoder, wants, state) = (self.decoder.clone(), self.wants, Arc::new(Broken::default()));
        let (to, from) = bounded(ITEMS_MAX);
        let told = state.clone();
        // Loading plugins and making pipelines takes milliseconds, of a thread that others' media come through.
        let begun = tokio::task::spawn_blocking(move || decoder.begin(&beginning, wants, told, to)).await;
        let failed = |cause: String| Refusal::of(Cause::Other, cause, "run `touchline doctor`");
        let begun = begun.map_err(|e| failed(e.to_string()))?;
        let (source, input) = begun.map_err(|e| failed(e.to_string()))?;
        // Fails when the stream is over.
        let _ = self.to.send(Message::Decoding(Decoding { _source: source, from, state: state.clone() }));
        self.current = Some((input, state));
        Ok(())
    }

    async fn push(&mut self, bytes: Vec<u8>) -> bool {
        let Some((input, state)) = &self.current else { return false };
        if state.is_set() || !input.push(bytes) {
            return false;
        }
        while input.is_full() && !state.is_set() {
            state.news.notified().await;
        }
        !state.is_set()
    }

    fn note(&mut self, note: Note) {
        // Fails when the stream is over.
        let _ = self.to.send(Message::Note(note));
    }
}

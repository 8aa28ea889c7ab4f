//! What a second costs the heap between the decoder's buffers and its decision: nothing that grows with pictures, sound or
//! work, once the sizes of a stream are known.
//!
//! A binary of its own, with one test: the allocator counts what every thread does.

use std::alloc::{GlobalAlloc, Layout, System};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use touchline_compute::features::FeatureExtractor;
use touchline_compute::features::params::{AudioParams, FlowParams, PictureParams};
use touchline_compute::infer::Engine;
use touchline_compute::models::pack::Pack;
use touchline_core::clip::{ClipBuilder, ClipConfig, ClipOutput, ClipSecond, LagLimits, SamplingPlan};
use touchline_core::frame::Frame;
use touchline_core::item::{MediaItem, Pace, Tracks};
use touchline_core::pcm::PcmChunk;
use touchline_core::pool::Pool;
use touchline_core::time::{Pts, WallSource, WallTime};
use touchline_serve::metrics::Metrics;

struct Counting;

static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);
static BYTES: AtomicUsize = AtomicUsize::new(0);

// SAFETY: everything is handed to the system's allocator as it came; counting touches no memory that it manages.
#[allow(unsafe_code)]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: the caller's promises about `layout` are those that `System` asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size);
        // SAFETY: `pointer` came from `System` with `layout`, since all memory of this allocator does.
        unsafe { System.realloc(pointer, layout, size) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn count(bytes: usize) {
    ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
    BYTES.fetch_add(bytes, Ordering::Relaxed);
}

/// What `work` gives, how often it allocated, and how much.
fn counted<T>(work: impl FnOnce() -> T) -> (T, usize, usize) {
    let before = (ALLOCATIONS.load(Ordering::Relaxed), BYTES.load(Ordering::Relaxed));
    let result = work();
    (result, ALLOCATIONS.load(Ordering::Relaxed) - before.0, BYTES.load(Ordering::Relaxed) - before.1)
}

const FPS: u64 = 25;
const SIZE: (u32, u32) = (512, 288);
const RATE: u32 = 48_000;
const CHUNK: usize = 1024;

/// Seconds until every buffer has its size: the pools fill, and each worker thread has had work of each kind.
const WARM_UP: usize = 8;

/// A stream as the appsinks give it: pictures and stereo sound in pooled buffers.
struct Camera {
    frames: Pool<u8>,
    samples: Pool<f32>,
    /// Of all time.
    pictures: u64,
    chunks: u64,
}

impl Camera {
    fn picture(&mut self) -> MediaItem {
        let bytes = SIZE.0 as usize * SIZE.1 as usize * 3;
        let mut data = self.frames.take();
        data.reserve_exact(bytes);
        data.extend((0..bytes).map(|i| ((i / 3 + 2 * self.pictures as usize) * 31 % 251) as u8));
        let pts = Pts(self.pictures * 1_000_000_000 / FPS);
        self.pictures += 1;
        MediaItem::Frame(Frame::new(data, SIZE.0, SIZE.1, pts, pts.0))
    }

    fn chunk(&mut self) -> MediaItem {
        let mut data = self.samples.take();
        data.extend((0..2 * CHUNK).map(|i| (0.05 * i as f32).sin()));
        let pts = Pts(self.chunks * CHUNK as u64 * 1_000_000_000 / u64::from(RATE));
        self.chunks += 1;
        MediaItem::Pcm(PcmChunk::new(data, RATE, 2, pts, pts.0))
    }

    /// Plays until the builder outputs one more second.
    fn second(&mut self, builder: &mut ClipBuilder, out: &mut Vec<ClipOutput>) -> ClipSecond {
        loop {
            let (picture, chunk) = (self.pictures * u64::from(RATE), self.chunks * CHUNK as u64 * FPS);
            let item = if picture <= chunk { self.picture() } else { self.chunk() };
            builder.push(item, out);
            if let Some(ClipOutput::Second(second)) = out.pop() {
                return second;
            }
        }
    }
}

#[test]
fn a_second_allocates_what_it_carries_away_and_nothing_else() {
    let audio = AudioParams::default();
    let plan = SamplingPlan { rgb_frames: 5, flow_pairs: 5, flow_gap_ns: 40_000_000 };
    let sample_rate = Some(audio.mel.sample_rate);
    let mut builder =
        ClipBuilder::new(ClipConfig { sample_rate, plan, lag: LagLimits::for_pace(Pace::Live), behind_ns: 0 });
    let mut extractor =
        FeatureExtractor::new(Some(&PictureParams::default()), Some(&FlowParams::default()), Some(&audio)).unwrap();
    let mut camera = Camera { frames: Pool::new(128), samples: Pool::new(128), pictures: 0, chunks: 0 };
    let (mut out, mut input) = (Vec::new(), Vec::new());
    builder.push(MediaItem::Opened(Tracks { video: true, audio: true }), &mut out);
    let (mut in_clips, mut allowed, mut in_features) = (0, 0, 0);

    for n in 0..30 {
        let before = camera.pictures;
        let (second, for_clip, _) = counted(|| camera.second(&mut builder, &mut out));
        let pictures = (camera.pictures - before) as usize;
        let ((), for_features, _) = counted(|| {
            input.clear();
            let counts = [
                extractor.pictures_into(&second, &mut input),
                extractor.flows_into(&second, &mut input),
                extractor.sound_into(&second, &mut input),
            ];
            assert_eq!(counts, [5, 5, 1]);
        });
        if n < WARM_UP {
            continue;
        }
        in_clips += for_clip;
        allowed += pictures + 4;
        in_features += for_features;
    }
    // The head of every picture, which says where it lies and who shares it; and each second's own lists, which go to
    // the inference thread and end there: its frames, those for either model, and its sound. One more, since the second
    // that is being filled at the end has begun its own.
    assert!(in_clips <= allowed + 1, "{in_clips} allocations in cutting seconds, {allowed} expected");
    // Work for the thread pool goes through a queue that is made of blocks for 63 pieces of work each.
    assert!(in_features <= 2, "{in_features} allocations in the features of {} seconds", 30 - WARM_UP);

    let pack = Pack::open(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../../weights/compact")).unwrap();
    let (classes, networks) = (pack.classes.len(), 3);
    let metrics = Metrics::new();
    let mut engine = Engine::load(pack).unwrap();
    let mut costs = Vec::new();
    for n in 0..12 {
        let second = camera.second(&mut builder, &mut out);
        let arrival = WallTime { unix_ns: 0, source: WallSource::Arrival, uncertainty_ns: 0 };
        let (decided, allocations, bytes) = counted(|| {
            let scored = engine.score(&[&second], &metrics).unwrap().remove(0);
            engine.decide(&second, scored, arrival)
        });
        assert!(decided.is_some_and(|decided| decided.scores.audio.is_some() && decided.scores.flow.is_some()));
        if n < WARM_UP {
            continue;
        }
        costs.push((allocations, bytes));
    }
    // The median: on a busy machine the thread pool grows its own queues now and then.
    costs.sort_unstable();
    let (allocations, bytes) = costs[costs.len() / 2];
    // Rows of a number for each class, three for the decision and one for each vote, the batch's list; and for each
    // network a note to every thread of the pool. Inputs and values are megabytes.
    let (notes, rows) = (networks * (rayon::current_num_threads() + 1), 2 * networks + 2);
    assert!(allocations <= notes + rows + 1, "{allocations} allocations in deciding a second");
    assert!(bytes <= 4 * classes * rows + 256 * notes + 2048, "{bytes} bytes in deciding a second");
}

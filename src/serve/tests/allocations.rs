//! Heap allocations per second of a stream, from the decoder's buffers to the decision. After the warm-up they do not
//! grow with the size of pictures or sound.
//!
//! This test has a binary of its own because the allocator counts the allocations of all threads.

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

// SAFETY: every call is passed unchanged to the system's allocator. Counting touches no memory that it manages.
#[allow(unsafe_code)]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: the caller upholds the contract of `alloc`, which is also the contract of `System`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size);
        // SAFETY: `pointer` came from `System` with `layout`, as does all memory of this allocator.
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

/// Runs `work`. Returns its result, the number of allocations and their bytes.
fn count_during<T>(work: impl FnOnce() -> T) -> (T, usize, usize) {
    let before = (ALLOCATIONS.load(Ordering::Relaxed), BYTES.load(Ordering::Relaxed));
    let result = work();
    (result, ALLOCATIONS.load(Ordering::Relaxed) - before.0, BYTES.load(Ordering::Relaxed) - before.1)
}

const FPS: u64 = 25;
const SIZE: (u32, u32) = (512, 288);
const RATE: u32 = 48_000;
const CHUNK: usize = 1024;

/// Seconds of warm-up: the pools fill, the buffers grow to their size, and each worker thread has done each kind of
/// work.
const WARM_UP: usize = 8;

/// A stream as the appsinks deliver it: pictures and stereo sound in pooled buffers.
struct Camera {
    frames: Pool<u8>,
    samples: Pool<f32>,
    /// Pictures delivered so far.
    pictures: u64,
    /// Chunks of sound delivered so far.
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
fn a_second_allocates_only_its_own_lists() {
    let audio = AudioParams::default();
    let plan = SamplingPlan { rgb_frames: 5, flow_pairs: 5, flow_gap_ns: 40_000_000, signal_frames: 0 };
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
        let (second, for_clip, _) = count_during(|| camera.second(&mut builder, &mut out));
        let pictures = (camera.pictures - before) as usize;
        let ((), for_features, _) = count_during(|| {
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
    // Allowed are the shared header of every picture, and four lists per second, which the inference thread frees: its
    // frames, the frames and pairs for the models, and its sound. The second that is still being filled adds one.
    assert!(in_clips <= allowed + 1, "{in_clips} allocations in cutting seconds, {allowed} expected");
    // The queue of the thread pool allocates a block for every 63 jobs.
    assert!(in_features <= 2, "{in_features} allocations in the features of {} seconds", 30 - WARM_UP);

    let pack = Pack::open(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../../weights/compact")).unwrap();
    let (classes, networks) = (pack.classes.len(), 3);
    let metrics = Metrics::new();
    let mut engine = Engine::load(pack).unwrap();
    let mut costs = Vec::new();
    for n in 0..12 {
        let second = camera.second(&mut builder, &mut out);
        let arrival = WallTime { unix_ns: 0, source: WallSource::Arrival, uncertainty_ns: 0 };
        let (decided, allocations, bytes) = count_during(|| {
            let scored = engine.score(&[&second], &metrics).unwrap().remove(0);
            engine.decide(&second, scored, arrival)
        });
        assert!(decided.is_some_and(|decided| decided.scores.audio.is_some() && decided.scores.flow.is_some()));
        if n < WARM_UP {
            continue;
        }
        costs.push((allocations, bytes));
    }
    // The median, because on a busy machine the thread pool sometimes grows its queues.
    costs.sort_unstable();
    let (allocations, bytes) = costs[costs.len() / 2];
    // Allowed are rows with a value per class for the decision and the votes, the list of the batch, and for each
    // network a job per thread of the pool. Inputs and activations would be megabytes.
    let (jobs, rows) = (networks * (rayon::current_num_threads() + 1), 2 * networks + 2);
    assert!(allocations <= jobs + rows + 1, "{allocations} allocations in deciding a second");
    assert!(bytes <= 4 * classes * rows + 256 * jobs + 2048, "{bytes} bytes in deciding a second");
}

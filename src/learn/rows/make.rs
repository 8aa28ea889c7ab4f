//! Computes the rows that are not on disk yet. Worker threads read seconds and compute model inputs; the calling thread runs the
//! network.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use candle_core::{DType, Device, Tensor};
use crossbeam_channel::bounded;
use half::f16;

use super::chunk::{Chunk, Collected};
use super::{Key, Recipe, RowNetwork, Rows, dependencies};
use crate::augment;
use crate::dataset::{Dataset, Item};
use crate::inputs::Inputs;
use touchline_compute::features::{FeatureExtractor, without_bars};
use touchline_compute::models::sha256_hex;
use touchline_core::clip::{ClipSecond, SamplingPlan};
use touchline_core::error::{Error, Result};
use touchline_core::frame::Frame;
use touchline_core::labels::Modality;

/// Version of the computation. Increase it when the rows of an unchanged item change.
const VERSION: u32 = 1;

/// Model inputs that run through the network together.
const BATCH: usize = 16;

/// Most stills in a chunk. An interrupted run loses at most one chunk of work.
const STILLS: usize = 256;

/// Most recordings in a chunk.
const RECORDINGS: usize = 24;

/// Most bytes in a chunk, which is collected in memory and copied twice when it is written. A single item may exceed it: a
/// minute of model inputs is 200 MB.
const CHUNK_BYTES: u64 = 256 << 20;

/// An item whose rows are needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WantedRow {
    /// Index into the dataset's items.
    pub item: u32,
    /// The first view: 0 is the unchanged input.
    pub first_view: u32,
    /// The last view, at least the first.
    pub last_view: u32,
}

impl WantedRow {
    /// The unchanged input of an item, and `views` random views.
    pub const fn with_views(item: u32, views: u32) -> Self {
        Self { item, first_view: 0, last_view: views }
    }

    /// One random view of an item, from 1.
    pub const fn of_view(item: u32, view: u32) -> Self {
        Self { item, first_view: view, last_view: view }
    }
}

/// Model inputs of one item: a key and 3 × height × width values per input.
#[derive(Default)]
struct Prepared {
    keys: Vec<Key>,
    input: Vec<f32>,
}

/// Computes the rows of `wanted`, or loads them from `cache`, and returns them in that order. `network` identifies the weights of
/// `net`. `progress` receives the number of items done and the number of model inputs computed so far.
///
/// An item that cannot be read is skipped and listed in [`Rows::skipped`].
///
/// # Errors
/// [`Error::Output`] when the cache cannot be written, [`Error::Data`] when a chunk file in it is damaged, and errors of the
/// network.
pub fn make<'a>(
    dataset: &Dataset,
    wanted: &[WantedRow],
    (net, network): (impl Into<RowNetwork<'a>>, &str),
    recipe: &Recipe,
    cache: &Path,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Rows> {
    make_within(CHUNK_BYTES, dataset, wanted, (net.into(), network), recipe, cache, progress)
}

fn make_within(
    chunk_bytes: u64,
    dataset: &Dataset,
    wanted: &[WantedRow],
    (net, network): (RowNetwork<'_>, &str),
    recipe: &Recipe,
    cache: &Path,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Rows> {
    std::fs::create_dir_all(cache).map_err(|e| {
        Error::output(
            cache.display().to_string(),
            format!("cannot create the directory: {e}"),
            "choose another --cache",
        )
    })?;
    let dependencies = dependencies(dataset, network, recipe);
    let width = if recipe.pooled { net.width() } else { 0 };
    let mut rows = Rows {
        keys: Vec::new(),
        width,
        shape: net.shape(recipe, recipe.inputs.size(recipe.modality))?,
        pooled: Vec::new(),
        chunks: Vec::new(),
        places: Vec::new(),
        skipped: Vec::new(),
    };
    let activations = if recipe.activations { rows.shape.iter().product() } else { 0 };
    let row_bytes = (size_of::<Key>() + size_of::<f16>() * (rows.width + activations)) as u64;
    let items = wanted.iter().map(|w| {
        let item = &dataset.items[w.item as usize];
        (item.kind.is_still(), row_bytes * inputs_of(item, &dataset.meta.plan, *w, recipe))
    });
    let (mut done, mut inputs) = (0, 0);
    for part in parts(wanted, &items.collect::<Vec<_>>(), chunk_bytes) {
        let text = format!("{VERSION} {dependencies} {}", entries_text(part));
        let path = cache.join(format!("rows-{}.safetensors", &sha256_hex(text.as_bytes())[..24]));
        let mut complete = true;
        if !path.is_file() {
            let before = inputs;
            let mut on_item = |n: usize, made: usize| {
                inputs = before + made;
                progress(done + n, inputs);
            };
            let (collected, skipped) = compute(dataset, part, net, recipe, &mut on_item)?;
            complete = skipped.is_empty();
            rows.skipped.extend(skipped);
            collected.save(&path, rows.width, rows.shape)?;
        }
        let loaded = Chunk::open(&path)?;
        if !complete {
            // The next run must try the skipped items again, since they may be repaired by then. The file stays readable until
            // it is closed.
            let _ = std::fs::remove_file(&path);
        }
        let chunk = rows.chunks.len() as u32;
        rows.places.extend((0..loaded.keys.len() as u32).map(|place| (chunk, place)));
        rows.keys.extend(loaded.keys);
        rows.pooled.extend(loaded.pooled);
        rows.chunks.push(loaded.chunk);
        done += part.len();
        progress(done, inputs);
    }
    Ok(rows)
}

/// Describes the entries of a chunk for the hash in its name. Any other form would invalidate the chunks on disk.
fn entries_text(part: &[WantedRow]) -> String {
    let text = |w: &WantedRow| match w.first_view {
        0 => format!("Wanted {{ item: {}, views: {} }}", w.item, w.last_view),
        first => format!("Wanted {{ item: {}, views: {first} to {} }}", w.item, w.last_view),
    };
    let entries: Vec<String> = part.iter().map(text).collect();
    format!("[{}]", entries.join(", "))
}

/// Returns the largest possible number of model inputs of an item. Missing frames or sound are known only when it is read.
fn inputs_of(item: &Item, plan: &SamplingPlan, wanted: WantedRow, recipe: &Recipe) -> u64 {
    let (whole, of_view) = match recipe.modality {
        Modality::Rgb if !item.kind.is_still() => (plan.rgb_frames, plan.rgb_frames.min(recipe.frames)),
        Modality::Flow => (plan.flow_pairs, plan.flow_pairs.min(recipe.frames)),
        Modality::Rgb | Modality::Audio => (1, 1),
    };
    let whole = if wanted.first_view == 0 { u64::from(whole) } else { 0 };
    let views = wanted.last_view + 1 - wanted.first_view.max(1);
    u64::from(item.seconds) * (whole + u64::from(views) * u64::from(of_view))
}

/// Divides `wanted` into chunks. A chunk ends when it is full and between stills and recordings. `items` holds, for each entry of
/// `wanted`, whether it is a still, and the bytes of its rows.
fn parts<'a>(mut wanted: &'a [WantedRow], items: &[(bool, u64)], chunk_bytes: u64) -> Vec<&'a [WantedRow]> {
    let mut parts = Vec::new();
    let (mut n, mut bytes) = (0, 0);
    for (i, (still, size)) in items.iter().enumerate() {
        let full = n == if *still { STILLS } else { RECORDINGS } || bytes + size > chunk_bytes;
        if n > 0 && (full || items[i - 1].0 != *still) {
            let (part, rest) = wanted.split_at(n);
            parts.push(part);
            (wanted, n, bytes) = (rest, 0, 0);
        }
        (n, bytes) = (n + 1, bytes + size);
    }
    if n > 0 {
        parts.push(wanted);
    }
    parts
}

/// Files of skipped items, with the cause.
type Skipped = Vec<(std::path::PathBuf, String)>;

/// Computes the rows of one chunk. `progress` receives the number of items done and of rows computed.
fn compute(
    dataset: &Dataset,
    part: &[WantedRow],
    net: RowNetwork<'_>,
    recipe: &Recipe,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<(Collected, Skipped)> {
    let workers = std::thread::available_parallelism().map_or(1, |n| n.get() / 2).max(1);
    let next = AtomicUsize::new(0);
    // Two items per worker, so that the network rarely waits for a single long recording.
    let (to, prepared) = bounded::<(usize, Result<Prepared>)>(2 * workers);
    let mut batches = Batches { net, recipe, pending: Prepared::default(), out: Collected::default() };
    let mut skipped = Vec::new();
    std::thread::scope(|scope| -> Result<()> {
        for n in 0..workers {
            let (to, next) = (to.clone(), &next);
            std::thread::Builder::new()
                .name(format!("rows/{n}"))
                .spawn_scoped(scope, move || {
                    loop {
                        let i = next.fetch_add(1, Ordering::Relaxed);
                        let Some(wanted) = part.get(i) else { return };
                        if to.send((i, prepare(dataset, *wanted, recipe))).is_err() {
                            return;
                        }
                    }
                })
                .map_err(|e| Error::Internal(format!("cannot start a thread: {e}")))?;
        }
        drop(to);
        // Results are taken in the order of the list, not of their arrival: the same list gives the same file.
        let mut early: BTreeMap<usize, Result<Prepared>> = BTreeMap::new();
        let mut at = 0;
        for (i, item) in prepared {
            early.insert(i, item);
            while let Some(item) = early.remove(&at) {
                match item {
                    Ok(item) => batches.push(item)?,
                    Err(e) => skipped.push((dataset.file(part[at].item as usize), e.to_string())),
                }
                at += 1;
                progress(at, batches.out.keys.len());
            }
        }
        batches.flush()
    })?;
    Ok((batches.out, skipped))
}

/// Collects model inputs into batches and runs the network on each.
struct Batches<'a> {
    net: RowNetwork<'a>,
    recipe: &'a Recipe,
    pending: Prepared,
    out: Collected,
}

impl Batches<'_> {
    /// Adds the inputs of an item, and runs every full batch.
    fn push(&mut self, mut item: Prepared) -> Result<()> {
        self.pending.keys.append(&mut item.keys);
        self.pending.input.append(&mut item.input);
        while self.pending.keys.len() >= BATCH {
            self.run(BATCH)?;
        }
        Ok(())
    }

    /// Runs the incomplete last batch.
    fn flush(&mut self) -> Result<()> {
        match self.pending.keys.len() {
            0 => Ok(()),
            n => self.run(n),
        }
    }

    /// Runs the network on the first `n` pending inputs.
    fn run(&mut self, n: usize) -> Result<()> {
        let (width, height) = self.recipe.inputs.size(self.recipe.modality);
        let values = n * 3 * height * width;
        let x = Tensor::from_slice(&self.pending.input[..values], (n, 3, height, width), &Device::Cpu)?;
        let outputs = self.net.run(self.recipe, &x)?;
        self.out.pooled.extend(halves(&outputs.pooled)?);
        if self.recipe.activations {
            self.out.activations.extend(halves(&outputs.border)?);
        }
        self.out.keys.extend(self.pending.keys.drain(..n));
        self.pending.input.drain(..values);
        Ok(())
    }
}

/// Returns the values of a tensor as `f16`, row-major.
fn halves(x: &Tensor) -> candle_core::Result<Vec<f16>> {
    x.to_dtype(DType::F16)?.flatten_all()?.to_vec1()
}

/// Returns the model inputs of an item: all its seconds, in all wanted views.
fn prepare(dataset: &Dataset, wanted: WantedRow, recipe: &Recipe) -> Result<Prepared> {
    let index = wanted.item as usize;
    let inputs = &recipe.inputs;
    let mut extractor = FeatureExtractor::new(Some(&inputs.rgb), Some(&inputs.flow), Some(&inputs.audio))
        .map_err(|e| Error::Usage(format!("feature parameters: {e}")))?;
    let mut out = Prepared::default();
    for (second, clip) in dataset.seconds(index)?.iter().enumerate() {
        let content = (recipe.modality == Modality::Rgb).then(|| without_bars(clip)).flatten();
        let clip = content.as_ref().unwrap_or(clip);
        for view in wanted.first_view..=wanted.last_view {
            let key = Key { item: wanted.item, second: second as u32, view };
            // 24 bits of seconds are half a year.
            let mut rng = augment::rng(recipe.seed, u64::from(key.item) << 24 | u64::from(key.second), view);
            let added = match recipe.modality {
                Modality::Rgb => {
                    let chosen = chosen(clip, view, recipe.frames);
                    let frames = chosen
                        .into_iter()
                        .map(|f| if view == 0 { f.clone() } else { augment::picture(f.view(), &mut rng) });
                    extractor.pictures_into(&ClipSecond::of_pictures(frames.collect()), &mut out.input)
                }
                Modality::Flow if view == 0 => extractor.flows_into(clip, &mut out.input),
                Modality::Flow => {
                    extractor.flows_into(&augment::second(clip, recipe.frames as usize, &mut rng), &mut out.input)
                }
                Modality::Audio => sound(clip, view, inputs, &mut extractor, &mut rng, &mut out.input),
            };
            out.keys.extend(std::iter::repeat_n(key, added));
        }
    }
    Ok(out)
}

/// Returns the frames of a second that a view uses: all of them for view 0, at most `frames` for a random view, spread evenly.
fn chosen(clip: &ClipSecond, view: u32, frames: u32) -> Vec<&Frame> {
    let all = &clip.rgb;
    let n = if view == 0 { all.len() } else { all.len().min(frames as usize) };
    (0..n).map(|i| &clip.frames[all[(2 * i + 1) * all.len() / (2 * n)]]).collect()
}

/// Appends the audio input of a second to `out`, and returns the number of inputs: 1, or 0 without sound.
fn sound(
    clip: &ClipSecond,
    view: u32,
    inputs: &Inputs,
    extractor: &mut FeatureExtractor,
    rng: &mut rand::rngs::SmallRng,
    out: &mut Vec<f32>,
) -> usize {
    // Digital silence does not count as sound, as in serving.
    let Some(samples) = clip.audio.as_ref().filter(|_| !touchline_compute::infer::is_silent(clip)) else { return 0 };
    let sound = extractor.sound.as_mut().expect("the extractor was made with audio parameters");
    if view == 0 {
        sound.samples_into(samples, out);
    } else {
        let start = out.len();
        sound.samples_into(&augment::sound(samples, rng), out);
        augment::mask(&mut out[start..], inputs.audio.width, inputs.audio.height, rng);
    }
    1
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataset::build::{BuildConfig, build};
    use crate::net;
    use touchline_compute::models::{Architecture, Tensors};
    use touchline_core::item::Pace;
    use touchline_media::replay::Replay;

    #[test]
    fn a_chunk_ends_by_number_by_bytes_and_by_kind() {
        let wanted: Vec<WantedRow> = (0..600).map(|item| WantedRow::with_views(item, 1)).collect();
        let lengths = |items: &[(bool, u64)]| -> Vec<usize> {
            let parts = parts(&wanted[..items.len()], items, 100);
            assert_eq!(parts.concat(), wanted[..items.len()], "all entries are present and in order");
            parts.iter().map(|p| p.len()).collect()
        };
        assert!(lengths(&[]).is_empty());
        assert_eq!(lengths(&[(true, 0); 600]), [256, 256, 88]);
        assert_eq!(lengths(&[(false, 4); 60]), [24, 24, 12]);
        assert_eq!(lengths(&[(false, 10); 25]), [10, 10, 5]);
        assert_eq!(lengths(&[(false, 101), (false, 50), (false, 50), (false, 1), (true, 1)]), [1, 2, 1, 1]);
    }

    #[test]
    fn the_text_behind_the_name_of_a_chunk_does_not_change() {
        let part = [WantedRow::with_views(3, 1), WantedRow::with_views(40, 0), WantedRow::of_view(41, 7)];
        assert_eq!(
            entries_text(&part),
            "[Wanted { item: 3, views: 1 }, Wanted { item: 40, views: 0 }, Wanted { item: 41, views: 7 to 7 }]"
        );
    }

    /// A dataset of small pictures of two classes.
    fn stills(dir: &Path, count: u32) -> Dataset {
        for n in 0..count {
            let folder = dir.join("in").join(["golf", "tennis"][n as usize % 2]);
            std::fs::create_dir_all(&folder).unwrap();
            let pixel = |x: u32, y: u32| image::Rgb([(x * n) as u8, (y * (n + 3)) as u8, (x * y + n) as u8]);
            image::RgbImage::from_fn(40, 32, pixel).save(folder.join(format!("{n}.png"))).unwrap();
        }
        let config = BuildConfig {
            inputs: vec![dir.join("in")],
            out: dir.join("ds"),
            frame_height: 32,
            sample_rate: 32_000,
            plan: SamplingPlan { rgb_frames: 1, flow_pairs: 0, flow_gap_ns: 40_000_000, signal_frames: 0 },
            jobs: 1,
        };
        build(&config, &Replay::new(Pace::File, Vec::new()), &mut |_| {}).unwrap();
        Dataset::open(&config.out).unwrap()
    }

    fn recipe() -> Recipe {
        Recipe {
            modality: Modality::Rgb,
            inputs: Inputs::standard(64, 32_000, 40),
            frozen: 4,
            pooled: true,
            activations: true,
            frames: 1,
            seed: 1,
        }
    }

    /// The division into chunks affects the files, not the rows.
    #[test]
    fn rows_are_the_same_in_chunks_of_any_size() {
        let dir = tempfile::tempdir().unwrap();
        let dataset = stills(dir.path(), 21);
        let wanted: Vec<WantedRow> = (0..21).map(|item| WantedRow::with_views(item, 1)).collect();
        let net = net::build(Architecture::MobileNetV2, &Tensors::new(), 2, 1, &Device::Cpu).unwrap().net;
        let recipe = recipe();
        let rows_with = |chunk_bytes: u64| {
            let cache = dir.path().join(chunk_bytes.to_string());
            let rows =
                make_within(chunk_bytes, &dataset, &wanted, ((&net).into(), "fresh"), &recipe, &cache, &mut |_, _| {})
                    .unwrap();
            let all: Vec<u32> = (0..rows.len() as u32).collect();
            let values = |x: Tensor| x.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            let pooled = values(rows.pooled(&all, &Device::Cpu).unwrap());
            let activations = values(rows.activations(&all, &Device::Cpu).unwrap());
            (rows.chunks.len(), (rows.keys, pooled, activations))
        };
        let (one, few, many) = (rows_with(CHUNK_BYTES), rows_with(60_000), rows_with(1));
        assert!(one.0 == 1 && few.0 > 2 && few.0 < 21 && many.0 == 21, "{} {} {}", one.0, few.0, many.0);
        assert!(one.1 == few.1 && one.1 == many.1);
    }

    #[test]
    fn a_view_alone_has_the_rows_that_it_has_among_others() {
        let dir = tempfile::tempdir().unwrap();
        let dataset = stills(dir.path(), 3);
        let net = net::build(Architecture::MobileNetV2, &Tensors::new(), 2, 1, &Device::Cpu).unwrap().net;
        let make = |wanted: Vec<WantedRow>, pooled: bool| {
            let recipe = Recipe { pooled, ..recipe() };
            make(&dataset, &wanted, (&net, "fresh"), &recipe, &dir.path().join("cache"), &mut |_, _| {}).unwrap()
        };
        let all = make((0..3).map(|item| WantedRow::with_views(item, 2)).collect(), true);
        let alone = make((0..3).map(|item| WantedRow::of_view(item, 2)).collect(), false);
        let values = |rows: &Rows, places: &[u32]| {
            rows.activations(places, &Device::Cpu).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap()
        };
        assert_eq!(alone.keys, [0, 1, 2].map(|item| Key { item, second: 0, view: 2 }));
        assert!(values(&alone, &[0, 1, 2]) == values(&all, &[2, 5, 8]));
        assert_eq!((alone.width, alone.pooled(&[1], &Device::Cpu).unwrap().elem_count()), (0, 0));
    }
}

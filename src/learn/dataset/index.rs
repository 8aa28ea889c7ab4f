//! Reads and writes the files of a dataset's directory, except the shards. A file is replaced atomically.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::shard::write_atomically;
use super::split::Side;
use super::{Dataset, Item, ItemOrigin, Kind, Meta, Sides};
use touchline_compute::models::sha256_hex;
use touchline_core::clip::SamplingPlan;
use touchline_core::error::{Error, Result};

/// Version of the directory's format.
pub(super) const FORMAT: u32 = 1;
/// Folder with the shards.
pub(super) const SHARDS: &str = "shards";
const META: &str = "dataset.toml";
const ITEMS: &str = "items.csv";
const SPLIT: &str = "split.csv";

/// Contents of `dataset.toml`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct MetaFile {
    format: u32,
    frame_height: u32,
    sample_rate: u32,
    rgb_frames: u32,
    flow_pairs: u32,
    flow_gap_ns: u64,
    /// Folders that the paths of items are relative to. A relative root is relative to the dataset's directory.
    roots: Vec<PathBuf>,
    /// SHA-256 of the `items.csv` that belongs to this file.
    items_sha256: String,
}

/// A line of `items.csv`.
#[derive(Debug, Serialize, Deserialize)]
struct ItemLine {
    kind: Kind,
    path: String,
    class: String,
    source: String,
    group: String,
    weak: bool,
    audible: bool,
    licence: String,
    start_ns: Option<u64>,
    end_ns: Option<u64>,
    seconds: u32,
    shard: Option<String>,
    root: u32,
    key: String,
}

/// A line of `split.csv`.
#[derive(Debug, Serialize, Deserialize)]
struct SplitLine {
    path: String,
    class: String,
    source: String,
    group: String,
    side: Side,
}

/// Returns `lines` as CSV with a header.
pub(super) fn to_csv<T: Serialize>(lines: impl Iterator<Item = T>) -> Result<Vec<u8>> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    for line in lines {
        writer.serialize(line).map_err(|e| Error::Internal(format!("a CSV line cannot be written: {e}")))?;
    }
    writer.into_inner().map_err(|e| Error::Internal(format!("a CSV cannot be written: {e}")))
}

/// Parses the CSV file at `path`, whose contents are `bytes`.
fn from_csv<T: for<'de> Deserialize<'de>>(path: &Path, bytes: &[u8], advice: &str) -> Result<Vec<T>> {
    csv::Reader::from_reader(bytes)
        .deserialize()
        .map(|line| line.map_err(|e| Error::data(path, e.to_string().replace('\n', " "), advice)))
        .collect()
}

/// Writes `items.csv` and `dataset.toml`.
///
/// # Errors
/// [`Error::Output`] when a file cannot be written.
pub(super) fn save(dir: &Path, meta: &Meta, roots: &[PathBuf], items: &[(Item, ItemOrigin)]) -> Result<()> {
    let lines = items.iter().map(|(item, origin)| ItemLine {
        kind: item.kind,
        path: item.path.to_string_lossy().into_owned(),
        class: item.class.clone(),
        source: item.source.clone(),
        group: item.group.clone(),
        weak: item.weak,
        audible: item.audible,
        licence: item.licence.clone(),
        start_ns: item.start_ns,
        end_ns: item.end_ns,
        seconds: item.seconds,
        shard: item.shard.clone(),
        root: origin.root,
        key: origin.key.clone(),
    });
    let text = to_csv(lines)?;
    let file = MetaFile {
        format: meta.format,
        frame_height: meta.frame_height,
        sample_rate: meta.sample_rate,
        rgb_frames: meta.plan.rgb_frames,
        flow_pairs: meta.plan.flow_pairs,
        flow_gap_ns: meta.plan.flow_gap_ns,
        roots: roots.to_vec(),
        items_sha256: sha256_hex(&text),
    };
    write_atomically(&dir.join(ITEMS), &text)?;
    let toml = toml::to_string(&file).map_err(|e| Error::Internal(format!("{META} cannot be written: {e}")))?;
    write_atomically(&dir.join(META), toml.as_bytes())
}

/// Implements [`Dataset::open`].
pub(super) fn open(dir: &Path) -> Result<Dataset> {
    let again = "run `touchline dataset build` again with the same arguments; it reuses the existing shards";
    let path = dir.join(META);
    let text = std::fs::read_to_string(&path).map_err(|e| {
        Error::data(dir, format!("not a dataset: {META}: {e}"), "build one with `touchline dataset build`")
    })?;
    let file: MetaFile =
        toml::from_str(&text).map_err(|e| Error::data(&path, e.to_string().trim_end().replace('\n', " "), again))?;
    if file.format != FORMAT {
        let cause = format!("format {} is not the format that this version reads ({FORMAT})", file.format);
        return Err(Error::data(&path, cause, "build the dataset again"));
    }
    let path = dir.join(ITEMS);
    let bytes = std::fs::read(&path).map_err(|e| Error::data(&path, e.to_string(), again))?;
    // Parsed before the hash is compared, so that the error names an invalid line.
    let lines: Vec<ItemLine> = from_csv(&path, &bytes, again)?;
    if sha256_hex(&bytes) != file.items_sha256 {
        return Err(Error::data(&path, format!("does not belong to {META}: a build was interrupted"), again));
    }
    let mut items = Vec::with_capacity(lines.len());
    let mut origins = Vec::with_capacity(lines.len());
    for (n, line) in lines.into_iter().enumerate() {
        let is_known = (line.root as usize) < file.roots.len();
        if !is_known || line.shard.is_none() != line.kind.is_still() {
            // The header is line 1.
            return Err(Error::data(&path, format!("line {}: root or shard is invalid", n + 2), again));
        }
        items.push(Item {
            kind: line.kind,
            path: line.path.into(),
            class: line.class,
            source: line.source,
            group: line.group,
            weak: line.weak,
            audible: line.audible,
            licence: line.licence,
            start_ns: line.start_ns,
            end_ns: line.end_ns,
            seconds: line.seconds,
            shard: line.shard,
        });
        origins.push(ItemOrigin { root: line.root, key: line.key });
    }
    let plan = SamplingPlan {
        rgb_frames: file.rgb_frames,
        flow_pairs: file.flow_pairs,
        flow_gap_ns: file.flow_gap_ns,
        signal_frames: 0,
    };
    let meta = Meta { format: file.format, frame_height: file.frame_height, sample_rate: file.sample_rate, plan };
    let sides = open_split(&dir.join(SPLIT), &items)?;
    // `join` leaves an absolute root unchanged.
    let roots = file.roots.iter().map(|root| dir.join(root)).collect();
    Ok(Dataset { dir: dir.to_owned(), meta, items, origins, roots, sides })
}

/// Reads `split.csv`.
fn open_split(path: &Path, items: &[Item]) -> Result<Sides> {
    let bytes = match std::fs::read(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Sides::Missing),
        read => read.map_err(|e| Error::data(path, e.to_string(), "check the permissions"))?,
    };
    let lines: Vec<SplitLine> = from_csv(path, &bytes, "run `touchline dataset split` again")?;
    let fits = |(line, item): (&SplitLine, &Item)| {
        line.path == item.path.to_string_lossy() && line.class == item.class && line.group == item.group
    };
    if lines.len() != items.len() || !lines.iter().zip(items).all(fits) {
        return Ok(Sides::Stale);
    }
    Ok(Sides::Known(lines.into_iter().map(|line| line.side).collect()))
}

/// Writes `split.csv`.
///
/// # Errors
/// [`Error::Output`] when it cannot be written.
pub(super) fn save_split(dir: &Path, items: &[Item], sides: &[Side]) -> Result<()> {
    let lines = items.iter().zip(sides).map(|(item, side)| SplitLine {
        path: item.path.to_string_lossy().into_owned(),
        class: item.class.clone(),
        source: item.source.clone(),
        group: item.group.clone(),
        side: *side,
    });
    write_atomically(&dir.join(SPLIT), &to_csv(lines)?)
}

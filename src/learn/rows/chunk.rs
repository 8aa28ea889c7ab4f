//! A chunk of rows in one safetensors file: `keys`, `pooled`, `activations`.
//!
//! Keys and pooled features are loaded into memory when the chunk is opened. Activations are read from the file, row by row.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use half::f16;
use safetensors::tensor::{Dtype, TensorView};
use serde::Deserialize;

use super::{Key, unreadable};
use touchline_core::error::{Error, Result};

/// Rows that are being collected for a chunk.
#[derive(Debug, Default)]
pub(super) struct Collected {
    pub keys: Vec<Key>,
    /// Pooled features, row after row.
    pub pooled: Vec<f16>,
    /// Activations (C, H, W), row after row; empty when the recipe has none.
    pub activations: Vec<f16>,
}

/// An open chunk file.
#[derive(Debug)]
pub(super) struct Chunk {
    path: PathBuf,
    file: File,
    /// Offset of the activations in the file, bytes.
    start: u64,
}

/// An open chunk with its keys and pooled features.
pub(super) struct Loaded {
    pub chunk: Chunk,
    pub keys: Vec<Key>,
    pub pooled: Vec<f32>,
}

/// Entry of a tensor in a safetensors header.
#[derive(Deserialize)]
struct TensorEntry {
    data_offsets: [u64; 2],
}

impl Collected {
    /// Writes the chunk file. `width` is the number of pooled features and `shape` that of the activations. An interrupted write
    /// leaves no partial file under the final name.
    pub fn save(&self, path: &Path, width: usize, shape: [usize; 3]) -> Result<()> {
        let keys: Vec<u8> =
            self.keys.iter().flat_map(|k| [k.item, k.second, k.view]).flat_map(u32::to_le_bytes).collect();
        let bytes = |values: &[f16]| values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
        let (pooled, activations) = (bytes(&self.pooled), bytes(&self.activations));
        let n = self.keys.len();
        let [c, h, w] = shape;
        let with_activations = if activations.is_empty() { 0 } else { n };
        let view = |dtype, shape, data| TensorView::new(dtype, shape, data).expect("the lengths are those of the rows");
        let tensors = BTreeMap::from([
            ("keys", view(Dtype::U32, vec![n, 3], &keys)),
            ("pooled", view(Dtype::F16, vec![n, width], &pooled)),
            ("activations", view(Dtype::F16, vec![with_activations, c, h, w], &activations)),
        ]);
        let failed = |cause: String| {
            Error::output(
                path.display().to_string(),
                format!("cannot write: {cause}"),
                "free space or choose another --cache",
            )
        };
        let whole = safetensors::serialize(tensors, None).map_err(|e| failed(e.to_string()))?;
        let part = path.with_extension("part");
        std::fs::write(&part, whole).and_then(|()| std::fs::rename(&part, path)).map_err(|e| failed(e.to_string()))
    }
}

impl Chunk {
    /// Reads keys and pooled features, and leaves the file open for the activations.
    pub fn open(path: &Path) -> Result<Loaded> {
        let mut file = File::open(path).map_err(|e| unreadable(path, e))?;
        let mut length = [0u8; 8];
        file.read_exact(&mut length).map_err(|e| unreadable(path, e))?;
        let total = file.metadata().map_err(|e| unreadable(path, e))?.len();
        let header = u64::from_le_bytes(length);
        if header > total {
            return Err(unreadable(path, "its header is longer than the file"));
        }
        let mut start = vec![0u8; header as usize + 8];
        file.read_exact_at(&mut start, 0).map_err(|e| unreadable(path, e))?;
        // The safetensors crate needs the whole file in memory. Here most of it stays on disk.
        let entries: HashMap<String, TensorEntry> =
            serde_json::from_slice(&start[8..]).map_err(|e| unreadable(path, e))?;
        let place = |name: &str| {
            let place = entries.get(name).map(|e| e.data_offsets.map(|at| start.len() as u64 + at));
            match place {
                Some([from, to]) if from <= to && to <= total => Ok((from, to)),
                Some(_) => Err(unreadable(path, "it is truncated")),
                None => Err(unreadable(path, format!("{name} is missing"))),
            }
        };
        let read = |name: &str| -> Result<Vec<u8>> {
            let (from, to) = place(name)?;
            let mut bytes = vec![0u8; (to - from) as usize];
            file.read_exact_at(&mut bytes, from).map_err(|e| unreadable(path, e))?;
            Ok(bytes)
        };
        let numbers: Vec<u32> =
            read("keys")?.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
        let keys = numbers.chunks_exact(3).map(|k| Key { item: k[0], second: k[1], view: k[2] }).collect();
        let pooled = read("pooled")?.chunks_exact(2).map(|b| f16::from_le_bytes([b[0], b[1]]).to_f32()).collect();
        let (begin, _) = place("activations")?;
        Ok(Loaded { chunk: Chunk { path: path.to_owned(), file, start: begin }, keys, pooled })
    }

    /// The path of the file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads the activations of row `place` of the chunk.
    pub fn read(&self, place: u32, into: &mut [f16]) -> Result<()> {
        let mut bytes = vec![0u8; into.len() * 2];
        let at = self.start + u64::from(place) * bytes.len() as u64;
        self.file.read_exact_at(&mut bytes, at).map_err(|e| unreadable(&self.path, e))?;
        for (value, b) in into.iter_mut().zip(bytes.chunks_exact(2)) {
            *value = f16::from_le_bytes([b[0], b[1]]);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_survive_the_round_trip_and_damage_is_reported() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("rows.safetensors");
        let rows = Collected {
            keys: (0..3).map(|i| Key { item: i, second: 2 * i, view: i % 2 }).collect(),
            pooled: (0..6).map(|v| f16::from_f32(v as f32)).collect(),
            activations: (0..3 * 4).map(|v| f16::from_f32(v as f32 * 0.5)).collect(),
        };
        rows.save(&path, 2, [2, 1, 2]).unwrap();
        let loaded = Chunk::open(&path).unwrap();
        assert_eq!((loaded.keys, loaded.pooled.len(), loaded.pooled[5]), (rows.keys.clone(), 6, 5.0));
        let mut row = [f16::ZERO; 4];
        loaded.chunk.read(1, &mut row).unwrap();
        assert_eq!(row.map(f16::to_f32), [2.0, 2.5, 3.0, 3.5]);
        let bytes = std::fs::read(&path).unwrap();
        for cut in [0, 5, 40, bytes.len() - 1] {
            std::fs::write(&path, &bytes[..cut]).unwrap();
            let error = Chunk::open(&path).err().expect("the file is damaged").to_string();
            assert!(error.contains("rows.safetensors"), "{error}");
        }
    }
}

//! Held-out scores of a cross-validation: logits of rows that the model was not trained on, in one file per modality.

use std::collections::HashMap;
use std::path::Path;

use candle_core::{Device, Tensor};

use touchline_core::error::{Error, Result};

/// A matrix as a list of rows.
type Table<T> = Vec<Vec<T>>;

/// Name of the file. It is in the directory with the folds of a modality.
const FILE: &str = "held-out.safetensors";

/// The output of a model for one frame, pair or second of sound of the fold that it was not trained on.
#[derive(Clone, Debug, PartialEq)]
pub struct HeldOutRow {
    /// Index into the dataset's items.
    pub item: u32,
    /// Index of the second within the item.
    pub second: u32,
    /// Fold of the item, from 0.
    pub fold: u32,
    /// One logit per output.
    pub logits: Vec<f32>,
}

/// The held-out scores of one modality.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HeldOut {
    /// Names of the outputs' classes.
    pub outputs: Vec<String>,
    /// All rows that were held out. Several may belong to one second.
    pub rows: Vec<HeldOutRow>,
}

impl HeldOut {
    /// Writes the file into `dir`. An interrupted write leaves no partial file under the final name.
    ///
    /// # Errors
    /// [`Error::Output`] when the file cannot be written.
    pub fn save(&self, dir: &Path) -> Result<()> {
        let path = dir.join(FILE);
        let write = || -> candle_core::Result<()> {
            let keys: Vec<u32> = self.rows.iter().flat_map(|r| [r.item, r.second, r.fold]).collect();
            let logits: Vec<f32> = self.rows.iter().flat_map(|r| r.logits.iter().copied()).collect();
            let n = self.rows.len();
            let tensors = HashMap::from([
                ("rows".to_owned(), Tensor::from_vec(keys, (n, 3), &Device::Cpu)?),
                ("logits".to_owned(), Tensor::from_vec(logits, (n, self.outputs.len()), &Device::Cpu)?),
            ]);
            let part = path.with_extension("part");
            candle_core::safetensors::save(&tensors, &part)?;
            std::fs::rename(&part, &path)?;
            Ok(())
        };
        write().map_err(|e| {
            let cause = format!("the held-out scores cannot be written: {e}");
            Error::output(path.display().to_string(), cause, "free space or choose another -o")
        })
    }

    /// Reads a file that [`Self::save`] wrote. `outputs` are the class names of the outputs.
    ///
    /// # Errors
    /// [`Error::Data`] when the file is missing or damaged, has another number of outputs, or contains NaN or infinity.
    pub fn load(dir: &Path, outputs: &[String]) -> Result<Self> {
        let path = dir.join(FILE);
        let again = "run `touchline train --folds` with --resume; it continues where it stopped";
        let read = || -> candle_core::Result<(Table<u32>, Table<f32>)> {
            let tensors = candle_core::safetensors::load(&path, &Device::Cpu)?;
            let tensor =
                |name: &str| tensors.get(name).ok_or_else(|| candle_core::Error::Msg(format!("{name} is missing")));
            Ok((tensor("rows")?.to_vec2()?, tensor("logits")?.to_vec2()?))
        };
        let (keys, logits) = read().map_err(|e| Error::data(&path, e.to_string(), again))?;
        if keys.len() != logits.len() || logits.iter().any(|row| row.len() != outputs.len()) {
            return Err(Error::data(&path, "does not fit the folds beside it", again));
        }
        if logits.iter().flatten().any(|v| !v.is_finite()) {
            let cause = "a score is NaN or infinite: a fold has diverged";
            return Err(Error::data(&path, cause, "train the folds again with a lower learning rate"));
        }
        let row = |(key, logits): (Vec<u32>, Vec<f32>)| match key[..] {
            [item, second, fold] => Ok(HeldOutRow { item, second, fold, logits }),
            _ => Err(Error::data(&path, "the index of its rows is malformed", again)),
        };
        let rows = keys.into_iter().zip(logits).map(row).collect::<Result<_>>()?;
        Ok(Self { outputs: outputs.to_vec(), rows })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_survive_the_round_trip_and_damage_is_reported() {
        let dir = tempfile::tempdir().unwrap();
        let outputs = ["golf".to_owned(), "tennis".to_owned()];
        let row = |item, logit| HeldOutRow { item, second: 2, fold: 1, logits: vec![logit, 0.5] };
        let held_out = HeldOut { outputs: outputs.to_vec(), rows: vec![row(3, 1.5), row(4, -2.0)] };
        held_out.save(dir.path()).unwrap();
        assert_eq!(HeldOut::load(dir.path(), &outputs).unwrap(), held_out);
        let fails = |outputs: &[String], words: &str| {
            let error = HeldOut::load(dir.path(), outputs).unwrap_err().to_string();
            assert!(error.contains(words) && error.contains(FILE), "{error}");
        };
        fails(&outputs[..1], "does not fit");
        HeldOut { rows: vec![row(3, f32::NAN)], ..held_out }.save(dir.path()).unwrap();
        fails(&outputs, "NaN or infinite");
        std::fs::write(dir.path().join(FILE), b"cut").unwrap();
        fails(&outputs, FILE);
        std::fs::remove_file(dir.path().join(FILE)).unwrap();
        fails(&outputs, FILE);
    }
}

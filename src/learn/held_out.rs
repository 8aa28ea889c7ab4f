//! What models say of rows that they did not learn from: the scores of a cross-validation, in one file for each modality.

use std::collections::HashMap;
use std::path::Path;

use candle_core::{Device, Tensor};

use touchline_core::error::{Error, Result};

/// Row by row.
type Table<T> = Vec<Vec<T>>;

/// Beside the folds of a modality.
const FILE: &str = "held-out.safetensors";

/// The output of a model for a frame, a pair or a second of sound of the fold that it did not learn from.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// Index into the dataset's items.
    pub item: u32,
    /// Second of the recording.
    pub second: u32,
    /// The fold that holds it, from 0.
    pub fold: u32,
    pub logits: Vec<f32>,
}

/// Every row of a modality that was held out once.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HeldOut {
    /// Classes of the outputs.
    pub outputs: Vec<String>,
    pub rows: Vec<Row>,
}

impl HeldOut {
    /// Writes the file whole or not at all.
    ///
    /// # Errors
    /// [`Error::Output`].
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

    /// Reads what [`Self::save`] wrote.
    ///
    /// # Errors
    /// [`Error::Data`] when it is missing, damaged, or of other outputs.
    pub fn load(dir: &Path, outputs: &[String]) -> Result<Self> {
        let path = dir.join(FILE);
        let again = "run `touchline train --folds` with --resume: it goes on where it was";
        let read = || -> candle_core::Result<(Table<u32>, Table<f32>)> {
            let tensors = candle_core::safetensors::load(&path, &Device::Cpu)?;
            let tensor =
                |name: &str| tensors.get(name).ok_or_else(|| candle_core::Error::Msg(format!("{name} is missing")));
            Ok((tensor("rows")?.to_vec2()?, tensor("logits")?.to_vec2()?))
        };
        let (keys, logits) = read().map_err(|e| Error::data(&path, e.to_string(), again))?;
        if keys.len() != logits.len() || logits.iter().any(|row| row.len() != outputs.len()) {
            return Err(Error::data(&path, "it does not fit the folds beside it", again));
        }
        if logits.iter().flatten().any(|v| !v.is_finite()) {
            let cause = "a score is not a number: a fold has diverged";
            return Err(Error::data(&path, cause, "train the folds again with a lower learning rate"));
        }
        let row = |(key, logits): (Vec<u32>, Vec<f32>)| match key[..] {
            [item, second, fold] => Ok(Row { item, second, fold, logits }),
            _ => Err(Error::data(&path, "its index is malformed", again)),
        };
        let rows = keys.into_iter().zip(logits).map(row).collect::<Result<_>>()?;
        Ok(Self { outputs: outputs.to_vec(), rows })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_come_back_and_damage_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let outputs = ["golf".to_owned(), "tennis".to_owned()];
        let row = |item, logit| Row { item, second: 2, fold: 1, logits: vec![logit, 0.5] };
        let held_out = HeldOut { outputs: outputs.to_vec(), rows: vec![row(3, 1.5), row(4, -2.0)] };
        held_out.save(dir.path()).unwrap();
        assert_eq!(HeldOut::load(dir.path(), &outputs).unwrap(), held_out);
        let says = |outputs: &[String], words: &str| {
            let error = HeldOut::load(dir.path(), outputs).unwrap_err().to_string();
            assert!(error.contains(words) && error.contains(FILE), "{error}");
        };
        says(&outputs[..1], "does not fit");
        HeldOut { rows: vec![row(3, f32::NAN)], ..held_out }.save(dir.path()).unwrap();
        says(&outputs, "not a number");
        std::fs::write(dir.path().join(FILE), b"cut").unwrap();
        says(&outputs, FILE);
        std::fs::remove_file(dir.path().join(FILE)).unwrap();
        says(&outputs, FILE);
    }
}

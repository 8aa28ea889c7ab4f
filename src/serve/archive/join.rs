//! Votes over the decided seconds of a recording, and writes its records and its table.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::sync::Arc;

use parquet::data_type::{ByteArray, ByteArrayType, DataType, FloatType, Int32Type, Int64Type};
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::{SerializedFileWriter, SerializedRowGroupWriter};
use parquet::schema::parser::parse_message_type;

use super::task::{RECORDS, TABLE, unwritable};
use crate::live::StreamVote;
use crate::record::Recorder;
use touchline_core::decision::SecondOutcome;
use touchline_core::error::Result;
use touchline_core::item::Pace;
use touchline_core::labels::ClassSet;
use touchline_core::time::Pts;
use touchline_core::vote::VoteConfig;

/// Columns of the table.
const SCHEMA: &str = "message seconds {
    REQUIRED BYTE_ARRAY recording (UTF8);
    REQUIRED INT32 run;
    REQUIRED INT64 index;
    REQUIRED INT64 pts_ns;
    OPTIONAL BYTE_ARRAY class (UTF8);
    OPTIONAL FLOAT probability;
    OPTIONAL BYTE_ARRAY modality (UTF8);
    OPTIONAL BYTE_ARRAY gap (UTF8);
    OPTIONAL BYTE_ARRAY estimate (UTF8);
    OPTIONAL FLOAT estimate_probability;
}";

/// What a recording is called, and how its seconds are voted over.
pub struct JoinOptions<'a> {
    /// Name of the recording in records.
    pub name: &'a str,
    /// The classes of the pack.
    pub classes: Arc<ClassSet>,
    /// The vote.
    pub vote: VoteConfig,
}

/// The columns of the rows so far.
#[derive(Default)]
struct SecondRows {
    run: Vec<i32>,
    index: Vec<i64>,
    pts_ns: Vec<i64>,
    class: Vec<Option<ByteArray>>,
    probability: Vec<Option<f32>>,
    modality: Vec<Option<ByteArray>>,
    gap: Vec<Option<ByteArray>>,
    estimate: Vec<Option<ByteArray>>,
    estimate_probability: Vec<Option<f32>>,
}

/// Votes over the seconds of a recording, in order, and writes [`RECORDS`] and [`TABLE`] to `folder`. The records are those of
/// `touchline score --jsonl`. Returns the numbers of seconds with a decision and of gaps.
///
/// # Errors
/// Those of `outcomes`, and [`touchline_core::error::Error::Output`] if a file cannot be written.
pub fn join(
    options: &JoinOptions<'_>,
    outcomes: impl Iterator<Item = Result<SecondOutcome>>,
    folder: &Path,
) -> Result<(u64, u64)> {
    let JoinOptions { name, classes, vote } = options;
    let recorder = Recorder::new(name, classes.clone(), Pace::File);
    let mut votes = StreamVote::new(*vote, classes.len(), Pace::File);
    let path = folder.join(RECORDS);
    let mut file = BufWriter::new(File::create(&path).map_err(|e| unwritable(&path, &e))?);
    let mut write = |records: Vec<String>| {
        let mut records = records.iter();
        let written = records.try_for_each(|record| {
            file.write_all(record.as_bytes())?;
            file.write_all(b"\n")
        });
        written.map_err(|e| unwritable(&path, &e))
    };
    let (mut rows, mut seconds, mut gaps) = (SecondRows::default(), 0, 0);
    for outcome in outcomes {
        let outcome = outcome?;
        let published = votes.take(outcome, 0, None, 0);
        write(recorder.published(&published))?;
        match &published.outcome {
            SecondOutcome::Predicted(_) => seconds += 1,
            SecondOutcome::Gap(_) => gaps += 1,
        }
        let estimate = (published.estimate.seconds > 0)
            .then(|| (classes.name(published.estimate.label), published.estimate.probability()));
        rows.push(&published.outcome, estimate, classes);
    }
    let (events, segments) = votes.finish();
    write(events.iter().map(|event| recorder.event(event, None)).collect())?;
    write(segments.iter().map(|segment| recorder.segment(segment)).collect())?;
    file.flush().map_err(|e| unwritable(&path, &e))?;
    let path = folder.join(TABLE);
    rows.write(name, &path).map_err(|e| unwritable(&path, &e))?;
    Ok((seconds, gaps))
}

impl SecondRows {
    fn push(&mut self, outcome: &SecondOutcome, estimate: Option<(&str, f32)>, classes: &ClassSet) {
        let (run, index) = (outcome.run(), outcome.index());
        let signed = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        self.run.push(i32::try_from(run.0).unwrap_or(i32::MAX));
        self.index.push(signed(index));
        self.pts_ns.push(signed(Pts::from_second(index).0));
        let (decision, gap) = match outcome {
            SecondOutcome::Predicted(second) => (Some(&second.decision), None),
            SecondOutcome::Gap(gap) => (None, Some(gap.reason.as_str())),
        };
        self.class.push(decision.map(|decision| classes.name(decision.label).into()));
        self.probability.push(decision.map(|decision| decision.probability));
        self.modality.push(decision.map(|decision| decision.modality.as_str().into()));
        self.gap.push(gap.map(ByteArray::from));
        self.estimate.push(estimate.map(|(class, _)| class.into()));
        self.estimate_probability.push(estimate.map(|(_, probability)| probability));
    }

    /// Columns in the order of [`SCHEMA`].
    fn write(self, name: &str, path: &Path) -> std::result::Result<(), ParquetError> {
        let schema = Arc::new(parse_message_type(SCHEMA)?);
        let mut file = SerializedFileWriter::new(File::create(path)?, schema, Arc::new(WriterProperties::default()))?;
        let mut group = file.next_row_group()?;
        column::<ByteArrayType>(&mut group, vec![Some(ByteArray::from(name)); self.run.len()], true)?;
        column::<Int32Type>(&mut group, self.run.into_iter().map(Some).collect(), true)?;
        column::<Int64Type>(&mut group, self.index.into_iter().map(Some).collect(), true)?;
        column::<Int64Type>(&mut group, self.pts_ns.into_iter().map(Some).collect(), true)?;
        column::<ByteArrayType>(&mut group, self.class, false)?;
        column::<FloatType>(&mut group, self.probability, false)?;
        column::<ByteArrayType>(&mut group, self.modality, false)?;
        column::<ByteArrayType>(&mut group, self.gap, false)?;
        column::<ByteArrayType>(&mut group, self.estimate, false)?;
        column::<FloatType>(&mut group, self.estimate_probability, false)?;
        group.close()?;
        file.close().map(drop)
    }
}

/// Writes the next column. A required one has a value in every row.
fn column<T: DataType>(
    group: &mut SerializedRowGroupWriter<'_, File>,
    values: Vec<Option<T::T>>,
    is_required: bool,
) -> std::result::Result<(), ParquetError> {
    let mut column = group.next_column()?.expect("the schema has this column");
    let levels: Vec<i16> = values.iter().map(|value| value.is_some().into()).collect();
    let values: Vec<T::T> = values.into_iter().flatten().collect();
    column.typed::<T>().write_batch(&values, (!is_required).then_some(&levels[..]), None)?;
    column.close()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{classes, predicted};
    use parquet::file::reader::{FileReader, SerializedFileReader};
    use touchline_core::clip::{Gap, GapReason};
    use touchline_core::time::RunId;

    #[test]
    fn the_table_has_a_row_for_every_second() {
        let folder = tempfile::tempdir().unwrap();
        let options = JoinOptions { name: "a.mp4", classes: Arc::new(classes()), vote: VoteConfig::default() };
        let gap = SecondOutcome::Gap(Gap::new(RunId(0), 2, GapReason::NoMedia));
        let outcomes = [predicted(0, "soccer", 0.9).outcome, predicted(1, "soccer", 0.8).outcome, gap];
        let counted = join(&options, outcomes.into_iter().map(Ok), folder.path()).unwrap();
        assert_eq!(counted, (2, 1));
        let reader = SerializedFileReader::new(File::open(folder.path().join(TABLE)).unwrap()).unwrap();
        let rows: Vec<String> = reader.get_row_iter(None).unwrap().map(|row| row.unwrap().to_string()).collect();
        assert_eq!(rows.len(), 3);
        assert!(rows[0].contains("recording: \"a.mp4\", run: 0, index: 0, pts_ns: 0, class: \"soccer\""), "{rows:?}");
        assert!(
            rows[2].contains("pts_ns: 2000000000, class: null") && rows[2].contains("gap: \"no-media\""),
            "{rows:?}"
        );
        let records = std::fs::read_to_string(folder.path().join(RECORDS)).unwrap();
        assert_eq!(records.lines().filter(|line| line.contains("\"type\":\"second\"")).count(), 2);
    }
}

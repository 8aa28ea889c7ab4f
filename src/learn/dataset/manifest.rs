//! Lists the material: recordings and stills, with their class, source and other labels. Opens no media.
//!
//! An input has one of three forms, recognised by its files:
//!
//! | form | layout |
//! |---|---|
//! | a folder per class | `DIR/<class>/**`: the folder is the class; the source is the first folder below it, or the file's stem |
//! | a CSV | `path`, `class`, and if there: `start`, `end` (seconds, or `h:mm:ss.fff`), `source`, `licence`, `weak`, `kind`; paths are relative to the CSV |
//! | labelled folders | `images/`, `frames/`, `clips/`, `sounds/`, each with a `manifest.csv`: `path`, `class`, `source`, and if there `weak`, `audio` (`yes`, `none`, `silent`), `licence` |

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::duplicates::Groups;
use super::folder;
use super::{Item, Kind};
use touchline_core::error::{Error, Result};
use touchline_core::time::NANOS_PER_SECOND;

/// One recording or still that the inputs name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The item, as far as it is known without opening the file: `kind` comes from the extension unless it is stated, and `seconds`
    /// is 0.
    pub item: Item,
    /// Index into [`Material::roots`].
    pub root: u32,
    /// Whether the input states the kind.
    pub kind_stated: bool,
    /// Whether there is sound; `None` when the input does not state it.
    pub audible: Option<bool>,
}

/// All recordings and stills of the inputs.
#[derive(Clone, Debug, Default)]
pub struct Material {
    /// Absolute folders that the paths are relative to, one per input.
    pub roots: Vec<PathBuf>,
    /// Recordings and stills, in the order of the inputs.
    pub entries: Vec<Entry>,
    /// Lines to show to the user.
    pub notes: Vec<String>,
    /// Files that cannot be used because of their names, with the cause.
    pub skipped: Vec<(PathBuf, String)>,
}

/// Recognises the form of each input and reads the inputs in order.
///
/// # Errors
/// [`Error::Data`] for an input of unknown form, an invalid line (with its number), a class name in two spellings, or a recording
/// with two classes.
pub fn gather(inputs: &[PathBuf]) -> Result<Material> {
    let mut material = Material::default();
    for input in inputs {
        let root = material.roots.len() as u32;
        let before = material.entries.len();
        let absolute = std::fs::canonicalize(input)
            .map_err(|e| Error::data(input, e.to_string(), "choose an existing folder or CSV"))?;
        let form = if absolute.is_file() {
            material.roots.push(absolute.parent().unwrap_or(Path::new("/")).to_owned());
            material.entries.extend(csv_entries(&absolute, root)?);
            "a CSV of recordings"
        } else if Kind::ALL.iter().any(|k| absolute.join(k.folder()).join("manifest.csv").is_file()) {
            material.roots.push(absolute.clone());
            material.entries.extend(labelled(&absolute, root)?);
            "folders with manifests (images, frames, clips, sounds)"
        } else {
            material.roots.push(absolute.clone());
            folder::read(&absolute, root, &mut material)?;
            "a folder per class"
        };
        let count = material.entries.len() - before;
        material.notes.insert(0, format!("{}: {form}, {count} recordings and pictures", input.display()));
    }
    check_classes(&material, inputs)?;
    drop_repeated(&mut material)?;
    note_sources(&mut material);
    Ok(material)
}

/// Reads the labelled folders in `dir`, in the order of their lines.
///
/// # Errors
/// [`Error::Data`] when there is no labelled folder, or a line is invalid (with its number).
pub fn read(dir: &Path) -> Result<Vec<Item>> {
    Ok(labelled(dir, 0)?.into_iter().map(|entry| entry.item).collect())
}

/// Reads labelled folders: `images/manifest.csv` and the like.
fn labelled(dir: &Path, root: u32) -> Result<Vec<Entry>> {
    let mut entries = Vec::new();
    let mut found = 0;
    for kind in Kind::ALL {
        let path = dir.join(kind.folder()).join("manifest.csv");
        if !path.is_file() {
            continue;
        }
        found += 1;
        let table = Table::open(&path, &["path", "class", "source"])?;
        table.each(|row| {
            let path = Path::new(kind.folder()).join(row.must("path")?);
            let source = normalised(row.must("source")?);
            let audible = match kind {
                Kind::Picture | Kind::Frame => Some(false),
                Kind::Sound => Some(true),
                Kind::Clip => row.text("audio").map(|a| a == "yes"),
            };
            entries.push(Entry {
                item: Item {
                    kind,
                    class: row.must("class")?.to_owned(),
                    // Photographs are not frames of one recording, so each is a group of its own.
                    group: if kind == Kind::Picture { path.to_string_lossy().into_owned() } else { source.clone() },
                    path,
                    source,
                    weak: row.flag("weak"),
                    audible: audible.unwrap_or(true),
                    licence: row.text("licence").unwrap_or_default().to_owned(),
                    start_ns: None,
                    end_ns: None,
                    seconds: 0,
                    shard: None,
                },
                root,
                kind_stated: true,
                audible,
            });
            Ok(())
        })?;
    }
    if found == 0 {
        let cause =
            "contains none of images/manifest.csv, frames/manifest.csv, clips/manifest.csv, sounds/manifest.csv";
        return Err(Error::data(dir, cause, "choose the folder that contains them"));
    }
    Ok(entries)
}

/// Returns the source with `/` for `+`. Manifests use both separators for the same source.
fn normalised(source: &str) -> String {
    source.replace('+', "/")
}

/// Reads a CSV of recordings and stills.
fn csv_entries(path: &Path, root: u32) -> Result<Vec<Entry>> {
    let table = Table::open(path, &["path", "class"])?;
    let mut entries = Vec::new();
    table.each(|row| {
        let file = PathBuf::from(row.must("path")?);
        let kind_stated =
            row.text("kind").map(|k| kind_named(k).ok_or_else(|| row.bad("kind", k, KINDS))).transpose()?;
        let guessed = folder::kind_of(&file).unwrap_or(Kind::Clip);
        let kind = kind_stated.unwrap_or(guessed);
        let time = |column| row.text(column).map(|t| nanos(t).ok_or_else(|| row.bad(column, t, TIMES))).transpose();
        let (start_ns, end_ns) = (time("start")?, time("end")?);
        if kind.is_still() && (start_ns.is_some() || end_ns.is_some()) {
            return Err(row.error("a still has a start or an end", "leave both empty for pictures and frames"));
        }
        if let (Some(start), Some(end)) = (start_ns, end_ns)
            && end <= start
        {
            return Err(row.error("end is not after start", "write start and end of the part within the recording"));
        }
        let stated = row.text("source").map(normalised);
        let whole = file.to_string_lossy().into_owned();
        let source = stated.clone().unwrap_or_else(|| folder::stem(&file));
        entries.push(Entry {
            item: Item {
                kind,
                class: row.must("class")?.to_owned(),
                // Without a stated source, the parts of a file form a group.
                group: stated.unwrap_or(whole),
                path: file,
                source,
                weak: row.flag("weak"),
                audible: !kind.is_still(),
                licence: row.text("licence").unwrap_or_default().to_owned(),
                start_ns,
                end_ns,
                seconds: 0,
                shard: None,
            },
            root,
            kind_stated: kind_stated.is_some(),
            audible: None,
        });
        Ok(())
    })?;
    Ok(entries)
}

const KINDS: &str = "use picture, frame, clip or sound, or leave it empty";
const TIMES: &str = "write seconds (12.5) or h:mm:ss.fff (0:01:12.500)";

/// Returns the kind with this name in a CSV.
fn kind_named(name: &str) -> Option<Kind> {
    match name {
        "picture" | "image" | "still" => Some(Kind::Picture),
        "clip" | "video" | "recording" => Some(Kind::Clip),
        "sound" | "audio" => Some(Kind::Sound),
        "frame" => Some(Kind::Frame),
        _ => None,
    }
}

/// Parses a time such as `12`, `12.5`, `2:03` or `1:02:03.250`, and returns nanoseconds.
fn nanos(text: &str) -> Option<u64> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let is_number = |t: &str| !t.is_empty() && t.bytes().all(|b| b.is_ascii_digit());
    if fraction.len() > 9 || (text.contains('.') && !is_number(fraction)) {
        return None;
    }
    let parts: Vec<&str> = whole.split(':').collect();
    if parts.len() > 3 || !parts.iter().all(|p| is_number(p)) {
        return None;
    }
    let mut seconds = 0u64;
    for (i, part) in parts.iter().enumerate() {
        let value: u64 = part.parse().ok()?;
        if i > 0 && value >= 60 {
            return None;
        }
        seconds = seconds.checked_mul(60)?.checked_add(value)?;
    }
    let below: u64 = if fraction.is_empty() { 0 } else { format!("{fraction:0<9}").parse().ok()? };
    seconds.checked_mul(NANOS_PER_SECOND)?.checked_add(below)
}

/// A CSV with named columns. Errors give the number of the line.
struct Table {
    path: PathBuf,
    reader: csv::Reader<std::fs::File>,
    columns: BTreeMap<String, usize>,
}

impl Table {
    /// Opens a CSV that must have the columns `needed`.
    fn open(path: &Path, needed: &[&str]) -> Result<Self> {
        let advice = format!("the columns are {}", needed.join(","));
        let mut reader = csv::ReaderBuilder::new()
            .trim(csv::Trim::All)
            .from_path(path)
            .map_err(|e| Error::data(path, format!("cannot read: {e}"), &advice))?;
        let headers = reader.headers().map_err(|e| Error::data(path, one_line(&e), &advice))?;
        let columns: BTreeMap<String, usize> = headers.iter().enumerate().map(|(i, h)| (h.to_owned(), i)).collect();
        if let Some(missing) = needed.iter().find(|c| !columns.contains_key(**c)) {
            return Err(Error::data(path, format!("the first line has no column {missing}"), advice));
        }
        Ok(Self { path: path.to_owned(), reader, columns })
    }

    /// Calls `take` with each row.
    fn each(mut self, mut take: impl FnMut(&Row<'_>) -> Result<()>) -> Result<()> {
        let mut record = csv::StringRecord::new();
        loop {
            match self.reader.read_record(&mut record) {
                Ok(true) => take(&Row { path: &self.path, columns: &self.columns, record: &record })?,
                Ok(false) => return Ok(()),
                Err(e) => {
                    let advice = "give every line as many values as the first, in UTF-8";
                    return Err(Error::data(&self.path, one_line(&e), advice));
                }
            }
        }
    }
}

fn one_line(e: &csv::Error) -> String {
    e.to_string().replace('\n', " ")
}

/// A line of a [`Table`].
struct Row<'a> {
    path: &'a Path,
    columns: &'a BTreeMap<String, usize>,
    record: &'a csv::StringRecord,
}

impl Row<'_> {
    /// Returns the value of a column; [`None`] when it is empty or there is no such column.
    fn text(&self, column: &str) -> Option<&str> {
        self.columns.get(column).and_then(|i| self.record.get(*i)).filter(|t| !t.is_empty())
    }

    /// Returns the value of a column that must not be empty.
    fn must(&self, column: &str) -> Result<&str> {
        self.text(column).ok_or_else(|| self.error(&format!("{column} is empty"), "fill it in or remove the line"))
    }

    /// Returns whether a column is set. Any value except `0`, `no` and `false` sets it.
    fn flag(&self, column: &str) -> bool {
        self.text(column).is_some_and(|t| !matches!(t, "0" | "no" | "false"))
    }

    /// Returns the error for an invalid value of a column.
    fn bad(&self, column: &str, value: &str, advice: &str) -> Error {
        self.error(&format!("{column} is {value:?}"), advice)
    }

    fn error(&self, cause: &str, advice: &str) -> Error {
        let line = self.record.position().map_or(0, csv::Position::line);
        Error::data(self.path, format!("line {line}: {cause}"), advice)
    }
}

/// Rejects class names that are invalid in packs, and two spellings of one name.
fn check_classes(material: &Material, inputs: &[PathBuf]) -> Result<()> {
    let mut spelt: BTreeMap<String, &str> = BTreeMap::new();
    let place = |entry: &Entry| inputs.get(entry.root as usize).cloned().unwrap_or_default();
    let letters = |class: &str| -> String {
        class.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect()
    };
    for entry in &material.entries {
        let class = entry.item.class.as_str();
        let first = spelt.entry(letters(class)).or_insert(class);
        if *first != class {
            let cause = format!("a class name has two spellings, {first:?} and {class:?}");
            return Err(Error::data(place(entry), cause, "use one of them everywhere"));
        }
    }
    let well_formed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' || c == '-';
    match material.entries.iter().find(|e| !e.item.class.chars().all(well_formed)) {
        None => Ok(()),
        Some(entry) => {
            let class = &entry.item.class;
            let cause = format!("{class:?} is not a valid class name");
            let advice = format!("use lower-case letters, digits, '-' and '_', as in {:?}", letters(class));
            Err(Error::data(place(entry), cause, advice))
        }
    }
}

/// Removes repeated entries, also when their paths differ. The same part with two classes is an error. Entries of one file get
/// one group, also when their inputs state different sources.
fn drop_repeated(material: &mut Material) -> Result<()> {
    let place = |entry: &Entry| {
        let path = material.roots[entry.root as usize].join(&entry.item.path);
        // A missing file is reported later. Until then its path identifies it.
        std::fs::canonicalize(&path).unwrap_or(path)
    };
    let files: Vec<PathBuf> = material.entries.iter().map(place).collect();
    let joined = join_sources(&files, &mut material.entries);
    let mut seen: BTreeMap<(PathBuf, Option<u64>, Option<u64>), String> = BTreeMap::new();
    let mut repeated = 0;
    let mut conflict = None;
    let mut files = files.into_iter();
    material.entries.retain(|entry| {
        let item = &entry.item;
        let key = (files.next().expect("a file for each entry"), item.start_ns, item.end_ns);
        match seen.get(&key) {
            None => {
                seen.insert(key, item.class.clone());
                true
            }
            Some(class) => {
                if *class != item.class {
                    conflict.get_or_insert((key.0, class.clone(), item.class.clone()));
                }
                repeated += 1;
                false
            }
        }
    });
    if let Some((path, a, b)) = conflict {
        let cause = format!("it has two classes, {a} and {b}");
        return Err(Error::data(path, cause, "give a recording, or a part of it, one class"));
    }
    if repeated > 0 {
        material.notes.push(format!("{repeated} repeated entries are used once"));
    }
    if joined > 0 {
        material.notes.push(format!("{joined} sources are merged into others, because they contain the same file"));
    }
    Ok(())
}

/// Gives the entries of one file the same group, and returns by how many the number of groups fell. `files` has the file of each
/// entry.
fn join_sources(files: &[PathBuf], entries: &mut [Entry]) -> usize {
    let mut groups = Groups::new(entries.iter().map(|e| e.item.group.as_str()));
    let mut first: BTreeMap<&Path, &str> = BTreeMap::new();
    for (file, entry) in files.iter().zip(entries.iter()) {
        let group = entry.item.group.as_str();
        groups.join(first.entry(file).or_insert(group), group);
    }
    let joined = groups.joined;
    let names: Vec<String> = entries.iter().map(|e| groups.name_of(&e.item.group)).collect();
    for (entry, name) in entries.iter_mut().zip(names) {
        entry.item.group = name;
    }
    joined
}

/// Adds a note about classes whose items all come from one source.
fn note_sources(material: &mut Material) {
    let mut groups: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for item in material.entries.iter().map(|e| &e.item) {
        groups.entry(&item.class).or_default().insert(&item.group);
    }
    let single: Vec<&str> = groups.iter().filter(|(_, g)| g.len() == 1).map(|(c, _)| *c).collect();
    if !single.is_empty() {
        let note = format!(
            "classes with a single source: {}; they cannot be tested, because no other source remains for the test",
            single.join(" ")
        );
        material.notes.push(note);
    }
}

#[cfg(test)]
#[path = "manifest_tests.rs"]
mod tests;

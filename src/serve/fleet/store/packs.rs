//! Packs in the object store of a fleet.
//!
//! A file is an object with its SHA-256 as name, so packs that share weights share objects. A pack is an object `pack-DIGEST`, the list of
//! its files; its digest is the SHA-256 of that list. Nothing is trusted: names are checked, and every file is hashed where it arrives.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use async_nats::jetstream::object_store::{GetErrorKind, InfoErrorKind, ObjectStore};
use async_nats::jetstream::stream;
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tokio::io::AsyncReadExt;
use tokio::runtime::Handle;
use tokio::time::timeout;
use tokio_stream::StreamExt;

use super::{FleetStore, FleetStoreFailure};
use crate::config::records_stream;
use crate::connect::causes;
use crate::fleet::rollout::{HaltReason, PackRef, TaskFailure};
use touchline_compute::models::pack::{MANIFEST, Pack};
use touchline_compute::models::sha256_hex;
use touchline_core::labels::Modality;

/// Prefix of the names of packs.
const PACK: &str = "pack-";

/// Files of a pack.
const FILES_MAX: usize = 32;

/// Bytes of a file of a pack.
const FILE_MAX: u64 = 2_000_000_000;

/// Bytes of the list of a pack's files.
const LIST_MAX: usize = 100_000;

/// Bytes that are read at once.
const BLOCK: usize = 128 * 1024;

/// How long the server may send nothing of a file.
const READ_LIMIT: Duration = Duration::from_secs(30);

/// How long a request of the command line may take, besides the files themselves.
const REQUEST_LIMIT: Duration = Duration::from_secs(10);

/// A file of a pack.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct PackFile {
    name: String,
    bytes: u64,
    sha256: String,
}

/// The files of a pack, in the order of their names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct PackList {
    name: String,
    files: Vec<PackFile>,
}

impl PackList {
    /// The files in `dir`, hashed.
    fn read(dir: &Path) -> std::io::Result<Vec<PackFile>> {
        let mut files = Vec::new();
        for entry in std::fs::read_dir(dir)? {
            let path = entry?.path();
            // Follows links, as the loader does.
            if !std::fs::metadata(&path)?.is_file() {
                continue;
            }
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let (bytes, sha256) = hash(&path)?;
            files.push(PackFile { name, bytes, sha256 });
        }
        files.sort();
        Ok(files)
    }

    /// The SHA-256 of the files' hashes and names, hexadecimal.
    fn digest(files: &[PackFile]) -> String {
        let lines: String = files.iter().map(|file| format!("{}  {}\n", file.sha256, file.name)).collect();
        sha256_hex(lines.as_bytes())
    }

    /// What is wrong with a list, if anything is.
    fn problem(&self) -> Option<String> {
        let Self { files, .. } = self;
        if files.is_empty() || files.len() > FILES_MAX {
            return Some(format!("{} files; a pack has 1 to {FILES_MAX}", files.len()));
        }
        if !files.iter().any(|file| file.name == MANIFEST) {
            return Some(format!("no {MANIFEST}"));
        }
        if !files.is_sorted_by(|a, b| a.name < b.name) {
            return Some("the files are not in the order of their names".into());
        }
        let is_name = |name: &str| {
            let is_usual = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
            (1..=100).contains(&name.len()) && !name.starts_with('.') && name.chars().all(is_usual)
        };
        files.iter().find_map(|file| match file {
            PackFile { name, .. } if !is_name(name) => {
                Some(format!("the file name {name:?} is not of letters, digits, '.', '-' and '_'"))
            }
            PackFile { name, bytes, .. } if *bytes > FILE_MAX => Some(format!("{name} has {bytes} bytes")),
            PackFile { name, sha256, .. } if !is_digest(sha256) => Some(format!("{name} has no SHA-256")),
            _ => None,
        })
    }
}

fn hex(bytes: impl AsRef<[u8]>) -> String {
    bytes.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn hash(path: &Path) -> std::io::Result<(u64, String)> {
    let (mut file, mut sha256, mut bytes, mut block) = (File::open(path)?, Sha256::new(), 0, vec![0; BLOCK]);
    loop {
        match std::io::Read::read(&mut file, &mut block)? {
            0 => return Ok((bytes, hex(sha256.finalize()))),
            count => {
                sha256.update(&block[..count]);
                bytes += count as u64;
            }
        }
    }
}

/// Whether a text is a SHA-256 in lower-case hexadecimal.
pub(crate) fn is_digest(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

fn wrong(text: impl Into<String>) -> TaskFailure {
    TaskFailure::Final(HaltReason::DigestWrong, text.into())
}

fn unusable(text: impl Into<String>) -> TaskFailure {
    TaskFailure::Final(HaltReason::LoadFailed, text.into())
}

fn later(text: impl Into<String>) -> TaskFailure {
    TaskFailure::Later(text.into())
}

impl FleetStore {
    async fn objects(&self) -> Result<ObjectStore, FleetStoreFailure> {
        let name = records_stream(&self.name);
        let opened = self.context.get_object_store(&name).await;
        opened.map_err(|e| {
            let text = format!("{}: cannot open the object store {name}: {}", self.host, causes(&e));
            FleetStoreFailure(format!("{text}; publish a pack first, and give this login its rights"))
        })
    }

    async fn objects_for_writing(&self) -> Result<ObjectStore, FleetStoreFailure> {
        if let Ok(objects) = self.objects().await {
            return Ok(objects);
        }
        // Another person may create it at the same time.
        let created = self.context.create_stream(objects_config(&records_stream(&self.name))).await;
        self.objects().await.map_err(|e| match created {
            Ok(_) => e,
            Err(created) => FleetStoreFailure(format!("{e} ({})", causes(&created))),
        })
    }

    /// Puts the pack in `dir` into the object store.
    ///
    /// # Errors
    /// A pack that is damaged, or a server that does not take it: cause and advice.
    pub async fn publish_pack(&self, dir: &Path) -> Result<PackRef, FleetStoreFailure> {
        let failed = |text: String| FleetStoreFailure(format!("pack {}: {text}", dir.display()));
        let pack = Pack::open(dir).map_err(|e| FleetStoreFailure(e.to_string()))?;
        let files = PackList::read(dir).map_err(|e| failed(format!("{e}; make its files readable")))?;
        let list = PackList { name: pack.name.clone(), files };
        if let Some(problem) = list.problem() {
            return Err(failed(format!("{problem}; correct that and retry")));
        }
        for model in Modality::ALL.iter().filter_map(|modality| pack.model(*modality)) {
            let is_same = |file: &PackFile| file.sha256 == model.sha256;
            if !list.files.iter().any(is_same) {
                let name = model.weights.file_name().unwrap_or_default().to_string_lossy().into_owned();
                return Err(failed(format!("{name} does not have the SHA-256 of {MANIFEST}; copy the pack again")));
            }
        }
        let objects = self.objects_for_writing().await?;
        let digest = PackList::digest(&list.files);
        for file in &list.files {
            let bytes = std::fs::read(dir.join(&file.name)).map_err(|e| failed(format!("{}: {e}", file.name)))?;
            let sha256 = Sha256::digest(&bytes);
            if hex(sha256) != file.sha256 {
                return Err(failed(format!("{} changes while it is read; retry when it does not", file.name)));
            }
            let own = format!("SHA-256={}", BASE64_URL_SAFE.encode(sha256));
            if objects.info(&file.sha256).await.is_ok_and(|info| info.digest == Some(own) && !info.deleted) {
                continue;
            }
            let put = objects.put(file.sha256.as_str(), &mut bytes.as_slice()).await;
            put.map_err(|e| failed(format!("{}: {}; check the rights of this login", file.name, causes(&e))))?;
        }
        let json = serde_json::to_vec(&list).expect("a list of structs with string keys");
        let put = objects.put(format!("{PACK}{digest}").as_str(), &mut json.as_slice()).await;
        put.map_err(|e| failed(format!("{}; check the rights of this login", causes(&e))))?;
        Ok(PackRef { name: list.name, digest })
    }

    /// The packs in the object store, by name.
    ///
    /// # Errors
    /// Cause and advice.
    pub async fn packs(&self) -> Result<Vec<PackRef>, FleetStoreFailure> {
        let packs = self.pack_lists().await?;
        let mut packs: Vec<_> = packs.into_iter().map(|(digest, list)| PackRef { name: list.name, digest }).collect();
        packs.sort();
        Ok(packs)
    }

    async fn pack_lists(&self) -> Result<Vec<(String, PackList)>, FleetStoreFailure> {
        let failed = |text: String| FleetStoreFailure(format!("{}: cannot list packs: {text}; retry", self.host));
        let all = async {
            let objects = self.objects().await?;
            let mut names = objects.list().await.map_err(|e| failed(causes(&e)))?;
            let mut packs = Vec::new();
            while let Some(info) = names.next().await {
                let info = info.map_err(|e| failed(causes(&e)))?;
                if let Some(digest) = info.name.strip_prefix(PACK) {
                    packs.push(digest.to_owned());
                }
            }
            let mut lists = Vec::new();
            for digest in packs {
                // A damaged one is left to `fetch_pack`, which says so.
                if let Ok(list) = pack_list(&objects, &digest).await {
                    lists.push((digest, list));
                }
            }
            Ok(lists)
        };
        timeout(REQUEST_LIMIT, all).await.map_err(|_| failed("no answer".into()))?
    }

    /// Removes a pack, with the files that no other pack has.
    ///
    /// # Errors
    /// Cause and advice.
    pub async fn remove_pack(&self, digest: &str) -> Result<(), FleetStoreFailure> {
        let failed = |text: String| FleetStoreFailure(format!("{}: cannot remove the pack: {text}", self.host));
        let (objects, lists) = (self.objects().await?, self.pack_lists().await?);
        objects.delete(format!("{PACK}{digest}")).await.map_err(|e| failed(causes(&e)))?;
        let files = |is_wanted: bool| {
            let lists = lists.iter().filter(move |(other, _)| (other == digest) == is_wanted);
            lists.flat_map(|(_, list)| list.files.iter().map(|file| file.sha256.as_str()))
        };
        for file in files(true).filter(|file| !files(false).any(|other| other == *file)) {
            objects.delete(file).await.map_err(|e| failed(causes(&e)))?;
        }
        Ok(())
    }

    /// Fetches a pack into the folder `root`, under its digest, and verifies each of its files. A pack that is there is verified only.
    /// Blocks; `runtime` is that of the connection.
    ///
    /// # Errors
    /// [`TaskFailure::Final`] if a file is not the one that was published, or cannot be written.
    pub fn fetch_pack(&self, runtime: &Handle, pack: &PackRef, root: &Path) -> Result<(), TaskFailure> {
        if !is_digest(&pack.digest) {
            return Err(wrong("the rollout has no digest of a pack"));
        }
        let (dir, part) = (root.join(&pack.digest), root.join(format!(".{}.part", pack.digest)));
        if PackList::read(&dir).is_ok_and(|files| PackList::digest(&files) == pack.digest) {
            return Ok(());
        }
        let cannot = |e: std::io::Error| unusable(format!("the folder of packs cannot be written: {e}"));
        for old in [&dir, &part] {
            match std::fs::remove_dir_all(old) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(cannot(e)),
                _ => {}
            }
        }
        std::fs::create_dir_all(&part).map_err(cannot)?;
        let fetched = self.fetch_files(runtime, &pack.digest, &part);
        match fetched.and_then(|()| std::fs::rename(&part, &dir).map_err(cannot)) {
            Ok(()) => Ok(()),
            Err(failure) => {
                // Only disk space remains to be freed, and the next fetch removes it too.
                let _ = std::fs::remove_dir_all(&part);
                Err(failure)
            }
        }
    }

    fn fetch_files(&self, runtime: &Handle, digest: &str, part: &Path) -> Result<(), TaskFailure> {
        let objects = runtime.block_on(self.objects()).map_err(|e| later(e.to_string()))?;
        let list = runtime.block_on(pack_list(&objects, digest))?;
        for file in &list.files {
            fetch_file(runtime, &objects, file, &part.join(&file.name))?;
        }
        Ok(())
    }
}

/// The list of a pack, verified.
async fn pack_list(objects: &ObjectStore, digest: &str) -> Result<PackList, TaskFailure> {
    let name = format!("{PACK}{digest}");
    let info = timeout(READ_LIMIT, objects.info(&name)).await.map_err(|_| later("NATS does not answer"))?;
    let info = info.map_err(|e| match e.kind() {
        InfoErrorKind::NotFound => unusable("the pack is not in the object store; publish it"),
        _ => later(causes(&e)),
    })?;
    if info.deleted {
        return Err(unusable("the pack was removed from the object store; publish it"));
    }
    if info.size > LIST_MAX {
        return Err(wrong(format!("the list of its files has {} bytes", info.size)));
    }
    let mut json = Vec::new();
    let mut object = objects.get(&name).await.map_err(|e| later(causes(&e)))?;
    let read = timeout(READ_LIMIT, object.read_to_end(&mut json)).await;
    read.map_err(|_| later("NATS does not send the list of its files"))?.map_err(read_failure)?;
    let list: PackList =
        serde_json::from_slice(&json).map_err(|e| wrong(format!("the list of its files is damaged: {e}")))?;
    match list.problem() {
        Some(problem) => Err(wrong(format!("the list of its files is damaged: {problem}"))),
        None if PackList::digest(&list.files) != digest => Err(wrong("the list of its files has another digest")),
        None => Ok(list),
    }
}

fn read_failure(e: std::io::Error) -> TaskFailure {
    // The client compares the object with its own digest.
    if e.kind() == std::io::ErrorKind::InvalidData { wrong(e.to_string()) } else { later(causes(&e)) }
}

fn fetch_file(runtime: &Handle, objects: &ObjectStore, file: &PackFile, path: &Path) -> Result<(), TaskFailure> {
    let PackFile { name, bytes, sha256 } = file;
    let cannot = |e: std::io::Error| unusable(format!("{name} cannot be written: {e}"));
    let mut object = runtime.block_on(objects.get(sha256)).map_err(|e| match e.kind() {
        GetErrorKind::NotFound => unusable(format!("{name} is not in the object store; publish the pack again")),
        _ => later(causes(&e)),
    })?;
    let mut out = File::create(path).map_err(cannot)?;
    let (mut hash, mut count, mut block) = (Sha256::new(), 0, vec![0; BLOCK]);
    loop {
        let read = runtime.block_on(async { timeout(READ_LIMIT, object.read(&mut block)).await });
        let length = read.map_err(|_| later(format!("NATS does not send {name}")))?.map_err(read_failure)?;
        if length == 0 {
            break;
        }
        count += length as u64;
        if count > *bytes {
            return Err(wrong(format!("{name} has more than {bytes} bytes")));
        }
        hash.update(&block[..length]);
        out.write_all(&block[..length]).map_err(cannot)?;
    }
    out.sync_all().map_err(cannot)?;
    if count != *bytes || hex(hash.finalize()) != *sha256 {
        return Err(wrong(format!("{name} is not the file that was published")));
    }
    Ok(())
}

/// The stream of an object store, as all clients of NATS create it.
fn objects_config(name: &str) -> stream::Config {
    stream::Config {
        name: format!("OBJ_{name}"),
        description: Some("packs of a fleet of Touchline".to_owned()),
        subjects: vec![format!("$O.{name}.C.>"), format!("$O.{name}.M.>")],
        discard: stream::DiscardPolicy::New,
        allow_rollup: true,
        allow_direct: true,
        num_replicas: 1,
        ..stream::Config::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(names: &[&str]) -> PackList {
        let file = |name: &&str| PackFile { name: (*name).to_owned(), bytes: 1, sha256: "0a".repeat(32) };
        PackList { name: "p".into(), files: names.iter().map(file).collect() }
    }

    #[test]
    fn lists_with_names_that_lead_elsewhere_are_refused() {
        assert_eq!(list(&["pack.toml", "rgb.safetensors"]).problem(), None);
        for (names, words) in [
            (&["../x", "pack.toml"][..], "file name"),
            (&["/etc/x", "pack.toml"], "file name"),
            (&[".x", "pack.toml"], "file name"),
            (&["a b", "pack.toml"], "file name"),
            (&["rgb.safetensors"], "no pack.toml"),
            (&["rgb.safetensors", "pack.toml"], "order"),
            (&["pack.toml", "pack.toml"], "order"),
            (&[], "0 files"),
        ] {
            let problem = list(names).problem().unwrap_or_default();
            assert!(problem.contains(words), "{names:?}: {problem}");
        }
        let mut large = list(&["pack.toml"]);
        large.files[0].bytes = FILE_MAX + 1;
        assert!(large.problem().is_some_and(|text| text.contains("bytes")));
        let mut unhashed = list(&["pack.toml"]);
        unhashed.files[0].sha256 = "..".into();
        assert!(unhashed.problem().is_some_and(|text| text.contains("SHA-256")));
    }

    #[test]
    fn a_digest_depends_on_names_and_contents_only() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
        write("pack.toml", "a");
        write("rgb.safetensors", "b");
        std::fs::create_dir(folder.path().join("notes")).unwrap();
        let digest = || PackList::digest(&PackList::read(folder.path()).unwrap());
        let first = digest();
        assert!(is_digest(&first) && first == digest());
        write("rgb.safetensors", "c");
        let second = digest();
        std::fs::rename(folder.path().join("rgb.safetensors"), folder.path().join("flow.safetensors")).unwrap();
        assert!(first != second && second != digest());
    }
}

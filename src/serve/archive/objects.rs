//! Recordings and results in object stores: S3, Google Cloud Storage, Azure Blob Storage, HTTP, and folders.
//!
//! Logins come from the variables that `object_store` reads (`AWS_…`, `GOOGLE_…`, `AZURE_…`) on the machine that uses them. Addresses have
//! none.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use object_store::path::Path as ObjectPath;
use object_store::{GetOptions, ObjectMeta, ObjectStore, ObjectStoreExt as _, PutPayload};
use tokio_stream::StreamExt as _;
use url::Url;

use crate::connect::causes;
use touchline_core::redact;

/// Variables that `object_store` reads. Others could be taken for settings by chance: it also knows `token` and `region`.
const VARIABLES: [&str; 3] = ["aws_", "azure_", "google_"];

/// Space that a copy of a recording leaves free on the disk, bytes.
const KEPT_FREE: u64 = 1_000_000_000;

/// A place in an object store: cause and advice are texts for people.
#[derive(Clone, Debug)]
pub struct ObjectPlace {
    store: Arc<dyn ObjectStore>,
    path: ObjectPath,
    url: Url,
}

/// An object and its version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundObject {
    /// Its address.
    pub url: String,
    /// Its address for people: nothing in it is encoded, and that of a file is its path.
    pub name: String,
    /// Size, bytes.
    pub size: u64,
    /// Its entity tag, or the time of its last change.
    pub version: String,
}

impl FoundObject {
    fn new(url: String, meta: &ObjectMeta) -> Self {
        // Of a file, the tag has the number of the file, which differs between machines.
        let tag = meta.e_tag.clone().filter(|_| !url.starts_with("file:"));
        // Tags have no quotation marks in Azure's listings, and have them in its other answers.
        let tag = tag.map(|tag| tag.trim_start_matches("W/").trim_matches('"').to_owned());
        let version = tag.unwrap_or_else(|| meta.last_modified.timestamp_micros().to_string());
        let name = name_of(&url, &meta.location);
        Self { url, name, size: meta.size, version }
    }
}

/// The name for people of the object `location` at `url`.
fn name_of(url: &str, location: &ObjectPath) -> String {
    let Ok(parsed) = Url::parse(url) else { return url.to_owned() };
    match parsed.to_file_path() {
        Ok(path) if parsed.scheme() == "file" => path.to_string_lossy().into_owned(),
        _ => format!("{}://{}/{location}", parsed.scheme(), parsed.authority()),
    }
}

impl ObjectPlace {
    /// The place of an address: `s3://BUCKET/PREFIX`, `gs://BUCKET/PREFIX`, `az://CONTAINER/PREFIX`, `https://HOST/PATH`, `file:///PATH`.
    ///
    /// # Errors
    /// Cause and advice, without credentials.
    pub fn open(url: &str) -> Result<Self, String> {
        let refused = |cause: &dyn std::fmt::Display| {
            let schemes = "give s3://BUCKET/PREFIX, gs://BUCKET/PREFIX, az://CONTAINER/PREFIX, https://HOST/PATH, or a file or folder";
            redact::text(&format!("{url}: {cause}; {schemes}"))
        };
        let parsed = Url::parse(url).map_err(|e| refused(&e))?;
        if !parsed.username().is_empty() || parsed.password().is_some() || parsed.query().is_some() {
            let cause = "the address has a login or a query, which would be in records; use the variables of the store";
            return Err(refused(&cause));
        }
        let variables = std::env::vars_os().filter_map(|(key, value)| {
            let key = key.to_str()?.to_ascii_lowercase();
            let is_known = VARIABLES.iter().any(|prefix| key.starts_with(prefix));
            is_known.then(|| Some((key, value.into_string().ok()?))).flatten()
        });
        let (store, path) = object_store::parse_url_opts(&parsed, variables).map_err(|e| refused(&causes(&e)))?;
        Ok(Self { store: store.into(), path, url: parsed })
    }

    /// The file of a place in the file system.
    pub fn file(&self) -> Option<PathBuf> {
        (self.url.scheme() == "file").then(|| self.url.to_file_path().ok()).flatten()
    }

    /// The object below this place.
    pub fn child(&self, name: &str) -> Self {
        let parts = name.split('/').filter(|part| !part.is_empty());
        let path = parts.clone().fold(self.path.clone(), |path, part| path.join(part));
        let mut url = self.url.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(parts);
        }
        Self { store: self.store.clone(), path, url }
    }

    /// The object here.
    ///
    /// # Errors
    /// Cause and advice.
    pub async fn head(&self) -> Result<FoundObject, String> {
        let meta = self.store.head(&self.path).await.map_err(|e| self.failed(&e, "check the address and the login"))?;
        Ok(FoundObject::new(self.url.to_string(), &meta))
    }

    /// The objects below this place for whose names `is_wanted` is true, in the order of their names. If there is an object here, only that.
    ///
    /// # Errors
    /// Cause and advice.
    pub async fn list(&self, is_wanted: impl Fn(&str) -> bool) -> Result<Vec<FoundObject>, String> {
        if let Ok(object) = self.store.head(&self.path).await {
            return Ok(vec![FoundObject::new(self.url.to_string(), &object)]);
        }
        let mut objects = self.store.list(Some(&self.path));
        let mut found = Vec::new();
        while let Some(object) = objects.next().await {
            let object = object.map_err(|e| self.failed(&e, "check the address and the login"))?;
            if is_wanted(object.location.filename().unwrap_or_default()) {
                let mut url = self.url.clone();
                if let Ok(mut segments) = url.path_segments_mut() {
                    segments.clear().extend(object.location.parts().map(|part| part.as_ref().to_owned()));
                }
                found.push(FoundObject::new(url.into(), &object));
            }
        }
        found.sort_by(|a, b| a.url.cmp(&b.url));
        Ok(found)
    }

    /// Copies the object to a file in `folder`, and returns its path. A file is not copied.
    ///
    /// # Errors
    /// Cause and advice: it has another version than `expected`, or there is no room on the disk.
    pub async fn fetch(&self, expected: &FoundObject, folder: &Path) -> Result<PathBuf, String> {
        let changed = || format!("{}: it has changed since it was submitted; submit it again", self.url);
        if let Some(file) = self.file() {
            let now = self.head().await?;
            return if now == *expected { Ok(file) } else { Err(changed()) };
        }
        let unwritable = |e: std::io::Error| format!("{}: {e}; check the disk of the spool", folder.display());
        let disk = rustix::fs::statvfs(folder).map_err(|e| unwritable(e.into()))?;
        if disk.f_bavail.saturating_mul(disk.f_frsize) < expected.size.saturating_add(KEPT_FREE) {
            let size = expected.size / 1_000_000;
            return Err(format!("{}: no room for a copy of {size} MB; free the disk of the spool", folder.display()));
        }
        let result = self.store.get_opts(&self.path, GetOptions::default()).await;
        let result = result.map_err(|e| self.failed(&e, "check the address and the login"))?;
        if FoundObject::new(expected.url.clone(), &result.meta) != *expected {
            return Err(changed());
        }
        let path = folder.join(self.path.filename().unwrap_or("recording"));
        let mut file = File::create(&path).map_err(unwritable)?;
        let mut stream = result.into_stream();
        while let Some(bytes) = stream.next().await {
            let bytes = bytes.map_err(|e| self.failed(&e, "retry"))?;
            file.write_all(&bytes).map_err(unwritable)?;
        }
        file.flush().map_err(unwritable)?;
        Ok(path)
    }

    /// Stores the content of a file here. It is durable when this returns.
    ///
    /// # Errors
    /// Cause and advice.
    pub async fn put_file(&self, from: &Path) -> Result<(), String> {
        self.put(std::fs::read(from).map_err(|e| format!("{}: {e}; check the disk", from.display()))?).await
    }

    /// Stores `content` here. It is durable when this returns.
    ///
    /// # Errors
    /// Cause and advice.
    pub async fn put(&self, content: Vec<u8>) -> Result<(), String> {
        let advice = "check the address of the results and the login";
        self.store.put(&self.path, PutPayload::from(content)).await.map_err(|e| self.failed(&e, advice))?;
        let Some(file) = self.file() else { return Ok(()) };
        // The store renames a file that may not be on the disk yet.
        let folder = file.parent().unwrap_or(&file);
        let synced = File::open(&file).and_then(|file| file.sync_all());
        let synced = synced.and_then(|()| File::open(folder)?.sync_all());
        synced.map_err(|e| format!("{}: {e}; check the disk", file.display()))
    }

    /// Copies the object to `path`.
    ///
    /// # Errors
    /// Cause and advice.
    pub async fn get(&self, path: &Path) -> Result<(), String> {
        let result = self.store.get_opts(&self.path, GetOptions::default()).await;
        let content = match result {
            Ok(result) => result.bytes().await,
            Err(e) => Err(e),
        };
        let content = content.map_err(|e| self.failed(&e, "retry the recording"))?;
        std::fs::write(path, content).map_err(|e| format!("{}: {e}; check the disk", path.display()))
    }

    /// Deletes the object, if it is there.
    pub async fn delete(&self) {
        if let Err(e) = self.store.delete(&self.path).await {
            tracing::debug!("{}", self.failed(&e, "only space is lost"));
        }
    }

    fn failed(&self, error: &object_store::Error, advice: &str) -> String {
        let text = format!("{}: {}; {advice}", self.url, causes(error)).replace(['\n', '\r'], " ");
        redact::text(&text).chars().take(400).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tag_of_a_listing_and_of_the_object_are_one_version() {
        let found = |tag: &str| {
            let meta = ObjectMeta {
                location: "a.mp4".into(),
                last_modified: Default::default(),
                size: 1,
                e_tag: Some(tag.to_owned()),
                version: None,
            };
            FoundObject::new("az://recordings/a.mp4".to_owned(), &meta)
        };
        assert_eq!(found("0x8DE30"), found("\"0x8DE30\""));
        assert_eq!(found("\"0x8DE30\""), found("W/\"0x8DE30\""));
        assert_ne!(found("0x8DE30"), found("0x8DE31"));
    }

    #[tokio::test]
    async fn files_are_listed_put_and_fetched_without_a_copy() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| Url::from_file_path(folder.path().join(name)).unwrap().to_string();
        let text = folder.path().join("text");
        std::fs::write(&text, "records").unwrap();
        let results = ObjectPlace::open(&at("results")).unwrap();
        for name in ["job/a b.mp4", "job/c.txt", "job/sub/a.mp4"] {
            results.child(name).put_file(&text).await.unwrap();
        }
        let listed = results.child("job").list(|name| name.ends_with(".mp4")).await.unwrap();
        let urls: Vec<&str> = listed.iter().map(|object| object.url.as_str()).collect();
        assert_eq!(urls, [at("results/job/a b.mp4"), at("results/job/sub/a.mp4")]);
        let place = ObjectPlace::open(&listed[0].url).unwrap();
        let fetched = place.fetch(&listed[0], folder.path()).await.unwrap();
        assert_eq!(fetched, folder.path().join("results/job/a b.mp4"));
        let other = FoundObject { size: 1, ..listed[0].clone() };
        assert!(place.fetch(&other, folder.path()).await.unwrap_err().contains("has changed"));
        place.get(&folder.path().join("copy")).await.unwrap();
        assert_eq!(std::fs::read_to_string(folder.path().join("copy")).unwrap(), "records");
        place.delete().await;
        assert!(place.head().await.is_err());
    }

    #[test]
    fn logins_in_addresses_are_refused_and_not_repeated() {
        for url in ["s3://ann:pl4nt@bucket/a", "https://tv.example/a.mp4?X-Amz-Signature=pl4nt"] {
            let refused = ObjectPlace::open(url).unwrap_err();
            assert!(!refused.contains("pl4nt") && refused.contains("variables"), "{refused}");
        }
        assert!(ObjectPlace::open("gopher://a/b").is_err());
    }
}

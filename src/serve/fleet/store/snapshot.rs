//! All keys of a bucket.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use async_nats::Error;
use async_nats::jetstream::kv::{Entry, Operation, Store};
use tokio::time::timeout;
use tokio_stream::StreamExt as _;

/// How long the server may send nothing before it is asked which keys still exist.
const PAUSE: Duration = Duration::from_secs(2);

/// The keys that match `filter` and have a value, with their last entries.
///
/// The server lists the keys first, and the watch ends when each of them was sent. Its own count of entries that are left is wrong if keys
/// change meanwhile: it can reach zero before the last key, or never.
///
/// # Errors
/// If the server cannot be asked, or ends the watch.
pub(crate) async fn entries(bucket: &Store, filter: &str) -> Result<BTreeMap<String, Entry>, Error> {
    let mut missing = keys(bucket, filter).await?;
    let mut entries = BTreeMap::new();
    // A watch of no keys sends nothing.
    if missing.is_empty() {
        return Ok(entries);
    }
    let mut watch = bucket.watch_with_history(filter).await?;
    while !missing.is_empty() {
        match timeout(PAUSE, watch.next()).await {
            Ok(Some(entry)) => {
                let entry = entry?;
                missing.remove(&entry.key);
                entries.insert(entry.key.clone(), entry);
            }
            Ok(None) => return Err("the server has ended the watch".into()),
            Err(_) => {
                let now = keys(bucket, filter).await?;
                missing.retain(|key| now.contains(key));
            }
        }
    }
    entries.retain(|_, entry| entry.operation == Operation::Put);
    Ok(entries)
}

/// The keys that match `filter`, with those that were deleted.
async fn keys(bucket: &Store, filter: &str) -> Result<HashSet<String>, Error> {
    let mut subjects = bucket.stream.info_with_subjects(format!("{}{filter}", bucket.prefix)).await?;
    let mut keys = HashSet::new();
    while let Some(subject) = subjects.next().await {
        keys.extend(subject?.0.strip_prefix(&bucket.prefix).map(str::to_owned));
    }
    Ok(keys)
}

//! Packs in the object store of a real server.

use std::path::PathBuf;

use touchline_compute::models::pack::Pack;

use super::*;
use crate::fleet::rollout::{HaltReason, PackRef, TaskFailure};

/// A pack of small files. Its weights are only hashed here.
pub fn pack(folder: &Path, name: &str, weights: &[u8]) -> PathBuf {
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../weights/compact/pack.toml");
    let dir = folder.join(name);
    std::fs::create_dir_all(&dir).unwrap();
    let mut text = std::fs::read_to_string(shipped).unwrap().replacen("\"compact\"", &format!("{name:?}"), 1);
    for modality in ["rgb", "flow", "audio"] {
        let bytes = [modality.as_bytes(), weights].concat();
        std::fs::write(dir.join(format!("{modality}.safetensors")), &bytes).unwrap();
        std::fs::write(dir.join(format!("{modality}.int8.safetensors")), b"ranges").unwrap();
        let at = text.find(&format!("[{modality}]")).unwrap();
        let sha256 = at + text[at..].find("sha256 = \"").unwrap() + "sha256 = \"".len();
        text.replace_range(sha256..sha256 + 64, &touchline_compute::models::sha256_hex(&bytes));
    }
    std::fs::write(dir.join("pack.toml"), text).unwrap();
    dir
}

impl StoreBench {
    fn publish(&self, dir: &Path) -> Result<PackRef, FleetStoreFailure> {
        self.runtime.block_on(self.store.publish_pack(dir))
    }

    fn fetch(&self, pack: &PackRef) -> Result<(), TaskFailure> {
        self.store.fetch_pack(self.runtime.handle(), pack, &self.packs())
    }

    fn packs(&self) -> PathBuf {
        self.folder.path().join("fetched")
    }

    async fn objects_now(&self) -> jetstream::object_store::ObjectStore {
        self.store.context.get_object_store("touchline-tv").await.unwrap()
    }
}

#[test]
fn a_pack_arrives_as_it_was_published() {
    let Some(bench) = StoreBench::start() else { return };
    let nowhere = PackRef { name: "x".into(), digest: "0".repeat(64) };
    assert!(matches!(bench.fetch(&nowhere), Err(TaskFailure::Later(text)) if text.contains("object store")));
    // More than one block.
    let dir = pack(bench.folder.path(), "first", &[7; 300_000]);
    let published = bench.publish(&dir).unwrap();
    assert_eq!((published.name.as_str(), bench.publish(&dir)), ("first", Ok(published.clone())), "it is there already");
    bench.fetch(&published).unwrap();
    let fetched = bench.packs().join(&published.digest);
    for entry in std::fs::read_dir(&dir).unwrap() {
        let path = entry.unwrap().path();
        assert_eq!(std::fs::read(&path).unwrap(), std::fs::read(fetched.join(path.file_name().unwrap())).unwrap());
    }
    assert_eq!(Pack::open(&fetched).unwrap().name, "first");
    // A copy that was damaged on this machine is fetched again.
    std::fs::write(fetched.join("rgb.safetensors"), "damaged").unwrap();
    bench.fetch(&published).unwrap();
    assert_eq!(std::fs::read(fetched.join("rgb.safetensors")).unwrap().len(), 300_003);
    assert_eq!(
        bench.fetch(&nowhere),
        Err(TaskFailure::Final(HaltReason::LoadFailed, "the pack is not in the object store; publish it".into()))
    );
}

#[test]
fn objects_that_are_not_what_was_published_are_refused_and_can_be_published_again() {
    let Some(bench) = StoreBench::start() else { return };
    let dir = pack(bench.folder.path(), "first", b"good");
    let published = bench.publish(&dir).unwrap();
    let refused = |what: &str| match bench.fetch(&published) {
        Err(TaskFailure::Final(HaltReason::DigestWrong, text)) => assert!(text.contains(what), "{text}"),
        other => panic!("{what}: {other:?}"),
    };
    let sha256 = touchline_compute::models::sha256_hex(b"rgbgood");
    let put = |name: &str, bytes: &[u8]| {
        bench.runtime.block_on(async { bench.objects_now().await.put(name, &mut &*bytes).await.map(drop) }).unwrap();
    };
    put(&sha256, b"rgbevil");
    refused("rgb.safetensors is not the file");
    put(&sha256, b"rgbgood and more");
    refused("more than 7 bytes");
    assert!(!bench.packs().join(&published.digest).exists(), "nothing of it stays");
    assert_eq!(bench.publish(&dir), Ok(published.clone()));
    bench.fetch(&published).unwrap();
    std::fs::remove_dir_all(bench.packs()).unwrap();
    put(&format!("pack-{}", published.digest), b"{}");
    refused("the list of its files");
    bench.publish(&dir).unwrap();
    bench.fetch(&published).unwrap();
    // A folder whose files do not belong together is not published.
    std::fs::write(dir.join("flow.safetensors"), "of another pack").unwrap();
    let refused = bench.publish(&dir).unwrap_err().to_string();
    assert!(refused.contains("flow.safetensors does not have the SHA-256"), "{refused}");
}

#[test]
fn removing_a_pack_keeps_the_files_of_others() {
    let Some(bench) = StoreBench::start() else { return };
    let first = bench.publish(&pack(bench.folder.path(), "first", b"same")).unwrap();
    let second = bench.publish(&pack(bench.folder.path(), "second", b"same")).unwrap();
    let names = || bench.runtime.block_on(bench.store.packs()).unwrap();
    assert_eq!(names(), [first.clone(), second.clone()]);
    bench.runtime.block_on(bench.store.remove_pack(&first.digest)).unwrap();
    assert_eq!(names(), std::slice::from_ref(&second));
    bench.fetch(&second).unwrap();
    let gone = bench.fetch(&first);
    assert!(
        matches!(&gone, Err(TaskFailure::Final(HaltReason::LoadFailed, text)) if text.contains("publish it")),
        "{gone:?}"
    );
    bench.runtime.block_on(bench.store.remove_pack(&second.digest)).unwrap();
    assert!(names().is_empty());
    let sizes = bench.runtime.block_on(async {
        let mut info = bench.store.context.get_stream("OBJ_touchline-tv").await.unwrap();
        info.info().await.unwrap().state.bytes
    });
    assert!(sizes < 5000, "only the names are left: {sizes} bytes");
}

use super::*;

fn path() -> (tempfile::TempDir, std::path::PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("new/desk.spool");
    (folder, path)
}

fn add(spool: &mut Spool, n: u64) -> u64 {
    spool.add("court", 7, &[(RecordKind::Event, &format!("{{\"n\":{n:04}}}"))]).unwrap()
}

fn contents(spool: &Spool) -> Vec<String> {
    spool.oldest(1000, usize::MAX).unwrap().into_iter().map(|record| record.json).collect()
}

#[test]
fn records_leave_in_the_order_in_which_they_came() {
    let (_folder, path) = path();
    let (mut spool, lost) = Spool::open(&path, 1_000_000).unwrap();
    assert_eq!(lost, 0);
    (0..5).for_each(|n| assert_eq!(add(&mut spool, n), 0));
    let batch = spool.oldest(2, usize::MAX).unwrap();
    assert_eq!(batch.iter().map(|record| &*record.json).collect::<Vec<_>>(), ["{\"n\":0000}", "{\"n\":0001}"]);
    assert_eq!((&*batch[0].stream, batch[0].kind, batch[0].unix_ns), ("court", RecordKind::Event, 7));
    assert_eq!(spool.remove_through(batch[1].number).unwrap(), 2);
    assert_eq!(spool.remove_through(batch[1].number).unwrap(), 0, "they are gone");
    assert_eq!((spool.records(), spool.bytes()), (3, 3 * (10 + RECORD_OVERHEAD)));
    assert_eq!(contents(&spool), ["{\"n\":0002}", "{\"n\":0003}", "{\"n\":0004}"]);
    assert_eq!(spool.oldest(1000, 15).unwrap().len(), 2, "bytes limit a batch too");
}

#[test]
fn a_restart_continues_with_the_same_records_and_new_numbers() {
    let (_folder, path) = path();
    let (mut spool, _) = Spool::open(&path, 1_000_000).unwrap();
    (0..3).for_each(|n| assert_eq!(add(&mut spool, n), 0));
    let last = spool.oldest(9, usize::MAX).unwrap()[2].number;
    spool.remove_through(last).unwrap();
    add(&mut spool, 3);
    let (id, size) = (spool.id().to_owned(), (spool.records(), spool.bytes()));
    drop(spool);
    let (mut spool, lost) = Spool::open(&path, 1_000_000).unwrap();
    assert_eq!((spool.id(), (spool.records(), spool.bytes()), lost), (&*id, size, 0));
    let left = spool.oldest(9, usize::MAX).unwrap();
    assert!(left.len() == 1 && left[0].number > last, "numbers are not used again: {left:?}");
    add(&mut spool, 4);
    let next = spool.oldest(9, usize::MAX).unwrap()[1].number;
    assert!(next > left[0].number + SKIPPED / 2, "{next}: a record may have been lost with its number");
}

#[test]
fn beyond_the_bound_the_oldest_are_dropped_and_counted() {
    let (_folder, path) = path();
    let (mut spool, _) = Spool::open(&path, 10 * (10 + RECORD_OVERHEAD)).unwrap();
    let dropped: u64 = (0..25).map(|n| add(&mut spool, n)).sum();
    assert_eq!((dropped, spool.records()), (15, 10));
    assert_eq!(contents(&spool)[0], "{\"n\":0015}");
    assert_eq!(contents(&spool)[9], "{\"n\":0024}");
}

#[test]
fn a_log_that_is_cut_off_loses_the_last_records_only() {
    let (_folder, path) = path();
    let (mut spool, _) = Spool::open(&path, 1_000_000).unwrap();
    (0..20).for_each(|n| assert_eq!(add(&mut spool, n), 0));
    // The files as a killed process leaves them, with the last write cut off.
    let log = path.with_extension("spool-wal");
    let (file, mut tail) = (std::fs::read(&path).unwrap(), std::fs::read(&log).unwrap());
    tail.truncate(tail.len() - 1000);
    drop(spool);
    std::fs::write(&path, file).unwrap();
    std::fs::write(&log, tail).unwrap();
    let (mut spool, lost) = Spool::open(&path, 1_000_000).unwrap();
    let left = contents(&spool);
    assert_eq!((lost, left.len()), (0, 19), "one record is one write");
    assert!(left.iter().enumerate().all(|(n, json)| *json == format!("{{\"n\":{n:04}}}")), "{left:?}");
    add(&mut spool, 20);
    assert_eq!(spool.records(), 20);
}

#[test]
fn a_damaged_file_is_moved_away_and_counted() {
    let (_folder, path) = path();
    let (mut spool, _) = Spool::open(&path, 10_000_000).unwrap();
    (0..2000).for_each(|n| assert_eq!(add(&mut spool, n), 0));
    drop(spool);
    let mut file = std::fs::read(&path).unwrap();
    assert!(file.len() > 40_000);
    file[8192..].fill(0x5a);
    std::fs::write(&path, file).unwrap();
    let (mut spool, lost) = Spool::open(&path, 10_000_000).unwrap();
    assert!(lost >= 1, "{lost}");
    assert_eq!(spool.records(), 0);
    assert!(path.with_extension("spool.damaged").is_file());
    add(&mut spool, 1);
}

#[test]
fn the_file_of_another_program_or_process_is_refused() {
    let (_folder, path) = path();
    let (spool, _) = Spool::open(&path, 1_000_000).unwrap();
    let error = Spool::open(&path, 1_000_000).err().unwrap().to_string();
    assert!(error.contains("another process uses the spool; stop that process"), "{error}");
    drop(spool);
    let other = path.with_file_name("other.spool");
    std::fs::write(
        &other,
        "a text of another program, long enough to be more than the header of a database ".repeat(9),
    )
    .unwrap();
    let error = Spool::open(&other, 1_000_000).err().unwrap().to_string();
    assert!(error.contains("is not a spool of this program; name another folder"), "{error}");
    let database = path.with_file_name("store.spool");
    Connection::open(&database).unwrap().execute_batch("CREATE TABLE t (x)").unwrap();
    let error = Spool::open(&database, 1_000_000).err().unwrap().to_string();
    assert!(error.contains("is not a spool of this program"), "{error}");
    let file = path.with_file_name("file");
    std::fs::write(&file, "").unwrap();
    let error = Spool::open(&file.join("desk.spool"), 1_000_000).err().unwrap().to_string();
    assert!(error.contains("cannot create the folder") && error.contains("name another folder"), "{error}");
}

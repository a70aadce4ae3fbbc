#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::Command;

use crdt::store::{MemoryStore, STORAGE_FORMAT};
use proptest::prelude::*;
use rocksdb::{ColumnFamilyDescriptor, DB, Options};
use tempfile::TempDir;

use super::open::{FORMAT_KEY, LOGS_MAX, file_names};
use super::*;

const MIB: u64 = 1 << 20;
/// Tells the test binary that it is the child of [`a_folder_of_another_user_is_refused`].
const CHILD_FOLDER: &str = "FLEETSYNC_TEST_STORE_FOLDER";
const NOBODY: u32 = 65534;

#[allow(clippy::print_stderr)]
fn skip(reason: &str) {
    eprintln!("skipped: {reason}");
}

fn folder() -> (TempDir, PathBuf) {
    let temporary = tempfile::tempdir().unwrap();
    let path = temporary.path().join("store");
    (temporary, path)
}

/// A value that does not compress, so that every table block has a place to flip.
fn noise(seed: u32, length: usize) -> Vec<u8> {
    let mut state = u64::from(seed) + 1;
    let step = |_| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 56) as u8
    };
    (0..length).map(step).collect()
}

fn row(number: u32, length: usize) -> Batch {
    let mut batch = Batch::default();
    batch.put(Table::Change, number.to_be_bytes(), noise(number, length));
    batch
}

fn fill(store: &Store, numbers: std::ops::Range<u32>) {
    for number in numbers {
        store.apply(&row(number, 200)).unwrap();
    }
}

fn count(store: &Store) -> usize {
    rows(store, Table::Change, &[], &[0xff]).len()
}

fn rows(store: &dyn LogStore, table: Table, from: &[u8], to: &[u8]) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut rows = Vec::new();
    store
        .scan(table, from, to, &mut |key, value| {
            rows.push((key.to_vec(), value.to_vec()));
            ControlFlow::Continue(())
        })
        .unwrap();
    rows
}

/// Writes all tables to files.
fn flush(store: &Store) {
    let open = store.current().unwrap();
    for (table, _) in TABLES {
        open.db.flush_cf(open.family(table)).unwrap();
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for name in file_names(from).unwrap() {
        fs::copy(from.join(&name), to.join(&name)).unwrap();
    }
}

/// The largest file of a kind.
fn largest(path: &Path, is_kind: impl Fn(&str) -> bool) -> PathBuf {
    let names = file_names(path).unwrap().into_iter().filter(|name| is_kind(name));
    let files = names.map(|name| path.join(name));
    files.max_by_key(|file| fs::metadata(file).unwrap().len()).expect("there is one")
}

fn flip(file: &Path, at: impl Fn(usize) -> usize) {
    let mut bytes = fs::read(file).unwrap();
    let at = at(bytes.len());
    bytes[at] ^= 0x10;
    fs::write(file, bytes).unwrap();
}

fn damaged_file(error: OpenError) -> PathBuf {
    match error {
        OpenError::Damaged { file, .. } => PathBuf::from(file),
        other => panic!("{other:?} is not about damage"),
    }
}

#[derive(Debug, Clone)]
enum Step {
    Apply(Vec<(usize, Vec<u8>, Option<Vec<u8>>)>),
    Scan(usize, Vec<u8>, Vec<u8>),
    Flush,
    Sync,
    Reopen,
}

fn key() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(prop::sample::select(vec![0, 1, 0x7f, 0xfe, 0xff]), 0..4)
}

fn step() -> impl Strategy<Value = Step> {
    let table = 0..TABLES.len();
    let write = (table.clone(), key(), prop::option::weighted(0.7, prop::collection::vec(any::<u8>(), 0..40)));
    prop_oneof![
        8 => prop::collection::vec(write, 0..12).prop_map(Step::Apply),
        4 => (table, key(), key()).prop_map(|(table, from, to)| Step::Scan(table, from, to)),
        1 => Just(Step::Flush),
        1 => Just(Step::Sync),
        1 => Just(Step::Reopen),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// The contract: what the store in memory answers, this one answers, over restarts.
    #[test]
    fn it_answers_as_the_store_in_memory(steps in prop::collection::vec(step(), 1..40)) {
        let (_temporary, path) = folder();
        let mut store = Store::open(&path).unwrap();
        let mut model = MemoryStore::default();
        let mut format = Batch::default();
        format.put(Table::Setting, FORMAT_KEY, STORAGE_FORMAT.to_be_bytes().to_vec());
        model.apply(&format);
        for step in steps {
            match step {
                Step::Apply(writes) => {
                    let mut batch = Batch::default();
                    for (table, key, value) in writes {
                        batch.rows_mut(TABLES[table].0).insert(key, value);
                    }
                    store.apply(&batch).unwrap();
                    model.apply(&batch);
                    for (table, key, _) in batch.iter() {
                        prop_assert_eq!(store.get(table, key), model.get(table, key));
                    }
                }
                Step::Scan(table, from, to) => {
                    let table = TABLES[table].0;
                    prop_assert_eq!(rows(&store, table, &from, &to), rows(&model, table, &from, &to));
                }
                Step::Flush => flush(&store),
                Step::Sync => store.sync().unwrap(),
                Step::Reopen => {
                    drop(store);
                    store = Store::open(&path).unwrap();
                }
            }
        }
        let last = [0xff; 8];
        for (table, _) in TABLES {
            prop_assert_eq!(rows(&store, table, &[], &last), rows(&model, table, &[], &last));
        }
        store.check_all().unwrap();
    }
}

#[test]
fn clones_are_shared_between_threads() {
    fn is_shared<T: Clone + Send + Sync + 'static>() {}
    is_shared::<Store>();
}

#[test]
fn a_scan_stops_when_the_visitor_breaks_and_the_visitor_may_read() {
    let (_temporary, path) = folder();
    let store = Store::open(&path).unwrap();
    fill(&store, 0..10);
    let mut seen = 0;
    store
        .scan(Table::Change, &2u32.to_be_bytes(), &[0xff], &mut |key, value| {
            assert_eq!(store.get(Table::Change, key).unwrap().as_deref(), Some(value));
            seen += 1;
            if seen == 3 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })
        .unwrap();
    assert_eq!(seen, 3);
}

#[test]
fn what_was_applied_survives_a_kill() {
    let (temporary, path) = folder();
    let store = Store::open(&path).unwrap();
    fill(&store, 0..500);
    flush(&store);
    fill(&store, 500..1000);
    let copied = temporary.path().join("copy");
    copy(&path, &copied); // the process ends here: nothing is synced or closed
    let again = Store::open(&copied).unwrap();
    assert_eq!(count(&again), 1000);
    again.check_all().unwrap();
}

#[test]
fn a_second_open_is_refused() {
    let (_temporary, path) = folder();
    let store = Store::open(&path).unwrap();
    let clone = store.clone();
    assert_eq!(Store::open(&path).unwrap_err(), OpenError::Locked);
    drop(store);
    assert_eq!(Store::open(&path).unwrap_err(), OpenError::Locked);
    drop(clone);
    Store::open(&path).unwrap();
}

#[test]
fn a_newer_format_is_refused_even_with_tables_that_are_unknown() {
    let (_temporary, path) = folder();
    drop(Store::open(&path).unwrap());
    let newer = || {
        let names = DB::list_cf(&Options::default(), &path).unwrap();
        let mut options = Options::default();
        options.create_missing_column_families(true);
        let tables = names.iter().map(String::as_str).chain(["of-tomorrow"]);
        DB::open_cf_descriptors(
            &options,
            &path,
            tables.map(|name| ColumnFamilyDescriptor::new(name, Options::default())),
        )
    };
    let db = newer().unwrap();
    assert_eq!(db.get(FORMAT_KEY).unwrap().unwrap(), [0, 0, 0, 1], "the first format's bytes");
    db.put(FORMAT_KEY, 7u32.to_be_bytes()).unwrap();
    drop(db);
    for _ in 0..2 {
        assert_eq!(Store::open(&path).unwrap_err(), OpenError::NewerFormat { found: 7, known: STORAGE_FORMAT });
    }
}

#[test]
fn a_table_that_is_missing_is_created() {
    let (_temporary, path) = folder();
    let store = Store::open(&path).unwrap();
    fill(&store, 0..3);
    drop(store);
    let names = DB::list_cf(&Options::default(), &path).unwrap();
    let mut db = DB::open_cf(&Options::default(), &path, names).unwrap();
    db.drop_cf("audit").unwrap();
    drop(db);
    let store = Store::open(&path).unwrap();
    assert_eq!(count(&store), 3);
    assert_eq!(store.get(Table::Audit, b"key"), Ok(None));
}

#[test]
fn a_flipped_byte_in_a_table_file_is_found_and_named() {
    let (temporary, path) = folder();
    let store = Store::open(&path).unwrap();
    fill(&store, 0..2000);
    flush(&store);
    drop(store);
    for part in 0..8 {
        let copied = temporary.path().join(part.to_string());
        copy(&path, &copied);
        let file = largest(&copied, |name| name.ends_with(".sst"));
        flip(&file, |length| length * part / 10); // the blocks; after them stands the filter, which no answer rests on
        let store = Store::open(&copied).unwrap();
        assert_eq!(PathBuf::from(store.check_all().unwrap_err().file), file);
        let answers: Vec<_> = (0..2000u32).map(|number| store.get(Table::Change, &number.to_be_bytes())).collect();
        let failed = answers.iter().filter(|answer| answer.is_err()).count();
        assert!((1..100).contains(&failed), "{failed} reads fail: those of one block");
        assert!(answers.iter().all(|answer| answer != &Ok(None)), "damage never reads as absence");
    }
    let copied = temporary.path().join("end");
    copy(&path, &copied);
    let file = largest(&copied, |name| name.ends_with(".sst"));
    flip(&file, |length| length - 20);
    assert_eq!(damaged_file(Store::open(&copied).unwrap_err()), file);
}

#[test]
fn a_flipped_byte_in_the_log_is_found_and_named() {
    let (temporary, path) = folder();
    let store = Store::open(&path).unwrap();
    fill(&store, 0..2000);
    drop(store);
    for part in 0..8 {
        let copied = temporary.path().join(part.to_string());
        copy(&path, &copied);
        let file = largest(&copied, |name| name.ends_with(".log"));
        flip(&file, |length| length * part / 8);
        assert_eq!(damaged_file(Store::open(&copied).unwrap_err()), file);
    }
}

#[test]
fn a_log_that_breaks_off_is_read_up_to_there() {
    let (temporary, path) = folder();
    let store = Store::open(&path).unwrap();
    fill(&store, 0..100);
    drop(store);
    let mut counts = BTreeMap::new();
    for cut in [1, 100, 1000, 10_000] {
        let copied = temporary.path().join(cut.to_string());
        copy(&path, &copied);
        let file = largest(&copied, |name| name.ends_with(".log"));
        let length = fs::metadata(&file).unwrap().len();
        fs::File::options().write(true).open(&file).unwrap().set_len(length - cut).unwrap();
        let store = Store::open(&copied).unwrap();
        let rows = rows(&store, Table::Change, &[], &[0xff]);
        let wanted: Vec<_> =
            (0..rows.len() as u32).map(|number| (number.to_be_bytes().to_vec(), noise(number, 200))).collect();
        assert_eq!(rows, wanted, "a prefix");
        counts.insert(cut, rows.len());
        // What is written after the break does not make it damage.
        fill(&store, 200..210);
        drop(store);
        assert_eq!(count(&Store::open(&copied).unwrap()), rows.len() + 10);
    }
    assert_eq!(counts[&1], 99);
    assert!(counts[&10_000] > 40 && counts[&10_000] < counts[&1000]);
}

type IsKind<'a> = &'a dyn Fn(&str) -> bool;

#[test]
fn damaged_or_missing_files_are_named() {
    let (temporary, path) = folder();
    let store = Store::open(&path).unwrap();
    fill(&store, 0..100);
    flush(&store);
    drop(store);
    let is_manifest = |name: &str| name.starts_with("MANIFEST-");
    let is_current = |name: &str| name == "CURRENT";
    let is_table = |name: &str| name.ends_with(".sst");
    let kinds: [(&str, IsKind<'_>); 3] = [("manifest", &is_manifest), ("current", &is_current), ("table", &is_table)];
    for (kind, is_kind) in kinds {
        let copied = temporary.path().join(kind);
        copy(&path, &copied);
        let file = largest(&copied, is_kind);
        fs::remove_file(&file).unwrap();
        assert_eq!(damaged_file(Store::open(&copied).unwrap_err()), file);
        let has_table = file_names(&copied).unwrap().iter().any(|name| is_table(name));
        assert!(has_table || kind == "table", "nothing is deleted");
        if kind != "table" {
            let copied = temporary.path().join(format!("{kind}-flipped"));
            copy(&path, &copied);
            let file = largest(&copied, is_kind);
            flip(&file, |length| length / 2);
            assert_eq!(damaged_file(Store::open(&copied).unwrap_err()), file);
        }
    }
}

#[test]
fn restarts_do_not_pile_up_logs() {
    let (_temporary, path) = folder();
    for number in 0..30 {
        let store = Store::open(&path).unwrap();
        fill(&store, number..number + 1);
        drop(store);
        let logs = file_names(&path).unwrap().iter().filter(|name| name.ends_with(".log")).count();
        assert!(logs <= LOGS_MAX, "{logs} logs after {number} restarts");
    }
    assert_eq!(count(&Store::open(&path).unwrap()), 30);
}

/// Root may do everything, so the test runs itself again as another user.
#[test]
fn a_folder_of_another_user_is_refused() {
    if let Some(path) = std::env::var_os(CHILD_FOLDER) {
        let error = Store::open(Path::new(&path)).unwrap_err();
        assert!(matches!(&error, OpenError::Permission(place) if place.starts_with(&path)), "{error:?}");
        return;
    }
    let (temporary, path) = folder();
    drop(Store::open(&path).unwrap());
    if !rustix::process::geteuid().is_root() {
        fs::set_permissions(&path, fs::Permissions::from_mode(0o500)).unwrap();
        let error = Store::open(&path).unwrap_err();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
        assert!(matches!(&error, OpenError::Permission(place) if place.starts_with(&path)), "{error:?}");
        return;
    }
    fs::set_permissions(temporary.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let binary = temporary.path().join("test");
    fs::copy(std::env::current_exe().unwrap(), &binary).unwrap();
    fs::set_permissions(&binary, fs::Permissions::from_mode(0o755)).unwrap();
    let name = format!("{}::a_folder_of_another_user_is_refused", module_path!().split_once("::").unwrap().1);
    for mode in [0o700, 0o755] {
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        let mut child = Command::new(&binary);
        child.args([&name, "--exact"]).env(CHILD_FOLDER, &path).current_dir("/").uid(NOBODY).gid(NOBODY);
        let output = match child.output() {
            Ok(output) => output,
            Err(error) => return skip(&format!("cannot run as another user: {error}")),
        };
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success() && said.contains("1 passed"), "mode {mode:o}: {said}");
    }
}

/// A file system of its own, unmounted in the end.
struct SmallDisk(TempDir);

impl SmallDisk {
    fn mount(size_mib: u64) -> Option<SmallDisk> {
        let folder = tempfile::tempdir().unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={size_mib}m"), "fleetsync-test"]).arg(folder.path());
        match mount.output() {
            Ok(output) if output.status.success() => Some(SmallDisk(folder)),
            Ok(output) => {
                skip(&format!("cannot mount: {}", String::from_utf8_lossy(&output.stderr)));
                None
            }
            Err(error) => {
                skip(&format!("cannot mount: {error}"));
                None
            }
        }
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0.path()).status();
    }
}

/// Rows that go to two tables in turn, so that the log meets the end of the disk before a table is written out.
fn wide_row(number: u32) -> Batch {
    let table = if number.is_multiple_of(2) { Table::Change } else { Table::Stranded };
    let mut batch = Batch::default();
    batch.put(table, number.to_be_bytes(), noise(number, 1000));
    batch
}

fn count_wide(store: &Store) -> u32 {
    let tables = [Table::Change, Table::Stranded];
    tables.iter().map(|table| u32::try_from(rows(store, *table, &[], &[0xff]).len()).unwrap()).sum()
}

/// A store on a small disk, filled until a write fails; gives the number of rows that were applied.
fn fill_disk(disk: &SmallDisk) -> (Store, PathBuf, u32) {
    let store = Store::open(&disk.0.path().join("store")).unwrap();
    store.apply(&wide_row(0)).unwrap();
    let ballast = disk.0.path().join("ballast");
    let length = usize::try_from(store.free_bytes() - MIB / 16).unwrap();
    fs::write(&ballast, vec![1; length]).unwrap();
    let full = (1..100_000).find(|number| store.apply(&wide_row(*number)).is_err()).expect("the disk fills");
    (store, ballast, full)
}

fn wait_for(what: &str, mut is_done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_done() {
        assert!(start.elapsed() < Duration::from_secs(20), "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn after_a_full_disk_writes_work_again() {
    let Some(disk) = SmallDisk::mount(100) else { return };
    for is_log_synced in [false, true] {
        let (store, ballast, full) = fill_disk(&disk);
        let path = store.shared.folder.clone();
        assert_eq!(store.apply(&wide_row(full)), Err(WriteError::Full));
        assert_eq!(store.sync(), Err(WriteError::Full));
        assert_eq!(count_wide(&store), full, "reads go on, and what failed is absent");
        if is_log_synced {
            // A sync that was under way when the write failed: RocksDB does not resume after that.
            assert!(store.current().unwrap().db.flush_wal(true).is_err());
            assert_eq!(store.apply(&wide_row(full)), Err(WriteError::Full));
        }
        fs::remove_file(&ballast).unwrap();
        wait_for("writes work again", || store.apply(&wide_row(full)).is_ok());
        store.sync().unwrap();
        assert_eq!(count_wide(&store), full + 1);
        drop(store);
        let store = Store::open(&path).unwrap();
        assert_eq!(count_wide(&store), full + 1);
        store.check_all().unwrap();
        drop(store);
        fs::remove_dir_all(&path).unwrap();
    }
}

#[test]
fn after_a_full_disk_a_sync_alone_makes_it_work_again() {
    let Some(disk) = SmallDisk::mount(100) else { return };
    let (store, ballast, full) = fill_disk(&disk);
    assert_eq!(store.sync(), Err(WriteError::Full));
    fs::remove_file(&ballast).unwrap();
    wait_for("a sync works again", || store.sync().is_ok());
    store.apply(&wide_row(full)).unwrap();
    assert_eq!(count_wide(&store), full + 1);
}

#[test]
fn a_store_that_is_closed_on_a_full_disk_opens_with_what_was_applied() {
    let Some(disk) = SmallDisk::mount(30) else { return };
    let (store, ballast, full) = fill_disk(&disk);
    let path = store.shared.folder.clone();
    drop(store);
    match Store::open(&path) {
        Ok(store) => assert_eq!(count_wide(&store), full),
        Err(error) => assert_eq!(error, OpenError::Full),
    }
    fs::remove_file(&ballast).unwrap();
    let store = Store::open(&path).unwrap();
    assert_eq!(count_wide(&store), full);
    store.check_all().unwrap();
}

/// Threads that outlive the node hold clones; they must not keep RocksDB running while the process ends.
#[test]
fn closing_closes_for_everyone() {
    let (_temporary, path) = folder();
    let store = Store::open(&path).unwrap();
    let clone = store.clone();
    let mut batch = Batch::default();
    batch.put(Table::Meta, [1], vec![2]);
    store.apply(&batch).unwrap();
    store.close();
    store.close();
    assert!(clone.get(Table::Meta, &[1]).is_err());
    assert!(clone.apply(&batch).is_err());
    assert!(clone.sync().is_err());
    let again = Store::open(&path).unwrap();
    assert_eq!(again.get(Table::Meta, &[1]).unwrap(), Some(vec![2]));
}

#[test]
fn a_frozen_store_does_not_change_and_ends_when_the_store_is_closed() {
    let (_temporary, path) = folder();
    let store = Store::open(&path).unwrap();
    fill(&store, 0..10);
    let closing = store
        .frozen(|frozen| {
            fill(&store, 10..20);
            let mut deletion = Batch::default();
            deletion.delete(Table::Change, 3u32.to_be_bytes());
            store.apply(&deletion).unwrap();
            assert_eq!((count(&store), rows(frozen, Table::Change, &[], &[0xff]).len()), (19, 10));
            assert_eq!(frozen.get(Table::Change, &3u32.to_be_bytes()).unwrap(), Some(noise(3, 200)));
            assert_eq!(rows(frozen, Table::Change, &2u32.to_be_bytes(), &4u32.to_be_bytes()).len(), 2);
            let closing = std::thread::spawn({
                let store = store.clone();
                move || store.close()
            });
            let deadline = Instant::now() + Duration::from_secs(20);
            while frozen.get(Table::Change, &[]).is_ok() {
                assert!(Instant::now() < deadline, "a read goes on in a store that is closed");
                std::thread::yield_now();
            }
            assert!(frozen.scan(Table::Change, &[], &[0xff], &mut |_, _| ControlFlow::Continue(())).is_err());
            closing
        })
        .unwrap();
    closing.join().unwrap();
    assert!(store.frozen(|_| ()).is_err());
    Store::open(&path).unwrap();
}

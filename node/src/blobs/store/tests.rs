//! Blobs in a temporary folder.

use super::*;

const MEBIBYTE: u64 = 1 << 20;

fn content(size: u64) -> Vec<u8> {
    (0..size).map(|at| (at * 31 + at / 16_384) as u8).collect()
}

fn put(blobs: &Blobs, bytes: &[u8]) -> Held {
    let mut new = blobs.begin().unwrap();
    bytes.chunks(10_000).for_each(|part| new.write(part).unwrap());
    new.finish().unwrap()
}

struct Two {
    _folder: tempfile::TempDir,
    from: Blobs,
    to: Blobs,
}

fn two() -> Two {
    let folder = tempfile::tempdir().unwrap();
    let open = |name: &str| Blobs::open(&folder.path().join(name)).unwrap();
    let (from, to) = (open("from"), open("to"));
    Two { _folder: folder, from, to }
}

fn names(blobs: &Blobs) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(&blobs.folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_blob_is_kept_by_the_hash_that_others_compute() {
    let Two { from, .. } = &two();
    for size in [0, 1, 1024, 16_384, 16_385, 3 * MEBIBYTE + 7] {
        let bytes = content(size);
        let held = put(from, &bytes);
        assert_eq!(held.blob, BlobId(*blake3::hash(&bytes).as_bytes()));
        assert_eq!((held.size, held.is_whole), (size, true));
        let mut read = vec![0; size as usize + 1];
        assert_eq!(from.whole(&held.blob).unwrap().unwrap().read_at(&mut read, 0).unwrap(), size as usize);
        assert_eq!(read[..size as usize], bytes);
        assert_eq!(put(from, &bytes).blob, held.blob, "again it is the same");
        assert_eq!(hash_of(&bytes[..]).unwrap(), held.blob);
    }
    assert_eq!(from.list().unwrap().len(), 6);
    drop(from.begin().unwrap());
    assert!(names(from).iter().all(|name| !name.ends_with(".new")), "{:?}", names(from));
}

#[test]
fn what_was_being_put_when_the_node_ended_is_gone() {
    let Two { from, .. } = &two();
    let mut new = from.begin().unwrap();
    new.write(b"half").unwrap();
    std::mem::forget(new);
    assert_eq!(names(from).len(), 1);
    Blobs::open(&from.folder).unwrap();
    assert!(names(from).is_empty());
}

#[test]
fn parts_in_any_order_make_the_blob_also_after_a_restart() {
    let Two { from, to, .. } = &two();
    let size = 3 * MEBIBYTE + 7;
    let held = put(from, &content(size));
    let whole = from.whole(&held.blob).unwrap().unwrap();
    let ranges = [2 * MEBIBYTE..size, 0..16_384, 16_384..2 * MEBIBYTE];
    for (number, range) in ranges.iter().enumerate() {
        // Opened anew each time, as after a kill.
        let partial = to.part(&held.blob, size).unwrap();
        let missing: u64 = partial.missing().unwrap().iter().map(|range| range.end - range.start).sum();
        let came: u64 = ranges[..number].iter().map(|range| range.end - range.start).sum();
        assert_eq!(missing, size - came);
        assert!(!to.stat(&held.blob).unwrap().unwrap().is_whole);
        let encoded = whole.encode(range).unwrap();
        assert!(encoded.len() as u64 <= super::super::wire::answer_bytes_max(range));
        let taken = partial.take(range, &encoded).unwrap();
        assert!(taken.stored == range.end - range.start && !taken.is_false, "{taken:?}");
    }
    let partial = to.part(&held.blob, size).unwrap();
    assert!(partial.missing().unwrap().is_empty());
    partial.finish().unwrap();
    assert_eq!(fs::read(to.path(&held.blob, "")).unwrap(), content(size));
    // It can be handed on from here.
    let again = to.whole(&held.blob).unwrap().unwrap().encode(&(0..size)).unwrap();
    assert_eq!(again, whole.encode(&(0..size)).unwrap());
}

#[test]
fn an_answer_that_breaks_off_or_is_altered_gives_what_came_before() {
    let Two { from, to, .. } = &two();
    let size = MEBIBYTE;
    let held = put(from, &content(size));
    let encoded = from.whole(&held.blob).unwrap().unwrap().encode(&(0..size)).unwrap();
    let partial = to.part(&held.blob, size).unwrap();
    let cut = partial.take(&(0..size), &encoded[..encoded.len() / 2]).unwrap();
    assert!(!cut.is_false && cut.stored > size / 3 && cut.stored < size * 2 / 3, "{cut:?}");
    assert_eq!(partial.missing().unwrap(), std::slice::from_ref(&(cut.stored..size)));

    let mut altered = encoded.clone();
    altered[encoded.len() * 3 / 4] ^= 1;
    let altered = partial.take(&(0..size), &altered).unwrap();
    assert!(altered.is_false && altered.stored > cut.stored && altered.stored < size, "{altered:?}");
    assert_eq!(partial.missing().unwrap(), std::slice::from_ref(&(altered.stored..size)));
    // Of another blob not a byte is taken.
    let other = put(from, &content(size + 1));
    let other = from.whole(&other.blob).unwrap().unwrap().encode(&(0..size)).unwrap();
    let none = to.part(&BlobId([9; 32]), size).unwrap().take(&(0..size), &other).unwrap();
    assert!(none.is_false && none.stored == 0);
}

#[test]
fn what_a_torn_write_has_spoilt_is_missing_again() {
    let Two { from, to, .. } = &two();
    let size = MEBIBYTE;
    let held = put(from, &content(size));
    let encoded = from.whole(&held.blob).unwrap().unwrap().encode(&(0..size)).unwrap();
    let partial = to.part(&held.blob, size).unwrap();
    partial.take(&(0..size), &encoded).unwrap();
    partial.data.write_all_at(&[0xff; 10], 300_000).unwrap();
    let missing = partial.missing().unwrap();
    let group = 300_000 / 16_384 * 16_384;
    assert_eq!(missing, std::slice::from_ref(&(group..group + 16_384)));
    // Another size was said before: nothing of it is kept.
    let again = to.part(&held.blob, size + 1).unwrap();
    assert_eq!(again.missing().unwrap(), std::slice::from_ref(&(0..size + 1)));
    to.forget_part(&held.blob).unwrap();
    assert!(to.stat(&held.blob).unwrap().is_none());
}

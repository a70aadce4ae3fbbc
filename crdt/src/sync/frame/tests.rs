use proptest::prelude::*;

use super::*;
use crate::id::{DeviceId, Key};
use crate::schema::DocumentName;

fn parts() -> StatementParts {
    StatementParts { bytes: vec![1, 2, 3], signatures: vec![(Key([4; 32]), SignatureBytes([5; 64]))] }
}

fn hello() -> Hello {
    let scope = Scope { name: "fleet".to_owned(), root: Root([6; 32]), generation: 300, cursor: Some((7, 8)) };
    Hello {
        protocol: PROTOCOL_RANGE,
        fleet: FleetId([1; 32]),
        chain: vec![parts()],
        scopes: vec![scope],
        frame_bytes_max: FRAME_BYTES_MAX as u32,
    }
}

fn frames() -> Vec<Frame> {
    let log = LogName {
        document: DocumentName::config("camera").unwrap(),
        epoch: 1,
        author: Key([1; 32]),
        carrier: DeviceId([2; 32]),
        incarnation: 300,
    };
    let changes = vec![RawBytes(vec![1, 2, 3]), RawBytes(vec![4])];
    vec![
        Frame::Hello(hello()),
        Frame::Have(vec![(Actor([0xaa; 16]), 300), (Actor([0xbb; 16]), 1)]),
        Frame::Root(Root([6; 32])),
        Frame::Name(Name { number: 300, log }),
        Frame::Changes(Changes { number: 300, first_seq: 4, changes, signature: SignatureBytes([5; 64]) }),
        Frame::Probe(300),
        Frame::ProbeAnswer(300),
        Frame::Ask(ask()),
        Frame::WantHash(vec![[0xcc; 32]]),
        Frame::Want(vec![(Actor([0xaa; 16]), 300)]),
        Frame::Statement(Statement { origin: Some(DeviceId([2; 32])), parts: parts() }),
        Frame::HaveStatements(vec![(StatementId([0xcc; 32]), 0xdead_beef)]),
        Frame::Place(PlaceOf { place: PLACE, items_bits: 9, is_equal: true }),
        Frame::Ranges(Ranges { number: 300, place: PLACE, prints: vec![[7; 6]; RANGES] }),
        Frame::Ranges(Ranges { number: 300, place: PLACE, prints: vec![] }),
        Frame::Parts(Parts { number: 300, ranges: vec![(0xff, [[7; 6]; RANGE_BUCKETS])] }),
        Frame::Items(Items { number: 300, buckets: vec![(0xfff, vec![([8; 3], 9, 300)])], is_last: true }),
        Frame::Request(Request { number: 300, ids: vec![(0xfff, [8; 3])], is_last: true }),
        difference(None),
        difference(Some(End::Cursor)),
        difference(Some(End::Comparison(300, PLACE))),
        difference(Some(End::Request(300))),
        difference(Some(End::Part)),
        difference(Some(End::Statements(true))),
        Frame::Credit(Credit { received: 300, limit: 301 }),
        Frame::Fragment(Fragment { is_last: true, bytes: vec![1, 2] }),
        Frame::Routed(RawBytes(vec![1, 2])),
    ]
}

/// The types of these frames, in their order.
const KINDS: [u8; 27] =
    [1, 3, 6, 7, 8, 9, 10, 11, 12, 16, 17, 18, 19, 14, 14, 20, 21, 15, 22, 22, 22, 22, 22, 22, 13, 23, 24];

const PLACE: Place = Place { generation: 300, position: 5 };

fn difference(end: Option<End>) -> Frame {
    let (logs, statements) = (vec![(Actor([0xaa; 16]), 300, 4)], vec![(StatementId([0xcc; 32]), 5)]);
    Frame::Difference(Difference { logs, statements, end })
}

fn ask() -> Ask {
    Ask { mode: 1, others: true, first: 300, named: vec![(DeviceId([2; 32]), 0)], origins: vec![0, 0x80] }
}

/// Golden: versions mix on the wire.
#[test]
fn golden_frames() {
    let line = |bytes: Vec<u8>| match bytes.len() {
        ..=300 => format!("{}\n", crate::id::hex(&bytes)),
        length => format!("{}… {length} bytes, {}\n", crate::id::hex(&bytes[..16]), blake3::hash(&bytes).to_hex()),
    };
    let lines: String = frames().iter().map(|frame| line(frame.encode())).collect();
    assert_eq!(lines, GOLDEN);
}

const GOLDEN: &str = "\
01040401010101010101010101010101010101010101010101010101010101010101010103010203010404040404040404040404040404\
04040404040404040404040404040404040405050505050505050505050505050505050505050505050505050505050505050505050505\
0505050505050505050505050505050505050505050505050505050105666c656574060606060606060606060606060606060606060606\
0606060606060606060606ac02010708808010
0302aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaac02bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb01
060606060606060606060606060606060606060606060606060606060606060606
07ac020d636f6e6669672f63616d6572610101010101010101010101010101010101010101010101010101010101010101010202020202\
020202020202020202020202020202020202020202020202020202ac02
08ac0204020301020301040505050505050505050505050505050505050505050505050505050505050505050505050505050505050505\
0505050505050505050505050505050505050505
09ac02
0aac02
0b0101ac0201020202020202020202020202020202020202020202020202020202020202020200020080
0c01cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc
1001aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaac02
11010202020202020202020202020202020202020202020202020202020202020202030102030104040404040404040404040404040404\
04040404040404040404040404040404050505050505050505050505050505050505050505050505050505050505050505050505050505\
05050505050505050505050505050505050505050505050505
1201cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccceffdb6f50d
13ac02050901
0eac02ac020580020707070707070707… 1544 bytes, 5c7462bd9dfaef55e1ee8c4c4c1fb4bd382e4d45c7917b3252f7073035f43b9e
0eac02ac020500
14ac0201ff0707070707070707070707070707070707070707070707070707070707070707070707070707070707070707070707070707\
07070707070707070707070707070707070707070707070707070707070707070707070707070707070707070707
15ac0201ff1f0108080809ac0201
0fac0201ff1f08080801
1601aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaac020401cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc05\
00
1601aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaac020401cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc05\
0100
1601aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaac020401cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc05\
0101ac02ac0205
1601aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaac020401cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc05\
0102ac02
1601aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaac020401cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc05\
0103
1601aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaac020401cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc05\
010401
0dac02ad02
1701020102
18020102
";

#[test]
fn frames_round_trip_on_their_streams() {
    for (kind, frame) in KINDS.into_iter().zip(frames()) {
        let bytes = frame.encode();
        assert_eq!(bytes[0], kind);
        assert_eq!(Frame::decode(&bytes), Ok(Some(frame.clone())));
        assert_eq!(is_payload(&bytes), matches!(frame, Frame::Statement(_) | Frame::Changes(_) | Frame::Fragment(_)));
        assert_eq!(
            frame.channel(),
            if matches!(kind, 7 | 8 | 14 | 15 | 20..=23) { Channel::Data } else { Channel::Control }
        );
        // Nothing may be missing, nothing may follow.
        assert_eq!(Frame::decode(&[&bytes[..], &[0]].concat()), Err(FrameError::Body(kind)));
        for cut in 1..bytes.len() {
            assert_eq!(Frame::decode(&bytes[..cut]), Err(FrameError::Body(kind)), "{frame:?} cut at {cut}");
        }
    }
}

#[test]
fn unknown_types_are_skipped() {
    for kind in (0..=255).filter(|kind| !KINDS.contains(kind)) {
        assert_eq!(Frame::decode(&[kind]), Ok(None));
        assert_eq!(Frame::decode(&[kind, 1, 2, 3]), Ok(None));
    }
}

#[test]
fn limits_of_frames() {
    assert_eq!(Frame::decode(&[]), Err(FrameError::Size(0)));
    assert_eq!(Frame::decode(&vec![99; FRAME_BYTES_MAX]), Ok(None));
    assert_eq!(Frame::decode(&vec![99; FRAME_BYTES_MAX + 1]), Err(FrameError::Size(FRAME_BYTES_MAX + 1)));
    let decoded = |frame: Frame| Frame::decode(&frame.encode()).map(|_| ());
    let have = |count| Frame::Have(vec![(Actor([1; 16]), 1); count]);
    assert_eq!(decoded(have(ENTRIES_MAX)), Ok(()));
    assert_eq!(decoded(have(ENTRIES_MAX + 1)), Err(FrameError::Body(3)));
    let hashes = |count| Frame::WantHash(vec![[1; 32]; count]);
    assert_eq!(decoded(hashes(ENTRIES_MAX)), Ok(()));
    assert_eq!(decoded(hashes(ENTRIES_MAX + 1)), Err(FrameError::Body(12)));
    let ask_of = |named, bytes| {
        let named = vec![(DeviceId([2; 32]), 0); named];
        Frame::Ask(Ask { named, origins: vec![1; bytes], ..ask() })
    };
    assert_eq!(decoded(ask_of(ENTRIES_MAX, ORIGINS_MAX / 8)), Ok(()));
    assert_eq!(decoded(ask_of(ENTRIES_MAX + 1, 1)), Err(FrameError::Body(11)));
    assert_eq!(decoded(ask_of(1, ORIGINS_MAX / 8 + 1)), Err(FrameError::Body(11)));
    let of_items = |logs, statements| {
        let (logs, statements) = (vec![(Actor([1; 16]), 1, 0); logs], vec![(StatementId([1; 32]), 1); statements]);
        Frame::Difference(Difference { logs, statements, end: None })
    };
    assert_eq!(decoded(of_items(ENTRIES_MAX - 1, 1)), Ok(()));
    assert_eq!(decoded(of_items(ENTRIES_MAX, 1)), Err(FrameError::Body(22)));
    assert_eq!(decoded(of_items(0, ENTRIES_MAX + 1)), Err(FrameError::Body(22)));
    let request = |count| Frame::Request(Request { number: 1, ids: vec![(1, [1; 3]); count], is_last: true });
    assert_eq!(decoded(request(ENTRIES_MAX)), Ok(()));
    assert_eq!(decoded(request(ENTRIES_MAX + 1)), Err(FrameError::Body(15)));
    let chain = |count| Frame::Hello(Hello { chain: vec![parts(); count], ..hello() });
    assert_eq!(decoded(chain(CHAIN_MAX)), Ok(()));
    assert_eq!(decoded(chain(CHAIN_MAX + 1)), Err(FrameError::Body(1)));
    let scopes = |count| Frame::Hello(Hello { scopes: vec![hello().scopes.remove(0); count], ..hello() });
    assert_eq!(decoded(scopes(CHAIN_MAX + 1)), Err(FrameError::Body(1)));
}

/// Ranges that overlap, run backwards or lie outside are none.
#[test]
fn ranges_ascend() {
    let decoded = |frame: Frame| Frame::decode(&frame.encode()).map(|_| ());
    for (prints, is_right) in [(0, true), (RANGES, true), (1, false), (RANGES - 1, false), (RANGES + 1, false)] {
        let frame = Frame::Ranges(Ranges { number: 1, place: PLACE, prints: vec![[1; 6]; prints] });
        assert_eq!(decoded(frame).is_ok(), is_right, "{prints} prints");
    }
    for (ranges, is_right) in [(vec![3, 4, 255], true), (vec![4, 3], false), (vec![3, 3], false)] {
        let ranges = ranges.into_iter().map(|range| (range, [[1; 6]; RANGE_BUCKETS])).collect();
        assert_eq!(decoded(Frame::Parts(Parts { number: 1, ranges })).is_ok(), is_right);
    }
    let item = ([1; 3], 1, 1);
    let of_buckets = |buckets: &[(u16, usize)]| {
        let buckets = buckets.iter().map(|(bucket, count)| (*bucket, vec![item; *count])).collect();
        Frame::Items(Items { number: 1, buckets, is_last: false })
    };
    for (buckets, is_right) in [
        (&[(0, 1), (4095, ITEMS_MAX - 1)][..], true),
        (&[(0, 1), (4095, ITEMS_MAX)], false),
        (&[(4096, 1)], false),
        (&[(7, 1), (6, 1)], false),
        (&[(7, 1), (7, 1)], false),
    ] {
        assert_eq!(decoded(of_buckets(buckets)).is_ok(), is_right, "{buckets:?}");
    }
}

#[test]
fn a_long_frame_is_cut() {
    let frame = Frame::Have(vec![(Actor([0xaa; 16]), 300); 500]).encode();
    for most in [6, 100, 4096, frame.len() - 1] {
        let parts = cut(frame.clone(), most);
        let mut whole = Vec::new();
        for (at, part) in parts.iter().enumerate() {
            assert!(part.len() <= most);
            let Ok(Some(Frame::Fragment(fragment))) = Frame::decode(part) else { panic!("part {at} of {most}") };
            assert_eq!(fragment.is_last, at + 1 == parts.len());
            whole.extend(fragment.bytes);
        }
        assert!(whole == frame, "{most}");
    }
    assert_eq!(cut(frame.clone(), frame.len()), [frame]);
}

/// A count that no bytes follow asks for no memory; a document's name that is none is no frame.
#[test]
fn counts_and_names_that_lie() {
    let huge = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f];
    for kind in [3, 12, 16, 18] {
        assert_eq!(Frame::decode(&[&[kind], &huge[..]].concat()), Err(FrameError::Body(kind)));
    }
    let mut name = frames()[3].encode();
    let at = name.windows(6).position(|window| window == b"camera").unwrap();
    name[at] = b'/';
    assert_eq!(Frame::decode(&name), Err(FrameError::Body(7)));
}

proptest! {
    #![proptest_config(crate::fixture::cases(2_000))]

    #[test]
    fn decoding_never_panics(kind in 0u8..24, body in proptest::collection::vec(any::<u8>(), 0..200)) {
        if let Ok(Some(frame)) = Frame::decode(&[&[kind], &body[..]].concat()) {
            prop_assert_eq!(Frame::decode(&frame.encode()), Ok(Some(frame)));
        }
    }

    #[test]
    fn altered_frames_never_panic(which in 0..KINDS.len(), edits in proptest::collection::vec((any::<usize>(), any::<u8>()), 1..4)) {
        let mut bytes = frames()[which].encode();
        for (at, byte) in edits {
            let at = at % bytes.len();
            bytes[at] = byte;
        }
        if let Ok(Some(frame)) = Frame::decode(&bytes) {
            prop_assert_eq!(Frame::decode(&frame.encode()), Ok(Some(frame)));
        }
    }
}

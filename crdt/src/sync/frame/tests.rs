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

fn clock() -> Clock {
    Clock {
        logs: vec![(Actor([0xaa; 16]), 300, 0x0102_0304)],
        statements: vec![(StatementId([0xcc; 32]), 0xdead_beef)],
        is_first: true,
        is_last: false,
        wants_answer: true,
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
        Frame::Clock(clock()),
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
    ]
}

/// The types of these frames, in their order.
const KINDS: [u8; 13] = [1, 2, 3, 6, 7, 8, 9, 10, 11, 12, 16, 17, 18];

fn ask() -> Ask {
    Ask { mode: 1, others: true, first: 300, named: vec![(DeviceId([2; 32]), 0)], origins: vec![0, 0x80] }
}

/// Golden: versions mix on the wire.
#[test]
fn golden_frames() {
    let lines: String = frames().iter().map(|frame| format!("{}\n", crate::id::hex(&frame.encode()))).collect();
    assert_eq!(lines, GOLDEN);
}

const GOLDEN: &str = "\
01020201010101010101010101010101010101010101010101010101010101010101010103010203010404040404040404040404040404\
04040404040404040404040404040404040405050505050505050505050505050505050505050505050505050505050505050505050505\
0505050505050505050505050505050505050505050505050505050105666c656574060606060606060606060606060606060606060606\
0606060606060606060606ac02010708808010
0201aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaac028486880801cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccceffd\
b6f50d010001
0302aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaac02bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb01
060606060606060606060606060606060606060606060606060606060606060606
07ac020d636f6e6669672f63616d6572610101010101010101010101010101010101010101010101010101010101010101010202020202\
020202020202020202020202020202020202020202020202020202ac02
08ac0204020301020301040505050505050505050505050505050505050505050505050505050505050505050505050505050505050505\
0505050505050505050505050505050505050505
09ac02
0aac02
0b0101ac02010202020202020202020202020202020202020202020202020202020202020202000200\
80
0c01cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc
1001aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaac02
110102020202020202020202020202020202020202020202020202020202020202020301020301\
04040404040404040404040404040404040404040404040404040404040404040505050505050505050505050505050505050505050505\
0505050505050505050505050505050505050505050505050505050505050505050505050505050505
1201cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccceffdb6f50d
";

#[test]
fn frames_round_trip_on_their_streams() {
    for (kind, frame) in KINDS.into_iter().zip(frames()) {
        let bytes = frame.encode();
        assert_eq!(bytes[0], kind);
        assert_eq!(Frame::decode(&bytes), Ok(Some(frame.clone())));
        assert_eq!(is_payload(&bytes), matches!(frame, Frame::Statement(_) | Frame::Changes(_)));
        assert_eq!(frame.channel(), if matches!(kind, 7 | 8) { Channel::Data } else { Channel::Control });
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
    let clock = |logs, statements| {
        let statements = vec![(StatementId([1; 32]), 1); statements];
        Frame::Clock(Clock { logs: vec![(Actor([1; 16]), 1, 0); logs], statements, ..clock() })
    };
    assert_eq!(decoded(clock(ENTRIES_MAX - 1, 1)), Ok(()));
    assert_eq!(decoded(clock(ENTRIES_MAX, 1)), Err(FrameError::Body(2)));
    assert_eq!(decoded(clock(0, ENTRIES_MAX + 1)), Err(FrameError::Body(2)));
    let chain = |count| Frame::Hello(Hello { chain: vec![parts(); count], ..hello() });
    assert_eq!(decoded(chain(CHAIN_MAX)), Ok(()));
    assert_eq!(decoded(chain(CHAIN_MAX + 1)), Err(FrameError::Body(1)));
    let scopes = |count| Frame::Hello(Hello { scopes: vec![hello().scopes.remove(0); count], ..hello() });
    assert_eq!(decoded(scopes(CHAIN_MAX + 1)), Err(FrameError::Body(1)));
}

/// A count that no bytes follow asks for no memory; a document's name that is none is no frame.
#[test]
fn counts_and_names_that_lie() {
    let huge = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f];
    for kind in [2, 3, 12, 16, 18] {
        assert_eq!(Frame::decode(&[&[kind], &huge[..]].concat()), Err(FrameError::Body(kind)));
    }
    let mut name = frames()[4].encode();
    let at = name.windows(6).position(|window| window == b"camera").unwrap();
    name[at] = b'/';
    assert_eq!(Frame::decode(&name), Err(FrameError::Body(7)));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn decoding_never_panics(kind in 0u8..20, body in proptest::collection::vec(any::<u8>(), 0..200)) {
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

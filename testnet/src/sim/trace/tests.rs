use std::io::Cursor;
use std::path::Path;
use std::sync::{Arc, Mutex};

use crdt::id::hex;

use super::*;
use crate::sim::topology::Place;

/// What a writer wrote, still there when it is gone; fails the first times, and once it would hold too much.
#[derive(Clone)]
struct Written {
    bytes: Arc<Mutex<Vec<u8>>>,
    bytes_max: usize,
    failures: usize,
    kind: io::ErrorKind,
}

impl Written {
    fn up_to(bytes_max: usize, kind: io::ErrorKind) -> Written {
        Written { bytes: Arc::default(), bytes_max, failures: 0, kind }
    }

    fn text(&self) -> String {
        String::from_utf8(self.bytes.lock().unwrap().clone()).unwrap()
    }
}

impl Write for Written {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut all = self.bytes.lock().unwrap();
        if self.failures > 0 {
            self.failures -= 1;
            return Err(io::Error::from(self.kind));
        }
        if all.len() + bytes.len() > self.bytes_max {
            return Err(io::Error::from(self.kind));
        }
        all.extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

const HASH: &str = "a1b2c3d4e5f60718293a4b5c6d7e8f90a1b2c3d4e5f60718293a4b5c6d7e8f90";
const LOG: &str = "0f1e2d3c4b5a69788796a5b4c3d2e1f0";
const HEADER: &str =
    r#"{"trace":1,"topology":"lan","seed":7,"nodes":[{"name":"a-0","zone":"a"},{"name":"b-0","zone":"b"}]}"#;

fn lan() -> Topology {
    let place =
        |zone: &str, number: usize| Place { name: format!("{zone}-{number}"), zone: zone.to_owned(), nat: None };
    let nodes = vec![place("north", 0), place("north", 1), place("south", 0), place("south", 1), place("south", 2)];
    Topology { name: "lan-5".to_owned(), nodes, lines: Vec::new() }
}

fn happened(at_us: u64, node: usize, peer: Option<usize>, what: What) -> Happened {
    Happened { at_us, node, peer, what, log: LOG.to_owned(), seq: 5, hash: HASH.to_owned() }
}

/// A copy that takes `link_us`, sent by `from`, and stored 1 ms after it came.
fn brought(sent_us: u64, from: usize, to: usize, link_us: u64) -> [Happened; 3] {
    [
        happened(sent_us, from, Some(to), What::Sent),
        happened(sent_us + link_us, to, Some(from), What::Came),
        happened(sent_us + link_us + 1000, to, Some(from), What::Stored),
    ]
}

/// Of another change, with the numbers of its hash and log.
fn other(hash: u8, log: u8, seq: u64) -> Happened {
    let (hash, log) = (hex(&[hash; 32]), hex(&[log; 16]));
    Happened { at_us: 1, node: 0, peer: None, what: What::Written, log, seq, hash }
}

/// The file with these events.
fn file_of(topology: &Topology, events: &[Happened]) -> String {
    let out = Written::up_to(usize::MAX, io::ErrorKind::Other);
    let mut writer = TraceWriter::to(Box::new(out.clone()), topology, 42);
    events.iter().for_each(|event| writer.happened(event));
    writer.finish().unwrap();
    out.text()
}

fn draw(events: &[Happened], wanted: &str) -> Result<String, TraceError> {
    tree(Cursor::new(file_of(&lan(), events)), wanted)
}

fn hash_of(events: &[Happened]) -> [u8; 32] {
    let mut writer = TraceWriter::new();
    events.iter().for_each(|event| writer.happened(event));
    writer.hash()
}

#[test]
fn the_hash_is_over_every_field_and_the_order() {
    let event = happened(1, 2, Some(3), What::Sent);
    let whats = [What::Written, What::Came, What::CameAgain, What::Stored, What::Refused];
    let mut others: Vec<Happened> = whats.map(|what| Happened { what, ..event.clone() }).to_vec();
    others.extend([
        Happened { at_us: 2, ..event.clone() },
        Happened { node: 3, ..event.clone() },
        Happened { peer: None, ..event.clone() },
        Happened { peer: Some(0), ..event.clone() },
        Happened { seq: 6, ..event.clone() },
        Happened { log: LOG.replace('f', "e"), ..event.clone() },
        Happened { hash: HASH.replace('a', "b"), ..event.clone() },
        // The same digits, divided in another place.
        Happened { log: LOG[1..].to_owned(), hash: format!("{}{HASH}", &LOG[..1]), ..event.clone() },
        Happened { log: String::new(), hash: format!("{LOG}{HASH}"), ..event.clone() },
    ]);
    let mut hashes: Vec<[u8; 32]> = others.iter().map(|other| hash_of(std::slice::from_ref(other))).collect();
    hashes.push(hash_of(std::slice::from_ref(&event)));
    hashes.push(hash_of(&[]));
    hashes.push(hash_of(&[event.clone(), event.clone()]));
    hashes.push(hash_of(&[event.clone(), others[0].clone()]));
    hashes.push(hash_of(&[others[0].clone(), event.clone()]));
    let count = hashes.len();
    hashes.sort_unstable();
    hashes.dedup();
    assert_eq!(hashes.len(), count);
    assert_eq!(hash_of(std::slice::from_ref(&event)), hash_of(&[event]));
}

#[test]
fn notes_are_hashed_with_their_time_label_and_bytes() {
    let noted = |at_us, label, bytes: &[u8]| {
        let mut writer = TraceWriter::new();
        writer.note(at_us, label, bytes);
        writer.hash()
    };
    let mut hashes = [
        noted(1, "crash", b"12"),
        noted(2, "crash", b"12"),
        noted(1, "cut", b"12"),
        noted(1, "crash", b"13"),
        noted(1, "crash1", b"2"),
        noted(1, "", b"crash12"),
        hash_of(&[]),
    ];
    hashes.sort_unstable();
    assert!(hashes.windows(2).all(|pair| pair[0] != pair[1]));
}

/// Two programs can be compared only while this stays.
#[test]
fn the_encoding_of_the_hash_is_fixed() {
    let mut writer = TraceWriter::new();
    writer.happened(&happened(1, 2, Some(3), What::Sent));
    writer.happened(&happened(4, 5, None, What::Written));
    writer.note(6, "crash", &[7]);

    let mut hasher = blake3::Hasher::new_derive_key("fleetsync testnet trace 1");
    let number = |number: u64| number.to_le_bytes();
    let text = |text: &str| [&number(text.len() as u64), text.as_bytes()].concat();
    hasher.update(&[&[0][..], &number(1), &number(2), &[1], &number(3), &[1], &number(5)].concat());
    hasher.update(&text(LOG)).update(&text(HASH));
    hasher.update(&[&[0][..], &number(4), &number(5), &[0], &[0], &number(5)].concat());
    hasher.update(&text(LOG)).update(&text(HASH));
    hasher.update(&[&[1][..], &number(6)].concat()).update(&text("crash")).update(&text("\u{7}"));
    assert_eq!(writer.hash(), *hasher.finalize().as_bytes());
}

#[test]
fn a_file_has_a_header_and_a_line_for_each_event() {
    let topology = Topology { nodes: lan().nodes[..1].to_vec(), ..lan() };
    let text =
        file_of(&topology, &[happened(1500, 0, None, What::Written), happened(1600, 0, Some(0), What::CameAgain)]);
    let expected = [
        r#"{"trace":1,"topology":"lan-5","seed":42,"nodes":[{"name":"north-0","zone":"north"}]}"#.to_owned(),
        format!(r#"{{"at_us":1500,"node":0,"peer":null,"what":"written","log":"{LOG}","seq":5,"hash":"{HASH}"}}"#),
        format!(r#"{{"at_us":1600,"node":0,"peer":0,"what":"came_again","log":"{LOG}","seq":5,"hash":"{HASH}"}}"#),
    ];
    assert_eq!(text.lines().collect::<Vec<_>>(), expected);
    assert!(text.ends_with('\n'));
}

#[test]
fn a_file_does_not_change_the_hash() {
    let event = happened(1, 2, None, What::Written);
    let mut writer = TraceWriter::to(Box::new(io::sink()), &lan(), 1);
    writer.happened(&event);
    assert_eq!(writer.hash(), hash_of(&[event]));
}

#[test]
fn an_error_of_the_file_waits_for_the_end_and_the_hash_goes_on() {
    let kind = io::ErrorKind::StorageFull;
    // Met at the end, at once, and after a while.
    for (count, bytes_max) in [(1, 0), (1000, 0), (1000, BUFFER_BYTES)] {
        let mut writer = TraceWriter::to(Box::new(Written::up_to(bytes_max, kind)), &lan(), 1);
        let events: Vec<Happened> = (0..count).map(|at_us| happened(at_us, 0, None, What::Written)).collect();
        events.iter().for_each(|event| writer.happened(event));
        assert_eq!(writer.hash(), hash_of(&events));
        assert_eq!(writer.finish().unwrap_err().kind(), kind);
    }

    // A hole would make the file lie, even where there is room again.
    let out = Written { failures: 1, ..Written::up_to(usize::MAX, kind) };
    let mut writer = TraceWriter::to(Box::new(out.clone()), &lan(), 1);
    (0..1000).for_each(|at_us| writer.happened(&happened(at_us, 0, None, What::Written)));
    assert_eq!(writer.finish().unwrap_err().kind(), kind);
    assert_eq!(out.text(), "");

    let mut writer = TraceWriter::to(Box::new(Written::up_to(0, io::ErrorKind::BrokenPipe)), &lan(), 1);
    writer.happened(&happened(1, 0, None, What::Written));
    writer.finish().expect("a reader that went away is no error");
}

#[test]
fn a_tree_shows_who_brought_it_and_what_it_took() {
    let mut events = vec![happened(2_000_000, 0, None, What::Written), happened(2_000_100, 0, None, What::Stored)];
    events.extend(brought(2_000_500, 0, 1, 800));
    events.extend(brought(2_000_500, 0, 2, 40_000));
    events.push(other(9, 9, 5));
    events.extend(brought(2_041_600, 2, 3, 700));
    // Twice over the same link, once more over another.
    events.extend([1, 1, 2].map(|from| happened(2_050_000, 3, Some(from), What::CameAgain)));
    events.push(happened(2_051_000, 4, Some(3), What::Refused));
    // Lost in a crash and brought again: it had been there before.
    events.push(happened(8_900_000, 1, Some(0), What::Came));
    events.push(happened(9_000_000, 1, Some(3), What::Stored));
    let expected = format!(
        "\
change       {HASH}
log          {LOG}:5
run          lan-5, seed 42
written      on north-0, 2000.00 ms into the run

NODE           ZONE   MS AFTER WRITE  AFTER PARENT  ON THE LINK
north-0        north            0.00
├─ north-1     north            2.30          2.30         0.80
└─ south-0     south           41.50         41.50        40.00
   └─ south-1  south           43.30          1.80         0.70

reached      4 of 5 nodes
not reached  south-2
delay        p50 41.50 ms, p99 43.30 ms, max 43.30 ms
copies       3 sent, 4 came where it was not
duplicates   3 came where it was already
             2 × north-1 → south-1
             1 × south-0 → south-1
refused      1 ×
             1 × on south-2, brought by south-1
stored anew  1 ×
"
    );
    assert_eq!(draw(&events, "a1b").unwrap(), expected);
    assert_eq!(draw(&events, &HASH.to_uppercase()).unwrap(), expected);
    assert_eq!(draw(&events, "0f1e:5").unwrap(), expected);
}

#[test]
fn who_came_first_brought_what_nobody_is_said_to_have_brought() {
    let mut events = vec![happened(0, 0, None, What::Written)];
    events.extend([
        happened(10, 2, Some(0), What::Came),
        happened(11, 2, Some(1), What::Came),
        happened(12, 2, None, What::Stored),
    ]);
    let text = draw(&events, "a1").unwrap();
    assert!(text.contains("\nnorth-0     north            0.00\n└─ south-0  south            0.01"), "{text}");
}

#[test]
fn a_change_that_was_only_refused_has_no_tree() {
    let text = draw(&[happened(1, 1, Some(0), What::Refused), happened(2, 2, None, What::Refused)], "a1").unwrap();
    assert!(!text.contains("NODE"), "{text}");
    assert!(text.contains("written      not in this trace"), "{text}");
    assert!(text.contains("reached      0 of 5 nodes"), "{text}");
    assert!(text.contains("refused      2 ×\n             1 × on north-1, brought by north-0\n"), "{text}");
    assert!(text.ends_with("1 × on south-0\n"), "{text}");
}

#[test]
fn parents_without_the_change_and_rings_are_named() {
    let stored = |at_us, node, from| happened(at_us, node, Some(from), What::Stored);
    // 0 does not have it; 2 and 3 name each other.
    let text = draw(&[stored(1000, 1, 0), stored(2000, 2, 3), stored(3000, 3, 2), stored(4000, 4, 3)], "a1").unwrap();
    let drawn = "\
north-1        north            0.00             -            -  from north-0, which did not keep it
south-0        south            1.00             -            -  from south-1, further down
└─ south-1     south            2.00          1.00            -
   └─ south-2  south            3.00          1.00            -
";
    assert!(text.contains(drawn), "{text}");
}

#[test]
fn a_long_chain_stays_narrow() {
    const NODES: usize = 10_000;
    let place = |number| Place { name: format!("n-{number}"), zone: "line".to_owned(), nat: None };
    let topology = Topology { name: "line".to_owned(), nodes: (0..NODES).map(place).collect(), lines: Vec::new() };
    let mut events = vec![happened(0, 0, None, What::Written)];
    events.extend((1..NODES).map(|node| happened(node as u64 * 1000, node, Some(node - 1), What::Stored)));
    let text = tree(Cursor::new(file_of(&topology, &events)), "a").unwrap();
    assert!(text.contains("level 9999, from n-9998\n"));
    assert!(text.lines().all(|line| line.chars().count() < 240));
}

#[test]
fn a_name_must_fit_one_change() {
    let mut events: Vec<Happened> = (0..10).map(|number| other(0xc0 + number, 0xd0, u64::from(number))).collect();
    let error = draw(&events, "C").unwrap_err();
    let lines: Vec<String> = error.to_string().lines().map(str::to_owned).collect();
    assert_eq!(lines.len(), 10);
    assert_eq!(lines[0], "\"C\" fits several changes:");
    assert_eq!(lines[1], format!("    {}  {}:0", hex(&[0xc0; 32]), hex(&[0xd0; 16])));
    assert_eq!(lines[9], "    and others");
    let hint = format!("testnet trace 'my trace' --change {}", hex(&[0xc0; 32]));
    assert_eq!(error.hint(Path::new("my trace")), hint);

    let error = draw(&events, "e").unwrap_err();
    assert!(matches!(error, TraceError::Unknown { .. }), "{error}");
    assert_eq!(error.to_string().lines().count(), 10);
    assert!(matches!(draw(&events, "d0:10"), Err(TraceError::Unknown { .. })));
    assert!(draw(&events, "d:3").unwrap().contains(&hex(&[0xc3; 32])));

    // Two changes with one number in a log: only their hashes tell them apart.
    events.push(other(0xff, 0xd0, 3));
    let error = draw(&events, "d0:3").unwrap_err().to_string();
    assert_eq!(error.lines().count(), 3, "{error}");
    assert!(draw(&events, "ff").unwrap().contains("d0d0:3\n"));

    for wanted in ["xyz", "d0:", ":x", "c0:-1", "ä", &"c".repeat(65), &format!("{}:1", "d".repeat(33))] {
        assert!(matches!(draw(&events, wanted), Err(TraceError::Wanted(_))), "{wanted}");
    }
    assert!(matches!(draw(&[], ""), Err(TraceError::Empty)));
}

#[test]
fn a_malformed_line_is_named() {
    let line = |happened: &Happened| serde_json::to_string(happened).unwrap();
    let good = line(&happened(1, 0, None, What::Written));
    let bad = [
        ("", "line 3 is malformed: EOF while parsing a value at column 0"),
        ("{", "line 3 is malformed: EOF while parsing an object at column 1"),
        (&good[..40], "line 3 is malformed: "),
        (&good.replace("written", "vanished"), "line 3 is malformed: unknown variant `vanished`"),
        (&good.replace("\"node\":0", "\"node\":2"), "line 3 is malformed: there is no node 2 among 2"),
        (&good.replace("\"node\":0", "\"node\":-1"), "line 3 is malformed: invalid value: integer `-1`"),
        (&good.replace("\"peer\":null", "\"peer\":9"), "line 3 is malformed: there is no node 9 among 2"),
        (&good.replace("written", "sent"), "line 3 is malformed: the peer is missing"),
        (&good.replace(LOG, "0f"), "line 3 is malformed: log: expected 32 hexadecimal digits, found 2 characters"),
        (&good.replace(HASH, &HASH.replace('a', "g")), "line 3 is malformed: hash: character 0 is not a hexad"),
        (&format!("{good}{}", " ".repeat(2000)), "line 3 is malformed: it is longer than 1024 bytes"),
        (&good.replace(LOG, "\\ud800"), "line 3 is malformed: "),
    ];
    for (line, expected) in bad {
        let text = format!("{HEADER}\n{good}\n{line}\n{good}\n");
        let error = tree(Cursor::new(text), "a1").unwrap_err();
        assert!(error.to_string().starts_with(expected), "{line}: {error}");
        assert_eq!(error.hint(Path::new("t.jsonl")), "sed -n 3p t.jsonl");
    }
    let binary = [HEADER.as_bytes(), b"\n", good.as_bytes(), b"\n\xff\xfe\n"].concat();
    assert!(matches!(tree(Cursor::new(binary), "a1"), Err(TraceError::Line { line: 3, .. })));
    // No change, so that none can be asked for.
    let no_change = good.replace(HASH, "");
    assert!(tree(Cursor::new(format!("{HEADER}\n{no_change}\n{good}")), "").unwrap().contains(HASH));
}

#[test]
fn a_malformed_header_is_named() {
    let with = |text: &str| tree(Cursor::new(text.to_owned()), "a1").unwrap_err().to_string();
    assert!(with("").starts_with("line 1 is not the header of a trace: EOF"));
    assert!(with("PNG\n").starts_with("line 1 is not the header of a trace: expected value"));
    assert!(with("{\"trace\":1}\n").starts_with("line 1 is not the header of a trace: missing field `topology`"));
    assert_eq!(with("{\"trace\":2}\n"), "this trace has version 2; this program reads version 1");
    assert_eq!(with(&format!("{HEADER}\n")), "the trace holds no change");
}

#[test]
fn no_damage_panics() {
    let events = [brought(0, 0, 1, 5), brought(9, 1, 0, 5)].concat();
    let whole = file_of(&lan(), &events).into_bytes();
    for at in 0..whole.len() {
        for byte in *b"\n\"0{[}9:\xff" {
            let mut damaged = whole.clone();
            damaged[at] = byte;
            let _ = tree(Cursor::new(damaged), "a1");
        }
        let _ = tree(Cursor::new(&whole[..at]), "a1");
    }
}

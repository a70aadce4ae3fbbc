//! The messages' bytes.

use super::*;

fn messages() -> [Message; 4] {
    let id = RequestId { from: key(1), number: 300 };
    let failed = vec![(key(3), key(4))];
    [
        Message::Request(Request {
            id,
            to: key(5),
            ttl: 6,
            path: vec![key(1), key(2)],
            failed: failed.clone(),
            body: vec![0xaa],
        }),
        Message::Answer(Answer { id, hops: vec![key(2), key(5)], body: vec![0xbb, 0xcc] }),
        Message::NoWay(NoWay { id, failed }),
        Message::Unheard,
    ]
}

/// Golden: versions mix on the wire.
#[test]
fn golden_messages() {
    let hex = |bytes: Vec<u8>| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let shown: Vec<String> = messages().iter().map(|message| hex(message.encode())).collect();
    let [one, two, three, four, five] = [1, 2, 3, 4, 5].map(|node| hex(vec![node; 32]));
    assert_eq!(shown[0], format!("00{one}ac02{five}0602{one}{two}01{three}{four}01aa"));
    assert_eq!(shown[1], format!("01{one}ac0202{two}{five}02bbcc"));
    assert_eq!(shown[2], format!("02{one}ac0201{three}{four}"));
    assert_eq!(shown[3], "03");
}

#[test]
fn what_is_cut_or_longer_is_no_message() {
    for message in messages() {
        let bytes = message.encode();
        assert_eq!(Message::decode(&bytes), Ok(message));
        assert_eq!(Message::decode(&[&bytes[..], &[0]].concat()), Err(Malformed));
        (0..bytes.len()).for_each(|cut| assert_eq!(Message::decode(&bytes[..cut]), Err(Malformed)));
    }
}

#[test]
fn limits_are_judged() {
    let [Message::Request(good), Message::Answer(answer), Message::NoWay(no_way), _] = messages() else {
        unreachable!()
    };
    let is_read = |message: Message| Message::decode(&message.encode()).is_ok();
    let path: Vec<PeerKey> = (0..8).map(key).collect();
    assert!(is_read(Message::Request(Request { path: path.clone(), ttl: 0, ..good.clone() })));
    assert!(!is_read(Message::Request(Request { path: path.clone(), ttl: 1, ..good.clone() })));
    assert!(!is_read(Message::Request(Request { path: vec![key(1), key(1)], ..good.clone() })));
    let failed = |count: usize| (0..count).map(|at| (key(at), key(at + 1))).collect::<Vec<_>>();
    assert!(is_read(Message::Request(Request { failed: failed(MAX_FAILED), ..good.clone() })));
    assert!(!is_read(Message::Request(Request { failed: failed(MAX_FAILED + 1), ..good.clone() })));
    assert!(is_read(Message::Request(Request { body: vec![0; MAX_BODY_BYTES], ..good.clone() })));
    assert!(!is_read(Message::Request(Request { body: vec![0; MAX_BODY_BYTES + 1], ..good })));
    let long = [&path[..], &path[..1]].concat();
    assert!(!is_read(Message::Answer(Answer { hops: long, ..answer.clone() })));
    assert!(!is_read(Message::Answer(Answer { body: vec![0; MAX_BODY_BYTES + 1], ..answer })));
    assert!(!is_read(Message::NoWay(NoWay { failed: failed(MAX_FAILED + 1), ..no_way })));
}

#[test]
fn the_longest_message_fits() {
    let [Message::Request(good), ..] = messages() else { unreachable!() };
    let path: Vec<PeerKey> = (0..MAX_HOPS).map(key).collect();
    let failed = (0..MAX_FAILED).map(|at| (key(at), key(at + 1))).collect();
    let longest = Message::Request(Request { ttl: 0, path, failed, body: vec![0; MAX_BODY_BYTES], ..good });
    assert!(longest.encode().len() <= MAX_MESSAGE_BYTES);
}

proptest! {
    #[test]
    fn no_bytes_panic(bytes: Vec<u8>) {
        if let Ok(message) = Message::decode(&bytes) {
            Message::decode(&message.encode()).expect("what was read can be read again");
        }
    }
}

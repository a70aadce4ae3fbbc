//! A burst of inbound streams on one connection, from a peer that is no node of ours and reads nothing.

use std::sync::Once;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use transport::*;

use crate::net::*;
use crate::raw::{Opening, Raw};

const BURST: usize = 100;
/// The peers' secrets; the keys of the raw ones are below and above the node's.
const NODE: u8 = 2;
const HONEST: u8 = 3;
const JUDGE: u8 = 5;
const JUDGED: u8 = 4;
const CONTROL: &str = "/fleetsync/control/1";
const DATA: &str = "/fleetsync/data/1";
const JOIN: &str = "/fleetsync/join/1";
/// A key's joins at once, that is the requests that the owner hears of.
const JOINS_MAX: usize = 4;
/// Refusals that are told at once, and how long one is kept for a peer that does not hang up. What is beyond is reset.
const REFUSALS_MAX: usize = 16;
const REFUSAL: Duration = Duration::from_secs(2);

/// The streams of 33 sessions and more, each with a legal handshake, and of as many joins.
fn burst(node: PeerKey, raw: PeerKey) -> Vec<Opening> {
    let mut hello = vec![1];
    hello.extend([7; 8]);
    hello.extend([0; 8]);
    if raw < node {
        // The lesser key judges: it says `go`.
        hello.push(1);
        hello.extend([9, 0, 0, 0, 0, 0, 0, 0]);
    }
    let kinds = [(CONTROL, hello), (DATA, vec![1]), (JOIN, vec![2, b'm', b'e'])];
    let kinds = kinds.map(|(protocol, bytes)| Opening { protocol, bytes });
    kinds.iter().cycle().take(BURST).cloned().collect()
}

/// The session with this peer is up.
async fn up(node: &mut Peer, with: PeerKey) -> SessionId {
    node.find(|event| match event {
        Event::SessionUp { session, peer, .. } if *peer == with => Some(*session),
        _ => None,
    })
    .await
}

/// Panics anywhere but in the tests themselves. The mesh goes on after one in a task of its own, so nothing else shows it.
fn panics() -> usize {
    static COUNTED: Once = Once::new();
    static PANICS: AtomicUsize = AtomicUsize::new(0);
    COUNTED.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if panic.location().is_none_or(|location| !location.file().contains("tests/mesh")) {
                PANICS.fetch_add(1, Ordering::Relaxed);
            }
            before(panic);
        }));
    });
    PANICS.load(Ordering::Relaxed)
}

/// The test, with a peer that is the judge of the session, and with one that is not.
async fn a_burst_harms_nobody(address: fn(u16) -> String) {
    assert!(key_of(JUDGE) < key_of(NODE) && key_of(NODE) < key_of(JUDGED));
    for raw in [JUDGE, JUDGED] {
        a_burst_by(raw, address).await;
    }
}

async fn a_burst_by(raw_number: u8, address: fn(u16) -> String) {
    let panics_before = panics();
    let (mut a, mut b) = (Peer::start(NODE).await, Peer::start(HONEST).await);
    let raw_key = key_of(raw_number);
    let raw = Raw::connect(secret(raw_number), a.key(), &address(a.mesh.port())).await;
    let began = Instant::now();
    raw.open(burst(a.key(), raw_key));

    // While nothing is read, an honest peer gets its session and its frames.
    b.mesh.dial(a.key(), vec![address(a.mesh.port())]).unwrap();
    let (at_a, at_b) = (up(&mut a, b.key()).await, b.up().await.session);
    let exchange = async |a: &mut Peer, b: &mut Peer, bytes: &[u8]| {
        for stream in [Stream::Control, Stream::Data] {
            b.mesh.send(at_b, stream, bytes.to_vec()).unwrap();
            assert_eq!(a.frame(at_a, stream).await, bytes);
            a.mesh.send(at_a, stream, bytes.to_vec()).unwrap();
            assert_eq!(b.frame(at_b, stream).await, bytes);
        }
    };
    exchange(&mut a, &mut b, b"during").await;

    // Then each stream is looked at: all but the few that the node works for were told something, or reset.
    raw.read();
    within("the burst is decided", async || {
        let tally = raw.tally.lock().unwrap();
        // Silent are a session's data stream, and the joins that the owner has not answered.
        tally.is_closed || tally.gone + tally.told.len() >= BURST - 1 - JOINS_MAX
    })
    .await;
    let decided_after = began.elapsed();
    exchange(&mut a, &mut b, b"after").await;

    let events = a.unasked();
    let count = |pick: &dyn Fn(&Event) -> bool| events.iter().filter(|event| pick(event)).count();
    let ups = count(&|event| matches!(event, Event::SessionUp { peer, .. } if *peer == raw_key));
    let requests = count(&|event| matches!(event, Event::JoinRequest { peer, .. } if *peer == raw_key));
    let state = a.mesh.snapshot().await;
    let (hellos, refusals) = {
        let tally = raw.tally.lock().unwrap();
        (tally.told(CONTROL, 1), tally.told(JOIN, 0))
    };
    assert!(ups <= 1 && hellos <= 1, "{ups} sessions, {hellos} handshakes");
    assert!(requests <= JOINS_MAX, "{requests} join requests");
    if decided_after < REFUSAL {
        assert!(refusals <= REFUSALS_MAX, "{refusals} refusals are being told");
    }
    assert!(state.connections <= 2 && state.sessions.len() <= 2, "{state:?}");
    assert_eq!(panics(), panics_before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_burst_of_streams_harms_nobody_over_quic() {
    a_burst_harms_nobody(quic).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_burst_of_streams_harms_nobody_over_tcp() {
    a_burst_harms_nobody(tcp).await;
}

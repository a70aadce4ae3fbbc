//! A data stream that takes a detour over the bulk plane.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use tokio::sync::mpsc;
use transport::bulk::{AnswerWriter, Asked, Bulk, BulkListen};
use transport::*;

use crate::net::*;

const FRAME_BYTES: usize = 60_000;

fn bulk(number: u8) -> (Bulk, mpsc::Receiver<Asked>) {
    let listen = BulkListen { ips: vec![Ipv4Addr::LOCALHOST.into()], port: 0 };
    Bulk::start([number; 32], &listen, Arc::new(|_: &PeerKey| true)).expect("a free port")
}

/// The n-th frame: no two are alike.
fn frame(number: u32) -> Vec<u8> {
    let mut bytes = number.to_be_bytes().to_vec();
    bytes.resize(FRAME_BYTES, number as u8);
    bytes
}

/// Sends frames from `first` on, as the stream takes them; the number of the next one.
async fn send(from: &mut Peer, session: SessionId, first: u32, count: u32) -> u32 {
    for number in first..first + count {
        while from.mesh.send(session, Stream::Data, frame(number)) == Err(SendError::Full) {
            from.writable(session, Stream::Data).await;
        }
    }
    first + count
}

/// Two peers with a session and the bulk plane of each; the second has asked for what the first sends.
struct Ground {
    a: Peer,
    b: Peer,
    bulk: (Bulk, Bulk),
    at_a: SessionId,
    at_b: SessionId,
    /// The number of the next frame.
    next: u32,
}

impl Ground {
    /// Comes with the detour begun: frames before it are on their way.
    async fn start() -> Ground {
        let (mut a, mut b) = (Peer::start(1).await, Peer::start(2).await);
        let ((from, mut asked), (to, _)) = (bulk(1), bulk(2));
        b.mesh.dial(a.key(), vec![quic(a.mesh.port())]).expect("an order");
        let (at_a, at_b) = (a.up().await.session, b.up().await.session);
        let sending = async {
            let next = send(&mut a, at_a, 0, 30).await;
            let asked = asked.recv().await.expect("a request");
            assert_eq!((asked.peer, &asked.request[..]), (key_of(2), &b"what"[..]));
            a.mesh.send_over_bulk(asked.peer, 7, asked.answer).expect("a session");
            next
        };
        let asking = async {
            let burst = b.find(|event| match event {
                Event::Burst { session, peer } => Some((*session, *peer)),
                _ => None,
            });
            assert_eq!(burst.await, (at_b, key_of(1)));
            let at = SocketAddr::from((Ipv4Addr::LOCALHOST, from.port()));
            let answer = to.ask(key_of(1), &[at], b"what").await.expect("an answer");
            b.mesh.take_over_bulk(at_b, 7, answer).expect("a session");
        };
        let (next, ()) = tokio::join!(sending, asking);
        Ground { a, b, bulk: (from, to), at_a, at_b, next }
    }

    async fn send(&mut self, count: u32) {
        self.next = send(&mut self.a, self.at_a, self.next, count).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_burst_goes_on_over_the_bulk_plane_in_order_and_comes_back() {
    let mut ground = Ground::start().await;
    let (at_b, count) = (ground.at_b, ground.next + 50);
    let (_, mut b) = (ground.send(50).await, ground.b);
    for number in 0..count {
        assert_eq!(b.frame(at_b, Stream::Data).await, frame(number));
    }
    let sent = ground.a.mesh.snapshot().await.sessions[0].data.bytes_out;
    assert!(sent >= u64::from(count) * FRAME_BYTES as u64, "what takes a detour counts as well: {sent}");
    assert_eq!(
        ground.a.mesh.send_over_bulk(key_of(9), 7, AnswerWriter::new(tokio::io::sink())),
        Err(SendError::Closed),
        "there is no session"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_whose_detour_breaks_ends_and_says_so() {
    let mut ground = Ground::start().await;
    ground.send(1).await;
    assert_eq!(ground.b.frame(ground.at_b, Stream::Data).await, frame(0));
    ground.bulk.0.stop().await;
    ground.send(1).await;
    let reasons = [ground.a.down().await.1, ground.b.down().await.1];
    // Whoever does not notice it first sees the other one go.
    assert!(reasons.iter().any(|reason| matches!(reason, DownReason::Lost(_))), "{reasons:?}");
}

//! What only a hostile peer does, with a peer whose own checks are left out.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::timeout;

use super::*;
use crate::config::Listen;
use crate::event::{SessionId, Stream};
use crate::session::frame::MAX_FRAME_BYTES;

const DEADLINE: Duration = Duration::from_secs(20);

fn start(n: u8) -> (Handle, mpsc::Receiver<Event>) {
    spawn(Config::new([n; 32], Listen::loopback()), Arc::new(|_: &PeerKey| true)).expect("a start")
}

async fn find<T>(events: &mut mpsc::Receiver<Event>, pick: impl Fn(Event) -> Option<T>) -> T {
    let found = async {
        loop {
            if let Some(found) = pick(events.recv().await.expect("the mesh runs")) {
                return found;
            }
        }
    };
    timeout(DEADLINE, found).await.expect("within the deadline")
}

fn up(event: Event) -> Option<SessionId> {
    match event {
        Event::SessionUp { session, .. } => Some(session),
        _ => None,
    }
}

fn down(event: Event) -> Option<(SessionId, DownReason)> {
    match event {
        Event::SessionDown { session, reason, .. } => Some((session, reason)),
        _ => None,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frame_above_the_limit_ends_the_session_with_a_reason() {
    for (stream, protocol) in [(Stream::Control, "udp"), (Stream::Data, "tcp")] {
        let ((a, mut at_a), (b, mut at_b)) = (start(1), start(2));
        let suffix = if protocol == "udp" { "/quic-v1" } else { "" };
        a.dial(b.key(), vec![format!("/ip4/127.0.0.1/{protocol}/{}{suffix}", b.port())]).expect("an order");
        let (by_a, by_b) = (find(&mut at_a, up).await, find(&mut at_b, up).await);
        let hostile = a.sessions.find(by_a).expect("up");
        hostile.lane(stream).outbox.push_unchecked(vec![0; MAX_FRAME_BYTES + 1]).expect("taken");
        let announced_bytes = MAX_FRAME_BYTES as u64 + 1;
        assert_eq!(find(&mut at_b, down).await, (by_b, DownReason::FrameTooLong { announced_bytes }));
        let (session, reason) = find(&mut at_a, down).await;
        assert_eq!(session, by_a);
        assert!(matches!(reason, DownReason::Lost(_) | DownReason::ClosedByPeer), "{reason}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn notices_overflow_into_one_resync() {
    let (events, mut owner) = mpsc::channel(1);
    let notices = Notices::start(events, &tokio::runtime::Handle::current());
    for _ in 0..2 * MAX_NOTICES {
        notices.tell(Event::DialFailed { peer: PeerKey([1; 32]), errors: Vec::new() });
    }
    let (mut failed, mut resyncs) = (0, 0);
    drop(notices);
    while let Some(event) = timeout(DEADLINE, owner.recv()).await.expect("within the deadline") {
        match event {
            Event::Resync => resyncs += 1,
            _ => failed += 1,
        }
    }
    assert!(resyncs >= 1 && failed < 2 * MAX_NOTICES, "{resyncs} {failed}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dropping_the_receiver_or_every_handle_ends_the_mesh() {
    let (handle, owner) = start(1);
    drop(owner);
    timeout(DEADLINE, handle.commands.closed()).await.expect("within the deadline");
    let (handle, mut owner) = start(2);
    drop(handle);
    timeout(DEADLINE, async { while owner.recv().await.is_some() {} }).await.expect("within the deadline");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bulk_request_goes_over_the_connection_of_the_session_where_it_is_tcp() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    let (a, mut at_a) = start(1);
    let (inlet, mut asked) = mpsc::channel(4);
    let config = Config { bulk: Some(inlet), ..Config::new([2; 32], Listen::loopback()) };
    let (b, mut at_b) = spawn(config, Arc::new(|_: &PeerKey| true)).expect("a start");
    assert!(a.ask_bulk(b.key(), b"x".to_vec()).await.is_err(), "there is no session");
    a.dial(b.key(), vec![format!("/ip4/127.0.0.1/tcp/{}", b.port())]).expect("an order");
    let _ = (find(&mut at_a, up).await, find(&mut at_b, up).await);

    let answering = async {
        let mut asked = asked.recv().await.expect("a request");
        assert_eq!((asked.peer, &asked.request[..]), (a.key(), &b"what"[..]));
        asked.answer.write_all(&vec![7; 3_000_000]).await.expect("the asker reads");
        asked.answer.shutdown().await.expect("the asker reads");
    };
    let asking = async {
        let mut bytes = Vec::new();
        let mut answer = a.ask_bulk(b.key(), b"what".to_vec()).await.expect("a stream");
        answer.read_to_end(&mut bytes).await.expect("an answer");
        bytes
    };
    let ((), bytes) = timeout(DEADLINE, async { tokio::join!(answering, asking) }).await.expect("within the deadline");
    assert_eq!(bytes, vec![7; 3_000_000]);
    // Whoever takes no requests resets the stream.
    let nothing = async {
        match b.ask_bulk(a.key(), b"what".to_vec()).await {
            Ok(mut answer) => answer.read_to_end(&mut Vec::new()).await.unwrap_or(0),
            Err(_) => 0,
        }
    };
    assert_eq!(timeout(DEADLINE, nothing).await.expect("within the deadline"), 0);
}

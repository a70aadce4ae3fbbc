//! Back-pressure, budgets, bursts, frame limits.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use transport::*;

use crate::net::*;

/// Most that may be under way to an owner that does not read, bytes: the writer's budget, the QUIC window (4 MB), what the
/// reader holds, and the event queue.
const UNDER_WAY_MAX: usize = 10_000_000;

async fn connected(address: fn(u16) -> String) -> (Peer, Up, Peer, Up) {
    let (mut a, mut b) = (Peer::start(1).await, Peer::start(2).await);
    a.mesh.dial(b.key(), vec![address(b.mesh.port())]).unwrap();
    let (at_a, at_b) = (a.up().await, b.up().await);
    (a, at_a, b, at_b)
}

async fn stalled_reader(address: fn(u16) -> String) {
    const FRAME: usize = 32 * 1024;
    let (mut a, at_a, mut b, at_b) = connected(address).await;
    assert_eq!(a.writable(at_a.session, Stream::Data).await, MAX_FRAME_BYTES);

    // Nobody reads b's events. Send until nothing has moved for a while: with each refusal comes a `Writable` as long as
    // bytes still flow.
    let mut sent = 0usize;
    loop {
        let mut frame = vec![0; FRAME];
        frame[..8].copy_from_slice(&(sent as u64).to_le_bytes());
        match a.mesh.send(at_a.session, Stream::Data, frame) {
            Ok(()) => sent += 1,
            Err(SendError::Full) => {
                let more = a.writable(at_a.session, Stream::Data);
                if tokio::time::timeout(std::time::Duration::from_millis(700), more).await.is_err() {
                    break;
                }
            }
            Err(error) => panic!("{error}"),
        }
        assert!(sent * FRAME < UNDER_WAY_MAX, "no back-pressure");
    }
    assert!(sent * FRAME > WRITE_BUDGET_BYTES);
    // What has drained since, but is not yet half of the queue, can be filled.
    loop {
        let mut frame = vec![0; FRAME];
        frame[..8].copy_from_slice(&(sent as u64).to_le_bytes());
        match a.mesh.send(at_a.session, Stream::Data, frame) {
            Ok(()) => sent += 1,
            Err(error) => break assert_eq!(error, SendError::Full),
        }
    }
    // The other stream and the swarm are alive. (Over TCP both streams share one connection, but each its own window.)
    assert_eq!(a.mesh.send(at_a.session, Stream::Control, b"still here".to_vec()), Ok(()));
    assert_eq!(b.mesh.snapshot().await.sessions.len(), 1);

    for n in 0..sent {
        let frame = b.frame(at_b.session, Stream::Data).await;
        assert_eq!(frame.len(), FRAME);
        assert_eq!(frame[..8], (n as u64).to_le_bytes(), "in order");
    }
    assert_eq!(b.frame(at_b.session, Stream::Control).await, b"still here");
    assert!(a.writable(at_a.session, Stream::Data).await > WRITE_BUDGET_BYTES / 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stalled_reader_stalls_the_sender_and_loses_nothing_over_quic() {
    stalled_reader(quic).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stalled_reader_stalls_the_sender_and_loses_nothing_over_tcp() {
    stalled_reader(tcp).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_burst_of_frames_arrives_whole() {
    for address in [quic, tcp] {
        let (a, at_a, mut b, at_b) = connected(address).await;
        for n in 0..500u32 {
            for stream in [Stream::Control, Stream::Data] {
                let mut frame = vec![1; 200];
                frame[..4].copy_from_slice(&n.to_le_bytes());
                assert_eq!(a.mesh.send(at_a.session, stream, frame), Ok(()));
            }
        }
        for n in 0..500u32 {
            for stream in [Stream::Control, Stream::Data] {
                assert_eq!(b.frame(at_b.session, stream).await[..4], n.to_le_bytes());
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_longest_frame_passes_and_a_longer_one_is_not_taken() {
    for address in [quic, tcp] {
        let (mut a, at_a, mut b, at_b) = connected(address).await;
        for stream in [Stream::Control, Stream::Data] {
            let frame = (0..MAX_FRAME_BYTES).map(|n| n as u8).collect::<Vec<_>>();
            assert_eq!(a.mesh.send(at_a.session, stream, vec![0; MAX_FRAME_BYTES + 1]), Err(SendError::TooLong));
            assert_eq!(a.mesh.send(at_a.session, stream, frame.clone()), Ok(()));
            assert_eq!(b.frame(at_b.session, stream).await, frame);
            assert_eq!(a.writable(at_a.session, stream).await, MAX_FRAME_BYTES, "at the start");
            assert_eq!(a.writable(at_a.session, stream).await, MAX_FRAME_BYTES, "after the frame");
            assert_eq!(a.mesh.send(at_a.session, stream, Vec::new()), Err(SendError::Empty));
            assert_eq!(a.mesh.send(at_a.session, stream, vec![1]), Ok(()));
            assert_eq!(b.frame(at_b.session, stream).await, [1]);
        }
    }
}

/// For an owner that sleeps, notifications are dropped for one `Resync`, and the swarm goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_owner_gets_a_resync() {
    let mut a = Peer::start(1).await;
    let nobody = key_of(9);
    for _ in 0..600 {
        // Busy when a thousand wait already: the test only needs many.
        let _ = a.mesh.dial(nobody, Vec::new());
        a.mesh.snapshot().await;
    }
    let failed = Arc::new(AtomicUsize::new(0));
    let count = failed.clone();
    a.find(move |event| {
        if matches!(event, Event::DialFailed { .. }) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        matches!(event, Event::Resync).then_some(())
    })
    .await;
    assert!(failed.load(Ordering::Relaxed) < 600);
}

/// A hundred megabytes through one session, for the numbers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_transfer_keeps_its_order() {
    for address in [quic, tcp] {
        const FRAME: usize = 64 * 1024;
        const FRAMES: u64 = 1600;
        let (mut a, at_a, mut b, at_b) = connected(address).await;
        let started = std::time::Instant::now();
        let reading = tokio::spawn(async move {
            for n in 0..FRAMES {
                assert_eq!(b.frame(at_b.session, Stream::Data).await[..8], n.to_le_bytes());
            }
            b
        });
        let mut n = 0;
        while n < FRAMES {
            let mut frame = vec![0; FRAME];
            frame[..8].copy_from_slice(&n.to_le_bytes());
            match a.mesh.send(at_a.session, Stream::Data, frame) {
                Ok(()) => n += 1,
                Err(_) => {
                    a.writable(at_a.session, Stream::Data).await;
                }
            }
        }
        let _b = reading.await.unwrap();
        let rate = (FRAMES as usize * FRAME) as f64 / started.elapsed().as_secs_f64() / 1e6;
        assert!(rate > 1.0, "{rate:.0} MB/s over {}", at_a.addr);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shutdown_does_not_wait_for_a_stalled_owner() {
    let (a, at_a, b, _) = connected(quic).await;
    // Far more frames than b's event queue holds, so that b's session is stuck.
    for _ in 0..4 * EVENT_QUEUE {
        a.mesh.send(at_a.session, Stream::Data, vec![0; 500]).unwrap();
    }
    let full = async || b.events.len() >= EVENT_QUEUE;
    within("a full queue", full).await;
    let started = std::time::Instant::now();
    b.mesh.shutdown().await;
    a.mesh.shutdown().await;
    assert!(started.elapsed() < std::time::Duration::from_millis(2000), "{:?}", started.elapsed());
}

//! A process dies without a word and comes back with the same key.

use std::time::{Duration, Instant};

use transport::*;

use crate::net::*;

/// A peer with its own runtime, which can be killed.
struct Process {
    runtime: tokio::runtime::Runtime,
    peer: Peer,
}

impl Process {
    fn start(n: u8) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let peer = runtime.block_on(Peer::start(n));
        Self { runtime, peer }
    }

    /// Drops every task and socket where it stands: no QUIC close, no session's end.
    fn kill(self) {
        self.runtime.shutdown_background();
    }
}

/// The survivor has the key `survivor`, the other comes back twice. Both the judge and the other end are killed, and both
/// the dialler and the dialled.
fn comes_back(survivor: u8, restarted: u8, survivor_dialled: bool, address: fn(u16) -> String) {
    let mut stays = Process::start(survivor);
    let mut dies = Process::start(restarted);
    if survivor_dialled {
        stays.peer.mesh.dial(dies.peer.key(), vec![address(dies.peer.mesh.port())]).unwrap();
    } else {
        dies.peer.mesh.dial(stays.peer.key(), vec![address(stays.peer.mesh.port())]).unwrap();
    }
    let mut before = stays.runtime.block_on(stays.peer.up());
    dies.runtime.block_on(dies.peer.up());
    for _ in 0..2 {
        dies.kill();
        dies = Process::start(restarted);
        let started = Instant::now();
        dies.peer.mesh.dial(stays.peer.key(), vec![address(stays.peer.mesh.port())]).unwrap();
        let new = dies.runtime.block_on(dies.peer.up());
        let (down, reason) = stays.runtime.block_on(stays.peer.down());
        let up = stays.runtime.block_on(stays.peer.up());
        assert!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());
        assert_eq!(down, before.session);
        assert!(matches!(reason, DownReason::Replaced | DownReason::Lost(_) | DownReason::ClosedByPeer), "{reason}");
        assert_ne!(up.session, before.session);
        stays.peer.mesh.send(up.session, Stream::Data, b"welcome back".to_vec()).unwrap();
        assert_eq!(dies.runtime.block_on(dies.peer.frame(new.session, Stream::Data)), b"welcome back");
        before = up;
    }
    let state = stays.runtime.block_on(stays.peer.mesh.snapshot());
    assert_eq!(state.sessions.len(), 1);
}

/// Which of the two keys is the lower is decided by the hash-like public key, so both orders are tried.
#[test]
fn a_restarted_dialler_gets_a_session_at_once_over_quic() {
    comes_back(1, 2, false, quic);
    comes_back(2, 1, false, quic);
}

#[test]
fn a_restarted_listener_gets_a_session_at_once_over_quic() {
    comes_back(1, 2, true, quic);
    comes_back(2, 1, true, quic);
}

#[test]
fn a_restart_over_tcp() {
    comes_back(1, 2, false, tcp);
    comes_back(2, 1, true, tcp);
}

/// When nobody dials, QUIC's idle timeout finds the dead peer. A task that still runs while its runtime ends may get out a
/// last word after all; then another is killed.
#[test]
fn a_dead_peer_is_lost_after_the_idle_timeout() {
    let mut stays = Process::start(1);
    for restarted in 2..10 {
        let mut dies = Process::start(restarted);
        dies.peer.mesh.dial(stays.peer.key(), vec![quic(stays.peer.mesh.port())]).unwrap();
        let up = stays.runtime.block_on(stays.peer.up());
        dies.runtime.block_on(dies.peer.up());
        dies.kill();
        let (session, reason) = stays.runtime.block_on(stays.peer.down());
        assert_eq!(session, up.session);
        assert_eq!(stays.peer.mesh.send(session, Stream::Data, vec![1]), Err(SendError::Closed));
        match reason {
            DownReason::Lost(_) => return,
            DownReason::ClosedByPeer => {}
            other => panic!("{other}"),
        }
    }
    panic!("nobody died without a word");
}

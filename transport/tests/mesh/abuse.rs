//! Bytes that are no peer's, connections that go nowhere.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};

use crate::net::*;

/// 64 garbled, silent and endless connections, then a peer as if nothing had happened.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_on_the_ports_harms_nobody() {
    let (mut a, mut b) = (Peer::start(1).await, Peer::start(2).await);
    let port = a.mesh.port();
    let mut silent = Vec::new();
    let mut noise = 1u64;
    let mut random = || {
        noise = noise.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (noise >> 33) as u8
    };
    let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    for n in 0..48usize {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        let garbage: Vec<u8> = (0..n * 40).map(|_| random()).collect();
        let _ = stream.write_all(&garbage).await;
        let _ = udp.send_to(&garbage[..garbage.len().min(1200)], ("127.0.0.1", port)).await;
        silent.push(stream);
    }
    // A legal greeting, then a message that never ends.
    let mut endless = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let _ = endless.write_all(b"\x13/multistream/1.0.0\n\x07/noise\n\xff\xff").await;

    b.mesh.dial(a.key(), vec![tcp(port)]).unwrap();
    b.up().await;
    a.up().await;
    // The silent and the endless one are hung up on: nothing is kept for them.
    silent.push(endless);
    for mut stream in silent {
        let mut left = Vec::new();
        let hung_up = tokio::time::timeout(DEADLINE, stream.read_to_end(&mut left)).await;
        assert!(hung_up.is_ok(), "a connection that goes nowhere was kept");
    }
    // One dials back to see whether it reaches the other, and hangs up.
    within("only the session is left", async || a.mesh.snapshot().await.connections == 1).await;
}

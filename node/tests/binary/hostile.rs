//! Strangers: nodes of another fleet, and whatever else talks to a listening port.

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::fleet::{Fleet, config, converge, within};
use crate::random::Random;

/// Connections that say nothing.
const HALF_OPEN: usize = 64;
/// What a node's memory may grow by under all of this, kB.
const GROWTH_KB_MAX: u64 = 48 * 1024;

fn memory_kb(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn a_node_of_another_fleet_that_is_dialled_gets_no_session() {
    let (fleet, a, b) = Fleet::pair();
    let strangers = Fleet::found("x");
    let x = strangers.run("x");
    // A ticket of the other fleet names its address and key, as seeds.json has them after a join.
    strangers.join(&x, "y");
    b.kill();
    let foreign = std::fs::read(strangers.data_dir("y").join("seeds.json")).unwrap();
    let seeds: Vec<serde_json::Value> = serde_json::from_slice(&foreign).unwrap();
    let own: Vec<serde_json::Value> =
        serde_json::from_slice(&std::fs::read(fleet.data_dir("b").join("seeds.json")).unwrap()).unwrap();
    let both = serde_json::to_string(&[seeds, own].concat()).unwrap();
    std::fs::write(fleet.data_dir("b").join("seeds.json"), both).unwrap();
    let before = (x.status()["statements"].clone(), x.root_durable());

    let b = fleet.run("b");
    let reason = "the peer belongs to another fleet";
    within("a refusal", || [&b, &x].iter().any(|node| node.log().contains(reason)));
    within("no session with a stranger", || x.links() == 0 && b.links() == 1);
    for (owner, node, value) in [(&fleet, &a, 1), (&strangers, &x, 2)] {
        owner.cli(&node.name, &["config", "set", "camera", "gain", &value.to_string()]).ok();
    }
    within("the own fleet's value on b", || config(&b, "camera", "gain") == Some(json!(1)));
    assert_eq!(config(&x, "camera", "gain"), Some(json!(2)));
    converge(&[&a, &b]);
    assert_eq!(x.status()["statements"].as_u64(), before.0.as_u64().map(|statements| statements + 1), "but for a pin");
    assert_ne!(x.root_durable(), a.root_durable());
    assert_eq!(b.get("/v1/devices").as_array().unwrap().len(), 2);
    assert_eq!(x.get("/v1/devices").as_array().unwrap().len(), 2, "x and y, which never ran");
    // What a node says of its links is of members alone: whatever else was let in up to its Hello leaves no trace.
    for (node, name) in [(&b, "b"), (&x, "x")] {
        let view = node.get(&format!("/v1/document?document=link/{name}"));
        let neighbours = view["values"].as_object().unwrap().keys().filter(|path| path.starts_with("neighbour."));
        let members = if name == "b" { 1 } else { 0 };
        assert_eq!(neighbours.filter(|path| path.ends_with(".up")).count(), members, "{view}");
    }
}

/// Talks until the node hangs up or enough was said; whether it hung up.
fn talk(port: u16, start: &[u8], mut more: impl FnMut(&mut [u8]), bytes_max: usize) -> bool {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
    stream.set_write_timeout(Some(Duration::from_secs(1))).unwrap();
    let (mut said, mut chunk, mut heard) = (0, [0; 16 * 1024], [0; 4096]);
    if stream.write_all(start).is_err() {
        return true;
    }
    let end = Instant::now() + Duration::from_secs(15);
    while said < bytes_max && Instant::now() < end {
        more(&mut chunk);
        match stream.write(&chunk) {
            Ok(bytes) => said += bytes,
            // It reads no more: that is well, too, as long as it ends.
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(_) => return true,
        }
        match stream.read(&mut heard) {
            Ok(0) => return true,
            Err(error) if !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => return true,
            _ => {}
        }
    }
    false
}

#[test]
fn garbage_endless_frames_and_half_open_connections_do_not_stop_the_traffic() {
    let (fleet, a, b) = Fleet::pair();
    within("a link", || a.links() == 1 && b.links() == 1);
    let port = a.port();
    let before_kb = memory_kb(a.pid());

    let mut half_open: Vec<TcpStream> =
        (0..HALF_OPEN).map(|_| TcpStream::connect(("127.0.0.1", port)).unwrap()).collect();
    for (number, stream) in half_open.iter_mut().enumerate() {
        // Some stop in the middle of the first frame. An error means that the node hung up.
        let _ = stream.write_all(&b"\x13/multistream/1.0.0\n\x07/noise\n"[..number % 29]);
    }
    let mut random = Random::new(6);
    let garbage = |chunk: &mut [u8]| chunk.fill_with(|| u8::try_from(random.below(256)).unwrap());
    assert!(talk(port, b"", garbage, 64 << 20), "the node listens to garbage for ever");
    let negotiated = b"\x13/multistream/1.0.0\n\x07/noise\n";
    assert!(talk(port, negotiated, |chunk| chunk.fill(0xff), 64 << 20), "an endless frame is not ended");
    assert!(talk(port, b"\x13/multistream/1.0.0\n", |chunk| chunk.fill(0xff), 64 << 20), "an endless length");
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut random = Random::new(7);
    for _ in 0..500 {
        let length = random.below(1400) as usize;
        let packet: Vec<u8> = (0..length).map(|_| u8::try_from(random.below(256)).unwrap()).collect();
        // The socket's buffer may be full; that is nobody's loss.
        let _ = udp.send_to(&packet, ("127.0.0.1", port));
    }

    fleet.cli("a", &["config", "set", "camera", "gain", "1"]).ok();
    within("the value on b", || config(&b, "camera", "gain") == Some(json!(1)));
    // A peer comes back and a newcomer joins while the half-open connections are still there.
    b.kill();
    let b = fleet.run("b");
    within("a link again", || a.links() == 1 && b.links() == 1);
    fleet.join(&a, "c");
    converge(&[&a, &b]);
    let grown_kb = memory_kb(a.pid()).saturating_sub(before_kb);
    assert!(grown_kb < GROWTH_KB_MAX, "the node has grown by {grown_kb} kB");
    drop(half_open);
    assert!(!a.log().contains("panicked"), "{}", a.log());
}

//! Where members are: what a person says of it.

use std::net::UdpSocket;

use serde_json::json;

use crate::fleet::{Fleet, Node, within};

fn free_port() -> u16 {
    UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Starts a node on another port than before.
fn on_port(fleet: &Fleet, name: &str, port: u16) -> Node {
    fleet.spawn(name, fleet.command(name, &["run", "--port", &port.to_string()])).ready()
}

#[test]
fn islands_whose_addresses_all_changed_meet_where_a_person_says() {
    let (fleet, a, b) = Fleet::pair();
    within("a link", || a.links() == 1 && b.links() == 1);
    a.kill();
    b.kill();
    let [a, b] = ["a", "b"].map(|name| on_port(&fleet, name, free_port()));
    within("b finds nobody where a was", || b.get("/v1/peers")[0]["errors"][0].is_string());
    assert_eq!((a.links(), b.links()), (0, 0));
    let word = format!("b@127.0.0.1:{}", b.port());
    let added = fleet.cli("a", &["peer", "add", &word, "-o", "json"]).json();
    let expected = [format!("/ip4/127.0.0.1/udp/{}/quic-v1", b.port()), format!("/ip4/127.0.0.1/tcp/{}", b.port())];
    assert_eq!((&added["name"], &added["addresses"]), (&json!("b"), &json!(expected)));
    within("they meet", || a.links() == 1 && b.links() == 1);
}

#[test]
fn what_a_person_says_is_kept_over_a_restart() {
    let (fleet, a, b) = Fleet::pair();
    within("a link", || a.links() == 1 && b.links() == 1);
    let key = b.status()["key"].as_str().unwrap().to_owned();
    b.kill();
    let port = free_port();
    let said = fleet.cli("a", &["peer", "add", &format!("{key}@/ip4/127.0.0.1/udp/{port}/quic-v1")]);
    said.ok();
    assert!(said.err.contains(&format!("b is tried at quic 127.0.0.1:{port}; fleetsync peer show b")), "{said:?}");
    a.kill();
    let a = fleet.run("a");
    let known = a.get("/v1/peers")[0]["known_addresses"].to_string();
    assert!(known.contains(&format!("/udp/{port}/quic-v1")), "{known}");
    let b = on_port(&fleet, "b", port);
    within("they meet", || a.links() == 1 && b.links() == 1);
}

#[test]
fn an_address_that_is_none_and_a_member_that_is_none_are_refused() {
    let (fleet, _a, _b) = Fleet::pair();
    let add = |word: &str| fleet.cli("a", &["peer", "add", word]);
    add("127.0.0.1:4410").fails(2, &["does not say whose address it is", "hint: fleetsync peer add robot-7@"]);
    add("b@127.0.0.1").fails(2, &["\"127.0.0.1\" is no address", "192.0.2.1:4410"]);
    add("b@/ip4/127.0.0.1/udp/4410").fails(2, &["is no address"]);
    add("nobody@127.0.0.1:4410").fails(4, &["nobody", "hint: fleetsync device ls"]);
    add(&format!("{}@127.0.0.1:4410", "7".repeat(64))).fails(4, &["is no member", "hint: fleetsync member ls"]);
    add("a@127.0.0.1:4410").fails(5, &["this device itself"]);
}

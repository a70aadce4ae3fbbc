//! The two steps of an operator's change, cut between them: what was signed is handed in again, the same bytes.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use crate::fleet::{Fleet, Node, config};

/// What becomes of a submit.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Fate {
    /// It does not reach the node.
    Lost,
    /// The node takes it, and its answer is lost.
    Unanswered,
    /// Nothing happens to it.
    Passed,
}

/// A socket between CLI and node that reads along, and where submits meet their fate.
pub(crate) struct Proxy {
    pub(crate) socket: PathBuf,
    submits: Arc<Mutex<Vec<Value>>>,
}

impl Proxy {
    pub(crate) fn before(node: &Node, fleet: &Fleet, name: &str, fate: Fate) -> Proxy {
        let socket = fleet.path().join(name);
        let listener = UnixListener::bind(&socket).unwrap();
        let submits = Arc::new(Mutex::new(Vec::new()));
        let (target, seen) = (node.socket(), Arc::clone(&submits));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                pass(stream.unwrap(), UnixStream::connect(&target).unwrap(), fate, &seen);
            }
        });
        Proxy { socket, submits }
    }

    fn submits(&self) -> Vec<Value> {
        self.submits.lock().unwrap().clone()
    }
}

/// Passes requests on until either side hangs up, or fate does.
fn pass(client: UnixStream, node: UnixStream, fate: Fate, submits: &Mutex<Vec<Value>>) {
    let (mut from_client, mut from_node) = (BufReader::new(client), BufReader::new(node));
    while let Some((head, body)) = message(&mut from_client) {
        let is_submit = head.starts_with("POST /v1/changes/submit");
        if is_submit {
            submits.lock().unwrap().push(serde_json::from_slice(&body).unwrap());
        }
        if is_submit && fate == Fate::Lost {
            return;
        }
        from_node.get_mut().write_all(&[head.as_bytes(), &body].concat()).unwrap();
        let Some((head, body)) = message(&mut from_node) else { return };
        if is_submit && fate == Fate::Unanswered {
            return;
        }
        from_client.get_mut().write_all(&[head.as_bytes(), &body].concat()).unwrap();
    }
}

/// One HTTP message: its head with the empty line, and its body.
fn message(stream: &mut BufReader<UnixStream>) -> Option<(String, Vec<u8>)> {
    let (mut head, mut length) = (String::new(), 0);
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).ok()? == 0 {
            return None;
        }
        head.push_str(&line);
        if line == "\r\n" {
            break;
        }
        if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            length = value.trim().parse().ok()?;
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).ok()?;
    Some((head, body))
}

/// Sets `cut` through a proxy with that fate, then something else; the submits of both, and the fleet.
fn cut_and_go_on(fate: Fate) -> (Fleet, Node, Vec<Value>, Vec<Value>) {
    let fleet = Fleet::found("a");
    let a = fleet.run("a");
    fleet.cli("a", &["config", "set", "camera", "before", "1"]).ok();
    let proxy = Proxy::before(&a, &fleet, "cut.sock", fate);
    let api = format!("unix:{}", proxy.socket.display());
    fleet
        .cli("a", &["config", "set", "camera", "cut", "2", "--api", &api])
        .fails(3, &["the connection to the node broke"]);
    assert_eq!(config(&a, "camera", "cut").is_some(), fate == Fate::Unanswered);
    // Over a crash of the node, too: what it prepared was nowhere but in the person's journal.
    a.kill();
    let a = fleet.run("a");
    let second = Proxy::before(&a, &fleet, "pass.sock", Fate::Passed);
    let api = format!("unix:{}", second.socket.display());
    fleet.cli("a", &["config", "set", "camera", "after", "3", "--api", &api]).ok();
    let (cut, passed) = (proxy.submits(), second.submits());
    (fleet, a, cut, passed)
}

#[test]
fn a_signed_change_that_did_not_arrive_goes_first_as_the_same_bytes() {
    let (fleet, a, cut, passed) = cut_and_go_on(Fate::Lost);
    assert_eq!((cut.len(), passed.len()), (1, 2));
    assert_eq!(cut[0], passed[0], "other bytes were signed for the same number");
    let values = fleet.cli("a", &["config", "get", "camera", "--values", "-o", "json"]).json();
    assert_eq!(values, json!({ "before": 1, "cut": 2, "after": 3 }));
    settled(&fleet, &a);
}

#[test]
fn a_signed_change_whose_answer_was_lost_is_taken_once() {
    let (fleet, a, cut, passed) = cut_and_go_on(Fate::Unanswered);
    assert_eq!(cut[0], passed[0]);
    let changes = fleet.cli("a", &["doc", "log", "config/camera", "-o", "json"]).json();
    assert_eq!(changes.as_array().unwrap().len(), 3, "{changes}");
    settled(&fleet, &a);
}

/// Nothing is left to hand in.
fn settled(fleet: &Fleet, a: &Node) {
    let proxy = Proxy::before(a, fleet, "last.sock", Fate::Passed);
    let api = format!("unix:{}", proxy.socket.display());
    fleet.cli("a", &["config", "set", "camera", "last", "4", "--api", &api]).ok();
    assert_eq!(proxy.submits().len(), 1);
    fleet.cli("a", &["doc", "verify", "config/camera"]).ok();
}

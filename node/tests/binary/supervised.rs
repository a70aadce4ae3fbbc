//! What a service manager hears of a node (sd_notify(3)): that it is ready, that it lives, that it ends.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::process::Command;

use crate::fleet::{DEADLINE, Fleet, within};

/// The service manager's end.
struct Manager {
    socket: UnixDatagram,
}

impl Manager {
    fn at(address: &SocketAddr) -> Manager {
        let socket = UnixDatagram::bind_addr(address).unwrap();
        socket.set_read_timeout(Some(DEADLINE)).unwrap();
        Manager { socket }
    }

    /// The lines of the next datagram.
    fn hear(&self) -> Vec<String> {
        let mut bytes = [0; 4096];
        let length = self.socket.recv(&mut bytes).expect("the node says something");
        let text = str::from_utf8(&bytes[..length]).unwrap();
        text.lines().map(str::to_owned).collect()
    }

    /// Waits for a datagram with this line; its lines.
    fn wait_for(&self, line: &str) -> Vec<String> {
        let mut heard = self.hear();
        while !heard.iter().any(|heard| heard == line) {
            heard = self.hear();
        }
        heard
    }
}

/// A command under a service manager that wants a sign of life every 200 ms.
fn supervised(mut command: Command, name: &str) -> Command {
    command.env("NOTIFY_SOCKET", name).env("WATCHDOG_USEC", "200000").env_remove("WATCHDOG_PID");
    command
}

#[test]
fn a_service_manager_hears_of_readiness_life_and_end() {
    let fleet = Fleet::found("a");
    let path = fleet.path().join("notify");
    let manager = Manager::at(&SocketAddr::from_pathname(&path).unwrap());
    let command = fleet.command("a", &["run", "--port", "0"]);
    let a = fleet.spawn("a", supervised(command, path.to_str().unwrap()));
    manager.wait_for("READY=1");
    assert_eq!(a.status()["name"], "a", "ready before its API answers");
    assert!(!a.status()["listening"].as_array().unwrap().is_empty());
    for _ in 0..3 {
        let said = manager.wait_for("WATCHDOG=1");
        assert!(said[1].starts_with("STATUS=linked with 0 of 0 others, ") && said.len() == 2, "{said:?}");
    }
    fleet.cli("a", &["node", "offline"]).ok();
    within("the status of a node that is offline", || {
        manager.wait_for("WATCHDOG=1")[1].starts_with("STATUS=told to stay offline, ")
    });
    assert_eq!(a.terminate().0.code(), Some(0));
    assert_eq!(manager.wait_for("STOPPING=1"), ["STOPPING=1", "STATUS=stopping"]);
}

#[test]
fn a_node_that_waits_for_its_ticket_asks_for_more_time_to_start() {
    let fleet = Fleet::found("a");
    let a = fleet.run("a");
    let name = format!("fleetsync-test-{}", std::process::id());
    let manager = Manager::at(&SocketAddr::from_abstract_name(&name).unwrap());
    let file = fleet.path().join("ticket");
    let mut command = fleet.command("b", &["run", "--port", "0"]);
    command.env("FLEETSYNC_TICKET_FILE", &file);
    let b = fleet.spawn("b", supervised(command, &format!("@{name}")));
    manager.wait_for(&format!("STATUS=waiting for a ticket in {}", file.display()));
    assert_eq!(manager.wait_for("EXTEND_TIMEOUT_USEC=180000000"), ["EXTEND_TIMEOUT_USEC=180000000"]);
    std::fs::write(&file, fleet.ticket(&a, "b")).unwrap();
    manager.wait_for("READY=1");
    let _b = b.ready();
    within("a link in the status", || {
        manager.wait_for("WATCHDOG=1")[1].starts_with("STATUS=linked with 1 of 1 others, ")
    });
}

#[test]
fn a_service_manager_that_cannot_be_told_changes_nothing() {
    let fleet = Fleet::found("a");
    for name in ["vsock:2:1", "/nowhere/notify"] {
        let a = fleet.spawn("a", supervised(fleet.command("a", &["run", "--port", "0"]), name)).ready();
        assert_eq!(a.terminate().0.code(), Some(0));
    }
}

//! Tickets that must not work, and that a folder is none the worse for having tried one.

use std::process::Command;

use crdt::ticket::Ticket;

use crate::fleet::{Fleet, Node, config, converge, run, within};

/// A folder's device key, which a failed join must not change.
fn device_key(fleet: &Fleet, name: &str) -> Vec<u8> {
    std::fs::read(fleet.data_dir(name).join("device.key")).unwrap()
}

#[test]
fn a_ticket_that_is_no_ticket_is_refused_and_a_good_one_works_afterwards() {
    let fleet = Fleet::found("a");
    let a = fleet.run("a");
    let good = fleet.ticket(&a, "b");
    assert!(good.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_'), "{good}");

    let cut = &good[..good.len() - 5];
    let middle = good.len() / 2;
    let other = if &good[middle..=middle] == "A" { "B" } else { "A" };
    let altered = format!("{}{other}{}", &good[..middle], &good[middle + 1..]);
    let long = "A".repeat(2_000);
    let cases: [(&str, &str); 7] = [
        (cut, "cut short or altered"),
        (&altered, "cut short or altered"),
        ("fs1_", "cut short or altered"),
        ("", "a ticket starts with fs1_"),
        ("garbage", "a ticket starts with fs1_"),
        ("fs1_ä€", "is none that a ticket has"),
        (&long, "at most"),
    ];
    for (ticket, cause) in cases {
        fleet.cli("b", &["join", ticket]).fails(2, &["cause: ", cause, "fleetsync member invite"]);
        let run = fleet.start("b", &["--join", ticket]).end();
        run.fails(2, &["cause: ", cause]);
    }
    assert_eq!(fleet.cli("b", &["join", &format!(" {good}\n")]).ok(), "b\n");
    let b = fleet.run("b");
    converge(&[&a, &b]);
}

#[test]
fn an_expired_ticket_a_used_one_and_one_of_another_fleet_are_refused() {
    let fleet = Fleet::found("a");
    let a = fleet.run("a");
    let strangers = Fleet::found("x");
    let x = strangers.run("x");
    let foreign: Ticket = strangers.ticket(&x, "b").parse().unwrap();
    let own: Ticket = fleet.ticket(&a, "b").parse().unwrap();
    let expired = fleet.cli("a", &["member", "invite", "--name", "b", "--hours", "0"]).ok().trim().to_owned();
    let mut impostor = own.clone();
    impostor.addresses.iter_mut().for_each(|address| address.peer.0[0] ^= 1);
    let addresses = own.addresses.clone();
    let cases: [(&str, Ticket, i32, &str); 6] = [
        ("expired", expired.parse().unwrap(), 5, "cause: the ticket has expired"),
        // A member of another fleet than the ticket's.
        (
            "misled",
            Ticket { addresses: addresses.clone(), ..foreign.clone() },
            5,
            "cause: this node belongs to another fleet than the ticket",
        ),
        // An invitation of another fleet.
        (
            "mixed",
            Ticket { fleet: own.fleet, addresses, ..foreign },
            5,
            "cause: the member's statements do not lead to the fleet",
        ),
        ("nowhere", Ticket { addresses: Vec::new(), ..own.clone() }, 5, "cause: the ticket names no address"),
        // Another node than the ticket names at the address.
        ("impostor", impostor, 5, "cause: no member that the ticket names could be reached"),
        // A secret that is not the invitation's.
        ("stolen", Ticket { secret: [7; 32], ..own.clone() }, 2, "secret does not belong"),
    ];
    let now_ms = || std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_millis();
    let invited_ms = now_ms();
    within("the ticket's end", || now_ms() > invited_ms);
    for (name, ticket, code, cause) in &cases {
        fleet.cli(name, &["join", &ticket.to_string()]).fails(*code, &[cause]);
        assert!(!fleet.data_dir(name).join("node.json").exists());
    }
    // Each of those folders is as good as before, and its device the same.
    for (name, ..) in &cases[..3] {
        let key = device_key(&fleet, name);
        let ticket = fleet.ticket(&a, name);
        assert_eq!(fleet.cli(name, &["join", &ticket]).ok(), format!("{name}\n"));
        assert_eq!(device_key(&fleet, name), key, "a failed join changed the device's key");
    }

    let good = own.to_string();
    assert_eq!(fleet.cli("b", &["join", &good]).ok(), "b\n");
    let devices = fleet.cli("a", &["device", "ls", "-o", "json"]).json();
    let first = devices.as_array().unwrap().iter().find(|row| row["name"] == "b").unwrap();
    let first = first["device"].as_str().unwrap();
    let used = format!("cause: the ticket was used already, by device {first}");
    fleet.cli("c", &["join", &good]).fails(5, &[&used, "hint: fleetsync member invite"]);
    fleet.join(&a, "c");

    let (b, c) = (fleet.run("b"), fleet.run("c"));
    converge(&[&a, &b, &c]);
    fleet.cli("c", &["config", "set", "camera", "gain", "1"]).ok();
    within("the value on b", || config(&b, "camera", "gain").is_some());
    let members = fleet.cli("a", &["member", "ls", "-o", "json"]).json();
    assert_eq!(members.as_array().unwrap().len(), 6, "{members}");
    assert!(members.as_array().unwrap().iter().all(|member| member["standing"] == "member"), "{members}");
}

#[test]
fn a_device_that_tries_too_often_is_told_to_wait() {
    let fleet = Fleet::found("a");
    let a = fleet.run("a");
    let ticket = fleet.ticket(&a, "b");
    assert_eq!(fleet.cli("b", &["join", &ticket]).ok(), "b\n");
    let tries: Vec<_> = (0..5).map(|_| fleet.cli("c", &["join", &ticket])).collect();
    tries[0].fails(5, &["the ticket was used already"]);
    tries[4].fails(5, &["it takes four requests a minute", "hint: sleep 60; fleetsync join"]);
}

#[test]
fn a_ticket_of_a_member_that_is_away_says_so_and_works_when_it_is_back() {
    let fleet = Fleet::found("a");
    let a = fleet.run("a");
    let ticket = fleet.ticket(&a, "b");
    fleet.cli("a", &["node", "offline"]).ok();
    fleet.cli("b", &["join", &ticket]).fails(5, &["it was told to stay offline", "hint: fleetsync node online"]);
    a.kill();
    fleet.cli("b", &["join", &ticket]).fails(5, &["could be reached", "hint: fleetsync status"]);
    let _a = fleet.run("a");
    fleet.cli("a", &["node", "online"]).ok();
    assert_eq!(fleet.cli("b", &["join", &ticket]).ok(), "b\n");
}

#[test]
fn a_member_takes_no_second_ticket() {
    let (fleet, a, b) = Fleet::pair();
    let ticket = fleet.ticket(&a, "c");
    fleet.cli("b", &["join", &ticket]).fails(5, &["in use by process", &b.pid().to_string()]);
    converge(&[&a, &b]);
    b.kill();
    fleet
        .cli("b", &["join", &ticket])
        .fails(5, &["already the folder of a member of fleet", "fleetsync run --data-dir"]);
    let again = ["init", "--name", "z", "--no-passphrase"];
    fleet.cli("b", &again).fails(5, &["already the folder of a member of fleet"]);
    assert_eq!(std::fs::read_dir(fleet.keys()).unwrap().count(), 1, "the refused init left keys behind");
    // With `run` a ticket is for the first start only, whatever it is.
    let b = fleet.start("b", &["--join", &ticket]).ready();
    converge(&[&a, &b]);
    b.kill();
    let b = fleet.start("b", &["--join", "garbage"]).ready();
    converge(&[&a, &b]);

    // The ticket is still good, here from a file.
    let file = fleet.path().join("ticket");
    std::fs::write(&file, format!("{ticket}\n")).unwrap();
    let start = || {
        let mut command = fleet.command("c", &["run", "--port", "0"]);
        command.env("FLEETSYNC_TICKET_FILE", &file);
        fleet.spawn("c", command)
    };
    let c = start().ready();
    assert!(c.log().contains("this device is now c of fleet"), "{}", c.log());
    converge(&[&a, &b, &c]);
    c.kill();
    std::fs::remove_file(&file).unwrap();
    let c = start().ready();
    converge(&[&a, &b, &c]);
    let ticket = fleet.ticket(&a, "d");
    let mut command = fleet.command("d", &["run", "--port", "0"]);
    command.env("FLEETSYNC_TICKET", &ticket);
    let d = fleet.spawn("d", command).ready();
    converge(&[&a, &d]);
}

/// A device without a person waits for its ticket, and for a member; until then its folder is left alone.
#[test]
fn a_ticket_in_a_file_is_waited_for() {
    let fleet = Fleet::found("a");
    let a = fleet.run("a");
    let (file, ticket) = (fleet.path().join("tickets/b"), fleet.ticket(&a, "b"));
    let with_file = |name: &str, arguments: &[&str]| {
        let mut command = fleet.command(name, arguments);
        command.env("FLEETSYNC_TICKET_FILE", &file);
        command
    };
    let waits = |node: &Node| {
        let line = format!("waiting for a ticket in {}\n", file.display());
        within("the node waits for the file", || node.log().ends_with(&line));
    };
    let b = fleet.spawn("b", with_file("b", &["run", "--port", "0"]));
    waits(&b);
    assert_eq!(b.terminate().0.code(), Some(0));
    assert!(!fleet.data_dir("b").exists(), "it was created for no ticket");

    // A file without a ticket in it is one that is being written; a member that is away is asked again.
    let b = fleet.spawn("b", with_file("b", &["run", "--port", "0"]));
    std::fs::create_dir(file.parent().unwrap()).unwrap();
    std::fs::write(&file, "").unwrap();
    waits(&b);
    fleet.cli("a", &["node", "offline"]).ok();
    std::fs::write(&file, &ticket).unwrap();
    within("the member is away", || b.log().contains("not a member yet, trying again: "));
    fleet.cli("a", &["node", "online"]).ok();
    let b = b.ready();
    assert!(b.log().contains("this device is now b of fleet"), "{}", b.log());
    converge(&[&a, &b]);
    b.kill();

    // A member needs the file no more, and `join` says so. The ticket is used up.
    std::fs::remove_file(&file).unwrap();
    let joined = run(&mut with_file("b", &["join"]));
    assert!(joined.ok().is_empty() && joined.err.contains("is a member of fleet"), "{joined:?}");
    let b = fleet.spawn("b", with_file("b", &["run", "--port", "0"])).ready();
    converge(&[&a, &b]);
    std::fs::write(&file, &ticket).unwrap();
    run(&mut with_file("c", &["join"])).fails(5, &["the ticket was used already"]);
    std::fs::write(&file, "garbage").unwrap();
    run(&mut with_file("c", &["join"])).fails(2, &["a ticket starts with fs1_"]);
    std::fs::write(&file, fleet.ticket(&a, "c")).unwrap();
    assert_eq!(run(&mut with_file("c", &["join"])).ok(), "c\n");
    std::fs::remove_file(&file).unwrap();
    std::fs::create_dir(&file).unwrap();
    run(&mut with_file("d", &["join"])).fails(2, &["cannot be read", "hint: ls -l"]);
    fleet.cli("d", &["join"]).fails(2, &["a ticket is missing", "hint: fleetsync join --help"]);
}

/// What testnet/compose.yaml says, without its containers: the same script, variables and files.
#[test]
fn five_devices_enrol_from_a_shared_folder() {
    let fleet = Fleet::empty();
    let tickets = fleet.path().join("tickets");
    std::fs::create_dir(&tickets).unwrap();
    let programs = std::path::Path::new(env!("CARGO_BIN_EXE_fleetsync")).parent().unwrap();
    let path = format!("{}:{}", programs.display(), std::env::var("PATH").unwrap());
    let enrol = |at: &str, words: &[&str]| {
        let mut command = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../testnet/compose/enrol"));
        let variables = fleet.command(at, &[]);
        command.args(words).envs(variables.get_envs().filter_map(|(name, value)| Some((name, value?))));
        run(command.env("PATH", &path).env("TICKETS", &tickets))
    };
    let start = |name: &str| {
        let mut command = fleet.command(name, &["run", "--port", "0"]);
        command.env("FLEETSYNC_TICKET_FILE", tickets.join(name));
        fleet.spawn(name, command)
    };
    let waiting = ["bench", "spare", "relay", "pi"].map(start);
    within("four devices that wait", || waiting.iter().all(|node| node.log().contains("waiting for a ticket in")));
    assert_eq!(enrol("gate", &["found", "gate", "west"]).code, 0);
    let gate = fleet.run("gate");
    enrol("gate", &["invite", "bench=west", "spare=west", "relay=east"]).ok();
    let [bench, spare, relay, pi] = waiting;
    let (bench, spare, relay) = (bench.ready(), spare.ready(), relay.ready());
    enrol("relay", &["invite", "pi=east"]).ok();
    let pi = pi.ready();
    converge(&[&gate, &bench, &spare, &relay, &pi]);
    let zones = ["gate", "bench", "spare", "relay", "pi"].map(|name| {
        let zone = fleet.cli("pi", &["device", "get", name, "zone", "-o", "json"]).json();
        zone["value"].as_str().unwrap().to_owned()
    });
    assert_eq!(zones, ["west", "west", "west", "east", "east"]);

    // All of it again changes nothing.
    let before = pi.status()["statements"].clone();
    assert_eq!(enrol("gate", &["found", "gate", "west"]).ok(), "gate has founded its fleet already\n");
    assert_eq!(
        enrol("relay", &["invite", "bench=west", "pi=east"]).ok(),
        "bench is a member already\npi is a member already\n"
    );
    assert_eq!(pi.status()["statements"], before);
    // Without a node that answers there is no ticket, and no file that looks like one.
    gate.kill();
    assert_eq!(enrol("gate", &["invite", "late=west"]).code, 3);
    assert!(!tickets.join("late").exists());
}

#[test]
fn a_device_without_a_ticket_waits_until_an_operator_lets_it_in() {
    let fleet = Fleet::found("a");
    let a = fleet.run("a");
    let status = a.status();
    let word = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
    let member = format!("{}@{}", word(&status["key"]), word(&status["listening"][0]));
    let (member, id) = (member.as_str(), &*word(&status["fleet"]));
    let ask = ["join", "--ask", member, "--fleet", id, "--name", "b"];
    let asking = fleet.spawn("b", fleet.command("b", &ask));
    within("the approval", || fleet.cli("a", &["member", "approve", "b"]).code == 0);
    assert_eq!(asking.end().code, 0);
    let b = fleet.run("b");
    converge(&[&a, &b]);
    assert_eq!(fleet.cli("a", &["device", "get", "b", "name", "-o", "json"]).json()["value"], "b");
    // Nobody else asks, and a member does not.
    fleet.cli("a", &["member", "approve", "b"]).fails(4, &["b"]);
    b.kill();
    fleet.cli("b", &ask).fails(5, &["already the folder of a member of fleet"]);
    // To ask for another fleet than the member's is refused.
    let other = "0".repeat(64);
    let wrong = ["join", "--ask", member, "--fleet", &other, "--name", "c"];
    fleet.cli("c", &wrong).fails(5, &["belongs to another fleet"]);
    fleet.cli("c", &["join", "--ask", "nonsense", "--fleet", id, "--name", "c"]).fails(2, &["nonsense"]);
}

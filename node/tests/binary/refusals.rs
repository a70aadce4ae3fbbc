//! Requests that are refused, by the CLI and by the API, and changed nothing.

use serde_json::{Value, json};

use crate::fleet::Fleet;
use crate::operator::Operator;

/// One byte more than a value may have.
const TOO_LONG: usize = 16 * 1024 + 1;

#[test]
fn a_bad_path_a_prefix_and_a_long_value_are_refused_and_change_nothing() {
    let fleet = Fleet::found("a");
    let a = fleet.run("a");
    fleet.cli("a", &["config", "set", "camera", "exposure.mode", "auto"]).ok();
    let before = a.root_durable();
    let long = "x".repeat(TOO_LONG);
    let long_path = "p".repeat(513);
    let cases: [(&[&str], i32, &str); 10] = [
        (&["camera", "", "1"], 5, "is not a path"),
        (&["camera", "a..b", "1"], 5, "is not a path"),
        (&["camera", ".a", "1"], 5, "is not a path"),
        (&["camera", "a.", "1"], 5, "is not a path"),
        (&["camera", "a\nb", "1"], 5, "is not a path"),
        (&["camera", &long_path, "1"], 5, "a path has at most 512 bytes"),
        (&["camera", "exposure", "1"], 5, "exposure.mode"),
        (&["camera", "exposure.mode.fast", "1"], 5, "exposure.mode"),
        (&["camera", "long", &long], 5, "a value has at most 16384 bytes, this one has 16385"),
        (&["Camera", "a", "1"], 2, "is no name of a configuration"),
    ];
    for (words, code, cause) in cases {
        fleet
            .cli("a", &[&["config", "set"], words].concat())
            .fails(code, &["cause: ", cause, "hint: fleetsync config set --help"]);
        assert_eq!(a.root_durable(), before, "{words:?}");
    }
    assert_eq!(fleet.cli("a", &["config", "set", "camera", "a"]).code, 2, "no value");
    assert_eq!(fleet.cli("a", &["config", "set", "camera", "a", "1", "--delete"]).code, 2);
    let values = fleet.cli("a", &["config", "get", "camera", "--values", "-o", "json"]).json();
    assert_eq!(values, json!({ "exposure": { "mode": "auto" } }));

    let most = "x".repeat(TOO_LONG - 1);
    fleet.cli("a", &["config", "set", "camera", "long", &most]).ok();
    let longest = fleet.cli("a", &["config", "get", "camera", "long", "-o", "json"]).json();
    assert_eq!(longest["long"]["value"], json!(most));
    // Where the value is taken away its name is free, and an equal value writes nothing.
    fleet.cli("a", &["config", "set", "camera", "exposure.mode", "--delete"]).ok();
    fleet.cli("a", &["config", "set", "camera", "exposure", "1"]).ok();
    let before = a.root_durable();
    let again = fleet.cli("a", &["config", "set", "camera", "exposure", "1"]);
    again.ok();
    assert!(again.err.contains("unchanged"), "{again:?}");
    assert_eq!(a.root_durable(), before);
    fleet.cli("a", &["config", "get", "camera", "nothing"]).fails(4, &["camera nothing"]);
    fleet.cli("a", &["config", "get", "none"]).fails(4, &["config/none"]);
}

#[test]
fn the_api_answers_what_is_malformed_with_problem_details() {
    let fleet = Fleet::found("a");
    let a = fleet.run("a");
    let before = a.status();
    let mut api = a.api();
    api.get("/v1/nothing").unwrap().is_problem(404);
    api.get("/").unwrap().is_problem(404);
    api.get("/v1/devices/nobody").unwrap().is_problem(404);
    api.get("/v1/document?document=config/none").unwrap().is_problem(404);
    api.get("/v1/document?document=nonsense").unwrap().is_problem(400);
    api.get("/v1/document").unwrap().is_problem(400);
    api.get("/v1/document?document=%ff").unwrap().is_problem(400);
    api.get("/v1/devices/%ff").unwrap().is_problem(400);
    api.call("DELETE", "/v1/status", b"").unwrap().is_problem(405);
    for resource in ["/v1/changes/prepare", "/v1/changes/submit", "/v1/statements", "/v1/node/offline"] {
        for body in ["", "{", "[]", "null", "\"x\"", r#"{"unknown": 1}"#, "\u{0}"] {
            api.call("POST", resource, body.as_bytes()).unwrap().is_problem(400);
        }
        api.call("POST", resource, b"\xff\xfe").unwrap().is_problem(400);
        api.call("POST", resource, "[".repeat(500_000).as_bytes()).unwrap().is_problem(400);
        let large = vec![b' '; (1 << 20) + 1];
        a.api().call("POST", resource, &large).unwrap().is_problem(413);
    }
    let prepare = |document: &str, author: &str, edits: Value| {
        let body = json!({ "document": document, "author": author, "edits": edits });
        a.api().post("/v1/changes/prepare", &body).unwrap()
    };
    let nobody = "0".repeat(64);
    prepare("config/a", "nonsense", json!([])).is_problem(400);
    prepare("nonsense", &nobody, json!([])).is_problem(400);
    prepare("config/a", &nobody, json!([{ "path": "a", "value": [1] }])).is_problem(400);
    prepare("config/a", &nobody, json!([{ "path": "a", "value": 1 }])).is_problem(422);
    let submit = json!({ "change": "zz", "signature": "00" });
    api.post("/v1/changes/submit", &submit).unwrap().is_problem(400);
    api.post("/v1/statements", &json!({ "statements": ["00"] })).unwrap().is_problem(400);
    // Another's document, by an operator.
    let operator = Operator::of(&fleet);
    let own = format!("device/{}", before["node"].as_str().unwrap());
    let (status, problem) = operator.prepare(&mut api, &own, "serial", &json!("x")).unwrap();
    assert_eq!(status, 422, "{problem}");
    // Bytes that are no HTTP end the connection and nothing else.
    std::io::Write::write_all(&mut std::os::unix::net::UnixStream::connect(a.socket()).unwrap(), &[0xff; 4096])
        .unwrap();

    let after = a.status();
    assert_eq!((&after["root_durable"], &after["offline"]), (&before["root_durable"], &before["offline"]));
    fleet.cli("a", &["status", "--api", "http://127.0.0.1:1"]).fails(2, &["is no API address"]);
    fleet.cli("a", &["status", "--api", "unix:/nowhere"]).fails(3, &["no node answers"]);
}

#[test]
fn a_device_that_is_not_found_or_not_one_says_so() {
    let (fleet, a, b) = Fleet::pair();
    fleet
        .cli("a", &["doc", "get", "device/zzz"])
        .fails(4, &["no device is called \"zzz\"", "hint: fleetsync device ls"]);
    fleet.cli("a", &["doc", "get", "nonsense/zzz"]).fails(2, &["nonsense/zzz", "hint: fleetsync doc ls"]);
    fleet.cli("a", &["device", "rename", "b", "a"]).ok();
    let ids = [&a, &b].map(|node| node.status()["node"].as_str().unwrap().to_owned());
    for words in [&["doc", "get", "device/a"][..], &["doc", "log", "environment/a"], &["device", "get", "a"]] {
        let listed = ["is ambiguous", &ids[0], &ids[1], "hint: fleetsync device ls -o json"];
        fleet.cli("a", words).fails(2, &listed);
    }
    fleet.cli("a", &["device", "rename", &ids[0], "a b"]).fails(2, &["is no name", "hint: fleetsync device rename"]);
}

#[test]
fn what_is_no_finite_number_is_a_text() {
    let fleet = Fleet::found("a");
    let _a = fleet.run("a");
    for word in ["1e400", "-inf", "2.2372303094065628e171"] {
        fleet.cli("a", &["config", "set", "camera", "gain", word]).ok();
        let read = fleet.cli("a", &["config", "get", "camera", "gain", "-o", "json"]).json();
        let value =
            word.parse().ok().filter(|number: &f64| number.is_finite()).map_or(json!(word), |number| json!(number));
        assert_eq!(read["gain"]["value"].to_string(), value.to_string());
    }
}

#[test]
fn values_that_control_a_terminal_are_escaped() {
    let fleet = Fleet::found("a");
    let _a = fleet.run("a");
    fleet.cli("a", &["config", "set", "camera", "mode", "x\u{1b}[2Jy\nhint: rm"]).ok();
    let shown = fleet.cli("a", &["config", "get", "camera"]);
    assert!(shown.ok().contains(r"x\u{1b}[2Jy\nhint: rm"), "{shown:?}");
    fleet.cli("a", &["device", "cordon", "a", "--reason", "x\u{7}"]).ok();
    let noted = fleet.cli("a", &["device", "label", "a", "k=v"]);
    for ran in [&noted, &fleet.cli("a", &["device", "get", "a"])] {
        assert!(!ran.out.contains(['\u{7}', '\u{1b}']) && !ran.err.contains(['\u{7}', '\u{1b}']), "{ran:?}");
    }
}

#[test]
fn commands_at_the_same_time_all_succeed() {
    let fleet = Fleet::found("a");
    let a = fleet.run("a");
    const WRITERS: usize = 4;
    const WRITES: usize = 10;
    std::thread::scope(|scope| {
        for writer in 0..WRITERS {
            let fleet = &fleet;
            scope.spawn(move || {
                for number in 0..WRITES {
                    let path = format!("writer{writer}.key{number}");
                    fleet.cli("a", &["config", "set", "camera", &path, &number.to_string()]).ok();
                }
            });
        }
    });
    let values = fleet.cli("a", &["config", "get", "camera", "-o", "json"]).json();
    assert_eq!(values.as_object().unwrap().len(), WRITERS * WRITES);
    let listed = a.get("/v1/documents");
    let camera = listed.as_array().unwrap().iter().find(|row| row["document"] == "config/camera").unwrap();
    assert_eq!(camera["changes"], json!(WRITERS * WRITES));
    fleet.cli("a", &["doc", "verify", "config/camera"]).ok();
}

//! Keys with a passphrase, off a terminal.

use std::fs;

use crate::fleet::{Fleet, config};

#[test]
fn init_off_a_terminal_needs_to_be_told_and_can_be_tried_again() {
    let fleet = Fleet::empty();
    let init = ["init", "--name", "a"];
    fleet.cli("a", &init).fails(5, &["a passphrase is needed", "--passphrase-file", "--no-passphrase"]);
    assert!(!fleet.data_dir("a").exists() && !fleet.keys().exists(), "the refused init left something behind");
    let missing = fleet.path().join("missing");
    let with_missing = [&init[..], &["--passphrase-file", missing.to_str().unwrap()]].concat();
    fleet.cli("a", &with_missing).fails(5, &["missing"]);
    let empty = fleet.path().join("empty");
    fs::write(&empty, "\n").unwrap();
    let with_empty = [&init[..], &["--passphrase-file", empty.to_str().unwrap()]].concat();
    fleet.cli("a", &with_empty).fails(5, &["passphrase"]);
    assert!(!fleet.keys().exists());
    for name in ["", "a b", "ä"] {
        let bad = fleet.cli("a", &["init", "--name", name, "--no-passphrase"]);
        assert_eq!(bad.code, 2, "{bad:?}");
        assert!(bad.err.contains("is no name") && !fleet.keys().exists(), "{bad:?}");
    }
    let both = [&with_empty[..], &["--no-passphrase"]].concat();
    assert_eq!(fleet.cli("a", &both).code, 2);
    fleet.cli("a", &["init", "--name", "a", "--no-passphrase"]).ok();
    fleet.run("a");
}

#[test]
fn a_passphrase_file_opens_the_keys_and_nothing_else_does() {
    let fleet = Fleet::empty();
    let (file, wrong) = (fleet.path().join("passphrase"), fleet.path().join("wrong"));
    fs::write(&file, "correct horse battery staple\n").unwrap();
    fs::write(&wrong, "incorrect\n").unwrap();
    let (file, wrong) = (file.to_str().unwrap(), wrong.to_str().unwrap());
    fleet.cli("a", &["init", "--name", "a", "--passphrase-file", file]).ok();
    // Neither `run` nor `join` asks: the device's key is no person's.
    let a = fleet.run("a");
    let set = ["config", "set", "camera", "gain", "1"];
    fleet.cli("a", &set).fails(5, &["a passphrase is needed", "--passphrase-file"]);
    fleet.cli("a", &[&set[..], &["--passphrase-file", wrong]].concat()).fails(5, &["the passphrase does not open"]);
    assert_eq!(config(&a, "camera", "gain"), None);
    fleet.cli("a", &[&set[..], &["--passphrase-file", file]].concat()).ok();
    assert!(config(&a, "camera", "gain").is_some());
    let ticket = fleet.cli("a", &["member", "invite", "--name", "b", "--passphrase-file", file]).ok().trim().to_owned();
    assert_eq!(fleet.cli("b", &["join", &ticket]).ok(), "b\n");
    // By the environment, as a machine would.
    let mut command = fleet.command("a", &["config", "set", "camera", "gain", "2"]);
    assert_eq!(crate::fleet::run(command.env("FLEETSYNC_PASSPHRASE_FILE", file)).code, 0);
    // What lies on disk is encrypted, and private.
    let folder = fs::read_dir(fleet.keys()).unwrap().next().unwrap().unwrap().path();
    for kind in ["root", "operator"] {
        let path = folder.join(format!("{kind}.key"));
        assert!(fs::read(&path).unwrap().starts_with(b"age-encryption.org/v1"));
        let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&path).unwrap().permissions());
        assert_eq!(mode & 0o777, 0o600);
    }
    // Another's keys are no operator's of this fleet.
    let strangers = Fleet::found("x");
    let keys = strangers.keys();
    fleet
        .cli("a", &[&set[..], &["--keys", keys.to_str().unwrap()]].concat())
        .fails(5, &["there is no operator key at"]);
}

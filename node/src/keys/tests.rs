#![allow(clippy::unwrap_used)]

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use tempfile::TempDir;

use super::passphrase::{Key as Typed, Line, ask_twice};
use super::*;

const FLEET: FleetId = FleetId([0xf1; 32]);

/// Golden: what `create` wrote with the passphrase "correct horse"; stored keys must open for ever.
const GOLDEN_ENCRYPTED: &str = "\
    6167652d656e6372797074696f6e2e6f72672f76310a2d3e2073637279707420676c3730724873446578616d5941564f316d4532486720\
    31340a68363162333854683563455436756847786b666a3751384a35387a75676245304b7179616f6555757977730a2d2d2d2077756434\
    35572b65382f7233626264754a5a684f4d5a434c6c345750757a6b3063365a6c747244454258380aa619f133457e4c13031312efff0149\
    4178a3c6f43aa4bf6a40eb48a507525bab2bf2f8536523bca74fabdb0a798bd02b337b3f4013126cd7804a9e41969526817f9fc679b122\
    e1e1ee5f972232b0a34689bc9c539020572d818a1375803372b693056883a731ca9235bc4918351a0560bef4cb2a7df001aad5c9e1";

fn seed() -> SigningKey {
    SigningKey::from_bytes(&[7; 32])
}

fn text(passphrase: &str) -> Passphrase {
    Passphrase::Text(passphrase.to_owned())
}

fn created(kind: KeyKind, passphrase: &Passphrase) -> (TempDir, Keys) {
    let dir = TempDir::new().unwrap();
    Keys::create(dir.path(), FLEET, kind, &seed(), passphrase).unwrap();
    let keys = Keys::open(dir.path(), FLEET);
    (dir, keys)
}

fn mode(path: &Path) -> u32 {
    path.metadata().unwrap().permissions().mode() & 0o7777
}

/// Writes a key file by hand, as a person or an attacker may.
fn put(path: &Path, bytes: &[u8], mode: u32) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, bytes).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

/// Golden: the line is what people back up on paper.
#[test]
fn golden_plain_key() {
    let (_dir, keys) = created(KeyKind::Operator, &Passphrase::None);
    let line = std::fs::read_to_string(keys.key_path(KeyKind::Operator)).unwrap();
    assert_eq!(line, format!("fleetsync-operator-key-v1 {}\n", "07".repeat(32)));
    let public = std::fs::read_to_string(keys.public_path(KeyKind::Operator)).unwrap();
    assert_eq!(public, "ea4a6c63e29c520abef5507b132ec5f9954776aebebe7b92421eea691446d22c\n");
}

#[test]
fn golden_encrypted_key_opens() {
    let dir = TempDir::new().unwrap();
    let keys = Keys::open(dir.path(), FLEET);
    let bytes: Vec<u8> = GOLDEN_ENCRYPTED
        .as_bytes()
        .chunks(2)
        .map(|pair| unhex::<1>(std::str::from_utf8(pair).unwrap()).unwrap()[0])
        .collect();
    put(&keys.key_path(KeyKind::Operator), &bytes, 0o600);
    assert_eq!(keys.unlock(KeyKind::Operator, &text("correct horse")).unwrap(), seed());
}

#[test]
fn a_plain_key_opens_without_a_passphrase_and_is_its_owners_alone() {
    let (dir, keys) = created(KeyKind::Root, &Passphrase::None);
    for passphrase in [Passphrase::None, text("ignored"), Passphrase::Ask, Passphrase::File("/nowhere".into())] {
        assert_eq!(keys.unlock(KeyKind::Root, &passphrase).unwrap(), seed(), "{passphrase:?}");
    }
    assert_eq!(keys.public(KeyKind::Root).unwrap(), Some(public_of(&seed())));
    assert_eq!(keys.public(KeyKind::Operator).unwrap(), None);
    assert_eq!(mode(&keys.key_path(KeyKind::Root)), 0o600);
    assert_eq!(mode(keys.key_path(KeyKind::Root).parent().unwrap()), 0o700);
    let missing = keys.unlock(KeyKind::Operator, &Passphrase::None).unwrap_err();
    assert!(matches!(missing, KeyError::Missing { kind: KeyKind::Operator, .. }), "{missing}");
    assert_eq!(Keys::fleets(dir.path()).unwrap(), [FLEET]);
    assert_eq!(Keys::fleets(&dir.path().join("nowhere")).unwrap(), []);
}

#[test]
fn an_encrypted_key_opens_with_its_passphrase_alone() {
    let (dir, keys) = created(KeyKind::Operator, &text("correct horse"));
    let bytes = std::fs::read(keys.key_path(KeyKind::Operator)).unwrap();
    assert!(bytes.starts_with(b"age-encryption.org/v1\n-> scrypt "));
    assert_eq!(keys.public(KeyKind::Operator).unwrap(), Some(public_of(&seed())));
    assert_eq!(keys.unlock(KeyKind::Operator, &text("correct horse")).unwrap(), seed());
    let wrong = keys.unlock(KeyKind::Operator, &text("correct hors")).unwrap_err();
    assert!(matches!(wrong, KeyError::Passphrase { .. }), "{wrong}");
    let none = keys.unlock(KeyKind::Operator, &Passphrase::None).unwrap_err();
    assert!(matches!(none, KeyError::NeedsPassphrase { is_new: false, .. }), "{none}");
    let file = dir.path().join("passphrase");
    put(&file, b"correct horse\r\nand a second line\n", 0o644);
    assert_eq!(keys.unlock(KeyKind::Operator, &Passphrase::File(file.clone())).unwrap(), seed());
    put(&file, b"\n", 0o644);
    let empty = keys.unlock(KeyKind::Operator, &Passphrase::File(file)).unwrap_err();
    assert!(matches!(empty, KeyError::PassphraseFile { .. }), "{empty}");
}

#[test]
fn a_key_is_never_overwritten() {
    let (dir, keys) = created(KeyKind::Operator, &Passphrase::None);
    let other = SigningKey::from_bytes(&[8; 32]);
    let again = || Keys::create(dir.path(), FLEET, KeyKind::Operator, &other, &Passphrase::None);
    assert!(matches!(again().unwrap_err(), KeyError::Exists { path } if path == keys.key_path(KeyKind::Operator)));
    // Before anybody is asked for a passphrase.
    let unasked = Passphrase::File("/nowhere".into());
    let error = Keys::create(dir.path(), FLEET, KeyKind::Operator, &other, &unasked).unwrap_err();
    assert!(matches!(error, KeyError::Exists { .. }), "{error}");
    // The secret key was moved to a safe place: its public half is kept as well.
    std::fs::remove_file(keys.key_path(KeyKind::Operator)).unwrap();
    assert!(matches!(again().unwrap_err(), KeyError::Exists { path } if path == keys.public_path(KeyKind::Operator)));
    assert_eq!(keys.public(KeyKind::Operator).unwrap(), Some(public_of(&seed())));
    // Even where a check came too early.
    assert!(matches!(folder::write_new(&keys.public_path(KeyKind::Operator), b"x"), Err(KeyError::Exists { .. })));
    assert_eq!(keys.public(KeyKind::Operator).unwrap(), Some(public_of(&seed())));
}

#[test]
fn keys_that_others_may_open_are_refused_with_the_command_that_helps() {
    let (_dir, keys) = created(KeyKind::Operator, &Passphrase::None);
    let path = keys.key_path(KeyKind::Operator);
    for open in [0o640, 0o604, 0o620, 0o610] {
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(open)).unwrap();
        let error = keys.unlock(KeyKind::Operator, &Passphrase::None).unwrap_err();
        assert!(matches!(error, KeyError::Permissions { mode, .. } if mode == open), "{error}");
        assert_eq!(error.hint(), format!("chmod 600 {}", path.display()));
    }
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o400)).unwrap();
    assert_eq!(keys.unlock(KeyKind::Operator, &Passphrase::None).unwrap(), seed());
}

#[test]
fn what_is_no_key_is_refused_before_anybody_is_asked() {
    let dir = TempDir::new().unwrap();
    let keys = Keys::open(dir.path(), FLEET);
    let digits = "07".repeat(32);
    let stranger = age::x25519::Identity::generate().to_public();
    let cases: [Vec<u8>; 8] = [
        Vec::new(),
        b"\xff\xfe".to_vec(),
        format!("fleetsync-root-key-v1 {digits}\n").into_bytes(),
        format!("fleetsync-operator-key-v2 {digits}\n").into_bytes(),
        format!("fleetsync-operator-key-v1 {digits}0\n").into_bytes(),
        b"-----BEGIN AGE ENCRYPTED FILE-----\n".to_vec(),
        b"age-encryption.org/v1\n-> scrypt".to_vec(),
        age::encrypt(&stranger, key_line(KeyKind::Operator, &seed()).expose_secret()).unwrap(),
    ];
    for bytes in cases {
        put(&keys.key_path(KeyKind::Operator), &bytes, 0o600);
        let error = keys.unlock(KeyKind::Operator, &Passphrase::Ask).unwrap_err();
        assert!(matches!(error, KeyError::Malformed { .. }), "{error}");
    }
    put(&keys.key_path(KeyKind::Operator), &vec![b'a'; 5000], 0o600);
    assert!(matches!(keys.unlock(KeyKind::Operator, &Passphrase::None), Err(KeyError::Malformed { .. })));
}

/// A file that says how much work opens it cannot make us do it: 2^30 would be 1 TiB of memory, 2^17 is just too much.
#[test]
fn a_hostile_work_factor_is_refused() {
    let (_dir, keys) = created(KeyKind::Operator, &text("x"));
    let path = keys.key_path(KeyKind::Operator);
    let bytes = std::fs::read(&path).unwrap();
    let at = bytes.windows(4).position(|window| window == b" 14\n").expect("the work factor ends the stanza's line");
    for factor in [17, 30, 63] {
        let mut hostile = bytes.clone();
        hostile[at + 1..at + 3].copy_from_slice(factor.to_string().as_bytes());
        put(&path, &hostile, 0o600);
        let error = keys.unlock(KeyKind::Operator, &text("x")).unwrap_err();
        assert!(matches!(error, KeyError::WorkFactor { log2, .. } if log2 == factor), "{error}");
    }
}

#[test]
fn a_missing_public_key_is_derived_or_written_again_and_a_wrong_one_is_refused() {
    let (_dir, keys) = created(KeyKind::Operator, &Passphrase::None);
    let path = keys.public_path(KeyKind::Operator);
    std::fs::remove_file(&path).unwrap();
    assert_eq!(keys.public(KeyKind::Operator).unwrap(), Some(public_of(&seed())));

    let (_dir, keys) = created(KeyKind::Operator, &text("x"));
    let path = keys.public_path(KeyKind::Operator);
    std::fs::remove_file(&path).unwrap();
    assert!(matches!(keys.public(KeyKind::Operator), Err(KeyError::NoPublic { .. })));
    keys.unlock(KeyKind::Operator, &text("x")).unwrap();
    assert_eq!(keys.public(KeyKind::Operator).unwrap(), Some(public_of(&seed())));
    put(&path, public_line(&Key([1; 32])).as_bytes(), 0o600);
    assert!(matches!(keys.unlock(KeyKind::Operator, &text("x")), Err(KeyError::PublicMismatch { .. })));
}

#[test]
fn a_passphrase_is_asked_three_times_and_is_never_printed() {
    let mut asked = 0;
    let wrong = retry(3, || {
        asked += 1;
        Err::<(), _>(KeyError::Passphrase { path: "k".into() })
    });
    assert!(matches!(wrong, Err(KeyError::Passphrase { .. })));
    assert_eq!(asked, 3);
    let mut asked = 0;
    let cancelled = retry(3, || {
        asked += 1;
        Err::<(), _>(KeyError::Cancelled)
    });
    assert!(matches!(cancelled, Err(KeyError::Cancelled)));
    assert_eq!(asked, 1);
    assert_eq!(format!("{:?}", text("secret")), "Text(…)");
}

#[test]
fn a_new_passphrase_is_typed_twice() {
    let typed = |lines: &'static [&'static str]| {
        let mut lines = lines.iter();
        move |_: &str| lines.next().map(|line| SecretString::from(*line)).ok_or(KeyError::Cancelled)
    };
    let asked = ask_twice("operator key", typed(&["a", "b", "c", "c"])).unwrap();
    assert_eq!(asked.expose_secret(), "c");
    let differ = ask_twice("operator key", typed(&["a", "b", "a", "b", "a", "b", "a", "a"]));
    assert!(matches!(differ, Err(KeyError::PassphrasesDiffer)));
    assert!(matches!(ask_twice("operator key", typed(&["", ""])), Err(KeyError::EmptyPassphrase)));
    assert!(matches!(text("").once(), Err(KeyError::EmptyPassphrase)));
    assert!(matches!(Passphrase::None.once(), Ok(Passphrase::None)));
}

#[test]
fn a_typed_line_can_be_edited_and_cancelled() {
    let type_in = |bytes: &[u8]| {
        let mut line = Line::new();
        let last = bytes.iter().map(|byte| line.feed(*byte)).last();
        (last, line.into_text().map(|text| text.expose_secret().to_owned()))
    };
    assert_eq!(type_in("pä\x7f\x7fass\r".as_bytes()), (Some(Typed::Done), Some("ass".to_owned())));
    assert_eq!(type_in(b"wrong\x15right\x1b\n"), (Some(Typed::Done), Some("right".to_owned())));
    assert_eq!(type_in(b"half\x03").0, Some(Typed::Cancelled));
    assert_eq!(type_in(b"\x04").0, Some(Typed::Cancelled));
    assert_eq!(type_in(b"a\x04").0, Some(Typed::More));
    assert_eq!(type_in(b"\xc3\n"), (Some(Typed::Done), None));
}

#[test]
fn the_default_folder_follows_xdg() {
    let path = |text: &str| Some(OsString::from(text));
    assert_eq!(folder_from(path("/c"), path("/h")), Some("/c/fleetsync".into()));
    assert_eq!(folder_from(path("relative"), path("/h")), Some("/h/.config/fleetsync".into()));
    assert_eq!(folder_from(path(""), path("/h")), Some("/h/.config/fleetsync".into()));
    assert_eq!(folder_from(None, None), None);
}

#[test]
fn a_held_lock_is_a_typed_error_and_a_freed_one_is_taken() {
    let dir = TempDir::new().unwrap();
    let held = folder::lock(dir.path(), Duration::ZERO).unwrap();
    assert!(matches!(folder::lock(dir.path(), Duration::ZERO), Err(KeyError::Busy { .. })));
    drop(held);
    folder::lock(dir.path(), Duration::ZERO).unwrap();
}

#[test]
fn hints_are_quoted_for_a_shell() {
    let error = KeyError::Permissions { path: "/a b/it's".into(), mode: 0o644 };
    assert_eq!(error.hint(), r"chmod 600 '/a b/it'\''s'");
}

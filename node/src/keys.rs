//! The person's keys folder (DESIGN 5): root and operator keys, and the journal of what was signed with them.
//!
//! `DIR/<fleet id>/` holds `root.key` and `operator.key`, each with its public key beside it as `.pub`, the journal
//! `signed/<actor>/<seq>.json` and an empty `lock`. A key file is one line, `fleetsync-operator-key-v1 <64 hex>`, or
//! that line in a binary age file (<https://c2sp.org/age>) under a passphrase. Nothing of this ever reaches the daemon.

use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};

use age::secrecy::{ExposeSecret, SecretSlice, SecretString};
use crdt::id::{FleetId, Key, hex, unhex};
use ed25519_dalek::SigningKey;

pub(crate) use error::{KeyError, SignError, quoted};
pub(crate) use journal::Signed;
pub(crate) use passphrase::Passphrase;

mod error;
mod folder;
mod journal;
mod passphrase;
#[cfg(test)]
mod tests;

/// The work factor of new key files: scrypt with N = 2^14, r = 8, p = 1 takes 16 MiB and, measured on a server's core,
/// 20 ms (2^15: 52 ms), so a core that is five times as slow stays at 100 ms.
const WORK_FACTOR_LOG2: u8 = 14;
/// The greatest work factor that is opened: 64 MiB and four times the time of [`WORK_FACTOR_LOG2`].
const WORK_FACTOR_LOG2_MAX: u8 = 16;
/// Largest key file, bytes.
const KEY_FILE_BYTES_MAX: u64 = 4096;
/// How often a wrong passphrase may be typed.
const PASSPHRASE_TRIES: usize = 3;
/// How every binary age file starts.
const AGE_START: &[u8] = b"age-encryption.org/";

/// Which of a person's keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum KeyKind {
    /// A key of the root, which is best kept off the device.
    Root,
    /// The operator's key, which signs changes and statements.
    Operator,
}

impl KeyKind {
    /// The word in file names and messages.
    pub(crate) fn name(self) -> &'static str {
        match self {
            KeyKind::Root => "root",
            KeyKind::Operator => "operator",
        }
    }
}

impl fmt::Display for KeyKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The keys of one fleet in a keys folder.
#[derive(Debug, Clone)]
pub(crate) struct Keys {
    folder: PathBuf,
    fleet: FleetId,
}

/// Where keys lie unless `--keys` says otherwise: `$XDG_CONFIG_HOME/fleetsync` or `~/.config/fleetsync`.
pub(crate) fn default_folder() -> Result<PathBuf, KeyError> {
    folder_from(std::env::var_os("XDG_CONFIG_HOME"), std::env::var_os("HOME")).ok_or(KeyError::NoFolder)
}

/// The XDG base directory specification has relative and empty paths ignored.
fn folder_from(config: Option<OsString>, home: Option<OsString>) -> Option<PathBuf> {
    let absolute = |path: Option<OsString>| path.map(PathBuf::from).filter(|path| path.is_absolute());
    let config = absolute(config).or_else(|| absolute(home).map(|home| home.join(".config")));
    config.map(|config| config.join("fleetsync"))
}

impl Keys {
    /// The keys of `fleet` in `dir`. Reads nothing: a missing key is an error of [`Keys::unlock`].
    pub(crate) fn open(dir: &Path, fleet: FleetId) -> Keys {
        Keys { folder: dir.join(fleet.to_string()), fleet }
    }

    /// Stores a new key, durably when this returns; makes the folder where needed. Never overwrites: where the key or
    /// its public key is there already, nothing changes.
    pub(crate) fn create(
        dir: &Path,
        fleet: FleetId,
        kind: KeyKind,
        seed: &SigningKey,
        passphrase: &Passphrase,
    ) -> Result<(), KeyError> {
        let keys = Keys::open(dir, fleet);
        let path = keys.key_path(kind);
        keys.refuse_existing(kind)?; // before a person is asked for a passphrase
        let line = key_line(kind, seed);
        let bytes = match passphrase.for_new(&path, &format!("{kind} key"))? {
            None => line,
            Some(passphrase) => encrypt(passphrase, line.expose_secret())?,
        };
        folder::create(&keys.folder)?;
        let _lock = folder::lock(&keys.folder, folder::LOCK_WAIT)?;
        keys.refuse_existing(kind)?;
        folder::write_new(&path, bytes.expose_secret())?;
        folder::write_new(&keys.public_path(kind), public_line(&public_of(seed)).as_bytes())
    }

    /// The fleets that have a key in `dir`, ascending; none where there is no such folder.
    pub(crate) fn fleets(dir: &Path) -> Result<Vec<FleetId>, KeyError> {
        let mut fleets: Vec<FleetId> = folder::names(dir)?
            .iter()
            .filter_map(|name| name.parse::<FleetId>().ok().filter(|fleet| fleet.to_string() == *name))
            .filter(|fleet| {
                let keys = Keys::open(dir, *fleet);
                keys.key_path(KeyKind::Root).exists() || keys.key_path(KeyKind::Operator).exists()
            })
            .collect();
        fleets.sort_unstable();
        Ok(fleets)
    }

    /// The fleet.
    pub(crate) fn fleet(&self) -> FleetId {
        self.fleet
    }

    /// Where the key of `kind` lies, whether or not it is there.
    pub(crate) fn key_path(&self, kind: KeyKind) -> PathBuf {
        self.folder.join(format!("{kind}.key"))
    }

    /// The public key, without unlocking; `None` where there is neither a public nor a secret key.
    pub(crate) fn public(&self, kind: KeyKind) -> Result<Option<Key>, KeyError> {
        let path = self.public_path(kind);
        if let Some(bytes) = folder::read(&path, KEY_FILE_BYTES_MAX)? {
            let key = std::str::from_utf8(&bytes).ok().and_then(|text| text.trim_end().parse().ok());
            return key.map(Some).ok_or(KeyError::Malformed { path, reason: "it is not one line of 64 digits" });
        }
        match self.read(kind) {
            Err(KeyError::Missing { .. }) => Ok(None),
            Err(error) => Err(error),
            Ok(bytes) if is_encrypted(&bytes) => Err(KeyError::NoPublic { kind, path }),
            Ok(bytes) => {
                parse_line(kind, &self.key_path(kind), bytes.expose_secret()).map(|seed| Some(public_of(&seed)))
            }
        }
    }

    /// The secret key. A plain file needs no passphrase and asks for none; on a terminal a person may try three times.
    /// Writes the public key where it is missing.
    pub(crate) fn unlock(&self, kind: KeyKind, passphrase: &Passphrase) -> Result<SigningKey, KeyError> {
        let path = self.key_path(kind);
        let bytes = self.read(kind)?;
        let seed = if is_encrypted(&bytes) {
            check_encrypted(&path, &bytes)?;
            let tries = if passphrase.is_asked() { PASSPHRASE_TRIES } else { 1 };
            let mut prompt = format!("Passphrase of the {kind} key of fleet {}: ", self.fleet.short());
            retry(tries, || {
                let typed = passphrase.for_known(&path, &prompt)?;
                "That does not open it. Once more: ".clone_into(&mut prompt);
                decrypt(kind, &path, &bytes, typed)
            })?
        } else {
            parse_line(kind, &path, bytes.expose_secret())?
        };
        self.check_public(kind, &public_of(&seed))?;
        Ok(seed)
    }

    fn public_path(&self, kind: KeyKind) -> PathBuf {
        self.folder.join(format!("{kind}.pub"))
    }

    fn refuse_existing(&self, kind: KeyKind) -> Result<(), KeyError> {
        let taken =
            [self.key_path(kind), self.public_path(kind)].into_iter().find(|path| path.symlink_metadata().is_ok());
        taken.map_or(Ok(()), |path| Err(KeyError::Exists { path }))
    }

    /// The bytes of a key file that only its owner may read.
    fn read(&self, kind: KeyKind) -> Result<SecretSlice<u8>, KeyError> {
        let path = self.key_path(kind);
        folder::read_secret(&path, KEY_FILE_BYTES_MAX)?.ok_or(KeyError::Missing { kind, path })
    }

    fn check_public(&self, kind: KeyKind, public: &Key) -> Result<(), KeyError> {
        let path = self.public_path(kind);
        if path.symlink_metadata().is_err() {
            // A convenience: a folder that cannot be written is no reason to refuse the key.
            let _written = folder::lock(&self.folder, folder::LOCK_WAIT)
                .and_then(|_lock| folder::write_new(&path, public_line(public).as_bytes()));
            return Ok(());
        }
        if self.public(kind)?.as_ref() == Some(public) { Ok(()) } else { Err(KeyError::PublicMismatch { path }) }
    }
}

/// The public key of `seed`.
pub(crate) fn public_of(seed: &SigningKey) -> Key {
    Key(seed.verifying_key().to_bytes())
}

fn public_line(public: &Key) -> String {
    format!("{public}\n")
}

fn line_start(kind: KeyKind) -> String {
    format!("fleetsync-{kind}-key-v1 ")
}

fn key_line(kind: KeyKind, seed: &SigningKey) -> SecretSlice<u8> {
    format!("{}{}\n", line_start(kind), hex(seed.as_bytes())).into_bytes().into()
}

fn parse_line(kind: KeyKind, path: &Path, bytes: &[u8]) -> Result<SigningKey, KeyError> {
    let malformed = |reason| KeyError::Malformed { path: path.to_owned(), reason };
    let text = std::str::from_utf8(bytes).map_err(|_| malformed("it is neither a key line nor an age file"))?;
    if text.starts_with("-----BEGIN AGE") {
        return Err(malformed("only binary age files are read, not ASCII armour"));
    }
    let digits = text.trim_end().strip_prefix(&line_start(kind)).ok_or(malformed("it holds no key of that kind"))?;
    let seed = unhex::<32>(digits).map_err(|_| malformed("the key is not 64 hexadecimal digits"))?;
    Ok(SigningKey::from_bytes(&seed))
}

fn is_encrypted(bytes: &SecretSlice<u8>) -> bool {
    bytes.expose_secret().starts_with(AGE_START)
}

/// Runs `attempt` again while it fails for a wrong passphrase.
fn retry<T>(tries: usize, mut attempt: impl FnMut() -> Result<T, KeyError>) -> Result<T, KeyError> {
    let mut left = tries;
    loop {
        left = left.saturating_sub(1);
        match attempt() {
            Err(KeyError::Passphrase { .. }) if left > 0 => {}
            done => return done,
        }
    }
}

fn encrypt(passphrase: SecretString, line: &[u8]) -> Result<SecretSlice<u8>, KeyError> {
    let mut recipient = age::scrypt::Recipient::new(passphrase);
    recipient.set_work_factor(WORK_FACTOR_LOG2);
    age::encrypt(&recipient, line).map(SecretSlice::from).map_err(|_| KeyError::Encryption)
}

/// Refuses, before anybody is asked, a file that no passphrase can open.
fn check_encrypted(path: &Path, bytes: &SecretSlice<u8>) -> Result<(), KeyError> {
    match age::Decryptor::new_buffered(bytes.expose_secret()) {
        Ok(file) if file.is_scrypt() => Ok(()),
        Ok(_) => Err(KeyError::Malformed { path: path.to_owned(), reason: "it is not encrypted with a passphrase" }),
        Err(_) => Err(KeyError::Malformed { path: path.to_owned(), reason: "the age file is damaged" }),
    }
}

fn decrypt(
    kind: KeyKind,
    path: &Path,
    bytes: &SecretSlice<u8>,
    passphrase: SecretString,
) -> Result<SigningKey, KeyError> {
    let mut identity = age::scrypt::Identity::new(passphrase);
    identity.set_max_work_factor(WORK_FACTOR_LOG2_MAX);
    let path_owned = || path.to_owned();
    // The errors of age are never printed: the text of `ExcessiveWork` overflows for a factor below this machine's.
    let line: SecretSlice<u8> = match age::decrypt(&identity, bytes.expose_secret()) {
        Ok(line) => line.into(),
        Err(age::DecryptError::DecryptionFailed) => return Err(KeyError::Passphrase { path: path_owned() }),
        Err(age::DecryptError::ExcessiveWork { required, .. }) => {
            return Err(KeyError::WorkFactor { path: path_owned(), log2: required });
        }
        Err(_) => return Err(KeyError::Malformed { path: path_owned(), reason: "the age file is damaged" }),
    };
    parse_line(kind, path, line.expose_secret())
}

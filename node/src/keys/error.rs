//! What can go wrong in the keys folder, and what a person can do about it.

use std::io;
use std::path::{Path, PathBuf};

use crate::keys::journal::Signed;
use crate::keys::{KeyKind, WORK_FACTOR_LOG2_MAX};

/// The way on where this node's log and the journal disagree: every node has a log of its own.
const ELSEWHERE: &str = "fleetsync --api unix:PATH config set …  # the change through another node";

/// Why a key or an entry of the journal was not read or written. Nothing was signed, and no key file changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum KeyError {
    /// No key of that kind.
    #[error("there is no {kind} key at {}", path.display())]
    Missing {
        /// Which key.
        kind: KeyKind,
        /// Where it was looked for.
        path: PathBuf,
    },
    /// The file to be made is there already.
    #[error("{} is there already; it was left as it is", path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// The passphrase is another one.
    #[error("the passphrase does not open {}", path.display())]
    Passphrase {
        /// The key file.
        path: PathBuf,
    },
    /// A passphrase is needed, none was given, and there is no terminal to ask on, or asking was ruled out.
    #[error("a passphrase is needed for {}, and none was given", path.display())]
    NeedsPassphrase {
        /// The key file.
        path: PathBuf,
        /// Whether the key is about to be made.
        is_new: bool,
    },
    /// A passphrase without a character.
    #[error("an empty passphrase protects nothing")]
    EmptyPassphrase,
    /// The two passphrases that were typed differ.
    #[error("the passphrases that were typed differ")]
    PassphrasesDiffer,
    /// A passphrase file that holds no passphrase.
    #[error("{} holds no passphrase: {reason}", path.display())]
    PassphraseFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The person ended the prompt.
    #[error("no passphrase was typed")]
    Cancelled,
    /// Others than the owner may read or write the key file.
    #[error("others may open {} (mode {mode:04o}), so it is not used", path.display())]
    Permissions {
        /// The key file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// Not a key file.
    #[error("{} is no key file: {reason}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The file asks for more work than is done for a passphrase.
    #[error("{} asks for the scrypt work factor 2^{log2}, at most 2^{WORK_FACTOR_LOG2_MAX} is done", path.display())]
    WorkFactor {
        /// The key file.
        path: PathBuf,
        /// The logarithm of the factor.
        log2: u8,
    },
    /// The age library could not encrypt.
    #[error("the key could not be encrypted")]
    Encryption,
    /// The key is encrypted and its public key is not beside it; [`super::Keys::unlock`] writes it again.
    #[error("the public key {} is missing, and the key is encrypted", path.display())]
    NoPublic {
        /// Of which key.
        kind: KeyKind,
        /// Where the public key was looked for.
        path: PathBuf,
    },
    /// The public key beside the secret one is of another key.
    #[error("{} is not the public key of the secret key beside it", path.display())]
    PublicMismatch {
        /// The public key's file.
        path: PathBuf,
    },
    /// An entry of the journal that cannot be trusted. Its number is not signed again.
    #[error("the journal entry {} is damaged: {reason}", path.display())]
    Damaged {
        /// The entry.
        path: PathBuf,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The journal has no such entry.
    #[error("the journal has no entry {} for this change", path.display())]
    NoEntry {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// Another command holds the lock.
    #[error("another command is using the keys of this fleet (lock {})", path.display())]
    Busy {
        /// The lock.
        path: PathBuf,
    },
    /// Neither `XDG_CONFIG_HOME` nor `HOME` names a folder.
    #[error("there is no home folder to keep keys in")]
    NoFolder,
    /// A file or folder could not be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl KeyError {
    /// A closure for `map_err`.
    pub(super) fn io(path: &Path) -> impl FnOnce(io::Error) -> KeyError {
        |source| KeyError::Io { path: path.to_owned(), source }
    }

    /// A command that helps. What follows `#` in it says what for.
    pub(crate) fn hint(&self) -> String {
        match self {
            KeyError::Missing { path, .. } => {
                format!("ls {}/*/*.key  # --keys DIR names another folder", keys_folder(path))
            }
            KeyError::NeedsPassphrase { is_new: false, .. } => {
                "fleetsync --passphrase-file FILE …  # or on a terminal".to_owned()
            }
            KeyError::NeedsPassphrase { is_new: true, .. } => {
                "fleetsync init --passphrase-file FILE …  # or on a terminal, or --no-passphrase for a machine"
                    .to_owned()
            }
            KeyError::Passphrase { .. } => {
                "fleetsync --passphrase-file FILE …  # with the passphrase that the key was made with".to_owned()
            }
            KeyError::PassphraseFile { path, .. } => {
                format!("wc -c {}  # its first line is the passphrase", quoted(path))
            }
            KeyError::EmptyPassphrase => "fleetsync init --no-passphrase …  # for a key without one".to_owned(),
            KeyError::Permissions { path, .. } => format!("chmod 600 {}", quoted(path)),
            KeyError::NoPublic { kind: KeyKind::Operator, .. } => {
                "fleetsync config set …  # any change unlocks the key and writes it".to_owned()
            }
            KeyError::PublicMismatch { path } => {
                format!("rm {}  # it is written again; only where the secret key is the right one", quoted(path))
            }
            KeyError::Damaged { .. } | KeyError::NoEntry { .. } => ELSEWHERE.to_owned(),
            KeyError::Busy { path } => format!("fuser -v {}", quoted(path)),
            KeyError::NoFolder => "fleetsync --keys DIR …".to_owned(),
            KeyError::Exists { path }
            | KeyError::Malformed { path, .. }
            | KeyError::WorkFactor { path, .. }
            | KeyError::Io { path, .. } => format!("ls -ld {}", quoted(path)),
            KeyError::PassphrasesDiffer | KeyError::Cancelled | KeyError::Encryption => {
                "fleetsync --passphrase-file FILE …".to_owned()
            }
            KeyError::NoPublic { .. } => "fleetsync key show".to_owned(),
        }
    }
}

/// Why a change was not signed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum SignError {
    /// Another change was signed under this number, and nothing may be beside it: submit that one again.
    #[error("another change was already signed as number {} of this log", .0.seq)]
    Other(Box<Signed>),
    /// A later change was signed, so what this number was is settled, even where the journal dropped it.
    #[error("number {seq} was asked for, but number {newest} of this log is signed already")]
    Behind {
        /// The number asked for.
        seq: u64,
        /// The greatest number in the journal.
        newest: u64,
    },
    /// The change builds on a history in which the number before it is another change than the one that was signed:
    /// signing would vouch for both. Submit that one again; where it lost its number, see [`super::Keys::lost`].
    #[error("the change builds on another number {} than the one that was signed", .0.seq)]
    History(Box<Signed>),
    /// The log belongs to another author.
    #[error("the log belongs to another author than this key")]
    Author,
    /// The raw change is not what was said about it.
    #[error("the prepared change is not sound: {0}")]
    Unsound(String),
    /// The proof that another change has the number does not hold. Nothing changed.
    #[error("it is not proven that another change has number {0}")]
    NotLost(u64),
    /// The keys folder.
    #[error(transparent)]
    Keys(#[from] KeyError),
}

impl SignError {
    /// A command that helps.
    pub(crate) fn hint(&self) -> String {
        match self {
            SignError::Keys(error) => error.hint(),
            SignError::Behind { .. } => ELSEWHERE.to_owned(),
            SignError::History(before) if before.accepted => ELSEWHERE.to_owned(),
            _ => "fleetsync status".to_owned(),
        }
    }
}

/// The keys folder of a key file, for a shell.
fn keys_folder(path: &Path) -> String {
    quoted(path.ancestors().nth(2).unwrap_or(path))
}

/// A path as a shell reads it.
pub(crate) fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let is_plain = |b: u8| b.is_ascii_alphanumeric() || b"_-./".contains(&b);
    if !text.is_empty() && text.bytes().all(is_plain) { text } else { format!("'{}'", text.replace('\'', r"'\''")) }
}

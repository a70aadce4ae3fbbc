//! Where a passphrase comes from: an option, a file, or a person at a terminal.

use std::fmt;
use std::fs::File;
use std::io::{self, IsTerminal, Read, Write};
use std::path::{Path, PathBuf};

use age::secrecy::{ExposeSecret, SecretString};
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};

use crate::keys::{KeyError, PASSPHRASE_TRIES};

/// Longest passphrase, bytes.
const PASSPHRASE_BYTES_MAX: usize = 1024;

/// Where the passphrase of a key file comes from.
#[derive(Clone)]
pub(crate) enum Passphrase {
    /// `--no-passphrase`: new keys are not encrypted, encrypted ones stay closed.
    None,
    /// The passphrase itself.
    Text(String),
    /// The first line of a file, which may be a pipe.
    File(PathBuf),
    /// A person at the terminal; an error where stdin or stderr is none.
    Ask,
}

impl fmt::Debug for Passphrase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Passphrase::None => f.write_str("None"),
            Passphrase::Text(_) => f.write_str("Text(…)"),
            Passphrase::File(path) => f.debug_tuple("File").field(path).finish(),
            Passphrase::Ask => f.write_str("Ask"),
        }
    }
}

impl Passphrase {
    /// The same for several new keys: asks, or reads the file, which may be a pipe, only once.
    pub(crate) fn once(&self) -> Result<Passphrase, KeyError> {
        let passphrase = self.for_new(Path::new("the new keys"), "keys")?;
        Ok(passphrase.map_or(Passphrase::None, |text| Passphrase::Text(text.expose_secret().to_owned())))
    }

    /// Whether a person is asked, who may mistype.
    pub(super) fn is_asked(&self) -> bool {
        matches!(self, Passphrase::Ask)
    }

    /// The passphrase of `what` to be made at `path`; `None` for a key that is not encrypted.
    pub(super) fn for_new(&self, path: &Path, what: &str) -> Result<Option<SecretString>, KeyError> {
        match self {
            Passphrase::None => Ok(None),
            Passphrase::Text(text) => checked(text.as_str().into()).map(Some),
            Passphrase::File(file) => read_file(file).map(Some),
            Passphrase::Ask if !is_terminal() => Err(KeyError::NeedsPassphrase { path: path.to_owned(), is_new: true }),
            Passphrase::Ask => ask_twice(what, ask).map(Some),
        }
    }

    /// The passphrase of the encrypted key at `path`.
    pub(super) fn for_known(&self, path: &Path, prompt: &str) -> Result<SecretString, KeyError> {
        match self {
            Passphrase::Text(text) => Ok(text.as_str().into()),
            Passphrase::File(file) => read_file(file),
            Passphrase::Ask if is_terminal() => ask(prompt),
            Passphrase::None | Passphrase::Ask => {
                Err(KeyError::NeedsPassphrase { path: path.to_owned(), is_new: false })
            }
        }
    }
}

fn checked(text: SecretString) -> Result<SecretString, KeyError> {
    if text.expose_secret().is_empty() { Err(KeyError::EmptyPassphrase) } else { Ok(text) }
}

/// The first line of a file. Its permissions are not looked at: container secrets are often readable by all.
fn read_file(path: &Path) -> Result<SecretString, KeyError> {
    let refuse = |reason| KeyError::PassphraseFile { path: path.to_owned(), reason };
    let mut bytes = Vec::with_capacity(PASSPHRASE_BYTES_MAX + 3);
    let file = File::open(path).map_err(KeyError::io(path))?;
    file.take(PASSPHRASE_BYTES_MAX as u64 + 3).read_to_end(&mut bytes).map_err(KeyError::io(path))?;
    let text = SecretString::from(String::from_utf8(bytes).map_err(|_| refuse("it is not UTF-8"))?);
    let line = text.expose_secret().lines().next().unwrap_or_default();
    if line.len() > PASSPHRASE_BYTES_MAX {
        return Err(refuse("its first line is longer than 1024 bytes"));
    }
    if line.is_empty() { Err(refuse("its first line is empty")) } else { Ok(line.into()) }
}

/// Asks for a new passphrase until it was typed twice alike, three times at most.
pub(super) fn ask_twice(
    what: &str,
    mut ask: impl FnMut(&str) -> Result<SecretString, KeyError>,
) -> Result<SecretString, KeyError> {
    for _ in 0..PASSPHRASE_TRIES {
        let first = ask(&format!("New passphrase for the {what}: "))?;
        let second = ask("The same again: ")?;
        if first.expose_secret() == second.expose_secret() {
            return checked(first);
        }
    }
    Err(KeyError::PassphrasesDiffer)
}

fn is_terminal() -> bool {
    io::stdin().is_terminal() && io::stderr().is_terminal()
}

/// Asks on stderr and reads a line from the terminal without showing it.
fn ask(prompt: &str) -> Result<SecretString, KeyError> {
    let failed = KeyError::io(Path::new("the terminal"));
    ask_on_terminal(prompt).map_err(failed)?.ok_or(KeyError::Cancelled)
}

fn ask_on_terminal(prompt: &str) -> io::Result<Option<SecretString>> {
    let silence = Silence::new()?;
    let mut stderr = io::stderr();
    stderr.write_all(prompt.as_bytes())?;
    stderr.flush()?;
    let mut line = Line::new();
    let answer = loop {
        let mut byte = [0];
        // One byte at a time and unbuffered, so that nothing typed ahead or secret stays in a buffer of ours.
        match rustix::io::read(rustix::stdio::stdin(), &mut byte) {
            Err(rustix::io::Errno::INTR) => continue,
            Err(error) => return Err(error.into()),
            Ok(0) => break None,
            Ok(_) => {}
        }
        match line.feed(byte[0]) {
            Key::More => {}
            Key::Done => break line.into_text(),
            Key::Cancelled => break None,
        }
    };
    drop(silence);
    stderr.write_all(b"\n")?;
    Ok(answer)
}

/// The terminal without echo, line editing and signals, until dropped: a signal would end us with the echo still off.
struct Silence {
    before: Termios,
}

impl Silence {
    fn new() -> io::Result<Silence> {
        let before = tcgetattr(rustix::stdio::stdin())?;
        let mut silent = before.clone();
        silent.local_modes -= LocalModes::ECHO | LocalModes::ECHONL | LocalModes::ICANON | LocalModes::ISIG;
        tcsetattr(rustix::stdio::stdin(), OptionalActions::Flush, &silent)?;
        Ok(Silence { before })
    }
}

impl Drop for Silence {
    fn drop(&mut self) {
        let _restored = tcsetattr(rustix::stdio::stdin(), OptionalActions::Now, &self.before);
    }
}

/// What a key means for the line.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Key {
    /// Go on.
    More,
    /// The line is complete.
    Done,
    /// Ctrl-C, or Ctrl-D on an empty line.
    Cancelled,
}

/// A line being typed.
#[derive(Debug)]
pub(super) struct Line {
    bytes: Vec<u8>,
}

impl Line {
    pub(super) fn new() -> Line {
        Line { bytes: Vec::with_capacity(PASSPHRASE_BYTES_MAX) }
    }

    /// One byte from the terminal. What is beyond the limit is dropped, alike each time it is typed.
    pub(super) fn feed(&mut self, byte: u8) -> Key {
        match byte {
            b'\n' | b'\r' => return Key::Done,
            0x03 => return Key::Cancelled,
            0x04 if self.bytes.is_empty() => return Key::Cancelled,
            0x08 | 0x7f => while self.bytes.pop().is_some_and(|last| last & 0xc0 == 0x80) {},
            0x15 => self.bytes.clear(),
            0x00..=0x1f => {}
            _ if self.bytes.len() < PASSPHRASE_BYTES_MAX => self.bytes.push(byte),
            _ => {}
        }
        Key::More
    }

    /// The text; `None` where it is not UTF-8.
    pub(super) fn into_text(self) -> Option<SecretString> {
        String::from_utf8(self.bytes).ok().map(SecretString::from)
    }
}

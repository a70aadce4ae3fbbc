//! How the verbs talk to the lab that is up: a line of JSON over its socket, and lines back until one ends it.

use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::failure::Failure;
use super::quality::Bend;

/// Longest request, bytes: a scenario is part of one.
pub(crate) const REQUEST_BYTES_MAX: u64 = 2 * 1024 * 1024;

/// What a lab is asked.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "verb", rename_all = "kebab-case")]
pub(crate) enum Request {
    Cut {
        one: String,
        other: String,
        is_one_way: bool,
    },
    Bend {
        one: String,
        other: String,
        is_one_way: bool,
        bend: Bend,
    },
    Heal {
        between: Option<(String, String)>,
    },
    Freeze {
        nodes: String,
    },
    Thaw {
        nodes: String,
    },
    Kill {
        nodes: String,
    },
    Start {
        nodes: String,
    },
    Rebind {
        nodes: String,
    },
    Unplug {
        nodes: String,
    },
    Plug {
        nodes: String,
    },
    Ps,
    /// Where a shell has to go.
    Shell {
        node: String,
    },
    /// The text of a scenario.
    Run {
        text: String,
    },
    Down,
}

/// A line back.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Answer {
    /// Progress; more follows.
    Note(String),
    Done(Value),
    Failed(Failure),
}

impl Answer {
    /// As a line.
    pub(crate) fn to_line(&self) -> String {
        // Plain data with text keys always encodes.
        serde_json::to_string(self).unwrap_or_default() + "\n"
    }
}

/// Asks the lab in a folder; `note` hears of the progress.
pub(crate) fn ask(folder: &Path, request: &Request, note: &dyn Fn(&str)) -> Result<Value, Failure> {
    let socket = folder.join(super::folder::SOCKET);
    let stream = UnixStream::connect(&socket).map_err(|error| match error.kind() {
        ErrorKind::NotFound | ErrorKind::ConnectionRefused => {
            Failure::new(format!("no lab is up in {}", folder.display())).hint("testnet lab up lan-12")
        }
        _ => Failure::new("the lab does not answer").cause(error).hint(format!("ls -l {}", socket.display())),
    })?;
    let broken = |error: std::io::Error| {
        let log = folder.join(super::folder::LOG);
        Failure::new("the lab ended while it was asked").cause(error).hint(format!("tail {}", log.display()))
    };
    let mut line = serde_json::to_string(request).map_err(|error| broken(error.into()))?;
    line.push('\n');
    (&stream).write_all(line.as_bytes()).map_err(broken)?;
    for line in BufReader::new(stream).lines() {
        match serde_json::from_str(&line.map_err(broken)?).map_err(|error| broken(error.into()))? {
            Answer::Note(text) => note(&text),
            Answer::Done(value) => return Ok(value),
            Answer::Failed(failure) => return Err(failure),
        }
    }
    Err(broken(ErrorKind::UnexpectedEof.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_and_answers_survive_their_line() {
        let requests = [
            Request::Cut { one: "a".to_owned(), other: "*".to_owned(), is_one_way: true },
            Request::Bend { one: "a".to_owned(), other: "b".to_owned(), is_one_way: false, bend: Bend::loss(30.0) },
            Request::Heal { between: None },
            Request::Ps,
            Request::Run { text: "about = 'x'\n".to_owned() },
        ];
        for request in requests {
            let line = serde_json::to_string(&request).expect("plain data");
            assert!(!line.contains('\n'));
            assert_eq!(serde_json::from_str::<Request>(&line).expect("it is one"), request);
        }
        let answer = Answer::Failed(Failure::new("no").cause("because").hint("ls"));
        assert_eq!(serde_json::from_str::<Answer>(&answer.to_line()).expect("it is one"), answer);
    }
}

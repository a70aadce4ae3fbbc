//! A blocking client of a node's socket: one kept connection, and raw bytes where a request is to be malformed.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;

/// An answer.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// The media type.
    pub(crate) kind: String,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// A problem as RFC 9457 has it, with this status.
    #[track_caller]
    pub(crate) fn is_problem(&self, status: u16) {
        assert_eq!((self.status, self.kind.as_str()), (status, "application/problem+json"), "{self:?}");
        let problem = self.json();
        assert_eq!(problem["status"], status, "{problem}");
        for field in ["type", "title", "detail"] {
            assert!(problem[field].as_str().is_some_and(|text| !text.is_empty()), "{problem}");
        }
    }
}

/// A connection.
pub(crate) struct Api {
    stream: BufReader<UnixStream>,
}

impl Api {
    pub(crate) fn connect(socket: &Path) -> io::Result<Api> {
        let stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(Duration::from_secs(20)))?;
        Ok(Api { stream: BufReader::new(stream) })
    }

    pub(crate) fn get(&mut self, resource: &str) -> io::Result<Answer> {
        self.call("GET", resource, b"")
    }

    pub(crate) fn post(&mut self, resource: &str, body: &Value) -> io::Result<Answer> {
        self.call("POST", resource, body.to_string().as_bytes())
    }

    pub(crate) fn call(&mut self, method: &str, resource: &str, body: &[u8]) -> io::Result<Answer> {
        let mut request =
            format!("{method} {resource} HTTP/1.1\r\nhost: fleetsync\r\ncontent-length: {}\r\n\r\n", body.len())
                .into_bytes();
        request.extend_from_slice(body);
        // Where a request is too large the node answers before it has read all of it.
        let written = self.stream.get_mut().write_all(&request);
        self.answer().map_err(|error| written.err().unwrap_or(error))
    }

    fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        match self.stream.read_line(&mut line)? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(line.trim_end().to_owned()),
        }
    }

    fn answer(&mut self) -> io::Result<Answer> {
        let malformed = || io::Error::from(io::ErrorKind::InvalidData);
        let first = self.line()?;
        let status = first.split(' ').nth(1).and_then(|status| status.parse().ok()).ok_or_else(malformed)?;
        let (mut kind, mut length) = (String::new(), 0);
        loop {
            let line = self.line()?;
            let Some((name, value)) = line.split_once(": ") else { break };
            match name.to_ascii_lowercase().as_str() {
                "content-type" => kind = value.to_owned(),
                "content-length" => length = value.parse().map_err(|_| malformed())?,
                _ => {}
            }
        }
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body)?;
        Ok(Answer { status, kind, body })
    }
}

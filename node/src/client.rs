//! A client of a node's API over its Unix socket: one kept connection, HTTP/1.1.

use std::path::{Path, PathBuf};

use futures::Stream;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Bytes, Frame, Incoming};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::UnixStream;

/// Why a call gave no answer. Whether a write arrived is only known for the variants that say so.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// No node listens; nothing was sent.
    #[error("no node answers at {path}: {source}")]
    Unreachable {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The connection broke: a write may or may not have arrived.
    #[error("the connection to the node broke: {0}")]
    Broken(String),
    /// The node answered with a problem; nothing was changed.
    #[error("{detail}")]
    Problem {
        /// The HTTP status.
        status: u16,
        /// What is wrong.
        detail: String,
        /// The whole problem.
        body: Value,
    },
}

type Body = UnsyncBoxBody<Bytes, std::io::Error>;

fn whole(bytes: Bytes) -> Body {
    Full::new(bytes).map_err(|never| match never {}).boxed_unsync()
}

/// A connection to a node.
pub struct Client {
    path: PathBuf,
    connection: SendRequest<Body>,
}

impl Client {
    /// Connects to the socket of a node.
    pub async fn connect(path: &Path) -> Result<Client, ClientError> {
        let unreachable = |source| ClientError::Unreachable { path: path.to_owned(), source };
        let stream = UnixStream::connect(path).await.map_err(unreachable)?;
        let (connection, driver) =
            handshake(TokioIo::new(stream)).await.map_err(|error| ClientError::Broken(error.to_string()))?;
        tokio::spawn(async move {
            if let Err(error) = driver.await {
                tracing::debug!(%error, "the API connection ended");
            }
        });
        Ok(Client { path: path.to_owned(), connection })
    }

    /// The socket.
    pub fn path(&self) -> &Path {
        &self.path
    }

    async fn send(
        &mut self,
        method: Method,
        resource: &str,
        body: Body,
    ) -> Result<hyper::Response<Incoming>, ClientError> {
        let broken = |error: &dyn std::fmt::Display| ClientError::Broken(error.to_string());
        let request = Request::builder()
            .method(method)
            .uri(resource)
            .header("host", "fleetsync")
            .header("content-type", "application/json")
            .body(body)
            .map_err(|error| broken(&error))?;
        self.connection.ready().await.map_err(|error| broken(&error))?;
        self.connection.send_request(request).await.map_err(|error| broken(&error))
    }

    async fn call(&mut self, method: Method, resource: &str, body: Body) -> Result<Bytes, ClientError> {
        let response = self.send(method, resource, body).await?;
        Client::whole_of(response).await
    }

    /// All of an answer, or what is wrong.
    async fn whole_of(response: hyper::Response<Incoming>) -> Result<Bytes, ClientError> {
        let status = response.status();
        let collected = response.into_body().collect().await;
        let bytes = collected.map_err(|error| ClientError::Broken(error.to_string()))?.to_bytes();
        if status.is_success() {
            return Ok(bytes);
        }
        let body: Value = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
        let detail = body["detail"].as_str().unwrap_or(status.as_str()).to_owned();
        Err(ClientError::Problem { status: status.as_u16(), detail, body })
    }

    /// Reads a resource.
    pub async fn get(&mut self, resource: &str) -> Result<Value, ClientError> {
        let bytes = self.get_bytes(resource).await?;
        serde_json::from_slice(&bytes).map_err(|error| ClientError::Broken(error.to_string()))
    }

    /// Reads a resource that is not JSON.
    pub async fn get_bytes(&mut self, resource: &str) -> Result<Bytes, ClientError> {
        self.call(Method::GET, resource, whole(Bytes::new())).await
    }

    /// Writes.
    pub async fn post(&mut self, resource: &str, body: &Value) -> Result<Value, ClientError> {
        let bytes = self.call(Method::POST, resource, whole(Bytes::from(body.to_string()))).await?;
        serde_json::from_slice(&bytes).map_err(|error| ClientError::Broken(error.to_string()))
    }

    /// Removes a resource.
    pub async fn delete(&mut self, resource: &str) -> Result<Value, ClientError> {
        let answer = self.call(Method::DELETE, resource, whole(Bytes::new())).await?;
        serde_json::from_slice(&answer).map_err(|error| ClientError::Broken(error.to_string()))
    }

    /// Sends a stream of bytes.
    pub async fn put(
        &mut self,
        resource: &str,
        bytes: impl Stream<Item = std::io::Result<Bytes>> + Send + 'static,
    ) -> Result<Value, ClientError> {
        let frames = futures::TryStreamExt::map_ok(bytes, Frame::data);
        let answer = self.call(Method::PUT, resource, StreamBody::new(frames).boxed_unsync()).await?;
        serde_json::from_slice(&answer).map_err(|error| ClientError::Broken(error.to_string()))
    }

    /// Reads a resource as it comes.
    pub async fn open(&mut self, resource: &str) -> Result<Incoming, ClientError> {
        let response = self.send(Method::GET, resource, whole(Bytes::new())).await?;
        if response.status().is_success() {
            return Ok(response.into_body());
        }
        let problem = Client::whole_of(response).await.err();
        Err(problem.unwrap_or_else(|| ClientError::Broken("an answer without a meaning".to_owned())))
    }

    /// Follows server-sent events until the node ends them or `each` says stop.
    pub async fn follow(&mut self, resource: &str, mut each: impl FnMut(Value) -> bool) -> Result<(), ClientError> {
        let mut body = self.open(resource).await?;
        let mut text = String::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| ClientError::Broken(error.to_string()))?;
            let Some(data) = frame.data_ref() else { continue };
            text.push_str(&String::from_utf8_lossy(data));
            while let Some(end) = text.find("\n\n") {
                let event: String = text.drain(..end + 2).collect();
                let lines = event.lines().filter_map(|line| line.strip_prefix("data:"));
                let value = serde_json::from_str(lines.collect::<String>().trim());
                if let Ok(value) = value
                    && !each(value)
                {
                    return Ok(());
                }
            }
        }
        Ok(())
    }
}

/// A word as part of a resource: percent-encoded where it must be.
pub fn encode(word: &str) -> String {
    let mut text = String::with_capacity(word.len());
    for byte in word.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => text.push(byte as char),
            other => text.push_str(&format!("%{other:02X}")),
        }
    }
    text
}

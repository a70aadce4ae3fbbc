//! What members ask on the bulk plane: answered from the disk, or handed to the next hop and passed on as it comes back.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::time::timeout;
use transport::bulk::{Answer, AnswerWriter, Asked};

use super::wire::{self, Head, PASSED_MAX, Request};
use super::{Service, locked};

/// What is written at once, bytes.
const WRITTEN_BYTES: usize = 64 * 1024;
/// A reader that takes nothing, or a writer that says nothing, for so long is left.
const STALLED: Duration = Duration::from_secs(20);
/// Neighbours that are tried for a request that is handed on.
const HOPS_TRIED: usize = 2;

impl Service {
    pub(super) async fn serve_all(self, mut asked: mpsc::Receiver<Asked>) {
        while let Some(one) = asked.recv().await {
            if let Some(token) = wire::data_stream_token(&one.request) {
                self.give_data_stream(one, token);
                continue;
            }
            // Peers wait where too many are served: the queue before this is short.
            let Ok(turn) = Arc::clone(&self.0.serving).acquire_owned().await else { return };
            let service = self.clone();
            tokio::spawn(async move {
                let peer = one.peer;
                if let Err(error) = service.serve(one).await {
                    tracing::debug!(%peer, %error, "an answer of the bulk plane was not given whole");
                }
                drop(turn);
            });
        }
    }

    /// The session's task has it from here; it is no answer of this service.
    fn give_data_stream(&self, asked: Asked, token: u64) {
        let Asked { peer, answer, .. } = asked;
        if let Err(error) = self.0.mesh.send_over_bulk(peer, token, answer) {
            tracing::debug!(%peer, %error, "the data stream of a session was asked for");
        }
    }

    async fn serve(&self, asked: Asked) -> io::Result<()> {
        let Asked { peer, request, mut answer } = asked;
        if request == wire::PORT {
            answer.write_all(&wire::port_answer(self.0.bulk.port())).await?;
            return answer.shutdown().await;
        }
        // Whoever hands a request on is the last that it has passed.
        let Some(request) = Request::decode(&request).filter(|request| request.passed.last() == Some(&peer)) else {
            answer.write_all(&Head::Malformed.encode()).await?;
            return answer.shutdown().await;
        };
        let (blobs, wanted) = (self.0.blobs.clone(), request.clone());
        let own = tokio::task::spawn_blocking(move || {
            let Some(whole) = blobs.whole(&wanted.blob())? else { return Ok(None) };
            let head = Head::Here { size: whole.size }.encode();
            let bytes = wanted.bytes().map(|bytes| bytes.start..bytes.end.min(whole.size));
            let encoded = match bytes.filter(|bytes| !bytes.is_empty()) {
                Some(bytes) => whole.encode(&bytes)?,
                None => Vec::new(),
            };
            io::Result::Ok(Some([head, encoded].concat()))
        });
        let mut answer = Reader { out: answer };
        match own.await.map_err(io::Error::other)?? {
            Some(bytes) => {
                for part in bytes.chunks(WRITTEN_BYTES) {
                    self.0.own_pace.take(part.len()).await;
                    answer.write(part).await?;
                }
            }
            None if request.holder == self.0.me => answer.write(&Head::Absent.encode()).await?,
            None => self.pass_on(request, &mut answer).await?,
        }
        answer.out.shutdown().await
    }

    /// Hands a request to the next hop and its answer back.
    async fn pass_on(&self, mut request: Request, answer: &mut Reader) -> io::Result<()> {
        let asker = request.passed[0];
        let Some(mut from) = self.next_hop(&mut request).await else {
            return answer.write(&Head::Unable.encode()).await;
        };
        let mut buffer = vec![0; WRITTEN_BYTES];
        loop {
            let count = timeout(STALLED, from.read(&mut buffer)).await.map_err(|_| io::ErrorKind::TimedOut)??;
            if count == 0 {
                return Ok(());
            }
            self.0.relay_pace.take(count).await;
            answer.write(&buffer[..count]).await?;
            *locked(&self.0.relayed).entry((asker, request.holder)).or_default() += count as u64;
        }
    }

    async fn next_hop(&self, request: &mut Request) -> Option<Answer> {
        if request.passed.len() >= PASSED_MAX || request.passed.contains(&self.0.me) {
            return None;
        }
        let (holder, passed) = (request.holder, request.passed.clone());
        let hops = self.0.agent.look(move |node| node.hops_to(&holder)).await.ok()?;
        request.passed.push(self.0.me);
        let fresh = hops.into_iter().filter(|hop| !passed.contains(hop));
        for hop in fresh.take(HOPS_TRIED) {
            if let Ok(answer) = self.ask(hop, request.encode()).await {
                return Some(answer);
            }
        }
        None
    }
}

/// A peer that reads an answer, and must go on reading.
struct Reader {
    out: AnswerWriter,
}

impl Reader {
    async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        timeout(STALLED, self.out.write_all(bytes)).await.map_err(|_| io::ErrorKind::TimedOut)?
    }
}

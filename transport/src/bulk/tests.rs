//! Two and three ends on the loopback interface.

use std::sync::atomic::{AtomicBool, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;

struct End {
    bulk: Bulk,
    asked: mpsc::Receiver<Asked>,
}

impl End {
    fn start(number: u8, admit: impl Fn(&PeerKey) -> bool + Send + Sync + 'static) -> End {
        let listen = BulkListen { ips: vec![Ipv4Addr::LOCALHOST.into()], port: 0 };
        let (bulk, asked) = Bulk::start([number; 32], &listen, Arc::new(admit)).expect("a free port");
        End { bulk, asked }
    }

    fn key(&self) -> PeerKey {
        self.bulk.0.me
    }

    fn at(&self) -> Vec<SocketAddr> {
        vec![(Ipv4Addr::LOCALHOST, self.bulk.port()).into()]
    }

    /// Answers the next request with so many bytes, all of them the first one of the request.
    async fn answer(&mut self, count: usize) -> PeerKey {
        let mut asked = self.asked.recv().await.expect("a request");
        let bytes = vec![asked.request[0]; count];
        asked.answer.write_all(&bytes).await.expect("the asker reads");
        asked.answer.shutdown().await.expect("the asker reads");
        asked.peer
    }
}

async fn read(mut answer: Answer) -> Vec<u8> {
    let mut bytes = Vec::new();
    answer.read_to_end(&mut bytes).await.expect("an answer");
    bytes
}

#[tokio::test]
async fn a_long_answer_comes_whole_and_the_connection_serves_both_ends() {
    let (mut a, mut b) = (End::start(1, |_| true), End::start(2, |_| true));
    let (a_key, b_key) = (a.key(), b.key());
    let (bulk, at) = (a.bulk.clone(), b.at());
    let asking = tokio::spawn(async move { read(bulk.ask(b_key, &at, b"x").await.expect("it is there")).await });
    assert_eq!(b.answer(5_000_000).await, a_key);
    assert_eq!(asking.await.expect("no panic"), vec![b'x'; 5_000_000]);
    assert!(a.bulk.held(&b_key).is_some());
    // The other way over the same connection: no address is needed.
    let bulk = b.bulk.clone();
    let asking = tokio::spawn(async move { read(bulk.ask(a_key, &[], b"y").await.expect("it is there")).await });
    assert_eq!(a.answer(1).await, b_key);
    assert_eq!(asking.await.expect("no panic"), b"y");
}

#[tokio::test]
async fn who_is_not_admitted_gets_nothing_also_on_a_connection_that_is_up() {
    let is_admitted = Arc::new(AtomicBool::new(true));
    let seen = Arc::clone(&is_admitted);
    let mut b = End::start(2, move |_| seen.load(Ordering::Relaxed));
    let a = End::start(1, |_| true);
    let (b_key, at) = (b.key(), b.at());
    let bulk = a.bulk.clone();
    let asking = tokio::spawn(async move { read(bulk.ask(b_key, &at, b"x").await.expect("it is there")).await });
    b.answer(1).await;
    assert_eq!(asking.await.expect("no panic"), b"x");
    is_admitted.store(false, Ordering::Relaxed);
    // On the connection that is up, then on a new one.
    for _ in 0..2 {
        let answered = match a.bulk.ask(b_key, &b.at(), b"x").await {
            Ok(mut answer) => answer.read_to_end(&mut Vec::new()).await.is_ok(),
            Err(_) => false,
        };
        assert!(!answered);
        assert!(b.asked.try_recv().is_err());
    }
}

#[tokio::test]
async fn another_key_at_the_address_is_no_answer_and_a_port_that_is_taken_is_named() {
    let (a, b, c) = (End::start(1, |_| true), End::start(2, |_| true), End::start(3, |_| true));
    let error = a.bulk.ask(c.key(), &b.at(), b"x").await.err().expect("b is not c");
    assert!(matches!(&error, AskError::Unreachable(why) if why.contains("127.0.0.1")), "{error}");
    let error = a.bulk.ask(c.key(), &[], b"x").await.err().expect("no address");
    assert!(matches!(&error, AskError::Unreachable(why) if why.contains("no address")), "{error}");
    let long = vec![0; MAX_REQUEST_BYTES + 1];
    assert!(matches!(a.bulk.ask(c.key(), &c.at(), &long).await, Err(AskError::TooLong)));

    let listen = BulkListen { ips: vec![Ipv4Addr::LOCALHOST.into()], port: b.bulk.port() };
    let taken = Bulk::start([4; 32], &listen, Arc::new(|_| true)).err().expect("b has it");
    assert!(matches!(taken, BulkError::PortTaken { port } if port == b.bulk.port()), "{taken}");
}

#[tokio::test]
async fn an_answer_that_is_not_wanted_any_more_ends_at_its_writer() {
    let (a, mut b) = (End::start(1, |_| true), End::start(2, |_| true));
    let answer = a.bulk.ask(b.key(), &b.at(), b"x").await.expect("it is there");
    let mut asked = b.asked.recv().await.expect("a request");
    drop(answer);
    let endless = vec![0; 1 << 20];
    let stopped = async { while asked.answer.write_all(&endless).await.is_ok() {} };
    timeout(Duration::from_secs(20), stopped).await.expect("the writer is told");
}

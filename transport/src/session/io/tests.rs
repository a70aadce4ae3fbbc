//! A session's task between two in-memory streams; the tests are the peer.

use futures::io::AsyncWriteExt;
use tokio::io::DuplexStream;
use tokio_util::compat::Compat;

use super::super::frame::push_frame;
use super::*;

/// What an in-memory stream holds, bytes: less than a frame, so that writers are in the midst of one.
const PIPE_BYTES: usize = 1000;
const TOKEN: u64 = 0x0102_0304_0506_0708;

/// A session that runs, and the peer's ends of its streams.
struct Ground {
    session: Arc<Session>,
    events: mpsc::Receiver<Event>,
    _control: Compat<DuplexStream>,
    data: Compat<DuplexStream>,
}

impl Ground {
    fn start() -> Ground {
        let session = Arc::new(Session::new(SessionId(1), PeerKey([1; 32]), true, String::new()));
        let (events, owner) = mpsc::channel(64);
        let ((control, near_control), (data, near_data)) =
            (tokio::io::duplex(PIPE_BYTES), tokio::io::duplex(PIPE_BYTES));
        let running = Run { session: Arc::clone(&session), events, after: None };
        tokio::spawn(run(running, near_control.compat(), near_data.compat(), async {}));
        Ground { session, events: owner, _control: control.compat(), data: data.compat() }
    }

    fn push(&self, frame: &[u8]) {
        self.session.data.outbox.push(frame.to_vec()).expect("room");
    }

    /// The next frame on the data stream.
    async fn frame(&mut self) -> Option<Vec<u8>> {
        read_frame(&mut self.data, MAX_FRAME_BYTES).await.expect("whole frames")
    }

    async fn write(&mut self, frames: &[&[u8]]) {
        self.data.write_all(&encoded(frames)).await.expect("a reader");
    }

    /// What the owner hears next of the data stream's frames, or the end.
    async fn heard(&mut self) -> Result<Vec<u8>, DownReason> {
        loop {
            match self.events.recv().await.expect("the session tells its end") {
                Event::Frame { bytes, stream: Stream::Data, .. } => return Ok(bytes),
                Event::SessionDown { reason, .. } => return Err(reason),
                _ => {}
            }
        }
    }

    fn offer(&self, token: u64, bytes: Vec<u8>) {
        self.session.detour_in.put((token, Answer(Box::pin(std::io::Cursor::new(bytes)))));
    }
}

fn encoded(frames: &[&[u8]]) -> Vec<u8> {
    let mut bytes = Vec::new();
    frames.iter().for_each(|frame| push_frame(frame, &mut bytes));
    bytes
}

#[tokio::test]
async fn a_session_that_is_closed_in_the_midst_of_a_frame_ends_with_whole_frames() {
    let mut ground = Ground::start();
    let long = vec![7; 100_000];
    ground.push(&long);
    let mut first = [0];
    ground.data.read_exact(&mut first).await.expect("the frame has begun");
    ground.push(b"next");
    ground.session.end(DownReason::Closed);
    let mut rest = first.to_vec();
    ground.data.read_to_end(&mut rest).await.expect("an end");
    assert!(rest == encoded(&[&long, b"next"]), "{} bytes came", rest.len());
}

#[tokio::test]
async fn frames_that_take_a_detour_keep_their_order_and_come_back() {
    let mut ground = Ground::start();
    let (to, from) = tokio::io::duplex(PIPE_BYTES);
    let mut from = from.compat();
    ground.push(b"before");
    assert_eq!(ground.frame().await.as_deref(), Some(&b"before"[..]));
    ground.session.detour_out.put((TOKEN, AnswerWriter::new(to)));
    assert_eq!(ground.frame().await, Some(Vec::new()));
    assert_eq!(ground.frame().await, Some(vec![1, 2, 3, 4, 5, 6, 7, 8]), "the mark, golden");
    let long = vec![7; 50_000];
    ground.push(&long);
    ground.push(b"last");
    for expected in [&long[..], b"last"] {
        assert_eq!(read_frame(&mut from, MAX_FRAME_BYTES).await.expect("whole").as_deref(), Some(expected));
    }
    assert!(read_frame(&mut from, MAX_FRAME_BYTES).await.expect("a good end").is_none(), "idle, it ends");
    ground.push(b"after");
    assert_eq!(ground.frame().await.as_deref(), Some(&b"after"[..]));
}

#[tokio::test]
async fn a_session_that_is_closed_on_a_detour_ends_it_with_whole_frames() {
    let mut ground = Ground::start();
    let (to, mut from) = tokio::io::duplex(PIPE_BYTES);
    ground.session.detour_out.put((TOKEN, AnswerWriter::new(to)));
    let long = vec![7; 50_000];
    ground.push(&long);
    let mut bytes = vec![0; 1];
    tokio::io::AsyncReadExt::read_exact(&mut from, &mut bytes).await.expect("the frame has begun");
    ground.session.end(DownReason::Closed);
    tokio::io::AsyncReadExt::read_to_end(&mut from, &mut bytes).await.expect("an end");
    assert!(bytes == encoded(&[&long]));
    assert_eq!((ground.frame().await, ground.frame().await.map(|token| token.len())), (Some(Vec::new()), Some(8)));
    assert_eq!(ground.frame().await, None);
}

#[tokio::test]
async fn what_comes_over_the_bulk_plane_is_heard_where_the_mark_stands() {
    let mut ground = Ground::start();
    ground.offer(3, encoded(&[b"of an earlier request"]));
    ground.write(&[b"a", b"", &TOKEN.to_be_bytes(), b"d"]).await;
    assert_eq!(ground.heard().await, Ok(b"a".to_vec()));
    tokio::task::yield_now().await;
    ground.offer(TOKEN, encoded(&[b"b", b"c"]));
    for expected in [b"b", b"c", b"d"] {
        assert_eq!(ground.heard().await, Ok(expected.to_vec()));
    }
    assert_eq!(ground.session.data.bytes_in.load(Ordering::Relaxed), 4);
}

#[tokio::test]
async fn a_detour_that_breaks_or_was_not_asked_for_ends_the_session() {
    let mut ground = Ground::start();
    ground.write(&[b"", &TOKEN.to_be_bytes()]).await;
    assert!(matches!(ground.heard().await, Err(DownReason::Lost(_))), "nothing was asked for");

    let mut ground = Ground::start();
    ground.offer(TOKEN, vec![5, 1, 2]);
    ground.write(&[b"", &TOKEN.to_be_bytes()]).await;
    assert!(matches!(ground.heard().await, Err(DownReason::Lost(_))), "half a frame");

    let mut ground = Ground::start();
    ground.write(&[b"", b"no token"]).await;
    let malformed = ground.heard().await;
    assert!(matches!(malformed, Err(DownReason::Lost(_))), "eight bytes are a token");
    let mut ground = Ground::start();
    ground.write(&[b"", b"short"]).await;
    assert_eq!(ground.heard().await, Err(DownReason::Malformed));
}

#[tokio::test]
async fn a_mebibyte_without_a_pause_is_told() {
    let mut ground = Ground::start();
    let frame = vec![0; 200_000];
    ground.write(&[&frame[..]; 7]).await;
    let mut heard = Vec::new();
    while heard.len() < 8 {
        match ground.events.recv().await.expect("the session runs") {
            Event::Frame { .. } => heard.push("frame"),
            Event::Burst { .. } => heard.push("burst"),
            _ => {}
        }
    }
    assert_eq!(heard.iter().position(|event| *event == "burst"), Some(6), "{heard:?}");
}

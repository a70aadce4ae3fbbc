//! Threads that judge waiting changes ahead of the engine, which has none of its own.

use std::sync::atomic::{AtomicUsize, Ordering};

use crdt::sync::{Engine, Foresight, Input, Judged, LinkFrame};

use crate::store::Writer;

/// Most frames that are taken together.
pub const FRAMES_MAX: usize = 64;
/// Most bytes of frames that are taken together, the last one aside.
pub const FRAMES_BYTES_MAX: usize = 256 * 1024;
/// Most threads that judge.
const THREADS_MAX: usize = 4;

/// How many threads this machine should judge on, the calling one included.
pub fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from).min(THREADS_MAX)
}

/// Frames that wait, up to the limits of what is taken together.
#[derive(Debug, Default)]
pub struct Gathered {
    frames: Vec<LinkFrame>,
    bytes: usize,
}

impl Gathered {
    /// Adds a frame behind the others.
    pub fn push(&mut self, frame: LinkFrame) {
        self.bytes += frame.bytes.len();
        self.frames.push(frame);
    }

    /// Whether no more should be added.
    pub fn is_full(&self) -> bool {
        self.frames.len() >= FRAMES_MAX || self.bytes >= FRAMES_BYTES_MAX
    }

    /// Whether there is nothing.
    pub fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// The next input of this engine, judged on that many threads; a batch that the writer holds is applied after it.
    /// Nothing else may be given to the engine before it.
    pub fn into_input(self, engine: &Engine, store: &Writer, threads: usize) -> Input {
        let Gathered { frames, .. } = self;
        let judged = if threads > 1 { judge(&engine.foresee(&frames), store, threads) } else { Vec::new() };
        store.begin();
        Input::Frames { frames, judged }
    }
}

/// Judges what can be judged apart; nothing where that is one document, which the engine does as well by itself.
fn judge(foresight: &Foresight<'_>, store: &Writer, threads: usize) -> Vec<Judged> {
    let documents = foresight.documents();
    if documents < 2 {
        return Vec::new();
    }
    let next = AtomicUsize::new(0);
    let work = || {
        let number = || Some(next.fetch_add(1, Ordering::Relaxed)).filter(|number| *number < documents);
        let judged = std::iter::from_fn(number).map(|number| foresight.judge(number, store)).collect::<Vec<Judged>>();
        // This core is free now: the batch before is applied while the engine takes these frames.
        store.begin();
        judged
    };
    std::thread::scope(|scope| {
        let others: Vec<_> = (1..threads.min(documents)).map(|_| scope.spawn(work)).collect();
        let mut judged = work();
        // What a thread that panicked has not judged the engine judges.
        judged.extend(others.into_iter().flat_map(|other| other.join().unwrap_or_default()));
        judged
    })
}

//! The frames waiting to be written on one stream, within a byte budget.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::frame::{FRAME_OVERHEAD_BYTES, MAX_FRAME_BYTES, push_frame};

/// Most bytes waiting on one stream, frames and their overhead, including what is being written right now. One frame of
/// the greatest length fits.
pub const WRITE_BUDGET_BYTES: usize = MAX_FRAME_BYTES + FRAME_OVERHEAD_BYTES;
/// Frames are gathered into one write up to about this many bytes.
const GATHER_BYTES: usize = 64 * 1024;

/// Why a frame was not taken. It was dropped; nothing else changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SendError {
    /// The stream's queue is over its budget. Wait for `Writable`.
    #[error("the stream's queue is full")]
    Full,
    /// The session is over, or never was.
    #[error("the session is closed")]
    Closed,
    /// The frame is longer than [`MAX_FRAME_BYTES`].
    #[error("the frame is above {MAX_FRAME_BYTES} bytes")]
    TooLong,
    /// The frame is empty: on the data stream that is a mark of the transport's own.
    #[error("the frame is empty")]
    Empty,
}

#[derive(Debug, Default)]
struct State {
    queue: VecDeque<Vec<u8>>,
    /// What the queue and the write under way cost.
    cost: usize,
    /// The owner waits for a `Writable`.
    owed: bool,
    closed: bool,
}

/// One stream's queue, shared by the owner (who pushes) and the session's task (which writes).
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    state: Mutex<State>,
    filled: Notify,
}

impl Outbox {
    /// Queues a frame.
    pub(crate) fn push(&self, frame: Vec<u8>) -> Result<(), SendError> {
        if frame.len() > MAX_FRAME_BYTES {
            return Err(SendError::TooLong);
        }
        if frame.is_empty() {
            return Err(SendError::Empty);
        }
        self.push_unchecked(frame)
    }

    /// As [`push`](Self::push), but takes a frame of any length into an empty queue: the tests' hostile peer.
    pub(crate) fn push_unchecked(&self, frame: Vec<u8>) -> Result<(), SendError> {
        let mut state = self.lock();
        if state.closed {
            return Err(SendError::Closed);
        }
        let cost = state.cost + frame.len() + FRAME_OVERHEAD_BYTES;
        if cost > WRITE_BUDGET_BYTES && state.cost > 0 {
            state.owed = true;
            return Err(SendError::Full);
        }
        state.cost = cost;
        state.owed |= cost > WRITE_BUDGET_BYTES / 2;
        state.queue.push_back(frame);
        drop(state);
        self.filled.notify_one();
        Ok(())
    }

    /// Waits for frames and moves them, encoded, into the empty `buffer`. Returns their cost, for [`written`](Self::written).
    pub(crate) async fn fill(&self, buffer: &mut Vec<u8>) -> usize {
        loop {
            let cost = self.fill_now(buffer);
            if cost > 0 {
                return cost;
            }
            self.filled.notified().await;
        }
    }

    /// Moves what waits, as [`fill`](Self::fill); 0: nothing waits.
    pub(crate) fn fill_now(&self, buffer: &mut Vec<u8>) -> usize {
        let mut state = self.lock();
        let mut cost = 0;
        while buffer.len() < GATHER_BYTES {
            let Some(frame) = state.queue.pop_front() else { break };
            push_frame(&frame, buffer);
            cost += frame.len() + FRAME_OVERHEAD_BYTES;
        }
        cost
    }

    /// What `fill` moved is on its way. Returns the size of frame that fits now, if the owner is to be told.
    pub(crate) fn written(&self, cost: usize) -> Option<usize> {
        let mut state = self.lock();
        state.cost -= cost;
        if !state.owed || state.cost > WRITE_BUDGET_BYTES / 2 {
            return None;
        }
        state.owed = false;
        Some((WRITE_BUDGET_BYTES - state.cost).saturating_sub(FRAME_OVERHEAD_BYTES))
    }

    /// Takes no more frames; what waits stays.
    pub(crate) fn close(&self) {
        self.lock().closed = true;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No code that can panic runs under the lock, and the state is valid between any two lines of it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_budget_holds_and_writable_comes_below_half() {
        let outbox = Outbox::default();
        let frame = vec![0; 60_000];
        let taken = (0..10).take_while(|_| outbox.push(frame.clone()).is_ok()).count();
        assert_eq!(taken, 4);
        assert_eq!(outbox.push(frame.clone()), Err(SendError::Full));

        let mut told = Vec::new();
        for _ in 0..4 {
            let mut buffer = Vec::new();
            let cost = outbox.fill_now(&mut buffer);
            if cost == 0 {
                break;
            }
            told.push(outbox.written(cost));
        }
        let room = WRITE_BUDGET_BYTES - 2 * 60_003 - FRAME_OVERHEAD_BYTES;
        assert_eq!(told, [Some(room), None], "gathered two by two, told once");
    }

    #[test]
    fn what_writable_says_is_taken() {
        let outbox = Outbox::default();
        for _ in 0..5 {
            let _ = outbox.push(vec![0; 50_000]);
        }
        assert_eq!(outbox.push(vec![0; 200_000]), Err(SendError::Full));
        let mut bytes = None;
        while bytes.is_none() {
            let cost = outbox.fill_now(&mut Vec::new());
            bytes = outbox.written(cost);
        }
        assert_eq!(outbox.push(vec![0; bytes.expect("told")]), Ok(()));
    }

    #[test]
    fn a_small_frame_costs_more_than_its_bytes() {
        let outbox = Outbox::default();
        let taken = (0..200_000).take_while(|_| outbox.push(vec![1]).is_ok()).count();
        assert_eq!(taken, WRITE_BUDGET_BYTES / (1 + FRAME_OVERHEAD_BYTES));
    }

    #[test]
    fn limits_and_closing() {
        let outbox = Outbox::default();
        assert_eq!(outbox.push(vec![0; MAX_FRAME_BYTES + 1]), Err(SendError::TooLong));
        assert_eq!(outbox.push(vec![0; MAX_FRAME_BYTES]), Ok(()));
        assert_eq!(outbox.push(Vec::new()), Err(SendError::Empty));
        outbox.close();
        assert_eq!(outbox.push(vec![1]), Err(SendError::Closed));
    }
}

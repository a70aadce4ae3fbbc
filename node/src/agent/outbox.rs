//! Frames between the engine and one stream of the mesh.
//!
//! The engine may have [`WINDOW_BYTES`] on their way. What the mesh takes at once is credited at once; what it does not
//! waits here, and is credited when the mesh has taken it. So nothing here grows beyond the window.

use std::collections::VecDeque;

/// What the engine may have on its way on a stream before it is credited.
pub(super) const WINDOW_BYTES: usize = 256 * 1024;

/// Frames that the mesh has not taken yet, and the bytes that the engine is owed.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    frames: VecDeque<Vec<u8>>,
    owed: usize,
}

/// Whether the mesh took a frame.
pub(super) enum Taken {
    Yes,
    Full(Vec<u8>),
    Closed,
}

impl Outbox {
    /// Adds a frame and sends what can be sent.
    pub(super) fn push(&mut self, frame: Vec<u8>, send: impl FnMut(Vec<u8>) -> Taken) {
        self.frames.push_back(frame);
        self.flush(send);
    }

    /// Sends what can be sent.
    pub(super) fn flush(&mut self, mut send: impl FnMut(Vec<u8>) -> Taken) {
        while let Some(frame) = self.frames.pop_front() {
            let bytes = frame.len();
            match send(frame) {
                Taken::Yes => self.owed += bytes,
                Taken::Full(frame) => {
                    self.frames.push_front(frame);
                    return;
                }
                Taken::Closed => return,
            }
        }
    }

    /// The bytes that the engine is to be credited with, once they are worth an input.
    pub(super) fn take_credit(&mut self) -> Option<usize> {
        (self.owed >= WINDOW_BYTES / 4).then(|| std::mem::take(&mut self.owed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_taken_waits_in_order_and_is_credited_later() {
        let mut outbox = Outbox::default();
        let mut sent = Vec::new();
        outbox.push(vec![1; WINDOW_BYTES / 4], |_| Taken::Yes);
        assert_eq!(outbox.take_credit(), Some(WINDOW_BYTES / 4));
        outbox.push(vec![2; 10], Taken::Full);
        outbox.push(vec![3; 10], Taken::Full);
        assert_eq!(outbox.take_credit(), None);
        outbox.flush(|frame| {
            sent.push(frame[0]);
            Taken::Yes
        });
        assert_eq!(sent, [2, 3]);
    }
}

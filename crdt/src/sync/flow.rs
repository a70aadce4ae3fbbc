//! How much a link may have on its way: what the receiver allows, and what the way itself takes without a queue.
//!
//! The receiver says how many bytes of payload it has handled (`Credit`). From that the sender measures the rate at which
//! they arrive and the shortest round trip, and keeps no more on their way than those need and 10 ms, so that what is urgent
//! finds a short queue. The rules are those of BBR (Cardwell et al., ACM Queue 14(5), 2016) in a small form: the greatest
//! rate of late, the least round trip of late, measured anew now and then with little on its way. Growth from the start
//! ends when a round trip shows a queue, as in HyStart (Ha, Rhee 2011).

use std::collections::VecDeque;

use crate::id::Time;

/// What a receiver allows beyond what it has handled, bytes.
pub(super) const CREDIT_BYTES: u64 = 4 << 20;
/// What may be sent before the first credit, bytes.
const CREDIT_BYTES_FIRST: u64 = 1 << 20;
/// A receiver tells after so many bytes: less than what may be on its way at least, or both would wait.
const TELL_BYTES: u64 = WINDOW_MIN / 2;
/// What may be on its way before anything is measured, bytes.
const WINDOW_FIRST: u64 = 128 << 10;
/// What may be on its way at least, bytes.
const WINDOW_MIN: u64 = 8 << 10;
/// How long what is on its way may take beyond a round trip, microseconds.
const QUEUE_MICROS: u64 = 10_000;
/// How much longer where no queue is seen.
const PROBE_MICROS: u64 = 15_000;
/// What waits for the repair of losses is no queue, up to so many round trips.
const REPAIR_ROUND_TRIPS: u64 = 2;
/// What is sent leaves at this share of the rate, percent: while a link starts, and later.
const START_GAIN: u64 = 250;
const PACE_GAIN: u64 = 125;
/// A frame takes so long on the link, microseconds...
const FRAME_MICROS: u64 = 20_000;
/// ... but has so many bytes at least and at most.
const FRAME_BYTES: (u64, u64) = (4 << 10, 64 << 10);
/// Rates are of the last second, or of the last 8 round trips.
const RATE_MICROS: u64 = 1_000_000;
/// After so long without a frame, a rate is measured from the next one on.
const IDLE_MICROS: u64 = 100_000;
/// A shortest round trip is believed so long, microseconds.
const RTT_MICROS: u64 = 10_000_000;
/// Most frames of which it is kept when they were sent.
const SENT_MAX: usize = 4096;
/// A peer that takes and acknowledges nothing for so long is given up, milliseconds.
pub(super) const STALL_MS: u64 = 30_000;

/// What came from a peer, and what it was told of that.
#[derive(Debug, Clone, Default)]
pub(super) struct Inflow {
    received: u64,
    told: u64,
}

impl Inflow {
    /// Payload came. What to tell, if it is time: how much came, and how much may come.
    pub(super) fn received(&mut self, bytes: usize) -> Option<(u64, u64)> {
        self.received += bytes as u64;
        if self.received - self.told < TELL_BYTES {
            return None;
        }
        self.told = self.received;
        Some((self.received, self.received + CREDIT_BYTES))
    }
}

/// A frame that is not acknowledged.
#[derive(Debug, Clone, Copy)]
struct Sent {
    bytes: u64,
    /// All bytes up to its end.
    end: u64,
    at: Time,
    /// What was acknowledged when it was sent, and since when that was so.
    acked: u64,
    acked_at: Time,
    /// Whether there was as much on its way as may be: only then its rate is the link's.
    is_full: bool,
}

/// What was sent to a peer, and what the way to it takes.
#[derive(Debug, Clone)]
pub(super) struct Outflow {
    sent: u64,
    acked: u64,
    acked_at: Time,
    limit: u64,
    frames: VecDeque<Sent>,
    window: u64,
    /// Whether the window still grows with all that is acknowledged, until a queue is seen.
    is_starting: bool,
    /// Rates of late, bytes a second, each greater than all after it.
    rates: VecDeque<(Time, u64)>,
    /// The last of these of which it is known that the link took no more, bytes a second.
    delivery_rate: Option<u64>,
    /// The shortest round trip of late, microseconds, and when it was measured.
    rtt: Option<(u64, Time)>,
    /// Since when little is sent, so that the round trip is measured without a queue.
    drains_since: Option<Time>,
    /// When what was sent has left, at a little more than the rate: no burst makes a queue.
    paced_until: Time,
    /// Whether packets are lost and sent again on the way, for which what came after them waits.
    is_lossy: bool,
}

impl Outflow {
    pub(super) fn new(now: Time) -> Outflow {
        Outflow {
            sent: 0,
            acked: 0,
            acked_at: now,
            limit: CREDIT_BYTES_FIRST,
            frames: VecDeque::new(),
            window: WINDOW_FIRST,
            is_starting: true,
            rates: VecDeque::new(),
            delivery_rate: None,
            rtt: None,
            drains_since: None,
            paced_until: now,
            is_lossy: false,
        }
    }

    fn on_its_way(&self) -> u64 {
        self.sent.saturating_sub(self.acked)
    }

    /// Whether another frame may be sent, of at most [`Outflow::frame_bytes`].
    pub(super) fn may_send(&self, now: Time) -> bool {
        self.has_room() && self.paced_until <= now.plus_micros(QUEUE_MICROS)
    }

    fn has_room(&self) -> bool {
        let window = if self.drains_since.is_some() { WINDOW_MIN } else { self.window };
        self.sent < self.limit && self.on_its_way() < window
    }

    /// When more may be sent, where only that is waited for.
    pub(super) fn paced_at(&self) -> Option<Time> {
        self.has_room().then(|| Time(self.paced_until.0.saturating_sub(QUEUE_MICROS)))
    }

    /// The longest frame: 20 ms of the rate.
    pub(super) fn frame_bytes(&self) -> usize {
        let (least, most) = FRAME_BYTES;
        let bytes = self.rate().map_or(most / 4, |rate| rate * FRAME_MICROS / 1_000_000);
        usize::try_from(bytes.clamp(least, most)).unwrap_or(usize::MAX)
    }

    /// The rate at which frames arrive, bytes a second, where it is known.
    pub(super) fn rate(&self) -> Option<u64> {
        self.rates.front().map(|(_, rate)| *rate)
    }

    /// The rate that the link was last seen to take while there was more to send, bytes a second.
    pub(super) fn delivery_rate(&self) -> Option<u64> {
        self.delivery_rate
    }

    /// Whether the way loses packets of late.
    pub(super) fn set_lossy(&mut self, is_lossy: bool) {
        self.is_lossy = is_lossy;
    }

    /// A frame is sent.
    pub(super) fn sent(&mut self, now: Time, bytes: usize) {
        let is_idle = self.on_its_way() < TELL_BYTES; // that much a receiver has not told yet
        if is_idle && self.frames.back().is_none_or(|last| last.at.plus_micros(IDLE_MICROS) < now) {
            self.acked_at = now; // the rate is that of what is sent from now on
        }
        self.sent += bytes as u64;
        if let Some(rate) = self.rate() {
            let gain = if self.is_starting { START_GAIN } else { PACE_GAIN };
            let takes = bytes as u64 * 100_000_000 / (rate.saturating_mul(gain));
            self.paced_until = self.paced_until.max(now).plus_micros(takes);
        }
        let is_full = self.on_its_way() * 2 >= self.window && self.drains_since.is_none();
        let sent =
            Sent { bytes: bytes as u64, end: self.sent, at: now, acked: self.acked, acked_at: self.acked_at, is_full };
        if self.frames.len() < SENT_MAX {
            self.frames.push_back(sent);
        }
    }

    /// The receiver has handled so many bytes, and allows so many.
    pub(super) fn credited(&mut self, now: Time, received: u64, limit: u64) {
        let received = received.min(self.sent); // no peer can have more
        self.limit = limit.max(self.limit).min(self.sent.saturating_add(CREDIT_BYTES));
        if received <= self.acked {
            return;
        }
        let newly = received - self.acked;
        (self.acked, self.acked_at) = (received, now);
        let mut last = None;
        while let Some(frame) = self.frames.pop_front_if(|frame| frame.end <= received) {
            last = Some(frame);
        }
        let Some(frame) = last else { return };
        let rtt = now.0.saturating_sub(frame.at.0).max(1);
        self.note_rtt(now, frame, rtt);
        self.note_rate(now, frame, rtt);
        self.set_window(newly, frame, rtt);
    }

    fn note_rtt(&mut self, now: Time, frame: Sent, rtt: u64) {
        if self.drains_since.is_some_and(|since| frame.at >= since) {
            self.drains_since = None;
            self.rtt = None;
        }
        match self.rtt {
            Some((least, _)) if rtt > least => {}
            _ => self.rtt = Some((rtt, now)),
        }
        let is_old = self.rtt.is_some_and(|(_, at)| at.plus_micros(RTT_MICROS) < now);
        if is_old && self.drains_since.is_none() {
            self.drains_since = Some(now);
        }
    }

    fn note_rate(&mut self, now: Time, frame: Sent, rtt: u64) {
        let elapsed = now.0.saturating_sub(frame.acked_at.0).max(rtt).max(1);
        let rate = self.acked.saturating_sub(frame.acked).saturating_mul(1_000_000) / elapsed;
        if !frame.is_full && self.rate().is_none_or(|known| rate <= known) {
            return; // there was not more to send
        }
        while self.rates.back().is_some_and(|(_, other)| *other <= rate) {
            self.rates.pop_back();
        }
        self.rates.push_back((now, rate.max(1)));
        let kept = RATE_MICROS.max(self.rtt.map_or(0, |(least, _)| 8 * least));
        while self.rates.len() > 1 && self.rates.front().is_some_and(|(at, _)| at.plus_micros(kept) < now) {
            self.rates.pop_front();
        }
        if frame.is_full && !self.is_starting {
            self.delivery_rate = self.rate();
        }
    }

    fn set_window(&mut self, newly: u64, frame: Sent, rtt: u64) {
        let (Some((least, _)), Some(rate)) = (self.rtt, self.rate()) else { return };
        let waits = rtt.saturating_sub(least);
        let repairs = if self.is_lossy { waits.min(REPAIR_ROUND_TRIPS * least) } else { 0 };
        let queue = waits - repairs;
        if self.is_starting {
            self.window = (self.window + newly).min(CREDIT_BYTES);
            // The first frames left at once, and queued behind each other.
            self.is_starting = frame.acked == 0 || queue <= 2 * QUEUE_MICROS;
        }
        if !self.is_starting {
            // Where no queue is seen there may be room for more.
            let takes = frame.bytes * 1_000_000 / rate; // the frame itself, which is no queue
            let more = if queue.saturating_sub(takes) < QUEUE_MICROS / 2 { PROBE_MICROS } else { 0 };
            let needed = rate.saturating_mul(least + repairs + QUEUE_MICROS + more) / 1_000_000;
            self.window = needed.clamp(WINDOW_MIN, CREDIT_BYTES);
        }
    }

    /// Whether the peer takes and acknowledges nothing.
    pub(super) fn is_stalled(&self, now: Time) -> bool {
        self.stalls_at().is_some_and(|at| at <= now)
    }

    /// When a peer is given up that has taken more than a receiver leaves untold, and acknowledges nothing.
    pub(super) fn stalls_at(&self) -> Option<Time> {
        let oldest = self.frames.front()?;
        (self.on_its_way() >= WINDOW_MIN).then(|| oldest.at.max(self.acked_at).plus_millis(STALL_MS))
    }
}

#[cfg(test)]
mod tests;

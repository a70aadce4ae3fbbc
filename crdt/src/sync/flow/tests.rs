use super::*;

const PACKET_BYTES: u64 = 1200;

/// A link with a rate and a delay, one way, a receiver that handles at once, and a sender that always has more.
struct Line {
    rate: u64,
    delay: u64,
    out: Outflow,
    inflow: Inflow,
    now: u64,
    free_at: u64,
    /// A packet of so many is lost; none: no packet is.
    loses_one_in: Option<u64>,
    random: u64,
    /// All before it has arrived, and what was sent earlier comes first.
    in_order_at: u64,
    arriving: VecDeque<(u64, u64)>,
    credits: VecDeque<(u64, u64, u64)>,
    delivered: u64,
    longest_queue: u64,
}

impl Line {
    fn new(rate: u64, delay: u64) -> Line {
        let now = 1_000_000;
        let (arriving, credits) = (VecDeque::new(), VecDeque::new());
        let (out, inflow) = (Outflow::new(Time(now)), Inflow::default());
        Line {
            rate,
            delay,
            out,
            inflow,
            now,
            free_at: 0,
            loses_one_in: None,
            random: 1,
            in_order_at: 0,
            arriving,
            credits,
            delivered: 0,
            longest_queue: 0,
        }
    }

    /// When a frame has arrived that leaves now: a packet that is lost is sent again after a round trip, and all wait for it.
    fn arrival(&mut self, bytes: u64) -> u64 {
        let packets = bytes.div_ceil(PACKET_BYTES);
        let is_lost = self.loses_one_in.is_some_and(|one_in| {
            (0..packets).any(|_| {
                self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (self.random >> 33).is_multiple_of(one_in)
            })
        });
        let repair = if is_lost { 2 * self.delay + self.delay / 4 } else { 0 };
        self.in_order_at = self.in_order_at.max(self.free_at + self.delay + repair);
        self.in_order_at
    }

    fn run(&mut self, micros: u64) {
        let end = self.now + micros;
        while self.now < end {
            while self.out.may_send(Time(self.now)) {
                let bytes = self.out.frame_bytes() as u64;
                self.out.sent(Time(self.now), bytes as usize);
                self.longest_queue = self.longest_queue.max(self.free_at.saturating_sub(self.now));
                self.free_at = self.free_at.max(self.now) + bytes * 1_000_000 / self.rate;
                let at = self.arrival(bytes);
                self.arriving.push_back((at, bytes));
            }
            let (arrives, credited) =
                (self.arriving.front().map(|(at, _)| *at), self.credits.front().map(|(at, ..)| *at));
            let paced = self.out.paced_at().map(|Time(at)| at);
            let next = arrives.into_iter().chain(credited).chain(paced).min();
            self.now = next.expect("something is on its way").max(self.now);
            if let Some((_, bytes)) = self.arriving.pop_front_if(|(at, _)| *at <= self.now) {
                self.delivered += bytes;
                if let Some((received, limit)) = self.inflow.received(bytes as usize) {
                    self.credits.push_back((self.now + self.delay, received, limit));
                }
            }
            if let Some((_, received, limit)) = self.credits.pop_front_if(|(at, _, _)| *at <= self.now) {
                self.out.credited(Time(self.now), received, limit);
            }
        }
    }

    /// The share of the link that was used, and the longest queue, milliseconds, in the next `micros`.
    fn measured(&mut self, micros: u64) -> (f64, u64) {
        (self.delivered, self.longest_queue) = (0, 0);
        let start = self.now;
        self.run(micros);
        let could = self.rate * (self.now - start) / 1_000_000;
        (self.delivered as f64 / could as f64, self.longest_queue / 1000)
    }
}

#[test]
fn a_link_is_filled_and_no_queue_grows() {
    for (megabits, delay_ms) in [(1u64, 50u64), (20, 1), (20, 25), (20, 100), (100, 25), (1000, 1)] {
        let mut line = Line::new(megabits * 125_000, delay_ms * 1000);
        line.run(3_000_000);
        let (used, queue) = line.measured(40_000_000);
        let allowed = if megabits == 1 { 150 } else { 60 }; // 8 KiB and a frame of 4 KiB take their time at 1 Mbit/s
        assert!(used > 0.9, "{megabits} Mbit/s, {delay_ms} ms: {used} used");
        assert!(queue <= allowed, "{megabits} Mbit/s, {delay_ms} ms: {queue} ms");
    }
}

#[test]
fn a_link_that_changes_its_rate_is_followed() {
    let mut line = Line::new(20 * 125_000, 25_000);
    line.run(3_000_000);
    line.rate /= 4;
    line.run(3_000_000);
    let (used, queue) = line.measured(5_000_000);
    assert!(used > 0.85 && queue <= 60, "slower: {used} used, {queue} ms");
    line.rate *= 8;
    line.run(3_000_000);
    let (used, queue) = line.measured(5_000_000);
    assert!(used > 0.85 && queue <= 45, "faster: {used} used, {queue} ms");
}

#[test]
fn what_waits_for_repairs_is_no_queue_once_that_is_known() {
    let used = |is_known: bool| {
        let mut line = Line::new(100 * 125_000, 50_000);
        line.loses_one_in = Some(100);
        line.out.set_lossy(is_known);
        line.run(10_000_000);
        line.measured(20_000_000)
    };
    let (without, _) = used(false);
    let (with, queue) = used(true);
    assert!(without < 0.7, "{without}: it looks like a queue");
    assert!(with > 0.85, "{with}");
    assert!(queue <= 200, "two round trips: {queue} ms");
}

#[test]
fn the_rate_of_a_link_is_known_once_it_was_filled() {
    let mut line = Line::new(20 * 125_000, 25_000);
    let (now, bytes) = (Time(line.now), 5_000);
    line.out.sent(now, bytes);
    line.out.credited(now.plus_millis(50), bytes as u64, CREDIT_BYTES);
    assert_eq!(line.out.delivery_rate(), None, "there was not more to send");
    let mut line = Line::new(20 * 125_000, 25_000);
    line.run(5_000_000);
    let share = line.out.delivery_rate().map(|rate| rate as f64 / line.rate as f64);
    assert!(share.is_some_and(|share| (0.9..1.15).contains(&share)), "{share:?}");
}

#[test]
fn credits_that_lie_allow_no_more() {
    let now = Time(1);
    let mut out = Outflow::new(now);
    out.sent(now, 1000);
    out.credited(Time(2), u64::MAX, u64::MAX);
    assert_eq!((out.acked, out.limit), (1000, 1000 + CREDIT_BYTES));
    out.credited(Time(3), 0, 0);
    assert_eq!(out.acked, 1000);
    assert!(out.may_send(Time(3)));
}

#[test]
fn who_never_acknowledges_is_given_up() {
    let mut out = Outflow::new(Time(0));
    assert_eq!(out.stalls_at(), None);
    while out.may_send(Time(5)) {
        out.sent(Time(5), 4096);
    }
    let at = out.stalls_at().unwrap();
    assert_eq!(at, Time(5).plus_millis(STALL_MS));
    assert!(!out.is_stalled(Time(at.0 - 1)) && out.is_stalled(at));
    out.credited(Time(at.0 - 1), 4096, 1 << 20);
    assert!(!out.is_stalled(at));
    out.credited(at, out.sent - 4096, 1 << 20);
    assert_eq!(out.stalls_at(), None, "so little may be untold");
}

#[test]
fn a_receiver_tells_now_and_then() {
    let mut inflow = Inflow::default();
    assert_eq!(inflow.received(4095), None);
    assert_eq!(inflow.received(1), Some((4096, 4096 + CREDIT_BYTES)));
    assert_eq!(inflow.received(4095), None);
    assert_eq!(inflow.received(9_000), Some((17_191, 17_191 + CREDIT_BYTES)));
}

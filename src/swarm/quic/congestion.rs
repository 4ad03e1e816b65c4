//! Cubic that knows a packet lost on the way from a queue that is full.
//!
//! Cubic cuts its window at every loss. A line that loses 1% of its packets by itself therefore gets 3% of 100 Mbit/s at 50 ms.
//! Quinn's BBR fills such a line, but sends twice what fits (measured: half of its packets lost), at everybody's cost. So here
//! a loss counts where a queue shows: in round trips that have grown, in a share that no line loses by itself, or as the mark
//! of a router. All else is Cubic, which is what other traffic expects to share with. The idea is TCP Veno's (Fu and Liew, 2003).

use std::{
    any::Any,
    sync::Arc,
    time::{Duration, Instant},
};

use quinn::congestion::{Controller, ControllerFactory, ControllerMetrics};

use super::cubic::Cubic;

/// Acknowledgements of which the least round trip is taken for the present one: one that a host sent late says nothing (RFC
/// 9406 takes as many).
const SAMPLES: usize = 8;
/// A loss counts when round trips are longer than the shortest by half. After the cut to 0.7 of such a window the line is still full.
const GROWN: f64 = 0.5;
/// What does not count as growth: hosts are late by so much.
const SLACK: Duration = Duration::from_millis(4);
/// The first growth of a window ends when round trips are longer by an eighth, within these bounds (RFC 9406, HyStart++).
const START_GROWN: u32 = 8;
const START_SLACK: [Duration; 2] = [Duration::from_millis(4), Duration::from_millis(16)];
/// So many round trips in a row have to be longer by that: one that a host made longer is soon followed by a short one, and the
/// growth goes on (RFC 9406 takes five).
const SURE: u64 = 3;
/// The share of packets that a line may lose by itself. When more are lost than chance makes of it, four standard deviations
/// and one packet more, losses count whatever the round trips say: the queue is too short to be seen in them.
const LOSSY: f64 = 0.02;
/// Packets of 1,200 bytes in flight at first: what Chromium and quiche send, two round trips nearer to a full line than the ten
/// of RFC 9002.
const INITIAL_WINDOW: u64 = 32 * 1_200;

/// What the round trips and losses of a connection say about the queue on its way.
#[derive(Clone, Debug, Default)]
struct Judge {
    /// The shortest round trip of all.
    shortest: Option<Duration>,
    /// When the newest packet of the acknowledgement that is being read was sent.
    newest: Option<Instant>,
    recent: [Option<Duration>; SAMPLES],
    next: usize,
    /// Packets sent before this belong to the last round trip.
    round_began: Option<Instant>,
    /// Round trips so far.
    round: u64,
    /// Bytes of this round trip and of the last: acknowledged, lost.
    rounds: [[u64; 2]; 2],
}

impl Judge {
    /// A packet of an acknowledgement.
    fn acknowledged(&mut self, now: Instant, sent: Instant, bytes: u64) {
        self.newest = self.newest.max(Some(sent));
        if self.round_began.is_none_or(|began| sent >= began) {
            self.round_began = Some(now);
            self.round += 1;
            self.rounds = [[0, 0], self.rounds[0]];
        }
        self.rounds[0][0] += bytes;
    }

    /// The acknowledgement was read. Of its packets the newest tells the round trip; the others waited for it.
    fn read(&mut self, now: Instant) {
        let Some(sent) = self.newest.take() else { return };
        let trip = now.saturating_duration_since(sent);
        self.shortest = Some(self.shortest.map_or(trip, |shortest| shortest.min(trip)));
        self.recent[self.next] = Some(trip);
        self.next = (self.next + 1) % SAMPLES;
    }

    /// By how much round trips are longer now than the shortest; nothing until enough of them are known.
    fn grown(&self) -> Duration {
        let present = self.recent.iter().try_fold(Duration::MAX, |least, trip| trip.map(|trip| least.min(trip)));
        present.zip(self.shortest).map_or(Duration::ZERO, |(present, shortest)| present.saturating_sub(shortest))
    }

    /// Whether a window that still grows at its fastest has filled the line.
    fn start_is_over(&self) -> bool {
        let [least, most] = START_SLACK;
        self.shortest.is_some_and(|shortest| self.grown() > (shortest / START_GROWN).clamp(least, most))
    }

    /// Whether a loss of so many bytes is a sign of a full queue.
    fn counts(&mut self, bytes: u64, packet: u64) -> bool {
        self.rounds[0][1] += bytes;
        let [acknowledged, lost] =
            [0, 1].map(|kind| (self.rounds[0][kind] + self.rounds[1][kind]) as f64 / packet as f64);
        let by_itself = (acknowledged + lost) * LOSSY;
        let lossy = lost > by_itself + 4.0 * by_itself.sqrt() + 1.0;
        lossy || self.shortest.is_some_and(|shortest| self.grown() > shortest.mul_f64(GROWN) + SLACK)
    }
}

/// Makes the controller of each connection.
#[derive(Debug)]
pub(super) struct Config;

impl ControllerFactory for Config {
    fn build(self: Arc<Self>, _: Instant, packet: u16) -> Box<dyn Controller> {
        Box::new(Discerning::new(packet))
    }
}

/// Cubic, told only of losses that count.
#[derive(Clone, Debug)]
pub(super) struct Discerning {
    pub(super) cubic: Cubic,
    judge: Judge,
    /// Since which round trip the first growth has stood still before a queue.
    full_since: Option<u64>,
    /// Bytes of the longest packet.
    packet: u64,
}

impl Discerning {
    pub(super) fn new(packet: u16) -> Self {
        let cubic = Cubic::new(INITIAL_WINDOW, packet);
        Self { cubic, judge: Judge::default(), full_since: None, packet: packet.into() }
    }

    pub(super) fn acknowledged(&mut self, now: Instant, sent: Instant, bytes: u64, trip: Duration, idle: bool) {
        self.judge.acknowledged(now, sent, bytes);
        if self.full_since.is_none() {
            self.cubic.acknowledged(now, sent, bytes, trip, idle);
        }
    }

    pub(super) fn read(&mut self, now: Instant) {
        self.judge.read(now);
        if !self.cubic.in_first_growth() {
            return;
        }
        let round = self.judge.round;
        match self.full_since {
            None if self.judge.start_is_over() => self.full_since = Some(round),
            Some(_) if !self.judge.start_is_over() => self.full_since = None,
            Some(since) if round >= since + SURE => {
                self.cubic.end_first_growth(now);
                self.full_since = None;
            }
            _ => {}
        }
    }

    pub(super) fn lost(&mut self, now: Instant, sent: Instant, silent: bool, bytes: u64) {
        // A router's mark comes without a loss.
        if bytes == 0 || self.judge.counts(bytes, self.packet) || silent {
            self.cubic.cut(now, sent, silent);
            self.full_since = None;
        }
    }
}

impl Controller for Discerning {
    fn on_ack(&mut self, now: Instant, sent: Instant, bytes: u64, app_limited: bool, rtt: &quinn_proto::RttEstimator) {
        self.acknowledged(now, sent, bytes, rtt.get(), app_limited);
    }

    fn on_end_acks(&mut self, now: Instant, _: u64, _: bool, _: Option<u64>) {
        self.read(now);
    }

    fn on_congestion_event(&mut self, now: Instant, sent: Instant, persistent: bool, lost: u64) {
        self.lost(now, sent, persistent, lost);
    }

    fn on_mtu_update(&mut self, packet: u16) {
        self.packet = packet.into();
        self.cubic.set_packet(packet);
    }

    fn window(&self) -> u64 {
        self.cubic.window()
    }

    fn metrics(&self) -> ControllerMetrics {
        let mut metrics = ControllerMetrics::default();
        metrics.congestion_window = self.cubic.window();
        metrics.ssthresh = Some(self.cubic.threshold());
        metrics
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(self.clone())
    }

    fn initial_window(&self) -> u64 {
        INITIAL_WINDOW
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PACKET: u64 = 1_400;
    const TRIP: Duration = Duration::from_millis(50);

    /// A connection that sends packets a tenth of a millisecond apart.
    struct Flow {
        judge: Judge,
        sent: Instant,
    }

    impl Flow {
        fn new() -> Self {
            Self { judge: Judge::default(), sent: crate::clock::instant_at(crate::clock::now()) }
        }

        /// So many packets come back after this time.
        fn acknowledged(&mut self, count: u64, trip: Duration) {
            for _ in 0..count {
                self.sent += Duration::from_micros(100);
                self.judge.acknowledged(self.sent + trip, self.sent, PACKET);
                self.judge.read(self.sent + trip);
            }
        }

        /// Of so many packets, how many losses count if each `every`th is lost.
        fn counted(&mut self, count: u64, every: u64, trip: Duration) -> usize {
            let counts = |flow: &mut Self| {
                flow.acknowledged(every - 1, trip);
                flow.judge.counts(PACKET, PACKET)
            };
            (0..count / every).filter(|_| counts(self)).count()
        }
    }

    #[test]
    fn losses_of_a_line_that_is_not_full_do_not_count() {
        let mut flow = Flow::new();
        flow.acknowledged(100, TRIP);
        assert_eq!(flow.counted(20_000, 100, TRIP), 0);
        assert_eq!(flow.counted(20_000, 50, TRIP.mul_f64(1.3)), 0);
    }

    #[test]
    fn losses_count_when_a_queue_has_made_round_trips_longer_and_no_more_when_it_is_gone() {
        let mut flow = Flow::new();
        flow.acknowledged(100, TRIP);
        assert_eq!(flow.counted(1_000, 100, TRIP.mul_f64(1.7)), 10);
        assert_eq!(flow.counted(1_000, 100, TRIP), 0);
    }

    #[test]
    fn a_host_that_was_late_is_no_queue() {
        let mut flow = Flow::new();
        flow.acknowledged(100, TRIP);
        for _ in 0..100 {
            flow.acknowledged(6, TRIP * 3);
            flow.acknowledged(1, TRIP);
            assert!(!flow.judge.counts(PACKET, PACKET * 100) && !flow.judge.start_is_over());
        }
    }

    #[test]
    fn packets_that_waited_for_an_acknowledgement_are_no_queue() {
        let mut flow = Flow::new();
        flow.acknowledged(100, TRIP);
        for _ in 0..10 {
            let read_at = flow.sent + Duration::from_millis(30) + TRIP;
            for number in 1..=30 {
                flow.judge.acknowledged(read_at, flow.sent + Duration::from_millis(number), PACKET);
            }
            flow.judge.read(read_at);
            flow.sent += Duration::from_millis(30);
        }
        assert_eq!(flow.judge.grown(), Duration::ZERO);
    }

    #[test]
    fn losses_that_no_line_has_by_itself_count_without_a_queue() {
        for in_a_round in [20, 200, 2_000] {
            let mut flow = Flow::new();
            flow.acknowledged(in_a_round, TRIP);
            let counted = flow.counted(in_a_round, 3, TRIP);
            assert!(counted > 0, "a third of {in_a_round}");
        }
    }

    #[test]
    fn the_first_growth_ends_when_the_line_is_full() {
        let mut flow = Flow::new();
        flow.acknowledged(7, TRIP * 2);
        assert!(!flow.judge.start_is_over(), "too little is known");
        flow.acknowledged(100, TRIP);
        flow.acknowledged(8, TRIP.mul_f64(1.1));
        assert!(!flow.judge.start_is_over());
        flow.acknowledged(8, TRIP.mul_f64(1.15));
        assert!(flow.judge.start_is_over());
    }

    #[test]
    fn a_window_ignores_chance_and_heeds_queues_marks_and_silence() {
        let now = crate::clock::instant_at(crate::clock::now());
        let packet = u16::try_from(PACKET).unwrap();
        let window = |act: &dyn Fn(&mut dyn Controller)| {
            let mut controller = Arc::new(Config).build(now, packet);
            act(&mut *controller);
            controller.window()
        };
        assert_eq!(window(&|_| {}), INITIAL_WINDOW);
        assert_eq!(window(&|controller| controller.on_congestion_event(now, now, false, PACKET)), INITIAL_WINDOW);
        assert!(window(&|controller| controller.on_congestion_event(now, now, false, 0)) < INITIAL_WINDOW);
        assert!(window(&|controller| controller.on_congestion_event(now, now, true, PACKET)) < INITIAL_WINDOW);
        let half_lost = |controller: &mut dyn Controller| {
            for _ in 0..10 {
                controller.on_congestion_event(now, now, false, PACKET);
            }
        };
        assert!(window(&half_lost) < INITIAL_WINDOW);
    }
}

//! The speed test: round trip, then download, then upload, between this node and one peer.
//!
//! It moves as much as takes about a second and never more than [`MAX_LEG`] each way, so that it says something
//! about a fast path and costs a slow one little. Nothing is computed from something else: upload is measured.

use std::collections::VecDeque;

use libp2p::PeerId;
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use super::wire::{MAX_PIECE, Request, Response};
use crate::{
    protocol::SendError,
    types::{Speed, Time},
};

/// The most bytes one test moves in one direction: a sixth of a second at 100 Mbit/s. A node measures three peers after
/// its start, so on one machine or in one lab more of it would be most of the traffic.
pub(super) const MAX_LEG: u64 = 2 * 1024 * 1024;
/// The first piece in bytes: at 256 kbit/s it still arrives within the protocol's time limit.
const FIRST_PIECE: u64 = 256 * 1024;
/// Pieces on the way at once: enough to fill 300 Mbit/s at 100 ms of round trip.
const IN_FLIGHT: usize = 4;
/// Round trips that count; times are in milliseconds, so the mean of eight is good to an eighth.
const PINGS: u64 = 8;
/// A leg aims to take this many milliseconds.
const LEG_MILLIS: u64 = 1_000;
/// The longest a whole test takes, in milliseconds; then it has failed.
const TEST_MILLIS: u64 = 60_000;
/// Tests that wait for the one that runs (two at once would measure each other); a further one fails at once.
const MAX_WAITING: usize = 64;

/// Why a speed could not be measured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum SpeedError {
    /// A request had no answer.
    #[error("the speed test with the peer broke off")]
    Send(#[from] SendError),
    /// The peer spends no more on measurements for now.
    #[error("the peer has no time for a speed test now; ask again in a minute")]
    Busy,
    /// The peer's answer was not the one to the question.
    #[error("the peer answered a speed test with something else")]
    Answer,
    /// The whole test took too long.
    #[error("the speed test did not end within {} seconds", TEST_MILLIS / 1_000)]
    Timeout,
    /// Too many tests wait already.
    #[error("{MAX_WAITING} speed tests wait already; ask again when some have ended")]
    Queue,
}

/// What the tests want done next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    Send { peer: PeerId, test: u64, request: Request },
    Done { id: u64, peer: PeerId, result: Result<Speed, SpeedError> },
}

/// All tests that this node runs for itself: one at a time.
#[derive(Debug, Default)]
pub(super) struct Tests {
    running: Option<Test>,
    waiting: VecDeque<(u64, PeerId)>,
    begun: u64,
    steps: VecDeque<Step>,
}

#[derive(Debug)]
struct Test {
    id: u64,
    peer: PeerId,
    /// Tells its answers from those of a test that timed out.
    number: u64,
    deadline: Time,
    stage: Stage,
    speed: Speed,
}

#[derive(Debug)]
enum Stage {
    /// The first answer opens the connection and is not counted.
    Pings {
        answered: u64,
        since: Time,
    },
    Moving(Leg),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Direction {
    Download,
    Upload,
}

/// One direction of a test: first a small piece, then as much as its speed suggests.
#[derive(Debug)]
struct Leg {
    direction: Direction,
    first: bool,
    since: Time,
    total: u64,
    asked: u64,
    arrived: u64,
}

impl Leg {
    fn new(direction: Direction, now: Time) -> Self {
        Self { direction, first: true, since: now, total: FIRST_PIECE, asked: 0, arrived: 0 }
    }

    fn request(&self, bytes: usize) -> Request {
        match self.direction {
            Direction::Download => Request::Download { bytes: u32::try_from(bytes).unwrap_or(u32::MAX) },
            Direction::Upload => Request::Upload(filler(bytes)),
        }
    }

    /// The next piece to ask for.
    fn next_piece(&mut self) -> Option<usize> {
        let piece = (self.total - self.asked).min(MAX_PIECE as u64);
        self.asked += piece;
        usize::try_from(piece).ok().filter(|piece| *piece > 0)
    }

    fn kbps(&self, latency_micros: u64, now: Time) -> u64 {
        // Bits a millisecond are kilobits a second.
        let elapsed = millis(self.since, now).saturating_sub(latency_micros / 1_000).max(1);
        self.arrived * 8 / elapsed
    }
}

fn millis(from: Time, to: Time) -> u64 {
    to.as_millis().saturating_sub(from.as_millis())
}

impl Tests {
    /// Begins a test, or queues it.
    pub(super) fn measure(&mut self, id: u64, peer: PeerId, now: Time) {
        if self.waiting.len() >= MAX_WAITING {
            self.steps.push_back(Step::Done { id, peer, result: Err(SpeedError::Queue) });
            return;
        }
        self.waiting.push_back((id, peer));
        self.begin_next(now);
    }

    /// The answer to a request of test number `test`; those of ended tests are dropped.
    pub(super) fn on_answer(&mut self, test: u64, answer: Result<Response, SendError>, now: Time) {
        let Some(running) = self.running.as_mut().filter(|running| running.number == test) else {
            return;
        };
        match running.on_answer(answer, now) {
            Ok(Progress::Send(requests)) => self.send(requests),
            Ok(Progress::Done) => self.end(Ok(()), now),
            Err(error) => self.end(Err(error), now),
        }
    }

    /// Ends a test that took too long.
    pub(super) fn on_timeout(&mut self, now: Time) {
        if self.deadline().is_some_and(|deadline| now >= deadline) {
            self.end(Err(SpeedError::Timeout), now);
        }
    }

    pub(super) fn deadline(&self) -> Option<Time> {
        self.running.as_ref().map(|test| test.deadline)
    }

    pub(super) fn poll(&mut self) -> Option<Step> {
        self.steps.pop_front()
    }

    fn begin_next(&mut self, now: Time) {
        if self.running.is_some() {
            return;
        }
        let Some((id, peer)) = self.waiting.pop_front() else {
            return;
        };
        self.begun += 1;
        let stage = Stage::Pings { answered: 0, since: now };
        let deadline = Time(now.0.saturating_add(TEST_MILLIS));
        self.running = Some(Test { id, peer, number: self.begun, deadline, stage, speed: Speed::default() });
        self.send(vec![Request::Ping { nonce: 0 }]);
    }

    fn send(&mut self, requests: Vec<Request>) {
        if let Some(test) = &self.running {
            let (peer, test) = (test.peer, test.number);
            self.steps.extend(requests.into_iter().map(|request| Step::Send { peer, test, request }));
        }
    }

    fn end(&mut self, result: Result<(), SpeedError>, now: Time) {
        if let Some(Test { id, peer, speed, .. }) = self.running.take() {
            self.steps.push_back(Step::Done { id, peer, result: result.map(|()| speed) });
        }
        self.begin_next(now);
    }
}

enum Progress {
    Send(Vec<Request>),
    Done,
}

impl Test {
    fn on_answer(&mut self, answer: Result<Response, SendError>, now: Time) -> Result<Progress, SpeedError> {
        let answer = answer?;
        if answer == Response::Busy {
            return Err(SpeedError::Busy);
        }
        match &mut self.stage {
            Stage::Pings { answered, .. } => {
                if answer != (Response::Pong { nonce: *answered }) {
                    return Err(SpeedError::Answer);
                }
                Ok(self.on_pong(now))
            }
            Stage::Moving(leg) => {
                leg.arrived += match (leg.direction, answer) {
                    (Direction::Download, Response::Data(data)) => data.len() as u64,
                    (Direction::Upload, Response::Received { bytes }) => u64::from(bytes),
                    _ => return Err(SpeedError::Answer),
                };
                if leg.arrived > leg.asked {
                    return Err(SpeedError::Answer);
                }
                Ok(self.on_piece(now))
            }
        }
    }

    fn on_pong(&mut self, now: Time) -> Progress {
        let Stage::Pings { answered, since } = &mut self.stage else {
            return Progress::Done;
        };
        *answered += 1;
        if *answered == 1 {
            *since = now;
        }
        if *answered <= PINGS {
            return Progress::Send(vec![Request::Ping { nonce: *answered }]);
        }
        self.speed.latency_micros = millis(*since, now) * 1_000 / PINGS;
        self.begin_leg(Direction::Download, now)
    }

    fn begin_leg(&mut self, direction: Direction, now: Time) -> Progress {
        self.stage = Stage::Moving(Leg::new(direction, now));
        self.fill(IN_FLIGHT)
    }

    fn on_piece(&mut self, now: Time) -> Progress {
        let latency = self.speed.latency_micros;
        let Stage::Moving(leg) = &mut self.stage else {
            return Progress::Done;
        };
        if leg.arrived < leg.total {
            return self.fill(1);
        }
        let kbps = leg.kbps(latency, now);
        let total = (kbps * LEG_MILLIS / 8).min(MAX_LEG);
        if leg.first && total > FIRST_PIECE {
            *leg = Leg { first: false, total, ..Leg::new(leg.direction, now) };
            return self.fill(IN_FLIGHT);
        }
        match leg.direction {
            Direction::Download => {
                self.speed.download_kbps = kbps;
                self.begin_leg(Direction::Upload, now)
            }
            Direction::Upload => {
                self.speed.upload_kbps = kbps;
                Progress::Done
            }
        }
    }

    /// Up to `count` more pieces.
    fn fill(&mut self, count: usize) -> Progress {
        let Stage::Moving(leg) = &mut self.stage else {
            return Progress::Done;
        };
        let mut requests = Vec::new();
        while requests.len() < count
            && let Some(piece) = leg.next_piece()
        {
            requests.push(leg.request(piece));
        }
        Progress::Send(requests)
    }
}

/// Bytes of no meaning that a compressing link can't shrink (xorshift64, Marsaglia 2003).
pub(super) fn filler(length: usize) -> ByteBuf {
    let mut word = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        word ^= word << 13;
        word ^= word >> 7;
        word ^= word << 17;
        bytes.extend_from_slice(&word.to_le_bytes());
    }
    bytes.truncate(length);
    ByteBuf::from(bytes)
}

/// What this node spends on others' measurements.
#[derive(Debug, Default)]
pub(super) struct Budget {
    minute: u64,
    spent: u64,
}

/// Bytes served and taken for others' measurements in a minute: eight whole tests. Beyond it the answer is `Busy`.
const BUDGET: u64 = 8 * 2 * MAX_LEG;

impl Budget {
    /// Whether `bytes` more may be spent; if so they are.
    pub(super) fn take(&mut self, bytes: u64, now: Time) -> bool {
        let minute = now.as_millis() / 60_000;
        if minute != self.minute {
            *self = Self { minute, spent: 0 };
        }
        let fits = self.spent + bytes <= BUDGET;
        if fits {
            self.spent += bytes;
        }
        fits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A peer that answers after `rtt` milliseconds and carries `bytes_per_milli` each way, one piece after another.
    fn run(rtt: u64, bytes_per_milli: u64) -> (Result<Speed, SpeedError>, u64) {
        let mut tests = Tests::default();
        let mut now = Time(1_000_000);
        let (mut moved, mut busy_until) = (0, now);
        let mut answers: VecDeque<(Time, u64, Response)> = VecDeque::new();
        tests.measure(7, PeerId::random(), now);
        loop {
            while let Some(step) = tests.poll() {
                let (test, request) = match step {
                    Step::Send { test, request, .. } => (test, request),
                    Step::Done { id, result, .. } => {
                        assert_eq!(id, 7);
                        return (result, moved);
                    }
                };
                let (bytes, response) = match request {
                    Request::Ping { nonce } => (0, Response::Pong { nonce }),
                    Request::Download { bytes } => (u64::from(bytes), Response::Data(filler(bytes as usize))),
                    Request::Upload(data) => {
                        (data.len() as u64, Response::Received { bytes: u32::try_from(data.len()).unwrap() })
                    }
                    other => panic!("{other:?} is no part of a speed test"),
                };
                moved += bytes;
                busy_until = Time(busy_until.max(now).0 + bytes / bytes_per_milli);
                answers.push_back((Time(busy_until.0 + rtt), test, response));
            }
            let (at, test, response) = answers.pop_front().expect("a running test waits for an answer");
            now = now.max(at);
            tests.on_answer(test, Ok(response), now);
        }
    }

    #[test]
    fn a_fast_and_a_slow_path_are_both_measured_within_a_tenth() {
        for (rtt, bytes_per_milli) in [(1, 100_000), (20, 12_500), (200, 1_250), (50, 64)] {
            let (speed, moved) = run(rtt, bytes_per_milli);
            let speed = speed.unwrap();
            assert_eq!(speed.latency_micros, rtt * 1_000);
            let truth = bytes_per_milli * 8;
            for measured in [speed.download_kbps, speed.upload_kbps] {
                assert!(measured.abs_diff(truth) * 10 <= truth, "{measured} against {truth}");
            }
            assert!(moved <= 2 * (MAX_LEG + FIRST_PIECE));
        }
    }

    #[test]
    fn an_answer_that_is_none_or_none_at_all_ends_the_test_with_the_reason() {
        let peer = PeerId::random();
        let mut tests = Tests::default();
        for (id, answer, error) in [
            (1, Ok(Response::Pong { nonce: 9 }), SpeedError::Answer),
            (2, Ok(Response::Busy), SpeedError::Busy),
            (3, Err(SendError::Closed), SpeedError::Send(SendError::Closed)),
        ] {
            tests.measure(id, peer, Time(0));
            let Some(Step::Send { test, .. }) = tests.poll() else { panic!("a test begins with a ping") };
            tests.on_answer(test, answer, Time(1));
            assert_eq!(tests.poll(), Some(Step::Done { id, peer, result: Err(error) }));
        }
        tests.measure(4, peer, Time(0));
        assert!(matches!(tests.poll(), Some(Step::Send { .. })));
        tests.on_timeout(tests.deadline().unwrap());
        assert_eq!(tests.poll(), Some(Step::Done { id: 4, peer, result: Err(SpeedError::Timeout) }));
    }

    #[test]
    fn tests_wait_for_each_other_and_the_queue_is_bounded() {
        let peer = PeerId::random();
        let mut tests = Tests::default();
        for id in 0..=MAX_WAITING as u64 + 1 {
            tests.measure(id, peer, Time(0));
        }
        let sent = std::iter::from_fn(|| tests.poll()).collect::<Vec<_>>();
        assert!(matches!(sent[0], Step::Send { test: 1, .. }));
        let refused = MAX_WAITING as u64 + 1;
        assert_eq!(sent[1..], [Step::Done { id: refused, peer, result: Err(SpeedError::Queue) }]);
        tests.on_answer(1, Err(SendError::Timeout), Time(5));
        assert!(matches!(tests.poll(), Some(Step::Done { id: 0, .. })));
        assert!(matches!(tests.poll(), Some(Step::Send { test: 2, .. })));
    }

    #[test]
    fn a_stranger_gets_no_more_than_the_budget_of_a_minute() {
        let mut budget = Budget::default();
        let served = (0..1_000).filter(|_| budget.take(MAX_PIECE as u64, Time(0))).count() as u64;
        assert_eq!(served * MAX_PIECE as u64, BUDGET);
        assert!(budget.take(1, Time(60_000)));
    }
}

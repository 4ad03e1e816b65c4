//! A far line, in numbers alone, that the congestion control is tried on: its share of the line, and what it costs others.
//!
//! It is a queue of one line's worth of bytes, a rate, a way, and losses by chance. A packet counts as lost when three later
//! ones came (RFC 9002, section 6.1.1). No packet is built here and no time passes.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use super::congestion::Discerning;

/// Bytes of a packet.
const PACKET: u16 = 1_250;
/// How much faster than a window in a round trip packets leave at most, as Quinn has it.
const PACE: f64 = 1.25;
/// Packets that must come after one that did not.
const REORDERED: u64 = 3;

/// What a line does.
#[derive(Clone, Copy)]
struct Line {
    /// Packets a second: 10,000 are 100 Mbit/s.
    rate: f64,
    trip: Duration,
    /// Of a million packets, how many are lost by chance.
    lost: u64,
    /// Acknowledgements are held up by up to so much, as hosts do.
    jitter: Duration,
}

const FAR: Line = Line { rate: 10_000.0, trip: Duration::from_millis(200), lost: 0, jitter: Duration::from_millis(2) };
const NEAR: Line = Line { trip: Duration::from_millis(50), ..FAR };

struct Packet {
    number: u64,
    sent: Instant,
    /// When its acknowledgement is back; `None` if it never came.
    back: Option<Instant>,
}

/// Who sends over it, as much as its window allows.
struct Sender {
    control: Discerning,
    under_way: VecDeque<Packet>,
    /// When the next packet may leave.
    leaves: Instant,
    next: u64,
    delivered: u64,
    overflowed: u64,
}

impl Sender {
    fn new(begins: Instant) -> Self {
        let control = Discerning::new(PACKET);
        Self { control, under_way: VecDeque::new(), leaves: begins, next: 0, delivered: 0, overflowed: 0 }
    }

    fn has_room(&self) -> bool {
        (self.under_way.len() as u64) * u64::from(PACKET) < self.control.cubic.window()
    }

    /// The next acknowledgement.
    fn next_back(&self) -> Option<Instant> {
        self.under_way.iter().find_map(|packet| packet.back)
    }

    /// Reads the acknowledgement that comes now, and what it says about those before it.
    fn read(&mut self, now: Instant, trip: Duration) {
        let Some(at) = self.under_way.iter().position(|packet| packet.back.is_some()) else { return };
        let Some(packet) = self.under_way.remove(at) else { return };
        self.delivered += 1;
        self.control.acknowledged(now, packet.sent, PACKET.into(), trip, false);
        self.control.read(now);
        while self.under_way.front().is_some_and(|old| old.back.is_none() && old.number + REORDERED <= packet.number) {
            if let Some(lost) = self.under_way.pop_front() {
                self.control.lost(now, lost.sent, false, PACKET.into());
            }
        }
    }
}

/// A little chance that is the same in each run.
struct Chance(u64);

impl Chance {
    fn of_a_million(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % 1_000_000
    }
}

/// Lets `senders` share the line until `seconds` are over.
fn run(line: Line, senders: &mut [Sender], began: Instant, seconds: u64) {
    let (mut now, mut free, mut chance) = (began, began, Chance(7));
    let each = Duration::from_secs_f64(1.0 / line.rate);
    let end = began + Duration::from_secs(seconds);
    while now < end {
        let back = senders.iter().enumerate().filter_map(|(index, sender)| Some((sender.next_back()?, index))).min();
        let leaving = senders.iter().enumerate().filter(|(_, sender)| sender.has_room());
        let leaves = leaving.map(|(index, sender)| (sender.leaves, index)).min();
        match (leaves, back) {
            (Some((at, index)), back) if back.is_none_or(|(back, _)| at <= back) => {
                now = now.max(at);
                let sender = &mut senders[index];
                send(line, sender, now, &mut free, each, &mut chance);
                let window = sender.control.cubic.window() as f64 * PACE;
                sender.leaves = now + line.trip.mul_f64(f64::from(PACKET) / window);
            }
            (_, Some((at, index))) => {
                now = now.max(at);
                senders[index].read(now, line.trip);
            }
            (_, None) => return,
        }
    }
}

fn send(line: Line, sender: &mut Sender, now: Instant, free: &mut Instant, each: Duration, chance: &mut Chance) {
    let number = sender.next;
    sender.next += 1;
    // The queue holds what the line does in a round trip.
    let back = if free.saturating_duration_since(now) > line.trip {
        sender.overflowed += 1;
        None
    } else {
        *free = (*free).max(now) + each;
        let late = line.jitter.mul_f64(chance.of_a_million() as f64 / 1e6);
        (chance.of_a_million() >= line.lost).then_some(*free + line.trip + late)
    };
    // Acknowledgements come in order: one that was held up holds up those behind it.
    let last = sender.under_way.iter().rev().find_map(|packet| packet.back);
    let back = back.map(|back| last.map_or(back, |last| back.max(last)));
    sender.under_way.push_back(Packet { number, sent: now, back });
}

fn start() -> Instant {
    crate::clock::instant_at(crate::clock::now())
}

/// What one sender gets of the line in 20 seconds, and what it loses by filling the queue, in percent.
fn alone(line: Line) -> (f64, f64) {
    let began = start();
    let mut sender = [Sender::new(began)];
    run(line, &mut sender, began, 20);
    let [sender] = sender;
    let share = sender.delivered as f64 / (20.0 * line.rate);
    (share * 100.0, sender.overflowed as f64 * 100.0 / sender.next as f64)
}

#[test]
fn a_far_line_is_full_within_its_first_seconds_and_stays_so_whether_or_not_it_loses_packets() {
    for (line, least) in [(NEAR, 95.0), (FAR, 90.0)] {
        for lost in [0, 1_000, 10_000] {
            let (share, overflowed) = alone(Line { lost, ..line });
            let what = format!("{:?}, {lost} of a million lost: {share:.1}%, {overflowed:.2}% too many", line.trip);
            assert!(share >= least - lost as f64 / 10_000.0 && overflowed < 2.0, "{what}");
        }
    }
}

#[test]
fn hosts_that_are_late_do_not_end_the_first_growth() {
    let (share, _) = alone(Line { jitter: Duration::from_millis(12), ..FAR });
    assert!(share >= 88.0, "{share:.1}%");
}

#[test]
fn who_comes_later_gets_a_share() {
    let began = start();
    let mut senders = [Sender::new(began), Sender::new(began + Duration::from_secs(5))];
    run(NEAR, &mut senders, began, 45);
    let [first, second] = senders.map(|sender| sender.delivered as f64 / NEAR.rate / 40.0);
    assert!(second > 0.2, "the first got {first:.2}, the second {second:.2}");
}

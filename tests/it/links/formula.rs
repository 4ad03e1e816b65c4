//! Is the emulated line what it says? Plain sockets tell, before any word of ours goes over it.

use std::{
    collections::BTreeSet,
    path::Path,
    process::{Child, Command, Stdio},
};

use serde::Deserialize;

use crate::{
    executor::host::python,
    link::{End, Line, Link, Told},
};

/// Bytes of a full packet, and of these what TCP carries: IPv4 takes 20, TCP 20, its timestamps 12.
const PACKET: f64 = 1500.0;
const SEGMENT: f64 = 1448.0;
/// How far plain TCP may be from the formula.
const TOLERANCE: f64 = 0.05;
/// A line that handed a packet over so much too late was not run in time, and says nothing about itself.
const PUNCTUAL_MS: f64 = 20.0;
/// The share of a core that a full line may take: a fifth was measured, and what it carries needs the rest.
const CORE: f64 = 0.4;
/// Lines that are laid until one was run in time. Other tests take the processors too.
const TRIES: usize = 8;

/// A process of the probe that ends with its test.
struct Probe(Child);

impl Probe {
    /// Begins at this end, with these words.
    fn begin(end: &End, words: &[&str]) -> Self {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/link/probe.py");
        let mut command = Command::new(&end.within[0]);
        command.args(&end.within[1..]).arg(python()).arg(script).args(words);
        Self(command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap())
    }

    fn told<T: for<'a> Deserialize<'a>>(mut self) -> T {
        let output = std::io::read_to_string(self.0.stdout.take().unwrap()).unwrap();
        serde_json::from_str(&output).unwrap_or_else(|error| panic!("{error} in `{output}`"))
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What `story` finds on a line that was run in time; `None` where there can be no line.
fn on<T>(line: Line, story: impl Fn(&Link) -> T) -> Option<(T, Told)> {
    for _ in 0..TRIES {
        let link = Link::lay(&line).unwrap()?;
        let found = story(&link);
        let told = link.end().unwrap();
        let late = told.from_left.late_most_ms.max(told.from_right.late_most_ms);
        if late < PUNCTUAL_MS && told.from_left.missed + told.from_right.missed == 0 {
            return Some((found, told));
        }
        eprintln!("the line was {late} ms late; once more");
    }
    panic!("no line was run in time in {TRIES} tries: the machine is too busy");
}

#[derive(Deserialize)]
struct Rate {
    bits_a_second: f64,
}

#[derive(Deserialize)]
struct Trips {
    least_ms: f64,
    middle_ms: f64,
}

#[derive(Deserialize)]
struct Missing {
    missing: BTreeSet<u32>,
}

/// Plain TCP and a datagram there and back, over an empty line of this length.
fn meets_the_formula(rtt_ms: u32, settle: &str) {
    let line = Line { mbit: 100, rtt_ms, loss: 0.0, seed: 1 };
    let found = on(line, |link| {
        let (here, there) = (&link.left, &link.right);
        let _echo = Probe::begin(there, &["echo", &there.address]);
        let trips: Trips = Probe::begin(here, &["ping", &there.address, "10"]).told();
        let reader = Probe::begin(there, &["read", &there.address, settle, "2"]);
        let _writer = Probe::begin(here, &["write", &there.address, "60"]);
        let rate: Rate = reader.told();
        (trips, rate)
    });
    let Some(((trips, rate), told)) = found else { return };
    let rtt = f64::from(rtt_ms);
    assert!((rtt..rtt * 1.03 + 1.0).contains(&trips.least_ms), "{} ms over a line of {rtt}", trips.least_ms);
    assert!((rtt..rtt * 1.05 + 3.0).contains(&trips.middle_ms), "{} ms over a line of {rtt}", trips.middle_ms);
    let expected = 100e6 * SEGMENT / PACKET;
    let share = rate.bits_a_second / expected;
    assert!((share - 1.0).abs() <= TOLERANCE, "TCP got {share:.3} of what the formula says");
    let core = told.cpu_seconds / told.seconds;
    assert!(core < CORE, "the line took {core:.2} of a core");
}

#[test]
fn plain_tcp_fills_a_line_of_50_ms_as_the_formula_says() {
    meets_the_formula(50, "2");
}

#[test]
fn plain_tcp_fills_a_line_of_200_ms_as_the_formula_says() {
    // Ten packets at first and twice as many each round trip: 1,670 are under way after eight, and the queue drains.
    meets_the_formula(200, "4");
}

/// The numbers of those of `count` datagrams that did not cross.
fn lost(seed: u64, loss: f64, count: u32) -> Option<(BTreeSet<u32>, Told)> {
    let line = Line { mbit: 100, rtt_ms: 20, loss, seed };
    let (missing, told) = on(line, |link| {
        let count = count.to_string();
        let counter = Probe::begin(&link.right, &["count", &link.right.address, &count]);
        let _ = Probe::begin(&link.left, &["number", &link.right.address, &count, "20"]).0.wait();
        counter.told::<Missing>().missing
    })?;
    Some((missing, told))
}

#[test]
fn the_line_loses_the_share_that_it_was_asked_to_and_the_same_packets_for_the_same_seed() {
    let (count, loss) = (20_000, 0.01);
    let Some((first, told)) = lost(7, loss, count) else { return };
    let expected = f64::from(count) * loss;
    // Four standard deviations of the binomial distribution: one seed in 16,000 is outside.
    let bound = 4.0 * (expected * (1.0 - loss)).sqrt();
    assert!((first.len() as f64 - expected).abs() <= bound, "{} of {count} lost", first.len());
    assert!(told.from_left.lost >= first.len() as u64 && told.from_left.overflowed == 0, "{told:?}");
    assert!(told.from_left.packets >= u64::from(count));
    let (again, _) = lost(7, loss, count).unwrap();
    assert_eq!(first, again);
    let (other, _) = lost(8, loss, count).unwrap();
    assert_ne!(first, other);
}

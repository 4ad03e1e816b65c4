//! Faults by chance: what goes wrong in the world of a seed.

use serde::Deserialize;

use super::{
    chance::Chance,
    fault::{Fault, Kind, Lie, When, Who},
    scenario::Scenario,
};

/// How much chance may break.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Random {
    /// At most so many faults.
    pub faults: u64,
    /// They strike after this virtual time.
    pub from_millis: u64,
    /// And before this one.
    pub until_millis: u64,
}

/// The scenario of a seed: where it leaves faults to chance, they are drawn, and so is how bad the network is.
pub fn draw(scenario: &Scenario, seed: u64) -> Scenario {
    let mut drawn = scenario.clone();
    let Some(random) = drawn.random.take() else { return drawn };
    let mut chance = Chance::new(seed, "faults");
    let network = &mut drawn.network;
    network.latency_millis = chance.within(1..=40);
    network.jitter_millis = chance.within(0..=60);
    network.loss_permille = small(&mut chance, 20);
    network.duplicate_permille = small(&mut chance, 50);
    network.late_permille = small(&mut chance, 50);
    let mut draw = Draw { chance, nodes: drawn.nodes, slots: drawn.job.slots, lost: 0, liars: 0 };
    for _ in 0..draw.chance.within(1..=random.faults.max(1)) {
        let at = draw.chance.within(random.from_millis..=random.until_millis);
        drawn.fault.push(Fault { kind: draw.kind(), when: When::AtMillis(at) });
    }
    drawn
}

/// Often nothing, and sometimes up to so much.
fn small(chance: &mut Chance, most: u64) -> u32 {
    let amount = if chance.happens(500) { 0 } else { chance.within(1..=most) };
    u32::try_from(amount).unwrap_or(0)
}

struct Draw {
    chance: Chance,
    nodes: usize,
    slots: u32,
    /// Nodes that will not return.
    lost: usize,
    liars: usize,
}

impl Draw {
    fn kind(&mut self) -> Kind {
        let for_millis = self.chance.within(500..=20_000);
        match self.chance.within(0..=11) {
            0..=2 => {
                let silent = self.chance.happens(300);
                let (who, restart_after_millis) = self.who_is_lost(for_millis);
                Kind::Crash { who, restart_after_millis, silent }
            }
            3 => {
                let (who, restart_after_millis) = self.who_is_lost(for_millis);
                Kind::Stop { who, restart_after_millis }
            }
            4 => Kind::Pause { who: self.who(), for_millis },
            5 => Kind::Slow { who: self.who(), percent: self.chance.within(150..=1_000) },
            6 => Kind::SlowDisk { who: self.who(), millis: self.chance.within(20..=1_000) },
            7 => {
                let off = i64::try_from(self.chance.within(0..=60_000)).unwrap_or(0);
                Kind::Skew { who: self.who(), millis: off - 30_000 }
            }
            8 | 9 => {
                let first = self.node();
                let count = self.chance.within(1..=3);
                let nodes = (0..count).map(|_| self.node()).chain([first]).collect();
                let (one_way, with_ledger) = (self.chance.happens(400), self.chance.happens(500));
                Kind::Partition { nodes, one_way, with_ledger, for_millis }
            }
            10 => Kind::LedgerAway { for_millis },
            _ if self.liars == 0 => {
                self.liars += 1;
                let all = [Lie::Receipt, Lie::Update, Lie::Attest, Lie::Root, Lie::Bytes, Lie::Replay];
                let lie = all[self.index(all.len())];
                Kind::Liar { who: Who::Node(1 + self.index(self.nodes - 1)), lie }
            }
            _ => Kind::Pause { who: self.who(), for_millis },
        }
    }

    fn index(&mut self, count: usize) -> usize {
        let last = u64::try_from(count.saturating_sub(1)).unwrap_or(0);
        usize::try_from(self.chance.within(0..=last)).unwrap_or(0)
    }

    fn node(&mut self) -> usize {
        self.index(self.nodes)
    }

    fn who(&mut self) -> Who {
        match self.chance.within(0..=2) {
            0 => Who::Node(self.node()),
            1 => Who::Aggregator,
            _ => Who::Holder(u32::try_from(self.chance.within(0..=u64::from(self.slots - 1))).unwrap_or(0)),
        }
    }

    /// Most return; of those that do not there are few enough that the others can do the work.
    fn who_is_lost(&mut self, restart_after_millis: u64) -> (Who, Option<u64>) {
        if self.lost < self.nodes / 4 && self.chance.happens(300) {
            self.lost += 1;
            // Not the first: who submitted the job must be there to hear what came of it.
            return (Who::Node(1 + self.index(self.nodes - 1)), None);
        }
        (self.who(), Some(restart_after_millis))
    }
}

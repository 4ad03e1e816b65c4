//! Faults as they strike and end.

use std::time::Duration;

use super::{
    fault::{Kind, Lasting, When, Who},
    network::{CONNECTION_LIMIT, Cut},
    world::{Churn, Delivery, Happening, World},
};
use crate::types::{NodeKey, Round, Slot, Step, TaskId, rendezvous};

/// Nodes of 1,000 that vanish without closing their connections when nodes come and go.
const SILENT_PERMILLE: u32 = 300;

impl World {
    /// A fault that waits for a script to get so far, strikes.
    pub(super) fn strike_at_progress(&mut self, slot: Slot, round: Round, step: Step) {
        self.strike_when(|when| match when {
            When::Progress { slot: wanted, round: in_round, step: at } => {
                *wanted == slot && *in_round == round && step >= *at
            }
            _ => false,
        });
    }

    /// A fault that waits for a round, strikes.
    pub(super) fn strike_at_round(&mut self, round: Round) {
        self.strike_when(|when| matches!(when, When::RoundOpened(wanted) if *wanted <= round));
    }

    fn strike_when(&mut self, matches: impl Fn(&When) -> bool) {
        for index in 0..self.faults.len() {
            let (fault, struck) = &mut self.faults[index];
            if !*struck && matches(&fault.when) {
                *struck = true;
                self.after(Duration::ZERO, Happening::Fault(index));
            }
        }
    }

    pub(super) fn strike(&mut self, index: usize) {
        let kind = self.faults[index].0.kind.clone();
        self.troubled_until = self.troubled_until.max(self.now + kind.lasts());
        let later = |millis: u64| Duration::from_millis(millis);
        match kind {
            Kind::Crash { who, restart_after_millis, silent } => {
                let Some(machine) = self.find(who) else { return };
                self.crash(machine, silent);
                self.restart(machine, restart_after_millis);
            }
            Kind::Destroy { who } => {
                let Some(machine) = self.find(who) else { return };
                self.crash(machine, false);
                self.machines[machine].gone = true;
            }
            Kind::Stop { who, restart_after_millis } => {
                let Some(machine) = self.find(who) else { return };
                self.reach(machine, self.now, Delivery::Shutdown);
                self.restart(machine, restart_after_millis);
            }
            Kind::Pause { who, for_millis } => {
                let Some(machine) = self.find(who) else { return };
                self.machines[machine].paused_until = self.now + later(for_millis);
            }
            Kind::Slow { who, percent } => {
                let Some(machine) = self.find(who) else { return };
                let machine = &mut self.machines[machine];
                machine.slowness_percent = percent;
                machine.node.iter_mut().for_each(|node| node.scripts.slowness_percent = percent);
            }
            Kind::SlowDisk { who, millis } => {
                let Some(machine) = self.find(who) else { return };
                self.machines[machine].disk_millis = millis;
            }
            Kind::Skew { who, millis } => {
                let Some(machine) = self.find(who) else { return };
                self.machines[machine].skew_millis = millis;
            }
            Kind::Churn { percent_per_minute, down_millis, for_millis } => {
                let hits_a_minute = percent_per_minute.max(1) * self.machines.len() as u64;
                let period = later(100 * 60_000 / hits_a_minute);
                self.after(
                    period,
                    Happening::Churn(Churn { period, down_millis, until: self.now + later(for_millis) }),
                );
            }
            Kind::Liar { who, lie } => {
                let Some(machine) = self.find(who) else { return };
                self.machines[machine].lie = Some(lie);
            }
            Kind::Partition { nodes, one_way, with_ledger, for_millis } => {
                let cut = self.cuts.len();
                self.cuts.push(Some(Cut { inside: nodes, one_way, with_ledger }));
                self.after(CONNECTION_LIMIT, Happening::GiveUp(cut));
                self.after(later(for_millis), Happening::Heal(Lasting::Cut(cut)));
            }
            Kind::LedgerAway { for_millis } => self.chain.away_until = self.now + later(for_millis),
        }
    }

    pub(super) fn heal(&mut self, lasting: Lasting) {
        match lasting {
            Lasting::Cut(cut) => self.cuts[cut] = None,
        }
    }

    pub(super) fn churn(&mut self, churn: Churn) {
        let last = u64::try_from(self.machines.len() - 1).unwrap_or(0);
        let machine = usize::try_from(self.choice.within(0..=last)).unwrap_or(0);
        if self.machines[machine].node.is_some() {
            let silent = self.choice.happens(SILENT_PERMILLE);
            self.crash(machine, silent);
            self.restart(machine, Some(churn.down_millis));
        }
        if self.now + churn.period < churn.until {
            self.after(churn.period, Happening::Churn(churn));
        }
    }

    fn restart(&mut self, machine: usize, after_millis: Option<u64>) {
        if let Some(millis) = after_millis {
            self.after(Duration::from_millis(millis), Happening::Start(machine));
        } else {
            self.machines[machine].stays_down = true;
        }
    }

    fn crash(&mut self, machine: usize, silent: bool) {
        self.machines[machine].crash();
        let after = if silent { CONNECTION_LIMIT } else { self.one_way() };
        self.hang_up(machine, after);
    }

    pub(super) fn on_exit(&mut self, machine: usize) {
        // A process that ends in order has synced what it had.
        self.machines[machine].store.sync();
        self.crash(machine, false);
    }

    fn find(&self, who: Who) -> Option<usize> {
        let job = self.job?;
        match who {
            Who::Node(index) => (index < self.machines.len()).then_some(index),
            Who::Holder(slot) => {
                let holder = self.view.tasks.get(&TaskId { job, slot })?.holder?;
                self.index_of_key(&holder)
            }
            Who::Keeper(object) => self.keeper(object),
            Who::Aggregator => {
                let round = self.view.jobs.get(&job)?.round.to_be_bytes();
                let holders: Vec<NodeKey> = self.view.tasks_of(&job).filter_map(|task| task.holder).collect();
                let first = *rendezvous::rank(rendezvous::AGGREGATOR, &[&job.0, &round], holders).first()?;
                self.index_of_key(&first)
            }
        }
    }
}

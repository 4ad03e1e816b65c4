//! `rewards`: what the node earned, as far as its ledger keeps it.
//!
//! A ledger keeps what each node was paid in all, and of each round what waits for the end of its audit window. What a
//! round was worth is forgotten when it is paid; the command says so and guesses nothing.

use super::{
    Context, Error,
    output::{ago, fields, short, table},
};
use crate::{
    api::{RewardedRound, Rewards},
    clock,
    types::{Slot, Time},
};

pub(super) async fn run(context: &Context) -> Result<(), Error> {
    let rewards = context.client()?.rewards().await?;
    let now = clock::now();
    Ok(context.output.value(&rewards, |rewards| render(rewards, now))?)
}

fn render(rewards: &Rewards, now: Time) -> String {
    let mut text = fields(&[
        ("node", rewards.node.clone()),
        ("rewards to", rewards.address.clone()),
        ("ledger", format!("{}, height {}", rewards.ledger, rewards.height)),
        ("paid", format!("{} in all", rewards.paid)),
        ("waiting", rewards.waiting.to_string()),
    ]);
    let row = |round: &RewardedRound| {
        vec![
            short(&round.job.to_string()),
            round.name.clone(),
            round.round.to_string(),
            round.slots.iter().map(Slot::to_string).collect::<Vec<_>>().join(" "),
            ago(round.closed_at, now),
            reward(round, rewards.height),
        ]
    };
    let rows: Vec<Vec<String>> = rewards.rounds.iter().map(row).collect();
    let header = ["job", "name", "round", "slots", "closed", "reward"];
    text.push_str(&format!("\n{}", table(&header, &rows, "no closed round has work of this node")));
    if rewards.left_out > 0 {
        text.push_str(&format!("{} older rounds are not shown\n", rewards.left_out));
    }
    if rewards.rounds.iter().any(|round| is_settled(round, rewards.height)) {
        text.push_str("the ledger keeps what was paid in all, and not how much a settled round was of it\n");
    }
    text
}

fn is_settled(round: &RewardedRound, height: u64) -> bool {
    round.waiting.is_none() && round.due <= height
}

fn reward(round: &RewardedRound, height: u64) -> String {
    match round.waiting {
        Some(0) => "none: the budget was spent, or it was taken back".to_owned(),
        Some(amount) => format!("{amount}, paid with block {}", round.due),
        None if is_settled(round, height) => format!("settled with block {}", round.due),
        None => format!("not asked for; due with block {}", round.due),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::JobId;

    fn round(number: u32, due: u64, waiting: Option<u64>) -> RewardedRound {
        RewardedRound {
            job: JobId([5; 32]),
            name: "digits".to_owned(),
            round: number,
            slots: vec![0, 3],
            height: due - 20,
            closed_at: Time::from_millis(40_000),
            due,
            waiting,
        }
    }

    #[test]
    fn rewards_say_what_waits_and_that_a_settled_round_has_no_amount_left() {
        let rewards = Rewards {
            node: "12D3KooWx".to_owned(),
            ledger: "atlas-lab".to_owned(),
            address: "atlas1x".to_owned(),
            paid: 900,
            waiting: 250,
            height: 100,
            rounds: vec![round(2, 112, Some(250)), round(1, 101, Some(0)), round(0, 100, None)],
            left_out: 4,
        };
        let text = render(&rewards, Time::from_millis(41_000));
        for expected in [
            "900 in all",
            "250, paid with block 112",
            "none: the budget was spent",
            "settled with block 100",
            "0 3",
            "4 older rounds",
            "not how much a settled round was",
        ] {
            assert!(text.contains(expected), "`{expected}` is missing in:\n{text}");
        }
        let fresh = Rewards { rounds: vec![round(2, 112, Some(250))], left_out: 0, ..rewards };
        assert!(!render(&fresh, Time::from_millis(41_000)).contains("settled"));
    }
}

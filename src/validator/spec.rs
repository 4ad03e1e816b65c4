//! Whether a job is one that this node works for at all, whoever holds its tasks.

use std::time::Duration;

use super::{Policy, Rejection};
use crate::types::{JobSpec, LedgerId, Resources, Settle};

/// Characters of a name, as on the ledger.
const MAX_NAME: usize = 64;
/// Bytes of the script's parameters, as on the ledger.
const MAX_CONFIG: usize = 16 * 1024;
/// State roots that a checkpoint carries (`CheckpointManifest::trace`): a round has at most one checkpoint fewer.
const MAX_TRACE: u32 = 256;
/// One, in millionths.
const ONE: u32 = 1_000_000;
/// The largest outer learning rate in millionths. Above 1 overshoots already; ten is a mistyped number.
const MAX_LEARNING_RATE: u32 = 10 * ONE;

/// Checks a job against the operator's policy and against ranges in which it can work. Also right for an announcement,
/// before the job is seen on its ledger.
pub fn validate_spec(policy: &Policy, ledger: &LedgerId, spec: &JobSpec) -> Result<(), Rejection> {
    check_policy(policy, ledger, spec)?;
    check_text(spec)?;
    check_steps(spec)?;
    check_times(policy, spec)
}

fn check_policy(policy: &Policy, ledger: &LedgerId, spec: &JobSpec) -> Result<(), Rejection> {
    match spec.settle {
        Settle::None if !policy.unsettled => return Err(Rejection::UnsettledNotAccepted),
        Settle::None => {}
        Settle::Ledger => {
            if policy.ledgers.as_ref().is_some_and(|accepted| !accepted.contains(ledger)) {
                return Err(Rejection::LedgerNotAccepted { ledger: ledger.clone() });
            }
            if spec.budget < policy.minimum_budget {
                return Err(Rejection::BudgetTooSmall { budget: spec.budget, minimum: policy.minimum_budget });
            }
        }
    }
    if policy.bundles.as_ref().is_some_and(|allowed| !allowed.contains(&spec.bundle)) {
        return Err(Rejection::BundleNotAllowed);
    }
    Ok(())
}

fn check_text(spec: &JobSpec) -> Result<(), Rejection> {
    for (field, name) in [("name", &spec.name), ("model_id", &spec.model_id)] {
        require(name.chars().count() <= MAX_NAME, field, || format!("it has more than {MAX_NAME} characters"))?;
    }
    require(spec.config.len() <= MAX_CONFIG, "config", || format!("it has more than {MAX_CONFIG} bytes"))?;
    let is_object = serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(&spec.config).is_ok();
    require(is_object, "config", || "it is no JSON object".into())
}

fn check_steps(spec: &JobSpec) -> Result<(), Rejection> {
    require(spec.rounds > 0, "rounds", || "a job has at least one round".into())?;
    require(spec.local_steps > 0, "local_steps", || "a round has at least one step".into())?;
    let checkpoints = spec.local_steps.checked_div(spec.checkpoint_every).unwrap_or(0);
    require(checkpoints < MAX_TRACE, "checkpoint_every", || {
        format!("a round would have {checkpoints} checkpoints; fewer than {MAX_TRACE} are possible")
    })?;
    let outer = spec.outer;
    require((1..=MAX_LEARNING_RATE).contains(&outer.learning_rate_micros), "outer.learning_rate", || {
        "it must be above 0 and at most 10".into()
    })?;
    require(outer.momentum_micros < ONE, "outer.momentum", || "it must be below 1".into())?;
    require(spec.resources != Resources::default(), "resources", || "a task needs at least one".into())
}

fn check_times(policy: &Policy, spec: &JobSpec) -> Result<(), Rejection> {
    let limit = Duration::from_millis(spec.round_limit_millis);
    require(!limit.is_zero(), "round_limit", || "it must be above 0".into())?;
    require(limit <= policy.longest_round, "round_limit", || {
        format!("this node is not bound for more than {} s", policy.longest_round.as_secs())
    })?;
    require(spec.deadline_millis >= spec.round_limit_millis, "deadline", || {
        "it comes before the first round's end".into()
    })
}

fn require(holds: bool, field: &'static str, problem: impl FnOnce() -> String) -> Result<(), Rejection> {
    if holds { Ok(()) } else { Err(Rejection::BadSpec { field, problem: problem() }) }
}

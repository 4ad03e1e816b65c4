//! Signed objects that other messages carry.

use atlas_node::{
    codec,
    types::{Beat, CheckpointManifest, CheckpointRef, Digest, Load, Metrics, Receipt, RoundOutcome},
};
use serde_json::json;

use super::{super::vectors::Page, Maker, sample};

pub(super) fn pages() -> Vec<Page> {
    vec![beat_page(), receipt_page(), checkpoint_page(), outcome_page()]
}

fn beat_page() -> Page {
    let mut maker = Maker::new("beat");
    let leaving = Beat { sequence: u64::MAX, load: Load::default(), leaving: true, ..sample::beat() };
    maker.signed("signed-beat", &[("busy", sample::beat()), ("the last one", leaving)]);
    maker.done()
}

fn receipt_page() -> Page {
    let mut maker = Maker::new("receipt");
    let silent = Metrics { loss_micros: i64::MAX, ..sample::receipt().metrics };
    let silent = Receipt { metrics: silent, ..sample::receipt() };
    let negative = Metrics { loss_micros: -1, ..sample::receipt().metrics };
    let negative = Receipt { metrics: negative, ..sample::receipt() };
    maker.signed(
        "signed-receipt",
        &[("a round", sample::receipt()), ("without a loss", silent), ("a negative loss", negative)],
    );
    maker.signed("signed-attestation", &[("of the first receipt", sample::attestation())]);
    maker.computed(
        "computation-hash",
        json!({
            "bundle": sample::directory("bundle"),
            "shard": sample::directory("shard 1"),
            "seed": sample::digest("seed"),
            "in_params_root": sample::digest("in"),
            "in_opt_root": Digest([0; 32]),
            "out_state_root": sample::digest("out"),
        }),
    );
    maker.done()
}

fn checkpoint_page() -> Page {
    let mut maker = Maker::new("checkpoint");
    let state = |index: u32| sample::digest(&format!("state {index}"));
    let longest = CheckpointManifest {
        trace: (0..256).map(state).collect(),
        state_root: state(255),
        opt_root: sample::digest("optimizer"),
        ..sample::manifest()
    };
    maker.signed("signed-checkpoint", &[("inside a round", sample::manifest()), ("with the longest trace", longest)]);
    maker.done()
}

fn outcome_page() -> Page {
    let mut maker = Maker::new("round-outcome");
    let whole = RoundOutcome { skipped: vec![], ..sample::outcome() };
    maker.cbor("round-outcome", &[("one slot skipped", sample::outcome()), ("none skipped", whole.clone())]);
    for outcome in [sample::outcome(), whole] {
        maker.computed("outcome-digest", json!({ "bytes": hex::encode(codec::encode(&outcome)) }));
    }
    maker.signed("signed-round-vote", &[("a holder's", sample::vote(2)), ("another holder's", sample::vote(3))]);
    maker.done()
}

/// A checkpoint's place.
pub(super) fn reference(round: u32, step: u32) -> CheckpointRef {
    CheckpointRef { round, step, ..sample::reference() }
}

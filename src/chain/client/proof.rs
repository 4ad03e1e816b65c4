//! The record that a query reads, and whether its answer is what the chain's app hash commits to.

use super::connection::Failure;
use crate::{
    chain::{
        Key,
        authenticated::Proof,
        records::{Account, Stake, Totals, Validators},
        wire::query,
    },
    codec,
    types::Digest,
};

/// The longest proof in bytes: 256 siblings of two hashes as numbers, and the longest record.
pub(super) const MAX_PROOF: usize = 8 * 1024 * 1024;

/// An answer with its proof, before anything is known of it.
#[derive(Debug)]
pub(super) struct Proven {
    /// The records after this block.
    pub height: u64,
    pub value: Vec<u8>,
    pub proof: Proof,
}

/// What the ledger answers where there is no such record: one with nothing in it, or null.
fn nothing(path: &str) -> Vec<u8> {
    match path {
        query::GET_ACCOUNT => codec::encode(&Account::default()),
        query::GET_STAKE => codec::encode(&Stake::default()),
        query::GET_TOTALS => codec::encode(&Totals::default()),
        query::GET_VALIDATORS => codec::encode(&Validators::default()),
        _ => codec::encode(&None::<u8>),
    }
}

/// The answer to the query, if that is what the app hash after its height commits to.
pub(super) fn check(path: &str, key: &Key, proven: Proven, app_hash: Digest) -> Result<Vec<u8>, Failure> {
    let Proven { height, value, proof } = proven;
    let wrong = || Failure::Proof { path: path.chars().take(100).collect(), height };
    if !proof.verify(app_hash, key) {
        return Err(wrong());
    }
    let true_answer = proof.value.unwrap_or_else(|| nothing(path));
    if true_answer == value { Ok(value) } else { Err(wrong()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        chain::{
            ledger::{Economy, Genesis, Ledger, Parameters},
            records::{OffenceId, OffenceKind},
        },
        types::{JobId, NodeKey, TaskId, Time},
    };

    fn ledger() -> Ledger {
        let accounts = [(NodeKey([1; 32]), 500)].into();
        let (chain_id, validator) = ("atlas-lab".to_owned(), NodeKey([1; 32]));
        let (parameters, economy) = (Parameters::default(), Some(Economy::default()));
        Ledger::new(Genesis { chain_id, parameters, accounts, time: Time(1_000), validator, economy }).unwrap()
    }

    fn ask(ledger: &Ledger, path: &str, data: &[u8], key: &Key) -> Proven {
        assert_eq!(Key::read_by(path, data).as_ref(), Some(key));
        Proven { height: 0, value: ledger.query(path, data).unwrap(), proof: ledger.prove(key) }
    }

    #[test]
    fn an_answer_is_taken_with_its_own_proof_and_with_no_other() {
        let ledger = ledger();
        let (someone, nobody) = (NodeKey([1; 32]), NodeKey([2; 32]));
        let (job, task) = (JobId([3; 32]), TaskId { job: JobId([3; 32]), slot: 300 });
        let offence = OffenceId { node: nobody, kind: OffenceKind::TwoRoots, job, round: 3 };
        for (path, data, key) in [
            (query::GET_ACCOUNT, codec::encode(&someone), Key::Account(someone)),
            (query::GET_ACCOUNT, codec::encode(&nobody), Key::Account(nobody)),
            (query::GET_STAKE, codec::encode(&nobody), Key::Stake(nobody)),
            (query::GET_NODE, codec::encode(&nobody), Key::Node(nobody)),
            (query::GET_JOB, codec::encode(&job), Key::Job(job)),
            (query::GET_TASK, codec::encode(&task), Key::Task(task)),
            (query::GET_MODEL, codec::encode(&"mine:1"), Key::Model("mine:1".to_owned())),
            (query::GET_OFFENCE, codec::encode(&offence), Key::Offence(offence)),
            (query::GET_TOTALS, Vec::new(), Key::Totals),
            (query::GET_VALIDATORS, Vec::new(), Key::Validators),
            (query::GET_RECORD, codec::encode(&Key::Genesis), Key::Genesis),
            (query::GET_RECORD, codec::encode(&Key::Stake(someone)), Key::Stake(someone)),
        ] {
            let asked = || ask(&ledger, path, &data, &key);
            let value = asked().value;
            assert_eq!(check(path, &key, asked(), ledger.app_hash()).unwrap(), value);
            let (mut flipped, mut bent, mut foreign) = (asked(), asked(), asked());
            *flipped.value.last_mut().unwrap() ^= 1;
            bent.proof.value = Some(vec![0]);
            foreign.proof = ledger.prove(&Key::Clock);
            for lie in [flipped, bent, foreign] {
                let failure = check(path, &key, lie, ledger.app_hash()).unwrap_err();
                assert!(failure.is_fault() && failure.to_string().contains(path), "{failure}");
            }
            assert!(check(path, &key, asked(), Digest([0; 32])).is_err());
        }
    }

    #[test]
    fn what_reads_several_records_or_none_has_no_key() {
        assert_eq!(Key::read_by(query::LIST_JOBS, &[]), None);
        assert_eq!(Key::read_by(query::GET_JOB, &[1]), None);
        assert_eq!(Key::read_by("/nothing", &[]), None);
    }
}

//! The record that a query reads, and whether its answer is what the chain's app hash commits to.

use super::connection::Failure;
use crate::{
    chain::{authenticated::Proof, records::Account, wire::query},
    codec,
    types::{Digest, JobId, NodeKey, TaskId},
};

/// The longest data of a query that has a proof, in bytes: an id.
const MAX_DATA: usize = 1024;
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

/// The key of the record that a query reads, in the ledger's own form; none for what reads several.
pub(super) fn key_of(path: &str, data: &[u8]) -> Option<Vec<u8>> {
    let node = || codec::decode::<NodeKey>(data, MAX_DATA).ok();
    match path {
        query::GET_NODE => Some(join(b'n', &[&node()?.0])),
        query::GET_ACCOUNT => Some(join(b'a', &[&node()?.0])),
        query::GET_JOB => Some(join(b'j', &[&codec::decode::<JobId>(data, MAX_DATA).ok()?.0])),
        query::GET_TASK => {
            let task = codec::decode::<TaskId>(data, MAX_DATA).ok()?;
            Some(join(b't', &[&task.job.0, &task.slot.to_be_bytes()]))
        }
        query::GET_MODEL => Some(join(b'm', &[codec::decode::<String>(data, MAX_DATA).ok()?.as_bytes()])),
        _ => None,
    }
}

fn join(kind: u8, parts: &[&[u8]]) -> Vec<u8> {
    let mut key = vec![kind];
    parts.iter().for_each(|part| key.extend_from_slice(part));
    key
}

/// The answer to the query, if that is what the app hash after its height commits to.
pub(super) fn check(path: &str, key: &Vec<u8>, proven: Proven, app_hash: Digest) -> Result<Vec<u8>, Failure> {
    let Proven { height, value, proof } = proven;
    let wrong = || Failure::Proof { path: path.chars().take(100).collect(), height };
    if !proof.verify(app_hash, key) {
        return Err(wrong());
    }
    let true_answer = match proof.value {
        Some(record) => record,
        // An account that never was is one with nothing in it; any other record is null.
        None if path == query::GET_ACCOUNT => codec::encode(&Account::default()),
        None => codec::encode(&None::<u8>),
    };
    if true_answer == value { Ok(value) } else { Err(wrong()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        chain::ledger::{Genesis, Key, Ledger, Parameters},
        types::Time,
    };

    fn ledger() -> Ledger {
        let accounts = [(NodeKey([1; 32]), 500)].into();
        let (chain_id, validator) = ("atlas-lab".to_owned(), NodeKey([1; 32]));
        Ledger::new(Genesis { chain_id, parameters: Parameters::default(), accounts, time: Time(1_000), validator })
            .unwrap()
    }

    fn ask(ledger: &Ledger, path: &str, data: Vec<u8>, key: &Key) -> (Vec<u8>, Proven) {
        let name = key_of(path, &data).unwrap();
        assert_eq!(name, key.to_bytes());
        let value = ledger.query(path, &data).unwrap();
        (name, Proven { height: 0, value, proof: ledger.prove(key) })
    }

    #[test]
    fn an_answer_is_taken_with_its_own_proof_and_with_no_other() {
        let ledger = ledger();
        let (someone, nobody) = (NodeKey([1; 32]), NodeKey([2; 32]));
        let (job, task) = (JobId([3; 32]), TaskId { job: JobId([3; 32]), slot: 300 });
        for (path, data, key) in [
            (query::GET_ACCOUNT, codec::encode(&someone), Key::Account(someone)),
            (query::GET_ACCOUNT, codec::encode(&nobody), Key::Account(nobody)),
            (query::GET_NODE, codec::encode(&nobody), Key::Node(nobody)),
            (query::GET_JOB, codec::encode(&job), Key::Job(job)),
            (query::GET_TASK, codec::encode(&task), Key::Task(task)),
            (query::GET_MODEL, codec::encode(&"mine:1"), Key::Model("mine:1".to_owned())),
        ] {
            let (name, honest) = ask(&ledger, path, data.clone(), &key);
            let value = honest.value.clone();
            assert_eq!(check(path, &name, honest, ledger.app_hash()).unwrap(), value);
            let (_, mut flipped) = ask(&ledger, path, data.clone(), &key);
            *flipped.value.last_mut().unwrap() ^= 1;
            let (_, mut bent) = ask(&ledger, path, data.clone(), &key);
            bent.proof.value = Some(vec![0]);
            let (_, mut foreign) = ask(&ledger, path, data, &key);
            foreign.proof = ledger.prove(&Key::Clock);
            for lie in [flipped, bent, foreign] {
                let failure = check(path, &name, lie, ledger.app_hash()).unwrap_err();
                assert!(failure.is_fault() && failure.to_string().contains(path), "{failure}");
            }
            let (_, honest) = ask(&ledger, path, codec_data(&key), &key);
            assert!(check(path, &name, honest, Digest([0; 32])).is_err());
        }
    }

    /// The data of the query for a record.
    fn codec_data(key: &Key) -> Vec<u8> {
        match key {
            Key::Account(node) | Key::Node(node) => codec::encode(node),
            Key::Job(job) => codec::encode(job),
            Key::Task(task) => codec::encode(task),
            Key::Model(id) => codec::encode(id),
            other => panic!("no query reads {other:?}"),
        }
    }

    #[test]
    fn what_reads_several_records_or_none_has_no_key() {
        assert_eq!(key_of(query::LIST_JOBS, &[]), None);
        assert_eq!(key_of(query::GET_JOB, &[1]), None);
        assert_eq!(key_of("/nothing", &[]), None);
    }
}

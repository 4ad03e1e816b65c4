//! ABCI queries: the ledger's own, with a height and, for single records, a proof.
//!
//! The state of the last block is kept and no older one. A proof holds against the app hash after the height that
//! stands in the answer, which the header of the next block carries.

use tendermint_proto::v0_38::{
    abci::{RequestQuery, ResponseQuery},
    crypto::{ProofOp, ProofOps},
};

use crate::{
    chain::{
        Key,
        ledger::Ledger,
        wire::{Code, query},
    },
    codec,
};

/// What an operator of a Merkle proof calls a proof of the ledger's map, in `protocols/ledger-state.md`'s form.
const PROOF_TYPE: &str = "atlas/jmt/v1";

/// Answers from the last block, whatever is asked; a refusal is a code with words. `ledger` is none before the first.
pub fn answer(ledger: Option<&Ledger>, request: &RequestQuery) -> ResponseQuery {
    let Some(ledger) = ledger else {
        return refusal(0, "the chain has not begun".to_owned());
    };
    let height = i64::try_from(ledger.height()).unwrap_or(i64::MAX);
    match value(ledger, height, request) {
        Ok((value, proof_ops)) => ResponseQuery {
            key: request.data.clone(),
            value: value.into(),
            proof_ops,
            height,
            ..ResponseQuery::default()
        },
        Err(words) => refusal(height, words),
    }
}

type Answer = (Vec<u8>, Option<ProofOps>);

fn value(ledger: &Ledger, height: i64, request: &RequestQuery) -> Result<Answer, String> {
    if request.height != 0 && request.height != height {
        return Err(format!(
            "the state of block {} is not kept, that of {height} is; ask without a height",
            request.height
        ));
    }
    let value = ledger.query(&request.path, &request.data).map_err(|error| error.to_string())?;
    if !request.prove || request.path == query::PROVE {
        return Ok((value, None));
    }
    let key = Key::read_by(&request.path, &request.data)
        .ok_or_else(|| format!("`{}` is not one record; ask {} for those that it lists", request.path, query::PROVE))?;
    let data = codec::encode(&ledger.prove(&key));
    let operator = ProofOp { r#type: PROOF_TYPE.to_owned(), key: key.to_bytes(), data };
    Ok((value, Some(ProofOps { ops: vec![operator] })))
}

fn refusal(height: i64, log: String) -> ResponseQuery {
    ResponseQuery { code: Code::Invalid as u32, log, height, ..ResponseQuery::default() }
}

#[cfg(test)]
mod tests {
    use super::{
        super::testing::{genesis, key as person},
        *,
    };
    use crate::chain::{ledger::Proof, records::Account};

    fn ask(path: &str, data: Vec<u8>, height: i64, prove: bool) -> (Ledger, ResponseQuery) {
        let ledger = Ledger::new(genesis()).unwrap();
        let request = RequestQuery { path: path.to_owned(), data: data.into(), height, prove };
        let response = answer(Some(&ledger), &request);
        (ledger, response)
    }

    #[test]
    fn an_account_comes_with_a_proof_against_the_app_hash() {
        let account = person(1).node_key();
        let (ledger, response) = ask(query::GET_ACCOUNT, codec::encode(&account), 0, true);
        let found: Account = codec::decode(&response.value, 100).unwrap();
        assert_eq!((response.code, found.balance), (0, 500));
        let [operator] = &response.proof_ops.unwrap().ops[..] else { panic!("one operator") };
        let proof: Proof = codec::decode(&operator.data, 10_000).unwrap();
        assert_eq!((operator.r#type.as_str(), proof.value.as_deref()), (PROOF_TYPE, Some(&response.value[..])));
        assert!(proof.verify(ledger.app_hash(), &Key::Account(account)));
        assert!(!proof.verify(ledger.app_hash(), &Key::Account(person(2).node_key())));
    }

    #[test]
    fn what_can_not_be_answered_is_refused_in_words() {
        for (path, height, prove, words) in [
            (query::LIST_JOBS, 0, true, "is not one record"),
            (query::LIST_JOBS, 7, false, "the state of block 7 is not kept"),
            (query::LIST_JOBS, -1, false, "is not kept"),
            ("/store/acc/key", 0, false, "no query `/store/acc/key`"),
            (query::GET_JOB, 0, false, "the data of query"),
        ] {
            let (_, response) = ask(path, Vec::new(), height, prove);
            assert!(response.code != 0 && response.log.contains(words), "{path}: {}", response.log);
        }
        assert!(answer(None, &RequestQuery::default()).log.contains("not begun"));
    }
}

//! One validator: transactions become final through our own client, and CometBFT's own tools understand the ledger.

use atlas_node::{
    chain::{
        ledger::{Key, Proof},
        records::Account,
        wire::query,
    },
    codec,
    identity::Keypair,
    types::Digest,
};
use tendermint::Hash;
use tendermint_rpc::Client as _;

use super::{chain::Chain, replay::replay, writer::Writer};

#[tokio::test(flavor = "multi_thread")]
async fn one_validator_makes_transactions_final_and_proves_what_came_of_them() {
    let mut chain = Chain::new(1, &[]);
    chain.start_all(0..1).await;
    let mut writer = Writer::new(chain.path(), 1, &[chain.url(0)]);
    writer.submit(40);
    writer.until_acknowledged(0).await;
    assert_eq!(writer.committed.len(), 40);

    let rpc = chain.rpc(0);
    let (hash, height) = writer.committed.iter().next().unwrap();
    let found = rpc.tx(Hash::Sha256(hash.0), false).await.unwrap();
    assert_eq!((found.height.value(), found.tx_result.code.value()), (*height, 0));
    assert_eq!(found.tx_result.events[0].kind, "model_registered");

    let account = Keypair::from_secret(&[1; 32]).node_key();
    let data = codec::encode(&account);
    let answer = rpc.abci_query(Some(query::GET_ACCOUNT.to_owned()), data, None, true).await.unwrap();
    let found: Account = codec::decode(&answer.value, 1_000).unwrap();
    assert_eq!(found.nonce, 40);
    let proof: Proof = codec::decode(&answer.proof.unwrap().ops[0].data, 100_000).unwrap();
    let app_hash = Digest::from_slice(&chain.app_hash(0, answer.height.value()).await).unwrap();
    assert_eq!(proof.value.as_deref(), Some(&answer.value[..]));
    assert!(proof.verify(app_hash, &Key::Account(account)), "it holds under the header of the next block");

    let replayed = replay(&rpc, chain.height(0).await.unwrap()).await;
    replayed.holds(&writer);
    chain.stop(0).await;
    assert!(chain.pid(0, "ledger").is_none() && chain.pid(0, "cometbft").is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_check_refuses_comes_back_as_a_code_with_words() {
    let mut chain = Chain::new(1, &[]);
    chain.start_all(0..1).await;
    let rpc = chain.rpc(0);
    let refused = rpc.broadcast_tx_sync(b"garbage".to_vec()).await.unwrap();
    assert!(refused.code.value() == 1 && refused.log.contains("transaction"), "{refused:?}");
    let answer = rpc.abci_query(Some("/store/acc/key".to_owned()), Vec::new(), None, false).await.unwrap();
    assert!(answer.code.is_err() && answer.log.contains("no query"), "{}", answer.log);
    let old = rpc.abci_query(Some(query::LIST_JOBS.to_owned()), Vec::new(), Some(1_u32.into()), false).await.unwrap();
    assert!(old.code.is_err() && old.log.contains("is not kept"), "{}", old.log);
}

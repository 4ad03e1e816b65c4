//! A client of a chain believes no endpoint: who lies is named, the honest one is used, and nothing is lost.

use std::time::Duration;

use atlas_node::{
    chain::{
        client::{QueryError, Trust},
        records::Account,
        wire::query,
    },
    codec,
    identity::Keypair,
    types::Digest,
};
use tendermint::block::Height;
use tendermint_rpc::Client as _;

use super::{
    chain::{Chain, SOON},
    liar::{Liar, Lie},
    replay::replay,
    writer::Writer,
};
use crate::e2e::wait::until;

/// The writer's account.
const SECRET: u8 = 1;

async fn chain() -> Chain {
    let mut chain = Chain::new(1, &[]);
    chain.start_all(0..1).await;
    chain
}

/// Trust that begins at block 2, as an operator takes it from a source.
async fn trust(chain: &Chain) -> Trust {
    let hash = chain.rpc(0).commit(Height::from(2_u32)).await.unwrap().signed_header.header.hash();
    let hash = Digest::from_slice(hash.as_bytes()).unwrap();
    Trust { stale_after: Duration::from_secs(2), ..Trust::new(Some((2, hash)), chain.path().join("atlas-lab.trust")) }
}

/// A writer whose first endpoint lies like this, and its second does not; the liar's URL.
pub(super) async fn writer_behind(chain: &Chain, lie: Lie) -> (Writer, Liar, String) {
    let (liar, url) = Liar::start(chain.url(0), lie).await;
    let trust = trust(chain).await;
    let writer = Writer::with(chain.path(), SECRET, &[url.clone(), chain.url(0)], Some(trust));
    (writer, liar, url)
}

/// All that was submitted is on the chain, was told of, and only the liar was named, for `words`.
async fn nothing_is_lost(chain: &Chain, writer: &mut Writer, liar: &Liar, url: &str, words: &str) {
    writer.until_acknowledged(0).await;
    let all = writer.committed.len();
    writer.until_told("every model is told of", |writer| writer.models.len() == all).await;
    assert!(liar.lies() > 0, "it lied");
    assert!(!writer.distrusted.is_empty());
    for (endpoint, reason) in &writer.distrusted {
        assert!(endpoint == url && reason.contains(words), "{endpoint}: {reason}");
    }
    replay(&chain.rpc(0), chain.height(0).await.unwrap()).await.holds(writer);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_flips_a_value_or_leaves_one_out_is_named_and_nothing_of_it_is_told() {
    let chain = chain().await;
    let words = "have the app hash";
    let (mut writer, liar, url) = writer_behind(&chain, Lie::Records).await;
    writer.submit(10);
    nothing_is_lost(&chain, &mut writer, &liar, &url, words).await;
    assert_eq!(writer.distrusted.len(), 1, "the honest one is used from then on");
    writer.handle().stop().await;
    drop(writer);

    // The liar behaves at first, and the client goes on from the block that it trusted.
    let (mut writer, liar, url) = writer_behind(&chain, Lie::None).await;
    writer.until_told("the records so far", |writer| writer.models.len() == 10).await;
    assert_eq!(writer.distrusted, []);
    liar.begin(Lie::Omission);
    writer.submit(10);
    writer.until_told("the liar is named", |writer| !writer.distrusted.is_empty()).await;
    writer.until_acknowledged(0).await;
    writer.until_told("every model is told of", |writer| writer.models.len() == 20).await;
    assert!(writer.distrusted.iter().all(|(endpoint, reason)| *endpoint == url && reason.contains(words)));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_flips_the_answer_of_a_query_is_named_and_the_next_answer_is_true() {
    let chain = chain().await;
    let (mut writer, liar, url) = writer_behind(&chain, Lie::Balance).await;
    writer.submit(3);
    writer.until_acknowledged(0).await;
    assert_eq!(writer.distrusted, []);
    let data = codec::encode(&Keypair::from_secret(&[SECRET; 32]).node_key());
    match writer.handle().query(query::GET_ACCOUNT, data.clone()).await {
        Err(QueryError::Lie { endpoint, reason }) => {
            assert!(endpoint == url && reason.contains(query::GET_ACCOUNT), "{endpoint}: {reason}");
        }
        other => panic!("it was not caught: {other:?}"),
    }
    assert_eq!(liar.lies(), 1);
    writer.until_told("the liar is named", |writer| !writer.distrusted.is_empty()).await;
    let answer = until("the honest endpoint answers", SOON, async || {
        writer.handle().query(query::GET_ACCOUNT, data.clone()).await.ok()
    });
    let account: Account = codec::decode(&answer.await, 1_000).unwrap();
    assert_eq!((account.nonce, account.balance), (3, truth(&chain, data).await.balance));
    let list = writer.handle().query(query::LIST_NODES, Vec::new()).await;
    assert!(matches!(list, Err(QueryError::Unproven { .. })), "a list has no proof: {list:?}");
    assert_eq!(writer.distrusted.len(), 1);
}

async fn truth(chain: &Chain, data: Vec<u8>) -> Account {
    let answer = chain.rpc(0).abci_query(Some(query::GET_ACCOUNT.to_owned()), data, None, false).await.unwrap();
    codec::decode(&answer.value, 1_000).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_says_transactions_failed_is_named_and_what_they_did_is_true() {
    let chain = chain().await;
    let (mut writer, liar, url) = writer_behind(&chain, Lie::Results).await;
    writer.submit(5);
    nothing_is_lost(&chain, &mut writer, &liar, &url, "are not those that the next header commits to").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_serves_an_old_height_is_named_and_what_it_swallowed_is_sent_again() {
    let chain = chain().await;
    let (mut writer, liar, url) = writer_behind(&chain, Lie::None).await;
    writer.submit(3);
    writer.until_acknowledged(0).await;
    liar.begin(Lie::OldState);
    writer.submit(3);
    nothing_is_lost(&chain, &mut writer, &liar, &url, "stale").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_endpoint_refuses_has_no_room_for_or_swallows_is_given_to_another() {
    let chain = chain().await;
    let (mut writer, liar, _) = writer_behind(&chain, Lie::None).await;
    writer.submit(2);
    writer.until_acknowledged(0).await;
    for lie in [Lie::Refusal, Lie::NoRoom, Lie::Swallow, Lie::UsedNonce] {
        let before = liar.lies();
        liar.begin(lie);
        writer.submit(3);
        // None of them is given up: the writer would panic at that.
        writer.until_acknowledged(0).await;
        assert!(liar.lies() >= before + 3, "{lie:?}: it was asked first");
    }
    // All else that it says is true, and a refusal proves nothing against it.
    assert_eq!(writer.distrusted, []);
    writer.until_told("every model is told of", |writer| writer.models.len() == 14).await;
    replay(&chain.rpc(0), chain.height(0).await.unwrap()).await.holds(&writer);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chain_of_the_same_name_with_other_validators_is_refused_after_a_restart() {
    let (chain, other) = (chain().await, chain().await);
    // Trust on first use: nobody said where it begins.
    let trust = Trust { beginning: None, ..trust(&chain).await };
    let mut writer = Writer::with(chain.path(), SECRET, &[chain.url(0)], Some(trust.clone()));
    writer.submit(2);
    writer.until_acknowledged(0).await;
    writer.handle().stop().await;
    drop(writer);
    assert!(trust.file.exists());

    other.until_height(0, chain.height(0).await.unwrap() + 2).await;
    let mut writer = Writer::with(chain.path(), SECRET, &[other.url(0)], Some(trust.clone()));
    writer.until_told("the other chain is refused", |writer| !writer.distrusted.is_empty()).await;
    assert!(writer.models.is_empty() && writer.distrusted[0].0 == other.url(0), "{:?}", writer.distrusted);
    assert!(writer.distrusted[0].1.contains("not signed by the chain's validators"), "{:?}", writer.distrusted);
    writer.handle().stop().await;
    drop(writer);

    let mut writer = Writer::with(chain.path(), SECRET, &[chain.url(0)], Some(trust));
    writer.until_told("the own chain goes on", |writer| writer.models.len() == 2).await;
    assert_eq!(writer.distrusted, []);
}

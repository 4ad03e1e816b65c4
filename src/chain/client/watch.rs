//! Hears of new blocks over a websocket, where there is one.

use std::time::Duration;

use futures::StreamExt as _;
use tendermint_rpc::{SubscriptionClient as _, WebSocketClient, client::CompatMode, query::EventType};
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

use super::backoff::Backoff;
use crate::clock;

/// Opening a websocket takes at most this long.
const OPEN_TIMEOUT: Duration = Duration::from_secs(10);

/// What is known of blocks without asking.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Seen {
    /// Blocks are heard of as they come; nobody needs to ask.
    pub live: bool,
    /// Grows with each block heard of.
    pub blocks: u64,
}

/// Listens until the handle is dropped. `url` is the endpoint's, beginning with http or https.
pub(super) fn spawn(url: &str) -> (watch::Receiver<Seen>, AbortOnDropHandle<()>) {
    let (sender, receiver) = watch::channel(Seen::default());
    let url = format!("{}/websocket", url.trim_end_matches('/').replacen("http", "ws", 1));
    let task = tokio::spawn(async move {
        let mut backoff = Backoff::default();
        loop {
            if let Err(error) = listen(&url, &sender, &mut backoff).await {
                tracing::debug!(%url, %error, "no websocket: blocks are asked for instead");
            }
            sender.send_modify(|seen| seen.live = false);
            tokio::time::sleep(backoff.next(clock::random_bytes())).await;
        }
    });
    (receiver, AbortOnDropHandle::new(task))
}

async fn listen(url: &str, sender: &watch::Sender<Seen>, backoff: &mut Backoff) -> Result<(), tendermint_rpc::Error> {
    let builder = WebSocketClient::builder(url.parse()?).compat_mode(CompatMode::V0_38);
    let timeout = |_| tendermint_rpc::Error::timeout(OPEN_TIMEOUT);
    let (client, driver) = tokio::time::timeout(OPEN_TIMEOUT, builder.build()).await.map_err(timeout)??;
    let _driver = AbortOnDropHandle::new(tokio::spawn(driver.run()));
    let subscribe = client.subscribe(EventType::NewBlock.into());
    let mut blocks = tokio::time::timeout(OPEN_TIMEOUT, subscribe).await.map_err(timeout)??;
    backoff.reset();
    // What came before the subscription is unknown: the first look is for that.
    sender.send_modify(|seen| *seen = Seen { live: true, blocks: seen.blocks + 1 });
    while let Some(block) = blocks.next().await {
        block?;
        sender.send_modify(|seen| seen.blocks += 1);
    }
    Ok(())
}

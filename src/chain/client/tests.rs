//! Against embedded ledgers: over HTTP with its websocket, and through a transport as a peer's.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use tempfile::TempDir;

use super::*;
use crate::{
    chain::{
        embedded::{self, Embedded},
        records::{Account, Node},
        wire::{Code, query},
    },
    codec,
    types::{JobId, Resources},
};

const LIMIT: Duration = Duration::from_secs(20);

pub(super) struct Lab {
    pub(super) embedded: Arc<Embedded>,
    host: Keypair,
    directory: TempDir,
}

/// A peer whose link can be cut.
struct Peer {
    pub(super) embedded: Arc<Embedded>,
    cut: Arc<AtomicBool>,
}

#[async_trait]
impl Transport for Peer {
    async fn call(&self, request: Vec<u8>) -> Result<Vec<u8>, TransportError> {
        if self.cut.load(Ordering::SeqCst) {
            return Err(TransportError { reason: "the link is cut".to_owned() });
        }
        Ok(self.embedded.rpc(&request).await)
    }

    fn describe(&self) -> String {
        "test".to_owned()
    }
}

pub(super) fn lab() -> Lab {
    let host = Keypair::from_secret(&[1; 32]);
    let directory = tempfile::tempdir().unwrap();
    let genesis = embedded::job_genesis("atlas-job-test".to_owned(), host.node_key());
    let embedded = Embedded::start(&directory.path().join("ledger"), genesis, &host, None).unwrap();
    Lab { embedded, host, directory }
}

impl Lab {
    async fn http(&self) -> Endpoint {
        let listener = embedded::listen(([127, 0, 0, 1], 0).into()).await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let embedded = self.embedded.clone();
        tokio::spawn(async move { embedded.serve(listener).await });
        Endpoint::Http(url)
    }

    pub(super) fn peer(&self) -> (Endpoint, Arc<AtomicBool>) {
        let cut = Arc::<AtomicBool>::default();
        (Endpoint::Peer(Arc::new(Peer { embedded: self.embedded.clone(), cut: cut.clone() })), cut)
    }

    pub(super) fn config(&self, endpoints: Vec<Endpoint>) -> Config {
        Config {
            ledger: "atlas-job-test".to_owned(),
            validator: Some(self.host.node_key()),
            endpoints,
            outbox_dir: self.directory.path().join("outbox"),
            poll: Poll::default(),
            trust: None,
        }
    }
}

pub(super) fn worker() -> Keypair {
    Keypair::from_secret(&[2; 32])
}

pub(super) fn register(label: &str) -> Message {
    Message::RegisterNode {
        node_id: label.to_owned(),
        address: None,
        resources: Resources { cpu_millicores: 1_000, ..Resources::default() },
        listen: Vec::new(),
        attributes: BTreeMap::new(),
    }
}

/// A message that is included and fails.
fn hopeless() -> Message {
    Message::CancelJob { job_id: JobId([9; 32]) }
}

/// Waits for the first event that `wanted` takes; others pass.
async fn until<T>(events: &mut mpsc::Receiver<Event>, mut wanted: impl FnMut(&Event) -> Option<T>) -> T {
    let search = async {
        loop {
            let event = events.recv().await.expect("the client runs");
            if let Some(found) = wanted(&event) {
                return found;
            }
        }
    };
    tokio::time::timeout(LIMIT, search).await.expect("the event comes in time")
}

pub(super) async fn committed(events: &mut mpsc::Receiver<Event>, wanted: u64) -> (u32, u64, Digest) {
    until(events, |event| match event {
        Event::Committed { id, code, height, hash, .. } if *id == wanted => Some((*code, *height, *hash)),
        Event::Rejected { id, reason } => panic!("{id} was rejected: {reason}"),
        _ => None,
    })
    .await
}

pub(super) async fn disconnected(events: &mut mpsc::Receiver<Event>) -> String {
    until(events, |event| match event {
        Event::Disconnected { reason } => Some(reason.clone()),
        _ => None,
    })
    .await
}

async fn story(endpoint: Endpoint, lab: &Lab) {
    let (handle, mut events) = Client::start(lab.config(vec![endpoint]), &worker()).unwrap();
    until(&mut events, |event| matches!(event, Event::Connected { .. }).then_some(())).await;
    handle.submit(1, register("worker"), true).unwrap();
    let nodes = until(&mut events, |event| match event {
        Event::Changes(changes) => Some(changes.nodes.clone()).filter(|nodes| !nodes.is_empty()),
        _ => None,
    })
    .await;
    assert_eq!(nodes[0].id, worker().node_key());
    let (code, height, _) = committed(&mut events, 1).await;
    assert_eq!((code, height), (0, 1));

    for id in 2..40 {
        handle.submit(id, hopeless(), id % 2 == 0).unwrap();
    }
    let mut waiting: BTreeSet<_> = (2..40).collect();
    while !waiting.is_empty() {
        let (id, code) = until(&mut events, |event| match event {
            Event::Committed { id, code, .. } => Some((*id, *code)),
            _ => None,
        })
        .await;
        assert!(waiting.remove(&id) && code == Code::NotFound as u32, "{id} {code}");
    }
    let answer = handle.query(query::GET_NODE, codec::encode(&worker().node_key())).await.unwrap();
    assert_eq!(codec::decode::<Option<Node>>(&answer, 10_000).unwrap().unwrap().node_id, "worker");
    let answer = handle.query(query::GET_ACCOUNT, codec::encode(&worker().node_key())).await.unwrap();
    assert_eq!(codec::decode::<Account>(&answer, 10_000).unwrap().nonce, 39);
    assert!(matches!(handle.query("/nothing", vec![]).await, Err(QueryError::Refused { .. })));
    handle.stop().await;
    assert_eq!(handle.submit(99, hopeless(), true), Err(SubmitError::Stopped));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_over_http_submits_hears_and_asks() {
    let lab = lab();
    story(lab.http().await, &lab).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_through_a_peer_does_the_same() {
    let lab = lab();
    story(lab.peer().0, &lab).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_submission_is_final_within_moments() {
    let lab = lab();
    for endpoint in [lab.http().await, lab.peer().0] {
        let (handle, mut events) = Client::start(lab.config(vec![endpoint.clone()]), &worker()).unwrap();
        until(&mut events, |event| matches!(event, Event::Connected { .. }).then_some(())).await;
        let mut millis = Vec::new();
        for id in 0..30 {
            let start = clock::now();
            handle.submit(id, register("worker"), true).unwrap();
            committed(&mut events, id).await;
            millis.push(clock::now().since(start).as_millis());
        }
        millis.sort_unstable();
        println!("{endpoint}: median {} ms, longest {} ms", millis[15], millis[29]);
        // Generous: the machine may be busy with other tests. Alone it is about 10.
        assert!(millis[15] < 150, "{millis:?}");
        handle.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_ledger_or_host_is_not_used_and_the_reason_names_both() {
    let lab = lab();
    let mut config = lab.config(vec![lab.peer().0]);
    config.ledger = "atlas-chain".to_owned();
    let (_handle, mut events) = Client::start(config, &worker()).unwrap();
    let reason = disconnected(&mut events).await;
    assert!(reason.contains("`atlas-chain`") && reason.contains("`atlas-job-test`"), "{reason}");

    let mut config = lab.config(vec![lab.peer().0]);
    config.validator = Some(worker().node_key());
    let (handle, mut events) = Client::start(config, &worker()).unwrap();
    let reason = disconnected(&mut events).await;
    assert!(reason.contains(&worker().node_key().to_string()), "{reason}");
    assert!(matches!(handle.query(query::LIST_NODES, vec![]).await, Err(QueryError::Disconnected { .. })));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_where_nobody_listens_is_said_with_its_cause() {
    let lab = lab();
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let config = lab.config(vec![Endpoint::Http(format!("http://{free}"))]);
    let (_handle, mut events) = Client::start(config, &worker()).unwrap();
    let reason = disconnected(&mut events).await;
    assert!(reason.contains(&free.to_string()) && reason.contains("sending request"), "{reason}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_host_of_an_embedded_ledger_is_told_and_the_last_way_is_taken_when_the_first_fails() {
    let lab = lab();
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let nobody = Endpoint::Http(format!("http://{free}"));
    let (handle, mut events) = Client::start(lab.config(vec![nobody]), &worker()).unwrap();
    disconnected(&mut events).await;
    handle.add_endpoint(lab.peer().0, Place::Last).unwrap();
    let told = until(&mut events, |event| match event {
        Event::Connected { through_peer, host, .. } => Some((*through_peer, *host)),
        _ => None,
    });
    assert_eq!(told.await, (true, Some(lab.host.node_key())));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cut_link_is_said_and_another_way_goes_on_where_it_was() {
    let lab = lab();
    let (first, cut) = lab.peer();
    let (handle, mut events) = Client::start(lab.config(vec![first]), &worker()).unwrap();
    handle.submit(1, register("worker"), true).unwrap();
    committed(&mut events, 1).await;
    cut.store(true, Ordering::SeqCst);
    let reason = disconnected(&mut events).await;
    assert!(reason.contains("the link is cut"), "{reason}");
    handle.submit(2, hopeless(), true).unwrap();
    handle.add_endpoint(lab.http().await, Place::First).unwrap();
    assert_eq!(committed(&mut events, 2).await.0, Code::NotFound as u32);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waited_at_a_stop_is_sent_after_the_restart_and_once_only() {
    let lab = lab();
    let (endpoint, cut) = lab.peer();
    cut.store(true, Ordering::SeqCst);
    let (handle, mut events) = Client::start(lab.config(vec![endpoint.clone()]), &worker()).unwrap();
    disconnected(&mut events).await;
    handle.submit(handle.first_free_id(), register("worker"), true).unwrap();
    handle.submit(handle.first_free_id() + 1, hopeless(), false).unwrap();
    handle.stop().await;
    drop((handle, events));

    cut.store(false, Ordering::SeqCst);
    let (handle, mut events) = Client::start(lab.config(vec![endpoint.clone()]), &worker()).unwrap();
    assert_eq!(committed(&mut events, 0).await.0, 0);
    handle.submit(handle.first_free_id(), hopeless(), true).unwrap();
    committed(&mut events, handle.first_free_id()).await;
    handle.stop().await;

    // Nothing is left to be sent: the next block holds the next submission alone.
    let (handle, mut events) = Client::start(lab.config(vec![endpoint]), &worker()).unwrap();
    handle.submit(handle.first_free_id(), hopeless(), true).unwrap();
    assert_eq!(committed(&mut events, handle.first_free_id()).await.1, 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_processes_with_one_key_do_not_lose_each_others_nonces() {
    let lab = lab();
    let other = Config { outbox_dir: lab.directory.path().join("other"), ..lab.config(vec![lab.peer().0]) };
    let (first, mut first_events) = Client::start(lab.config(vec![lab.peer().0]), &worker()).unwrap();
    let (second, mut second_events) = Client::start(other, &worker()).unwrap();
    for id in 0..10 {
        // Different messages: equal ones with one nonce would be one transaction.
        first.submit(id, register("first"), true).unwrap();
        second.submit(id, register("second"), true).unwrap();
    }
    for events in [&mut first_events, &mut second_events] {
        let mut waiting: BTreeSet<_> = (0..10).collect();
        while !waiting.is_empty() {
            let id = until(events, |event| match event {
                Event::Committed { id, code: 0, .. } => Some(*id),
                _ => None,
            });
            waiting.remove(&id.await);
        }
    }
}

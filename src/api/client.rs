//! The other end of the control socket, for the command line and for whoever drives nodes from Rust.

use std::{
    io,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    time::Duration,
};

use futures::{Stream, StreamExt, stream};
use reqwest::{Method, RequestBuilder, Response};
use serde::{Serialize, de::DeserializeOwned};

use super::{
    Account, Amount, CheckpointLine, Done, Health, Infer, Inference, Job, JobDetail, LedgerParameters, Logs, Metrics,
    Node, NodeEvent, ParameterVotes, Payment, Peer, Register, Rewards, Run, Shard, ShardAdd, ShardGet, Status,
    StorageKeep, StorageRelease, StoredObject, Submit, SubmitPrepared, Submitted, Task, Wallet, routes, socket,
};
use crate::{
    proof::evidence::Evidence,
    types::{JobId, Round, TaskId},
};

/// The server answers within its own limits; this much later the connection is given up.
const MARGIN: Duration = Duration::from_secs(5);
/// The longest line of an event stream. Longer is no event of ours.
const MAX_LINE: usize = 1024 * 1024;

/// Why a command has no reply.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nobody listens on the socket.
    #[error("no node runs with the data directory {}\n  start one with `atlas-node --data-dir {} start`", .data_dir.display(), .data_dir.display())]
    NotRunning {
        /// Where a node was looked for.
        data_dir: PathBuf,
        /// What the socket said.
        source: io::Error,
    },
    /// The node answered: no.
    #[error(transparent)]
    Refused(#[from] super::Error),
    /// The connection failed half-way.
    #[error("the node stopped answering")]
    Transport(#[from] reqwest::Error),
    /// The answer is not what this version expects.
    #[error("the node's answer is not understood; do node and command have the same version?")]
    Answer(#[from] serde_json::Error),
    /// A line of the event stream was longer than any event.
    #[error("the node sent an event of more than {MAX_LINE} bytes")]
    LongLine,
}

/// A connection to the node that runs in one data directory.
#[derive(Clone, Debug)]
pub struct Client {
    http: reqwest::Client,
}

impl Client {
    /// Finds the node of `data_dir`; says so if none runs.
    pub fn connect(data_dir: &Path) -> Result<Self, Error> {
        let path = socket::path(data_dir);
        let not_running = |source| Error::NotRunning { data_dir: data_dir.to_owned(), source };
        UnixStream::connect(&path).map_err(not_running)?;
        let http = reqwest::Client::builder().unix_socket(path).no_proxy().build()?;
        Ok(Self { http })
    }

    /// See [`super::Command::Health`].
    pub async fn health(&self) -> Result<Health, Error> {
        self.get("/health").await
    }

    /// See [`super::Command::Status`].
    pub async fn status(&self) -> Result<Status, Error> {
        self.get("/v1/status").await
    }

    /// See [`super::Command::Peers`].
    pub async fn peers(&self) -> Result<Vec<Peer>, Error> {
        self.get("/v1/peers").await
    }

    /// See [`super::Command::Nodes`].
    pub async fn nodes(&self) -> Result<Vec<Node>, Error> {
        self.get("/v1/nodes").await
    }

    /// See [`super::Command::Jobs`].
    pub async fn jobs(&self) -> Result<Vec<Job>, Error> {
        self.get("/v1/jobs").await
    }

    /// See [`super::Command::Job`].
    pub async fn job(&self, job: JobId) -> Result<JobDetail, Error> {
        self.get(&format!("/v1/jobs/{job}")).await
    }

    /// See [`super::Command::Tasks`].
    pub async fn tasks(&self, job: Option<JobId>) -> Result<Vec<Task>, Error> {
        let query = job.map(|job| format!("?job={job}")).unwrap_or_default();
        self.get(&format!("/v1/tasks{query}")).await
    }

    /// See [`super::Command::Runs`].
    pub async fn runs(&self) -> Result<Vec<Run>, Error> {
        self.get("/v1/runs").await
    }

    /// See [`super::Command::Submit`].
    pub async fn submit(&self, submit: &Submit) -> Result<Submitted, Error> {
        self.post("/v1/jobs", submit, routes::LONG).await
    }

    /// See [`super::Command::SubmitPrepared`].
    pub async fn submit_prepared(&self, submit: &SubmitPrepared) -> Result<Submitted, Error> {
        self.post("/v1/jobs/prepared", submit, routes::LONG).await
    }

    /// See [`super::Command::Cancel`].
    pub async fn cancel(&self, job: JobId) -> Result<Done, Error> {
        self.post(&format!("/v1/jobs/{job}/cancel"), &(), routes::QUICK).await
    }

    /// See [`super::Command::Pause`].
    pub async fn pause(&self, job: JobId) -> Result<Done, Error> {
        self.post(&format!("/v1/jobs/{job}/pause"), &(), routes::QUICK).await
    }

    /// See [`super::Command::Resume`].
    pub async fn resume(&self, job: JobId) -> Result<Done, Error> {
        self.post(&format!("/v1/jobs/{job}/resume"), &(), routes::QUICK).await
    }

    /// See [`super::Command::Infer`].
    pub async fn infer(&self, infer: &Infer) -> Result<Inference, Error> {
        self.post("/v1/infer", infer, routes::LONG).await
    }

    /// See [`super::Command::Register`].
    pub async fn register(&self, register: &Register) -> Result<Done, Error> {
        self.post("/v1/register", register, routes::QUICK).await
    }

    /// See [`super::Command::ShardAdd`].
    pub async fn shard_add(&self, add: &ShardAdd) -> Result<Shard, Error> {
        self.post("/v1/shards", add, routes::LONG).await
    }

    /// See [`super::Command::ShardGet`].
    pub async fn shard_get(&self, get: &ShardGet) -> Result<Shard, Error> {
        self.post("/v1/shards/get", get, routes::LONG).await
    }

    /// See [`super::Command::ShardList`].
    pub async fn shards(&self) -> Result<Vec<Shard>, Error> {
        self.get("/v1/shards").await
    }

    /// See [`super::Command::StorageKeep`].
    pub async fn storage_keep(&self, keep: &StorageKeep) -> Result<Done, Error> {
        self.post("/v1/storage", keep, routes::LONG).await
    }

    /// See [`super::Command::StorageRelease`].
    pub async fn storage_release(&self, release: &StorageRelease) -> Result<Done, Error> {
        self.post("/v1/storage/release", release, routes::BLOCK).await
    }

    /// See [`super::Command::StorageList`].
    pub async fn storage(&self) -> Result<Vec<StoredObject>, Error> {
        self.get("/v1/storage").await
    }

    /// See [`super::Command::CheckpointList`].
    pub async fn checkpoints(&self) -> Result<Vec<CheckpointLine>, Error> {
        self.get("/v1/checkpoints").await
    }

    /// See [`super::Command::Logs`].
    pub async fn logs(&self, task: TaskId, tail: u32) -> Result<Logs, Error> {
        self.get(&format!("/v1/tasks/{task}/logs?tail={tail}")).await
    }

    /// See [`super::Command::ProofOf`].
    pub async fn proof(&self, task: TaskId, round: Round) -> Result<Evidence, Error> {
        self.get(&format!("/v1/tasks/{task}/proofs/{round}")).await
    }

    /// See [`super::Command::Account`].
    pub async fn account(&self) -> Result<Account, Error> {
        self.get("/v1/account").await
    }

    /// See [`super::Command::Wallet`].
    pub async fn wallet(&self) -> Result<Wallet, Error> {
        self.get_within("/v1/wallet", routes::BLOCK).await
    }

    /// See [`super::Command::Rewards`].
    pub async fn rewards(&self) -> Result<Rewards, Error> {
        self.get_within("/v1/rewards", routes::BLOCK).await
    }

    /// See [`super::Command::Send`].
    pub async fn send(&self, payment: &Payment) -> Result<Done, Error> {
        self.post("/v1/wallet/send", payment, routes::BLOCK).await
    }

    /// See [`super::Command::Bond`].
    pub async fn bond(&self, amount: u64) -> Result<Done, Error> {
        self.post("/v1/wallet/bond", &Amount { amount }, routes::BLOCK).await
    }

    /// See [`super::Command::Unbond`].
    pub async fn unbond(&self, amount: u64) -> Result<Done, Error> {
        self.post("/v1/wallet/unbond", &Amount { amount }, routes::BLOCK).await
    }

    /// See [`super::Command::Parameters`].
    pub async fn parameters(&self) -> Result<LedgerParameters, Error> {
        self.get_within("/v1/parameters", routes::BLOCK).await
    }

    /// See [`super::Command::VoteParameters`].
    pub async fn vote_parameters(&self, votes: &ParameterVotes) -> Result<Done, Error> {
        self.post("/v1/parameters/votes", votes, routes::BLOCK).await
    }

    /// See [`super::Command::Metrics`].
    pub async fn metrics(&self) -> Result<Metrics, Error> {
        self.get("/v1/metrics").await
    }

    /// See [`super::Command::Shutdown`].
    pub async fn shutdown(&self) -> Result<Done, Error> {
        self.post("/v1/shutdown", &(), routes::QUICK).await
    }

    /// What happens from now on, until the node stops. Events that this version does not know are left out.
    pub async fn events(&self) -> Result<impl Stream<Item = Result<NodeEvent, Error>> + use<>, Error> {
        let response = checked(self.request(Method::GET, "/v1/events").send().await?).await?;
        let lines = Lines { body: response.bytes_stream().boxed(), buffer: Vec::new() };
        Ok(stream::unfold(lines, async |mut lines| Some((lines.next_event().await?, lines))))
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Error> {
        self.get_within(path, routes::QUICK).await
    }

    async fn get_within<T: DeserializeOwned>(&self, path: &str, limit: Duration) -> Result<T, Error> {
        answer(self.request(Method::GET, path).timeout(limit + MARGIN)).await
    }

    async fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize, limit: Duration) -> Result<T, Error> {
        answer(self.request(Method::POST, path).json(body).timeout(limit + MARGIN)).await
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        // The host is never looked up: every connection goes to the socket.
        self.http.request(method, format!("http://node{path}"))
    }
}

async fn answer<T: DeserializeOwned>(request: RequestBuilder) -> Result<T, Error> {
    let body = checked(request.send().await?).await?.bytes().await?;
    Ok(serde_json::from_slice(&body)?)
}

/// The response, or the error that it carries.
async fn checked(response: Response) -> Result<Response, Error> {
    if response.status().is_success() {
        return Ok(response);
    }
    Err(Error::Refused(serde_json::from_slice(&response.bytes().await?)?))
}

/// A response body cut into lines.
struct Lines {
    body: stream::BoxStream<'static, reqwest::Result<axum::body::Bytes>>,
    buffer: Vec<u8>,
}

impl Lines {
    /// The next event; `None` at the end of the stream.
    async fn next_event(&mut self) -> Option<Result<NodeEvent, Error>> {
        loop {
            while let Some(end) = self.buffer.iter().position(|&byte| byte == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                if let Ok(event) = serde_json::from_slice(&line) {
                    return Some(Ok(event));
                }
            }
            if self.buffer.len() > MAX_LINE {
                self.buffer.clear();
                return Some(Err(Error::LongLine));
            }
            match self.body.next().await? {
                Ok(chunk) => self.buffer.extend_from_slice(&chunk),
                Err(error) => return Some(Err(error.into())),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::{broadcast, mpsc};

    use super::*;
    use crate::api::{Command, EVENT_QUEUE, ErrorCode, Reply, Request, server};

    /// A server in front of a node that answers health, refuses `peers` and swallows everything else.
    async fn node(tcp: bool) -> (tempfile::TempDir, server::Server, broadcast::Sender<NodeEvent>) {
        let directory = tempfile::tempdir().unwrap();
        let (requests, mut asked) = mpsc::channel::<Request>(4);
        let (events, _) = broadcast::channel(EVENT_QUEUE);
        tokio::spawn(async move {
            while let Some(Request { command, answer }) = asked.recv().await {
                let reply = match command {
                    Command::Health => {
                        Ok(Reply::Health(Health { status: "ok".into(), peer_id: "12D3".into(), uptime_seconds: 1 }))
                    }
                    Command::Peers => Err(super::super::Error::new(ErrorCode::Conflict, "no").with_hint("try again")),
                    Command::Metrics => Ok(Reply::Metrics(Box::default())),
                    _ => continue,
                };
                let _ = answer.send(reply);
            }
        });
        let tcp = tcp.then(|| "127.0.0.1:0".parse().unwrap());
        let config = server::Config { data_dir: directory.path().to_owned(), tcp };
        let server = server::start(&config, requests, events.clone()).await.unwrap();
        (directory, server, events)
    }

    #[tokio::test]
    async fn a_command_goes_in_and_its_reply_or_its_refusal_comes_out() {
        let (directory, _server, _) = node(false).await;
        let client = Client::connect(directory.path()).unwrap();
        assert_eq!(client.health().await.unwrap().peer_id, "12D3");
        let Err(Error::Refused(refused)) = client.peers().await else { panic!("`peers` is refused") };
        assert_eq!((refused.code, refused.hint.as_deref()), (ErrorCode::Conflict, Some("try again")));
        let Err(Error::Refused(dropped)) = client.nodes().await else { panic!("`nodes` is dropped") };
        assert_eq!(dropped.code, ErrorCode::Internal);
    }

    #[tokio::test]
    async fn when_no_node_runs_the_client_says_so_and_how_to_start_one() {
        let directory = tempfile::tempdir().unwrap();
        let error = Client::connect(directory.path()).unwrap_err();
        assert!(matches!(error, Error::NotRunning { .. }));
        assert!(error.to_string().contains("start"), "{error}");
    }

    #[tokio::test]
    async fn a_second_node_on_one_data_directory_is_refused_and_a_socket_left_over_is_not_in_the_way() {
        let (directory, server, _) = node(false).await;
        let config = server::Config { data_dir: directory.path().to_owned(), tcp: None };
        let (requests, _asked) = mpsc::channel(1);
        let (events, _) = broadcast::channel(1);
        let second = server::start(&config, requests.clone(), events.clone()).await;
        assert!(matches!(second, Err(server::Error::Running(_))));

        let socket = server.socket().to_owned();
        server.stop().await;
        // What a `kill -9` leaves: a socket file behind which nobody listens.
        drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
        assert!(socket.exists());
        let again = server::start(&config, requests, events).await.unwrap();
        assert!(Client::connect(directory.path()).is_ok());
        again.stop().await;
        assert!(!socket.exists());
    }

    #[tokio::test]
    async fn a_slow_reader_of_events_is_told_how_many_it_lost() {
        let (directory, server, events) = node(false).await;
        let client = Client::connect(directory.path()).unwrap();
        let mut stream = Box::pin(client.events().await.unwrap());
        // Events go out faster than a task that never yields can write them.
        let total = EVENT_QUEUE as u64 + 10;
        for count in 0..total {
            events.send(NodeEvent::Warning { message: count.to_string() }).unwrap();
        }
        assert_eq!(stream.next().await.unwrap().unwrap(), NodeEvent::Lost { count: 10 });
        assert_eq!(stream.next().await.unwrap().unwrap(), NodeEvent::Warning { message: "10".into() });
        let ended = tokio::spawn(async move { while stream.next().await.is_some() {} });
        server.stop().await;
        tokio::time::timeout(Duration::from_secs(5), ended).await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn tcp_takes_the_bearer_token_alone() {
        let (directory, server, _) = node(true).await;
        let url = format!("http://{}/metrics", server.tcp().unwrap());
        let http = reqwest::Client::new();
        let refused = http.get(&url).send().await.unwrap();
        assert_eq!(refused.status(), 401);
        let token = std::fs::read_to_string(directory.path().join("api.token")).unwrap();
        let passed = http.get(&url).bearer_auth(token.trim()).send().await.unwrap();
        assert_eq!(passed.status(), 200);
        assert!(passed.text().await.unwrap().contains("atlas_peers 0"));
    }

    #[tokio::test]
    async fn what_is_no_request_is_answered_with_what_is_wrong() {
        let (directory, _server, _) = node(false).await;
        let client = Client::connect(directory.path()).unwrap();
        let (long, deep, oversize) = ("a".repeat(10_000), "[".repeat(1_000_000), " ".repeat(8 * 1024 * 1024 + 1));
        let nested = format!("{{\"model\": \"m\", \"input\": {deep}");
        for (method, path, body, code) in [
            (Method::GET, format!("/v1/jobs/{long}").as_str(), "", ErrorCode::Invalid),
            (Method::GET, "/v1/jobs/..%2F..%2Fetc%2Fpasswd", "", ErrorCode::Invalid),
            (Method::GET, "/v1/jobs/%00", "", ErrorCode::Invalid),
            (Method::GET, "/v1/tasks/..%2F0/logs", "", ErrorCode::Invalid),
            (Method::GET, "/v1/tasks?job=xyz&unknown=1", "", ErrorCode::Invalid),
            (Method::POST, "/v1/jobs", nested.as_str(), ErrorCode::Invalid),
            (Method::POST, "/v1/infer", nested.as_str(), ErrorCode::Invalid),
            (Method::POST, "/v1/jobs", oversize.as_str(), ErrorCode::Invalid),
            (Method::POST, "/v1/shards/get", "{\"cid\": \"../etc\"}", ErrorCode::Invalid),
            (Method::POST, "/v1/register", "{\"unknown\": 1}", ErrorCode::Invalid),
            (Method::POST, "/v1/wallet/send", "{\"to\": \"anna\", \"amount\": 1}", ErrorCode::Invalid),
            (Method::POST, "/v1/parameters/votes", "{\"votes\": [{\"body\": \"xy\"}]}", ErrorCode::Invalid),
            (Method::POST, "/v1/wallet/bond", "{\"amount\": -1}", ErrorCode::Invalid),
            (Method::POST, "/v1/wallet/unbond", "{\"amount\": 1, \"from\": 2}", ErrorCode::Invalid),
            (Method::POST, "/v1/storage", "{\"cid\": \"x\", \"copies\": 2, \"seconds\": 1}", ErrorCode::Invalid),
            (Method::POST, "/v1/storage/release", "{}", ErrorCode::Invalid),
            (Method::GET, "/v1/jobs/xyz", "", ErrorCode::Invalid),
            (Method::GET, "/v1/tasks?job=xyz", "", ErrorCode::Invalid),
            (Method::POST, "/v1/infer", "{\"input\": 1}", ErrorCode::Invalid),
            (Method::POST, "/v1/jobs", "{", ErrorCode::Invalid),
            (Method::GET, "/v2/nothing", "", ErrorCode::NotFound),
        ] {
            let response = client.request(method, path).body(body.to_owned()).send().await.unwrap();
            let Err(Error::Refused(error)) = checked(response).await else { panic!("{path} is refused") };
            assert_eq!(error.code, code, "{path}: {error}");
            assert!(error.to_string().len() < 1_000, "{path}: what is wrong is not repeated at length");
        }
        assert_eq!(client.health().await.unwrap().peer_id, "12D3", "and the node goes on");
    }
}

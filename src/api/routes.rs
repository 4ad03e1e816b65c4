//! The routes: each turns one HTTP request into one [`Command`] and its reply into JSON.

use std::{str::FromStr, sync::Arc, time::Duration};

use axum::{
    Json, Router,
    body::{Body, Bytes},
    extract::{
        DefaultBodyLimit, Path, Query, State,
        rejection::{BytesRejection, QueryRejection},
    },
    http::{HeaderMap, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use serde::{Deserialize, de::DeserializeOwned};
use tokio::sync::{broadcast, mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::{Command, Error, ErrorCode, NodeEvent, Reply, Request, prometheus, stream};
use crate::types::{Digest, JobId, TaskId};

/// The longest request body: an inference input of a few images. A longer one is refused unread.
const MAX_BODY: usize = 8 * 1024 * 1024;
/// Within this time the event loop answers what it knows already; longer means that it is stuck.
pub(super) const QUICK: Duration = Duration::from_secs(10);
/// Within this time content is imported, fetched and copied to others. A guess: 1 TB at 100 MB/s is 3 hours.
pub(super) const LONG: Duration = Duration::from_secs(4 * 3600);
/// Within this time a transaction is in a block, or an answer of a chain is proven by the next one, on a chain whose
/// blocks are slow and whose mempool is full too. A guess.
pub(super) const BLOCK: Duration = Duration::from_secs(120);
/// For whoever waited for a block in vain, and would otherwise pay twice.
const STILL_ON_ITS_WAY: &str = "the order stays in the node's outbox and may still be carried out; see `atlas-node wallet show` before it is given again";
/// Lines of a log if the caller names no number.
const DEFAULT_TAIL: u32 = 200;

/// What every route needs.
#[derive(Clone)]
pub(super) struct Context {
    pub(super) requests: mpsc::Sender<Request>,
    pub(super) events: broadcast::Sender<NodeEvent>,
    pub(super) stop: CancellationToken,
}

impl Context {
    async fn ask(&self, command: Command) -> Result<Reply, Error> {
        let limit = limit_of(&command);
        let moves_money = matches!(command, Command::Send(_) | Command::Bond(_) | Command::Unbond(_));
        let (answer, answered) = oneshot::channel();
        self.requests.try_send(Request { command, answer }).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => {
                Error::new(ErrorCode::Busy, "the node has too many questions waiting")
            }
            mpsc::error::TrySendError::Closed(_) => Error::new(ErrorCode::Unavailable, "the node stops"),
        })?;
        match tokio::time::timeout(limit, answered).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(Error::new(ErrorCode::Internal, "the node dropped the question")),
            Err(_) => {
                let late =
                    Error::new(ErrorCode::Timeout, format!("the node did not answer within {} s", limit.as_secs()));
                Err(if moves_money { late.with_hint(STILL_ON_ITS_WAY) } else { late })
            }
        }
    }
}

fn limit_of(command: &Command) -> Duration {
    match command {
        Command::Submit(_)
        | Command::SubmitPrepared(_)
        | Command::Infer(_)
        | Command::ShardAdd(_)
        | Command::ShardGet(_)
        | Command::StorageKeep(_) => LONG,
        Command::Wallet
        | Command::Rewards
        | Command::Send(_)
        | Command::Bond(_)
        | Command::Unbond(_)
        | Command::StorageRelease(_)
        | Command::Parameters
        | Command::VoteParameters(_) => BLOCK,
        _ => QUICK,
    }
}

/// All routes, without authentication.
pub(super) fn router(context: Context) -> Router {
    Router::new()
        .route("/health", get(async |State(context): Ctx| context.ask(Command::Health).await))
        .route("/metrics", get(metrics))
        .route("/v1/status", get(async |State(context): Ctx| context.ask(Command::Status).await))
        .route("/v1/peers", get(async |State(context): Ctx| context.ask(Command::Peers).await))
        .route("/v1/nodes", get(async |State(context): Ctx| context.ask(Command::Nodes).await))
        .route("/v1/runs", get(async |State(context): Ctx| context.ask(Command::Runs).await))
        .route("/v1/account", get(async |State(context): Ctx| context.ask(Command::Account).await))
        .route("/v1/wallet", get(async |State(context): Ctx| context.ask(Command::Wallet).await))
        .route("/v1/wallet/send", post(send))
        .route("/v1/wallet/bond", post(bond))
        .route("/v1/wallet/unbond", post(unbond))
        .route("/v1/rewards", get(async |State(context): Ctx| context.ask(Command::Rewards).await))
        .route("/v1/parameters", get(async |State(context): Ctx| context.ask(Command::Parameters).await))
        .route("/v1/parameters/votes", post(vote_parameters))
        .route("/v1/metrics", get(async |State(context): Ctx| context.ask(Command::Metrics).await))
        .route("/v1/checkpoints", get(async |State(context): Ctx| context.ask(Command::CheckpointList).await))
        .route("/v1/tasks", get(tasks))
        .route("/v1/tasks/{task}/logs", get(logs))
        .route("/v1/tasks/{task}/proofs/{round}", get(proof))
        .route("/v1/jobs", get(async |State(context): Ctx| context.ask(Command::Jobs).await).post(submit))
        .route("/v1/jobs/prepared", post(submit_prepared))
        .route(
            "/v1/jobs/{job}",
            get(async |context: Ctx, job: JobPath| of_job(context, job, |job| Command::Job { job }).await),
        )
        .route(
            "/v1/jobs/{job}/cancel",
            post(async |context: Ctx, job: JobPath| of_job(context, job, |job| Command::Cancel { job }).await),
        )
        .route(
            "/v1/jobs/{job}/pause",
            post(async |context: Ctx, job: JobPath| of_job(context, job, |job| Command::Pause { job }).await),
        )
        .route(
            "/v1/jobs/{job}/resume",
            post(async |context: Ctx, job: JobPath| of_job(context, job, |job| Command::Resume { job }).await),
        )
        .route("/v1/infer", post(infer))
        .route("/v1/register", post(register))
        .route("/v1/shards", get(async |State(context): Ctx| context.ask(Command::ShardList).await).post(shard_add))
        .route("/v1/shards/get", post(shard_get))
        .route(
            "/v1/storage",
            get(async |State(context): Ctx| context.ask(Command::StorageList).await).post(storage_keep),
        )
        .route("/v1/storage/release", post(storage_release))
        .route("/v1/events", get(events))
        .route("/v1/shutdown", post(async |State(context): Ctx| context.ask(Command::Shutdown).await))
        .fallback(async || Error::new(ErrorCode::NotFound, "no such route").with_hint("README.md lists them"))
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(context)
}

type Ctx = State<Context>;
type JobPath = Path<String>;
/// A request's body, or why it was not taken.
type Posted = Result<Bytes, BytesRejection>;

async fn of_job(
    State(context): Ctx,
    Path(job): JobPath,
    command: impl FnOnce(JobId) -> Command,
) -> Result<Reply, Error> {
    context.ask(command(parse("job", &job)?)).await
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TaskQuery {
    job: Option<JobId>,
}

async fn tasks(State(context): Ctx, query: Result<Query<TaskQuery>, QueryRejection>) -> Result<Reply, Error> {
    let Query(TaskQuery { job }) = query.map_err(invalid_query)?;
    context.ask(Command::Tasks { job }).await
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LogQuery {
    tail: Option<u32>,
}

async fn logs(
    State(context): Ctx,
    Path(task): Path<String>,
    query: Result<Query<LogQuery>, QueryRejection>,
) -> Result<Reply, Error> {
    let Query(LogQuery { tail }) = query.map_err(invalid_query)?;
    let task = parse::<TaskId>("task", &task)?;
    context.ask(Command::Logs { task, tail: tail.unwrap_or(DEFAULT_TAIL) }).await
}

async fn proof(State(context): Ctx, Path((task, round)): Path<(String, String)>) -> Result<Reply, Error> {
    context.ask(Command::ProofOf { task: parse("task", &task)?, round: parse("round", &round)? }).await
}

async fn submit(State(context): Ctx, body: Posted) -> Result<Reply, Error> {
    context.ask(Command::Submit(read(body)?)).await
}

async fn submit_prepared(State(context): Ctx, body: Posted) -> Result<Reply, Error> {
    context.ask(Command::SubmitPrepared(read(body)?)).await
}

async fn infer(State(context): Ctx, body: Posted) -> Result<Reply, Error> {
    let question: super::Infer = read(body)?;
    if question.job.is_some() == question.model.is_some() {
        return Err(Error::new(ErrorCode::Invalid, "give exactly one of `job` and `model`"));
    }
    context.ask(Command::Infer(question)).await
}

async fn register(State(context): Ctx, body: Posted) -> Result<Reply, Error> {
    context.ask(Command::Register(read(body)?)).await
}

async fn send(State(context): Ctx, body: Posted) -> Result<Reply, Error> {
    context.ask(Command::Send(read(body)?)).await
}

async fn bond(State(context): Ctx, body: Posted) -> Result<Reply, Error> {
    context.ask(Command::Bond(read(body)?)).await
}

async fn unbond(State(context): Ctx, body: Posted) -> Result<Reply, Error> {
    context.ask(Command::Unbond(read(body)?)).await
}

async fn vote_parameters(State(context): Ctx, body: Posted) -> Result<Reply, Error> {
    context.ask(Command::VoteParameters(read(body)?)).await
}

async fn shard_add(State(context): Ctx, body: Posted) -> Result<Reply, Error> {
    context.ask(Command::ShardAdd(read(body)?)).await
}

async fn shard_get(State(context): Ctx, body: Posted) -> Result<Reply, Error> {
    context.ask(Command::ShardGet(read(body)?)).await
}

async fn storage_keep(State(context): Ctx, body: Posted) -> Result<Reply, Error> {
    context.ask(Command::StorageKeep(read(body)?)).await
}

async fn storage_release(State(context): Ctx, body: Posted) -> Result<Reply, Error> {
    context.ask(Command::StorageRelease(read(body)?)).await
}

async fn metrics(State(context): Ctx) -> Result<Response, Error> {
    match context.ask(Command::Metrics).await? {
        Reply::Metrics(metrics) => {
            let headers = [(header::CONTENT_TYPE, "text/plain; version=0.0.4")];
            Ok((headers, prometheus::render(&metrics)).into_response())
        }
        other => Ok(other.into_response()),
    }
}

async fn events(State(context): Ctx, headers: HeaderMap) -> Response {
    let format = stream::Format::accepted(headers.get(header::ACCEPT));
    let body = stream::lines(context.events.subscribe(), context.stop, format);
    ([(header::CONTENT_TYPE, format.content_type())], Body::from_stream(body)).into_response()
}

/// Lets a request pass only with `Authorization: Bearer {token}`.
pub(super) async fn require_token(
    State(token): State<Arc<str>>,
    request: axum::extract::Request,
    next: Next,
) -> Result<Response, Error> {
    let given = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let given = given.and_then(|value| value.strip_prefix("Bearer ")).unwrap_or_default();
    // Digests are compared, so that the time taken tells nothing of the token.
    if Digest::of(given.as_bytes()) == Digest::of(token.as_bytes()) {
        return Ok(next.run(request).await);
    }
    Err(Error::new(ErrorCode::Unauthorized, "the bearer token is missing or wrong")
        .with_hint("send `Authorization: Bearer …` with the content of `api.token` in the data directory"))
}

fn read<T: DeserializeOwned>(body: Posted) -> Result<T, Error> {
    let too_long =
        |_| Error::new(ErrorCode::Invalid, format!("the request body is over {MAX_BODY} bytes, or broke off"));
    let body = body.map_err(too_long)?;
    serde_json::from_slice(&body).map_err(|error| Error::new(ErrorCode::Invalid, format!("the request body: {error}")))
}

fn parse<T: FromStr<Err: std::fmt::Display>>(name: &str, text: &str) -> Result<T, Error> {
    text.parse().map_err(|error| Error::new(ErrorCode::Invalid, format!("the {name} in the path: {error}")))
}

#[expect(clippy::needless_pass_by_value, reason = "it is passed to `map_err`")]
fn invalid_query(rejection: QueryRejection) -> Error {
    Error::new(ErrorCode::Invalid, rejection.body_text())
}

impl IntoResponse for Reply {
    fn into_response(self) -> Response {
        match self {
            Self::Health(health) => Json(health).into_response(),
            Self::Status(status) => Json(status).into_response(),
            Self::Peers(peers) => Json(peers).into_response(),
            Self::Nodes(nodes) => Json(nodes).into_response(),
            Self::Jobs(jobs) => Json(jobs).into_response(),
            Self::Job(job) => Json(job).into_response(),
            Self::Tasks(tasks) => Json(tasks).into_response(),
            Self::Runs(runs) => Json(runs).into_response(),
            Self::Submitted(submitted) => Json(submitted).into_response(),
            Self::Inference(inference) => Json(inference).into_response(),
            Self::Shard(shard) => Json(shard).into_response(),
            Self::Shards(shards) => Json(shards).into_response(),
            Self::Objects(objects) => Json(objects).into_response(),
            Self::Checkpoints(checkpoints) => Json(checkpoints).into_response(),
            Self::Logs(logs) => Json(logs).into_response(),
            Self::Proof(evidence) => Json(evidence).into_response(),
            Self::Account(account) => Json(account).into_response(),
            Self::Wallet(wallet) => Json(wallet).into_response(),
            Self::Rewards(rewards) => Json(rewards).into_response(),
            Self::Parameters(parameters) => Json(parameters).into_response(),
            Self::Metrics(metrics) => Json(metrics).into_response(),
            Self::Done(done) => Json(done).into_response(),
        }
    }
}

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        (status_of(self.code), Json(self)).into_response()
    }
}

fn status_of(code: ErrorCode) -> StatusCode {
    match code {
        ErrorCode::Invalid => StatusCode::BAD_REQUEST,
        ErrorCode::Unauthorized => StatusCode::UNAUTHORIZED,
        ErrorCode::NotFound => StatusCode::NOT_FOUND,
        ErrorCode::Conflict => StatusCode::CONFLICT,
        ErrorCode::Refused => StatusCode::UNPROCESSABLE_ENTITY,
        ErrorCode::Unavailable | ErrorCode::Busy => StatusCode::SERVICE_UNAVAILABLE,
        ErrorCode::Timeout => StatusCode::GATEWAY_TIMEOUT,
        ErrorCode::Internal => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

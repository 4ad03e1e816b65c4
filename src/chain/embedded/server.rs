//! HTTP in front of the JSON-RPC: POST with a JSON body, GET with the method as path, `/websocket`.

use std::{
    collections::BTreeMap,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    Router,
    body::Bytes,
    extract::{DefaultBodyLimit, Path, Query, State, WebSocketUpgrade},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::{any, get, post},
};
use serde_json::Value;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
};
use tokio_util::sync::CancellationToken;

use super::{
    Node,
    rpc::{self, Call, MAX_REQUEST, Uri},
    websocket,
};

/// Connections at once; a further one waits in the system's queue until one closes. A lab has tens of nodes with two each.
const MAX_CONNECTIONS: usize = 512;
/// From the first byte of a request to the last of its answer. Longer than a `broadcast_tx_commit` waits.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(15);

#[derive(Clone, Debug)]
struct Served {
    node: Arc<Node>,
    stopped: CancellationToken,
}

/// Serves until `stopped`, whose connections it then closes.
pub(super) async fn serve(node: Arc<Node>, listener: TcpListener, stopped: CancellationToken) -> io::Result<()> {
    let router = Router::new()
        .route("/", post(post_request).get(index))
        .route("/websocket", any(upgrade))
        .route("/{method}", get(get_request))
        .layer(DefaultBodyLimit::max(MAX_REQUEST))
        .with_state(Served { node, stopped: stopped.clone() });
    let limited = Limited { listener, room: Arc::new(Semaphore::new(MAX_CONNECTIONS)) };
    tokio::select! {
        result = axum::serve(limited, router) => result,
        () = stopped.cancelled() => Ok(()),
    }
}

/// For a person with a browser.
async fn index() -> &'static str {
    "Tendermint JSON-RPC. GET: /health /status /abci_info /abci_query /tx /block /block_results /header /commit \
     /validators /genesis /broadcast_tx_sync /broadcast_tx_commit /broadcast_tx_async; POST /; websocket /websocket\n"
}

async fn post_request(State(served): State<Served>, body: Bytes) -> Response {
    match tokio::time::timeout(REQUEST_TIMEOUT, rpc::answer(&served.node, &body)).await {
        Ok(answer) => json(StatusCode::OK, answer),
        Err(_) => StatusCode::REQUEST_TIMEOUT.into_response(),
    }
}

async fn get_request(
    State(served): State<Served>,
    Path(method): Path<String>,
    Query(params): Query<BTreeMap<String, String>>,
) -> Response {
    let call = Uri(params).into_json().and_then(|params| Call::from_json(&method, params));
    let result = match call {
        Ok(call) => match tokio::time::timeout(REQUEST_TIMEOUT, rpc::perform(&served.node, call)).await {
            Ok(result) => result,
            Err(_) => return StatusCode::REQUEST_TIMEOUT.into_response(),
        },
        Err(error) => Err(error),
    };
    // CometBFT: a URI request that fails is a 500, a JSON request that fails is a 200.
    let status = if result.is_ok() { StatusCode::OK } else { StatusCode::INTERNAL_SERVER_ERROR };
    json(status, rpc::envelope(&Value::Null, result))
}

async fn upgrade(State(served): State<Served>, upgrade: WebSocketUpgrade) -> Response {
    let Served { node, stopped } = served;
    upgrade.max_message_size(MAX_REQUEST).max_frame_size(MAX_REQUEST).on_upgrade(move |socket| async move {
        stopped.run_until_cancelled(websocket::run(node, socket)).await;
    })
}

fn json(status: StatusCode, body: Vec<u8>) -> Response {
    (status, [(header::CONTENT_TYPE, "application/json")], body).into_response()
}

/// Accepts at most [`MAX_CONNECTIONS`] at once.
struct Limited {
    listener: TcpListener,
    room: Arc<Semaphore>,
}

impl axum::serve::Listener for Limited {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        let permit = self.room.clone().acquire_owned().await.expect("the semaphore is never closed");
        let (stream, address) = axum::serve::Listener::accept(&mut self.listener).await;
        // Answers are small and somebody waits for each; a failure costs 40 ms and nothing else.
        let _ = stream.set_nodelay(true);
        (Connection { stream, _permit: permit }, address)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// A connection with its place among [`MAX_CONNECTIONS`].
struct Connection {
    stream: TcpStream,
    _permit: OwnedSemaphorePermit,
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

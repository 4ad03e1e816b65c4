//! The control server: HTTP/JSON on a Unix socket, and on loopback TCP when asked.
//!
//! It carries commands to the event loop over a bounded queue and does nothing of its own: no state of the node is
//! read here. Whoever may open the socket (0600, in a directory of the node's user) may do what the node's user may;
//! over TCP the bearer token of `api.token` says the same.

use std::{
    fs, io,
    net::SocketAddr,
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use axum::{Router, middleware};
use tokio::{
    net::{TcpListener, UnixListener},
    sync::{broadcast, mpsc},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

use super::{NodeEvent, Request, routes, socket};
use crate::clock;

/// How long requests in flight may take to finish when the node stops; event streams end at once.
const STOP_GRACE: Duration = Duration::from_secs(2);

/// Where the server listens.
#[derive(Clone, Debug)]
pub struct Config {
    /// The node's data directory; must exist.
    pub data_dir: PathBuf,
    /// Loopback TCP beside the Unix socket; port 0 takes a free one.
    pub tcp: Option<SocketAddr>,
}

/// Why the server did not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A node answers on this socket already.
    #[error("a node runs already with this data directory ({}); stop it or choose another --data-dir", .0.display())]
    Running(PathBuf),
    /// The socket could not be made.
    #[error("the control socket {} could not be made", .path.display())]
    Socket {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The TCP address could not be bound.
    #[error("the control API could not listen on {address}; choose another --api")]
    Tcp {
        /// Where.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The API would be open to the network.
    #[error(
        "the control API listens on loopback alone, and {0} is not; choose 127.0.0.1 for --api and forward the port"
    )]
    NotLoopback(SocketAddr),
    /// The token file could not be read or made.
    #[error("the token file {} could not be read or made", .path.display())]
    Token {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// A running server. Dropping it without [`Server::stop`] aborts what is in flight.
#[derive(Debug)]
pub struct Server {
    socket: PathBuf,
    tcp: Option<SocketAddr>,
    stop: CancellationToken,
    tasks: Vec<JoinHandle<()>>,
}

/// Starts the server. Commands go to `requests`, events come from `events`.
pub async fn start(
    config: &Config,
    requests: mpsc::Sender<Request>,
    events: broadcast::Sender<NodeEvent>,
) -> Result<Server, Error> {
    let stop = CancellationToken::new();
    let context = routes::Context { requests, events, stop: stop.clone() };
    let router = routes::router(context);

    let socket = socket::path(&config.data_dir);
    let listener = bind_unix(&socket).await?;
    let mut server = Server { socket, tcp: None, stop: stop.clone(), tasks: Vec::new() };
    server.tasks.push(serve(listener, router.clone(), stop.clone()));

    if let Some(address) = config.tcp {
        let token: Arc<str> = load_token(&config.data_dir)?.into();
        let listener = bind_tcp(address).await?;
        server.tcp = listener.local_addr().ok();
        let router = router.layer(middleware::from_fn_with_state(token, routes::require_token));
        server.tasks.push(serve(listener, router, stop));
    }
    Ok(server)
}

impl Server {
    /// The Unix socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// The TCP address, with the port that was taken.
    pub fn tcp(&self) -> Option<SocketAddr> {
        self.tcp
    }

    /// Takes no new request, ends event streams, and waits a moment for answers that are on their way.
    pub async fn stop(mut self) {
        self.stop.cancel();
        for task in &mut self.tasks {
            // What does not finish in time is aborted by `drop`.
            let _ = tokio::time::timeout(STOP_GRACE, task).await;
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.cancel();
        self.tasks.iter().for_each(JoinHandle::abort);
        let _ = fs::remove_file(&self.socket);
    }
}

fn serve<L>(listener: L, router: Router, stop: CancellationToken) -> JoinHandle<()>
where
    L: axum::serve::Listener,
    L::Addr: std::fmt::Debug,
{
    tokio::spawn(async move {
        let serving = axum::serve(listener, router).with_graceful_shutdown(stop.cancelled_owned());
        if let Err(error) = serving.await {
            tracing::error!(%error, "the control server stopped");
        }
    })
}

async fn bind_unix(path: &Path) -> Result<UnixListener, Error> {
    let failed = |source| Error::Socket { path: path.to_owned(), source };
    socket::prepare(path).map_err(failed)?;
    if tokio::net::UnixStream::connect(path).await.is_ok() {
        return Err(Error::Running(path.to_owned()));
    }
    // Nobody answers: the file is left over from a node that was killed.
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    let listener = UnixListener::bind(path).map_err(failed)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).map_err(failed)?;
    Ok(listener)
}

async fn bind_tcp(address: SocketAddr) -> Result<TcpListener, Error> {
    if !address.ip().is_loopback() {
        return Err(Error::NotLoopback(address));
    }
    TcpListener::bind(address).await.map_err(|source| Error::Tcp { address, source })
}

/// Reads the bearer token of `data_dir`, and makes one (256 random bits) the first time.
fn load_token(data_dir: &Path) -> Result<String, Error> {
    let path = data_dir.join("api.token");
    let failed = |source| Error::Token { path: path.clone(), source };
    match fs::read_to_string(&path) {
        Ok(token) if token.trim().len() >= 32 => return Ok(token.trim().to_owned()),
        Ok(_) => return Err(failed(io::Error::other("it holds less than 32 characters; remove it to get a new one"))),
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        Err(_) => {}
    }
    let token = hex::encode(clock::random_bytes::<32>());
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path).map_err(failed)?;
    io::Write::write_all(&mut file, format!("{token}\n").as_bytes()).map_err(failed)?;
    Ok(token)
}

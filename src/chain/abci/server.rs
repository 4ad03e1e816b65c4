//! The socket that CometBFT connects to. Each connection has a thread: requests come one after the other on it, each is
//! computed or read from disk, and a runtime would only carry them from one thread to another.
//!
//! Answers go out when CometBFT flushes, or when nothing more is there to answer. A connection that sends what is no
//! request, or half of one for too long, is closed with a word in the log; CometBFT then stops, as it does without its
//! application.

use std::{
    fmt, fs,
    io::{self, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    os::unix::{
        fs::PermissionsExt as _,
        net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
    str::FromStr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use bytes::BytesMut;
use tendermint_proto::v0_38::abci::request;

use super::{Config, Error, application::Application, wire};

/// Connections at once. CometBFT has four; those of one that was killed may still be there when the next comes.
const MAX_CONNECTIONS: usize = 16;
/// A request that has begun must come on within this time. A block on loopback takes milliseconds.
const PATIENCE: Duration = Duration::from_secs(30);
/// Bytes read at once.
const READ: usize = 64 * 1024;
/// Answers are written when they reach this many bytes, even if nobody flushes.
const FULL: usize = 1024 * 1024;
/// The longest path of a Unix socket in bytes (Linux, `sun_path`).
const MAX_SOCKET_PATH: usize = 107;

/// Where the application listens, as CometBFT's `proxy_app` writes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// `tcp://127.0.0.1:26658`; loopback alone.
    Tcp(SocketAddr),
    /// `unix:///path`; for its owner alone.
    Unix(PathBuf),
}

/// A text that is no address of an application.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// Neither form.
    #[error("`{0}` is neither tcp://ADDRESS:PORT nor unix:///PATH")]
    Form(String),
    /// Others could connect.
    #[error("`{0}` is not on loopback: whoever reaches it can make blocks; run CometBFT on the same machine")]
    Open(SocketAddr),
    /// The system has no socket with so long a path.
    #[error("the path of the socket has {0} bytes, over the limit of {MAX_SOCKET_PATH}; choose a shorter directory")]
    Long(usize),
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        if let Some(path) = text.strip_prefix("unix://").filter(|path| path.starts_with('/')) {
            return Self::unix(Path::new(path));
        }
        let address = text.strip_prefix("tcp://").and_then(|address| address.parse::<SocketAddr>().ok());
        let address = address.ok_or_else(|| AddressError::Form(text.chars().take(200).collect()))?;
        if address.ip().is_loopback() { Ok(Self::Tcp(address)) } else { Err(AddressError::Open(address)) }
    }
}

impl Address {
    /// The Unix socket at `path`.
    pub fn unix(path: &Path) -> Result<Self, AddressError> {
        let length = path.as_os_str().len();
        if length > MAX_SOCKET_PATH { Err(AddressError::Long(length)) } else { Ok(Self::Unix(path.to_owned())) }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "tcp://{address}"),
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
        }
    }
}

/// An application that listens.
#[derive(Debug)]
pub struct Server {
    application: Arc<Application>,
    listener: Listener,
    address: Address,
}

#[derive(Debug)]
enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// One of CometBFT's connections.
enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Server {
    /// Opens the application in `directory` and listens on `address`. Nothing is answered before [`Server::run`].
    pub fn open(directory: &Path, address: &Address, config: Config) -> Result<Self, Error> {
        let application = Arc::new(Application::open(directory, config)?);
        let fail = |source| Error::Listen { address: address.clone(), source };
        let (listener, address) = match address {
            Address::Tcp(address) => {
                let listener = TcpListener::bind(address).map_err(fail)?;
                let bound = listener.local_addr().map_err(fail)?;
                (Listener::Tcp(listener), Address::Tcp(bound))
            }
            Address::Unix(path) => (Listener::Unix(bind(path).map_err(fail)?), address.clone()),
        };
        tracing::info!(%address, height = application.height(), "the ledger waits for CometBFT");
        Ok(Self { application, listener, address })
    }

    /// Where it listens: the port that the system chose if the address had none.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// Serves connections on this thread until the system gives no more.
    pub fn run(&self) -> Result<(), Error> {
        let open = Arc::new(AtomicUsize::new(0));
        loop {
            let stream = self.listener.accept().map_err(Error::Serve)?;
            if open.fetch_add(1, Ordering::SeqCst) >= MAX_CONNECTIONS {
                open.fetch_sub(1, Ordering::SeqCst);
                tracing::warn!("there are {MAX_CONNECTIONS} connections already; a further one is closed");
                continue;
            }
            let (application, open) = (self.application.clone(), open.clone());
            let serve = move || {
                match serve(&application, stream) {
                    Ok(()) => tracing::debug!("CometBFT closed a connection"),
                    Err(error) => tracing::warn!(%error, "a connection of CometBFT is closed"),
                }
                open.fetch_sub(1, Ordering::SeqCst);
            };
            thread::Builder::new().name("abci".to_owned()).spawn(serve).map_err(Error::Serve)?;
        }
    }
}

/// Binds a Unix socket that its owner alone can use, in place of one that nobody listens on any more.
fn bind(path: &Path) -> io::Result<UnixListener> {
    // Whoever holds the directory's lock is the only one who may listen here.
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

impl Listener {
    fn accept(&self) -> io::Result<Stream> {
        Ok(match self {
            Self::Tcp(listener) => {
                let (stream, _) = listener.accept()?;
                stream.set_nodelay(true)?;
                stream.set_read_timeout(Some(PATIENCE))?;
                stream.set_write_timeout(Some(PATIENCE))?;
                Stream::Tcp(stream)
            }
            Self::Unix(listener) => {
                let (stream, _) = listener.accept()?;
                stream.set_read_timeout(Some(PATIENCE))?;
                stream.set_write_timeout(Some(PATIENCE))?;
                Stream::Unix(stream)
            }
        })
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.read(buffer),
            Self::Unix(stream) => stream.read(buffer),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.write(bytes),
            Self::Unix(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Answers the requests of one connection until it is closed.
fn serve(application: &Application, mut stream: Stream) -> io::Result<()> {
    let (mut received, mut answers, mut buffer) = (BytesMut::new(), Vec::new(), vec![0; READ]);
    loop {
        loop {
            match wire::take_request(&mut received) {
                Ok(Some(request)) => {
                    let flush = matches!(request, request::Value::Flush(_));
                    wire::put_response(&mut answers, application.answer(request));
                    if flush || answers.len() >= FULL {
                        send(&mut stream, &mut answers)?;
                    }
                }
                Ok(None) => break,
                Err(error) => {
                    send(&mut stream, &mut answers)?;
                    return Err(io::Error::new(io::ErrorKind::InvalidData, error));
                }
            }
        }
        send(&mut stream, &mut answers)?;
        match read(&mut stream, &mut buffer, received.is_empty())? {
            0 if received.is_empty() => return Ok(()),
            0 => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "closed within a request")),
            count => received.extend_from_slice(&buffer[..count]),
        }
    }
}

/// Reads what comes. Between two requests it may wait for hours, within one for [`PATIENCE`].
fn read(stream: &mut Stream, buffer: &mut [u8], idle: bool) -> io::Result<usize> {
    loop {
        match stream.read(buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if idle && error.kind() == io::ErrorKind::WouldBlock => {}
            result => return result,
        }
    }
}

fn send(stream: &mut Stream, answers: &mut Vec<u8>) -> io::Result<()> {
    stream.write_all(answers)?;
    answers.clear();
    answers.shrink_to(FULL);
    Ok(())
}

#[cfg(test)]
mod tests {
    use prost::Message as _;
    use tendermint_proto::v0_38::abci::{Request, RequestEcho, RequestFlush, RequestInfo, Response, response};

    use super::*;

    /// A server on a port of its own, whose thread ends with the test program.
    fn server(directory: &Path) -> SocketAddr {
        let address = "tcp://127.0.0.1:0".parse().unwrap();
        let server = Server::open(directory, &address, Config::default()).unwrap();
        let Address::Tcp(bound) = *server.address() else { panic!("asked for TCP") };
        thread::spawn(move || server.run());
        bound
    }

    fn frame(value: request::Value) -> Vec<u8> {
        Request { value: Some(value) }.encode_length_delimited_to_vec()
    }

    fn next(stream: &mut TcpStream) -> Option<response::Value> {
        let mut length = [0];
        stream.read_exact(&mut length).ok()?;
        let mut message = vec![0; usize::from(length[0])];
        stream.read_exact(&mut message).ok()?;
        Response::decode(message.as_slice()).unwrap().value
    }

    fn info() -> Vec<u8> {
        frame(request::Value::Info(RequestInfo::default()))
    }

    #[test]
    fn requests_are_answered_in_order_and_garbage_ends_its_connection_alone() {
        let directory = tempfile::tempdir().unwrap();
        let address = server(directory.path());
        let mut other = TcpStream::connect(address).unwrap();
        for garbage in [&[0xff; 64][..], &[2, 0x0a, 0x7f], &[0], b"GET / HTTP/1.1\r\n\r\n"] {
            let mut stream = TcpStream::connect(address).unwrap();
            stream.write_all(&[&info(), garbage].concat()).unwrap();
            assert!(matches!(next(&mut stream), Some(response::Value::Info(_))), "what came before is answered");
            assert_eq!(next(&mut stream), None, "{garbage:?}");
        }
        let echo = |text: &str| request::Value::Echo(RequestEcho { message: text.to_owned() });
        let asked = [echo("one"), echo("two"), request::Value::Flush(RequestFlush {})];
        other.write_all(&asked.into_iter().flat_map(frame).collect::<Vec<_>>()).unwrap();
        let texts: Vec<_> = (0..3).map(|_| format!("{:?}", next(&mut other).unwrap())).collect();
        assert!(texts[0].contains("one") && texts[1].contains("two") && texts[2].contains("Flush"), "{texts:?}");
    }

    #[test]
    fn more_connections_than_there_may_be_are_closed_and_room_comes_back() {
        let directory = tempfile::tempdir().unwrap();
        let address = server(directory.path());
        let connect = || {
            let mut stream = TcpStream::connect(address).unwrap();
            let _ = stream.write_all(&info());
            next(&mut stream).map(|_| stream)
        };
        let mut open: Vec<TcpStream> = (0..MAX_CONNECTIONS).map(|_| connect().expect("there is room")).collect();
        assert!(connect().is_none(), "one too many");
        open.clear();
        // The server notices at its own pace; the listener's queue makes the next connection wait for nothing.
        while connect().is_none() {}
    }

    #[test]
    fn an_address_is_a_socket_of_ones_own_or_loopback() {
        for text in ["tcp://127.0.0.1:26658", "tcp://[::1]:1", "unix:///tmp/a.sock"] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
        }
        let error = |text: &str| text.parse::<Address>().unwrap_err();
        assert!(matches!(error("tcp://0.0.0.0:26658"), AddressError::Open(_)));
        assert!(matches!(error(&format!("unix:///{}", "a".repeat(200))), AddressError::Long(201)));
        for text in ["", "unix://relative", "127.0.0.1:1", "tcp://localhost:1", "http://127.0.0.1:1"] {
            assert!(matches!(error(text), AddressError::Form(_)), "{text}");
        }
    }

    #[test]
    fn a_socket_file_that_nobody_listens_on_is_replaced_and_is_the_owners_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("abci.sock");
        let address = Address::unix(&path).unwrap();
        for _ in 0..2 {
            let _server = Server::open(&directory.path().join("state"), &address, Config::default()).unwrap();
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        }
        assert!(path.exists(), "it was left behind, as after a kill");
    }
}

//! The commands of Kubo's RPC that this node uses. Source: docs.ipfs.tech, "Kubo RPC API v0"; tried with Kubo 0.42.
//!
//! All are POST. An error is a status of 500 with `{Message, Code, Type}`, or, when it happens after the first byte,
//! an `X-Stream-Error` trailer: a status of 200 alone is no success, so an import counts only when the daemon names
//! the root as pinned.

use std::{future::poll_fn, io, pin::Pin, sync::Arc, time::Duration};

use axum::{body::HttpBody as _, http};
use bytes::Bytes;
use futures::stream;
use reqwest::{Body, Response, multipart};
use tokio::sync::mpsc;

pub use super::answers::{RemotePin, Verified};
use super::{
    Endpoint,
    answers::{self, Imported},
};
use crate::{shard::archive, store::BlockStore, types::ContentId};

/// Time to connect; the daemon is on this machine or near it.
const CONNECT_LIMIT: Duration = Duration::from_secs(3);
/// Time for a command that moves no content.
const CALL_LIMIT: Duration = Duration::from_secs(30);
/// Time for commands that read a whole DAG on the daemon's disk.
const WALK_LIMIT: Duration = Duration::from_secs(600);
/// Time for an import: 100 GB at 30 MB/s.
const IMPORT_LIMIT: Duration = Duration::from_secs(3600);
/// Bytes of an answer; a list of 100,000 pins has about 10 MB. A longer one is an error.
const MAX_ANSWER_BYTES: usize = 16 * 1024 * 1024;
/// Pieces of a CAR read ahead of the network: a block and what stands before it are two.
const PIECES_AHEAD: usize = 8;

/// Why the daemon did not do it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No daemon answers there.
    #[error("no Kubo daemon answers at {endpoint}; start `ipfs daemon` or change --ipfs-api")]
    Away {
        /// Where.
        endpoint: String,
        /// Why.
        source: reqwest::Error,
    },
    /// It took too long.
    #[error("the Kubo daemon did not finish `{command}` within {} s", .limit.as_secs())]
    Timeout {
        /// What it was asked.
        command: &'static str,
        /// The time it was given.
        limit: Duration,
    },
    /// It said no.
    #[error("Kubo refused `{command}`: {message}")]
    Refused {
        /// What it was asked.
        command: &'static str,
        /// Its words.
        message: String,
    },
    /// It began to answer and then failed.
    #[error("Kubo failed in the middle of `{command}`: {message}")]
    Stream {
        /// What it was asked.
        command: &'static str,
        /// Its words.
        message: String,
    },
    /// What answers is no Kubo daemon.
    #[error("what answers at {endpoint} to `{command}` is not a Kubo RPC (status {status}); check --ipfs-api")]
    Foreign {
        /// Where.
        endpoint: String,
        /// What it was asked.
        command: &'static str,
        /// The HTTP status.
        status: u16,
    },
    /// The connection broke while the answer came.
    #[error("the connection to the Kubo daemon broke during `{command}`")]
    Broken {
        /// What it was asked.
        command: &'static str,
        /// Why.
        source: reqwest::Error,
    },
    /// An answer that can't be understood.
    #[error("Kubo's answer to `{command}` is not understood")]
    Answer {
        /// What it was asked.
        command: &'static str,
        /// Why.
        source: serde_json::Error,
    },
    /// An answer without the line that means success.
    #[error("Kubo took {root} without saying that it is pinned")]
    NotPinned {
        /// The root.
        root: ContentId,
    },
    /// An answer over the limit.
    #[error("Kubo's answer to `{command}` is over {MAX_ANSWER_BYTES} bytes")]
    TooLong {
        /// What it was asked.
        command: &'static str,
    },
    /// The DAG can't be read here.
    #[error("what is to be pinned can't be read here")]
    Archive(#[source] archive::Error),
    /// The HTTP client can't be made.
    #[error("the HTTP client could not be set up")]
    Setup(#[source] reqwest::Error),
}

impl Error {
    /// Whether it is the daemon that is missing, rather than this one thing that it can't do.
    pub fn is_away(&self) -> bool {
        matches!(self, Self::Away { .. } | Self::Foreign { .. } | Self::Broken { .. } | Self::Timeout { .. })
    }
}

/// A Kubo daemon.
#[derive(Clone, Debug)]
pub struct Client {
    http: reqwest::Client,
    endpoint: Endpoint,
}

impl Client {
    /// The daemon at `endpoint`. Connects to nothing yet.
    pub fn new(endpoint: Endpoint) -> Result<Self, Error> {
        // A proxy of the environment is for the world, not for a daemon next door; an RPC redirects nowhere.
        let builder = reqwest::Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none());
        let http = builder.connect_timeout(CONNECT_LIMIT).build().map_err(Error::Setup)?;
        Ok(Self { http, endpoint })
    }

    /// Where the daemon is.
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// The daemon's version, which also shows that it is there.
    pub async fn version(&self) -> Result<String, Error> {
        self.call("version", &[], CALL_LIMIT, answers::version).await
    }

    /// Sends the DAG of `root` and pins it under `name`. The blocks are read from `store` as the network takes them.
    pub async fn pin(&self, store: Arc<BlockStore>, root: ContentId, name: &str) -> Result<(), Error> {
        self.import(store, root).await?;
        let root = root.to_string();
        self.call("pin/add", &[("arg", &root), ("name", name), ("offline", "true")], WALK_LIMIT, answers::any).await
    }

    /// The daemon's recursive pins.
    pub async fn pins(&self) -> Result<Vec<RemotePin>, Error> {
        let query = [("type", "recursive"), ("names", "true"), ("stream", "true")];
        self.call("pin/ls", &query, CALL_LIMIT, answers::pins).await
    }

    /// Whether the daemon pins `root` and has all of it; an error says what is missing.
    pub async fn verify(&self, root: &ContentId) -> Result<Verified, Error> {
        let root_text = root.to_string();
        let query = [("arg", root_text.as_str()), ("type", "recursive")];
        self.call("pin/ls", &query, CALL_LIMIT, answers::any).await?;
        let query = [("arg", root_text.as_str()), ("progress", "false"), ("offline", "true")];
        let verified = self.call("dag/stat", &query, WALK_LIMIT, answers::stat).await?;
        verified.ok_or(Error::NotPinned { root: *root })
    }

    /// Takes a pin back. That there is none is no error.
    pub async fn unpin(&self, root: &ContentId) -> Result<(), Error> {
        let root = root.to_string();
        match self.call("pin/rm", &[("arg", &root)], CALL_LIMIT, answers::any).await {
            Err(Error::Refused { message, .. }) if message.starts_with("not pinned") => Ok(()),
            result => result,
        }
    }

    async fn import(&self, store: Arc<BlockStore>, root: ContentId) -> Result<(), Error> {
        let (sender, receiver) = mpsc::channel(PIECES_AHEAD);
        let reading = tokio::task::spawn_blocking(move || {
            let result = archive::export(&store, &root, &mut |piece| {
                sender.blocking_send(Ok(piece)).map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))
            });
            if let Err(error) = &result {
                // Breaks the upload off; without it the daemon would take what came so far for all there is.
                let _ = sender.blocking_send(Err(io::Error::other(error.to_string())));
            }
            result
        });
        let pieces = stream::unfold(receiver, |mut receiver| async {
            receiver.recv().await.map(|piece: io::Result<Bytes>| (piece, receiver))
        });
        let part = multipart::Part::stream(Body::wrap_stream(pieces)).file_name("dag.car");
        let request = self.http.post(self.endpoint.command("dag/import", &[("pin-roots", "true")]));
        let answer =
            self.answer("dag/import", request.multipart(multipart::Form::new().part("file", part)), IMPORT_LIMIT);
        let answer = answer.await;
        match reading.await {
            // The daemon's own words say more than that it closed the pipe.
            Ok(Err(error)) if !matches!(error, archive::Error::Io(_)) => return Err(Error::Archive(error)),
            _ => {}
        }
        let command = "dag/import";
        match answers::imported(&answer?, &root).map_err(|source| Error::Answer { command, source })? {
            Imported::Pinned => Ok(()),
            Imported::Failed(message) => Err(Error::Refused { command, message }),
            Imported::Unsaid => Err(Error::NotPinned { root }),
        }
    }

    async fn call<T>(
        &self,
        command: &'static str,
        query: &[(&str, &str)],
        limit: Duration,
        read: fn(&[u8]) -> serde_json::Result<T>,
    ) -> Result<T, Error> {
        let request = self.http.post(self.endpoint.command(command, query));
        let bytes = self.answer(command, request, limit).await?;
        read(&bytes).map_err(|source| Error::Answer { command, source })
    }

    /// The body of a successful answer, with its trailer looked at.
    async fn answer(
        &self,
        command: &'static str,
        request: reqwest::RequestBuilder,
        limit: Duration,
    ) -> Result<Vec<u8>, Error> {
        let exchange = async {
            let response = request.send().await.map_err(|source| self.send_error(command, source))?;
            let status = response.status();
            let (bytes, trailer) = read(command, response).await?;
            match trailer {
                _ if !status.is_success() => Err(self.refusal(command, status.as_u16(), &bytes)),
                Some(message) => Err(Error::Stream { command, message }),
                None => Ok(bytes),
            }
        };
        tokio::time::timeout(limit, exchange).await.unwrap_or(Err(Error::Timeout { command, limit }))
    }

    fn send_error(&self, command: &'static str, source: reqwest::Error) -> Error {
        if source.is_connect() || source.is_timeout() {
            Error::Away { endpoint: self.endpoint.to_string(), source }
        } else {
            Error::Broken { command, source }
        }
    }

    fn refusal(&self, command: &'static str, status: u16, bytes: &[u8]) -> Error {
        match answers::refusal(bytes) {
            Ok(message) => Error::Refused { command, message },
            Err(_) => Error::Foreign { endpoint: self.endpoint.to_string(), command, status },
        }
    }
}

/// The body, and the error in its trailer if there is one.
async fn read(command: &'static str, response: Response) -> Result<(Vec<u8>, Option<String>), Error> {
    let mut body = http::Response::<Body>::from(response).into_body();
    let (mut bytes, mut trailer) = (Vec::new(), None);
    while let Some(frame) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
        match frame.map_err(|source| Error::Broken { command, source })?.into_data() {
            Ok(data) if bytes.len() + data.len() > MAX_ANSWER_BYTES => return Err(Error::TooLong { command }),
            Ok(data) => bytes.extend_from_slice(&data),
            Err(frame) => trailer = frame.into_trailers().ok().and_then(|trailers| stream_error(&trailers)),
        }
    }
    Ok((bytes, trailer))
}

fn stream_error(trailers: &http::HeaderMap) -> Option<String> {
    let value = trailers.get("x-stream-error")?;
    Some(String::from_utf8_lossy(value.as_bytes()).into_owned())
}

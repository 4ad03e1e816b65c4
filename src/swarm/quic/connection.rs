//! A connection and its streams, as a muxer. Never decides anything.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use futures::{AsyncRead, AsyncWrite, Future, FutureExt, future::BoxFuture};
use libp2p::{
    PeerId,
    core::muxing::{StreamMuxer, StreamMuxerEvent},
};

use super::{Error, HANDSHAKE, identity};

/// A connection whose handshake is under way.
pub struct Connecting(BoxFuture<'static, Result<(PeerId, Connection), Error>>);

impl Connecting {
    pub(super) fn new(connecting: quinn::Connecting) -> Self {
        let handshake = async move {
            let connection = tokio::time::timeout(HANDSHAKE, connecting).await.map_err(|_| Error::Handshake)??;
            let peer = identity(&connection).ok_or(Error::Certificate)?;
            Ok((peer, Connection { connection, incoming: None, outgoing: None, closed: None }))
        };
        Self(handshake.boxed())
    }
}

impl Future for Connecting {
    type Output = Result<(PeerId, Connection), Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.poll_unpin(cx)
    }
}

type Opening = BoxFuture<'static, Result<(quinn::SendStream, quinn::RecvStream), quinn::ConnectionError>>;

/// An open connection.
pub struct Connection {
    connection: quinn::Connection,
    incoming: Option<Opening>,
    outgoing: Option<Opening>,
    closed: Option<BoxFuture<'static, quinn::ConnectionError>>,
}

impl StreamMuxer for Connection {
    type Substream = Stream;
    type Error = Error;

    fn poll_inbound(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<Stream, Error>> {
        let connection = self.connection.clone();
        let incoming = self.incoming.get_or_insert_with(|| async move { connection.accept_bi().await }.boxed());
        let opened = ready!(incoming.poll_unpin(cx));
        self.incoming = None;
        Poll::Ready(Ok(Stream::new(opened?)))
    }

    fn poll_outbound(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<Stream, Error>> {
        let connection = self.connection.clone();
        let outgoing = self.outgoing.get_or_insert_with(|| async move { connection.open_bi().await }.boxed());
        let opened = ready!(outgoing.poll_unpin(cx));
        self.outgoing = None;
        Poll::Ready(Ok(Stream::new(opened?)))
    }

    fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Result<StreamMuxerEvent, Error>> {
        // Quinn drives the connection in a task of its own, and its address does not change.
        Poll::Pending
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        let connection = self.connection.clone();
        let closed = self.closed.get_or_insert_with(|| {
            connection.close(0_u32.into(), &[]);
            async move { connection.closed().await }.boxed()
        });
        match ready!(closed.poll_unpin(cx)) {
            quinn::ConnectionError::LocallyClosed => Poll::Ready(Ok(())),
            error => Poll::Ready(Err(error.into())),
        }
    }
}

/// A stream, both ways.
pub struct Stream {
    send: quinn::SendStream,
    receive: quinn::RecvStream,
    /// What came of closing it: asked again, it is not closed twice.
    closed: Option<Result<(), io::ErrorKind>>,
}

impl Stream {
    fn new((send, receive): (quinn::SendStream, quinn::RecvStream)) -> Self {
        Self { send, receive, closed: None }
    }
}

impl AsyncRead for Stream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        if matches!(self.closed, Some(Err(_))) {
            return Poll::Ready(Ok(0));
        }
        AsyncRead::poll_read(Pin::new(&mut self.receive), cx, buffer)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        AsyncWrite::poll_write(Pin::new(&mut self.send), cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        AsyncWrite::poll_flush(Pin::new(&mut self.send), cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Some(closed) = self.closed {
            return Poll::Ready(closed.map_err(Into::into));
        }
        let closed = ready!(AsyncWrite::poll_close(Pin::new(&mut self.send), cx));
        self.closed = Some(match &closed {
            Ok(()) => Ok(()),
            Err(error) => Err(error.kind()),
        });
        Poll::Ready(closed)
    }
}

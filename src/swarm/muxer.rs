//! Yamux over a connection, with frames and reads of a size that moves blocks.
//!
//! libp2p's own upgrade splits what is written into frames of 16 KiB and can't be told otherwise, and Noise reads 8 KiB from
//! the socket at a time. On the wire this is the same `/yamux/1.0.0`: frames may have any length up to the window, and
//! nobody sees how much of a socket is read at once. It decides nothing; how many streams there may be is decided elsewhere.

use std::{
    collections::VecDeque,
    convert::Infallible,
    future::{Ready, ready},
    io, iter,
    pin::Pin,
    task::{Context, Poll, Waker},
};

use futures::{AsyncRead, AsyncWrite, io::BufReader};
use libp2p::core::{
    UpgradeInfo,
    muxing::{StreamMuxer, StreamMuxerEvent},
    upgrade::{InboundConnectionUpgrade, OutboundConnectionUpgrade},
};

/// Bytes in a frame at most: four times what is usual. With its header of 12 bytes it is just what libp2p puts into one Noise
/// message (65,535 bytes less 1,024), so that no message carries the end of a frame alone. A heartbeat waits for one frame of each
/// stream before it, which 100 Mbit/s carry in 5 ms.
const FRAME: usize = 65_535 - 1_024 - 12;
/// Bytes read from a socket at once: four Noise messages. Memory that is never filled is never touched.
const READ: usize = 256 * 1024;
/// Streams of the peer that wait to be taken; further ones are closed. As many as it may open without an answer.
const MAX_WAITING: usize = 256;

/// Reads from a socket in large pieces.
pub(super) fn buffered<S: AsyncRead>(socket: S) -> BufReader<S> {
    BufReader::with_capacity(READ, socket)
}

/// The upgrade.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Yamux;

impl Yamux {
    fn connection<S: AsyncRead + AsyncWrite + Unpin>(socket: S, mode: yamux::Mode) -> Muxer<S> {
        let mut config = yamux::Config::default();
        config.set_split_send_size(FRAME);
        Muxer { connection: yamux::Connection::new(socket, config, mode), waiting: VecDeque::new(), waker: None }
    }
}

impl UpgradeInfo for Yamux {
    type Info = &'static str;
    type InfoIter = iter::Once<&'static str>;

    fn protocol_info(&self) -> Self::InfoIter {
        iter::once("/yamux/1.0.0")
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> InboundConnectionUpgrade<S> for Yamux {
    type Output = Muxer<S>;
    type Error = Infallible;
    type Future = Ready<Result<Muxer<S>, Infallible>>;

    fn upgrade_inbound(self, socket: S, _: &'static str) -> Self::Future {
        ready(Ok(Self::connection(socket, yamux::Mode::Server)))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> OutboundConnectionUpgrade<S> for Yamux {
    type Output = Muxer<S>;
    type Error = Infallible;
    type Future = Ready<Result<Muxer<S>, Infallible>>;

    fn upgrade_outbound(self, socket: S, _: &'static str) -> Self::Future {
        ready(Ok(Self::connection(socket, yamux::Mode::Client)))
    }
}

/// A connection with many streams.
pub(super) struct Muxer<S> {
    connection: yamux::Connection<S>,
    /// Streams that the peer opened while nobody asked for one: the connection goes on only by taking them.
    waiting: VecDeque<yamux::Stream>,
    waker: Option<Waker>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Muxer<S> {
    fn poll_opened(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<yamux::Stream>> {
        match self.connection.poll_next_inbound(cx) {
            Poll::Ready(Some(stream)) => Poll::Ready(stream.map_err(io::Error::other)),
            Poll::Ready(None) => Poll::Ready(Err(io::Error::other(yamux::ConnectionError::Closed))),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> StreamMuxer for Muxer<S> {
    type Substream = yamux::Stream;
    type Error = io::Error;

    fn poll_inbound(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<yamux::Stream>> {
        if let Some(stream) = self.waiting.pop_front() {
            return Poll::Ready(Ok(stream));
        }
        let opened = self.poll_opened(cx);
        if opened.is_pending() {
            self.waker = Some(cx.waker().clone());
        }
        opened
    }

    fn poll_outbound(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<yamux::Stream>> {
        self.connection.poll_new_outbound(cx).map_err(io::Error::other)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.connection.poll_close(cx).map_err(io::Error::other)
    }

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<StreamMuxerEvent>> {
        while let Poll::Ready(stream) = self.poll_opened(cx)? {
            if self.waiting.len() < MAX_WAITING {
                self.waiting.push_back(stream);
                self.waker.take().map(Waker::wake).unwrap_or_default();
            } else {
                tracing::debug!(%stream, "a stream was closed: {MAX_WAITING} wait to be taken");
            }
        }
        Poll::Pending
    }
}

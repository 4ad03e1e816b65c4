//! A connection that closes in time, whether or not the peer reads.
//!
//! libp2p takes leave of a peer in order and waits until its words are written. A peer that reads no more would keep its
//! connection for ever by that, cut off or not.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use futures::Future;
use libp2p::core::muxing::{StreamMuxer, StreamMuxerEvent};
use tokio::time::Sleep;

/// The longest that taking leave may take: more than a round trip on any line, less than a person waits.
pub(super) const CLOSE: Duration = Duration::from_secs(5);

/// A muxer whose end comes within [`CLOSE`].
pub(super) struct Closing<M> {
    inner: M,
    limit: Duration,
    timer: Option<Pin<Box<Sleep>>>,
}

impl<M> Closing<M> {
    pub(super) fn new(inner: M) -> Self {
        Self { inner, limit: CLOSE, timer: None }
    }
}

impl<M> StreamMuxer for Closing<M>
where
    M: StreamMuxer<Error: std::error::Error + Send + Sync + 'static> + Unpin,
{
    type Substream = M::Substream;
    type Error = io::Error;

    fn poll_inbound(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<M::Substream>> {
        Pin::new(&mut self.inner).poll_inbound(cx).map_err(io::Error::other)
    }

    fn poll_outbound(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<M::Substream>> {
        Pin::new(&mut self.inner).poll_outbound(cx).map_err(io::Error::other)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Poll::Ready(closed) = Pin::new(&mut self.inner).poll_close(cx) {
            return Poll::Ready(closed.map_err(io::Error::other));
        }
        let limit = self.limit;
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(limit)));
        timer.as_mut().poll(cx).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<StreamMuxerEvent>> {
        Pin::new(&mut self.inner).poll(cx).map_err(io::Error::other)
    }
}

#[cfg(test)]
mod tests {
    use libp2p::core::muxing::StreamMuxerExt;

    use super::*;

    /// A connection whose peer reads nothing.
    struct Deaf;

    impl StreamMuxer for Deaf {
        type Substream = futures::io::Cursor<Vec<u8>>;
        type Error = io::Error;

        fn poll_inbound(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<Self::Substream>> {
            Poll::Pending
        }

        fn poll_outbound(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<Self::Substream>> {
            Poll::Pending
        }

        fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Pending
        }

        fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<StreamMuxerEvent>> {
            Poll::Pending
        }
    }

    #[tokio::test]
    async fn leave_of_a_peer_that_does_not_read_is_taken_in_time() {
        let closing = Closing { limit: Duration::from_millis(5), ..Closing::new(Deaf) };
        assert_eq!(closing.close().await.unwrap_err().kind(), io::ErrorKind::TimedOut);
    }
}

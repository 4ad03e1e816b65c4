//! Frames: a 4-byte big-endian length, then that many bytes. Never read past a limit, never copied on the way out.
//!
//! A request that is refused still comes out, as [`Incoming::Bad`]: the carrier would drop its error without a word of whose
//! it was.

use std::{fmt, io, marker::PhantomData, sync::Arc, task::Poll, time::Duration};

use bytes::Bytes;
use futures::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use libp2p::{StreamProtocol, core::upgrade::NegotiationError, request_response};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{DecodeError, Message, State};
use crate::types::Buffers;

/// Memory for a request grows as its bytes arrive, so that a peer which announces much and sends little costs little: so
/// many bytes at first, then this many times as much. An answer was asked for: its memory is taken at once, and what is
/// under way at a time is bounded by who asks.
const FIRST_STEP: usize = 256 * 1024;
const GROWTH: usize = 4;
/// Bytes of long requests of one protocol that are being read at once, of all peers. A further one is refused: each peer
/// may have a stream for every request, and no honest one leaves it half written. Requests up to [`SHORT`] are always read.
pub const MAX_READING: usize = 16 * 1024 * 1024;
/// A request up to this length in bytes is never refused because others are long.
pub const SHORT: usize = 64 * 1024;
/// A request whose next byte does not come within this time is given up. Less than each protocol's time for an answer.
pub const STALL: Duration = Duration::from_secs(5);

/// Pieces of memory for long answers of one protocol kept for the next: what one peer that is near has under way.
const KEPT_BUFFERS: usize = 4;

/// What is wrong with a message.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// Its frame is over the protocol's limit.
    #[error("a message of {length} bytes is over the limit of {limit}")]
    Oversize {
        /// Announced bytes.
        length: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// It can't be read.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// Its bytes stopped coming.
    #[error("the message stopped after {read} of {length} bytes")]
    Stalled {
        /// Bytes that came.
        read: usize,
        /// Bytes announced; 4, the length of the head, while that was not read.
        length: usize,
    },
    /// Its stream ended or broke before its end.
    #[error("the message ended after {read} of {length} bytes")]
    Cut {
        /// Bytes that came.
        read: usize,
        /// Bytes announced.
        length: usize,
    },
    /// Too many long requests are being read.
    #[error("{MAX_READING} bytes of requests are being read already")]
    Busy,
    /// The peer does not know the protocol. It says so only after the request went out: nobody waits for its consent.
    #[error("the peer does not speak this protocol")]
    Unsupported,
}

/// Whether a stream failed because the peer does not know its protocol.
pub(super) fn is_unsupported(error: &io::Error) -> bool {
    let inner = error.get_ref();
    inner.is_some_and(|inner| {
        matches!(inner.downcast_ref(), Some(NegotiationError::Failed))
            || matches!(inner.downcast_ref(), Some(Fault::Unsupported))
    })
}

impl From<Fault> for io::Error {
    fn from(fault: Fault) -> Self {
        let kind = match &fault {
            Fault::Cut { .. } | Fault::Stalled { .. } => io::ErrorKind::UnexpectedEof,
            _ => io::ErrorKind::InvalidData,
        };
        Self::new(kind, fault)
    }
}

/// A request as it came: read, or not readable.
#[derive(Debug)]
pub enum Incoming<M> {
    /// A message.
    Good(M),
    /// None, and why.
    Bad(Fault),
}

/// Reads and writes the messages of one protocol. Clones share the memory for long requests and for answers.
pub struct Codec<S> {
    reading: Arc<Semaphore>,
    buffers: Buffers,
    marker: PhantomData<fn() -> S>,
}

impl<S> Default for Codec<S> {
    fn default() -> Self {
        Self {
            reading: Arc::new(Semaphore::new(MAX_READING)),
            buffers: Buffers::new(KEPT_BUFFERS),
            marker: PhantomData,
        }
    }
}

impl<S> Clone for Codec<S> {
    fn clone(&self) -> Self {
        Self { reading: Arc::clone(&self.reading), buffers: self.buffers.clone(), marker: PhantomData }
    }
}

impl<S> fmt::Debug for Codec<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Codec").field("free", &self.reading.available_permits()).finish()
    }
}

impl<S: State> request_response::Codec for Codec<S> {
    type Protocol = StreamProtocol;
    type Request = Incoming<S::Request>;
    type Response = S::Response;

    async fn read_request<T>(&mut self, _: &StreamProtocol, io: &mut T) -> io::Result<Self::Request>
    where
        T: AsyncRead + Unpin + Send,
    {
        Ok(match read(io, Memory::Request(&self.reading, STALL)).await {
            Ok(request) => Incoming::Good(request),
            Err(fault) => Incoming::Bad(fault),
        })
    }

    async fn read_response<T>(&mut self, _: &StreamProtocol, io: &mut T) -> io::Result<S::Response>
    where
        T: AsyncRead + Unpin + Send,
    {
        Ok(read(io, Memory::Answer(&self.buffers)).await?)
    }

    async fn write_request<T>(&mut self, _: &StreamProtocol, io: &mut T, request: Self::Request) -> io::Result<()>
    where
        T: AsyncWrite + Unpin + Send,
    {
        match request {
            Incoming::Good(request) => write(io, request).await,
            Incoming::Bad(fault) => Err(fault.into()),
        }
    }

    async fn write_response<T>(&mut self, _: &StreamProtocol, io: &mut T, response: S::Response) -> io::Result<()>
    where
        T: AsyncWrite + Unpin + Send,
    {
        write(io, response).await
    }
}

/// Where the memory for a message comes from.
#[derive(Clone, Copy)]
enum Memory<'a> {
    /// A request counts against the memory for long ones, and must not stall for so long.
    Request(&'a Arc<Semaphore>, Duration),
    /// An answer.
    Answer(&'a Buffers),
}

impl Memory<'_> {
    fn stall(self) -> Option<Duration> {
        match self {
            Self::Request(_, stall) => Some(stall),
            Self::Answer(_) => None,
        }
    }
}

/// Reads one message.
async fn read<M: Message, T: AsyncRead + Unpin + Send>(io: &mut T, memory: Memory<'_>) -> Result<M, Fault> {
    let mut head = [0; 4];
    fill(io, &mut head, (0, 4), memory.stall()).await?;
    let length = u32::from_be_bytes(head) as usize;
    if length > M::LIMIT {
        return Err(Fault::Oversize { length, limit: M::LIMIT });
    }
    let body = match memory {
        Memory::Request(reading, stall) => Bytes::from(read_request(io, length, (reading, stall)).await?),
        Memory::Answer(buffers) => {
            let mut body = buffers.take_aligned(length, M::ALIGNED_AT);
            fill(io, &mut body, (0, length), None).await?;
            Bytes::from(body)
        }
    };
    Ok(M::decode(body)?)
}

async fn read_request<T: AsyncRead + Unpin + Send>(
    io: &mut T,
    length: usize,
    (reading, stall): (&Arc<Semaphore>, Duration),
) -> Result<Vec<u8>, Fault> {
    let mut body = Vec::new();
    let mut permits: Vec<OwnedSemaphorePermit> = Vec::new();
    while body.len() < length {
        let from = body.len();
        let to = length.min((from * GROWTH).max(FIRST_STEP));
        if length > SHORT {
            let more = u32::try_from(to - from).unwrap_or(u32::MAX);
            permits.push(Arc::clone(reading).try_acquire_many_owned(more).map_err(|_| Fault::Busy)?);
        }
        body.resize(to, 0);
        fill(io, &mut body[from..], (from, length), Some(stall)).await?;
    }
    Ok(body)
}

/// Fills `buffer`; `at` says where in the message it begins, and how long that is.
async fn fill<T: AsyncRead + Unpin + Send>(
    io: &mut T,
    buffer: &mut [u8],
    (from, length): (usize, usize),
    stall: Option<Duration>,
) -> Result<(), Fault> {
    let mut filled = 0;
    while filled < buffer.len() {
        let read = from + filled;
        let mut next = io.read(&mut buffer[filled..]);
        // Most often the bytes are there, and no timer is needed.
        let came = match (futures::poll!(&mut next), stall) {
            (Poll::Ready(came), _) => came,
            (Poll::Pending, None) => next.await,
            (Poll::Pending, Some(stall)) => {
                tokio::time::timeout(stall, next).await.map_err(|_| Fault::Stalled { read, length })?
            }
        };
        match came {
            Err(error) if is_unsupported(&error) => return Err(Fault::Unsupported),
            Ok(0) | Err(_) => return Err(Fault::Cut { read, length }),
            Ok(count) => filled += count,
        }
    }
    Ok(())
}

async fn write<M: Message, T: AsyncWrite + Unpin + Send>(io: &mut T, message: M) -> io::Result<()> {
    let segments = message.encode();
    let length: usize = segments.iter().map(Bytes::len).sum();
    let limit = M::LIMIT;
    let head = u32::try_from(length).ok().filter(|_| length <= limit).ok_or_else(|| {
        io::Error::new(io::ErrorKind::InvalidInput, format!("a message of {length} bytes is over the limit of {limit}"))
    })?;
    io.write_all(&head.to_be_bytes()).await?;
    for segment in segments {
        io.write_all(&segment).await?;
    }
    io.close().await
}

#[cfg(test)]
mod tests {
    use std::{pin::Pin, task::Context};

    use futures::{executor::block_on, io::Cursor};

    use serde::{Deserialize, Serialize};

    use super::*;

    /// Bytes of no meaning, up to three times the first step.
    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Blob(Bytes);

    impl Message for Blob {
        const LIMIT: usize = 3 * FIRST_STEP;

        fn encode(self) -> Vec<Bytes> {
            vec![self.0]
        }

        fn decode(bytes: Bytes) -> Result<Self, DecodeError> {
            Ok(Self(bytes))
        }
    }

    fn framed(length: usize) -> Vec<u8> {
        let body: Vec<u8> = (0..=u8::MAX).cycle().take(length).collect();
        let mut out = Cursor::new(Vec::new());
        block_on(write(&mut out, Blob(body.into()))).unwrap();
        out.into_inner()
    }

    #[test]
    fn messages_of_every_length_around_a_step_read_back() {
        for length in [0, 1, FIRST_STEP - 1, FIRST_STEP, FIRST_STEP + 1, 3 * FIRST_STEP] {
            let frame = framed(length);
            let Blob(read) = block_on(read(&mut &frame[..], Memory::Answer(&Buffers::new(1)))).unwrap();
            assert_eq!(read, frame[4..]);
        }
    }

    #[test]
    fn a_message_that_ends_too_early_or_is_too_long_is_an_error_that_says_so() {
        let frame = framed(FIRST_STEP + 1);
        let cut =
            block_on(read::<Blob, _>(&mut &frame[..frame.len() - 1], Memory::Answer(&Buffers::new(1)))).unwrap_err();
        assert_eq!(io::Error::from(cut).kind(), io::ErrorKind::UnexpectedEof);
        let announced = u32::try_from(Blob::LIMIT + 1).unwrap().to_be_bytes();
        let long = block_on(read::<Blob, _>(&mut &announced[..], Memory::Answer(&Buffers::new(1)))).unwrap_err();
        assert!(matches!(long, Fault::Oversize { length, limit } if length == limit + 1), "{long}");
    }

    /// A line that stays open when its bytes end.
    struct Open<'a>(&'a [u8]);

    impl AsyncRead for Open<'_> {
        fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
            let bytes = &mut self.get_mut().0;
            if bytes.is_empty() { Poll::Pending } else { Pin::new(bytes).poll_read(cx, buffer) }
        }
    }

    async fn on_an_open_line(frame: &[u8], reading: &Arc<Semaphore>) -> Result<Blob, Fault> {
        read(&mut Open(frame), Memory::Request(reading, Duration::from_millis(10))).await
    }

    #[tokio::test]
    async fn a_request_that_stops_is_given_up_and_its_memory_is_free_again() {
        let reading = Arc::new(Semaphore::new(MAX_READING));
        let frame = framed(2 * FIRST_STEP);
        for sent in [0, 3, 4, FIRST_STEP] {
            let fault = on_an_open_line(&frame[..sent], &reading).await.unwrap_err();
            assert!(matches!(fault, Fault::Stalled { .. }), "after {sent} bytes: {fault}");
            assert_eq!(reading.available_permits(), MAX_READING);
        }
        assert!(on_an_open_line(&frame, &reading).await.is_ok());
    }

    #[tokio::test]
    async fn long_requests_of_all_peers_share_a_memory_and_short_ones_need_none_of_it() {
        let reading = Arc::new(Semaphore::new(FIRST_STEP));
        assert!(on_an_open_line(&framed(FIRST_STEP), &reading).await.is_ok());
        let busy = on_an_open_line(&framed(FIRST_STEP + 1), &reading).await.unwrap_err();
        assert!(matches!(busy, Fault::Busy), "{busy}");
        let none = Arc::new(Semaphore::new(0));
        assert!(on_an_open_line(&framed(SHORT), &none).await.is_ok());
    }
}

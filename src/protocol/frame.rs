//! Frames: a 4-byte big-endian length, then that many bytes. Never read past a limit, never copied on the way out.

use std::{io, marker::PhantomData};

use bytes::Bytes;
use futures::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use libp2p::{StreamProtocol, request_response};

use super::{Message, State};

/// Memory for a message grows as its bytes arrive, so that a peer which announces much and sends little costs little: so
/// many bytes at first, then this many times as much. A block of 1 MiB is copied once, by a quarter.
const FIRST_STEP: usize = 256 * 1024;
const GROWTH: usize = 4;

/// Reads and writes the messages of one protocol.
pub struct Codec<S>(PhantomData<fn() -> S>);

impl<S> Default for Codec<S> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<S> Clone for Codec<S> {
    fn clone(&self) -> Self {
        Self::default()
    }
}

impl<S: State> request_response::Codec for Codec<S> {
    type Protocol = StreamProtocol;
    type Request = S::Request;
    type Response = S::Response;

    async fn read_request<T>(&mut self, _: &StreamProtocol, io: &mut T) -> io::Result<S::Request>
    where
        T: AsyncRead + Unpin + Send,
    {
        read(io).await
    }

    async fn read_response<T>(&mut self, _: &StreamProtocol, io: &mut T) -> io::Result<S::Response>
    where
        T: AsyncRead + Unpin + Send,
    {
        read(io).await
    }

    async fn write_request<T>(&mut self, _: &StreamProtocol, io: &mut T, request: S::Request) -> io::Result<()>
    where
        T: AsyncWrite + Unpin + Send,
    {
        write(io, request).await
    }

    async fn write_response<T>(&mut self, _: &StreamProtocol, io: &mut T, response: S::Response) -> io::Result<()>
    where
        T: AsyncWrite + Unpin + Send,
    {
        write(io, response).await
    }
}

async fn read<M: Message, T: AsyncRead + Unpin + Send>(io: &mut T) -> io::Result<M> {
    let mut head = [0; 4];
    io.read_exact(&mut head).await?;
    let length = u32::from_be_bytes(head) as usize;
    if length > M::LIMIT {
        let limit = M::LIMIT;
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("a message of {length} bytes is over the limit of {limit}"),
        ));
    }
    let mut body = Vec::new();
    let mut read = 0;
    while read < length {
        if read == body.len() {
            body.resize(length.min((read * GROWTH).max(FIRST_STEP)), 0);
        }
        match io.read(&mut body[read..]).await? {
            0 => {
                let message = format!("the message ended after {read} of {length} bytes");
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, message));
            }
            count => read += count,
        }
    }
    M::decode(Bytes::from(body)).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
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
    use futures::{executor::block_on, io::Cursor};

    use serde::{Deserialize, Serialize};

    use super::*;
    use crate::protocol::DecodeError;

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
            let Blob(read) = block_on(read(&mut &frame[..])).unwrap();
            assert_eq!(read, frame[4..]);
        }
    }

    #[test]
    fn a_message_that_ends_too_early_or_is_too_long_is_an_error_that_says_so() {
        let frame = framed(FIRST_STEP + 1);
        let cut = block_on(read::<Blob, _>(&mut &frame[..frame.len() - 1])).unwrap_err();
        assert_eq!(cut.kind(), io::ErrorKind::UnexpectedEof);
        let announced = u32::try_from(Blob::LIMIT + 1).unwrap().to_be_bytes();
        let long = block_on(read::<Blob, _>(&mut &announced[..])).unwrap_err();
        assert!(long.to_string().contains("over the limit"), "{long}");
    }
}

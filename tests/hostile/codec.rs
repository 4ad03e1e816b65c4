//! Bytes on a stream, exactly as told: no frame, no limit, and no end if none is wanted.

use std::{future, io};

use futures::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use libp2p::{StreamProtocol, request_response};

/// The longest request that is read: what nodes ask is short.
const MAX_REQUEST: u64 = 1 << 20;

/// What is written as a request.
#[derive(Clone, Debug)]
pub(super) struct Blow {
    pub(super) bytes: Vec<u8>,
    /// The stream stays open after them, as if more were to come.
    pub(super) unfinished: bool,
}

/// Reads to the end, writes as told.
#[derive(Clone, Debug, Default)]
pub(super) struct Codec;

impl request_response::Codec for Codec {
    type Protocol = StreamProtocol;
    type Request = Blow;
    type Response = Vec<u8>;

    async fn read_request<T>(&mut self, _: &StreamProtocol, io: &mut T) -> io::Result<Blow>
    where
        T: AsyncRead + Unpin + Send,
    {
        let mut head = [0; 4];
        // Whoever asks nothing keeps its stream.
        if io.read_exact(&mut head).await.is_err() {
            future::pending::<()>().await;
        }
        let mut bytes = Vec::new();
        io.take(u64::from(u32::from_be_bytes(head)).min(MAX_REQUEST)).read_to_end(&mut bytes).await?;
        Ok(Blow { bytes, unfinished: false })
    }

    async fn read_response<T>(&mut self, _: &StreamProtocol, io: &mut T) -> io::Result<Vec<u8>>
    where
        T: AsyncRead + Unpin + Send,
    {
        let mut bytes = Vec::new();
        io.read_to_end(&mut bytes).await?;
        Ok(bytes)
    }

    async fn write_request<T>(&mut self, _: &StreamProtocol, io: &mut T, blow: Blow) -> io::Result<()>
    where
        T: AsyncWrite + Unpin + Send,
    {
        io.write_all(&blow.bytes).await?;
        io.flush().await?;
        if blow.unfinished {
            future::pending::<()>().await;
        }
        io.close().await
    }

    async fn write_response<T>(&mut self, _: &StreamProtocol, io: &mut T, bytes: Vec<u8>) -> io::Result<()>
    where
        T: AsyncWrite + Unpin + Send,
    {
        let length = u32::try_from(bytes.len()).map_err(io::Error::other)?;
        io.write_all(&length.to_be_bytes()).await?;
        io.write_all(&bytes).await?;
        io.close().await
    }
}

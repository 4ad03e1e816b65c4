//! Memory for blocks, used again from block to block.
//!
//! A transfer holds each block for some milliseconds, from many threads. Memory that is asked for anew each time is cleared and
//! mapped by the kernel again and again, and what an allocator keeps for every thread adds up to more than all blocks under way.
//! Here the same few pieces of memory go round. Nothing here reads or writes anything, and no length comes from a peer unchecked:
//! who takes a buffer has checked how long it may be.

use std::{
    fmt,
    ops::{Deref, DerefMut},
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;

/// Bytes of a piece of memory that is used again: a chunk of content (1 MiB), and what comes with it on the wire or is needed to
/// put it at an aligned address.
const PIECE_BYTES: usize = 1024 * 1024 + 16 * 1024;
/// Addresses at which disks take bytes from where they lie are multiples of this, in bytes: the largest logical block of the disks
/// in use, and a page of memory.
pub const ALIGNMENT: usize = 4096;
/// Shorter buffers are made anew, in bytes: less than a piece's worth of clearing, and no piece is held for a few bytes.
const SHORT_BYTES: usize = 64 * 1024;

/// Pieces of memory that wait to be used again. Clones share them.
#[derive(Clone)]
pub struct Buffers {
    waiting: Arc<Mutex<Vec<Vec<u8>>>>,
    most: usize,
}

impl Buffers {
    /// Keeps `most` pieces of some more than 1 MiB for later at most; further ones are made when needed and dropped after use.
    pub fn new(most: usize) -> Self {
        Self { waiting: Arc::default(), most }
    }

    /// A buffer of `length` bytes of any content: what a former user left in it, or zeros.
    pub fn take(&self, length: usize) -> Buffer {
        Buffer { memory: self.memory(length), start: 0, length, home: self.clone() }
    }

    /// The same, with its byte `at` at an address that is a multiple of [`ALIGNMENT`].
    pub fn take_aligned(&self, length: usize, at: usize) -> Buffer {
        let memory = self.memory(length + ALIGNMENT);
        let over = (memory.as_ptr().addr() + at) % ALIGNMENT;
        Buffer { memory, start: (ALIGNMENT - over) % ALIGNMENT, length, home: self.clone() }
    }

    fn memory(&self, length: usize) -> Vec<u8> {
        if (SHORT_BYTES..=PIECE_BYTES).contains(&length) {
            self.lock().pop().unwrap_or_else(|| vec![0; PIECE_BYTES])
        } else {
            vec![0; length]
        }
    }

    fn give_back(&self, memory: Vec<u8>) {
        let mut waiting = self.lock();
        if memory.len() == PIECE_BYTES && waiting.len() < self.most {
            waiting.push(memory);
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Vec<u8>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Buffers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Buffers").field("waiting", &self.lock().len()).field("most", &self.most).finish()
    }
}

/// Some bytes. Their memory goes back to where it came from when the last who has them drops them.
pub struct Buffer {
    memory: Vec<u8>,
    start: usize,
    length: usize,
    home: Buffers,
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.memory[self.start..][..self.length]
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..][..self.length]
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Buffer").field("length", &self.length).finish_non_exhaustive()
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.home.give_back(std::mem::take(&mut self.memory));
    }
}

impl From<Buffer> for Bytes {
    fn from(buffer: Buffer) -> Self {
        Self::from_owner(buffer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waiting(buffers: &Buffers) -> usize {
        buffers.lock().len()
    }

    #[test]
    fn memory_is_used_again_when_the_last_slice_of_it_is_gone() {
        let buffers = Buffers::new(2);
        let mut buffer = buffers.take(PIECE_BYTES);
        buffer.fill(7);
        let mut whole = Bytes::from(buffer);
        let head = whole.split_to(10);
        drop(whole);
        assert_eq!((waiting(&buffers), &head[..]), (0, &[7; 10][..]));
        drop(head);
        assert_eq!(waiting(&buffers), 1);
        let again = buffers.take(SHORT_BYTES);
        assert_eq!((again.len(), waiting(&buffers)), (SHORT_BYTES, 0));
    }

    #[test]
    fn any_byte_of_a_buffer_can_lie_where_a_disk_takes_it_from() {
        let buffers = Buffers::new(2);
        for (length, at) in
            [(1, 0), (100, 7), (SHORT_BYTES, 1), (PIECE_BYTES - ALIGNMENT, 7), (PIECE_BYTES, ALIGNMENT + 9)]
        {
            let mut buffer = buffers.take_aligned(length, at);
            buffer.fill(1);
            assert_eq!((buffer.len(), (buffer.as_ptr().addr() + at) % ALIGNMENT), (length, 0));
        }
    }

    #[test]
    fn short_and_overlong_buffers_hold_no_piece_and_many_at_once_leave_few_behind() {
        let buffers = Buffers::new(2);
        for length in [0, 1, SHORT_BYTES - 1, PIECE_BYTES + 1] {
            assert_eq!(buffers.take(length).len(), length);
        }
        assert_eq!(waiting(&buffers), 0);
        drop([buffers.take(SHORT_BYTES), buffers.take(SHORT_BYTES), buffers.take(PIECE_BYTES)]);
        assert_eq!(waiting(&buffers), 2);
    }
}

//! The buffers of the ring arm: one piece of the engine's memory for transfers, cut into equal buffers.
//!
//! Invariant: the memory neither moves nor is freed while the arena lives. Who may touch a buffer at a time,
//! the kernel or the program, is the driver's business: hence the unsafe accessor.
#![allow(unsafe_code, reason = "the kernel reads and writes these buffers while Rust holds no reference")]

use std::io;
use std::mem;
use std::ptr::NonNull;

use icecore::buf::Memory;

/// Direct I/O needs addresses aligned to the logical block, which is never larger than a page.
const ALIGNMENT_BYTES: usize = 4096;

/// Equal buffers in one piece of memory.
#[derive(Debug)]
pub(super) struct Arena {
    start: NonNull<u8>,
    buffers: usize,
    buffer_bytes: usize,
    /// Nothing when it is to stay: the kernel may still use it.
    memory: Option<Memory>,
}

impl Arena {
    /// `buffers` zeroed buffers of `buffer_bytes`, a multiple of 4 KiB.
    pub(super) fn new(buffers: usize, buffer_bytes: usize) -> io::Result<Self> {
        assert!(buffers > 0 && buffer_bytes > 0 && buffer_bytes.is_multiple_of(ALIGNMENT_BYTES));
        let total_bytes = buffers.checked_mul(buffer_bytes).ok_or(io::ErrorKind::OutOfMemory)?;
        let memory = Memory::map(total_bytes)?;
        Ok(Self { start: memory.start(), buffers, buffer_bytes, memory: Some(memory) })
    }

    /// Bytes of each buffer.
    pub(super) const fn buffer_bytes(&self) -> usize {
        self.buffer_bytes
    }

    /// How many buffers there are.
    pub(super) const fn buffers(&self) -> usize {
        self.buffers
    }

    /// The address of a buffer, to be given to the kernel.
    #[inline]
    pub(super) fn address(&self, buffer: usize) -> *mut u8 {
        assert!(buffer < self.buffers());
        // SAFETY: the buffer's start lies inside the memory, by the assertion.
        unsafe { self.start.as_ptr().add(buffer * self.buffer_bytes) }
    }

    /// Keeps the memory when the arena is dropped: the kernel may still use it.
    pub(super) fn leak(&mut self) {
        mem::forget(self.memory.take());
    }

    /// The bytes of a buffer.
    ///
    /// # Safety
    /// No operation in the kernel uses the buffer while the reference lives.
    #[inline]
    pub(super) unsafe fn bytes_mut(&mut self, buffer: usize) -> &mut [u8] {
        let address = self.address(buffer);
        // SAFETY: the range is inside the memory and initialised (zeroed); `&mut self` excludes other
        // references to it, and the caller excludes the kernel.
        unsafe { std::slice::from_raw_parts_mut(address, self.buffer_bytes) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_aligned_and_apart() {
        let mut arena = Arena::new(3, 8192).expect("24 KiB");
        assert_eq!((arena.buffers(), arena.buffer_bytes()), (3, 8192));
        for buffer in 0..3 {
            assert_eq!(arena.address(buffer) as usize % ALIGNMENT_BYTES, 0);
            // SAFETY: there is no ring in this test.
            let bytes = unsafe { arena.bytes_mut(buffer) };
            assert!(bytes.iter().all(|byte| *byte == 0));
            bytes.fill(buffer as u8 + 1);
        }
        for buffer in 0..3 {
            // SAFETY: there is no ring in this test.
            let bytes = unsafe { arena.bytes_mut(buffer) };
            assert!(bytes.iter().all(|byte| *byte == buffer as u8 + 1));
        }
    }
}

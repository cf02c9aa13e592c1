//! Aligned, reusable I/O buffers.
//!
//! A [`Buf`] is a piece of memory that a device may transfer to or from with O_DIRECT. Buffers come from a
//! [`BufPool`] in power-of-two classes from 512 bytes to 4 MiB and go back to it when dropped, so that the
//! data path allocates nothing once it has run a while. The first part of the pool is one arena of [`Memory`] that the
//! real runtime registers with its ring; when the arena is used up, further buffers come from the heap, are
//! kept for reuse too, while their class is wanted, and are never registered. The pool never passes its limit by more
//! than the reserve, which only the engine's own work takes from: what makes room for others is not kept waiting by
//! them.
//!
//! Invariants: a buffer's address is aligned to its class or 4096 bytes, whichever is less; its memory is
//! always initialised; exactly one of {a `Buf` or the parts it was split into, a free list, the quarantine} refers
//! to a piece of memory. A part's address is aligned to the lengths it was split at.

#![allow(unsafe_code)]

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::rc::Rc;

use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous, munmap};

use crate::error::{Error, Reason, Result};

/// The largest buffer, and so the largest single transfer, in bytes.
pub const BUFFER_BYTES_MAX: usize = SMALLEST_BYTES << (CLASSES - 1);

const SMALLEST_BYTES: usize = 512;
const CLASSES: usize = 14;
const ALIGNMENT_BYTES_MAX: usize = 4096;
/// A huge page of most processors.
const HUGE_PAGE_BYTES: usize = 2 << 20;
/// Beyond the limit, for the engine's own work: a batch, a step of applying, a merge and a few records.
const RESERVE_BYTES: usize = 32 << 20;
/// What a quarantined buffer is filled with; anything else found there later was written after the free.
const POISON: u8 = 0xA5;

/// How large a pool may grow and what it does with freed buffers.
#[derive(Clone, Copy, Debug)]
pub struct BufPoolOptions {
    /// Bytes of the arena that can be registered with a ring.
    pub arena_bytes: usize,
    /// Bytes the pool may hold in all, the arena included.
    pub limit_bytes: usize,
    /// How many freed buffers are poisoned and held back before they are used again. 0 in normal use; tests
    /// and debugging set it to catch a device that writes to a buffer after its operation ended.
    pub quarantine_buffers: usize,
}

impl Default for BufPoolOptions {
    fn default() -> Self {
        Self { arena_bytes: 4 << 20, limit_bytes: 256 << 20, quarantine_buffers: 0 }
    }
}

/// A source of I/O buffers; cheap to clone, bound to its thread.
#[derive(Clone)]
pub struct BufPool {
    inner: Rc<Inner>,
    /// What this handle may take beyond the limit.
    reserve_bytes: usize,
}

struct Inner {
    arena: Option<Memory>,
    arena_bytes: usize,
    arena_used_bytes: Cell<usize>,
    heap_bytes: Cell<usize>,
    limit_bytes: usize,
    free: RefCell<[Vec<NonNull<u8>>; CLASSES]>,
    quarantine: RefCell<VecDeque<(NonNull<u8>, u8)>>,
    quarantine_buffers: usize,
}

/// Zeroed memory for transfers, aligned to 4096 bytes: in huge pages where it is long enough and the system has them. A device
/// gets a long transfer in few pieces then; of small pages, each is one, and a transfer of more pieces than the device takes at
/// a time is cut.
///
/// Invariant: the memory neither moves nor is unmapped while this lives.
#[derive(Debug)]
pub struct Memory {
    start: NonNull<u8>,
    /// What was mapped: `start` lies within the first huge page of it.
    mapped: NonNull<u8>,
    mapped_bytes: usize,
}

impl Memory {
    /// This many bytes, at least one. No memory is taken before it is touched.
    ///
    /// # Errors
    /// The system's, where it has no room for them.
    pub fn map(bytes: usize) -> std::io::Result<Self> {
        let is_huge = bytes >= HUGE_PAGE_BYTES;
        let alignment_bytes = if is_huge { HUGE_PAGE_BYTES } else { 1 };
        let mapped_bytes = bytes.saturating_add(alignment_bytes - 1);
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping, at a place of the system's choice, is nobody's memory.
        let mapped =
            unsafe { mmap_anonymous(std::ptr::null_mut(), mapped_bytes, access, MapFlags::PRIVATE) }?;
        let mapped = NonNull::new(mapped.cast::<u8>()).ok_or(std::io::ErrorKind::OutOfMemory)?;
        // SAFETY: fewer bytes than were mapped beyond those asked for.
        let start = unsafe { mapped.add(mapped.align_offset(alignment_bytes)) };
        if is_huge {
            // SAFETY: the range lies in the mapping, and its contents stay what they are. Without huge pages it is as good, but slower.
            let _ = unsafe { madvise(start.as_ptr().cast(), bytes, Advice::LinuxHugepage) };
        }
        Ok(Self { start, mapped, mapped_bytes })
    }

    /// Its first byte. What lies behind is zeroed and the caller's to share out; the kernel may be given it while this lives.
    #[inline]
    pub fn start(&self) -> NonNull<u8> {
        self.start
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: mapped in `map`, and whoever has shared it out does not use it any more, by the invariant.
        let _ = unsafe { munmap(self.mapped.as_ptr().cast(), self.mapped_bytes) };
    }
}

/// A buffer of 512 bytes to 4 MiB that goes back to its pool when dropped.
pub struct Buf {
    memory: NonNull<u8>,
    len: u32,
    class: u8,
    pool: Rc<Inner>,
    /// What it is a part of.
    whole: Option<Rc<Whole>>,
}

/// A buffer that was split; it goes back to its pool after its last part.
struct Whole {
    memory: NonNull<u8>,
    class: u8,
    pool: Rc<Inner>,
    /// Its parts have been joined: it is a `Buf` again.
    joined: Cell<bool>,
}

impl Drop for Whole {
    fn drop(&mut self) {
        if !self.joined.get() {
            self.pool.give_back(self.memory, self.class);
        }
    }
}

impl BufPool {
    /// A pool within the given limits. Takes the arena at once and nothing else.
    pub fn new(options: BufPoolOptions) -> Self {
        let arena_bytes = options.arena_bytes.next_multiple_of(ALIGNMENT_BYTES_MAX);
        let inner = Rc::new(Inner {
            arena: (arena_bytes > 0).then(|| mapped(arena_bytes)),
            arena_bytes,
            arena_used_bytes: Cell::new(0),
            heap_bytes: Cell::new(0),
            limit_bytes: options.limit_bytes.max(arena_bytes),
            free: RefCell::new(std::array::from_fn(|_| Vec::new())),
            quarantine: RefCell::new(VecDeque::new()),
            quarantine_buffers: options.quarantine_buffers,
        });
        Self { inner, reserve_bytes: 0 }
    }

    /// The same pool, for the engine's own work.
    pub(crate) fn reserved(&self) -> Self {
        Self { inner: Rc::clone(&self.inner), reserve_bytes: RESERVE_BYTES }
    }

    /// A buffer of `len` bytes with unspecified contents.
    ///
    /// # Errors
    /// `TransferTooLong` above [`BUFFER_BYTES_MAX`], `OutOfBuffers` when the limit is reached.
    pub fn get(&self, len: usize) -> Result<Buf> {
        if len > BUFFER_BYTES_MAX {
            let limit = BUFFER_BYTES_MAX as u64;
            return Err(Error::new("buffer", Reason::TransferTooLong { length: len as u64, limit }));
        }
        let class = class_of(len);
        let reused = self.inner.free.borrow_mut()[class].pop();
        let memory = match reused {
            Some(memory) => memory,
            None => self.inner.carve(class, self.reserve_bytes).ok_or_else(|| {
                let limit_bytes = self.inner.limit_bytes as u64;
                Error::new("buffer", Reason::OutOfBuffers { asked_bytes: len as u64, limit_bytes })
            })?,
        };
        Ok(Buf { memory, len: len as u32, class: class as u8, pool: Rc::clone(&self.inner), whole: None })
    }

    /// A buffer of `len` zero bytes. Errors as [`BufPool::get`].
    pub fn zeroed(&self, len: usize) -> Result<Buf> {
        let mut buf = self.get(len)?;
        buf.fill(0);
        Ok(buf)
    }

    /// A buffer that holds a copy of `bytes`. Errors as [`BufPool::get`].
    pub fn copy_of(&self, bytes: &[u8]) -> Result<Buf> {
        let mut buf = self.get(bytes.len())?;
        buf.copy_from_slice(bytes);
        Ok(buf)
    }

    /// Address and length of the arena, for registering it with a ring.
    pub(crate) fn arena(&self) -> (*mut u8, usize) {
        (self.inner.arena_start().as_ptr(), self.inner.arena_bytes)
    }

    /// Buffers now held back, and whether every one still carries the poison it was freed with.
    pub fn quarantine_intact(&self) -> (usize, bool) {
        let quarantine = self.inner.quarantine.borrow();
        let intact = quarantine.iter().all(|&(memory, class)| {
            // SAFETY: a quarantined piece has its class's size, is initialised and nobody else refers to it.
            let bytes = unsafe { std::slice::from_raw_parts(memory.as_ptr(), class_bytes(class as usize)) };
            bytes.iter().all(|&byte| byte == POISON)
        });
        (quarantine.len(), intact)
    }
}

impl fmt::Debug for BufPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BufPool")
            .field("arena_bytes", &self.inner.arena_bytes)
            .field("heap_bytes", &self.inner.heap_bytes.get())
            .finish_non_exhaustive()
    }
}

impl Inner {
    fn arena_start(&self) -> NonNull<u8> {
        self.arena.as_ref().map_or(NonNull::dangling(), Memory::start)
    }

    fn carve(&self, class: usize, reserve_bytes: usize) -> Option<NonNull<u8>> {
        let bytes = class_bytes(class);
        let at = self.arena_used_bytes.get().next_multiple_of(bytes.min(ALIGNMENT_BYTES_MAX));
        if at + bytes <= self.arena_bytes {
            self.arena_used_bytes.set(at + bytes);
            // SAFETY: `at + bytes` lies within the arena, which is one allocation.
            return Some(unsafe { self.arena_start().add(at) });
        }
        let limit_bytes = self.limit_bytes + reserve_bytes;
        if self.arena_bytes + self.heap_bytes.get() + bytes > limit_bytes {
            // What lies unused in other classes is not lost to this one.
            self.release_free(self.arena_bytes + self.heap_bytes.get() + bytes - limit_bytes);
        }
        if self.arena_bytes + self.heap_bytes.get() + bytes > limit_bytes {
            return None;
        }
        self.heap_bytes.set(self.heap_bytes.get() + bytes);
        Some(allocate(bytes))
    }

    /// Gives free memory of the heap back to the system, the largest pieces first: so many bytes, if there are.
    fn release_free(&self, bytes: usize) {
        let mut left = bytes;
        for (class, list) in self.free.borrow_mut().iter_mut().enumerate().rev() {
            list.retain(|memory| {
                if left == 0 || self.in_arena(*memory) {
                    return true;
                }
                release(*memory, class_bytes(class));
                self.heap_bytes.set(self.heap_bytes.get() - class_bytes(class));
                left = left.saturating_sub(class_bytes(class));
                false
            });
        }
    }

    fn in_arena(&self, memory: NonNull<u8>) -> bool {
        let start = self.arena_start().as_ptr() as usize;
        (start..start + self.arena_bytes).contains(&(memory.as_ptr() as usize))
    }

    fn give_back(&self, memory: NonNull<u8>, class: u8) {
        if self.quarantine_buffers == 0 {
            self.free.borrow_mut()[class as usize].push(memory);
            return;
        }
        // SAFETY: the piece has its class's size and its only owner, a `Buf`, is being dropped.
        unsafe { memory.as_ptr().write_bytes(POISON, class_bytes(class as usize)) };
        let mut quarantine = self.quarantine.borrow_mut();
        quarantine.push_back((memory, class));
        if quarantine.len() > self.quarantine_buffers
            && let Some((memory, class)) = quarantine.pop_front()
        {
            self.free.borrow_mut()[class as usize].push(memory);
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let free = std::mem::take(self.free.get_mut());
        let freed =
            free.into_iter().enumerate().flat_map(|(class, list)| list.into_iter().map(move |m| (m, class)));
        let held =
            std::mem::take(self.quarantine.get_mut()).into_iter().map(|(m, class)| (m, class as usize));
        for (memory, class) in freed.chain(held) {
            if !self.in_arena(memory) {
                release(memory, class_bytes(class));
            }
        }
    }
}

impl Buf {
    /// Address of the first byte, for handing to the kernel.
    pub(crate) fn address(&self) -> *mut u8 {
        self.memory.as_ptr()
    }

    /// Whether this buffer lies in the arena that a ring may have registered.
    pub(crate) fn is_in_arena(&self) -> bool {
        self.pool.in_arena(self.memory)
    }

    /// Bytes this buffer could hold.
    pub fn capacity(&self) -> usize {
        if self.whole.is_some() { self.len as usize } else { class_bytes(self.class as usize) }
    }

    /// Takes what lies behind the first `at` bytes off, as a buffer of its own.
    ///
    /// # Panics
    /// If `at` passes the length or is no multiple of 512.
    pub fn split_off(&mut self, at: usize) -> Self {
        assert!(at <= self.len as usize && at.is_multiple_of(SMALLEST_BYTES), "a buffer is split at sectors");
        let whole = self.whole.get_or_insert_with(|| {
            let (memory, class, pool) = (self.memory, self.class, Rc::clone(&self.pool));
            Rc::new(Whole { memory, class, pool, joined: Cell::new(false) })
        });
        let (whole, pool) = (Some(Rc::clone(whole)), Rc::clone(&self.pool));
        // SAFETY: `at` lies within this buffer, which is one piece of memory.
        let memory = unsafe { self.memory.add(at) };
        let rest = Self { memory, len: self.len - at as u32, class: self.class, pool, whole };
        self.len = at as u32;
        rest
    }

    /// Puts back what [`Buf::split_off`] took off.
    ///
    /// # Panics
    /// If `rest` is not what lies behind this part.
    pub fn join(&mut self, rest: Self) {
        let same = matches!((&self.whole, &rest.whole), (Some(one), Some(other)) if Rc::ptr_eq(one, other));
        let end = self.memory.as_ptr() as usize + self.len as usize;
        assert!(
            same && end == rest.memory.as_ptr() as usize,
            "parts are joined in the order of their memory"
        );
        self.len += rest.len;
        drop(rest);
        if self.whole.as_ref().is_some_and(|whole| Rc::strong_count(whole) == 1)
            && let Some(whole) = self.whole.take_if(|whole| whole.memory == self.memory)
        {
            whole.joined.set(true);
        }
    }

    /// Change the length to `len` bytes, at most [`Buf::capacity`]; what lies beyond the old length is
    /// unspecified.
    ///
    /// # Panics
    /// If `len` passes the capacity.
    pub fn set_len(&mut self, len: usize) {
        assert!(len <= self.capacity(), "a buffer's length stays within its capacity");
        self.len = len as u32;
    }
}

impl Deref for Buf {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: `memory` is initialised, at least `len` bytes long and owned by this `Buf`; while the
        // kernel has it, the `Buf` lies in an operation's slot and nothing borrows it.
        unsafe { std::slice::from_raw_parts(self.memory.as_ptr(), self.len as usize) }
    }
}

impl DerefMut for Buf {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as for `deref`, and `&mut self` makes the access unique.
        unsafe { std::slice::from_raw_parts_mut(self.memory.as_ptr(), self.len as usize) }
    }
}

impl Drop for Buf {
    fn drop(&mut self) {
        if self.whole.is_none() {
            self.pool.give_back(self.memory, self.class);
        }
    }
}

impl fmt::Debug for Buf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Buf({} bytes)", self.len)
    }
}

fn class_of(len: usize) -> usize {
    (len.max(SMALLEST_BYTES).next_power_of_two() / SMALLEST_BYTES).trailing_zeros() as usize
}

fn class_bytes(class: usize) -> usize {
    SMALLEST_BYTES << class
}

fn layout(bytes: usize) -> Layout {
    match Layout::from_size_align(bytes, bytes.next_power_of_two().min(ALIGNMENT_BYTES_MAX)) {
        Ok(layout) => layout,
        Err(_) => unreachable!("buffer sizes are far below the address space"),
    }
}

fn allocate(bytes: usize) -> NonNull<u8> {
    assert!(bytes > 0, "a buffer has at least one byte");
    let layout = layout(bytes);
    // SAFETY: the layout's size is not zero.
    let memory = unsafe { alloc_zeroed(layout) };
    NonNull::new(memory).unwrap_or_else(|| handle_alloc_error(layout))
}

/// The arena, or the end of the program, as where an allocation fails.
fn mapped(bytes: usize) -> Memory {
    Memory::map(bytes).unwrap_or_else(|_| handle_alloc_error(layout(bytes)))
}

fn release(memory: NonNull<u8>, bytes: usize) {
    // SAFETY: `memory` came from `allocate(bytes)` and its last owner gives it up here.
    unsafe { dealloc(memory.as_ptr(), layout(bytes)) };
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(arena_bytes: usize, limit_bytes: usize, quarantine_buffers: usize) -> BufPool {
        BufPool::new(BufPoolOptions { arena_bytes, limit_bytes, quarantine_buffers })
    }

    #[test]
    fn buffers_are_aligned_and_reused() {
        let pool = pool(64 << 10, 1 << 20, 0);
        for len in [1, 512, 513, 4096, 5000, 65536] {
            let buf = pool.get(len).unwrap();
            assert_eq!(buf.len(), len);
            assert_eq!(buf.address() as usize % buf.capacity().min(4096), 0, "{len}");
        }
        let first = pool.get(4096).unwrap().address();
        assert_eq!(pool.get(4000).unwrap().address(), first);
    }

    #[test]
    fn long_memory_is_in_huge_pages() {
        for bytes in [1, 4096, HUGE_PAGE_BYTES - 4096, HUGE_PAGE_BYTES, (5 << 20) + 4096] {
            let memory = Memory::map(bytes).unwrap();
            let address = memory.start().as_ptr() as usize;
            let is_huge = bytes >= HUGE_PAGE_BYTES;
            assert_eq!(address % if is_huge { HUGE_PAGE_BYTES } else { ALIGNMENT_BYTES_MAX }, 0);
            // SAFETY: of this test alone, zeroed and that long.
            let contents = unsafe { std::slice::from_raw_parts_mut(memory.start().as_ptr(), bytes) };
            assert!(contents.iter().all(|byte| *byte == 0));
            contents.fill(1);
            // What the kernel says of the mapping: `hg` where it was asked for huge pages.
            let all = std::fs::read_to_string("/proc/self/smaps").unwrap();
            let range = |line: &str| {
                let (from, to) = line.split_once(' ')?.0.split_once('-')?;
                Some(usize::from_str_radix(from, 16).ok()?..usize::from_str_radix(to, 16).ok()?)
            };
            let of_it =
                all.lines().skip_while(|line| !range(line).is_some_and(|range| range.contains(&address)));
            let flags = of_it.into_iter().find_map(|line| line.strip_prefix("VmFlags:")).unwrap();
            if std::path::Path::new("/sys/kernel/mm/transparent_hugepage").exists() {
                assert_eq!(
                    flags.split_whitespace().any(|flag| flag == "hg"),
                    is_huge,
                    "{bytes} bytes: {flags}"
                );
            }
        }
        assert!(Memory::map(0).is_err() && Memory::map(usize::MAX).is_err());
    }

    #[test]
    fn the_arena_comes_first_then_the_heap_then_the_limit() {
        let pool = pool(8192, 16384, 0);
        let held: Vec<Buf> = (0..4).map(|_| pool.get(4096).unwrap()).collect();
        assert_eq!(held.iter().filter(|buf| buf.is_in_arena()).count(), 2);
        assert!(matches!(pool.get(1).unwrap_err().reason(), Reason::OutOfBuffers { .. }));
        drop(held);
        assert!(pool.get(4096).is_ok());
        assert!(matches!(
            pool.get(BUFFER_BYTES_MAX + 1).unwrap_err().reason(),
            Reason::TransferTooLong { .. }
        ));
    }

    #[test]
    fn free_memory_of_one_class_serves_another_and_the_reserve_is_the_engines() {
        let pool = pool(0, 64 << 10, 0);
        let large = pool.get(64 << 10).unwrap();
        assert!(pool.get(4096).is_err());
        let own = pool.reserved().get(4096).unwrap();
        drop((large, own));
        let held: Vec<Buf> = (0..16).map(|_| pool.get(4096).unwrap()).collect();
        assert!(pool.get(512).is_err());
        drop(held);
        assert!(pool.get(64 << 10).is_ok());
    }

    #[test]
    fn freed_buffers_are_poisoned_and_a_late_write_shows() {
        let pool = pool(65536, 1 << 20, 4);
        let buf = pool.zeroed(4096).unwrap();
        let late = buf.address();
        drop(buf);
        assert_eq!(pool.quarantine_intact(), (1, true));
        assert_ne!(pool.get(4096).unwrap().address(), late, "quarantined memory is not handed out");
        // SAFETY: the arena is alive; this is the late write the quarantine is there to catch.
        unsafe { late.wrapping_add(100).write(1) };
        assert!(!pool.quarantine_intact().1);
    }
    #[test]
    fn parts_make_the_whole_again_and_free_it_once() {
        let pool = pool(0, 1 << 20, 4);
        let mut buf = pool.get(8192).unwrap();
        let address = buf.address();
        let mut middle = buf.split_off(512);
        let last = middle.split_off(4096);
        assert_eq!((buf.len(), middle.len(), last.len(), middle.capacity()), (512, 4096, 3584, 4096));
        middle.fill(7);
        buf.join(middle);
        buf.join(last);
        assert_eq!(
            (buf.address(), buf.len(), buf.capacity(), buf[512], buf[4607]),
            (address, 8192, 8192, 7, 7)
        );
        let rest = buf.split_off(4096);
        drop(buf);
        assert_eq!(pool.quarantine_intact().0, 0, "a part is left");
        drop(rest);
        assert_eq!(pool.quarantine_intact(), (1, true));
    }

    #[test]
    #[should_panic(expected = "in the order of their memory")]
    fn parts_of_different_buffers_are_not_joined() {
        let pool = pool(0, 1 << 20, 0);
        let (mut one, mut other) = (pool.get(1024).unwrap(), pool.get(1024).unwrap());
        drop(one.split_off(512));
        one.join(other.split_off(512));
    }
}

//! The real driver: one io_uring.
//!
//! SINGLE_ISSUER and DEFER_TASKRUN where the kernel has them, the buffer arena and the files registered where
//! memlock and the kernel allow; what was granted is told by `io_path`. Everything queued since the last turn
//! goes to the kernel in the same system call that waits for completions.
//!
//! Invariants: the memory and the descriptor of a queued entry lie in the operation's slot until its
//! completion has been reaped, so the kernel never sees freed memory or a reused descriptor. A wait may end
//! without a completion; nothing here takes one for granted.

#![allow(unsafe_code)]

use std::io::Read;
use std::os::fd::{AsRawFd, RawFd};
use std::time::Instant;

use io_uring::types::{Fd, FsyncFlags, SubmitArgs, Timespec};
use io_uring::{IoUring, opcode, squeue};

use super::Timestamp;
use super::driver::{Driver, IoPath, Wait};
use super::operation::{Completion, File, OperationKey, OperationKind, Slab, Slot, Target};
use super::remote::Remote;
use crate::buf::BufPool;
use crate::error::{Error, Reason, Result};

/// Entries of the submission queue.
const SUBMISSIONS: u32 = 256;
/// Entries that are handed over without waiting for the turn's end, so that the device begins with the first
/// ones while the rest is still being prepared; as many as are worth a call where calls are dear.
const SUBMISSION_BATCH: usize = 32;
/// Rounds of tasks that the kernel is put off for: what completes together is gone on with in several rounds, and what
/// these begin goes to the kernel together too.
const PASSES_MAX: u32 = 2;
/// Files that can be registered at a time, two for a device; further ones are used unregistered.
const REGISTERED_FILES: u32 = 128;
/// A runtime of an ordinary user registers at most this part of what the user may lock.
const MEMLOCK_SHARE: usize = 16;
/// `user_data` of the poll that hears other threads.
const EAR: u64 = u64::MAX;
/// `user_data` of requests to cancel; nobody waits for their completion.
const CANCEL: u64 = u64::MAX - 1;

pub(super) struct UringDriver {
    ring: IoUring,
    origin: Instant,
    arena: *mut u8,
    registered_buffer_bytes: usize,
    deferred_completions: bool,
    free_files: Vec<u32>,
    registered_files: bool,
    ear_armed: bool,
    /// Completions that needed no kernel: operations on the null target.
    ended: Vec<Completion>,
    /// Rounds of tasks since the kernel was called.
    passes: u32,
}

impl UringDriver {
    /// A ring for up to `operations_max` operations in flight, with the pool's arena registered.
    ///
    /// # Errors
    /// `NoIoUring` with what the system said.
    #[allow(clippy::disallowed_methods, reason = "this is one of the doors to the clock")]
    pub fn new(operations_max: usize, pool: &BufPool) -> Result<Self> {
        let completions = (operations_max as u32 + REGISTERED_FILES).next_power_of_two();
        let mut deferred_completions = true;
        let ring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_taskrun_flag()
            .setup_cqsize(completions.max(2 * SUBMISSIONS))
            .build(SUBMISSIONS)
            .or_else(|_older_kernel| {
                deferred_completions = false;
                IoUring::builder().setup_cqsize(completions.max(2 * SUBMISSIONS)).build(SUBMISSIONS)
            })
            .map_err(|error| {
                let why = match error.raw_os_error() {
                    Some(libc::ENOMEM) => "out of lockable memory: raise `ulimit -l`".to_string(),
                    _ => error.to_string(),
                };
                Error::new("open runtime", Reason::NoIoUring { why })
            })?;
        if !ring.params().is_feature_ext_arg() || !ring.params().is_feature_nodrop() {
            let why = "the kernel is older than 5.11".to_string();
            return Err(Error::new("open runtime", Reason::NoIoUring { why }));
        }
        let registered_files = ring.submitter().register_files_sparse(REGISTERED_FILES).is_ok();
        let (arena, arena_bytes) = pool.arena();
        Ok(Self {
            registered_buffer_bytes: register_arena(&ring, arena, arena_bytes),
            ring,
            origin: Instant::now(),
            arena,
            deferred_completions,
            free_files: if registered_files { (0..REGISTERED_FILES).rev().collect() } else { Vec::new() },
            registered_files,
            ear_armed: false,
            ended: Vec::new(),
            passes: 0,
        })
    }

    fn push(&mut self, entry: &squeue::Entry) {
        loop {
            let mut queue = self.ring.submission();
            let queued = queue.len();
            if queued < SUBMISSION_BATCH {
                // SAFETY: see the module's invariant: what the entry points to lies in the operation's slot,
                // or it points to nothing.
                let pushed = unsafe { queue.push(entry) };
                assert!(pushed.is_ok(), "the queue has room for more than a batch");
                return;
            }
            drop(queue);
            // Submits and nothing else: to run completions now would only cut them into smaller portions.
            // SAFETY: no argument is passed, and what the entries point to is held by their operations.
            let entered = unsafe { self.ring.submitter().enter::<libc::sigset_t>(queued as u32, 0, 0, None) };
            check_entered(entered);
        }
    }

    /// Whether there is something to hand over, or something has ended that is not in the queue of completions yet.
    fn needs_the_kernel(&mut self) -> bool {
        let queue = self.ring.submission();
        !queue.is_empty() || queue.taskrun() || queue.cq_overflow()
    }

    /// Hands the queue over; waits for one completion if told how long.
    fn enter(&mut self, wait: Wait) {
        self.passes = 0;
        let submitter = self.ring.submitter();
        let entered = match wait {
            Wait::No => submitter.submit(),
            Wait::Forever => submitter.submit_and_wait(1),
            Wait::Until(deadline) => {
                let left_ns = deadline.0.saturating_sub(self.now().0);
                let left =
                    Timespec::new().sec(left_ns / 1_000_000_000).nsec((left_ns % 1_000_000_000) as u32);
                submitter.submit_with_args(1, &SubmitArgs::new().timespec(&left))
            }
        };
        check_entered(entered);
    }

    fn entry(&self, slot: &Slot, file: Fd) -> squeue::Entry {
        let (offset, length) = (slot.next_offset(), slot.remaining());
        let done = slot.done_bytes as usize;
        // Operations without a buffer transfer nothing, and their entries carry no address.
        let (address, fixed) = match &slot.buf {
            Some(buf) => {
                let from = if slot.operation.kind == OperationKind::Receive { offset } else { done as u64 };
                assert!(from + length <= buf.len() as u64, "a transfer stays within its buffer");
                let address = buf.address().wrapping_add(done);
                let registered = buf.is_in_arena() && {
                    let end = address as usize + length as usize - self.arena as usize;
                    end <= self.registered_buffer_bytes
                };
                (address, registered)
            }
            None => (std::ptr::null_mut(), false),
        };
        let bytes = length as u32;
        match slot.operation.kind {
            OperationKind::Read if fixed => {
                opcode::ReadFixed::new(file, address, bytes, 0).offset(offset).build()
            }
            OperationKind::Read => opcode::Read::new(file, address, bytes).offset(offset).build(),
            OperationKind::Write { durable } => {
                let flags = if durable { libc::RWF_DSYNC } else { 0 };
                if fixed {
                    opcode::WriteFixed::new(file, address, bytes, 0).offset(offset).rw_flags(flags).build()
                } else {
                    opcode::Write::new(file, address, bytes).offset(offset).rw_flags(flags).build()
                }
            }
            OperationKind::Flush => opcode::Fsync::new(file).flags(FsyncFlags::DATASYNC).build(),
            OperationKind::Discard => opcode::Fallocate::new(file, length)
                .offset(offset)
                .mode(libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE)
                .build(),
            OperationKind::WriteZeroes => opcode::Fallocate::new(file, length)
                .offset(offset)
                .mode(libc::FALLOC_FL_ZERO_RANGE | libc::FALLOC_FL_KEEP_SIZE)
                .build(),
            OperationKind::Receive => {
                let at = address.wrapping_add(slot.operation.offset as usize);
                opcode::Recv::new(file, at, bytes).build()
            }
            OperationKind::Send => {
                let Target::Gather(gather) = &slot.operation.target else {
                    unreachable!("only a gather is sent")
                };
                opcode::SendMsg::new(file, gather.message(done)).flags(libc::MSG_NOSIGNAL as u32).build()
            }
        }
    }

    fn arm_ear(&mut self, remote: &Remote) {
        if !self.ear_armed {
            let ear = Fd(remote.ear().as_raw_fd());
            self.push(&opcode::PollAdd::new(ear, libc::POLLIN as u32).build().user_data(EAR));
            self.ear_armed = true;
        }
    }
}

/// Interrupted, out of time, or the kernel wants completions reaped first: the caller looks again.
fn check_entered(entered: std::io::Result<usize>) {
    if let Err(error) = entered {
        let errno = error.raw_os_error().unwrap_or(0);
        let passing = [libc::EINTR, libc::ETIME, libc::EAGAIN, libc::EBUSY, libc::ENOMEM];
        assert!(passing.contains(&errno), "the kernel refused a ring that it made: {error}");
    }
}

/// Bytes that this runtime may register. What an ordinary user may lock is shared by all of the user's
/// processes, rings included, so one runtime takes a small part of it.
fn registration_limit_bytes() -> usize {
    if rustix::process::geteuid().is_root() {
        return usize::MAX;
    }
    let locked = rustix::process::getrlimit(rustix::process::Resource::Memlock);
    locked.current.map_or(usize::MAX, |bytes| bytes as usize / MEMLOCK_SHARE / 4096 * 4096)
}

/// Registers as much of the arena as the system allows: all, a half, a quarter, …, nothing.
fn register_arena(ring: &IoUring, arena: *mut u8, arena_bytes: usize) -> usize {
    let mut bytes = arena_bytes.min(registration_limit_bytes());
    while bytes >= 4096 {
        let area = [libc::iovec { iov_base: arena.cast(), iov_len: bytes }];
        // SAFETY: the arena outlives every buffer in it, and only those are used as registered memory.
        if unsafe { ring.submitter().register_buffers(&area) }.is_ok() {
            return bytes;
        }
        bytes = (bytes / 2).next_multiple_of(4096);
        if bytes == 4096 {
            break;
        }
    }
    0
}

/// A message as the kernel takes it, with the list of its pieces. It and the list stay where they are from `finish` until
/// the next `begin`.
pub(super) struct Message {
    header: Box<libc::msghdr>,
    pieces: Vec<libc::iovec>,
}

impl Default for Message {
    fn default() -> Self {
        // SAFETY: a message header is numbers and pointers, for all of which zero is a value.
        let header = unsafe { std::mem::zeroed::<libc::msghdr>() };
        Self { header: Box::new(header), pieces: Vec::new() }
    }
}

impl Message {
    /// Empties the list.
    pub fn begin(&mut self) {
        self.pieces.clear();
    }

    /// Adds a piece.
    pub fn add(&mut self, address: *mut u8, bytes: usize) {
        self.pieces.push(libc::iovec { iov_base: address.cast(), iov_len: bytes });
    }

    /// The message of all pieces.
    pub fn finish(&mut self) -> *const libc::msghdr {
        self.header.msg_iov = self.pieces.as_mut_ptr();
        self.header.msg_iovlen = self.pieces.len() as _;
        &raw const *self.header
    }
}

impl Driver for UringDriver {
    fn submit(&mut self, key: OperationKey, slab: &mut Slab) {
        let slot = slab.get_mut(key);
        let known = |file: &File| match file.registered {
            Some(index) => (Fd(index as RawFd), squeue::Flags::FIXED_FILE),
            None => (Fd(file.as_raw_fd()), squeue::Flags::empty()),
        };
        let (file, flags) = match &slot.operation.target {
            Target::File(file) => known(file),
            Target::Gather(gather) => match gather.file() {
                Some(file) => known(&file),
                None => unreachable!("what is sent is sent somewhere"),
            },
            Target::Null => {
                self.ended.push(Completion { key, result: slot.remaining() as i32 });
                return;
            }
            #[cfg(feature = "sim")]
            Target::Simulated(_) => panic!("a simulated disk needs the simulated runtime"),
        };
        let entry = self.entry(slot, file).flags(flags).user_data(key.to_bits());
        self.push(&entry);
    }

    fn turn(&mut self, wait: Wait, _slab: &mut Slab, remote: &Remote, completions: &mut Vec<Completion>) {
        if !self.ended.is_empty() {
            completions.append(&mut self.ended);
            if self.ring.submission().is_empty() {
                return;
            }
            self.enter(Wait::No);
        } else if wait == Wait::No {
            // What is ready may have more for the same call.
            self.passes += 1;
            if self.passes > PASSES_MAX && self.needs_the_kernel() {
                self.enter(wait);
            }
        } else {
            self.arm_ear(remote);
            let wait = if remote.prepare_sleep() { wait } else { Wait::No };
            self.enter(wait);
            remote.end_sleep();
        }
        for completion in self.ring.completion() {
            match completion.user_data() {
                EAR => {
                    self.ear_armed = false;
                    // A cancelled poll found nothing to read, and the read would wait for it.
                    if completion.result() > 0 {
                        let _woken = remote.ear().read(&mut [0; 64]);
                    }
                }
                CANCEL => {}
                bits => completions
                    .push(Completion { key: OperationKey::from_bits(bits), result: completion.result() }),
            }
        }
    }

    fn cancel(&mut self, key: OperationKey) {
        self.push(&opcode::AsyncCancel::new(key.to_bits()).build().user_data(CANCEL));
    }

    fn cancel_all(&mut self) {
        let all = io_uring::types::CancelBuilder::any();
        self.push(&opcode::AsyncCancel2::new(all).build().user_data(CANCEL));
    }

    fn now(&self) -> Timestamp {
        Timestamp(self.origin.elapsed().as_nanos() as u64)
    }

    fn register_file(&mut self, fd: RawFd) -> Option<u32> {
        let index = self.free_files.pop()?;
        if self.ring.submitter().register_files_update(index, &[fd]).is_ok() {
            return Some(index);
        }
        self.free_files.push(index);
        None
    }

    fn unregister_file(&mut self, index: u32) {
        // Entries that name this index have completed: each of them held the file.
        let _ring_gone = self.ring.submitter().register_files_update(index, &[-1]);
        self.free_files.push(index);
    }

    fn io_path(&self) -> IoPath {
        IoPath {
            kind: "io_uring",
            registered_buffer_bytes: self.registered_buffer_bytes,
            registered_files: self.registered_files,
            deferred_completions: self.deferred_completions,
        }
    }
}

//! The fallback for systems without io_uring: plain positioned calls, one at a time.
//!
//! Used only when the caller asks for it, and named in every status and result. It works within the runtime's
//! thread, so a request to a file blocks all others. Sockets are tried, and waited for where they have nothing to give or no room.

use std::collections::VecDeque;
use std::io::Read;
use std::os::fd::{AsFd, RawFd};
use std::rc::Rc;
use std::time::{Duration, Instant};

use super::Timestamp;
use super::driver::{Driver, IoPath, Wait};
use super::operation::{Completion, File, OperationKey, OperationKind, Slab, Target};
use super::remote::Remote;
use rustix::event::{PollFd, PollFlags};
use rustix::fs::FallocateFlags;
use rustix::io::ReadWriteFlags;
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendFlags};

pub(super) struct BlockingDriver {
    origin: Instant,
    ended: VecDeque<Completion>,
    /// Operations of sockets that have nothing to give, or no room.
    waiting: Vec<OperationKey>,
}

impl BlockingDriver {
    #[allow(clippy::disallowed_methods, reason = "this is one of the doors to the clock")]
    pub fn new() -> Self {
        Self { origin: Instant::now(), ended: VecDeque::new(), waiting: Vec::new() }
    }
}

fn perform(key: OperationKey, slab: &mut Slab) -> i32 {
    let slot = slab.get_mut(key);
    let (offset, length, done) = (slot.next_offset(), slot.remaining(), slot.done_bytes as usize);
    let kind = slot.operation.kind;
    let file = match &slot.operation.target {
        Target::File(file) => Rc::clone(file),
        Target::Gather(_) => return send(key, slab),
        Target::Null => return length as i32,
        #[cfg(feature = "sim")]
        Target::Simulated(_) => panic!("a simulated disk needs the simulated runtime"),
    };
    let fd = file.fd.as_fd();
    let bytes = slot.buf.as_deref_mut().map_or(&mut [][..], |buf| &mut buf[done..]);
    let result = match kind {
        OperationKind::Read => rustix::io::pread(fd, bytes, offset),
        OperationKind::Write { durable } => {
            let flags = if durable { ReadWriteFlags::DSYNC } else { ReadWriteFlags::empty() };
            rustix::io::pwritev2(fd, &[std::io::IoSlice::new(bytes)], offset, flags)
        }
        OperationKind::Flush => rustix::fs::fdatasync(fd).map(|()| 0),
        OperationKind::Discard => {
            let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            rustix::fs::fallocate(fd, flags, offset, length).map(|()| 0)
        }
        OperationKind::WriteZeroes => {
            let flags = FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE;
            rustix::fs::fallocate(fd, flags, offset, length).map(|()| 0)
        }
        OperationKind::Receive => {
            let room = &mut bytes[offset as usize..(offset + length) as usize];
            rustix::net::recv(fd, room, RecvFlags::DONTWAIT).map(|(moved, _)| moved)
        }
        OperationKind::Send => unreachable!("only a gather is sent"),
    };
    result.map_or_else(|errno| -errno.raw_os_error(), |moved| moved as i32)
}

fn send(key: OperationKey, slab: &mut Slab) -> i32 {
    let slot = slab.get_mut(key);
    let Target::Gather(gather) = &slot.operation.target else { unreachable!("only a gather is sent") };
    let Some(file) = gather.file() else { unreachable!("what is sent is sent somewhere") };
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    let sent = gather.with_slices(slot.done_bytes as usize, |slices| {
        rustix::net::sendmsg(&file.fd, slices, &mut SendAncillaryBuffer::default(), flags)
    });
    sent.map_or_else(|errno| -errno.raw_os_error(), |moved| moved as i32)
}

/// The socket of an operation, and what it waits for.
fn awaited(key: OperationKey, slab: &mut Slab) -> Option<(Rc<File>, PollFlags)> {
    match &slab.get_mut(key).operation.target {
        Target::File(file) => Some((Rc::clone(file), PollFlags::IN)),
        Target::Gather(gather) => Some((gather.file()?, PollFlags::OUT)),
        _ => None,
    }
}

impl BlockingDriver {
    /// Tries what waits once more.
    fn try_waiting(&mut self, slab: &mut Slab) {
        let ended = &mut self.ended;
        self.waiting.retain(|key| {
            let result = perform(*key, slab);
            let goes_on = result == -libc::EAGAIN;
            if !goes_on {
                ended.push_back(Completion { key: *key, result });
            }
            goes_on
        });
    }

    /// Sleeps until a socket is ready, a wake or the timeout; by `ppoll`, whose timeout is exact, where that of a read of
    /// a socket is counted in ticks of the kernel: 8 ms for 1.
    fn sleep(&self, timeout: Option<Duration>, slab: &mut Slab, remote: &Remote) {
        let sockets: Vec<_> = self.waiting.iter().filter_map(|key| awaited(*key, slab)).collect();
        let mut all: Vec<PollFd<'_>> =
            sockets.iter().map(|(file, flags)| PollFd::new(&file.fd, *flags)).collect();
        all.push(PollFd::new(remote.ear(), PollFlags::IN));
        let timeout = timeout.map(|timeout| rustix::event::Timespec {
            tv_sec: timeout.as_secs() as i64,
            tv_nsec: timeout.subsec_nanos().into(),
        });
        // A signal, the timeout and an event all mean the same: look again.
        let _look_again = rustix::event::poll(&mut all, timeout.as_ref());
        if all.last().is_some_and(|ear| !ear.revents().is_empty()) {
            let _woken = remote.ear().read(&mut [0; 64]);
        }
    }
}

impl Driver for BlockingDriver {
    fn submit(&mut self, key: OperationKey, slab: &mut Slab) {
        let result = perform(key, slab);
        let is_of_socket =
            matches!(slab.get_mut(key).operation.kind, OperationKind::Receive | OperationKind::Send);
        if is_of_socket && result == -libc::EAGAIN {
            self.waiting.push(key);
        } else {
            self.ended.push_back(Completion { key, result });
        }
    }

    fn turn(&mut self, wait: Wait, slab: &mut Slab, remote: &Remote, completions: &mut Vec<Completion>) {
        self.try_waiting(slab);
        if self.ended.is_empty() && wait != Wait::No && remote.prepare_sleep() {
            let timeout = match wait {
                Wait::Until(deadline) => Some(Duration::from_nanos(deadline.0.saturating_sub(self.now().0))),
                Wait::No | Wait::Forever => None,
            };
            if timeout != Some(Duration::ZERO) {
                self.sleep(timeout, slab, remote);
            }
            remote.end_sleep();
            self.try_waiting(slab);
        }
        completions.extend(self.ended.drain(..));
    }

    fn cancel(&mut self, key: OperationKey) {
        if let Some(at) = self.waiting.iter().position(|waiting| *waiting == key) {
            self.waiting.swap_remove(at);
            self.ended.push_back(Completion { key, result: -libc::ECANCELED });
        }
    }

    fn cancel_all(&mut self) {
        let cancelled = self.waiting.drain(..);
        self.ended.extend(cancelled.map(|key| Completion { key, result: -libc::ECANCELED }));
    }

    fn now(&self) -> Timestamp {
        Timestamp(self.origin.elapsed().as_nanos() as u64)
    }

    fn register_file(&mut self, _fd: RawFd) -> Option<u32> {
        None
    }

    fn unregister_file(&mut self, _index: u32) {}

    fn io_path(&self) -> IoPath {
        IoPath {
            kind: "blocking",
            registered_buffer_bytes: 0,
            registered_files: false,
            deferred_completions: false,
        }
    }
}

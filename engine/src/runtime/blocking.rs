//! The fallback for systems without io_uring: plain positioned calls, one at a time.
//!
//! Used only when the caller asks for it, and named in every status and result. It works within the runtime's
//! thread, so a request blocks all others.

use std::collections::VecDeque;
use std::os::fd::{AsFd, RawFd};
use std::time::{Duration, Instant};

use super::Timestamp;
use super::driver::{Driver, IoPath, Wait};
use super::operation::{Completion, OperationKey, OperationKind, Slab, Target};
use super::remote::Remote;
use rustix::fs::FallocateFlags;
use rustix::io::ReadWriteFlags;

pub(super) struct BlockingDriver {
    origin: Instant,
    ended: VecDeque<Completion>,
}

impl BlockingDriver {
    #[allow(clippy::disallowed_methods, reason = "this is one of the doors to the clock")]
    pub fn new() -> Self {
        Self { origin: Instant::now(), ended: VecDeque::new() }
    }
}

fn perform(key: OperationKey, slab: &mut Slab) -> i32 {
    let slot = slab.get_mut(key);
    let (offset, length, done) = (slot.next_offset(), slot.remaining(), slot.done_bytes as usize);
    let kind = slot.operation.kind;
    let file = match &slot.operation.target {
        Target::File(file) => std::rc::Rc::clone(file),
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
    };
    result.map_or_else(|errno| -errno.raw_os_error(), |moved| moved as i32)
}

impl Driver for BlockingDriver {
    fn submit(&mut self, key: OperationKey, slab: &mut Slab) {
        let result = perform(key, slab);
        self.ended.push_back(Completion { key, result });
    }

    fn turn(&mut self, wait: Wait, _slab: &mut Slab, remote: &Remote, completions: &mut Vec<Completion>) {
        if self.ended.is_empty() && wait != Wait::No && remote.prepare_sleep() {
            let timeout = match wait {
                Wait::Until(deadline) => Some(Duration::from_nanos(deadline.0.saturating_sub(self.now().0))),
                Wait::No | Wait::Forever => None,
            };
            if timeout != Some(Duration::ZERO) {
                remote.sleep(timeout);
            }
            remote.end_sleep();
        }
        completions.extend(self.ended.drain(..));
    }

    fn cancel(&mut self, _key: OperationKey) {}

    fn cancel_all(&mut self) {}

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

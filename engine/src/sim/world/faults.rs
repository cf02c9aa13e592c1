//! Faults of a play: they wait for a request that they fit, and strike it.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;

use super::super::script::ArmedFault;
use crate::device::simulated::{Fault, Request, SimulatedDisk};
use crate::error::{Error, Reason};
use crate::pool::layout::HEAD_BYTES;
use crate::runtime::{OperationKind, Random};
use crate::units::SECTOR_BYTES;

/// How long a stall lasts.
const STALL_NS: u64 = 50_000_000;

/// Requests that have failed since the disk was last opened, by how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Strikes {
    io_errors: u64,
    no_space: u64,
    short: u64,
}

impl Strikes {
    /// Whether there are any.
    pub fn any(self) -> bool {
        self != Self::default()
    }

    /// Whether they explain an error that the same opening has returned.
    pub fn excuse(self, error: &Error) -> bool {
        match error.reason() {
            Reason::Os { errno: libc::EIO } => self.io_errors > 0,
            Reason::Os { errno: libc::ENOSPC } => self.no_space > 0,
            Reason::ShortTransfer { .. } => self.short > 0,
            Reason::Poisoned => self.any(),
            _ => false,
        }
    }
}

/// Faults that wait for a request, and what they need to remember.
#[derive(Default)]
pub(super) struct Faults {
    pub armed: RefCell<VecDeque<ArmedFault>>,
    /// Faults strike only while this is set; recovery and tampering are judged without them.
    pub striking: Cell<bool>,
    pub held: RefCell<Vec<u64>>,
    /// The disk has lied about a superblock since the volume was last opened. It does so once at most: two
    /// copies cannot survive two lies.
    pub lied_about_head: Cell<bool>,
    /// What errors may be put down to. Nothing of an earlier opening is in flight when the disk is opened.
    pub strikes: Cell<Strikes>,
    /// A flush whose future is dropped may leave writes behind that nobody waits for.
    pub leaves_writes: bool,
    /// One request that fails, whatever the play is doing.
    pub once: Option<(u64, Fault)>,
}

impl Faults {
    /// Makes these the faults of a disk.
    pub fn install(self: &Rc<Self>, disk: &SimulatedDisk, device_bytes: u64) {
        let faults = Rc::clone(self);
        disk.set_plan(Box::new(move |request, random| faults.strike(request, random, device_bytes)));
    }

    fn strike(&self, request: Request, random: &mut Random, device_bytes: u64) -> Option<Fault> {
        if let Some((number, fault)) = self.once
            && number == request.number
        {
            self.count(fault, &request);
            return Some(fault);
        }
        if !self.striking.get() {
            return None;
        }
        let at = self.armed.borrow().iter().position(|armed| fits(*armed, &request))?;
        let armed = self.armed.borrow()[at];
        let fault = match armed {
            ArmedFault::FailRead | ArmedFault::FailFlush | ArmedFault::FailWrite { no_space: false } => {
                Fault::Fail(libc::EIO)
            }
            ArmedFault::FailWrite { no_space: true } => Fault::Fail(libc::ENOSPC),
            ArmedFault::Short { ragged } => {
                let sectors = request.length / SECTOR_BYTES;
                let whole = (1 + random.below(sectors - 1)) * SECTOR_BYTES;
                Fault::Short((whole - if ragged { 100 } else { 0 }) as u32)
            }
            ArmedFault::Stall => Fault::Stall(STALL_NS),
            ArmedFault::Hold => Fault::Hold,
            ArmedFault::Drop => Fault::Drop,
            ArmedFault::Corrupt { .. } => Fault::Corrupt(random.next_u64()),
            ArmedFault::Misdirect => {
                let places = (device_bytes - request.length) / request.length.max(SECTOR_BYTES);
                Fault::Misdirect(random.below(places) * request.length)
            }
        };
        let touches_head = request.offset < HEAD_BYTES
            || matches!(fault, Fault::Misdirect(elsewhere) if elsewhere < HEAD_BYTES);
        if is_lie(fault) && touches_head && self.lied_about_head.replace(true) {
            return None;
        }
        self.armed.borrow_mut().remove(at);
        if fault == Fault::Hold {
            self.held.borrow_mut().push(request.ticket);
        }
        self.count(fault, &request);
        Some(fault)
    }

    /// Counts a fault that makes its request fail.
    fn count(&self, fault: Fault, request: &Request) {
        let mut strikes = self.strikes.get();
        match fault {
            Fault::Fail(libc::ENOSPC) => strikes.no_space += 1,
            Fault::Fail(_) => strikes.io_errors += 1,
            Fault::Short(bytes) => {
                let bytes = u64::from(bytes);
                let is_short = moves_bytes(request) && bytes < request.length;
                // From a whole sector on it is continued, if somebody waits for it.
                let is_continued = bytes > 0 && bytes.is_multiple_of(SECTOR_BYTES) && !self.leaves_writes;
                strikes.short += u64::from(is_short && !is_continued);
            }
            _ => {}
        }
        self.strikes.set(strikes);
    }
}

fn moves_bytes(request: &Request) -> bool {
    matches!(request.kind, OperationKind::Read | OperationKind::Write { .. })
}

fn fits(armed: ArmedFault, request: &Request) -> bool {
    let write = matches!(request.kind, OperationKind::Write { .. });
    let read = request.kind == OperationKind::Read;
    match armed {
        ArmedFault::FailRead => read,
        ArmedFault::FailWrite { .. } => write,
        ArmedFault::FailFlush => request.kind == OperationKind::Flush,
        ArmedFault::Short { .. } => moves_bytes(request) && request.length > SECTOR_BYTES,
        ArmedFault::Stall | ArmedFault::Hold => true,
        ArmedFault::Drop | ArmedFault::Misdirect => write,
        ArmedFault::Corrupt { read: on_read } => {
            if on_read {
                read
            } else {
                write
            }
        }
    }
}

/// Whether the disk says that all is well, and it is not.
pub(super) fn is_lie(fault: Fault) -> bool {
    matches!(fault, Fault::Drop | Fault::Corrupt(_) | Fault::Misdirect(_))
}

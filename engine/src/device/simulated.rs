//! A simulated disk: it records, injects faults, and loses power.
//!
//! What was written is visible at once, durable after a flush. At a power cut every write that was not durable,
//! completed or in flight, survives whole, not at all, or torn at any 512-byte sector, in any combination; a
//! write in flight may land on top of the completed ones. Faults are chosen by a plan when an operation
//! arrives, and each one that took effect is noted, so that an oracle knows what the disk lied about.
//!
//! Invariants: a sector's visible bytes are its newest version, else its durable bytes; the durable image
//! changes only by a successful flush, a durable write or a power cut.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use super::{Device, Geometry};
use crate::error::{Error, Reason, Result};
use crate::runtime::sim::{Arrival, Calendar, SimulatedTarget};
use crate::runtime::{Context, OperationKind, Random, Target, Timestamp};
use crate::units::SECTOR_BYTES;

type Sector = [u8; SECTOR_BYTES as usize];

/// Something a disk does wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fault {
    /// The operation fails with this error number; a write may have happened in part.
    Fail(i32),
    /// A read or write moves only this many bytes, and says so.
    Short(u32),
    /// The operation takes this much longer, in nanoseconds.
    Stall(u64),
    /// The operation does not end until it is released.
    Hold,
    /// A write is acknowledged and does nothing.
    Drop,
    /// One byte of what is read or written is changed; which one follows from this number.
    Corrupt(u64),
    /// A write goes to this offset instead.
    Misdirect(u64),
}

impl Fault {
    /// The fault's name in coverage tables.
    pub fn name(self) -> &'static str {
        match self {
            Fault::Fail(libc::ENOSPC) => "fault: fail: no space",
            Fault::Fail(_) => "fault: fail: I/O error",
            Fault::Short(_) => "fault: short transfer",
            Fault::Stall(_) => "fault: stall",
            Fault::Hold => "fault: hold",
            Fault::Drop => "fault: drop",
            Fault::Corrupt(_) => "fault: corrupt",
            Fault::Misdirect(_) => "fault: misdirect",
        }
    }
}

/// What a fault plan sees of an operation.
#[derive(Clone, Copy, Debug)]
pub struct Request {
    /// Counts the disk's operations from 0.
    pub number: u64,
    /// Names the operation until it ends.
    pub ticket: u64,
    /// What is to be done.
    pub kind: OperationKind,
    /// First byte.
    pub offset: u64,
    /// Bytes.
    pub length: u64,
}

/// Chooses the fault of an operation, if any.
pub type FaultPlan = Box<dyn FnMut(Request, &mut Random) -> Option<Fault>>;

/// One thing that happened on the disk, for tests that judge order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recorded {
    /// When.
    pub at: Timestamp,
    /// The operation's arrival, or its end with the result given.
    pub event: Event,
    /// Names the operation.
    pub ticket: u64,
    /// What was asked.
    pub kind: OperationKind,
    /// First byte.
    pub offset: u64,
    /// Bytes.
    pub length: u64,
}

/// Arrival or end of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The disk has it.
    Arrived,
    /// It ended with bytes moved or `-errno`.
    Ended(i32),
}

/// A fault that took effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Injected {
    /// What went wrong.
    pub fault: Fault,
    /// What was asked.
    pub kind: OperationKind,
    /// First byte asked for.
    pub offset: u64,
    /// Bytes asked for.
    pub length: u64,
}

/// A write that a power cut may lose, whole or in part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unflushed {
    /// Its sectors, by number.
    pub sectors: Vec<u64>,
    /// It has not ended; it lands on top of those that have.
    pub in_flight: bool,
}

/// How a power cut treats one write that was not durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Survival {
    Lost,
    Whole,
    Torn,
}

#[derive(Clone, Debug)]
struct Version {
    /// Names the write; all sectors of one write share it.
    write: u64,
    /// A flush failed after it: it will never become durable, though it is visible.
    doomed: bool,
    bytes: Rc<Sector>,
}

struct Pending {
    kind: OperationKind,
    offset: u64,
    length: u64,
    /// What a write carries, as the disk took it.
    bytes: Vec<u8>,
    fault: Option<Fault>,
    /// For a flush: the last write that had completed when it arrived.
    covers: u64,
}

struct State {
    random: Random,
    durable: BTreeMap<u64, Rc<Sector>>,
    versions: BTreeMap<u64, Vec<Version>>,
    pending: BTreeMap<u64, Pending>,
    plan: FaultPlan,
    requests: u64,
    writes: u64,
    record: Option<Vec<Recorded>>,
    injected: Vec<Injected>,
    torn_writes: u64,
    openings: u64,
    /// The opening that has the disk now.
    open_since: Option<u64>,
}

struct Disk {
    name: String,
    geometry: Cell<Geometry>,
    calendar: Calendar,
    state: RefCell<State>,
}

impl std::fmt::Debug for Disk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SimulatedDisk").field("name", &self.name).finish_non_exhaustive()
    }
}

/// One opening of a disk. Operations hold it until they end, as they hold a real file.
#[derive(Debug)]
struct Opening {
    disk: Rc<Disk>,
    number: u64,
}

impl Drop for Opening {
    fn drop(&mut self) {
        let mut state = self.disk.state.borrow_mut();
        if state.open_since == Some(self.number) {
            state.open_since = None;
        }
    }
}

impl SimulatedTarget for Opening {
    fn begin(&self, arrival: Arrival<'_>) -> Option<u64> {
        if self.disk.state.borrow().open_since != Some(self.number) {
            return Some(0);
        }
        self.disk.begin(arrival)
    }

    fn finish(&self, ticket: u64, now: Timestamp, bytes: &mut [u8]) -> i32 {
        // What began before a power cut has been killed with it; only what came too late ends here.
        if self.disk.state.borrow().open_since != Some(self.number) {
            return -libc::ENODEV;
        }
        self.disk.finish(ticket, now, bytes)
    }
}

/// A disk of the simulation. It outlives the openings of it; cheap to clone.
#[derive(Clone, Debug)]
pub struct SimulatedDisk(Rc<Disk>);

impl SimulatedDisk {
    /// A disk of zeroes. What it draws at random follows from `seed`.
    pub fn new(
        calendar: &Calendar,
        seed: u64,
        name: &str,
        size_bytes: u64,
        logical_block_bytes: u32,
    ) -> Self {
        let geometry = Geometry {
            size_bytes,
            logical_block_bytes,
            physical_block_bytes: 4096,
            optimal_io_bytes: 0,
            rotational: false,
            discard: true,
            write_cache: true,
        };
        Self::holding(BTreeMap::new(), calendar, seed, name, geometry)
    }

    fn holding(
        durable: BTreeMap<u64, Rc<Sector>>,
        calendar: &Calendar,
        seed: u64,
        name: &str,
        geometry: Geometry,
    ) -> Self {
        let calendar = calendar.clone();
        let state = State {
            random: Random::from_seed(seed),
            durable,
            versions: BTreeMap::new(),
            pending: BTreeMap::new(),
            plan: Box::new(|_, _| None),
            requests: 0,
            writes: 0,
            record: None,
            injected: Vec::new(),
            torn_writes: 0,
            openings: 0,
            open_since: None,
        };
        let geometry = Cell::new(geometry);
        Self(Rc::new(Disk { name: name.to_string(), geometry, calendar, state: RefCell::new(state) }))
    }

    /// Opens it exclusively. It is free again when the device and the last operation in flight are gone, or
    /// after a power cut; a device opened before the cut is gone then.
    ///
    /// # Errors
    /// `AlreadyOpen`.
    pub fn open(&self, context: &Context) -> Result<Device> {
        let mut state = self.0.state.borrow_mut();
        if state.open_since.is_some() {
            return Err(Error::new("open", Reason::AlreadyOpen).on(self.0.name.clone()));
        }
        state.openings += 1;
        state.open_since = Some(state.openings);
        let opening = Opening { disk: Rc::clone(&self.0), number: state.openings };
        let target = Target::Simulated(Rc::new(opening));
        Ok(Device::simulated(context, self.0.name.clone(), self.0.geometry.get(), target))
    }

    /// Gives the disk another size, for whoever opens it next. What a larger one has more reads as zero.
    pub fn resize(&self, size_bytes: u64) {
        self.0.geometry.set(Geometry { size_bytes, ..self.0.geometry.get() });
    }

    /// Replaces the fault plan.
    pub fn set_plan(&self, plan: FaultPlan) {
        self.0.state.borrow_mut().plan = plan;
    }

    /// Starts a recording, dropping any earlier one.
    pub fn start_recording(&self) {
        self.0.state.borrow_mut().record = Some(Vec::new());
    }

    /// What was recorded since the start of the recording.
    pub fn recorded(&self) -> Vec<Recorded> {
        self.0.state.borrow().record.clone().unwrap_or_default()
    }

    /// The faults that took effect since the last call.
    pub fn take_injected(&self) -> Vec<Injected> {
        std::mem::take(&mut self.0.state.borrow_mut().injected)
    }

    /// Operations that have arrived so far.
    pub fn requests(&self) -> u64 {
        self.0.state.borrow().requests
    }

    /// Writes that power cuts have torn so far.
    pub fn torn_writes(&self) -> u64 {
        self.0.state.borrow().torn_writes
    }

    /// Operations in flight.
    pub fn tickets(&self) -> Vec<u64> {
        self.0.state.borrow().pending.keys().copied().collect()
    }

    /// Lets a held operation end.
    pub fn release_held(&self, ticket: u64) {
        self.0.calendar.release(ticket);
    }

    /// Reads what the disk holds, without being an operation.
    pub fn peek(&self, offset: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.0.state.borrow().read(offset, &mut bytes);
        bytes
    }

    /// Changes what the disk holds, durably, behind everybody's back.
    pub fn poke(&self, offset: u64, bytes: &[u8]) {
        let mut whole = self.peek(offset - offset % SECTOR_BYTES, {
            let head = (offset % SECTOR_BYTES) as usize;
            (head + bytes.len()).next_multiple_of(SECTOR_BYTES as usize)
        });
        let head = (offset % SECTOR_BYTES) as usize;
        whole[head..head + bytes.len()].copy_from_slice(bytes);
        self.0.state.borrow_mut().write_durably((offset / SECTOR_BYTES) * SECTOR_BYTES, &whole);
    }

    /// Power is cut: operations in flight never end, and what was not durable survives by chance.
    pub fn cut_power(&self) {
        let mut state = self.0.state.borrow_mut();
        state.cut_power();
        let tickets: Vec<u64> = std::mem::take(&mut state.pending).into_keys().collect();
        state.open_since = None;
        drop(state);
        self.0.calendar.kill(tickets);
    }

    /// The writes that a power cut now may lose, in the order in which the disk took them; last those in flight.
    pub fn unflushed(&self) -> Vec<Unflushed> {
        let state = self.0.state.borrow();
        let mut ended: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
        for (sector, versions) in &state.versions {
            for version in versions {
                ended.entry(version.write).or_default().push(*sector);
            }
        }
        let ended = ended.into_values().map(|sectors| Unflushed { sectors, in_flight: false });
        let in_flight = state.landing().into_iter().map(|(offset, bytes)| {
            let sectors = sectors(offset, bytes.len() as u64).collect();
            Unflushed { sectors, in_flight: true }
        });
        ended.chain(in_flight).collect()
    }

    /// The disk as it would be found if power were cut now and of each of [`SimulatedDisk::unflushed`], by index,
    /// those sectors survived that `keeps` names. It is a disk of its own, of that calendar; this one goes on.
    pub fn after_cut(&self, calendar: &Calendar, mut keeps: impl FnMut(usize, u64) -> bool) -> Self {
        let state = self.0.state.borrow();
        let all: BTreeSet<u64> = state.versions.values().flatten().map(|version| version.write).collect();
        let index: BTreeMap<u64, usize> = all.into_iter().zip(0..).collect();
        let mut durable = state.durable.clone();
        for (sector, versions) in &state.versions {
            for version in versions {
                if keeps(index[&version.write], *sector) && !version.doomed {
                    durable.insert(*sector, version.bytes.clone());
                }
            }
        }
        for (at, (offset, bytes)) in (index.len()..).zip(state.landing()) {
            let pieces = bytes.chunks(SECTOR_BYTES as usize);
            for (sector, piece) in sectors(offset, bytes.len() as u64).zip(pieces) {
                if keeps(at, sector) {
                    durable.insert(sector, to_sector(piece));
                }
            }
        }
        Self::holding(durable, calendar, 0, &self.0.name, self.0.geometry.get())
    }

    /// A hash of the whole durable and visible contents.
    pub fn hash(&self) -> u64 {
        let state = self.0.state.borrow();
        let mut sectors: BTreeMap<u64, &Sector> =
            state.durable.iter().map(|(at, bytes)| (*at, &**bytes)).collect();
        for (at, versions) in &state.versions {
            if let Some(newest) = versions.last() {
                sectors.insert(*at, &newest.bytes);
            }
        }
        let zero = [0; SECTOR_BYTES as usize];
        let mut digest = crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc64Nvme);
        for (at, bytes) in sectors.into_iter().filter(|(_, bytes)| **bytes != zero) {
            digest.update(&at.to_le_bytes());
            digest.update(bytes);
        }
        digest.finalize()
    }
}

fn sectors(offset: u64, length: u64) -> std::ops::Range<u64> {
    offset / SECTOR_BYTES..(offset + length) / SECTOR_BYTES
}

fn to_sector(bytes: &[u8]) -> Rc<Sector> {
    let mut sector = [0; SECTOR_BYTES as usize];
    sector.copy_from_slice(bytes);
    Rc::new(sector)
}

impl State {
    fn read(&self, offset: u64, bytes: &mut [u8]) {
        for (sector, out) in (offset / SECTOR_BYTES..).zip(bytes.chunks_mut(SECTOR_BYTES as usize)) {
            let newest = self.versions.get(&sector).and_then(|versions| versions.last());
            match newest.map(|version| &version.bytes).or_else(|| self.durable.get(&sector)) {
                Some(found) => out.copy_from_slice(&found[..out.len()]),
                None => out.fill(0),
            }
        }
    }

    fn write(&mut self, offset: u64, bytes: &[u8]) {
        self.writes += 1;
        let write = self.writes;
        for (sector, piece) in (offset / SECTOR_BYTES..).zip(bytes.chunks(SECTOR_BYTES as usize)) {
            let version = Version { write, doomed: false, bytes: to_sector(piece) };
            self.versions.entry(sector).or_default().push(version);
        }
    }

    fn write_durably(&mut self, offset: u64, bytes: &[u8]) {
        for (sector, piece) in (offset / SECTOR_BYTES..).zip(bytes.chunks(SECTOR_BYTES as usize)) {
            self.versions.remove(&sector);
            self.durable.insert(sector, to_sector(piece));
        }
    }

    /// A flush that covers all writes up to `covers` has succeeded.
    fn make_durable(&mut self, covers: u64) {
        let durable = &mut self.durable;
        self.versions.retain(|sector, versions| {
            let covered = versions.iter().take_while(|version| version.write <= covers).count();
            let newest_kept = versions[..covered].iter().rposition(|version| !version.doomed);
            if let Some(newest) = newest_kept {
                durable.insert(*sector, versions[newest].bytes.clone());
                versions.drain(..=newest);
            }
            !versions.is_empty()
        });
    }

    /// A flush has failed: some of what it covered will never become durable.
    fn doom(&mut self, covers: u64) {
        for version in self.versions.values_mut().flatten() {
            if version.write <= covers && self.random.chance(1, 2) {
                version.doomed = true;
            }
        }
    }

    fn survival(&mut self) -> Survival {
        match self.random.below(4) {
            0 => Survival::Torn,
            1 => Survival::Lost,
            _ => Survival::Whole,
        }
    }

    /// What is in flight and may yet land: offset and bytes.
    fn landing(&self) -> Vec<(u64, Vec<u8>)> {
        self.pending
            .values()
            .filter(|pending| !matches!(pending.fault, Some(Fault::Drop | Fault::Misdirect(_))))
            .filter_map(|pending| match pending.kind {
                OperationKind::Read | OperationKind::Flush => None,
                OperationKind::Write { .. } => Some((pending.offset, pending.bytes.clone())),
                _ => Some((pending.offset, vec![0; pending.length as usize])),
            })
            .collect()
    }

    fn cut_power(&mut self) {
        // In flight: each may have landed after everything that had completed.
        let pending = self.landing();
        for (offset, bytes) in pending {
            self.write(offset, &bytes);
        }
        let all: BTreeSet<u64> = self.versions.values().flatten().map(|version| version.write).collect();
        let fates: BTreeMap<u64, Survival> = all.into_iter().map(|write| (write, self.survival())).collect();
        self.torn_writes += fates.values().filter(|fate| **fate == Survival::Torn).count() as u64;
        for (sector, versions) in std::mem::take(&mut self.versions) {
            for version in versions {
                let survives = match fates.get(&version.write) {
                    Some(Survival::Whole) => true,
                    Some(Survival::Torn) => self.random.chance(1, 2),
                    Some(Survival::Lost) | None => false,
                };
                if survives && !version.doomed {
                    self.durable.insert(sector, version.bytes);
                }
            }
        }
    }

    fn finish(&mut self, pending: &Pending, bytes: &mut [u8]) -> i32 {
        if let Some(fault) = pending.fault {
            let Pending { kind, offset, length, .. } = *pending;
            self.injected.push(Injected { fault, kind, offset, length });
        }
        match pending.fault {
            Some(Fault::Fail(errno)) => {
                self.fail(pending);
                return -errno;
            }
            Some(Fault::Drop) => return pending.length as i32,
            _ => {}
        }
        let mut length = pending.length as usize;
        if let Some(Fault::Short(short)) = pending.fault {
            length = length.min(short as usize);
        }
        match pending.kind {
            OperationKind::Read => {
                self.read(pending.offset, &mut bytes[..length]);
                if let Some(Fault::Corrupt(which)) = pending.fault {
                    bytes[which as usize % length] ^= 0x40;
                }
            }
            OperationKind::Write { durable } => {
                // A disk writes whole sectors, whatever it says it has moved.
                let mut taken = pending.bytes[..length - length % SECTOR_BYTES as usize].to_vec();
                if let Some(Fault::Corrupt(which)) = pending.fault {
                    let at = which as usize % length;
                    taken[at] ^= 0x40;
                }
                let offset = match pending.fault {
                    Some(Fault::Misdirect(elsewhere)) => elsewhere,
                    _ => pending.offset,
                };
                if durable {
                    self.write_durably(offset, &taken);
                } else {
                    self.write(offset, &taken);
                }
            }
            OperationKind::Flush => {
                self.make_durable(pending.covers);
                return 0;
            }
            OperationKind::Discard | OperationKind::WriteZeroes => {
                self.write(pending.offset, &vec![0; pending.length as usize]);
                return 0;
            }
            OperationKind::Receive | OperationKind::Send => unreachable!("a disk is no socket"),
        }
        length as i32
    }

    fn fail(&mut self, pending: &Pending) {
        match pending.kind {
            OperationKind::Read | OperationKind::Receive | OperationKind::Send => {}
            OperationKind::Flush => self.doom(pending.covers),
            OperationKind::Write { .. } | OperationKind::Discard | OperationKind::WriteZeroes => {
                let zeroes = vec![0; SECTOR_BYTES as usize];
                self.writes += 1;
                let write = self.writes;
                for (index, sector) in sectors(pending.offset, pending.length).enumerate() {
                    if self.random.chance(1, 3) {
                        let at = index * SECTOR_BYTES as usize;
                        let piece = pending.bytes.get(at..at + SECTOR_BYTES as usize).unwrap_or(&zeroes);
                        let version = Version { write, doomed: false, bytes: to_sector(piece) };
                        self.versions.entry(sector).or_default().push(version);
                    }
                }
            }
        }
    }
}

impl Disk {
    fn begin(&self, arrival: Arrival<'_>) -> Option<u64> {
        let state = &mut *self.state.borrow_mut();
        let Arrival { ticket, kind, offset, length, now, .. } = arrival;
        if let Some(record) = &mut state.record {
            record.push(Recorded { at: now, event: Event::Arrived, ticket, kind, offset, length });
        }
        let request = Request { number: state.requests, ticket, kind, offset, length };
        state.requests += 1;
        let fault = (state.plan)(request, &mut state.random);
        let covers = state.writes;
        let bytes = if matches!(kind, OperationKind::Write { .. }) { arrival.bytes.to_vec() } else { vec![] };
        state.pending.insert(ticket, Pending { kind, offset, length, bytes, fault, covers });
        let takes_ns = match kind {
            OperationKind::Flush => 200_000 + state.random.below(2_000_000),
            _ => 20_000 + state.random.below(200_000) + length / 4,
        };
        match fault {
            Some(Fault::Hold) => None,
            Some(Fault::Stall(longer_ns)) => Some(takes_ns + longer_ns),
            _ => Some(takes_ns),
        }
    }

    fn finish(&self, ticket: u64, now: Timestamp, bytes: &mut [u8]) -> i32 {
        let mut state = self.state.borrow_mut();
        let Some(pending) = state.pending.remove(&ticket) else {
            unreachable!("the calendar ends only what has arrived")
        };
        let result = state.finish(&pending, bytes);
        let Pending { kind, offset, length, .. } = pending;
        if let Some(record) = &mut state.record {
            record.push(Recorded { at: now, event: Event::Ended(result), ticket, kind, offset, length });
        }
        result
    }
}

#[cfg(test)]
mod tests;

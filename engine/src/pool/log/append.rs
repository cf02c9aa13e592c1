//! Appending to the log: group commit by backlog.
//!
//! Writers queue entries; a few *lanes*, tasks of the runtime, take what has queued up and write it as one batch.
//! A lane lets those that its last batch has answered queue again before it looks. While a batch with durable
//! entries is under way no other begins, so that the next one collects everybody who came meanwhile; otherwise each
//! lane takes its share, so that the next batch is made up while the device has one. No timer is involved.
//!
//! Entries complete in the order of their sequences: a batch whose write has ended is *retired* once all before
//! it are. A batch with durable entries is alone under way, and its write has ended when it is durable (`persist`).
//!
//! An entry may tell of data that lies elsewhere already, on the log's device or on another one. The batch that tells of it
//! is written after a flush of that device that began when the data was there: one for all entries of the batch that have
//! none yet.
//!
//! Invariants: the payload of an entry is copied into its batch before the batch is sealed; a batch that fails
//! poisons the volume, since what follows it could not be found; the log never enters a segment that it holds no
//! lease of.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;

use super::flushes::Flushes;
use super::persist::{Persist, Way};
use super::{Geometry, Tail};
use crate::buf::Buf;
use crate::device::{Cause, Device, Io};
use crate::error::{Error, Reason, Result};
use crate::format::batch::{BatchEntry, BatchHeader, ENTRIES_MAX, has_payload, header_bytes};
use crate::format::crc32c;
use crate::format::journal::Checkpoint;
use crate::pool::contents::Contents;
use crate::pool::index::Pinned;
use crate::runtime::{FailureFlag, RangeGuard, Signal, Waiter};
use crate::units::{ByteOffset, branch_of, lba_of};

/// Batches under way at most.
const LANES: usize = 2;
/// Entries of a batch that are not left to another lane.
const SHARE_MIN: usize = 8;

/// An entry on its way into the log.
#[derive(Debug)]
pub struct Entry {
    /// One of the kinds of a batch entry.
    pub kind: u32,
    /// The number in the index of its first block.
    pub address: u64,
    /// Blocks.
    pub blocks: u32,
    /// What the kind says; else 0.
    pub tag: u64,
    /// The content, for data; it comes back.
    pub payload: Option<Buf>,
    /// Whether it completes only when it is durable.
    pub durable: bool,
    /// Held until the entry has ended, also when nobody waits for it any more.
    pub guard: Option<RangeGuard>,
    /// Pages of the index that it will change.
    pub pinned: Pinned,
    /// The flush that has to end before it may be found on the device ([`Log::next_flush_of_data`]); 0 for none.
    pub after_flush: u64,
}

#[derive(Debug)]
enum Ticket {
    Free,
    Waiting(Waiter),
    /// Nobody waits.
    Orphan,
    Done(Result<u64>, Option<Buf>),
}

#[derive(Debug)]
struct Queued {
    entry: Entry,
    ticket: u32,
}

/// A batch under way.
#[derive(Debug, Default)]
struct Flight {
    batch: u64,
    first_sequence: u64,
    time_unix_ns: u64,
    virtual_segment: u32,
    /// Slot of the first payload block.
    first_slot: u32,
    entries: Vec<Queued>,
    records: Vec<BatchEntry>,
    checksums: Vec<u32>,
    end: Tip,
    /// Durable once it is done, with everything before it.
    durable: bool,
    done: Option<std::result::Result<(), Reason>>,
}

/// How far the log has come.
#[derive(Clone, Copy, Debug, Default)]
struct Tip {
    physical: u32,
    virtual_segment: u32,
    block: u32,
    batch: u64,
    sequence: u64,
    time_unix_ns: u64,
    previous: u32,
}

/// What a lane has to write.
struct Prepared {
    batch: u64,
    at: u64,
    buf: Buf,
    /// How it is made durable, if so.
    way: Option<Way>,
    after_flush: u64,
}

#[derive(Debug, Default)]
struct Appending {
    queue: VecDeque<Queued>,
    queued_durable: usize,
    flights: VecDeque<Flight>,
    spare: Vec<Flight>,
    tickets: Vec<Ticket>,
    free_tickets: Vec<u32>,
    /// Where the next batch goes.
    tip: Tip,
    /// After the last batch that was retired.
    retired: Tip,
    durable_in_flight: bool,
}

/// Figures of a log since it was opened.
#[derive(Clone, Copy, Debug, Default)]
pub struct LogFigures {
    /// Batches written.
    pub batches: u64,
    /// Entries in them.
    pub entries: u64,
    /// Their bytes, headers included.
    pub bytes: u64,
    /// Batches under way when each of them began, itself included, added up.
    pub in_flight: u64,
}

/// What distinguishes this opening's log.
#[derive(Clone, Copy, Debug)]
pub struct LogOptions {
    /// In each of its batches.
    pub nonce: [u8; 16],
    /// The volume's epoch.
    pub epoch: u64,
    /// Bytes of log behind the last durable checkpoint at which appending waits for the next one.
    pub backlog_bytes_max: u64,
    /// Versions in memory at which it waits, too.
    pub index_entries_max: usize,
}

/// The log of an open pool.
#[derive(Debug)]
pub struct Log {
    device: Device,
    geometry: Geometry,
    contents: Rc<Contents>,
    nonce: [u8; 16],
    epoch: u64,
    state: RefCell<Appending>,
    /// Everything up to this sequence is durable.
    durable_through: Cell<u64>,
    persist: RefCell<Persist>,
    flushes: Flushes,
    /// Those of the device with the data that entries only tell of, where that is another one.
    flushes_of_data: Option<Flushes>,
    failed: FailureFlag,
    /// Bytes of log behind the last durable checkpoint at which appending waits for the next one.
    backlog_bytes_max: u64,
    /// Versions in memory at which it waits, too.
    index_entries_max: usize,
    backlog_bytes: Cell<u64>,
    /// Of these, what the checkpoint under way covers.
    covered_bytes: Cell<u64>,
    figures: Cell<LogFigures>,
    /// Why no room is going to be made, if so.
    full: Cell<Option<&'static str>>,
    /// Something has queued up, or room has been made.
    work: Signal,
    /// A batch has been retired, or appending needs a lease or a checkpoint.
    pub progress: Signal,
}

impl Log {
    /// A log that goes on at `tail`. `data`: the device with what its entries only
    /// tell of, where that is another one.
    pub fn new(
        device: &Device,
        data: Option<&Device>,
        geometry: Geometry,
        contents: &Rc<Contents>,
        options: LogOptions,
        tail: Tail,
        failed: FailureFlag,
    ) -> Rc<Self> {
        let tip = Tip {
            physical: tail.lease.physical.get(),
            virtual_segment: tail.lease.virtual_segment.get(),
            block: tail.block,
            batch: tail.batch,
            sequence: tail.sequence,
            time_unix_ns: tail.time_unix_ns,
            previous: tail.previous,
        };
        Rc::new(Self {
            device: device.clone(),
            geometry,
            contents: Rc::clone(contents),
            nonce: options.nonce,
            epoch: options.epoch,
            state: RefCell::new(Appending { tip, retired: tip, ..Appending::default() }),
            durable_through: Cell::new(tail.sequence),
            persist: RefCell::default(),
            flushes: Flushes::new(device, failed.clone()),
            flushes_of_data: data.map(|data| Flushes::new(data, failed.clone())),
            failed,
            backlog_bytes_max: options.backlog_bytes_max,
            index_entries_max: options.index_entries_max,
            backlog_bytes: Cell::new(0),
            covered_bytes: Cell::new(0),
            figures: Cell::default(),
            full: Cell::new(None),
            work: Signal::new(device.context()),
            progress: Signal::new(device.context()),
        })
    }

    /// Starts the tasks that write. They end when they are aborted.
    pub fn start(self: &Rc<Self>) -> Vec<crate::runtime::Task<()>> {
        let lane = |_| {
            let log = Rc::clone(self);
            self.device.context().spawn(async move { log.lane().await })
        };
        (0..LANES).map(lane).collect()
    }

    /// The sequence of the last entry that has completed, durable or not.
    pub fn sequence(&self) -> u64 {
        self.state.borrow().retired.sequence
    }

    /// Everything up to this sequence is durable.
    pub fn durable_through(&self) -> u64 {
        self.durable_through.get()
    }

    /// What has been written since it was opened.
    pub fn figures(&self) -> LogFigures {
        self.figures.get()
    }

    /// Bytes of log behind the last durable checkpoint: what opening would have to read.
    pub fn backlog_bytes(&self) -> u64 {
        self.backlog_bytes.get()
    }

    /// Counts what recovery found after the last checkpoint.
    pub fn add_backlog(&self, bytes: u64) {
        self.backlog_bytes.set(self.backlog_bytes.get() + bytes);
    }

    /// Leases that the log has not entered yet.
    pub fn leases_ahead(&self) -> usize {
        let tip = self.state.borrow().tip;
        let state = self.contents.journal().state();
        let at = state.leases.iter().position(|lease| lease.virtual_segment == tip.virtual_segment);
        state.leases.len() - at.map_or(0, |at| at + 1)
    }

    /// Appends an entry. Its sequence once it has completed, and its payload.
    ///
    /// # Errors
    /// `Poisoned` where the log has failed, `LogFull`, and what the device says.
    pub async fn append(&self, entry: Entry) -> (Result<u64>, Option<Buf>) {
        let ticket = match self.queue(entry) {
            Ok(ticket) => TicketGuard { log: self, ticket },
            Err((error, payload)) => return (Err(error), payload),
        };
        poll_fn(|context| {
            let state = &mut *self.state.borrow_mut();
            match &mut state.tickets[ticket.ticket as usize] {
                Ticket::Waiting(waiter) => {
                    *waiter = self.device.context().waiter(context);
                    Poll::Pending
                }
                ticket => match std::mem::replace(ticket, Ticket::Done(Ok(0), None)) {
                    Ticket::Done(result, payload) => Poll::Ready((result, payload)),
                    _ => unreachable!("a ticket that somebody waits with is waiting or done"),
                },
            }
        })
        .await
    }

    fn poisoned(&self) -> Error {
        Error::new("write", Reason::Poisoned).on(self.device.name())
    }

    fn queue(&self, entry: Entry) -> std::result::Result<u32, (Error, Option<Buf>)> {
        let refused = match self.failed.is_raised() {
            true => Some(self.poisoned()),
            false => self.full.get().map(|why| self.refusal(why)),
        };
        if let Some(refused) = refused {
            return Err((refused, entry.payload));
        }
        let state = &mut *self.state.borrow_mut();
        let ticket = match state.free_tickets.pop() {
            Some(ticket) => ticket,
            None => {
                state.tickets.push(Ticket::Free);
                state.tickets.len() as u32 - 1
            }
        };
        state.tickets[ticket as usize] = Ticket::Waiting(Waiter::Nobody);
        state.queued_durable += usize::from(entry.durable);
        state.queue.push_back(Queued { entry, ticket });
        if state.can_begin() {
            self.work.give();
        }
        Ok(ticket)
    }

    /// Makes everything that has completed durable.
    ///
    /// # Errors
    /// What the device says; the volume is poisoned then.
    pub async fn flush(&self) -> Result<()> {
        // What was queued before this call may have been called complete by nobody yet.
        let sequence = self.sequence();
        self.make_durable(sequence).await
    }

    async fn make_durable(&self, sequence: u64) -> Result<()> {
        if self.durable_through.get() >= sequence {
            return self.check();
        }
        // Whoever comes while a flush is under way waits here, and the next flush serves them all.
        let _turn = self.flushes.turn().await;
        if self.durable_through.get() >= sequence {
            return self.check();
        }
        let through = self.sequence();
        if let Err(error) = self.flushes.flush().await {
            self.work.give();
            self.progress.give();
            return Err(error);
        }
        self.durable_through.set(self.durable_through.get().max(through));
        self.check()
    }

    fn of_data(&self) -> &Flushes {
        self.flushes_of_data.as_ref().unwrap_or(&self.flushes)
    }

    /// The number of the next flush of data that entries only tell of: after it, all of it that has completed by now
    /// survives.
    pub fn next_flush_of_data(&self) -> u64 {
        self.of_data().next()
    }

    /// Waits until a flush of such data of this number, or a later one, has ended; begins one where none is under way.
    ///
    /// # Errors
    /// As [`Log::flush`].
    pub async fn flush_data_through(&self, number: u64) -> Result<()> {
        self.of_data().through(number).await?;
        // Another flush that failed meanwhile may have taken with it what this one was to save.
        self.check()
    }

    fn check(&self) -> Result<()> {
        if self.failed.is_raised() { Err(self.poisoned()) } else { Ok(()) }
    }

    /// The place behind everything that has been retired: what a checkpoint covers if it begins now. `released`:
    /// how many leases lie wholly before it.
    pub fn checkpoint(&self) -> Checkpoint {
        let tip = self.state.borrow().retired;
        let state = self.contents.journal().state();
        let entered = state.leases.iter().position(|lease| lease.virtual_segment == tip.virtual_segment);
        self.covered_bytes.set(self.backlog_bytes.get());
        Checkpoint {
            address: self.geometry.address(tip.physical, tip.block).into(),
            batch: tip.batch.into(),
            sequence: tip.sequence.into(),
            time_unix_ns: tip.time_unix_ns.into(),
            previous: tip.previous.into(),
            released: (entered.unwrap_or(0) as u32).into(),
        }
    }

    /// The checkpoint that began last is durable.
    pub fn checkpoint_ended(&self) {
        self.backlog_bytes.set(self.backlog_bytes.get() - self.covered_bytes.take());
    }

    /// The latest time that the log has noted, which never goes back.
    pub fn time_unix_ns(&self) -> u64 {
        self.state.borrow().tip.time_unix_ns
    }

    /// Tells the lanes that a lease or room has been made.
    pub fn go_on(&self) {
        self.work.give();
    }

    async fn lane(&self) {
        loop {
            let prepared = self.prepare();
            match prepared {
                Some(prepared) => {
                    let batch = prepared.batch;
                    let written = self.write(prepared).await;
                    self.ended(batch, written);
                    self.device.context().yield_now().await;
                }
                None => {
                    // Whoever failed has given the signal; nobody else is going to answer these.
                    if self.failed.is_raised() {
                        self.fail_queued(|| self.poisoned(), |_| true);
                    }
                    self.work.wait().await;
                }
            }
        }
    }

    async fn write(&self, prepared: Prepared) -> Result<()> {
        let context = self.device.context();
        let Prepared { at, buf, way, after_flush, .. } = prepared;
        #[cfg(feature = "mutations")]
        let after_flush = match crate::mutation::is_on(crate::mutation::Mutation::MapBeforeData) {
            true => 0,
            false => after_flush,
        };
        if after_flush > 0 {
            self.flush_data_through(after_flush).await?;
        }
        let began = way.map(|_| context.now());
        let io = Io { durable: way == Some(Way::Through), ..Io::of(Cause::Log) };
        self.device.write(ByteOffset(at), buf, io).await.0?;
        if way == Some(Way::Flush) {
            self.flushes.flush().await?;
        }
        if let Some((way, began)) = way.zip(began) {
            self.persist.borrow_mut().took(way, context.now().0 - began.0);
        }
        Ok(())
    }

    /// Takes what has queued up and makes it a batch.
    fn prepare(&self) -> Option<Prepared> {
        let state = &mut *self.state.borrow_mut();
        if !state.can_begin() || self.failed.is_raised() {
            return None;
        }
        if self.backlog_bytes.get() > self.backlog_bytes_max
            || self.contents.index().is_full(self.index_entries_max)
        {
            self.progress.give();
            return None;
        }
        let block_bytes = self.geometry.block_bytes as usize;
        let first = &state.queue.front()?.entry;
        let needed =
            header_bytes(1, first.payload_blocks(), block_bytes) / block_bytes + first.payload_blocks();
        if state.tip.block as usize + needed > self.geometry.segment_blocks as usize {
            self.enter_next_segment(&mut state.tip)?;
        }
        let room = (self.geometry.segment_blocks - state.tip.block) as usize * block_bytes;
        let room = room.min(self.geometry.batch_bytes_max());
        let (mut entries, mut payload) = (0, 0);
        for queued in state.queue.iter().take(state.share()) {
            let (more_entries, more_payload) = (entries + 1, payload + queued.entry.payload_blocks());
            let bytes = header_bytes(more_entries, more_payload, block_bytes) + more_payload * block_bytes;
            if more_entries > ENTRIES_MAX as usize || bytes > room {
                break;
            }
            (entries, payload) = (more_entries, more_payload);
        }
        let header_bytes = header_bytes(entries, payload, block_bytes);
        let buf = self.device.context().buffers().reserved().get(header_bytes + payload * block_bytes);
        let Ok(mut buf) = buf else {
            // The reserve holds more than all lanes and the background take together; they give it back as they end.
            self.progress.give();
            return None;
        };
        let mut flight = state.spare.pop().unwrap_or_default();
        flight.batch = state.tip.batch;
        flight.first_sequence = state.tip.sequence + 1;
        flight.virtual_segment = state.tip.virtual_segment;
        flight.first_slot = state.tip.block + (header_bytes / block_bytes) as u32;
        flight.done = None;
        let mut at = 0;
        let (mut any_durable, mut after_flush) = (false, 0);
        for queued in state.queue.drain(..entries) {
            let entry = &queued.entry;
            let record = BatchEntry {
                kind: entry.kind.into(),
                branch: branch_of(entry.address).into(),
                lba: lba_of(entry.address).into(),
                blocks: entry.blocks.into(),
                payload: entry.payload.as_ref().map_or(0, |_| at as u32).into(),
                tag: entry.tag.into(),
            };
            if let Some(payload) = &entry.payload {
                let place = &mut buf[header_bytes + at * block_bytes..][..payload.len()];
                place.copy_from_slice(payload);
                flight.checksums.extend(place.chunks_exact(block_bytes).map(|block| crc32c(&[block])));
                at += entry.blocks as usize;
            }
            any_durable |= entry.durable;
            after_flush = entry.after_flush.max(after_flush);
            state.queued_durable -= usize::from(entry.durable);
            flight.entries.push(queued);
            flight.records.push(record);
        }
        // A clock that went back must not take the log with it.
        let time_unix_ns = self.device.context().unix_time_ns().max(state.tip.time_unix_ns);
        flight.time_unix_ns = time_unix_ns;
        let durable_through = self.durable_through.get();
        flight.durable = any_durable;
        // Written through it is durable with everything before it only if that is.
        let caught_up = durable_through == state.tip.sequence;
        let way =
            any_durable.then(|| if caught_up { self.persist.borrow_mut().choose() } else { Way::Flush });
        let address = self.geometry.address(state.tip.physical, state.tip.block);
        let mut header = BatchHeader::empty();
        header.address = address.into();
        header.nonce = self.nonce;
        header.batch = state.tip.batch.into();
        header.first_sequence = flight.first_sequence.into();
        header.durable_through = durable_through.into();
        header.epoch = self.epoch.into();
        header.time_unix_ns = time_unix_ns.into();
        header.previous = state.tip.previous.into();
        header.header_bytes = (header_bytes as u32).into();
        header.payload_blocks = (payload as u32).into();
        header.entries = (entries as u32).into();
        header.block_bytes = self.geometry.block_bytes.into();
        let seal = header.encode(&flight.records, &flight.checksums, &mut buf);
        let bytes = header.total_bytes();
        state.tip = Tip {
            block: state.tip.block + (bytes / block_bytes as u64) as u32,
            batch: state.tip.batch + 1,
            sequence: state.tip.sequence + entries as u64,
            time_unix_ns,
            previous: seal,
            ..state.tip
        };
        flight.end = state.tip;
        state.durable_in_flight = any_durable;
        let prepared = Prepared { batch: flight.batch, at: address, buf, way, after_flush };
        state.flights.push_back(flight);
        self.backlog_bytes.set(self.backlog_bytes.get() + bytes);
        let mut figures = self.figures.get();
        figures.batches += 1;
        figures.entries += entries as u64;
        figures.bytes += bytes;
        figures.in_flight += state.flights.len() as u64;
        self.figures.set(figures);
        Some(prepared)
    }

    fn enter_next_segment(&self, tip: &mut Tip) -> Option<()> {
        let state = self.contents.journal().state();
        let mut leases = state.leases.iter();
        leases.find(|lease| lease.virtual_segment == tip.virtual_segment);
        match leases.next() {
            Some(next) => {
                tip.physical = next.physical.get();
                tip.virtual_segment = next.virtual_segment.get();
                tip.block = 0;
                self.progress.give();
                Some(())
            }
            None => {
                self.progress.give();
                None
            }
        }
    }

    /// A batch's write has ended: retires what can be retired.
    fn ended(&self, batch: u64, written: Result<()>) {
        {
            let state = &mut *self.state.borrow_mut();
            if let Some(flight) = state.flights.iter_mut().find(|flight| flight.batch == batch) {
                flight.done = Some(written.map_err(|error| error.reason().clone()));
            }
        }
        loop {
            let mut flight = {
                let state = &mut *self.state.borrow_mut();
                match state.flights.front() {
                    Some(flight) if flight.done.is_some() => {}
                    _ => break,
                }
                let Some(flight) = state.flights.pop_front() else { break };
                if state.flights.is_empty() {
                    state.durable_in_flight = false;
                }
                flight
            };
            if let Some(Err(_)) = flight.done {
                self.failed.raise();
            }
            // What follows a batch that failed cannot be found again.
            let failure = if self.failed.is_raised() {
                Some(match &flight.done {
                    Some(Err(reason)) => reason.clone(),
                    _ => Reason::Poisoned,
                })
            } else {
                None
            };
            self.retire(&mut flight, failure.as_ref());
            flight.checksums.clear();
            flight.records.clear();
            self.state.borrow_mut().spare.push(flight);
        }
        if self.failed.is_raised() {
            self.fail_queued(|| self.poisoned(), |_| true);
        }
        self.work.give();
        self.progress.give();
    }

    fn retire(&self, flight: &mut Flight, failure: Option<&Reason>) {
        if failure.is_none() {
            let mut slot = flight.first_slot;
            let mut checksums = flight.checksums.as_slice();
            for (at, (record, queued)) in flight.records.iter().zip(&flight.entries).enumerate() {
                let sequence = flight.first_sequence + at as u64;
                let blocks = if has_payload(record.kind.get()) { record.blocks.get() as usize } else { 0 };
                let (own, rest) = checksums.split_at(blocks);
                let pinned = &queued.entry.pinned;
                self.contents.take_in(record, sequence, flight.virtual_segment, slot, own, pinned);
                slot += blocks as u32;
                checksums = rest;
            }
            self.contents.note_time(flight.end.sequence, flight.time_unix_ns);
            self.state.borrow_mut().retired = flight.end;
            if flight.durable {
                self.durable_through.set(flight.end.sequence);
            }
        }
        for (at, queued) in flight.entries.drain(..).enumerate() {
            let result = match failure {
                None => Ok(flight.first_sequence + at as u64),
                Some(reason) => Err(Error::new("write", reason.clone()).on(self.device.name())),
            };
            self.answer(queued, result);
        }
    }

    /// Answers what is queued, of the kinds that are meant, with an error.
    fn fail_queued(&self, error: impl Fn() -> Error, is_meant: impl Fn(u32) -> bool) {
        let queue = std::mem::take(&mut self.state.borrow_mut().queue);
        let (failed, kept): (VecDeque<_>, _) =
            queue.into_iter().partition(|queued: &Queued| is_meant(queued.entry.kind));
        {
            let state = &mut *self.state.borrow_mut();
            state.queue = kept;
            state.queued_durable -= failed.iter().filter(|queued| queued.entry.durable).count();
        }
        failed.into_iter().for_each(|queued| self.answer(queued, Err(error())));
    }

    fn refusal(&self, why: &'static str) -> Error {
        Error::new("write", Reason::LogFull { why }).on(self.device.name())
    }

    /// Refuses what is queued and what comes, until there is room again; `None`: there may be.
    pub fn set_full(&self, why: Option<&'static str>) {
        self.full.set(why);
        if let Some(why) = why {
            self.refuse(why, |_| true);
        }
    }

    /// Refuses what is queued, of some kinds: there is no room for it.
    pub fn refuse(&self, why: &'static str, is_meant: impl Fn(u32) -> bool) {
        self.fail_queued(|| self.refusal(why), is_meant);
    }

    fn answer(&self, queued: Queued, result: Result<u64>) {
        let Queued { mut entry, ticket } = queued;
        let waiter = {
            let state = &mut *self.state.borrow_mut();
            let done = Ticket::Done(result, entry.payload.take());
            match std::mem::replace(&mut state.tickets[ticket as usize], done) {
                Ticket::Waiting(waiter) => waiter,
                _ => {
                    state.tickets[ticket as usize] = Ticket::Free;
                    state.free_tickets.push(ticket);
                    Waiter::Nobody
                }
            }
        };
        // The range is free from here on.
        drop(entry);
        self.device.context().wake(waiter);
    }
}

impl Entry {
    fn payload_blocks(&self) -> usize {
        if self.payload.is_some() { self.blocks as usize } else { 0 }
    }
}

impl Appending {
    /// Whether a batch may begin now.
    fn can_begin(&self) -> bool {
        !self.queue.is_empty()
            && self.flights.len() < LANES
            && !self.durable_in_flight
            && (self.queued_durable == 0 || self.flights.is_empty())
    }

    /// Entries of the next batch at most.
    fn share(&self) -> usize {
        if self.queued_durable > 0 {
            return self.queue.len();
        }
        let under_way: usize = self.flights.iter().map(|flight| flight.entries.len()).sum();
        (self.queue.len() + under_way).div_ceil(LANES).max(SHARE_MIN)
    }
}

/// Gives a ticket back, or leaves it to the log if the entry is still under way.
struct TicketGuard<'a> {
    log: &'a Log,
    ticket: u32,
}

impl Drop for TicketGuard<'_> {
    fn drop(&mut self) {
        let state = &mut *self.log.state.borrow_mut();
        let ticket = &mut state.tickets[self.ticket as usize];
        match ticket {
            Ticket::Waiting(_) => *ticket = Ticket::Orphan,
            _ => {
                *ticket = Ticket::Free;
                state.free_tickets.push(self.ticket);
            }
        }
    }
}

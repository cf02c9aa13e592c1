//! One connection: requests of many tasks in flight on it, sent together where they come together, answered in any order.
//!
//! A request takes a slot, whose number and use are its handle. The sending task lists what is queued, headers and payloads as they lie,
//! in one send; the receiving task ([`reply`](super::reply)) finds the slot by the handle. A write's buffer is in the send until that has
//! ended, a read's in its slot until the reply has come, so that a future that is dropped takes nothing away from either.
//!
//! Invariants: a slot is used again only once its request has been sent and answered, or the connection has failed; once it has failed,
//! every request ends with that error, and nothing is sent or received any more.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::{Rc, Weak};

use icecore::buf::Buf;
use icecore::error::{Error, Kind, Result};
use icecore::format::nbd::{self, CMD_DISC, CMD_WRITE, Request};
use icecore::runtime::{Context, Gather, Signal, Socket};
use zerocopy::IntoBytes;

use super::handshake::Agreed;
use super::reply::{self, Covered};
use super::told;

/// Bytes of headers that are sent together at most: those of as many writes as one send takes.
const HEAD_BYTES: usize = 16 << 10;

pub(super) struct Connection {
    pub socket: Socket,
    pub agreed: Agreed,
    context: Context,
    name: String,
    limit_ns: u64,
    work: Signal,
    state: RefCell<State>,
}

struct State {
    slots: Vec<Slot>,
    free: Vec<u32>,
    queue: VecDeque<u32>,
    failed: Option<Error>,
    /// Replies, and parts of them, that have come.
    heard: u64,
}

/// Where a slot's request is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Free,
    Queued,
    Sending,
    Sent,
}

pub(super) struct Slot {
    use_number: u32,
    stage: Stage,
    /// Its future is gone.
    is_abandoned: bool,
    /// The receiving task has its buffer.
    is_lent: bool,
    pub command: u16,
    flags: u16,
    pub offset_bytes: u64,
    pub length_bytes: u32,
    buf: Option<Buf>,
    result: Option<Result<()>>,
    /// What of a read has come.
    pub covered: Covered,
    /// The first error of a structured reply.
    pub error: Option<Error>,
    done: Rc<Signal>,
}

impl Slot {
    fn is_ready(&self) -> bool {
        self.result.is_some() && self.stage == Stage::Sent && !self.is_lent
    }
}

/// A request that somebody waits for.
struct Ticket<'a> {
    connection: &'a Connection,
    index: u32,
    is_taken: bool,
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        if self.is_taken {
            return;
        }
        let state = &mut *self.connection.state.borrow_mut();
        let slot = &mut state.slots[self.index as usize];
        slot.is_abandoned = true;
        if slot.is_ready() {
            let _nobody_waits = state.release(self.index);
        }
    }
}

impl State {
    fn release(&mut self, index: u32) -> (Result<()>, Option<Buf>) {
        let slot = &mut self.slots[index as usize];
        slot.use_number = slot.use_number.wrapping_add(1);
        slot.stage = Stage::Free;
        slot.covered.clear();
        slot.error = None;
        let result = slot.result.take().unwrap_or(Ok(()));
        let buf = slot.buf.take();
        self.free.push(index);
        (result, buf)
    }

    fn is_busy(&self) -> bool {
        self.free.len() < self.slots.len()
    }
}

impl Connection {
    /// Begins the work of a connection whose ends have agreed.
    pub fn begin(
        context: &Context,
        socket: Socket,
        agreed: Agreed,
        name: &str,
        limit_ns: u64,
    ) -> Result<Rc<Self>> {
        let gather = Gather::new(context, HEAD_BYTES)?;
        let incoming = context.buffers().get(reply::INCOMING_BYTES)?;
        let state =
            State { slots: Vec::new(), free: Vec::new(), queue: VecDeque::new(), failed: None, heard: 0 };
        let connection = Rc::new(Self {
            socket,
            agreed,
            context: context.clone(),
            name: name.to_owned(),
            limit_ns,
            work: Signal::new(context),
            state: RefCell::new(state),
        });
        context.spawn(Rc::clone(&connection).send_all(gather));
        context.spawn(reply::receive_all(Rc::clone(&connection), incoming));
        context.spawn(watch(context.clone(), Rc::downgrade(&connection), limit_ns));
        Ok(connection)
    }

    /// Sends a request and waits for its reply. The buffer of a read or write comes back.
    pub async fn perform(
        &self,
        (command, flags): (u16, u16),
        offset_bytes: u64,
        length_bytes: u32,
        buf: Option<Buf>,
    ) -> (Result<()>, Option<Buf>) {
        if let Some(error) = &self.state.borrow().failed {
            return (Err(error.clone()), buf);
        }
        let (mut ticket, done) = self.queue((command, flags), offset_bytes, length_bytes, buf);
        loop {
            {
                let state = &mut *self.state.borrow_mut();
                if state.slots[ticket.index as usize].is_ready() {
                    ticket.is_taken = true;
                    return state.release(ticket.index);
                }
            }
            done.wait().await;
        }
    }

    fn queue(
        &self,
        (command, flags): (u16, u16),
        offset_bytes: u64,
        length_bytes: u32,
        buf: Option<Buf>,
    ) -> (Ticket<'_>, Rc<Signal>) {
        let state = &mut *self.state.borrow_mut();
        let index = state.free.pop().unwrap_or_else(|| {
            state.slots.push(Slot {
                use_number: 0,
                stage: Stage::Free,
                is_abandoned: false,
                is_lent: false,
                command,
                flags,
                offset_bytes,
                length_bytes,
                buf: None,
                result: None,
                covered: Covered::default(),
                error: None,
                done: Rc::new(Signal::new(&self.context)),
            });
            state.slots.len() as u32 - 1
        });
        let slot = &mut state.slots[index as usize];
        (slot.stage, slot.is_abandoned) = (Stage::Queued, false);
        (slot.command, slot.flags) = (command, flags);
        (slot.offset_bytes, slot.length_bytes, slot.buf) = (offset_bytes, length_bytes, buf);
        let done = Rc::clone(&slot.done);
        state.queue.push_back(index);
        self.work.give();
        (Ticket { connection: self, index, is_taken: false }, done)
    }

    async fn send_all(self: Rc<Self>, gather: Rc<Gather>) {
        let mut sending: Vec<u32> = Vec::new();
        loop {
            self.list(&gather, &mut sending);
            if sending.is_empty() {
                if self.has_failed() {
                    return;
                }
                self.work.wait().await;
                continue;
            }
            let sent = self.socket.send(&gather).await;
            self.take_back(&gather, &mut sending);
            if let Err(error) = sent {
                self.fail(error);
            }
        }
    }

    /// Lists what is queued, as much as finds room.
    fn list(&self, gather: &Gather, sending: &mut Vec<u32>) {
        let state = &mut *self.state.borrow_mut();
        while gather.has_room(size_of::<Request>())
            && let Some(index) = state.queue.pop_front()
        {
            let slot = &mut state.slots[index as usize];
            slot.stage = Stage::Sending;
            let handle = u64::from(slot.use_number) << 32 | u64::from(index);
            let request =
                Request::new(slot.command, slot.flags, handle, slot.offset_bytes, slot.length_bytes);
            gather.add(request.as_bytes());
            if slot.command == CMD_WRITE
                && let Some(buf) = slot.buf.take()
            {
                gather.add_whole(buf);
            }
            sending.push(index);
        }
    }

    /// What was listed has been sent, or never will be: buffers go back to their slots.
    fn take_back(&self, gather: &Gather, sending: &mut Vec<u32>) {
        let state = &mut *self.state.borrow_mut();
        let mut left = sending.iter();
        gather.clear(|buf| {
            let is_write = |index: &&u32| state.slots[**index as usize].command == CMD_WRITE;
            if let Some(index) = left.find(is_write) {
                state.slots[*index as usize].buf = Some(buf);
            }
        });
        for index in sending.drain(..) {
            let slot = &mut state.slots[index as usize];
            slot.stage = Stage::Sent;
            if slot.command == CMD_DISC {
                slot.result.get_or_insert(Ok(()));
            }
            self.settle(state, index);
        }
    }

    /// Wakes whoever waits for a request, once nothing of it is under way.
    fn settle(&self, state: &mut State, index: u32) {
        let slot = &state.slots[index as usize];
        if slot.is_ready() {
            if slot.is_abandoned {
                let _nobody_waits = state.release(index);
            } else {
                slot.done.give();
            }
        }
    }

    pub fn has_failed(&self) -> bool {
        self.state.borrow().failed.is_some()
    }

    /// Requests that have not ended.
    pub fn in_flight(&self) -> usize {
        let state = self.state.borrow();
        state.slots.len() - state.free.len()
    }

    /// Ends the connection: this is what everybody is told from now on.
    pub fn fail(&self, error: Error) {
        self.socket.shut_down();
        let state = &mut *self.state.borrow_mut();
        if state.failed.is_none() {
            let error = if error.place().name.is_some() { error } else { error.on(self.name.as_str()) };
            state.failed = Some(error);
        }
        let Some(error) = state.failed.clone() else { return };
        for index in std::mem::take(&mut state.queue) {
            state.slots[index as usize].stage = Stage::Sent;
        }
        for index in 0..state.slots.len() as u32 {
            let slot = &mut state.slots[index as usize];
            if slot.stage != Stage::Free {
                slot.result.get_or_insert_with(|| Err(error.clone()));
                self.settle(state, index);
            }
        }
        self.work.give();
    }

    /// The slot of a reply's handle.
    pub fn answered(&self, handle: u64) -> Result<u32> {
        let (index, use_number) = (handle as u32, (handle >> 32) as u32);
        let state = self.state.borrow();
        match state.slots.get(index as usize) {
            Some(slot)
                if slot.use_number == use_number
                    && matches!(slot.stage, Stage::Sending | Stage::Sent)
                    && slot.result.is_none() =>
            {
                Ok(index)
            }
            _ => Err(nbd::bad("a reply has the handle of no request under way")),
        }
    }

    /// Works on a slot that a reply is for.
    pub fn with<T>(&self, index: u32, work: impl FnOnce(&mut Slot) -> T) -> T {
        work(&mut self.state.borrow_mut().slots[index as usize])
    }

    /// Takes the buffer of a read, for a moment.
    pub fn lend(&self, index: u32) -> Result<Buf> {
        self.with(index, |slot| {
            slot.is_lent = slot.buf.is_some();
            slot.buf.take().ok_or_else(|| nbd::bad("data come for a request that has no buffer"))
        })
    }

    pub fn give_back(&self, index: u32, buf: Buf) {
        let state = &mut *self.state.borrow_mut();
        let slot = &mut state.slots[index as usize];
        (slot.buf, slot.is_lent) = (Some(buf), false);
        self.settle(state, index);
    }

    /// The reply has come to its end.
    pub fn finish(&self, index: u32, result: Result<()>) {
        let state = &mut *self.state.borrow_mut();
        let slot = &mut state.slots[index as usize];
        let offset_bytes = slot.offset_bytes;
        let named = result.map_err(|error| error.on(self.name.as_str()).at(offset_bytes));
        slot.result.get_or_insert(named);
        self.settle(state, index);
    }

    /// Notes that something of a reply has come.
    pub fn hears(&self) {
        self.state.borrow_mut().heard += 1;
    }
}

/// Ends a connection on which a request waits and nothing comes.
async fn watch(context: Context, connection: Weak<Connection>, limit_ns: u64) {
    let mut before = None;
    loop {
        {
            let Some(connection) = connection.upgrade() else { return };
            if connection.has_failed() {
                return;
            }
            let state = connection.state.borrow();
            let now = state.is_busy().then_some(state.heard);
            drop(state);
            if now.is_some() && now == before {
                let seconds = connection.limit_ns as f64 / 1e9;
                let text = format!("the server has not answered for {seconds} s");
                connection.fail(told("wait for a reply", Kind::Unavailable, text));
                return;
            }
            before = now;
        }
        context.sleep(limit_ns).await;
    }
}

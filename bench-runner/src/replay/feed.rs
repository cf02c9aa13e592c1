//! From a trace to the load that plays it: a thread reads, sorts and maps ahead of what is played.
//!
//! The load begins once so many requests are read that the channel is full, or all of them. From then on the channel is refilled
//! while it is emptied, and a load that finds it empty all the same says so (`Next::NotYet`): what the reading costs is never
//! taken for the target's.
//!
//! Memory: [`BATCHES_AHEAD`] batches of [`BATCH_REQUESTS`] requests (6 MiB), and what reading takes, whatever the trace's length.

use std::sync::mpsc::{self, Receiver, SyncSender, TryRecvError, TrySendError};
use std::thread::{self, JoinHandle};
use std::vec;

use icecore_workloads::trace::{Mapped, MappingCounts, Record, RecordKind, RecordSource, TraceStream};

use super::Replay;
use crate::failure::Failure;

/// Requests that are handed over together, so that a hand-over costs nothing beside them.
const BATCH_REQUESTS: usize = 1024;
/// Batches that wait to be played: a quarter of a million requests, more than a second of what devices do.
const BATCHES_AHEAD: usize = 256;

/// A request of a trace, or a piece of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Request {
    /// When it is to begin, since the load began.
    pub due_ns: u64,
    /// First byte in the span.
    pub offset_bytes: u64,
    /// Its length; 0 for a flush.
    pub len_bytes: u32,
    /// What it does.
    pub kind: RecordKind,
    /// What was done to make it fit.
    pub made: Made,
}

/// What was done with a request to make it fit the target.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Made(u8);

impl Made {
    /// It is a further piece of the request before it.
    pub const PIECE: Made = Made(1);
    /// It was too long for one request, and this is its first piece.
    pub const SPLIT: Made = Made(2);
    /// It lay beyond the span.
    pub const BEYOND: Made = Made(4);
    /// Its offset was rounded down or its length up.
    pub const ALIGNED: Made = Made(8);
    /// It was moved back to end within the span.
    pub const MOVED: Made = Made(16);
    /// It was longer than the span.
    pub const SHORTENED: Made = Made(32);

    /// Whether it is so.
    pub const fn is(self, other: Made) -> bool {
        self.0 & other.0 != 0
    }

    fn with(self, other: Made, so: bool) -> Made {
        if so { Made(self.0 | other.0) } else { self }
    }

    /// What a mapping has done with its last record.
    fn between(before: MappingCounts, after: MappingCounts) -> Made {
        Made::default()
            .with(Made::BEYOND, after.beyond_span > before.beyond_span)
            .with(Made::ALIGNED, after.aligned > before.aligned)
            .with(Made::MOVED, after.moved_back > before.moved_back)
            .with(Made::SHORTENED, after.shortened > before.shortened)
    }
}

/// What can be had of a feed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// The next request, in the order of time.
    Request(Request),
    /// It has not been read yet.
    NotYet,
    /// There is none.
    End,
}

/// What is asked of the thread that reads.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// Longer requests are split.
    pub request_bytes_max: u32,
    /// Requests of the trace, at most.
    pub limit: u64,
    /// Nothing is played that is due then or later.
    pub until_ns: u64,
    /// Whether there are reads, as was seen when the trace was looked at; and whether there are writes or discards.
    pub reads: bool,
    /// See `reads`.
    pub writes: bool,
    /// Batches that are read ahead.
    pub batches_ahead: usize,
}

/// The requests of a trace, one after another.
#[derive(Debug)]
pub(crate) struct Feed {
    batches: Option<Receiver<Vec<Request>>>,
    batch: vec::IntoIter<Request>,
    has_ended: bool,
    thread: Option<JoinHandle<Result<(), Failure>>>,
}

impl Feed {
    /// Opens the trace and reads ahead.
    ///
    /// # Errors
    /// A file cannot be opened, or the trace cannot be mapped.
    pub fn open(replay: &Replay, until_ns: u64) -> Result<Self, Failure> {
        let trace = &replay.trace;
        let stream = TraceStream::open(&trace.paths, &trace.options)?;
        let mut mapping = trace.mapping.clone();
        if let Some(speed) = replay.speed {
            mapping.speed = speed;
        }
        let mapped =
            Mapped::new(stream, mapping).map_err(|error| Failure::usage(format!("trace: {error}")))?;
        let bounds = Bounds {
            request_bytes_max: trace.workload.operation_bytes_max(),
            limit: trace.limit.unwrap_or(u64::MAX),
            until_ns: if replay.speed.is_some() { until_ns } else { u64::MAX },
            reads: trace.workload.reads(),
            writes: trace.workload.writes(),
            batches_ahead: BATCHES_AHEAD,
        };
        Ok(Self::of(mapped, bounds))
    }

    /// Reads ahead of any source; returns once as much is read as may be.
    pub fn of<S: RecordSource + Send + 'static>(source: Mapped<S>, bounds: Bounds) -> Self {
        let (sender, batches) = mpsc::sync_channel(bounds.batches_ahead);
        let (full, is_full) = mpsc::channel();
        let thread = thread::spawn(move || {
            let out = Out { batch: Vec::with_capacity(BATCH_REQUESTS), sender, full: Some(full) };
            read(source, bounds, out)
        });
        // An error is the end of the thread: everything is read, or nothing more can be.
        let _ended = is_full.recv();
        Self { batches: Some(batches), batch: Vec::new().into_iter(), has_ended: false, thread: Some(thread) }
    }

    /// The next request.
    #[inline]
    pub fn next(&mut self) -> Next {
        loop {
            if let Some(request) = self.batch.next() {
                return Next::Request(request);
            }
            match self.batches.as_ref().map_or(Err(TryRecvError::Disconnected), Receiver::try_recv) {
                Ok(batch) => self.batch = batch.into_iter(),
                Err(TryRecvError::Empty) => return Next::NotYet,
                Err(TryRecvError::Disconnected) => {
                    self.has_ended = true;
                    return Next::End;
                }
            }
        }
    }

    /// Ends the reading.
    ///
    /// # Errors
    /// The trace could not be read to the end that was played; what was to come after the load's end does not matter.
    pub fn finish(&mut self) -> Result<(), Failure> {
        self.batches = None;
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(read)) if self.has_ended => read,
            Some(Err(panic)) => std::panic::resume_unwind(panic),
            Some(Ok(_)) | None => Ok(()),
        }
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.batches = None;
        if let Some(thread) = self.thread.take() {
            // Whatever it says, nobody asks any more.
            let _ended = thread.join();
        }
    }
}

/// The other end of a feed.
struct Out {
    batch: Vec<Request>,
    sender: SyncSender<Vec<Request>>,
    /// Until the channel is full for the first time.
    full: Option<mpsc::Sender<()>>,
}

impl Out {
    /// False where nobody takes any more.
    fn push(&mut self, request: Request) -> bool {
        self.batch.push(request);
        self.batch.len() < BATCH_REQUESTS || self.send()
    }

    fn send(&mut self) -> bool {
        let batch = std::mem::replace(&mut self.batch, Vec::with_capacity(BATCH_REQUESTS));
        match self.sender.try_send(batch) {
            Ok(()) => true,
            Err(TrySendError::Disconnected(_)) => false,
            Err(TrySendError::Full(batch)) => {
                // Dropping it tells the same as sending.
                self.full = None;
                self.sender.send(batch).is_ok()
            }
        }
    }
}

fn read<S: RecordSource>(mut source: Mapped<S>, bounds: Bounds, mut out: Out) -> Result<(), Failure> {
    let mut left = bounds.limit;
    let result = loop {
        if left == 0 {
            break Ok(());
        }
        let before = source.counts();
        let record = match source.next() {
            Ok(Some(record)) if record.arrival_ns < bounds.until_ns => record,
            Ok(_) => break Ok(()),
            Err(error) => break Err(error.into()),
        };
        left -= 1;
        let known = match record.kind {
            RecordKind::Read => bounds.reads,
            RecordKind::Write | RecordKind::Discard => bounds.writes,
            RecordKind::Flush => true,
        };
        if !known {
            break Err(Failure::environment(format!(
                "the trace has changed since it was looked at: there was no {} in it",
                record.kind.name()
            )));
        }
        let made = Made::between(before, source.counts());
        if !pieces(&record, made, bounds.request_bytes_max).all(|request| out.push(request)) {
            return Ok(());
        }
    };
    out.send();
    result
}

/// A request in pieces that are short enough.
fn pieces(record: &Record, made: Made, bytes_max: u32) -> impl Iterator<Item = Request> {
    let (record, count) = (*record, record.len_bytes.div_ceil(bytes_max).max(1));
    (0..count).map(move |piece| {
        let skipped = piece * bytes_max;
        Request {
            due_ns: record.arrival_ns,
            offset_bytes: record.offset_bytes + u64::from(skipped),
            len_bytes: (record.len_bytes - skipped).min(bytes_max),
            kind: record.kind,
            made: if piece > 0 { Made::PIECE } else { made.with(Made::SPLIT, count > 1) },
        }
    })
}

const _: () = assert!(size_of::<Request>() == 24, "what the memory of a feed is reckoned by");

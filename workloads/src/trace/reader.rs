//! One file, from its bytes to its records in the order in which they stand there.
//!
//! The content is cut into chunks of whole lines or records; up to [`CHUNKS_MAX`] are read, parsed side by side, and
//! passed on in order. What is counted within a chunk becomes what is counted within the file when its turn comes, so
//! that neither records nor errors depend on where chunks end or on how many threads there are. The exception is what
//! follows an error: nothing does.

use std::io;
use std::path::{Path, PathBuf};

use memchr::memrchr;
use rayon::prelude::*;

use super::chunk::{Chunk, Fault, NAMES_MAX, Names, Passed};
use super::error::{Place, TraceError, TraceErrorKind};
use super::format::{BlockEvent, Cut, Format};
use super::record::Record;
use super::source::{self, Content, Packing};
use super::text::{LINE_BYTES_MAX, too_long};
use super::{TraceOptions, blktrace};

/// Bytes parsed as one piece: some thousand records, so that handing them to a thread costs nothing beside.
const CHUNK_BYTES: usize = 256 * 1024;
/// The same where many files are read beside each other.
const CHUNK_BYTES_MIN: usize = 8 * 1024;
/// Chunks read and parsed at a time, of all files. With the records of the shortest lines a chunk takes 2 MiB; more than four
/// threads would parse faster than one can take the records in.
const CHUNKS_MAX: usize = 4;
/// Bytes by which a format is told, at most.
const HEAD_BYTES: usize = LINE_BYTES_MAX;
/// Messages about bad records that are kept.
const MESSAGES_MAX: usize = 10;

/// What comes when the chunks that were read have been passed on.
enum Then {
    /// More.
    More,
    /// The end.
    End,
    /// A line without end.
    TooLong,
    /// So many bytes that are no whole record.
    Truncated(usize),
    /// The file cannot be read any further.
    Failed(io::Error),
}

/// A file being read.
pub(super) struct FileReader {
    path: PathBuf,
    /// Its number among the files of the trace.
    number: u32,
    format: Format,
    packing: Packing,
    event: BlockEvent,
    content: Content,
    /// A chunk has so many, or as many as its longest line needs.
    chunk_bytes: usize,
    /// Read, and belonging to the next chunk.
    carry: Vec<u8>,
    then: Then,
    chunks: Vec<Chunk>,
    /// How many of them hold something.
    filled: usize,
    /// The one that is passed on, and what of it comes next.
    current: usize,
    record_at: usize,
    bad_at: usize,
    /// Records of it that come before something bad, or its end.
    records_until: usize,
    /// Lines or records, bytes, and waits before the current chunk.
    units_before: u64,
    bytes_before: u64,
    waited_ns: u64,
    bad_max: u64,
    bad_count: u64,
    bad_messages: Vec<String>,
    passed: Passed,
}

impl FileReader {
    pub fn open(path: &Path, number: u32, files: usize, options: &TraceOptions) -> Result<Self, TraceError> {
        let failed = |error| io_error(path, Place::File, &error);
        // What many files take together is bounded by what one may take.
        let chunk_bytes = (CHUNKS_MAX * CHUNK_BYTES / files).clamp(CHUNK_BYTES_MIN, CHUNK_BYTES);
        let (mut content, packing) = source::open(path, chunk_bytes).map_err(failed)?;
        let mut carry = Vec::new();
        let format = match options.format {
            Some(format) => format,
            None => told_by_head(&mut content, &mut carry, chunk_bytes.min(HEAD_BYTES))
                .map_err(failed)?
                .map_err(|reason| TraceError::new(TraceErrorKind::Format, path, Place::File, reason))?,
        };
        let chunks = (rayon::current_num_threads().min(CHUNKS_MAX) / files).max(1);
        Ok(Self {
            path: path.to_owned(),
            number,
            format,
            packing,
            event: options.event,
            content,
            chunk_bytes,
            carry,
            then: Then::More,
            chunks: (0..chunks).map(|_| Chunk::default()).collect(),
            filled: 0,
            current: 0,
            record_at: 0,
            bad_at: 0,
            records_until: 0,
            units_before: 0,
            bytes_before: 0,
            waited_ns: 0,
            bad_max: options.bad_records_max,
            bad_count: 0,
            bad_messages: Vec::new(),
            passed: Passed::default(),
        })
    }

    /// The next record, at the time that stands in the file; `names` are those of the whole trace.
    #[inline]
    pub fn next(&mut self, names: &mut Names) -> Result<Option<Record>, TraceError> {
        loop {
            if self.record_at < self.records_until {
                let record = self.chunks[self.current].records[self.record_at];
                self.record_at += 1;
                return Ok(Some(record));
            }
            if !self.go_on(names)? {
                return Ok(None);
            }
        }
    }

    /// Meets what is bad, leaves a chunk that has been passed on, and fills the next ones; false at the end.
    #[cold]
    fn go_on(&mut self, names: &mut Names) -> Result<bool, TraceError> {
        if self.current < self.filled {
            if self.bad_at < self.chunks[self.current].bad.len() {
                self.meet_bad()?;
                self.look_ahead();
                return Ok(true);
            }
            self.leave_chunk();
            if self.current < self.filled {
                self.enter_chunk(names)?;
                return Ok(true);
            }
        }
        match std::mem::replace(&mut self.then, Then::End) {
            Then::More => {}
            Then::End => return Ok(false),
            Then::TooLong => return Err(TraceError::damaged(&self.path, self.place(0), too_long())),
            Then::Truncated(bytes) => {
                let reason = format!("the file ends within a record, of which {bytes} bytes are there");
                return Err(TraceError::damaged(&self.path, self.place(0), reason));
            }
            Then::Failed(error) => {
                return Err(io_error(&self.path, Place::Byte(self.bytes_before), &error));
            }
        }
        self.fill();
        if self.filled > 0 {
            self.enter_chunk(names)?;
        }
        Ok(true)
    }

    /// Reads and parses the next chunks, and finds out what comes behind them.
    fn fill(&mut self) {
        self.current = 0;
        self.filled = 0;
        self.then = Then::More;
        while self.filled < self.chunks.len() && matches!(self.then, Then::More) {
            let chunk = &mut self.chunks[self.filled];
            chunk.clear();
            let content = &mut chunk.content;
            content.append(&mut self.carry);
            let mut length = content.len();
            // Twice what was left of the one before: a line that has no end in a chunk has one in those after it.
            content.resize(self.chunk_bytes.max(2 * length), 0);
            while length < content.len() && matches!(self.then, Then::More) {
                match self.content.read(&mut content[length..]) {
                    Ok(0) => self.then = Then::End,
                    Ok(count) => length += count,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => self.then = Then::Failed(error),
                }
            }
            content.truncate(length);
            let whole = match self.format.cut() {
                // The last line may have no end; it may be cut short, too, where the file cannot be read.
                Cut::Lines if matches!(self.then, Then::End) => length,
                Cut::Lines => memrchr(b'\n', content).map_or(0, |end| end + 1),
                Cut::Records(bytes) => length - length % bytes,
                Cut::Events => blktrace::whole(content),
            };
            self.carry.extend_from_slice(&content[whole..]);
            content.truncate(whole);
            match self.then {
                Then::More if self.carry.len() > LINE_BYTES_MAX + blktrace::HEADER_BYTES => {
                    self.then = Then::TooLong
                }
                Then::End if !self.carry.is_empty() => self.then = Then::Truncated(self.carry.len()),
                _ => {}
            }
            self.filled += usize::from(whole > 0);
        }
        let (format, event, bad_max) = (self.format, self.event, self.bad_max);
        match &mut self.chunks[..self.filled] {
            [] => {}
            [chunk] => format.parse(event, chunk, bad_max),
            chunks => chunks.par_iter_mut().for_each(|chunk| format.parse(event, chunk, bad_max)),
        }
    }

    /// Makes what was counted within the chunk what is counted within the trace.
    fn enter_chunk(&mut self, names: &mut Names) -> Result<(), TraceError> {
        self.record_at = 0;
        self.bad_at = 0;
        let chunk = &mut self.chunks[self.current];
        if let Some(shift) = self.format.name_shift()
            && !chunk.names.is_empty()
        {
            let numbers: Result<Vec<_>, _> = chunk.names.iter().map(|name| names.number(name)).collect();
            let numbers = numbers.map_err(|_| {
                let reason = format!("more than {NAMES_MAX} volumes have names");
                TraceError::damaged(&self.path, Place::File, reason)
            })?;
            if numbers.iter().enumerate().any(|(index, number)| index as u32 != *number) {
                let below = (1_u32 << shift) - 1;
                for record in &mut chunk.records {
                    let name = numbers[(record.volume >> shift) as usize];
                    record.volume = name << shift | record.volume & below;
                }
            }
        }
        if !self.format.names_volumes() && self.number > 0 {
            for record in &mut chunk.records {
                record.volume = self.number;
            }
        }
        if self.waited_ns > 0 {
            for record in &mut chunk.records {
                record.arrival_ns = record.arrival_ns.saturating_add(self.waited_ns);
            }
        }
        self.look_ahead();
        Ok(())
    }

    fn look_ahead(&mut self) {
        let chunk = &self.chunks[self.current];
        self.records_until = chunk.bad.get(self.bad_at).map_or(chunk.records.len(), |bad| bad.records_before);
    }

    fn leave_chunk(&mut self) {
        let chunk = &self.chunks[self.current];
        self.units_before += u64::from(chunk.units);
        self.bytes_before += chunk.content.len() as u64;
        self.waited_ns = self.waited_ns.saturating_add(chunk.waited_ns);
        self.passed.add(&chunk.passed);
        self.current += 1;
        self.record_at = 0;
        self.records_until = 0;
        if chunk.ended {
            self.filled = self.current;
            self.then = Then::End;
        }
    }

    fn meet_bad(&mut self) -> Result<(), TraceError> {
        let bad = &self.chunks[self.current].bad[self.bad_at];
        let error = TraceError::damaged(&self.path, self.place(bad.unit), bad.reason.as_str());
        if bad.fault == Fault::Fatal {
            return Err(error);
        }
        self.bad_at += 1;
        self.bad_count += 1;
        if self.bad_count > self.bad_max {
            if self.bad_max == 0 {
                return Err(error);
            }
            let reason = format!(
                "{}; it is bad record {}, --bad-records allows {}",
                error.reason(),
                self.bad_count,
                self.bad_max
            );
            return Err(TraceError::damaged(&self.path, error.place(), reason));
        }
        if self.bad_messages.len() < MESSAGES_MAX {
            self.bad_messages.push(error.to_string());
        }
        Ok(())
    }

    /// Where the line or record `unit` of the current chunk is in the file.
    fn place(&self, unit: u32) -> Place {
        let number = self.units_before + u64::from(unit) + 1;
        let content = self.chunks.get(self.current).map_or(&[][..], |chunk| &chunk.content);
        match self.format.cut() {
            Cut::Lines => Place::Line(number),
            Cut::Records(bytes) => {
                Place::Record { number, byte: self.bytes_before + u64::from(unit) * bytes as u64 }
            }
            Cut::Events => {
                Place::Record { number, byte: self.bytes_before + blktrace::byte_of(content, unit) as u64 }
            }
        }
    }

    /// Where the record that was passed on last is in the file.
    pub fn latest_place(&self) -> Place {
        let chunk = &self.chunks[self.current];
        let unit = self.record_at.checked_sub(1).and_then(|index| chunk.places.get(index));
        unit.map_or(Place::File, |unit| self.place(*unit))
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn format(&self) -> Format {
        self.format
    }

    pub fn packing(&self) -> Packing {
        self.packing
    }

    pub fn bad_count(&self) -> u64 {
        self.bad_count
    }

    pub fn bad_messages(&self) -> &[String] {
        &self.bad_messages
    }

    /// What was passed over in the chunks that have been left.
    pub fn passed(&self) -> &Passed {
        &self.passed
    }

    /// Bytes of content before the current chunk.
    pub fn content_bytes(&self) -> u64 {
        self.bytes_before
    }
}

/// The format of a file, by its first bytes; by more of them where so few do not tell.
fn told_by_head(
    content: &mut Content,
    head: &mut Vec<u8>,
    bytes: usize,
) -> io::Result<Result<Format, String>> {
    let mut wanted = bytes;
    loop {
        let known = head.len();
        head.resize(wanted, 0);
        let filled = known + source::fill(content, &mut head[known..])?;
        head.truncate(filled);
        let told = Format::detect(head, filled < wanted);
        if told.is_ok() || filled < wanted || wanted == HEAD_BYTES {
            return Ok(told);
        }
        wanted = (2 * wanted).min(HEAD_BYTES);
    }
}

fn io_error(path: &Path, place: Place, error: &io::Error) -> TraceError {
    // What a decoder finds wrong is damage; what the system says is not.
    let kind = match error.kind() {
        io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput | io::ErrorKind::UnexpectedEof => {
            TraceErrorKind::Damaged
        }
        _ if error.raw_os_error().is_none() => TraceErrorKind::Damaged,
        _ => TraceErrorKind::Io,
    };
    let reason = match error.kind() {
        io::ErrorKind::UnexpectedEof => "the packed file ends early".to_owned(),
        _ => error.to_string(),
    };
    TraceError::new(kind, path, place, reason)
}

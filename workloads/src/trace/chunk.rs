//! A piece of a trace that is parsed as a whole, perhaps beside others: whole lines or whole binary records.
//!
//! What is in a chunk is counted from the chunk's beginning (lines, names, waits), so that chunks can be parsed in any
//! order; [`Chunk::units`] and its fellows let the reader add up what came before. Buffers are kept from use to use.

use std::collections::HashMap;

use super::error::Reason;
use super::record::Record;

/// Names that a trace may have, of volumes, hosts or files; more would be no names.
pub(super) const NAMES_MAX: usize = 65_536;

/// Rows and records that rightly yield no request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Passed {
    /// Messages, notes, and commands that neither read nor write, discard nor flush.
    pub not_requests: u64,
    /// Events other than the one asked for, of formats that follow a request through several.
    pub other_events: u64,
    /// Requests of no length.
    pub empty: u64,
}

impl Passed {
    pub(super) fn add(&mut self, other: &Passed) {
        self.not_requests += other.not_requests;
        self.other_events += other.other_events;
        self.empty += other.empty;
    }

    /// A request of no length is passed over and counted.
    #[inline]
    pub(super) fn unless_empty(&mut self, record: Option<Record>) -> Option<Record> {
        self.empty += u64::from(record.is_none());
        record
    }
}

/// Whether reading can go on behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// One line or record is no good.
    Record,
    /// Nothing behind it can be told.
    Fatal,
}

/// A line or record that is no good.
#[derive(Debug)]
pub(super) struct Bad {
    /// Records of the chunk before it.
    pub records_before: usize,
    /// Its line or record in the chunk, from 0.
    pub unit: u32,
    pub fault: Fault,
    pub reason: String,
}

/// Names by number, in order of appearance.
#[derive(Debug, Default)]
pub(super) struct Names {
    list: Vec<Box<[u8]>>,
    numbers: HashMap<Box<[u8]>, u32>,
    latest: u32,
}

impl Names {
    /// The number of a name.
    pub fn number(&mut self, name: &[u8]) -> Result<u32, Reason> {
        // Most lines have the name of the line before.
        if self.list.get(self.latest as usize).is_some_and(|latest| **latest == *name) {
            return Ok(self.latest);
        }
        self.latest = match self.numbers.get(name) {
            Some(number) => *number,
            None => {
                if self.list.len() >= NAMES_MAX {
                    return Err(Reason("name", "one of more than 65536"));
                }
                let number = self.list.len() as u32;
                self.list.push(name.into());
                self.numbers.insert(name.into(), number);
                number
            }
        };
        Ok(self.latest)
    }

    pub fn get(&self, number: u32) -> Option<&[u8]> {
        self.list.get(number as usize).map(|name| &**name)
    }

    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        self.list.iter().map(|name| &**name)
    }

    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    fn clear(&mut self) {
        self.list.clear();
        self.numbers.clear();
        self.latest = 0;
    }
}

/// The bytes of a chunk, and what they hold.
#[derive(Debug, Default)]
pub(super) struct Chunk {
    /// Whole lines or records.
    pub content: Vec<u8>,
    pub records: Vec<Record>,
    /// The line or record, from 0, that each of `records` comes from.
    pub places: Vec<u32>,
    /// What is no good, in order.
    pub bad: Vec<Bad>,
    /// Lines or records that were looked at.
    pub units: u32,
    /// Names, numbered as of this chunk.
    pub names: Names,
    pub passed: Passed,
    /// What its relative waits amount to; its records' times are counted from its beginning then.
    pub waited_ns: u64,
    /// The trace ends in it, whatever follows.
    pub ended: bool,
}

impl Chunk {
    /// Empty again, with its buffers.
    pub fn clear(&mut self) {
        self.content.clear();
        self.records.clear();
        self.places.clear();
        self.bad.clear();
        self.units = 0;
        self.names.clear();
        self.passed = Passed::default();
        self.waited_ns = 0;
        self.ended = false;
    }
}

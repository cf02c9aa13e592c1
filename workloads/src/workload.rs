//! The workloads: what is asked of a store, as data.
//!
//! A workload is a TOML file whose header says the question that it asks; those of `workloads/specs` are built in and known
//! by name, others are read from a path. It has one or more *parts* (a log beside pages, the streams of a mixed server), each
//! with its share of the operations, its region, its sizes and its way of choosing places. The names are a contract with
//! scripts and with stored results; a name never changes its meaning, which a digest of its first operations shows.
//!
//! Invariant: what a [`Workload`] says has been checked when it was made, so that generators need not refuse anything but a
//! span that is too short. Files come from users: nothing in them makes this panic or take much memory.

use std::fmt;
use std::path::Path;
use std::sync::LazyLock;

use crate::arrival::Arrival;
use crate::spec;

/// Smallest unit of a request.
pub const SECTOR_BYTES: u32 = 512;
/// Longest request.
pub const OPERATION_BYTES_MAX: u32 = 16 << 20;
/// Most parts of a workload.
pub const PARTS_MAX: usize = 64;
/// Most sizes, or hot ranges, of a part.
pub const CHOICES_MAX: usize = 64;

/// Where the next operation goes.
#[derive(Clone, Debug, PartialEq)]
pub enum Access {
    /// Every aligned place is equally likely, each time independently.
    UniformRandom,
    /// One cursor, shared by everything in flight, from the start of the region to its end and round again.
    Sequential,
    /// By Zipf's law with this exponent; the frequent places lie scattered over the region.
    Zipf(f64),
    /// Ranges that follow one another, each with its own share of the operations; within one, evenly.
    Hot(Vec<HotRange>),
    /// Writes go one after another; reads go back from the newest write by Zipf's law with this exponent.
    Latest(f64),
}

impl Access {
    /// Places are items of one length, not anywhere a request fits.
    pub(crate) fn has_items(&self) -> bool {
        matches!(self, Access::Zipf(_) | Access::Latest(_))
    }
}

/// A range of a part's region.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct HotRange {
    /// Its share of the region, in percent.
    pub space_percent: f64,
    /// Its share of the operations, in percent.
    pub access_percent: f64,
}

/// What a writer waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Durability {
    /// The write's completion.
    None,
    /// Durability. A bare arm writes and then flushes data (FDATASYNC), one flush a writer.
    WriteThenFlush,
    /// Durability. A bare arm uses one durable write (RWF_DSYNC).
    DurableWrite,
}

/// A size of requests and its weight beside the others.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SizeShare {
    /// A multiple of 512.
    pub bytes: u32,
    /// Above 0; only its relation to the others counts.
    pub weight: f64,
}

/// One stream of a workload.
#[derive(Clone, Debug, PartialEq)]
pub struct Part {
    /// How many of the operations are this part's; only its relation to the others counts.
    pub weight: f64,
    /// Where its region begins and ends, in percent of the span.
    pub region_percent: (f64, f64),
    /// Where in the region operations go.
    pub access: Access,
    /// Share of reads in percent, 0 to 100.
    pub read_percent: u8,
    /// Lengths of its requests. Offsets are multiples of the largest power of two that divides the length.
    pub sizes: Vec<SizeShare>,
    /// Its writers wait for durability.
    pub durable: bool,
    /// What would be a write is a read and then a write of the same place.
    pub read_modify_write: bool,
}

impl Part {
    /// Its longest request.
    pub fn operation_bytes_max(&self) -> u32 {
        self.sizes.iter().map(|size| size.bytes).max().unwrap_or(0)
    }
}

/// A workload. Engine arms use durable writes for both durable kinds; bare arms follow [`Workload::durability`].
#[derive(Clone, Debug, PartialEq)]
pub struct Workload {
    pub(crate) name: String,
    pub(crate) question: String,
    pub(crate) durability: Durability,
    pub(crate) arrival: Arrival,
    pub(crate) queue_depths: Vec<u32>,
    pub(crate) compressible_percent: u8,
    pub(crate) parts: Vec<Part>,
}

/// The files of `workloads/specs`, in the order in which help texts list them.
pub(crate) const BUILT_IN: [&str; 17] = [
    include_str!("../specs/basic.toml"),
    include_str!("../specs/oltp.toml"),
    include_str!("../specs/mail.toml"),
    include_str!("../specs/file.toml"),
    include_str!("../specs/web.toml"),
    include_str!("../specs/jesd219.toml"),
    include_str!("../specs/spc1-like.toml"),
    include_str!("../specs/dblog.toml"),
    include_str!("../specs/database.toml"),
    include_str!("../specs/ycsb-a.toml"),
    include_str!("../specs/ycsb-b.toml"),
    include_str!("../specs/ycsb-c.toml"),
    include_str!("../specs/ycsb-d.toml"),
    include_str!("../specs/ycsb-e.toml"),
    include_str!("../specs/ycsb-f.toml"),
    include_str!("../specs/hot.toml"),
    include_str!("../specs/snia-matrix.toml"),
];

static ALL: LazyLock<Vec<Workload>> = LazyLock::new(|| {
    let of = |text| match spec::parse(text) {
        Ok(workloads) => workloads,
        // They are part of the program; a test parses them all.
        Err(reason) => unreachable!("a built-in workload is wrong: {reason}"),
    };
    BUILT_IN.into_iter().flat_map(of).collect()
});

impl Workload {
    /// Every workload that is built in.
    pub fn all() -> &'static [Workload] {
        &ALL
    }

    /// The same under another name.
    pub fn renamed(&self, name: &str) -> Workload {
        Workload { name: name.to_owned(), ..self.clone() }
    }

    /// A workload of one part over the whole span with requests of one length.
    ///
    /// # Panics
    /// When a number is out of range: percent above 100, a length that is 0 or no multiple of 512.
    pub fn simple(
        name: &str,
        access: Access,
        read_percent: u8,
        operation_bytes: u32,
        durability: Durability,
    ) -> Workload {
        assert!(read_percent <= 100 && operation_bytes > 0 && operation_bytes.is_multiple_of(SECTOR_BYTES));
        let part = Part {
            weight: 1.0,
            region_percent: (0.0, 100.0),
            access,
            read_percent,
            sizes: vec![SizeShare { bytes: operation_bytes, weight: 1.0 }],
            durable: durability != Durability::None,
            read_modify_write: false,
        };
        Workload {
            name: name.to_owned(),
            question: String::new(),
            durability,
            arrival: Arrival::default(),
            queue_depths: Vec::new(),
            compressible_percent: 0,
            parts: vec![part],
        }
    }

    /// What stands for a trace that is played: its name and the bounds of its requests. No stream is drawn from it.
    ///
    /// # Panics
    /// When a length is 0 or no multiple of 512.
    pub fn of_trace(
        name: &str,
        operation_bytes_max: u32,
        unit_bytes: u32,
        reads: bool,
        writes: bool,
    ) -> Workload {
        assert!(unit_bytes > 0 && unit_bytes.is_multiple_of(SECTOR_BYTES));
        let read_percent = match (reads, writes) {
            (true, true) => 50,
            (reads, _) => 100 * u8::from(reads),
        };
        let access = Access::UniformRandom;
        let mut workload = Self::simple(name, access, read_percent, operation_bytes_max, Durability::None);
        workload.question = "What does it make of what was recorded?".to_owned();
        workload.parts[0].sizes.push(SizeShare { bytes: unit_bytes, weight: 1.0 });
        workload
    }

    /// The built-in workloads of that name, or those of the file, if the name is a path (has a `/`, or ends in `.toml`). One
    /// name gives several where the file has a sweep; a member of a sweep has a name of its own, too.
    ///
    /// # Errors
    /// The known names, or what is wrong with the file.
    pub fn named(name: &str) -> Result<Vec<Workload>, WorkloadError> {
        if name.contains('/') || name.ends_with(".toml") {
            return Self::from_file(Path::new(name));
        }
        let member = |other: &&Workload| {
            other.name == name || other.name.strip_prefix(name).is_some_and(|rest| rest.starts_with(':'))
        };
        let found: Vec<Workload> = Self::all().iter().filter(member).cloned().collect();
        if found.is_empty() { Err(WorkloadError::unknown(name)) } else { Ok(found) }
    }

    /// The one built-in workload of that name.
    ///
    /// # Errors
    /// The known names.
    pub fn from_name(name: &str) -> Result<Workload, WorkloadError> {
        let found = Self::all().iter().find(|workload| workload.name == name);
        found.cloned().ok_or_else(|| WorkloadError::unknown(name))
    }

    fn from_file(path: &Path) -> Result<Vec<Workload>, WorkloadError> {
        let wrong = |reason| WorkloadError { name: path.display().to_string(), reason };
        let text = spec::read(path).map_err(wrong)?;
        spec::parse(&text).map_err(wrong)
    }

    /// The name on the command line and in every result row.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it is there to answer.
    pub fn question(&self) -> &str {
        &self.question
    }

    /// How its durable writes are made on a bare device.
    pub fn durability(&self) -> Durability {
        self.durability
    }

    /// How its operations arrive under an open load.
    pub fn arrival(&self) -> Arrival {
        self.arrival
    }

    /// Depths at which it is meant to run; empty where any will do.
    pub fn queue_depths(&self) -> &[u32] {
        &self.queue_depths
    }

    /// How much of each block of content compresses to nothing, in percent.
    pub fn compressible_percent(&self) -> u8 {
        self.compressible_percent
    }

    /// Its streams; at least one.
    pub fn parts(&self) -> &[Part] {
        &self.parts
    }

    /// Its only part, if it has no other and that covers the span with requests of one length.
    pub fn only_part(&self) -> Option<(&Part, u32)> {
        let [part] = &self.parts[..] else { return None };
        let [size] = &part.sizes[..] else { return None };
        (part.region_percent == (0.0, 100.0) && !part.read_modify_write).then_some((part, size.bytes))
    }

    /// The length of all its requests; `None` where they differ.
    pub fn operation_bytes(&self) -> Option<u32> {
        let mut sizes = self.parts.iter().flat_map(|part| &part.sizes).map(|size| size.bytes);
        let first = sizes.next()?;
        sizes.all(|bytes| bytes == first).then_some(first)
    }

    /// Its longest request.
    pub fn operation_bytes_max(&self) -> u32 {
        self.parts.iter().map(Part::operation_bytes_max).max().unwrap_or(0)
    }

    /// What all offsets and lengths are multiples of, 512 or 4096: the unit in which content is stamped and compared.
    pub fn unit_bytes(&self) -> u32 {
        let sizes = self.parts.iter().flat_map(|part| &part.sizes);
        if sizes.clone().all(|size| size.bytes.is_multiple_of(4096)) { 4096 } else { SECTOR_BYTES }
    }

    /// Some operations read.
    pub fn reads(&self) -> bool {
        self.parts.iter().any(|part| part.read_percent > 0 || part.read_modify_write)
    }

    /// Some operations write.
    pub fn writes(&self) -> bool {
        self.parts.iter().any(|part| part.read_percent < 100)
    }
}

impl fmt::Display for Workload {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(&self.name)
    }
}

/// No workload has this name, or its file is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkloadError {
    /// What was asked for.
    pub name: String,
    /// Why it cannot be had.
    pub reason: String,
}

impl WorkloadError {
    fn unknown(name: &str) -> Self {
        // A sweep is listed once.
        let mut names: Vec<&str> = Workload::all()
            .iter()
            .map(|workload| workload.name.split(':').next().unwrap_or_default())
            .collect();
        names.dedup();
        let reason = format!("unknown; known workloads: {}; or the path of a TOML file", names.join(", "));
        Self { name: name.to_owned(), reason }
    }
}

impl fmt::Display for WorkloadError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "workload {:?}: {}", self.name, self.reason)
    }
}

impl std::error::Error for WorkloadError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_found_and_there_once() {
        let mut names: Vec<&str> = Workload::all().iter().map(Workload::name).collect();
        for workload in Workload::all() {
            assert_eq!(&Workload::from_name(&workload.name).unwrap(), workload);
            assert_eq!(workload.to_string(), workload.name);
            assert!(workload.question.ends_with('?'), "{workload} asks nothing: {:?}", workload.question);
        }
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Workload::all().len());
        assert_eq!(Workload::named("snia-matrix").unwrap().len(), 56);
        assert_eq!(Workload::named("snia-matrix:r65-8K").unwrap().len(), 1);
    }

    #[test]
    fn an_unknown_name_is_told_the_known_ones() {
        let message = Workload::from_name("randread").unwrap_err().to_string();
        for name in ["\"randread\"", "randread-4k", "durable-4k-dsync", "snia-matrix", "ycsb-f"] {
            assert!(message.contains(name), "{message}");
        }
        assert!(!message.contains("snia-matrix:"), "{message}");
    }
}

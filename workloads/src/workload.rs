//! The workloads by name.
//!
//! A workload is data: a name and the few parameters a generator and an arm need. The names are a contract
//! with scripts and with stored results; a name never changes its meaning.

use std::fmt;
use std::str::FromStr;

/// Where the next operation goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Access {
    /// Every aligned place of the span is equally likely, each time independently.
    UniformRandom,
    /// One cursor, shared by everything in flight, from the start of the span to its end and round again.
    Sequential,
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

/// A workload. Engine arms use durable writes for both durable kinds; bare arms follow [`Workload::durability`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Workload {
    /// The name on the command line and in every result row.
    pub name: &'static str,
    /// Where operations go.
    pub access: Access,
    /// Share of reads in percent, 0 to 100.
    pub read_percent: u8,
    /// Length of every operation in bytes, a multiple of 4 KiB; offsets are multiples of it.
    pub operation_bytes: u32,
    /// What writers wait for.
    pub durability: Durability,
}

const fn workload(
    name: &'static str,
    access: Access,
    read_percent: u8,
    operation_bytes: u32,
    durability: Durability,
) -> Workload {
    Workload { name, access, read_percent, operation_bytes, durability }
}

const KIB: u32 = 1024;
const MIB: u32 = 1024 * KIB;

impl Workload {
    /// Every workload there is, in the order in which help texts list them.
    pub const ALL: [Workload; 7] = [
        workload("randread-4k", Access::UniformRandom, 100, 4 * KIB, Durability::None),
        workload("randwrite-4k", Access::UniformRandom, 0, 4 * KIB, Durability::None),
        workload("seqread-1m", Access::Sequential, 100, MIB, Durability::None),
        workload("seqwrite-1m", Access::Sequential, 0, MIB, Durability::None),
        workload("mixed-4k", Access::UniformRandom, 70, 4 * KIB, Durability::None),
        workload("durable-4k", Access::UniformRandom, 0, 4 * KIB, Durability::WriteThenFlush),
        workload("durable-4k-dsync", Access::UniformRandom, 0, 4 * KIB, Durability::DurableWrite),
    ];

    /// The workload of that name, or an error that lists the known names.
    pub fn from_name(name: &str) -> Result<Workload, UnknownWorkload> {
        Self::ALL
            .into_iter()
            .find(|workload| workload.name == name)
            .ok_or_else(|| UnknownWorkload { name: name.to_owned() })
    }

    /// The name on the command line and in every result row.
    pub const fn name(&self) -> &'static str {
        self.name
    }

    /// Some operations read.
    pub const fn reads(&self) -> bool {
        self.read_percent > 0
    }

    /// Some operations write.
    pub const fn writes(&self) -> bool {
        self.read_percent < 100
    }
}

impl FromStr for Workload {
    type Err = UnknownWorkload;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::from_name(name)
    }
}

impl fmt::Display for Workload {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(self.name)
    }
}

/// No workload has this name; the message lists those that exist.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownWorkload {
    /// What was asked for.
    pub name: String,
}

impl fmt::Display for UnknownWorkload {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "unknown workload {:?}; known workloads:", self.name)?;
        for (index, workload) in Workload::ALL.iter().enumerate() {
            write!(formatter, "{} {}", if index == 0 { "" } else { "," }, workload.name)?;
        }
        Ok(())
    }
}

impl std::error::Error for UnknownWorkload {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_parses_to_itself() {
        for workload in Workload::ALL {
            assert_eq!(workload.name.parse(), Ok(workload));
            assert_eq!(workload.to_string(), workload.name);
            assert!(workload.read_percent <= 100);
            assert_eq!(workload.operation_bytes % 4096, 0);
            assert!(workload.durability == Durability::None || !workload.reads());
        }
    }

    #[test]
    fn an_unknown_name_is_told_the_known_ones() {
        let message = Workload::from_name("randread").expect_err("not a name").to_string();
        assert!(message.contains("\"randread\""), "{message}");
        for workload in Workload::ALL {
            assert!(message.contains(workload.name), "{message}");
        }
    }
}

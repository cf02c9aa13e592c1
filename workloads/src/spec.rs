//! A workload as a TOML file.
//!
//! ```toml
//! name = "oltp"
//! question = "How does …?"
//! durability = "none"                     # none | write-then-flush | durable-write: how durable writes are made on a bare device
//! arrival = "poisson"                     # poisson | constant | { period_ms = 100, on_percent = 20 }; of open loads
//! queue_depths = [1, 32]                  # at which it runs if none is asked for
//! compressible_percent = 0                # of each block of content
//!
//! [[part]]                                # one or more
//! weight = 1                              # beside the other parts
//! region_percent = [0, 100]               # of the span
//! access = "uniform"                      # uniform | sequential | { zipf = 0.99 } | { latest = 0.99 }
//!                                         # | { hot = [{ space_percent = 5, access_percent = 50 }, …] }
//! read_percent = 67
//! sizes = { "8K" = 1 }                    # length = weight
//! durable = true                          # if durability is not "none" and not said otherwise
//! read_modify_write = false
//!
//! [sweep]                                 # instead of read_percent and sizes: one workload for each pair
//! read_percent = [100, 65, 0]
//! sizes = ["4K", "64K"]
//! ```
//!
//! Several workloads may stand in one file, as elements of `[[workload]]`.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde::Deserialize;

use crate::arrival::Arrival;
use crate::workload::{
    Access, CHOICES_MAX, Durability, HotRange, OPERATION_BYTES_MAX, PARTS_MAX, Part, SECTOR_BYTES, SizeShare,
    Workload,
};

/// Longest file.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// Most workloads of a sweep, or of a file.
const SWEEP_MAX: usize = 1_000;
/// Most milliseconds of a period of bursts: an hour.
const PERIOD_MS_MAX: u32 = 3_600_000;
/// Exponents of Zipf's law that workloads have.
const THETA: std::ops::RangeInclusive<f64> = 0.01..=5.0;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Several {
    workload: Vec<Spec>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Spec {
    name: String,
    question: String,
    #[serde(default)]
    durability: Waits,
    #[serde(default)]
    arrival: Arrives,
    #[serde(default)]
    queue_depths: Vec<u32>,
    #[serde(default)]
    compressible_percent: u8,
    part: Vec<PartSpec>,
    sweep: Option<Sweep>,
}

#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Waits {
    #[default]
    None,
    WriteThenFlush,
    DurableWrite,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(
    untagged,
    deny_unknown_fields,
    expecting = "poisson, constant or { period_ms, on_percent } is possible"
)]
enum Arrives {
    Plain(Plain),
    Bursts { period_ms: u32, on_percent: u8 },
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Plain {
    Poisson,
    Constant,
}

impl Default for Arrives {
    fn default() -> Self {
        Self::Plain(Plain::Poisson)
    }
}

#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct PartSpec {
    weight: Option<f64>,
    region_percent: Option<(f64, f64)>,
    access: AccessSpec,
    read_percent: Option<u8>,
    sizes: Option<BTreeMap<String, f64>>,
    durable: Option<bool>,
    #[serde(default)]
    read_modify_write: bool,
}

#[derive(Clone, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum AccessSpec {
    Uniform,
    Sequential,
    Zipf(f64),
    Latest(f64),
    Hot(Vec<HotSpec>),
}

#[derive(Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
struct HotSpec {
    space_percent: f64,
    access_percent: f64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Sweep {
    read_percent: Vec<u8>,
    sizes: Vec<String>,
}

/// The text of a file that somebody names.
pub(crate) fn read(path: &Path) -> Result<String, String> {
    let mut text = String::new();
    let file = File::open(path).map_err(|error| error.to_string())?;
    file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text).map_err(|error| error.to_string())?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(format!("a workload's file has at most {FILE_BYTES_MAX} bytes"));
    }
    Ok(text)
}

/// The workloads of a file; the error says what is wrong and where.
pub(crate) fn parse(text: &str) -> Result<Vec<Workload>, String> {
    let told = |error: toml::de::Error| error.to_string().trim_end().to_owned();
    let table: toml::Table = text.parse().map_err(told)?;
    let specs = if table.contains_key("workload") {
        toml::from_str::<Several>(text).map_err(told)?.workload
    } else {
        vec![toml::from_str::<Spec>(text).map_err(told)?]
    };
    let mut workloads = Vec::new();
    for spec in specs {
        let name = spec.name.clone();
        workloads.extend(spec.expand().map_err(|reason| format!("{name:?}: {reason}"))?);
        if workloads.len() > SWEEP_MAX {
            return Err(format!("at most {SWEEP_MAX} workloads are possible"));
        }
    }
    Ok(workloads)
}

impl Spec {
    fn expand(self) -> Result<Vec<Workload>, String> {
        let named = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if self.name.is_empty() || self.name.len() > 64 || !self.name.chars().all(named) {
            return Err("a name has 1 to 64 letters, digits, -, _ and .".to_owned());
        }
        if self.compressible_percent > 100 {
            return Err(format!("compressible_percent is {}, above 100", self.compressible_percent));
        }
        if let Some(depth) = self.queue_depths.iter().find(|depth| !(1..=4096).contains(*depth)) {
            return Err(format!("a queue depth of {depth}; 1 to 4096 are possible"));
        }
        let Some(sweep) = &self.sweep else { return Ok(vec![self.workload(self.name.clone(), None)?]) };
        let count = sweep.read_percent.len() * sweep.sizes.len();
        if count == 0 || count > SWEEP_MAX {
            return Err(format!("a sweep over {count} pairs; 1 to {SWEEP_MAX} are possible"));
        }
        let mut workloads = Vec::with_capacity(count);
        for read_percent in &sweep.read_percent {
            for size in &sweep.sizes {
                let name = format!("{}:r{read_percent}-{size}", self.name);
                workloads.push(self.workload(name, Some((*read_percent, size)))?);
            }
        }
        Ok(workloads)
    }

    fn workload(&self, name: String, swept: Option<(u8, &str)>) -> Result<Workload, String> {
        let durability = match self.durability {
            Waits::None => Durability::None,
            Waits::WriteThenFlush => Durability::WriteThenFlush,
            Waits::DurableWrite => Durability::DurableWrite,
        };
        if self.part.is_empty() || self.part.len() > PARTS_MAX {
            return Err(format!("{} parts; 1 to {PARTS_MAX} are possible", self.part.len()));
        }
        let numbered = self.part.iter().zip(1..);
        let parts = numbered
            .map(|(part, number)| {
                part.part(durability, swept).map_err(|reason| format!("part {number}: {reason}"))
            })
            .collect::<Result<_, _>>()?;
        Ok(Workload {
            name,
            question: self.question.clone(),
            durability,
            arrival: self.arrival.arrival()?,
            queue_depths: self.queue_depths.clone(),
            compressible_percent: self.compressible_percent,
            parts,
        })
    }
}

impl Arrives {
    fn arrival(self) -> Result<Arrival, String> {
        match self {
            Arrives::Plain(Plain::Poisson) => Ok(Arrival::Poisson),
            Arrives::Plain(Plain::Constant) => Ok(Arrival::Constant),
            Arrives::Bursts { period_ms: 1..=PERIOD_MS_MAX, on_percent: 1..=100 } => {
                let Arrives::Bursts { period_ms, on_percent } = self else { unreachable!("it is one") };
                Ok(Arrival::Bursts { period_ms, on_percent })
            }
            Arrives::Bursts { .. } => {
                Err(format!("bursts have a period_ms of 1 to {PERIOD_MS_MAX} and an on_percent of 1 to 100"))
            }
        }
    }
}

impl PartSpec {
    fn part(&self, durability: Durability, swept: Option<(u8, &str)>) -> Result<Part, String> {
        let said = self.read_percent.is_some() || self.sizes.is_some();
        let (read_percent, sizes) = match (swept, &self.sizes) {
            (Some(_), _) if said => return Err("read_percent and sizes are the sweep's".to_owned()),
            (Some((read_percent, size)), _) => {
                (read_percent, vec![SizeShare { bytes: size_bytes(size)?, weight: 1.0 }])
            }
            (None, None) => return Err("sizes are missing".to_owned()),
            (None, Some(sizes)) => {
                let read_percent = self.read_percent.ok_or("read_percent is missing")?;
                let share = |(size, weight): (&String, &f64)| {
                    Ok(SizeShare { bytes: size_bytes(size)?, weight: positive("a size's weight", *weight)? })
                };
                (read_percent, sizes.iter().map(share).collect::<Result<Vec<_>, String>>()?)
            }
        };
        if read_percent > 100 {
            return Err(format!("read_percent is {read_percent}, above 100"));
        }
        if sizes.is_empty() || sizes.len() > CHOICES_MAX {
            return Err(format!("{} sizes; 1 to {CHOICES_MAX} are possible", sizes.len()));
        }
        let region_percent = self.region_percent.unwrap_or((0.0, 100.0));
        if !(0.0 <= region_percent.0 && region_percent.0 < region_percent.1 && region_percent.1 <= 100.0) {
            return Err(format!("region_percent is {region_percent:?}; 0 <= begin < end <= 100 is possible"));
        }
        let waits = durability != Durability::None;
        if self.durable == Some(true) && !waits {
            return Err("durable writes need a durability other than none".to_owned());
        }
        Ok(Part {
            weight: positive("weight", self.weight.unwrap_or(1.0))?,
            region_percent,
            access: self.access.access()?,
            read_percent,
            sizes,
            durable: waits && self.durable.unwrap_or(true),
            read_modify_write: self.read_modify_write,
        })
    }
}

impl AccessSpec {
    fn access(&self) -> Result<Access, String> {
        let exponent = |theta: f64| {
            if THETA.contains(&theta) {
                Ok(theta)
            } else {
                Err(format!("an exponent of {theta}; {THETA:?} are possible"))
            }
        };
        Ok(match self {
            AccessSpec::Uniform => Access::UniformRandom,
            AccessSpec::Sequential => Access::Sequential,
            AccessSpec::Zipf(theta) => Access::Zipf(exponent(*theta)?),
            AccessSpec::Latest(theta) => Access::Latest(exponent(*theta)?),
            AccessSpec::Hot(ranges) => {
                let range = |range: &HotSpec| {
                    Ok(HotRange {
                        space_percent: positive("space_percent", range.space_percent)?,
                        access_percent: positive("access_percent", range.access_percent)?,
                    })
                };
                let ranges = ranges.iter().map(range).collect::<Result<Vec<_>, String>>()?;
                let sum = |of: fn(&HotRange) -> f64| ranges.iter().map(of).sum::<f64>();
                let whole = |sum: f64| (99.9..=100.1).contains(&sum);
                if ranges.len() > CHOICES_MAX
                    || !whole(sum(|r| r.space_percent))
                    || !whole(sum(|r| r.access_percent))
                {
                    return Err(format!(
                        "hot ranges: 1 to {CHOICES_MAX}, whose space_percent and access_percent make 100 each"
                    ));
                }
                Access::Hot(ranges)
            }
        })
    }
}

fn positive(what: &str, value: f64) -> Result<f64, String> {
    if (1e-6..=1e6).contains(&value) {
        Ok(value)
    } else {
        Err(format!("{what} is {value}; 0.000001 to 1000000 are possible"))
    }
}

/// `512`, `4K`, `1M`: a multiple of 512.
fn size_bytes(text: &str) -> Result<u32, String> {
    let (digits, unit) = match text.as_bytes().last() {
        Some(b'K') => (&text[..text.len() - 1], 1024),
        Some(b'M') => (&text[..text.len() - 1], 1 << 20),
        _ => (text, 1),
    };
    let bytes = digits.parse::<f64>().ok().map(|number| number * f64::from(unit));
    match bytes {
        Some(bytes) if bytes.fract() == 0.0 && (1.0..=f64::from(OPERATION_BYTES_MAX)).contains(&bytes) => {
            let bytes = bytes as u32;
            if bytes.is_multiple_of(SECTOR_BYTES) { Some(bytes) } else { None }
        }
        _ => None,
    }
    .ok_or_else(|| {
        format!(
            "a size of {text:?}; multiples of {SECTOR_BYTES} up to 16M are possible, as 512, 3.5K, 4K, 1M"
        )
    })
}

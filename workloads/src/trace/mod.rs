//! Real block traces: streaming readers of the layouts in which they are published, and what is made of them.
//!
//! ```text
//! file ── source ── reader ── sort ──┐
//!         unpacks   chunks,  window  ├── TraceStream ── Mapping ── replay
//! file ── source ── parsers ─ sort ──┘   by time            └───── Summary
//! ```
//!
//! A [`TraceStream`] gives [`Record`]s one at a time, in order of time. Memory is bounded whatever the files hold, and however many they
//! are: some chunks of 256 KiB and what is parsed of them, a sort window, and names up to a limit; beside them what unpacking a file takes. Every damaged input is an error
//! that names file, place and reason.
//!
//! One file a format. Each says its units, which is where readers of traces go wrong: sectors or bytes, seconds,
//! microseconds, nanoseconds or units of 100 ns.

mod alibaba;
mod blkparse;
mod blktrace;
mod chunk;
mod error;
mod fio_iolog;
mod fiu;
mod footprint;
mod format;
mod mapping;
mod mqsim;
mod msr;
mod reader;
mod record;
mod sort;
mod source;
mod spc;
mod stream;
mod summary;
mod systor;
mod tencent;
mod text;
mod timeline;
mod vscsi;

pub use chunk::Passed;
pub use error::{Place, TraceError, TraceErrorKind};
pub use footprint::{BLOCK_BYTES, Footprint, HotSpots, REGION_BYTES};
pub use format::{BlockEvent, Format, UnknownFormat};
pub use mapping::{Addresses, Mapped, Mapping, MappingCounts, MappingError, Speed};
pub use record::{ADDRESS_BYTES_MAX, Record, RecordKind};
pub use source::{Packing, ZSTD_WINDOW_BYTES_MAX};
pub use stream::{FILES_MAX, FileReport, RecordSource, TraceOptions, TraceStream};
pub use summary::{Arrivals, KindCounts, SIZE_CLASSES, Summary, SummaryBuilder, VOLUMES_MAX, VolumeCounts};
pub use text::LINE_BYTES_MAX;

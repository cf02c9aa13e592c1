//! What an operation means, and which images a crash may leave: the independent half of the test.
//!
//! Eight regions of one block each; a region's content is a number, 0 before the first write. Operations are
//! issued one after the other, so that the order of the log's entries is known: after a crash the image is one
//! of the *prefixes* of that order, and no shorter one than what was durable.

/// Regions of the volume.
pub const REGIONS: usize = 8;
/// Blocks of one log entry at most, for segments of 16 blocks; a longer write is several entries.
pub const ENTRY_REGIONS: usize = 4;

/// The content of each region.
pub type Image = [u64; REGIONS];

/// An operation on a range of regions: first and how many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    Write(usize, usize),
    DurableWrite(usize, usize),
    Zero(usize, usize),
    Discard(usize, usize),
    Flush,
}

/// The operations of which all triples are played. Their ranges lie apart, side by side, over each other in part,
/// inside each other, and over everything.
pub const OPS: [Op; 12] = [
    Op::Write(0, 3),
    Op::Write(2, 3),
    Op::Write(1, 1),
    Op::Write(0, 8),
    Op::DurableWrite(4, 4),
    Op::Zero(1, 3),
    Op::Zero(3, 1),
    Op::Zero(0, 8),
    Op::Discard(0, 2),
    Op::Discard(2, 2),
    Op::Discard(0, 8),
    Op::Flush,
];

/// One log entry as the oracle expects it: the operation that it belongs to.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// Counts the operations from 0.
    pub op: usize,
}

/// The images that may be found.
#[derive(Clone, Debug)]
pub struct Oracle {
    /// The image after each number of entries, none first.
    pub images: Vec<Image>,
    /// The entries in order.
    pub entries: Vec<Entry>,
    /// So many entries are durable.
    pub floor: usize,
    ops: Vec<Op>,
    /// Entries at the time the operation in flight was called.
    before: usize,
}

impl Oracle {
    pub fn new(base: Image) -> Self {
        Self { images: vec![base], entries: Vec::new(), floor: 0, ops: Vec::new(), before: 0 }
    }

    /// The content that this operation writes; no other one writes it.
    pub fn content(&self, base: u64) -> u64 {
        base + self.ops.len() as u64
    }

    /// An operation is called, now.
    pub fn issue(&mut self, op: Op, content: u64) {
        self.before = self.entries.len();
        let number = self.ops.len();
        self.ops.push(op);
        match op {
            Op::Write(first, count) | Op::DurableWrite(first, count) => {
                for piece in (first..first + count).step_by(ENTRY_REGIONS) {
                    self.append(number, piece, (first + count - piece).min(ENTRY_REGIONS), content);
                }
            }
            Op::Zero(first, count) | Op::Discard(first, count) => self.append(number, first, count, 0),
            Op::Flush => {}
        }
    }

    fn append(&mut self, op: usize, first: usize, count: usize, content: u64) {
        let mut image = self.images[self.entries.len()];
        image[first..first + count].fill(content);
        self.images.push(image);
        self.entries.push(Entry { op });
    }

    /// The operation that was called last has returned.
    pub fn completed(&mut self) {
        match self.ops.last() {
            Some(Op::Flush) => self.floor = self.before,
            Some(Op::DurableWrite(..)) => self.floor = self.entries.len(),
            _ => {}
        }
    }

    /// Judges what was found: so many entries, and this image.
    pub fn judge(&self, entries: u64, image: &Image, everything_survived: bool) -> Result<(), String> {
        let all = self.entries.len();
        let found = usize::try_from(entries).unwrap_or(usize::MAX);
        if found > all || found < self.floor {
            return Err(format!("{entries} entries, of {all} of which {} were durable", self.floor));
        }
        if everything_survived && found < all {
            return Err(format!("only {entries} of {all} entries, and nothing was lost"));
        }
        if *image != self.images[found] {
            return Err(format!("{image:?} instead of {:?} after {found} entries", self.images[found]));
        }
        Ok(())
    }

    /// Whether a batch written later says that the entries of this operation are durable: between the two a
    /// flush returned, or a durable write.
    pub fn is_promised_by_a_later_batch(&self, op: usize) -> bool {
        let durable = |at: &usize| matches!(self.ops[*at], Op::Flush | Op::DurableWrite(..));
        let promise = (op..self.ops.len()).find(durable);
        promise.is_some_and(|promise| self.entries.iter().any(|later| later.op > promise && later.op > op))
    }
}

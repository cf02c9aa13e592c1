//! The oracle: for every sector, the contents it may have.
//!
//! Each write of a sector is a version, in the order in which the writes were called. A version may be read
//! unless a later version had completed before the read began; it may be found after a power cut unless a
//! later version was durable. A write that failed, or whose future was dropped, may have happened or not: its
//! version may be seen, and displaces nothing. What the disk lied about (a dropped, changed or misdirected
//! write) may be anything until it is written again.

use std::ops::Range;

/// A digest of 512 bytes.
pub type Digest = u64;

/// Digest of a sector of zeroes.
pub fn zero_digest() -> Digest {
    digest(&[0; 512])
}

/// A digest that tells any two contents of a simulation apart (not an attacker's).
pub fn digest(sector: &[u8]) -> Digest {
    sector.chunks_exact(8).fold(0x2545_F491_4F6C_DD1D, |hash: u64, word| {
        let word = u64::from_le_bytes(word.try_into().unwrap());
        (hash ^ word).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(31)
    })
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    InFlight,
    /// Completed at this event.
    Completed(u64),
    /// Failed, cancelled, or in doubt after a failed flush.
    Doubtful,
}

#[derive(Clone, Debug)]
struct Version {
    order: u64,
    /// `None` where the disk lied.
    value: Option<Digest>,
    state: State,
    durable: bool,
}

/// Names a write from its call to its end.
#[derive(Clone, Debug)]
pub struct WriteTicket {
    order: u64,
    sectors: Range<usize>,
}

/// Names a read or a flush: the event before which things count as completed.
#[derive(Clone, Copy, Debug)]
pub struct Mark(u64);

/// The model of one volume.
#[derive(Debug)]
pub struct Model {
    sectors: Vec<Vec<Version>>,
    orders: u64,
    events: u64,
}

impl Model {
    /// A volume of this many sectors of zeroes, durable.
    pub fn new(sectors: usize) -> Self {
        let base =
            Version { order: 0, value: Some(zero_digest()), state: State::Completed(0), durable: true };
        Self { sectors: vec![vec![base]; sectors], orders: 0, events: 0 }
    }

    /// Sectors of the volume.
    pub fn len(&self) -> usize {
        self.sectors.len()
    }

    /// Whether the volume has no sectors.
    pub fn is_empty(&self) -> bool {
        self.sectors.is_empty()
    }

    /// A write is called, now.
    pub fn begin_write(
        &mut self,
        first: usize,
        values: impl ExactSizeIterator<Item = Digest>,
    ) -> WriteTicket {
        self.orders += 1;
        let sectors = first..first + values.len();
        for (sector, value) in sectors.clone().zip(values) {
            let order = self.orders;
            let version = Version { order, value: Some(value), state: State::InFlight, durable: false };
            self.sectors[sector].push(version);
        }
        WriteTicket { order: self.orders, sectors }
    }

    /// A write has returned, or its future was dropped (`succeeded` is false).
    pub fn end_write(&mut self, ticket: &WriteTicket, succeeded: bool, durable: bool) {
        self.events += 1;
        for sector in ticket.sectors.clone() {
            for version in &mut self.sectors[sector] {
                if version.order == ticket.order && version.state == State::InFlight {
                    version.state = if succeeded { State::Completed(self.events) } else { State::Doubtful };
                    version.durable = succeeded && durable;
                }
            }
        }
    }

    /// A read or flush is called, now.
    pub fn mark(&self) -> Mark {
        Mark(self.events)
    }

    /// A flush that was called at `mark` has succeeded.
    pub fn end_flush(&mut self, mark: Mark) {
        for version in self.sectors.iter_mut().flatten() {
            if matches!(version.state, State::Completed(event) if event <= mark.0) {
                version.durable = true;
            }
        }
    }

    /// A flush has failed: what is not durable by now is in doubt, and no later flush can promise it.
    pub fn fail_flush(&mut self) {
        for version in self.sectors.iter_mut().flatten() {
            if matches!(version.state, State::Completed(_)) && !version.durable {
                version.state = State::Doubtful;
            }
        }
    }

    /// The disk has lied about these sectors, now.
    pub fn distrust(&mut self, sectors: Range<usize>) {
        self.orders += 1;
        let order = self.orders;
        let end = sectors.end.min(self.sectors.len());
        for versions in self.sectors.get_mut(sectors.start..end).into_iter().flatten() {
            versions.push(Version { order, value: None, state: State::Doubtful, durable: false });
        }
    }

    /// Judges what a read that was called at `mark` has returned.
    ///
    /// # Errors
    /// The first sector whose contents are not allowed, in words.
    pub fn check_read(&self, mark: Mark, first: usize, found: &[Digest]) -> Result<(), String> {
        self.judge(first, found, |later| matches!(later.state, State::Completed(event) if event <= mark.0))
    }

    /// Judges what was found after a power cut, and takes it as the truth from now on.
    ///
    /// # Errors
    /// The first sector whose contents are not allowed, in words.
    pub fn check_cut(&mut self, found: &[Digest]) -> Result<(), String> {
        self.judge(0, found, |later| later.durable)?;
        for (versions, found) in self.sectors.iter_mut().zip(found) {
            let state = State::Completed(self.events);
            *versions = vec![Version { order: 0, value: Some(*found), state, durable: true }];
        }
        Ok(())
    }

    /// The sectors that nobody can say the lasting contents of: a flush or a write has failed, or was dropped, since
    /// they were last known to be durable.
    pub fn doubtful(&self) -> Vec<usize> {
        let in_doubt = |versions: &[Version]| {
            let floor = versions.iter().filter(|version| version.durable).map(|version| version.order).max();
            versions.iter().any(|version| Some(version.order) > floor && version.state == State::Doubtful)
        };
        let sectors = self.sectors.iter().enumerate();
        sectors.filter(|(_, versions)| in_doubt(versions)).map(|(sector, _)| sector).collect()
    }

    fn judge(
        &self,
        first: usize,
        found: &[Digest],
        displaces: impl Fn(&Version) -> bool,
    ) -> Result<(), String> {
        for (sector, found) in (first..).zip(found) {
            let versions = &self.sectors[sector];
            let floor = versions.iter().filter(|version| displaces(version)).map(|v| v.order).max();
            let allowed = |version: &Version| floor.is_none_or(|floor| version.order >= floor);
            let matches = |version: &Version| version.value.is_none_or(|value| value == *found);
            if !versions.iter().any(|version| allowed(version) && matches(version)) {
                let seen = versions.iter().rev().find(|version| version.value == Some(*found));
                return Err(match seen {
                    Some(old) => {
                        format!("sector {sector} went back to version {} of {versions:?}", old.order)
                    }
                    None if *found == zero_digest() => format!("sector {sector} is zero, of {versions:?}"),
                    None => format!("sector {sector} holds foreign bytes, of {versions:?}"),
                });
            }
        }
        Ok(())
    }

    /// Forgets versions that can never be seen again. To be called when nothing is in flight.
    pub fn settle(&mut self) {
        for versions in &mut self.sectors {
            if let Some(floor) = versions.iter().filter(|version| version.durable).map(|v| v.order).max() {
                versions.retain(|version| version.order >= floor);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(model: &mut Model, value: Digest) -> WriteTicket {
        model.begin_write(0, [value].into_iter())
    }

    #[test]
    fn a_read_sees_the_last_completed_write_or_a_later_one() {
        let mut model = Model::new(1);
        let first = write(&mut model, 1);
        assert!(model.check_read(model.mark(), 0, &[zero_digest()]).is_ok());
        assert!(model.check_read(model.mark(), 0, &[1]).is_ok());
        model.end_write(&first, true, false);
        assert!(model.check_read(model.mark(), 0, &[zero_digest()]).is_err());
        let second = write(&mut model, 2);
        model.end_write(&second, false, false);
        assert!(model.check_read(model.mark(), 0, &[1]).is_ok());
        assert!(model.check_read(model.mark(), 0, &[2]).is_ok());
        assert!(model.check_read(model.mark(), 0, &[3]).is_err());
    }

    #[test]
    fn a_cut_may_undo_what_was_not_flushed_and_nothing_else() {
        let mut model = Model::new(1);
        let first = write(&mut model, 1);
        let early = model.mark();
        model.end_write(&first, true, false);
        model.end_flush(early);
        assert!(
            model.judge(0, &[zero_digest()], |v| v.durable).is_ok(),
            "the flush began before it completed"
        );
        model.end_flush(model.mark());
        assert!(model.judge(0, &[zero_digest()], |v| v.durable).is_err());
        let second = write(&mut model, 2);
        model.end_write(&second, true, false);
        assert!(model.judge(0, &[1], |v| v.durable).is_ok());
        model.fail_flush();
        model.end_flush(model.mark());
        assert!(model.judge(0, &[1], |v| v.durable).is_ok(), "a later flush does not clear the doubt");
        assert!(model.check_cut(&[2]).is_ok());
        assert!(model.check_read(model.mark(), 0, &[1]).is_err(), "what was found is the truth");
    }

    #[test]
    fn a_lie_of_the_disk_allows_anything_until_the_next_write() {
        let mut model = Model::new(2);
        model.distrust(0..9);
        assert!(model.check_read(model.mark(), 0, &[77, 78]).is_ok());
        let next = write(&mut model, 5);
        model.end_write(&next, true, true);
        assert!(model.check_read(model.mark(), 0, &[77]).is_err());
        assert!(model.judge(0, &[77], |version| version.durable).is_err());
    }
}

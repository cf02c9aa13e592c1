//! Linear objects: which segments they have, and that nothing else lies there.

use std::collections::BTreeMap;

use super::rows::RowState;
use super::shape::{HOME_FIRST, Shape};
use super::state::{Judged, NUMBER_MAX, State, require};
use crate::format::index_page::INHERITED;
use crate::format::journal::{Change, Object, Snapshot};

/// Objects of a pool at most.
const OBJECTS_MAX: usize = 64;

/// Whether an object is taken.
pub(super) fn takes_one(change: &Change) -> bool {
    matches!(change, Change::Object(_, runs) if !runs.is_empty())
}

/// Whether a snapshot stands in a record with its object. A new one of the volume does where snapshots have objects, and
/// others do not; but one that an opening tells of has it already.
pub(super) fn goes_with(state: &State, snapshot: &Snapshot, record: &[Change]) -> Judged<bool> {
    let is_its = |change: &Change| {
        takes_one(change) && matches!(change, Change::Object(one, _) if one.snapshot == snapshot.number)
    };
    let goes_with = record.last().is_some_and(is_its);
    let is_new = snapshot.branch.get() == 0 && !state.names.has_snapshot(snapshot.number.get());
    let opens = matches!(record.first(), Some(Change::Opening(_)));
    let holds = opens || goes_with == (state.shape.objects && is_new);
    require(holds, "a snapshot has no linear object, or one too many")?;
    Ok(goes_with)
}

/// An object, as the journal has it.
#[derive(Clone, Debug)]
struct ObjectState {
    body: Object,
    runs: Vec<(u32, u32)>,
}

/// All objects, by the numbers of their first extents.
#[derive(Debug)]
pub(super) struct Objects {
    by_first: BTreeMap<u32, ObjectState>,
    /// The number behind the last one that has ever been used.
    end: u32,
}

impl Default for Objects {
    fn default() -> Self {
        Self { by_first: BTreeMap::new(), end: HOME_FIRST }
    }
}

impl Objects {
    /// Whether an extent has, or had, this number.
    pub fn has_number(&self, number: u32) -> bool {
        (HOME_FIRST..self.end).contains(&number)
    }

    /// The segment of an extent of an object that is there.
    pub fn segment(&self, number: u32) -> Option<u32> {
        let (first, object) = self.by_first.range(..=number).next_back()?;
        let mut at = number - first;
        for (first, count) in &object.runs {
            if at < *count {
                return Some(first + at);
            }
            at -= count;
        }
        None
    }

    fn is_sound(shape: &Shape, body: &Object) -> Judged<u32> {
        let (first, extents) = (body.first.get(), body.extents.get());
        let end = first.checked_add(extents).filter(|end| *end <= INHERITED);
        let sound = shape.is_object(first)
            && u64::from(extents) == shape.object_extents()
            && u64::from(first - HOME_FIRST).is_multiple_of(extents.into())
            && body.snapshot.get().max(body.sequence.get()) < NUMBER_MAX;
        end.filter(|_| sound).ok_or_else(|| "a linear object is none".to_string())
    }

    /// One is taken, with these segments.
    fn take(&mut self, shape: &Shape, body: &Object, runs: &[(u32, u32)], is_image: bool) -> Judged {
        let (first, end) = (body.first.get(), Self::is_sound(shape, body)?);
        let follows = if is_image { first >= self.end } else { first == self.end };
        require(follows, "the numbers of a linear object have been used")?;
        let inside = |(first, count): &(u32, u32)| {
            *count > 0 && u64::from(*first) + u64::from(*count) <= u64::from(shape.segments)
        };
        require(runs.iter().all(inside), "a linear object has segments that are none")?;
        let is_there = runs.iter().all(|(first, _)| shape.is_for_home(*first));
        require(is_there, "a linear object lies on the other device")?;
        let segments: u64 = runs.iter().map(|(_, count)| u64::from(*count)).sum();
        require(segments == shape.object_extents(), "a linear object has not a segment for each extent")?;
        require(self.by_first.len() < OBJECTS_MAX, "there are more linear objects than there may be")?;
        self.end = end;
        self.by_first.insert(first, ObjectState { body: *body, runs: runs.to_vec() });
        Ok(())
    }

    /// One of an image: it is there or, without segments, the last one that has been.
    pub fn of_image(&mut self, shape: &Shape, body: &Object, runs: &[(u32, u32)]) -> Judged {
        if !runs.is_empty() {
            return self.take(shape, body, runs, true);
        }
        let end = Self::is_sound(shape, body)?;
        let is_last = body.first.get() >= self.end && body.snapshot.get() == 0 && body.sequence.get() == 0;
        require(is_last, "a linear object that is gone is not the last one")?;
        self.end = end;
        Ok(())
    }

    /// One is given back.
    fn give_back(&mut self, body: &Object) -> Judged {
        let known = self.by_first.remove(&body.first.get());
        require(
            known.is_some_and(|known| known.body == *body),
            "a linear object that is not there is given back",
        )
    }
}

impl State {
    /// Each snapshot of the volume that an image keeps has its object there. Others may have outlived theirs, whose numbers may
    /// have been given anew.
    pub(super) fn objects_fit(&self) -> Judged {
        let of = |one: &ObjectState| (one.body.snapshot.get(), one.body.sequence.get());
        let has_its = |kept| self.objects.by_first.values().any(|one| of(one) == kept);
        let is_whole = !self.shape.objects || self.names.kept_of_volume().all(has_its);
        require(is_whole, "a snapshot has no linear object")
    }

    /// An object is taken or, without segments, given back, by a record.
    pub(super) fn object(&mut self, record: &[Change], body: &Object, runs: &[(u32, u32)]) -> Judged {
        if !runs.is_empty() {
            let is_of = |one: &Snapshot| one.number == body.snapshot && one.sequence == body.sequence;
            let mut taken = record.iter();
            let of_snapshot = taken.any(|change| matches!(change, Change::Snapshot(one, ..) if is_of(one)));
            require(of_snapshot, "a linear object is of no snapshot")?;
            return self.objects.take(&self.shape, body, runs, false);
        }
        self.objects.give_back(body)?;
        let is_kept = self.names.keeps(body.snapshot.get(), body.sequence.get());
        require(!is_kept, "a linear object is given back whose snapshot is kept")?;
        let numbers = body.first.get()..body.first.get().saturating_add(body.extents.get());
        require(
            self.rows.range(numbers).next().is_none(),
            "a linear object is given back that holds something",
        )
    }

    /// A row is that of an extent, and no place that has been used is used again.
    pub(super) fn object_row(&mut self, number: u32, made: RowState) -> Judged {
        let is_there = self.objects.segment(number) == Some(made.physical);
        require(is_there && made.used.is_some(), "a row is of no linear object")?;
        if let (Some(before), Some(used)) = (self.rows.get(&number), &made.used) {
            let were = before.used.as_deref().unwrap_or_default();
            for (at, were) in were.iter().enumerate() {
                require(were & !used[at] == 0, "a place in a linear object has not been used after all")?;
                let again = made.live[at] & were & !before.live[at];
                require(again == 0, "a dead slot lives again")?;
            }
        }
        self.put(number, made);
        Ok(())
    }

    /// Segments, one of an object, where something else lies.
    pub(super) fn shared_with_objects(&self) -> Vec<(u32, String)> {
        let mut found = Vec::new();
        let mut taken: BTreeMap<u32, (u32, u32)> = BTreeMap::new();
        for (first, object) in &self.objects.by_first {
            for (start, count) in &object.runs {
                let end = start + count;
                let before = taken.range(..end).next_back().filter(|(_, (end, _))| end > start);
                if let Some((_, (_, other))) = before {
                    found.push((*start, format!("linear objects {first} and {other} share a segment")));
                }
                taken.insert(*start, (end, *first));
                for (physical, rows) in self.users_of(*start..end) {
                    let is_own = |number: &u32| self.objects.segment(*number) == Some(physical);
                    if let Some(other) = rows.iter().find(|number| !is_own(number)) {
                        found.push((physical, format!("segment {other} lies in linear object {first}")));
                    }
                }
            }
        }
        let lost = self.rows.range(HOME_FIRST..).filter(|(number, row)| {
            row.used.is_some() && self.objects.segment(**number) != Some(row.physical)
        });
        found
            .extend(lost.map(|(number, row)| (row.physical, format!("row {number} is of no linear object"))));
        found
    }
}

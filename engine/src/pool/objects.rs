//! Linear objects: areas with a place for every block of the volume, each taken whole when a snapshot is.
//!
//! An object is a list of runs of segments. Its *extents*, one for each segment, have numbers of virtual segments, so that
//! the index names a place in it as any other; an extent has a row from the first block on that is placed there. The row
//! knows which slots live, and which have ever been used: a place is used once.
//!
//! Invariants: the segments of an object are its own from the record that takes it to the record that gives it back; the
//! numbers of its extents are never used twice, so that what the index says of an object that is gone is never taken for
//! one that is there.

use std::collections::BTreeMap;

use super::metadata::HOME_FIRST;
use crate::format::index_page::INHERITED;
use crate::format::journal::{self, Change};

/// The first number of an extent of an object. No volume has both objects and extents of its own.
pub const OBJECT_FIRST: u32 = HOME_FIRST;
/// Objects that a pool has at most.
pub const OBJECTS_MAX: usize = 64;

/// A linear object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    /// The number of its first extent.
    pub first: u32,
    /// How many extents it has.
    pub extents: u32,
    /// Number and moment of the snapshot that it was taken for.
    pub snapshot: (u64, u64),
    /// Its segments: first one and how many, in the order of the extents.
    pub runs: Vec<(u32, u32)>,
}

impl Object {
    /// The change that tells the journal of it; without runs, that it has been given back.
    pub fn change(&self) -> Change {
        let body = journal::Object {
            snapshot: self.snapshot.0.into(),
            sequence: self.snapshot.1.into(),
            first: self.first.into(),
            extents: self.extents.into(),
        };
        Change::Object(body, self.runs.clone())
    }

    /// What a change says; `None` where it says nothing possible.
    pub fn from_change(body: &journal::Object, runs: &[(u32, u32)]) -> Option<Self> {
        let (first, extents) = (body.first.get(), body.extents.get());
        let end = first.checked_add(extents)?;
        let segments: u64 = runs.iter().map(|(_, count)| u64::from(*count)).sum();
        let fits =
            runs.is_empty() || (segments == extents.into() && runs.iter().all(|(_, count)| *count > 0));
        let sound = first >= OBJECT_FIRST && extents > 0 && end <= INHERITED && fits;
        let snapshot = (body.snapshot.get(), body.sequence.get());
        sound.then(|| Self { first, extents, snapshot, runs: runs.to_vec() })
    }

    /// The number behind those of its extents.
    pub fn end(&self) -> u32 {
        self.first + self.extents
    }

    /// Its segments.
    pub fn segments(&self) -> impl Iterator<Item = u32> {
        // Whatever the device says; beyond the last one there is none.
        self.runs.iter().flat_map(|(first, count)| *first..first.saturating_add(*count))
    }

    /// The segment of the extent of this number.
    pub fn segment(&self, number: u32) -> Option<u32> {
        let mut at = number.checked_sub(self.first)?;
        for (first, count) in &self.runs {
            if at < *count {
                return first.checked_add(at);
            }
            at -= count;
        }
        None
    }
}

/// The objects of a pool.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Objects {
    /// By the numbers of their first extents, which rise.
    by_first: BTreeMap<u32, Object>,
    /// The last one that was taken, there or not: numbers go on behind it.
    last: Option<Object>,
}

impl Objects {
    /// Those there are, oldest first.
    pub fn values(&self) -> impl DoubleEndedIterator<Item = &Object> {
        self.by_first.values()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.by_first.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.by_first.is_empty()
    }

    /// The one that has an extent of this number.
    pub fn of_extent(&self, number: u32) -> Option<&Object> {
        self.by_first.range(..=number).next_back().map(|(_, object)| object).filter(|one| number < one.end())
    }

    /// The first number for the next one.
    pub fn next_first(&self) -> u32 {
        self.last.as_ref().map_or(OBJECT_FIRST, Object::end)
    }

    /// Takes one in; `None` where its numbers have been used.
    pub fn insert(&mut self, object: Object) -> Option<()> {
        if object.first < self.next_first() || self.len() == OBJECTS_MAX {
            return None;
        }
        self.note_last(&object);
        self.by_first.insert(object.first, object);
        Some(())
    }

    /// One is given back, which was there, or nothing but its numbers is known any more.
    pub fn remove(&mut self, gone: &Object) -> Option<Object> {
        self.note_last(gone);
        self.by_first.remove(&gone.first)
    }

    fn note_last(&mut self, object: &Object) {
        if object.first >= self.next_first() {
            self.last = Some(Object { snapshot: (0, 0), runs: Vec::new(), ..object.clone() });
        }
    }

    /// The changes that make them from nothing.
    pub fn changes(&self) -> impl Iterator<Item = Change> {
        let gone = self.last.iter().filter(|last| !self.by_first.contains_key(&last.first));
        self.by_first.values().chain(gone).map(Object::change)
    }
}

/// So many of these segments, which are free and in rising order, in as few runs as possible: the longest first, and at
/// last the shortest that is long enough.
pub fn choose_runs(free: &[u32], mut wanted: u32) -> Option<Vec<(u32, u32)>> {
    let mut runs: Vec<(u32, u32)> =
        free.chunk_by(|one, next| one + 1 == *next).map(|run| (run[0], run.len() as u32)).collect();
    runs.sort_by_key(|(first, count)| (*count, *first));
    let mut chosen = Vec::new();
    while wanted > 0 {
        let enough = runs.partition_point(|(_, count)| *count < wanted);
        let at = if enough < runs.len() { enough } else { runs.len().checked_sub(1)? };
        let (first, count) = runs.remove(at);
        chosen.push((first, count.min(wanted)));
        wanted -= count.min(wanted);
    }
    Some(chosen)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(first: u32, runs: &[(u32, u32)]) -> Object {
        let extents = runs.iter().map(|(_, count)| count).sum();
        Object { first: OBJECT_FIRST + first, extents, snapshot: (1, 9), runs: runs.to_vec() }
    }

    #[test]
    fn as_few_runs_are_taken_as_possible() {
        let free = [1, 2, 3, 7, 8, 9, 10, 11, 20, 30, 31];
        assert_eq!(choose_runs(&free, 3), Some(vec![(1, 3)]));
        assert_eq!(choose_runs(&free, 2), Some(vec![(30, 2)]));
        assert_eq!(choose_runs(&free, 4), Some(vec![(7, 4)]));
        assert_eq!(choose_runs(&free, 7), Some(vec![(7, 5), (30, 2)]));
        assert_eq!(choose_runs(&free, 11).map(|runs| runs.len()), Some(4));
        assert_eq!(choose_runs(&free, 12), None);
        assert_eq!(choose_runs(&[], 1), None);
    }

    #[test]
    fn an_extent_finds_its_segment() {
        let one = object(0, &[(7, 2), (3, 1)]);
        let found: Vec<_> = (0..4).map(|at| one.segment(OBJECT_FIRST + at)).collect();
        assert_eq!(found, [Some(7), Some(8), Some(3), None]);
        assert_eq!(one.segment(OBJECT_FIRST - 1), None);
        assert_eq!(one.segments().collect::<Vec<_>>(), [7, 8, 3]);
    }

    #[test]
    fn numbers_are_not_used_twice_even_when_all_objects_are_gone() {
        let mut objects = Objects::default();
        let (one, two) = (object(0, &[(7, 3)]), object(3, &[(1, 3)]));
        assert!(objects.insert(one.clone()).is_some() && objects.insert(two.clone()).is_some());
        assert!(objects.insert(object(5, &[(12, 3)])).is_none(), "5 is of the second");
        assert_eq!(objects.of_extent(OBJECT_FIRST + 5), Some(&two));
        assert_eq!(objects.of_extent(OBJECT_FIRST + 6), None);
        let given_back = |object: &Object| Object { runs: Vec::new(), ..object.clone() };
        assert_eq!(objects.remove(&given_back(&two)), Some(two));
        assert_eq!(objects.remove(&given_back(&one)), Some(one));
        let mut again = Objects::default();
        for change in objects.changes() {
            let Change::Object(body, runs) = change else { panic!("an object is told of") };
            assert!(runs.is_empty());
            again.remove(&Object::from_change(&body, &runs).unwrap());
        }
        assert_eq!((again.next_first(), &again), (OBJECT_FIRST + 6, &objects));
    }

    #[test]
    fn what_cannot_be_is_no_object() {
        let sound = object(0, &[(7, 3)]);
        let Change::Object(body, runs) = sound.change() else { panic!("an object is told of") };
        assert_eq!(Object::from_change(&body, &runs), Some(sound));
        for (first, extents, runs) in [
            (OBJECT_FIRST - 1, 3, vec![(7, 3)]),
            (OBJECT_FIRST, 0, vec![]),
            (OBJECT_FIRST, 4, vec![(7, 3)]),
            (OBJECT_FIRST, 3, vec![(7, 3), (9, 0)]),
            (INHERITED - 2, 3, vec![(7, 3)]),
            (u32::MAX, 3, vec![(7, 3)]),
        ] {
            let body = journal::Object { first: first.into(), extents: extents.into(), ..body };
            assert_eq!(Object::from_change(&body, &runs), None, "{first} {extents} {runs:?}");
        }
    }
}

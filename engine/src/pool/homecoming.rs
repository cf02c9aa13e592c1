//! Blocks of a linear volume that have been brought home, or copied to a linear object by a round that brings newer ones to the
//! base, and that no durable index finds there yet.
//!
//! The index in memory finds them at home at once. Their rows change with the checkpoint whose run says so, too: after
//! a crash before it the log is applied again from an earlier entry on, so that home holds older content for a while,
//! and what lies in the log is read.
//!
//! Invariant: a place at home lives in its row, or it is here, or it holds nothing that is wanted.

use std::collections::BTreeMap;

/// A row's number and a slot of it.
type Place = (u32, u32);

/// Places at home, and where in the log the same content lies, if it does.
#[derive(Debug, Default)]
pub struct Homecoming {
    /// Since the last checkpoint began.
    fresh: BTreeMap<Place, Option<Place>>,
    /// What a checkpoint under way is going to tell.
    frozen: BTreeMap<Place, Option<Place>>,
}

impl Homecoming {
    /// A block has come home.
    pub fn add(&mut self, home: Place, log: Option<Place>) {
        self.fresh.insert(home, log);
    }

    /// Begins a checkpoint.
    pub fn freeze(&mut self) {
        assert!(self.frozen.is_empty(), "one checkpoint at a time");
        std::mem::swap(&mut self.frozen, &mut self.fresh);
    }

    /// What that checkpoint tells, when it is about to.
    pub fn take_frozen(&mut self) -> BTreeMap<Place, Option<Place>> {
        std::mem::take(&mut self.frozen)
    }

    /// Nobody wants what came home there any more; where it lies in the log. `None` where nothing has.
    pub fn remove(&mut self, home: Place) -> Option<Option<Place>> {
        self.fresh.remove(&home).or_else(|| self.frozen.remove(&home))
    }

    /// Whether something wanted has come home there.
    pub fn contains(&self, home: Place) -> bool {
        self.fresh.contains_key(&home) || self.frozen.contains_key(&home)
    }

    /// Whether something wanted has come home to this extent.
    pub fn has_any(&self, number: u32) -> bool {
        let of_extent = (number, 0)..=(number, u32::MAX);
        [&self.fresh, &self.frozen].iter().any(|places| places.range(of_extent.clone()).next().is_some())
    }
}

//! The states that a crash may leave: of the writes that no flush has covered every subset, of the last one every torn
//! part; and the count of what has happened.

use std::cell::RefCell;
use std::collections::BTreeMap;

use icecore::device::simulated::Unflushed;

/// Unflushed writes of which every subset is tried; of more, the older ones survive.
pub const SUBSET_OF: usize = 6;
/// A write of so many sectors is torn in every way; of a longer one, each beginning, each end, and each hole.
const TORN_IN_EVERY_WAY: usize = 5;

/// How often something has happened.
#[derive(Default)]
pub struct Coverage(RefCell<BTreeMap<&'static str, u64>>);

impl Coverage {
    pub fn note(&self, name: &'static str) {
        *self.0.borrow_mut().entry(name).or_default() += 1;
    }

    pub fn count(&self, name: &str) -> u64 {
        self.0.borrow().get(name).copied().unwrap_or(0)
    }

    pub fn print_and_check(&self, expected: &[&str]) {
        let table = self.0.borrow();
        table.iter().for_each(|(name, count)| println!("{count:>12}  {name}"));
        let empty: Vec<_> = expected.iter().filter(|name| !table.contains_key(**name)).collect();
        assert!(empty.is_empty(), "never happened: {empty:?}");
    }
}

/// The torn forms of a write of so many sectors: which of them survive.
fn tears(sectors: usize) -> Vec<Vec<bool>> {
    let form = |keeps: &dyn Fn(usize) -> bool| (0..sectors).map(keeps).collect::<Vec<bool>>();
    if sectors <= TORN_IN_EVERY_WAY {
        return (0..1_usize << sectors).map(|mask| form(&|sector| mask >> sector & 1 == 1)).collect();
    }
    let mut forms: Vec<Vec<bool>> = (0..=sectors).map(|end| form(&|sector| sector < end)).collect();
    forms.extend((1..sectors).map(|start| form(&|sector| sector >= start)));
    forms.extend((1..sectors - 1).map(|hole| form(&|sector| sector != hole)));
    forms
}

/// One crash state: of each unflushed write the sectors that survive.
pub type Fates = Vec<BTreeMap<u64, bool>>;

/// Every state that a crash may leave.
pub fn crash_states(unflushed: &[Unflushed]) -> Vec<Fates> {
    let Some((last, before)) = unflushed.split_last() else { return vec![Vec::new()] };
    let fate = |sectors: &[u64], keeps: &dyn Fn(usize) -> bool| {
        sectors.iter().enumerate().map(|(at, sector)| (*sector, keeps(at))).collect::<BTreeMap<u64, bool>>()
    };
    let chosen = before.len().min(SUBSET_OF - 1);
    let mut states = Vec::new();
    for mask in 0..1_usize << chosen {
        let subset: Fates = before
            .iter()
            .enumerate()
            .map(|(at, write)| {
                let kept = at.checked_sub(before.len() - chosen).is_none_or(|bit| mask >> bit & 1 == 1);
                fate(&write.sectors, &|_| kept)
            })
            .collect();
        for tear in tears(last.sectors.len()) {
            let mut fates = subset.clone();
            fates.push(fate(&last.sectors, &|at| tear[at]));
            states.push(fates);
        }
    }
    states
}

//! The simulator finds every planted fault within 1,000 seeds, and nothing where none is planted. Those of a linear
//! volume, of a base and of writable snapshots are looked for where there are such. `MUTATION=NAME` tries one of them.

#![allow(clippy::disallowed_methods, reason = "several faults are looked for at a time")]

use std::sync::Mutex;

use icecore::mutation::{Mutation, switch};
use icecore::sim;
use icecore::store::Backend;

/// Seeds within which a planted fault must be found.
const SEEDS_MAX: u64 = 1000;
/// So much of what a seed says is printed.
const WHAT_CHARACTERS: usize = 100;

/// How a seed fails with this mutation, or with none.
fn failure(mutation: Option<Mutation>, seed: u64, backend: Backend) -> Option<String> {
    switch(mutation);
    let failure = sim::run_seed(seed, backend).failure;
    switch(None);
    failure
}

/// The first seed that fails, on which backend, and how.
fn find(mutation: Mutation) -> Option<(u64, Backend, String)> {
    let linear = [Backend::Linear];
    let logged = [Backend::LoggedCow];
    let base = [Backend::Cow, Backend::Overlay];
    let named = [Backend::Log, Backend::Cow, Backend::Overlay];
    let backends = match mutation {
        _ if Mutation::LINEAR.contains(&mutation) => &linear[..],
        _ if Mutation::BROUGHT.contains(&mutation) => &logged[..],
        _ if Mutation::BASE.contains(&mutation) => &base[..],
        _ if Mutation::BRANCHES.contains(&mutation) => &named[..],
        _ => &Backend::ALL[..],
    };
    let plays = (0..SEEDS_MAX).flat_map(|seed| backends.iter().map(move |backend| (seed, *backend)));
    plays
        .into_iter()
        .find_map(|(seed, backend)| Some((seed, backend, failure(Some(mutation), seed, backend)?)))
}

/// What was not found, and what fails without a planted fault too.
#[derive(Debug, Default, PartialEq)]
struct Amiss {
    missed: Vec<Mutation>,
    unasked: Vec<(Mutation, u64, Backend, String)>,
}

#[test]
fn every_planted_fault_is_found() {
    let only = std::env::var("MUTATION").ok();
    let chosen = |mutation: &Mutation| match &only {
        Some(only) => format!("{mutation:?}") == *only,
        // `snapshot_boundary`, `snapshot_groups`, `cow_rollback` and `objects_lost` find these.
        None => !Mutation::UNMET.contains(mutation),
    };
    let left: Mutex<Vec<Mutation>> = Mutex::new(Mutation::ALL.into_iter().filter(chosen).collect());
    let amiss = Mutex::new(Amiss::default());
    // A planted fault may end in a panic of the engine; its text is in the report already.
    std::panic::set_hook(Box::new(|_| {}));
    let look = || {
        let next = || left.lock().unwrap().pop();
        while let Some(mutation) = next() {
            match find(mutation) {
                Some((seed, backend, what)) => {
                    let what: String = what.chars().take(WHAT_CHARACTERS).collect();
                    println!("{mutation:?}: found by seed {} of {SEEDS_MAX}: {what}", seed + 1);
                    // It is the planted fault that the seed fails of.
                    let unasked = failure(None, seed, backend).map(|what| (mutation, seed, backend, what));
                    amiss.lock().unwrap().unasked.extend(unasked);
                }
                None => amiss.lock().unwrap().missed.push(mutation),
            }
        }
    };
    // A fault is planted for one thread.
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(look))));
    let _default_again = std::panic::take_hook();
    assert_eq!(amiss.into_inner().unwrap(), Amiss::default());
    assert!(
        (0..20).all(|seed| Backend::ALL.iter().all(|one| sim::run_seed(seed, *one).failure.is_none())),
        "and nothing without one"
    );
}

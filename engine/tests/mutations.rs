//! The simulator finds every planted fault within 1,000 seeds, and nothing where none is planted. Those of a linear
//! volume are looked for there alone. `MUTATION=NAME` tries one of them.

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
    let base = [Backend::Cow, Backend::Overlay];
    let backends = match mutation {
        _ if Mutation::LINEAR.contains(&mutation) => &linear[..],
        _ if Mutation::BASE.contains(&mutation) => &base[..],
        _ => &Backend::ALL[..],
    };
    let plays = (0..SEEDS_MAX).flat_map(|seed| backends.iter().map(move |backend| (seed, *backend)));
    plays
        .into_iter()
        .find_map(|(seed, backend)| Some((seed, backend, failure(Some(mutation), seed, backend)?)))
}

#[test]
fn every_planted_fault_is_found() {
    let (mut missed, mut unasked) = (Vec::new(), Vec::new());
    let only = std::env::var("MUTATION").ok();
    let chosen = |mutation: &Mutation| match &only {
        Some(only) => format!("{mutation:?}") == *only,
        // `snapshot_boundary` and `snapshot_groups` find these.
        None => !Mutation::UNMET.contains(mutation),
    };
    // A planted fault may end in a panic of the engine; its text is in the report already.
    std::panic::set_hook(Box::new(|_| {}));
    for mutation in Mutation::ALL.into_iter().filter(chosen) {
        match find(mutation) {
            Some((seed, backend, what)) => {
                let what: String = what.chars().take(WHAT_CHARACTERS).collect();
                println!("{mutation:?}: found by seed {} of {SEEDS_MAX}: {what}", seed + 1);
                // It is the planted fault that the seed fails of.
                unasked.extend(failure(None, seed, backend).map(|what| (mutation, seed, backend, what)));
            }
            None => missed.push(mutation),
        }
    }
    let _default_again = std::panic::take_hook();
    assert_eq!((missed, unasked), (vec![], vec![]), "not found, and failing without a planted fault");
    assert!(
        (0..20).all(|seed| Backend::ALL.iter().all(|one| sim::run_seed(seed, *one).failure.is_none())),
        "and nothing without one"
    );
}

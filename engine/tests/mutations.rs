//! The simulator finds every planted fault within 1,000 seeds, and nothing where none is planted. Those of a linear
//! volume are looked for there alone. `MUTATION=NAME` tries one of them.

use icecore::mutation::{Mutation, switch};
use icecore::sim;
use icecore::store::Backend;

/// Seeds within which a planted fault must be found.
const SEEDS_MAX: u64 = 1000;
/// So much of what a seed says is printed.
const WHAT_CHARACTERS: usize = 100;

/// Seeds until one fails, and how.
fn seeds_until_found(mutation: Mutation) -> Option<(u64, String)> {
    // A planted fault may end in a panic of the engine; its text is in the report already.
    std::panic::set_hook(Box::new(|_| {}));
    switch(Some(mutation));
    let linear = [Backend::Linear];
    let backends = if Mutation::LINEAR.contains(&mutation) { &linear[..] } else { &Backend::ALL };
    let failure = |seed| backends.iter().find_map(|backend| sim::run_seed(seed, *backend).failure);
    let found = (0..SEEDS_MAX).find_map(|seed| failure(seed).map(|what| (seed + 1, what)));
    switch(None);
    found
}

#[test]
fn every_planted_fault_is_found() {
    let mut missed = Vec::new();
    let only = std::env::var("MUTATION").ok();
    let chosen = |mutation: &Mutation| only.as_ref().is_none_or(|only| format!("{mutation:?}") == *only);
    for mutation in Mutation::ALL.into_iter().filter(chosen) {
        match seeds_until_found(mutation) {
            Some((seeds, what)) => {
                let what: String = what.chars().take(WHAT_CHARACTERS).collect();
                println!("{mutation:?}: found by seed {seeds} of {SEEDS_MAX}: {what}");
            }
            None => missed.push(mutation),
        }
    }
    let _default_again = std::panic::take_hook();
    assert_eq!(missed, []);
    assert!(
        (0..20).all(|seed| Backend::ALL.iter().all(|one| sim::run_seed(seed, *one).failure.is_none())),
        "and nothing without one"
    );
}

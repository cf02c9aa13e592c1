//! Every seed that ever failed passes now, and so does each I/O failing once.

use icecore::device::simulated::Fault;
use icecore::sim::{self, Script, Step};
use icecore::store::Backend;

#[test]
fn saved_seeds_pass() {
    let saved = include_str!("../seeds/simulate.txt");
    for line in saved.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let (seed, backend) = line.split_once(' ').unwrap_or((line, "direct"));
        let seed = seed.parse().unwrap_or_else(|_| panic!("{line:?} is a seed"));
        let backend = Backend::from_name(backend).unwrap();
        assert_eq!(sim::run_seed(seed, backend).failure, None, "seed {line}");
    }
}

/// A short script that uses every operation and then cuts power; fault-free by itself.
fn short_script(seed: u64, backend: Backend) -> Script {
    let from_seed = Script::of_backend(seed, backend);
    let quiet = |step: &&Step| !matches!(step, Step::Arm(_) | Step::Tamper(_) | Step::Recreate { .. });
    let mut steps: Vec<Step> = from_seed.steps.iter().filter(quiet).take(60).copied().collect();
    steps.push(Step::Reopen { cut_after: None });
    steps.extend(from_seed.steps.iter().filter(quiet).skip(60).take(20));
    Script { steps, ..from_seed }
}

#[test]
fn each_io_fails_once_and_nothing_acknowledged_is_lost() {
    // The whole matrix takes minutes; it is run when the log or its recovery changes.
    let every_fault = std::env::var_os("ICECORE_EVERY_FAULT").is_some();
    std::thread::scope(|scope| {
        for backend in Backend::ALL {
            // The scripts of a log are long: there each third request of a seed meets one of the faults.
            let all = every_fault || backend == Backend::Direct;
            scope.spawn(move || fail_each_io_once(backend, all));
        }
    });
}

/// Scripts for each backend.
const SEEDS: u64 = 3;

fn fail_each_io_once(backend: Backend, all: bool) {
    let faults = [
        Fault::Fail(libc::EIO),
        Fault::Fail(libc::ENOSPC),
        Fault::Short(512),
        Fault::Short(100),
        Fault::Short(0),
    ];
    let mut runs = 0;
    for seed in 0..SEEDS {
        let script = short_script(seed, backend);
        let requests = sim::run(&script).requests;
        assert!(requests > 80, "the script does something: {requests} requests");
        let chosen = |number: &u64| all || number % SEEDS == seed;
        for number in (0..requests).filter(chosen) {
            for (index, fault) in faults.into_iter().enumerate() {
                if !all && index != (number / SEEDS) as usize % faults.len() {
                    continue;
                }
                let report = sim::run_with_fault(&script, number, fault);
                assert_eq!(report.failure, None, "seed {seed}, {backend:?}, request {number}, {fault:?}");
                runs += 1;
            }
        }
    }
    println!("{backend:?}: {runs} runs");
}

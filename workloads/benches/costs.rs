//! What does an operation cost before it reaches a device?
//!
//! The runner's own cost is part of every measured number, so that these stay in nanoseconds: a stream below
//! 10 ns an operation, a claim below 10 ns, the stamps of 4 KiB below 40 ns.

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use icecore_workloads::{InFlight, Stamper, Stream, Workload};

fn costs(criterion: &mut Criterion) {
    for name in ["randread-4k", "seqread-1m", "mixed-4k", "ycsb-a", "jesd219"] {
        let workload = Workload::from_name(name).expect("a known name");
        let mut stream = Stream::new(&workload, 1 << 30, 42).expect("long enough");
        criterion
            .bench_function(&format!("stream/{name}"), |bencher| bencher.iter(|| stream.next_operation()));
    }

    for slots in [1_usize, 32] {
        let workload = Workload::from_name("randwrite-4k").expect("a known name");
        let mut stream = Stream::new(&workload, 1 << 30, 42).expect("long enough");
        let mut in_flight = InFlight::new(slots, 4096);
        let mut slot = 0;
        criterion.bench_function(&format!("stream-and-claim/depth-{slots}"), |bencher| {
            bencher.iter(|| {
                in_flight.release(slot);
                let operation = loop {
                    let operation = stream.next_operation();
                    if in_flight.claim(slot, operation.offset_bytes, operation.len_bytes) {
                        break operation;
                    }
                };
                slot = if slot + 1 == slots { 0 } else { slot + 1 };
                operation
            })
        });
    }

    let stamper = Stamper::new(42);
    for (name, blocks) in [("4k", 1), ("1m", 256)] {
        let mut buffer = vec![0; blocks * 4096];
        stamper.prepare(&mut buffer);
        let mut generation = 0;
        criterion.bench_function(&format!("stamp/{name}"), |bencher| {
            bencher.iter(|| {
                generation += 1;
                stamper.stamp(black_box(&mut buffer), black_box(8192), generation);
            })
        });
        criterion.bench_function(&format!("verify/{name}"), |bencher| {
            bencher.iter(|| stamper.verify(black_box(&buffer), black_box(8192), generation))
        });
    }
}

criterion_group!(benches, costs);
criterion_main!(benches);

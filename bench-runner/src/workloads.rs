//! The `workloads` command: what there is to be run, and by what it is known to be the same.

use icecore_workloads::{Stream, Workload};
use serde_json::{Value, json};

/// Span, seed and operations of the digests: those that the workloads' own tests hold them to.
const DIGEST_SPAN_BYTES: u64 = 1 << 30;
const DIGEST_SEED: u64 = 42;
const DIGEST_OPERATIONS: usize = 100_000;

/// Prints every workload that is built in.
pub(crate) fn list(json: bool) {
    if json {
        let workloads: Vec<Value> = Workload::all().iter().map(described).collect();
        println!("{}", json!({ "workloads": workloads }));
        return;
    }
    let mut last = "";
    for workload in Workload::all() {
        let name = workload.name();
        // The members of a sweep have one question.
        match name.split_once(':') {
            Some((sweep, member)) if sweep == last => print!(" {member}"),
            Some((sweep, member)) => {
                print!("{sweep}\n    {}\n    {sweep}: and one of {member}", workload.question());
                last = sweep;
            }
            None => println!("{name}\n    {}", workload.question()),
        }
    }
    println!();
}

fn described(workload: &Workload) -> Value {
    let digest = Stream::new(workload, DIGEST_SPAN_BYTES, DIGEST_SEED)
        .map(|stream| format!("{:016x}", stream.digest(DIGEST_OPERATIONS)));
    json!({
        "name": workload.name(),
        "question": workload.question(),
        "queue_depths": workload.queue_depths(),
        "operation_bytes": workload.operation_bytes(),
        "operation_bytes_max": workload.operation_bytes_max(),
        "digest": digest.ok(),
    })
}

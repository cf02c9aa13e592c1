//! bench-runner: what a volume costs on your own disks. See `bench-runner --help`.

#[global_allocator]
static ALLOCATOR: bench_runner::allocations::CountingAllocator = bench_runner::allocations::CountingAllocator;

fn main() {
    std::process::exit(bench_runner::commands::main());
}

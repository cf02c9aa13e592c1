//! Volumes on simulated disks: what they promise, over cuts, faults and full devices.
//!
//! One program, so that it is linked once. `vlog` and `apart` hold the worked example and the disks, on one device and on
//! several, `objects` where linear objects lie; every other file has one subject.

mod apart;
mod base_apart;
mod base_vectors;
mod branches;
mod check_apart;
mod check_clean;
mod cleaning;
mod cow_rollback;
mod crowded_index;
mod full_index;
mod further_volumes;
mod growing;
mod growing_apart;
mod held_back;
mod image_reads;
mod linear_objects;
mod linear_order;
mod linear_pools;
mod linear_volume;
mod log_lost;
mod log_variants;
mod log_volume;
mod logged_cow;
mod many_snapshots;
mod move_home;
mod objects;
mod objects_apart;
mod objects_lost;
mod on_disk;
mod open_targets;
mod rollback;
mod separate_devices;
mod simulation;
mod snapshot_exclusive;
mod snapshot_groups;
mod snapshot_locks;
mod snapshot_space;
mod snapshot_throttle;
mod snapshots;
mod vlog;

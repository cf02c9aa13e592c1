//! Storage objects: what a store places blocks in. *Linear* ones keep every block in its place; *mapped* ones take
//! them in the order of arrival and find them by the versioned index, which is `pool::log` with `pool::index`.

pub mod linear;

//! Streams of operations.

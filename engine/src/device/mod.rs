//! Devices: the engine's only door to storage.
pub mod identity;
pub mod safety;
pub mod signature;
pub mod sys;

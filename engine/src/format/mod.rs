//! Persisted and wire records: bytes only.
//!
//! One file for each record, with its layout table as the doc comment, compile-time size checks, golden bytes
//! and a corrupt-every-byte test beside it. All integers are little-endian, but for NBD's; there is no padding.

pub mod batch;
pub mod control;
pub mod index_page;
pub mod journal;
pub mod nbd;
pub mod root;
pub mod superblock;

/// CRC-32C (Castagnoli), the checksum of every record and block.
pub fn crc32c(parts: &[&[u8]]) -> u32 {
    let mut digest = crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc32Iscsi);
    for part in parts {
        digest.update(part);
    }
    digest.finalize() as u32
}

//! The table of foreign signatures: what, where, which bytes, and what else must hold.
//!
//! The order is the order of telling. A container of other things (a partition table, a volume
//! manager's or RAID label) comes before the file system that may lie in it; marks of four bytes and
//! more come before short ones; marks that other formats carry too, as `55AA`, come last.
//!
//! Sources: the formats' own headers (Linux `fs/` and `drivers/md`, UEFI 2.10 chapter 5, ECMA-119,
//! ECMA-167, the QEMU and VirtualBox sources, the VHDX specification) and libblkid's choice of what to
//! check.

use super::View;

/// Where a magic number lies.
#[derive(Clone, Copy)]
pub enum Place {
    /// Bytes from the device's start.
    Start(u64),
    /// Bytes before the device's end.
    End(u64),
    /// Bytes before the device's size rounded down to a multiple.
    AlignedEnd { multiple: u64, back: u64 },
}

/// One form of one format's mark.
pub struct Entry {
    /// The format, as people call it.
    pub name: &'static str,
    /// Every place where the magic number may lie.
    pub places: &'static [Place],
    /// The magic number.
    pub magic: &'static [u8],
    /// Whether the bytes around a magic number at the given place make it believable; `None` where
    /// they cannot be read.
    pub plausible: fn(&View<'_>, u64) -> Option<bool>,
}

use Place::{AlignedEnd, End, Start};

const fn mark(name: &'static str, places: &'static [Place], magic: &'static [u8]) -> Entry {
    Entry { name, places, magic, plausible: |_, _| Some(true) }
}

const fn weak(
    name: &'static str,
    places: &'static [Place],
    magic: &'static [u8],
    plausible: fn(&View<'_>, u64) -> Option<bool>,
) -> Entry {
    Entry { name, places, magic, plausible }
}

const FIRST: &[Place] = &[Start(0)];
/// The last ten bytes of the first page, for every page size Linux has.
const SWAP: &[Place] = &[Start(4086), Start(8182), Start(16_374), Start(32_758), Start(65_526)];
const SUPERBLOCK_1K: &[Place] = &[Start(1024)];
const MINIX_1_2: &[Place] = &[Start(1040)];
const EXT: &[Place] = &[Start(1080)];
const BOOT_SIGNATURE: &[Place] = &[Start(510)];
const MD_1: &[Place] = &[Start(0), Start(4096), AlignedEnd { multiple: 4096, back: 8192 }];
const MD_0_90: &[Place] = &[AlignedEnd { multiple: 65_536, back: 65_536 }];
/// After the first header, whose size is a choice; the larger ones are rare.
const LUKS2_SECOND: &[Place] =
    &[Start(0x4000), Start(0x8000), Start(0x1_0000), Start(0x2_0000), Start(0x4_0000), Start(0x8_0000)];
const DRBD: &[Place] = &[End(4096 - 60)];
const DDF: &[Place] = &[End(512), End(257 * 512)];
const REISERFS: &[Place] = &[Start(65_588), Start(8244), Start(8212)];
const ZFS_LABELS: &[Place] = &[
    Start(16 << 10),
    Start(272 << 10),
    AlignedEnd { multiple: 256 << 10, back: 496 << 10 },
    AlignedEnd { multiple: 256 << 10, back: 240 << 10 },
];
/// The uberblocks' ring is the second half of each label. Its first slot and the fourth (where the first
/// one of a pool goes), for the slot sizes of 512-byte and 4096-byte sectors.
const ZFS_UBERBLOCKS: &[Place] = &[
    Start(128 << 10),
    Start(132 << 10),
    Start(144 << 10),
    Start(384 << 10),
    Start(388 << 10),
    Start(400 << 10),
    AlignedEnd { multiple: 256 << 10, back: 384 << 10 },
    AlignedEnd { multiple: 256 << 10, back: 380 << 10 },
    AlignedEnd { multiple: 256 << 10, back: 368 << 10 },
    AlignedEnd { multiple: 256 << 10, back: 128 << 10 },
    AlignedEnd { multiple: 256 << 10, back: 124 << 10 },
    AlignedEnd { multiple: 256 << 10, back: 112 << 10 },
];
/// Volume descriptors of optical discs: blocks of 2048 bytes from 32 KiB on, their name after one byte.
const DISC: &[Place] =
    &[Start(32_769), Start(34_817), Start(36_865), Start(38_913), Start(40_961), Start(43_009)];

/// Every signature that is known.
pub const TABLE: &[Entry] = &[
    // Partition tables that say so.
    mark("GPT", &[Start(512), Start(4096)], b"EFI PART"),
    mark("GPT backup", &[End(512), End(4096)], b"EFI PART"),
    // Encryption and volume managers.
    mark("LUKS", FIRST, b"LUKS\xba\xbe"),
    mark("LUKS2 second header", LUKS2_SECOND, b"SKUL\xba\xbe"),
    mark("BitLocker", &[Start(3)], b"-FVE-FS-"),
    weak(
        "LVM2 physical volume",
        &[Start(0), Start(512), Start(1024), Start(1536)],
        b"LABELONE",
        |view, at| Some(view.bytes(at + 24, 5)? == b"LVM2 "),
    ),
    mark("Stratis", &[Start(516), Start(4612)], b"!Stra0tis\x86\xff\x02^\x41rh"),
    mark("VDO", FIRST, b"dmvdo001"),
    mark("Ceph BlueStore", FIRST, b"bluestore block device"),
    mark("DRBD metadata", DRBD, &[0x83, 0x74, 0x02, 0x6b]),
    mark("DRBD metadata", DRBD, &[0x83, 0x74, 0x02, 0x6c]),
    mark("DRBD metadata", DRBD, &[0x83, 0x74, 0x02, 0x6d]),
    mark("dm-thin metadata", &[Start(32)], &27_022_010_u64.to_le_bytes()),
    // Octal, as in the kernel's header.
    mark("dm-cache metadata", &[Start(32)], &0o6_142_003_u64.to_le_bytes()),
    mark("dm-era metadata", &[Start(32)], &2_126_579_579_u64.to_le_bytes()),
    mark("dm-snapshot store", FIRST, b"SnAp"),
    mark("dm-writecache", FIRST, &0x2348_9321_u32.to_le_bytes()),
    mark("dm-verity", FIRST, b"verity\0\0"),
    mark("dm-integrity", FIRST, b"integrt\0"),
    mark("bcache", &[Start(4120)], b"\xc6\x85\x73\xf6\x4e\x1a\x45\xca\x82\x65\xf5\x7f\x48\xba\x6d\x81"),
    mark("Oracle ASM", &[Start(32)], b"ORCLDISK"),
    // RAID members.
    weak("Linux RAID", MD_1, &0xa92b_4efc_u32.to_le_bytes(), |view, at| Some(view.u32_le(at + 4)? == 1)),
    mark("Linux RAID", MD_0_90, &0xa92b_4efc_u32.to_le_bytes()),
    mark("Linux RAID", MD_0_90, &0xa92b_4efc_u32.to_be_bytes()),
    mark("Intel RAID", &[End(1024)], b"Intel Raid ISM Cfg Sig. "),
    mark("DDF RAID", DDF, &0xde11_de11_u32.to_be_bytes()),
    // File systems with marks that cannot be anything else.
    mark("btrfs", &[Start(65_600)], b"_BHRfS_M"),
    mark("XFS", FIRST, b"XFSB"),
    mark("bcachefs", &[Start(4120)], b"\xc6\x85\x73\xf6\x66\xce\x90\xa9\xd9\x6a\x60\xcf\x80\x3d\xf7\xef"),
    weak("ZFS", ZFS_LABELS, &[1], zfs_label),
    mark("ZFS", ZFS_UBERBLOCKS, &0x00ba_b10c_u64.to_le_bytes()),
    mark("ZFS", ZFS_UBERBLOCKS, &0x00ba_b10c_u64.to_be_bytes()),
    mark("F2FS", SUPERBLOCK_1K, &0xf2f5_2010_u32.to_le_bytes()),
    mark("JFS", &[Start(32_768)], b"JFS1"),
    mark("ReiserFS", REISERFS, b"ReIsErFs"),
    mark("ReiserFS", REISERFS, b"ReIsEr2Fs"),
    mark("ReiserFS", REISERFS, b"ReIsEr3Fs"),
    mark("Reiser4", &[Start(65_536)], b"ReIsEr4"),
    mark("APFS", &[Start(32)], b"NXSB"),
    mark("GFS2", &[Start(65_536)], &0x0116_1970_u32.to_be_bytes()),
    mark("OCFS2", &[Start(1024), Start(2048), Start(4096), Start(8192)], b"OCFSV2"),
    mark("EROFS", SUPERBLOCK_1K, &0xe0f5_e1e2_u32.to_le_bytes()),
    mark("squashfs", FIRST, b"hsqs"),
    mark("squashfs", FIRST, b"sqsh"),
    mark("cramfs", &[Start(0), Start(512)], &0x28cd_3d45_u32.to_le_bytes()),
    mark("cramfs", &[Start(0), Start(512)], &0x28cd_3d45_u32.to_be_bytes()),
    mark("swap", SWAP, b"SWAPSPACE2"),
    mark("swap", SWAP, b"SWAP-SPACE"),
    // A hibernated system's image in its swap area.
    mark("suspended system", SWAP, b"S1SUSPEND\0"),
    mark("suspended system", SWAP, b"S2SUSPEND\0"),
    mark("suspended system", SWAP, b"LINHIB0001"),
    mark("UDF", DISC, b"NSR02"),
    mark("UDF", DISC, b"NSR03"),
    mark("ISO 9660", DISC, b"CD001"),
    // Virtual disks kept in files.
    mark("qcow2", FIRST, b"QFI\xfb"),
    mark("QED", FIRST, b"QED\0"),
    mark("VMDK", FIRST, b"KDMV"),
    mark("VMDK", FIRST, b"COWD"),
    mark("VMDK", FIRST, b"# Disk DescriptorFile"),
    mark("VDI", &[Start(64)], &0xbeda_107f_u32.to_le_bytes()),
    mark("VHDX", FIRST, b"vhdxfile"),
    mark("VHD", &[Start(0), End(512), End(511)], b"conectix"),
    // Boot sectors.
    mark("NTFS", &[Start(3)], b"NTFS    "),
    mark("exFAT", &[Start(3)], b"EXFAT   "),
    // Marks of two bytes.
    weak("ext journal", EXT, &EXT_MAGIC, |view, at| Some(ext_kind(view, at)? == Ext::Journal)),
    weak("ext4", EXT, &EXT_MAGIC, |view, at| Some(ext_kind(view, at)? == Ext::Four)),
    weak("ext3", EXT, &EXT_MAGIC, |view, at| Some(ext_kind(view, at)? == Ext::Three)),
    weak("ext2", EXT, &EXT_MAGIC, |view, at| Some(ext_kind(view, at)? == Ext::Two)),
    weak("HFS+", SUPERBLOCK_1K, b"H+", |view, at| Some(view.byte(at + 2)? == 0 && view.byte(at + 3)? == 4)),
    weak("HFS+", SUPERBLOCK_1K, b"HX", |view, at| Some(view.byte(at + 2)? == 0 && view.byte(at + 3)? == 5)),
    weak("HFS", SUPERBLOCK_1K, b"BD", hfs),
    weak("NILFS2", &[Start(1030)], &0x3434_u16.to_le_bytes(), |view, at| Some(view.u32_le(at - 6)? == 2)),
    weak("MINIX", MINIX_1_2, &0x137f_u16.to_le_bytes(), minix),
    weak("MINIX", MINIX_1_2, &0x138f_u16.to_le_bytes(), minix),
    weak("MINIX", MINIX_1_2, &0x2468_u16.to_le_bytes(), minix),
    weak("MINIX", MINIX_1_2, &0x2478_u16.to_le_bytes(), minix),
    weak("FAT", BOOT_SIGNATURE, &[0x55, 0xaa], |view, _| fat(view)),
    weak("MBR", BOOT_SIGNATURE, &[0x55, 0xaa], |view, _| mbr(view)),
];

/// A label's list of names and values: XDR-encoded, so many bytes of header, and `version` is the name
/// of its first pair.
fn zfs_label(view: &View<'_>, at: u64) -> Option<bool> {
    Some(view.byte(at + 1)? <= 1 && view.bytes(at + 20, 11)? == b"\0\0\0\x07version")
}

const EXT_MAGIC: [u8; 2] = 0xef53_u16.to_le_bytes();

#[derive(PartialEq, Eq)]
enum Ext {
    Two,
    Three,
    Four,
    Journal,
}

/// Which of the family it is, by the features that the older ones do not know; `None` where the fields
/// beside the magic number are not a superblock's.
fn ext_kind(view: &View<'_>, magic_at: u64) -> Option<Ext> {
    let superblock = magic_at - 56;
    let inodes = view.u32_le(superblock)?;
    let block_shift = view.u32_le(superblock + 24)?;
    let compatible = view.u32_le(superblock + 92)?;
    let incompatible = view.u32_le(superblock + 96)?;
    let read_only_compatible = view.u32_le(superblock + 100)?;
    // Blocks are 1024 bytes shifted by this, at most 64 KiB.
    if block_shift > 6 {
        return None;
    }
    const JOURNAL_DEVICE: u32 = 0x8;
    const KNOWN_TO_EXT2: u32 = 0x2 | 0x10;
    const KNOWN_TO_EXT3: u32 = KNOWN_TO_EXT2 | 0x4;
    const READ_ONLY_KNOWN: u32 = 0x7;
    const HAS_JOURNAL: u32 = 0x4;
    if incompatible & JOURNAL_DEVICE != 0 {
        Some(Ext::Journal)
    } else if inodes == 0 {
        None
    } else if incompatible & !KNOWN_TO_EXT3 != 0 || read_only_compatible & !READ_ONLY_KNOWN != 0 {
        Some(Ext::Four)
    } else if compatible & HAS_JOURNAL != 0 {
        Some(Ext::Three)
    } else {
        Some(Ext::Two)
    }
}

/// An allocation block is a multiple of a sector, and there is at least one.
fn hfs(view: &View<'_>, at: u64) -> Option<bool> {
    let blocks = u16::from_be_bytes(view.array(at + 18)?);
    let block_bytes = u32::from_be_bytes(view.array(at + 20)?);
    Some(blocks > 0 && block_bytes > 0 && block_bytes.is_multiple_of(512))
}

/// The bitmap of inodes has a bit for each of them.
fn minix(view: &View<'_>, magic_at: u64) -> Option<bool> {
    let superblock = magic_at - 16;
    let inodes = u32::from(view.u16_le(superblock)?);
    let inode_map_blocks = u32::from(view.u16_le(superblock + 4)?);
    let zone_map_blocks = view.u16_le(superblock + 6)?;
    Some(inodes > 0 && zone_map_blocks > 0 && inode_map_blocks * 1024 * 8 > inodes)
}

/// A boot sector whose parameter block describes a FAT file system. The names `FAT16` and the like in
/// it are only for people, and not every formatter writes them.
fn fat(view: &View<'_>) -> Option<bool> {
    let jump = matches!(view.byte(0)?, 0xeb | 0xe9);
    let sector_bytes = view.u16_le(11)?;
    let cluster_sectors = view.byte(13)?;
    let reserved_sectors = view.u16_le(14)?;
    let tables = view.byte(16)?;
    let media = view.byte(21)?;
    let sectors = u32::from(view.u16_le(19)?) | view.u32_le(32)?;
    let table_sectors = u32::from(view.u16_le(22)?) | view.u32_le(36)?;
    Some(
        jump && matches!(sector_bytes, 512 | 1024 | 2048 | 4096)
            && cluster_sectors.is_power_of_two()
            && reserved_sectors > 0
            && matches!(tables, 1 | 2)
            && (media == 0xf0 || media >= 0xf8)
            && sectors > 0
            && table_sectors > 0,
    )
}

/// Four entries of which each is empty or begins like one, and at least one is not empty. A boot sector
/// without a partition has none.
fn mbr(view: &View<'_>) -> Option<bool> {
    let mut used = 0;
    for entry in (446..510).step_by(16) {
        let boot_flag = view.byte(entry)?;
        let kind = view.byte(entry + 4)?;
        let start_sector = view.u32_le(entry + 8)?;
        let sectors = view.u32_le(entry + 12)?;
        if boot_flag & 0x7f != 0 {
            return Some(false);
        }
        if kind != 0 && start_sector > 0 && sectors > 0 {
            used += 1;
        }
    }
    Some(used > 0)
}

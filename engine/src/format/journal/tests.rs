//! Every change comes back from its bytes; damaged ones are told.

use super::*;

fn object() -> Object {
    Object { snapshot: 3.into(), sequence: 8.into(), first: (1 << 31).into(), extents: 3.into() }
}

fn in_group() -> Snapshot {
    Snapshot {
        number: 4.into(),
        sequence: 9.into(),
        time_unix_ns: 8.into(),
        removed: 0.into(),
        name_bytes: 2.into(),
        branch: 1.into(),
    }
}

fn volume() -> Volume {
    Volume {
        size_bytes: 0x10_0000.into(),
        sequence: 9.into(),
        time_unix_ns: 8.into(),
        branch: 5.into(),
        name_bytes: 2.into(),
        removed: 1.into(),
    }
}

fn group() -> SnapshotGroup {
    SnapshotGroup { id: [0xA5; 16], members: 3.into() }
}

fn changes() -> Vec<Change> {
    let row = Row {
        virtual_segment: 3.into(),
        physical: 8.into(),
        first_block: 16.into(),
        slots: 70.into(),
        identity: 0.into(),
        continued: u32::MAX.into(),
        written: 99.into(),
    };
    let run = Run {
        run: 4.into(),
        first_sequence: 1.into(),
        last_sequence: 50.into(),
        order: 4.into(),
        entries: 20.into(),
        deaths: 2.into(),
    };
    vec![
        Change::Opening(Opening { nonce: [7; 16], first_batch: 12.into() }),
        Change::Lease(Lease { physical: 1.into(), virtual_segment: 2.into() }),
        Change::Checkpoint(Checkpoint { address: 4096.into(), released: 1.into(), ..Checkpoint::default() }),
        Change::Row(row, vec![5, 1], vec![7, 3]),
        Change::Row(Row { identity: 1.into(), ..row }, vec![5, 1], Vec::new()),
        Change::RowRemoved(6),
        Change::Dead(3, vec![1, 2, 69]),
        Change::Run(run, vec![(0, 4), (16, 2)]),
        Change::RunRemoved(1),
        Change::Watermark(50),
        Change::Window(20),
        Change::Rollback(Rollback { at: 9.into(), to: 4.into(), settled: 1.into() }),
        Change::Snapshot(
            Snapshot {
                number: 3.into(),
                sequence: 8.into(),
                time_unix_ns: 7.into(),
                removed: 0.into(),
                name_bytes: 5.into(),
                branch: 3.into(),
            },
            b"first".to_vec(),
            None,
        ),
        Change::Snapshot(in_group(), b"ab".to_vec(), Some(group())),
        Change::Volume(volume(), b"db".to_vec()),
        Change::SnapshotRemoved(2),
        Change::SnapshotLock(SnapshotLock { number: 3.into(), until_unix_ns: 9.into(), held: 1.into() }),
        Change::Object(object(), vec![(5, 2), (9, 1)]),
        Change::Row(Row { identity: 2.into(), ..row }, vec![5, 1], vec![7, 3]),
    ]
}

#[test]
fn golden_bytes() {
    let mut bytes = Vec::new();
    Change::Dead(3, vec![1, 2, 69]).encode(&mut bytes);
    assert_eq!(bytes, [6, 0, 0, 0, 14, 0, 0, 0, 3, 0, 0, 0, 3, 0, 0, 0, 1, 0, 2, 0, 69, 0, 0, 0]);
    bytes.clear();
    Change::Object(object(), vec![(5, 2), (9, 1)]).encode(&mut bytes);
    assert_eq!(bytes[..16], [19, 0, 0, 0, 40, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(bytes[16..32], [8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 128, 3, 0, 0, 0]);
    assert_eq!(bytes[32..], [5, 0, 0, 0, 2, 0, 0, 0, 9, 0, 0, 0, 1, 0, 0, 0]);
    let mut bytes = Vec::new();
    Change::Snapshot(in_group(), b"ab".to_vec(), Some(group())).encode(&mut bytes);
    let numbers = [&[14, 0, 0, 0, 54, 0, 0, 0, 4], &[0; 7][..], &[9], &[0; 7], &[8], &[0; 7]].concat();
    let rest = [&[0, 0, 0, 0, 2, 0, 1, 0, b'a', b'b'], &[0xA5; 16][..], &[3, 0, 0, 0, 0, 0]].concat();
    assert_eq!(bytes, [numbers, rest].concat());
    let mut bytes = Vec::new();
    Change::Volume(volume(), b"db".to_vec()).encode(&mut bytes);
    let numbers = [&[20, 0, 0, 0, 34, 0, 0, 0, 0, 0, 16], &[0; 5][..], &[9], &[0; 7], &[8], &[0; 7]].concat();
    let rest = [5, 0, 2, 0, 1, 0, 0, 0, b'd', b'b', 0, 0, 0, 0, 0, 0];
    assert_eq!(bytes, [&numbers[..], &rest].concat());
    let record = RecordHeader::encode(2, 3, [0x11; 16], 8192, &[Change::Watermark(50)]);
    assert_eq!(record.len(), 4096);
    assert_eq!(&record[..12], b"ICEJRNL\0\x01\0\0\0");
    assert_eq!(
        &record[16..48],
        [
            [0, 32, 0, 0, 0, 0, 0, 0],
            [2, 0, 0, 0, 0, 0, 0, 0],
            [3, 0, 0, 0, 0, 0, 0, 0],
            [80, 0, 0, 0, 0, 0, 0, 0]
        ]
        .concat()
    );
    assert_eq!(&record[64..80], [9, 0, 0, 0, 8, 0, 0, 0, 50, 0, 0, 0, 0, 0, 0, 0]);
}

#[test]
fn changes_come_back_and_every_changed_byte_is_noticed() {
    let record = RecordHeader::encode(2, 3, [0x11; 16], 8192, &changes());
    let (decoded, bytes) = RecordHeader::decode(&record, 8192, 2, 3, &[0x11; 16]);
    assert_eq!((decoded, bytes), (Decoded::Valid(changes()), record.len() as u64));
    let sealed = u64::from_le_bytes(record[40..48].try_into().unwrap()) as usize;
    for at in 0..sealed {
        let mut damaged = record.clone();
        damaged[at] ^= 0x10;
        assert_eq!(RecordHeader::decode(&damaged, 8192, 2, 3, &[0x11; 16]).0, Decoded::Absent, "byte {at}");
    }
    for (address, generation, number) in [(4096, 2, 3), (8192, 1, 3), (8192, 2, 4)] {
        assert_eq!(
            RecordHeader::decode(&record, address, generation, number, &[0x11; 16]).0,
            Decoded::Absent
        );
    }
    let mut newer = record;
    newer[8] = 9;
    newer[12..16].fill(0);
    let seal = crc32c(&[&newer[..sealed]]);
    newer[12..16].copy_from_slice(&seal.to_le_bytes());
    assert_eq!(RecordHeader::decode(&newer, 8192, 2, 3, &[0x11; 16]).0, Decoded::UnknownVersion(9));
}

#[test]
fn any_bytes_are_judged_without_a_panic() {
    let mut list = Vec::new();
    changes().iter().for_each(|change| change.encode(&mut list));
    for at in 0..list.len() {
        for value in [0, 1, 0x7F, 0xFF] {
            let mut damaged = list.clone();
            damaged[at] = value;
            Change::decode_list(&damaged);
            Change::decode_list(&damaged[at..]);
        }
    }
}

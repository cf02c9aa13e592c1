//! Whose batches count: not those of another pool that lay there before, and not what an earlier opening left behind
//! the place where a later one went on.

use icecore::check::{SalvageOptions, Status};
use icecore::volume::Durability;

use crate::made::{self, BLOCK, Made};
use crate::{last_sequence, scan};

/// Without superblocks, roots and journals.
fn without_metadata(made: &Made) {
    let data = u64::from_le_bytes(made.disk.peek(0, 4096)[184..192].try_into().unwrap());
    (0..data).step_by(4096).for_each(|at| made.disk.poke(at, &[0; 4096]));
}

#[test]
fn a_pool_that_lay_there_before_is_none_of_it() {
    let mut made = made::kept().create(made::log(64, 8192));
    made.session(false, async |made, volume| made.work(volume, 20).await);
    let report = made.salvage(&scan());
    assert!(report.is_whole(), "{report:?}");
    assert_eq!(report.sequence, last_sequence(&made));
    // Nothing but batches is left: the newest opening says which pool it is.
    let size_bytes = Some(64 * BLOCK);
    without_metadata(&made);
    let report = made.salvage(&SalvageOptions { size_bytes, no_base: true, ..SalvageOptions::default() });
    assert!(report.is_whole(), "{report:?}");
    assert_eq!(report.sequence, last_sequence(&made));
    assert!(report.findings.iter().any(|finding| finding.text.contains("passed over")), "{report:?}");
}

#[test]
fn what_an_earlier_opening_left_behind_a_later_one_does_not_count() {
    for with_metadata in [true, false] {
        let mut made = Made::new("left behind", 6 << 20, made::log(64, 8192));
        let (mut before, mut pictures) = (Vec::new(), made.pictures.clone());
        // An opening that wrote on; of that the first batches were lost, and the last ones were not.
        made.session(false, async |made, volume| {
            made.work(volume, 5).await;
            (before, pictures) = (made.bytes(), made.pictures.clone());
            for block in 0..12 {
                made.write(volume, block, 1, Durability::Durable).await;
            }
        });
        let left = made.bytes();
        made.put(&before);
        made.pictures = pictures;
        made.session(false, async |made, volume| {
            made.write(volume, 40, 1, Durability::Durable).await;
            made.write(volume, 41, 1, Durability::Durable).await;
        });
        let own = made.bytes();
        let data = u64::from_le_bytes(own[184..192].try_into().unwrap()) as usize;
        // The later opening has written over the first few of them, and not over the rest.
        let mut left_over = 0;
        for at in (data..own.len()).step_by(4096) {
            if own[at..at + 4096] == before[at..at + 4096] && left[at..at + 4096] != own[at..at + 4096] {
                made.disk.poke(at as u64, &left[at..at + 4096]);
                left_over += 1;
            }
        }
        assert!(left_over >= 16, "{left_over} blocks");
        assert!(made.is_clean());
        if !with_metadata {
            without_metadata(&made);
        }
        let size_bytes = (!with_metadata).then_some(64 * BLOCK);
        let report = made.salvage(&SalvageOptions { size_bytes, no_base: !with_metadata, ..scan() });
        assert_eq!(report.sequence, last_sequence(&made), "{report:?}");
        assert!(report.is_whole() && report.of(Status::Good) > 2, "{report:?}");
    }
}

#[test]
fn what_was_never_promised_ends_where_it_is_torn() {
    let mut made = Made::new("torn", 6 << 20, made::log(64, 8192));
    made.session(false, async |made, volume| {
        made.work(volume, 10).await;
        made.write(volume, 50, 1, Durability::Durable).await;
    });
    // The last batch has lost its payload, as a power cut leaves it, and nothing says that it was durable.
    let last = made.pictures.pop_last().unwrap().1[50];
    let bytes = made.bytes();
    let at = bytes.chunks(4096).rposition(|block| block == made::content(last)).unwrap() as u64 * 4096;
    made.disk.poke(at, &[0; 4096]);
    for options in [SalvageOptions::default(), scan()] {
        let report = made.salvage(&options);
        assert_eq!(report.sequence, last_sequence(&made));
        assert!(report.is_whole(), "{report:?}");
    }
}

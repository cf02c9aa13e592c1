//! Roots, image and journal: from the newest root to the state that its records make.
//!
//! A power cut leaves at most one torn root and one torn record, neither sealed, and older generations behind
//! the end of a journal. A record that is sealed and differs from the one that belongs there in one field alone
//! was never left by a cut, and neither was a record of this generation behind the end.

use zerocopy::FromBytes;

use super::reading::PIECE_BYTES;
use super::shape::Shape;
use super::state::State;
use super::{Checker, Code, Place, is_sealed, is_zero};
use crate::error::Result;
use crate::format::crc32c;
use crate::format::journal::{self, Change, RECORD_ALIGNMENT_BYTES, RecordHeader};
use crate::format::root::{self, ROOT_BYTES, Root};

pub(super) const HEADER_BYTES: u64 = size_of::<RecordHeader>() as u64;
pub(super) const UNIT: u64 = RECORD_ALIGNMENT_BYTES as u64;

/// The state of the newest root. `None` where there is none that can be believed.
pub(super) async fn load(checker: &mut Checker<'_>, shape: &Shape) -> Result<Option<State>> {
    let (mut roots, mut unwritten, mut broken) = (Vec::new(), 0, false);
    for place in 0..2 {
        match read_root(checker, shape, place).await? {
            AtRoot::Root(root) => roots.push(*root),
            AtRoot::Unwritten => unwritten += 1,
            AtRoot::Broken => broken = true,
        }
    }
    let generations: Vec<u64> = roots.iter().map(|root| root.generation.get()).collect();
    if let [first, second] = generations[..]
        && first.abs_diff(second) != 1
    {
        let text = format!("the roots have the generations {first} and {second}, which do not follow");
        checker.found(Code::Root, Place::at(shape.root(0)), text);
        return Ok(None);
    }
    let Some(root) = roots.into_iter().max_by_key(|root| root.generation.get()) else {
        checker.found(Code::Root, Place::at(shape.root(0)), "no root is whole");
        return Ok(None);
    };
    let generation = root.generation.get();
    if unwritten > 0 && generation != 1 {
        let text = format!("the root before generation {generation} was never written");
        checker.found(Code::Root, Place::at(root.address.get()), text);
        return Ok(None);
    }
    // Records of a generation are written only once its root is durable.
    let newer = generation + 1;
    let lost = later_record(checker, shape, shape.journal(newer), 0, |found| found >= newer).await?;
    if let Some(address) = lost {
        let text = format!("a record follows a newer root than {generation}, which is lost");
        checker.found(Code::Root, Place::at(address), text);
        return Ok(None);
    }
    let Some(mut state) = load_image(checker, shape, &root).await? else { return Ok(None) };
    state.may_go_on = broken;
    let mut used = 0;
    let mut number = 0;
    loop {
        let at = shape.journal(generation) + used;
        let Some(record) = read_record(checker, shape, at, shape.journal_bytes() - used).await? else {
            state.may_go_on = true;
            break;
        };
        match judge(&record, shape, at, generation, number) {
            Judged::Next => {}
            Judged::End => {
                let header = &record.header;
                state.may_go_on |= (header.magic, header.address.get(), header.generation.get())
                    == (journal::MAGIC, at, generation)
                    && header.pool_id == shape.pool_id;
                break;
            }
            Judged::Wrong(text) => {
                checker.found(Code::Journal, Place::at(at), text);
                return Ok(None);
            }
        }
        let changes = decode(&record.sealed[HEADER_BYTES as usize..]);
        let applied = changes.and_then(|changes| state.apply_record(&changes));
        if let Err(text) = applied {
            checker.found(Code::Journal, Place::at(at), text);
            return Ok(None);
        }
        used += (record.sealed.len() as u64).next_multiple_of(UNIT);
        number += 1;
        if used >= shape.journal_bytes() {
            break;
        }
    }
    let own = |found| found == generation;
    if let Some(address) = later_record(checker, shape, shape.journal(generation), used, own).await? {
        let text = format!("record {number} of generation {generation} is missing, and a later one is there");
        checker.found(Code::Journal, Place::at(address), text);
        return Ok(None);
    }
    Ok(Some(state))
}

/// What lies at a root's place.
pub(super) enum AtRoot {
    Root(Box<Root>),
    /// Zeroes, as creation leaves them.
    Unwritten,
    /// Torn, or with a finding of its own.
    Broken,
}

pub(super) async fn read_root(checker: &mut Checker<'_>, shape: &Shape, place: usize) -> Result<AtRoot> {
    let at = shape.root(place);
    let Some(bytes) = checker.read(at, ROOT_BYTES as u64).await? else { return Ok(AtRoot::Broken) };
    if !is_sealed(&bytes) {
        return Ok(if is_zero(&bytes) { AtRoot::Unwritten } else { AtRoot::Broken });
    }
    let Ok(root) = Root::read_from_bytes(&bytes[..]) else { unreachable!("the buffer has that size") };
    let generation = root.generation.get();
    let sound = root.magic == root::MAGIC
        && root.version.get() == root::VERSION
        && root.address.get() == at
        && root.pool_id == shape.pool_id
        && (1..u64::MAX).contains(&generation)
        && generation % 2 == place as u64
        && root.image_address.get() == shape.image(generation)
        && root.image_bytes.get() <= shape.image_bytes
        && root.journal_address.get() == shape.journal(generation)
        && root.journal_bytes.get() == shape.journal_bytes()
        && root.reserved_0.get() == 0
        && is_zero(&root.reserved_1);
    if !sound {
        checker.found(Code::Root, Place::at(at), "it is sealed, and is not a root that belongs here");
        return Ok(AtRoot::Broken);
    }
    Ok(AtRoot::Root(Box::new(root)))
}

pub(super) async fn load_image(
    checker: &mut Checker<'_>,
    shape: &Shape,
    root: &Root,
) -> Result<Option<State>> {
    let at = shape.image(root.generation.get());
    let Some(bytes) = checker.read_all(at, root.image_bytes.get()).await? else { return Ok(None) };
    let loaded = if crc32c(&[&bytes]) == root.image_checksum.get() {
        decode(&bytes).and_then(|changes| State::from_image(shape, &changes))
    } else {
        Err("it is not what its root says".to_string())
    };
    match loaded {
        Ok(state) => Ok(Some(state)),
        Err(text) => {
            checker.found(Code::Image, Place::at(at), text);
            Ok(None)
        }
    }
}

/// The changes of a list, whose padding is zero.
pub(super) fn decode(list: &[u8]) -> std::result::Result<Vec<Change>, String> {
    let changes = Change::decode_list(list).ok_or("it is sealed, and no list of changes")?;
    let mut again = Vec::with_capacity(list.len());
    changes.iter().for_each(|change| change.encode(&mut again));
    if again == list { Ok(changes) } else { Err("bytes that no field names are not zero".to_string()) }
}

/// What lies at a record's place.
pub(super) struct Record {
    pub header: RecordHeader,
    /// Header and changes; the header alone where the length cannot be.
    pub sealed: Vec<u8>,
    pub possible: bool,
}

pub(super) async fn read_record(
    checker: &mut Checker<'_>,
    shape: &Shape,
    at: u64,
    room: u64,
) -> Result<Option<Record>> {
    let Some(first) = checker.read(at, UNIT.min(room)).await? else { return Ok(None) };
    let Ok((header, _)) = RecordHeader::read_from_prefix(&first[..]) else { return Ok(None) };
    let bytes = header.bytes.get();
    let possible = (HEADER_BYTES..=room).contains(&bytes);
    // What has no sign of a record is not read further.
    let is_some = header.address.get() == at || header.pool_id == shape.pool_id;
    let sealed = if !possible || !is_some {
        first[..HEADER_BYTES as usize].to_vec()
    } else if bytes <= first.len() as u64 {
        first[..bytes as usize].to_vec()
    } else {
        drop(first);
        match checker.read_all(at, bytes).await? {
            Some(bytes) => bytes,
            None => return Ok(None),
        }
    };
    Ok(Some(Record { header, sealed, possible }))
}

pub(super) enum Judged {
    /// The record that follows.
    Next,
    /// The journal ends here.
    End,
    Wrong(&'static str),
}

pub(super) fn judge(record: &Record, shape: &Shape, at: u64, generation: u64, number: u64) -> Judged {
    let header = &record.header;
    let found = header.generation.get();
    // What lay in this area before: an earlier generation of it, or another pool's journal.
    let may_be_older = found >= 1 && found < generation && found % 2 == generation % 2;
    let is_own = [
        header.magic == journal::MAGIC,
        header.version.get() == journal::VERSION,
        header.address.get() == at,
        found == generation,
        header.number.get() == number,
        header.pool_id == shape.pool_id,
    ];
    let wrong = is_own.iter().filter(|holds| !**holds).count();
    let older = !is_own[3] && may_be_older || !is_own[5];
    if !record.possible {
        return if wrong == 0 { Judged::Wrong("its length cannot be") } else { Judged::End };
    }
    match (is_sealed(&record.sealed), wrong) {
        (true, 0) => Judged::Next,
        (true, 1) if !older => Judged::Wrong("it is sealed, and one field is not what follows"),
        _ => Judged::End,
    }
}

/// The first sealed record of this pool from `used` bytes on in a journal area whose generation is `wanted`. A cut
/// leaves the header of one record at most that is not whole; so as many bytes as the area has are enough for all.
async fn later_record(
    checker: &mut Checker<'_>,
    shape: &Shape,
    area: u64,
    used: u64,
    wanted: impl Fn(u64) -> bool,
) -> Result<Option<u64>> {
    let (mut at, end) = (area + used, area + shape.journal_bytes());
    let mut budget = shape.journal_bytes();
    let mut candidates = Vec::new();
    while at < end {
        let length = (end - at).min(PIECE_BYTES);
        let piece = checker.read_around(at, length, UNIT).await?.bytes;
        for (index, unit) in piece.chunks(UNIT as usize).enumerate() {
            let Ok((header, _)) = RecordHeader::read_from_prefix(unit) else { continue };
            let address = at + index as u64 * UNIT;
            if header.magic == journal::MAGIC
                && header.address.get() == address
                && header.pool_id == shape.pool_id
                && wanted(header.generation.get())
                && header.bytes.get() <= end - address
            {
                candidates.push((address, header.bytes.get()));
            }
        }
        drop(piece);
        for (address, bytes) in candidates.drain(..) {
            let Some(left) = budget.checked_sub(bytes.max(UNIT)) else {
                let text = "more looks like records that are missing than the journal has room for";
                checker.found(Code::Journal, Place::at(address), text);
                return Ok(None);
            };
            budget = left;
            let record = read_record(checker, shape, address, end - address).await?;
            if record.is_some_and(|record| record.possible && is_sealed(&record.sealed)) {
                return Ok(Some(address));
            }
        }
        at += length;
    }
    Ok(None)
}

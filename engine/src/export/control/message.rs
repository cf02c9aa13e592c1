//! What is asked and answered on a control socket, and the bytes for it.

use std::borrow::Cow;
use std::ops::Range;

use crate::error::{Error, Kind, Place, Reason, Result};
use crate::format::control::{
    ANSWER_BYTES_MAX, ANSWER_TO, KIND_CLONE, KIND_DELETE, KIND_DELETE_VOLUME, KIND_DIFFERENCE, KIND_FAILED,
    KIND_FLUSH, KIND_HOLD, KIND_LET_GO, KIND_LOCK, KIND_MAKE_VOLUME, KIND_NAME_HELD, KIND_ROLLBACK,
    KIND_SNAPSHOTS, KIND_STATUS, KIND_TAKE, KIND_UNLOCK, KIND_VOLUMES, REQUEST_BYTES_MAX, Reader, Writer,
    bad,
};
use crate::store::log::{FurtherVolume, LockTime, SnapshotGroup, SnapshotInfo, SnapshotLock};
use crate::units::Seq;

/// A moment, as a person says it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Moment {
    /// What has completed by now.
    Now,
    /// After this sequence.
    At(Seq),
    /// That of the snapshot of this name.
    Named(String),
}

/// What can be asked of an open volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// How it is.
    Status,
    /// Make everything durable.
    Flush,
    /// List the snapshots.
    Snapshots {
        /// With what deleting each alone would free.
        with_space: bool,
    },
    /// Give the present moment this name: of the volume, or of a writable snapshot.
    Take {
        /// The name.
        name: String,
        /// The writable snapshot.
        of: Option<String>,
    },
    /// Make a writable snapshot.
    Clone {
        /// The snapshot that it begins as.
        of: String,
        /// Its name.
        name: String,
    },
    /// Give this name up.
    Delete(String),
    /// Lock the snapshot of this name.
    Lock(String, LockTime),
    /// Unlock it.
    Unlock(String),
    /// The regions that differ between two moments.
    Difference(Moment, Moment),
    /// Make the volume again what it was.
    Rollback {
        /// The moment to go back to.
        to: Moment,
        /// What the volume is now gets this name before.
        keep: Option<String>,
    },
    /// Hold volumes of the pool, so that nobody writes them, and make durable what has completed: for a group that is
    /// taken in several processes. It ends by itself, after [`crate::volume::HOLD_NS_MAX`] or with the connection.
    Hold {
        /// The group, which is the asker's to draw.
        group: SnapshotGroup,
        /// Of each, which writable snapshot it is, if it is one, and what its moment is to be called.
        members: Vec<(Option<String>, String)>,
    },
    /// Name the moments of what is held for this group, and let go of it.
    NameHeld([u8; 16]),
    /// Let go of what is held for this group.
    LetGo([u8; 16]),
    /// Make a further volume.
    MakeVolume {
        /// Its name.
        name: String,
        /// Its size.
        size_bytes: u64,
    },
    /// List the further volumes.
    Volumes,
    /// Give this further volume up.
    DeleteVolume(String),
}

/// What is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// How it is.
    Status(Box<Status>),
    /// Everything is durable.
    Flushed,
    /// The snapshots there are, by their moments.
    Snapshots(Vec<SnapshotInfo>),
    /// This one was taken, or made; it is durable.
    Taken(SnapshotInfo),
    /// This one is gone, durably.
    Deleted(SnapshotInfo),
    /// This one is locked, durably.
    Locked(SnapshotInfo),
    /// This one is not locked, durably.
    Unlocked(SnapshotInfo),
    /// It is held, and durable.
    Held,
    /// These were taken; they are durable.
    Named(Vec<SnapshotInfo>),
    /// Nothing is held for the group any more.
    LetGo,
    /// This volume was made, durably.
    VolumeMade(FurtherVolume),
    /// The further volumes there are.
    Volumes(Vec<FurtherVolume>),
    /// This volume is gone, durably.
    VolumeDeleted(FurtherVolume),
    /// What differs.
    Difference {
        /// One moment.
        from: Seq,
        /// The other.
        to: Seq,
        /// Ranges of bytes that differ, in order.
        changed: Vec<Range<u64>>,
    },
    /// The volume went back, durably.
    WentBack {
        /// The moment that it went back to.
        to: Seq,
        /// The sequence of the return.
        at: Seq,
    },
}

/// How an open volume is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// The volume's identity.
    pub volume_id: [u8; 16],
    /// The name of the way its program does I/O.
    pub io_kind: String,
    /// The same in more words.
    pub io_path: String,
    /// Whether the page cache is passed by.
    pub direct_io: bool,
    /// Whether a flush has failed, so that no more writes are taken.
    pub poisoned: bool,
    /// The device that holds the volume's blocks, where that is not the pool's.
    pub volume_device: Option<String>,
    /// The device that holds linear objects, where that is not the pool's.
    pub objects_device: Option<String>,
    /// What its log is doing, where there is one.
    pub log: Option<LogNumbers>,
}

/// What a log is doing, as far as others are told. The fields are those of `LogStatus` and of what opening found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "`LogStatus` and `RecoveryReport` describe every field")]
pub struct LogNumbers {
    pub sequence: u64,
    pub durable_through: u64,
    pub earliest_moment: u64,
    pub segments: u64,
    pub free_segments: u64,
    pub live_blocks: u64,
    pub past_bytes: u64,
    pub runs: u64,
    pub tail_batches: u64,
    pub tail_entries: u64,
    pub tail_bytes: u64,
    pub damaged_after: Option<u64>,
    pub apply: Option<ApplyNumbers>,
}

/// How far a linear volume is. The fields are those of `ApplyStatus`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "`ApplyStatus` describes every field")]
pub struct ApplyNumbers {
    pub applied: u64,
    pub accepted: Option<u64>,
    pub extents: u64,
    pub stalled: Option<String>,
}

fn write_moment(writer: Writer, moment: &Moment) -> Writer {
    match moment {
        Moment::Now => writer.number(0),
        Moment::At(sequence) => writer.number(1).number(sequence.0),
        Moment::Named(name) => writer.number(2).text(name),
    }
}

fn read_moment(reader: &mut Reader) -> Result<Moment> {
    match reader.number()? {
        0 => Ok(Moment::Now),
        1 => Ok(Moment::At(Seq(reader.number()?))),
        2 => Ok(Moment::Named(reader.text()?)),
        _ => Err(bad("a moment of no known form")),
    }
}

fn write_time(writer: Writer, time: LockTime) -> Writer {
    match time {
        LockTime::Held => writer.number(0),
        LockTime::Until(until_unix_ns) => writer.number(1).number(until_unix_ns),
        LockTime::For(length_ns) => writer.number(2).number(length_ns),
    }
}

fn read_time(reader: &mut Reader) -> Result<LockTime> {
    match reader.number()? {
        0 => Ok(LockTime::Held),
        1 => Ok(LockTime::Until(reader.number()?)),
        2 => Ok(LockTime::For(reader.number()?)),
        _ => Err(bad("a time of no known form")),
    }
}

impl Request {
    /// The message.
    ///
    /// # Errors
    /// `TransferTooLong`.
    pub fn encode(&self) -> Result<Vec<u8>> {
        let writer = match self {
            Self::Status => Writer::new(KIND_STATUS),
            Self::Flush => Writer::new(KIND_FLUSH),
            Self::Snapshots { with_space } => Writer::new(KIND_SNAPSHOTS).number((*with_space).into()),
            Self::Take { name, of } => write_name(Writer::new(KIND_TAKE).text(name), of.as_deref()),
            Self::Clone { of, name } => Writer::new(KIND_CLONE).text(of).text(name),
            Self::Delete(name) => Writer::new(KIND_DELETE).text(name),
            Self::Lock(name, time) => write_time(Writer::new(KIND_LOCK).text(name), *time),
            Self::Unlock(name) => Writer::new(KIND_UNLOCK).text(name),
            Self::Difference(from, to) => write_moment(write_moment(Writer::new(KIND_DIFFERENCE), from), to),
            Self::Rollback { to, keep } => {
                write_name(write_moment(Writer::new(KIND_ROLLBACK), to), keep.as_deref())
            }
            Self::Hold { group, members } => {
                let writer = write_group(Writer::new(KIND_HOLD), *group).number(members.len() as u64);
                let add = |writer: Writer, (of, name): &(Option<String>, String)| {
                    write_name(writer, of.as_deref()).text(name)
                };
                members.iter().fold(writer, add)
            }
            Self::NameHeld(id) => Writer::new(KIND_NAME_HELD).id(id),
            Self::LetGo(id) => Writer::new(KIND_LET_GO).id(id),
            Self::MakeVolume { name, size_bytes } => {
                Writer::new(KIND_MAKE_VOLUME).text(name).number(*size_bytes)
            }
            Self::Volumes => Writer::new(KIND_VOLUMES),
            Self::DeleteVolume(name) => Writer::new(KIND_DELETE_VOLUME).text(name),
        };
        writer.finish(REQUEST_BYTES_MAX)
    }

    /// What a message of this kind with this body asks.
    ///
    /// # Errors
    /// `BadMessage`.
    pub fn decode(kind: u32, body: &[u8]) -> Result<Self> {
        let mut reader = Reader::new(body);
        let request = match kind {
            KIND_STATUS => Self::Status,
            KIND_FLUSH => Self::Flush,
            KIND_SNAPSHOTS => Self::Snapshots { with_space: reader.flag()? },
            KIND_TAKE => Self::Take { name: reader.text()?, of: read_name(&mut reader)? },
            KIND_CLONE => Self::Clone { of: reader.text()?, name: reader.text()? },
            KIND_DELETE => Self::Delete(reader.text()?),
            KIND_LOCK => Self::Lock(reader.text()?, read_time(&mut reader)?),
            KIND_UNLOCK => Self::Unlock(reader.text()?),
            KIND_DIFFERENCE => Self::Difference(read_moment(&mut reader)?, read_moment(&mut reader)?),
            KIND_ROLLBACK => {
                let to = read_moment(&mut reader)?;
                Self::Rollback { to, keep: read_name(&mut reader)? }
            }
            KIND_HOLD => Self::Hold {
                group: read_group(&mut reader)?,
                members: reader.several(16, |reader| Ok((read_name(reader)?, reader.text()?)))?,
            },
            KIND_NAME_HELD => Self::NameHeld(reader.id()?),
            KIND_LET_GO => Self::LetGo(reader.id()?),
            KIND_MAKE_VOLUME => Self::MakeVolume { name: reader.text()?, size_bytes: reader.number()? },
            KIND_VOLUMES => Self::Volumes,
            KIND_DELETE_VOLUME => Self::DeleteVolume(reader.text()?),
            _ => return Err(bad("a request of no known kind")),
        };
        reader.end().map(|()| request)
    }
}

fn write_name(writer: Writer, name: Option<&str>) -> Writer {
    match name {
        Some(name) => writer.number(1).text(name),
        None => writer.number(0),
    }
}

fn read_name(reader: &mut Reader) -> Result<Option<String>> {
    Ok(if reader.flag()? { Some(reader.text()?) } else { None })
}

fn write_group(writer: Writer, group: SnapshotGroup) -> Writer {
    writer.id(&group.id).number(group.members.into())
}

fn read_group(reader: &mut Reader) -> Result<SnapshotGroup> {
    let (id, members) = (reader.id()?, reader.small()?);
    if members < 2 {
        return Err(bad("a group of less than two snapshots"));
    }
    Ok(SnapshotGroup { id, members })
}

fn write_volume(writer: Writer, volume: &FurtherVolume) -> Writer {
    writer.text(&volume.name).number(volume.size_bytes).number(volume.time_unix_ns)
}

fn read_volume(reader: &mut Reader) -> Result<FurtherVolume> {
    let (name, size_bytes, time_unix_ns) = (reader.text()?, reader.number()?, reader.number()?);
    Ok(FurtherVolume { name, size_bytes, time_unix_ns })
}

fn write_snapshot(writer: Writer, snapshot: &SnapshotInfo) -> Writer {
    write_name(writer.text(&snapshot.name), snapshot.of.as_deref())
        .number(snapshot.writable.into())
        .number(snapshot.sequence.0)
        .number(snapshot.time_unix_ns)
        .number(snapshot.broken.into())
        .maybe(snapshot.lock, |writer, lock| writer.number(lock.until_unix_ns).number(lock.held.into()))
        .maybe(snapshot.group, write_group)
        .maybe(snapshot.exclusive_bytes, Writer::number)
}

fn read_snapshot(reader: &mut Reader) -> Result<SnapshotInfo> {
    let (name, of, writable) = (reader.text()?, read_name(reader)?, reader.flag()?);
    let (sequence, time_unix_ns, broken) = (Seq(reader.number()?), reader.number()?, reader.flag()?);
    let lock =
        reader.maybe(|reader| Ok(SnapshotLock { until_unix_ns: reader.number()?, held: reader.flag()? }))?;
    let (group, exclusive_bytes) = (reader.maybe(read_group)?, reader.maybe(Reader::number)?);
    Ok(SnapshotInfo { name, of, writable, sequence, time_unix_ns, broken, lock, group, exclusive_bytes })
}

impl Status {
    fn write(&self, writer: Writer) -> Writer {
        let writer = writer
            .id(&self.volume_id)
            .text(&self.io_kind)
            .text(&self.io_path)
            .number(self.direct_io.into())
            .number(self.poisoned.into())
            .maybe(self.volume_device.as_ref(), |writer, name| writer.text(name))
            .maybe(self.objects_device.as_ref(), |writer, name| writer.text(name));
        writer.maybe(self.log.as_ref(), |writer, log| log.write(writer))
    }

    fn read(reader: &mut Reader) -> Result<Self> {
        Ok(Self {
            volume_id: reader.id()?,
            io_kind: reader.text()?,
            io_path: reader.text()?,
            direct_io: reader.flag()?,
            poisoned: reader.flag()?,
            volume_device: reader.maybe(Reader::text)?,
            objects_device: reader.maybe(Reader::text)?,
            log: reader.maybe(LogNumbers::read)?,
        })
    }
}

impl LogNumbers {
    fn write(&self, writer: Writer) -> Writer {
        let numbers = [
            self.sequence,
            self.durable_through,
            self.earliest_moment,
            self.segments,
            self.free_segments,
            self.live_blocks,
            self.past_bytes,
            self.runs,
            self.tail_batches,
            self.tail_entries,
            self.tail_bytes,
        ];
        let writer = numbers.into_iter().fold(writer, Writer::number);
        let writer = writer.maybe(self.damaged_after, Writer::number);
        writer.maybe(self.apply.as_ref(), |writer, apply| {
            let writer = writer.number(apply.applied).maybe(apply.accepted, Writer::number);
            writer.number(apply.extents).maybe(apply.stalled.as_ref(), |writer, why| writer.text(why))
        })
    }

    fn read(reader: &mut Reader) -> Result<Self> {
        Ok(Self {
            sequence: reader.number()?,
            durable_through: reader.number()?,
            earliest_moment: reader.number()?,
            segments: reader.number()?,
            free_segments: reader.number()?,
            live_blocks: reader.number()?,
            past_bytes: reader.number()?,
            runs: reader.number()?,
            tail_batches: reader.number()?,
            tail_entries: reader.number()?,
            tail_bytes: reader.number()?,
            damaged_after: reader.maybe(Reader::number)?,
            apply: reader.maybe(|reader| {
                Ok(ApplyNumbers {
                    applied: reader.number()?,
                    accepted: reader.maybe(Reader::number)?,
                    extents: reader.number()?,
                    stalled: reader.maybe(Reader::text)?,
                })
            })?,
        })
    }
}

fn encode_failure(error: &Error) -> Result<Vec<u8>> {
    let kind = Kind::ALL.iter().position(|kind| *kind == error.kind()).unwrap_or_default();
    let place = error.place();
    Writer::new(KIND_FAILED)
        .number(kind as u64)
        .text(&error.reason().name())
        .text(&error.reason().to_string())
        .text(error.operation())
        .maybe(place.name.as_ref(), |writer, name| writer.text(name))
        .maybe(place.offset, Writer::number)
        .finish(ANSWER_BYTES_MAX)
}

fn decode_failure(reader: &mut Reader) -> Result<Error> {
    let kind = *Kind::ALL.get(reader.small::<usize>()?).ok_or_else(|| bad("a failure of no known kind"))?;
    let (name, text, operation) = (reader.text()?, reader.text()?, reader.text()?);
    let place = Place { name: reader.maybe(Reader::text)?, offset: reader.maybe(Reader::number)? };
    Ok(Error::told(Cow::Owned(operation), Reason::Told { kind, name, text }, place))
}

impl Answer {
    /// The message. An answer that is too long becomes one that says so.
    ///
    /// # Errors
    /// `TransferTooLong` for an error with a text without end.
    pub fn encode(answer: &Result<Self>) -> Result<Vec<u8>> {
        match answer {
            Ok(answer) => answer.encode_done().or_else(|too_long| encode_failure(&too_long)),
            Err(error) => encode_failure(error),
        }
    }

    fn encode_done(&self) -> Result<Vec<u8>> {
        let to = |request: u32| Writer::new(ANSWER_TO + request);
        let writer = match self {
            Self::Status(status) => status.write(to(KIND_STATUS)),
            Self::Flushed => to(KIND_FLUSH),
            Self::Snapshots(all) => {
                all.iter().fold(to(KIND_SNAPSHOTS).number(all.len() as u64), write_snapshot)
            }
            Self::Taken(snapshot) => write_snapshot(to(KIND_TAKE), snapshot),
            Self::Deleted(snapshot) => write_snapshot(to(KIND_DELETE), snapshot),
            Self::Locked(snapshot) => write_snapshot(to(KIND_LOCK), snapshot),
            Self::Unlocked(snapshot) => write_snapshot(to(KIND_UNLOCK), snapshot),
            Self::Difference { from, to: other, changed } => {
                let writer = to(KIND_DIFFERENCE).number(from.0).number(other.0).number(changed.len() as u64);
                changed.iter().fold(writer, |writer, range| writer.number(range.start).number(range.end))
            }
            Self::Held => to(KIND_HOLD),
            Self::Named(all) => all.iter().fold(to(KIND_NAME_HELD).number(all.len() as u64), write_snapshot),
            Self::LetGo => to(KIND_LET_GO),
            Self::VolumeMade(volume) => write_volume(to(KIND_MAKE_VOLUME), volume),
            Self::Volumes(all) => all.iter().fold(to(KIND_VOLUMES).number(all.len() as u64), write_volume),
            Self::VolumeDeleted(volume) => write_volume(to(KIND_DELETE_VOLUME), volume),
            Self::WentBack { to: moment, at } => to(KIND_ROLLBACK).number(moment.0).number(at.0),
        };
        writer.finish(ANSWER_BYTES_MAX)
    }

    /// What a message of this kind with this body answers.
    ///
    /// # Errors
    /// What the other end told, and `BadMessage`.
    pub fn decode(kind: u32, body: &[u8]) -> Result<Self> {
        let mut reader = Reader::new(body);
        if kind == KIND_FAILED {
            return Err(decode_failure(&mut reader)?);
        }
        let answer = match kind.wrapping_sub(ANSWER_TO) {
            KIND_STATUS => Self::Status(Box::new(Status::read(&mut reader)?)),
            KIND_FLUSH => Self::Flushed,
            KIND_SNAPSHOTS => Self::Snapshots(reader.several(24, read_snapshot)?),
            KIND_TAKE => Self::Taken(read_snapshot(&mut reader)?),
            KIND_DELETE => Self::Deleted(read_snapshot(&mut reader)?),
            KIND_LOCK => Self::Locked(read_snapshot(&mut reader)?),
            KIND_UNLOCK => Self::Unlocked(read_snapshot(&mut reader)?),
            KIND_DIFFERENCE => Self::Difference {
                from: Seq(reader.number()?),
                to: Seq(reader.number()?),
                changed: reader.several(16, |reader| Ok(reader.number()?..reader.number()?))?,
            },
            KIND_HOLD => Self::Held,
            KIND_NAME_HELD => Self::Named(reader.several(24, read_snapshot)?),
            KIND_LET_GO => Self::LetGo,
            KIND_MAKE_VOLUME => Self::VolumeMade(read_volume(&mut reader)?),
            KIND_VOLUMES => Self::Volumes(reader.several(24, read_volume)?),
            KIND_DELETE_VOLUME => Self::VolumeDeleted(read_volume(&mut reader)?),
            KIND_ROLLBACK => Self::WentBack { to: Seq(reader.number()?), at: Seq(reader.number()?) },
            _ => return Err(bad("an answer of no known kind")),
        };
        reader.end().map(|()| answer)
    }
}

#[cfg(test)]
mod tests;

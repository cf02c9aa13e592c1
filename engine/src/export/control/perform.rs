//! Doing what is asked, with a volume that this process has open.

use super::message::{Answer, ApplyNumbers, LogNumbers, Moment, Request, Status};
use crate::device::Caching;
use crate::error::{Error, Reason, Result};
use crate::store::log::LogStatus;
use crate::units::{self, Seq};
use crate::volume::{Volume, VolumeStatus};

/// Does what is asked. It runs to its end even where nobody waits for the answer.
///
/// # Errors
/// As the calls of [`Volume`] that it stands for.
pub async fn perform(volume: &Volume, request: &Request) -> Result<Answer> {
    Ok(match request {
        Request::Status => Answer::Status(Box::new(Status::of(&volume.status()))),
        Request::Flush => {
            volume.flush().await?;
            Answer::Flushed
        }
        Request::Snapshots { with_space: false } => Answer::Snapshots(volume.snapshots()),
        Request::Snapshots { with_space: true } => Answer::Snapshots(volume.snapshots_with_space().await?),
        Request::Take { name, of: None } => Answer::Taken(volume.create_snapshot(name).await?),
        Request::Take { name, of: Some(of) } => {
            Answer::Taken(volume.open_writable(of).await?.create_snapshot(name).await?)
        }
        Request::Clone { of, name } => Answer::Taken(volume.clone_snapshot(of, name).await?),
        Request::Delete(name) => {
            let gone = volume.snapshot(name)?;
            volume.delete_snapshot(name).await?;
            Answer::Deleted(gone)
        }
        Request::Lock(name, time) => Answer::Locked(volume.lock_snapshot(name, *time).await?),
        Request::Unlock(name) => Answer::Unlocked(volume.unlock_snapshot(name).await?),
        Request::Difference(from, to) => {
            let (from, to) = (moment_of(volume, from)?, moment_of(volume, to)?);
            let changed = volume.difference_between(from, to).await?;
            Answer::Difference { from: Seq(from.sequence), to: Seq(to.sequence), changed }
        }
        Request::Hold { group, members } => {
            volume.hold_for(*group, members).await?;
            Answer::Held
        }
        Request::NameHeld(id) => Answer::Named(volume.name_held(*id).await?),
        Request::LetGo(id) => {
            volume.let_go(id);
            Answer::LetGo
        }
        Request::MakeVolume { name, size_bytes } => {
            Answer::VolumeMade(volume.create_volume(name, *size_bytes).await?)
        }
        Request::Volumes => Answer::Volumes(volume.volumes()),
        Request::DeleteVolume(name) => {
            let gone = volume.volumes().into_iter().find(|one| one.name == *name);
            volume.delete_volume(name).await?;
            let gone =
                gone.ok_or_else(|| Error::new("delete volume", Reason::NoVolume { name: name.clone() }))?;
            Answer::VolumeDeleted(gone)
        }
        Request::Rollback { to, keep } => {
            let to = moment_of(volume, to)?;
            if to.branch != 0 {
                return Err(Error::new("roll back", Reason::NotOfSnapshots));
            }
            let to = Seq(to.sequence);
            let at = match keep {
                Some(name) => volume.rollback_keeping(to, name).await?,
                None => volume.rollback(to).await?,
            };
            Answer::WentBack { to, at }
        }
    })
}

fn moment_of(volume: &Volume, moment: &Moment) -> Result<units::Moment> {
    match moment {
        Moment::Now => volume.moment(None),
        Moment::At(sequence) => volume.moment(Some(*sequence)),
        Moment::Named(name) => volume.moment_of(name),
    }
}

impl Status {
    /// What others are told of it.
    pub fn of(status: &VolumeStatus) -> Self {
        Self {
            volume_id: status.info.id,
            io_kind: status.io_path.kind.to_string(),
            io_path: status.io_path.to_string(),
            direct_io: status.caching == Caching::Direct,
            poisoned: status.poisoned,
            volume_device: status.volume_device.as_ref().map(|(name, _)| name.clone()),
            objects_device: status.objects_device.as_ref().map(|(name, _)| name.clone()),
            log: status.log.as_ref().map(LogNumbers::of),
        }
    }
}

impl LogNumbers {
    fn of(log: &LogStatus) -> Self {
        Self {
            sequence: log.sequence,
            durable_through: log.durable_through,
            earliest_moment: log.earliest_moment,
            segments: log.segments.into(),
            free_segments: log.free_segments.into(),
            live_blocks: log.live_blocks,
            past_bytes: log.past_bytes,
            runs: log.runs as u64,
            tail_batches: log.recovery.batches,
            tail_entries: log.recovery.entries,
            tail_bytes: log.recovery.bytes,
            damaged_after: log.recovery.damaged_after,
            apply: log.apply.as_ref().map(|apply| ApplyNumbers {
                applied: apply.applied,
                accepted: apply.accepted,
                extents: apply.extents.into(),
                stalled: apply.stalled.map(str::to_string),
            }),
        }
    }
}

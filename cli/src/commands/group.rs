//! `icecore snapshot create` and `list` of several volumes at once: each of which this program opens, or reaches where
//! another one has it open.
//!
//! All are held, in one order, before the first moment is named, so that they show one instant. What is held elsewhere
//! ends by itself should this program die; what a failure leaves is taken back, and what cannot be is told by `list`.

use std::path::{Path, PathBuf};

use icecore::error::{Error, Reason};
use icecore::export::control::{Answer, ControlClient, Request, perform, run_directory};
use icecore::runtime::Runtime;
use icecore::store::log::{SnapshotGroup, SnapshotInfo};
use icecore::volume::{OpenMode, Volume, format_id, incomplete_groups};
use serde_json::{Value, json};

use super::snapshot::{line_of, object_of, snapshots_of};
use crate::failure::Outcome;
use crate::output::Done;
use crate::session::{IoOptions, Reached};

/// A pool, open here or elsewhere.
struct Pool {
    path: PathBuf,
    pool_id: [u8; 16],
    id: [u8; 16],
    reached: Reached<Volume>,
}

impl Pool {
    async fn ask(&self, request: &Request) -> Result<Answer, Error> {
        match &self.reached {
            Reached::Own(volume) => perform(volume, request).await,
            Reached::Held(client) => client.call(request),
        }
    }

    /// Gives up a snapshot that has been taken. Whoever serves it may have dropped a connection that was silent for long.
    async fn take_back(&self, name: &str) -> Result<(), Error> {
        let request = Request::Delete(name.to_string());
        let Err(error) = self.ask(&request).await else { return Ok(()) };
        match ControlClient::connect(&run_directory()?, &self.path, &self.pool_id)? {
            Some(client) => client.call(&request).map(drop),
            None => Err(error),
        }
    }

    async fn close(&self) -> Result<(), Error> {
        match &self.reached {
            Reached::Own(volume) => volume.close().await,
            Reached::Held(_) => Ok(()),
        }
    }
}

/// Opens all, or reaches those that have them open, in the order in which groups are held.
fn open(io: IoOptions, runtime: &Runtime, paths: &[PathBuf], mode: OpenMode) -> Outcome<Vec<Pool>> {
    let mut known = Vec::new();
    for path in paths {
        let info = runtime.block_on(Volume::inspect(&io.look_at(runtime, path)?))?;
        known.push((info.pool_id, path.canonicalize().unwrap_or_else(|_| path.clone()), path, info.id));
    }
    known.sort();
    if let Some(twice) = known.windows(2).find(|pair| (pair[0].0, &pair[0].1) == (pair[1].0, &pair[1].1)) {
        let value = twice[1].2.display().to_string();
        let rule = "each volume once is possible";
        let reason = Reason::InvalidSetting { name: "volume of a group", value, rule };
        return Err(Error::new("take snapshots", reason).into());
    }
    let mut pools = Vec::new();
    for (pool_id, _, path, id) in known {
        let device = match mode {
            OpenMode::ReadOnly => io.reach_to_look(runtime, path, || io.look_at(runtime, path))?,
            _ => io.reach(runtime, path)?,
        };
        let reached = match device {
            Reached::Held(client) => Reached::Held(client),
            Reached::Own(device) => Reached::Own(runtime.block_on(Volume::open(device, mode))?),
        };
        pools.push(Pool { path: path.clone(), pool_id, id, reached });
    }
    Ok(pools)
}

/// Takes a snapshot of each of these volumes, at one instant; `all`: of the further volumes of their pools too.
///
/// # Errors
/// Whatever stopped it; then none is left, unless that is said.
pub fn create(io: IoOptions, paths: &[PathBuf], name: &str, all: bool) -> Outcome<Done> {
    let runtime = io.runtime()?;
    let pools = open(io, &runtime, paths, OpenMode::ReadWrite)?;
    let mut id = [0; 16];
    id[..8].copy_from_slice(&runtime.context().random_u64().to_le_bytes());
    id[8..].copy_from_slice(&runtime.context().random_u64().to_le_bytes());
    runtime.block_on(async {
        let taken = take(&pools, id, name, all).await;
        // The note that it was closed in order is worth having after a failure too.
        let mut closed = Ok(());
        for pool in &pools {
            closed = closed.and(pool.close().await);
        }
        let taken = taken?;
        closed?;
        Ok(told(&pools, paths, &taken))
    })
}

/// What is to be taken of a pool: of which of its volumes, and under which names.
async fn members(pool: &Pool, name: &str, all: bool) -> Result<Vec<(Option<String>, String)>, Error> {
    let mut members = vec![(None, name.to_string())];
    if all && let Answer::Volumes(volumes) = pool.ask(&Request::Volumes).await? {
        members.extend(volumes.into_iter().map(|volume| {
            let name = format!("{}/{name}", volume.name);
            (Some(volume.name), name)
        }));
    }
    Ok(members)
}

async fn take(
    pools: &[Pool],
    id: [u8; 16],
    name: &str,
    all: bool,
) -> Result<Vec<(usize, SnapshotInfo)>, Error> {
    let mut wanted = Vec::new();
    for pool in pools {
        wanted.push(members(pool, name, all).await?);
    }
    let count: usize = wanted.iter().map(Vec::len).sum();
    if let ([pool], 1) = (pools, count) {
        let answer = pool.ask(&Request::Take { name: name.to_string(), of: None }).await?;
        return match answer {
            Answer::Taken(snapshot) => Ok(vec![(0, snapshot)]),
            _ => Err(another()),
        };
    }
    let group = SnapshotGroup { id, members: count as u32 };
    let mut taken = Vec::new();
    let failed = 'failed: {
        for (pool, members) in pools.iter().zip(wanted) {
            if let Err(error) = pool.ask(&Request::Hold { group, members }).await {
                break 'failed error;
            }
        }
        // From here on nobody writes to any of them.
        for (at, pool) in pools.iter().enumerate() {
            match pool.ask(&Request::NameHeld(id)).await {
                Ok(Answer::Named(named)) => taken.extend(named.into_iter().map(|one| (at, one))),
                Ok(_) => break 'failed another(),
                Err(error) => break 'failed error,
            }
        }
        return Ok(taken);
    };
    for pool in pools {
        // What is not held any more needs no letting go, and what cannot be reached ends by itself.
        let _ended = pool.ask(&Request::LetGo(id)).await;
    }
    for (at, snapshot) in &taken {
        if let Err(error) = pools[*at].take_back(&snapshot.name).await {
            let path = pools[*at].path.display();
            eprintln!("icecore: {path}: {:?} was taken and stays: {error}", snapshot.name);
        }
    }
    Err(failed)
}

fn another() -> Error {
    Error::new("take snapshot", Reason::BadMessage { why: "another answer" })
}

fn told(pools: &[Pool], paths: &[PathBuf], taken: &[(usize, SnapshotInfo)]) -> Done {
    // In the order in which the pools were given.
    let of_path = |path: &PathBuf| {
        let path = path.clone();
        taken.iter().filter(move |(at, _)| pools[*at].path == path)
    };
    let all: Vec<(&Pool, &SnapshotInfo)> =
        paths.iter().flat_map(of_path).map(|(at, snapshot)| (&pools[*at], snapshot)).collect();
    let object = |(pool, snapshot): &(&Pool, &SnapshotInfo)| {
        let mut object = object_of(snapshot);
        object["path"] = pool.path.display().to_string().into();
        object["id"] = format_id(&pool.id).into();
        object
    };
    let line = |(pool, snapshot): &(&Pool, &SnapshotInfo)| {
        format!("{} {} {}\n", snapshot.sequence.0, pool.path.display(), snapshot.name)
    };
    let group = taken.first().and_then(|(_, snapshot)| snapshot.group);
    Done {
        object: json!({
            "group": group.map(|group| format_id(&group.id)),
            "snapshots": all.iter().map(object).collect::<Vec<_>>(),
        }),
        text: all.iter().map(line).collect(),
        remark: format!("{} volumes: snapshots of one instant taken", all.len()),
    }
}

/// Lists the snapshots of these volumes, and the groups that are not whole.
///
/// # Errors
/// Whatever stopped it.
pub fn list(io: IoOptions, paths: &[PathBuf], with_space: bool) -> Outcome<Done> {
    let runtime = io.runtime()?;
    let pools = open(io, &runtime, paths, OpenMode::ReadOnly)?;
    let mut listed: Vec<(&Path, Vec<SnapshotInfo>)> = Vec::new();
    let (mut volumes, mut text) = (Vec::new(), String::new());
    for path in paths {
        let Some(pool) = pools.iter().find(|pool| pool.path == *path) else { continue };
        let answer = runtime.block_on(pool.ask(&Request::Snapshots { with_space }))?;
        let snapshots = snapshots_of(answer);
        volumes.push(json!({
            "path": path.display().to_string(),
            "id": format_id(&pool.id),
            "snapshots": snapshots.iter().map(object_of).collect::<Vec<_>>(),
        }));
        for snapshot in &snapshots {
            text.push_str(&format!("{} {}", path.display(), line_of(snapshot)));
        }
        listed.push((path, snapshots));
    }
    let count: usize = listed.iter().map(|(_, snapshots)| snapshots.len()).sum();
    let mut remark = format!("{count} snapshots");
    let mut short: Vec<Value> = Vec::new();
    for incomplete in incomplete_groups(listed.iter().flat_map(|(_, snapshots)| snapshots)) {
        let (id, members) = (format_id(&incomplete.group.id), incomplete.group.members);
        let there = incomplete.found.join(", ");
        remark.push_str(&format!(
            "\nicecore: group {id} is not whole: {} of {members} snapshots are there ({there}); the others were not taken, \
             are gone, or lie in volumes that were not named",
            incomplete.found.len()
        ));
        short.push(json!({ "group": id, "members": members, "found": incomplete.found }));
    }
    Ok(Done { object: json!({ "volumes": volumes, "incomplete_groups": short }), text, remark })
}

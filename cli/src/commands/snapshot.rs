//! `icecore snapshot`: the named moments of a volume: taking, listing, cloning and deleting them, and going back to a
//! moment.
//!
//! Where a program has the volume open and listens, it does what is asked; otherwise the volume is opened here. Either
//! way the same code does it (`control::perform`), and the same is printed.

use std::ops::Range;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use icecore::error::{Error, Reason};
use icecore::export::control::{Answer, ControlClient, Moment, Request, perform};
use icecore::store::log::SnapshotInfo;
use icecore::units::{Seq, utc};
use icecore::volume::{ApplyOptions, LockTime, OpenMode, OpenOptions, Volume, format_id};
use serde_json::{Value, json};

use super::inspect::IoPaths;
use super::{group, volume};
use crate::failure::{Failure, Outcome};
use crate::output::Done;
use crate::session::{IoOptions, Reached, VolumeDevice};
use crate::size;

/// What to do with moments.
#[derive(Debug, Subcommand)]
pub enum Snapshot {
    /// Give the present moment of a volume, of a writable snapshot, or of several volumes at one instant, a name, which keeps what it shows
    Create(Create),
    /// Make a writable snapshot that begins as a snapshot; no data is copied
    Clone(Cloned),
    /// List the snapshots of a volume, by their moments, or of several, and the groups that are not whole; writes nothing
    List(List),
    /// Give a name up; what it alone kept comes free, no data is moved
    Delete(Named),
    /// Keep a snapshot from being deleted, or broken for want of room, until it is unlocked or a time has come
    Lock(Lock),
    /// Let a snapshot be deleted again; refused until the time has come that it is locked for
    Unlock(Named),
    /// List the regions that differ between two moments; from metadata alone, writes nothing
    Diff(Diff),
    /// Make a volume again what it was at an earlier moment; what was written since can still be read as its past
    Rollback(Rollback),
}

/// A volume.
#[derive(Debug, Args)]
pub struct Listed {
    /// The block device or file that holds the volume
    path: PathBuf,
    #[command(flatten)]
    volume: VolumeDevice,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `icecore snapshot list`.
#[derive(Debug, Args)]
pub struct List {
    /// The block devices or files that hold the volumes
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
    #[command(flatten)]
    volume: VolumeDevice,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    /// Tell of each, before its name, the bytes that deleting it alone would free (with --json always)
    #[arg(long)]
    space: bool,
}

/// A volume and the name of a snapshot.
#[derive(Debug, Args)]
pub struct Named {
    #[command(flatten)]
    of: Listed,
    /// The snapshot's name: 1 to 64 bytes
    name: String,
}

/// Arguments of `icecore snapshot create`.
#[derive(Debug, Args)]
#[command(override_usage = "icecore snapshot create [OPTIONS] <PATH>... <NAME>")]
pub struct Create {
    /// The block devices or files that hold the volumes (of several, all snapshots show one instant), and last the name
    /// that each snapshot gets: 1 to 64 bytes
    #[arg(required = true, value_name = "PATH... NAME")]
    paths_and_name: Vec<PathBuf>,
    #[command(flatten)]
    volume: VolumeDevice,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    /// The writable snapshot, or the further volume, whose moment it is; the pool's own volume, if not given
    #[arg(long, value_name = "NAME", visible_alias = "volume")]
    of: Option<String>,
    /// Of each pool, all volumes: further ones under VOLUME/NAME; those of one pool are taken together or not at all
    #[arg(long, conflicts_with = "of")]
    all_volumes: bool,
}

/// Arguments of `icecore snapshot clone`.
#[derive(Debug, Args)]
pub struct Cloned {
    #[command(flatten)]
    of: Listed,
    /// The snapshot that it begins as
    snapshot: String,
    /// The name of the writable snapshot: 1 to 64 bytes
    name: String,
}

/// Arguments of `icecore snapshot lock`.
#[derive(Debug, Args)]
pub struct Lock {
    #[command(flatten)]
    of: Named,
    /// The time until which nobody can unlock it, such as 2030-01-31T12:00:00Z
    #[arg(long, value_name = "TIME", value_parser = size::parse_time, conflicts_with = "for")]
    until: Option<u64>,
    /// For how long nobody can unlock it, in seconds or with the suffix s, m, h or d
    #[arg(long, value_name = "TIME", value_parser = size::parse_seconds)]
    r#for: Option<u64>,
}

impl Lock {
    fn time(&self) -> LockTime {
        match (self.until, self.r#for) {
            (Some(until), _) => LockTime::Until(until),
            (None, Some(seconds)) => LockTime::For(seconds.saturating_mul(1_000_000_000)),
            (None, None) => LockTime::Held,
        }
    }
}

/// Arguments of `icecore snapshot diff`.
#[derive(Debug, Args)]
pub struct Diff {
    #[command(flatten)]
    of: Listed,
    /// The first moment: a snapshot's name, a writable one's for what it is now, or @N for the sequence N
    #[arg(value_name = "MOMENT")]
    from: String,
    /// The other one; now, if not given
    #[arg(value_name = "MOMENT")]
    to: Option<String>,
}

/// Arguments of `icecore snapshot rollback`.
#[derive(Debug, Args)]
pub struct Rollback {
    #[command(flatten)]
    of: Listed,
    /// The snapshot to go back to
    #[arg(required_unless_present = "sequence")]
    name: Option<String>,
    /// The moment, by the sequence of the last write that the volume keeps
    #[arg(long, value_name = "N", conflicts_with = "name")]
    sequence: Option<u64>,
    /// Give what the volume is now this name before, so that nothing is lost; `clone` goes on from there
    #[arg(long, value_name = "NAME")]
    keep: Option<String>,
}

impl Snapshot {
    /// Whether the result is wanted as one JSON object.
    pub fn wants_json(&self) -> bool {
        match self {
            Self::Create(create) => create.json,
            Self::Clone(cloned) => cloned.of.json,
            Self::Delete(named) | Self::Unlock(named) => named.of.json,
            Self::Lock(lock) => lock.of.of.json,
            Self::List(list) => list.json,
            Self::Diff(diff) => diff.of.json,
            Self::Rollback(rollback) => rollback.of.json,
        }
    }

    /// Does it.
    ///
    /// # Errors
    /// Whatever stopped it.
    pub fn run(self, io: IoOptions) -> Outcome<Done> {
        match self {
            Self::Create(create) => create.run(io),
            Self::Clone(Cloned { of: volume, snapshot, name }) => {
                volume.change(io, &Request::Clone { of: snapshot, name })
            }
            Self::Delete(Named { of, name }) => of.change(io, &Request::Delete(name)),
            Self::Lock(lock) => {
                let time = lock.time();
                lock.of.of.change(io, &Request::Lock(lock.of.name, time))
            }
            Self::Unlock(Named { of, name }) => of.change(io, &Request::Unlock(name)),
            Self::Rollback(Rollback { of, name, sequence, keep }) => {
                let to = match name {
                    Some(name) => Moment::Named(name),
                    None => Moment::At(Seq(sequence.unwrap_or_default())),
                };
                of.change(io, &Request::Rollback { to, keep })
            }
            Self::List(List { paths, volume, json, space }) => {
                let with_space = space || json;
                match one_of(&paths, json, volume)? {
                    Some(one) => one.look(io, &Request::Snapshots { with_space }),
                    None => group::list(io, &paths, with_space),
                }
            }
            Self::Diff(Diff { of, from, to }) => {
                let to = to.as_deref().map_or(Moment::Now, moment);
                of.look(io, &Request::Difference(moment(&from), to))
            }
        }
    }
}

/// The volume, where it is one.
impl Create {
    fn run(self, io: IoOptions) -> Outcome<Done> {
        // In one list, so that options may stand anywhere among them.
        let mut paths = self.paths_and_name;
        let name = paths.pop().and_then(|name| name.into_os_string().into_string().ok());
        let Some(name) = name.filter(|_| !paths.is_empty()) else {
            let value = "not both are given".to_string();
            let rule = "the volume's device is needed, and then the snapshot's name";
            let reason = Reason::InvalidSetting { name: "PATH and NAME", value, rule };
            return Err(Error::new("take snapshot", reason).into());
        };
        if self.all_volumes {
            return group::create(io, &paths, &name, true);
        }
        match one_of(&paths, self.json, self.volume)? {
            Some(one) => one.change(io, &Request::Take { name, of: self.of }),
            None if self.of.is_some() => Err(not_of_several("--of", "name one volume")),
            None => group::create(io, &paths, &name, false),
        }
    }
}

/// The volume, where it is one.
fn one_of(paths: &[PathBuf], json: bool, volume: VolumeDevice) -> Outcome<Option<Listed>> {
    match paths {
        [path] => Ok(Some(Listed { path: path.clone(), volume, json })),
        _ if volume.is_given() => {
            let rule =
                "of several volumes, one on several devices has to be open elsewhere: see `icecore attach`";
            Err(not_of_several("--volume-device or --objects-device", rule))
        }
        _ => Ok(None),
    }
}

fn not_of_several(name: &'static str, rule: &'static str) -> Failure {
    let value = "given for several volumes".to_string();
    Error::new("take snapshots", Reason::InvalidSetting { name, value, rule }).into()
}

/// A snapshot as scripts see it.
pub fn object_of(snapshot: &SnapshotInfo) -> Value {
    json!({
        "name": snapshot.name,
        "writable": snapshot.writable,
        "of": snapshot.of,
        "sequence": snapshot.sequence.0,
        "time_unix_ns": snapshot.time_unix_ns,
        "broken": snapshot.broken,
        "locked": snapshot.lock.is_some(),
        "locked_until": snapshot.lock.filter(|lock| lock.until_unix_ns > 0).map(|lock| utc(lock.until_unix_ns)),
        "held": snapshot.lock.is_some_and(|lock| lock.held),
        "group": snapshot.group.map(|group| format_id(&group.id)),
        "group_members": snapshot.group.map(|group| group.members),
        "exclusive_bytes": snapshot.exclusive_bytes,
    })
}

/// A snapshot as people see it.
pub fn line_of(snapshot: &SnapshotInfo) -> String {
    let kind = match &snapshot.of {
        Some(of) if snapshot.writable => format!(" (writable, began as {of})"),
        Some(of) => format!(" (of {of})"),
        None => String::new(),
    };
    let broken = if snapshot.broken { " (broken: there was no room for it)" } else { "" };
    let state = match snapshot.lock {
        Some(lock) if lock.until_unix_ns > 0 => format!(" (locked until {})", utc(lock.until_unix_ns)),
        Some(_) => " (locked)".to_string(),
        None => broken.to_string(),
    };
    let group = snapshot.group.map(|group| format!(" (one of {} taken together)", group.members));
    let group = group.unwrap_or_default();
    let space = snapshot.exclusive_bytes.map(|bytes| format!(" {bytes}")).unwrap_or_default();
    format!("{}{space} {}{kind}{state}{group}\n", snapshot.sequence.0, snapshot.name)
}

/// The snapshots that an answer lists.
pub fn snapshots_of(answer: Answer) -> Vec<SnapshotInfo> {
    match answer {
        Answer::Snapshots(snapshots) => snapshots,
        _ => Vec::new(),
    }
}

/// The moment that a name or `@N` says.
fn moment(said: &str) -> Moment {
    match said.strip_prefix('@').and_then(|number| number.parse().ok()) {
        Some(sequence) => Moment::At(Seq(sequence)),
        None => Moment::Named(said.to_string()),
    }
}

impl Listed {
    /// Has a change made: by whoever has the volume open, else here.
    pub fn change(self, io: IoOptions, request: &Request) -> Outcome<Done> {
        let runtime = io.runtime()?;
        let device = match io.reach(&runtime, &self.path)? {
            Reached::Held(client) => return self.asked(&client, request),
            Reached::Own(device) => device,
        };
        let paths = IoPaths::of(&device);
        let devices = self.volume.take(io, &runtime, device)?;
        runtime.block_on(async {
            // Nothing that may be discarded goes home meanwhile.
            let apply = ApplyOptions { automatic: false, ..ApplyOptions::default() };
            let options = OpenOptions { apply, ..OpenOptions::default() };
            let volume = Volume::open_with(devices, OpenMode::ReadWrite, options).await?;
            let answer = perform(&volume, request).await;
            // The note that it was closed in order is worth having after a refusal too.
            let closed = volume.close().await;
            let answer = answer?;
            closed?;
            Ok(self.told(&answer, &volume.info().id, &paths))
        })
    }

    /// Tells what is seen: by whoever has the volume open, else here.
    pub fn look(self, io: IoOptions, request: &Request) -> Outcome<Done> {
        let runtime = io.runtime()?;
        let device = match io.reach_to_look(&runtime, &self.path, || io.look_at(&runtime, &self.path))? {
            Reached::Held(client) => return self.asked(&client, request),
            Reached::Own(device) => device,
        };
        let paths = IoPaths::of(&device);
        let devices = self.volume.look_at(io, &runtime, device)?;
        let worked: Result<_, Error> = runtime.block_on(async {
            let volume = Volume::open_with(devices, OpenMode::ReadOnly, self.volume.opening()).await?;
            Ok((perform(&volume, request).await?, volume.info().id))
        });
        let (answer, id) = worked?;
        Ok(self.told(&answer, &id, &paths))
    }

    /// What the program answers that has the volume open.
    fn asked(&self, client: &ControlClient, request: &Request) -> Outcome<Done> {
        let (answer, status) = (client.call(request)?, client.status());
        Ok(self.told(&answer, &status.volume_id, &IoPaths::told(&self.path, status)))
    }

    fn told(&self, answer: &Answer, id: &[u8; 16], paths: &IoPaths) -> Done {
        let mut done = done_of(answer);
        done.object["id"] = format_id(id).into();
        done.remark = format!("{}: {}", self.path.display(), done.remark);
        paths.named_in(done)
    }
}

/// An answer as it is printed.
fn done_of(answer: &Answer) -> Done {
    let changed = |snapshot: &SnapshotInfo, what: &str| Done {
        object: object_of(snapshot),
        text: format!("{}\n", snapshot.sequence.0),
        remark: format!("snapshot {:?} {what}", snapshot.name),
    };
    match answer {
        Answer::Taken(snapshot) if snapshot.writable => changed(snapshot, "made, to be written"),
        Answer::Taken(snapshot) => changed(snapshot, "taken"),
        Answer::Deleted(snapshot) => changed(snapshot, "deleted"),
        Answer::Locked(snapshot) => changed(snapshot, "locked"),
        Answer::Unlocked(snapshot) => changed(snapshot, "unlocked"),
        Answer::WentBack { to, at } => {
            // The return is the entry behind the last one that it discards.
            let discarded = at.0.saturating_sub(to.0 + 1);
            Done {
                object: json!({ "to": to.0, "at": at.0, "discarded": discarded }),
                text: format!("{}\n", at.0),
                remark: format!("went back to {}; {discarded} entries behind that are discarded", to.0),
            }
        }
        Answer::Snapshots(snapshots) => Done {
            object: json!({ "snapshots": snapshots.iter().map(object_of).collect::<Vec<_>>() }),
            text: snapshots.iter().map(line_of).collect(),
            remark: format!("{} snapshots", snapshots.len()),
        },
        Answer::Difference { from, to, changed } => difference(from.0, to.0, changed),
        other => volume::done_of(other).unwrap_or_else(|| Done {
            object: json!({}),
            text: String::new(),
            remark: String::new(),
        }),
    }
}

fn difference(from: u64, to: u64, changed: &[Range<u64>]) -> Done {
    let bytes: u64 = changed.iter().map(|range| range.end - range.start).sum();
    let piece = |range: &Range<u64>| json!({ "offset": range.start, "length": range.end - range.start });
    let line = |range: &Range<u64>| format!("{} {}\n", range.start, range.end - range.start);
    Done {
        object: json!({
            "from": from,
            "to": to,
            "changed_bytes": bytes,
            "changed": changed.iter().map(piece).collect::<Vec<_>>(),
        }),
        text: changed.iter().map(line).collect(),
        remark: format!("{bytes} bytes in {} places differ between {from} and {to}", changed.len()),
    }
}

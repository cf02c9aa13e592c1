//! Going back to an earlier moment, and what follows from it.
//!
//! One entry of the log says it, and from there on the volume is what it was. Everything before that entry is in
//! runs by then, and nothing is written meanwhile. What was discarded can be opened as an image as long as the past
//! is kept; the deaths of its versions are noted in the background (*settling*), once more at the next opening if
//! the process ends before that.
//!
//! In a linear volume, a version that lives again may lie in the log though applying has passed it: it had been
//! superseded then. It is brought home before the rest is settled.
//!
//! Invariants: until a return is settled, durably, nothing is merged, so that what it discarded is still in the index;
//! nothing behind the moment that is gone back to has come home.

use std::rc::Rc;

use super::apply::{Action, Holding, Linear, STEP_BYTES, Step, Write};
use super::{Core, LogStore};
use crate::device::{Cause, Io};
use crate::error::{Error, Reason, Result};
use crate::format::batch::KIND_ROLLBACK;
use crate::pool::history::Rollback;
use crate::pool::index::merge;
use crate::pool::log::append::Entry;
use crate::pool::metadata::{HOME_FIRST, ROLLBACKS_MAX};
use crate::runtime::RangeGuard;
use crate::units::{Moment, Seq};

impl LogStore {
    /// Refuses a moment that cannot be gone back to.
    pub fn check_rollback(&self, to: Seq) -> Result<()> {
        self.check_is_volume("roll back")?;
        self.core.check_rollback(to.0)
    }

    /// Goes back to a moment; `guard` holds the whole volume. The sequence of the entry that says so.
    pub async fn rollback(&self, to: Seq, guard: RangeGuard) -> Result<Seq> {
        self.core.roll_back(to.0, guard).await.map(Seq)
    }
}

impl Core {
    fn check_rollback(&self, to: u64) -> Result<()> {
        let (last, earliest) = (self.log()?.sequence(), self.contents.window());
        let can_open = self.contents.can_open(Moment { branch: 0, sequence: to });
        let history = self.contents.index().history();
        let discarded_at = history.discarded_at(to);
        let reason = if to > last {
            Reason::UnknownMoment { moment: to, last }
        } else if !can_open {
            Reason::Expired { moment: to, earliest }
        } else if discarded_at != u64::MAX {
            Reason::Discarded { moment: to, discarded_at }
        } else if history.rollbacks().len() == ROLLBACKS_MAX {
            Reason::TooManyRollbacks { limit: ROLLBACKS_MAX }
        } else {
            return Ok(());
        };
        Err(Error::new("roll back", reason).on(self.device.name()))
    }

    async fn roll_back(self: &Rc<Self>, to: u64, guard: RangeGuard) -> Result<u64> {
        let log = self.log()?;
        let refused = |reason| Err(Error::new("roll back", reason).on(self.device.name()));
        let index = self.contents.index();
        self.check_rollback(to)?;
        let _pin = self.contents.pin(Moment { branch: 0, sequence: to });
        // What stood in the way the last time may have gone.
        self.linear.iter().for_each(Linear::try_again);
        while index.history().unsettled().is_some() {
            if self.failed.is_raised() {
                return refused(Reason::Poisoned);
            }
            if let Some(why) = self.linear.as_ref().and_then(Linear::stalled) {
                return refused(Reason::ApplyStalled { why });
            }
            self.settled.wait().await;
        }
        let mut holding = None;
        if let Some(linear) = &self.linear {
            holding = Some(Holding::new(self, linear));
            linear.rest().await;
            let applied = linear.cursor().sequence.get();
            if applied > to {
                return refused(Reason::AppliedAlready { moment: to, applied });
            }
        }
        // Nor does a checkpoint say anything of what is moved home meanwhile.
        let _turn = self.base_turn.lock(0, 1).await;
        // What is discarded is in runs, and no page of the current image holds more than these.
        loop {
            self.checkpoint().await?;
            if index.is_clean() {
                break;
            }
        }
        let pinned = index.pin(0, 0).await?;
        let (kind, guard) = (KIND_ROLLBACK, Some(guard));
        let entry = Entry {
            kind,
            address: 0,
            blocks: 0,
            tag: to,
            payload: None,
            durable: true,
            guard,
            pinned,
            after_flush: 0,
        };
        let appended = log.append(entry).await.0;
        drop(holding);
        self.judge(appended, true)
    }

    /// A return that is to be settled now.
    pub(super) fn to_settle(&self) -> Option<Rollback> {
        let unsettled = self.contents.index().history().unsettled()?;
        let is_home = self.linear.as_ref().is_none_or(|linear| linear.home_again.get() == unsettled.at);
        is_home.then_some(unsettled)
    }

    /// Whether the journal knows all returns as they are: until then they may have to be settled once more.
    pub(super) fn returns_are_told(&self) -> bool {
        self.contents.journal().state().rollbacks == self.contents.index().history().rollbacks()
    }

    /// Notes the deaths of what a return has discarded.
    pub(super) async fn settle(&self, rollback: Rollback) -> Result<()> {
        let discarded = merge::discarded(self.contents.index(), rollback).await?;
        self.contents.settle(rollback, &discarded);
        self.settled.give();
        Ok(())
    }

    /// Brings home what lives again and had been passed by. Why it was not done, if it was not.
    pub(super) async fn bring_revived_home(
        &self,
        linear: &Linear,
        rollback: Rollback,
    ) -> Result<Option<&'static str>> {
        let index = self.contents.index();
        let applied = linear.cursor().sequence.get();
        let discarded = merge::discarded(index, rollback).await?;
        let mut blocks = discarded.iter().map(|entry| entry.lba.get());
        loop {
            let mut step = Step::default();
            for lba in blocks.by_ref() {
                let pinned = index.pin(lba, 1).await?;
                let Some(now) = index.current_now(lba) else { unreachable!("its page is pinned") };
                let is_passed = !now.is_zero() && now.birth <= applied && now.virtual_segment < HOME_FIRST;
                if !is_passed {
                    continue;
                }
                let buf = self.device.context().buffers().reserved();
                let buf = buf.get(self.geometry.block_bytes as usize)?;
                let (result, buf) = self.read_versions(lba, &[now], None, buf, Cause::Apply).await;
                result?;
                step.add(Write { lba, sequence: now.birth, bytes: buf.to_vec() }, pinned);
                if step.bytes() >= STEP_BYTES {
                    break;
                }
            }
            if step.actions.is_empty() {
                break;
            }
            if let Some(why) = self.make_room(linear, &step).await? {
                return Ok(Some(why));
            }
            for action in &step.actions {
                self.perform(action).await?;
            }
            let io = Io { failed: Some(self.failed.clone()), ..Io::of(Cause::Apply) };
            self.home_device().flush(io).await?;
            for action in &step.actions {
                if let Action::Write(write) = action {
                    self.bring_home(write);
                }
            }
            linear.busy.borrow_mut().clear();
        }
        linear.home_again.set(rollback.at);
        // The rest is settled by whoever keeps room.
        self.log()?.progress.give();
        Ok(None)
    }
}

//! Going back to an earlier moment in a play: the volume is that moment's recording from then on, and the
//! moments that were discarded stay readable.

use std::rc::Rc;

use super::super::model::Digest;
use super::World;
use crate::error::Reason;
use crate::store::Backend;
use crate::units::Seq;
use crate::volume::Volume;

/// Moments that may be chosen: the newest ones.
const RECENT: usize = 6;

impl World<'_> {
    /// Goes back to one of the moments that were noted.
    pub(super) async fn go_back(&mut self, which: u64) -> Result<(), String> {
        let Some(volume) = self.quiet_volume().await? else { return Ok(()) };
        let shared = Rc::clone(&self.shared);
        let named: Vec<_> = self.past.named.iter().map(|(_, moment)| moment.clone()).collect();
        let moments = if self.script.backend.has_base() { &named } else { &self.past.moments };
        let recent = &moments[moments.len().saturating_sub(RECENT)..];
        let Some(at) = which.checked_rem(recent.len() as u64) else { return Ok(()) };
        let moment = recent[at as usize].clone();
        // What was written since is superseded, and what lives again may be no more than that.
        shared.blocks_called.set(shared.blocks_called.get() + self.script.volume_bytes / shared.block_bytes);
        let expires = moment.may_have_expired(self.script, &shared);
        if self.return_to(&volume, moment.sequence, &moment.contents, expires).await? {
            shared.note("past: went back");
            if moment.is_from_before_a_cut {
                shared.note("past: went back to before a cut");
            }
        }
        Ok(())
    }

    /// Goes back to a moment of these contents, which may have expired. Whether it did.
    pub(super) async fn return_to(
        &mut self,
        volume: &Volume,
        sequence: u64,
        contents: &[Digest],
        may_have_expired: bool,
    ) -> Result<bool, String> {
        let shared = Rc::clone(&self.shared);
        let is_discarded = self.past.is_discarded(sequence);
        let begun = shared.model.borrow_mut().begin_write(0, contents.iter().copied());
        let went = shared.bounded("go back", volume.rollback(Seq(sequence))).await?;
        shared.absorb();
        shared.model.borrow_mut().end_write(&begun, went.is_ok(), true);
        let at = match went {
            Ok(_) if is_discarded => {
                return Err(format!("it went back to {sequence}, which had been discarded"));
            }
            Ok(at) => at.0,
            Err(error) => {
                let is_linear = self.script.backend == Backend::Linear;
                match error.reason() {
                    Reason::Discarded { .. } if is_discarded => shared.note("past: discarded, refused"),
                    Reason::Expired { .. } if may_have_expired => shared.note("past: moment expired"),
                    Reason::AppliedAlready { .. } if is_linear && may_have_expired => {}
                    Reason::TooManyRollbacks { .. } if self.past.rollbacks.len() > 100 => {}
                    _ => shared.judge_error("go back", &error),
                }
                return Ok(false);
            }
        };
        // What is written over a base discards no moment.
        if self.script.backend != Backend::Cow {
            self.past.rollbacks.push((at, sequence));
        }
        let mark = shared.model.borrow().mark();
        let reading = shared.read_everything(volume, contents.len() as u64);
        if let Some(found) = shared.judged("read", reading).await? {
            shared.model.borrow().check_read(mark, 0, &found)?;
        }
        Ok(true)
    }
}

//! Inside a transaction: looks at the lanes that may send, and claims.

use std::{collections::BTreeSet, sync::atomic::Ordering, time::Duration};

use super::{Known, Picked, Plan, Schedule};
use crate::{
    model::{
        clock::Timestamp,
        correlation::new_uuid,
        deletion::{ALONE, AgentId, Batch, Lane},
        evidence::Evidence,
        outcome::Scope,
    },
    pace::{Admission, Probe},
    queue::{Claim, Look, Tx},
    worker::{
        calls::{self, on_their_way},
        plan::{Busy, Next, Rules, batches, probe},
    },
};

/// A probe that prefers rows with few attempts looks at this many times the rows of a request.
const LEAST_TRIED_OF: usize = 10;
/// A request that is not full waits for as long as the queue takes rows in. When that ends, the lanes are listed again.
const FOR_EVER: Duration = Duration::from_secs(u32::MAX as u64);

/// The state that the claims of one turn share.
struct Claiming<'k> {
    known: Known<'k>,
    busy: Busy,
    rules: Rules,
    now: Timestamp,
}

impl Claiming<'_> {
    fn rules_for(&self, lane: &Lane, elapsed: Duration) -> Rules {
        let asks_refused = lane.batch_max == ALONE && self.known.evidence.refuses_asks(&lane.agent, elapsed);
        Rules { asks_refused, ..self.rules }
    }
}

impl Schedule {
    /// Fills `plan` with claims of the lanes whose turn it is. A permit is taken for each batch before it is claimed.
    pub(in crate::worker) async fn claim<X: Tx>(
        &mut self,
        tx: &mut X,
        plan: &mut Plan,
        known: Known<'_>,
        is_overtaken: bool,
        now: Timestamp,
    ) -> Result<(), X::Error> {
        let mut turn = Claiming { known, busy: calls::busy(known.calls), rules: self.rules(), now };
        while !plan.picked.is_empty() {
            let mut picked = std::mem::take(&mut plan.picked);
            if is_overtaken {
                self.admit_again(tx, &mut picked, now).await?;
            }
            // We may have waited for the write lock: a hold or the shutdown may have arrived since.
            if self.told.load(Ordering::Relaxed) {
                self.lanes.restore(std::mem::take(&mut plan.taken));
                return Ok(());
            }
            if let Some((lane, how)) = picked.probe {
                self.claim_probe(tx, plan, lane, how, &mut turn).await?;
            }
            self.claim_free(tx, plan, picked.free, &mut turn).await?;
            if self.pace.most(self.clock.elapsed()) == 0 {
                break;
            }
            self.pick(plan, known.evidence, now);
        }
        Ok(())
    }

    fn rules(&self) -> Rules {
        Rules {
            batch_size: self.settings.batch_size,
            linger: if self.waits_for_full { FOR_EVER } else { self.settings.linger },
            retry: self.settings.policy.retry,
            recheck: self.settings.poll_interval,
            asks_refused: false,
        }
    }

    /// Checks the picked lanes against the holds in the database: somebody else wrote before this transaction began, and may have
    /// placed or lifted one. Only the holds of the picked agents are read here; all others are read outside of a transaction.
    async fn admit_again<X: Tx>(&mut self, tx: &mut X, picked: &mut Picked, now: Timestamp) -> Result<(), X::Error> {
        let scopes: BTreeSet<Scope> = picked.agents().cloned().map(Scope::Agent).chain([Scope::All]).collect();
        let rows = tx.holds_of(&scopes).await?;
        self.pace.holds.load_some(scopes, rows).iter().for_each(|change| self.hold_log.changed(change));
        let free = std::mem::take(&mut picked.free);
        if self.pace.holds.admit_any(now) != Admission::Free {
            self.lanes.restore(free);
        } else {
            picked.free = free.into_iter().filter_map(|lane| self.admitted(lane, now)).collect();
        }
        if let Some((lane, how)) = picked.probe.take() {
            match self.pace.holds.admit(&lane.agent, now) {
                Admission::Probe | Admission::Free => picked.probe = Some((lane, how)),
                Admission::Probing | Admission::Held(_) => self.lanes.restore(vec![lane]),
            }
        }
        Ok(())
    }

    async fn claim_probe<X: Tx>(
        &mut self,
        tx: &mut X,
        plan: &mut Plan,
        lane: Lane,
        how: Probe,
        turn: &mut Claiming<'_>,
    ) -> Result<(), X::Error> {
        let (evidence, now) = (turn.known.evidence, turn.now);
        let rules = turn.rules_for(&lane, self.clock.elapsed());
        let ids = on_their_way(turn.known.calls, self.others_wrote, &plan.claims, std::slice::from_ref(&lane));
        // Look at more rows than fit, and take those with the fewest attempts.
        let most = usize::from(rules.batch_size) * if how.asks || how.newest_first { LEAST_TRIED_OF } else { 1 };
        let looks = tx.look(std::slice::from_ref(&lane), most, &ids, how.newest_first, now).await?;
        plan.looks = plan.looks.saturating_sub(1);
        let Some(mut look) = looks.into_iter().next() else { return Ok(()) };
        if how.asks || how.newest_first {
            look.due.sort_by_key(|row| row.deletion.attempts);
        }
        let (found, next) = (look.due.len(), look.next_due_at);
        let largest = evidence.largest(&lane.agent);
        let Some(batch) = probe(&lane, look, how.halved, largest, &turn.busy, &rules) else {
            // All its due rows wait for calls in flight, or it has no due rows. If it has none at all, the next listing drops it.
            let recheck = (found > 0).then(|| now.plus(rules.recheck));
            if let Some(at) = [recheck, next].into_iter().flatten().min() {
                self.lanes.note(lane, self.at(at, now));
            }
            return Ok(());
        };
        if !self.pace.take(self.clock.elapsed()) {
            self.return_to_turn(lane);
            return Ok(());
        }
        self.pace.took(true);
        // After a rejection a single-entry DELETE may go out before any bulk delete has succeeded: a 400 would be evidence, and
        // only a 404 would not.
        let may_ask = self.may_ask(&lane.agent, evidence)
            || (self.settings.policy.ask_singly && how.newest_first && !rules.asks_refused);
        let asks = may_ask && (how.asks || how.newest_first);
        let batch = if asks { batch.alone() } else { batch };
        let has_more = found > batch.len() || found >= most;
        self.add(tx, plan, turn, batch);
        if has_more {
            self.return_to_turn(lane);
        } else if let Some(at) = next {
            self.lanes.note(lane, self.at(at, now));
        }
        Ok(())
    }

    async fn claim_free<X: Tx>(
        &mut self,
        tx: &mut X,
        plan: &mut Plan,
        lanes: Vec<Lane>,
        turn: &mut Claiming<'_>,
    ) -> Result<(), X::Error> {
        if lanes.is_empty() {
            return Ok(());
        }
        let share = plan.room.saturating_sub(plan.claims.len()).div_ceil(lanes.len());
        let most = share * usize::from(turn.rules.batch_size);
        let ids = on_their_way(turn.known.calls, self.others_wrote, &plan.claims, &lanes);
        let looks = tx.look(&lanes, most, &ids, false, turn.now).await?;
        plan.looks = plan.looks.saturating_sub(lanes.len());
        let mut unserved = Vec::new();
        for (lane, look) in lanes.into_iter().zip(looks) {
            if !self.serve(tx, plan, &lane, look, most, turn) {
                unserved.push(lane);
            }
        }
        // Lanes that got no room or no permit are first in the next turn.
        self.lanes.restore(unserved);
        Ok(())
    }

    /// Claims the batches of a lane that may go. False if it has rows to send and got no room or permit.
    fn serve<X: Tx>(
        &mut self,
        tx: &mut X,
        plan: &mut Plan,
        lane: &Lane,
        look: Look,
        asked: usize,
        turn: &mut Claiming<'_>,
    ) -> bool {
        let now = turn.now;
        let room = plan.room.saturating_sub(plan.claims.len());
        let (found, next) =
            batches(lane, look, asked, room, &turn.busy, &turn.rules_for(lane, self.clock.elapsed()), now);
        let (wanted, mut served) = (found.len(), 0);
        for batch in found {
            if !self.pace.take(self.clock.elapsed()) {
                break;
            }
            self.pace.took(false);
            let batch = if self.may_ask(&lane.agent, turn.known.evidence) { batch.alone() } else { batch };
            self.add(tx, plan, turn, batch);
            served += 1;
        }
        match next {
            _ if served < wanted || next == Next::HasMore => {
                if served == 0 {
                    return false;
                }
                self.lanes.put_back(lane.clone());
            }
            Next::LookAt(at) => self.lanes.note(lane.clone(), self.at(at, now)),
            Next::HasMore | Next::Nothing => {}
        }
        true
    }

    /// Whether a single-entry DELETE may go out: only after a bulk delete of this agent succeeded. Before that a 404 proves nothing.
    fn may_ask(&self, agent: &AgentId, evidence: &Evidence) -> bool {
        self.settings.policy.ask_singly
            && evidence.is_known(agent)
            && !evidence.refuses_asks(agent, self.clock.elapsed())
    }

    fn add(&mut self, tx: &mut impl Tx, plan: &mut Plan, turn: &mut Claiming<'_>, batch: Batch) {
        calls::add(&mut turn.busy, &batch);
        plan.claims.push(Claim { request: tx.next_request_id(), correlation_id: new_uuid(&mut self.rng), batch });
    }
}

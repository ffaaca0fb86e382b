//! The effect of answers on the holds: an answer places a hold, renews it, or lifts it.

use std::collections::BTreeSet;

use super::{Held, Holds, lifted};
use crate::model::{
    clock::Timestamp,
    deletion::{AgentId, RequestId},
    hold::{HoldChange, HoldRow},
    outcome::{Cause, Hold, HoldEnd, Scope},
};

/// The outcome of a request, as far as the holds depend on it.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The request's number.
    pub request: RequestId,
    /// The request's agent.
    pub agent: AgentId,
    /// The hold that follows from the request.
    pub hold: Option<Hold>,
    /// The scope to hold, if a streak is now long enough.
    pub reached: Option<Scope>,
    /// The request settled something.
    pub has_settled: bool,
    /// A single-entry DELETE asks about one row before the hold is placed.
    pub asks_first: bool,
    /// The newest request that was sent.
    pub newest: RequestId,
}

impl Holds {
    /// Takes in the outcome of a request. Returns the changes, which are to be written.
    ///
    /// `involved` returns the agents whose faults are the reason for a hold on everything.
    pub fn answered(
        &mut self,
        outcome: Outcome,
        involved: impl Fn() -> BTreeSet<AgentId>,
        now: Timestamp,
        rng: &mut fastrand::Rng,
    ) -> Vec<HoldChange> {
        let request = outcome.request;
        let mut probed = Vec::new();
        for held in self.concerning_mut(&outcome.agent).filter(|held| held.probe == Some(request)) {
            held.probe = None;
            probed.push(held.clone());
        }
        if outcome.has_settled {
            let mut changes = Vec::new();
            self.answered |= probed.iter().any(|held| held.is_question);
            probed.iter().for_each(|held| changes.extend(self.lift(&held.row)));
            self.drop_questions(&outcome.agent);
            return changes;
        }
        let Some(hold) = outcome.hold.clone() else {
            return self.without_hold(probed, &outcome, now, rng);
        };
        let by_streak = hold.end == HoldEnd::ByStreak;
        let scope = outcome.reached.clone().unwrap_or_else(|| hold.scope.clone());
        let (mut changes, mut is_placed) = (Vec::new(), false);
        for held in probed {
            is_placed |= self.probe_failed(held, &hold, &scope, &outcome, &mut changes, now, rng);
        }
        if !is_placed && (!by_streak || outcome.reached.is_some()) {
            if outcome.asks_first {
                self.ask(scope, hold.cause, 0, &outcome, now);
            } else {
                changes.extend(self.place(&hold, scope, &outcome, &involved, now, rng));
            }
        }
        changes
    }

    /// The probe settled nothing, and no hold follows from it. Holds that depend on answers about rows stay, because a rejection
    /// of several rows is such an outcome. Other holds are lifted.
    fn without_hold(
        &mut self,
        probed: Vec<Held>,
        outcome: &Outcome,
        now: Timestamp,
        rng: &mut fastrand::Rng,
    ) -> Vec<HoldChange> {
        let mut changes = Vec::new();
        for held in probed {
            if held.is_question || held.row.cause == Cause::Rejected || held.row.cause.is_of_an_answer() {
                // The outcome is no evidence, so a hold for rejections does not grow.
                let mut same = held.clone();
                same.row.repeats = held.row.repeats.saturating_sub(u32::from(held.row.cause == Cause::Rejected));
                changes.extend(self.place_again(&same, held.row.cause, None, outcome, now, rng));
            } else {
                changes.extend(self.lift(&held.row));
            }
        }
        changes
    }

    /// A probe of `held` met a fault from which `hold` on `scope` follows. Returns whether `held` now stands for that hold.
    #[expect(clippy::too_many_arguments, reason = "an outcome, the hold that follows, and where its changes go")]
    fn probe_failed(
        &mut self,
        held: Held,
        hold: &Hold,
        scope: &Scope,
        outcome: &Outcome,
        changes: &mut Vec<HoldChange>,
        now: Timestamp,
        rng: &mut fastrand::Rng,
    ) -> bool {
        let by_streak = hold.end == HoldEnd::ByStreak;
        let is_all = held.row.scope == Scope::All;
        if !is_all && *scope == Scope::All && hold.scope == Scope::All {
            // The fault concerns everybody, so it says nothing about the one agent, whose hold stays.
            return false;
        }
        // If the hold was placed because several agents got this status, one more of them changes nothing.
        let is_same = held.involved.is_some() && held.row.cause == hold.cause;
        if is_all && hold.scope != Scope::All && !by_streak && !is_same {
            // The API answers again, even though it refuses this agent.
            changes.extend(self.lift(&held.row));
            return false;
        }
        if by_streak && !is_by_streak(held.row.cause) {
            // Any answer about rows shows that the cause of this hold is over. A fault without such an answer shows nothing.
            if hold.cause.is_of_an_answer() || hold.cause == Cause::Rejected {
                changes.extend(self.lift(&held.row));
            } else {
                changes.extend(self.place_again(&held, held.row.cause, Some(hold), outcome, now, rng));
            }
            return false;
        }
        let is_placed = held.row.scope == *scope;
        if outcome.asks_first && is_all && held.is_question && held.asked.as_ref() != Some(&outcome.agent) {
            // Another agent's bulk delete failed as well. A row of that agent is asked about next.
            let asked = Some(outcome.agent.clone());
            self.put(Held { asked, newest: held.newest.max(outcome.newest), ..held });
        } else if outcome.asks_first && !is_all {
            if !held.row.cause.is_of_an_answer() {
                // The API answers again. Whether its answers are about the rows is another question.
                changes.extend(self.lift(&held.row));
            }
            self.ask(held.row.scope, hold.cause, held.row.repeats.saturating_add(1), outcome, now);
        } else if self.is_early_failure(&held, outcome, now) {
            return true;
        } else {
            changes.extend(self.place_again(&held, hold.cause, Some(hold), outcome, now, rng));
        }
        is_placed
    }

    /// Whether a probe before the hold's end, by an agent without a part in the faults, has failed as well. That agent now has a
    /// part in the faults, and the hold stays.
    fn is_early_failure(&mut self, held: &Held, outcome: &Outcome, now: Timestamp) -> bool {
        let known = self.all.get_mut(&held.row.cause).filter(|_| held.row.scope == Scope::All);
        let Some(known) = known else { return false };
        let is_early = known.row.until_at.is_some_and(|until| until > now);
        is_early && known.involved.as_mut().is_some_and(|involved| involved.insert(outcome.agent.clone()))
    }

    /// Something was settled, so the questions about the agent need no answer.
    fn drop_questions(&mut self, agent: &AgentId) {
        let questions = self.concerning(Some(agent)).filter(|held| held.is_question);
        let questions: Vec<_> = questions.map(|held| (held.row.scope.clone(), held.row.cause)).collect();
        questions.iter().for_each(|(scope, cause)| drop(self.remove(scope, *cause)));
        self.answered |= !questions.is_empty();
    }

    /// Whether a question was answered without a hold since the last call. Requests that waited for the answer may go.
    pub fn take_answered(&mut self) -> bool {
        std::mem::take(&mut self.answered)
    }

    fn lift(&mut self, row: &HoldRow) -> Option<HoldChange> {
        lifted(self.remove(&row.scope, row.cause)?)
    }

    /// Places a question: the next request, a single-entry DELETE, decides whether the hold is placed. If the hold is there
    /// already, its time is over, and the question is its next probe.
    fn ask(&mut self, scope: Scope, cause: Cause, repeats: u32, outcome: &Outcome, now: Timestamp) {
        if self.of(&scope).is_some_and(|causes| causes.values().any(|held| is_by_streak(held.row.cause))) {
            return;
        }
        let row = HoldRow { scope, cause, since_at: now, until_at: Some(now), repeats, probed_at: None, why: None };
        let asked = Some(outcome.agent.clone());
        self.put(Held { is_question: true, asked, ..Held::new(row, outcome.newest) });
    }

    /// Renews a hold after a failed probe, for the cause that the probe met.
    fn place_again(
        &mut self,
        held: &Held,
        cause: Cause,
        hold: Option<&Hold>,
        outcome: &Outcome,
        now: Timestamp,
        rng: &mut fastrand::Rng,
    ) -> Vec<HoldChange> {
        // A question that replaced a hold continues its count.
        let repeats = held.row.repeats.saturating_add(u32::from(!held.is_question));
        let until = self.end(cause, hold, repeats, now, rng);
        let was_longest = !held.is_question && self.is_longest(&held.row);
        let row = HoldRow {
            scope: held.row.scope.clone(),
            cause,
            // A renewed hold keeps its beginning.
            since_at: if cause == held.row.cause { held.row.since_at } else { now },
            until_at: Some(until),
            repeats,
            probed_at: Some(now),
            why: None,
        };
        let mut changes = Vec::new();
        if cause != held.row.cause || held.is_question {
            changes.extend(self.lift(&held.row));
        }
        let newest = held.newest.max(outcome.newest);
        // If the probe's fault concerns everybody, no agent is without a part in it.
        let involved = held.involved.clone().filter(|_| hold.is_none_or(|hold| hold.scope != Scope::All));
        let may_be_content = hold.map_or(held.may_be_content, |hold| hold.may_be_content);
        let held = Held { involved, may_be_content, early_from: held.early_from, ..Held::new(row.clone(), newest) };
        self.put(held);
        let is_longest = !was_longest && self.is_longest(&row);
        changes.push(HoldChange::Placed { row, is_longest });
        changes
    }

    /// Places a hold, unless the request was sent before the present one was placed.
    fn place(
        &mut self,
        hold: &Hold,
        scope: Scope,
        outcome: &Outcome,
        involved: &impl Fn() -> BTreeSet<AgentId>,
        now: Timestamp,
        rng: &mut fastrand::Rng,
    ) -> Option<HoldChange> {
        let by_streak = hold.end == HoldEnd::ByStreak;
        let causes = self.of(&scope);
        if by_streak && causes.is_some_and(|causes| causes.values().any(|held| outcome.request <= held.newest)) {
            return None;
        }
        let until = self.end(hold.cause, Some(hold), 0, now, rng);
        let known = causes.and_then(|causes| causes.get(&hold.cause)).cloned();
        let row = match &known {
            Some(held) if !held.is_question => {
                // The request was sent before the hold was placed. It can only move the end, if the API asks for a later one.
                let asks = matches!(hold.end, HoldEnd::At(_)) || hold.not_before.is_some();
                if !asks || held.row.until_at.is_none_or(|at| at >= until) {
                    return None;
                }
                HoldRow { until_at: Some(until), probed_at: Some(now), ..held.row.clone() }
            }
            Some(_) | None => HoldRow {
                scope,
                cause: hold.cause,
                since_at: now,
                until_at: Some(until),
                repeats: 0,
                probed_at: Some(now),
                why: None,
            },
        };
        let newest = known.as_ref().map_or(outcome.newest, |held| held.newest.max(outcome.newest));
        let involved = (row.scope == Scope::All && hold.scope != Scope::All).then(|| {
            let mut involved = involved();
            involved.insert(outcome.agent.clone());
            involved
        });
        self.put(Held { involved, may_be_content: hold.may_be_content, ..Held::new(row.clone(), newest) });
        let is_longest = self.is_longest(&row);
        Some(HoldChange::Placed { row, is_longest })
    }
}

/// Whether holds for this cause come from streaks.
pub(super) fn is_by_streak(cause: Cause) -> bool {
    cause.is_of_an_answer()
        || matches!(cause, Cause::Rejected | Cause::ServerError | Cause::Garbled | Cause::Lost | Cause::Contract)
}

//! Checks after every turn of a simulation, and at its end.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::Duration,
};

use audio_cache_sweeper::model::{
    deletion::State,
    judge::MAX_ASKS,
    outcome::{Cause, Scope},
};

use super::{
    api::{Mood, NOT_A_NUMBER},
    simulation::{HoldKey, Key, RETENTION, Simulation, key},
};
use crate::suite::engine::{Engine, Request, Row};

/// The verdict of each request on each row, by their ids.
type Verdicts = HashMap<(i64, i64), String>;

impl<E: Engine> Simulation<E> {
    /// Checks everything that must hold between turns.
    pub async fn check(&mut self) {
        self.check_calls().await;
        let (rows, requests) = (self.engine.rows().await, self.engine.requests().await);
        let requests: BTreeMap<i64, Request> = requests.into_iter().map(|request| (request.id, request)).collect();
        let outcomes = self.engine.outcomes().await;
        let verdicts = outcomes.into_iter().map(|told| ((told.request, told.row), told.verdict)).collect();
        self.check_answers(&rows, &requests, &verdicts);
        self.check_rows(rows, &requests, &verdicts);
    }

    async fn check_calls(&mut self) {
        let (wrong, open): (Vec<String>, BTreeMap<String, (usize, String)>) = {
            let mut world = self.model.world();
            let open = world.open.iter().map(|call| (call.id.to_string(), (call.number, call.agent.clone()))).collect();
            (std::mem::take(&mut world.wrong), open)
        };
        assert!(wrong.is_empty(), "{wrong:#?}");

        // The same requests are unanswered in the queue and at the API.
        let unanswered = self.engine.unanswered().await.into_iter().map(|request| request.correlation_id);
        let unanswered: BTreeSet<String> = unanswered.collect();
        assert_eq!(unanswered, open.keys().cloned().collect(), "unanswered in the queue, and in the world");

        // A hold that has ended has one probe at most.
        let now = self.clock.now();
        let holds = self.engine.holds().await.into_iter();
        let holds: Vec<HoldKey> = holds.map(|hold| (hold.scope, hold.cause, hold.until_at, hold.repeats)).collect();
        let calls = self.model.world().calls;
        self.holds.retain(|hold, _| holds.contains(hold));
        for hold in holds {
            // Calls from before the hold was first seen are no probes of it.
            let since = *self.holds.entry(hold.clone()).or_insert(calls);
            let (scope, _, until, _) = &hold;
            if until.is_some_and(|until| until <= now) {
                let covers = |agent: &str| *scope == Scope::All || scope.as_str() == agent;
                let probes: Vec<_> = open.values().filter(|(number, agent)| *number > since && covers(agent)).collect();
                assert!(probes.len() <= 1, "6: {probes:?} probe {hold:?}");
            }
        }
    }

    fn check_rows(&mut self, rows: Vec<Row>, requests: &BTreeMap<i64, Request>, verdicts: &Verdicts) {
        let mut missing: BTreeSet<Key> = self.known.keys().cloned().collect();
        let (mut open, mut settled) = (BTreeSet::new(), HashMap::new());
        for row in rows {
            let key = key(&row);
            match row.settled_at {
                None => drop(open.insert(key.clone())),
                Some(at) => drop(settled.insert(key.clone(), at)),
            }
            let Some(known) = self.known.get(&key) else { panic!("nobody asked for {row:?}") };
            missing.remove(&key);
            assert_eq!(row.is(State::Pending), row.settled_at.is_none(), "{row:?}");
            assert!(row.attempts <= self.settings.policy.max_attempts, "7: {row:?}");
            let outcomes = self.counted(row.id) - known.counted_before;
            assert!(row.attempts <= outcomes, "counted {outcomes} times: {row:?}");
            assert!(!known.closed || row.is(State::Dead), "an operator closed it: {row:?}");
            assert!(row.asks <= MAX_ASKS, "7: {row:?}");
            // By the row's last request, unless that was pruned.
            let is_told = row.request.is_some_and(|request| {
                let verdict = verdicts.get(&(request, row.id)).map(String::as_str);
                verdict == Some(row.state.as_str()) || (verdict.is_none() && !requests.contains_key(&request))
            });
            assert!(!row.is(State::Absent) || is_told, "2: {row:?}");
            if row.is(State::Deleted) {
                assert!(self.model.is_gone(&row.agent, &row.entry), "2: {row:?}");
                assert!(is_told, "2: {row:?}");
            }
        }
        // A missing row was pruned: it was settled, long ago.
        for key in missing {
            let old = self.settled_before.get(&key).is_some_and(|at| *at < self.pruned_at.minus(RETENTION));
            assert!(old, "1: {key:?} is lost");
            assert!(!self.open_before.contains(&key), "1: {key:?} was open, and is lost");
            self.known.remove(&key);
            self.figures.pruned += 1;
        }
        (self.open_before, self.settled_before) = (open, settled);
    }

    /// Checks that each answered request's verdicts follow from its answer.
    fn check_answers(&mut self, rows: &[Row], requests: &BTreeMap<i64, Request>, verdicts: &Verdicts) {
        let entries: HashMap<i64, &str> = rows.iter().map(|row| (row.id, row.entry.as_str())).collect();
        let mut seen = BTreeSet::new();
        for ((id, row), verdict) in verdicts {
            let (request, entry) = (&requests[id], entries.get(row));
            // Of a row that an operator removed, the entry is not known any more.
            let Some(entry) = entry.filter(|_| request.answered_at.is_some() && !self.checked.contains(id)) else {
                continue;
            };
            seen.insert(*id);
            *self.counted.entry(*row).or_default() += u32::from(verdict != "release");
            let (world, call, status) = (self.model.world(), request.correlation_id.parse().unwrap(), request.status);
            let told = (status == Some(200)).then(|| world.told.get(&call)).flatten();
            let deleted = told.is_some_and(|told| told.deleted.contains(*entry) && !told.failed.contains(*entry));
            let absent = world.absent.contains(&call);
            assert!(verdict != "absent" || absent, "2: {entry} in request {id}: {verdict}, told {status:?}");
            assert_eq!(verdict == "deleted", deleted, "2: {entry} in request {id}: {verdict}, told {told:?}");
        }
        self.checked.extend(seen);
    }

    /// Whether the row has a malformed ID and can get no single-entry DELETE. If only such rows are left, no answer tells them from
    /// an API that rejects everything.
    fn is_malformed_for_ever(&self, row: &Row) -> bool {
        let cannot_ask = !self.settings.policy.ask_singly || row.asks >= MAX_ASKS;
        cannot_ask && row.entry.starts_with(NOT_A_NUMBER) && row.last_cause == Some(Cause::Rejected)
    }

    async fn nothing_can_tell(&mut self) -> bool {
        let rows = self.engine.rows_where(|row| row.is(State::Pending)).await;
        rows.iter().all(|row| self.is_malformed_for_ever(row))
    }

    /// From here on the API is well, and nothing is held by an operator: every row must end.
    pub async fn end(&mut self) {
        self.engine.lift_where(|hold| hold.cause == Cause::Operator).await;
        let mut idle = 0;
        for round in 0..20_000 {
            let turn = self.worker().turn().await.unwrap();
            self.figures.turns += 1;
            self.arrived(turn).await;
            self.check_calls().await;
            let mut open = self.model.world().open.len();
            if open == 0 && turn.sent == 0 {
                if self.engine.pending().await == 0 || (round % 64 == 0 && self.nothing_can_tell().await) {
                    break;
                }
                // A worker that waits for nothing still polls.
                let wait = turn.wait.unwrap_or(self.settings.poll_interval);
                // After some idle turns, the next ones come later than the worker asks for. That must do as well, and is faster.
                idle += 1;
                let least = if idle > 10 { Duration::from_secs(5) } else { self.settings.poll_interval };
                self.clock.advance(wait.max(least));
            } else {
                idle = 0;
            }
            while open > 0 {
                self.answer(0, Mood::Ok).await;
                open -= 1;
            }
        }
        self.check().await;
        let rows = self.engine.rows().await;
        let can_end = |row: &&Row| row.is(State::Pending) && !self.is_malformed_for_ever(row);
        let open: Vec<&Row> = rows.iter().filter(can_end).collect();
        assert!(open.is_empty(), "7: {} rows reach no end, {:?} among them", open.len(), open[0]);
        assert_eq!(rows.len(), self.known.len(), "rows in, and rows accounted for");
        self.engine.assert_sound().await;
        let count = |state| rows.iter().filter(|row| row.is(state)).count() as u64;
        self.figures.deleted = count(State::Deleted);
        self.figures.absent = count(State::Absent);
        self.figures.dead = count(State::Dead);
        self.figures.calls = self.model.world().calls as u64;
    }
}

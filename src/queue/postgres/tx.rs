//! A transaction of the worker. What it writes is kept until the commit, and is then one statement if it can be: with a database at
//! some distance, each statement costs more for the way than for the work.

use std::collections::BTreeSet;

use sqlx::{PgConnection, Row as _};

use super::{
    Store,
    daemon::{bind_settings, introduction},
    due_rows,
    errors::StoreError,
    holds::HoldWrites,
    rows::{hold_columns, hold_row, lane_of},
    settle::{Answered, Judgements, SETTLE, TURN, bind_claims},
};
use crate::{
    model::{
        act::ActId,
        clock::Timestamp,
        deletion::{DeletionId, Lane, RequestId},
        hold::{HoldChange, HoldRow},
        outcome::Scope,
    },
    queue::{Claim, Committed, InEffect, Look, Settlement, Tx},
};

/// $1 scopes
const HOLDS_OF: &str = concat!("SELECT ", hold_columns!(), " FROM holds WHERE scope = ANY ($1)");
/// $1 ids
const MARK_LOGGED: &str = "UPDATE acts SET logged = true WHERE id = ANY ($1)";

const SETTLING: &str = "settle";
const CLAIMING: &str = "claim and commit";
const CHANGING_HOLDS: &str = "change the holds";

/// A transaction that writes. Without [`Tx::commit`] it has no effect.
#[derive(Debug)]
pub struct Transaction<'a> {
    store: &'a mut Store,
    /// What is to be settled, and is not written yet.
    judgements: Judgements,
    holds: HoldWrites,
    acts: Vec<i64>,
}

impl<'a> Transaction<'a> {
    pub(super) fn new(store: &'a mut Store) -> Self {
        Self { store, judgements: Judgements::default(), holds: HoldWrites::default(), acts: Vec::new() }
    }

    /// Writes what is to be settled, in a transaction of the server.
    async fn write_judgements(&mut self) -> Result<(), StoreError> {
        self.store.begin_transaction().await?;
        let mut judgements = std::mem::take(&mut self.judgements);
        let mut answered = judgements.expected();
        let query = judgements.bind(sqlx::query(SETTLE)).bind(self.store.watch.triggers());
        let mut knows_triggers = true;
        let returned = self.store.run(SETTLING, async |conn: &mut PgConnection| query.fetch_all(conn).await).await?;
        for row in &returned {
            let place = |source| StoreError::new(&self.store.options.address, SETTLING, source);
            if let Some(settled) = row.try_get(6).map_err(place)? {
                (answered.answered, answered.settled) = (row.try_get(5).map_err(place)?, settled);
                knows_triggers = row.try_get(7).map_err(place)?;
                continue;
            }
            let (due_at, id) = (row.try_get(3).map_err(place)?, row.try_get(4).map_err(place)?);
            // A lane that cannot be read has no cursor.
            if let Ok(lane) = lane_of(row) {
                self.store.cursors.set_back(&lane, due_at, id);
            }
        }
        if !knows_triggers {
            self.store.watch_tables().await?;
        }
        self.assert_settled(&answered).await
    }

    /// Writes the changes of holds, in a transaction of the server.
    async fn write_holds(&mut self) -> Result<(), StoreError> {
        if self.holds.is_empty() {
            return Ok(());
        }
        self.store.begin_transaction().await?;
        let holds = std::mem::take(&mut self.holds);
        self.store.watch_triggers().await?;
        let doubts = self.is_interfered_with();
        let write = async |conn: &mut PgConnection| holds.write(conn, doubts).await;
        match self.store.run(CHANGING_HOLDS, write).await? {
            None => Ok(()),
            Some(message) => Err(self.not_done(CHANGING_HOLDS, message)),
        }
    }

    async fn write_acts(&mut self) -> Result<(), StoreError> {
        if self.acts.is_empty() {
            return Ok(());
        }
        self.store.begin_transaction().await?;
        let acts = std::mem::take(&mut self.acts);
        let ids = &acts;
        let mark = async |conn: &mut PgConnection| sqlx::query(MARK_LOGGED).bind(ids).execute(conn).await;
        let marked = self.store.run("mark the acts as logged", mark).await?.rows_affected();
        if marked < acts.len() as u64 { self.assert_marked(&acts).await } else { Ok(()) }
    }

    /// Writes everything that is not written yet, and commits.
    async fn write_all(
        &mut self,
        claims: &[Claim],
        settings: Option<&InEffect>,
        now: Timestamp,
    ) -> Result<Committed, StoreError> {
        let mut committed = Committed::Whole;
        self.write_holds().await?;
        self.write_acts().await?;
        if self.judgements.has_returning() {
            self.write_judgements().await?;
        }
        if !self.judgements.is_empty() || !claims.is_empty() || settings.is_some() {
            committed = self.turn(claims, settings, now).await?;
        }
        self.store.commit_transaction().await?;
        if !claims.is_empty() {
            self.store.refusals = if committed == Committed::Whole { 0 } else { self.store.refusals + 1 };
        }
        Ok(committed)
    }

    /// Settles and claims in one statement, and by itself if it can be. If that changed less than it was to, nothing has happened, and it
    /// is done again in a transaction, before whose commit the rows are looked at.
    async fn turn(
        &mut self,
        claims: &[Claim],
        settings: Option<&InEffect>,
        now: Timestamp,
    ) -> Result<Committed, StoreError> {
        if !self.store.session.is_open && !self.is_interfered_with() {
            match self.execute_turn(claims, settings, now, true).await {
                Ok(turn) => return Ok(turn.committed(claims)),
                Err(error) if error.is_undone() => self.store.watch_tables().await?,
                Err(error) => return Err(error),
            }
        }
        self.store.begin_transaction().await?;
        let turn = self.execute_turn(claims, settings, now, false).await?;
        if !turn.knows_triggers {
            self.store.watch_tables().await?;
        }
        self.assert_settled(&turn.answered).await?;
        let committed = turn.committed(claims);
        if committed == Committed::Whole {
            self.assert_claimed(claims, turn.claimed).await?;
        }
        Ok(committed)
    }

    async fn execute_turn(
        &mut self,
        claims: &[Claim],
        settings: Option<&InEffect>,
        now: Timestamp,
        or_nothing: bool,
    ) -> Result<Turn, StoreError> {
        let mut answered = self.judgements.expected();
        let query = self.judgements.bind(sqlx::query(TURN)).bind(now.0).bind(self.store.epoch);
        let query = bind_claims(query.bind(self.store.session.backend()), claims).bind(settings.is_some());
        let query = bind_settings(query, settings).bind(self.store.inbox.place().to_owned());
        let query = query.bind(self.store.watch.triggers()).bind(or_nothing);
        let turn = async |conn: &mut PgConnection| {
            let row = query.fetch_one(conn).await?;
            (answered.answered, answered.settled) = (row.try_get(3)?, row.try_get(4)?);
            let claimed = usize::try_from(row.try_get::<i64, _>(1)?).unwrap_or(0);
            let turn = Turn { claimed, answered, is_refused: row.try_get(5)?, knows_triggers: row.try_get(6)? };
            Ok((row.try_get(0)?, row.try_get(2)?, turn))
        };
        let (is_ours, has_news, turn): (bool, bool, Turn) = self.store.run(CLAIMING, turn).await?;
        self.store.has_news = has_news;
        if !is_ours {
            self.store.is_deposed = true;
            return Err(StoreError::deposed(&self.store.options.address, CLAIMING));
        }
        Ok(turn)
    }

    /// Whether a foreign trigger or the like can change what this transaction writes.
    pub(super) fn is_interfered_with(&self) -> bool {
        self.store.watch.can_interfere()
    }

    pub(super) fn store(&mut self) -> &mut Store {
        self.store
    }

    /// The error of a change that is not there after it was written, with the names of what may be the cause.
    pub(super) fn not_done(&self, doing: &'static str, message: String) -> StoreError {
        self.store.not_done(doing, message)
    }
}

/// What [`TURN`] has done.
struct Turn {
    claimed: usize,
    answered: Answered,
    /// Others have changed rows since they were looked at.
    is_refused: bool,
    knows_triggers: bool,
}

impl Turn {
    /// Whether it has made the claims: all of them, or none because it refused to. Anything else is [`Transaction::assert_claimed`]'s.
    fn committed(&self, claims: &[Claim]) -> Committed {
        let is_without = self.is_refused && self.claimed == 0 && !claims.is_empty();
        if is_without { Committed::WithoutClaims } else { Committed::Whole }
    }
}

impl Tx for Transaction<'_> {
    type Error = StoreError;

    async fn settle<'s>(
        &mut self,
        settlements: impl Iterator<Item = &'s Settlement> + Clone,
    ) -> Result<(), StoreError> {
        settlements.for_each(|settlement| self.judgements.add(settlement));
        Ok(())
    }

    async fn change_holds(&mut self, changes: &[HoldChange]) -> Result<(), StoreError> {
        self.holds.change(changes);
        Ok(())
    }

    async fn lift_over(&mut self, scopes: &[Scope], now: Timestamp) -> Result<(), StoreError> {
        self.holds.lift_over(scopes, now);
        Ok(())
    }

    async fn acts_logged(&mut self, acts: &[ActId]) -> Result<(), StoreError> {
        self.acts.extend(acts.iter().map(|act| act.0));
        Ok(())
    }

    /// As far as that is known. To ask the server would be a round trip in every turn, and the commit finds out.
    async fn news(&mut self) -> Result<bool, StoreError> {
        Ok(self.store.news || self.store.has_news)
    }

    async fn holds_of(&mut self, scopes: &BTreeSet<Scope>) -> Result<Vec<HoldRow>, StoreError> {
        self.write_holds().await?;
        let scopes: Vec<&str> = scopes.iter().map(Scope::as_str).collect();
        let read = async |conn: &mut PgConnection| sqlx::query(HOLDS_OF).bind(scopes).fetch_all(conn).await;
        Ok(self.store.run("read the holds", read).await?.iter().filter_map(hold_row).collect())
    }

    async fn look(
        &mut self,
        lanes: &[Lane],
        most: usize,
        in_flight: &[DeletionId],
        newest_first: bool,
        now: Timestamp,
    ) -> Result<Vec<Look>, StoreError> {
        // Rows that come back may be due, and then belong among those that are found. Rows that reach their end only have to be left
        // out, for which nothing need be written yet.
        if self.judgements.has_returning() {
            self.write_judgements().await?;
        }
        let mut left_out = in_flight.to_vec();
        left_out.extend(self.judgements.ended().map(DeletionId));
        // On the side: the session cannot be lent out together with the cursors.
        let mut cursors = std::mem::take(&mut self.store.cursors);
        let look = async |conn: &mut PgConnection| {
            due_rows::look(conn, &mut cursors, lanes, most, &left_out, newest_first, now).await
        };
        let looks = self.store.run("look for due rows", look).await?;
        self.store.cursors = cursors;
        Ok(looks)
    }

    fn next_request_id(&mut self) -> RequestId {
        let id = self.store.next_request;
        self.store.next_request = id.saturating_add(1);
        RequestId(id)
    }

    async fn introduce(&mut self, settings: &InEffect, now: Timestamp) -> Result<(), StoreError> {
        self.store.begin_transaction().await?;
        let query = introduction(settings, now);
        let write = async |conn: &mut PgConnection| query.execute(conn).await;
        self.store.run("write the daemon's row", write).await.map(drop)
    }

    async fn commit(
        mut self,
        claims: &[Claim],
        settings: Option<&InEffect>,
        now: Timestamp,
    ) -> Result<Committed, StoreError> {
        let committed = self.write_all(claims, settings, now).await;
        if committed.is_err() && self.store.session.is_in_doubt() {
            self.store.doubtful.extend(claims.iter().map(|claim| claim.request.0));
        }
        self.store.is_writing = committed.is_err();
        committed
    }
}

//! The inbox: what producers have written, and how the leader takes it in. And what operators have changed by hand.

use std::time::Duration;

use sqlx::{PgConnection, Row as _};

use super::{Store, errors::StoreError, rows::lane_of, schema_watch::triggers, verify::AT_ONCE};

/// $1 the place in the inbox after which to look. Whether there are wishes, and whether somebody has changed rows by hand.
pub(super) const POLL: &str = "
SELECT EXISTS (SELECT 1 FROM deletions_new WHERE ctid > $1::text::tid), EXISTS (SELECT 1 FROM edits)";

/// $1 the place in the inbox after which to look; $2 the most wishes. Returns their places, and whether labels are concerned: in a
/// queue that has none, nothing is done about them.
pub(super) const PICK: &str = "
SELECT coalesce(array_agg(place), '{}'), coalesce(bool_or(label IS NOT NULL), false) OR EXISTS (SELECT 1 FROM wishes)
FROM (SELECT ctid::text AS place, label FROM deletions_new WHERE ctid > $1::text::tid LIMIT $2) AS picked";

/// The same, and nobody else removes or changes the wishes until the commit. Wishes that somebody is removing are left out.
const PICK_AND_KEEP: &str = "
SELECT coalesce(array_agg(place), '{}'), coalesce(bool_or(label IS NOT NULL), false) OR EXISTS (SELECT 1 FROM wishes)
FROM (SELECT ctid::text AS place, label FROM deletions_new WHERE ctid > $1::text::tid LIMIT $2 FOR UPDATE SKIP LOCKED) AS picked";

/// $1 places; $2 for how long a request may be out, in milliseconds; $3 the triggers at the last look. The first part changes nothing:
/// with it, the server locks `requests` before all else, so that no row comes out of the inbox while somebody changes rows
/// (`between_turns()`). Takes the wishes out of the inbox, and makes of them what one INSERT after the other would: one row per entry,
/// with the highest priority. A pending row that was not tried takes over an earlier due time, and a settled one is reopened. What a row
/// that is due at once is reopened with is the time of its wish: its id is an old one, and others that are due at once go by their ids.
/// A row that died with a request without an answer waits until that request cannot be out any more.
///
/// `BETWEEN`, and not `=`, where rows are looked for once more: see [`super::settle`].
///
/// Fails, and so undoes itself, unless all wishes are out of the inbox and in rows, or if there are other triggers than at the last look:
/// a wish without a row has a pending one already, as far as the statement can see. A division by zero is how SQL fails on purpose.
///
/// Returns, for each lane that has got rows, the first of them that is due at once, and the first due time of the others; and the
/// number of wishes.
pub(super) const TAKE_IN: &str = concat!(
    "
WITH kept_out AS (
    DELETE FROM requests WHERE false
),
taken AS MATERIALIZED (
    DELETE FROM deletions_new WHERE ctid = ANY ($1::text[]::tid[])
    RETURNING id, agent_id, entry_id, priority, due_at, created_at, label
),
wish AS (
    SELECT DISTINCT ON (agent_id, entry_id) id, agent_id, entry_id, created_at,
        max(priority) OVER same AS priority,
        CASE WHEN due_at = created_at THEN due_at ELSE min(due_at) OVER same END AS due_at,
        substr(max(lpad(id::text, 19, '0') || label) OVER same, 20) AS label -- the last one that is not NULL
    FROM taken
    WINDOW same AS (PARTITION BY agent_id, entry_id)
    ORDER BY agent_id, entry_id, id
),
put AS (
    INSERT INTO deletions_known AS known (id, agent_id, entry_id, priority, state, due_at, created_at, label)
    OVERRIDING SYSTEM VALUE
    SELECT id, agent_id, entry_id, priority, 'pending', due_at, created_at, label FROM wish
    ON CONFLICT (agent_id, entry_id) DO UPDATE SET
        state = 'pending',
        settled_at = NULL,
        verified_at = NULL,
        priority = CASE known.state WHEN 'pending' THEN greatest(known.priority, excluded.priority) ELSE excluded.priority END,
        due_at = CASE
            WHEN known.state <> 'pending' THEN greatest(
                CASE WHEN excluded.due_at = 0 AND excluded.created_at >= 100000000000 THEN excluded.created_at
                    ELSE excluded.due_at END,
                CASE WHEN known.state = 'dead' AND known.last_cause = 'lost' THEN known.settled_at + $2 END)
            WHEN known.request_id IS NULL AND known.attempts = 0 AND known.due_at <> known.created_at
            THEN least(known.due_at, excluded.due_at)
            ELSE known.due_at END,
        attempts = CASE known.state WHEN 'pending' THEN known.attempts ELSE 0 END,
        batch_max = CASE known.state WHEN 'pending' THEN known.batch_max ELSE 20 END,
        asks = CASE known.state WHEN 'pending' THEN known.asks ELSE 0 END,
        maybe_done = known.state = 'pending' AND known.maybe_done,
        request_id = CASE known.state WHEN 'pending' THEN known.request_id END,
        first_fault = CASE known.state WHEN 'pending' THEN known.first_fault END,
        evidence = CASE known.state WHEN 'pending' THEN known.evidence END,
        last_cause = CASE known.state WHEN 'pending' THEN known.last_cause END,
        created_at = CASE known.state WHEN 'pending' THEN known.created_at ELSE excluded.created_at END,
        -- Labels whose wishes are fulfilled have no part in it. A dead row's wishes open again with it.
        label = CASE WHEN known.state IN ('pending', 'dead') THEN coalesce(excluded.label, known.label) ELSE excluded.label END
    WHERE known.state <> 'pending' OR known.priority < excluded.priority
        OR (excluded.due_at < known.due_at AND known.due_at <> known.created_at AND known.request_id IS NULL
            AND known.attempts = 0)
        OR (excluded.label IS NOT NULL AND excluded.label IS DISTINCT FROM known.label)
    RETURNING known.priority, known.agent_id, known.batch_max, known.due_at, known.id, known.entry_id
)
SELECT priority, agent_id, batch_max, min(id) FILTER (WHERE due_at = 0), min(due_at) FILTER (WHERE due_at <> 0), NULL::bigint
FROM put GROUP BY priority, agent_id, batch_max
UNION ALL SELECT NULL, NULL, NULL, NULL, NULL, taken / CASE WHEN taken = cardinality($1) AND lost = 0 AND is_known THEN 1 ELSE 0 END
FROM (SELECT (SELECT count(*) FROM taken) AS taken, CASE WHEN (SELECT count(*) FROM put) < (SELECT count(*) FROM wish) THEN (
        SELECT count(*) FROM wish
        WHERE NOT EXISTS (
            SELECT 1 FROM deletions_known AS known
            WHERE known.agent_id BETWEEN wish.agent_id AND wish.agent_id AND known.entry_id BETWEEN wish.entry_id AND wish.entry_id
                AND known.settled_at IS NULL)
        AND (agent_id, entry_id) NOT IN (SELECT agent_id, entry_id FROM put)) ELSE 0 END AS lost, ",
    triggers!(),
    " = $3 AS is_known) AS done"
);

/// $1 places. The wishes there: agents, entries and labels.
const WISHES: &str = "
SELECT coalesce(array_agg(agent_id), '{}'), coalesce(array_agg(entry_id), '{}'), coalesce(array_agg(label), '{}')
FROM deletions_new WHERE ctid = ANY ($1::text[]::tid[])";

/// $1 places; $2, $3, $4 the agents, entries and labels of the wishes that were there. Counts the wishes that are there still, or have no
/// pending row, or no open wish of their label.
const NOT_TAKEN_IN: &str = "
SELECT (SELECT count(*) FROM deletions_new WHERE ctid = ANY ($1::text[]::tid[])) + (
    SELECT count(*) FROM unnest($2::text[], $3::text[], $4::text[]) AS wish (agent_id, entry_id, label)
    WHERE NOT EXISTS (
            SELECT 1 FROM deletions_known AS known
            WHERE known.agent_id BETWEEN wish.agent_id AND wish.agent_id AND known.entry_id BETWEEN wish.entry_id AND wish.entry_id
                AND known.settled_at IS NULL)
        OR (label IS NOT NULL AND NOT EXISTS (
            SELECT 1 FROM wishes AS known
            WHERE known.label BETWEEN wish.label AND wish.label AND known.agent_id BETWEEN wish.agent_id AND wish.agent_id
                AND known.entry_id BETWEEN wish.entry_id AND wish.entry_id AND known.state IS NULL)))";

/// $1 places, before [`TAKE_IN`] has changed the rows. Writes the wishes of labels: opens each again, or makes it. If a row with a label
/// is wished for without one as well, that wish has the label ''.
pub(super) const TAKE_IN_LABELS: &str = "
WITH wish AS MATERIALIZED (
    SELECT id, agent_id, entry_id, created_at, label FROM deletions_new WHERE ctid = ANY ($1::text[]::tid[])
),
entry AS (
    SELECT wish.agent_id, wish.entry_id, bool_or(wish.label IS NOT NULL) AS labelled, bool_or(wish.label IS NULL) AS plain,
        (array_agg(wish.created_at ORDER BY wish.id) FILTER (WHERE wish.label IS NULL))[1] AS plain_at
    FROM wish GROUP BY wish.agent_id, wish.entry_id
),
plain AS (
    SELECT entry.agent_id, entry.entry_id,
        CASE WHEN known.is_open AND known.label IS NULL THEN known.created_at ELSE entry.plain_at END AS wished_at
    FROM entry LEFT JOIN LATERAL (
        SELECT state IN ('pending', 'dead') AS is_open, label, created_at FROM deletions_known
        WHERE agent_id = entry.agent_id AND entry_id = entry.entry_id
    ) AS known ON true
    WHERE CASE WHEN known.is_open THEN (entry.labelled OR known.label IS NOT NULL) AND (entry.plain OR known.label IS NULL)
        ELSE entry.labelled AND entry.plain END
)
INSERT INTO wishes AS known (label, agent_id, entry_id, wished_at)
SELECT '', agent_id, entry_id, wished_at FROM plain
UNION ALL (SELECT DISTINCT ON (label, agent_id, entry_id) label, agent_id, entry_id, created_at FROM wish
    WHERE label IS NOT NULL ORDER BY label, agent_id, entry_id, id)
ON CONFLICT (label, agent_id, entry_id) DO UPDATE SET
    state = NULL, closed_at = NULL, closed_by = NULL, wished_at = excluded.wished_at
WHERE known.state IS NOT NULL AND known.label <> ''";

/// Wishes that are taken in at a time. That takes some tens of milliseconds.
const CHUNK: i64 = 2_000;
/// Chunks between two turns.
const CHUNKS: u32 = 4;
/// After this number of wishes, the inbox is cleaned up: each poll steps over their places.
const MOST_DEAD: i64 = 50_000;
/// Requests that are not full wait for the inbox for this long at most.
const WAITED_FOR: Duration = Duration::from_secs(10);
/// Until then, a poll looks behind the last place, and this often from the start.
const WHOLE: u32 = 20;

const POLLING: &str = "look for changes";
const TAKING_IN: &str = "take in wishes";

/// The first place of a table.
const START: &str = "(0,0)";

/// Where ids go on. A restored copy, and a server that took over by logical replication, have the rows and not where their ids end.
const PUT_IDS_RIGHT: &str = "
SELECT setval(sequence, greatest(
    (SELECT max(id) FROM deletions_known), (SELECT max(id) FROM deletions_new), pg_sequence_last_value(sequence)))
FROM (SELECT pg_get_serial_sequence('sweeper.deletions', 'id')::regclass AS sequence) AS ids
WHERE coalesce(pg_sequence_last_value(sequence), 0)
    < greatest((SELECT max(id) FROM deletions_known), (SELECT max(id) FROM deletions_new))";

/// $1 places. Of these wishes, those get new ids whose ids other rows or wishes have. In some versions of the server the partition gives
/// none out, so they go through the table that producers name. Returns how many were taken out, and how many were put in.
const GIVE_NEW_IDS: &str = "
WITH wish AS MATERIALIZED (
    SELECT id, count(*) OVER (PARTITION BY id) AS times FROM deletions_new WHERE ctid = ANY ($1::text[]::tid[])
),
taken AS (
    SELECT DISTINCT id FROM wish
    WHERE times > 1 OR EXISTS (SELECT 1 FROM deletions_known AS known WHERE known.id BETWEEN wish.id AND wish.id)
),
again AS (
    DELETE FROM deletions_new WHERE ctid = ANY ($1::text[]::tid[]) AND id IN (SELECT id FROM taken)
    RETURNING id, agent_id, entry_id, priority, due_at, created_at, label
),
put AS (
    INSERT INTO deletions (agent_id, entry_id, priority, due_at, created_at, label)
    SELECT agent_id, entry_id, priority, due_at, created_at, label FROM again ORDER BY id
    RETURNING 1
)
SELECT (SELECT count(*) FROM again), (SELECT count(*) FROM put)";

/// Sees to it that no id is given out twice.
pub(super) async fn put_ids_right(conn: &mut PgConnection) -> Result<(), sqlx::Error> {
    sqlx::query(PUT_IDS_RIGHT).execute(conn).await.map(drop)
}

/// The agents, entries and labels of wishes.
type Wishes = (Vec<String>, Vec<String>, Vec<Option<String>>);

/// Where the inbox is read.
#[derive(Debug)]
pub(super) struct Inbox {
    /// The last place from which a wish was taken.
    after: String,
    /// Wishes taken since the inbox was cleaned up.
    dead: i64,
    polls: u32,
    /// Not all of the last wishes could be taken in. Somebody may have removed some of them in between: nobody can, the next time.
    is_doubtful: bool,
    /// Elapsed time since which there was more than was taken in at once.
    behind_since: Option<Duration>,
}

impl Default for Inbox {
    fn default() -> Self {
        Self { after: START.to_owned(), dead: 0, polls: 0, is_doubtful: false, behind_since: None }
    }
}

impl Inbox {
    /// The place after which to look.
    pub(super) fn place(&mut self) -> &str {
        self.polls = (self.polls + 1) % WHOLE;
        if self.dead < MOST_DEAD || self.polls == 0 { START } else { &self.after }
    }
}

impl Store {
    /// Whether there are wishes after this place, and whether somebody has changed rows by hand.
    async fn poll_after(&mut self, place: &str) -> Result<(bool, bool), StoreError> {
        self.run(POLLING, async |conn: &mut PgConnection| sqlx::query_as(POLL).bind(place).fetch_one(conn).await).await
    }

    /// Takes in what there is, up to some thousand wishes. True if anything has changed since this was called the last time.
    pub(super) async fn take_in_news(&mut self) -> Result<bool, StoreError> {
        let place = self.inbox.place().to_owned();
        let (wishes, edits) = self.poll_after(&place).await?;
        self.has_news = false;
        if edits {
            self.take_in_edits().await?;
        }
        if wishes {
            self.take_in(place).await?;
        } else if self.inbox.behind_since.take().is_some() {
            // The requests that waited for more need wait no longer.
            self.news = true;
        }
        Ok(std::mem::take(&mut self.news))
    }

    /// Removes the notes on changes that others have made by hand. All that these have changed can be seen by whoever reads after this.
    pub(super) async fn take_in_edits(&mut self) -> Result<(), StoreError> {
        let remove = async |conn: &mut PgConnection| sqlx::query("DELETE FROM edits").execute(conn).await;
        let removed = self.run(POLLING, remove).await?.rows_affected();
        if removed == 0 {
            self.assert_without_edits().await?;
        }
        self.cursors.clear();
        self.news = true;
        Ok(())
    }

    async fn take_in(&mut self, mut place: String) -> Result<(), StoreError> {
        for _ in 0..CHUNKS {
            let from = place.as_str();
            let mut pick = PICK;
            if self.inbox.is_doubtful {
                self.begin_transaction().await?;
                pick = PICK_AND_KEEP;
            }
            let pick =
                async |conn: &mut PgConnection| sqlx::query_as(pick).bind(from).bind(CHUNK).fetch_one(conn).await;
            let (places, has_labels): (Vec<String>, bool) = self.run(TAKING_IN, pick).await?;
            if let Some(last) = places.last().cloned() {
                let Some(taken) = self.take_in_chunk(&places, has_labels).await? else { continue };
                self.inbox.dead += taken;
                self.inbox.after.clone_from(&last);
                place = last;
            }
            // Without wishes, a transaction may be open still.
            self.commit_transaction().await?;
            self.inbox.is_doubtful = false;
            if places.len() < CHUNK as usize {
                self.inbox.behind_since = None;
                return self.clean_up().await;
            }
        }
        self.inbox.behind_since.get_or_insert(self.clock.elapsed());
        Ok(())
    }

    /// See [`crate::queue::Queue::is_taking_in`]. Producers who write faster than that for long make nobody wait.
    pub(super) fn is_behind(&self) -> bool {
        self.inbox.behind_since.is_some_and(|since| self.clock.elapsed().saturating_sub(since) < WAITED_FOR)
    }

    /// Returns the number of wishes; `None`: these are to be looked for again.
    async fn take_in_chunk(&mut self, places: &[String], has_labels: bool) -> Result<Option<i64>, StoreError> {
        let is_checked = self.watch.can_interfere();
        if has_labels || is_checked {
            self.begin_transaction().await?;
        }
        let wishes = if is_checked { Some(self.wishes_at(places).await?) } else { None };
        if has_labels {
            let labels = async |conn: &mut PgConnection| sqlx::query(TAKE_IN_LABELS).bind(places).execute(conn).await;
            self.run(TAKING_IN, labels).await?;
        }
        let still_out = i64::try_from(self.options.request_timeout.as_millis()).unwrap_or(0);
        let query = sqlx::query(TAKE_IN).bind(places).bind(still_out).bind(self.watch.triggers());
        let take = async |conn: &mut PgConnection| query.fetch_all(conn).await;
        let rows = match self.run(TAKING_IN, take).await {
            Err(error) if error.is_duplicate() => return self.give_new_ids(places, error).await.map(Some),
            Err(error) if error.is_undone() => return self.look_closer(places.len()).await.map(|()| None),
            rows => rows?,
        };
        if let Some(wishes) = wishes {
            self.assert_taken_in(places, wishes).await?;
        }
        self.commit_transaction().await?;
        self.news = true;
        let mut taken = 0;
        for row in &rows {
            let decoded = |source| StoreError::new(&self.options.address, TAKING_IN, source);
            if let Some(count) = row.try_get::<Option<i64>, _>(5).map_err(decoded)? {
                taken = count;
                continue;
            }
            // A lane that cannot be read has no cursor.
            let Ok(lane) = lane_of(row) else { continue };
            if let Some(id) = row.try_get::<Option<i64>, _>(3).map_err(decoded)? {
                self.cursors.set_back(&lane, 0, id);
            }
            if let Some(due_at) = row.try_get::<Option<i64>, _>(4).map_err(decoded)? {
                self.cursors.set_back(&lane, due_at, 0);
            }
        }
        Ok(Some(taken))
    }

    /// After a statement that has undone itself: looks at the tables. An error if neither other triggers nor somebody who has removed
    /// wishes can be the reason.
    async fn look_closer(&mut self, wishes: usize) -> Result<(), StoreError> {
        self.ready().await?;
        let triggers = self.watch.triggers();
        self.watch_tables().await?;
        if self.inbox.is_doubtful && self.watch.triggers() == triggers {
            let message = format!("not all of {wishes} wishes in the inbox became rows; nothing was changed");
            return Err(self.not_done(TAKING_IN, message));
        }
        self.inbox.is_doubtful = true;
        Ok(())
    }

    async fn wishes_at(&mut self, places: &[String]) -> Result<Wishes, StoreError> {
        self.run(TAKING_IN, async |conn: &mut PgConnection| sqlx::query_as(WISHES).bind(places).fetch_one(conn).await)
            .await
    }

    /// Fails unless these wishes are out of the inbox and in rows.
    async fn assert_taken_in(
        &mut self,
        places: &[String],
        (agents, entries, labels): Wishes,
    ) -> Result<(), StoreError> {
        let query = sqlx::query_scalar(NOT_TAKEN_IN).bind(places).bind(&agents).bind(&entries).bind(&labels);
        let count = async |conn: &mut PgConnection| {
            sqlx::raw_sql(AT_ONCE).execute(&mut *conn).await?;
            query.fetch_one(conn).await
        };
        match self.run::<i64>(TAKING_IN, count).await? {
            0 => Ok(()),
            lost => Err(self.not_done(
                TAKING_IN,
                format!("{lost} of {} wishes in the inbox did not become rows; nothing was changed", agents.len()),
            )),
        }
    }

    /// Fails if the notes on changes stay: with them, nothing would ever be claimed.
    async fn assert_without_edits(&mut self) -> Result<(), StoreError> {
        let remove = "WITH gone AS (DELETE FROM edits RETURNING 1)
                      SELECT (SELECT count(*) FROM edits), (SELECT count(*) FROM gone)";
        let remove = async |conn: &mut PgConnection| sqlx::query_as(remove).fetch_one(conn).await;
        match self.run::<(i64, i64)>(POLLING, remove).await? {
            (1.., 0) => Err(self.not_done(POLLING, "the rows of edits stay there after they were removed".to_owned())),
            _ => Ok(()),
        }
    }

    /// One of the wishes at these places has the id of another row. Nothing was taken in.
    async fn give_new_ids(&mut self, places: &[String], error: StoreError) -> Result<i64, StoreError> {
        self.ready().await?;
        self.run(TAKING_IN, put_ids_right).await?;
        self.begin_transaction().await?;
        let give = async |conn: &mut PgConnection| sqlx::query_as(GIVE_NEW_IDS).bind(places).fetch_one(conn).await;
        match self.run::<(i64, i64)>(TAKING_IN, give).await? {
            (0, _) => return Err(error),
            (again, put) if put < again => {
                return Err(self.not_done(TAKING_IN, format!("{again} wishes get new ids, and only {put} are there")));
            }
            _ => self.commit_transaction().await?,
        }
        // They are at other places now. The next look takes them in.
        self.news = true;
        Ok(0)
    }

    /// Once the inbox is empty: frees the places of what was taken, if they are many. If the server is at that already, leaves it alone.
    async fn clean_up(&mut self) -> Result<(), StoreError> {
        if self.inbox.dead >= MOST_DEAD {
            let vacuum = "VACUUM (SKIP_LOCKED) deletions_new";
            self.run("clean up the inbox", async |conn: &mut PgConnection| sqlx::raw_sql(vacuum).execute(conn).await)
                .await?;
            self.inbox = Inbox::default();
        }
        Ok(())
    }
}

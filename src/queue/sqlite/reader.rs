//! Looking at the queue, without a hand in it: read-only, beside whoever works on it.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use sqlx::{AssertSqlSafe, ColumnIndex, Row, Sqlite, SqliteConnection, Type, decode::Decode, sqlite::SqliteRow};

use super::{
    errors::{OpenError, StoreError},
    file::{Options, connect},
    listing::LANES,
    lock::holder,
    rows::{due_since, holds},
    schema::connect_known,
    steps::{Steps, whole_file},
    trust::blame,
};
use crate::model::{
    clock::Timestamp,
    deletion::{AgentId, EntryId},
    hold::HoldRow,
    outcome::{Cause, Scope},
};

/// How far back [`Lately`] looks.
const LATELY: Duration = Duration::from_secs(300);

/// ?1 now; ?2 agent or NULL. In the index's own order, so that nothing is sorted.
pub(super) const PENDING: &str = "
SELECT agent_id, count(*), sum(due_at <= ?1) FROM deletions INDEXED BY deletions_due
WHERE state = 'pending' AND (?2 IS NULL OR agent_id = ?2)
GROUP BY priority, agent_id";

/// Goes through the whole table: no index follows the states of rows that have reached an end.
const SETTLED: &str = "SELECT sum(state = 'deleted'), sum(state = 'absent') FROM deletions";
/// ?1 agent
const SETTLED_OF_AGENT: &str = "
SELECT sum(state = 'deleted'), sum(state = 'absent') FROM deletions WHERE agent_id = ?1";

/// Of each lane, the row that is next and the first of those that came back or were to wait: a release gives a row a new
/// due time, and lets what has just been enqueued, which is due since 0, go before it. O(lanes).
pub(super) fn first_rows() -> String {
    format!(
        "SELECT first.agent_id, first.due_at, first.created_at, first.last_cause
         FROM ({LANES}) AS lane_head CROSS JOIN deletions AS first ON first.id IN (lane_head.id, (
             SELECT next.id FROM deletions AS next INDEXED BY deletions_due
             WHERE next.state = 'pending' AND next.priority = lane_head.priority
                 AND next.agent_id = lane_head.agent_id AND next.batch_max = lane_head.batch_max AND next.due_at > 0
             ORDER BY next.due_at LIMIT 1))"
    )
}

/// ?1 agent or NULL
pub(super) const DEAD: &str = "
SELECT last_cause, count(*), sum(maybe_done) FROM deletions INDEXED BY deletions_dead
WHERE state = 'dead' AND (?1 IS NULL OR agent_id = ?1)
GROUP BY last_cause ORDER BY count(*) DESC, last_cause";

/// ?1 agent or NULL
const IN_FLIGHT: &str = "
SELECT count(*), sum(size) FROM requests INDEXED BY requests_unanswered
WHERE answered_at IS NULL AND (?1 IS NULL OR agent_id = ?1)";

/// How many of the newest requests are looked at for [`Lately`].
const NEWEST_REQUESTS: u64 = 20_000;

/// ?1 agent or NULL; ?2 since when; ?3 how many. Requests are claimed in the order of their ids, so the newest are enough.
const NEWEST: &str = "
SELECT sum(deleted), sum(coalesce(deleted, 0) + coalesce(absent, 0) + coalesce(dead, 0)), max(looked_at), min(reach)
FROM (
    SELECT deleted, absent, dead, answered_at, agent_id,
        count(*) OVER () AS looked_at, min(claimed_at) OVER () AS reach
    FROM (SELECT * FROM requests ORDER BY id DESC LIMIT ?3)
)
WHERE answered_at > ?2 AND (?1 IS NULL OR agent_id = ?1)";

/// ?1 agent; ?2 entry
const ROW: &str = "
SELECT id, state, priority, attempts, maybe_done, last_cause, due_at, created_at, settled_at FROM deletions
WHERE agent_id = ?1 AND entry_id = ?2";

/// ?1 the row's id. Requests have no index by row, which every claim would pay for: they are read through. Only what has
/// the id's digits anywhere is looked at as JSON.
const HISTORY: &str = "
SELECT requests.id, kind, size, claimed_at, answered_at, status, detail, correlation_id, remote_id, verdict, cause
FROM requests CROSS JOIN outcomes ON outcomes.request_id = requests.id
WHERE (instr(requests.deletion_ids, ?1) OR instr(requests.verdicts, ?1)) AND outcomes.deletion_id = ?1
UNION ALL
SELECT requests.id, kind, size, claimed_at, NULL, NULL, NULL, correlation_id, NULL, NULL, NULL
FROM requests INDEXED BY requests_unanswered
WHERE answered_at IS NULL AND ?1 IN (
    SELECT value FROM json_each(iif(json_valid(requests.deletion_ids), requests.deletion_ids, '[]')))
ORDER BY 1";

/// What a person types to lift a hold.
#[must_use]
pub fn lifting(hold: &HoldRow) -> String {
    let (scope, cause) = (hold.scope.as_str().replace('\'', "''"), hold.cause.as_str());
    format!("DELETE FROM holds WHERE scope = '{scope}' AND cause = '{cause}'")
}

/// A connection that only reads.
#[derive(Debug)]
pub struct Reader {
    pub(super) conn: SqliteConnection,
    path: PathBuf,
    steps: Steps,
}

/// How the queue stands.
#[derive(Clone, Debug, Default)]
pub struct Standing {
    /// Who works on it.
    pub daemon: Daemon,
    /// Open rows.
    pub pending: u64,
    /// Of them, those whose time has come, sent or not.
    pub due: u64,
    /// Rows that were deleted and are still kept.
    pub deleted: u64,
    /// Rows whose entries were not there.
    pub absent: u64,
    /// Rows that were given up.
    pub dead: u64,
    /// How long the oldest due row of those that are next has been due.
    pub oldest_due: Duration,
    /// Requests without an answer.
    pub requests_in_flight: u64,
    /// How many rows are in those.
    pub rows_in_flight: u64,
    /// Agents with open rows, those with most of them first.
    pub agents: Vec<AgentStanding>,
    /// Why the dead ones are, the commonest cause first.
    pub causes: Vec<DeadRows>,
    /// The pauses.
    pub holds: Vec<HoldRow>,
    /// What was done lately.
    pub lately: Lately,
}

/// Who works on a queue, as far as that can be seen.
#[derive(Clone, Debug, Default)]
pub struct Daemon {
    /// Whether a daemon has the lock; `None` if the lock file cannot be read.
    pub running: Option<bool>,
    /// That process.
    pub pid: Option<u32>,
    /// What it wrote of itself at its start; `None` also if it has not come so far yet.
    pub said: Option<Introduction>,
}

/// What a daemon writes of itself.
#[derive(Clone, Debug)]
pub struct Introduction {
    /// Its version.
    pub version: String,
    /// When it started.
    pub started_at: Timestamp,
    /// Its current rate, in requests per second.
    pub requests_per_second: f64,
}

/// What somebody else who asks the same API has to mind.
#[derive(Clone, Debug)]
pub struct Neighbour {
    /// The pauses of everything and of the agent in question.
    pub holds: Vec<HoldRow>,
    /// The current rate of the daemon, if one runs.
    pub requests_per_second: Option<f64>,
}

/// What the process with this number wrote of itself when it began to work on this file, if that can be read: also from a file
/// whose tables are older than ours.
pub async fn introduction_of(options: &Options, pid: Option<u32>) -> Option<Introduction> {
    introduction(&mut connect(options, true).await.ok()?, pid).await.ok()?
}

/// How one agent's rows stand.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AgentStanding {
    /// The agent.
    pub agent: String,
    /// Its open rows.
    pub pending: u64,
    /// Those of them whose time has come.
    pub due: u64,
    /// How long the oldest due row of those that are next has been due.
    pub oldest_due: Duration,
}

/// Dead rows with one cause.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadRows {
    /// The cause; `None` if somebody removed it.
    pub cause: Option<String>,
    /// How many.
    pub rows: u64,
    /// Of them, those that may have been deleted unseen.
    pub unconfirmed: u64,
}

/// What was done in the last minutes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lately {
    /// In how long: five minutes, or since the daemon started, or as far as the newest requests reach back.
    pub span: Duration,
    /// Rows deleted.
    pub deleted: u64,
    /// Rows that have reached an end, deleted or not.
    pub ended: u64,
}

/// All that is known of one ID.
#[derive(Clone, Debug)]
pub struct Story {
    /// `pending`, `deleted`, `absent` or `dead`.
    pub state: String,
    /// Higher goes first.
    pub priority: i64,
    /// Counted attempts.
    pub attempts: i64,
    /// An attempt may have succeeded unseen.
    pub maybe_done: bool,
    /// What the last request that did not settle it came to.
    pub last_cause: Option<String>,
    /// Not before.
    pub due_at: Timestamp,
    /// When it was enqueued, the last time if it was settled before.
    pub created_at: Timestamp,
    /// When it reached its end.
    pub settled_at: Option<Timestamp>,
    /// The requests that it was in, as long as they are kept, oldest first.
    pub requests: Vec<Told>,
    /// The pauses that keep it.
    pub holds: Vec<HoldRow>,
}

/// A request, as far as it concerns one of its rows.
#[derive(Clone, Debug)]
pub struct Told {
    /// `requests.id`.
    pub request: i64,
    /// `bulk` or `single`.
    pub kind: String,
    /// How many IDs it had.
    pub size: i64,
    /// When it was about to be sent.
    pub claimed_at: Timestamp,
    /// When its answer was judged; `None`: it is on its way, or its daemon died.
    pub answered_at: Option<Timestamp>,
    /// The HTTP status, if there was one.
    pub status: Option<i64>,
    /// What was said with it.
    pub detail: Option<String>,
    /// The correlation ID that we sent.
    pub correlation_id: String,
    /// The one that came back.
    pub remote_id: Option<String>,
    /// What it made of the row.
    pub verdict: Option<String>,
    /// Why.
    pub cause: Option<String>,
}

impl Reader {
    /// Opens a queue that is there and up to date. Not to be kept for long: if we may not write it and nobody did at this
    /// time, it does not see what somebody writes later.
    ///
    /// # Errors
    /// If it is not, or SQLite fails.
    pub async fn open(options: &Options) -> Result<Self, OpenError> {
        let ((mut conn, _), path) = (connect_known(options, true).await?, options.path.clone());
        match Steps::of(&mut conn).await {
            Ok(steps) => Ok(Self { conn, path, steps }),
            Err(source) => Err(StoreError { path, doing: "open", source }.into()),
        }
    }

    /// How everything stands, or what of it concerns one agent: as of one moment. Reads the whole table.
    ///
    /// # Errors
    /// If SQLite fails.
    pub async fn standing(&mut self, agent: Option<&AgentId>, now: Timestamp) -> Result<Standing, StoreError> {
        let held = holder(&self.path);
        let allowance = self.steps.allow(whole_file(&self.path));
        let read = async {
            // One transaction: what is counted was all so at the same time.
            sqlx::raw_sql("BEGIN").execute(&mut self.conn).await?;
            let pid = held.as_ref().ok().copied().flatten().flatten();
            let standing = standing(&mut self.conn, agent, pid, now).await;
            sqlx::raw_sql("ROLLBACK").execute(&mut self.conn).await?;
            standing
        };
        let standing = read.await;
        drop(allowance);
        let mut standing = match standing {
            Ok(standing) => standing,
            Err(source) => return Err(self.blame("look at the queue", source).await),
        };
        standing.daemon.running = held.as_ref().ok().map(Option::is_some);
        standing.daemon.pid = held.ok().flatten().flatten();
        Ok(standing)
    }

    /// What keeps requests for an agent, and how fast the daemon sends its own.
    ///
    /// # Errors
    /// If SQLite fails.
    pub async fn neighbour(&mut self, agent: &AgentId) -> Result<Neighbour, StoreError> {
        let pid = holder(&self.path).ok().flatten().flatten();
        let read = async {
            let holds = concerning(holds(&mut self.conn).await?, Some(agent));
            let said = introduction(&mut self.conn, pid).await?;
            Ok(Neighbour { holds, requests_per_second: said.map(|said| said.requests_per_second) })
        };
        read.await.map_err(|source| StoreError { path: self.path.clone(), doing: "look at the holds", source })
    }

    /// What became of one ID; `None` if there is no such row.
    ///
    /// # Errors
    /// If SQLite fails.
    pub async fn story(&mut self, agent: &AgentId, entry: &EntryId) -> Result<Option<Story>, StoreError> {
        let story = {
            let _allowance = self.steps.allow(whole_file(&self.path));
            story(&mut self.conn, agent, entry).await
        };
        match story {
            Ok(story) => Ok(story),
            Err(source) => Err(self.blame("look for the row", source).await),
        }
    }

    /// The error, with the names of what is somebody else's in the tables, if that may be its cause.
    async fn blame(&mut self, doing: &'static str, source: sqlx::Error) -> StoreError {
        let error = StoreError { path: self.path.clone(), doing, source };
        blame(&mut self.conn, &self.steps, error).await
    }
}

/// How long the oldest rows have been due, as far as a row tells: each with its agent, some for each lane.
///
/// A release overwrites the due time: what was released has waited at least since there is the hold for which it was.
pub(super) async fn waiting(
    conn: &mut SqliteConnection,
    holds: &[HoldRow],
    now: Timestamp,
) -> Result<Vec<(String, Duration)>, sqlx::Error> {
    let rows = sqlx::query(AssertSqlSafe(first_rows())).fetch_all(conn).await?;
    let age = |row: &SqliteRow| {
        let agent = text(row, 0)?;
        // A row with a time that is none is not what one waits for.
        let (due_at, created_at): (i64, i64) = (value(row, 1)?, value(row, 2)?);
        let due_since = due_since(due_at, created_at, now);
        let cause = text(row, 3).and_then(|cause| Cause::parse(&cause));
        let covers = |hold: &&HoldRow, cause| match &hold.scope {
            Scope::All => hold.cause == cause,
            Scope::Agent(held) => hold.cause == cause && held.as_str() == agent,
        };
        let held =
            cause.and_then(|cause| holds.iter().filter(|hold| covers(hold, cause)).map(|hold| hold.since_at).min());
        if due_since > now && held.is_none() {
            return Some((agent, Duration::ZERO));
        }
        let since = held.map_or(due_since, |held| due_since.min(held.max(Timestamp(created_at))));
        Some((agent, now.since(since)))
    };
    Ok(rows.iter().filter_map(age).collect())
}

/// `pid` is the process that has the lock: another process's words are those of a daemon before.
async fn standing(
    conn: &mut SqliteConnection,
    agent: Option<&AgentId>,
    pid: Option<u32>,
    now: Timestamp,
) -> Result<Standing, sqlx::Error> {
    let mut standing = Standing::default();
    let name = agent.map(AgentId::as_str);
    let mut agents = BTreeMap::<String, AgentStanding>::new();
    for row in sqlx::query(PENDING).bind(now.0).bind(name).fetch_all(&mut *conn).await? {
        let (pending, due) = (count(&row, 1), count(&row, 2));
        standing.pending += pending;
        standing.due += due;
        let agent = agents.entry(text(&row, 0).unwrap_or_default()).or_default();
        agent.pending += pending;
        agent.due += due;
    }
    let holds = holds(conn).await?;
    for (agent, age) in waiting(conn, &holds, now).await? {
        if let Some(agent) = agents.get_mut(&agent) {
            agent.oldest_due = agent.oldest_due.max(age);
            standing.oldest_due = standing.oldest_due.max(age);
        }
    }
    standing.agents = agents.into_iter().map(|(agent, standing)| AgentStanding { agent, ..standing }).collect();
    standing.agents.sort_by_key(|agent| std::cmp::Reverse(agent.pending));

    let settled = match name {
        None => sqlx::query(SETTLED),
        Some(name) => sqlx::query(SETTLED_OF_AGENT).bind(name),
    };
    let settled = settled.fetch_one(&mut *conn).await?;
    (standing.deleted, standing.absent) = (count(&settled, 0), count(&settled, 1));
    for row in sqlx::query(DEAD).bind(name).fetch_all(&mut *conn).await? {
        let dead = DeadRows { cause: text(&row, 0), rows: count(&row, 1), unconfirmed: count(&row, 2) };
        standing.dead += dead.rows;
        standing.causes.push(dead);
    }
    let in_flight = sqlx::query(IN_FLIGHT).bind(name).fetch_one(&mut *conn).await?;
    (standing.requests_in_flight, standing.rows_in_flight) = (count(&in_flight, 0), count(&in_flight, 1));
    standing.holds = concerning(holds, agent);

    standing.daemon.said = introduction(conn, pid).await?;
    let started_at = standing.daemon.said.as_ref().map(|said| said.started_at);
    let since = started_at.map_or(now.minus(LATELY), |at| at.max(now.minus(LATELY)));
    let newest = sqlx::query(NEWEST).bind(name).bind(since.0).bind(NEWEST_REQUESTS.cast_signed());
    let newest = newest.fetch_one(conn).await?;
    standing.lately = Lately { span: now.since(since), deleted: count(&newest, 0), ended: count(&newest, 1) };
    // If those do not reach back so far, what they do reach counts.
    if let (NEWEST_REQUESTS.., Some(reach)) = (count(&newest, 2), value::<i64, _>(&newest, 3)) {
        standing.lately.span = standing.lately.span.min(now.since(Timestamp(reach)));
    }
    Ok(standing)
}

/// What the daemon with this process number wrote of itself.
async fn introduction(conn: &mut SqliteConnection, pid: Option<u32>) -> Result<Option<Introduction>, sqlx::Error> {
    let said = sqlx::query("SELECT version, started_at, requests_per_second FROM daemon WHERE pid = ?1").bind(pid);
    Ok(said.fetch_optional(conn).await?.and_then(|row| {
        Some(Introduction {
            version: text(&row, 0)?,
            started_at: Timestamp(value(&row, 1)?),
            requests_per_second: value(&row, 2)?,
        })
    }))
}

async fn story(conn: &mut SqliteConnection, agent: &AgentId, entry: &EntryId) -> Result<Option<Story>, sqlx::Error> {
    let found = sqlx::query(ROW).bind(agent.as_str()).bind(entry.as_str()).fetch_optional(&mut *conn).await?;
    let Some(row) = found else { return Ok(None) };
    let id: i64 = row.try_get(0)?;
    let history = sqlx::query(HISTORY).bind(id).fetch_all(&mut *conn).await?;
    let time = |row: &SqliteRow, column| Timestamp(value(row, column).unwrap_or(0));
    let requests = history.iter().map(|row| Told {
        request: value(row, 0).unwrap_or(0),
        kind: text(row, 1).unwrap_or_default(),
        size: value(row, 2).unwrap_or(0),
        claimed_at: time(row, 3),
        answered_at: value(row, 4).map(Timestamp),
        status: value(row, 5),
        detail: text(row, 6),
        correlation_id: text(row, 7).unwrap_or_default(),
        remote_id: text(row, 8),
        verdict: text(row, 9),
        cause: text(row, 10),
    });
    Ok(Some(Story {
        state: text(&row, 1).unwrap_or_default(),
        priority: value(&row, 2).unwrap_or(0),
        attempts: value(&row, 3).unwrap_or(0),
        maybe_done: value::<i64, _>(&row, 4) == Some(1),
        last_cause: text(&row, 5),
        due_at: time(&row, 6),
        created_at: time(&row, 7),
        settled_at: value(&row, 8).map(Timestamp),
        requests: requests.collect(),
        holds: concerning(holds(conn).await?, Some(agent)),
    }))
}

/// The pauses that an agent's rows wait for; all of them if no agent is named.
fn concerning(holds: Vec<HoldRow>, agent: Option<&AgentId>) -> Vec<HoldRow> {
    let concerns = |hold: &HoldRow| match (&hold.scope, agent) {
        (Scope::All, _) | (_, None) => true,
        (Scope::Agent(held), Some(agent)) => held == agent,
    };
    let mut holds: Vec<HoldRow> = holds.into_iter().filter(concerns).collect();
    // That on everything first: `*` is below what an agent's ID begins with.
    holds.sort_by(|a, b| (a.scope.as_str(), a.cause).cmp(&(b.scope.as_str(), b.cause)));
    holds
}

/// A value, unless there is none, or one of another type: CHECKs can be switched off.
fn value<'r, T, I>(row: &'r SqliteRow, column: I) -> Option<T>
where
    T: Decode<'r, Sqlite> + Type<Sqlite>,
    I: ColumnIndex<SqliteRow>,
{
    row.try_get::<Option<T>, _>(column).ok().flatten()
}

fn count(row: &SqliteRow, column: usize) -> u64 {
    value::<i64, _>(row, column).and_then(|n| u64::try_from(n).ok()).unwrap_or(0)
}

/// A text, which need not be UTF-8 in SQLite.
fn text(row: &SqliteRow, column: usize) -> Option<String> {
    let bytes: Option<&[u8]> = row.try_get_unchecked(column).ok()?;
    bytes.map(|bytes| String::from_utf8_lossy(bytes).into_owned())
}

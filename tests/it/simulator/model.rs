//! The API as the simulator has it: it decides nothing by itself, and remembers everything.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    future::Future,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use audio_cache_sweeper::{
    api::{Reply, Transport},
    model::{
        clock::{Clock, Timestamp},
        deletion::{Batch, Kind},
        envelope::Envelope,
        outcome::{Answer, Fault, RetryAfter},
    },
    pace::RateLimit,
};
use sqlx::SqliteConnection;
use tokio::sync::{oneshot, watch};
use uuid::Uuid;

/// Of how many calls and answers it is known what the wall clock said.
const LAST_CLOCKS: usize = 64;

/// What becomes of one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mood {
    /// Done, and told truly.
    Ok,
    /// Some of it done, and told truly.
    Partial,
    /// Done, and some of it not mentioned.
    Silent,
    /// Done, and some of it listed twice over.
    Contradictory,
    /// Done, and told truly, with IDs that nobody sent.
    Strangers,
    /// Not done, and this status.
    Status(u16),
    /// Not done; 429, or 503, with a `Retry-After` of so many seconds.
    Throttled(u16, u64),
    /// Nothing is heard of it until the time is up; done or not.
    Hang(bool),
    /// The connection is cut; before it was done, or after.
    Reset(bool),
    /// Done, and then no JSON.
    Garbage,
    /// Not sent at all.
    Unreachable,
    /// Not done, and this.
    Fault(Fault),
    /// Not done, and a 200: all of it has failed.
    AllFailed,
    /// Not done, and a 200 with two empty lists.
    Neither,
    /// Not done, and a 200 with an ID that nobody sent.
    OnlyStrangers,
}

/// The two lists of a 200.
#[derive(Debug, Default)]
pub struct Told {
    pub deleted: BTreeSet<String>,
    pub failed: BTreeSet<String>,
}

#[derive(Debug)]
pub struct Call {
    pub id: Uuid,
    pub agent: String,
    pub entries: Vec<String>,
    pub kind: Kind,
    /// Its number among all calls.
    pub number: usize,
    answer: oneshot::Sender<Reply>,
}

#[derive(Debug)]
pub struct World {
    /// Entries that are gone.
    gone: BTreeSet<(String, String)>,
    /// Calls that came in and are not answered.
    pub open: Vec<Call>,
    /// What was told in 200s.
    pub told: HashMap<Uuid, Told>,
    /// Calls about one entry that were answered with a 404 that proves something: in this life of the daemon's the agent had
    /// been answered a bulk delete before, and the API speaks itself, or has answered such a call with a 200 before.
    pub absent: BTreeSet<Uuid>,
    /// Agents that this life of the daemon's was answered a bulk delete of.
    known: BTreeSet<String>,
    /// The same, of a single-entry DELETE.
    known_singly: BTreeSet<String>,
    /// When a hold on everything was last probed before its end, by its cause and its beginning.
    early: HashMap<(String, i64), Timestamp>,
    /// What must not have happened.
    pub wrong: Vec<String>,
    pub calls: usize,
    /// All calls: when they came in, and what they carried.
    pub log: Vec<(Duration, String, Vec<String>)>,
    /// IDs in all of them.
    pub ids: usize,
    /// An independent count of the permits that are left, and when it was made.
    tokens: f64,
    counted: Duration,
    /// Of the last calls and answers, by how much the wall clock was ahead of elapsed time.
    ahead: VecDeque<i64>,
}

/// Cheap to clone: all clones are one API.
#[derive(Clone, Debug)]
pub struct Model {
    world: Arc<Mutex<World>>,
    conn: Arc<tokio::sync::Mutex<SqliteConnection>>,
    arrived: Arc<watch::Sender<usize>>,
    clock: Clock,
    rate: RateLimit,
    /// The shortest hold.
    hold_base: Duration,
}

/// Entries that make a request a 400 are called so.
pub const NOT_A_NUMBER: &str = "not-a-number-";

impl Model {
    /// An API that looks into the queue over `conn` whenever it is called.
    pub fn new(conn: SqliteConnection, clock: Clock, rate: RateLimit, hold_base: Duration) -> Self {
        let world = World {
            gone: BTreeSet::new(),
            open: Vec::new(),
            told: HashMap::new(),
            absent: BTreeSet::new(),
            known: BTreeSet::new(),
            known_singly: BTreeSet::new(),
            early: HashMap::new(),
            wrong: Vec::new(),
            calls: 0,
            log: Vec::new(),
            ids: 0,
            tokens: f64::from(rate.burst.get()),
            counted: Duration::ZERO,
            ahead: VecDeque::new(),
        };
        let (conn, arrived) = (Arc::new(tokio::sync::Mutex::new(conn)), Arc::new(watch::Sender::new(0)));
        Self { world: Arc::new(Mutex::new(world)), conn, arrived, clock, rate, hold_base }
    }

    pub fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap()
    }

    /// Waits until so many calls have come in.
    pub async fn arrived(&self, calls: u64) {
        self.arrived.subscribe().wait_for(|arrived| *arrived as u64 >= calls).await.unwrap();
    }

    /// The entry is gone without a call.
    pub fn lose(&self, agent: &str, entry: &str) {
        self.world().gone.insert((agent.to_owned(), entry.to_owned()));
    }

    pub fn is_gone(&self, agent: &str, entry: &str) -> bool {
        self.world().gone.contains(&(agent.to_owned(), entry.to_owned()))
    }

    /// The daemon that made the calls is gone; of each call it is asked whether it was done. The rate limit goes on.
    pub fn crash(&self, mut was_done: impl FnMut() -> bool) {
        let mut world = self.world();
        for call in std::mem::take(&mut world.open) {
            if was_done() {
                world.perform(&call.agent, &call.entries);
            }
        }
        // Between two lives only the wall clock is known: by how much it was set ahead since the last calls or answers,
        // so much longer they seem to be ago.
        let ahead = self.clock.now().0 - i64::try_from(self.clock.elapsed().as_millis()).unwrap();
        let by = world.ahead.iter().map(|then| ahead - then).max().unwrap_or(0).max(0);
        world.tokens += by as f64 / 1_000.0 * self.rate.requests_per_second;
        world.known.clear();
        world.known_singly.clear();
    }

    /// Answers the open call at `at`.
    pub fn answer(&self, at: usize, mood: Mood, rng: &mut fastrand::Rng) {
        let mut world = self.world();
        let call = world.open.remove(at);
        let reply = self.reply(&mut world, &call, mood, rng);
        world.remember(&call, &reply);
        // Nobody listens if the daemon has cut the call short.
        let _ = call.answer.send(reply);
    }

    /// Answers two open calls, each with what the other one came to.
    pub fn answer_crosswise(&self, at: [usize; 2], moods: [Mood; 2], rng: &mut fastrand::Rng) {
        let mut world = self.world();
        let second = world.open.remove(at[0].max(at[1]));
        let first = world.open.remove(at[0].min(at[1]));
        let (to_second, to_first) =
            (self.reply(&mut world, &first, moods[0], rng), self.reply(&mut world, &second, moods[1], rng));
        let _ = first.answer.send(to_first);
        let _ = second.answer.send(to_second);
    }

    fn reply(&self, world: &mut World, call: &Call, mood: Mood, rng: &mut fastrand::Rng) -> Reply {
        self.note_the_clock(world);
        let rejected = call.entries.iter().any(|entry| entry.starts_with(NOT_A_NUMBER));
        let reply = match mood {
            Mood::Status(status) => fault(Fault::Status { status, retry_after: None }),
            Mood::Throttled(status, seconds) => {
                let retry_after = match rng.u8(..3) {
                    0 => None,
                    1 => Some(RetryAfter::Seconds(seconds)),
                    _ => Some(RetryAfter::At(Timestamp(self.clock.now().0 + i64::try_from(seconds).unwrap() * 1_000))),
                };
                fault(Fault::Status { status, retry_after })
            }
            Mood::Fault(given) => fault(given),
            Mood::AllFailed => listed(Vec::new(), call.entries.clone()),
            Mood::Neither if call.kind == Kind::Bulk => listed(Vec::new(), Vec::new()),
            Mood::OnlyStrangers if call.kind == Kind::Bulk => listed(vec!["987654321".to_owned()], Vec::new()),
            Mood::Neither | Mood::OnlyStrangers => fault(Fault::Garbled),
            Mood::Unreachable => fault(Fault::Unreachable),
            Mood::Reset(false) | Mood::Hang(false) => fault(Fault::Lost),
            _ if rejected => said(call, 400, "INVALID_ID"),
            // An entry that is not there is told of by the status.
            Mood::Ok | Mood::Strangers if call.kind == Kind::Single && world.is_gone(call) => {
                said(call, 404, "ENTRY_NOT_FOUND")
            }
            Mood::Silent | Mood::Contradictory if call.kind == Kind::Single => {
                world.perform(&call.agent, &call.entries);
                fault(Fault::Garbled)
            }
            Mood::Ok | Mood::Partial | Mood::Silent | Mood::Contradictory | Mood::Strangers => {
                world.tell(call, mood, rng)
            }
            Mood::Reset(true) | Mood::Hang(true) | Mood::Garbage => {
                world.perform(&call.agent, &call.entries);
                fault(if mood == Mood::Garbage { Fault::Garbled } else { Fault::Lost })
            }
        };
        Reply { remote_ids: reply.status.iter().map(|_| call.id.to_string()).collect(), ..reply }
    }
}

/// An error of the API's own about the one entry of a call; what it says of several is not known, and so a plain status.
fn said(call: &Call, status: u16, code: &str) -> Reply {
    let envelope = (call.kind == Kind::Single).then(|| Envelope {
        is_current: true,
        code: code.to_owned(),
        message: None,
        error_id: Some(call.id.to_string()),
    });
    Reply { envelope, ..fault(Fault::Status { status, retry_after: None }) }
}

/// A 200 with these lists.
fn listed(deleted: Vec<String>, failed: Vec<String>) -> Reply {
    Reply { result: Ok(Answer { deleted, failed }), status: Some(200), ..Reply::unheard(Fault::Lost, "") }
}

fn fault(fault: Fault) -> Reply {
    let status = match fault {
        Fault::Status { status, .. } => Some(status),
        Fault::Garbled => Some(200),
        Fault::Lost | Fault::Unreachable | Fault::Untrusted => None,
    };
    Reply { status, ..Reply::unheard(fault, "as drawn") }
}

impl World {
    /// What the daemon may conclude from this answer, or from a later one.
    fn remember(&mut self, call: &Call, reply: &Reply) {
        let known = if call.kind == Kind::Single { &mut self.known_singly } else { &mut self.known };
        if reply.result.is_ok() {
            known.insert(call.agent.clone());
        }
        let is_proven = reply.envelope.is_some() || self.known_singly.contains(&call.agent);
        if call.kind == Kind::Single && reply.status == Some(404) && is_proven && self.known.contains(&call.agent) {
            self.absent.insert(call.id);
        }
    }

    /// Deletes; true for those entries that were there.
    fn perform(&mut self, agent: &str, entries: &[String]) -> Vec<bool> {
        entries.iter().map(|entry| self.gone.insert((agent.to_owned(), entry.clone()))).collect()
    }

    fn is_gone(&self, call: &Call) -> bool {
        call.entries.iter().any(|entry| self.gone.contains(&(call.agent.clone(), entry.clone())))
    }

    #[expect(clippy::wildcard_enum_match_arm, reason = "all other moods tell the truth")]
    fn tell(&mut self, call: &Call, mood: Mood, rng: &mut fastrand::Rng) -> Reply {
        let mut told = Told::default();
        let spared: Vec<String> =
            call.entries.iter().filter(|_| mood == Mood::Partial && rng.bool()).cloned().collect();
        let wanted: Vec<String> = call.entries.iter().filter(|entry| !spared.contains(entry)).cloned().collect();
        let done = self.perform(&call.agent, &wanted);
        for (entry, done) in wanted.into_iter().zip(done) {
            match mood {
                Mood::Silent if rng.bool() => {}
                Mood::Contradictory if rng.bool() => {
                    told.deleted.insert(entry.clone());
                    told.failed.insert(entry);
                }
                _ if done => {
                    told.deleted.insert(entry);
                }
                _ => {
                    told.failed.insert(entry);
                }
            }
        }
        told.failed.extend(spared);
        if mood == Mood::Strangers && call.kind == Kind::Bulk {
            // Among them entries that are in the queue, and were not in this call.
            told.deleted.extend((0..5).map(|_| rng.u32(1..40).to_string()).filter(|id| !call.entries.contains(id)));
        }
        let answer =
            Answer { deleted: told.deleted.iter().cloned().collect(), failed: told.failed.iter().cloned().collect() };
        self.told.insert(call.id, told);
        listed(answer.deleted, answer.failed)
    }
}

impl Transport for Model {
    fn bulk_delete(&self, batch: &Batch, id: Uuid) -> impl Future<Output = Reply> + Send {
        self.call(batch, Kind::Bulk, id)
    }

    fn delete_one(&self, batch: &Batch, id: Uuid) -> impl Future<Output = Reply> + Send {
        self.call(batch, Kind::Single, id)
    }
}

impl Model {
    fn call(&self, batch: &Batch, kind: Kind, id: Uuid) -> impl Future<Output = Reply> + Send + use<> {
        let (model, batch) = (self.clone(), batch.clone());
        async move {
            let wrong = model.look_into_the_queue(&batch, kind, id).await;
            let (answer, answered) = oneshot::channel();
            {
                let mut world = model.world();
                world.wrong.extend(wrong);
                model.check_rate(&mut world);
                let agent = batch.lane().agent.as_str().to_owned();
                let entries: Vec<String> = batch.deletions().iter().map(|row| row.entry.as_str().to_owned()).collect();
                let distinct: BTreeSet<&String> = entries.iter().collect();
                let most = if kind == Kind::Single { 1 } else { 20 };
                if !(1..=most).contains(&entries.len()) || distinct.len() < entries.len() {
                    world.wrong.push(format!("3: {id} carries {entries:?}"));
                }
                for call in &world.open {
                    if let Some(entry) =
                        entries.iter().find(|entry| call.agent == agent && call.entries.contains(entry))
                    {
                        let wrong = format!("5: {agent} {entry} is in two calls, {} and {id}", call.id);
                        world.wrong.push(wrong);
                        break;
                    }
                }
                world.calls += 1;
                world.log.push((model.clock.elapsed(), agent.clone(), entries.clone()));
                world.ids += entries.len();
                let number = world.calls;
                world.open.push(Call { id, agent, entries, kind, number, answer });
            }
            model.arrived.send_modify(|arrived| *arrived += 1);
            answered.await.unwrap_or_else(|_| Reply::unheard(Fault::Lost, "the model forgot the call"))
        }
    }

    /// What the queue must say at the moment that a call comes in.
    async fn look_into_the_queue(&self, batch: &Batch, kind: Kind, id: Uuid) -> Vec<String> {
        let mut wrong = Vec::new();
        let mut conn = self.conn.lock().await;
        let manifest: Option<(String, i64)> = sqlx::query_as(
            "SELECT deletion_ids, size FROM requests
             WHERE correlation_id = ?1 AND agent_id = ?2 AND kind = ?3 AND answered_at IS NULL",
        )
        .bind(id.to_string())
        .bind(batch.lane().agent.as_str())
        .bind(kind.as_str())
        .fetch_optional(&mut *conn)
        .await
        .unwrap();
        let ids: Vec<i64> = batch.deletions().iter().map(|row| row.id.0).collect();
        let expected = serde_json::to_string(&ids).unwrap();
        if manifest != Some((expected, i64::try_from(ids.len()).unwrap())) {
            wrong.push(format!("4: {id} was sent, and the queue says {manifest:?}"));
        }
        let held: Vec<(String, String, i64)> = sqlx::query_as(
            "SELECT scope, cause, since_at FROM holds WHERE scope IN ('*', ?1) AND (until_at IS NULL OR until_at > ?2)",
        )
        .bind(batch.lane().agent.as_str())
        .bind(self.clock.now().0)
        .fetch_all(&mut *conn)
        .await
        .unwrap();
        if !held.iter().all(|(scope, cause, since)| scope == "*" && self.is_early(cause, *since)) {
            wrong.push(format!("6: {id} was sent during {held:?}"));
        }
        // Nobody waits here: it must be free.
        match sqlx::raw_sql("BEGIN IMMEDIATE; ROLLBACK").execute(&mut *conn).await {
            Ok(_) => {}
            Err(error) => wrong.push(format!("8: a transaction is open during {id}: {error}")),
        }
        wrong
    }

    /// Whether a call may be a probe of a hold on everything before its end: one for each shortest hold may.
    fn is_early(&self, cause: &str, since: i64) -> bool {
        let now = self.clock.now();
        let is_by_streak = !["operator", "unauthorized", "throttled", "unreachable"].contains(&cause);
        let before = self.world().early.insert((cause.to_owned(), since), now);
        // A clock that was set back tells nothing of how long ago that was.
        is_by_streak && before.is_none_or(|before| before > now || before.plus(self.hold_base) <= now)
    }

    /// A token bucket beside the one that is tested.
    /// A restart counts a request from when it left or from when it was answered: both may have stood at a clock that was
    /// set back.
    fn note_the_clock(&self, world: &mut World) {
        let ahead = self.clock.now().0 - i64::try_from(self.clock.elapsed().as_millis()).unwrap();
        world.ahead.push_back(ahead);
        if world.ahead.len() > LAST_CLOCKS {
            world.ahead.pop_front();
        }
    }

    fn check_rate(&self, world: &mut World) {
        let now = self.clock.elapsed();
        let earned = now.saturating_sub(world.counted).as_secs_f64() * self.rate.requests_per_second;
        world.tokens = (world.tokens + earned).min(f64::from(self.rate.burst.get())) - 1.0;
        world.counted = now;
        self.note_the_clock(world);
        if world.tokens < -1e-6 {
            let tokens = world.tokens;
            world.wrong.push(format!("6: more calls than the rate allows ({tokens:.3} permits left at {now:?})"));
        }
    }
}

//! The simulator's API as the worker calls it. The simulator decides how each call is answered; here each call is checked.

use std::{
    collections::BTreeSet,
    future::Future,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use audio_cache_sweeper::{
    api::{Reply, Transport},
    model::{
        clock::Clock,
        deletion::{Batch, Kind},
        outcome::{Cause, Fault, Scope},
    },
    pace::RateLimit,
};
use tokio::sync::{oneshot, watch};
use uuid::Uuid;

use super::api::{Call, Mood, World};
use crate::suite::engine::{Hold, Request, Witness};

/// For this many calls and answers, the reading of the wall clock is kept.
const LAST_CLOCKS: usize = 64;

/// All clones are the same API.
#[derive(Debug)]
pub struct Model<W> {
    world: Arc<Mutex<World>>,
    witness: Arc<tokio::sync::Mutex<W>>,
    arrived: Arc<watch::Sender<usize>>,
    clock: Clock,
    rate: RateLimit,
    /// The shortest hold.
    hold_base: Duration,
}

impl<W> Clone for Model<W> {
    fn clone(&self) -> Self {
        Self {
            world: Arc::clone(&self.world),
            witness: Arc::clone(&self.witness),
            arrived: Arc::clone(&self.arrived),
            clock: self.clock.clone(),
            rate: self.rate,
            hold_base: self.hold_base,
        }
    }
}

impl<W: Witness> Model<W> {
    /// An API that looks into the queue whenever it is called.
    pub fn new(witness: W, clock: Clock, rate: RateLimit, hold_base: Duration) -> Self {
        let world = World::new(rate.burst.get());
        let (witness, arrived) = (Arc::new(tokio::sync::Mutex::new(witness)), Arc::new(watch::Sender::new(0)));
        Self { world: Arc::new(Mutex::new(world)), witness, arrived, clock, rate, hold_base }
    }

    pub fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap()
    }

    /// Waits until this many calls have arrived.
    pub async fn arrived(&self, calls: u64) {
        self.arrived.subscribe().wait_for(|arrived| *arrived as u64 >= calls).await.unwrap();
    }

    /// Removes an entry without a call.
    pub fn lose(&self, agent: &str, entry: &str) {
        self.world().gone.insert((agent.to_owned(), entry.to_owned()));
    }

    pub fn is_gone(&self, agent: &str, entry: &str) -> bool {
        self.world().gone.contains(&(agent.to_owned(), entry.to_owned()))
    }

    /// The daemon dies. For each open call, `was_done` says whether its entries were deleted. The rate limit goes on.
    pub fn crash(&self, mut was_done: impl FnMut() -> bool) {
        let mut world = self.world();
        for call in std::mem::take(&mut world.open) {
            if was_done() {
                world.perform(&call.agent, &call.entries);
            }
        }
        // The next daemon knows only the wall clock. If that was set ahead since the last calls or answers, they seem to be that
        // much longer ago.
        let ahead = self.clock.now().0 - i64::try_from(self.clock.elapsed().as_millis()).unwrap();
        let by = world.ahead.iter().map(|then| ahead - then).max().unwrap_or(0).max(0);
        world.tokens += by as f64 / 1_000.0 * self.rate.requests_per_second;
        world.known.clear();
        world.known_singly.clear();
    }

    /// Answers the open call at this place.
    pub fn answer(&self, at: usize, mood: Mood, rng: &mut fastrand::Rng) {
        let mut world = self.world();
        let call = world.open.remove(at);
        let reply = self.reply(&mut world, &call, mood, rng);
        world.remember(&call, &reply);
        // Nobody listens if the daemon has aborted the call.
        let _ = call.answer.send(reply);
    }

    /// Answers two open calls, each with the answer to the other one.
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
        world.reply(call, mood, self.clock.now(), rng)
    }
}

impl<W: Witness> Transport for Model<W> {
    fn bulk_delete(&self, batch: &Batch, id: Uuid) -> impl Future<Output = Reply> + Send {
        self.call(batch, Kind::Bulk, id)
    }

    fn delete_one(&self, batch: &Batch, id: Uuid) -> impl Future<Output = Reply> + Send {
        self.call(batch, Kind::Single, id)
    }
}

impl<W: Witness> Model<W> {
    fn call(&self, batch: &Batch, kind: Kind, id: Uuid) -> impl Future<Output = Reply> + Send + use<W> {
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

    /// Checks what the queue must say when a call arrives.
    async fn look_into_the_queue(&self, batch: &Batch, kind: Kind, id: Uuid) -> Vec<String> {
        let mut wrong = Vec::new();
        let mut witness = self.witness.lock().await;
        let (agent, request) = (&batch.lane().agent, witness.in_flight(id).await);
        let ids: Vec<i64> = batch.deletions().iter().map(|row| row.id.0).collect();
        let says_so =
            |request: &Request| (&*request.agent, request.kind, &request.rows) == (agent.as_str(), kind, &ids);
        if !request.as_ref().is_some_and(says_so) {
            wrong.push(format!("4: {id} was sent, and the queue says {request:?}"));
        }
        let mut held = witness.holds_over(agent.as_str()).await;
        held.retain(|hold| hold.until_at.is_none_or(|until| until > self.clock.now()));
        if !held.iter().all(|hold| hold.scope == Scope::All && self.is_early(hold)) {
            wrong.push(format!("6: {id} was sent during {held:?}"));
        }
        if let Some(by) = witness.kept_out_by().await {
            wrong.push(format!("8: a transaction is open during {id}: {by}"));
        }
        wrong
    }

    /// Whether a call may probe a hold on everything before its end: one call in each shortest hold may.
    fn is_early(&self, hold: &Hold) -> bool {
        let now = self.clock.now();
        let is_by_streak =
            ![Cause::Operator, Cause::Unauthorized, Cause::Throttled, Cause::Unreachable].contains(&hold.cause);
        let before = self.world().early.insert((hold.cause, hold.since_at), now);
        // If the clock was set back, the time since then is not known.
        is_by_streak && before.is_none_or(|before| before > now || before.plus(self.hold_base) <= now)
    }

    /// Keeps the reading of the wall clock. A restart counts requests by the times at which they were sent or answered, which a
    /// clock that was set back falsifies.
    fn note_the_clock(&self, world: &mut World) {
        let ahead = self.clock.now().0 - i64::try_from(self.clock.elapsed().as_millis()).unwrap();
        world.ahead.push_back(ahead);
        if world.ahead.len() > LAST_CLOCKS {
            world.ahead.pop_front();
        }
    }

    /// Counts the permits beside the limiter that is tested.
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

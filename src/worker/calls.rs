//! The calls: requests in flight, so that no ID is sent twice, and calls that have come back.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    task::{Id as TaskId, JoinError, JoinSet},
    time::sleep,
};
use uuid::Uuid;

use super::plan::Busy;
use crate::{
    api::{
        Reply, Transport,
        key::{Key, KeySource},
    },
    model::{
        clock::Clock,
        deletion::{AgentId, Batch, DeletionId, Kind, Lane, RequestId},
    },
    pace::Departure,
    queue::{Claim, lease::Lease},
};

/// A planned departure is put off by this at most, because the one before it was late.
const LATE: Duration = Duration::from_millis(50);

/// A call that has come back.
type Returned = Result<(TaskId, Option<Back>), JoinError>;

/// A reply, and what was measured in the call's own task because judging may come later.
#[derive(Debug)]
pub(super) struct Back {
    pub(super) reply: Reply,
    pub(super) took: Duration,
    /// Number of requests that were out when this one left, itself included.
    pub(super) together: usize,
}

/// A request in flight.
#[derive(Debug)]
pub(super) struct InFlight {
    pub(super) request: RequestId,
    pub(super) correlation_id: Uuid,
    pub(super) batch: Batch,
    /// When its claim was committed, in elapsed time: from then on, others see it.
    pub(super) committed: Duration,
    /// When it is planned to leave.
    pub(super) departure: Departure,
}

/// The requests in flight, each under the ID of its task.
pub(super) type Flights = HashMap<TaskId, InFlight>;

/// How a call has ended. What is not the API's doing says nothing about it, so no hold follows.
#[derive(Debug)]
pub(super) enum End {
    /// With a reply.
    Back(Box<Back>),
    /// We cut it short. `follows`: another daemon may lead right after us, and send its IDs again.
    CutShort { follows: bool },
    /// It was never sent, because the lease was over.
    Unsent,
}

/// A call that has ended.
pub(super) struct Over {
    pub(super) call: InFlight,
    pub(super) end: End,
    /// Number of calls in flight at its end, itself included.
    pub(super) together: usize,
    /// Another call of the same agent is in flight.
    pub(super) has_company: bool,
}

/// What all calls have in common on their way.
#[derive(Debug, Default)]
struct Road {
    /// Number of requests that have left and are not answered. A call that has come back and is not judged yet does not count.
    out: AtomicUsize,
    /// When the last request left, in microseconds of elapsed time.
    left: AtomicU64,
}

impl Road {
    /// Waits for the departure, and returns when it was. A task may be woken late. So the gap counts from the departure before as it
    /// really was, because a gateway counts from there. The place is taken before the second sleep: those that are woken with this
    /// one must keep the gap, too.
    async fn depart(&self, departure: Departure, clock: &Clock) -> Duration {
        sleep_until(departure.at, clock).await;
        let left = Duration::from_micros(self.left.load(Ordering::Relaxed));
        let at = clock.elapsed().max((left + departure.gap).min(departure.at + LATE));
        self.left.store(u64::try_from(at.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
        sleep_until(at, clock).await;
        clock.elapsed()
    }
}

/// Sleeps once, as a manual clock may stand still.
async fn sleep_until(at: Duration, clock: &Clock) {
    let early = at.saturating_sub(clock.elapsed());
    if !early.is_zero() {
        sleep(early).await;
    }
}

/// A request that is out, from its departure to its reply. It also ends if its call is cut short.
struct Out<'r> {
    road: &'r Road,
    together: usize,
}

impl<'r> Out<'r> {
    fn enter(road: &'r Road) -> Self {
        let together = road.out.fetch_add(1, Ordering::Relaxed) + 1;
        Self { road, together }
    }
}

impl Drop for Out<'_> {
    fn drop(&mut self) {
        self.road.out.fetch_sub(1, Ordering::Relaxed);
    }
}

/// All calls, and the client that makes them.
#[derive(Debug)]
pub(super) struct Calls<T> {
    api: Arc<T>,
    clock: Clock,
    lease: Lease,
    tasks: JoinSet<Option<Back>>,
    road: Arc<Road>,
    in_flight: Flights,
    /// Calls that came back while the loop was waiting. The next turn judges them.
    returned: Vec<Returned>,
}

impl<T: Transport> Calls<T> {
    /// Requests leave only while `lease` is valid.
    pub(super) fn new(api: T, clock: Clock, lease: Lease) -> Self {
        Self {
            api: Arc::new(api),
            clock,
            lease,
            tasks: JoinSet::new(),
            road: Arc::default(),
            in_flight: HashMap::new(),
            returned: Vec::new(),
        }
    }

    /// Number of requests that are in flight, or have come back and are not judged.
    pub(super) fn len(&self) -> usize {
        self.in_flight.len()
    }

    /// Uses this key for new requests. Returns whether it is another one.
    pub(super) fn use_key(&self, source: KeySource, key: Key) -> bool {
        self.api.use_key(source, key)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.in_flight.is_empty()
    }

    pub(super) fn in_flight(&self) -> &Flights {
        &self.in_flight
    }

    /// The agents that have calls in flight.
    pub(super) fn agents(&self) -> HashSet<AgentId> {
        self.in_flight.values().map(|call| call.batch.lane().agent.clone()).collect()
    }

    /// Whether a call came back while the loop was waiting.
    pub(super) fn has_returned(&self) -> bool {
        !self.returned.is_empty()
    }

    /// Sends a claimed request at its departure.
    pub(super) fn send(&mut self, claim: Claim, departure: Departure) {
        let Claim { request, correlation_id, batch } = claim;
        let (api, clock, lease) = (Arc::clone(&self.api), self.clock.clone(), self.lease.clone());
        let (sending, road) = (batch.clone(), Arc::clone(&self.road));
        let committed = self.clock.elapsed();
        let task = self.tasks.spawn(async move {
            let sent = road.depart(departure, &clock).await;
            // This process may have stood still since the claim, and another one may own the queue now.
            if !lease.is_valid() {
                return None;
            }
            let out = Out::enter(&road);
            let reply = match sending.kind() {
                Kind::Bulk => api.bulk_delete(&sending, correlation_id).await,
                Kind::Single => api.delete_one(&sending, correlation_id).await,
            };
            Some(Back { reply, took: clock.elapsed().saturating_sub(sent), together: out.together })
        });
        self.in_flight.insert(task.id(), InFlight { request, correlation_id, batch, committed, departure });
    }

    /// Waits until a call has come back. Returns at once if there is none in flight.
    pub(super) async fn wait_for_one(&mut self) {
        if let Some(returned) = self.tasks.join_next_with_id().await {
            self.returned.push(returned);
        }
    }

    /// Takes the calls that have come back.
    pub(super) fn take_returned(&mut self) -> Vec<Over> {
        let mut returned = std::mem::take(&mut self.returned);
        returned.extend(std::iter::from_fn(|| self.tasks.try_join_next_with_id()));
        let together = self.in_flight.len();
        let follows = !self.lease.is_endless();
        let over = |returned: Returned| {
            let (task, end) = match returned {
                Ok((task, back)) => (task, back.map_or(End::Unsent, |back| End::Back(Box::new(back)))),
                // We cut it short at a shutdown, or it panicked. Its rows must be settled all the same.
                Err(error) => (error.id(), End::CutShort { follows }),
            };
            let call = self.in_flight.remove(&task)?;
            let agent = &call.batch.lane().agent;
            let has_company = self.in_flight.values().any(|other| other.batch.lane().agent == *agent);
            Some(Over { call, end, together, has_company })
        };
        returned.into_iter().filter_map(over).collect()
    }

    /// Cuts all calls in flight short, and waits until they have ended.
    pub(super) async fn cut_short(&mut self) {
        self.tasks.abort_all();
        while !self.tasks.is_empty() {
            self.wait_for_one().await;
        }
    }

    /// Abandons all open connections, because one of them brought the answer to another request.
    pub(super) fn distrust_connections(&self) {
        self.api.reconnect();
    }
}

/// The entry IDs in flight, by agent.
pub(super) fn busy(flights: &Flights) -> Busy {
    let mut busy = Busy::new();
    flights.values().for_each(|call| add(&mut busy, &call.batch));
    busy
}

pub(super) fn add(busy: &mut Busy, batch: &Batch) {
    let entries = batch.deletions().iter().map(|row| row.entry.clone());
    busy.entry(batch.lane().agent.clone()).or_default().extend(entries);
}

/// The rows that a look at `lanes` must leave out: those in flight and those in `claims`. Without this list they would take the
/// places of other rows.
///
/// The look passes over each listed ID at the cost of finding a row, so rows of other lanes are left off the list. If others wrote
/// after a request left (`others_wrote`, elapsed time), its rows are listed anyway: they may have changed lane.
pub(super) fn on_their_way(
    flights: &Flights,
    others_wrote: Option<Duration>,
    claims: &[Claim],
    lanes: &[Lane],
) -> Vec<DeletionId> {
    let lanes: HashSet<&Lane> = lanes.iter().collect();
    let moved = |call: &InFlight| others_wrote.is_some_and(|at| at >= call.committed);
    let sent = flights.values().filter(|call| lanes.contains(call.batch.lane()) || moved(call)).map(|call| &call.batch);
    let claimed = claims.iter().map(|claim| &claim.batch).filter(|batch| lanes.contains(batch.lane()));
    sent.chain(claimed).flat_map(Batch::deletions).map(|row| row.id).collect()
}

//! The calls: requests in flight, so that no ID is sent twice, and calls that have come back.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use tokio::task::{Id as TaskId, JoinError, JoinSet};
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
    queue::Claim,
};

/// A finished call with its duration, measured in its own task because judging may come later.
type Returned = Result<(TaskId, (Reply, Duration)), JoinError>;

/// A request in flight.
#[derive(Debug)]
pub(super) struct InFlight {
    pub(super) request: RequestId,
    pub(super) correlation_id: Uuid,
    pub(super) batch: Batch,
    /// Elapsed time at which it was sent.
    pub(super) sent: Duration,
    /// Number of calls in flight when it was sent, itself included.
    pub(super) together: usize,
}

/// The requests in flight, each under the ID of its task.
pub(super) type Flights = HashMap<TaskId, InFlight>;

/// A call that has ended.
pub(super) struct Over {
    pub(super) call: InFlight,
    /// `None` if we cut the call short. That says nothing about the API, so no hold follows.
    pub(super) reply: Option<(Reply, Duration)>,
    /// Number of calls in flight at its end, itself included.
    pub(super) together: usize,
    /// Another call of the same agent is in flight.
    pub(super) has_company: bool,
}

/// All calls, and the client that makes them.
#[derive(Debug)]
pub(super) struct Calls<T> {
    api: Arc<T>,
    clock: Clock,
    tasks: JoinSet<(Reply, Duration)>,
    in_flight: Flights,
    /// Calls that came back while the loop was waiting. The next turn judges them.
    returned: Vec<Returned>,
}

impl<T: Transport> Calls<T> {
    pub(super) fn new(api: T, clock: Clock) -> Self {
        Self { api: Arc::new(api), clock, tasks: JoinSet::new(), in_flight: HashMap::new(), returned: Vec::new() }
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

    pub(super) fn send(&mut self, claim: Claim) {
        let Claim { request, correlation_id, batch } = claim;
        let sent = self.clock.elapsed();
        let (api, clock, sending) = (Arc::clone(&self.api), self.clock.clone(), batch.clone());
        let task = self.tasks.spawn(async move {
            let reply = match sending.kind() {
                Kind::Bulk => api.bulk_delete(&sending, correlation_id).await,
                Kind::Single => api.delete_one(&sending, correlation_id).await,
            };
            (reply, clock.elapsed().saturating_sub(sent))
        });
        let together = self.in_flight.len() + 1;
        self.in_flight.insert(task.id(), InFlight { request, correlation_id, batch, sent, together });
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
        let over = |returned: Returned| {
            let (task, reply) = match returned {
                Ok((task, reply)) => (task, Some(reply)),
                // We cut it short at a shutdown, or it panicked. Its rows must be settled all the same.
                Err(error) => (error.id(), None),
            };
            let call = self.in_flight.remove(&task)?;
            let agent = &call.batch.lane().agent;
            let has_company = self.in_flight.values().any(|other| other.batch.lane().agent == *agent);
            Some(Over { call, reply, together, has_company })
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
    let moved = |call: &InFlight| others_wrote.is_some_and(|at| at >= call.sent);
    let sent = flights.values().filter(|call| lanes.contains(call.batch.lane()) || moved(call)).map(|call| &call.batch);
    let claimed = claims.iter().map(|claim| &claim.batch).filter(|batch| lanes.contains(batch.lane()));
    sent.chain(claimed).flat_map(Batch::deletions).map(|row| row.id).collect()
}

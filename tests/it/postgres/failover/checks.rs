//! What must be true after any failures: by the stand-in's arrivals, the producers' inserts, and the tables.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::Duration,
};

use sqlx::{PgConnection, Row as _, postgres::PgRow};
use uuid::Uuid;

use super::{
    producers::Key,
    scene::{BURST, RATE, REQUEST_TIMEOUT},
    truth::Arrival,
};

/// A request departs at a planned time, and a loaded machine delivers some late and others not. So many more may come within any time.
const UNEVEN: Duration = Duration::from_millis(500);
/// By this much, two requests may come in closer together than they were sent.
const CLOSER: Duration = Duration::from_millis(200);

/// A row of `requests`.
#[derive(Clone, Debug)]
struct Request {
    correlation_id: Uuid,
    epoch: i64,
    claimed_at: i64,
    status: Option<i16>,
    fault: Option<String>,
    deletion_ids: Vec<i64>,
}

/// What the tables say.
#[derive(Debug)]
pub struct Said {
    /// In the order of their IDs.
    requests: Vec<Request>,
    deleted: BTreeSet<Key>,
}

impl Said {
    pub async fn read(conn: &mut PgConnection) -> Self {
        let requests =
            "SELECT correlation_id, epoch, claimed_at, status, fault, deletion_ids FROM requests ORDER BY id";
        let read = |row: &PgRow| Request {
            correlation_id: row.get(0),
            epoch: row.get(1),
            claimed_at: row.get(2),
            status: row.get(3),
            fault: row.get(4),
            deletion_ids: row.get(5),
        };
        let requests = sqlx::query(requests).fetch_all(&mut *conn).await.unwrap().iter().map(read).collect();
        let deleted = "SELECT agent_id, entry_id FROM deletions WHERE state = 'deleted'";
        let deleted: Vec<Key> = sqlx::query_as(deleted).fetch_all(conn).await.unwrap();
        Self { requests, deleted: deleted.into_iter().collect() }
    }
}

/// What was not as it must be, in words; and what is worth a line in a report.
#[derive(Debug, Default)]
pub struct Findings {
    /// Keys that were inserted and are not deleted.
    pub lost: Vec<String>,
    /// Requests that came in after one of a later leader.
    pub late: Vec<String>,
    /// IDs that came in again before the earlier request could have ended.
    pub twice: Vec<String>,
    /// Whatever else must not be.
    pub wrong: Vec<String>,
    /// By how much the number of requests within some time was above rate × time; the burst is allowed.
    pub above_rate: f64,
    pub requests: usize,
    pub rows: usize,
}

impl Findings {
    pub fn of(
        arrivals: &[Arrival],
        said: &Said,
        inserted: &BTreeSet<Key>,
        leaders: Vec<(i64, String)>,
        newest: i64,
    ) -> Self {
        let mut findings = Self { requests: arrivals.len(), rows: said.deleted.len(), ..Self::default() };
        findings.lost = inserted.difference(&said.deleted).map(|key| format!("{key:?}")).collect();
        findings.check_claims(said, newest);
        findings.check_leaders(arrivals, said, leaders);
        findings.check_repeats(arrivals, said);
        findings.check_rate(arrivals);
        let seen: BTreeSet<(&str, &str)> = arrivals
            .iter()
            .flat_map(|arrival| arrival.entries.iter().map(|entry| (arrival.agent.as_str(), entry.as_str())))
            .collect();
        let unseen = said.deleted.iter().filter(|(agent, entry)| !seen.contains(&(agent, entry)));
        findings.wrong.extend(unseen.map(|key| format!("{key:?} is deleted, and nobody asked for that")));
        findings
    }

    /// No leader claims after a later one.
    fn check_claims(&mut self, said: &Said, newest: i64) {
        for pair in said.requests.windows(2) {
            if pair[0].epoch > pair[1].epoch {
                self.wrong.push(format!("claimed by a deposed leader: {:?}", pair[1]));
            }
        }
        if said.requests.last().is_some_and(|request| request.epoch > newest) {
            self.wrong.push(format!("epoch {newest} is the last one, and there are claims of a later one"));
        }
        // A request that was lost may be on its way until its time is over, wherever it was sent.
        let mut before: HashMap<i64, &Request> = HashMap::new();
        for request in &said.requests {
            for id in &request.deletion_ids {
                if let Some(lost) = before.insert(*id, request).filter(|before| before.fault.as_deref() == Some("lost"))
                {
                    let after = Duration::from_millis(request.claimed_at.abs_diff(lost.claimed_at));
                    if after + CLOSER < REQUEST_TIMEOUT {
                        self.twice.push(format!("row {id} was claimed again {after:?} after {lost:?}"));
                    }
                }
            }
        }
    }

    /// Each request was claimed by the leader of its epoch, who sent it, and came in before those of the next one.
    fn check_leaders(&mut self, arrivals: &[Arrival], said: &Said, leaders: Vec<(i64, String)>) {
        let epochs: HashMap<Uuid, i64> =
            said.requests.iter().map(|request| (request.correlation_id, request.epoch)).collect();
        let mut names: BTreeMap<i64, String> = BTreeMap::new();
        for (epoch, name) in leaders {
            if let Some(other) = names.insert(epoch, name) {
                self.wrong.push(format!("epoch {epoch} had two leaders, and one was {other}"));
            }
        }
        let (mut newest, mut seen) = (0, BTreeSet::new());
        for arrival in arrivals {
            let Some(&epoch) = epochs.get(&arrival.correlation_id) else {
                self.wrong.push(format!("sent without a claim: {arrival:?}"));
                continue;
            };
            // A leader that was killed may not have written its line.
            if *names.entry(epoch).or_insert_with(|| arrival.node.clone()) != arrival.node {
                self.wrong.push(format!("the leader of epoch {epoch} is not who sent {arrival:?}"));
            }
            if epoch < newest {
                self.late.push(format!("after the first request of epoch {newest}, one of {epoch}: {arrival:?}"));
            }
            newest = newest.max(epoch);
            if !seen.insert(arrival.correlation_id) {
                self.wrong.push(format!("sent twice: {arrival:?}"));
            }
        }
    }

    /// An ID of a request without an answer is not sent again while somebody may wait for that answer.
    fn check_repeats(&mut self, arrivals: &[Arrival], said: &Said) {
        let answered: BTreeSet<Uuid> = said
            .requests
            .iter()
            .filter(|request| request.status.is_some())
            .map(|request| request.correlation_id)
            .collect();
        let mut before: HashMap<(&str, &str), &Arrival> = HashMap::new();
        for arrival in arrivals {
            for entry in &arrival.entries {
                let earlier = before.insert((&arrival.agent, entry), arrival);
                if let Some(earlier) = earlier.filter(|earlier| !answered.contains(&earlier.correlation_id)) {
                    let after = arrival.at - earlier.at;
                    if after + CLOSER < REQUEST_TIMEOUT {
                        self.twice.push(format!("{entry} came again {after:?} after {earlier:?}, in {arrival:?}"));
                    }
                }
            }
        }
    }

    /// Within any time, at most rate × time + burst, whoever sent them.
    fn check_rate(&mut self, arrivals: &[Arrival]) {
        let mut least = f64::MAX;
        for (before, arrival) in (0_u32..).zip(arrivals) {
            let level = f64::from(before) - arrival.at.as_secs_f64() * f64::from(RATE);
            least = least.min(level);
            self.above_rate = self.above_rate.max(level + 1.0 - least);
        }
    }

    /// Fails unless all is as it must be.
    pub fn assert_sound(&self) {
        let Self { lost, late, twice, wrong, .. } = self;
        let problems: Vec<&String> = [lost, late, twice, wrong].into_iter().flatten().collect();
        assert!(problems.is_empty(), "{} problems: {:#?}", problems.len(), &problems[..problems.len().min(20)]);
        let most = f64::from(BURST) + f64::from(RATE) * UNEVEN.as_secs_f64();
        assert!(self.above_rate <= most, "{} requests more than rate × time", self.above_rate);
    }
}

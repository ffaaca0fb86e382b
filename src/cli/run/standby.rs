//! A daemon on a server: it stands by until it leads, works, and stands by again if another one took over.

use std::{
    future::Future,
    pin::{Pin, pin},
    time::Duration,
};

use tokio::time::sleep;
use tracing::{debug, info, warn};

use super::{Done, Failure, Job, Relay, START_RETRY, give_up, shutdown::Shutdown};
use crate::{
    event,
    queue::postgres::{Attempt, Candidate, OpenError, Options, Store},
    worker::{Ended, Reasons, Totals, Until},
};

/// In each lease, a daemon that stands by tries to lead this number of times.
const TRIES: u32 = 10;
/// A program that is too old for the tables looks this often whether they have changed.
const LOOK_AT_VERSION: Duration = Duration::from_secs(10);

/// Works whenever this daemon leads, until `shutdown` completes, or the job's end is reached.
///
/// # Errors
/// If there is no API key, or the database cannot be used and waiting does not help. If the work ends with the queue, also if another
/// daemon leads.
pub(super) async fn work<F: Future<Output = ()>>(
    options: &Options,
    job: &mut Job<'_>,
    mut shutdown: Pin<&mut Shutdown<F>>,
    relay: &mut Relay,
) -> Done {
    let (mut all, end) = (Totals::default(), job.end);
    let mut standby = Standby::new(options);
    let mut give_up = pin!(give_up(end.until));
    loop {
        job.end.max_requests = end.max_requests.map(|most| most.saturating_sub(requests(&all)));
        if job.end.max_requests == Some(0) {
            return Ok((job.stopped_early(Ended::MaxRequests).0, all));
        }
        let (mut supervisor, api) = (job.supervisor.clone(), job.api()?);
        let store = tokio::select! {
            biased;
            () = &mut shutdown => Err(Ended::Told),
            store = standby.until_it_leads(job) => Ok(store?),
            () = &mut give_up => Err(Ended::GaveUp),
            never = relay.keep(&mut supervisor) => match never {},
        };
        let store = match store {
            Ok(store) => store,
            Err(ended) => return Ok((job.stopped_early(ended).0, all)),
        };
        let worker = tokio::select! {
            biased;
            // The requests of the leader before stay as they are for the next one.
            () = &mut shutdown => return Ok((job.stopped_early(Ended::Told).0, all)),
            () = &mut give_up => return Ok((job.stopped_early(Ended::GaveUp).0, all)),
            worker = job.starting(async |job: &mut Job<'_>| job.worker(store, api).await) => worker,
        };
        let worker = match worker {
            Ok(worker) => {
                standby.leads(job);
                worker
            }
            Err(failure) if standby.may_wait_for(&failure) => {
                standby.wait_for(&failure, job).await;
                continue;
            }
            Err(failure) => return Err(failure),
        };
        let (ended, totals) = job.run(worker, shutdown.as_mut(), relay).await;
        all.merge(&totals);
        match ended {
            Ok(ended) => return Ok((ended, all)),
            // The successor settles what is left.
            Err(error) if error.is_deposed() && shutdown.is_told() => return Ok((Ended::Told, all)),
            Err(error) if error.is_deposed() && end.until == Until::Told => {
                warn!(event = event::DEPOSED, why = %error, "another daemon leads now; this one stands by");
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// A daemon that waits until it leads.
struct Standby<'o> {
    options: &'o Options,
    /// A server was reached once: from then on, being refused is waited for.
    has_connected: bool,
    /// Why the database cannot be used at present.
    down: Reasons,
    /// What keeps it from leading, as it was logged last.
    told: Option<String>,
    /// After an outage, a leader that lives goes first.
    lets_go_first: bool,
    /// It has the lock: epoch, orphans, and how long it waited for that. This is logged once the worker is made.
    leading: Option<(i64, u64, Duration)>,
}

fn requests(totals: &Totals) -> usize {
    usize::try_from(totals.requests).unwrap_or(usize::MAX)
}

impl<'o> Standby<'o> {
    fn new(options: &'o Options) -> Self {
        Self {
            options,
            has_connected: false,
            down: Reasons::default(),
            told: None,
            lets_go_first: false,
            leading: None,
        }
    }

    /// Waits, and begins to lead.
    async fn until_it_leads(&mut self, job: &mut Job<'_>) -> Result<Store, Failure> {
        let (begun, mut candidate) = (job.clock.elapsed(), None);
        self.told = None;
        loop {
            job.supervisor.feed(job.clock.elapsed());
            let before = candidate.take();
            let attempt = job.starting(async |job: &mut Job<'_>| self.attempt(before, job).await).await;
            match attempt {
                Ok(Attempt::Leads(store)) => {
                    let waited = job.clock.elapsed().saturating_sub(begun);
                    self.leading = Some((store.epoch(), store.orphaned(), waited));
                    return Ok(*store);
                }
                // It is to do some work and end, which is the leader's.
                Ok(Attempt::StandsBy(waiting)) if job.end.until != Until::Told || job.end.max_requests.is_some() => {
                    return Err(waiting.taken().await?.into());
                }
                Ok(Attempt::StandsBy(mut waiting)) => {
                    self.is_up(job);
                    if self.told.is_none() {
                        // If it cannot be seen, or has just ended, there is none to name.
                        let leader =
                            waiting.leader().await.ok().flatten().unwrap_or_else(|| "another session".to_owned());
                        self.tell(&leader, job, |leader| {
                            info!(event = event::STANDBY, leader, "standing by: another daemon leads");
                        });
                    }
                    candidate = Some(waiting);
                    sleep(self.options.lease / TRIES).await;
                }
                Err(error @ OpenError::Newer { .. }) if job.end.until == Until::Told => {
                    self.is_up(job);
                    self.tell(&error.to_string(), job, |why| {
                        warn!(event = event::STANDBY, why, "standing by: this program is too old to lead");
                    });
                    sleep(LOOK_AT_VERSION).await;
                }
                Err(error) => {
                    let failure = Failure::from(error);
                    if !self.may_wait_for(&failure) {
                        return Err(failure);
                    }
                    self.wait_for(&failure, job).await;
                }
            }
        }
    }

    async fn attempt(&mut self, candidate: Option<Candidate>, job: &mut Job<'_>) -> Result<Attempt, OpenError> {
        let candidate = match candidate {
            Some(candidate) => candidate,
            None => Candidate::connect(self.options.clone(), &job.clock).await?,
        };
        self.has_connected = true;
        if std::mem::take(&mut self.lets_go_first) {
            // A leader that was cut off as well has answers that nobody else has. It tries again once a second.
            sleep((2 * START_RETRY).min(self.options.lease / 2)).await;
        }
        // A database without tables gets them now, or another daemon is making them.
        if candidate.has_tables() {
            job.start.log(job.config, false, false);
        }
        let attempt = candidate.try_to_lead().await?;
        job.start.log(job.config, matches!(&attempt, Attempt::Leads(store) if store.is_new()), false);
        Ok(attempt)
    }

    /// Logs that this daemon leads.
    fn leads(&mut self, job: &mut Job<'_>) {
        self.is_up(job);
        if let Some((epoch, orphans, waited)) = self.leading.take() {
            let waited_ms = u64::try_from(waited.as_millis()).unwrap_or(u64::MAX);
            info!(event = event::LEADING, epoch, orphans, waited_ms, "this daemon leads");
        }
    }

    /// Tells once what keeps this daemon from leading.
    fn tell(&mut self, what: &str, job: &mut Job<'_>, log: impl FnOnce(&str)) {
        if self.told.as_deref() != Some(what) {
            log(what);
            self.told = Some(what.to_owned());
        }
        job.supervisor.standing_by();
    }

    /// Whether this may pass. Passwords and rights are replaced while daemons run.
    fn may_wait_for(&self, failure: &Failure) -> bool {
        failure.is_temporary() || (self.has_connected && failure.is_refusal())
    }

    async fn wait_for(&mut self, failure: &Failure, job: &mut Job<'_>) {
        if !self.down.is_news(&failure.to_string()) {
            debug!(event = event::DATABASE_UNAVAILABLE, error = %failure, "the database still cannot be used");
        } else {
            let next = "trying again every second until it can";
            warn!(event = event::DATABASE_UNAVAILABLE, error = %failure, "the database cannot be used; {next}");
        }
        self.lets_go_first = true;
        // After that, it is told again who leads.
        self.told = None;
        job.supervisor.waiting((self.options.longest_wait() + START_RETRY) * 4);
        sleep(START_RETRY).await;
    }

    fn is_up(&mut self, job: &mut Job<'_>) {
        if self.down.clear() {
            info!(event = event::DATABASE_AVAILABLE, "the database can be used again");
            job.supervisor.database(true);
        }
    }
}

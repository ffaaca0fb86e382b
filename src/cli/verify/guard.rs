//! The hold of a verify: while the cache is listed, no request of its agent is in flight, and none is sent.

use std::{future::Future, pin::Pin, time::Duration};

use anyhow::anyhow;
use indicatif::ProgressBar;
use tokio::time::sleep;

use crate::{
    cli::{
        Failure,
        signals::Signal,
        terminal::warn_person,
        times::{plural, show_text, show_time},
    },
    config::Config,
    durations,
    model::{
        act::MAX_WHY,
        clock::Clock,
        deletion::AgentId,
        hold::HoldRow,
        outcome::{Cause, Scope},
    },
    queue::{
        either::{Producer, Reader},
        report::{Activity, Unanswered},
        sqlite::twice_if_damaged,
    },
};

/// The hold ends by itself after this time, so that a command that is killed leaves no pause for ever.
const LENGTH: Duration = Duration::from_secs(180);
/// The hold is prolonged this often. If somebody has lifted it, this is when the command finds out.
const RENEWAL: Duration = Duration::from_secs(10);
/// A daemon settles an answer within this time, or waits for the database.
const SETTLING: Duration = Duration::from_secs(30);
/// The pause between two looks at the requests without an answer.
const PAUSE: Duration = Duration::from_millis(100);
/// After this time, a person is told what the command waits for.
const SILENT: Duration = Duration::from_secs(2);

/// The hold that this command has placed.
pub(super) struct Guard {
    agent: AgentId,
    hold: HoldRow,
    clock: Clock,
    /// Elapsed time at which the hold was prolonged last.
    renewed: Duration,
    /// The hold is prolonged this often.
    renewal: Duration,
}

impl Guard {
    /// Places the hold. `operator`: who verifies.
    ///
    /// # Errors
    /// If another command verifies the agent, or the database cannot be used.
    pub(super) async fn place(
        producer: &mut Producer,
        agent: &AgentId,
        operator: &str,
        clock: &Clock,
    ) -> Result<Self, Failure> {
        let now = clock.now();
        let hold = HoldRow {
            scope: Scope::Agent(agent.clone()),
            cause: Cause::Verify,
            since_at: now,
            until_at: Some(now.plus(LENGTH)),
            repeats: 0,
            probed_at: None,
            why: Some(format!("{operator}, process {}", std::process::id())),
        };
        let Some(other) = producer.hold_to_verify(agent, &hold, now).await? else {
            let (renewed, renewal) = (clock.elapsed(), RENEWAL);
            return Ok(Self { agent: agent.clone(), hold, clock: clock.clone(), renewed, renewal });
        };
        let who = other.why.as_ref().map_or_else(|| "?".to_owned(), |who| show_text(who, MAX_WHY));
        let until = other.until_at.map_or_else(|| "never".to_owned(), show_time);
        let (since, lift) = (show_time(other.since_at), HoldRow::command_to_lift(&other.scope, other.cause));
        Err(anyhow!(
            "another `sweeper verify` of {agent} is under way since {since} ({who}): wait until it has ended; if it was killed, \
             its hold ends at {until}, and `{lift}` lifts it at once"
        )
        .into())
    }

    /// Prolongs the hold.
    ///
    /// # Errors
    /// If the hold is not there any more, or the database cannot be used.
    pub(super) async fn renew(&mut self, producer: &mut Producer) -> Result<(), Failure> {
        let now = self.clock.now();
        let until = now.plus(LENGTH);
        if producer.renew_hold(&self.hold, until, now).await? {
            self.hold.until_at = Some(until);
            self.renewed = self.clock.elapsed();
            return Ok(());
        }
        let agent = &self.agent;
        Err(anyhow!(
            "verify {agent}: its hold has ended, or somebody has lifted it, so requests may have been sent while the cache was \
             listed; nothing more is written: verify again"
        )
        .into())
    }

    /// Prolongs the hold, if that is due.
    ///
    /// # Errors
    /// As [`Guard::renew`].
    pub(super) async fn renew_if_due(&mut self, producer: &mut Producer) -> Result<(), Failure> {
        if self.clock.elapsed().saturating_sub(self.renewed) < self.renewal {
            Ok(())
        } else {
            self.renew(producer).await
        }
    }

    /// Does `work` while the hold is prolonged. Returns the signal if one comes before the end of `work`.
    ///
    /// # Errors
    /// Those of `work`, and as [`Guard::renew`].
    pub(super) async fn during<T>(
        &mut self,
        work: impl Future<Output = Result<T, Failure>>,
        producer: &mut Producer,
        mut stop: Pin<&mut impl Future<Output = Signal>>,
    ) -> Result<Result<T, Signal>, Failure> {
        let mut work = std::pin::pin!(work);
        loop {
            tokio::select! {
                biased;
                signal = stop.as_mut() => return Ok(Err(signal)),
                done = &mut work => return done.map(Ok),
                () = sleep(self.renewal) => self.renew(producer).await?,
            }
        }
    }

    /// Lifts the hold. If it cannot be lifted, it ends by itself.
    pub(super) async fn lift(self, producer: &mut Producer) {
        if let Err(error) = producer.lift_hold(&self.hold, self.clock.now()).await {
            let (agent, until) = (&self.agent, self.hold.until_at.map_or_else(String::new, show_time));
            let lift = HoldRow::command_to_lift(&self.hold.scope, self.hold.cause);
            warn_person(&format!(
                "sweeper: {error}; the hold on {agent} was not lifted: it ends at {until}, and `{lift}` lifts it at once"
            ));
        }
    }
}

async fn activity(agent: &AgentId, after: i64, config: &Config) -> Result<Activity, Failure> {
    let look = async || Ok::<_, Failure>(Reader::open(&config.store).await?.activity(agent, after).await?);
    twice_if_damaged(look).await
}

/// Waits until no request of the agent is without an answer. Returns the number of the last request by then.
///
/// # Errors
/// If a request stays without an answer, or the database cannot be read.
pub(super) async fn quiet(
    agent: &AgentId,
    config: &Config,
    clock: &Clock,
    progress: &ProgressBar,
) -> Result<i64, Failure> {
    let patience = config.worker.request_timeout + SETTLING;
    let (begun, mut is_told) = (clock.elapsed(), false);
    loop {
        let Activity { running, unanswered, last, .. } = activity(agent, i64::MAX, config).await?;
        if unanswered.is_empty() {
            return Ok(last);
        }
        let said = without_answer(agent, &unanswered);
        if running == Some(false) {
            return Err(anyhow!(
                "verify {agent}: {said}, and no daemon runs: a daemon died with it in flight. Start the daemon, which settles it, \
                 and verify again"
            )
            .into());
        }
        let waited = clock.elapsed().saturating_sub(begun);
        if waited > patience {
            let waited = durations::show_roughly(waited);
            return Err(
                anyhow!("verify {agent}: {said}, also after {waited}; nothing was listed: verify again later").into()
            );
        }
        if waited > SILENT && !is_told {
            is_told = true;
            progress.suspend(|| warn_person(&format!("waiting: {said}")));
        }
        progress.set_message(said);
        sleep(PAUSE).await;
    }
}

fn without_answer(agent: &AgentId, unanswered: &[Unanswered]) -> String {
    let rows = plural(unanswered.iter().map(|request| request.rows).sum(), "row", "rows");
    match unanswered {
        [only] => {
            let (request, since) = (only.request, show_time(only.claimed_at));
            format!("request {request} of {agent} with {rows} has no answer since {since}")
        }
        all => format!("{} of {agent} with {rows} have no answer", plural(all.len() as u64, "request", "requests")),
    }
}

/// Whether requests of the agent were claimed after the request `last`: the reason why a listing does not count.
///
/// # Errors
/// If the database cannot be read.
pub(super) async fn sent_meanwhile(agent: &AgentId, last: i64, config: &Config) -> Result<Option<String>, Failure> {
    let sent = activity(agent, last, config).await?.since;
    let requests = plural(sent, "request", "requests");
    Ok((sent > 0).then(|| {
        format!(
            "{requests} of {agent} went out meanwhile, in spite of the hold: the clock of the daemon's machine may be ahead of \
             this one"
        )
    }))
}

#[cfg(test)]
mod tests {
    use std::{future::pending, pin::pin};

    use tokio::time::timeout;

    use super::*;
    use crate::{model::clock::Timestamp, queue::sqlite};

    /// After this time, the test has failed.
    const PATIENCE: Duration = Duration::from_secs(60);

    async fn until(store: &sqlite::Options) -> Option<Timestamp> {
        let mut reader = sqlite::Reader::open(store).await.unwrap();
        reader.holds().await.unwrap().first().and_then(|hold| hold.until_at)
    }

    #[tokio::test]
    async fn the_hold_is_prolonged_while_work_goes_on_and_work_ends_when_somebody_lifts_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sweeper.db");
        let store =
            sqlite::Options { path, busy_timeout: Duration::from_secs(5), synchronous: sqlite::Synchronous::Normal };
        drop(sqlite::Store::open(store.clone()).await.unwrap());
        let mut producer = Producer::Sqlite(Box::new(sqlite::Producer::join(&store).await.unwrap()));
        let (agent, clock) = (AgentId::parse("a").unwrap(), Clock::system());
        let mut guard = Guard::place(&mut producer, &agent, "ann", &clock).await.unwrap();
        guard.renewal = Duration::from_millis(1);
        let mut stop = pin!(pending::<Signal>());
        let first = until(&store).await.unwrap();
        let later = async {
            while until(&store).await.unwrap() == first {}
            Ok(())
        };
        let prolonged = timeout(PATIENCE, guard.during(later, &mut producer, stop.as_mut())).await;
        assert!(matches!(prolonged, Ok(Ok(Ok(())))));
        assert!(until(&store).await.unwrap() > first);
        let mut other = sqlite::Producer::join(&store).await.unwrap();
        let hold = guard.hold.clone();
        let lifted = async {
            other.lift_hold(&hold, clock.now()).await.unwrap();
            pending::<Result<(), Failure>>().await
        };
        let noticed = timeout(PATIENCE, guard.during(lifted, &mut producer, stop)).await;
        let Ok(Err(failure)) = noticed else { panic!("it went on") };
        assert!(format!("{failure:?}").contains("somebody has lifted it"), "{failure:?}");
    }
}

//! A daemon on a file, which nobody else works on.

use std::{future::Future, pin::Pin};

use tokio::time::sleep;
use tracing::{debug, info, warn};

use super::{Done, Failure, Job, Relay, START_RETRY, give_up};
use crate::{
    event,
    queue::sqlite::{Doubtful as _, Opened, Options, Store},
    worker::{Doubts, Ended, Reasons, Worker, tell_of_a_doubt},
};

/// Works until `shutdown` completes, or the job's end is reached.
///
/// # Errors
/// If there is no API key, or the database cannot be used and waiting does not help.
pub(super) async fn work(
    options: &Options,
    job: &mut Job<'_>,
    mut shutdown: Pin<&mut impl Future<Output = ()>>,
    relay: &mut Relay,
) -> Done {
    let until = job.end.until;
    let worker = tokio::select! {
        biased;
        // Dropping a start midway leaves the file as a crash would: the next start carries on from there.
        () = &mut shutdown => Err(Ended::Told),
        worker = patient_worker(options, job) => Ok(worker?),
        () = give_up(until) => Err(Ended::GaveUp),
    };
    match worker {
        Ok(worker) => {
            let (ended, totals) = job.run(worker, shutdown, relay).await;
            Ok((ended?, totals))
        }
        Err(ended) => Ok(job.stopped_early(ended)),
    }
}

/// A worker, as soon as the database can be used. A locked database and a full disk are waited for.
async fn patient_worker(options: &Options, job: &mut Job<'_>) -> Result<Worker<Store>, Failure> {
    let (mut waiting, mut reasons, mut doubts) = (false, Reasons::default(), Doubts::default());
    loop {
        let made = job.starting(async |job: &mut Job<'_>| worker(options, job).await).await;
        // Each try opens the file anew.
        if let Some(doubt) = made.as_ref().err().and_then(Failure::doubt)
            && doubts.may_look_again(job.clock.elapsed())
        {
            waiting = true;
            tell_of_a_doubt(&doubt);
            sleep(START_RETRY).await;
            continue;
        }
        match made {
            Err(failure) if failure.is_temporary() => {
                waiting = true;
                if !reasons.is_news(&failure.to_string()) {
                    debug!(event = event::DATABASE_UNAVAILABLE, error = %failure, "the database still cannot be used");
                } else {
                    let next = "trying again every second until it can";
                    warn!(event = event::DATABASE_UNAVAILABLE, error = %failure, "the database cannot be used; {next}");
                }
                // A try may wait twice that long: to open the file, and to recover.
                job.supervisor.waiting((options.longest_wait() + START_RETRY) * 4);
                sleep(START_RETRY).await;
            }
            done => {
                if waiting && done.is_ok() {
                    info!(event = event::DATABASE_AVAILABLE, "the database can be used again");
                }
                return done;
            }
        }
    }
}

async fn worker(options: &Options, job: &mut Job<'_>) -> Result<Worker<Store>, Failure> {
    let api = job.api()?;
    let store = Store::open(options.clone()).await?;
    let opened = store.opened();
    job.start.log(job.config, opened == Opened::Created, opened == Opened::Adopted);
    job.worker(store, api).await
}

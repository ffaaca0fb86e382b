//! The same deletions through apalis-sqlite, as its documentation has it.
//!
//! `apalis-drain URL DATABASE ROWS AGENTS IDS_PER_JOB FETCH documented|tuned|durable`
//!
//! Enqueues first, which is not timed: each job is a list of IDs of one agent, made by whoever enqueues. Then one worker
//! with 64 tasks at a time works until all are done. A job keeps its result; an ID has none of its own.
//!
//! `documented`: as `SqliteStorage::setup` leaves it. That is `synchronous = OFF`, so that a power cut may lose commits
//! or the file, and an index on `lock_by`, by which SQLite finds the jobs that are acknowledged: with one worker those are
//! all that it has ever locked, so the time grows with the square of the jobs. `tuned`: without that index, and with
//! statistics, which is the best that was found. `durable`: that, with `synchronous = FULL`, as the sweeper has it.

use std::{
    env,
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use apalis::prelude::*;
use apalis_sqlite::{Config, SqliteConnectOptions, SqlitePool, SqlitePoolOptions, SqliteStorage, queries::push_tasks};
use serde::{Deserialize, Serialize};
use serde_json::json;

#[derive(Deserialize, Serialize)]
struct Job {
    agent: String,
    ids: Vec<String>,
}

#[derive(Deserialize)]
struct Answer {
    deleted: Vec<String>,
}

#[derive(Clone)]
struct Api {
    client: reqwest::Client,
    url: String,
}

static LEFT: AtomicUsize = AtomicUsize::new(0);

async fn delete(job: Job, api: Data<Api>, worker: WorkerContext) -> Result<(), BoxDynError> {
    let url = format!("{}/v1/agents/{}/audio-cache/bulk-delete", api.url, job.agent);
    let response = api.client.post(url).header("x-api-key", "k").json(&json!({ "ids": job.ids })).send().await?;
    let answer: Answer = response.error_for_status()?.json().await?;
    if answer.deleted.len() != job.ids.len() {
        return Err("not all were deleted".into());
    }
    if LEFT.fetch_sub(1, Ordering::Relaxed) == 1 {
        worker.stop()?;
    }
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), BoxDynError> {
    let args: Vec<String> = env::args().skip(1).collect();
    let [url, database, rows, agents, per_job, fetch, tuning] = args.as_slice() else {
        return Err("seven arguments, please".into());
    };
    let (rows, agents): (usize, usize) = (rows.parse()?, agents.parse()?);
    let (per_job, fetch): (usize, usize) = (per_job.parse()?, fetch.parse()?);

    let options = SqliteConnectOptions::new().filename(database).create_if_missing(true);
    let pool = SqlitePoolOptions::new().max_connections(1).connect_with(options).await?;
    SqliteStorage::setup(&pool).await?;
    let jobs = enqueue(&pool, rows, agents, per_job).await?;
    let tune = match tuning.as_str() {
        "documented" => "",
        "tuned" => "DROP INDEX LIdx; ANALYZE",
        "durable" => "DROP INDEX LIdx; ANALYZE; PRAGMA synchronous = FULL",
        other => return Err(format!("{other}: must be documented, tuned or durable").into()),
    };
    sqlx::raw_sql(tune).execute(&pool).await?;
    LEFT.store(jobs, Ordering::Relaxed);

    let api = Api { client: reqwest::Client::builder().no_proxy().build()?, url: url.clone() };
    let begun = Instant::now();
    let backend = SqliteStorage::<Job>::new(&pool)
        .with_config(Config::default().queue("drain").batch_size(fetch))
        .poll_with_interval(Duration::from_millis(100));
    let worker = WorkerBuilder::new("drain").backend(backend).data(api).concurrency(64).build(delete);
    worker.run().await?;
    let seconds = begun.elapsed().as_secs_f64();

    let done: i64 = sqlx::query_scalar("SELECT count(*) FROM Jobs WHERE status = 'Done'").fetch_one(&pool).await?;
    if usize::try_from(done) != Ok(jobs) {
        return Err(format!("{done} of {jobs} jobs are done").into());
    }
    println!("{}", json!({ "seconds": seconds, "requests": jobs }));
    Ok(())
}

/// Jobs of up to `per_job` IDs each, the agents taking turns.
async fn enqueue(pool: &SqlitePool, rows: usize, agents: usize, per_job: usize) -> Result<usize, BoxDynError> {
    let mut jobs = Vec::new();
    for nth in 0..rows.div_ceil(agents).div_ceil(per_job) {
        for agent in 0..agents {
            let entries = (agent..rows).step_by(agents).skip(nth * per_job).take(per_job);
            let ids: Vec<String> = entries.map(|i| (1_000_000 + i).to_string()).collect();
            if !ids.is_empty() {
                let job = Job { agent: format!("PROJECT-{agent}"), ids };
                jobs.push(TaskBuilder::new(serde_json::to_vec(&job)?).build());
            }
        }
    }
    let mut tx = pool.begin().await?;
    push_tasks(&mut *tx, "drain", &jobs).await?;
    tx.commit().await?;
    Ok(jobs.len())
}

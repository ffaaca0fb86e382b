//! The stand-in for the API, alone.

use std::{future::Future, net::SocketAddr, num::NonZeroU32, process::ExitCode, time::Duration};

use anyhow::Context as _;
use clap::Args;

use super::{Failure, duration, say};
use crate::sandbox::{Missing, Options, Outage, Poison, Sandbox};

const EXAMPLES: &str = "\
Examples:
  sweeper sandbox --listen 127.0.0.1:8080 --key k --agent BAKERY=600 --latency 60ms --fail-ratio 0.05
  sweeper sandbox --key k --poison 666=500 --poison 13=hang --missing gateway
  SWEEPER__API__BASE_URL=http://127.0.0.1:8080 SWEEPER__API__KEY=k sweeper run --until-empty";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct SandboxArgs {
    /// Where to answer; port 0 takes a free one and prints it.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
    /// The API key that is right; without it, any is.
    #[arg(long)]
    key: Option<String>,
    /// How long each answer takes.
    #[arg(long, value_name = "DURATION", default_value = "0ms", value_parser = duration)]
    latency: Duration,
    /// An agent, and how many entries it has (1 to COUNT); without any, every agent has every entry.
    #[arg(long = "agent", value_name = "AGENT=COUNT", value_parser = agent)]
    agents: Vec<(String, u64)>,
    /// An agent that the key may not touch: 403.
    #[arg(long, value_name = "AGENT")]
    forbidden: Vec<String>,
    /// The share of IDs answered as failed, drawn anew each time.
    #[arg(long, value_name = "0..1", default_value_t = 0.0, value_parser = ratio)]
    fail_ratio: f64,
    /// An ID that is always answered as failed.
    #[arg(long, value_name = "ID")]
    failing: Vec<String>,
    /// Answer 400 to a request with an ID that is not a number.
    #[arg(long)]
    numeric_ids: bool,
    /// An ID that spoils its request. Every request that contains the ID is answered HOW, and nothing in it is deleted.
    /// HOW is a status (500), a status with the seconds of a Retry-After (503+2), html (a 200 with HTML), long (a 200
    /// that is too long), hang or reset.
    #[arg(long, value_name = "ID=HOW", value_parser = poison)]
    poison: Vec<(String, Poison)>,
    /// Answer everything HOW, and delete nothing. HOW is a status (500), a status with the seconds of a Retry-After
    /// (503+2), failed (a 200 that lists every ID as failed), silent (a 200 with two empty lists), strangers (a 200 that
    /// lists IDs that were not sent), html (a 200 with HTML) or reset.
    #[arg(long, value_name = "HOW")]
    outage: Option<Outage>,
    /// What the 404 to a single-entry DELETE of a missing entry has as its body. HOW is envelope (the API's, about the
    /// entry), agent (the API's, about the agent), gateway, html or empty.
    #[arg(long, value_name = "HOW", default_value = "envelope")]
    missing: Missing,
    /// Answer 405 to every single-entry DELETE.
    #[arg(long)]
    refuse_singles: bool,
    /// The share of answers that wait up to 300 ms for the next answer and are exchanged with it, as a confused proxy
    /// does it.
    #[arg(long, value_name = "0..1", default_value_t = 0.0, value_parser = ratio)]
    swap_ratio: f64,
    /// The share of requests answered with 500.
    #[arg(long, value_name = "0..1", default_value_t = 0.0, value_parser = ratio)]
    error_ratio: f64,
    /// The share of connections cut, half of them after the deletion was done.
    #[arg(long, value_name = "0..1", default_value_t = 0.0, value_parser = ratio)]
    reset_ratio: f64,
    /// The share of requests that are done and then answered with something that is not JSON.
    #[arg(long, value_name = "0..1", default_value_t = 0.0, value_parser = ratio)]
    garbage_ratio: f64,
    /// Requests per second above which it answers 429.
    #[arg(long, value_name = "N")]
    rate_limit: Option<NonZeroU32>,
    /// What a 429 says in Retry-After: seconds or an HTTP date.
    #[arg(long, value_name = "TEXT")]
    retry_after: Option<String>,
    /// What its chances are drawn from: the same seed, the same draws.
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
}

fn ratio(text: &str) -> Result<f64, String> {
    text.parse().ok().filter(|ratio| (0.0..=1.0).contains(ratio)).ok_or_else(|| "must be from 0 to 1".to_owned())
}

fn agent(text: &str) -> Result<(String, u64), String> {
    let (agent, count) = text.rsplit_once('=').ok_or("must be AGENT=COUNT")?;
    Ok((agent.to_owned(), count.parse().map_err(|_| "must be AGENT=COUNT, with a number for COUNT")?))
}

fn poison(text: &str) -> Result<(String, Poison), String> {
    let (id, how) = text.rsplit_once('=').ok_or("must be ID=HOW")?;
    Ok((id.to_owned(), how.parse().map_err(|must| format!("HOW {must}"))?))
}

/// Answers until `shutdown` completes.
///
/// # Errors
/// If the address cannot be had.
pub(super) async fn stand_in(args: SandboxArgs, shutdown: impl Future<Output = ()>) -> Result<ExitCode, Failure> {
    let listen = args.listen;
    let options = Options {
        key: args.key,
        latency: args.latency,
        agents: args.agents,
        forbidden: args.forbidden,
        fail_ratio: args.fail_ratio,
        failing: args.failing,
        numeric_ids: args.numeric_ids,
        poison: args.poison,
        outage: args.outage,
        single_404: args.missing,
        refuse_singles: args.refuse_singles,
        swap_ratio: args.swap_ratio,
        error_ratio: args.error_ratio,
        reset_ratio: args.reset_ratio,
        garbage_ratio: args.garbage_ratio,
        rate_limit: args.rate_limit,
        retry_after: args.retry_after,
        seed: args.seed,
        record: false,
    };
    let sandbox = Sandbox::start(listen, options).await.with_context(|| format!("listen on {listen}"))?;
    say(&format!("the sandbox answers on {}", sandbox.url()))?;
    shutdown.await;
    Ok(ExitCode::SUCCESS)
}

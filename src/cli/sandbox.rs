//! `sweeper sandbox`: the stand-in for the API.

use std::{future::Future, net::SocketAddr, num::NonZeroU32, process::ExitCode, time::Duration};

use anyhow::Context as _;
use axum::http::{HeaderName, HeaderValue};
use clap::Args;

use super::{Failure, arguments::duration, terminal::say};
use crate::sandbox::{Limit, Missing, Options, Outage, Permission, Poison, RateHeaders, Sandbox};

const EXAMPLES: &str = "\
Examples:
  sweeper sandbox --listen 127.0.0.1:8080 --key k --agent BAKERY=600 --latency 60ms --fail-ratio 0.05
  sweeper sandbox --key k --poison 666=500 --poison 13=hang --missing gateway
  sweeper sandbox --limit 5/1s --limit 100/1m --rate-headers kong
  SWEEPER__API__BASE_URL=http://127.0.0.1:8080 SWEEPER__API__KEY=k sweeper run --until-empty";

/// Where it answers, and which faults it has.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct SandboxArgs {
    /// Address to answer on. Port 0 takes a free port; the address is printed.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
    /// Accept only this API key. Without this option, any key is accepted.
    #[arg(long)]
    key: Option<String>,
    /// Time that each answer takes.
    #[arg(long, value_name = "DURATION", default_value = "0ms", value_parser = duration)]
    latency: Duration,
    /// An agent with the entries 1 to COUNT. Without this option, every agent has every entry.
    #[arg(long = "agent", value_name = "AGENT=COUNT", value_parser = agent)]
    agents: Vec<(String, u64)>,
    /// What the key may do: all, read (list) or write (delete). Anything else is answered with 403.
    #[arg(long, value_name = "WHAT", default_value = "all")]
    permission: Permission,
    /// An agent that is answered with 403.
    #[arg(long, value_name = "AGENT")]
    forbidden: Vec<String>,
    /// Share of IDs answered as failed, drawn anew for each request.
    #[arg(long, value_name = "0..1", default_value_t = 0.0, value_parser = ratio)]
    fail_ratio: f64,
    /// An ID that is always answered as failed.
    #[arg(long, value_name = "ID")]
    failing: Vec<String>,
    /// An ID that is answered as deleted, and stays in the cache.
    #[arg(long, value_name = "ID")]
    keeping: Vec<String>,
    /// List entries in the order of their hits, whatever order is asked for.
    #[arg(long)]
    ignore_sort: bool,
    /// Answer 400 to a request that contains an ID that is not a number.
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
    /// Body of the 404 to a single-entry DELETE of a missing entry. HOW is envelope (the API's, about the entry), agent
    /// (the API's, about the agent), gateway, html or empty.
    #[arg(long, value_name = "HOW", default_value = "envelope")]
    missing: Missing,
    /// Answer 405 to every single-entry DELETE.
    #[arg(long)]
    refuse_singles: bool,
    /// Share of answers that wait up to 300 ms for the next answer and are swapped with it, as a confused proxy would.
    #[arg(long, value_name = "0..1", default_value_t = 0.0, value_parser = ratio)]
    swap_ratio: f64,
    /// Share of requests answered with 500.
    #[arg(long, value_name = "0..1", default_value_t = 0.0, value_parser = ratio)]
    error_ratio: f64,
    /// Share of connections that are cut, half of them after the deletion was done.
    #[arg(long, value_name = "0..1", default_value_t = 0.0, value_parser = ratio)]
    reset_ratio: f64,
    /// Share of requests that are carried out, and then answered with something that is not JSON.
    #[arg(long, value_name = "0..1", default_value_t = 0.0, value_parser = ratio)]
    garbage_ratio: f64,
    /// Allow N requests per second, and answer 429 to more.
    #[arg(long, value_name = "N")]
    rate_limit: Option<NonZeroU32>,
    /// Allow N requests in each window of TIME (600/60s), counted from the start, and answer 429 to more. Several limits
    /// apply together.
    #[arg(long = "limit", value_name = "N/TIME")]
    limits: Vec<Limit>,
    /// Tell each --limit in the headers of every answer. HOW is ietf (RateLimit and RateLimit-Policy of the present
    /// draft), ietf-07 (of draft 07), ratelimit (RateLimit-Limit, -Remaining and -Reset), x-ratelimit (the same with X-,
    /// without the lengths) or kong (X-RateLimit-Limit-Minute and the like).
    #[arg(long, value_name = "HOW", requires = "limits")]
    rate_headers: Option<RateHeaders>,
    /// A header that every answer has.
    #[arg(long = "header", value_name = "NAME: VALUE", value_parser = header)]
    headers: Vec<(HeaderName, HeaderValue)>,
    /// Retry-After of a 429: seconds or an HTTP date.
    #[arg(long, value_name = "TEXT")]
    retry_after: Option<String>,
    /// Seed of the random draws. The same seed draws the same.
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

fn header(text: &str) -> Result<(HeaderName, HeaderValue), String> {
    let (name, value) = text.split_once(':').ok_or("must be NAME: VALUE")?;
    let name = name.trim().parse().map_err(|_| "must be NAME: VALUE, and NAME is no name of a header")?;
    Ok((
        name,
        value.trim().parse().map_err(|_| "must be NAME: VALUE, and VALUE has characters that no header can have")?,
    ))
}

fn poison(text: &str) -> Result<(String, Poison), String> {
    let (id, how) = text.rsplit_once('=').ok_or("must be ID=HOW")?;
    Ok((id.to_owned(), how.parse().map_err(|must| format!("HOW {must}"))?))
}

/// Answers until `shutdown` completes.
///
/// # Errors
/// If the address cannot be bound.
pub(super) async fn sandbox(args: SandboxArgs, shutdown: impl Future<Output = ()>) -> Result<ExitCode, Failure> {
    let listen = args.listen;
    let options = Options {
        key: args.key,
        latency: args.latency,
        agents: args.agents,
        permission: args.permission,
        forbidden: args.forbidden,
        fail_ratio: args.fail_ratio,
        failing: args.failing,
        keeping: args.keeping,
        ignore_sort: args.ignore_sort,
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
        limits: args.limits,
        rate_headers: args.rate_headers,
        headers: args.headers,
        retry_after: args.retry_after,
        seed: args.seed,
        record: false,
    };
    let sandbox = Sandbox::start(listen, options).await.with_context(|| format!("listen on {listen}"))?;
    say(&format!("the sandbox answers on {}", sandbox.url()))?;
    shutdown.await;
    Ok(ExitCode::SUCCESS)
}

//! `enqueue --from-cache`: what an agent's remote cache contains.

use std::{pin::pin, process::ExitCode};

use anyhow::Context as _;

use super::{
    EnqueueArgs, already,
    sink::{CHUNK, Sink},
};
use crate::{
    cli::{
        Failure,
        input::Defaults,
        listing::{Found, Lister},
        rng,
        signals::{Signal, stopped},
        terminal::{ask_aside, progress, say, warn_person, will_ask},
        times::{plural, show_count, show_text, show_time},
    },
    config::Config,
    model::deletion::AgentId,
};

/// Lists the cache, shows what would be deleted, asks, and enqueues it.
///
/// # Errors
/// If the cache cannot be listed, nobody can be asked, or the database cannot be used.
pub(super) async fn from_cache(
    args: &EnqueueArgs,
    config: &Config,
    defaults: Defaults,
    sink: &mut Sink<'_>,
) -> Result<ExitCode, Failure> {
    let agent = defaults.agent.clone().context("--from-cache goes with --agent")?;
    let is_asked = !args.yes && !args.dry_run;
    if is_asked {
        will_ask()?;
    }
    let mut stop = pin!(stopped()?);
    let progress = progress(None);
    let mut lister = Lister::new(config, agent.clone(), sink.clock.clone(), rng())?;
    let listed = tokio::select! {
        biased;
        signal = &mut stop => Err(signal),
        listed = lister.list(&args.filter, &progress) => Ok(listed),
    };
    progress.finish_and_clear();
    let found = match listed {
        Ok(listed) => listed?,
        Err(signal) => return Ok(nothing_done(signal, "before the cache was listed to its end")),
    };
    show_found(&agent, &found)?;
    let count = found.ids.len() as u64;
    let cut_short = |code| found.cut_short.map_or(Ok(code), |error| Err(error.into()));
    if count == 0 {
        return cut_short(ExitCode::SUCCESS);
    }
    if is_asked {
        let question = format!("Enqueue these {} deletions? They cannot be undone.", show_count(count));
        let answer = tokio::select! {
            biased;
            signal = &mut stop => return Ok(nothing_done(signal, "before there was an answer")),
            answer = ask_aside(question) => answer?,
        };
        if !answer {
            say("nothing was enqueued")?;
            return Ok(ExitCode::from(1));
        }
    }
    for ids in found.ids.chunks(CHUNK) {
        if let Some(signal) = already(stop.as_mut()).await {
            sink.tell(0);
            let (by, left) = (signal.name(), show_count(count - sink.taken));
            warn_person(&format!("sweeper: stopped by {by} before the last {left} were enqueued: run it again"));
            return Ok(signal.exit_code());
        }
        for entry in ids {
            sink.put(defaults.wish(agent.clone(), entry.clone()));
        }
        if let Err(failure) = sink.flush().await {
            sink.tell(0);
            return Err(failure);
        }
    }
    cut_short(sink.finish(0))
}

fn nothing_done(signal: Signal, when: &str) -> ExitCode {
    warn_person(&format!("sweeper: stopped by {} {when}; nothing was enqueued", signal.name()));
    signal.exit_code()
}

/// Prints what would be deleted, and what the listing left out.
fn show_found(agent: &AgentId, found: &Found) -> Result<(), Failure> {
    let count = found.ids.len() as u64;
    let mut text = format!("{} of {} entries in the cache of {agent}", show_count(count), show_count(found.listed));
    for entry in &found.sample {
        let cached_at = entry.cached_at.map_or_else(|| "at an unknown time".to_owned(), show_time);
        let hits = entry.hit_count.map_or_else(|| "?".to_owned(), |hits| hits.to_string());
        let transcript = show_text(entry.transcript.as_deref().unwrap_or("?"), 60);
        text.push_str(&format!("\n  {}  cached {cached_at}, {hits} hits  {transcript}", entry.id.as_str()));
    }
    let more = count - found.sample.len() as u64;
    if more > 0 {
        text.push_str(&format!("\n  … and {} more", show_count(more)));
    }
    say(&text)?;
    if found.unknown > 0 {
        let entries = plural(found.unknown, "entry stays", "entries stay");
        warn_person(&format!("{entries}: the API does not say what a filter needs to know"));
    }
    if found.unusable > 0 {
        let entries = plural(found.unusable, "entry stays", "entries stay");
        warn_person(&format!("{entries}: no ID that could be enqueued"));
    }
    if found.cut_short.is_some() {
        warn_person("the cache was not listed to its end; entries behind the last page are missing");
    }
    if !found.doubts.is_empty() {
        let doubts = found.doubts.join("; ");
        warn_person(&format!(
            "{doubts}: pages shift while entries come and go, so some entries may be missing; run it again later"
        ));
    }
    Ok(())
}

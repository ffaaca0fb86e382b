//! `sweeper verify`: compares the settled rows of an agent with its remote cache.

mod guard;
mod page;
mod rows;

use std::{
    future::Future,
    pin::{Pin, pin},
    process::ExitCode,
};

use clap::Args;
use indicatif::ProgressBar;

use super::{
    Failure,
    arguments::{agent_id, label},
    listing::WholeLister,
    names::unknown,
    operator::{As, Login},
    rng,
    signals::{Signal, already, stopped},
    steps::Steps,
    terminal::{ask_aside, progress, report, say, warn_person, will_ask},
    times::{Moment, plural, show_count, show_time},
};
use crate::{
    config::Config,
    model::{
        act::{ActKind, Draft},
        clock::Clock,
        deletion::AgentId,
        label::Label,
        outcome::Scope,
    },
    queue::{SettledRow, either::Producer},
};
use guard::{Guard, quiet, sent_meanwhile};
use page::{Outcome, Page};
use rows::{Chosen, Compared, OfLabel};

/// Tries before giving up. A try is one listing, or two that have to agree.
const LISTINGS: usize = 3;

const EXAMPLES: &str = "\
Examples:
  sweeper verify --agent PROJECT-58RP822I
  sweeper verify --agent PROJECT-58RP822I --label ERASURE-17 --json
  sweeper verify --agent PROJECT-58RP822I --since 7d --dry-run
  sweeper verify --agent PROJECT-58RP822I --requeue

It lists the agent's remote cache to its end, at the daemon's rate and with its key. Meanwhile the agent is held: requests in \
flight are waited for, and no other is sent. The hold (verify) is lifted at the end; if the command is killed, it ends within \
three minutes. It takes no other hold's place, and lifts none. A listing counts only if the cache did not change: that is tried \
three times, and then nothing is written. If the API does not list by ID, each try is two listings, which have to agree.

What is not listed is written to the rows as verified_at, which show, status and list --json tell. Dead rows stay dead. Rows that \
were settled or reopened meanwhile are left out.

Exit codes: 0 each settled row was compared, and no deleted or absent one is in the cache; 1 some are, a row could not be \
compared, there was no row to compare, the cache changed or could not be listed, requests stay without an answer, or another verify is under way; \
2 usage or configuration; 3 database unusable; 129, 130 and 143 stopped by SIGHUP, \
SIGINT (Ctrl-C) or SIGTERM.";

/// Which rows to compare with the cache, and what to do then.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct VerifyArgs {
    /// The agent whose cache is listed.
    #[arg(long, value_name = "AGENT", value_parser = agent_id)]
    agent: AgentId,
    /// Only rows that a wish with this label is for.
    #[arg(long, value_name = "LABEL", value_parser = label)]
    label: Option<Label>,
    /// Only rows that were settled at this time or later, or not longer ago than this (such as 7d).
    #[arg(long, value_name = "TIME", value_parser = Moment::parse)]
    since: Option<Moment>,
    /// Reopen the deleted and absent rows whose entries are still in the cache, with their wishes: they are sent again. Asks first.
    #[arg(long)]
    requeue: bool,
    /// List and compare, and write nothing to the rows.
    #[arg(long)]
    dry_run: bool,
    /// With --requeue: do not ask.
    #[arg(long, requires = "requeue")]
    yes: bool,
    /// Print one JSON object on one line, with every row that is still in the cache. docs/proof.md describes it.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    whose: As,
}

impl VerifyArgs {
    fn asks(&self) -> bool {
        self.requeue && !self.yes && !self.dry_run
    }

    /// An act on the agent. `what`: the rows.
    fn act(&self, kind: ActKind, what: &str, login: &Login) -> Draft {
        let label = self.label.as_ref().map_or_else(String::new, |label| format!(", label: {label}"));
        login.act(&self.whose, kind, Some(Scope::Agent(self.agent.clone())), Some(&format!("{what}{label}")))
    }
}

/// Why a verify has not come to its end.
enum Cut {
    /// A signal, and the number of rows that were written before.
    Stopped(Signal, u64),
    /// For each try, the reason why it does not count.
    Shifted(Vec<String>),
    Failed(Failure),
}

impl<E: Into<Failure>> From<E> for Cut {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

/// What the parts of the command need.
struct Verify<'a> {
    args: &'a VerifyArgs,
    chosen: Chosen,
    config: &'a Config,
    clock: Clock,
    login: &'a Login,
}

/// Lists, compares, writes what was verified, and reopens what is still there.
///
/// # Errors
/// If nobody can be asked, the cache cannot be listed, or the database cannot be used.
pub(super) async fn verify(
    args: VerifyArgs,
    config: &Config,
    clock: Clock,
    login: &Login,
) -> Result<ExitCode, Failure> {
    if args.asks() {
        will_ask()?;
    }
    let lister = WholeLister::new(config, args.agent.clone(), clock.clone(), rng())?;
    let since = args.since.map(|moment| moment.before(clock.now()));
    let chosen = Chosen { agent: args.agent.clone(), label: args.label.clone(), since };
    let stop = pin!(stopped()?);
    let mut producer = Producer::join(&config.store).await?;
    let verify = Verify { args: &args, chosen, config, clock, login };
    let done = verify.all(lister, &mut producer, stop).await;
    // Everything is committed. A WAL that could not be copied stays beside the file.
    let _ = producer.close().await;
    done
}

impl Verify<'_> {
    async fn all(
        &self,
        lister: WholeLister,
        producer: &mut Producer,
        mut stop: Pin<&mut impl Future<Output = Signal>>,
    ) -> Result<ExitCode, Failure> {
        let of_label = self.chosen.of_label(self.config).await?;
        if !self.chosen.any(of_label.as_ref(), self.config).await? {
            return self.nothing(of_label.as_ref(), producer).await;
        }
        let rows = match self.chosen.since {
            Some(since) => format!("rows settled since {}", show_time(since)),
            None => "settled rows".to_owned(),
        };
        let act = self.args.act(ActKind::Verify, &rows, self.login);
        let mut guard = Guard::place(producer, &self.args.agent, &act.operator, &self.clock).await?;
        let done = self.held(&mut guard, lister, of_label.as_ref(), producer, act, stop.as_mut()).await;
        // On every way out, and before anybody is asked anything.
        guard.lift(producer).await;
        let page = Page::new(self.args, self.config);
        let (compared, written) = match done {
            Ok(done) => done,
            Err(Cut::Failed(failure)) => return Err(failure),
            Err(Cut::Stopped(signal, written)) => return Ok(self.stopped(signal, written)),
            Err(Cut::Shifted(reasons)) => {
                page.shifted(&reasons)?;
                return Ok(ExitCode::from(1));
            }
        };
        let outcome = self.outcome(of_label.as_ref(), written, producer).await?;
        page.compared(&compared, &outcome)?;
        let (requeued, stopped) = if self.args.requeue && !compared.still.is_empty() {
            self.requeue(&compared, producer, stop).await?
        } else {
            (None, None)
        };
        page.end(&compared, &outcome, requeued)?;
        Ok(match stopped {
            Some(signal) => {
                warn_person(&format!(
                    "sweeper: stopped by {} before all of them were reopened: run it again",
                    signal.name()
                ));
                signal.exit_code()
            }
            None => ExitCode::from(u8::from(!compared.is_clean())),
        })
    }

    async fn outcome(
        &self,
        of_label: Option<&OfLabel>,
        written: u64,
        producer: &mut Producer,
    ) -> Result<Outcome, Failure> {
        let pending = match of_label {
            Some(found) => found.pending,
            None => producer.concerned(&Scope::Agent(self.args.agent.clone())).await?.pending,
        };
        Ok(Outcome { pending, pruned: of_label.map_or(0, |found| found.pruned), written })
    }

    /// There is no row to compare, so nothing is shown to be gone.
    async fn nothing(&self, of_label: Option<&OfLabel>, producer: &mut Producer) -> Result<ExitCode, Failure> {
        match unknown(Some(&self.args.agent), self.args.label.as_ref(), self.config).await? {
            Some(said) => warn_person(&said),
            None => {
                let outcome = self.outcome(of_label, 0, producer).await?;
                Page::new(self.args, self.config).nothing(&outcome)?;
            }
        }
        Ok(ExitCode::from(1))
    }

    /// All that is done while the agent is held. Returns the comparison, and the number of rows written.
    async fn held(
        &self,
        guard: &mut Guard,
        mut lister: WholeLister,
        of_label: Option<&OfLabel>,
        producer: &mut Producer,
        act: Draft,
        mut stop: Pin<&mut impl Future<Output = Signal>>,
    ) -> Result<(Compared, u64), Cut> {
        let progress = progress(None);
        let done = guard.during(self.compare(&mut lister, of_label, &progress), producer, stop.as_mut()).await;
        progress.finish_and_clear();
        let mut compared = match done? {
            Ok(Ok(compared)) => compared,
            Ok(Err(reasons)) => return Err(Cut::Shifted(reasons)),
            Err(signal) => return Err(Cut::Stopped(signal, 0)),
        };
        guard.renew(producer).await?;
        if self.args.dry_run {
            return Ok((compared, 0));
        }
        let written = self.write(&mut compared, guard, producer, act, stop).await?;
        Ok((compared, written))
    }

    /// Tries until a listing counts, and compares the rows with it. The inner error has the reason for each try that does not count.
    async fn compare(
        &self,
        lister: &mut WholeLister,
        of_label: Option<&OfLabel>,
        progress: &ProgressBar,
    ) -> Result<Result<Compared, Vec<String>>, Failure> {
        let mut reasons = Vec::new();
        loop {
            match self.once(lister, of_label, progress).await? {
                Ok(compared) => return Ok(Ok(compared)),
                Err(reason) => reasons.push(reason),
            }
            if reasons.len() >= LISTINGS {
                return Ok(Err(reasons));
            }
            let reason = reasons.last().map_or("", String::as_str);
            progress.suspend(|| warn_person(&format!("{reason}; listing again")));
            lister.pause(u32::try_from(reasons.len()).unwrap_or(u32::MAX)).await;
        }
    }

    async fn once(
        &self,
        lister: &mut WholeLister,
        of_label: Option<&OfLabel>,
        progress: &ProgressBar,
    ) -> Result<Result<Compared, String>, Failure> {
        let (agent, config) = (&self.args.agent, self.config);
        let last = quiet(agent, config, &self.clock, progress).await?;
        let before = self.chosen.before(of_label, config).await?;
        let whole = match lister.whole(progress).await? {
            Ok(whole) => whole,
            Err(reason) => return Ok(Err(reason)),
        };
        let compared = self.chosen.compare(&whole, &before, of_label, config).await?;
        Ok(sent_meanwhile(agent, last, config).await?.map_or(Ok(compared), Err))
    }

    /// Writes what was verified. Returns the number of rows.
    async fn write(
        &self,
        compared: &mut Compared,
        guard: &mut Guard,
        producer: &mut Producer,
        act: Draft,
        mut stop: Pin<&mut impl Future<Output = Signal>>,
    ) -> Result<u64, Cut> {
        let (verified, contradicted) = (compared.verified(), compared.contradicted());
        producer.begin_act(act, 1);
        let mut written = 0;
        for (rows, at) in [(&verified, Some(compared.began)), (&contradicted, None)] {
            let mut steps = Steps::new(producer, self.clock.clone());
            while let Some(chunk) = steps.next(rows).await {
                if let Some(signal) = already(stop.as_mut()).await {
                    return Err(Cut::Stopped(signal, written));
                }
                guard.renew_if_due(steps.producer).await?;
                let now = steps.clock.now();
                steps.done += steps.producer.mark_verified(chunk, at, now).await?;
                written = if at.is_some() { steps.done } else { written };
            }
        }
        producer.end_act(self.clock.now()).await?;
        compared.changed += (verified.len() as u64).saturating_sub(written);
        Ok(written)
    }

    /// Asks, and reopens the rows that are still in the cache. Returns their number, which is `None` if nothing was to be reopened, and
    /// the signal that stopped it.
    async fn requeue(
        &self,
        compared: &Compared,
        producer: &mut Producer,
        mut stop: Pin<&mut impl Future<Output = Signal>>,
    ) -> Result<(Option<u64>, Option<Signal>), Failure> {
        let rows: Vec<SettledRow> = compared.still.iter().map(|still| still.row).collect();
        if self.args.dry_run {
            return Ok((None, None));
        }
        let count = plural(rows.len() as u64, "row", "rows");
        if self.args.asks() {
            let question = format!("Reopen {count}? The daemon then deletes the entries again.");
            let answer = tokio::select! {
                biased;
                signal = stop.as_mut() => return Ok((Some(0), Some(signal))),
                answer = ask_aside(question) => answer?,
            };
            if !answer {
                return Ok((Some(0), None));
            }
        }
        producer.begin_act(self.args.act(ActKind::Retry, "settled rows whose entries verify has found", self.login), 1);
        let mut steps = Steps::new(producer, self.clock.clone());
        let mut stopped = None;
        while let Some(chunk) = steps.next(&rows).await {
            stopped = already(stop.as_mut()).await;
            if stopped.is_some() {
                break;
            }
            let now = steps.clock.now();
            steps.done += steps.producer.reopen(chunk, now).await?;
        }
        let (done, now) = (steps.done, steps.clock.now());
        steps.producer.end_act(now).await?;
        let ids: Vec<_> = rows.iter().map(|row| row.id).collect();
        // The rows are reopened, and a remark that cannot be made does not undo that.
        if let Ok(held @ 1..) = producer.held(&ids, now).await {
            let rows = plural(held, "of these rows waits", "of these rows wait");
            warn_person(&format!("{rows} for a hold: `sweeper status` lists the holds, `sweeper release` lifts them"));
        }
        Ok((Some(done), stopped))
    }

    fn stopped(&self, signal: Signal, written: u64) -> ExitCode {
        let (by, agent) = (signal.name(), &self.args.agent);
        let what = match written {
            0 => format!("before the cache of {agent} was listed and compared; nothing was written"),
            some => format!("after {} were written: run it again", plural(some, "row", "rows")),
        };
        warn_person(&format!("sweeper: stopped by {by} {what}"));
        signal.exit_code()
    }
}

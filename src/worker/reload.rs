//! New settings for a worker that runs.

use std::future::pending;

use tokio::sync::mpsc::UnboundedReceiver;
use tracing::{Level, enabled, info};

use super::{Settings, Worker, recovery::sent_lately, schedule::in_effect};
use crate::{
    api::{
        Transport,
        key::{Key, KeySource},
    },
    event,
    model::{backoff::Backoff, remedy::Names},
    pace::{self, RateLimit},
    queue::{Queue, Tx as _},
    watch::telemetry::NewFilter,
};

/// The settings that a worker takes over while it runs.
#[derive(Clone, Debug)]
pub struct Tunables {
    /// The settings of the worker.
    pub settings: Settings,
    /// The highest rate of requests.
    pub rate: RateLimit,
    /// Whether the rate adapts to the API's limit.
    pub adaptive: bool,
    /// The lengths of a hold that grows.
    pub hold_growth: Backoff,
    /// The settings that remedies name.
    pub names: Names,
    /// The log's filter; `None`: the present one stays.
    pub filter: Option<NewFilter>,
    /// The key, and where it was read from; `None`: the present one stays.
    pub key: Option<(KeySource, Key)>,
    /// The changes, for the log: `delivery.linger: 500ms -> 1s`.
    pub changes: Vec<String>,
}

/// The result of reading the configuration again.
#[derive(Clone, Debug)]
pub enum Reload {
    /// It can be used.
    Take(Box<Tunables>),
    /// It cannot be used, which was logged. Nothing changes.
    Refused,
}

impl<Q: Queue, T: Transport> Worker<Q, T> {
    /// Sets where [`Worker::run`] gets new settings from. It takes them over between two turns.
    #[must_use]
    pub fn reloaded_by(self, reloads: UnboundedReceiver<Reload>) -> Self {
        Self { reloads: Some(reloads), ..self }
    }

    /// Takes over new settings. Call this between turns; calls in flight are not touched.
    ///
    /// # Errors
    /// If the database fails. The settings are in effect all the same.
    pub async fn reload(&mut self, tunables: Tunables) -> Result<(), Q::Error> {
        let Tunables { settings, rate, adaptive, hold_growth, names, filter, key, mut changes } = tunables;
        let (now, elapsed) = (self.clock.now(), self.clock.elapsed());
        let lately = sent_lately(&mut self.queue, rate, now).await;
        let growth = hold_growth;
        let limits = pace::Settings { rate, is_adaptive: adaptive, concurrency: settings.concurrency, growth };
        self.schedule.pace.retune(limits, lately.as_deref().ok(), elapsed);
        self.schedule.hold_log.rename(names);
        (self.settings, self.schedule.settings) = (settings, settings);
        self.ledger.evidence.set_limits(settings.after_faults, settings.longest_hold);
        if let Some((source, key)) = key
            && self.calls.use_key(source, key)
        {
            changes.push("the API key (not shown)".to_owned());
        }
        // The key or a permission may be right now, as after a restart.
        self.ledger.hold_changes.extend(self.schedule.pace.holds.probe_soon(now));
        // Lanes wait for times that the old linger gave.
        self.view.lanes_stale = true;
        self.view.next_listing = elapsed;
        let changes = if changes.is_empty() { "none".to_owned() } else { changes.join(", ") };
        let tell = || info!(event = event::RELOADED, changes, "the configuration was read again");
        let apply = || filter.iter().for_each(NewFilter::apply);
        // The stricter of the two filters may hide the line.
        if enabled!(Level::INFO) {
            tell();
            apply();
        } else {
            apply();
            tell();
        }
        self.tell_settings().await?;
        lately.map(drop)
    }

    /// Writes the settings in effect to the daemon's row in the database, where `status` reads them.
    async fn tell_settings(&mut self) -> Result<(), Q::Error> {
        let in_effect = in_effect(&self.schedule.pace, &self.schedule.settings);
        self.queue.begin().await?.commit(&[], Some(&in_effect), self.clock.now()).await?;
        self.chores.told = in_effect;
        Ok(())
    }

    /// Handles a message of [`Worker::reloaded_by`], and tells the service manager.
    ///
    /// # Errors
    /// As [`Worker::reload`].
    pub(super) async fn take(&mut self, reload: Reload) -> Result<(), Q::Error> {
        self.supervisor.reloading();
        let done = match reload {
            Reload::Take(tunables) => self.reload(*tunables).await,
            Reload::Refused => Ok(()),
        };
        self.supervisor.reloaded();
        done
    }
}

/// The next message; never, if none can come any more.
pub(super) async fn next(reloads: &mut Option<UnboundedReceiver<Reload>>) -> Reload {
    match reloads {
        Some(open) => match open.recv().await {
            Some(reload) => reload,
            None => pending().await,
        },
        None => pending().await,
    }
}

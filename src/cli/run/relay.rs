//! Hands new settings to the worker that runs, and keeps them for the next one.

use std::{convert::Infallible, future::pending};

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};
use tracing::info;

use crate::{
    event,
    watch::{supervisor::Supervisor, telemetry::NewFilter},
    worker::{Reload, Tunables},
};

/// The way from SIGHUP to the worker.
pub(super) struct Relay {
    reloads: UnboundedReceiver<Reload>,
    /// The last settings that were read. A worker is made with those of the start.
    last: Option<Box<Tunables>>,
}

impl Relay {
    pub(super) fn new(reloads: UnboundedReceiver<Reload>) -> Self {
        Self { reloads, last: None }
    }

    /// Hands settings to a worker, at first those that were read before it was made.
    pub(super) async fn forward(&mut self, worker: &UnboundedSender<Reload>) -> Infallible {
        // The worker is gone only when the daemon ends, or stands by.
        if let Some(last) = &self.last {
            let _ = worker.send(Reload::Take(last.clone()));
        }
        loop {
            let Some(reload) = self.reloads.recv().await else { return pending().await };
            if let Reload::Take(tunables) = &reload {
                // They are told once.
                self.last = Some(Box::new(Tunables { changes: Vec::new(), ..(**tunables).clone() }));
            }
            let _ = worker.send(reload);
        }
    }

    /// Keeps settings for the next worker, while there is none. The log's filter is in effect at once.
    pub(super) async fn keep(&mut self, supervisor: &mut Supervisor) -> Infallible {
        loop {
            let Some(reload) = self.reloads.recv().await else { return pending().await };
            supervisor.reloading();
            if let Reload::Take(tunables) = reload {
                tunables.filter.iter().for_each(NewFilter::apply);
                let changes = if tunables.changes.is_empty() { "none".to_owned() } else { tunables.changes.join(", ") };
                info!(event = event::RELOADED, changes, "the configuration was read again");
                // They are told once.
                self.last = Some(Box::new(Tunables { changes: Vec::new(), ..*tunables }));
            }
            supervisor.reloaded();
        }
    }
}

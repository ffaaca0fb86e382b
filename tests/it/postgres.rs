//! What only PostgreSQL's queues have: the inbox, the leader's session, the plans of statements, and rights. What every engine must do
//! is in `suite`.

mod changes;
mod check;
pub mod commands;
mod connecting;
mod doubts;
mod enqueue;
mod failover;
mod grants;
mod hold;
mod inbox;
mod labels;
mod locks;
mod meanwhile;
mod own;
mod plans;
mod proxy;
mod pruning;
mod retry;
mod rights;
mod same_pages;
mod schema;
mod sessions;
mod status;
mod tables;
mod trust;

use crate::{cluster::cluster, engines::postgres::Postgres, suite::seam::Seam};

/// An open queue, with its producers and operators; `None` without a server, which was said then.
async fn scene() -> Option<Seam<Postgres>> {
    match cluster() {
        Some(_) => Some(Seam::new().await),
        None => None,
    }
}

//! The databases of the tests: each is made once, and emptied for the next test.

use std::sync::{Mutex, PoisonError};

use audio_cache_sweeper::{
    model::clock::Clock,
    queue::postgres::{Address, Candidate, Options},
};
use sqlx::{Connection as _, PgConnection};
use tokio::sync::OnceCell;

use super::LEASE;
use crate::cluster::{Cluster, OWNER, cluster};

/// Those that no test uses now.
static FREE: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// The database that the others are copies of, with our tables.
static TEMPLATE: OnceCell<String> = OnceCell::const_new();

/// Ends the other sessions in this database, and counts those that are still there.
const ALONE: &str = "
SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()";

const EMPTY: &str = "
SET sweeper.leads = 'on'; -- nobody is to be told of this
TRUNCATE deletions, requests, holds, wishes, acts, daemon, edits RESTART IDENTITY;
UPDATE leadership SET epoch = 0, last_request = 0;
RESET sweeper.leads";

/// A database with our tables, for one test. It is free again when this is dropped.
#[derive(Debug)]
pub struct Database {
    name: String,
}

impl Drop for Database {
    fn drop(&mut self) {
        FREE.lock().unwrap_or_else(PoisonError::into_inner).push(std::mem::take(&mut self.name));
    }
}

impl Database {
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where it is.
    pub fn url(&self) -> String {
        url(&self.name)
    }

    /// Connects, as the owner of the tables.
    pub async fn connect(&self) -> PgConnection {
        connect(&self.name).await
    }
}

fn server() -> &'static Cluster {
    cluster().unwrap()
}

fn url(name: &str) -> String {
    server().url(OWNER, name)
}

async fn connect(name: &str) -> PgConnection {
    let mut conn = server().connect(OWNER, name).await;
    sqlx::raw_sql("SET search_path = sweeper").execute(&mut conn).await.unwrap();
    conn
}

/// An empty database, and a connection to it.
pub async fn take() -> (Database, PgConnection) {
    let free = FREE.lock().unwrap_or_else(PoisonError::into_inner).pop();
    let Some(name) = free else {
        let template = TEMPLATE.get_or_init(template).await;
        let database = Database { name: server().make_database(template).await };
        let conn = database.connect().await;
        return (database, conn);
    };
    let database = Database { name };
    // A session that was cut off may be in the middle of a statement, and may be of any role.
    let mut admin = server().connect("postgres", database.name()).await;
    while sqlx::query_scalar::<_, i64>(ALONE).fetch_one(&mut admin).await.unwrap() > 0 {
        tokio::task::yield_now().await;
    }
    admin.close().await.unwrap();
    let mut conn = database.connect().await;
    sqlx::raw_sql(EMPTY).execute(&mut conn).await.unwrap();
    (database, conn)
}

async fn template() -> String {
    let name = server().make_database("template1").await;
    let address = Address::parse(&[&url(&name)]).unwrap();
    let options = Options {
        address,
        busy_timeout: std::time::Duration::ZERO,
        lease: LEASE,
        request_timeout: std::time::Duration::ZERO,
    };
    // Nobody has led there.
    Candidate::make(options, &Clock::system()).await.unwrap();
    // A database in which somebody is cannot be copied.
    let mut conn = server().connect("postgres", "postgres").await;
    let others = "SELECT count(*) FROM pg_stat_activity WHERE datname = $1";
    while sqlx::query_scalar::<_, i64>(others).bind(&name).fetch_one(&mut conn).await.unwrap() > 0 {
        tokio::task::yield_now().await;
    }
    conn.close().await.unwrap();
    name
}

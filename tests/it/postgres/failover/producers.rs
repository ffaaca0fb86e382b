//! Producers that insert all the time, on connections of their own, some of the same entries.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use sqlx::{AssertSqlSafe, PgConnection};
use tokio::{task::JoinSet, time::sleep};

use super::place::Place;

/// An agent and an entry.
pub type Key = (String, String);

const CONNECTIONS: u64 = 8;
const AGENTS: u32 = 3;
/// Entries that are asked for more than once overlap.
const ENTRIES: u32 = 1_500;

/// The producers. They end when this is dropped.
#[derive(Debug)]
pub struct Producers {
    /// What was inserted for certain.
    inserted: Arc<Mutex<BTreeSet<Key>>>,
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Producers {
    pub fn start(place: &Place, seed: u64) -> Self {
        let (inserted, is_over) = (Arc::<Mutex<BTreeSet<Key>>>::default(), Arc::<AtomicBool>::default());
        let (place, keys, over) = (place.clone(), Arc::clone(&inserted), Arc::clone(&is_over));
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let mut all = JoinSet::new();
                for producer in 0..CONNECTIONS {
                    let rng = fastrand::Rng::with_seed(seed ^ (producer << 32));
                    all.spawn(produce(place.clone(), rng, Arc::clone(&keys), Arc::clone(&over)));
                }
                all.join_all().await;
            });
        });
        Self { inserted, is_over, thread: Some(thread) }
    }

    /// Ends them: what they have inserted.
    pub fn stop(mut self) -> BTreeSet<Key> {
        self.end();
        std::mem::take(&mut self.inserted.lock().unwrap())
    }

    fn end(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Producers {
    fn drop(&mut self) {
        self.end();
    }
}

async fn produce(place: Place, mut rng: fastrand::Rng, keys: Arc<Mutex<BTreeSet<Key>>>, over: Arc<AtomicBool>) {
    let is_over = || over.load(Ordering::Relaxed);
    while !is_over() {
        if let Some(mut conn) = place.try_connect().await {
            // An error ends the connection, and nobody knows what became of its rows.
            while !is_over()
                && let Some(rows) = insert(&mut conn, &mut rng).await
            {
                keys.lock().unwrap().extend(rows);
                // In bursts, so that the limiter of the daemon fills up in between.
                sleep(Duration::from_millis(rng.u64(20..600))).await;
            }
        }
        sleep(Duration::from_millis(20)).await;
    }
}

/// Some rows of one agent, if they are in.
async fn insert(conn: &mut PgConnection, rng: &mut fastrand::Rng) -> Option<Vec<Key>> {
    let agent = format!("a{}", rng.u32(0..AGENTS));
    let entries: BTreeSet<u32> = (0..rng.usize(1..25)).map(|_| rng.u32(0..ENTRIES)).collect();
    let keys: Vec<Key> = entries.iter().map(|entry| (agent.clone(), entry.to_string())).collect();
    let values: Vec<String> = keys.iter().map(|(agent, entry)| format!("('{agent}', '{entry}')")).collect();
    let sql = format!("INSERT INTO deletions (agent_id, entry_id) VALUES {}", values.join(", "));
    let done = sqlx::raw_sql(AssertSqlSafe(sql)).execute(conn).await;
    done.ok().map(|_| keys)
}

//! The binary on a queue on a server.

use std::process::Command;

use crate::{
    cluster::cluster,
    daemon::sweeper,
    engines::postgres::Postgres,
    enqueue::fed,
    suite::engine::{Engine as _, Row, Setup},
};

/// A queue without a daemon, and a directory for files.
pub struct Scene {
    pub engine: Postgres,
    pub dir: tempfile::TempDir,
}

/// `None` without a server, which was said then.
pub async fn scene() -> Option<Scene> {
    cluster()?;
    let engine = Postgres::create(Setup { busy_timeout: std::time::Duration::from_secs(5), in_memory: false }).await;
    Some(Scene { engine, dir: tempfile::tempdir().unwrap() })
}

impl Scene {
    /// The binary on this queue, as the owner of the tables.
    pub fn command(&self, arguments: &[&str]) -> Command {
        self.command_of(crate::cluster::OWNER, arguments)
    }

    /// The binary on this queue, as this role.
    pub fn command_of(&self, role: &str, arguments: &[&str]) -> Command {
        let url = cluster().unwrap().url(role, self.engine.database.name());
        let mut command = sweeper(self.dir.path());
        command.args(arguments).env("SWEEPER__DATABASE__URL", url);
        command
    }

    /// Exit code, standard output and standard error.
    pub fn run(&self, arguments: &[&str]) -> (i32, String, String) {
        fed(self.command(arguments), "")
    }

    /// The daemon takes the wishes in, and ends.
    pub async fn take_in(&self) {
        let mut queue = self.engine.open().await;
        audio_cache_sweeper::queue::Queue::changed(&mut queue).await.unwrap();
        audio_cache_sweeper::queue::Queue::close(queue).await.unwrap();
    }

    /// Rows of the leader, and nothing in the inbox.
    pub async fn put(&mut self, rows: &[Row]) {
        self.engine.put(rows, &[]).await;
    }

    /// The result of a query with one text a row, joined by spaces.
    pub async fn texts(&mut self, sql: &str) -> String {
        let rows: Vec<(String,)> = self.engine.query(sql).await;
        rows.into_iter().map(|(text,)| text).collect::<Vec<_>>().join(" ")
    }

    /// The rows of the leader and the wishes in the inbox that meet this condition, in the order of their ids.
    pub async fn ids(&mut self, condition: &str) -> String {
        self.texts(&format!("SELECT agent_id || entry_id FROM deletions WHERE {condition} ORDER BY id")).await
    }

    /// The acts: who did what to how many rows, and whether all of it.
    pub async fn acts(&mut self) -> String {
        let acts = "SELECT concat_ws(' ', operator, act, scope, rows, ended::text) FROM acts ORDER BY id";
        let rows: Vec<(String,)> = self.engine.query(acts).await;
        rows.into_iter().map(|(text,)| text).collect::<Vec<_>>().join("; ")
    }
}

//! The engines that the suite is run for. Each implements the trait of the suite in its own SQL.

pub mod postgres;
pub mod sqlite;

use audio_cache_sweeper::queue::either;

use crate::suite::engine::Engine;
use postgres::Postgres;
use sqlite::Sqlite;

/// What the suite has no words for: SQL that both engines understand.
pub trait Tables: Engine {
    async fn sql(&mut self, sql: &str);

    /// The only column of the rows.
    async fn texts(&mut self, sql: &str) -> Vec<String>;

    /// For the commands' own connections.
    fn store(&self) -> either::Options;
}

impl Tables for Sqlite {
    async fn sql(&mut self, sql: &str) {
        self.execute(sql).await;
    }

    async fn texts(&mut self, sql: &str) -> Vec<String> {
        self.query::<(String,)>(sql).await.into_iter().map(|(text,)| text).collect()
    }

    fn store(&self) -> either::Options {
        either::Options::Sqlite(self.options.clone())
    }
}

impl Tables for Postgres {
    async fn sql(&mut self, sql: &str) {
        self.execute(sql).await;
    }

    async fn texts(&mut self, sql: &str) -> Vec<String> {
        self.query::<(String,)>(sql).await.into_iter().map(|(text,)| text).collect()
    }

    fn store(&self) -> either::Options {
        either::Options::Postgres(self.options.clone())
    }
}

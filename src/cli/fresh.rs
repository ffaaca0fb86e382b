//! A reader for walks that take longer than a reader may be kept.

use std::time::Duration;

use super::Failure;
use crate::{
    config::Config,
    model::clock::Clock,
    queue::{
        either::{Reader, StoreError},
        sqlite::twice_if_damaged,
    },
};

/// A reader is opened anew after this time: one that may not write to the file's directory does not see later commits.
const MAX_AGE: Duration = Duration::from_secs(1);

/// A reader that is opened anew now and then.
pub(super) struct FreshReader<'c> {
    config: &'c Config,
    clock: &'c Clock,
    /// With the elapsed time at which it was opened.
    open: Option<(Reader, Duration)>,
}

impl<'c> FreshReader<'c> {
    pub(super) fn new(config: &'c Config, clock: &'c Clock) -> Self {
        Self { config, clock, open: None }
    }

    /// Looks at the queue, a second time if the first look found a damaged file.
    ///
    /// # Errors
    /// If the queue cannot be read.
    pub(super) async fn look<T>(
        &mut self,
        mut look: impl AsyncFnMut(&mut Reader) -> Result<T, StoreError>,
    ) -> Result<T, Failure> {
        twice_if_damaged(async || {
            let now = self.clock.elapsed();
            let (mut reader, since) = match self.open.take() {
                Some((reader, since)) if now.saturating_sub(since) < MAX_AGE => (reader, since),
                _ => (Reader::open(&self.config.store).await?, now),
            };
            let found = look(&mut reader).await?;
            self.open = Some((reader, since));
            Ok::<_, Failure>(found)
        })
        .await
    }
}

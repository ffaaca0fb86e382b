//! A second look at a file that seems to be damaged: the same work on a fresh connection. SQLite says "malformed" also when the
//! disk fails a single read, and a connection may keep the misread page.

use std::time::Duration;

use tokio::time::sleep;

use super::errors::Doubtful;

/// The pause before the second look. A disk that fails for a moment has recovered by then.
const PAUSE: Duration = Duration::from_millis(100);

/// Does `work`, which opens the file itself. If the file then seems to be damaged, does it once more.
///
/// # Errors
/// The error of `work`; of the second time, if there was one.
pub async fn twice_if_damaged<T, E: Doubtful>(mut work: impl AsyncFnMut() -> Result<T, E>) -> Result<T, E> {
    let first = work().await;
    if seems_damaged(&first).await { work().await } else { first }
}

/// Whether the first look makes a second one necessary. If so, returns after the pause.
pub(super) async fn seems_damaged<T, E: Doubtful>(first: &Result<T, E>) -> bool {
    let is_in_doubt = first.as_ref().is_err_and(|error| error.doubt().is_some());
    if is_in_doubt {
        sleep(PAUSE).await;
    }
    is_in_doubt
}

//! Why there is no connection: each message names the setting that is wrong, and what to do, and has no part of a password.

mod front;
mod outage;
mod passwords;
mod tls;

use std::path::Path;

use crate::daemon::{finish, sweeper};

/// What `status` says with this URL and these other variables. Whoever is let in is told that there is no queue, or sees one.
async fn said(dir: &Path, url: &str, variables: &[(&str, &str)]) -> String {
    let mut command = sweeper(dir);
    command.arg("status").env("SWEEPER__DATABASE__URL", url).envs(variables.iter().copied());
    let (code, out, err) = finish(command).await;
    assert!(code == 0 || out.is_empty(), "{out}");
    if code == 0 { "let in".to_owned() } else { err.trim_end().to_owned() }
}

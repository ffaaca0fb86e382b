//! `sweeper healthcheck`: whether the daemon on this machine is alive.

use std::{net::SocketAddr, process::ExitCode};

use anyhow::anyhow;

use super::{Failure, terminal::say};
use crate::{config::ConfigError, watch::http};

pub(super) const EXAMPLES: &str = "\
Example:
  SWEEPER__HTTP__LISTEN=127.0.0.1:9464 sweeper healthcheck

Exit codes: 0 alive, 1 not alive, or no answer, 2 http.listen is off.";

/// Asks the daemon that serves health on `listen`.
///
/// # Errors
/// If `listen` names no port, or the daemon is not alive, or does not answer.
pub(super) async fn healthcheck(listen: Option<SocketAddr>) -> Result<ExitCode, Failure> {
    let Some(listen) = listen else { return Err(ConfigError::NoListener("off").into()) };
    if listen.port() == 0 {
        return Err(ConfigError::NoListener("on a port that the system chooses").into());
    }
    http::ask_livez(listen).await.map_err(|said| anyhow!("no healthy daemon on {listen}: {said}"))?;
    say("alive")?;
    Ok(ExitCode::SUCCESS)
}

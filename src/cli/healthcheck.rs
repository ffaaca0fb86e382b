//! `sweeper healthcheck`: whether the daemon on this machine is alive.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Error, anyhow};
use reqwest::{Client, StatusCode, redirect::Policy};

use super::{Failure, terminal::say};
use crate::config::ConfigError;

pub(super) const EXAMPLES: &str = "\
Example:
  SWEEPER__HTTP__LISTEN=127.0.0.1:9464 sweeper healthcheck

Exit codes: 0 alive, 1 not alive, or no answer, 2 http.listen is off.";

/// The longest wait for an answer. It must be longer than the daemon waits for a client to ask.
const PATIENCE: Duration = Duration::from_secs(5);

/// Asks the daemon that serves health on `listen`.
///
/// # Errors
/// If `listen` names no port, or the daemon is not alive, or does not answer.
pub(super) async fn healthcheck(listen: Option<SocketAddr>) -> Result<ExitCode, Failure> {
    let Some(listen) = listen else { return Err(ConfigError::NoListener("off").into()) };
    if listen.port() == 0 {
        return Err(ConfigError::NoListener("on a port that the system chooses").into());
    }
    ask_livez(local(listen)).await.map_err(|said| anyhow!("no healthy daemon on {listen}: {said}"))?;
    say("alive")?;
    Ok(ExitCode::SUCCESS)
}

/// Asks for `/livez`.
///
/// # Errors
/// If the answer is not 200, or there is none. The message is for a person.
async fn ask_livez(address: SocketAddr) -> Result<(), String> {
    let described = |error: reqwest::Error| match error.is_timeout() {
        true => format!("no answer within {} s", PATIENCE.as_secs()),
        false => Error::from(error).root_cause().to_string(),
    };
    // reqwest needs a provider of TLS even for http://. With no certificates to read, it is ready in a millisecond.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = Client::builder().tls_certs_only([]).no_proxy().redirect(Policy::none()).timeout(PATIENCE);
    // A URL cannot name the scope of a link-local address, but the override can.
    let client = client.resolve("localhost", address).build().map_err(described)?;
    let url = format!("http://localhost:{}/livez", address.port());
    let mut answer = client.get(url).send().await.map_err(described)?;
    let status = answer.status();
    if status == StatusCode::OK {
        return Ok(());
    }
    // One chunk is enough for a message. The server may be another program, with an answer of any length.
    let chunk = answer.chunk().await.map_err(described)?.unwrap_or_default();
    let text = String::from_utf8_lossy(&chunk);
    Err(format!("{address} answered {status}: {}", text.lines().next().unwrap_or_default()))
}

/// The address to ask on this machine. A daemon that listens on every address is asked on loopback.
fn local(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        ip if !ip.is_unspecified() => return listen,
        IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
    };
    SocketAddr::new(ip, listen.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_address_is_asked_on_loopback() {
        for (listen, asked) in [
            ("0.0.0.0:1", "127.0.0.1:1"),
            ("[::]:2", "[::1]:2"),
            ("127.0.0.1:3", "127.0.0.1:3"),
            ("[fe80::1%7]:4", "[fe80::1%7]:4"),
        ] {
            assert_eq!(local(listen.parse().unwrap()), asked.parse().unwrap());
        }
    }
}

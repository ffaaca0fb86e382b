//! The two URLs of the configuration: the API's and the proxy's.

use std::{collections::HashMap, net::IpAddr};

use reqwest::Url;

/// Reads `api.base_url`.
///
/// # Errors
/// A message that says what is wrong, without the URL: it may have the key in it.
pub(super) fn parse_base_url(text: &str) -> Result<Url, String> {
    let url = Url::parse(text.trim())
        .map_err(|problem| format!("is not a URL ({problem}); write it like https://api.us.poly.ai"))?;
    let loopback = url.host_str().is_some_and(is_loopback);
    match url.scheme() {
        "https" => {}
        "http" if loopback => {}
        "http" => {
            return Err("http:// would show the API key to the network; use https:// (http only on loopback)".into());
        }
        // Only known schemes are quoted: the part of a key before a colon parses as a scheme, too.
        other if ["ftp", "file", "ws", "wss"].contains(&other) => {
            return Err(format!("must be https://, not {other}://"));
        }
        _ => return Err("must be https://; write it like https://api.us.poly.ai".into()),
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("must not have a user or a password in it; the key goes into api.key".into());
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err("must end with its host or port, without ? or #".into());
    }
    if url.path() != "/" {
        return Err(
            "has a path; give the origin alone, such as https://api.us.poly.ai, because sweeper adds the path".into()
        );
    }
    Ok(url)
}

/// Reads `api.proxy`.
///
/// # Errors
/// A message that says what is wrong, without the URL: it may have a password in it.
pub(super) fn parse_proxy(text: &str) -> Result<Url, String> {
    let form = "write it like http://proxy.example.org:3128, or off";
    let url = Url::parse(text).map_err(|problem| format!("is not a URL ({problem}); {form}"))?;
    if url.scheme() != "http" {
        return Err(format!("must be http://, through which TLS goes to the API; {form}"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(format!("must not have a user or a password in it: sweeper sends the proxy neither; {form}"));
    }
    if url.path() != "/" || url.query().is_some() || url.fragment().is_some() {
        return Err(format!("must end with its port; {form}"));
    }
    Ok(url)
}

/// The variables of the environment that many programs take a proxy for `https://` from.
pub(super) fn proxy_variables(environment: &HashMap<String, String>) -> Vec<String> {
    let known = ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"].into_iter();
    known.filter(|name| environment.get(*name).is_some_and(|value| !value.is_empty())).map(str::to_owned).collect()
}

pub(super) fn is_loopback(host: &str) -> bool {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

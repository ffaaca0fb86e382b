//! What the API's replies to `check --online` mean, and what to do.

use std::{collections::HashMap, time::Duration};

use super::line::Line;
use crate::{
    api::{Page, Reply, Trial, key::KeySource},
    cli::times::{plural, show_text, show_time},
    config::Config,
    durations,
    model::{
        deletion::AgentId,
        envelope::Envelope,
        outcome::{Answer, Fault, RetryAfter},
    },
    printable::absolute,
};

/// The longest message of the API that is shown, in characters.
const MAX_SAID: usize = 200;

/// Where the agent is from that was asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Agent {
    /// A person named it.
    Given,
    /// It has rows in the queue.
    OfTheQueue,
    /// There is no such agent.
    Nobody,
}

/// What was asked, and how.
pub(super) struct Asked<'c> {
    pub(super) config: &'c Config,
    pub(super) environment: &'c HashMap<String, String>,
    pub(super) agent: &'c AgentId,
    pub(super) origin: Agent,
    /// A daemon uses the same key, and so the same rate limit.
    pub(super) is_shared: bool,
}

/// What a fault is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum About {
    /// There is no connection to the API, or something else answered.
    Connection,
    Key,
    Permission,
    Agent,
    /// The API is not to be asked now, or has trouble of its own.
    Api,
}

const UNKNOWN: &str = "not known";

impl Asked<'_> {
    /// Whether a second request would tell more than the first one did.
    pub(super) fn is_worth_a_write(&self, trial: &Trial<Page>) -> bool {
        let fault = trial.reply.result.as_ref().err();
        fault.is_none_or(|fault| self.meaning(fault, &trial.reply, "read").0 == About::Permission)
    }

    /// The lines about the request that lists, which took this long.
    pub(super) fn read(&self, trial: &Trial<Page>, took: Duration) -> Vec<Line> {
        let reply = &trial.reply;
        let Err(fault) = &reply.result else { return self.listed(trial, took) };
        let (about, said) = self.meaning(fault, reply, "read");
        let unknown = |name| Line::open(name, UNKNOWN);
        let connection = || Line::ok("connection", self.way(trial, took));
        let not_refused = || Line::ok("key", format!("{}, was not refused", self.key()));
        match about {
            About::Connection => {
                vec![
                    Line::not("connection", said),
                    unknown("key"),
                    unknown("region"),
                    unknown("agent"),
                    unknown("read"),
                ]
            }
            About::Key => {
                vec![connection(), Line::not("key", said), unknown("region"), unknown("agent"), unknown("read")]
            }
            // The API answers so about an agent that is not there, and the key and the region may be right all the same.
            About::Agent | About::Permission if self.origin == Agent::Nobody => {
                let open = "not known without an agent; give --agent";
                let rest = ["region", "agent", "read"].map(|name| Line::open(name, open));
                [connection(), not_refused()].into_iter().chain(rest).collect()
            }
            About::Agent => {
                vec![connection(), not_refused(), unknown("region"), Line::not("agent", said), unknown("read")]
            }
            About::Permission => {
                vec![connection(), not_refused(), unknown("region"), unknown("agent"), Line::not("read", said)]
            }
            About::Api => {
                vec![connection(), unknown("key"), unknown("region"), unknown("agent"), Line::not("read", said)]
            }
        }
    }

    fn listed(&self, trial: &Trial<Page>, took: Duration) -> Vec<Line> {
        let entries = trial.reply.result.as_ref().map_or(0, |page| page.total);
        let from = if self.origin == Agent::OfTheQueue { ", an agent of the queue" } else { "" };
        let has = plural(entries, "entry", "entries");
        vec![
            Line::ok("connection", self.way(trial, took)),
            Line::ok("key", self.key()),
            Line::ok("region", self.region()),
            Line::ok("agent", format!("{}{from}: {has} in its cache", self.agent)),
            Line::ok("read", "the key may list the cache"),
        ]
    }

    /// The line about the bulk delete without any ID.
    pub(super) fn write(&self, trial: &Trial<Answer>) -> Line {
        let reply = &trial.reply;
        match &reply.result {
            Err(Fault::Status { status: 400, .. }) => {
                let said =
                    "the key may delete: the API answered 400 to a bulk delete without any ID, as its contract says";
                Line::ok("write", said)
            }
            Ok(Answer { deleted, .. }) if deleted.is_empty() => {
                let said =
                    "the key may delete: the API answered 200 to a bulk delete without any ID (its contract says 400)";
                Line::ok("write", said)
            }
            Ok(_) => Line::not("write", "the API lists IDs as deleted that were not sent; ask PolyAI's support"),
            Err(fault) => Line::not("write", self.meaning(fault, reply, "write").1),
        }
    }

    /// What a fault is about, what it means, and what to do.
    fn meaning<T>(&self, fault: &Fault, reply: &Reply<T>, permission: &str) -> (About, String) {
        let said = reply.detail.as_deref().map(|said| show_text(said, MAX_SAID)).unwrap_or_default();
        let is_the_api_s = reply.envelope.is_some();
        let (about, text) = match fault {
            Fault::Unreachable => (About::Connection, self.unreachable(&said)),
            Fault::Untrusted => (About::Connection, self.untrusted(&said)),
            Fault::Lost => {
                let (way, most) = (self.way_there(), durations::show(self.config.request_timeout));
                let text = format!(
                    "{way}: {said}. The connection was cut, or no answer came within api.request_timeout = {most}. Try again; \
                     if it stays, look at the network in between"
                );
                (About::Connection, text)
            }
            Fault::Garbled => {
                let (way, region) = (self.way_there(), self.region());
                let text = format!(
                    "{way} answered with something that is not the API's ({said}). Something in between may answer in its \
                     place: the login page of a network, a proxy, another server. Is {region} right?"
                );
                (About::Connection, text)
            }
            Fault::Status { status: status @ (401 | 403), .. } if !is_the_api_s => {
                (About::Connection, self.in_between(*status, &said))
            }
            Fault::Status { status: 404, .. } if reply.envelope.as_ref().is_none_or(Envelope::speaks_of_the_way) => {
                (About::Connection, self.in_between(404, &said))
            }
            Fault::Status { status, retry_after } => self.status(*status, *retry_after, &said, permission),
        };
        let id = reply.remote_ids.first().filter(|_| is_the_api_s);
        let end = if text.ends_with('?') { "" } else { "." };
        let id = id.map_or_else(String::new, |id| format!(" Correlation ID {}.", show_text(id, 64)));
        (about, format!("{text}{end}{id}"))
    }

    /// The same for a status, with what the API `said`.
    fn status(&self, status: u16, after: Option<RetryAfter>, said: &str, permission: &str) -> (About, String) {
        let (agent, region, key, quoted) = (self.agent, self.region(), self.key(), quoted(said));
        match status {
            401 => {
                let text = format!(
                    "401: the API does not accept the key{quoted}. It is {key}. It is wrong, has expired, or belongs to \
                     another region than {region}"
                );
                (About::Key, text)
            }
            403 => {
                let text = format!(
                    "403: the key lacks `{permission}` on the audio cache of {agent}, or the agent itself{quoted}. It is \
                     {key}. Give it that permission; a key that has expired may be answered so, too"
                );
                (About::Permission, text)
            }
            404 => {
                let text = format!(
                    "404: the API does not know {agent}{quoted}. Is the ID right, and is {region} the region of its \
                     workspace?"
                );
                (About::Agent, text)
            }
            429 => (About::Api, self.throttled(429, after)),
            503 if after.is_some() => (About::Api, self.throttled(503, after)),
            408 | 500.. => {
                let text =
                    format!("{status}: the API has trouble of its own{quoted}. Try again later; the daemon does, too");
                (About::Api, text)
            }
            _ => (About::Connection, self.foreign(status, said)),
        }
    }

    /// A status that the API does not give to this request.
    fn foreign(&self, status: u16, said: &str) -> String {
        let (region, quoted) = (self.region(), quoted(said));
        format!(
            "{status}{quoted}: not what the API says to this request. Another server or a proxy may have answered. Is \
             {region} right?"
        )
    }

    /// A status that the API gives, with a body that is not the API's or that is about a route.
    fn in_between(&self, status: u16, said: &str) -> String {
        let (region, said) = (self.region(), if said.is_empty() { "nothing" } else { said });
        format!(
            "{} answered with {status}, and not in the API's form (said: {said}). A gateway, a proxy or another server may \
             have answered in the API's place. Is {region} right?",
            self.way_there()
        )
    }

    fn unreachable(&self, said: &str) -> String {
        let way = self.way_there();
        let proxy = match &self.config.proxy {
            Some(_) => format!("Is api.proxy{} right?", self.set("api.proxy")),
            None => "If this machine reaches it only through a proxy, name that in api.proxy: HTTPS_PROXY is not used"
                .to_owned(),
        };
        let (region, most) = (self.region(), durations::show(self.config.connect_timeout));
        if said.contains("dns error") {
            format!("{way}: its name cannot be resolved ({said}). Is there a network, and is {region} right? {proxy}")
        } else if said.starts_with("timed out") {
            format!("{way}: no connection within api.connect_timeout = {most}. A firewall? Is {region} right? {proxy}")
        } else {
            format!("{way}: no connection ({said}). Is {region} right? {proxy}")
        }
    }

    fn untrusted(&self, said: &str) -> String {
        let (way, region) = (self.way_there(), self.region());
        // Both messages come from the API's client.
        if said.starts_with("the proxy refuses") {
            return format!("{way}: {said}");
        }
        if said.contains("InvalidContentType") || said.contains("invalid content type") {
            return format!(
                "{way} does not speak TLS ({said}). Is {region} right, and its port not one for plain HTTP?"
            );
        }
        let trusted = self.trusted();
        format!(
            "{way} is not trusted ({said}). {trusted}. If its issuer is private, or a proxy opens TLS, name the issuer's \
             certificate in api.ca_file. If the certificate has expired or has another name: is {region} right, and this \
             machine's clock?"
        )
    }

    fn throttled(&self, status: u16, after: Option<RetryAfter>) -> String {
        let (when, again) = match after {
            Some(RetryAfter::Seconds(seconds)) => {
                let left = durations::show_roughly(Duration::from_secs(seconds.min(31_536_000)));
                (format!(", and wants nothing for another {left}"), "Try again after that")
            }
            Some(RetryAfter::At(at)) => {
                (format!(", and wants nothing until {}", show_time(at)), "Try again after that")
            }
            None => (", and does not say for how long it wants nothing".to_owned(), "Try again in a minute"),
        };
        let shared = if self.is_shared { "A daemon runs, and shares the limit with this. " } else { "" };
        format!("{status}: the API is asked too often{when}. {shared}{again}")
    }

    /// The way that the request went, and how long it took.
    fn way<T>(&self, trial: &Trial<T>, took: Duration) -> String {
        let peer = trial.peer.map_or_else(String::new, |peer| format!(" at {peer}"));
        let tls = if self.config.base_url.scheme() == "https" { self.trusted() } else { "without TLS".to_owned() };
        format!("{}{peer}, {} ms; {tls}", self.way_there(), took.as_millis())
    }

    fn way_there(&self) -> String {
        let origin = self.config.base_url.as_str().trim_end_matches('/');
        match self.config.proxy.as_ref().filter(|_| self.config.base_url.scheme() == "https") {
            Some(proxy) => {
                let proxy = proxy.as_str().trim_end_matches('/');
                format!("{origin} through the proxy {proxy}, api.proxy{}", self.set("api.proxy"))
            }
            None => origin.to_owned(),
        }
    }

    fn trusted(&self) -> String {
        let variable = ["SSL_CERT_FILE", "SSL_CERT_DIR"].into_iter().find(|name| self.environment.contains_key(*name));
        let path = variable.and_then(|name| self.environment.get(name));
        let system = path.zip(variable).map(|(path, variable)| format!("those in {path} ({variable})"));
        match (&self.config.ca_file, system) {
            (None, None) => "TLS trusts the system's certificates".to_owned(),
            (None, Some(system)) => format!("TLS trusts {system} in place of the system's certificates"),
            (Some(path), system) => {
                let (set, system) = (self.set("api.ca_file"), system.unwrap_or_else(|| "the system's".to_owned()));
                format!("TLS trusts the certificates in {}, api.ca_file{set}, and {system}", absolute(path).display())
            }
        }
    }

    /// The key, by where it is from.
    fn key(&self) -> String {
        match &self.config.key {
            Some(KeySource::File(path)) => {
                format!("the one in {}, api.key_file{}", absolute(path).display(), self.set("api.key_file"))
            }
            Some(KeySource::Given { .. }) | None => format!("api.key{}", self.set("api.key")),
        }
    }

    fn region(&self) -> String {
        if self.config.set.contains_key("api.base_url") {
            return format!("api.base_url = {}{}", self.config.base_url, self.set("api.base_url"));
        }
        let region = self.config.shown.get("api.region").map_or("?", String::as_str);
        format!("api.region = {region}{}", self.set("api.region"))
    }

    /// Where a key is set: ` (set by VARIABLE)`.
    fn set(&self, key: &str) -> String {
        self.config.set.get(key).map_or_else(|| " (the default)".to_owned(), |origin| format!(" (set {origin})"))
    }
}

/// What the API said, as a message quotes it.
fn quoted(said: &str) -> String {
    if said.is_empty() { String::new() } else { format!(" (\"{said}\")") }
}

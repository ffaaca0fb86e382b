//! The reason of a hold and its remedy, in sentences for a person.

use crate::model::{
    hold::HoldRow,
    outcome::{Cause, Scope},
};

/// The settings that a remedy names. They are part of a sentence, and never have the key itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Names {
    /// The setting that says where the API is: `api.region = eu`.
    pub api: String,
    /// The place that the key is from: `api.key_file /run/secrets/polyai`.
    pub key: String,
}

impl Default for Names {
    fn default() -> Self {
        Self { api: "api.region".to_owned(), key: "api.key".to_owned() }
    }
}

/// The reason of a hold, as the end of a sentence.
#[must_use]
pub const fn reason(cause: Cause) -> &'static str {
    match cause {
        Cause::ApiFailed => "the API answers, and deletes none of the IDs",
        Cause::ApiContradicted => "the API answers with the same IDs as deleted and as failed",
        Cause::ApiSilent => "the API answers, and says nothing about the IDs",
        Cause::Garbled => "the answers are not in the API's form",
        Cause::Rejected => "the API rejects the requests as malformed",
        Cause::Unauthorized => "the API does not accept the key",
        Cause::Forbidden => "the API says that the key lacks a permission",
        Cause::UnknownAgent => "the API does not know this agent",
        Cause::Contract => "the API answers with a status that it does not document",
        Cause::Throttled => "the API gets more requests than it allows",
        Cause::ServerError => "the API fails with server errors",
        Cause::Lost => "requests are sent, and no answer comes",
        Cause::Unreachable => "there is no connection to the API",
        Cause::Untrusted => "there is no secure connection to the API",
        Cause::Operator => "a person has placed this hold",
        Cause::Verify => "`sweeper verify` lists the cache, and nothing may change meanwhile",
    }
}

/// The remedy of a hold. `has_lasted`: waiting has not helped.
#[must_use]
pub fn remedy(cause: Cause, scope: &Scope, has_lasted: bool, names: &Names) -> String {
    let Names { api, key } = names;
    let passes = |action: String| {
        if has_lasted { action } else { format!("it goes on by itself; if this lasts, {action}") }
    };
    match cause {
        Cause::Unauthorized => format!(
            "the key from {key} may be wrong, expired or another region's ({api}): replace it, then reload or restart \
             the daemon"
        ),
        Cause::Forbidden => {
            let agent = match scope {
                Scope::All => "",
                Scope::Agent(_) => ", and is the agent in its workspace",
            };
            format!("has the key from {key} the permission `write` on the audio cache{agent}?")
        }
        Cause::UnknownAgent => format!("is the ID right, and {api}?"),
        Cause::Contract => format!(
            "does {api} lead to the API, with no gateway or proxy that answers in its place? If so, a newer sweeper may \
             be needed"
        ),
        Cause::Untrusted => {
            format!("see to the certificate, TLS or the proxy, whichever is named (api.ca_file, api.proxy, {api})")
        }
        Cause::Unreachable => passes(format!("see to the network, DNS, the firewall, api.proxy and {api}")),
        Cause::Throttled => passes("lower rate_limit.requests_per_second".to_owned()),
        Cause::ServerError | Cause::Lost => passes(
            "ask PolyAI's support, with the correlation IDs that `sweeper show` lists, and see to the network"
                .to_owned(),
        ),
        Cause::Garbled => passes("look for a gateway or proxy that answers in the API's place".to_owned()),
        Cause::Rejected | Cause::ApiFailed | Cause::ApiContradicted | Cause::ApiSilent => {
            passes(format!("check that the IDs, the agent and {api} are right"))
        }
        Cause::Operator => format!("`{}` lifts it", HoldRow::command_to_lift(scope, cause)),
        Cause::Verify => format!(
            "that command lifts it; if the command was killed, the hold ends within minutes, and `{}` lifts it at once",
            HoldRow::command_to_lift(scope, cause)
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::deletion::AgentId;

    #[test]
    fn every_cause_has_a_sentence_and_a_remedy_and_those_of_a_person_name_the_settings() {
        let names = Names { api: "api.region = eu".to_owned(), key: "api.key_file /run/key".to_owned() };
        let agent = Scope::Agent(AgentId::parse("a").unwrap());
        for cause in Cause::ALL {
            let remedy = [false, true].map(|has_lasted| remedy(cause, &agent, has_lasted, &names));
            assert_eq!(remedy[0].contains("by itself"), remedy[0] != remedy[1], "{cause:?}");
            let remedy = &remedy[1];
            assert!(reason(cause).len() > 20 && remedy.len() > 20, "{cause:?}");
            let names_one = remedy.contains(&names.api) || remedy.contains(&names.key);
            assert!(!cause.needs_a_person() || names_one, "{cause:?}: {remedy}");
        }
    }
}

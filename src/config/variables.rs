//! The layer of the environment: which variables set a key, and which were meant to.

use std::collections::HashMap;

use super::{
    PREFIX,
    origin::{Origin, Origins},
    unknown,
};
use crate::printable::line;

/// The variable that names the configuration file.
pub(super) const CONFIG: &str = "SWEEPER_CONFIG";

/// The variable of each key that the environment sets. An empty variable counts as unset.
pub(super) fn origins(environment: &HashMap<String, String>) -> Origins {
    set(environment)
        .filter_map(|name| {
            let (section, key) = unknown::keys().find(|(section, key)| is_variable(name, section, key))?;
            Some((format!("{section}.{key}"), Origin::Variable(name.to_owned())))
        })
        .collect()
}

/// The keys of the database that a variable sets which is empty, each with its variable. That is an error, because the variable may have
/// been set from another one that is missing (`="$QUEUE"`). The default would be another queue, or another password, or no password.
pub(super) fn unnamed_database(environment: &HashMap<String, String>) -> impl Iterator<Item = (&'static str, String)> {
    let keys = [
        ("database.path", "path"),
        ("database.url", "url"),
        ("database.password_file", "password_file"),
        ("database.ca_file", "ca_file"),
    ];
    keys.into_iter().filter_map(|(named, key)| {
        let is_unnamed = |(name, value): &(&String, &String)| is_variable(name, "database", key) && value.is_empty();
        Some((named, environment.iter().find(is_unnamed)?.0.clone()))
    })
}

/// What is wrong with variables that look like ours, in the order of their names. Variables that only begin like ours are
/// others': Kubernetes sets `SWEEPER_SERVICE_HOST` and `SWEEPER_PORT_80_TCP` for a Service that is called `sweeper`.
pub(super) fn problems(environment: &HashMap<String, String>) -> Vec<String> {
    let mut names: Vec<&str> = set(environment).collect();
    names.sort_unstable();
    names.into_iter().filter_map(problem).collect()
}

/// The variables that are not empty.
fn set(environment: &HashMap<String, String>) -> impl Iterator<Item = &str> {
    environment.iter().filter(|(_, value)| !value.is_empty()).map(|(name, _)| name.as_str())
}

/// The right variable for a key.
fn variable(section: &str, key: &str) -> String {
    format!("{PREFIX}__{section}__{key}").to_uppercase()
}

fn is_variable(name: &str, section: &str, key: &str) -> bool {
    name.eq_ignore_ascii_case(&variable(section, key))
}

/// The name in lower case, with letters and digits alone.
fn fold(name: &str) -> String {
    name.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect()
}

fn problem(name: &str) -> Option<String> {
    let folded = fold(name);
    let rest = folded.strip_prefix(&fold(PREFIX))?;
    if name == CONFIG || unknown::keys().any(|(section, key)| is_variable(name, section, key)) {
        return None;
    }
    let said = |problem: String| Some(format!("the variable {}: {problem}", line(name)));
    if let Some((section, key)) = unknown::keys().find(|(section, key)| fold(&format!("{section}{key}")) == rest) {
        return said(format!("did you mean {}?", variable(section, key)));
    }
    if rest == "config" {
        return said(format!("did you mean {CONFIG}?"));
    }
    if let Some((section, key)) = unknown::keys().find(|(section, _)| fold(section) == rest) {
        let keys = unknown::keys_listed(section);
        return said(format!("names a section alone; {keys}, each with a variable such as {}", variable(section, key)));
    }
    let lower = name.to_lowercase();
    let ours = lower.strip_prefix(&format!("{PREFIX}__").to_lowercase())?;
    let (section, key) = ours.split_once("__").unwrap_or(("", ours));
    if ours.chars().all(|c| c == '_') {
        return said(format!("names neither a section nor a key; {}", unknown::sections()));
    }
    let no_key = format!("there is no key {}", line(&ours.replace("__", ".")));
    match unknown::meant(section, key) {
        Some((section, Some(key))) => said(format!("{no_key}; did you mean {}?", variable(section, key))),
        Some((section, None)) => said(format!("{no_key}; {}", unknown::keys_listed(section))),
        None => said(format!("{no_key}; {}", unknown::sections())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_ours_is_taken_and_what_is_anothers_is_left_alone() {
        let names = [
            "SWEEPER__API__REGION",
            "sweeper__api__region",
            "SWEEPER__RATE_LIMIT__REQUESTS_PER_SECOND",
            "SWEEPER_CONFIG",
            "SWEEPER_CLIENTS",
            "SWEEPER_SERVICE_HOST",
            "SWEEPER_SERVICE_PORT",
            "SWEEPER_SERVICE_PORT_HTTP",
            "SWEEPER_PORT",
            "SWEEPER_PORT_80_TCP",
            "SWEEPER_PORT_80_TCP_ADDR",
            "SWEEPER_PORT_80_TCP_PORT",
            "SWEEPER_PORT_80_TCP_PROTO",
            "SWEEPER_API_SERVICE_HOST",
            "SWEEPER_API_PORT",
            "SWEEPER_HTTP_PORT_9464_TCP",
            "SWEEPER_LOG_SERVICE_PORT",
            "SWEEPER",
            // A key without its section may be the variable of a script around us.
            "SWEEPER_PATH",
            "SWEEPERS_API_KEY",
            "MY_SWEEPER__API__KEY",
            "HTTPS_PROXY",
        ];
        for name in names {
            assert_eq!(problem(name), None, "{name}");
        }
    }

    #[test]
    fn a_slip_is_told_the_right_variable() {
        let slips = [
            ("SWEEPER_API__REGION", "did you mean SWEEPER__API__REGION?"),
            ("SWEEPER__API_REGION", "did you mean SWEEPER__API__REGION?"),
            ("SWEEPER_API_KEY", "did you mean SWEEPER__API__KEY?"),
            ("SWEEPER__API_KEY", "did you mean SWEEPER__API__KEY?"),
            ("sweeper_api_key", "did you mean SWEEPER__API__KEY?"),
            ("SWEEPER_API_KEY_FILE", "did you mean SWEEPER__API__KEY_FILE?"),
            ("SWEEPER__API__KEY__FILE", "did you mean SWEEPER__API__KEY_FILE?"),
            ("SWEEPERAPIKEY", "did you mean SWEEPER__API__KEY?"),
            ("SWEEPER.API.KEY", "did you mean SWEEPER__API__KEY?"),
            ("SWEEPER___API__KEY", "did you mean SWEEPER__API__KEY?"),
            ("SWEEPER__API__KEY_", "did you mean SWEEPER__API__KEY?"),
            ("SWEEPER__RATELIMIT__BURST", "did you mean SWEEPER__RATE_LIMIT__BURST?"),
            ("SWEEPER__CONFIG", "did you mean SWEEPER_CONFIG?"),
            ("sweeper_config", "did you mean SWEEPER_CONFIG?"),
            ("SWEEPER__", "names neither a section nor a key; the sections are database, api"),
            ("SWEEPER_RATE_LIMIT", "names a section alone; the keys of rate_limit are requests_per_second, burst"),
            ("SWEEPER__API", "names a section alone; the keys of api are region,"),
            ("SWEEPER__API__REGOIN", "there is no key api.regoin; did you mean SWEEPER__API__REGION?"),
            ("SWEEPER__API__KEY2", "there is no key api.key2; did you mean SWEEPER__API__KEY?"),
            ("SWEEPER__APIS__REGION", "there is no key apis.region; did you mean SWEEPER__API__REGION?"),
            ("SWEEPER__REGION", "there is no key region; did you mean SWEEPER__API__REGION?"),
            ("SWEEPER__LOG__COLOUR", "there is no key log.colour; the keys of log are format, filter"),
            ("SWEEPER__COLOUR", "there is no key colour; the sections are database, api"),
            ("SWEEPER__API__KEY__X", "there is no key api.key.x; did you mean SWEEPER__API__KEY?"),
        ];
        for (name, said) in slips {
            let told = problem(name).unwrap_or_default();
            assert!(told.starts_with(&format!("the variable {name}: ")) && told.contains(said), "{name}: {told}");
        }
    }

    #[test]
    fn no_two_keys_have_the_same_letters() {
        let mut folded: Vec<String> = unknown::keys().map(|(section, key)| fold(&format!("{section}{key}"))).collect();
        let count = folded.len();
        folded.sort_unstable();
        folded.dedup();
        assert_eq!(folded.len(), count);
    }
}

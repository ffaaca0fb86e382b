//! The configuration and its errors as people see them: without the API key, wherever somebody put it.

use std::{collections::BTreeMap, path::Path};

use config::{ConfigError as LayerError, Value, ValueKind};

use super::{ConfigError, urls};
use crate::api::key::looks_like_a_key;

/// Stands for a value that may be the API key, pasted into the wrong place.
pub(super) const HIDDEN: &str = "(not shown, because it looks like a key)";

/// Whether `api.key` is set in this file.
pub(super) fn has_key(file: &Path, root: &Value) -> bool {
    let inside = |value: &Value, key: &str| {
        let ValueKind::Table(table) = &value.kind else { return None };
        table.get(key).cloned()
    };
    let key = inside(root, "api").and_then(|api| inside(&api, "key"));
    // The origin of a file's value is the file's path in some form; a variable's value has no such origin.
    key.is_some_and(|key| key.origin().is_some_and(|origin| Path::new(origin).file_name() == file.file_name()))
}

/// Every key with its value, without the API key.
pub(super) fn shown(root: &Value) -> BTreeMap<String, String> {
    fn walk(path: &str, value: &Value, into: &mut BTreeMap<String, String>) {
        if let ValueKind::Table(table) = &value.kind {
            for (key, value) in table {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                walk(&path, value, into);
            }
        } else {
            into.insert(path.to_owned(), shown_value(path, value.to_string()));
        }
    }
    let mut into = BTreeMap::new();
    walk("", root, &mut into);
    into
}

fn shown_value(key: &str, value: String) -> String {
    let refused = "[refused, and not shown]".to_owned();
    match key {
        "api.key" => "[redacted]".to_owned(),
        // People put keys into URLs.
        "api.base_url" if urls::parse_base_url(&value).is_err() => refused,
        "api.proxy" if value != "off" && urls::parse_proxy(&value).is_err() => refused,
        "api.key_file" | "api.ca_file" if Path::new(&value).exists() => value,
        "database.path" | "api.base_url" | "api.proxy" | "http.listen" | "log.filter" => value,
        _ if looks_like_a_key(&value) => HIDDEN.to_owned(),
        _ => value,
    }
}

/// What is wrong with a layer, without any value: it may be the key in the wrong place.
#[expect(clippy::wildcard_enum_match_arm, reason = "another crate's enum: its other errors have good messages")]
pub(super) fn layer_error(error: &LayerError, file: Option<&Path>) -> ConfigError {
    let place = |origin: &Option<String>, key: &Option<String>| {
        let origin = origin.as_deref().unwrap_or("the configuration");
        key.as_ref().map_or_else(|| origin.to_owned(), |key| format!("{key} in {origin}"))
    };
    ConfigError::Layer(match error {
        LayerError::FileParse { uri, cause } => {
            // The first line names the place and the last line the problem; the lines between quote the file.
            let text = cause.to_string();
            let lines: Vec<&str> = text.lines().filter(|line| !line.contains('|')).map(str::trim).collect();
            format!("{}: {}", uri.as_deref().unwrap_or("file"), lines.join(": "))
        }
        LayerError::Type { origin, expected, key, .. } => format!("{}: must be {expected}", place(origin, key)),
        LayerError::At { error, origin, key } => format!("{}: {}", place(origin, key), inner(error)),
        LayerError::Foreign(cause) => match file {
            Some(file) => format!("{}: {cause}", file.display()),
            None => cause.to_string(),
        },
        other => other.to_string(),
    })
}

#[expect(clippy::wildcard_enum_match_arm, reason = "another crate's enum: its other errors have good messages")]
fn inner(error: &LayerError) -> String {
    match error {
        LayerError::Type { expected, .. } => format!("must be {expected}"),
        other => {
            let text = other.to_string();
            // serde's message goes on with the value. Every value may be text, so only a section can have a wrong type.
            if text.starts_with("invalid type") { "must be a section with keys in it".to_owned() } else { text }
        }
    }
}

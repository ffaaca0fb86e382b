//! The configuration as people see it: without the API key, wherever somebody put it.

use std::{borrow::Cow, collections::BTreeMap, path::Path};

use config::{Value, ValueKind};

use super::urls;
use crate::{api::key::looks_like_a_key, printable, queue::postgres};

/// Stands for a value that may be the API key, pasted into the wrong place.
pub(super) const HIDDEN: &str = "(not shown, because it looks like a key)";

/// Every key with its value, without the API key.
pub(super) fn shown(root: &Value) -> BTreeMap<String, String> {
    fn walk(path: &str, value: &Value, into: &mut BTreeMap<String, String>) {
        if let ValueKind::Table(table) = &value.kind {
            for (key, value) in table {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                walk(&path, value, into);
            }
        } else {
            let text = if let ValueKind::Array(values) = &value.kind {
                values.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
            } else {
                value.to_string()
            };
            into.insert(path.to_owned(), shown_value(path, text));
        }
    }
    let mut into = BTreeMap::new();
    walk("", root, &mut into);
    into
}

fn shown_value(key: &str, value: String) -> String {
    let refused = "[refused, and not shown]".to_owned();
    match key {
        "api.key" | "http.token" => "[redacted]".to_owned(),
        "database.url" => {
            let shown = postgres::split_urls(&value).into_iter().map(postgres::without_password);
            shown.map(|url| url.unwrap_or_else(|| refused.clone())).collect::<Vec<_>>().join(",")
        }
        // People put keys into URLs.
        "api.base_url" if urls::parse_base_url(&value).is_err() => refused,
        "api.proxy" if value != "off" && urls::parse_proxy(&value).is_err() => refused,
        "api.key_file" | "api.ca_file" | "database.password_file" | "database.ca_file" | "http.token_file"
            if Path::new(&value).exists() =>
        {
            value
        }
        "database.path" | "api.base_url" | "api.proxy" | "http.listen" | "http.hosts" | "log.filter" => value,
        _ if looks_like_a_key(&value) => HIDDEN.to_owned(),
        _ => value,
    }
}

/// A name for a message: escaped, and hidden if somebody may have written the API key in its place.
pub(super) fn shown_name(name: &str) -> Cow<'_, str> {
    if looks_like_a_key(name) { HIDDEN.into() } else { printable::line(name) }
}

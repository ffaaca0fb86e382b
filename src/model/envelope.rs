//! Errors in the shapes that the API itself uses: who sent a status, and what it is about.
//!
//! A gateway in front of the API sends errors of its own with the same statuses. So a 404 alone does not tell whether there is
//! no such entry, no such agent or no such route. The envelope tells.

use serde_json::Value;

/// An error as the API writes it. A gateway's own error has another shape.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Envelope {
    /// The shape is the current one, `{"success": false, "error_code": …}`, and not the older one, `{"error": {"code": …}}`.
    pub is_current: bool,
    /// The value of `error_code` or `error.code`.
    pub code: String,
    /// The value of `error_message`, `error`, `message` or `error.message`.
    pub message: Option<String>,
    /// The value of `error_id`, `error.correlation_id` or `error.id`, documented as the correlation ID of the request.
    pub error_id: Option<String>,
}

/// The things other than an entry that an error of the API or of its gateway can be about, in the singular.
const OTHER_THINGS: [&str; 25] = [
    "account",
    "agent",
    "apikey",
    "customer",
    "domain",
    "endpoint",
    "host",
    "hostname",
    "key",
    "method",
    "organisation",
    "organization",
    "page",
    "path",
    "permission",
    "project",
    "region",
    "route",
    "service",
    "tenant",
    "upstream",
    "uri",
    "url",
    "user",
    "workspace",
];

/// Those of [`OTHER_THINGS`] that are about the way of a request, in the singular.
const WAYS: [&str; 11] =
    ["domain", "endpoint", "host", "hostname", "method", "page", "path", "route", "upstream", "uri", "url"];

/// What an error is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Topic {
    Entry,
    Other,
    Unsaid,
}

impl Envelope {
    /// Parses the body of an error; `None` if it is no envelope. Optional values may have any type.
    #[must_use]
    pub fn parse(body: &[u8]) -> Option<Self> {
        let value: Value = serde_json::from_slice(without_bom(body)).ok()?;
        let error = value.get("error");
        if value.get("success") == Some(&Value::Bool(false))
            && let Some(code) = value.get("error_code").and_then(code)
        {
            let messages = [value.get("error_message"), error, value.get("message")];
            let message = messages.into_iter().find_map(text);
            return Some(Self { is_current: true, code, message, error_id: id(value.get("error_id")) });
        }
        if value.get("success") == Some(&Value::Bool(true)) {
            return None;
        }
        let error = error.filter(|error| error.is_object())?;
        let code = error.get("code").and_then(code)?;
        let error_id = id(error.get("correlation_id")).or_else(|| id(error.get("id")));
        Some(Self { is_current: false, code, message: text(error.get("message")), error_id })
    }

    /// Applies `clean` to each text.
    #[must_use]
    pub fn cleaned(self, clean: impl Fn(&str) -> String) -> Self {
        let Self { is_current, code, message, error_id } = self;
        Self {
            is_current,
            code: clean(&code),
            message: message.as_deref().map(&clean),
            error_id: error_id.as_deref().map(&clean),
        }
    }

    /// Whether the error is about an agent, a route, a key or the like, and so says nothing about an entry.
    ///
    /// The code decides, because it is made for programs. If the code does not say, as `NOT_FOUND`, the message decides.
    #[must_use]
    pub fn speaks_of_something_else(&self) -> bool {
        match topic_of_code(&self.code) {
            Topic::Entry => false,
            Topic::Other => true,
            Topic::Unsaid => self.message.as_deref().is_some_and(|message| topic_of_message(message) == Topic::Other),
        }
    }

    /// Whether the error is about the way of the request, such as a route or a host, and so says nothing about an agent.
    #[must_use]
    pub fn speaks_of_the_way(&self) -> bool {
        let message = self.message.as_deref().unwrap_or_default();
        let first = |text: &str| {
            let words = words(text);
            let at = (0..words.len()).find(|at| is_other(&words, *at))?;
            let is_way = |word: &str| WAYS.contains(&word);
            Some(is_way(&words[at]) || words[at].strip_suffix('s').is_some_and(is_way))
        };
        first(&self.code).or_else(|| first(message)).unwrap_or(false)
    }

    /// Whether the API itself sent this error for the request with the correlation ID `ours`.
    ///
    /// The current shape is believed without an ID. The older shape needs one, because other services use it, too.
    #[must_use]
    pub fn is_ours(&self, ours: &str) -> bool {
        self.error_id.as_ref().map_or(self.is_current, |id| id.trim().eq_ignore_ascii_case(ours.trim()))
    }

    /// Whether the API itself speaks of the entry that the request with the correlation ID `ours` names.
    #[must_use]
    pub fn is_word_about_the_entry(&self, ours: &str) -> bool {
        self.is_ours(ours) && !self.speaks_of_something_else()
    }
}

/// `body` without the byte order mark that some servers put before JSON.
#[must_use]
pub fn without_bom(body: &[u8]) -> &[u8] {
    body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body)
}

fn code(value: &Value) -> Option<String> {
    value.as_str().filter(|code| !code.trim().is_empty()).map(str::to_owned)
}

fn text(value: Option<&Value>) -> Option<String> {
    value?.as_str().map(str::to_owned)
}

/// The text of an ID. A value of another type is kept as JSON, so that it never equals ours.
fn id(value: Option<&Value>) -> Option<String> {
    match value? {
        Value::Null => None,
        Value::String(id) => Some(id.clone()).filter(|id| !id.trim().is_empty()),
        other @ (Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_)) => Some(other.to_string()),
    }
}

/// The words of a text in lower case. `AGENT_NOT_FOUND`, `agent-not-found` and `AgentNotFound` have the same words.
fn words(text: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut was_lower = false;
    for c in text.chars() {
        if !c.is_alphanumeric() || (was_lower && c.is_uppercase()) {
            words.push(String::new());
        }
        was_lower = c.is_lowercase();
        if c.is_alphanumeric()
            && let Some(word) = words.last_mut()
        {
            word.extend(c.to_lowercase());
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

fn is_entry(word: &str) -> bool {
    matches!(word, "entry" | "entries")
}

/// Whether the word at `at` names another thing than an entry.
fn is_other(words: &[String], at: usize) -> bool {
    let word = words[at].as_str();
    // A "cache key" is an entry.
    let is_cache_key = word == "key" && at > 0 && words[at - 1] == "cache";
    let is_listed = |word: &str| OTHER_THINGS.contains(&word);
    !is_cache_key && (is_listed(word) || word.strip_suffix('s').is_some_and(is_listed))
}

fn topic_of_code(code: &str) -> Topic {
    let words = words(code);
    if (0..words.len()).any(|at| is_other(&words, at)) {
        Topic::Other
    } else if words.iter().any(|word| is_entry(word)) {
        Topic::Entry
    } else {
        Topic::Unsaid
    }
}

/// A message is about the thing that it names first: "entry 7 of agent X", "agent with ID X". But "agent X has no entry 7" is
/// about the entry, because the message does not say that the agent is missing.
fn topic_of_message(message: &str) -> Topic {
    let words = words(message);
    let names_entry = |word: &str| is_entry(word) || matches!(word, "audio" | "id" | "ids");
    let Some(first) = (0..words.len()).find(|at| names_entry(&words[*at]) || is_other(&words, *at)) else {
        return Topic::Unsaid;
    };
    if !is_other(&words, first) {
        return Topic::Entry;
    }
    let before = first.checked_sub(1).map(|at| words[at].as_str());
    let after = words.get(first + 1).map(String::as_str);
    let is_missing = matches!(before, Some("no" | "such" | "unknown" | "invalid" | "missing"))
        || matches!(after, Some("not" | "was" | "is" | "does" | "doesn" | "unknown" | "missing"));
    if !is_missing && words.iter().any(|word| is_entry(word)) { Topic::Entry } else { Topic::Other }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: &str = "3f0c7a52-9d1e-4b7f-8a36-2c5d9e1b4f60";

    fn parse(body: &str) -> Option<Envelope> {
        Envelope::parse(body.as_bytes())
    }

    fn current(code: &str, message: &str) -> Envelope {
        Envelope { is_current: true, code: code.to_owned(), message: Some(message.to_owned()), error_id: None }
    }

    #[test]
    fn the_current_shape_needs_success_false_and_a_code() {
        let full = format!(
            r#"{{"success":false,"error":"Gone","error_id":"{OURS}","error_code":"ENTRY_NOT_FOUND","error_message":"no entry","data":null}}"#
        );
        let expected = Envelope { error_id: Some(OURS.to_owned()), ..current("ENTRY_NOT_FOUND", "no entry") };
        assert_eq!(parse(&full), Some(expected.clone()));
        assert_eq!(Envelope::parse(&[b"\xef\xbb\xbf", full.as_bytes()].concat()), Some(expected));
        assert_eq!(
            parse(r#" {"success":false,"error_code":"X","error":"said","error_message":7,"error_id":null}"#),
            Some(current("X", "said"))
        );
        let bare = parse(r#"{"success":false,"error_code":"X","error":{"a":1},"error_id":" "}"#).unwrap();
        assert_eq!((bare.message, bare.error_id), (None, None));
        let number = parse(r#"{"success":false,"error_code":"X","error_id":7}"#).unwrap();
        assert_eq!(number.error_id.as_deref(), Some("7"), "an ID, and not ours");
    }

    #[test]
    fn the_older_shape_has_a_code_in_an_object() {
        let older =
            parse(&format!(r#"{{"error":{{"code":"X","message":"said","correlation_id":"{OURS}","id":"e"}}}}"#));
        let older = older.unwrap();
        assert!(!older.is_current && older.code == "X" && older.message.as_deref() == Some("said"));
        assert_eq!(older.error_id.as_deref(), Some(OURS), "the correlation ID goes before the error's own");
        assert_eq!(parse(r#"{"error":{"code":"X","id":"e"}}"#).unwrap().error_id.as_deref(), Some("e"));
        assert_eq!(parse(r#"{"success":false,"error":{"code":"X"}}"#).unwrap().error_id, None);
    }

    #[test]
    fn any_other_body_is_no_envelope() {
        let bodies = [
            "",
            "null",
            "[]",
            "404",
            "<html><h1>404 Not Found</h1></html>",
            r#"{"message":"no Route matched with those values"}"#,
            r#"{"message":"bad","errors":[{"field":"ids","message":"bad"}]}"#,
            r#"{"success":false}"#,
            r#"{"success":false,"error":"no entry","error_message":"no entry"}"#,
            r#"{"success":false,"error_code":null}"#,
            r#"{"success":false,"error_code":404}"#,
            r#"{"success":false,"error_code":" "}"#,
            r#"{"success":"false","error_code":"X"}"#,
            r#"{"success":true,"error_code":"X"}"#,
            r#"{"success":true,"error":{"code":"X"}}"#,
            r#"{"error_code":"X"}"#,
            r#"{"error":"X"}"#,
            r#"{"error":{"message":"X"}}"#,
            r#"{"error":[{"code":"X"}]}"#,
            r#"[{"success":false,"error_code":"X"}]"#,
            r#"{"success":false,"error_code":"X"} x"#,
            r#"{"success":false,"error_code":"X""#,
        ];
        for body in bodies {
            assert_eq!(parse(body), None, "{body}");
        }
        assert_eq!(Envelope::parse(&b"[".repeat(16 << 10)), None);
        assert_eq!(Envelope::parse(b"{\"success\":false,\"error_code\":\"\xff\"}"), None);
    }

    #[test]
    fn a_code_that_names_another_thing_is_about_that_whatever_the_message_says() {
        for code in [
            "AGENT_NOT_FOUND",
            "agent-not-found",
            "AgentNotFound",
            "UNKNOWN_PROJECT",
            "ACCOUNT_DISABLED",
            "NO_ROUTE",
            "WRONG_REGION",
            "WORKSPACE.MISSING",
            "TENANT_NOT_FOUND",
            "ENDPOINT_NOT_FOUND",
            "PATH_NOT_FOUND",
            "BAD_URL",
            "UNKNOWN_HOST",
            "SERVICE_NOT_FOUND",
            "METHOD_NOT_ALLOWED",
            "API_KEY_UNKNOWN",
            "NO_PERMISSIONS",
            "AGENT_ENTRY_NOT_FOUND",
        ] {
            assert!(current(code, "entry 7 not found").speaks_of_something_else(), "{code}");
        }
        for code in ["ENTRY_NOT_FOUND", "AUDIO_CACHE_ENTRY_NOT_FOUND", "NO_SUCH_ENTRIES", "entryNotFound"] {
            assert!(!current(code, "no such agent").speaks_of_something_else(), "{code}");
            assert!(!current(code, "entry 7 of agent X not found").speaks_of_something_else(), "{code}");
        }
    }

    #[test]
    fn where_the_code_does_not_say_the_message_does() {
        for message in [
            "no Route matched with those values",
            "agent not found",
            "No such agent",
            "Agent with ID PROJECT-7 was not found",
            "Agent not found; entry 7 was not deleted",
            "The requested URL was not found on the server.",
            "Cannot DELETE /v1/agents/a/audio-cache/7",
            "Project 7 has no audio cache",
            "API keys of this region only",
        ] {
            for code in ["NOT_FOUND", "HTTP_404", "RESOURCE_NOT_FOUND"] {
                assert!(current(code, message).speaks_of_something_else(), "{code}: {message}");
            }
        }
        for message in [
            "",
            "not found",
            "Invalid ID",
            "as ordered",
            "no such entry",
            "entry 7 of agent X not found",
            "entry 7 of this agent does not exist",
            "Agent X has no entry 7",
            "audio 7 of project X not found",
            "ID 7 is unknown to agent X",
            "no such cache key",
            "that is an agenthood",
        ] {
            assert!(!current("NOT_FOUND", message).speaks_of_something_else(), "{message}");
        }
        assert!(!Envelope { message: None, ..current("NOT_FOUND", "") }.speaks_of_something_else());
        assert!(!current("AUDIO_CACHE_KEY_NOT_FOUND", "").speaks_of_something_else());
        assert!(!current("Größe", "").speaks_of_something_else());
    }

    #[test]
    fn a_route_is_no_agent() {
        for (code, message, is_way) in [
            ("NOT_FOUND", "route not found", true),
            ("NO_ROUTE", "agent not found", true),
            ("NOT_FOUND", "The requested URL was not found on the server.", true),
            ("NOT_FOUND", "no such host", true),
            ("NOT_FOUND", "agent not found at this path", false),
            ("AGENT_NOT_FOUND", "no such path", false),
            ("NOT_FOUND", "not found", false),
            ("NOT_FOUND", "no such workspace", false),
        ] {
            assert_eq!(current(code, message).speaks_of_the_way(), is_way, "{code}: {message}");
        }
        let other_key = parse(r#"{"success":false,"error_code":"NOT_FOUND","message":"route not found"}"#).unwrap();
        assert!(other_key.speaks_of_the_way() && other_key.speaks_of_something_else());
    }

    #[test]
    fn an_id_that_is_there_must_be_ours_and_an_older_shape_needs_one() {
        let other = "00000000-0000-4000-8000-000000000000";
        for (is_current, error_id, is_ours) in [
            (true, None, true),
            (true, Some(OURS.to_owned()), true),
            (true, Some(format!(" {} ", OURS.to_uppercase())), true),
            (true, Some(other.to_owned()), false),
            (false, None, false),
            (false, Some(OURS.to_uppercase()), true),
            (false, Some(other.to_owned()), false),
        ] {
            let envelope = Envelope { is_current, error_id, ..current("NOT_FOUND", "no such entry") };
            assert_eq!(envelope.is_ours(OURS), is_ours, "{envelope:?}");
            assert_eq!(envelope.is_word_about_the_entry(OURS), is_ours, "{envelope:?}");
            let agent = Envelope { code: "AGENT_NOT_FOUND".to_owned(), ..envelope };
            assert_eq!(agent.is_ours(OURS), is_ours, "{agent:?}");
            assert!(!agent.is_word_about_the_entry(OURS), "{agent:?}");
        }
    }

    #[test]
    fn every_text_is_cleaned() {
        let envelope = Envelope { error_id: Some("k".to_owned()), ..current("k", "a k") };
        let clean = envelope.cleaned(|text| text.replace('k', "[key]"));
        let expected = Envelope { error_id: Some("[key]".to_owned()), ..current("[key]", "a [key]") };
        assert_eq!(clean, expected);
    }
}

//! The list of an agent's cache, a page at a time.

use serde::Deserialize;
use serde_json::Value;
use uuid::Uuid;

use super::{Api, Reply, answer::parse_object};
use crate::model::{
    clock::Timestamp,
    deletion::{AgentId, EntryId, refuse_floating},
};

/// The most entries that the API lists in one response.
pub const PAGE_SIZE: u64 = 200;

/// An order of a cache's entries that does not change while entries are used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// By their IDs, which are distinct.
    Id,
    /// By the time at which they were cached. Several may have the same.
    CachedAt,
}

impl Order {
    /// The value of the parameter `sort`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Id => "id:asc",
            Self::CachedAt => "cached_at:asc",
        }
    }
}

/// The longest page that is read, in bytes: 200 transcripts of 40 KiB.
pub(super) const MAX_PAGE_BYTES: usize = 8 << 20;

/// A page of a cache's entries.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// The entries whose IDs can be enqueued.
    pub entries: Vec<Entry>,
    /// How many other entries the page has.
    pub unusable: u64,
    /// How many entries the whole cache has, according to this page.
    pub total: u64,
}

/// A cached entry. A field that the API left out, or sent in another form than documented, is `None`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The ID to delete.
    pub id: EntryId,
    /// The spoken text.
    pub transcript: Option<String>,
    /// When the entry was cached.
    pub cached_at: Option<Timestamp>,
    /// How often the entry was used.
    pub hit_count: Option<u64>,
    /// The provider that synthesized the speech.
    pub provider: Option<String>,
    /// The provider's name of the voice.
    pub voice: Option<String>,
    /// The language code.
    pub language: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawPage {
    entries: Vec<RawEntry>,
    total_count: u64,
}

/// Every value may have any type: one entry with an odd value must not hide the others.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawEntry {
    #[serde(default)]
    id: Value,
    #[serde(default)]
    transcript: Value,
    #[serde(default)]
    cached_at: Value,
    #[serde(default)]
    hit_count: Value,
    #[serde(default)]
    provider: Value,
    #[serde(default)]
    provider_voice_id: Value,
    #[serde(default)]
    language_code: Value,
}

impl RawEntry {
    fn parse(self) -> Option<Entry> {
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let number = self.id.as_u64().map(|id| id.to_string());
        let id = text(&self.id).or(number)?;
        refuse_floating(&id).ok()?;
        Some(Entry {
            id: EntryId::parse(&id).ok()?,
            transcript: text(&self.transcript),
            cached_at: self.cached_at.as_str().and_then(Timestamp::parse),
            hit_count: self.hit_count.as_u64(),
            provider: text(&self.provider),
            voice: text(&self.provider_voice_id),
            language: text(&self.language_code),
        })
    }
}

pub(super) fn parse_page(body: &[u8]) -> Result<Page, String> {
    let RawPage { entries, total_count } = parse_object(body)?;
    let listed = entries.len();
    let entries: Vec<Entry> = entries.into_iter().filter_map(RawEntry::parse).collect();
    Ok(Page { unusable: (listed - entries.len()) as u64, entries, total: total_count })
}

impl Api {
    /// Lists up to [`PAGE_SIZE`] entries after the first `offset`, in this order, or in the API's own. Sends one request and does not
    /// retry.
    pub async fn list(&self, agent: &AgentId, offset: u64, order: Option<Order>, correlation_id: Uuid) -> Reply<Page> {
        let sort = order.map_or_else(String::new, |order| format!("&sort={}", order.as_str()));
        let url = format!("{}?limit={PAGE_SIZE}&offset={offset}{sort}", self.cache_url(agent));
        let request = self.client().await.get(url);
        self.send(request, correlation_id, MAX_PAGE_BYTES, parse_page).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_with_odd_values_hides_no_other() {
        let body = r#"{"totalCount": 5, "more": 1, "entries": [
            {"id": "1", "transcript": "Hello", "cachedAt": "2026-01-02T03:04:05Z", "hitCount": 7, "duration": 1.5,
             "provider": "p", "providerVoiceId": "v", "languageCode": "en-GB"},
            {"id": 2, "transcript": null, "cachedAt": "soon", "hitCount": -1, "provider": 3},
            {"id": "a b"}, {}, {"id": null}]}"#;
        let page = parse_page(body.as_bytes()).unwrap();
        assert_eq!((page.unusable, page.total, page.entries.len()), (3, 5, 2));
        let text = |text: &str| Some(text.to_owned());
        assert_eq!(
            page.entries[0],
            Entry {
                id: EntryId::parse("1").unwrap(),
                transcript: text("Hello"),
                cached_at: Some(Timestamp(1_767_323_045_000)),
                hit_count: Some(7),
                provider: text("p"),
                voice: text("v"),
                language: text("en-GB"),
            }
        );
        let two = &page.entries[1];
        assert_eq!((two.id.as_str(), two.cached_at, two.hit_count, &two.provider), ("2", None, None, &None));
        for other in [
            "",
            "[]",
            "{}",
            r#"{"entries":[]}"#,
            r#"{"entries":{},"totalCount":0}"#,
            r#"{"entries":[1],"totalCount":1}"#,
        ] {
            assert!(parse_page(other.as_bytes()).is_err(), "{other}");
        }
    }
}

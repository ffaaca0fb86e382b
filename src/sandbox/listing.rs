//! The list of an agent's cache in the sandbox.

use serde_json::{Value, json};

use super::Entries;

/// The number of entries in the list of an agent that has every entry.
const ENDLESS: u64 = 1_000;

const TRANSCRIPTS: [&str; 6] = [
    "Thank you for calling, how can I help you?",
    "Could you please spell your surname?",
    "I have found your booking for tomorrow evening.",
    "One moment, I am putting you through to a colleague.",
    "Möchten Sie einen Tisch für zwei Personen reservieren?",
    "Is there anything else I can do for you?",
];
/// Each a provider, a voice and a language.
const VOICES: [(&str, &str, &str); 3] = [
    ("elevenlabs", "EXAVITQu4vr4xnSDxMaL", "en-GB"),
    ("cartesia", "a0e99841-438c", "en-US"),
    ("google", "de-DE-Wavenet-B", "de-DE"),
];

/// 2025-01-01T00:00:00Z in Unix seconds.
const FIRST_CACHED_AT: i64 = 1_735_689_600;

/// The IDs of the existing entries, in numerical order.
fn ids(entries: &Entries) -> Vec<String> {
    let mut ids: Vec<String> = match entries {
        Entries::Listed(ids) => ids.iter().cloned().collect(),
        Entries::AllBut(gone) => (1..=ENDLESS).map(|id| id.to_string()).filter(|id| !gone.contains(id)).collect(),
    };
    ids.sort_unstable_by_key(|id| (id.parse::<u64>().unwrap_or(u64::MAX), id.clone()));
    ids
}

/// An entry whose values depend only on its ID.
fn entry(id: &str) -> Value {
    let draw = id.bytes().fold(7_u64, |hash, byte| hash.wrapping_mul(31).wrapping_add(byte.into()));
    let of = |n: usize, salt: u64| (draw / salt) as usize % n;
    let (provider, voice, language) = VOICES[of(VOICES.len(), 1)];
    let hours = of(365 * 24, 1) as i64;
    let cached_at = jiff::Timestamp::from_second(FIRST_CACHED_AT + hours * 3_600).unwrap_or_default();
    json!({
        "id": id,
        "transcript": format!("{} ({id})", TRANSCRIPTS[of(TRANSCRIPTS.len(), 3)]),
        "cachedAt": cached_at.to_string(),
        "hitCount": of(100, 5),
        "duration": of(80, 7) as f64 / 10.0 + 0.5,
        "regenerated": of(9, 11) == 0,
        "provider": provider,
        "providerVoiceId": voice,
        "imported": false,
        "audioFilename": format!("{id}.wav"),
        "languageCode": language,
    })
}

/// The page for a query such as `limit=50&offset=0`. `ignores_sort`: the entries are in the order of their hits, whatever the query asks
/// for.
///
/// # Errors
/// If the API would refuse the query.
pub(super) fn page(entries: &Entries, query: &str, ignores_sort: bool) -> Result<Value, &'static str> {
    let (mut limit, mut offset, mut sort) = (50, 0, None);
    for (name, value) in query.split('&').filter_map(|part| part.split_once('=')) {
        match name {
            "limit" => limit = value.parse().map_err(|_| "limit must be a number")?,
            "offset" => offset = value.parse().map_err(|_| "offset must be a number of 0 or more")?,
            "sort" => sort = Some(value),
            _ => {}
        }
    }
    if !(1..=200).contains(&limit) {
        return Err("limit must be from 1 to 200");
    }
    let ids = ids(entries);
    let sort = if ignores_sort { Some("hit_count:desc") } else { sort };
    let listed: Vec<Value> = match sort {
        None => ids.iter().skip(offset).take(limit).map(|id| entry(id)).collect(),
        Some(sort) => sorted(&ids, sort)?.into_iter().skip(offset).take(limit).collect(),
    };
    Ok(json!({ "entries": listed, "totalCount": ids.len() }))
}

/// All entries in an order such as `hit_count:desc`. Those that are equal come by their IDs.
fn sorted(ids: &[String], sort: &str) -> Result<Vec<Value>, &'static str> {
    let (field, direction) = sort.split_once(':').unwrap_or((sort, "asc"));
    let mut entries: Vec<Value> = ids.iter().map(|id| entry(id)).collect();
    match field {
        "id" => {}
        "cached_at" => entries.sort_by_key(|entry| entry["cachedAt"].as_str().unwrap_or_default().to_owned()),
        "hit_count" => entries.sort_by_key(|entry| entry["hitCount"].as_u64()),
        _ => return Err("sort must be by id, cached_at or hit_count"),
    }
    match direction {
        "asc" => {}
        "desc" => entries.reverse(),
        _ => return Err("sort must be asc or desc"),
    }
    Ok(entries)
}

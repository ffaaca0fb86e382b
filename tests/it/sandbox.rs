//! The stand-in is faithful: what the API's page promises, it does.

use std::{net::SocketAddr, time::Duration};

use audio_cache_sweeper::{
    api::{CORRELATION_ID, MAX_ANSWER_BYTES},
    sandbox::{Missing, Mood, Options, Outage, Poison, RateHeaders, Sandbox},
};
use reqwest::{Client, Response};
use serde_json::{Value, json};
use tokio::time::timeout;

async fn start(options: Options) -> Sandbox {
    // The client needs a provider of TLS, even to do without.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let options = Options { key: Some("k".to_owned()), agents: vec![("a".to_owned(), 100)], ..options };
    Sandbox::start(SocketAddr::from(([127, 0, 0, 1], 0)), options).await.unwrap()
}

async fn post(sandbox: &Sandbox, agent: &str, key: &str, body: &str) -> Result<Response, reqwest::Error> {
    Client::new()
        .post(format!("{}/v1/agents/{agent}/audio-cache/bulk-delete", sandbox.url()))
        .header("x-api-key", key)
        .header(CORRELATION_ID, "mine")
        .body(body.to_owned())
        .send()
        .await
}

async fn delete(sandbox: &Sandbox, agent: &str, key: &str, entry: &str) -> Result<Response, reqwest::Error> {
    Client::new()
        .delete(format!("{}/v1/agents/{agent}/audio-cache/{entry}", sandbox.url()))
        .header("x-api-key", key)
        .header(CORRELATION_ID, "mine")
        .send()
        .await
}

fn ids(ids: impl IntoIterator<Item = u32>) -> String {
    json!({ "ids": ids.into_iter().map(|id| id.to_string()).collect::<Vec<_>>() }).to_string()
}

async fn json_of(response: Response) -> Value {
    serde_json::from_str(&response.text().await.unwrap()).unwrap()
}

#[tokio::test]
async fn it_really_deletes_and_a_second_time_there_is_nothing_to_delete() {
    let sandbox = start(Options::default()).await;
    let first = post(&sandbox, "a", "k", &ids([1, 2, 101])).await.unwrap();
    assert_eq!(first.headers()[CORRELATION_ID], "mine");
    assert_eq!(json_of(first).await, json!({ "deleted": ["1", "2"], "failed": ["101"] }));
    assert!(sandbox.is_gone("a", "1") && !sandbox.is_gone("a", "3"));
    let second = post(&sandbox, "a", "k", &ids([2, 3])).await.unwrap();
    assert_eq!(json_of(second).await, json!({ "deleted": ["3"], "failed": ["2"] }));
}

#[tokio::test]
async fn it_refuses_what_the_api_refuses() {
    let options = Options { forbidden: vec!["locked".to_owned()], numeric_ids: true, ..Options::default() };
    let sandbox = start(options).await;
    let cases = [
        ("a", "k", ids([]), 400),
        ("a", "k", ids(1..=21), 400),
        ("a", "k", "{".to_owned(), 400),
        ("a", "k", r#"{"ids":[1]}"#.to_owned(), 400),
        ("a", "k", r#"{"ids":["x"]}"#.to_owned(), 400),
        ("a", "wrong", ids([1]), 401),
        ("a", "", ids([1]), 401),
        ("locked", "k", ids([1]), 403),
        ("nobody", "k", ids([1]), 404),
        ("a", "k", ids(1..=20), 200),
    ];
    for (agent, key, body, status) in cases {
        let response = post(&sandbox, agent, key, &body).await.unwrap();
        assert_eq!(response.status().as_u16(), status, "{agent} {key:?} {body}");
        if status != 200 {
            let said = json_of(response).await;
            assert!(said["error_message"].is_string() && said["error_id"] == "mine", "{said}");
        }
    }
    let url = format!("{}/v1/agents/a/audio-cache/bulk-delete", sandbox.url());
    assert_eq!(Client::new().get(url).send().await.unwrap().status().as_u16(), 405);
}

#[tokio::test]
async fn it_lists_what_is_there_a_page_at_a_time() {
    let sandbox = start(Options { forbidden: vec!["locked".to_owned()], ..Options::default() }).await;
    let get = |agent: &str, key: &str, query: &str| {
        let url = format!("{}/v1/agents/{agent}/audio-cache{query}", sandbox.url());
        Client::new().get(url).header("x-api-key", key).header(CORRELATION_ID, "mine").send()
    };
    assert_eq!(post(&sandbox, "a", "k", &ids([1, 7])).await.unwrap().status().as_u16(), 200);
    let ids_of = |page: &Value| {
        let entries = page["entries"].as_array().unwrap().iter();
        entries.map(|entry| entry["id"].as_str().unwrap().parse().unwrap()).collect::<Vec<u32>>()
    };
    let first = json_of(get("a", "k", "").await.unwrap()).await;
    assert_eq!((first["totalCount"].as_u64(), ids_of(&first).len(), ids_of(&first)[0]), (Some(98), 50, 2));
    let names = ["transcript", "cachedAt", "hitCount", "duration", "provider", "providerVoiceId", "languageCode"];
    assert!(names.iter().all(|name| !first["entries"][0][name].is_null()), "{first}");
    let last = json_of(get("a", "k", "?limit=200&offset=90").await.unwrap()).await;
    assert_eq!(ids_of(&last), (93..=100).collect::<Vec<_>>());
    assert_eq!(json_of(get("a", "k", "?limit=1&offset=0").await.unwrap()).await["entries"][0], first["entries"][0]);
    assert_eq!(json_of(get("a", "k", "?offset=98").await.unwrap()).await, json!({ "entries": [], "totalCount": 98 }));
    let sorted = |page: &Value, field: &str| {
        let values: Vec<Value> = page["entries"].as_array().unwrap().iter().map(|entry| entry[field].clone()).collect();
        values
    };
    let by_hits = sorted(&json_of(get("a", "k", "?sort=hit_count:desc").await.unwrap()).await, "hitCount");
    assert!(
        by_hits.is_sorted_by_key(|hits| std::cmp::Reverse(hits.as_u64())) && by_hits[0] != by_hits[49],
        "{by_hits:?}"
    );
    let by_time = sorted(&json_of(get("a", "k", "?sort=cached_at:asc").await.unwrap()).await, "cachedAt");
    assert!(by_time.is_sorted_by_key(|at| at.as_str()) && by_time[0] != by_time[49], "{by_time:?}");
    assert_eq!(ids_of(&json_of(get("a", "k", "?sort=id:desc&limit=2").await.unwrap()).await), [100, 99]);
    for (agent, key, query, status) in [
        ("a", "k", "?limit=201", 400),
        ("a", "k", "?limit=0", 400),
        ("a", "k", "?offset=-1", 400),
        ("a", "k", "?sort=transcript:asc", 400),
        ("a", "k", "?sort=id:up", 400),
        ("a", "wrong", "", 401),
        ("locked", "k", "", 403),
        ("nobody", "k", "", 404),
    ] {
        assert_eq!(get(agent, key, query).await.unwrap().status().as_u16(), status, "{agent} {key} {query}");
    }
}

#[tokio::test]
async fn an_entry_that_it_keeps_is_answered_as_deleted_and_stays() {
    let sandbox = start(Options { keeping: vec!["2".to_owned(), "101".to_owned()], ..Options::default() }).await;
    for _ in 0..2 {
        let answer = json_of(post(&sandbox, "a", "k", &ids([2, 101])).await.unwrap()).await;
        assert_eq!(answer, json!({ "deleted": ["2"], "failed": ["101"] }), "101 was never there");
        let answer = json_of(delete(&sandbox, "a", "k", "2").await.unwrap()).await;
        assert_eq!(answer["success"], true);
        assert!(!sandbox.is_gone("a", "2"));
    }
}

#[tokio::test]
async fn a_single_entry_is_deleted_once_and_then_not_found() {
    let options = Options {
        forbidden: vec!["locked".to_owned()],
        failing: vec!["9".to_owned()],
        numeric_ids: true,
        ..Options::default()
    };
    let sandbox = start(options).await;
    let first = delete(&sandbox, "a", "k", "1").await.unwrap();
    assert_eq!((first.status().as_u16(), first.headers()[CORRELATION_ID].to_str().unwrap()), (200, "mine"));
    assert_eq!(json_of(first).await, json!({ "success": true }));
    assert!(sandbox.is_gone("a", "1") && !sandbox.is_gone("a", "2"));
    let failing = delete(&sandbox, "a", "k", "9").await.unwrap();
    assert_eq!(json_of(failing).await, json!({ "success": false }));
    let cases = [
        ("a", "k", "1", 404),
        ("a", "k", "101", 404),
        ("a", "k", "x", 400),
        ("a", "wrong", "2", 401),
        ("locked", "k", "2", 403),
        ("nobody", "k", "2", 404),
        ("a", "k", "2", 200),
    ];
    for (agent, key, entry, status) in cases {
        let response = delete(&sandbox, agent, key, entry).await.unwrap();
        assert_eq!(response.status().as_u16(), status, "{agent} {key} {entry}");
    }
    let slow = start(Options { rate_limit: Some(1.try_into().unwrap()), ..Options::default() }).await;
    assert_eq!(post(&slow, "a", "k", &ids([1])).await.unwrap().status().as_u16(), 200);
    assert_eq!(delete(&slow, "a", "k", "2").await.unwrap().status().as_u16(), 429, "one limit for both");
}

#[tokio::test]
async fn faults_come_as_ordered() {
    let sandbox = start(Options {
        rate_limit: Some(2.try_into().unwrap()),
        retry_after: Some("7".to_owned()),
        ..Options::default()
    })
    .await;
    for _ in 0..2 {
        assert_eq!(post(&sandbox, "a", "k", &ids([1])).await.unwrap().status().as_u16(), 200);
    }
    let throttled = post(&sandbox, "a", "k", &ids([1])).await.unwrap();
    assert_eq!((throttled.status().as_u16(), throttled.headers()["retry-after"].to_str().unwrap()), (429, "7"));

    let all_fail = start(Options { fail_ratio: 1.0, ..Options::default() }).await;
    let answer = json_of(post(&all_fail, "a", "k", &ids([1, 2])).await.unwrap()).await;
    assert_eq!(answer, json!({ "deleted": [], "failed": ["1", "2"] }));
    let errors = start(Options { error_ratio: 1.0, ..Options::default() }).await;
    assert_eq!(post(&errors, "a", "k", &ids([1])).await.unwrap().status().as_u16(), 500);
    let garbage = start(Options { garbage_ratio: 1.0, ..Options::default() }).await;
    assert_eq!(post(&garbage, "a", "k", &ids([1])).await.unwrap().text().await.unwrap(), "<html>");
    assert!(garbage.is_gone("a", "1"), "done, and then garbled");
    let cut = start(Options { reset_ratio: 1.0, ..Options::default() }).await;
    let mut done = 0;
    for id in 1..=40 {
        if post(&cut, "a", "k", &ids([id])).await.is_err() {
            done += u32::from(cut.is_gone("a", &id.to_string()));
        }
    }
    assert!((1..40).contains(&done), "some before and some after: {done}");
}

#[tokio::test]
async fn fixed_windows_are_counted_together_and_told_in_every_answer() {
    let options = Options {
        limits: vec!["2/1m".parse().unwrap(), "9/1h".parse().unwrap()],
        rate_headers: Some(RateHeaders::Kong),
        headers: vec![("x-more".parse().unwrap(), "yes".parse().unwrap())],
        ..Options::default()
    };
    let sandbox = start(options).await;
    for (status, minute, hour) in [(200, "1", "8"), (200, "0", "7"), (429, "0", "7")] {
        let response = post(&sandbox, "a", "k", &ids([1])).await.unwrap();
        let header = |name: &str| response.headers()[name].to_str().unwrap();
        assert_eq!(response.status().as_u16(), status);
        let remaining = (header("x-ratelimit-remaining-minute"), header("x-ratelimit-remaining-hour"));
        assert_eq!((remaining, header("ratelimit-remaining")), ((minute, hour), minute));
        assert!((50..=60).contains(&header("ratelimit-reset").parse::<u32>().unwrap()));
        assert_eq!(header("x-more"), "yes");
    }
    let short = start(Options { limits: vec!["1/1s".parse().unwrap()], ..Options::default() }).await;
    let mut statuses = Vec::new();
    for _ in 0..9 {
        let response = post(&short, "a", "k", &ids([1])).await.unwrap();
        assert!(response.headers().keys().all(|name| !name.as_str().contains("ratelimit")), "nobody asked for them");
        statuses.push(response.status().as_u16());
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
    assert_eq!((statuses[0], statuses.contains(&429), statuses[1..].contains(&200)), (200, true, true), "{statuses:?}");
}

/// Status, `Retry-After`, body; `None` if the connection was cut.
async fn heard(response: Result<Response, reqwest::Error>) -> Option<(u16, Option<String>, String)> {
    let response = response.ok()?;
    let retry_after = response.headers().get("retry-after").map(|value| value.to_str().unwrap().to_owned());
    Some((response.status().as_u16(), retry_after, response.text().await.unwrap()))
}

/// That `body` is the API's whole envelope about the request that has the correlation ID `mine`.
fn assert_envelope(body: &str, code: &str) {
    let said: Value = serde_json::from_str(body).unwrap();
    let names = ["data", "error", "error_code", "error_id", "error_message", "success"];
    assert!(said.as_object().unwrap().keys().eq(names), "{said}");
    assert_eq!(
        (&said["success"], &said["error_id"], &said["error_code"]),
        (&json!(false), &json!("mine"), &json!(code))
    );
}

#[tokio::test]
async fn a_poisonous_id_spoils_every_request_that_has_it_and_no_other() {
    for (poison, status, retry_after) in [
        (Poison::Status(500), 500, None),
        (Poison::Status(409), 409, None),
        (Poison::Status(520), 520, None),
        (Poison::RetryAfter(503, 2), 503, Some("2".to_owned())),
        (Poison::Html, 200, None),
        (Poison::Long, 200, None),
    ] {
        let sandbox = start(Options { poison: vec![("66".to_owned(), poison)], ..Options::default() }).await;
        let bulk = heard(post(&sandbox, "a", "k", &ids([1, 66])).await).await.unwrap();
        let single = heard(delete(&sandbox, "a", "k", "66").await).await.unwrap();
        for (said, wish, body) in [bulk, single] {
            assert_eq!((said, &wish), (status, &retry_after), "{poison:?}");
            match poison {
                Poison::Html => assert!(body.starts_with("<html>"), "{body}"),
                Poison::Long => assert!(body.len() > MAX_ANSWER_BYTES),
                Poison::Status(_) | Poison::RetryAfter(..) | Poison::Hang | Poison::Reset => {
                    assert_envelope(&body, "ORDERED");
                }
            }
        }
        assert!(!sandbox.is_gone("a", "1") && !sandbox.is_gone("a", "66"), "{poison:?}");
        let other = post(&sandbox, "a", "k", &ids([1, 67])).await.unwrap();
        assert_eq!(json_of(other).await, json!({ "deleted": ["1", "67"], "failed": [] }), "{poison:?}");
    }
    let poison = vec![("13".to_owned(), Poison::Hang), ("66".to_owned(), Poison::Reset)];
    let sandbox = start(Options { poison, ..Options::default() }).await;
    assert!(post(&sandbox, "a", "k", &ids([1, 66])).await.is_err());
    assert!(timeout(Duration::from_millis(50), delete(&sandbox, "a", "k", "13")).await.is_err());
    assert!(!sandbox.is_gone("a", "1") && !sandbox.is_gone("a", "13"));
}

#[tokio::test]
async fn an_outage_has_many_voices_and_ends_when_it_is_told_to() {
    let sandbox = start(Options { outage: Some(Outage::Status(502)), ..Options::default() }).await;
    let lists = |deleted: &[&str], failed: &[&str]| json!({ "deleted": deleted, "failed": failed }).to_string();
    let no = r#"{"success":false}"#.to_owned();
    let (status, _, body) = heard(post(&sandbox, "a", "wrong", &ids([1])).await).await.unwrap();
    assert_eq!(status, 502, "whatever the key");
    assert_envelope(&body, "ORDERED");
    sandbox.set_outage(Some(Outage::RetryAfter(429, 9)));
    let (status, wish, _) = heard(delete(&sandbox, "nobody", "k", "1").await).await.unwrap();
    assert_eq!((status, wish.as_deref()), (429, Some("9")));
    for (outage, bulk) in [
        (Outage::PoliteFailed, lists(&[], &["1", "900000001"])),
        (Outage::PoliteSilent, lists(&[], &[])),
        (Outage::Strangers, lists(&["900000002", "900000003"], &[])),
    ] {
        sandbox.set_outage(Some(outage));
        let said = heard(post(&sandbox, "a", "k", &ids([1, 900_000_001])).await).await;
        assert_eq!(said, Some((200, None, bulk)), "{outage:?}");
        assert_eq!(heard(delete(&sandbox, "a", "k", "1").await).await, Some((200, None, no.clone())), "{outage:?}");
    }
    sandbox.set_outage(Some(Outage::Html));
    assert!(heard(post(&sandbox, "a", "k", &ids([1])).await).await.unwrap().2.starts_with("<html>"));
    sandbox.set_outage(Some(Outage::Reset));
    assert!(post(&sandbox, "a", "k", &ids([1])).await.is_err());
    sandbox.script([Mood::status(418)]);
    assert_eq!(post(&sandbox, "a", "k", &ids([1])).await.unwrap().status().as_u16(), 418, "what is ordered goes first");
    assert!(!sandbox.is_gone("a", "1"));
    sandbox.set_outage(None);
    assert_eq!(json_of(post(&sandbox, "a", "k", &ids([1])).await.unwrap()).await["deleted"], json!(["1"]));
}

#[tokio::test]
async fn an_outage_of_one_agent_is_no_other_s() {
    let _ = start(Options::default()).await;
    let address = SocketAddr::from(([127, 0, 0, 1], 0));
    let sandbox = Sandbox::start(address, Options::default()).await.unwrap();
    let statuses = async || {
        let mut statuses = Vec::new();
        for agent in ["a", "b"] {
            statuses.push(post(&sandbox, agent, "k", &ids([1])).await.unwrap().status().as_u16());
        }
        statuses
    };
    sandbox.set_agent_outage("a", Some(Outage::Status(500)));
    assert_eq!(statuses().await, [500, 200]);
    sandbox.set_outage(Some(Outage::Status(503)));
    assert_eq!(statuses().await, [503, 503]);
    sandbox.set_outage(None);
    assert_eq!(statuses().await, [500, 200]);
    sandbox.set_agent_outage("a", None);
    assert_eq!(statuses().await, [200, 200]);
}

#[tokio::test]
async fn a_missing_entry_is_answered_as_ordered() {
    for (single_404, body) in [
        (Missing::Gateway, Some(r#"{"message":"no Route matched with those values"}"#)),
        (Missing::Html, Some("<html><body>as ordered</body></html>")),
        (Missing::Empty, Some("")),
        (Missing::Envelope, None),
        (Missing::Agent, None),
    ] {
        let sandbox = start(Options { single_404, ..Options::default() }).await;
        let response = delete(&sandbox, "a", "k", "101").await.unwrap();
        assert_eq!(response.headers()[CORRELATION_ID], "mine", "a gateway echoes it, too");
        let (status, _, said) = heard(Ok(response)).await.unwrap();
        assert_eq!(status, 404);
        match body {
            Some(body) => assert_eq!(said, body),
            None if single_404 == Missing::Agent => assert_envelope(&said, "AGENT_NOT_FOUND"),
            None => assert_envelope(&said, "ENTRY_NOT_FOUND"),
        }
        assert_eq!(delete(&sandbox, "a", "k", "1").await.unwrap().status().as_u16(), 200);
    }
    let sandbox = start(Options { refuse_singles: true, ..Options::default() }).await;
    let (status, _, body) = heard(delete(&sandbox, "a", "k", "1").await).await.unwrap();
    assert_eq!(status, 405);
    assert_envelope(&body, "METHOD_NOT_ALLOWED");
    assert!(!sandbox.is_gone("a", "1"));
    assert_eq!(post(&sandbox, "a", "k", &ids([1])).await.unwrap().status().as_u16(), 200);
}

#[tokio::test]
async fn two_answers_at_the_same_time_are_exchanged_and_a_lone_one_is_not_stuck() {
    let _ = start(Options::default()).await;
    let address = SocketAddr::from(([127, 0, 0, 1], 0));
    let sandbox = Sandbox::start(address, Options { swap_ratio: 1.0, ..Options::default() }).await.unwrap();
    let ask = |name: &'static str, id: u32| {
        let url = format!("{}/v1/agents/a/audio-cache/bulk-delete", sandbox.url());
        let request = Client::new().post(url).header("x-api-key", "k").header(CORRELATION_ID, name).body(ids([id]));
        async move {
            let response = request.send().await.unwrap();
            let echo = response.headers()[CORRELATION_ID].to_str().unwrap().to_owned();
            (echo, json_of(response).await["deleted"][0].as_str().unwrap().to_owned())
        }
    };
    let told = |name: &str, id: &str| (name.to_owned(), id.to_owned());
    assert_eq!(tokio::join!(ask("one", 1), ask("two", 2)), (told("two", "2"), told("one", "1")));
    assert!(sandbox.is_gone("a", "1") && sandbox.is_gone("a", "2"), "both are done");
    assert_eq!(ask("three", 3).await, told("three", "3"));
    // Whoever hangs up leaves nothing behind that another could be given.
    let _ = timeout(Duration::from_millis(50), ask("four", 4)).await;
    assert_eq!(ask("five", 5).await, told("five", "5"));
}

#[tokio::test]
async fn an_ordered_answer_may_repeat_a_header_and_have_a_correlation_id_of_its_own() {
    let sandbox = start(Options::default()).await;
    let headers =
        vec![(CORRELATION_ID, "another".to_owned()), ("retry-after", "2".to_owned()), ("retry-after", "30".to_owned())];
    sandbox.script([Mood::Say { status: 429, headers, body: String::new() }]);
    let response = post(&sandbox, "a", "k", &ids([1])).await.unwrap();
    assert_eq!(response.headers()[CORRELATION_ID], "another");
    assert_eq!(response.headers().get_all("retry-after").iter().collect::<Vec<_>>(), ["2", "30"]);
}

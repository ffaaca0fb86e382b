//! The stand-in is faithful: what the API's page promises, it does.

use std::net::SocketAddr;

use audio_cache_sweeper::{
    api::CORRELATION_ID,
    sandbox::{Options, Sandbox},
};
use reqwest::{Client, Response};
use serde_json::{Value, json};

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
    for (agent, key, query, status) in [
        ("a", "k", "?limit=201", 400),
        ("a", "k", "?limit=0", 400),
        ("a", "k", "?offset=-1", 400),
        ("a", "wrong", "", 401),
        ("locked", "k", "", 403),
        ("nobody", "k", "", 404),
    ] {
        assert_eq!(get(agent, key, query).await.unwrap().status().as_u16(), status, "{agent} {key} {query}");
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

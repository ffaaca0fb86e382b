//! What one request brings back, as whoever judges it gets it: over real HTTP, and without a queue.

use std::time::Duration;

use audio_cache_sweeper::{
    api::{self, Api, Reply, Transport as _},
    model::{
        deletion::{AgentId, Batch, Deletion, DeletionId, EntryId, Lane},
        envelope::Envelope,
        outcome::{Fault, RetryAfter},
        window::Window,
    },
    sandbox::{Mood, Options, Sandbox},
};
use uuid::Uuid;

use crate::{
    bed::KEY,
    daemon::sandbox,
    hostile::{Hostile, Say, answer},
};

fn api(url: &str) -> Api {
    let options = api::Options {
        base_url: url.parse().unwrap(),
        key: KEY.into(),
        proxy: None,
        ca_file: None,
        connect_timeout: Duration::from_secs(5),
        request_timeout: Duration::from_secs(10),
    };
    Api::new(options).unwrap()
}

pub fn batch(entries: &[&str]) -> Batch {
    let rows = entries.iter().zip(1..).map(|(entry, id)| Deletion::new(DeletionId(id), EntryId::parse(entry).unwrap()));
    let lane = Lane { priority: 0, agent: AgentId::parse("a").unwrap(), batch_max: 20 };
    Batch::new(lane, rows.collect()).unwrap()
}

/// The reply to a bulk delete of entry 7 that is answered so.
async fn reply(status: &str, headers: &str, body: &str) -> Reply {
    let hostile = Hostile::start().await;
    hostile.script([Say::Bytes(answer(status, headers, body.as_bytes()))]);
    api(&hostile.url).bulk_delete(&batch(&["7"]), Uuid::from_u128(7)).await
}

#[tokio::test]
async fn every_correlation_id_that_came_back_is_kept_up_to_a_number() {
    let line = |value: &str| format!("X-PolyAI-Correlation-Id: {value}\r\n");
    let headers =
        [line("kong#1"), line("A, b"), line(""), line(&format!("not {KEY}")), line(&"x".repeat(400))].concat();
    for status in ["200 OK", "404 x"] {
        let reply = reply(status, &headers, "{}").await;
        assert_eq!(reply.remote_ids, ["kong#1", "A, b", "", "not [key]", &"x".repeat(300)]);
    }
    let many = reply("200 OK", &line("1").repeat(50), "{}").await;
    assert_eq!(many.remote_ids, ["1"; 8]);
    assert!(reply("200 OK", "", "{}").await.remote_ids.is_empty());
}

#[tokio::test]
async fn the_envelope_of_every_error_comes_along_without_the_key() {
    let ours = Uuid::from_u128(7).to_string();
    let body = serde_json::json!({
        "success": false, "error": "e", "error_id": ours.to_uppercase(), "error_code": "AGENT_NOT_FOUND",
        "error_message": format!("{KEY} knows\nno agent"), "data": null,
    });
    let body = body.to_string();
    for status in ["302 x", "400 x", "404 x", "429 x", "503 x", "520 x"] {
        let reply = reply(status, "", &body).await;
        let envelope = reply.envelope.unwrap();
        assert_eq!(envelope.message.as_deref(), Some("[key] knows no agent"), "{status}");
        assert!(envelope.is_ours(&ours) && envelope.speaks_of_something_else(), "{status}");
        assert!(!envelope.is_word_about_the_entry(&ours), "{status}");
    }
    assert_eq!(reply("200 OK", "", &body).await.envelope, None);
    let padded = format!("{}{body}", " ".repeat(16 << 10));
    for other in ["", "<html>", r#"{"message":"no Route matched with those values"}"#, &padded] {
        assert_eq!(reply("404 x", "", other).await.envelope, None, "{other}");
    }
    let long = format!(r#"{{"success":false,"error_code":"{}"}}"#, "X".repeat(1_000));
    assert_eq!(reply("404 x", "", &long).await.envelope.map(|envelope| envelope.code.len()), Some(300));
}

#[tokio::test]
async fn the_windows_that_headers_tell_come_with_any_answer() {
    let headers = "RateLimit-Policy: \"a\";q=100;w=60\r\nrAtElImIt: \"a\";r=50;t=30\r\nX-RateLimit-Limit-Hour: -1\r\n";
    let window = Window {
        limit: Some(100),
        length: Some(Duration::from_secs(60)),
        remaining: Some(50),
        reset: Some(Duration::from_secs(30)),
    };
    for status in ["200 OK", "404 x", "429 x", "503 x"] {
        assert_eq!(reply(status, headers, "{}").await.windows, [window], "{status}");
    }
    let long = format!("RateLimit-Policy: \"{}\";q=1;w=60\r\n", "a".repeat(200_000));
    let reply = reply("200 OK", &long, r#"{"deleted":["7"]}"#).await;
    assert_eq!((reply.windows, reply.result.is_ok()), (vec![], true), "no answer is lost by it");
}

#[tokio::test]
async fn retry_after_comes_with_any_error_and_a_date_counts_from_the_answer_s_own() {
    let wish = |reply: Reply| match reply.result {
        Err(Fault::Status { retry_after, .. }) => retry_after,
        other => panic!("{other:?}"),
    };
    let then = "retry-after: Sun, 06 Nov 1994 08:49:37 UTC\r\n";
    for status in ["404 x", "429 x", "500 x", "503 x"] {
        let two = reply(status, "retry-after: 2\r\nretry-after: 30\r\n", "").await;
        assert_eq!(wish(two), Some(RetryAfter::Seconds(30)), "{status}");
        let dated = reply(status, &format!("date: Sun, 06 Nov 1994 08:49:07 GMT\r\n{then}"), "").await;
        assert_eq!(wish(dated), Some(RetryAfter::Seconds(30)), "{status}");
        let undated = wish(reply(status, then, "").await);
        assert!(matches!(undated, Some(RetryAfter::At(at)) if at.0 == 784_111_777_000), "{status}: {undated:?}");
    }
}

#[tokio::test]
async fn a_single_delete_may_have_a_byte_order_mark_too() {
    let hostile = Hostile::start().await;
    hostile.script([Say::Bytes(answer("200 OK", "", "\u{feff}{\"success\":true}".as_bytes()))]);
    let reply = api(&hostile.url).delete_one(&batch(&["7"]), Uuid::from_u128(7)).await;
    assert_eq!(reply.result.unwrap().deleted, ["7"]);
}

async fn ask(api: &Api, sandbox: &Sandbox) -> (bool, usize) {
    let reply = api.bulk_delete(&batch(&["7"]), Uuid::from_u128(7)).await;
    (reply.result.is_ok(), sandbox.connections())
}

#[tokio::test]
async fn after_reconnecting_no_connection_is_used_again_and_what_is_in_flight_ends_on_its_own() {
    let sandbox = sandbox(Options::default()).await;
    let api = api(&sandbox.url());
    assert_eq!(ask(&api, &sandbox).await, (true, 1));
    assert_eq!(ask(&api, &sandbox).await, (true, 1), "kept open");
    api.reconnect();
    assert_eq!(ask(&api, &sandbox).await, (true, 2));
    assert_eq!(ask(&api, &sandbox).await, (true, 2), "kept open again");
    sandbox.script([Mood::Gate]);
    let eight = batch(&["8"]);
    let in_flight = api.bulk_delete(&eight, Uuid::from_u128(8));
    let meanwhile = async {
        sandbox.arrived(5).await;
        api.reconnect();
        let asked = ask(&api, &sandbox).await;
        sandbox.open_gate();
        asked
    };
    let (in_flight, meanwhile) = tokio::join!(in_flight, meanwhile);
    assert!(in_flight.result.is_ok());
    assert_eq!(meanwhile, (true, 3));
    assert_eq!(ask(&api, &sandbox).await, (true, 3), "the old connection is not taken up again");
}

#[tokio::test]
async fn the_sandbox_s_missing_entry_is_the_api_s_own_word_and_its_missing_agent_is_not() {
    let sandbox = sandbox(Options { agents: vec![("a".to_owned(), 7)], ..Options::default() }).await;
    let api = api(&sandbox.url());
    let ours = Uuid::from_u128(0xabcd);
    let word =
        |reply: Reply| reply.envelope.is_some_and(|said: Envelope| said.is_word_about_the_entry(&ours.to_string()));
    assert!(word(api.delete_one(&batch(&["8"]), ours).await));
    sandbox.script([Mood::status(404), Mood::Refuse { status: 404, code: "AGENT_NOT_FOUND", message: "" }]);
    assert!(word(api.delete_one(&batch(&["8"]), ours).await), "a scripted status is the API's own word, too");
    assert!(!word(api.delete_one(&batch(&["8"]), ours).await));
}

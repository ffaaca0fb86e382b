//! The endpoint's contract: exactly what goes over the wire.

use audio_cache_sweeper::{
    api::key::KeySource,
    model::{deletion::State, outcome::Cause},
    sandbox::Mood,
};

use super::{
    bed::{Bed, KEY, Plan, status_with},
    engine::Engine,
    tests,
};

pub async fn a_request_is_exactly_what_the_endpoint_s_page_says<E: Engine>() {
    let mut bed = Bed::<E>::new(Plan::default()).await;
    bed.insert(&[("PROJECT-58RP822I", "17"), ("PROJECT-58RP822I", "18")]).await;
    bed.work().await;
    let [request] = &bed.sandbox.requests()[..] else { panic!("one request") };
    assert_eq!(request.method, "POST");
    assert_eq!(request.uri, "/v1/agents/PROJECT-58RP822I/audio-cache/bulk-delete");
    assert_eq!(request.body, r#"{"ids":["17","18"]}"#);
    let header = |name: &str| request.headers.get(name).map(|value| value.to_str().unwrap().to_owned());
    assert_eq!(header("x-api-key").as_deref(), Some(KEY));
    assert_eq!(header("content-type").as_deref(), Some("application/json"));
    assert_eq!(header("content-length").as_deref(), Some("19"));
    let correlation_id = header("x-polyai-correlation-id").unwrap();
    assert_eq!(correlation_id.parse::<uuid::Uuid>().unwrap().get_version_num(), 4);
    let rows: Vec<i64> = bed.rows().await.iter().map(|row| row.id).collect();
    let [written] = &bed.requests().await[..] else { panic!("one request") };
    assert_eq!((&written.correlation_id, &written.rows), (&correlation_id, &rows));
    assert_eq!((written.remote_id.as_ref(), written.status), (Some(&correlation_id), Some(200)));
}

pub async fn before_an_id_is_sent_the_database_says_so<E: Engine>() {
    let mut bed = Bed::<E>::new(Plan::default()).await;
    bed.sandbox.script([Mood::Gate]);
    bed.insert(&[("a", "1")]).await;
    assert_eq!(bed.worker.turn().await.unwrap().sent, 1);
    let id = bed.rows().await[0].id;
    let [written] = &bed.requests().await[..] else { panic!("one request") };
    assert_eq!((&written.rows[..], written.answered_at), (&[id][..], None), "written, and not answered yet");
    bed.sandbox.open_gate();
    bed.work().await;
    assert_eq!(bed.count_in(State::Deleted).await, 1);
}

pub async fn every_agent_id_that_the_table_takes_is_one_segment_of_the_path<E: Engine>() {
    let mut bed = Bed::<E>::new(Plan::default()).await;
    let agents = ["%2e%2e", "a?b#c", "...", "a%2Fb", "a;b:c@d&e=f+g", "\"<>'"];
    for agent in agents {
        bed.insert(&[(agent, "1")]).await;
    }
    bed.work().await;
    assert_eq!(bed.count_in(State::Deleted).await, 6);
    for agent in agents {
        assert!(bed.sandbox.is_gone(agent, "1"), "{agent}");
    }
}

pub async fn a_redirect_is_not_followed_and_the_key_goes_nowhere_else<E: Engine>() {
    let elsewhere = Bed::<E>::new(Plan::default()).await;
    let mut bed = Bed::<E>::new(Plan::default()).await;
    let location = format!("{}/v1/agents/a/audio-cache/bulk-delete", elsewhere.sandbox.url());
    bed.sandbox.script([status_with(307, "location", &location)]);
    bed.insert(&[("a", "1")]).await;
    bed.work().await;
    assert_eq!(elsewhere.sandbox.requests().len(), 0);
    let faults: Vec<Option<Cause>> = bed.requests().await.iter().map(|request| request.fault).collect();
    assert_eq!(faults, [Some(Cause::Contract)]);
}

pub async fn a_new_key_in_the_file_is_found_after_a_401_or_a_403_without_a_restart<E: Engine>() {
    for status in [401, 403] {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("key");
        std::fs::write(&file, "old\n").unwrap();
        let mut bed = Bed::<E>::new(Plan { key: KeySource::File(file.clone()), ..Plan::default() }).await;
        bed.sandbox.script([Mood::status(status)]);
        bed.insert(&[("a", "1")]).await;
        std::fs::write(&file, format!("{KEY}\n")).unwrap();
        bed.work().await;
        assert_eq!(bed.holds().await, [], "nothing that needs a person");
        bed.clock.advance(bed.plan.settings.linger);
        bed.work().await;
        assert_eq!(bed.sandbox.requests().iter().map(|request| request.status).collect::<Vec<_>>(), [status, 200]);
        assert_eq!(bed.count_where(|row| row.is(State::Deleted) && row.attempts == 1).await, 1);
    }
}

tests!($ contract:
    a_request_is_exactly_what_the_endpoint_s_page_says,
    before_an_id_is_sent_the_database_says_so,
    every_agent_id_that_the_table_takes_is_one_segment_of_the_path,
    a_redirect_is_not_followed_and_the_key_goes_nowhere_else,
    a_new_key_in_the_file_is_found_after_a_401_or_a_403_without_a_restart,
);

//! The leader's session: who has the lock, and what becomes of a session that ends.

use audio_cache_sweeper::{
    model::clock::Clock,
    queue::{
        Queue as _, QueueError as _, Remedy, Tx as _,
        postgres::{OpenError, Store},
    },
};

use super::scene;
use crate::{
    cluster::{OWNER, cluster},
    daemon::{Daemon, sweeper},
    engines::postgres::{Postgres, open},
    suite::{
        engine::{Engine as _, Wish},
        seam::{NOW, Seam, lane},
    },
};

/// Ends the sessions of daemons in this database, as a restart of the server does.
async fn end_sessions(engine: &mut Postgres) {
    let end = "SELECT count(pg_terminate_backend(pid, 5000)) FROM pg_stat_activity
               WHERE datname = current_database() AND application_name = 'sweeper leader'";
    assert_eq!(engine.query::<(i64,)>(end).await, [(1,)]);
}

/// The rows of the lane `a` that are due.
async fn due(seam: &mut Seam<Postgres>) -> usize {
    let mut tx = seam.queue.begin().await.unwrap();
    tx.look(&[lane("a")], 20, &[], false, NOW).await.unwrap()[0].due.len()
}

#[tokio::test]
async fn a_second_daemon_is_refused_and_told_who_works_on_the_queue() {
    let Some(seam) = scene().await else { return };
    let options = seam.engine.options.clone();
    let error = Store::open(options.clone(), &Clock::system()).await.unwrap_err();
    assert!(matches!(error, OpenError::Taken { holder: Some(_), .. }), "{error}");
    let (error, address) = (error.to_string(), seam.engine.address());
    assert!(
        error.starts_with(&format!("database {address}: another sweeper works on this queue (user sweeper from")),
        "{error}"
    );
    // After a good end, the next one needs no patience.
    let epoch = seam.queue.epoch();
    seam.queue.close().await.unwrap();
    let next = open(&options).await;
    assert_eq!(next.epoch(), epoch + 1);
}

#[tokio::test]
async fn of_two_that_start_at_the_same_time_one_leads() {
    let Some(seam) = scene().await else { return };
    let options = seam.engine.options.clone();
    seam.queue.close().await.unwrap();
    let (one, other) = loop {
        // The session of before may have the lock for a moment yet.
        let clock = Clock::system();
        let both = tokio::join!(Store::open(options.clone(), &clock), Store::open(options.clone(), &clock));
        if both.0.is_ok() || both.1.is_ok() {
            break both;
        }
    };
    assert!(one.is_ok() != other.is_ok());
    let refused = one.err().or(other.err()).unwrap();
    assert!(matches!(refused, OpenError::Taken { .. }), "{refused}");
}

#[tokio::test]
async fn a_leader_whose_session_ends_goes_on_in_another_one_and_has_lost_nothing() {
    let Some(mut seam) = scene().await else { return };
    seam.enqueue(&[Wish::of("a", "1"), Wish::of("a", "2")]).await;
    let epoch = seam.queue.epoch();
    assert_eq!(due(&mut seam).await, 2);
    for cut in ["before", "inside"] {
        if cut == "before" {
            end_sessions(&mut seam.engine).await;
        } else {
            let mut tx = seam.queue.begin().await.unwrap();
            tx.look(&[lane("a")], 20, &[], false, NOW).await.unwrap();
            end_sessions(&mut seam.engine).await;
            let error = tx.look(&[lane("a")], 20, &[], false, NOW).await.unwrap_err();
            assert_eq!(error.remedy(), Remedy::Wait, "{error}");
            seam.queue.undo().await;
        }
        seam.engine.enqueue(&[Wish::of("a", cut)]).await;
        // The first use tells that the session is gone, unless it was replaced by then.
        let changed = match seam.queue.changed().await {
            Ok(changed) => changed,
            Err(error) => {
                assert_eq!(error.remedy(), Remedy::Wait, "{error}");
                seam.queue.changed().await.unwrap()
            }
        };
        assert!(changed, "{cut}: whatever became of the session, there may be news");
        assert_eq!(seam.queue.epoch(), epoch, "nobody else has led");
    }
    assert_eq!(due(&mut seam).await, 4);
}

#[tokio::test]
async fn who_was_deposed_while_its_session_was_gone_neither_writes_nor_reads_any_more() {
    let Some(mut seam) = scene().await else { return };
    end_sessions(&mut seam.engine).await;
    let next = open(&seam.engine.options).await;
    assert_eq!(seam.queue.can_write().await.unwrap_err().remedy(), Remedy::Wait, "the session is gone");
    let error = seam.queue.can_write().await.unwrap_err();
    assert_eq!(error.remedy(), Remedy::Lost, "{error}");
    next.close().await.unwrap();
    assert!(error.to_string().contains("another sweeper works on this queue now"), "{error}");
    // For good, and it does not keep the lock from others.
    assert_eq!(seam.queue.check_owner().unwrap_err().remedy(), Remedy::Lost);
    assert_eq!(seam.queue.changed().await.unwrap_err().remedy(), Remedy::Lost);
    open(&seam.engine.options).await;
}

#[tokio::test]
async fn tables_of_a_newer_program_are_left_alone() {
    let Some(mut seam) = scene().await else { return };
    let newer = "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
                 VALUES (99, 'newer', true, '', 0)";
    seam.engine.execute(newer).await;
    seam.queue.close().await.unwrap();
    let error = loop {
        let error = Store::open(seam.engine.options.clone(), &Clock::system()).await.unwrap_err();
        if !matches!(error, OpenError::Taken { .. }) {
            break error;
        }
    };
    seam.engine.execute("DELETE FROM _sqlx_migrations WHERE version = 99").await;
    assert!(matches!(error, OpenError::Newer { version: 99, .. }), "{error}");
}

#[tokio::test]
async fn a_daemon_says_whether_it_made_the_tables() {
    let Some(server) = cluster() else { return };
    let (dir, name) = (tempfile::tempdir().unwrap(), server.make_database("template1").await);
    for created in ["true", "false"] {
        let mut command = sweeper(dir.path());
        command.env("SWEEPER__DATABASE__URL", server.url(OWNER, &name)).env("SWEEPER__API__KEY", "k");
        let daemon = Daemon::start(command).until("leading").await;
        daemon.signal("TERM");
        let (code, log) = daemon.ended().await;
        assert_eq!((code, log.last("started", "created").as_str()), (0, created), "{log:#?}");
    }
}

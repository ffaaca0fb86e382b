//! What `check` says of a queue on a server.

use audio_cache_sweeper::queue::postgres::Grant;
use sqlx::AssertSqlSafe;

use crate::{
    cluster::cluster,
    daemon::{finish, sweeper},
    engines::postgres::Postgres,
    suite::bed::{Bed, Plan},
};

async fn check(url: &str) -> (i32, String) {
    check_with(url, &[]).await
}

async fn check_with(url: &str, variables: &[(&str, &str)]) -> (i32, String) {
    let dir = tempfile::tempdir().unwrap();
    let mut command = sweeper(dir.path());
    command.arg("check").env("SWEEPER__DATABASE__URL", url).env("SWEEPER__API__KEY", "a-key-that-is-long-enough");
    command.envs(variables.iter().copied());
    let (code, out, err) = finish(command).await;
    assert_eq!(err, "");
    // A line is broken at spaces.
    (code, out.split_whitespace().collect::<Vec<_>>().join(" "))
}

#[tokio::test]
async fn it_tells_of_the_server_the_tables_the_rights_and_who_leads() {
    let Some(server) = cluster() else { return };
    let mut bed = Bed::<Postgres>::new(Plan::default()).await;
    let name = bed.engine.database.name().to_owned();
    let (code, out) = check(&bed.engine.database.url()).await;
    assert_eq!(code, 0, "{out}");
    let process = std::process::id();
    for said in [
        &*format!("database ok {name} at "),
        ", PostgreSQL ",
        "tls ok not encrypted; the server is on this machine",
        "tables ok up to date",
        "owns the tables: it may run a daemon, and every command",
        &*format!("daemon ok running as process {process} since "),
        " leads, epoch ",
    ] {
        assert!(out.contains(said), "{said}: {out}");
    }
    let mut admin = server.connect("postgres", &name).await;
    for role in ["checker_none", "checker_producer", "checker_operator"] {
        sqlx::raw_sql(AssertSqlSafe(format!("CREATE ROLE {role} LOGIN"))).execute(&mut admin).await.unwrap();
    }
    for (role, grant) in [("checker_producer", Grant::Producer), ("checker_operator", Grant::Operator)] {
        for statement in grant.statements(role) {
            bed.engine.execute(&statement).await;
        }
    }
    for (role, expected, said) in [
        ("checker_none", 1, "tables NOT database"),
        (
            "checker_producer",
            0,
            "may enqueue, and not see the queue; `sweeper grant --operator checker_producer` lets it",
        ),
        ("checker_operator", 0, "may run every command except run, init and grant; the server hides the addresses"),
    ] {
        let (code, out) = check(&server.url(role, &name)).await;
        assert!(code == expected && out.contains(said), "{role}: {code} {out}");
    }
}

#[tokio::test]
async fn a_database_without_tables_is_no_fault_and_a_server_that_is_not_there_is_one() {
    let Some(server) = cluster() else { return };
    let name = server.make_database("template1").await;
    let (code, out) = check(&server.url(crate::cluster::OWNER, &name)).await;
    assert!(code == 0 && out.contains("tables - not made yet; `sweeper init` or the first daemon makes them"), "{out}");
    assert!(out.contains("rights ok sweeper may make the tables"), "{out}");
    let mut admin = server.connect("postgres", &name).await;
    sqlx::raw_sql("CREATE ROLE \"no maker\" LOGIN").execute(&mut admin).await.unwrap();
    let (code, out) = check(&server.url("no%20maker", &name)).await;
    let said = format!(
        "rights NOT no maker may not make the tables: a superuser runs GRANT CREATE ON DATABASE \"{name}\" TO \"no maker\" once"
    );
    assert!(code == 1 && out.contains(&said), "{out}");
    let (code, out) = check("postgres://ann:s3cret-word@127.0.0.1:1/app").await;
    assert!(code == 1 && out.contains("database NOT database app at 127.0.0.1:1: connect: "), "{out}");
    assert!(!out.contains("s3cret-word"), "{out}");
}

/// Also if the server, which is on this machine, is reached without TLS, or not at all: later it may not be so.
#[tokio::test]
async fn the_file_of_trusted_issuers_is_read_whether_it_is_needed_or_not() {
    let Some(server) = cluster() else { return };
    let name = server.make_database("template1").await;
    let dir = tempfile::tempdir().unwrap();
    let (good, bad) = (dir.path().join("good.pem"), dir.path().join("bad.pem"));
    std::fs::write(&good, crate::tls::Authority::new().pem).unwrap();
    std::fs::write(&bad, "nothing\n").unwrap();
    let [good, bad] = [good, bad].map(|path| path.display().to_string());
    for url in [server.url(crate::cluster::OWNER, &name), "postgres://ann@127.0.0.1:1/app".to_owned()] {
        let (_, out) = check_with(&url, &[("SWEEPER__DATABASE__CA_FILE", &good)]).await;
        assert!(out.contains(&format!("issuers ok database.ca_file {good}: 1 certificate")), "{out}");
        let (code, out) = check_with(&url, &[("SWEEPER__DATABASE__CA_FILE", &bad)]).await;
        let said = format!("issuers NOT database.ca_file {bad}: has no certificate in PEM format in it");
        assert!(code == 1 && out.contains(&said), "{out}");
    }
}

//! What a role may see with the binary, and what it is told if it may not.

use audio_cache_sweeper::{
    model::deletion::AgentId,
    queue::postgres::{Address, Grant, Options, Reader},
};
use sqlx::AssertSqlSafe;

use super::scene;
use crate::{
    cluster::cluster,
    daemon::{finish, sweeper},
};

const PASSWORD: &str = "s3cret-word";

#[tokio::test]
async fn a_role_sees_what_its_rights_allow_and_is_told_how_to_get_those_that_it_lacks() {
    let Some(mut seam) = scene().await else { return };
    let server = cluster().unwrap();
    let name = seam.engine.database.name().to_owned();
    let mut admin = server.connect("postgres", &name).await;
    let told = async |role: &str, arguments: &[&str]| {
        let dir = tempfile::tempdir().unwrap();
        let mut command = sweeper(dir.path());
        // The server asks for no password, so any will do.
        let url = server.url(&format!("{role}:{PASSWORD}"), &name);
        command.env("SWEEPER__DATABASE__URL", url).args(arguments);
        let (code, out, err) = finish(command).await;
        assert!(!out.contains(PASSWORD) && !err.contains(PASSWORD), "{out}{err}");
        (code, out, err)
    };
    for role in ["looker_none", "looker_producer", "looker_operator"] {
        sqlx::raw_sql(AssertSqlSafe(format!("CREATE ROLE {role} LOGIN"))).execute(&mut admin).await.unwrap();
    }
    for (role, grant) in [("looker_producer", Grant::Producer), ("looker_operator", Grant::Operator)] {
        for statement in grant.statements(role) {
            seam.engine.execute(&statement).await;
        }
    }
    seam.engine.execute("INSERT INTO deletions (agent_id, entry_id) VALUES ('a', '1')").await;
    let looks: [&[&str]; 5] = [&["status"], &["status", "--label", "T"], &["plan"], &["list"], &["show", "a", "1"]];
    for look in looks {
        let (code, _, err) = told("looker_none", look).await;
        assert!(code == 3 && err.contains("may not use the schema sweeper"), "{look:?}: {code} {err}");
        let (code, _, err) = told("looker_producer", look).await;
        assert!(code == 3 && err.contains("permission denied for table "), "{look:?}: {code} {err}");
        assert!(err.contains("`sweeper grant --operator looker_producer`"), "{look:?}: {err}");
        assert!(err.contains(&format!("database {name} at ")), "{look:?}: {err}");
        let (code, out, err) = told("looker_operator", look).await;
        let is_unknown = look.contains(&"T");
        assert_eq!(code, i32::from(is_unknown), "{look:?}: {out}{err}");
    }
    // With --from-cache, a producer keeps to the holds and leaves the daemon its share of the rate.
    let address = Address::parse(&[server.url("looker_producer", &name)]).unwrap();
    let options = Options { address, ..seam.engine.options.clone() };
    let limits = Reader::open(&options).await.unwrap().shared_limits(&AgentId::parse("a").unwrap()).await.unwrap();
    assert!(limits.holds.is_empty() && limits.requests_per_second.is_none());
    // The server does not show an operator from where the sessions of others come.
    let (_, page, _) = told("looker_operator", &["status"]).await;
    assert!(page.contains("\nleader     ") && page.contains(", session "), "{page}");
}

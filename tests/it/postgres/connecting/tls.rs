//! TLS to the server, its files, and what answers on the port.

use std::fs;

use tempfile::TempDir;

use super::{
    front::{Act, Front},
    said,
};
use crate::{
    cluster::{OWNER, cluster},
    tls::Authority,
};

const LET_IN: &str = "there is no queue in it yet";
const CA_FILE: &str = "SWEEPER__DATABASE__CA_FILE";

/// A server behind TLS, and a directory with its authority's certificate and another one's.
struct Scene {
    database: String,
    authority: Authority,
    dir: TempDir,
}

impl Scene {
    async fn new() -> Option<Self> {
        let (database, authority) = (cluster()?.make_database("template1").await, Authority::new());
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("ca.pem"), &authority.pem).unwrap();
        fs::write(dir.path().join("other.pem"), Authority::new().pem).unwrap();
        Some(Self { database, authority, dir })
    }

    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).display().to_string()
    }

    async fn front(&self, name: &str, is_expired: bool) -> Front {
        Front::new(Act::Tls(self.authority.acceptor(name, is_expired))).await
    }

    fn url(&self, front: &Front, parameters: &str) -> String {
        format!("postgres://{OWNER}@localhost:{}/{}?sslmode=verify-full{parameters}", front.port(), self.database)
    }

    async fn said(&self, url: &str, variables: &[(&str, &str)]) -> String {
        said(self.dir.path(), url, variables).await
    }
}

#[tokio::test]
async fn a_certificate_that_is_not_believed_is_told_with_the_setting_that_would_have_it_believed() {
    let Some(scene) = Scene::new().await else { return };
    let front = scene.front("localhost", false).await;
    let (url, ca, other) = (scene.url(&front, ""), scene.path("ca.pem"), scene.path("other.pem"));
    assert!(scene.said(&url, &[(CA_FILE, &ca)]).await.contains(LET_IN));
    assert!(scene.said(&scene.url(&front, &format!("&sslrootcert={ca}")), &[]).await.contains(LET_IN));
    let said = scene.said(&url, &[]).await;
    assert!(
        said.contains(
            "invalid peer certificate: UnknownIssuer: the system's store has no such issuer; name a PEM file"
        ),
        "{said}"
    );
    let said = scene.said(&url, &[(CA_FILE, &other)]).await;
    assert!(
        said.contains(&format!("nobody in database.ca_file {other}, nor in the system's store, has issued")),
        "{said}"
    );
    let another = scene.front("db.example", false).await;
    let said = scene.said(&scene.url(&another, ""), &[(CA_FILE, &ca)]).await;
    assert!(
        said.contains("not valid for name \"localhost\"") && said.contains("database.url must name the host as"),
        "{said}"
    );
    let expired = scene.front("localhost", true).await;
    let said = scene.said(&scene.url(&expired, ""), &[(CA_FILE, &ca)]).await;
    assert!(said.contains("expired") && said.contains("renew the server's certificate"), "{said}");
}

#[tokio::test]
async fn a_file_of_certificates_that_cannot_be_used_is_named_with_its_setting() {
    let Some(scene) = Scene::new().await else { return };
    let front = scene.front("localhost", false).await;
    let write = |name: &str, text: &str| fs::write(scene.dir.path().join(name), text).unwrap();
    write("empty.pem", "");
    write("text.pem", "no certificate\n");
    write("broken.pem", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
    let problems = [
        ("missing.pem", "No such file or directory"),
        ("empty.pem", "has no certificate in PEM format in it; name a PEM file with the issuer's certificate"),
        ("text.pem", "has no certificate in PEM format in it"),
        ("broken.pem", "its certificate 1 cannot be used: "),
        (".", "names a directory"),
    ];
    for (name, problem) in problems {
        let path = scene.path(name);
        let said = scene.said(&scene.url(&front, ""), &[(CA_FILE, &path)]).await;
        assert!(said.contains("database.ca_file") && said.contains(problem), "{name}: {said}");
    }
    for (parameters, problem) in [
        (
            "sslrootcert=missing.pem",
            format!("sslrootcert in database.url: {}: No such file", scene.path("missing.pem")),
        ),
        ("sslcert=ca.pem", "database.url has sslcert without sslkey; give both".to_owned()),
        ("sslkey=ca.pem", "database.url has sslkey without sslcert; give both".to_owned()),
        ("sslcert=none.pem&sslkey=ca.pem", format!("sslcert {} in database.url: No such file", scene.path("none.pem"))),
        (
            "sslcert=text.pem&sslkey=ca.pem",
            format!("sslcert {} in database.url: has no certificate", scene.path("text.pem")),
        ),
        (
            "sslcert=ca.pem&sslkey=ca.pem",
            format!("sslkey {} in database.url: has no private key", scene.path("ca.pem")),
        ),
    ] {
        let said = scene.said(&scene.url(&front, &format!("&{parameters}")), &[]).await;
        assert!(said.contains(&problem), "{parameters}: {said}\n{problem}");
    }
    let both = scene.said(&scene.url(&front, "&sslrootcert=ca.pem"), &[(CA_FILE, "ca.pem")]).await;
    assert!(both.contains("the URL has sslrootcert, and ca_file is given, too; give one of them"), "{both}");
    let empty = scene.said(&scene.url(&front, ""), &[(CA_FILE, "")]).await;
    assert!(empty.contains("database.ca_file = \"\": must name a file (set by SWEEPER__DATABASE__CA_FILE)"), "{empty}");
}

#[tokio::test]
async fn a_server_without_tls_is_refused_with_what_would_do_without_and_its_danger() {
    let Some(scene) = Scene::new().await else { return };
    let front = Front::new(Act::Say(b"N")).await;
    // To whoever does not look it up, this host is another machine.
    let far = format!("postgres://{OWNER}@127.1:{}/{}", front.port(), scene.database);
    let danger = "sslmode=disable in database.url does without TLS: then everybody on the way reads the data, and any server that \
                  answers under this name gets the password";
    // The environment does not weaken the default.
    for variables in [&[][..], &[("PGSSLMODE", "disable")], &[("PGSSLMODE", "prefer")]] {
        let said = scene.said(&far, variables).await;
        let why =
            "the server does not support TLS, and sslmode=verify-full is the default for a server on another machine";
        assert!(said.contains(why) && said.contains(danger), "{variables:?}: {said}");
    }
    let said = scene.said(&scene.url(&front, ""), &[]).await;
    assert!(said.contains("and database.url asks for it with sslmode=verify-full") && said.contains(danger), "{said}");
}

#[tokio::test]
async fn the_environment_fills_in_what_the_url_leaves_out_and_does_not_say_who_is_trusted() {
    let Some(scene) = Scene::new().await else { return };
    let front = scene.front("localhost", false).await;
    let ca = scene.path("ca.pem");
    let said = scene.said(&scene.url(&front, ""), &[("PGSSLROOTCERT", &ca)]).await;
    assert!(said.contains("UnknownIssuer"), "{said}");
    let port = front.port().to_string();
    let url = format!("postgres://localhost/{}?sslmode=verify-full", scene.database);
    let said =
        scene.said(&url, &[(CA_FILE, &ca), ("PGPORT", &port), ("PGUSER", OWNER), ("PGSSLMODE", "disable")]).await;
    assert!(said.contains(LET_IN) && said.contains(&format!("at localhost:{port}: ")), "{said}");
    let directory = cluster().unwrap().dir().display().to_string();
    let url = format!("postgres:///{}", scene.database);
    let said = scene.said(&url, &[("PGHOST", &directory), ("PGUSER", OWNER)]).await;
    assert!(said.contains(LET_IN) && said.contains(&format!("at {directory}: ")), "{said}");
    let nowhere = scene.said(&url, &[("PGHOST", &scene.path("")), ("PGUSER", OWNER)]).await;
    assert!(
        nowhere.contains("there is no socket ") && nowhere.contains(".s.PGSQL.5432: does the server run"),
        "{nowhere}"
    );
    let key = ("PGSSLKEY", "nowhere.key");
    let said = scene.said(&scene.url(&front, ""), &[(CA_FILE, &ca), ("PGSSLCERT", "nowhere.pem"), key]).await;
    assert!(said.contains("a file that PGSSLCERT or PGSSLKEY names is not there"), "{said}");
}

#[tokio::test]
async fn what_is_no_postgresql_is_told_to_be_none() {
    let Some(scene) = Scene::new().await else { return };
    let http: &[u8] = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n";
    let not = "what listens there does not speak as PostgreSQL does";
    let closed = "what listens there closed the connection without an answer that PostgreSQL gives";
    let silent = "the server does not answer: nothing there can be reached, or what listens there stands still, or is no PostgreSQL";
    for (act, mode, expected) in [
        (Act::Say(http), "prefer", not),
        (Act::Say(http), "verify-full", not),
        (Act::Close, "prefer", closed),
        (Act::Close, "disable", closed),
        (Act::BeSilent, "prefer", silent),
        (Act::BeSilent, "disable", silent),
    ] {
        let front = Front::new(act).await;
        let url = format!("postgres://{OWNER}@127.0.0.1:{}/{}?sslmode={mode}", front.port(), scene.database);
        let said = scene.said(&url, &[]).await;
        assert!(said.contains(expected), "{mode}: {said}\n{expected}");
        assert_eq!(said.lines().count(), 1, "{said}");
    }
}

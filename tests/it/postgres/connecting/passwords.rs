//! The password: where it comes from, and what is said if it is wrong or missing.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path, time::Duration};

use sqlx::AssertSqlSafe;
use tokio::time::sleep;

use super::said;
use crate::cluster::{Cluster, cluster};

const ROLE: &str = "with_password";
const RIGHT: &str = "s3cret-word";
const WRONG: &str = "other-word";

/// A URL, variables of the environment, and a part of what is said.
type Case<'c> = (String, &'c [(&'c str, &'c str)], String);

/// A role that the server asks for a password.
async fn make_role(server: &Cluster, database: &str) {
    let mut admin = server.connect("postgres", database).await;
    let make = format!("CREATE ROLE {ROLE} LOGIN PASSWORD '{RIGHT}'");
    sqlx::raw_sql(AssertSqlSafe(make)).execute(&mut admin).await.unwrap();
    let rules = server.dir().join("data/pg_hba.conf");
    let others = fs::read_to_string(&rules).unwrap();
    fs::write(&rules, format!("local all {ROLE} scram-sha-256\n{others}")).unwrap();
    sqlx::raw_sql("SELECT pg_reload_conf()").execute(&mut admin).await.unwrap();
    for _ in 0..500 {
        let known = "SELECT count(*) FROM pg_hba_file_rules WHERE 'with_password' = ANY (user_name)";
        let known: i64 = sqlx::query_scalar(known).fetch_one(&mut admin).await.unwrap();
        let url = server.url(ROLE, database);
        let options: sqlx::postgres::PgConnectOptions = url.parse().unwrap();
        if known == 1 && sqlx::ConnectOptions::connect(&options.password(WRONG)).await.is_err() {
            return;
        }
        sleep(Duration::from_millis(10)).await;
    }
    panic!("the server does not ask for a password");
}

fn file(dir: &Path, name: &str, text: &str) -> String {
    let path = dir.join(name);
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    path.display().to_string()
}

#[tokio::test]
async fn a_wrong_or_missing_password_is_told_with_the_place_that_it_is_from() {
    let Some(server) = cluster() else { return };
    let database = server.make_database("template1").await;
    make_role(server, &database).await;
    let (files, dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let with = |password: &str| server.url(&format!("{ROLE}{password}"), &database);
    let [right, wrong] = [RIGHT, WRONG].map(|word| file(files.path(), word, &format!("{word}\n")));
    let [right_pass, wrong_pass] =
        [RIGHT, WRONG].map(|word| file(files.path(), &format!("pass-{word}"), &format!("*:*:*:*:{word}\n")));
    let in_file = "SWEEPER__DATABASE__PASSWORD_FILE";
    let let_in = "there is no queue in it yet";
    let is_wrong = format!("password authentication failed for user \"{ROLE}\": the password is from ");
    let cases: [Case<'_>; 10] = [
        (with(&format!(":{RIGHT}")), &[], let_in.to_owned()),
        (with(&format!(":{WRONG}")), &[], format!("{is_wrong}database.url; put the right one there")),
        (with(""), &[(in_file, &right)], let_in.to_owned()),
        (with(""), &[(in_file, &wrong)], format!("{is_wrong}database.password_file {wrong}; put the right one there")),
        (with(""), &[("PGPASSWORD", RIGHT)], let_in.to_owned()),
        (with(""), &[("PGPASSWORD", WRONG)], format!("{is_wrong}the environment variable PGPASSWORD; put")),
        (with(""), &[("PGPASSFILE", &right_pass)], let_in.to_owned()),
        (with(""), &[("PGPASSFILE", &wrong_pass)], format!("{is_wrong}the file of PGPASSFILE, or ~/.pgpass; put")),
        // What is configured goes before what the environment has.
        (with(""), &[(in_file, &wrong), ("PGPASSWORD", RIGHT)], format!("{is_wrong}database.password_file {wrong}")),
        (
            with(""),
            &[],
            "no password was given. Name a file with it in database.password_file; or give it in the URL, from \
             SWEEPER__DATABASE__URL, or in PGPASSWORD; or in the file of PGPASSFILE"
                .to_owned(),
        ),
    ];
    for (url, variables, expected) in cases {
        let home = [("HOME", dir.path().to_str().unwrap())];
        let variables: Vec<(&str, &str)> = variables.iter().copied().chain(home).collect();
        let said = said(dir.path(), &url, &variables).await;
        assert!(said.contains(&expected), "{variables:?}: {said}\n{expected}");
        // Of a path, the name of a file may be.
        let without_paths = said.replace(&wrong, "").replace(&wrong_pass, "");
        assert!(!without_paths.contains(RIGHT) && !without_paths.contains(WRONG), "{said}");
    }
}

#[tokio::test]
async fn a_file_that_has_no_password_is_named_with_what_is_wrong_with_it() {
    let Some(server) = cluster() else { return };
    let database = server.make_database("template1").await;
    let dir = tempfile::tempdir().unwrap();
    let url = server.url(crate::cluster::OWNER, &database);
    file(dir.path(), "empty", "");
    file(dir.path(), "blank", "\ns3cret-word\n");
    fs::write(dir.path().join("binary"), [0xff, 0xfe]).unwrap();
    fs::create_dir(dir.path().join("directory")).unwrap();
    for (name, problem) in [
        ("missing", "No such file or directory"),
        ("empty", "it is empty; its first line must be the password"),
        ("blank", "its first line is empty; its first line must be the password"),
        ("binary", "it is not UTF-8"),
        ("directory", "is a directory, and must be a regular file"),
    ] {
        let said = said(dir.path(), &url, &[("SWEEPER__DATABASE__PASSWORD_FILE", name)]).await;
        let place = format!("open: database.password_file {}: {problem}", dir.path().join(name).display());
        assert!(said.contains(&place) && !said.contains("s3cret"), "{name}: {said}");
    }
    let said = said(dir.path(), &url, &[("SWEEPER__DATABASE__PASSWORD_FILE", "")]).await;
    let empty = "database.password_file = \"\": must name a file (set by SWEEPER__DATABASE__PASSWORD_FILE)";
    assert!(said.contains(empty), "{said}");
}

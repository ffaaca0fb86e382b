//! What docs/operating.md and the messages say about a damaged file, done to damaged files, with the shell that Debian 12 has.

use std::{
    fs::{self, File},
    io::{Seek as _, SeekFrom, Write as _},
    path::Path,
};

use audio_cache_sweeper::sandbox::{Options, Sandbox};

use crate::{
    daemon::{clean, configured, finish, queue, sandbox, sql, sweeper},
    enqueue::fed,
    reads::shell,
};

const PAGE: &str = include_str!("../../docs/operating.md");

fn dump() -> &'static str {
    PAGE.lines().find(|line| line.starts_with("sqlite3 sweeper.db .dump | sed")).unwrap()
}

fn missing_rows() -> &'static str {
    let start = PAGE.find("ATTACH 'sweeper.db' AS old;\nWITH name").unwrap();
    PAGE[start..].split("```").next().unwrap()
}

/// 4,000 rows that are pending, some with a time or a priority, 2,000 that are not, and what was asked for those.
async fn fill(dir: &Path) {
    queue(dir, 4_000).await;
    sql(dir, "UPDATE deletions SET priority = 7 WHERE id % 5 = 0").await;
    sql(dir, "UPDATE deletions SET due_at = 4102444800000 + id WHERE id % 11 = 0").await;
    let labelled = "INSERT INTO deletions (agent_id, entry_id, label)
                    SELECT agent_id, entry_id, 'T' || id % 3 FROM deletions WHERE id % 13 = 0";
    sql(dir, labelled).await;
    let settled = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2000)
                   INSERT INTO deletions (agent_id, entry_id, state, settled_at)
                   SELECT 'b', i, 'deleted', CAST(strftime('%s', 'now') AS INTEGER) * 1000 FROM n";
    sql(dir, settled).await;
    let requests = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 400)
                    INSERT INTO requests (correlation_id, agent_id, deletion_ids, size, claimed_at, answered_at)
                    SELECT 'some correlation ID or other of request ' || i, 'b', '[]', 1, 1, 1 FROM n";
    sql(dir, requests).await;
    // Free pages.
    sql(dir, "CREATE TABLE gone AS SELECT * FROM deletions").await;
    sql(dir, "DROP TABLE gone").await;
}

/// The pages of this kind that a table or an index has; `None`, and said so, if nobody tells.
fn pages(dir: &Path, name: &str, kind: &str) -> Option<Vec<u64>> {
    let sql = format!("SELECT pageno FROM dbstat WHERE name = '{name}' AND pagetype = '{kind}' ORDER BY path");
    let pages: Vec<u64> = shell(dir, &sql)?.lines().map(|page| page.parse().unwrap()).collect();
    assert!(!pages.is_empty(), "{name} {kind}");
    Some(pages)
}

fn overwrite(dir: &Path, pages: impl IntoIterator<Item = u64>, with: u8) {
    let mut file = File::options().write(true).open(dir.join("sweeper.db")).unwrap();
    for page in pages {
        file.seek(SeekFrom::Start((page - 1) * 4096)).unwrap();
        file.write_all(&[with; 4096]).unwrap();
    }
}

/// The pending rows: their number, and a sum of what they are and of when.
async fn pending(dir: &Path) -> String {
    let sum = "SELECT count(*) || ' ' || sum(CAST(entry_id AS INTEGER) * (priority + 3)) || ' ' || sum(due_at) || ' '
               || sum(CAST(substr(label, 2) AS INTEGER)) FROM deletions
               WHERE state = 'pending' AND agent_id = 'a'";
    sql(dir, sum).await.remove(0).0
}

/// Does what docs/operating.md says, and puts the new file in the place of the old one.
fn rescue(dir: &Path, is_index_whole: bool) {
    let done = clean("sh", dir).args(["-c", dump()]).output().unwrap();
    assert!(done.status.success(), "{done:?}");
    let mut add = clean("sqlite3", dir);
    add.args(["-bail", "rescued.db"]);
    let (code, _, err) = fed(add, missing_rows());
    assert_eq!((code == 0, err.is_empty()), (is_index_whole, is_index_whole), "{err}");
    fs::rename(dir.join("rescued.db"), dir.join("sweeper.db")).unwrap();
    let _ = fs::remove_file(dir.join("sweeper.db-wal"));
    let _ = fs::remove_file(dir.join("sweeper.db-shm"));
    let mut init = sweeper(dir);
    init.arg("init");
    let (code, out, err) = fed(init, "");
    assert!(code == 0 && out.contains("loaded from a dump"), "{out}{err}");
}

#[tokio::test]
async fn what_the_readme_says_brings_every_pending_row_back_whatever_is_damaged() {
    let whole = tempfile::tempdir().unwrap();
    fill(whole.path()).await;
    let before = pending(whole.path()).await;
    assert!(before.starts_with("4000 "), "{before}");
    let Some(leaves) = pages(whole.path(), "deletions", "leaf") else { return };
    let root = pages(whole.path(), "deletions", "internal").unwrap()[0];
    let middle = |name| {
        let leaves = pages(whole.path(), name, "leaf").unwrap();
        leaves[leaves.len() / 2]
    };
    let free: u32 = u32::from_be_bytes(fs::read(whole.path().join("sweeper.db")).unwrap()[32..36].try_into().unwrap());
    assert!(free > 0, "there are free pages");
    let cases = [
        ("nothing", vec![], true),
        ("a page of the table", vec![leaves[5]], true),
        ("two pages of the table", vec![leaves[5], leaves[leaves.len() - 9]], true),
        ("all pages of the table", leaves.clone(), true),
        ("the table's root", vec![root], true),
        ("a page of the order of dispatch", vec![middle("deletions_due")], false),
        ("a page of the names", vec![middle("sqlite_autoindex_deletions_1")], false),
        ("a page of the requests", vec![middle("requests")], true),
        ("the list of free pages", vec![free.into()], true),
    ];
    for (what, damaged, is_index_whole) in cases {
        for with in [0xa5, 0] {
            let dir = tempfile::tempdir().unwrap();
            fs::copy(whole.path().join("sweeper.db"), dir.path().join("sweeper.db")).unwrap();
            overwrite(dir.path(), damaged.iter().copied(), with);
            rescue(dir.path(), is_index_whole);
            assert_eq!(pending(dir.path()).await, before, "{what}, overwritten with {with}");
            assert_eq!(sql(dir.path(), "PRAGMA integrity_check").await[0].0, "ok", "{what}");
        }
    }
}

async fn run(dir: &Path, sandbox: &Sandbox) -> (i32, String) {
    let mut command = configured(dir, sandbox);
    command.args(["run", "--until-empty"]);
    let (code, out, _) = finish(command).await;
    (code, out)
}

#[tokio::test]
async fn what_the_daemon_says_is_that_command_and_it_goes_on_with_what_it_rescues() {
    let dir = tempfile::tempdir().unwrap();
    // A name that a shell must quote.
    let dir = dir.path().join("somebody's");
    fs::create_dir(&dir).unwrap();
    let sandbox = sandbox(Options::default()).await;
    fill(&dir).await;
    sql(&dir, "UPDATE deletions SET due_at = 0, priority = 0 WHERE state = 'pending'").await;
    let Some(leaves) = pages(&dir, "deletions", "leaf") else { return };
    overwrite(&dir, leaves[3..].iter().copied().step_by(2), 0xa5);
    let (code, out) = run(&dir, &sandbox).await;
    assert_eq!(code, 3, "{out}");
    let last: serde_json::Value = serde_json::from_str(out.lines().last().unwrap()).unwrap();
    let said = last["error"].as_str().unwrap();
    let command = said.split_once("rescue what can be read of it: ").unwrap().1.split_once(" (and go on").unwrap().0;
    let path = dir.join("sweeper.db").display().to_string().replace('\'', r"'\''");
    assert_eq!(command, dump().replace("sweeper.db", &format!("'{path}'")));
    let done = clean("sh", &dir).args(["-c", command]).output().unwrap();
    assert!(done.status.success() && dir.join("rescued.db").exists(), "{done:?}");
    fs::remove_file(dir.join("rescued.db")).unwrap();

    let sent: usize = sandbox.requests().len();
    rescue(&dir, true);
    let (code, out) = run(&dir, &sandbox).await;
    assert_eq!(code, 0, "{out}");
    assert!(sandbox.requests().len() > sent);
    // What was in flight when the daemon met the damage is gone already.
    let left = sql(&dir, "SELECT CAST(count(*) AS TEXT) FROM deletions WHERE state NOT IN ('deleted', 'absent')").await;
    assert_eq!(left[0].0, "0");
    assert!((1..=4_000).all(|id| sandbox.is_gone("a", &id.to_string())), "every one of them");
}

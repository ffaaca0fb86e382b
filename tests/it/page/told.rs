//! What the page tells: the same as the commands, to whom may know it.

use audio_cache_sweeper::sandbox::Options;

use super::{ask, get, get_known, said_by, scene, until};
use crate::{daemon::sql, health::address};

/// Rows of every kind: some go out, one agent is held, one row is due later.
const ROWS: &str = "
INSERT INTO deletions (agent_id, entry_id, label) WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 40)
SELECT 'PROJECT-GOES', i, 'ERASURE-17' FROM n;
INSERT INTO deletions (agent_id, entry_id) VALUES ('PROJECT-HELD', '1'), ('PROJECT-HELD', '2');
INSERT INTO deletions (agent_id, entry_id, due_at) VALUES ('PROJECT-LATER', '1', 4000000000000);
INSERT INTO holds (scope, cause, why) VALUES ('PROJECT-HELD', 'operator', 'they asked us to wait');";

fn options() -> Options {
    Options { agents: vec![("PROJECT-GOES".to_owned(), 39)], ..Options::default() }
}

#[tokio::test]
async fn numbers_are_for_everybody_and_names_for_who_knows_the_token() {
    let scene = scene(options(), ROWS, "request", |_| {}).await;
    let address = scene.address;
    let known = until(address, "Absent\n1\n").await;
    known.has(&[
        "Rows wait for a person",
        "But PROJECT-HELD is held (2 of 3 rows)",
        "PROJECT-LATER",
        "PROJECT-HELD",
        "operator: they asked us to wait",
        "sweeper release --agent PROJECT-HELD lifts it",
        "a person: operator",
        "ERASURE-17",
        "Last requests",
        "Log out",
    ]);
    let open = get(address, "/").await;
    assert_eq!(open.status, 200);
    open.has(&[
        "Rows wait for a person",
        "Pending\n3\n",
        "Due\n2\n",
        "Deleted\n39\n",
        "Absent\n1\n",
        "Dead\n0\n",
        "until a person acts: an agent, operator",
        "a person has placed this hold",
        "due later\n1\nnext due 2096-10-02",
        "at most 1000.00 requests/s (the ceiling)",
        "Pending rows",
        "Deleted per minute",
        "Log in",
    ]);
    open.has_not(&["PROJECT", "ERASURE", "they asked us", "/entry"]);
}

#[tokio::test]
async fn the_reasons_are_those_of_status_in_the_same_words() {
    let scene = scene(options(), ROWS, "request", |_| {}).await;
    let page = until(scene.address, "Absent\n1\n").await.text();
    let status = said_by(scene.dir.path(), &["status"]).await;
    for said in
        ["until a person acts: PROJECT-HELD, operator", "PROJECT-HELD is held (2 of 3 rows)", "somebody lifts it"]
    {
        assert!(page.contains(said) && status.contains(said), "{said}: {page}\n{status}");
    }
}

#[tokio::test]
async fn an_entry_is_told_as_show_tells_it_and_a_form_asks_for_one() {
    let scene = scene(options(), ROWS, "request", |_| {}).await;
    let address = scene.address;
    until(address, "Absent\n1\n").await;
    let form = get_known(address, "/entry").await;
    assert_eq!(form.status, 200);
    assert!(form.body.contains("<form class=\"ask\" method=\"get\" action=\"/entry\">"), "{}", form.body);
    for (agent, id, sentences) in [
        ("PROJECT-GOES", "7", &["deleted", "bulk delete of 20", "1 counted attempt", "label ERASURE-17"][..]),
        ("PROJECT-GOES", "40", &["absent", "single-entry DELETE", "404 after", "detail", "no such entry"]),
        ("PROJECT-HELD", "1", &["they asked us to wait", "somebody lifts it", "o request with this ID is on record"]),
        ("PROJECT-LATER", "1", &["due 2096-10-02 07:06:40 UTC, in", "0 counted attempts", "priority 0"]),
    ] {
        let page = get_known(address, &format!("/entry?agent={agent}&id={id}")).await;
        let shown = said_by(scene.dir.path(), &["show", agent, id]).await;
        assert_eq!(page.status, 200);
        // The correlation IDs and the times of day, beside the sentences.
        let words = shown.split([' ', '\n']).filter(|word| word.len() == 36 || word.matches(':').count() == 2);
        let words: Vec<&str> = words.chain(sentences.iter().copied()).collect();
        assert!(words.len() > sentences.len(), "{shown}");
        page.has(&words);
        assert!(sentences.iter().all(|said| shown.contains(said)), "{sentences:?}: {shown}");
    }
    let nothing = get_known(address, "/entry?agent=PROJECT-GOES&id=4711").await;
    assert_eq!(nothing.status, 404);
    nothing.has(&["PROJECT-GOES 4711: there is no such row in", "was settled longer ago than queue.retention"]);
    for (query, said) in [
        ("agent=a/b&id=1", "the agent"),
        ("agent=a&id=", "the ID"),
        ("agent=&id=1", "the agent"),
        ("agent=a&id=%00", "the ID"),
    ] {
        let wrong = get_known(address, &format!("/entry?{query}")).await;
        assert_eq!(wrong.status, 400, "{query}");
        wrong.has(&[said]);
    }
}

#[tokio::test]
async fn hostile_text_is_text() {
    let evil = "<script>alert(1)</script>\"'&\u{202e}";
    let rows = format!(
        "INSERT INTO deletions (agent_id, entry_id, due_at, label) VALUES ('<b>a', '<i>e', 4000000000000, '<u>l');
         INSERT INTO holds (scope, cause, why) VALUES ('<b>a', 'operator', '{0}');
         INSERT INTO requests (correlation_id, agent_id, deletion_ids, size, claimed_at, answered_at, status, detail, verdicts)
             VALUES ('<em>', '<b>a', '[1]', 1, unixepoch() * 1000, unixepoch() * 1000, 500, '{0}', '[{{\"verdict\": \"retry\", \"cause\": \"<s>\"}}]');
         INSERT INTO acts (acted_at, updated_at, act, operator, scope, rows, detail, ended)
             VALUES (unixepoch() * 1000, unixepoch() * 1000, 'hold', '{0}', '<b>a', 1, '{0}', 1)",
        evil.replace('\'', "''")
    );
    let scene = scene(Options::default(), &rows, "started", |_| {}).await;
    let address = scene.address;
    let overview = until(address, "Last requests").await;
    overview.has(&["<b>a", "<u>l", "<em>", "<script>alert(1)</script>\"'&\\u{202e}", "Last acts"]);
    let entry = get_known(address, "/entry?agent=%3Cb%3Ea&id=%3Ci%3Ee").await;
    assert_eq!(entry.status, 200);
    entry.has(&["<b>a <i>e", "retry (<s>)", "label <u>l"]);
    let none = get_known(address, "/entry?agent=%3Cb%3Ea&id=%3Ci%3Ee%22").await;
    assert_eq!(none.status, 404);
    assert!(none.body.contains("value=\"&lt;i&gt;e&quot;\""), "{}", none.body);
    let open = get(address, "/").await;
    for page in [&overview, &entry, &none, &open] {
        page.has_not(&["<script", "<b>", "<i>", "<u>", "<s>", "<em>", "\u{202e}", " style=", " onclick"]);
    }
    open.has_not(&["&lt;b&gt;a", "&lt;u&gt;"]);
}

#[tokio::test]
async fn the_page_loads_itself_again_unless_it_is_told_not_to() {
    let scene = scene(options(), ROWS, "request", |_| {}).await;
    let page = until(scene.address, "Absent\n1\n").await;
    assert_eq!(page.header("refresh"), Some("15"));
    assert!(page.body.contains("<a href=\"/?refresh=off\">Stop refreshing</a>"), "{}", page.body);
    let still = get_known(scene.address, "/?refresh=off").await;
    assert_eq!(still.header("refresh"), None);
    assert!(still.body.contains("<a href=\"/\">Refresh every 15 s</a>"), "{}", still.body);
    assert_eq!(get_known(scene.address, "/entry").await.header("refresh"), None);
}

#[tokio::test]
async fn without_a_token_names_are_off() {
    let scene = scene(options(), ROWS, "request", |command| {
        command.env_remove("SWEEPER__HTTP__TOKEN");
    })
    .await;
    let address = scene.address;
    for page in [get(address, "/").await, get_known(address, "/").await] {
        assert_eq!(page.status, 200);
        page.has(&["Agents, labels and requests are not shown here: that is on once http.token is set."]);
        page.has_not(&["PROJECT", "Log in"]);
    }
    for path in ["/entry?agent=PROJECT-GOES&id=7", "/login"] {
        let off = get_known(address, path).await;
        assert_eq!(off.status, 403, "{path}");
        off.has(&["Set one, and restart the daemon."]);
    }
    let posted = super::post(address, "token=", "").await;
    assert_eq!((posted.status, posted.header("set-cookie")), (403, None));
}

#[tokio::test]
async fn a_row_that_is_given_up_is_told_with_its_cause() {
    let rows = "INSERT INTO deletions (agent_id, entry_id) VALUES ('a', 'bad')";
    let options = Options { numeric_ids: true, ..Options::default() };
    let scene = scene(options, rows, "dead", |command| {
        command.env("SWEEPER__RETRY__MAX_ATTEMPTS", "1");
    })
    .await;
    let page = until(scene.address, "Dead\n1").await;
    page.has(&["Idle: nothing is pending", "rejected\n1\n0\n", "sweeper retry tries them again"]);
    assert_eq!(address(&scene.daemon), scene.address);
    sql(scene.dir.path(), "DELETE FROM deletions").await;
    let empty = until(scene.address, "Dead\n0").await;
    empty.has(&["Nothing is pending"]);
    assert_eq!(ask(scene.address, "GET /nowhere", "").await.status, 404);
}

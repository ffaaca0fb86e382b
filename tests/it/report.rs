//! `sweeper report`: what the page says, in each form, and what a check of it finds.

use std::{fs, path::Path};

use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::{
    daemon::{sql, sweeper},
    enqueue::fed,
};

fn run(dir: &Path, arguments: &[&str]) -> (i32, String, String) {
    let mut command = sweeper(dir);
    command.args(arguments);
    fed(command, "")
}

fn report(dir: &Path, arguments: &[&str]) -> String {
    let (code, out, err) = run(dir, &[&["report"], arguments].concat());
    assert_eq!((code, err.as_str()), (0, ""), "{out}");
    out
}

fn check(dir: &Path, file: &str) -> (i32, String) {
    let (code, out, err) = run(dir, &["report", "--check", file]);
    assert_eq!(err, "", "{out}");
    (code, out)
}

/// The same of a report on standard input.
fn check_piped(dir: &Path, page: &str) -> (i32, String) {
    let mut command = sweeper(dir);
    command.args(["report", "--check", "-"]);
    let (code, out, err) = fed(command, page);
    assert_eq!(err, "", "{out}");
    (code, out)
}

const LABEL: &str = "T <b>&\"17\"";

/// Ten wishes of two agents with [`LABEL`]: deleted, absent, dead, cancelled, and open for each reason.
async fn fill(dir: &Path) {
    let (code, _, err) = run(
        dir,
        &[
            &["enqueue", "--create", "--agent", "a", "--label", LABEL, "--as", "ann"][..],
            &["1", "2", "3", "4", "5", "6", "7", "8"],
        ]
        .concat(),
    );
    assert_eq!(code, 0, "{err}");
    for statement in [
        "UPDATE deletions SET state = 'deleted', settled_at = 1900000000000, verified_at = 1900000009000 WHERE entry_id IN ('1', '2')",
        "UPDATE deletions SET state = 'absent', settled_at = 1900000001000 WHERE entry_id = '3'",
        "UPDATE deletions SET state = 'dead', settled_at = 1900000002000, last_cause = 'api_failed', maybe_done = 1 WHERE entry_id = '4'",
        "UPDATE deletions SET state = 'dead', settled_at = 1900000002000, last_cause = 'rejected' WHERE entry_id = '5'",
        "UPDATE wishes SET state = 'cancelled', closed_at = 1900000003000, closed_by = 'bob' WHERE entry_id = '6'",
        "UPDATE deletions SET due_at = 4100000000000, attempts = 2 WHERE entry_id = '7'",
        "INSERT INTO deletions (agent_id, entry_id, label) VALUES ('b', '1', 'T <b>&\"17\"'), ('b', '2', 'T <b>&\"17\"')",
        "INSERT INTO holds (scope, why) VALUES ('b', 'wrong <voice>')",
    ] {
        sql(dir, statement).await;
    }
}

#[tokio::test]
async fn the_page_says_what_was_asked_what_became_of_it_and_why_the_rest_is_open() {
    let dir = tempfile::tempdir().unwrap();
    fill(dir.path()).await;
    let text = report(dir.path(), &["--label", LABEL]);
    for said in [
        "What became of the deletions with the label T <b>&\"17\"\n",
        "asked        10 deletions of 2 agents, ",
        "asked by     not known 2, ann 8\n",
        "deleted               2  the API said that it has deleted the entry\n",
        "absent                1  the API said that there is no such entry\n",
        "dead                  2  given up: api_failed 1, rejected 1; of these, 1 may be deleted all the same\n",
        "cancelled             1  by bob 1\n",
        "open                  4  2 wait for the hold on b (operator: wrong <voice>) until it is lifted; 1 is due, in flight or as soon as \
         the rate allows; 1 waits for the next attempt; the next of these at 2099-12-03 16:53:20 UTC\n",
        "verified     2 of 3 deleted or absent entries were not in the agent's cache when it was listed, 2030-03-17 17:46:49 UTC\n",
        "a              2          1          2          1          2\n",
        "b              0          0          0          0          2\n",
        "It shows that something has changed, and not who has changed it.",
    ] {
        assert!(text.contains(said), "{said:?} is missing in\n{text}");
    }
    assert!(text.contains(&format!("queue        {}\n", dir.path().join("sweeper.db").display())), "{text}");
}

#[tokio::test]
async fn the_object_has_the_same_and_its_lines_have_the_hash_that_every_form_says() {
    let dir = tempfile::tempdir().unwrap();
    fill(dir.path()).await;
    let json = report(dir.path(), &["--label", LABEL, "--json", "--rows"]);
    let object: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(object["wishes"], serde_json::json!({"deleted": 2, "absent": 1, "dead": 2, "cancelled": 1, "open": 4}));
    assert_eq!((&object["label"], &object["canonical"]), (&LABEL.into(), &"v1".into()));
    assert_eq!(object["open"]["held"], 2);
    assert_eq!(object["open"]["holds"][0]["why"], "wrong <voice>");
    assert_eq!((&object["agents"][0]["agent_id"], &object["agents"][0]["dead"]), (&"a".into(), &2.into()));
    let lines: Vec<&str> = object["lines"].as_array().unwrap().iter().map(|line| line.as_str().unwrap()).collect();
    assert_eq!((lines[0], lines.len()), ("sweeper report v1\tT <b>&\"17\"", 11));
    assert!(lines[6].starts_with("a\t6\tcancelled\t") && lines[6].contains("\t\\N\tbob\t"), "{}", lines[6]);
    let digest = Sha256::digest(format!("{}\n", lines.join("\n")));
    let hash: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(object["sha256"], hash.as_str());
    let html = report(dir.path(), &["--label", LABEL, "--html"]);
    for form in
        [report(dir.path(), &["--label", LABEL]), report(dir.path(), &["--label", LABEL, "--json"]), html.clone()]
    {
        assert!(form.contains(&hash), "{form}");
    }
    assert!(html.contains("<title>Report: T &lt;b&gt;&amp;&quot;17&quot;</title>"), "{html}");
    assert!(html.contains("wrong &lt;voice&gt;") && !html.contains("<voice>") && !html.contains("<b>"), "{html}");
    for absent in ["<script", "javascript:", "http://", "https://", "src=", "href="] {
        assert!(!html.contains(absent), "{absent} in {html}");
    }
    for present in ["default-src 'none'", "color-scheme: light dark", "@media print", "<html lang=\"en\">", "</html>\n"]
    {
        assert!(html.contains(present), "{present}");
    }
}

#[tokio::test]
async fn a_label_that_no_wish_has_has_no_page_and_no_file() {
    let dir = tempfile::tempdir().unwrap();
    fill(dir.path()).await;
    let (code, out, err) = run(dir.path(), &["report", "--label", "T 18", "--output", "t.txt"]);
    assert!(code == 1 && out.is_empty() && err.contains("no wish has the label 'T 18'"), "{err}");
    assert!(!dir.path().join("t.txt").exists());
    for (arguments, said) in [
        (&[][..], "--label"),
        (&["--label", "T", "--rows"], "--rows goes with --json: text and HTML have no place for the lines"),
        (&["--label", "T", "--rows", "--html"], "--rows goes with --json"),
        (&["--label", "T", "--json", "--html"], "--html"),
        (&["--check", "x", "--label", "T"], "--label"),
        (&["--check", "sweeper.db"], "sweeper.db: this is no report"),
    ] {
        let (code, _, err) = run(dir.path(), &[&["report"], arguments].concat());
        assert!(code == 2 && err.contains(said), "{arguments:?}: {code} {err}");
    }
    let (code, _, err) = run(dir.path(), &["report", "--check", "nowhere.json"]);
    assert!(code == 2 && err.contains("nowhere.json"), "{err}");
}

/// A page in each form: text, HTML, JSON, JSON with its lines.
fn pages(dir: &Path) -> [&'static str; 4] {
    for (file, form) in
        [("t.txt", &[][..]), ("t.html", &["--html"]), ("t.json", &["--json"]), ("rows.json", &["--json", "--rows"])]
    {
        let out = report(dir, &[&["--label", LABEL, "--output", file], form].concat());
        assert_eq!(out, format!("{}: written\n", dir.join(file).display()));
    }
    ["t.txt", "t.html", "t.json", "rows.json"]
}

#[tokio::test]
async fn a_check_finds_the_same_in_every_form_until_something_changes() {
    let dir = tempfile::tempdir().unwrap();
    fill(dir.path()).await;
    let pages = pages(dir.path());
    for file in pages {
        let (code, out) = check(dir.path(), file);
        assert!(
            code == 0 && out.starts_with("unchanged: the queue says about 10 wishes with the label T <b>"),
            "{file}: {out}"
        );
        assert!(out.ends_with("a check shows that something has changed, and not who has changed it\n"), "{out}");
        let page = fs::read_to_string(dir.path().join(file)).unwrap();
        assert_eq!(check_piped(dir.path(), &page), (0, out.clone()), "{file}, on standard input");
        let (code, out) =
            check_piped(dir.path(), &page.replacen("ann", "eve", 1).replacen("\"dead\":2", "\"dead\":0", 1));
        assert!(code == 1 && out.contains(": standard input\n  the file is not as it was written"), "{file}: {out}");
    }
    // What is not about the wishes changes nothing.
    sql(dir.path(), "UPDATE deletions SET priority = 9").await;
    sql(dir.path(), "INSERT INTO deletions (agent_id, entry_id, label) VALUES ('a', '1', 'another'), ('z', '1', NULL)")
        .await;
    sql(dir.path(), "DELETE FROM deletions WHERE label = 'another'").await;
    let (_, out) = check(dir.path(), "rows.json");
    assert!(out.contains("a 1: verified_at was 1900000009000, is \\N"), "a row that is gone tells nothing more: {out}");
    assert!(!out.contains("a 2:"), "{out}");
}

#[tokio::test]
async fn a_check_names_what_was_changed_removed_and_added() {
    let dir = tempfile::tempdir().unwrap();
    fill(dir.path()).await;
    let pages = pages(dir.path());
    for statement in [
        "UPDATE wishes SET state = 'deleted', closed_at = 1900000004000 WHERE agent_id = 'a' AND entry_id = '4'",
        "DELETE FROM wishes WHERE agent_id = 'a' AND entry_id = '3'",
        "INSERT INTO deletions (agent_id, entry_id, label) VALUES ('aa', '1', 'T <b>&\"17\"')",
    ] {
        sql(dir.path(), statement).await;
    }
    for file in pages {
        let (code, out) = check(dir.path(), file);
        assert!(code == 1 && out.starts_with("changed since "), "{file}: {out}");
        for said in ["absent: 1 then, 0 now", "dead: 2 then, 1 now", "deleted: 2 then, 3 now", "open: 4 then, 5 now"] {
            assert!(out.contains(said), "{file}: {said:?} is missing in\n{out}");
        }
        let is_detailed = file == "rows.json";
        for said in [
            "a 3: is no longer there",
            "a 4: state was dead, is deleted; ended_at was 1900000002000, is 1900000004000",
            "aa 1: was not there then",
        ] {
            assert_eq!(out.contains(said), is_detailed, "{file}: {said:?} in\n{out}");
        }
        assert_eq!(out.contains("only a report with --json --rows can tell"), !is_detailed, "{out}");
        assert!(!out.contains("seal"), "the file is as it was: {out}");
    }
    sql(dir.path(), "DELETE FROM wishes").await;
    let (code, out) = check(dir.path(), "t.txt");
    assert!(code == 1 && out.contains("open: 4 then, 0 now"), "{out}");
}

#[tokio::test]
async fn a_file_that_was_edited_is_found_out() {
    let dir = tempfile::tempdir().unwrap();
    fill(dir.path()).await;
    for file in pages(dir.path()) {
        let path = dir.path().join(file);
        let text = fs::read_to_string(&path).unwrap();
        for (what, edited) in [
            ("a number", text.replacen("\"dead\":2", "\"dead\":0", 1)),
            ("a name", text.replacen("ann", "eve", 1)),
            ("the end", format!("{text}\n")),
        ] {
            if edited == text {
                continue;
            }
            fs::write(&path, &edited).unwrap();
            let (code, out) = check(dir.path(), file);
            assert!(code == 1 && out.contains("the file is not as it was written"), "{file}, {what}: {out}");
        }
        fs::write(&path, &text).unwrap();
        assert_eq!(check(dir.path(), file).0, 0, "{file}, as it was");
        fs::write(&path, &text[..text.len() / 2]).unwrap();
        let (code, _, err) = run(dir.path(), &["report", "--check", file]);
        assert!(code == 2 && err.contains("this is no report"), "{file}: {err}");
    }
}

#[tokio::test]
async fn other_line_ends_are_told_from_another_queue_and_what_has_no_end_is_not_read() {
    let dir = tempfile::tempdir().unwrap();
    fill(dir.path()).await;
    let page = report(dir.path(), &["--label", LABEL]);
    fs::write(dir.path().join("sent"), page.replace('\n', "\r\n")).unwrap();
    let (code, out) = check(dir.path(), "sent");
    assert!(code == 1 && out.contains("The queue says about the label what it said then"), "{out}");
    let long = fs::File::create(dir.path().join("long")).unwrap();
    long.set_len((1 << 30) + 1).unwrap();
    for (file, said) in [
        ("/dev/zero", "it must be a regular file, or - for standard input"),
        ("nowhere", "No such file"),
        ("long", "long: it is longer than 1 GiB, and no report is"),
    ] {
        let (code, _, err) = run(dir.path(), &["report", "--check", file]);
        assert!(code == 2 && err.contains(said), "{err}");
    }
    let (code, _, err) = run(dir.path(), &["report", "--check", "-"]);
    assert!(code == 2 && err.contains("standard input: this is no report of `sweeper report`"), "{err}");
}

#[tokio::test]
async fn who_wishes_for_a_single_entry_with_a_label_is_known() {
    let dir = tempfile::tempdir().unwrap();
    let one = ["enqueue", "--create", "--agent", "a", "--label", "S", "--as", "eve", "1"];
    assert_eq!(run(dir.path(), &one).0, 0);
    let page = report(dir.path(), &["--label", "S"]);
    assert!(page.lines().any(|line| line.starts_with("asked by") && line.contains("eve 1")), "{page}");
}

#[tokio::test]
async fn a_report_of_another_queue_or_of_another_version_is_named() {
    let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fill(dir.path()).await;
    pages(dir.path());
    sweeper(other.path()).arg("init").output().unwrap();
    let file = dir.path().join("t.json");
    let (code, out) = check(other.path(), file.to_str().unwrap());
    assert!(
        code == 1 && out.contains("note: the report is of the queue") && out.contains("deleted: 2 then, 0 now"),
        "{out}"
    );
    let text = fs::read_to_string(&file).unwrap().replace("\"canonical\":\"v1\"", "\"canonical\":\"v9\"");
    fs::write(&file, text).unwrap();
    let (code, _, err) = run(dir.path(), &["report", "--check", "t.json"]);
    assert!(code == 2 && err.contains("of the form v9, and this sweeper knows v1"), "{err}");
}

//! Text from outside reaches terminals and logs only with what would steer them escaped.

use audio_cache_sweeper::{printable::is_harmful, sandbox::Options};

use crate::{
    daemon::{configured, finish, queue, sandbox, sql, sweeper},
    enqueue::fed,
    hostile::{Hostile, Say, answer},
};

/// Clears the screen, names the window, turns the direction round, breaks the line in three ways.
const STEERING: &str = "\u{1b}[2J\u{1b}]0;x\u{7}\u{9b}31m\u{202e}\u{2066}\u{61c}\u{2028}\r\n\u{7f}end";

/// Everything is on lines that we have ended, and nothing steers.
fn assert_tame(text: &str, place: &str) {
    let harmful: Vec<char> = text.chars().filter(|c| is_harmful(*c) && *c != '\n').collect();
    assert!(harmful.is_empty(), "{harmful:?} in {place}: {text:?}");
}

#[tokio::test]
async fn what_the_api_says_steers_neither_format_of_the_log() {
    for format in ["text", "json"] {
        let dir = tempfile::tempdir().unwrap();
        let hostile = Hostile::start().await;
        queue(dir.path(), 1).await;
        let message = serde_json::json!({ "error_message": STEERING }).to_string();
        hostile.script([
            Say::Bytes(answer("400 x", "x-polyai-correlation-id: \u{9b}31m\u{1}\r\n", message.as_bytes())),
            Say::Bytes(answer("400 x", "", STEERING.as_bytes())),
        ]);
        let mut command = sweeper(dir.path());
        command
            .args(["run", "--until-empty", "--give-up-after", "2s"])
            .env("SWEEPER__API__BASE_URL", &hostile.url)
            .env("SWEEPER__API__KEY", "s3cret-key")
            .env("SWEEPER__LOG__FORMAT", format)
            .env("SWEEPER__LOG__FILTER", "trace");
        let (_, stdout, stderr) = finish(command).await;
        assert!(stdout.contains("end"), "{stdout}");
        assert_tame(&stdout, format);
        assert_tame(&stderr, "standard error");
        for line in stdout.lines() {
            let whole = if format == "json" {
                serde_json::from_str::<serde_json::Value>(line).is_ok()
            } else {
                line.starts_with("20")
            };
            assert!(whole, "{line:?} is none of ours");
        }
    }
}

#[test]
fn what_is_given_as_an_argument_does_not_steer_the_terminal() {
    let dir = tempfile::tempdir().unwrap();
    let long = |name: &str| format!("--{name}{}", STEERING.trim());
    let with = |name: &str| format!("--{name}=({}", STEERING.trim());
    let cases: [&[String]; 12] = [
        &[STEERING.to_owned()],
        &["help".to_owned(), STEERING.to_owned()],
        &[long("")],
        &["run".to_owned(), with("give-up-after")],
        &["run".to_owned(), with("until-empty")],
        &["enqueue".to_owned(), with("agent")],
        &["enqueue".to_owned(), with("due")],
        &["enqueue".to_owned(), with("format")],
        &["enqueue".to_owned(), "--agent=a".to_owned(), with("transcript-matches")],
        &["show".to_owned(), "a".to_owned(), "1".to_owned(), STEERING.to_owned()],
        &["retry".to_owned(), with("cause")],
        &["sandbox".to_owned(), with("listen")],
    ];
    for arguments in cases {
        for colours in ["0", "1"] {
            let mut command = sweeper(dir.path());
            command.args(arguments).env("CLICOLOR_FORCE", colours);
            let (code, out, err) = fed(command, "");
            assert_eq!((code, out.as_str()), (2, ""), "{arguments:?}: {err}");
            // clap's own colours: nothing but the colour of what follows.
            let plain = ["1", "4", "0", "31", "32", "33", "36"]
                .iter()
                .fold(err.clone(), |text, code| text.replace(&format!("\u{1b}[{code}m"), ""));
            assert_tame(&plain, &format!("{arguments:?}"));
            assert!(colours == "0" || err.contains("\u{1b}[1m"), "{arguments:?}: {err:?}");
        }
    }
}

#[tokio::test]
async fn what_somebody_wrote_into_the_tables_does_not_steer_the_terminal() {
    let dir = tempfile::tempdir().unwrap();
    let sandbox = sandbox(Options::default()).await;
    queue(dir.path(), 1).await;
    let mut command = configured(dir.path(), &sandbox);
    command.args(["run", "--until-empty"]);
    assert_eq!(finish(command).await.0, 0);
    // As somebody would who has switched the CHECKs off.
    let written = format!(
        "PRAGMA ignore_check_constraints = 1;
         UPDATE daemon SET version = '{STEERING}';
         UPDATE deletions SET state = 'dead', settled_at = 4000000000000, last_cause = '{STEERING}';
         UPDATE requests SET detail = '{STEERING}', remote_id = '{STEERING}', correlation_id = '{STEERING}',
             kind = '{STEERING}', verdicts = '[{{\"verdict\":\"a\\u001b[2J\\u202e\",\"cause\":\"\\u001b[2J\"}}]'"
    );
    sql(dir.path(), &written).await;
    for arguments in [&["status"][..], &["status", "--json"], &["show", "a", "1"]] {
        let mut command = sweeper(dir.path());
        command.args(arguments);
        let (code, stdout, stderr) = finish(command).await;
        assert_eq!(code, 0, "{arguments:?}: {stderr}");
        assert!(stdout.contains("end"), "{arguments:?}: {stdout}");
        assert_tame(&stdout, &format!("{arguments:?}"));
    }
}

#[tokio::test]
async fn what_a_trigger_says_does_not_steer_the_terminal() {
    let dir = tempfile::tempdir().unwrap();
    queue(dir.path(), 1).await;
    let trigger = format!(
        "CREATE TRIGGER theirs BEFORE INSERT ON deletions WHEN NEW.entry_id = '666' BEGIN SELECT RAISE(ABORT, '{STEERING}'); END"
    );
    sql(dir.path(), &trigger).await;
    let mut command = sweeper(dir.path());
    command.args(["enqueue", "--agent", "a", "666"]);
    let (code, stdout, stderr) = finish(command).await;
    assert!(code != 0 && stderr.contains("end"), "{code}: {stdout}{stderr}");
    assert_tame(&stderr, "standard error");
    assert_tame(&stdout, "standard output");
}

//! Wrong turns of somebody who is new: each is met by a sentence that names the thing, says what is wrong with it and what to do.
//! Mistakes in what `enqueue` reads are in `enqueue/mistakes.rs`, those about permissions in `access.rs`.

use std::{fs, path::Path};

use crate::{
    daemon::{KEY, sweeper},
    enqueue::fed,
};

/// A mistake: what was there, what was typed, and how it is met.
#[derive(Default)]
struct Mistake {
    /// Files in the working directory. A name that ends with a slash is a directory.
    files: &'static [(&'static str, &'static str)],
    variables: &'static [(&'static str, &'static str)],
    /// There is an empty queue.
    has_queue: bool,
    typed: &'static str,
    code: i32,
    /// What is said. `{dir}` is the working directory.
    said: &'static [&'static str],
}

const LEVELS: &str = "Allowed: off, error, warn, info, debug, trace, or directives such as info,sqlx=warn";
const WHERE_IT_GOES: &str = "--config follows the command that reads the file, as in `sweeper run --config FILE`";

/// In the configuration: files, variables, and the key.
fn of_configuration() -> Vec<Mistake> {
    let file = |files, said| Mistake { files, typed: "check --config x.toml", code: 2, said, ..Mistake::default() };
    let variable = |variables, said| Mistake { variables, typed: "status", code: 2, said, ..Mistake::default() };
    vec![
        file(
            &[("x.toml", "[log]\nfilter = \"warning\"")],
            &["log.filter = \"warning\": not a level; did you mean warn?", LEVELS, "{dir}/x.toml, line 2"],
        ),
        file(&[("x.toml", "[log]\nfilter = \"verbose\"")], &["log.filter = \"verbose\": not a level. ", LEVELS]),
        file(&[("x.toml", "[log]\nfilter = \"eror\"")], &["did you mean error?"]),
        file(&[("x.toml", "[log]\nrequests = \"some\"")], &["log.requests = \"some\"", "all, failed, none"]),
        file(
            &[("x.toml", "[api]\nregoin = \"eu\"")],
            &["{dir}/x.toml, line 2: there is no key api.regoin; did you mean region?"],
        ),
        file(
            &[("x.toml", "region = \"eu\"")],
            &["line 1: there is no section region", "section [api]? It belongs below"],
        ),
        file(&[("x.toml", "[api\nregion = 1")], &["{dir}/x.toml, line 1"]),
        file(&[("x.toml/", "")], &["{dir}/x.toml: is a directory, and must be a regular file"]),
        file(&[], &["{dir}/x.toml"]),
        variable(&[("SWEEPER_API__REGION", "eu")], &["SWEEPER_API__REGION: did you mean SWEEPER__API__REGION?"]),
        variable(&[("SWEEPER_API_KEY", "abc")], &["SWEEPER_API_KEY: did you mean SWEEPER__API__KEY?"]),
        variable(&[("SWEEPER__API_KEY", "abc")], &["SWEEPER__API_KEY: did you mean SWEEPER__API__KEY?"]),
        variable(&[("SWEEPER_RATE_LIMIT", "1")], &["SWEEPER_RATE_LIMIT", "names a section alone"]),
        variable(&[("SWEEPER__RATE__LIMIT__BURST", "1")], &["did you mean SWEEPER__RATE_LIMIT__BURST?"]),
        variable(
            &[("SWEEPER__API__BASE_URL", "https://api.eu.poly.ai/v1")],
            &[
                "api.base_url: has a path; give the origin alone",
                "because sweeper adds the path",
                "SWEEPER__API__BASE_URL",
            ],
        ),
        variable(&[("SWEEPER__API__BASE_URL", "api.eu.poly.ai")], &["is not a URL", "write it like https://"]),
        variable(
            &[("SWEEPER__API__REGION", "europe")],
            &["api.region = \"europe\": must be one of us, eu, uk, studio"],
        ),
        variable(
            &[("SWEEPER__DATABASE__PATH", "q/")],
            &["database.path = \"q/\": names a directory; name a file in it"],
        ),
    ]
}

/// In the key and the certificates.
fn of_the_key() -> Vec<Mistake> {
    let key = |files, said| Mistake {
        files,
        variables: &[("SWEEPER__API__KEY_FILE", "key")],
        typed: "check",
        code: 2,
        said,
        ..Mistake::default()
    };
    vec![
        key(&[("key", "\"abc\"\n")], &["the API key (api.key_file {dir}/key) is in quotes", "remove them"]),
        key(&[("key", "\u{feff}abc\n")], &["api.key_file", "byte order mark"]),
        key(&[("key", "abc\ndef\n")], &["api.key_file", "line"]),
        key(&[("key", "Bearer abc\n")], &["api.key_file", "give the key alone"]),
        key(&[("key", "\n")], &["api.key_file", "empty"]),
        key(&[("key/", "")], &["api.key_file {dir}/key: is a directory"]),
        key(&[], &["api.key_file {dir}/key: No such file"]),
        Mistake {
            variables: &[("SWEEPER__API__KEY", "'abc'")],
            typed: "check",
            code: 2,
            said: &["the API key (api.key, set by SWEEPER__API__KEY) is in quotes"],
            ..Mistake::default()
        },
        Mistake {
            files: &[("x.toml", "[api]\nkey = \"'abc'\"")],
            variables: &[("SWEEPER__API__KEY", "")],
            typed: "check --config x.toml",
            code: 2,
            said: &["the API key (api.key, set in {dir}/x.toml, line 2) is in quotes"],
            ..Mistake::default()
        },
        Mistake {
            variables: &[("SWEEPER__API__CA_FILE", "ca.pem"), ("SWEEPER__API__REGION", "eu")],
            typed: "check",
            code: 2,
            said: &["api.ca_file {dir}/ca.pem: No such file"],
            ..Mistake::default()
        },
    ]
}

/// On the command line.
fn of_arguments() -> Vec<Mistake> {
    let typed = |typed, said| Mistake { typed, code: 2, said, has_queue: true, ..Mistake::default() };
    vec![
        typed("run --dry-run", &["'sweeper plan' shows what would go out, and sends nothing"]),
        typed("run --max-requests 0", &["must be 1 or more", "`sweeper plan`"]),
        typed("run --until-empt", &["'--until-empty'"]),
        typed("stauts", &["'stauts'", "'status'"]),
        typed("--config x.toml status", &[WHERE_IT_GOES]),
        typed("demo --config x.toml", &[WHERE_IT_GOES, "demo, sandbox"]),
        typed("hold", &["--agent <AGENT>|--all"]),
        typed("hold --all --for 10", &["'--for <DURATION>'", "250ms, 30s, 5m", "leave the option out to hold until"]),
        typed("hold --all --for 0s", &["from 1s to 366d"]),
        typed("hold --agent *", &["\"*\" is not an agent ID"]),
        typed("release --all --cause forbiden", &["'forbiden'", "forbidden"]),
        typed("enqueue --agent a --due -1h 1", &["is in the past: leave it out"]),
        typed("enqueue --agent a --label ", &["label"]),
    ]
}

/// Somewhere else than the queue.
fn of_place() -> Vec<Mistake> {
    let nowhere: &[&str] = &[
        "database {dir}/sweeper.db: there is no such file",
        "this path is the default, in the working directory",
        "give its file with --config",
        "`sweeper init` makes one",
    ];
    let there_is_none = |typed| Mistake { typed, code: 3, said: nowhere, ..Mistake::default() };
    let mut mistakes: Vec<_> = [
        "status",
        "show a 1",
        "plan",
        "list",
        "hold --all",
        "release --all",
        "retry --all --yes",
        "cancel --all --yes",
    ]
    .map(there_is_none)
    .into();
    mistakes.extend([
        Mistake {
            variables: &[("SWEEPER__DATABASE__PATH", "elsewhere/q.db")],
            typed: "status",
            code: 3,
            said: &["database {dir}/elsewhere/q.db: there is no such file", "set by SWEEPER__DATABASE__PATH"],
            ..Mistake::default()
        },
        Mistake {
            files: &[("q.db/", "")],
            variables: &[("SWEEPER__DATABASE__PATH", "q.db")],
            typed: "status",
            code: 3,
            said: &["database {dir}/q.db", "it is a directory"],
            ..Mistake::default()
        },
    ]);
    mistakes
}

/// Names that are not in the queue, but for a slip.
fn of_names() -> Vec<Mistake> {
    let unknown = |typed, code, said| Mistake { typed, code, said, has_queue: true, ..Mistake::default() };
    vec![
        unknown(
            "status --agent BAKREY",
            1,
            &["there is no row of agent BAKREY in {dir}/sweeper.db; did you mean BAKERY?"],
        ),
        unknown("list --agent BAKREY", 1, &["there is no row of agent BAKREY", "did you mean BAKERY?"]),
        unknown("cancel --agent BAKREY --yes", 1, &["there is no row of agent BAKREY", "did you mean BAKERY?"]),
        unknown("retry --agent BAKREY --yes", 1, &["there is no row of agent BAKREY", "did you mean BAKERY?"]),
        unknown("plan --agent BAKREY", 1, &["there is no row of agent BAKREY", "did you mean BAKERY?"]),
        unknown("show BAKREY 1", 1, &["BAKREY 1: there is no such row in {dir}/sweeper.db"]),
        unknown(
            "hold --agent BAKREY",
            0,
            &["there is no row of agent BAKREY", "did you mean BAKERY? The hold is placed all the same"],
        ),
        unknown("release --agent BAKERY", 1, &["nothing was released: no operator holds BAKERY"]),
        unknown("status --label TICKET-2", 1, &["TICKET-2", "did you mean TICKET-1?"]),
        unknown("cancel --label TICKET-1 --agent BAKREY --yes", 1, &["no row of agent BAKREY", "did you mean BAKERY?"]),
        unknown("cancel --label TICKET-2 --yes", 1, &["TICKET-2", "did you mean TICKET-1?"]),
        unknown("list --label TICKET-2", 1, &["TICKET-2", "did you mean TICKET-1?"]),
    ]
}

/// In a file that is read, or in the place of a queue that is to be made.
fn of_files() -> Vec<Mistake> {
    let no_directory = |typed| Mistake {
        variables: &[("SWEEPER__DATABASE__PATH", "d/q.db")],
        typed,
        code: 3,
        said: &[
            "database {dir}/d/q.db: there is no directory {dir}/d, and the database's path is set by SWEEPER__DATABASE__PATH",
            "make it with `mkdir -p {dir}/d`",
        ],
        ..Mistake::default()
    };
    vec![
        Mistake {
            files: &[("in.txt", "4711,4712\n")],
            has_queue: true,
            typed: "enqueue --agent a --file in.txt",
            code: 2,
            said: &["{dir}/in.txt, line 1: \"4711,4712\" looks like several IDs"],
            ..Mistake::default()
        },
        Mistake {
            files: &[("folder/", "")],
            has_queue: true,
            typed: "enqueue --agent a --dry-run --file folder",
            code: 2,
            said: &["--file {dir}/folder: is a directory; name a file in it"],
            ..Mistake::default()
        },
        Mistake {
            typed: "enqueue --agent a 1",
            code: 2,
            said: &[
                "{dir}/sweeper.db: there is no queue",
                "this path is the default",
                "--config",
                "give --create to make a new one",
            ],
            ..Mistake::default()
        },
        Mistake {
            files: &[("sweeper.db", "")],
            typed: "enqueue --agent a 1",
            code: 2,
            said: &["{dir}/sweeper.db: there is no queue", "give --create to make a new one"],
            ..Mistake::default()
        },
        Mistake {
            variables: &[("SWEEPER__DATABASE__PATH", "my queue/q.db")],
            typed: "init",
            code: 3,
            said: &["there is no directory {dir}/my queue", "`mkdir -p '{dir}/my queue'`"],
            ..Mistake::default()
        },
        no_directory("run"),
        no_directory("init"),
        no_directory("enqueue --create --agent a 1"),
    ]
}

fn make(dir: &Path, mistake: &Mistake) {
    for (name, text) in mistake.files {
        match name.strip_suffix('/') {
            Some(name) => fs::create_dir(dir.join(name)).unwrap(),
            None => fs::write(dir.join(name), text).unwrap(),
        }
    }
    if mistake.has_queue {
        let mut command = sweeper(dir);
        command.args(["enqueue", "--create", "--agent", "BAKERY", "--label", "TICKET-1", "1"]);
        assert_eq!(fed(command, "").0, 0);
    }
}

#[test]
fn a_long_argument_is_cut_in_the_message() {
    let dir = tempfile::tempdir().unwrap();
    for (arguments, option) in [(["hold", "--all", "--as"], "--as <NAME>"), (["hold", "--all", "--why"], "--why <")] {
        let mut command = sweeper(dir.path());
        command.args(arguments).arg("x".repeat(5_000));
        let (code, _, err) = fed(command, "");
        let said = format!("'{}…' for '{option}", "x".repeat(199));
        assert!(code == 2 && err.contains(&said) && err.contains("has 5000 characters"), "{err}");
        assert!(err.len() < 1_000, "{err}");
    }
    let mut command = sweeper(dir.path());
    command.args(["enqueue", "--create", "--agent", "a"]).arg("x".repeat(5_000));
    let (code, _, err) = fed(command, "");
    assert!(code == 2 && err.len() < 500, "{err}");
}

#[test]
fn what_was_asked_for_and_cannot_be_written_is_a_failure() {
    let dir = tempfile::tempdir().unwrap();
    for argument in ["--version", "--help"] {
        let mut command = sweeper(dir.path());
        command.arg(argument).stdout(fs::OpenOptions::new().write(true).open("/dev/full").unwrap());
        let output = command.output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.code() == Some(1) && said.contains("write to standard output: No space left"), "{said}");
    }
}

#[test]
fn each_is_met_by_what_a_good_colleague_would_say() {
    let all = [of_configuration(), of_the_key(), of_arguments(), of_place(), of_names(), of_files()];
    for mistake in all.into_iter().flatten() {
        let dir = tempfile::tempdir().unwrap();
        make(dir.path(), &mistake);
        let mut command = sweeper(dir.path());
        if mistake.variables.iter().all(|(name, _)| !name.starts_with("SWEEPER__API__KEY")) {
            command.env("SWEEPER__API__KEY", KEY);
        }
        command.args(mistake.typed.split(' ')).envs(mistake.variables.iter().copied());
        let (code, out, err) = fed(command, "");
        assert_eq!(code, mistake.code, "{} {:?}: {out}{err}", mistake.typed, mistake.variables);
        for said in mistake.said {
            let said = said.replace("{dir}", &dir.path().display().to_string());
            assert!(err.contains(&said), "{} {:?}: no {said:?} in {err}", mistake.typed, mistake.variables);
        }
        assert!(!err.contains(KEY) && !err.contains("panicked"), "{err}");
    }
}

//! Configuration: its layers, its limits, and what it never shows.

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use audio_cache_sweeper::{
    api::key::KeySource,
    config::{self, Config},
};

use crate::{daemon::sweeper, enqueue::fed};

fn environment(entries: &[(&str, &str)]) -> HashMap<String, String> {
    entries.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

fn load(file: &str, entries: &[(&str, &str)]) -> Result<Config, String> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("sweeper.toml");
    fs::write(&path, file).unwrap();
    Config::load(Some(&path), &environment(entries)).map_err(|error| error.to_string())
}

#[test]
fn the_defaults_are_complete_and_the_documented_ones() {
    let config = Config::load(None, &HashMap::new()).unwrap();
    assert_eq!(config.base_url.as_str(), "https://api.us.poly.ai/");
    assert_eq!(config.sqlite().unwrap().path, PathBuf::from("sweeper.db"));
    assert_eq!((config.rate.requests_per_second, config.rate.burst.get()), (5.0, 5));
    assert_eq!((config.worker.batch_size, config.worker.concurrency), (20, 8));
    assert_eq!(config.worker.retention, Duration::from_secs(30 * 86_400));
    assert!(config.worker.policy.ask_singly);
    assert!(!load("[retry]\nask_singly = false", &[]).unwrap().worker.policy.ask_singly);
    assert!(config.key.is_none());
    assert_eq!(
        config.api().unwrap_err().to_string(),
        "configuration: no API key. Give one in the environment variable SWEEPER__API__KEY, or name a file that has \
         it in api.key_file (SWEEPER__API__KEY_FILE)"
    );
}

#[test]
fn the_environment_goes_over_the_file_and_the_file_over_the_defaults() {
    let file = "[api]\nregion = 'eu'\n[rate_limit]\nrequests_per_second = 2.5\nburst = 7\n";
    let entries = [
        ("SWEEPER__RATE_LIMIT__BURST", "9"),
        ("SWEEPER__API__KEY", "0123"),
        ("SWEEPER__DELIVERY__LINGER", ""),
        ("SWEEPER_SERVICE_HOST", "10.0.0.1"),
        ("SWEEPER_PORT_80_TCP_ADDR", "10.0.0.1"),
        ("SWEEPER_API_KEY", ""),
        ("SWEEPER_CONFIG", "elsewhere"),
    ];
    let config = load(file, &entries).unwrap();
    assert_eq!(config.base_url.as_str(), "https://api.eu.poly.ai/");
    assert_eq!((config.rate.requests_per_second, config.rate.burst.get()), (2.5, 9));
    assert_eq!(config.worker.linger, Duration::from_millis(500), "an empty variable is none");
    let Some(KeySource::Given { key, .. }) = &config.key else { panic!("a key") };
    assert_eq!(secrecy::ExposeSecret::expose_secret(key), "0123", "digits stay the text they are");
}

#[test]
fn what_is_wrong_is_said_with_key_value_and_what_is_allowed() {
    let cases: [(&str, &str, &[&str]); 19] = [
        ("[api]\nrequest_timeout = '1s'", "", &["api.request_timeout", "\"1s\"", "api.connect_timeout", "5s"]),
        ("[rate_limit]\nburst = 0", "", &["rate_limit.burst", "\"0\"", "from 1 to"]),
        ("[delivery]\nbatch_size = 21", "", &["delivery.batch_size", "\"21\"", "from 1 to 20"]),
        ("[delivery]\nbatch_size = 'many'", "", &["delivery.batch_size", "\"many\"", "from 1 to 20"]),
        ("[rate_limit]\nrequests_per_second = nan", "", &["rate_limit.requests_per_second", "\"NaN\"", "from 0.001"]),
        ("[queue]\nretention = '30'", "", &["queue.retention", "\"30\"", "250ms, 30s, 5m or 30d"]),
        ("[queue]\nretention = '5s ago'", "", &["queue.retention", "\"5s ago\""]),
        ("[retry]\nbase_delay = '2h'", "", &["retry.base_delay", "\"2h\"", "not be longer than max_delay", "\"1h\""]),
        ("[retry]\nask_singly = 'no'", "", &["retry.ask_singly", "\"no\"", "true, false"]),
        ("[api]\nregion = 'mars'", "", &["api.region", "\"mars\"", "us, eu, uk, studio"]),
        ("[api]\nbase_url = 'http://example.com'", "", &["api.base_url", "https://"]),
        ("[api]\nbase_url = 'ftp://example.com'", "", &["api.base_url", "https://", "ftp"]),
        ("[api]\nbase_url = 'https://u:p@example.com'", "", &["api.base_url", "password"]),
        ("[api]\nbase_url = 'https://api.eu.poly.ai/v1'", "", &["api.base_url: has a path; give the origin alone"]),
        ("[log]\nformat = 'xml'", "", &["log.format", "\"xml\"", "auto, text, json"]),
        ("[log]\nfilter = 'worker=loud'", "", &["log.filter", "worker=loud"]),
        ("[rate_limit]\nrps = 1", "", &["rps", "requests_per_second"]),
        ("[api]\nkey = 'a'\nkey_file = 'b'", "", &["api.key", "api.key_file", "not both"]),
        ("", "SWEEPER__DELIVERY__CONCURENCY", &["delivery.concurency", "did you mean SWEEPER__DELIVERY__CONCURRENCY?"]),
    ];
    for (file, variable, said) in cases {
        let entries = if variable.is_empty() { vec![] } else { vec![(variable, "1")] };
        let error = load(file, &entries).unwrap_err();
        for text in said {
            assert!(error.contains(text), "{file:?} {variable}: {text:?} is missing in:\n{error}");
        }
    }
}

#[test]
fn a_word_counts_in_any_case() {
    let config = load("[api]\nregion = 'EU'\n[retry]\nask_singly = 'False'\n", &[]).unwrap();
    assert_eq!(config.base_url.as_str(), "https://api.eu.poly.ai/");
    assert!(!config.worker.policy.ask_singly);
}

#[test]
fn a_region_beside_a_base_url_is_known_with_its_place() {
    let url = ("SWEEPER__API__BASE_URL", "http://127.0.0.1:1");
    assert_eq!(load("", &[url]).unwrap().unused_region, None, "the default region is nobody's wish");
    assert_eq!(load("[api]\nregion = 'eu'", &[]).unwrap().unused_region, None);
    let place = load("[api]\nregion = 'eu'", &[url]).unwrap().unused_region.unwrap();
    assert!(place.starts_with("in /") && place.ends_with("/sweeper.toml, line 2"), "{place}");
}

#[test]
fn everything_that_is_wrong_is_said_at_once() {
    let error = load("[rate_limit]\nburst = 0\n[api]\nregion = 'mars'", &[]).unwrap_err();
    assert!(error.contains("rate_limit.burst") && error.contains("api.region"), "{error}");
}

#[test]
fn an_error_says_where_the_value_or_the_name_was_written() {
    let file = "# settings\n[rate_limit]\nburst = 0\n\n[api]\nregion = 'mars'\nrequest_timeout = '1s'\n";
    let error = load(file, &[("SWEEPER__API__REGION", "pluto"), ("sweeper__log__format", "xml")]).unwrap_err();
    let lines: Vec<&str> = error.lines().collect();
    let line = |key: &str| *lines.iter().find(|line| line.trim().starts_with(key)).unwrap();
    assert!(line("rate_limit.burst").ends_with("/sweeper.toml, line 3)"), "{error}");
    assert!(line("rate_limit.burst").contains(" (set in /"), "{error}");
    assert!(line("api.request_timeout").ends_with("/sweeper.toml, line 7)"), "{error}");
    assert!(line("api.region = \"pluto\"").ends_with(" (set by SWEEPER__API__REGION)"), "{error}");
    assert!(line("log.format").ends_with(" (set by sweeper__log__format)"), "{error}");

    let file = "region = 'eu'\n[api]\nregoin = 'eu'\n[apis]\n[log]\nfilter = []\n";
    let error = load(file, &[("SWEEPER_API_KEY", "s3cret"), ("SWEEPER_RATE_LIMIT", "1")]).unwrap_err();
    for said in [
        "/sweeper.toml, line 1: there is no section region; did you mean the key region of the section [api]?",
        "/sweeper.toml, line 3: there is no key api.regoin; did you mean region?",
        "/sweeper.toml, line 4: there is no section apis; did you mean api?",
        "/sweeper.toml, line 6: log.filter: must be one value",
        "the variable SWEEPER_API_KEY: did you mean SWEEPER__API__KEY?",
        "the variable SWEEPER_RATE_LIMIT: names a section alone",
    ] {
        assert!(error.contains(said), "{said} is missing in {error}");
    }
    assert!(!error.contains("s3cret"), "{error}");
    let error = load("[api]\nregion = 'eu'\nregion = 'us'", &[]).unwrap_err();
    assert!(error.contains("/sweeper.toml, line 3: duplicate key"), "{error}");
    let error = load("[api]\nkey = 'a'", &[("SWEEPER__API__KEY_FILE", "b")]).unwrap_err();
    assert!(error.contains("api.key_file is given, too (set by SWEEPER__API__KEY_FILE)"), "{error}");
    assert!(error.ends_with("/sweeper.toml, line 2)"), "{error}");
    let error = load("[rate_limit]\nburst = 99999999999999999999", &[]).unwrap_err();
    assert!(error.contains("out of range") && !error.contains("9999"), "{error}");
}

#[test]
fn the_key_is_in_no_error_and_not_in_what_is_shown() {
    let leaks: [(&str, &str); 6] = [
        ("[api]\nkey = 's3cret", ""),
        ("[api]\nkey = s3cret", ""),
        ("[api]\nkey = ['s3cret']", ""),
        ("[api]\nkey = 's3cret'\nregion = 'mars'", ""),
        ("api = 's3cret'", ""),
        ("", "SWEEPER__API"),
    ];
    for (file, variable) in leaks {
        let entries = if variable.is_empty() { vec![] } else { vec![(variable, "s3cret")] };
        let error = load(file, &entries).unwrap_err();
        assert!(!error.contains("s3cret"), "{file:?}: {error}");
    }
    let config = load("[api]\nkey = 's3cret'", &[]).unwrap();
    assert_eq!(config.shown["api.key"], "[redacted]");
    assert!(!format!("{config:?}").contains("s3cret"));
}

#[test]
fn plain_http_is_for_loopback_only() {
    for good in ["http://127.0.0.1:1", "http://localhost:1", "http://[::1]:1", "https://example.com/"] {
        load("", &[("SWEEPER__API__BASE_URL", good)]).unwrap();
    }
    for bad in ["http://127.0.0.1.example.com", "http://localhost.example.com", "http://10.0.0.1", "http://[::2]"] {
        load("", &[("SWEEPER__API__BASE_URL", bad)]).unwrap_err();
    }
}

#[test]
fn the_file_is_the_one_that_is_named_or_else_the_default_one_if_it_is_there() {
    let dir = tempfile::tempdir().unwrap();
    let default = dir.path().join("default.toml");
    let file = |argument: Option<&str>, variable: Option<&str>| {
        let variables: Vec<_> = variable.map(|value| ("SWEEPER_CONFIG", value)).into_iter().collect();
        config::file(argument.map(PathBuf::from), &environment(&variables), &default)
    };
    assert_eq!(file(None, None), None, "there is none");
    fs::write(&default, "").unwrap();
    let path = |name: &str| Some(PathBuf::from(name));
    let cases = [
        (None, None, Some(default.clone())),
        (None, Some("b.toml"), path("b.toml")),
        (Some("a.toml"), Some("b.toml"), path("a.toml")),
        (Some("none"), Some("b.toml"), None),
        (Some("none"), None, None),
        (Some("./none"), None, path("./none")),
        (None, Some("none"), None),
        (None, Some(""), None),
        (Some("a.toml"), Some(""), path("a.toml")),
    ];
    for (argument, variable, named) in cases {
        assert_eq!(file(argument, variable), named, "{argument:?} {variable:?}");
    }
    let below_a_file = default.join("sweeper.toml");
    let found = config::file(None, &HashMap::new(), &below_a_file);
    assert_eq!(found, Some(below_a_file), "a file in the place of the directory is said");
    let too_long = Path::new("/").join("x".repeat(5_000));
    assert_eq!(config::file(None, &HashMap::new(), &too_long), Some(too_long), "whether it is there is not known");
}

/// A mistake: the file, the variables, and what each command is to say of it.
type Mistake = (&'static str, &'static [(&'static str, &'static str)], &'static [&'static str]);

#[test]
fn a_mistake_ends_with_2_and_is_told_by_its_place_and_with_what_to_do() {
    const LEVELS: &str = "Allowed: off, error, warn, info, debug, trace, or directives such as info,sqlx=warn";
    let mistakes: [Mistake; 22] = [
        ("[log]\nfilter = 'warning'", &[], &["log.filter = \"warning\"", "did you mean warn?", LEVELS, "line 2"]),
        ("", &[("SWEEPER__LOG__FILTER", "verbose")], &["\"verbose\": not a level. ", LEVELS, "SWEEPER__LOG__FILTER"]),
        ("", &[("SWEEPER__LOG__FILTER", "eror")], &["did you mean error?"]),
        ("", &[("SWEEPER__LOG__FILTER", "info,warnign")], &["\"warnign\": not a level; did you mean warn?"]),
        ("", &[("SWEEPER__LOG__FILTER", "sqlx=warning")], &["= \"sqlx=warning\": \"warning\" is not a level"]),
        ("", &[("SWEEPER_API__REGION", "eu")], &["SWEEPER_API__REGION", "did you mean SWEEPER__API__REGION?"]),
        ("", &[("SWEEPER_API_KEY", "k")], &["did you mean SWEEPER__API__KEY?"]),
        ("", &[("SWEEPER__API_KEY", "k")], &["did you mean SWEEPER__API__KEY?"]),
        ("", &[("sweeper_api_key", "k")], &["sweeper_api_key", "did you mean SWEEPER__API__KEY?"]),
        ("", &[("SWEEPER_DATABASE_PATH", "q.db")], &["did you mean SWEEPER__DATABASE__PATH?"]),
        ("", &[("SWEEPER_RATE_LIMIT", "1")], &["names a section alone", "SWEEPER__RATE_LIMIT__REQUESTS_PER_SECOND"]),
        ("", &[("SWEEPER__CONFIG", "a.toml")], &["did you mean SWEEPER_CONFIG?"]),
        ("", &[("SWEEPER__API__REGOIN", "eu")], &["api.regoin; did you mean SWEEPER__API__REGION?"]),
        ("[api]\nregoin = 'eu'", &[], &["/sweeper.toml, line 2: there is no key api.regoin; did you mean region?"]),
        ("[API]\nregion = 'eu'", &[], &["/sweeper.toml, line 1: there is no section API; did you mean api?"]),
        ("region = 'eu'", &[], &["line 1", "did you mean the key region of the section [api]?"]),
        ("api.regoin = 'eu'", &[], &["line 1", "did you mean region?"]),
        ("[api]\nregion = eu", &[], &["configuration: /", "/sweeper.toml, line 2: "]),
        ("[api]\nregion = 'mars'", &[], &["must be one of us, eu, uk, studio (set in /", "/sweeper.toml, line 2)"]),
        ("[rate_limit]\nburst = 0", &[], &["rate_limit.burst = \"0\"", "from 1 to 100000", "line 2)"]),
        (
            "",
            &[("SWEEPER__API__BASE_URL", "https://api.eu.poly.ai/v1")],
            &["api.base_url: has a path; give the origin alone", "(set by SWEEPER__API__BASE_URL)"],
        ),
        ("[api]\nkey = 'k'", &[("SWEEPER__API__KEY_FILE", "f")], &["not both", "line 2", "SWEEPER__API__KEY_FILE"]),
    ];
    for (file, variables, said) in mistakes {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("sweeper.toml"), file).unwrap();
        for arguments in [&["check"][..], &["run"], &["status"], &["enqueue", "--agent", "a", "1"]] {
            let mut command = sweeper(dir.path());
            command.args(arguments).args(["--config", "sweeper.toml"]).envs(variables.iter().copied());
            let (code, _, err) = fed(command, "");
            assert_eq!(code, 2, "{file:?} {variables:?} {arguments:?}: {err}");
            for text in said {
                assert!(err.contains(text), "{file:?} {variables:?}: {text:?} is missing in:\n{err}");
            }
        }
        assert!(!dir.path().join("sweeper.db").exists(), "{file:?} {variables:?}");
    }
}

#[test]
fn what_others_set_is_left_alone_and_a_region_beside_a_base_url_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = sweeper(dir.path());
    command.arg("check").env("SWEEPER__API__KEY", "0123456789").env("SWEEPER__API__REGION", "EU");
    for name in
        ["SERVICE_HOST", "SERVICE_PORT", "SERVICE_PORT_HTTP", "PORT", "PORT_80_TCP", "PORT_80_TCP_ADDR", "CLIENTS"]
    {
        command.env(format!("SWEEPER_{name}"), "x").env(format!("SWEEPER_API_{name}"), "x");
    }
    let (code, out, err) = fed(command, "");
    assert_eq!((code, err.as_str()), (0, ""), "{out}");
    assert!(out.contains("requests go to https://api.eu.poly.ai/") && !out.contains("is not used"), "{out}");
    let mut command = sweeper(dir.path());
    command.arg("check").env("SWEEPER__API__KEY", "0123456789").env("SWEEPER__API__REGION", "eu");
    command.env("SWEEPER__API__BASE_URL", "http://127.0.0.1:1");
    let (code, out, err) = fed(command, "");
    assert_eq!((code, err.as_str()), (0, ""), "{out}");
    let said = "api.region, set by SWEEPER__API__REGION, is not used: api.base_url is given, too";
    assert!(out.contains(said), "{out}");
}

/// What `check` prints, with this file and these variables.
fn checked(file: &str, variables: &[(&str, &str)]) -> String {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("sweeper.toml"), file).unwrap();
    let mut command = sweeper(dir.path());
    command.args(["check", "--config", "sweeper.toml"]).env("SWEEPER__API__KEY", "0123456789");
    command.envs(variables.iter().copied());
    fed(command, "").1
}

const TOKEN: &str = "a-token-of-the-tests";
const NO_PAGE: &str = "is not used: http.listen is off, so there is no page";

/// Files with a setting in line 2 that has no effect: the setting, what is said of it, and the variable that gives it an effect.
const WITHOUT_EFFECT: [(&str, &str, &str, &str); 9] = [
    ("[http]\ntoken = 'a-token-of-the-tests'", "http.token", NO_PAGE, "SWEEPER__HTTP__LISTEN=127.0.0.1:0"),
    ("[http]\ntoken_file = 'token'", "http.token_file", NO_PAGE, "SWEEPER__HTTP__LISTEN=127.0.0.1:0"),
    ("[http]\nhosts = 'a b'", "http.hosts", NO_PAGE, "SWEEPER__HTTP__LISTEN=127.0.0.1:0"),
    (
        "[queue]\nevidence_retention = '29d'",
        "queue.evidence_retention",
        "is not used: queue.retention is longer (30d instead of 29d), and counts",
        "SWEEPER__QUEUE__RETENTION=29d",
    ),
    (
        "[hold]\nmax_retry_after = '1s'\nbase_delay = '2s'",
        "hold.max_retry_after",
        "is not used: hold.base_delay is longer (2s instead of 1s), and counts",
        "SWEEPER__HOLD__BASE_DELAY=1s",
    ),
    (
        "[delivery]\nlinger = '2s'\nbatch_size = 1",
        "delivery.linger",
        "is not used: delivery.batch_size is 1, so every request is full",
        "SWEEPER__DELIVERY__BATCH_SIZE=2",
    ),
    (
        "[log]\nrequests = 'none'\nfilter = 'error'",
        "log.requests",
        "is not used: log.filter is error: failed requests are logged at warn, and the others at info or debug",
        "SWEEPER__LOG__FILTER=warn",
    ),
    (
        "[database]\nlease = '9s'",
        "database.lease",
        "is not used: it is for a server, and the queue is a file (database.path)",
        "SWEEPER__DATABASE__URL=postgres://u@127.0.0.1:1/d",
    ),
    (
        "[database]\nsynchronous = 'normal'\nurl = 'postgres://u@127.0.0.1:1/d'",
        "database.synchronous",
        "is not used: it is for a file, and the queue is on a server (database.url)",
        "",
    ),
];

#[test]
fn a_setting_without_effect_is_named_with_its_place_and_what_takes_its_effect() {
    for (file, key, said, cure) in WITHOUT_EFFECT {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("token"), TOKEN).unwrap();
        let file = file.replace("'token'", &format!("'{}'", dir.path().join("token").display()));
        let said = format!("/sweeper.toml, line 2, {said}");
        let out = checked(&file, &[]);
        assert!(out.contains(&format!("\n{key}, set in /")) && out.contains(&said), "{key}: {out}");
        assert!(!out.contains(TOKEN), "{out}");
        if let Some((variable, value)) = cure.split_once('=') {
            let out = checked(&file, &[(variable, value)]);
            assert!(!out.contains(&format!("\n{key}, set")), "{key}, {cure}: {out}");
        }
    }
    let by_variable = checked("", &[("SWEEPER__HTTP__HOSTS", "a")]);
    assert!(by_variable.contains(&format!("\nhttp.hosts, set by SWEEPER__HTTP__HOSTS, {NO_PAGE}")), "{by_variable}");
    // What nobody has set, or what was set to nothing, is nobody's mistake.
    for file in ["", "[queue]\nretention = '60d'", "[http]\nhosts = ''"] {
        let out = checked(file, &[("SWEEPER__HTTP__HOSTS", "")]);
        assert!(!out.contains("is not used"), "{out}");
    }
}

#[test]
fn a_list_is_written_in_a_file_or_in_a_variable() {
    let names = |file: &str, variables: &[(&str, &str)]| format!("{:?}", load(file, variables).unwrap().http.hosts);
    let expected = names("[http]\nhosts = ['a.example', 'b']", &[]);
    assert!(expected.contains("\"a.example\", \"b\""), "{expected}");
    for written in ["a.example,b", "a.example b", "a.example, b", " A.example  b. ", "a.example,,b,"] {
        assert_eq!(names("", &[("SWEEPER__HTTP__HOSTS", written)]), expected, "{written:?}");
        assert_eq!(names(&format!("[http]\nhosts = '{written}'"), &[]), expected, "{written:?}");
    }
    let refused = load("", &[("SWEEPER__HTTP__HOSTS", "a.example;b")]).unwrap_err();
    assert!(
        refused.contains("\"a.example;b\" is no host name") && refused.contains("SWEEPER__HTTP__HOSTS"),
        "{refused}"
    );
    for (file, said) in [
        ("[http.hosts]\na = 'b'", "line 1: http.hosts: must be one value, not a section"),
        ("[http]\nlisten = ['off']", "line 2: http.listen: must be one value, not a list"),
    ] {
        let refused = load(file, &[]).unwrap_err();
        assert!(refused.contains(said), "{refused}");
    }
    // A list as in a file, which a variable is not.
    let refused = load("", &[("SWEEPER__HTTP__HOSTS", "[\"a.example\", \"b\"]")]).unwrap_err();
    assert!(refused.contains("is no host name"), "{refused}");
    let store = |written: &str| format!("{:?}", load("", &[("SWEEPER__DATABASE__URL", written)]).unwrap().store);
    let both = "postgres://u@127.0.0.1:1/d,postgres://u@127.0.0.1:2/d";
    assert_eq!(store(&both.replace(',', ", ")), store(both));
}

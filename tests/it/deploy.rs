//! What others run us with: the Dockerfile, the Compose example, the unit, the alerts. No file of theirs names what is not there.

use std::{collections::HashMap, fs, path::Path, time::Duration};

use audio_cache_sweeper::{
    config::{Config, DEFAULT_FILE},
    sandbox::Options,
};
use regex::Regex;

use crate::{
    daemon::{Daemon, configured, queue, sandbox, sweeper},
    health::{address, listening, scrape},
    scrape::Family,
};

fn text(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

/// The block of YAML in the README that begins with this line.
fn yaml(first: &str) -> String {
    let readme = text("README.md");
    let block = readme.split("```yaml\n").skip(1).find(|block| block.starts_with(first)).unwrap();
    block.split("```").next().unwrap().to_owned()
}

/// Every group of every match.
fn all(form: &str, text: &str) -> Vec<Vec<String>> {
    let form = Regex::new(form).unwrap();
    let groups =
        |found: regex::Captures<'_>| found.iter().skip(1).flatten().map(|group| group.as_str().to_owned()).collect();
    form.captures_iter(text).map(groups).collect()
}

fn one(form: &str, text: &str) -> String {
    let found = all(form, text);
    assert_eq!(found.len(), 1, "{form}");
    found[0][0].clone()
}

/// The words of an instruction in the form of a JSON array.
fn words(array: &str) -> Vec<String> {
    serde_json::from_str(array).unwrap()
}

fn load(variables: &[Vec<String>]) -> Result<Config, String> {
    let environment: HashMap<String, String> =
        variables.iter().map(|variable| (variable[0].clone(), variable[1].clone())).collect();
    Config::load(None, &environment).map_err(|error| error.to_string())
}

/// The configuration that these variables make; each of them counts.
fn configuration(variables: &[Vec<String>]) -> Config {
    assert!(!variables.is_empty());
    for at in 0..variables.len() {
        let mut misspelt = variables.to_vec();
        misspelt[at][0].push('_');
        assert!(load(&misspelt).is_err(), "{:?} is not looked at", misspelt[at]);
    }
    load(variables).unwrap()
}

#[test]
fn the_image_is_made_of_what_is_there_and_runs_what_we_understand() {
    let dockerfile = text("Dockerfile");
    let ignored = text(".dockerignore");
    let copied: Vec<String> = all(r"(?m)^COPY ([^-].*) \S+$", &dockerfile)
        .iter()
        .flat_map(|sources| sources[0].split(' ').map(str::to_owned).collect::<Vec<_>>())
        .collect();
    assert!(copied.len() >= 5, "{copied:?}");
    for source in &copied {
        assert!(Path::new(env!("CARGO_MANIFEST_DIR")).join(source).exists(), "{source} is not there");
        assert!(ignored.lines().all(|line| line != source), "{source} is ignored");
    }
    for file in ["src/queue/sqlite/schema.rs", "src/config.rs"] {
        let included = all(r#"include_str!\("(?:\.\./)+([a-z]+)/"#, &text(file));
        assert!(!included.is_empty(), "{file} includes nothing any more");
        for folder in included {
            assert!(copied.contains(&folder[0]), "{} is compiled in, and not copied", folder[0]);
        }
    }
    let entrypoint = words(&one(r"(?m)^ENTRYPOINT (\[.*\])$", &dockerfile));
    let installed = one(r"(?m)^COPY --from=build \S*/sweeper (\S+)$", &dockerfile);
    assert_eq!(entrypoint, std::slice::from_ref(&installed));
    let health = words(&one(r"(?m)^HEALTHCHECK .* CMD (\[.*\])$", &dockerfile));
    assert_eq!(health[0], installed);
    let command = words(&one(r"(?m)^CMD (\[.*\])$", &dockerfile));
    let dir = tempfile::tempdir().unwrap();
    for arguments in [command.as_slice(), &health[1..]] {
        let output = sweeper(dir.path()).args(arguments).arg("--help").output().unwrap();
        let usage = format!("Usage: sweeper {}", arguments[0]);
        assert!(output.status.success() && String::from_utf8_lossy(&output.stdout).contains(&usage), "{arguments:?}");
    }
    let set = configuration(&all(r"(SWEEPER__[A-Z_]+)=(\S+)", &one(r"(?m)^ENV (.*)$", &dockerfile)));
    assert_eq!(set.store.path.parent(), Some(Path::new(&one(r"(?m)^VOLUME (.*)$", &dockerfile))));
    assert!(set.listen.is_some(), "the health check asks there");
}

#[test]
fn the_compose_example_sets_what_there_is_and_leaves_time_to_stop() {
    let compose = yaml("services:");
    let variables = all(r"(?m)^ +(SWEEPER__[A-Z_]+): (\S+)", &compose);
    let set = configuration(&variables);
    let port = set.listen.unwrap().port();
    assert!(compose.contains(&format!("ports: [\"127.0.0.1:{port}:{port}\"]")), "{port} is published");
    let key = one(r"SWEEPER__API__KEY_FILE: /run/secrets/(\S+)", &compose);
    assert!(compose.contains(&format!("secrets: [{key}]")) && compose.contains(&format!("\n  {key}:\n    file: ")));
    let volume = one(r"(?m)^VOLUME (.*)$", &text("Dockerfile"));
    let name = one(&format!(r#"volumes: \["([a-z]+):{volume}"\]"#), &compose);
    assert!(compose.contains(&format!("\nvolumes:\n  {name}:\n")));
    let seconds = |form: &str, text: &str| Duration::from_secs(one(form, text).parse().unwrap());
    let stop = set.worker.grace + set.store.busy_timeout * 3;
    assert!(seconds(r"stop_grace_period: (\d+)s", &compose) > stop);
    let unit = text("config/sweeper.service");
    configuration(&all(r"(?m)^Environment=(SWEEPER__[A-Z_]+)=(\S+)$", &unit));
    let file = one(r"(?m)^ExecStart=\S+ run --config (\S+)$", &unit);
    assert_eq!(file, DEFAULT_FILE, "commands read it, too");
    assert!(unit.contains(&format!(
        "#   install -m 644 config/sweeper.toml {}/",
        Path::new(&file).parent().unwrap().display()
    )));
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/sweeper.toml");
    let shipped = Config::load(Some(&shipped), &HashMap::new()).unwrap();
    let state = Path::new("/var/lib").join(one(r"(?m)^StateDirectory=(\S+)$", &unit));
    assert_eq!(shipped.store.path.parent(), Some(state.as_path()));
    assert!(seconds(r"(?m)^TimeoutStopSec=(\d+)$", &unit) > stop);
    assert!(seconds(r"(?m)^WatchdogSec=(\d+)$", &unit) > set.store.busy_timeout * 4);
    let umask = u32::from_str_radix(&one(r"(?m)^UMask=(\d+)$", &unit), 8).unwrap();
    assert_eq!(0o660 & !umask, 0o660, "members of the group can enqueue");
    assert!(
        text("README.md")
            .contains(&format!("With `UMask={umask:04o}`, as in the unit, members of the group can enqueue"))
    );
}

/// What is wrong with an expression of PromQL, as far as it names metrics, labels and values of labels.
fn unserved(expression: &str, families: &[Family]) -> Vec<String> {
    let samples: Vec<&str> =
        families.iter().flat_map(|family| &family.samples).map(|(sample, _)| sample.as_str()).collect();
    // What Prometheus adds to every sample, and makes for every target.
    let ours = |name: &str| !["instance", "job"].contains(&name);
    let mut wrong = Vec::new();
    let mut named = Vec::new();
    let form = Regex::new(r"\b((?:sweeper|process|up)[a-z_]*)(?:\{([^}]*)\})?").unwrap();
    for found in form.captures_iter(expression) {
        let name = found[1].to_owned();
        let of_it: Vec<&str> =
            samples.iter().copied().filter(|sample| sample.split('{').next() == Some(&name)).collect();
        if of_it.is_empty() && name != "up" {
            wrong.push(name);
            continue;
        }
        named.extend(of_it.clone());
        let matchers = found.get(2).map_or("", |matchers| matchers.as_str());
        for matcher in all(r#"([a-z_]+)(=~|=)"([^"]*)""#, matchers).iter().filter(|matcher| ours(&matcher[0])) {
            // Each of several values must be there, or it is a slip.
            let values = if matcher[1] == "=~" { matcher[2].split('|').collect() } else { vec![matcher[2].as_str()] };
            for value in values {
                let sample = Regex::new(&format!(r#"[{{,]{}="{value}"[,}}]"#, matcher[0])).unwrap();
                if !of_it.iter().any(|has| sample.is_match(has)) {
                    wrong.push(format!("{name}: {}{}{value}", matcher[0], matcher[1]));
                }
            }
        }
    }
    for labels in all(r"\b(?:by|on) \(([^)]*)\)", expression) {
        for label in labels[0].split(", ").filter(|label| ours(label)) {
            if !named
                .iter()
                .any(|sample| sample.contains(&format!("{{{label}=")) || sample.contains(&format!(",{label}=")))
            {
                wrong.push(format!("by {label}"));
            }
        }
    }
    wrong
}

#[tokio::test]
async fn the_alerts_name_metrics_and_labels_that_are_served() {
    let dir = tempfile::tempdir().unwrap();
    let sandbox = sandbox(Options::default()).await;
    queue(dir.path(), 1).await;
    let daemon = Daemon::start(listening(configured(dir.path(), &sandbox))).until("request").await;
    let families = scrape(address(&daemon)).await;
    let rules = yaml("groups:");
    let alerts = rules.split("- alert: ").skip(1);
    let mut seen = 0;
    for alert in alerts {
        seen += 1;
        let expression = alert.split("expr:").nth(1).unwrap().split(" for:").next().unwrap();
        assert!(["sweeper_", "up{"].iter().any(|name| expression.contains(name)), "{expression}");
        assert_eq!(unserved(expression, &families), [""; 0], "{alert}");
    }
    assert!(seen >= 7, "only {seen} alerts");
    let readme = text("README.md");
    let mentioned = all(r"`(rate\(.*\))`\)", &readme);
    assert_eq!(mentioned.len(), 1);
    assert_eq!(unserved(&mentioned[0][0], &families), [""; 0]);
    let slips = r#"sum by (instance, agent) (sweeper_holds{cause=~"forbidden|forbiden"}) > sweeper_total{} or
                   sweeper_queue_depth{status="due"}"#;
    let wrong = ["sweeper_holds: cause=~forbiden", "sweeper_total", "sweeper_queue_depth: status=due", "by agent"];
    assert_eq!(unserved(slips, &families), wrong, "what this test is for");
}

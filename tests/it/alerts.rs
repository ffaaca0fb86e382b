//! What watches us: the alerts and the dashboard name metrics and labels that are served.

use std::{process::Command, time::Duration};

use audio_cache_sweeper::sandbox::Options;
use regex::Regex;
use serde_json::Value;

use crate::{
    cluster::cluster,
    daemon::{Daemon, configured, queue, sandbox, skipped},
    deploy::{all, text, yaml},
    engines::postgres::Postgres,
    health::{address, listening, scrape},
    scrape::Family,
    suite::engine::{Engine as _, Setup},
};

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

/// The metrics in an expression that several daemons of one queue all have, and whose sum is taken over more than the one that leads.
fn counted_twice(expression: &str) -> Vec<String> {
    let shared =
        "queue_depth|holds|rate_requests_per_second|rate_ceiling_requests_per_second|concurrency_limit|limit_reason";
    let of_leader = r#" and on \(instance\) sweeper_leader\{instance=~"\$instance"\} == 1\)"#;
    let sum = format!(r"\bsum(?: by \([^)]*\) )?\((sweeper_(?:{shared}))\{{[^}}]*\}}({of_leader})?");
    let sums = Regex::new(&sum).unwrap();
    sums.captures_iter(expression).filter(|found| found.get(2).is_none()).map(|found| found[1].to_owned()).collect()
}

/// The metrics of a daemon that has worked.
async fn served() -> Vec<Family> {
    let dir = tempfile::tempdir().unwrap();
    let sandbox = sandbox(Options::default()).await;
    queue(dir.path(), 1).await;
    let daemon = Daemon::start(listening(configured(dir.path(), &sandbox))).until("request").await;
    scrape(address(&daemon)).await
}

/// Those of a daemon whose queue is on a server; `None` without a server, which was said then.
async fn served_from_a_server() -> Option<Vec<Family>> {
    cluster()?;
    let engine = Postgres::create(Setup { busy_timeout: Duration::from_secs(5), in_memory: true }).await;
    let (dir, sandbox) = (tempfile::tempdir().unwrap(), sandbox(Options::default()).await);
    let mut command = configured(dir.path(), &sandbox);
    engine.configure(&mut command);
    let daemon = Daemon::start(listening(command)).until("leading").await;
    Some(scrape(address(&daemon)).await)
}

#[tokio::test]
async fn the_alerts_name_metrics_and_labels_that_are_served() {
    let families = served().await;
    let rules = &yaml("config/prometheus-rules.yaml")[0]["groups"][0]["rules"];
    let docs = text("docs/monitoring.md");
    for rule in rules.as_array().unwrap() {
        let (name, expression) = (rule["alert"].as_str().unwrap(), rule["expr"].as_str().unwrap());
        assert!(["sweeper_", "up{"].iter().any(|name| expression.contains(name)), "{expression}");
        assert_eq!(unserved(expression, &families), [""; 0], "{name}");
        for said in ["summary", "description"] {
            assert!(rule["annotations"][said].as_str().is_some_and(|text| text.len() > 20), "{name}: {said}");
        }
        assert!(docs.contains(&format!("| {name} |")), "docs/monitoring.md has no {name}");
    }
    assert!(rules.as_array().unwrap().len() >= 8);
    let stuck = rules.as_array().unwrap().iter().find(|rule| rule["alert"] == "SweeperStuck").unwrap();
    assert!(stuck["expr"].as_str().unwrap().contains("sweeper_leader == 0"), "a standby deletes nothing, and is well");
    let mentioned = all(r"`(rate\(.*\))`\)", &text("docs/rate.md"));
    assert_eq!(mentioned.len(), 1);
    assert_eq!(unserved(&mentioned[0][0], &families), [""; 0]);
    let slips = r#"sum by (instance, agent) (sweeper_holds{cause=~"forbidden|forbiden"}) > sweeper_total{} or
                   sweeper_queue_depth{status="due"}"#;
    let wrong = ["sweeper_holds: cause=~forbiden", "sweeper_total", "sweeper_queue_depth: status=due", "by agent"];
    assert_eq!(unserved(slips, &families), wrong, "what this test is for");
}

#[test]
fn prometheus_understands_the_alerts() {
    let rules = concat!(env!("CARGO_MANIFEST_DIR"), "/config/prometheus-rules.yaml");
    match Command::new("promtool").args(["check", "rules", rules]).output() {
        Ok(said) => assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr)),
        Err(_) => skipped("there is no promtool that reads the alerts"),
    }
}

#[tokio::test]
async fn the_dashboard_asks_for_metrics_and_labels_that_are_served() {
    let (mut families, of_server) = (served().await, served_from_a_server().await);
    let has_server = of_server.is_some();
    families.extend(of_server.into_iter().flatten());
    let dashboard: Value = serde_json::from_str(&text("config/grafana-dashboard.json")).unwrap();
    let mut metrics = std::collections::BTreeSet::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        let title = panel["title"].as_str().unwrap();
        assert!(!panel["description"].as_str().unwrap().is_empty(), "{title}");
        for target in panel["targets"].as_array().unwrap() {
            let expression = target["expr"].as_str().unwrap();
            if title == "Inbox" && !has_server {
                continue;
            }
            assert_eq!(unserved(expression, &families), [""; 0], "{title}");
            assert_eq!(counted_twice(expression), [""; 0], "{title}");
            metrics.extend(all(r"\b(sweeper_[a-z_]+)", expression).into_iter().map(|name| name[0].clone()));
        }
    }
    let slip = r#"sum by (state) (sweeper_queue_depth{instance=~"$instance"}) or sum(sweeper_holds{})"#;
    assert_eq!(counted_twice(slip), ["sweeper_queue_depth", "sweeper_holds"], "what this test is for");
    // A label that the legend shows must be one that the query keeps.
    for family in families.iter().filter(|family| !["info", ""].contains(&family.kind.as_str())) {
        let is_shown = metrics.iter().any(|name| name.starts_with(&family.name));
        assert!(is_shown || !family.name.starts_with("sweeper_"), "no panel shows {}", family.name);
    }
}

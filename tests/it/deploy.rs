//! What others run us with: the Dockerfile, Compose, Kubernetes, the units. No file of theirs names what is not there.

use std::{collections::HashMap, fs, path::Path, process::Command, time::Duration};

use audio_cache_sweeper::{
    api::key::KeySource,
    config::{Config, DEFAULT_FILE},
    queue::either,
};
use regex::Regex;
use serde_json::Value;

use crate::daemon::{skipped, sweeper};

pub fn text(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

/// All documents of a YAML file.
pub fn yaml(path: &str) -> Vec<Value> {
    serde_saphyr::from_multiple(&text(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Every group of every match.
pub fn all(form: &str, text: &str) -> Vec<Vec<String>> {
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
    // No variable names a file: it would stand in the way of database.url.
    assert_eq!(set.sqlite().unwrap().path, Path::new("sweeper.db"));
    assert_eq!(one(r"(?m)^WORKDIR (/data)$", &dockerfile), volume());
    assert!(set.http.listen.is_some(), "the health check asks there");
}

/// The variables of a container, as [name, value].
fn variables<'v>(entries: impl Iterator<Item = (&'v str, &'v Value)>) -> Vec<Vec<String>> {
    entries.map(|(name, value)| vec![name.to_owned(), value.as_str().unwrap().to_owned()]).collect()
}

/// How long a daemon with these settings may take to stop.
fn stops_within(set: &Config) -> Duration {
    set.worker.grace + set.store.longest_wait() * 3
}

fn volume() -> String {
    one(r"(?m)^VOLUME (.*)$", &text("Dockerfile"))
}

#[test]
fn the_compose_file_sets_what_there_is_and_leaves_time_to_stop() {
    let compose = &yaml("config/compose.yaml")[0];
    let service = &compose["services"]["sweeper"];
    let set = configuration(&variables(
        service["environment"].as_object().unwrap().iter().map(|(name, value)| (name.as_str(), value)),
    ));
    let port = set.http.listen.unwrap().port();
    assert_eq!(service["ports"][0], format!("127.0.0.1:{port}:{port}"));
    let secret = service["secrets"][0].as_str().unwrap();
    assert_eq!(service["environment"]["SWEEPER__API__KEY_FILE"], format!("/run/secrets/{secret}"));
    assert!(compose["secrets"][secret]["file"].is_string());
    let (name, path) = service["volumes"][0].as_str().unwrap().split_once(':').unwrap();
    assert!(path == volume() && compose["volumes"].as_object().unwrap().contains_key(name));
    let stop: u64 = service["stop_grace_period"].as_str().unwrap().strip_suffix('s').unwrap().parse().unwrap();
    assert!(Duration::from_secs(stop) > stops_within(&set));
    let context = Path::new(env!("CARGO_MANIFEST_DIR")).join("config").join(service["build"].as_str().unwrap());
    assert!(context.join("Dockerfile").exists());
}

#[test]
fn the_kubernetes_manifest_sets_what_there_is_and_runs_one_daemon() {
    let documents = yaml("config/kubernetes.yaml");
    let of = |kind: &str| documents.iter().find(|document| document["kind"] == kind).unwrap();
    let spec = &of("Deployment")["spec"];
    assert!(spec["replicas"] == 1 && spec["strategy"]["type"] == "Recreate", "a queue has one daemon");
    let pod = &spec["template"]["spec"];
    assert_eq!(spec["selector"]["matchLabels"], spec["template"]["metadata"]["labels"]);
    let container = &pod["containers"][0];
    let entries = container["env"].as_array().unwrap();
    let set = configuration(&variables(entries.iter().map(|entry| (entry["name"].as_str().unwrap(), &entry["value"]))));
    assert_eq!(container["ports"][0]["containerPort"], set.http.listen.unwrap().port());
    assert_eq!(container["livenessProbe"]["httpGet"]["path"], "/livez");
    assert_eq!(container["readinessProbe"]["httpGet"]["path"], "/readyz");
    let stop = pod["terminationGracePeriodSeconds"].as_u64().unwrap();
    assert!(Duration::from_secs(stop) > stops_within(&set));
    let user = one(r"(?m)^USER (\d+):", &text("Dockerfile")).parse::<u64>().unwrap();
    assert!(pod["securityContext"]["runAsUser"] == user && pod["securityContext"]["fsGroup"] == user);
    let mounted = |name: &str| {
        let mounts = container["volumeMounts"].as_array().unwrap();
        mounts.iter().find(|mount| mount["name"] == name).unwrap()["mountPath"].as_str().unwrap()
    };
    let volumes = pod["volumes"].as_array().unwrap();
    let queue = volumes.iter().find(|volume| volume["persistentVolumeClaim"].is_object()).unwrap();
    assert_eq!(mounted(queue["name"].as_str().unwrap()), volume());
    assert_eq!(queue["persistentVolumeClaim"]["claimName"], of("PersistentVolumeClaim")["metadata"]["name"]);
    let secret = volumes.iter().find(|volume| volume["secret"].is_object()).unwrap();
    let Some(KeySource::File(key)) = &set.key else { panic!("the key is a file") };
    assert!(key.starts_with(mounted(secret["name"].as_str().unwrap())));
    let mode = secret["secret"]["defaultMode"].as_u64().unwrap();
    assert_eq!(mode & 0o026, 0, "others may not read the key: {mode:o}");
}

/// The settings of a daemon beside others, which take each other's place.
fn stands_by(set: &Config) {
    assert!(set.sqlite().is_err(), "a file has one daemon");
    let either::Options::Postgres(options) = &set.store else { panic!("a server") };
    assert!(options.lease < Duration::from_secs(10));
}

#[test]
fn two_daemons_on_a_server_are_set_up_in_compose_and_kubernetes() {
    let compose = &yaml("config/compose-postgres.yaml")[0];
    let service = &compose["services"]["sweeper"];
    assert_eq!(service["deploy"]["replicas"], 2);
    assert!(service["ports"].is_null() && service["volumes"].is_null(), "two cannot have one port");
    let set = configuration(&variables(
        service["environment"].as_object().unwrap().iter().map(|(name, value)| (name.as_str(), value)),
    ));
    stands_by(&set);
    for (variable, secret) in [("SWEEPER__API__KEY_FILE", "polyai"), ("SWEEPER__DATABASE__PASSWORD_FILE", "sweeper-pg")]
    {
        assert_eq!(service["environment"][variable], format!("/run/secrets/{secret}"));
        assert!(compose["secrets"][secret]["file"].is_string());
        assert!(service["secrets"].as_array().unwrap().iter().any(|named| named == secret));
    }
    let stop: u64 = service["stop_grace_period"].as_str().unwrap().strip_suffix('s').unwrap().parse().unwrap();
    assert!(Duration::from_secs(stop) > stops_within(&set));

    let deployment = &yaml("config/kubernetes-postgres.yaml")[0];
    let spec = &deployment["spec"];
    assert!(spec["replicas"] == 2 && spec["strategy"].is_null(), "they may run side by side");
    assert_eq!(spec["selector"]["matchLabels"], spec["template"]["metadata"]["labels"]);
    let pod = &spec["template"]["spec"];
    let container = &pod["containers"][0];
    let entries = container["env"].as_array().unwrap();
    let set = configuration(&variables(entries.iter().map(|entry| (entry["name"].as_str().unwrap(), &entry["value"]))));
    stands_by(&set);
    let stop = pod["terminationGracePeriodSeconds"].as_u64().unwrap();
    assert!(Duration::from_secs(stop) > stops_within(&set));
    let volumes = pod["volumes"].as_array().unwrap();
    for mount in container["volumeMounts"].as_array().unwrap() {
        let volume = volumes.iter().find(|volume| volume["name"] == mount["name"]).unwrap();
        assert_eq!(volume["secret"]["defaultMode"], 288);
        let path = mount["mountPath"].as_str().unwrap();
        assert!(entries.iter().any(|entry| entry["value"].as_str().unwrap().starts_with(path)), "{path}");
    }
}

/// A unit without its comments, its description, and what is its own.
fn settings(unit: &str, own: &[&str]) -> Vec<String> {
    let unit = text(unit);
    let lines = unit.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    lines.filter(|line| !own.iter().any(|key| line.starts_with(key))).map(str::to_owned).collect()
}

#[test]
fn the_units_start_what_we_understand_and_leave_time_to_stop() {
    let own = ["Description=", "ExecStart=", "EnvironmentFile=", "StateDirectory="];
    assert_eq!(settings("config/sweeper.service", &own), settings("config/sweeper@.service", &own));
    let unit = text("config/sweeper.service");
    let file = one(r"(?m)^ExecStart=\S+ run --config (\S+)$", &unit);
    assert_eq!(file, DEFAULT_FILE, "commands read it, too");
    let folder = Path::new(&file).parent().unwrap().display().to_string();
    assert!(unit.contains(&format!("#   install -m 644 config/sweeper.toml {folder}/")));
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/sweeper.toml");
    let set = Config::load(Some(&shipped), &HashMap::new()).unwrap();
    let state = Path::new("/var/lib").join(one(r"(?m)^StateDirectory=(\S+)$", &unit));
    assert_eq!(set.sqlite().unwrap().path.parent(), Some(state.as_path()));
    let Some(KeySource::File(key)) = &set.key else { panic!("the key is a file") };
    assert!(unit.contains(&format!("#   install -m 400 -o sweeper -g sweeper key {}", key.display())));
    let template = text("config/sweeper@.service");
    assert_eq!(one(r"(?m)^ExecStart=\S+ run --config (\S+)$", &template), format!("{folder}/%i.toml"));
    assert_eq!(one(r"(?m)^StateDirectory=(\S+)$", &template), "sweeper/%i");
    let seconds = |form: &str| Duration::from_secs(one(form, &unit).parse().unwrap());
    assert!(seconds(r"(?m)^TimeoutStopSec=(\d+)$") > stops_within(&set));
    assert!(seconds(r"(?m)^WatchdogSec=(\d+)$") > set.store.longest_wait() * 4);
    assert_eq!(one(r"(?m)^LimitCORE=(\d+)$", &unit), "0", "a core dump has the key in it");
    let umask = one(r"(?m)^UMask=(\d+)$", &unit);
    assert_eq!(0o660 & !u32::from_str_radix(&umask, 8).unwrap(), 0o660, "members of the group can enqueue");
    assert!(text("docs/deploy-systemd.md").contains(&format!("With `UMask={umask}`, as in the unit")));
}

#[test]
fn systemd_understands_the_units() {
    if Command::new("systemd-analyze").arg("--version").output().is_err() {
        return skipped("there is no systemd-analyze that reads the units");
    }
    let dir = tempfile::tempdir().unwrap();
    for name in ["sweeper.service", "sweeper@.service"] {
        // The program is not installed here.
        let unit = text(&format!("config/{name}")).replace("/usr/local/bin/sweeper", "/bin/true");
        let path = dir.path().join(name);
        fs::write(&path, unit).unwrap();
        let said = Command::new("systemd-analyze").args(["verify", "--man=no"]).arg(&path).output().unwrap();
        let said = String::from_utf8_lossy(&said.stderr).into_owned();
        // Other units of this machine may have their own faults.
        let ours: Vec<&str> = said.lines().filter(|line| line.contains("sweeper")).collect();
        assert_eq!(ours, [""; 0], "{name}");
    }
}

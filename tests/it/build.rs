//! What the build says of itself is true.

use std::{env, fs, path::Path, process::Command};

use serde_json::Value;

fn text(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

/// Of a compiler: `1.94` is 1.94.0.
fn version(text: &str) -> Vec<u32> {
    let mut parts: Vec<u32> = text.split('.').map(|part| part.parse().unwrap()).collect();
    parts.resize(3, 0);
    parts
}

#[test]
fn the_compiler_that_is_asked_for_is_new_enough_for_all_that_we_depend_on() {
    let cargo = || Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    let said = cargo().args(["version", "--verbose"]).output().unwrap();
    let said = String::from_utf8(said.stdout).unwrap();
    let host = said.lines().find_map(|line| line.strip_prefix("host: ")).unwrap().to_owned();
    // Of other platforms, not everything is on this machine.
    let metadata = cargo()
        .args(["metadata", "--locked", "--offline", "--format-version", "1", "--filter-platform", &host])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(metadata.status.success(), "{}", String::from_utf8_lossy(&metadata.stderr));
    let metadata: Value = serde_json::from_slice(&metadata.stdout).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    assert!(packages.len() > 100);
    let ours = env!("CARGO_PKG_RUST_VERSION");
    for package in packages {
        if let Some(needed) = package["rust_version"].as_str() {
            assert!(version(ours) >= version(needed), "{} needs Rust {needed}, and we say {ours}", package["name"]);
        }
    }
    let readme = text("README.md");
    assert!(
        readme.contains(&format!("a Rust toolchain ({ours} or newer)")),
        "the README names another one than {ours}"
    );
}

#[test]
fn what_must_pass_is_built_from_the_lock_file() {
    let run = text(".ci/run");
    for command in ["clippy", "test", "doc"] {
        let line = run.lines().find(|line| line.contains(&format!("cargo {command} "))).unwrap();
        assert!(line.contains("--locked"), "{line}");
    }
    assert!(run.contains("--config .cargo/deny.toml") && !text(".cargo/deny.toml").is_empty());
}

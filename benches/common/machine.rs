//! Where a benchmark runs.

use std::{fs, process::Command};

/// Where this runs, and what compiled it.
pub fn machine() -> String {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split(": ").nth(1));
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let rustc = Command::new("rustc").arg("--version").output().ok();
    let rustc = rustc.and_then(|said| Some(String::from_utf8(said.stdout).ok()?.split(" (").next()?.trim().to_owned()));
    let (model, os) = (model.unwrap_or("unknown processor"), std::env::consts::OS);
    format!("{model}, {cores} cores, {os}, {}", rustc.unwrap_or_else(|| "unknown rustc".to_owned()))
}

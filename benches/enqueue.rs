//! What enqueueing through the binary costs: time, and memory, which must not grow with the lines.
//!
//! `cargo bench --bench enqueue` does 100,000 lines; `ENQUEUE_LINES=1000000 cargo bench --bench enqueue` as many as you like.

#![expect(clippy::unwrap_used, reason = "a benchmark that cannot go on should stop where it is")]
#![expect(clippy::print_stdout, reason = "its output is what it is for")]

#[path = "common/machine.rs"]
mod machine;

use std::{
    env, fs,
    io::{BufWriter, Write as _},
    path::Path,
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use audio_cache_sweeper::model::clock::Clock;

fn main() {
    let lines: u64 = env::var("ENQUEUE_LINES").map_or(100_000, |text| text.parse().unwrap());
    let dir = tempfile::tempdir().unwrap();
    println!("machine: {}", machine::machine());
    println!("{:>10}  {:>34}  {:>9}  {:>12}  {:>11}", "lines", "", "time", "lines/s", "peak memory");
    for count in [lines / 10, lines] {
        // As an export has them: in no order that an index would like.
        let ids = dir.path().join("ids.txt");
        let csv = dir.path().join("ids.csv");
        write(&ids, "", count, |id| id.to_string());
        write(&csv, "agent_id,entry_id,priority\n", count, |id| format!("agent-{},{id},1", id % 1_000));
        fs::read_dir(dir.path())
            .unwrap()
            .map(|file| file.unwrap().path())
            .filter(|path| path.file_name().unwrap().to_string_lossy().starts_with("sweeper.db"))
            .for_each(|path| fs::remove_file(path).unwrap());
        enqueue(dir.path(), "new, one ID a line", count, &["--agent", "a", "--file", "ids.txt"]);
        enqueue(dir.path(), "the same again, already waiting", count, &["--agent", "a", "--file", "ids.txt"]);
        enqueue(dir.path(), "new, CSV of 1,000 agents", count, &["--file", "ids.csv"]);
    }
}

fn write(path: &Path, header: &str, count: u64, line: impl Fn(u64) -> String) {
    let mut file = BufWriter::new(fs::File::create(path).unwrap());
    file.write_all(header.as_bytes()).unwrap();
    for n in 0..count {
        // A prime that is larger than any count: all different, and scattered.
        writeln!(file, "{}", line(n * 7_919_777 % 1_000_000_007)).unwrap();
    }
    file.flush().unwrap();
}

fn enqueue(dir: &Path, name: &str, count: u64, arguments: &[&str]) {
    let clock = Clock::system();
    let mut child = Command::new(env!("CARGO_BIN_EXE_sweeper"))
        .current_dir(dir)
        .args(["enqueue", "--create"])
        .args(arguments)
        .env("SWEEPER_CONFIG", "")
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let mut peak = String::new();
    let status = loop {
        // The peak so far; what is read last, before it ends, is all but the end's.
        let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
        if let Some(line) = status.lines().find_map(|line| line.strip_prefix("VmHWM:")) {
            peak = line.trim().to_owned();
        }
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        thread::sleep(Duration::from_millis(5));
    };
    let took = clock.elapsed();
    assert!(status.success());
    let rate = count as f64 / took.as_secs_f64();
    println!("{count:>10}  {name:>34}  {:>7.2} s  {rate:>12.0}  {peak:>11}", took.as_secs_f64());
}

//! Other processes: how they end, and what they cost.

use std::{fs, process::Child};

/// A process that is killed when this is dropped.
#[derive(Debug)]
pub struct Killed(pub Child);

impl Drop for Killed {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The seconds of CPU that a process has had, to the nanosecond: the times of its threads, as Linux's scheduler counts them.
pub fn cpu(process: &str) -> f64 {
    let threads = fs::read_dir(format!("/proc/{process}/task")).into_iter().flatten().flatten();
    let of_thread = |thread: fs::DirEntry| {
        // A thread may end meanwhile.
        let said = fs::read_to_string(thread.path().join("schedstat")).ok()?;
        said.split_whitespace().next()?.parse::<f64>().ok()
    };
    threads.filter_map(of_thread).sum::<f64>() / 1e9
}

/// The seconds of CPU that a process's children had that have ended, as Linux tells it: in ticks of 10 ms.
pub fn cpu_of_ended(process: &str) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
    // Its name, in parentheses, may have spaces in it.
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    fields[13..=14].iter().map(|ticks| ticks.parse::<f64>().unwrap()).sum::<f64>() / 100.0
}

/// The processes that this one has started.
pub fn children(process: u32) -> Vec<String> {
    let said = fs::read_to_string(format!("/proc/{process}/task/{process}/children")).unwrap_or_default();
    said.split_whitespace().map(str::to_owned).collect()
}

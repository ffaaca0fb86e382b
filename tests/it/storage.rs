//! Faults of the storage: temporary ones are waited for, permanent ones end with 3 and say what to do.

use audio_cache_sweeper::queue::{Queue as _, Tx as _};
use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{Seek as _, SeekFrom, Write as _},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use audio_cache_sweeper::{
    queue::sqlite::{self, Store, Synchronous},
    sandbox::{Mood, Options, Sandbox},
};
use tokio::sync::watch;

use crate::{
    bed::ids,
    daemon::{
        BINARY, Daemon, Locked, Log, clean, configure, configured, finish, open, queue, sandbox, skipped, sql, sweeper,
    },
};

const ROWS: usize = 80;

/// Every row is deleted at its first attempt, and no ID was sent twice.
async fn assert_each_was_sent_once(dir: &Path, sandbox: &Sandbox) {
    let counts = "SELECT state || count(*) || '/' || sum(attempts) FROM deletions GROUP BY state";
    assert_eq!(sql(dir, counts).await, [(format!("deleted{ROWS}/{ROWS}"),)]);
    assert_eq!(sql(dir, "PRAGMA integrity_check").await, [("ok".to_owned(),)]);
    let mut sent = BTreeMap::new();
    sandbox.requests().iter().flat_map(ids).for_each(|id| *sent.entry(id).or_insert(0) += 1);
    assert!(sent.len() == ROWS && sent.values().all(|times| *times == 1), "{sent:?}");
}

fn assert_said_once(log: &Log) {
    let counts = [("database_unavailable", "WARN"), ("database_available", "INFO")]
        .map(|(event, level)| log.count(event, level));
    assert_eq!(counts, [1, 1], "{log:#?}");
    assert!(log.count("database_unavailable", "DEBUG") > 0, "{log:#?}");
}

/// Four calls, on their way until the gate opens.
async fn gated() -> Sandbox {
    let sandbox = sandbox(Options::default()).await;
    sandbox.script([Mood::Gate, Mood::Gate, Mood::Gate, Mood::Gate]);
    sandbox
}

/// The four answers have come, and could not be written twice.
async fn answered_in_vain(daemon: Daemon) -> Daemon {
    let mut daemon = daemon;
    for event in ["request", "request", "request", "request", "database_unavailable", "database_unavailable"] {
        daemon = daemon.until(event).await;
    }
    daemon
}

fn patient(mut command: Command) -> Command {
    command.env("SWEEPER__DATABASE__BUSY_TIMEOUT", "10ms").env("SWEEPER__LOG__FILTER", "audio_cache_sweeper=debug");
    command
}

#[tokio::test]
async fn a_database_that_is_locked_for_long_is_waited_for_and_no_answered_call_is_repeated() {
    let dir = tempfile::tempdir().unwrap();
    let sandbox = gated().await;
    queue(dir.path(), ROWS).await;
    let mut command = patient(configured(dir.path(), &sandbox));
    command.env("SWEEPER__DELIVERY__CONCURRENCY", "4");
    let daemon = Daemon::start(command).until("started").await;
    sandbox.arrived(4).await;
    let locked = Locked::new(dir.path()).await;
    sandbox.open_gate();
    let daemon = answered_in_vain(daemon).await;
    locked.release().await;
    let daemon = daemon.until("database_available").await;
    daemon.signal("TERM");
    let (code, log) = daemon.ended().await;
    assert_eq!(code, 0);
    assert_said_once(&log);
    assert_each_was_sent_once(dir.path(), &sandbox).await;
}

#[tokio::test]
async fn a_database_that_is_locked_at_the_start_is_waited_for_and_init_says_so_instead() {
    let dir = tempfile::tempdir().unwrap();
    let sandbox = sandbox(Options::default()).await;
    queue(dir.path(), ROWS).await;
    // What a crash left: its recovery is part of the start.
    let claim = "INSERT INTO requests (correlation_id, agent_id, deletion_ids, size, claimed_at)
                 VALUES ('00000000-0000-4000-8000-000000000000', 'b', '[]', 1, 1)";
    sql(dir.path(), claim).await;
    let locked = Locked::new(dir.path()).await;
    let mut init = sweeper(dir.path());
    init.arg("init").env("SWEEPER__DATABASE__BUSY_TIMEOUT", "10ms");
    let (code, _, stderr) = finish(init).await;
    assert!(code == 3 && stderr.contains("sweeper.db") && stderr.contains("another process is writing"), "{stderr}");

    let daemon = Daemon::start(patient(configured(dir.path(), &sandbox))).until("database_unavailable").await;
    daemon.signal("TERM");
    let (code, log) = daemon.ended().await;
    assert_eq!((code, log.count("stopping", "INFO"), log.count("started", "INFO")), (0, 1, 0), "{log:#?}");

    let daemon = Daemon::start(patient(configured(dir.path(), &sandbox))).until("database_unavailable").await;
    let daemon = daemon.until("database_unavailable").await;
    locked.release().await;
    let mut daemon = daemon.until("recovered").await.until("database_available").await;
    for _ in 0..4 {
        daemon = daemon.until("request").await;
    }
    daemon.signal("TERM");
    let (code, log) = daemon.ended().await;
    assert_eq!((code, log.count("started", "INFO")), (0, 1));
    assert_said_once(&log);
    assert_each_was_sent_once(dir.path(), &sandbox).await;
}

/// A small disk of its own, in a namespace of its own: `None`, and said so, where that is not permitted.
struct SmallDisk {
    dir: tempfile::TempDir,
}

impl SmallDisk {
    /// With a queue to be copied onto it.
    async fn new() -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("disk")).unwrap();
        let mount = "mount -t tmpfs -o size=1m none disk";
        match Command::new("unshare").args(["-rm", "sh", "-c", mount]).current_dir(dir.path()).output() {
            Ok(output) if output.status.success() => {}
            Ok(output) => {
                skipped(&format!("no disk can be mounted: {}", String::from_utf8_lossy(&output.stderr)));
                return None;
            }
            Err(error) => {
                skipped(&format!("unshare cannot be started: {error}"));
                return None;
            }
        }
        queue(dir.path(), ROWS).await;
        Some(Self { dir })
    }

    /// What becomes the daemon, after `prepare` was done on the disk.
    fn command(&self, sandbox: &Sandbox, prepare: &str) -> Command {
        let script =
            format!("mount -t tmpfs -o size=1m none disk && cp sweeper.db disk/ && {prepare} && exec {BINARY} run");
        let mut command = configure(clean("unshare", self.dir.path()), sandbox);
        command.args(["-rm", "sh", "-c", &script]).env("SWEEPER__DATABASE__PATH", "disk/sweeper.db");
        patient(command)
    }

    /// The disk, as this daemon sees it.
    fn inside(&self, daemon: &Daemon) -> PathBuf {
        let dir = self.dir.path().canonicalize().unwrap();
        let dir = dir.strip_prefix("/").unwrap();
        Path::new("/proc").join(daemon.pid().to_string()).join("root").join(dir).join("disk")
    }

    /// Brings the queue out, which is gone with the daemon. Nobody writes any more, and nobody here has it open.
    fn keep(&self, daemon: &Daemon) {
        for name in ["sweeper.db", "sweeper.db-wal"] {
            fs::copy(self.inside(daemon).join(name), self.dir.path().join(name)).unwrap();
        }
    }
}

/// Takes all the room that is left.
fn fill(dir: &Path) {
    let mut filler = File::create(dir.join("filler")).unwrap();
    while filler.write_all(&[0; 4096]).is_ok() {}
}

#[tokio::test]
async fn a_full_disk_is_waited_for_and_no_answered_call_is_repeated() {
    let Some(disk) = SmallDisk::new().await else { return };
    let sandbox = gated().await;
    let mut command = disk.command(&sandbox, "true");
    command.env("SWEEPER__DELIVERY__CONCURRENCY", "4");
    let daemon = Daemon::spawn(command).until("started").await;
    sandbox.arrived(4).await;
    fill(&disk.inside(&daemon));
    sandbox.open_gate();
    let daemon = answered_in_vain(daemon).await;
    fs::remove_file(disk.inside(&daemon).join("filler")).unwrap();
    let daemon = daemon.until("database_available").await;
    disk.keep(&daemon);
    daemon.signal("TERM");
    let (code, log) = daemon.ended().await;
    assert_eq!(code, 0);
    assert_said_once(&log);
    assert!(log.last("database_unavailable", "error").contains("its disk"), "{log:#?}");
    assert_each_was_sent_once(disk.dir.path(), &sandbox).await;
}

#[tokio::test]
async fn a_disk_that_is_full_at_the_start_is_waited_for() {
    let Some(disk) = SmallDisk::new().await else { return };
    let sandbox = sandbox(Options::default()).await;
    let full = "{ dd if=/dev/zero of=disk/filler bs=4k 2>/dev/null || true; }";
    let daemon = Daemon::spawn(disk.command(&sandbox, full)).until("database_unavailable").await;
    daemon.signal("TERM");
    assert_eq!(daemon.ended().await.0, 0, "told to end while it waits");
    let daemon = Daemon::spawn(disk.command(&sandbox, full)).until("database_unavailable").await;
    let daemon = daemon.until("database_unavailable").await;
    fs::remove_file(disk.inside(&daemon).join("filler")).unwrap();
    let mut daemon = daemon.until("database_available").await;
    for _ in 0..4 {
        daemon = daemon.until("request").await;
    }
    daemon.signal("TERM");
    let (code, log) = daemon.ended().await;
    assert_eq!((code, log.last("stopped", "deleted").as_str()), (0, "80"));
    assert_said_once(&log);
    assert!(log.last("database_unavailable", "error").contains("make room"), "{log:#?}");
}

pub fn assert_unusable(code: i32, error: &str, said: &[&str]) {
    assert_eq!(code, 3, "{error}");
    for said in said {
        assert!(error.contains(said), "{said:?} is missing in {error:?}");
    }
}

#[tokio::test]
async fn a_disk_that_is_read_only_ends_with_3_and_the_message_says_what_to_do() {
    let Some(disk) = SmallDisk::new().await else { return };
    let sandbox = sandbox(Options::default()).await;
    let (code, log) = Daemon::spawn(disk.command(&sandbox, "mount -o remount,ro disk")).ended().await;
    assert_unusable(code, &log.last("stopped", "error"), &["disk/sweeper.db", "must exist and be writable"]);
}

/// The binary without root's right to write what is not writable; `None`, and said so, if that right cannot be given up.
pub fn unprivileged(dir: &Path) -> Option<Command> {
    let rights = ["--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-all"];
    let probe = dir.join("probe");
    if !probe.exists() {
        fs::write(&probe, "").unwrap();
        fs::set_permissions(&probe, fs::Permissions::from_mode(0o444)).unwrap();
    }
    let can_write = |mut command: Command| {
        command.args(["sh", "-c", "echo >> probe"]).output().is_ok_and(|output| output.status.success())
    };
    if !can_write(clean("env", dir)) {
        return Some(sweeper(dir));
    }
    let mut without = clean("setpriv", dir);
    without.args(rights);
    if can_write(without) || Command::new("setpriv").args(rights).arg("true").status().is_err() {
        skipped("this user can write to read-only files, and setpriv does not help");
        return None;
    }
    let mut command = clean("setpriv", dir);
    command.args(rights).arg(BINARY);
    Some(command)
}

#[tokio::test]
async fn a_file_that_is_read_only_ends_with_3_and_the_message_says_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let sandbox = sandbox(Options::default()).await;
    queue(dir.path(), 1).await;
    let Some(command) = unprivileged(dir.path()) else { return };
    fs::set_permissions(dir.path().join("sweeper.db"), fs::Permissions::from_mode(0o444)).unwrap();
    let (code, log) = Daemon::start(configure(command, &sandbox)).ended().await;
    assert_unusable(
        code,
        &log.last("stopped", "error"),
        &["sweeper.db", "has mode 0444", "may not write it; its owner is this user: chmod u+w "],
    );
}

#[tokio::test]
async fn files_that_are_deleted_or_replaced_underneath_end_it_with_3_and_it_says_which() {
    let other = tempfile::tempdir().unwrap();
    queue(other.path(), 5).await;
    let cases = [
        ("sweeper.db", None, "start it again"),
        ("sweeper.db", Some("sweeper.db"), "start it again"),
        ("sweeper.db-wal", None, "start it again"),
        ("sweeper.db-shm", None, "start it again"),
        ("sweeper.db-shm", Some("sweeper.db.lock"), "start it again"),
        ("sweeper.db.lock", None, "others cannot see any more who works on"),
        ("sweeper.db.lock", Some("sweeper.db.lock"), "others cannot see any more who works on"),
    ];
    for (name, replaced_by, said) in cases {
        let dir = tempfile::tempdir().unwrap();
        let sandbox = sandbox(Options::default()).await;
        queue(dir.path(), 1).await;
        let daemon = Daemon::start(configured(dir.path(), &sandbox)).until("request").await;
        match replaced_by {
            Some(by) => {
                fs::copy(other.path().join(by), dir.path().join("new")).unwrap();
                fs::rename(dir.path().join("new"), dir.path().join(name)).unwrap();
            }
            None => fs::remove_file(dir.path().join(name)).unwrap(),
        }
        let (code, log) = daemon.ended().await;
        assert_unusable(code, &log.last("stopped", "error"), &[name, "deleted or replaced", said]);
    }
}

#[tokio::test]
async fn corrupt_pages_end_it_with_3_and_the_message_says_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let sandbox = sandbox(Options::default()).await;
    queue(dir.path(), 5_000).await;
    // Nobody has it open, so that no lock of SQLite's is lost by this.
    let path = dir.path().join("sweeper.db");
    let mut file = File::options().read(true).write(true).open(&path).unwrap();
    let pages = file.metadata().unwrap().len() / 4096;
    assert!(pages > 60 && !dir.path().join("sweeper.db-wal").exists(), "{pages} pages");
    for page in pages / 4..pages / 4 * 3 {
        file.seek(SeekFrom::Start(page * 4096)).unwrap();
        file.write_all(&[0xa5; 4096]).unwrap();
    }
    drop(file);
    let (code, log) = Daemon::start(configured(dir.path(), &sandbox)).ended().await;
    assert_unusable(
        code,
        &log.last("stopped", "error"),
        &["sweeper.db", "malformed", "backup", "/sweeper.db .dump | sed "],
    );
    assert_eq!(log.count("database_unavailable", "WARN"), 2, "looked at again, twice");
}

/// Another process's transactions, one after the other: the lock is free for a moment between two. Tells how many there were
/// whenever one has begun.
async fn hog(path: PathBuf, begun: watch::Sender<usize>) {
    let mut conn = open(&path).await;
    loop {
        sqlx::raw_sql("BEGIN IMMEDIATE").execute(&mut conn).await.unwrap();
        begun.send_modify(|times| *times += 1);
        tokio::time::sleep(Duration::from_millis(150)).await;
        sqlx::raw_sql("COMMIT").execute(&mut conn).await.unwrap();
        tokio::time::sleep(Duration::from_millis(3)).await;
    }
}

#[tokio::test]
async fn a_lock_that_is_free_for_moments_only_is_got_in_one_of_the_next() {
    const TIMES: usize = 6;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("queue.db");
    let options =
        sqlite::Options { path: path.clone(), busy_timeout: Duration::from_secs(60), synchronous: Synchronous::Full };
    let mut store = Store::open(options).await.unwrap();
    let (begun, mut seen) = watch::channel(0);
    let hog = tokio::spawn(hog(path, begun));
    let mut waited = 0;
    for _ in 0..TIMES {
        seen.changed().await.unwrap();
        let before = *seen.borrow_and_update();
        store.begin().await.unwrap().commit(&[], None, audio_cache_sweeper::model::clock::Timestamp(1)).await.unwrap();
        waited += *seen.borrow_and_update() - before;
    }
    hog.abort();
    // How many of its transactions we sat through beyond the one that was open: none, unless the machine is busy. With SQLite's
    // own waiting, whose pauses grow up to 100 ms, it is ten or more each time.
    assert!(waited <= TIMES, "{waited}");
}

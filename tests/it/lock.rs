//! One daemon a file: by whatever name, whatever else has locked it, and whatever lies where the lock file should.

use audio_cache_sweeper::queue::{Counter as _, Queue as _, Tx as _};
use std::{
    fs,
    io::{BufRead as _, BufReader},
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use assert_cmd::assert::OutputAssertExt as _;
use audio_cache_sweeper::{
    model::{
        clock::Timestamp,
        deletion::{AgentId, EntryId},
    },
    queue::sqlite::{self, OpenError, Producer, Reader, Store, Synchronous, holder},
    sandbox::Options,
    small_file,
};
use serde_json::Value;

use crate::daemon::{BINARY, Daemon, KEY, blocking, clean, configured, finish, queue, sandbox, skipped, sql, sweeper};

/// The exit code and what was said of one command after the other.
async fn refused(dir: &Path, commands: &[&[&str]], said: &[&str]) {
    for arguments in commands {
        let mut command = sweeper(dir);
        command.args(*arguments).env("SWEEPER__API__KEY", KEY);
        let (code, _, stderr) = finish(command).await;
        assert_eq!(code, 3, "{arguments:?}: {stderr}");
        for said in said {
            assert!(stderr.contains(said), "{arguments:?}: {said:?} is missing in {stderr}");
        }
    }
}

/// It ends also if it is not refused.
const RUN: &[&str] = &["run", "--until-empty", "--give-up-after", "1m"];
const INIT: &[&str] = &["init"];
const ALL: [&[&str]; 7] = [
    RUN,
    INIT,
    &["enqueue", "--agent", "a", "7"],
    &["status"],
    &["show", "a", "1"],
    &["retry", "--all", "--yes"],
    &["cancel", "--all", "--yes"],
];

/// A program that has locked a file, until its standard input ends.
struct Outsider(Child);

impl Outsider {
    /// `None`, and said so, if it cannot be started.
    fn start(dir: &Path, script: &str) -> Option<Self> {
        let mut command = clean("sh", dir);
        command.args(["-c", script]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        if line == "locked\n" {
            return Some(Self(child));
        }
        child.wait().unwrap();
        skipped("there is no flock(1)");
        None
    }

    fn end(mut self) {
        drop(self.0.stdin.take());
        assert!(self.0.wait().unwrap().success());
    }
}

#[tokio::test]
async fn a_program_that_is_no_sweeper_and_has_locked_a_file_is_named() {
    let dir = tempfile::tempdir().unwrap();
    queue(dir.path(), 1).await;
    for file in ["sweeper.db", "sweeper.db.lock"] {
        for (script, name) in [
            // The lock is flock's own, that of the program that it has become, and what it has left to the shell.
            (format!("flock -x {file} sh -c 'echo locked; exec cat'"), "(flock), which is no sweeper"),
            (format!("exec flock -F -s {file} sh -c 'echo locked; exec cat'"), "(cat), which is no sweeper"),
            (format!("exec 9>> {file}; flock 9 && echo locked; cat"), "), which is no sweeper"),
        ] {
            let Some(outsider) = Outsider::start(dir.path(), &script) else { return };
            let which = format!("{file} is locked by process ");
            refused(dir.path(), &[RUN, INIT], &["/sweeper.db: ", &which, name, "end that process"]).await;
            let status = sweeper(dir.path()).args(["status", "--json"]).assert().code(0);
            let status: Value = serde_json::from_slice(&status.get_output().stdout).unwrap();
            assert_eq!(status["daemon"]["running"], false, "{script}");
            sweeper(dir.path()).args(["enqueue", "--agent", "a", "1"]).assert().code(0);
            outsider.end();
        }
    }
    sweeper(dir.path()).args(INIT).assert().code(0);
}

#[tokio::test]
async fn the_number_of_an_outsider_that_the_lock_file_does_not_have_is_no_sweeper_s() {
    let dir = tempfile::tempdir().unwrap();
    let sandbox = sandbox(Options::default()).await;
    let daemon = Daemon::start(configured(dir.path(), &sandbox)).until("started").await;
    daemon.signal("KILL");
    assert_eq!(daemon.ended().await.0, -1);
    // Its number is still there, and another program has the lock.
    let script = "flock -x sweeper.db.lock sh -c 'echo locked; exec cat'";
    let Some(outsider) = Outsider::start(dir.path(), script) else { return };
    let mut init = sweeper(dir.path());
    init.arg("init");
    let (code, _, said) = finish(init).await;
    assert!(code == 3 && said.contains("(flock)") && !said.contains("another sweeper"), "{said}");
    outsider.end();
}

#[tokio::test]
async fn a_daemon_whose_lock_file_is_gone_still_keeps_others_out() {
    let dir = tempfile::tempdir().unwrap();
    let sandbox = sandbox(Options::default()).await;
    let daemon = Daemon::start(configured(dir.path(), &sandbox)).until("started").await;
    // It would notice at once, and end.
    daemon.signal("STOP");
    fs::remove_file(dir.path().join("sweeper.db.lock")).unwrap();
    let taken = format!("another sweeper (process {}) is working on it", daemon.pid());
    refused(dir.path(), &[RUN], &[&taken]).await;
    daemon.signal("CONT");
    let (code, log) = daemon.ended().await;
    assert!(code == 3 && log.last("stopped", "error").contains("sweeper.db.lock"), "{log:#?}");
}

#[tokio::test]
async fn a_database_with_a_second_name_is_refused_by_either_and_a_symbolic_link_is_none() {
    let dir = tempfile::tempdir().unwrap();
    queue(dir.path(), 1).await;
    fs::hard_link(dir.path().join("sweeper.db"), dir.path().join("second.db")).unwrap();
    refused(dir.path(), &ALL, &["/sweeper.db: ", "has 2 names (hard links)", "-samefile /"]).await;
    for arguments in ALL {
        let mut command = sweeper(dir.path());
        command.args(arguments).env("SWEEPER__API__KEY", KEY).env("SWEEPER__DATABASE__PATH", "second.db");
        let (code, _, said) = finish(command).await;
        assert!(code == 3 && said.contains("/second.db: ") && said.contains("has 2 names"), "{said}");
    }
    let names: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(names.iter().all(|name| !name.to_string_lossy().starts_with("second.db-")), "{names:?}");
    fs::remove_file(dir.path().join("second.db")).unwrap();
    symlink("sweeper.db", dir.path().join("second.db")).unwrap();
    sweeper(dir.path()).arg("init").env("SWEEPER__DATABASE__PATH", "second.db").assert().code(0);
    sweeper(dir.path()).arg("status").env("SWEEPER__DATABASE__PATH", "second.db").assert().code(0);
}

/// What a script ends with in a namespace of its own, in which it may mount; `None`, and said so, where that is not permitted.
pub async fn mounting(dir: &Path, script: &str) -> Option<(i32, String, String)> {
    let unshare = |script: &str| {
        let mut command = clean("unshare", dir);
        command.args(["-rm", "sh", "-c", script]).env("SWEEPER__API__KEY", KEY);
        command
    };
    let probe = "mkdir -p probe && mount --bind probe probe";
    if !unshare(probe).output().is_ok_and(|output| output.status.success()) {
        skipped("there is no `unshare`, or it may not mount anything");
        return None;
    }
    Some(finish(unshare(script)).await)
}

#[tokio::test]
async fn a_database_that_is_mounted_without_its_directory_is_refused_with_what_to_mount() {
    let dir = tempfile::tempdir().unwrap();
    queue(dir.path(), 1).await;
    fs::create_dir(dir.path().join("a b\\")).unwrap();
    fs::write(dir.path().join("a b\\/queue.db"), "").unwrap();
    let mount = "mount --bind sweeper.db 'a b\\/queue.db' && export SWEEPER__DATABASE__PATH='a b\\/queue.db'";
    for arguments in ["run", "init", "enqueue --agent a 7", "status", "show a 1", "cancel --all --yes"] {
        let script = format!("{mount} && exec {BINARY} {arguments}");
        let Some((code, _, said)) = mounting(dir.path(), &script).await else { return };
        assert!(code == 3 && said.contains("is a mount point") && said.contains("mount its directory"), "{said}");
    }
    let left: Vec<_> = fs::read_dir(dir.path().join("a b\\")).unwrap().collect();
    assert_eq!(left.len(), 1, "nothing was made beside it");
    fs::remove_file(dir.path().join("a b\\/queue.db")).unwrap();
    // Its directory, under another name: both names lead to one lock and one log.
    let sandbox = sandbox(Options::default()).await;
    let daemon = Daemon::start(configured(dir.path(), &sandbox)).until("started").await;
    let script = format!("mount --bind . 'a b\\' && cd 'a b\\' && exec {BINARY} init");
    let (code, out, _) = mounting(dir.path(), &script).await.unwrap();
    let said = format!("in use by a sweeper (process {})", daemon.pid());
    assert!(code == 0 && out.contains(&said), "{out}");
}

#[tokio::test]
async fn a_daemon_that_cannot_be_seen_is_still_one() {
    let dir = tempfile::tempdir().unwrap();
    let sandbox = sandbox(Options::default()).await;
    let daemon = Daemon::start(configured(dir.path(), &sandbox)).until("started").await;
    // As from another container: its processes have numbers of their own.
    let unseen = |arguments: &str| {
        let mut command = clean("unshare", dir.path());
        let script = format!("mount -t proc proc /proc && exec {BINARY} {arguments}");
        command.args(["-rpfm", "sh", "-c", &script]).env("SWEEPER__API__KEY", KEY);
        command
    };
    let (code, out, said) = finish(unseen("init")).await;
    if code != 0 && !said.starts_with("sweeper: ") {
        return skipped(&format!("there is no `unshare`, or it may not be used: {said}"));
    }
    assert!(code == 0 && out.ends_with("/sweeper.db: up to date, and in use by a sweeper\n"), "{out}{said}");
    let (code, _, said) = finish(unseen("run")).await;
    assert!(code == 3 && said.contains("another sweeper is working on it"), "{said}");
    let (_, out, _) = finish(unseen("status --json")).await;
    let status: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(status["daemon"]["running"], true);
    assert_eq!(status["daemon"]["pid"], daemon.pid(), "as the daemon itself says");
    assert!(status["daemon"]["version"].is_string());
}

#[tokio::test]
async fn where_the_system_tells_of_no_locks_a_number_is_believed_that_is_a_sweeper_s() {
    let dir = tempfile::tempdir().unwrap();
    let sandbox = sandbox(Options::default()).await;
    let daemon = Daemon::start(configured(dir.path(), &sandbox)).until("started").await;
    // As under systemd's ProcSubset=pid.
    let init = || {
        let mut command = clean("unshare", dir.path());
        command.args(["-m", "sh", "-c", &format!("mount -t proc -o subset=pid proc /proc && exec {BINARY} init")]);
        command
    };
    let (code, out, said) = finish(init()).await;
    if code != 0 && !said.starts_with("sweeper: ") {
        return skipped(&format!("there is no `unshare`, or only root may mount: {said}"));
    }
    let in_use = format!("/sweeper.db: up to date, and in use by a sweeper (process {})\n", daemon.pid());
    assert!(code == 0 && out.ends_with(&in_use), "{out}{said}");
    daemon.signal("KILL");
    assert_eq!(daemon.ended().await.0, -1);
    let script = "flock -x sweeper.db.lock sh -c 'echo locked; exec cat'";
    let Some(outsider) = Outsider::start(dir.path(), script) else { return };
    let (code, _, said) = finish(init()).await;
    assert!(code == 3 && said.contains("locked by a process that cannot be seen from here"), "{said}");
    outsider.end();
    assert_eq!(finish(init()).await.0, 0);
}

fn options(dir: &Path) -> sqlite::Options {
    let path = dir.join("sweeper.db");
    sqlite::Options { path, busy_timeout: Duration::from_secs(5), synchronous: Synchronous::Full }
}

/// Whether this process has a POSIX lock on the file; SQLite has one on each database that it has open.
fn has_posix_lock(path: &Path) -> bool {
    let inode = format!(":{}", fs::metadata(path).unwrap().ino());
    let pid = std::process::id().to_string();
    (0..5).any(|_| {
        let locks = fs::read_to_string("/proc/locks").unwrap();
        locks
            .lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>())
            .any(|words| words.len() > 5 && words[1] == "POSIX" && words[4] == pid && words[5].ends_with(&inode))
    })
}

#[tokio::test]
async fn nothing_that_we_do_with_the_file_takes_sqlite_s_locks_away_and_lets_a_second_writer_in() {
    let dir = tempfile::tempdir().unwrap();
    let options = options(dir.path());
    let database = &options.path;
    let mut store = Store::open(options.clone()).await.unwrap();
    let beside = ["-wal", "-shm"].map(|suffix| dir.path().join(format!("sweeper.db{suffix}")));
    let identities = || beside.clone().map(|path| fs::metadata(path).unwrap().ino());
    let before = identities();
    let mut write = store.begin().await.unwrap();
    write.next_request_id();
    let (agent, entry) = (AgentId::parse("a").unwrap(), EntryId::parse("1").unwrap());
    for round in 0..2 {
        for _ in 0..2 {
            assert!(matches!(Store::open(options.clone()).await, Err(OpenError::Taken { .. })));
            assert!(matches!(Store::make(options.clone()).await, Err(OpenError::Taken { .. })));
        }
        drop(Reader::open(&options).await.unwrap());
        assert!(holder(database).unwrap().is_some());
        let mut reader = Reader::open(&options).await.unwrap();
        reader.story(&agent, &entry).await.unwrap();
        reader.standing(None, Timestamp(1)).await.unwrap();
        drop(reader);
        sqlite::Counter::new(options.clone()).census(Timestamp(1)).await.unwrap();
        drop(Producer::join(&options).await.unwrap());
        drop(Producer::join_or_create(&options).await.unwrap());
        // A key or a certificate that is in fact the database.
        assert!(small_file::read(database, 1 << 20).is_err());
        assert!(small_file::read(database, 1 << 10).is_err());
        if Path::new("/proc/locks").exists() {
            assert!(has_posix_lock(database), "round {round}: SQLite's lock is gone");
        }
    }
    // The first of two to come and go would be the last one who has the database open, and would remove the log.
    for _ in 0..2 {
        let mut second = sweeper(dir.path());
        second.args(["enqueue", "--agent", "a", "1"]).env("SWEEPER__DATABASE__BUSY_TIMEOUT", "10ms");
        let (code, _, said) = finish(second).await;
        assert!(code == 3 && said.contains("another process is writing"), "a second writer got in: {said}");
    }
    assert_eq!(identities(), before, "the log and its index are those that they were");
    write.commit(&[], None, Timestamp(1)).await.unwrap();
    store.close().await.unwrap();
    let mut second = sweeper(dir.path());
    second.args(["enqueue", "--agent", "a", "1"]);
    assert_eq!(finish(second).await.0, 0);
}

#[test]
fn the_database_is_no_file_to_enqueue() {
    let dir = tempfile::tempdir().unwrap();
    sweeper(dir.path()).arg("init").assert().code(0);
    symlink("sweeper.db", dir.path().join("ids.txt")).unwrap();
    for file in ["sweeper.db", "ids.txt"] {
        let enqueue = sweeper(dir.path()).args(["enqueue", "--agent", "a", "--file", file]).assert().code(2);
        let said = String::from_utf8_lossy(&enqueue.get_output().stderr).into_owned();
        assert!(said.contains(file) && said.contains("the database itself"), "{said}");
    }
}

/// Makes something at a path.
type Make<'a> = &'a dyn Fn(&Path);

#[tokio::test]
async fn nothing_but_a_file_is_a_lock_file_or_a_database_and_nothing_is_written_elsewhere() {
    let dir = tempfile::tempdir().unwrap();
    queue(dir.path(), 1).await;
    let lock = dir.path().join("sweeper.db.lock");
    let precious = dir.path().join("precious");
    fs::write(&precious, "do not touch").unwrap();
    let pipe = |path: &Path| Command::new("mkfifo").arg(path).assert().success();
    let make: [(&str, Make<'_>); 6] = [
        ("is a symbolic link", &|path| symlink("precious", path).unwrap()),
        ("is a symbolic link", &|path| symlink("nowhere", path).unwrap()),
        ("has 2 names (hard links)", &|path| fs::hard_link(&precious, path).unwrap()),
        ("is a named pipe", &|path| drop(pipe(path))),
        ("is a directory", &|path| fs::create_dir(path).unwrap()),
        ("is a socket", &|path| drop(std::os::unix::net::UnixListener::bind(path).unwrap())),
    ];
    for (said, make) in make {
        let _ = fs::remove_file(&lock);
        make(&lock);
        refused(dir.path(), &[RUN, INIT], &["sweeper.db.lock: ", said, "move it away"]).await;
        let status = sweeper(dir.path()).args(["status", "--json"]).assert().code(0);
        let status: Value = serde_json::from_slice(&status.get_output().stdout).unwrap();
        assert_eq!(status["daemon"]["running"], Value::Null, "nobody knows");
        let _ = fs::remove_dir(&lock);
        assert_eq!(fs::read_to_string(&precious).unwrap(), "do not touch");
        assert!(!dir.path().join("nowhere").exists());
    }
    let _ = fs::remove_file(&lock);
    sweeper(dir.path()).arg("init").assert().code(0);
    // Opening a pipe would wait for somebody to write to it.
    let database = dir.path().join("sweeper.db");
    fs::remove_file(&database).unwrap();
    pipe(&database);
    refused(dir.path(), &ALL, &["/sweeper.db: is a named pipe", "give database.path another file"]).await;
}

fn mode(path: PathBuf) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[tokio::test]
async fn what_is_made_is_for_the_owner_and_the_group_and_never_wider_than_the_umask() {
    let sandbox = sandbox(Options::default()).await;
    for (umask, expected) in [("000", 0o660), ("002", 0o660), ("007", 0o660), ("022", 0o640), ("077", 0o600)] {
        for arguments in ["init", "enqueue --create --agent a 1", "run"] {
            let dir = tempfile::tempdir().unwrap();
            let mut command = configured(dir.path(), &sandbox);
            let configuration: Vec<_> =
                command.get_envs().filter_map(|(key, value)| Some((key.to_owned(), value?.to_owned()))).collect();
            command = clean("sh", dir.path());
            command.envs(configuration).args(["-c", &format!("umask {umask}; exec {BINARY} {arguments}")]);
            let mut files = vec!["sweeper.db", "sweeper.db.lock"];
            let daemon = if arguments == "run" {
                files.extend(["sweeper.db-wal", "sweeper.db-shm"]);
                Some(Daemon::spawn(command).until("started").await)
            } else {
                assert_eq!(finish(command).await.0, 0);
                None
            };
            for file in files {
                assert_eq!(mode(dir.path().join(file)), expected, "{file} of {arguments} with umask {umask}");
            }
            drop(daemon);
        }
    }
}

#[tokio::test]
async fn the_mode_of_a_file_that_is_there_is_its_owner_s_affair() {
    let dir = tempfile::tempdir().unwrap();
    let sandbox = sandbox(Options::default()).await;
    queue(dir.path(), 1).await;
    for (name, mode) in [("sweeper.db", 0o664), ("sweeper.db.lock", 0o644)] {
        fs::set_permissions(dir.path().join(name), fs::Permissions::from_mode(mode)).unwrap();
    }
    let daemon = Daemon::start(configured(dir.path(), &sandbox)).until("started").await;
    let modes = ["sweeper.db", "sweeper.db-wal", "sweeper.db-shm", "sweeper.db.lock"];
    assert_eq!(modes.map(|name| mode(dir.path().join(name))), [0o664, 0o664, 0o664, 0o644]);
    daemon.signal("TERM");
    assert_eq!(daemon.ended().await.0, 0);
}

#[tokio::test]
async fn a_lock_file_that_root_makes_is_the_owner_s_of_the_database() {
    let dir = tempfile::tempdir().unwrap();
    queue(dir.path(), 1).await;
    let database = dir.path().join("sweeper.db");
    if std::os::unix::fs::chown(&database, Some(12_345), Some(12_346)).is_err() {
        return skipped("only root can give files away");
    }
    fs::remove_file(dir.path().join("sweeper.db.lock")).unwrap();
    sweeper(dir.path()).arg("init").assert().code(0);
    let lock = fs::metadata(dir.path().join("sweeper.db.lock")).unwrap();
    assert_eq!((lock.uid(), lock.gid()), (12_345, 12_346));
    // Nobody else's program can lock it, not even to share it.
    let setpriv = |user: &str| {
        let mut command = Command::new("setpriv");
        let ids = [format!("--reuid={user}"), format!("--regid={user}"), "--clear-groups".to_owned()];
        command.args(ids).args(["flock", "-n", "-s", "sweeper.db.lock", "true"]).current_dir(dir.path());
        command
    };
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    match (setpriv("0").output(), setpriv("12399").output()) {
        (Ok(root), Ok(other)) if root.status.success() => assert!(!other.status.success()),
        _ => skipped("there is no setpriv(1) or no flock(1)"),
    }
    assert_eq!(sql(dir.path(), "SELECT state FROM deletions").await.len(), 1);
}

#[tokio::test]
async fn a_lock_that_is_given_up_in_the_moment_is_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    queue(dir.path(), 1).await;
    // A lock taken and given up again and again, as by a program that looks whether it can have it.
    let script = "n=0; flock -n -x sweeper.db true && echo locked; \
                  while [ $n -lt 200 ]; do flock -x sweeper.db true; flock -s sweeper.db.lock true; n=$((n+1)); done";
    let Some(outsider) = Outsider::start(dir.path(), script) else { return };
    for _ in 0..10 {
        let mut init = sweeper(dir.path());
        init.arg("init");
        let (code, _, said) = finish(init).await;
        assert_eq!(code, 0, "{said}");
    }
    blocking(move || outsider.end()).await;
}

#[tokio::test]
async fn a_database_on_a_network_file_system_is_refused_by_every_command() {
    let dir = tempfile::tempdir().unwrap();
    queue(dir.path(), 1).await;
    // The kernel's answer about the file system, with the number of NFS in its first field.
    let poked = |program: &str| {
        let mut command = clean("strace", dir.path());
        let poke = "inject=statfs:poke_exit=@arg2=6969000000000000";
        command.args(["-f", "-qq", "-o", "/dev/null", "-e", "trace=statfs", "-e", poke, program]);
        command.env("SWEEPER__API__KEY", KEY);
        command
    };
    let is_64_bit = cfg!(all(target_os = "linux", target_pointer_width = "64", target_endian = "little"));
    if !is_64_bit || !poked("true").output().is_ok_and(|output| output.status.success()) {
        return skipped("there is no strace(1) that changes what the kernel answers, or it may not");
    }
    for arguments in ALL {
        let mut command = poked(BINARY);
        command.args(arguments);
        let (code, _, said) = finish(command).await;
        assert!(code == 3 && said.contains("on a network file system (NFS)") && said.contains("local disk"), "{said}");
    }
}

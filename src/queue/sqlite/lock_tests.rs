//! Who gets the lock of a database, and who is told that somebody else has it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use super::*;
use crate::queue::sqlite::{
    Synchronous,
    lock_holder::{holder, is_held},
};

fn options(dir: &tempfile::TempDir) -> Options {
    let path = dir.path().join("queue.db");
    Options { path, busy_timeout: Duration::from_secs(5), synchronous: Synchronous::Full }
}

async fn is_taken(options: &Options, by: u32) -> bool {
    let taken = Lock::take(options, Purpose::Work).await;
    matches!(taken, Err(OpenError::Taken { pid: Some(pid), .. }) if pid == by)
}

#[tokio::test]
async fn whoever_looks_at_the_lock_sees_its_holder_and_keeps_nobody_from_taking_it() {
    let dir = tempfile::tempdir().unwrap();
    let options = options(&dir);
    let database = options.path.clone();
    assert_eq!(holder(&database).unwrap(), None, "no lock file");
    let held = Lock::take(&options, Purpose::Work).await.unwrap();
    assert_eq!(holder(&database).unwrap(), Some(Some(process::id())));
    assert!(is_taken(&options, process::id()).await);
    drop(held);
    assert_eq!(holder(&database).unwrap(), None);
    // A daemon waits for a look that takes its time.
    let look = File::open(lock_path(&database)).unwrap();
    look.try_lock_shared().unwrap();
    let mut tries = 0;
    let count = || {
        tries += 1;
        if tries == 6 {
            look.unlock().unwrap();
        }
        None
    };
    let file = File::open(lock_path(&database)).unwrap();
    wait_for(&file, &lock_path(&database), count, &options).await.unwrap();
    assert_eq!(tries, 6);
    drop(file);
    // Many looks, all the time, in the way of many starts.
    let stop = Arc::<AtomicBool>::default();
    let lookers = [(); 2].map(|()| {
        let (stop, database) = (Arc::clone(&stop), database.clone());
        thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                holder(&database).unwrap();
            }
        })
    });
    for start in 0..200 {
        Lock::take(&options, Purpose::Work).await.map(drop).unwrap_or_else(|error| panic!("{start}: {error}"));
    }
    stop.store(true, Ordering::Relaxed);
    lookers.into_iter().for_each(|looker| looker.join().unwrap());
}

#[tokio::test]
async fn the_database_itself_is_locked_so_that_a_lock_file_that_was_taken_away_lets_nobody_in() {
    let dir = tempfile::tempdir().unwrap();
    let options = options(&dir);
    let held = Lock::take(&options, Purpose::Work).await.unwrap();
    fs::remove_file(lock_path(&options.path)).unwrap();
    assert!(is_taken(&options, process::id()).await);
    drop(held);
    Lock::take(&options, Purpose::Work).await.unwrap();
}

#[tokio::test]
async fn whoever_makes_the_file_is_waited_for_and_a_daemon_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let options = options(&dir);
    let maker = Lock::take(&options, Purpose::Make).await.unwrap();
    assert_eq!(fs::read_to_string(&maker.path).unwrap(), format!("{} makes it\n", process::id()));
    assert!(is_held(&options.path) && holder(&options.path).unwrap().is_none(), "it is no daemon");
    let hasty = Options { busy_timeout: Duration::from_millis(40), ..options.clone() };
    assert!(is_taken(&hasty, process::id()).await, "not for ever");
    // It makes the tables for longer than it takes to confirm a daemon.
    let (mut tries, mut maker) = (0, Some(maker));
    let file = File::open(lock_path(&options.path)).unwrap();
    let text = || {
        tries += 1;
        if tries == 50 {
            maker = None;
        }
        LockText::read(&file)
    };
    wait_for(&file, &lock_path(&options.path), text, &options).await.unwrap();
    assert_eq!(tries, 50);
    file.unlock().unwrap();
    let daemon = Lock::take(&options, Purpose::Work).await.unwrap();
    assert_eq!(fs::read_to_string(&daemon.path).unwrap(), format!("{}\n", process::id()));
    let patient = Options { busy_timeout: Duration::from_secs(3600), ..hasty };
    assert!(is_taken(&patient, process::id()).await, "long before the hour is over");
}

#[test]
fn what_a_lock_file_says_is_understood_or_not_believed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("queue.db.lock");
    let said = |text: &[u8]| {
        fs::write(&path, text).unwrap();
        LockText::read(&File::open(&path).unwrap()).map(|text| (text.pid, text.purpose))
    };
    assert_eq!(said(b"12\n"), Some((12, Purpose::Work)));
    assert_eq!(said(b"12 makes it\n"), Some((12, Purpose::Make)));
    for odd in
        [b"".as_slice(), b"\n", b"-1\n", b"12 does\n", b" makes it\n", b"\xff\0", &[b'9'; 5_000], b"99999999999\n"]
    {
        assert_eq!(said(odd), None, "{odd:?}");
    }
    // A shorter text than the one before.
    let file = OpenOptions::new().read(true).write(true).open(&path).unwrap();
    for text in [LockText { pid: 4_000_000, purpose: Purpose::Make }, LockText { pid: 1, purpose: Purpose::Work }] {
        text.write(&file).unwrap();
        assert_eq!(LockText::read(&file), Some(text));
    }
}

//! Work that may block for ever, such as reading a file on a file system that hangs. It runs beside the loop, on a thread.

use std::{sync::Arc, time::Duration};

use tokio::{sync::Mutex, task::spawn_blocking, time::timeout};

/// Runs one piece of blocking work at a time. A thread that hangs cannot be ended, so no second one is started while it does:
/// names are resolved on threads of the same pool, and would find none.
#[derive(Debug, Default)]
pub struct Aside {
    turn: Mutex<()>,
    /// Locked by the thread until its work is done.
    thread: Arc<Mutex<()>>,
}

impl Aside {
    /// Returns the result of `work`; `None` if the work takes longer than `patience`, panics, or cannot start because an earlier
    /// piece still hangs.
    pub async fn run<T: Send + 'static>(
        &self,
        patience: Duration,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        let _turn = self.turn.lock().await;
        let busy = Arc::clone(&self.thread).try_lock_owned().ok()?;
        let done = spawn_blocking(move || {
            let _busy = busy;
            work()
        });
        timeout(patience, done).await.ok()?.ok()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn what_hangs_is_left_and_nothing_is_put_behind_it_until_it_is_over() {
        let aside = Aside::default();
        assert_eq!(aside.run(LONG, || 1).await, Some(1));
        let (go, gone) = mpsc::channel();
        let (tell, told) = mpsc::channel();
        let hung = aside.run(Duration::from_millis(10), move || {
            let _: Result<(), _> = gone.recv();
            tell.send(()).unwrap();
        });
        assert_eq!(hung.await, None);
        assert_eq!(aside.run(LONG, || 2).await, None, "the thread is still there");
        go.send(()).unwrap();
        told.recv().unwrap();
        // The thread has sent its message, but may not have ended.
        while aside.run(LONG, || 3).await.is_none() {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn who_comes_at_the_same_time_waits_for_its_turn() {
        let aside = Arc::new(Aside::default());
        let runs = (0..20).map(|n| {
            let aside = Arc::clone(&aside);
            tokio::spawn(async move { aside.run(LONG, move || n).await })
        });
        for (n, run) in runs.collect::<Vec<_>>().into_iter().enumerate() {
            assert_eq!(run.await.unwrap(), Some(n));
        }
    }

    #[tokio::test]
    async fn a_panic_in_it_is_no_reason_to_take_no_more_work() {
        let aside = Aside::default();
        assert_eq!(aside.run(LONG, || panic!("this work fails")).await, None::<()>);
        assert_eq!(aside.run(LONG, || 1).await, Some(1));
    }
}

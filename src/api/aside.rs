//! Work that may hang, such as reading a file on a file system that does, done beside the loop.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{sync::Mutex, task::spawn_blocking, time::timeout};

/// One piece of such work at a time. A thread that hangs stays; there is never a second one, however long it lasts: names are
/// resolved on threads of the same pool.
#[derive(Debug, Default)]
pub struct Aside {
    turn: Mutex<()>,
    is_busy: Arc<AtomicBool>,
}

/// Until it is dropped, by the thread that works.
struct Busy(Arc<AtomicBool>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

impl Aside {
    /// What the work comes to; `None` if it takes longer than `patience`, or an earlier piece of work still hangs.
    pub async fn run<T: Send + 'static>(
        &self,
        patience: Duration,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        let _turn = self.turn.lock().await;
        if self.is_busy.swap(true, Ordering::AcqRel) {
            return None;
        }
        let busy = Busy(Arc::clone(&self.is_busy));
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
        // It has told before it is over.
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

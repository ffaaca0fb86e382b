//! A confused proxy: exchanges two answers that are ready at the same time.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use axum::response::Response;
use tokio::{sync::oneshot, time::timeout};

/// How long an answer waits for another answer.
const PATIENCE: Duration = Duration::from_millis(300);

/// The place where an answer waits for another answer.
#[derive(Debug, Default)]
pub(super) struct Swap {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    waiting: Option<Waiting>,
    /// The number of answers that have waited so far.
    number: u64,
}

#[derive(Debug)]
struct Waiting {
    number: u64,
    answer: Response,
    /// Receives the other answer.
    other: oneshot::Sender<Response>,
}

impl Swap {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether an answer is waiting for another one.
    pub(super) fn is_waiting(&self) -> bool {
        self.state().waiting.as_ref().is_some_and(|waiting| !waiting.other.is_closed())
    }

    /// Exchanges `answer` with the waiting one. If none waits, waits for one, and returns `answer` itself if none comes soon.
    pub(super) async fn exchange(&self, answer: Response) -> Response {
        let (number, receiver) = {
            let mut state = self.state();
            let mut answer = answer;
            if let Some(waiting) = state.waiting.take() {
                match waiting.other.send(answer) {
                    Ok(()) => return waiting.answer,
                    // The client of the waiting answer has closed its connection.
                    Err(own) => answer = own,
                }
            }
            let (other, receiver) = oneshot::channel();
            state.number += 1;
            let number = state.number;
            state.waiting = Some(Waiting { number, answer, other });
            (number, receiver)
        };
        let mut receiver = receiver;
        if let Ok(Ok(other)) = timeout(PATIENCE, &mut receiver).await {
            return other;
        }
        let own = self.state().waiting.take_if(|waiting| waiting.number == number);
        // If our own answer is gone, another request has taken it, and has sent its own answer before.
        own.map_or_else(|| receiver.try_recv().unwrap_or_default(), |waiting| waiting.answer)
    }
}

//! The signal to shut down, which workers one after the other can wait for.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

/// A future that may be asked again after it has completed.
pub(super) struct Shutdown<F> {
    /// `None` once it has completed.
    signal: Option<Pin<Box<F>>>,
}

impl<F: Future<Output = ()>> Shutdown<F> {
    pub(super) fn new(signal: F) -> Self {
        Self { signal: Some(Box::pin(signal)) }
    }

    /// Whether it has completed, as far as it was asked.
    pub(super) fn is_told(&self) -> bool {
        self.signal.is_none()
    }
}

impl<F: Future<Output = ()>> Future for Shutdown<F> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if let Some(signal) = &mut self.signal {
            if signal.as_mut().poll(context).is_pending() {
                return Poll::Pending;
            }
            self.signal = None;
        }
        Poll::Ready(())
    }
}

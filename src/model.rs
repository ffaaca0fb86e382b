//! The nouns of the project, time, and the decision table. Nothing here waits, reads or writes.

pub mod clock;

pub mod deletion;

pub mod label;

pub mod limits;

pub mod backoff;

pub mod envelope;

pub mod correlation;

pub mod outcome;

pub mod hold;

pub mod act;

pub mod remedy;

pub mod judge;

pub mod evidence;

pub mod window;

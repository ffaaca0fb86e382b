//! What everything else is about: the nouns, time, and the decision table. Pure.

pub mod clock;

pub mod deletion;

pub mod backoff;

pub mod envelope;

pub mod echo;

pub mod outcome;

pub mod hold;

pub mod judge;

pub mod evidence;

//! The state of the queue as people and programs are told it, by `status`, by `show` and by the page.

pub(crate) mod acts;
pub(crate) mod empty;
pub(crate) mod figures;
pub(crate) mod json;
pub(crate) mod limits;
pub(crate) mod outlook;
pub(crate) mod story;
pub(crate) mod why;
pub(crate) mod words;

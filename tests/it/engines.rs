//! The engines that the suite is run for: each does in its own SQL what the suite asks for.

pub mod sqlite;

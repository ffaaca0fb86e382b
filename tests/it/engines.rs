//! The engines that the suite is run for. Each implements the trait of the suite in its own SQL.

pub mod postgres;
pub mod sqlite;

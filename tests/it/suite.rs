//! The suite that every storage engine must pass: each test is written once, and runs once for each engine.
//!
//! No file below `suite/` names a database or its SQL, which `tidy` checks. A test writes and reads the tables through
//! [`engine::Engine`]. A second engine implements that trait, and is one more line at the end of this file.

mod acts;
mod alone;
pub mod bed;
mod clocks;
mod contract;
pub mod crash;
mod crowds;
mod delivery;
pub mod engine;
mod evidence;
mod holds;
mod killed;
mod learnt;
mod lines;
mod looks;
mod queue;
mod records;
mod reload;
mod retry;
pub mod seam;
mod shutdown;
mod simulator;
mod transitions;
mod verdicts;
mod waste;
mod wishes;

/// Lists the tests of a module, which are functions generic over the engine. The compiler warns of one that is not listed: it is
/// never used.
macro_rules! tests {
    (blocking $d:tt $module:ident: $($test:ident),* $(,)?) => {
        macro_rules! of_engine {
            ($d engine:ty) => {
                $(
                    #[test]
                    fn $test() {
                        if !<$d engine as crate::suite::engine::Engine>::is_here() {
                            return;
                        }
                        crate::suite::$module::$test::<$d engine>();
                    }
                )*
            };
        }
        pub(super) use of_engine;
    };
    ($d:tt $module:ident: $($test:ident),* $(,)?) => {
        macro_rules! of_engine {
            ($d engine:ty) => {
                $(
                    #[tokio::test]
                    async fn $test() {
                        if !<$d engine as crate::suite::engine::Engine>::is_here() {
                            return;
                        }
                        crate::suite::$module::$test::<$d engine>().await;
                    }
                )*
            };
        }
        pub(super) use of_engine;
    };
}
use tests;

/// Makes the tests of one engine: `suite::ENGINE::MODULE::TEST`. `and`: modules that not every engine's tests are of.
macro_rules! conformance {
    ($name:ident: $engine:ty $(, and $($more:ident),+)?) => {
        mod $name {
            conformance!(@ $engine:
                acts, alone, clocks, contract, crash, crowds, delivery, evidence, holds, learnt, lines, looks, queue, records,
                reload, retry, shutdown, simulator, transitions, verdicts, waste, wishes
                $(, $($more),+)?
            );
        }
    };
    (@ $engine:ty: $($module:ident),*) => {
        $(
            mod $module {
                crate::suite::$module::of_engine!($engine);
            }
        )*
    };
}

conformance!(postgres: crate::engines::postgres::Postgres);
// The binary works on SQLite's queues.
conformance!(sqlite: crate::engines::sqlite::Sqlite, and killed);

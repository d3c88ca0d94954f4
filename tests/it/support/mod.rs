//! What the tests share: the parts, a scenario with both halves as processes, faults, and a look into topics.

mod fault;
pub mod generator;
pub mod judge;
mod load;
mod network;
mod registry;
mod scenario;
mod topic;
pub mod values;

use std::{
    future::Future,
    path::PathBuf,
    time::{Duration, Instant},
};

use walrelay::cli::demo::parts::{ENV_FILE, Parts};

pub use self::{
    fault::{PrivateParts, STAND_BY_SLOT},
    load::Load,
    network::Network,
    registry::{newest_schema, schema_of, set_compatibility, versions},
    scenario::{Outcome, Scenario},
    topic::{Consumed, Topics},
};

/// Long enough for anything that is going to happen, on a loaded machine with two cores.
pub const LIMIT: Duration = Duration::from_mins(5);

/// The real parts; without them a test fails and says what to do.
pub fn parts() -> Parts {
    let Some(file) = std::env::var_os(ENV_FILE) else {
        panic!("{ENV_FILE} is not set: run `dev/parts up` and set it to the file that this names, or run `make test`");
    };
    Parts::from_file(&PathBuf::from(file)).unwrap_or_else(|error| panic!("{}", chain(&error)))
}

/// SQL as servers before 15 take it: there a numeric's scale is from 0 to its precision, and intervals end earlier.
pub fn before_15(sql: &str) -> String {
    let sql = sql.replace("numeric(5,-2)", "numeric(7,0)").replace("numeric(3,5)", "numeric(5,5)");
    sql.replace("2562047788", "2147483647")
}

/// Between two looks at a condition.
const SHORTEST: Duration = Duration::from_millis(50);
const LONGEST: Duration = Duration::from_millis(400);

/// Polls a condition until it holds; fails when it does not within the limit.
pub async fn await_condition<F, T>(what: &str, limit: Duration, mut condition: F)
where
    F: FnMut() -> T,
    T: Future<Output = bool>,
{
    assert!(holds_within(limit, &mut condition).await, "{what}: not within {} s", limit.as_secs());
}

/// Polls a condition until it holds; false when it does not within the limit.
pub async fn holds_within<F, T>(limit: Duration, mut condition: F) -> bool
where
    F: FnMut() -> T,
    T: Future<Output = bool>,
{
    let begun = Instant::now();
    loop {
        let asked = Instant::now();
        if condition().await {
            return true;
        }
        if begun.elapsed() >= limit {
            return false;
        }
        // To ask takes the processors from what is waited for: a digest of a large table, a topic that is read as a whole.
        tokio::time::sleep((2 * asked.elapsed()).clamp(SHORTEST, LONGEST)).await;
    }
}

/// An error with its causes.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

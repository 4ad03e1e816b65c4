//! Waiting: for a condition, with a deadline that names what did not come.

use std::time::Duration;

/// A node is up, connected and registered by then. It takes half a second on an idle machine.
pub(crate) const START: Duration = Duration::from_secs(40);
/// A node that stops in order is gone by then.
pub(crate) const STOP: Duration = Duration::from_secs(40);
/// A small job has ended by then. It takes five seconds on an idle machine.
pub(crate) const JOB: Duration = Duration::from_secs(120);
/// Between two looks.
const POLL: Duration = Duration::from_millis(40);

/// What `look` finds, within `limit`.
pub(crate) async fn until<T>(what: &str, limit: Duration, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let waiting = async {
        loop {
            if let Some(found) = look().await {
                return found;
            }
            tokio::time::sleep(POLL).await;
        }
    };
    tokio::time::timeout(limit, waiting).await.unwrap_or_else(|_| panic!("not within {} s: {what}", limit.as_secs()))
}

//! Events as a stream of lines.

use std::{convert::Infallible, time::Duration};

use axum::{body::Bytes, http::HeaderValue};
use futures::{Stream, stream};
use tokio::sync::broadcast::{Receiver, error::RecvError};
use tokio_util::sync::CancellationToken;

use super::NodeEvent;

/// A reader that went away is noticed within this time even if nothing happens. Half of the 30 s after which
/// common proxies close a silent connection.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// How an event is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    /// One JSON object a line; an empty line keeps the connection alive.
    Lines,
    /// Server-sent events, for browsers.
    ServerSent,
}

impl Format {
    /// The format that an `Accept` header asks for.
    pub(super) fn accepted(header: Option<&HeaderValue>) -> Self {
        let asks =
            header.and_then(|value| value.to_str().ok()).is_some_and(|value| value.contains("text/event-stream"));
        if asks { Self::ServerSent } else { Self::Lines }
    }

    pub(super) const fn content_type(self) -> &'static str {
        match self {
            Self::Lines => "application/x-ndjson",
            Self::ServerSent => "text/event-stream",
        }
    }

    fn event(self, event: &NodeEvent) -> String {
        let json = serde_json::to_string(event).expect("events have text keys and no failing serializer");
        match self {
            Self::Lines => format!("{json}\n"),
            Self::ServerSent => format!("data: {json}\n\n"),
        }
    }

    const fn keep_alive(self) -> &'static str {
        match self {
            Self::Lines => "\n",
            Self::ServerSent => ":\n\n",
        }
    }
}

/// The events from now on, until the node stops. The first bytes come at once, so that a reader knows it is
/// subscribed.
pub(super) fn lines(
    events: Receiver<NodeEvent>,
    stop: CancellationToken,
    format: Format,
) -> impl Stream<Item = Result<Bytes, Infallible>> {
    let first = stream::iter([Ok(Bytes::from_static(format.keep_alive().as_bytes()))]);
    let rest = stream::unfold((events, stop), move |(mut events, stop)| async move {
        let line = tokio::select! {
            () = stop.cancelled() => return None,
            received = events.recv() => match received {
                Ok(event) => format.event(&event),
                Err(RecvError::Lagged(count)) => format.event(&NodeEvent::Lost { count }),
                Err(RecvError::Closed) => return None,
            },
            () = tokio::time::sleep(KEEP_ALIVE) => format.keep_alive().to_owned(),
        };
        Some((Ok(Bytes::from(line)), (events, stop)))
    });
    futures::StreamExt::chain(first, rest)
}

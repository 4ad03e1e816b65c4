//! JSON-RPC over plain HTTP, with an answer of bounded length.
//!
//! The library's own client reads whatever an address sends, to its end. It is left for `https`, which this program's HTTP client
//! does not speak, and where the operator knows who answers.

use std::{error::Error as _, iter};

use reqwest::{Client, StatusCode, Url, header};
use tendermint_rpc::Error as RpcError;

use super::connection::{MAX_ANSWER, REQUEST_TIMEOUT};

/// The longest body in bytes: the longest answer in base64, with room for what stands around it.
const MAX_BODY: usize = MAX_ANSWER / 3 * 4 + 64 * 1024;

/// One address.
#[derive(Clone, Debug)]
pub(super) struct Http {
    client: Client,
    url: Url,
}

impl Http {
    /// The RPC at `url`; `None` if it is no `http` URL. Connects to nothing yet.
    pub(super) fn new(url: &str) -> Option<Result<Self, RpcError>> {
        let url = Url::parse(url).ok().filter(|url| url.scheme() == "http")?;
        let client = Client::builder().timeout(REQUEST_TIMEOUT).build();
        Some(client.map(|client| Self { client, url }).map_err(|error| RpcError::client_internal(words(&error))))
    }

    /// Sends a request; its answer, whatever that says.
    pub(super) async fn call(&self, request: String) -> Result<Vec<u8>, RpcError> {
        let post = self.client.post(self.url.clone()).header(header::CONTENT_TYPE, "application/json").body(request);
        let mut response = post.send().await.map_err(failed)?;
        // CometBFT answers a request that fails with 200 and an error in it.
        if response.status() != StatusCode::OK {
            let text = format!("it answered with HTTP status {}: is that the RPC of a chain?", response.status());
            return Err(RpcError::client_internal(text));
        }
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(failed)? {
            body.extend_from_slice(&chunk);
            if body.len() > MAX_BODY {
                return Err(RpcError::client_internal(format!("its answer is over {MAX_BODY} bytes")));
            }
        }
        Ok(body)
    }
}

#[expect(clippy::needless_pass_by_value, reason = "it is passed to `map_err`")]
fn failed(error: reqwest::Error) -> RpcError {
    RpcError::client_internal(words(&error))
}

/// What happened, and why: reqwest tells the cause in its sources alone.
fn words(error: &reqwest::Error) -> String {
    let causes = iter::successors(error.source(), |cause| (*cause).source());
    iter::once(error.to_string()).chain(causes.map(ToString::to_string)).collect::<Vec<_>>().join(": ")
}

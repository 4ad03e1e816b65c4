//! JSON-RPC over HTTP, plain or with TLS, with an answer of bounded length.
//!
//! The library's own client reads whatever an address sends, to its end. This one never holds more than [`MAX_BODY`], and never
//! waits longer than a request may take. Whom it speaks to is not its concern: what an endpoint says is proven or not, with TLS too.

use std::{error::Error as _, iter};

use reqwest_tls::{Client, ClientBuilder, StatusCode, Url, header};
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
    /// The RPC at `url`. Connects to nothing yet.
    pub(super) fn new(url: &str) -> Result<Self, RpcError> {
        Self::with(url, Client::builder())
    }

    fn with(url: &str, builder: ClientBuilder) -> Result<Self, RpcError> {
        let url = Url::parse(url).ok().filter(|url| matches!(url.scheme(), "http" | "https"));
        let url = url.ok_or_else(|| RpcError::client_internal("it is no http or https URL".to_owned()))?;
        // Who is asked without TLS needs no certificates, and a host may have none.
        let builder = builder.tls_built_in_root_certs(url.scheme() == "https").timeout(REQUEST_TIMEOUT);
        Ok(Self { client: builder.build().map_err(failed)?, url })
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
fn failed(error: reqwest_tls::Error) -> RpcError {
    RpcError::client_internal(words(&error))
}

/// What happened, and why: reqwest tells the cause in its sources alone.
fn words(error: &reqwest_tls::Error) -> String {
    let causes = iter::successors(error.source(), |cause| (*cause).source());
    iter::once(error.to_string()).chain(causes.map(ToString::to_string)).collect::<Vec<_>>().join(": ")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rcgen::{CertifiedKey, generate_simple_self_signed};
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
    };
    use tokio_rustls::{
        TlsAcceptor,
        rustls::{ServerConfig, crypto, pki_types::PrivateKeyDer},
    };

    use super::*;

    /// Answers over TLS with these bytes, then with spaces for ever if `endless`; the client that trusts it.
    async fn server(answer: &'static [u8], endless: bool) -> Http {
        let CertifiedKey { cert, key_pair } = generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let key = PrivateKeyDer::try_from(key_pair.serialize_der()).unwrap();
        let config = ServerConfig::builder_with_provider(Arc::new(crypto::aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![cert.der().clone()], key)
            .unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://localhost:{}", listener.local_addr().unwrap().port());
        let acceptor = TlsAcceptor::from(Arc::new(config));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let Ok(mut stream) = acceptor.accept(stream).await else { continue };
                let _ = stream.read(&mut vec![0; 4096]).await;
                let _ = stream.write_all(answer).await;
                let more = vec![b' '; 1 << 20];
                while endless && stream.write_all(&more).await.is_ok() {}
                let _ = stream.shutdown().await;
            }
        });
        let certificate = reqwest_tls::Certificate::from_der(cert.der()).unwrap();
        Http::with(&url, Client::builder().add_root_certificate(certificate)).unwrap()
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn an_answer_over_tls_is_read_and_one_without_end_is_cut_off() {
        let honest = server(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", false).await;
        assert_eq!(honest.call("{}".to_owned()).await.unwrap(), b"{}");
        let endless = server(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n", true).await;
        let error = endless.call("{}".to_owned()).await.unwrap_err().to_string();
        assert!(error.contains(&format!("over {MAX_BODY} bytes")), "{error}");
        // The same server, whose certificate nobody vouches for.
        let stranger = Http::new(endless.url.as_str()).unwrap();
        let error = stranger.call("{}".to_owned()).await.unwrap_err().to_string();
        assert!(error.contains("certificate"), "{error}");
    }

    #[test]
    fn what_is_no_web_address_is_refused() {
        for url in ["ftp://localhost", "localhost:26657", ""] {
            assert!(Http::new(url).unwrap_err().to_string().contains("no http or https URL"), "{url}");
        }
    }
}

//! Where the daemon's RPC is: a multiaddr as Kubo writes it (`/ip4/127.0.0.1/tcp/5001`) or a URL.

use std::{fmt, str::FromStr};

use libp2p::{Multiaddr, multiaddr::Protocol};
use reqwest::Url;

/// The address of a Kubo RPC.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint(Url);

/// A text that is no address of a Kubo RPC.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Neither form.
    #[error("`{0}` is neither a multiaddr such as /ip4/127.0.0.1/tcp/5001 nor a URL such as http://127.0.0.1:5001")]
    Form(String),
    /// A multiaddr of something else.
    #[error("`{0}` is not the multiaddr of a TCP port; it looks like /ip4/127.0.0.1/tcp/5001")]
    Multiaddr(String),
    /// TLS.
    #[error("`{0}` asks for TLS, which is not supported; use http on loopback or in a trusted network")]
    Tls(String),
}

impl Endpoint {
    /// The URL of an RPC command, for example `pin/add`, with its arguments.
    pub(crate) fn command(&self, command: &str, query: &[(&str, &str)]) -> Url {
        let mut url = self.0.clone();
        let base = url.path().trim_end_matches('/').to_owned();
        url.set_path(&format!("{base}/api/v0/{command}"));
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        url
    }
}

impl FromStr for Endpoint {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let url = if text.starts_with('/') { from_multiaddr(text)? } else { text.to_owned() };
        let form = || Error::Form(text.to_owned());
        let url = Url::parse(&url).map_err(|_| form())?;
        match url.scheme() {
            "http" if url.has_host() => Ok(Self(url)),
            "https" => Err(Error::Tls(text.to_owned())),
            _ => Err(form()),
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.as_str().trim_end_matches('/'))
    }
}

fn from_multiaddr(text: &str) -> Result<String, Error> {
    let wrong = || Error::Multiaddr(text.to_owned());
    let address: Multiaddr = text.parse().map_err(|_| wrong())?;
    let mut parts = address.iter();
    let host = match parts.next().ok_or_else(wrong)? {
        Protocol::Ip4(ip) => ip.to_string(),
        Protocol::Ip6(ip) => format!("[{ip}]"),
        Protocol::Dns(name) | Protocol::Dns4(name) | Protocol::Dns6(name) => name.into_owned(),
        _ => return Err(wrong()),
    };
    let Some(Protocol::Tcp(port)) = parts.next() else {
        return Err(wrong());
    };
    match (parts.next(), parts.next()) {
        (None | Some(Protocol::Http), None) => Ok(format!("http://{host}:{port}")),
        (Some(Protocol::Https | Protocol::Tls), _) => Err(Error::Tls(text.to_owned())),
        _ => Err(wrong()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn multiaddrs_and_urls_name_the_same_place() {
        for (text, url) in [
            ("/ip4/127.0.0.1/tcp/5001", "http://127.0.0.1:5001/api/v0/version"),
            ("/ip6/::1/tcp/5001/http", "http://[::1]:5001/api/v0/version"),
            ("/dns4/kubo.example/tcp/80", "http://kubo.example/api/v0/version"),
            ("http://127.0.0.1:5001", "http://127.0.0.1:5001/api/v0/version"),
            ("http://gate.example/kubo/", "http://gate.example/kubo/api/v0/version"),
        ] {
            assert_eq!(text.parse::<Endpoint>().unwrap().command("version", &[]).as_str(), url);
        }
    }

    #[test]
    fn what_is_neither_is_refused_with_an_example() {
        for text in ["", "127.0.0.1:5001", "/ip4/127.0.0.1/udp/5001", "/ip4/127.0.0.1", "ftp://x", "/tcp/1/ip4/1.2.3.4"]
        {
            let error = text.parse::<Endpoint>().unwrap_err();
            assert!(error.to_string().contains("/ip4/127.0.0.1/tcp/5001"), "{error}");
        }
        for text in ["https://kubo.example", "/dns4/kubo.example/tcp/443/https", "/dns4/x/tcp/443/tls/http"] {
            assert!(matches!(text.parse::<Endpoint>(), Err(Error::Tls(_))), "{text}");
        }
    }
}

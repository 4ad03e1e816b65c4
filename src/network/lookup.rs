//! Asks a look-up service where this machine stands. Only ever called with a URL that the operator wrote.

use std::time::Duration;

use reqwest::{Client, StatusCode, redirect::Policy};
use serde_json::{Map, Value};

use super::{Place, PlaceError};

/// The longest answer in bytes; real ones have less than 2 KiB.
const MAX_ANSWER: usize = 16 * 1024;
/// How long the service may take, from connecting to the last byte.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Why a look-up gave no location. The node goes on without one.
#[derive(Debug, thiserror::Error)]
pub enum LookupError {
    /// This program speaks plain HTTP alone.
    #[error("the location look-up needs an `http://` URL (this program has no TLS client): `{0}`")]
    Scheme(String),
    /// No answer, or it broke off.
    #[error("the location look-up service can't be asked")]
    Http(#[from] reqwest::Error),
    /// An answer that is no success. Redirects are not followed: the operator named one service.
    #[error("the location look-up service answered {0}; check its URL")]
    Status(StatusCode),
    /// Too long.
    #[error("the location look-up service answered more than {MAX_ANSWER} bytes; check its URL")]
    TooLong,
    /// Not a JSON object.
    #[error("the location look-up service did not answer a JSON object; check its URL")]
    Json(#[from] serde_json::Error),
    /// Nonsense in it.
    #[error("the location look-up service answered no location")]
    Place(#[from] PlaceError),
}

/// Asks `url` for a JSON object and takes from it what common services call country, region, city, latitude and
/// longitude (origin: `get_geolocation`). Takes at most ten seconds and 16 KiB.
pub async fn look_up(url: &str) -> Result<Place, LookupError> {
    if !url.starts_with("http://") {
        return Err(LookupError::Scheme(url.chars().take(80).collect()));
    }
    let client = Client::builder().redirect(Policy::none()).timeout(TIMEOUT).build()?;
    let mut response = client.get(url).send().await?;
    if !response.status().is_success() {
        return Err(LookupError::Status(response.status()));
    }
    let mut answer = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        answer.extend_from_slice(&chunk);
        if answer.len() > MAX_ANSWER {
            return Err(LookupError::TooLong);
        }
    }
    Ok(read(&serde_json::from_slice(&answer)?).validate()?)
}

/// Services differ in their names; the more readable one comes first.
fn read(answer: &Map<String, Value>) -> Place {
    let text = |names: [&str; 2]| names.iter().find_map(|name| Some(answer.get(*name)?.as_str()?.to_owned()));
    let number = |names: [&str; 2]| names.iter().find_map(|name| answer.get(*name)?.as_f64());
    Place {
        country: text(["country", "country_code"]),
        region: text(["regionName", "region"]),
        city: text(["city", "town"]),
        latitude: number(["latitude", "lat"]),
        longitude: number(["longitude", "lon"]),
    }
}

#[cfg(test)]
mod tests {
    use axum::{Router, http, routing::get};
    use tokio::net::TcpListener;

    use super::*;

    /// A service on loopback that answers `body`.
    async fn service(status: u16, body: String) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/json", listener.local_addr().unwrap());
        let answer = (http::StatusCode::from_u16(status).unwrap(), body);
        let router = Router::new().route("/json", get(move || async move { answer }));
        tokio::spawn(async move { axum::serve(listener, router).await });
        url
    }

    #[tokio::test]
    async fn the_names_of_two_common_services_are_understood() {
        let place = Place {
            country: Some("Switzerland".into()),
            region: Some("Zurich".into()),
            city: Some("Zürich".into()),
            latitude: Some(47.37),
            longitude: Some(8.54),
        };
        let first = r#"{"query":"1.2.3.4","country":"Switzerland","countryCode":"CH","region":"ZH","regionName":"Zurich",
            "city":"Zürich","lat":47.37,"lon":8.54}"#;
        let second = r#"{"ip":"1.2.3.4","country":"Switzerland","country_code":"CH","region":"Zurich","city":"Zürich",
            "latitude":47.37,"longitude":8.54}"#;
        for body in [first, second] {
            assert_eq!(look_up(&service(200, body.into()).await).await.unwrap(), place);
        }
    }

    #[tokio::test]
    async fn an_answer_that_is_too_long_no_json_no_success_or_no_place_is_an_error() {
        let ask = |status, body: String| async move { look_up(&service(status, body).await).await.unwrap_err() };
        assert!(matches!(ask(200, " ".repeat(MAX_ANSWER + 1)).await, LookupError::TooLong));
        assert!(matches!(ask(200, "<html>".into()).await, LookupError::Json(_)));
        assert!(matches!(ask(302, "{}".into()).await, LookupError::Status(_)));
        assert!(matches!(ask(200, r#"{"latitude": 200}"#.into()).await, LookupError::Place(_)));
        assert!(matches!(look_up("http://127.0.0.1:1/").await.unwrap_err(), LookupError::Http(_)));
        assert!(matches!(look_up("https://example.org").await.unwrap_err(), LookupError::Scheme(_)));
    }
}

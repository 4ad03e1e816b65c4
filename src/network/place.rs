//! Where a machine stands, in the operator's words.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The most characters of a country, region or city; the ledger keeps attributes short.
const MAX_NAME: usize = 64;

/// A location (origin: ip country region city latitude longitude; the address is observed, see [`super::State`]).
/// Everything is optional.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Place {
    /// Country, as a name or code.
    pub country: Option<String>,
    /// Region inside the country.
    pub region: Option<String>,
    /// City.
    pub city: Option<String>,
    /// Degrees north, −90 to 90.
    pub latitude: Option<f64>,
    /// Degrees east, −180 to 180.
    pub longitude: Option<f64>,
}

/// A location that is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlaceError {
    /// A name is too long or unprintable.
    #[error("`{key}` of the location must be at most {MAX_NAME} printable characters")]
    Name {
        /// The key to change.
        key: &'static str,
    },
    /// A coordinate is off the globe.
    #[error("`{key}` of the location must be between −{limit} and {limit} degrees")]
    Coordinate {
        /// The key to change.
        key: &'static str,
        /// The largest value.
        limit: u32,
    },
}

impl Place {
    /// Refuses what is no location.
    pub fn validate(self) -> Result<Self, PlaceError> {
        for (key, name) in [("country", &self.country), ("region", &self.region), ("city", &self.city)] {
            let good = |name: &String| name.chars().count() <= MAX_NAME && !name.chars().any(char::is_control);
            if !name.as_ref().is_none_or(good) {
                return Err(PlaceError::Name { key });
            }
        }
        for (key, degrees, limit) in [("latitude", self.latitude, 90_u32), ("longitude", self.longitude, 180)] {
            if !degrees.is_none_or(|degrees| degrees.abs() <= f64::from(limit)) {
                return Err(PlaceError::Coordinate { key, limit });
            }
        }
        Ok(self)
    }

    /// What is known, by the origin's keys.
    pub(super) fn attributes(&self) -> BTreeMap<String, String> {
        let coordinate = |degrees: Option<f64>| degrees.map(|degrees| format!("{degrees:.4}"));
        [
            ("country", self.country.clone()),
            ("region", self.region.clone()),
            ("city", self.city.clone()),
            ("latitude", coordinate(self.latitude)),
            ("longitude", coordinate(self.longitude)),
        ]
        .into_iter()
        .filter_map(|(key, value)| Some((key.to_owned(), value.filter(|value| !value.is_empty())?)))
        .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_off_the_globe_or_unprintable_is_refused_by_its_key() {
        let place = |latitude| Place { latitude: Some(latitude), ..Place::default() };
        assert!(place(-90.0).validate().is_ok());
        for latitude in [90.1, f64::NAN, f64::INFINITY] {
            assert_eq!(place(latitude).validate(), Err(PlaceError::Coordinate { key: "latitude", limit: 90 }));
        }
        for city in ["x".repeat(65), "a\nb".into()] {
            let place = Place { city: Some(city), ..Place::default() };
            assert_eq!(place.validate(), Err(PlaceError::Name { key: "city" }));
        }
    }
}

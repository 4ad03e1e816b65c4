//! Resources as people and the origin's tools read them: cores, gigabytes, and measured network.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::caps::{CapError, GIGABYTE, to_units};
use crate::types::Resources;

/// The JSON form, with the origin's keys. What is not known is left out.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct View {
    /// Cores.
    pub cpu_cores: f64,
    /// Gigabytes (10⁹ bytes) of memory.
    pub memory_gb: f64,
    /// Gigabytes (10⁹ bytes) of disk.
    pub storage_gb: f64,
    /// Whole GPUs.
    pub gpu_count: u32,
    /// From peers, megabits a second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub network_download_mbps: Option<f64>,
    /// To peers, megabits a second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub network_upload_mbps: Option<f64>,
    /// Round trip to peers in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub network_latency_ms: Option<f64>,
    /// As the operator states it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// As the operator states it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub country: Option<String>,
    /// As peers observe it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ip: Option<String>,
}

/// A view that is no amount of resources.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ViewError {
    /// A number is negative, not finite or absurd.
    #[error("a resource is no amount")]
    Amount(#[from] CapError),
}

impl View {
    /// The view of `resources`, with network and place from a node's attributes (as in `RegisterNode`). An attribute
    /// that is no number where one should be is left out: it came from a stranger.
    pub fn new(resources: &Resources, attributes: &BTreeMap<String, String>) -> Self {
        let number = |key| attributes.get(key)?.parse().ok().filter(|value: &f64| value.is_finite());
        let text = |key| attributes.get(key).cloned();
        Self {
            cpu_cores: ratio(resources.cpu_millicores, 1_000.0),
            memory_gb: ratio(resources.memory_bytes, GIGABYTE),
            storage_gb: ratio(resources.storage_bytes, GIGABYTE),
            gpu_count: resources.gpu_count,
            network_download_mbps: number("network_download_mbps"),
            network_upload_mbps: number("network_upload_mbps"),
            network_latency_ms: number("network_latency_ms"),
            region: text("region"),
            country: text("country"),
            ip: text("ip"),
        }
    }

    /// The amounts; a negative one, NaN and infinity are errors.
    pub fn resources(&self) -> Result<Resources, ViewError> {
        Ok(Resources {
            cpu_millicores: to_units("cpu_cores", self.cpu_cores, 1_000.0)?,
            memory_bytes: to_units("memory_gb", self.memory_gb, GIGABYTE)?,
            storage_bytes: to_units("storage_gb", self.storage_gb, GIGABYTE)?,
            gpu_count: self.gpu_count,
        })
    }
}

#[expect(clippy::cast_precision_loss, reason = "for people: 53 bits are a byte in nine petabytes")]
fn ratio(amount: u64, unit: f64) -> f64 {
    amount as f64 / unit
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_keys_are_the_origins_and_what_is_unknown_is_left_out() {
        let resources =
            Resources { cpu_millicores: 1_500, memory_bytes: 2_000_000_000, storage_bytes: 0, gpu_count: 1 };
        let attributes = [("network_latency_ms", "1.5"), ("network_upload_mbps", "NaN"), ("country", "CH")];
        let attributes = attributes.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
        let view = View::new(&resources, &attributes);
        assert_eq!(
            serde_json::to_value(&view).unwrap(),
            serde_json::json!({
                "cpu_cores": 1.5, "memory_gb": 2.0, "storage_gb": 0.0, "gpu_count": 1,
                "network_latency_ms": 1.5, "country": "CH",
            })
        );
        assert_eq!(view.resources(), Ok(resources));
    }

    #[test]
    fn a_negative_amount_is_an_error_that_names_its_key() {
        let view: View = serde_json::from_str(r#"{"memory_gb": -1}"#).unwrap();
        let Err(ViewError::Amount(error)) = view.resources() else { panic!("a negative amount was taken") };
        assert_eq!(error.key, "memory_gb");
    }
}

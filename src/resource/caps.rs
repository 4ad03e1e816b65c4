//! What the operator is willing to lend at most.

/// Bytes in a gigabyte.
pub(super) const GIGABYTE: f64 = 1e9;

/// The operator's caps (`resources.{cpu_cores,memory_gb,storage_gb,gpu_enabled}`). `None` lends what there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caps {
    /// Thousandths of a core.
    pub cpu_millicores: Option<u64>,
    /// Bytes.
    pub memory_bytes: Option<u64>,
    /// Bytes.
    pub storage_bytes: Option<u64>,
    /// False lends no GPU, and the driver is not even asked.
    pub gpu_enabled: bool,
}

impl Default for Caps {
    fn default() -> Self {
        Self { cpu_millicores: None, memory_bytes: None, storage_bytes: None, gpu_enabled: true }
    }
}

/// A cap that is no amount.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("`resources.{key}` is {value}; it must be a number from 0 to a million")]
pub struct CapError {
    /// The key to change.
    pub key: &'static str,
    /// What it is.
    pub value: f64,
}

/// The largest number that a key may have, in cores or gigabytes: typing errors beyond it are caught.
const LARGEST: f64 = 1e6;

impl Caps {
    /// From the units in which an operator thinks: cores and gigabytes (10⁹ bytes).
    pub fn from_units(
        cpu_cores: Option<f64>,
        memory_gb: Option<f64>,
        storage_gb: Option<f64>,
        gpu_enabled: bool,
    ) -> Result<Self, CapError> {
        let amount = |key, value: Option<f64>, unit| value.map(|value| to_units(key, value, unit)).transpose();
        Ok(Self {
            cpu_millicores: amount("cpu_cores", cpu_cores, 1_000.0)?,
            memory_bytes: amount("memory_gb", memory_gb, GIGABYTE)?,
            storage_bytes: amount("storage_gb", storage_gb, GIGABYTE)?,
            gpu_enabled,
        })
    }
}

/// `value × unit`, rounded to a whole number.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the range is checked: at most 1e15")]
pub(super) fn to_units(key: &'static str, value: f64, unit: f64) -> Result<u64, CapError> {
    // A comparison with NaN is false, so it is refused as well.
    if (0.0..=LARGEST).contains(&value) { Ok((value * unit).round() as u64) } else { Err(CapError { key, value }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn caps_are_read_in_cores_and_gigabytes_and_nonsense_names_its_key() {
        let caps = Caps::from_units(Some(0.5), Some(1.5), None, false).unwrap();
        assert_eq!(caps.cpu_millicores, Some(500));
        assert_eq!(caps.memory_bytes, Some(1_500_000_000));
        assert_eq!((caps.storage_bytes, caps.gpu_enabled), (None, false));
        for value in [-1.0, f64::NAN, f64::INFINITY, 1e9] {
            let error = Caps::from_units(None, Some(value), None, true).unwrap_err();
            assert_eq!(error.key, "memory_gb");
        }
    }
}

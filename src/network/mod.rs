//! What this node knows of its place in the network: speed, public address, and location if the operator says one.
//!
//! Speeds come from measurements against peers (`health`'s speed test), the public address from what peers observe
//! (identify), agreed on by a majority. Country, region, city and coordinates come from the operator's configuration, or
//! from a look-up service whose URL the operator wrote there. All of it is optional: a node works without any.
//!
//! What it never does: it never calls a third party that the operator did not name, never derives one measurement from
//! another, and never believes a single peer about this node's address.
//!
//! The origin's names: `speed_test` is the health protocol's, collected here by [`State`]; `get_geolocation` is
//! [`look_up`].

mod address;
mod lookup;
mod place;
mod state;

pub use lookup::{LookupError, look_up};
pub use place::{Place, PlaceError};
pub use state::{Input, State};

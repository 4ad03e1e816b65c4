//! What this machine can lend, and who has booked how much of it.
//!
//! [`detect`] looks at the machine once, at the start: CPU, memory, disk and GPUs, each within the limits that
//! bind *this process* (affinity, cgroup v1 or v2) and the operator's caps. [`Manager`] then books and releases,
//! all or nothing. A gigabyte here is 10⁹ bytes.
//!
//! What it never does: it never reports the host's size where a limit binds, never waits for a hung GPU driver,
//! and never books part of a request.
//!
//! The origin's names: `new` is [`Manager::new`], `detect_resources` is [`detect`], `get_resources` is
//! [`Manager::total`] and [`Manager::free`], `allocate_resources` is [`Manager::allocate`], `release_resources` is
//! [`Manager::release`].

mod booking;
mod caps;
mod cgroup;
mod detect;
mod gpu;
mod view;

pub use booking::{Booking, BookingError, Manager};
pub use caps::{CapError, Caps};
pub use detect::{DetectError, Detected, Limit, Machine, Sources, detect};
pub use gpu::Gpu;
pub use view::{View, ViewError};

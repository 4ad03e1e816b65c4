//! Integration tests: one binary, because each binary links everything again.

mod architecture;

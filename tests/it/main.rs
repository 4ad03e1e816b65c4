//! Integration tests: real processes, real files, real sockets.

mod executor;

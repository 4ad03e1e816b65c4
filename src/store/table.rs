//! Tables on disk that may be damaged: redb panics on some pages that it can't make sense of, and nothing that lies on a disk
//! may end the node.

use std::panic::{AssertUnwindSafe, catch_unwind};

/// Does something with a table; a panic of redb becomes the error that it stands for.
pub(crate) fn guarded<T, E: From<redb::StorageError>>(work: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
    // What the closure left half done is a transaction, which is not committed.
    catch_unwind(AssertUnwindSafe(work))
        .unwrap_or_else(|_| Err(redb::StorageError::Corrupted("a page holds what no page can hold".to_owned()).into()))
}

/// Whether the file itself is what is wrong, and not the disk or another process.
pub(crate) fn is_damage(error: &redb::Error) -> bool {
    match error {
        redb::Error::Io(error) => matches!(
            error.kind(),
            std::io::ErrorKind::InvalidData | std::io::ErrorKind::InvalidInput | std::io::ErrorKind::UnexpectedEof
        ),
        redb::Error::DatabaseAlreadyOpen | redb::Error::LockProtocolMismatch => false,
        _ => true,
    }
}

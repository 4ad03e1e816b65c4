//! What CometBFT says, last, when what it keeps is not what it wrote: then no restart helps, and the other validators do.
//!
//! It knows the words of 0.38. What it does not know is restarted until it is given up, as any failure is.

/// What begins a line with which CometBFT ends.
const LAST_WORDS: [&str; 2] = ["panic: ", "ERROR: "];
/// The longest part of such a line that is shown, in characters.
const MAX_SHOWN: usize = 300;

/// The line that says so, of what was logged since the start.
pub(super) fn said(log: &str) -> Option<String> {
    let line = log.lines().rev().find(|line| is_damage(line))?;
    Some(line.chars().take(MAX_SHOWN).collect())
}

fn is_damage(line: &str) -> bool {
    let Some(words) = LAST_WORDS.iter().find_map(|start| line.strip_prefix(start)) else { return false };
    let panicked = line.starts_with(LAST_WORDS[0]);
    // A database whose records do not have their checksums.
    let database = words.contains("leveldb") && words.contains("corrupt");
    // A block or state that is no block or state; of a configuration it is an error and no panic.
    let record = panicked && (words.contains("nmarshal") || words.contains("rror reading block"));
    // The database left out what was damaged, without a word: the last block is gone.
    let block = words.contains("> StoreBlockHeight");
    // All snapshots of the ledger were damaged, and the blocks before them are given up.
    let ledger = words.contains("too far below block store base");
    database || record || block || ledger
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cometbft_says_of_damage_is_known_and_of_other_failures_is_not() {
        for line in [
            "panic: StateBlockHeight (108) > StoreBlockHeight (107)",
            "ERROR: failed to create node: failed to initialize database: leveldb: manifest corrupted (field 'comparer'): missing [file=MANIFEST-000000]",
            "ERROR: failed to create node: error during handshake: error on replay: app block height (0) is too far below block store base (20)",
            "panic: Error reading block: proto: wrong wireType = 6 for field Header",
        ] {
            let log =
                format!("I[2026] Starting\nE[2026] Corrupted entry. Skipping...\n{line}\ngoroutine 1 [running]:\n");
            assert_eq!(said(&log).as_deref(), Some(line));
        }
        for log in [
            "",
            "E[2026] Corrupted entry. Skipping... err=\"DataCorruptionError[checksums do not match]\"",
            "ERROR: failed to create node: error during handshake: account ab stands twice under `accounts`",
            "ERROR: failed to unmarshal config: '' has invalid keys",
            "panic: wrong Block.Header.AppHash. Expected 1, got 2",
            "ERROR: failed to create node: failed to initialize database: resource temporarily unavailable",
        ] {
            assert_eq!(said(log), None, "{log}");
        }
        assert_eq!(said(&format!("panic: > StoreBlockHeight {}", "x".repeat(5_000))).unwrap().len(), MAX_SHOWN);
    }
}

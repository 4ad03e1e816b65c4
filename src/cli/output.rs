//! stdout: a table or JSON, and the forms that values take in tables.

use std::io::{self, Write};

use serde::Serialize;

use crate::types::Time;

/// Where data goes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Output {
    json: bool,
}

impl Output {
    pub(super) fn new(json: bool) -> Self {
        Self { json }
    }

    /// Whether `--json` was given.
    pub(super) fn is_json(self) -> bool {
        self.json
    }

    /// Prints `value` as one line of JSON with `--json`, and what `text` makes of it otherwise.
    pub(super) fn value<T: Serialize>(self, value: &T, text: impl FnOnce(&T) -> String) -> io::Result<()> {
        if self.json { self.json_line(value) } else { self.text(&printable(text(value))) }
    }

    /// Prints one line of JSON.
    pub(super) fn json_line(self, value: &impl Serialize) -> io::Result<()> {
        self.text(&format!("{}\n", serde_json::to_string(value)?))
    }

    /// Prints `text` as it is.
    pub(super) fn text(self, text: &str) -> io::Result<()> {
        let mut out = io::stdout().lock();
        out.write_all(text.as_bytes())?;
        out.flush()
    }
}

/// Names, reasons and logs come from strangers: what would steer a terminal is shown as `�`.
pub(super) fn printable(text: String) -> String {
    let steers = |letter: char| letter.is_control() && letter != '\n' && letter != '\t';
    if text.contains(steers) { text.replace(steers, "\u{fffd}") } else { text }
}

/// Columns as wide as their widest cell. `empty` stands for a table without rows.
pub(super) fn table(header: &[&str], rows: &[Vec<String>], empty: &str) -> String {
    if rows.is_empty() {
        return format!("{empty}\n");
    }
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        cells.chain([header[column].len()]).max().unwrap_or_default()
    };
    let widths: Vec<usize> = (0..header.len()).map(width).collect();
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let padded: Vec<String> = cells.zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        format!("{}\n", padded.join("  ").trim_end())
    };
    let mut text = line(&mut header.iter().copied());
    for row in rows {
        text.push_str(&line(&mut row.iter().map(String::as_str)));
    }
    text
}

/// `name  value` lines with the names padded to one width.
pub(super) fn fields(fields: &[(&str, String)]) -> String {
    let width = fields.iter().map(|(name, _)| name.len()).max().unwrap_or_default();
    fields.iter().map(|(name, value)| format!("{name:<width$}  {value}\n")).collect()
}

/// The first 12 characters of a long name: enough to tell things apart on a screen.
pub(super) fn short(text: &str) -> String {
    // Peer ids of Ed25519 keys all begin alike, so the end tells more.
    match text.strip_prefix("12D3KooW") {
        Some(rest) => format!("…{}", &rest[rest.len().saturating_sub(8)..]),
        None if text.chars().count() > 13 => format!("{}…", text.chars().take(12).collect::<String>()),
        None => text.to_owned(),
    }
}

/// A value, or a dash.
pub(super) fn or_dash(value: Option<impl ToString>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

/// `1.5 MiB`.
#[expect(clippy::cast_precision_loss, reason = "for people")]
pub(super) fn bytes(count: u64) -> String {
    let (mut value, mut unit) = (count as f64, "B");
    for next in ["KiB", "MiB", "GiB", "TiB"] {
        if value < 1024.0 {
            break;
        }
        (value, unit) = (value / 1024.0, next);
    }
    if unit == "B" { format!("{count} B") } else { format!("{value:.1} {unit}") }
}

/// `2d 3h`, `4m 5s`.
pub(super) fn seconds(count: u64) -> String {
    match count {
        0..60 => format!("{count}s"),
        60..3600 => format!("{}m {}s", count / 60, count % 60),
        3600..86_400 => format!("{}h {}m", count / 3600, count % 3600 / 60),
        _ => format!("{}d {}h", count / 86_400, count % 86_400 / 3600),
    }
}

/// How long before `now` it was.
pub(super) fn ago(time: Time, now: Time) -> String {
    format!("{} ago", seconds(now.since(time).as_secs()))
}

/// `42%` of a fraction.
pub(super) fn percent(fraction: f64) -> String {
    format!("{:.0}%", fraction * 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_strangers_wrote_does_not_steer_the_terminal() {
        assert_eq!(printable("a\tb\nc".into()), "a\tb\nc");
        assert_eq!(printable("\u{1b}[2J\u{9b}31m\u{0}\r".into()), "\u{fffd}[2J\u{fffd}31m\u{fffd}\u{fffd}");
    }

    #[test]
    fn a_table_aligns_its_columns_and_says_when_it_is_empty() {
        let rows = vec![vec!["a".into(), "long value".into()], vec!["bcd".into(), "x".into()]];
        assert_eq!(table(&["id", "what"], &rows, "-"), "id   what\na    long value\nbcd  x\n");
        assert_eq!(table(&["id"], &[], "no jobs"), "no jobs\n");
    }

    #[test]
    fn numbers_are_written_as_people_say_them() {
        assert_eq!((bytes(999), bytes(1_572_864)), ("999 B".to_owned(), "1.5 MiB".to_owned()));
        assert_eq!((seconds(59), seconds(3_661)), ("59s".to_owned(), "1h 1m".to_owned()));
        assert_eq!(short("12D3KooWAbcdefghijklmnop"), "…ijklmnop");
    }
}

//! What is seen while a test network runs: a bar on a terminal, plain lines otherwise. All of it on stderr.

use std::{cell::Cell, io::IsTerminal, time::Duration};

use indicatif::{ProgressBar, ProgressStyle};

use crate::{
    api::{BytesMoved, JobDetail},
    cli::output::{bytes, or_dash, seconds},
    clock,
    types::TaskStatus,
};

/// The bar counts the job's progress in these.
const PARTS: u64 = 10_000;

/// Where progress is shown.
#[derive(Debug)]
pub(super) struct View {
    bar: Option<ProgressBar>,
    /// The round that was told last, for plain lines.
    told: Cell<Option<u32>>,
}

impl View {
    /// A live view on a terminal unless the output is for a program.
    pub(super) fn new(for_program: bool) -> Self {
        let live = std::io::stderr().is_terminal() && !for_program;
        let style = "{bar:30} {percent:>3}%  {msg}  [{elapsed} elapsed, about {eta} left]";
        let bar = live.then(|| {
            let bar = ProgressBar::new(PARTS);
            bar.set_style(ProgressStyle::with_template(style).unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar.enable_steady_tick(Duration::from_millis(200));
            bar
        });
        Self { bar, told: Cell::new(None) }
    }

    /// A line that stays.
    pub(super) fn say(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| eprintln!("{text}")),
            None => eprintln!("{text}"),
        }
    }

    /// Where the job is.
    pub(super) fn show(&self, detail: &JobDetail, moved: &BytesMoved) {
        let line = line(detail, moved);
        if let Some(bar) = &self.bar {
            bar.set_position(parts(detail.job.progress));
            bar.set_message(line);
        } else if self.told.replace(Some(detail.job.round)) != Some(detail.job.round) {
            let estimate = estimate(detail).map(|left| format!("  about {} left", seconds(left))).unwrap_or_default();
            eprintln!("{line}{estimate}");
        }
    }

    /// Removes the bar.
    pub(super) fn clear(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

fn line(detail: &JobDetail, moved: &BytesMoved) -> String {
    let running = detail.tasks.iter().filter(|task| task.status == TaskStatus::InProgress).count();
    let loss = detail.rounds.last().and_then(|round| round.loss).map(|loss| format!("{loss:.4}"));
    let waiting = detail.tasks.iter().find_map(|task| task.waiting.as_ref());
    format!(
        "round {}/{}  loss {}  {running}/{} tasks run  moved {}{}",
        detail.job.round,
        detail.job.rounds,
        or_dash(loss),
        detail.tasks.len(),
        bytes(moved.total.received),
        waiting.map(|reason| format!("  waiting: {reason}")).unwrap_or_default(),
    )
}

/// Seconds left if the rest goes like the rounds so far.
fn estimate(detail: &JobDetail) -> Option<u64> {
    let done = u64::from(detail.job.round).checked_sub(1).filter(|done| *done > 0)?;
    let first = detail.rounds.first()?.closed_at;
    let left = u64::from(detail.job.rounds - detail.job.round);
    Some(clock::now().since(first).as_secs() * left / done)
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss, reason = "0 to 10,000")]
fn parts(progress: f64) -> u64 {
    (progress.clamp(0.0, 1.0) * PARTS as f64) as u64
}

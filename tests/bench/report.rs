//! Figures, as a table or as JSON.

use serde::Serialize;

/// One figure: the samples of all runs, and what it is held against.
#[derive(Debug, Serialize)]
struct Figure {
    group: String,
    name: String,
    unit: &'static str,
    min: f64,
    median: f64,
    max: f64,
    samples: usize,
    /// What it should reach; empty for a peer or a limit that is measured beside it.
    target: &'static str,
}

/// All figures of a run.
#[derive(Debug)]
pub(crate) struct Report {
    json: bool,
    group: String,
    figures: Vec<Figure>,
}

impl Report {
    pub(crate) fn new(json: bool) -> Self {
        if !json {
            println!("{:<46} {:>10} {:>10} {:>10} {:<9} {:>4}  target", "figure", "min", "median", "max", "unit", "n");
        }
        Self { json, group: String::new(), figures: Vec::new() }
    }

    /// What comes now belongs to this group.
    pub(crate) fn begin(&mut self, group: &str) {
        group.clone_into(&mut self.group);
    }

    /// Adds a figure. `target` is empty for what is only there for comparison.
    pub(crate) fn add(&mut self, name: impl Into<String>, unit: &'static str, samples: &[f64], target: &'static str) {
        let mut sorted = samples.to_vec();
        sorted.sort_by(f64::total_cmp);
        let at = |part: f64| quantile(&sorted, part);
        let figure = Figure {
            group: self.group.clone(),
            name: name.into(),
            unit,
            min: at(0.0),
            median: at(0.5),
            max: at(1.0),
            samples: sorted.len(),
            target,
        };
        if !self.json {
            let name = format!("{}: {}", figure.group, figure.name);
            let [min, median, max] = [figure.min, figure.median, figure.max].map(number);
            println!("{name:<46} {min:>10} {median:>10} {max:>10} {unit:<9} {:>4}  {target}", figure.samples);
        }
        self.figures.push(figure);
    }

    /// Adds what each run's `ours` is of the same run's `theirs`.
    pub(crate) fn ratio(&mut self, name: impl Into<String>, ours: &[f64], theirs: &[f64], target: &'static str) {
        let ratios: Vec<f64> = ours.iter().zip(theirs).map(|(ours, theirs)| ours / theirs).collect();
        self.add(name, "x", &ratios, target);
    }

    /// Adds the median and the 99th percentile of many samples, each as a figure of its own.
    pub(crate) fn quantiles(&mut self, name: &str, unit: &'static str, samples: &[f64], targets: [&'static str; 2]) {
        let mut sorted = samples.to_vec();
        sorted.sort_by(f64::total_cmp);
        for (label, part, target) in [("p50", 0.5, targets[0]), ("p99", 0.99, targets[1])] {
            self.add(format!("{name}, {label} of {}", sorted.len()), unit, &[quantile(&sorted, part)], target);
        }
    }

    /// Prints what is printed at the end.
    pub(crate) fn finish(&self) {
        if self.json {
            let figures = serde_json::json!({ "figures": self.figures });
            println!("{figures}");
        }
    }
}

/// The sample that the fraction `part` of all stay within (nearest rank).
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an index into a vector")]
pub(crate) fn quantile(sorted: &[f64], part: f64) -> f64 {
    let rank = (sorted.len() as f64 * part).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or(f64::NAN)
}

/// Three significant digits are what a noisy machine gives.
pub(crate) fn number(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

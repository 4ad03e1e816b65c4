//! `atlas-sim`: runs scenarios of `simulations/` under virtual time.

use std::{fs, path::PathBuf, process::ExitCode, time::Duration};

use atlas_node::{
    clock,
    sim::{Report, Scenario, run, scenario},
    types::Time,
};
use clap::{Parser, Subcommand};

/// Exit code when an invariant or an expectation does not hold, or two runs differ.
const BROKEN: u8 = 1;
/// Exit code when there is nothing to run.
const UNUSABLE: u8 = 2;

#[derive(Parser)]
#[command(name = "atlas-sim", version, about = "Runs a simulated Atlas network: one seed, one run, to the byte.")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run a scenario and say what came out.
    Run {
        /// The scenario (simulations/*.toml).
        file: PathBuf,
        /// Another seed than the scenario's.
        #[arg(long)]
        seed: Option<u64>,
    },
    /// Run a scenario twice and compare everything that happened.
    Twice {
        /// The scenario (simulations/*.toml).
        file: PathBuf,
        /// Another seed than the scenario's.
        #[arg(long)]
        seed: Option<u64>,
    },
    /// Run a scenario from many seeds, and name those that fail.
    Search {
        /// The scenario (simulations/*.toml).
        file: PathBuf,
        /// How many seeds, from the scenario's on.
        #[arg(long, default_value_t = 100)]
        seeds: u64,
    },
}

/// Why nothing was run.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("{path} can't be read")]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{path} is no scenario")]
    Scenario { path: PathBuf, source: scenario::Error },
}

fn main() -> ExitCode {
    tracing_subscriber::fmt()
        .with_ansi(false)
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_writer(std::io::stderr)
        .without_time()
        .init();
    match act(Cli::parse().command) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(BROKEN),
        Err(error) => {
            eprintln!("atlas-sim: {}", atlas_node::node::edges::words(&error));
            ExitCode::from(UNUSABLE)
        }
    }
}

fn act(command: Command) -> Result<bool, Error> {
    match command {
        Command::Run { file, seed } => {
            let scenario = read(&file)?;
            let (report, took) = timed(&scenario, seed.unwrap_or(scenario.seed));
            print!("{report}");
            println!("{:<14}{:.2} s, {:.0} events a second", "real time", took.as_secs_f64(), rate(&report, took));
            Ok(holds(&file, &report))
        }
        Command::Twice { file, seed } => {
            let scenario = read(&file)?;
            let seed = seed.unwrap_or(scenario.seed);
            let [first, second] = [run(&scenario, seed, None), run(&scenario, seed, None)];
            print!("{first}");
            let equal = first == second;
            println!("{:<14}{}", "twice", if equal { "equal" } else { "DIFFERENT" });
            Ok(holds(&file, &first) && equal)
        }
        Command::Search { file, seeds } => {
            let scenario = read(&file)?;
            let end = scenario.seed.saturating_add(seeds);
            let failed = (scenario.seed..end).filter(|seed| !holds(&file, &run(&scenario, *seed, None))).count();
            println!("{seeds} seeds, {failed} failed");
            Ok(failed == 0)
        }
    }
}

fn read(path: &PathBuf) -> Result<Scenario, Error> {
    let text = fs::read_to_string(path).map_err(|source| Error::Read { path: path.clone(), source })?;
    Scenario::parse(&text).map_err(|source| Error::Scenario { path: path.clone(), source })
}

fn timed(scenario: &Scenario, seed: u64) -> (Report, Duration) {
    let began: Time = clock::now();
    let report = run(scenario, seed, None);
    (report, clock::now().since(began))
}

fn rate(report: &Report, took: Duration) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
    let events = report.events as f64;
    events / took.as_secs_f64().max(0.001)
}

/// Says what does not hold, and how to see it again.
fn holds(file: &std::path::Path, report: &Report) -> bool {
    let Some(violation) = &report.violation else { return true };
    println!("seed {}: {violation}", report.seed);
    println!("replay: atlas-sim run {} --seed {}", file.display(), report.seed);
    false
}

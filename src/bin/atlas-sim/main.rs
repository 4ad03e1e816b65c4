//! `atlas-sim`: runs scenarios of `simulations/` under virtual time.

mod byzantine;
mod mesh;
mod table;

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use atlas_node::{
    clock,
    sim::{Report, Scenario, Setup, replay, run_with, scenario, search::search},
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
        /// Only these of the seed's faults, by number (as `search` prints them): 0,3.
        #[arg(long, value_delimiter = ',')]
        faults: Option<Vec<usize>>,
    },
    /// Run a scenario twice and compare everything that happened.
    Twice {
        /// The scenario (simulations/*.toml).
        file: PathBuf,
        /// Another seed than the scenario's.
        #[arg(long)]
        seed: Option<u64>,
    },
    /// Run a scenario from many seeds, name those that fail, and the fewest faults that they fail with.
    Search {
        /// The scenario (simulations/*.toml).
        file: PathBuf,
        /// How many seeds, from the scenario's on.
        #[arg(long, default_value_t = 100)]
        seeds: u64,
        /// The first seed, if it is not the scenario's.
        #[arg(long)]
        first: Option<u64>,
        /// How many at once; the machine's processors if it is not given.
        #[arg(long)]
        jobs: Option<usize>,
    },
    /// Run scenarios, each with its own seed, and print a line of a table for each; one that comes out otherwise than it was
    /// accepted is an error.
    Table {
        /// The scenarios (simulations/*.toml).
        #[arg(required = true)]
        files: Vec<PathBuf>,
        /// Write what comes out into the files, as accepted from now on.
        #[arg(long)]
        accept: bool,
    },
    /// Hand the parts of nodes what they were told in recordings (`atlas-node start --record`), and compare what they say.
    Replay {
        /// A directory with recordings, or with one directory a node.
        directory: PathBuf,
        /// The node's key, if it is no longer where it was.
        #[arg(long)]
        key: Option<PathBuf>,
    },
    /// Run chains of several replicas of the ledger, some of whose validators lie, from many seeds, and name those in which
    /// something does not hold.
    Byzantine {
        /// How many.
        #[arg(long, default_value_t = 100)]
        seeds: u64,
        /// The first.
        #[arg(long, default_value_t = 1)]
        first: u64,
        /// How many at once; the machine's processors if it is not given.
        #[arg(long)]
        jobs: Option<usize>,
    },
    /// Run real swarms in this process, and measure what the simulated network can't show.
    Swarm {
        /// How many.
        #[arg(long, default_value_t = 100)]
        nodes: usize,
    },
}

/// Why nothing was run.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("{path} can't be read")]
    Read { path: PathBuf, source: std::io::Error },
    #[error("the swarms could not be measured")]
    Mesh(#[from] mesh::Error),
    #[error("{path} can't be written")]
    Write { path: PathBuf, source: std::io::Error },
    #[error("there is no directory for the replicas; TMPDIR names another place for it")]
    Replicas(#[source] std::io::Error),
    #[error(transparent)]
    Replay(#[from] replay::Error),
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
            eprintln!("atlas-sim: {}", atlas_node::types::words(&error));
            ExitCode::from(UNUSABLE)
        }
    }
}

fn act(command: Command) -> Result<bool, Error> {
    match command {
        Command::Run { file, seed, faults } => run_once(&file, seed, faults),
        Command::Twice { file, seed } => run_twice(&file, seed),
        Command::Search { file, seeds, first, jobs } => run_many(&file, seeds, first, jobs),
        Command::Table { files, accept } => table::print(&files, accept),
        Command::Replay { directory, key } => replay_all(&directory, key.as_deref()),
        Command::Byzantine { seeds, first, jobs } => byzantine::search(first, seeds, jobs),
        Command::Swarm { nodes } => {
            print!("{}", mesh::measure(nodes)?);
            Ok(true)
        }
    }
}

fn run_once(file: &Path, seed: Option<u64>, faults: Option<Vec<usize>>) -> Result<bool, Error> {
    let scenario = read(file)?;
    let setup = Setup { only: faults.map(BTreeSet::from_iter), ..Setup::default() };
    let began = clock::now();
    let report = run_with(&scenario, seed.unwrap_or(scenario.seed), &setup);
    let took = clock::now().since(began);
    print!("{report}");
    println!("{:<14}{:.2} s, {:.0} events a second", "real time", took.as_secs_f64(), rate(&report, took));
    Ok(holds(file, &report))
}

fn run_twice(file: &Path, seed: Option<u64>) -> Result<bool, Error> {
    let scenario = read(file)?;
    let seed = seed.unwrap_or(scenario.seed);
    let began = clock::now();
    let [first, second] = std::thread::scope(|scope| {
        let runs = [(); 2].map(|()| scope.spawn(|| run_with(&scenario, seed, &Setup::default())));
        runs.map(|run| run.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    });
    let took = clock::now().since(began);
    print!("{first}");
    println!(
        "{:<14}{:.2} s for both, {:.0} events a second",
        "real time",
        took.as_secs_f64(),
        2.0 * rate(&first, took)
    );
    let equal = first == second;
    println!("{:<14}{}", "twice", if equal { "equal" } else { "DIFFERENT" });
    Ok(holds(file, &first) && equal)
}

fn run_many(file: &Path, seeds: u64, first: Option<u64>, jobs: Option<usize>) -> Result<bool, Error> {
    let scenario = read(file)?;
    let jobs = jobs.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
    let began = clock::now();
    let failures = search(&scenario, first.unwrap_or(scenario.seed), seeds, jobs);
    let took = clock::now().since(began).as_secs_f64();
    for failure in &failures {
        print!("{failure}");
        println!("replay: atlas-sim run {} {}", file.display(), failure.replay());
    }
    println!("{seeds} seeds in {took:.1} s, {} failed", failures.len());
    Ok(failures.is_empty())
}

fn replay_all(directory: &Path, key: Option<&Path>) -> Result<bool, Error> {
    let mut equal = true;
    for path in replay::recordings(directory)? {
        let replayed = replay::replay(&path, key)?;
        println!("{}{}", path.display(), if replayed.truncated { " (cut off inside its last entry)" } else { "" });
        for (part, tally) in &replayed.parts {
            println!("  {part:<24}{:>9} inputs{:>9} outputs", tally.inputs, tally.outputs);
        }
        match &replayed.difference {
            None => println!("  equal"),
            Some(difference) => println!("  DIFFERENT: {difference}"),
        }
        equal &= replayed.difference.is_none();
    }
    Ok(equal)
}

fn read(path: &Path) -> Result<Scenario, Error> {
    let text = fs::read_to_string(path).map_err(|source| Error::Read { path: path.to_owned(), source })?;
    Scenario::parse(&text).map_err(|source| Error::Scenario { path: path.to_owned(), source })
}

fn rate(report: &Report, took: Duration) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
    let events = report.events as f64;
    events / took.as_secs_f64().max(0.001)
}

/// Says what does not hold, and how to see it again.
fn holds(file: &Path, report: &Report) -> bool {
    let Some(violation) = &report.violation else { return true };
    println!("seed {}: {violation}", report.seed);
    println!("replay: atlas-sim run {} --seed {}", file.display(), report.seed);
    false
}

//! A table of scenarios: what each shows, whether it comes out as it was accepted, and how long it took.

use std::{
    fs,
    path::{Path, PathBuf},
};

use atlas_node::{
    clock,
    sim::{Report, Scenario, Setup, run_with, scenario::Accepted},
};

use super::{Error, rate, read};

/// Where the accepted result begins in a scenario's file; it is the last thing there.
const SECTION: &str = "\n[accepted]\n";

/// Runs and prints each; true if all hold and come out as accepted.
pub(super) fn print(files: &[PathBuf], accept: bool) -> Result<bool, Error> {
    println!("| scenario | nodes | what goes wrong | reassigned, resumed | virtual s | real s | events a second |");
    println!("| --- | --- | --- | --- | --- | --- | --- |");
    let mut all = true;
    for file in files {
        let scenario = read(file)?;
        let began = clock::now();
        let report = run_with(&scenario, scenario.seed, &Setup::default());
        let took = clock::now().since(began);
        println!(
            "| `{}` | {} | {} | {}, {} | {:.1} | {:.2} | {:.0} |",
            report.name,
            scenario.nodes,
            what_it_shows(file)?,
            report.reassigned,
            report.resumed,
            f64::from(u32::try_from(report.millis).unwrap_or(u32::MAX)) / 1e3,
            took.as_secs_f64(),
            rate(&report, took)
        );
        all &= judge(file, &scenario, &report, accept)?;
    }
    Ok(all)
}

/// Compares with what was accepted, or accepts.
fn judge(file: &Path, scenario: &Scenario, report: &Report, accept: bool) -> Result<bool, Error> {
    if let Some(violation) = &report.violation {
        eprintln!("{}: {violation}", file.display());
        return Ok(false);
    }
    let found = report.accepted();
    if accept {
        write(file, &found)?;
        return Ok(true);
    }
    let same = scenario.accepted.as_ref() == Some(&found);
    if !same {
        eprintln!("{}: accepted was {:?}, and now it is {found:?}", file.display(), scenario.accepted);
    }
    Ok(same)
}

/// The comment that the file begins with, on one line.
fn what_it_shows(file: &Path) -> Result<String, Error> {
    let text = fs::read_to_string(file).map_err(|source| Error::Read { path: file.to_owned(), source })?;
    let comment: Vec<&str> = text.lines().map_while(|line| line.strip_prefix("# ")).collect();
    Ok(comment.join(" ").trim_end_matches('.').to_owned())
}

fn write(file: &Path, accepted: &Accepted) -> Result<(), Error> {
    let text = fs::read_to_string(file).map_err(|source| Error::Read { path: file.to_owned(), source })?;
    let before = text.split(SECTION).next().unwrap_or_default().trim_end();
    let Accepted { status, rounds, model_root, reassigned, resumed, skipped } = accepted;
    let text = format!(
        "{before}\n{SECTION}status = \"{status}\"\nrounds = {rounds}\nmodel_root = \"{model_root}\"\n\
         reassigned = {reassigned}\nresumed = {resumed}\nskipped = {skipped}\n"
    );
    fs::write(file, text).map_err(|source| Error::Write { path: file.to_owned(), source })
}

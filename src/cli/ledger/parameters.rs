//! `ledger parameters`, `vote` and `send-votes`: the numbers that a ledger runs by, and how its validators change them.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use clap::Args;

use crate::{
    api::{LedgerParameters, OpenProposal, ParameterVotes},
    chain::abci::{local::Home, voter},
    cli::{
        Context, Error,
        output::{fields, short, table},
        read_at_most,
    },
    types::{ParameterChange, ParameterVote, Signed},
};

/// The longest file with a vote in bytes: a vote of 4,096 bytes is twice as long in hexadecimal.
const MAX_VOTE_FILE: u64 = 16 * 1024;

pub(super) async fn show(context: &Context) -> Result<(), Error> {
    let parameters = context.client()?.parameters().await?;
    Ok(context.output.value(&parameters, render)?)
}

fn render(parameters: &LedgerParameters) -> String {
    let rows: Vec<Vec<String>> =
        parameters.values.iter().map(|(name, value)| vec![name.clone(), value.to_string()]).collect();
    let mut text = fields(&[
        ("ledger", parameters.ledger.clone()),
        ("in force", format!("since block {}", parameters.since)),
        ("version", parameters.version.to_string()),
    ]);
    text.push_str(&format!("\n{}\n", table(&["parameter", "value"], &rows, "")));
    let all = parameters.validators.values().fold(0, |sum: u64, power| sum.saturating_add(*power));
    let row = |proposal: &OpenProposal| {
        let values: Vec<String> = proposal.values.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let accepted = proposal.accepted_height.map(|height| format!("accepted at block {height}"));
        vec![
            short(&proposal.id.to_string()),
            values.join(" "),
            proposal.from_height.to_string(),
            format!("{} of {all}", proposal.power),
            accepted.unwrap_or_else(|| "waits for votes".to_owned()),
        ]
    };
    let rows: Vec<Vec<String>> = parameters.proposals.iter().map(row).collect();
    text.push_str(&table(&["proposal", "values", "from block", "votes", ""], &rows, "nothing is voted on"));
    text
}

/// Vote, as a validator, for other numbers. The running node sends the vote; more than two thirds of the power decide.
#[derive(Debug, Args)]
pub(super) struct Vote {
    /// The validator's home: the directory of its CometBFT, whose key signs.
    #[arg(long, value_name = "DIR")]
    home: PathBuf,
    /// A parameter and its new value, a truth as 0 or 1; may be given several times. `ledger parameters` shows all
    #[arg(long = "set", value_name = "NAME=VALUE", required = true, value_parser = value)]
    values: Vec<(String, u64)>,
    /// The first block that runs by them. All who vote for a change name the same
    #[arg(long, value_name = "HEIGHT")]
    from: u64,
    /// Print the signed vote and send nothing: `ledger send-votes` does that on another machine.
    #[arg(long)]
    print: bool,
}

fn value(text: &str) -> Result<(String, u64), String> {
    let (name, value) = text.split_once('=').ok_or("it is not NAME=VALUE")?;
    let value = value.parse().map_err(|_| format!("`{value}` is not a whole number from 0 on"))?;
    Ok((name.to_owned(), value))
}

impl Vote {
    pub(super) async fn run(self, context: &Context) -> Result<(), Error> {
        let vote = self.signed()?;
        if self.print {
            return Ok(context.output.json_line(&vote)?);
        }
        send(context, vec![vote]).await
    }

    fn signed(&self) -> Result<Signed, Error> {
        let mut values = BTreeMap::new();
        for (name, value) in &self.values {
            if values.insert(name.clone(), *value).is_some() {
                return Err(Error::Input(format!("`{name}` is set twice; give it one --set")));
            }
        }
        let voter = voter::read(&Home(self.home.clone()))?;
        let change = ParameterChange { chain_id: voter.chain_id, values, from_height: self.from };
        Ok(voter.keypair.seal(&ParameterVote { change, validator: voter.keypair.node_key() }))
    }
}

/// Send votes that validators signed elsewhere (`ledger vote --print`). All must be for one change.
#[derive(Debug, Args)]
pub(super) struct SendVotes {
    /// Files with a vote each.
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
}

impl SendVotes {
    pub(super) async fn run(self, context: &Context) -> Result<(), Error> {
        let votes = self.files.iter().map(|file| read(file)).collect::<Result<_, _>>()?;
        send(context, votes).await
    }
}

fn read(file: &Path) -> Result<Signed, Error> {
    let bytes = read_at_most(file, MAX_VOTE_FILE, "a vote")?;
    let no_vote = |error| format!("{}: {error}; `ledger vote --print` prints what this reads", file.display());
    serde_json::from_slice(&bytes).map_err(|error| Error::Input(no_vote(error)))
}

async fn send(context: &Context, votes: Vec<Signed>) -> Result<(), Error> {
    let done = context.client()?.vote_parameters(&ParameterVotes { votes }).await?;
    Ok(context.output.value(&done, |done| format!("{}\n", done.message))?)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::types::{Digest, NodeKey};

    #[test]
    fn a_value_is_a_name_and_a_whole_number_or_named() {
        assert_eq!(value("economy.min_stake=5").unwrap(), ("economy.min_stake".to_owned(), 5));
        assert!(value("min_stake").unwrap_err().contains("NAME=VALUE"));
        for wrong in ["a=-1", "a=true", "a=", "a=1=2"] {
            assert!(value(wrong).unwrap_err().contains("whole number"), "{wrong}");
        }
    }

    #[test]
    fn what_is_in_force_and_what_is_voted_on_are_shown() {
        let mut parameters = LedgerParameters {
            ledger: "atlas-lab".to_owned(),
            version: 2,
            since: 40,
            values: BTreeMap::from([("base_reward".to_owned(), 1_000)]),
            validators: BTreeMap::from([(NodeKey([1; 32]), 10), (NodeKey([2; 32]), 10)]),
            proposals: vec![OpenProposal {
                id: Digest([7; 32]),
                values: BTreeMap::from([("base_reward".to_owned(), 5), ("task_failures".to_owned(), 2)]),
                from_height: 90,
                opened_height: 50,
                voters: vec![NodeKey([1; 32])],
                power: 10,
                accepted_height: None,
            }],
        };
        let text = render(&parameters);
        for expected in ["since block 40", "1000", "base_reward=5 task_failures=2", "10 of 20", "waits for votes"] {
            assert!(text.contains(expected), "`{expected}` is missing in:\n{text}");
        }
        parameters.proposals[0].accepted_height = Some(60);
        assert!(render(&parameters).contains("accepted at block 60"));
        parameters.proposals.clear();
        assert!(render(&parameters).contains("nothing is voted on"));
    }

    #[test]
    fn a_file_that_is_no_vote_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("vote.json");
        let refused = |content: &str| {
            fs::write(&file, content).unwrap();
            read(&file).unwrap_err().to_string()
        };
        assert!(refused("{}").contains("ledger vote --print"));
        assert!(refused(&" ".repeat(20_000)).contains("at most"));
        assert!(matches!(read(&directory.path().join("none")), Err(Error::File { .. })));
    }
}

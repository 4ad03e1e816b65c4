//! `ledger`: the ledger as this node sees it, and its account there; and what it takes to run a ledger that is a chain.

mod abci;
mod chain;
mod parameters;

use clap::{Args, Subcommand};
use serde::Serialize;

use super::{Context, Error, output::fields, status};
use crate::api::{Account, LedgerStatus};

/// Show the ledger as the running node sees it, and its account; or run one.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make the directories of a chain whose validators are all on this machine.
    Init(chain::Init),
    /// Run the validators of a chain on this machine: CometBFT, and the ledger beside each.
    Run(chain::Run),
    /// Print the genesis.json of a chain whose validators are anywhere.
    Genesis(chain::Genesis),
    /// Run the ledger as the application of a CometBFT that is started otherwise.
    Abci(abci::Abci),
    /// Show the numbers that the ledger runs by, and what its validators vote on.
    Parameters,
    /// Vote, as a validator, for other numbers.
    Vote(parameters::Vote),
    /// Send votes that validators signed elsewhere.
    SendVotes(parameters::SendVotes),
}

impl Arguments {
    pub(super) async fn run(self, context: &Context) -> Result<(), Error> {
        match self.command {
            None => show(context).await,
            Some(Command::Init(init)) => init.run(context),
            Some(Command::Run(run)) => run.run(context).await,
            Some(Command::Genesis(genesis)) => genesis.run(),
            Some(Command::Abci(abci)) => abci.run().await,
            Some(Command::Parameters) => parameters::show(context).await,
            Some(Command::Vote(vote)) => vote.run(context).await,
            Some(Command::SendVotes(votes)) => votes.run(context).await,
        }
    }
}

#[derive(Serialize)]
struct View {
    #[serde(flatten)]
    ledger: LedgerStatus,
    account: Option<Account>,
}

async fn show(context: &Context) -> Result<(), Error> {
    let client = context.client()?;
    let ledger = client.status().await?.ledger;
    // A ledger that is away has no account to show, and that is no reason to hide the rest.
    let account = client.account().await.ok();
    Ok(context.output.value(&View { ledger, account }, |view| {
        let app_hash = view.ledger.app_hash.map_or_else(|| "-".to_owned(), |hash| hash.to_string());
        let mut text = fields(&[("ledger", status::ledger(&view.ledger)), ("app hash", app_hash)]);
        if let Some(account) = &view.account {
            text.push_str(&fields(&[
                ("account", account.address.clone()),
                ("balance", account.balance.to_string()),
                ("nonce", account.nonce.to_string()),
            ]));
        }
        text
    })?)
}

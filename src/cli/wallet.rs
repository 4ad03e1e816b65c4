//! `wallet`: the node's account and stake; sends, bonds and asks back.

use clap::Subcommand;

use super::{
    Context, Error,
    output::{fields, seconds, table},
};
use crate::{
    api::{self, Done, Payee, Payment, Unbonding},
    clock,
    types::Time,
};

/// The node's money, in the ledger's smallest unit.
#[derive(Clone, Copy, Debug, Subcommand)]
pub(super) enum Wallet {
    /// Show balance, stake, what is on its way back from the stake, and the next nonce.
    Show,
    /// Give money to another account.
    Send {
        /// Whose: a node key or a peer id.
        account: Payee,
        /// How much, in the smallest unit.
        #[arg(value_parser = amount)]
        amount: u64,
    },
    /// Bond money as this node's stake: a surety that an offence costs.
    Bond {
        /// How much, in the smallest unit.
        #[arg(value_parser = amount)]
        amount: u64,
    },
    /// Ask for part of the stake back. It comes after the ledger's unbonding time, and can be slashed until then.
    Unbond {
        /// How much, in the smallest unit.
        #[arg(value_parser = amount)]
        amount: u64,
    },
}

impl Wallet {
    pub(super) async fn run(self, context: &Context) -> Result<(), Error> {
        let client = context.client()?;
        let done = match self {
            Self::Show => {
                let wallet = client.wallet().await?;
                let now = clock::now();
                return Ok(context.output.value(&wallet, |wallet| render(wallet, now))?);
            }
            Self::Send { account, amount } => client.send(&Payment { to: account, amount }).await?,
            Self::Bond { amount } => client.bond(amount).await?,
            Self::Unbond { amount } => client.unbond(amount).await?,
        };
        Ok(context.output.value(&done, |Done { message }| format!("{message}\n"))?)
    }
}

fn amount(text: &str) -> Result<u64, String> {
    let amount = text.parse::<u64>().ok().filter(|amount| *amount > 0);
    amount.ok_or_else(|| format!("`{text}` is not an amount: a whole number of the smallest unit, at least 1"))
}

fn render(wallet: &api::Wallet, now: Time) -> String {
    let mut text = fields(&[
        ("account", wallet.address.clone()),
        ("key", wallet.key.to_string()),
        ("ledger", wallet.ledger.clone()),
        ("balance", wallet.balance.to_string()),
        ("bonded", wallet.bonded.to_string()),
        ("nonce", wallet.nonce.to_string()),
    ]);
    let row = |one: &Unbonding| vec![one.amount.to_string(), when(one.releases_at, now)];
    let rows: Vec<Vec<String>> = wallet.unbonding.iter().map(row).collect();
    if !rows.is_empty() {
        text.push_str(&format!("\n{}", table(&["unbonding", "released"], &rows, "")));
    }
    text
}

/// In how long, by this machine's clock: the ledger's may differ a little.
fn when(time: Time, now: Time) -> String {
    if time > now { format!("in {}", seconds(time.since(now).as_secs())) } else { "with the next block".to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::NodeKey;

    #[test]
    fn an_amount_is_a_whole_number_above_zero_or_named() {
        assert_eq!((amount("1"), amount(&u64::MAX.to_string())), (Ok(1), Ok(u64::MAX)));
        for wrong in ["0", "-1", "1.5", "", "1e3", "18446744073709551616"] {
            assert!(amount(wrong).unwrap_err().contains("at least 1"), "{wrong}");
        }
    }

    #[test]
    fn a_wallet_shows_what_comes_back_and_when() {
        let now = Time::from_millis(1_000_000);
        let wallet = api::Wallet {
            address: "atlas1x".to_owned(),
            key: NodeKey([1; 32]),
            ledger: "atlas-lab".to_owned(),
            balance: 40,
            bonded: 300,
            unbonding: vec![
                Unbonding { amount: 7, releases_at: Time::from_millis(900_000) },
                Unbonding { amount: 8, releases_at: Time::from_millis(1_000_000 + 90_061_000) },
            ],
            nonce: 3,
        };
        let text = render(&wallet, now);
        for expected in ["balance  40\n", "bonded   300\n", "7          with the next block\n", "8          in 1d 1h\n"]
        {
            assert!(text.contains(expected), "`{expected}` is missing in:\n{text}");
        }
        assert!(!render(&api::Wallet { unbonding: Vec::new(), ..wallet }, now).contains("released"));
    }
}

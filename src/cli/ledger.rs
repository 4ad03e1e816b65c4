//! `ledger`: the ledger as this node sees it, and its account there.

use serde::Serialize;

use super::{Context, Error, output::fields, status};
use crate::api::{Account, LedgerStatus};

#[derive(Serialize)]
struct View {
    #[serde(flatten)]
    ledger: LedgerStatus,
    account: Option<Account>,
}

pub(super) async fn run(context: &Context) -> Result<(), Error> {
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

//! `register`: names the node and its account, now if it runs, otherwise at its next start.

use clap::Args;

use super::{Context, Error, settings::Settings};
use crate::{
    api::{self, client},
    config,
};

/// Name this node (--node-id) and say where its rewards go (--address).
#[derive(Debug, Args)]
pub(super) struct Register {
    #[command(flatten)]
    settings: Settings,
}

impl Register {
    pub(super) async fn run(self, context: &Context) -> Result<(), Error> {
        // Checks every setting, so that what is written here can't keep the node from starting.
        let config = self.settings.layers(&context.data_dir)?.resolve(false)?;
        for warning in &config.warnings {
            eprintln!("warning: {warning}");
        }
        let (node_id, address) = self.settings.registration();
        let address = address.filter(|address| config::check_address(address).is_ok());
        config::save_registration(&config.data_dir, node_id, address)?;

        let register = api::Register { node_id: config.node_id, address: config.address };
        let done = match context.client() {
            Ok(client) => client.register(&register).await?,
            Err(Error::Client(client::Error::NotRunning { .. })) => {
                api::Done { message: "saved; the node registers with this when it starts".to_owned() }
            }
            Err(error) => return Err(error),
        };
        Ok(context.output.value(&done, |done| format!("{}\n", done.message))?)
    }
}

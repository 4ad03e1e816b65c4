//! `config`: what is set, and where.

use super::{Context, Error, output::table, settings::Settings};
use crate::config::Setting;

pub(super) fn run(settings: &Settings, context: &Context) -> Result<(), Error> {
    let layers = settings.layers(&context.data_dir)?;
    context.output.value(&layers.settings(), |settings| {
        let row = |setting: &Setting| {
            let value = setting.value.as_ref().map_or_else(|| "-".to_owned(), ToString::to_string);
            vec![setting.key.to_owned(), value, setting.source.clone()]
        };
        table(&["setting", "value", "from"], &settings.iter().map(row).collect::<Vec<_>>(), "")
    })?;
    // The table shows values as they were given; a wrong one is an error all the same.
    for warning in &layers.resolve(false)?.warnings {
        eprintln!("warning: {warning}");
    }
    Ok(())
}

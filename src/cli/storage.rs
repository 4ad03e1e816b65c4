//! `storage`: asks other nodes to keep content, releases it, and lists what nodes keep for others.

use std::time::Duration;

use clap::Subcommand;

use super::{
    Context, Error,
    output::{bytes, seconds, short, table},
};
use crate::{
    api::{Done, StorageKeep, StorageRelease, StoredObject},
    clock,
    submit::duration,
    types::{ContentId, Time},
};

/// Content that nodes keep for others.
#[derive(Clone, Copy, Debug, Subcommand)]
pub(super) enum Storage {
    /// Ask other nodes to keep content, or change for how long and in how many copies.
    Keep {
        /// What: a file or directory that `shard add` named. It is fetched here first, if it is not here.
        cid: ContentId,
        /// How many other nodes shall keep it.
        #[arg(long, default_value_t = 2)]
        copies: u32,
        /// For how long from now, for example 12h or 30d.
        #[arg(long = "for", value_name = "TIME", value_parser = length)]
        length: Duration,
    },
    /// Ask no more that other nodes keep it.
    Release {
        /// What.
        cid: ContentId,
    },
    /// List content that nodes keep for others: this node's own and what it holds first, at most a thousand.
    Ls,
}

impl Storage {
    pub(super) async fn run(self, context: &Context) -> Result<(), Error> {
        let client = context.client()?;
        let done = match self {
            Self::Keep { cid, copies, length } => {
                client.storage_keep(&StorageKeep { cid, copies, seconds: length.as_secs() }).await?
            }
            Self::Release { cid } => client.storage_release(&StorageRelease { cid }).await?,
            Self::Ls => {
                let (objects, now) = (client.storage().await?, clock::now());
                return Ok(context.output.value(&objects, |objects| list(objects, now))?);
            }
        };
        Ok(context.output.value(&done, |Done { message }| format!("{message}\n"))?)
    }
}

fn length(text: &str) -> Result<Duration, String> {
    let length = duration::parse(text).filter(|length| !length.is_zero());
    length.ok_or_else(|| format!("`{text}` is no length of time, such as 90s, 5m, 12h or 30d"))
}

fn list(objects: &[StoredObject], now: Time) -> String {
    let row = |object: &StoredObject| {
        let holders: Vec<String> = object.holders.iter().map(|holder| short(holder)).collect();
        vec![
            object.cid.to_string(),
            short(&object.owner),
            bytes(object.bytes),
            format!("{} of {}", object.holders.len(), object.copies),
            if holders.is_empty() { "-".to_owned() } else { holders.join(", ") },
            seconds(object.until.since(now).as_secs()),
        ]
    };
    let header = ["cid", "owner", "size", "copies", "kept by", "for"];
    table(&header, &objects.iter().map(row).collect::<Vec<_>>(), "nothing is kept for anybody")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_length_has_a_unit_and_is_not_zero() {
        assert_eq!(length("30d"), Ok(Duration::from_secs(30 * 86_400)));
        for wrong in ["0d", "30", "", "-1h", "forever"] {
            assert!(length(wrong).unwrap_err().contains("30d"), "{wrong}");
        }
    }

    #[test]
    fn an_object_shows_how_many_of_its_copies_there_are_and_where() {
        let object = StoredObject {
            cid: "bafkreigh2akiscaildcqabsyg3dfr6chu3fgpregiymsck7e7aqa4s52zy".parse().unwrap(),
            owner: "12D3KooWAbcdefghijklmnop".into(),
            bytes: 1_572_864,
            copies: 2,
            holders: vec!["12D3KooWAbcdefghqrstuvwx".into()],
            until: Time::from_millis(90_000_000),
            created_at: Time::from_millis(0),
        };
        let text = list(std::slice::from_ref(&object), Time::from_millis(3_600_000));
        for expected in ["1.5 MiB", "1 of 2", "…qrstuvwx", "1d 0h"] {
            assert!(text.contains(expected), "`{expected}` is missing in:\n{text}");
        }
        let alone = StoredObject { holders: Vec::new(), ..object };
        assert!(list(&[alone], Time::ZERO).contains("0 of 2  -"));
        assert!(list(&[], Time::ZERO).contains("nothing is kept"));
    }
}

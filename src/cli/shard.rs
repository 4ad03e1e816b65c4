//! `shard`: content by name.

use std::{
    io,
    path::{Path, PathBuf},
};

use clap::Subcommand;

use super::{
    Context, Error,
    output::{bytes, table},
};
use crate::{
    api::{self, ShardAdd, ShardGet},
    shard::import,
    types::ContentId,
};

/// Store, fetch and list content.
#[derive(Debug, Subcommand)]
pub(super) enum Shard {
    /// Store a file or directory; prints its CID, the same that `ipfs add` gives.
    Add {
        /// What to store; `-` for stdin.
        path: PathBuf,
        /// It is a CAR (as `ipfs dag export` writes it) whose blocks are wanted.
        #[arg(long)]
        car: bool,
        /// Store nothing: only print the CID. No node need run.
        #[arg(long, conflicts_with = "car")]
        only_hash: bool,
    },
    /// Fetch content, from the mesh if need be, and write it to a path.
    Get {
        /// What.
        cid: ContentId,
        /// Where to; must not exist. Default: the CID, in the current directory
        to: Option<PathBuf>,
        /// Write it nowhere: only keep it in the block store, for this node and for others.
        #[arg(long, conflicts_with = "to")]
        keep: bool,
        /// It is the sealed data of a job: write it opened, with the key that this node has.
        #[arg(long, conflicts_with = "keep")]
        open: bool,
    },
    /// List pinned content.
    Ls,
}

impl Shard {
    pub(super) async fn run(self, context: &Context) -> Result<(), Error> {
        if let Self::Add { path, only_hash: true, .. } = &self {
            return name(context, path).await;
        }
        let client = context.client()?;
        match self {
            Self::Add { path, car, .. } => {
                let source = Source::open(&path, &context.data_dir)?;
                let added = client.shard_add(&ShardAdd { path: source.path()?, car }).await?;
                Ok(context.output.value(&added, |added| format!("{}\n", added.cid))?)
            }
            Self::Get { cid, keep: true, .. } => {
                let got = client.shard_get(&ShardGet::keep(cid)).await?;
                Ok(context.output.value(&got, |got| format!("{} kept\n", bytes(got.size)))?)
            }
            Self::Get { cid, to, keep: false, open } => {
                let to = to.unwrap_or_else(|| cid.to_string().into());
                let to = std::path::absolute(&to).map_err(|source| Error::File { path: to, source })?;
                // Said before the fetch, not after it.
                if to.symlink_metadata().is_ok() {
                    return Err(Error::File { path: to, source: io::ErrorKind::AlreadyExists.into() });
                }
                let got = client.shard_get(&ShardGet { cid, to: Some(to.clone()), open }).await?;
                Ok(context.output.value(&got, |got| format!("{} in {}\n", bytes(got.size), to.display()))?)
            }
            Self::Ls => Ok(context.output.value(&client.shards().await?, |shards| list(shards))?),
        }
    }
}

/// Prints the CID that a file, a directory or stdin would get.
async fn name(context: &Context, path: &Path) -> Result<(), Error> {
    let named = path.to_owned();
    let hashed = tokio::task::spawn_blocking(move || {
        if named == Path::new("-") { import::name_stream(io::stdin().lock()) } else { import::name(&named) }
    });
    let failed = |source| Error::File { path: path.to_owned(), source };
    let named = hashed.await.map_err(io::Error::other).and_then(|named| Ok(named?)).map_err(failed)?;
    let named = api::Shard { cid: named.cid, size: named.size, pins: Vec::new() };
    Ok(context.output.value(&named, |named| format!("{}\n", named.cid))?)
}

/// What is stored: a path, or stdin copied to a file that is removed afterwards.
enum Source {
    Path(PathBuf),
    Copied(tempfile::NamedTempFile),
}

impl Source {
    fn open(path: &Path, data_dir: &Path) -> Result<Self, Error> {
        if path != Path::new("-") {
            return Ok(Self::Path(path.to_owned()));
        }
        let failed = |source| Error::File { path: data_dir.to_owned(), source };
        let mut file = tempfile::NamedTempFile::new_in(data_dir).map_err(failed)?;
        io::copy(&mut io::stdin().lock(), &mut file).map_err(failed)?;
        Ok(Self::Copied(file))
    }

    /// Absolute, because the node has another current directory.
    fn path(&self) -> Result<PathBuf, Error> {
        let path = match self {
            Self::Path(path) => path,
            Self::Copied(file) => file.path(),
        };
        std::fs::canonicalize(path).map_err(|source| Error::File { path: path.to_owned(), source })
    }
}

fn list(shards: &[api::Shard]) -> String {
    let row = |shard: &api::Shard| vec![shard.cid.to_string(), bytes(shard.size), shard.pins.join(", ")];
    table(&["cid", "size", "kept for"], &shards.iter().map(row).collect::<Vec<_>>(), "nothing is pinned")
}

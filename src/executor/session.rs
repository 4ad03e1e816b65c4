//! Gives a session its next round, over its socket.

use std::{collections::BTreeMap, io, os::unix::fs::FileTypeExt, path::Path, time::Duration};

use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::UnixStream,
    time::{sleep, timeout},
};

/// A script that has said `done` must listen within this; then a fresh process takes the round.
const LISTEN_LIMIT: Duration = Duration::from_secs(10);
/// Between two attempts to connect.
const RETRY: Duration = Duration::from_millis(2);
/// The answer must come within this.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);
/// The longest answer in bytes.
const MAX_ANSWER: u64 = 4096;

#[derive(Serialize)]
struct NextRound<'a> {
    contract: u32,
    work_dir: &'a Path,
    env: &'a BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct Taken {
    ok: bool,
}

/// Sends the round, and waits until the script has taken it.
pub(super) async fn send_round(socket: &Path, work_dir: &Path, env: &BTreeMap<String, String>) -> io::Result<()> {
    let mut stream = connect(socket).await?;
    let mut line = serde_json::to_vec(&NextRound { contract: 1, work_dir, env })?;
    line.push(b'\n');
    let answer = timeout(ANSWER_LIMIT, async {
        stream.write_all(&line).await?;
        let mut answer = String::new();
        BufReader::new(stream.take(MAX_ANSWER)).read_line(&mut answer).await?;
        io::Result::Ok(answer)
    });
    let answer = answer.await.map_err(|_| io::Error::other("the session did not answer"))??;
    match serde_json::from_str::<Taken>(&answer) {
        Ok(Taken { ok: true }) => Ok(()),
        _ => Err(io::Error::other("the session refused the round")),
    }
}

/// Connects to a script's socket once it listens.
pub(super) async fn connect(socket: &Path) -> io::Result<UnixStream> {
    let listening = async {
        loop {
            if let Ok(stream) = open(socket).await {
                return stream;
            }
            sleep(RETRY).await;
        }
    };
    timeout(LISTEN_LIMIT, listening).await.map_err(|_| io::Error::other("the script does not listen on its socket"))
}

/// The script may have put a link to another socket in its place.
async fn open(socket: &Path) -> io::Result<UnixStream> {
    if !std::fs::symlink_metadata(socket)?.file_type().is_socket() {
        return Err(io::Error::other("the session's socket is not one"));
    }
    UnixStream::connect(socket).await
}

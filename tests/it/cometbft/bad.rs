//! A validator in a bad place: what it says, and that nothing is lost.

use std::{
    fs,
    io::{Read as _, Write as _},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command},
};

use super::{
    chain::{Chain, Pair, SOON, end, spawn},
    replay::replay,
    writer::Writer,
};
use crate::e2e::wait::until;

/// Snapshots of the validator's ledger, the newest last.
fn snapshots(chain: &Chain) -> Vec<PathBuf> {
    snapshots_in(&chain.home(0).application())
}

pub(super) fn snapshots_in(directory: &Path) -> Vec<PathBuf> {
    let files = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<PathBuf> = files.filter(|path| is_snapshot(path)).collect();
    files.sort_by_key(|path| height_of(path));
    files
}

fn height_of(path: &Path) -> Option<u64> {
    path.file_name()?.to_str()?.strip_prefix("snapshot-")?.parse().ok()
}

fn is_snapshot(path: &Path) -> bool {
    height_of(path).is_some()
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_and_lost_snapshots_are_told_and_come_back_from_the_blocks() {
    let chain = Chain::new(1, &["--snapshot-every", "5"]);
    let mut pair = Pair::new();
    pair.start(&chain, 0);
    let mut writer = Writer::new(chain.path(), 1, &[chain.url(0)]);
    writer.submit(30);
    writer.until_acknowledged(0).await;
    chain.until_height(0, 12).await;

    end(&mut pair.cometbft);
    end(&mut pair.ledger);
    let newest = snapshots(&chain).pop().unwrap();
    let mut bytes = fs::read(&newest).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&newest, bytes).unwrap();
    pair.start(&chain, 0);
    chain.agrees(0, 0).await;
    assert!(chain.log(0, "ledger").contains("the snapshot is damaged and passed over"));

    end(&mut pair.cometbft);
    end(&mut pair.ledger);
    snapshots(&chain).iter().for_each(|file| fs::remove_file(file).unwrap());
    pair.start(&chain, 0);
    chain.agrees(0, 0).await;
    replay(&chain.rpc(0), chain.height(0).await.unwrap()).await.holds(&writer);
}

/// Starts the ledger of the validator with its directory on a small disk in memory that is full; none where the host forbids
/// it.
fn start_on_a_full_disk(chain: &Chain) -> Option<Child> {
    let allowed = Command::new("unshare").args(["--user", "--map-root-user", "--mount", "true"]).status();
    if !allowed.is_ok_and(|status| status.success()) {
        eprintln!("not tried: this host has no user namespaces, so no disk of a chosen size");
        return None;
    }
    let home = chain.home(0);
    let mount = r#"mount -t tmpfs -o size=256k disk "$0" && { head -c 1M /dev/zero > "$0/filler"; exec "$@"; }"#;
    fs::create_dir_all(home.application()).unwrap();
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "--mount", "sh", "-c", mount]).arg(home.application());
    command.arg(env!("CARGO_BIN_EXE_atlas-node"));
    command.args([
        "ledger",
        "abci",
        "--snapshot-every",
        "3",
        "--listen",
        &home.address().unwrap().to_string(),
        "--home",
    ]);
    command.arg(home.application());
    Some(spawn(&mut command, &home, "ledger"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ledger_whose_disk_is_full_goes_on_says_so_and_loses_nothing() {
    let chain = Chain::new(1, &[]);
    let Some(ledger) = start_on_a_full_disk(&chain) else { return };
    // The disk as this process sees it.
    let root = Path::new("/proc").join(ledger.id().to_string()).join("root");
    let disk = root.join(chain.home(0).application().strip_prefix("/").unwrap());
    let mut pair = Pair::new();
    pair.ledger = Some(ledger);
    pair.start(&chain, 0);
    let mut writer = Writer::new(chain.path(), 1, &[chain.url(0)]);
    writer.submit(60);
    writer.until_acknowledged(0).await;
    let height = chain.height(0).await.unwrap();
    chain.until_height(0, height + 4).await;
    assert!(chain.log(0, "ledger").contains("the snapshot could not be written"));
    chain.agrees(0, 0).await;
    let has_snapshot = || fs::read_dir(&disk).unwrap().any(|entry| is_snapshot(&entry.unwrap().path()));
    assert!(!has_snapshot());
    fs::remove_file(disk.join("filler")).unwrap();
    writer.submit(5);
    writer.until_acknowledged(0).await;
    until("there is a snapshot once there is room", SOON, async || has_snapshot().then_some(())).await;

    end(&mut pair.cometbft);
    end(&mut pair.ledger);
    pair.start(&chain, 0);
    chain.agrees(0, 0).await;
    replay(&chain.rpc(0), chain.height(0).await.unwrap()).await.holds(&writer);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_genesis_that_names_an_account_twice_begins_no_chain_and_says_which() {
    let chain = Chain::new(1, &[]);
    let genesis = chain.home(0).0.join("config/genesis.json");
    let text = fs::read_to_string(&genesis).unwrap();
    let account = "ab".repeat(32);
    let twice = text.replace("\"accounts\": {}", &format!("\"accounts\": {{\"{account}\": 1, \"{account}\": 2}}"));
    assert_ne!(twice, text);
    fs::write(&genesis, twice).unwrap();
    let mut pair = Pair::new();
    pair.start(&chain, 0);
    let cometbft = pair.cometbft.as_mut().unwrap();
    let status = until("CometBFT does not begin", SOON, async || cometbft.try_wait().unwrap()).await;
    assert!(!status.success());
    for part in ["ledger", "cometbft"] {
        let log = chain.log(0, part);
        assert!(log.contains(&format!("account {account} stands twice")), "{part}: {log}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_on_the_application_socket_harms_nobody_else() {
    let mut chain = Chain::new(1, &[]);
    chain.start_all(0..1).await;
    let socket = chain.home(0).0.join("abci.sock");
    for garbage in [&[0xff; 4096][..], &[0], &[200, 1, 7], b"POST / HTTP/1.1\r\n\r\n"] {
        let mut stream = UnixStream::connect(&socket).unwrap();
        stream.write_all(garbage).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut answer = Vec::new();
        // Closed in one way or the other.
        let _ = stream.read_to_end(&mut answer);
        assert!(answer.is_empty(), "{answer:?}");
    }
    assert!(chain.log(0, "ledger").contains("over the limit"));
    let mut writer = Writer::new(chain.path(), 1, &[chain.url(0)]);
    writer.submit(5);
    writer.until_acknowledged(0).await;
    chain.agrees(0, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_is_not_there_and_a_home_that_holds_no_chain_are_named() {
    use crate::e2e::node::program;
    let chain = Chain::new(1, &[]);
    let run = |home: PathBuf, cometbft: &str| {
        let output = program().args(["ledger", "run", "--cometbft", cometbft, "--home"]).arg(home).output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (code, words) = run(chain.path().join("chain"), "/nowhere/cometbft");
    assert!(
        code == Some(1) && words.contains("/nowhere/cometbft can't be started") && words.contains("--cometbft"),
        "{words}"
    );
    let (code, words) = run(chain.path().join("elsewhere"), "cometbft");
    assert!(code == Some(2) && words.contains("holds no chain: make one with `ledger init`"), "{words}");
}

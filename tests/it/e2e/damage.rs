//! Damage in the data directory, and what another program holds: a node that can't start says what to do and touches nothing; put
//! right, it goes on where it was.

use std::{
    fs,
    net::{TcpListener, UdpSocket},
    path::PathBuf,
};

use atlas_node::types::Digest;

use super::{
    lab::{Job, Lab, SHORT},
    node::Node,
    refusals::{fresh, refused},
};

/// A node that carries a ledger, was registered on it, and was killed.
async fn killed_host() -> (Lab, PathBuf) {
    let mut lab = Lab::mesh(0, &[]).await;
    lab.nodes[0].kill();
    let chain = lab.nodes[0].data_dir.join("ledgers/atlas-chain/chain");
    (lab, chain)
}

/// Damages a file, has the node refuse to start with these words, and puts the file back.
fn refuses_and_keeps(node: &Node, file: &PathBuf, damaged: Vec<u8>, words: &[&str]) {
    let good = fs::read(file).unwrap();
    fs::write(file, &damaged).unwrap();
    let mut command = node.start_command();
    // The journal of an outbox is opened late: what is printed is judged, and the log says no more than that.
    command.env("RUST_LOG", "off").args(["--log-level", "error"]);
    refused(command, 1, words);
    assert!(fs::read(file).unwrap() == damaged, "{} was changed", file.display());
    fs::write(file, good).unwrap();
}

/// It starts, and still stands on its ledger.
async fn goes_on(lab: &mut Lab) {
    let node = &mut lab.nodes[0];
    node.start().await;
    node.until_status("it still stands on its ledger", |status| status.registered).await;
    node.kill();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_block_log_with_a_torn_tail_loses_nothing_and_a_damaged_one_is_refused() {
    let (mut lab, chain) = killed_host().await;
    let log = chain.join("blocks.log");
    let blocks = fs::read(&log).unwrap();
    assert!(blocks.len() > 100, "the registration is in a block");
    fs::write(&log, [&blocks[..], &[0, 0, 40, 0, 1, 2, 3]].concat()).unwrap();
    goes_on(&mut lab).await;
    assert!(fs::read(&log).unwrap().starts_with(&blocks), "what was acknowledged stays");
    assert_eq!(fs::read(chain.join("blocks.torn")).unwrap(), [0, 0, 40, 0, 1, 2, 3]);

    // More blocks, so that the first is not the last.
    lab.nodes[0].start().await;
    lab.submit(0, &Job { copies: 0, ..SHORT }).await;
    lab.nodes[0].kill();
    let mut damaged = fs::read(&log).unwrap();
    assert!(damaged.len() > blocks.len());
    damaged[1] ^= 0x40;
    let words = ["blocks.log", "damaged at byte 0", "restore it from a copy"];
    refuses_and_keeps(&lab.nodes[0], &log, damaged, &words);
    goes_on(&mut lab).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_database_is_refused_with_what_to_do_or_made_anew_from_what_it_follows_from() {
    let (mut lab, chain) = killed_host().await;
    let pins = lab.nodes[0].data_dir.join("blocks/pins.redb");
    let index = chain.join("index.redb");
    for damaged in [b"no table".repeat(1000), vec![0; 100_000], Vec::from("x")] {
        let words = ["pins.redb", "restore it from a copy", "move it away"];
        refuses_and_keeps(&lab.nodes[0], &pins, damaged.clone(), &words);
        // The index follows from the block log, so that nobody has to do anything.
        fs::write(&index, &damaged).unwrap();
        goes_on(&mut lab).await;
        assert!(fs::read(chain.join("index.damaged")).unwrap() == damaged);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_genesis_outbox_or_host_is_refused_by_its_name_and_a_good_one_goes_on() {
    let (mut lab, chain) = killed_host().await;
    let node = &lab.nodes[0];
    refuses_and_keeps(node, &chain.join("genesis.cbor"), b"\xa1garbage".to_vec(), &["genesis.cbor", "restore"]);
    let outboxes = fs::read_dir(node.data_dir.join("ledgers/outbox")).unwrap();
    let outbox = outboxes.map(|entry| entry.unwrap().path()).find(|path| path.extension().is_some_and(|e| e == "log"));
    let outbox = outbox.unwrap();
    // Two records, of which the first is damaged.
    let frame = |payload: &[u8]| [&3_u32.to_be_bytes()[..], &Digest::of(payload).0[..8], payload].concat();
    let damaged = [frame(b"one"), frame(b"two")].concat();
    let damaged = [&damaged[..14], b"x", &damaged[15..]].concat();
    refuses_and_keeps(node, &outbox, damaged, &["outbox-", "damaged at byte 0"]);
    goes_on(&mut lab).await;
}

#[test]
fn damaged_small_files_are_refused_by_their_names_with_what_to_do() {
    let lab = Lab::new();
    for (name, text, code, words) in [
        ("swarm.key", "no key", 2, &["network.swarm_key", "swarm.key", "/key/swarm/psk/1.0.0/"][..]),
        ("swarm.key", "/key/swarm/psk/1.0.0/\n/base16/\nzz\n", 2, &["swarm.key", "64 hexadecimal digits"]),
        ("registration.toml", "[node", 2, &["registration.toml", "line 1"]),
        ("ledgers/atlas-chain.host", "somebody", 1, &["atlas-chain.host", "remove it"]),
        ("api.token", "short", 1, &["api.token", "remove it"]),
        ("blocks", "a file", 1, &["blocks"]),
        ("work", "a file", 1, &["work", "WORK_DIR"]),
        ("node.key", "\u{0}\u{0}", 1, &["node.key", "64 hexadecimal digits"]),
    ] {
        let node = fresh(&lab, &["--api", "127.0.0.1:0"]);
        let path = node.data_dir.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        refused(node.start_command(), code, words);
        assert_eq!(fs::read_to_string(&path).unwrap(), text, "{name} stays as it is");
        fs::remove_dir_all(&node.data_dir).unwrap();
    }
}

/// What only saves time is made anew.
#[tokio::test(flavor = "multi_thread")]
async fn damaged_files_that_only_save_time_are_passed_over() {
    let lab = Lab::new();
    let mut node = fresh(&lab, &[]);
    for name in ["ports", "peers", "known-answer"] {
        fs::write(node.data_dir.join(name), b"\xff\x00 garbage\n".repeat(50)).unwrap();
    }
    fs::create_dir_all(node.data_dir.join("blocks/fresh")).unwrap();
    fs::write(node.data_dir.join("blocks/fresh/boot"), b"\xff").unwrap();
    fs::write(node.data_dir.join("blocks/fresh").join("00".repeat(32)), b"torn").unwrap();
    node.start().await;
    assert_eq!(node.client().status().await.unwrap().node_id, "fresh");
}

#[test]
fn a_port_in_use_is_named_with_the_flag_that_changes_it() {
    let lab = Lab::new();
    let (tcp, udp) = (TcpListener::bind("127.0.0.1:0").unwrap(), UdpSocket::bind("127.0.0.1:0").unwrap());
    let tcp = tcp.local_addr().unwrap().port();
    let udp = udp.local_addr().unwrap().port();
    let (listen, quic) = (format!("/ip4/127.0.0.1/tcp/{tcp}"), format!("/ip4/127.0.0.1/udp/{udp}/quic-v1"));
    let api = format!("127.0.0.1:{tcp}");
    for flags in [["--listen", listen.as_str()], ["--listen", quic.as_str()], ["--api", api.as_str()]] {
        let holders = (TcpListener::bind(("127.0.0.1", tcp)), UdpSocket::bind(("127.0.0.1", udp)));
        let node = fresh(&lab, &flags);
        refused(node.start_command(), 1, &[flags[1], flags[0]]);
        drop(holders);
    }
}

#[test]
fn a_data_directory_that_is_none_is_refused_with_the_flag() {
    let lab = Lab::new();
    fs::write(lab.path().join("file"), "mine").unwrap();
    let long = "d".repeat(300);
    for label in ["file", "file/below", &long] {
        let node = Node::new(lab.path(), label, &[]);
        refused(node.start_command(), 2, &["--data-dir"]);
    }
    assert_eq!(fs::read_to_string(lab.path().join("file")).unwrap(), "mine");
}

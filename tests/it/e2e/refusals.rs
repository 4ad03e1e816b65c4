//! Bad input: a clear error that says what to change, an exit code, and nothing broken.

use std::{
    fs,
    net::TcpListener,
    os::unix::fs::{PermissionsExt, symlink},
    process::Command,
};

use super::{
    lab::{Job, Lab, SHORT},
    node::Node,
};

/// Runs a command that must fail with this exit code and say all of these words on stderr, and nothing on stdout.
pub(super) fn refused(mut command: Command, code: i32, words: &[&str]) {
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{command:?} said:\n{said}");
    for word in words {
        assert!(said.contains(word), "`{word}` is missing in:\n{said}");
    }
    assert!(!said.contains("panicked"), "{said}");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "");
}

/// A node that was never started, with its data directory.
pub(super) fn fresh(lab: &Lab, flags: &[&str]) -> Node {
    let node = Node::new(lab.path(), "fresh", flags);
    fs::create_dir_all(&node.data_dir).unwrap();
    node
}

#[tokio::test(flavor = "multi_thread")]
async fn a_data_directory_in_use_is_refused_and_its_node_goes_on() {
    let mut lab = Lab::new();
    let first = lab.start("first", &[]).await;
    let second = Node::new(lab.path(), "first", &[]);
    refused(second.start_command(), 1, &["first", "--data-dir"]);
    assert!(lab.nodes[first].is_running());
    lab.nodes[first].client().health().await.unwrap();
}

#[test]
fn a_busy_ledger_port_names_the_flag() {
    let (lab, taken) = (Lab::new(), TcpListener::bind("127.0.0.1:0").unwrap());
    let address = taken.local_addr().unwrap().to_string();
    let rpc = format!("http://{address}");
    let node = fresh(&lab, &["--ledger", "embedded", "--chain-rpc", &rpc]);
    refused(node.start_command(), 1, &["--chain-rpc", &address]);
}

#[test]
fn a_corrupt_key_is_refused_and_stays_as_it_is() {
    let lab = Lab::new();
    let node = fresh(&lab, &[]);
    let key = node.data_dir.join("node.key");
    fs::write(&key, "no key").unwrap();
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    refused(node.start_command(), 1, &["node.key", "64 hexadecimal digits", "backup"]);
    assert_eq!(fs::read_to_string(&key).unwrap(), "no key");
}

#[test]
fn a_key_that_others_may_read_is_refused_with_the_remedy() {
    let lab = Lab::new();
    let node = fresh(&lab, &[]);
    let key = node.data_dir.join("node.key");
    fs::write(&key, "11".repeat(32)).unwrap();
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    refused(node.start_command(), 1, &["chmod 600", "node.key"]);
}

#[test]
fn a_corrupt_configuration_names_file_and_line() {
    let lab = Lab::new();
    let node = fresh(&lab, &[]);
    fs::write(node.data_dir.join("atlas.toml"), "[node]\nid = = 1\n").unwrap();
    refused(node.start_command(), 2, &["atlas.toml", "line 2"]);
}

#[test]
fn an_unknown_setting_is_named_with_the_one_that_was_meant() {
    let lab = Lab::new();
    let node = fresh(&lab, &[]);
    fs::write(node.data_dir.join("atlas.toml"), "[network]\nlistne = []\n").unwrap();
    refused(node.start_command(), 2, &["network.listne", "network.listen"]);
}

#[test]
fn a_bad_job_file_names_its_key_before_any_node_is_asked() {
    let lab = Lab::new();
    let (node, directory) = (fresh(&lab, &[]), lab.path().join("job"));
    let file = SHORT.write(&directory);
    let file = file.to_str().unwrap();
    let good = SHORT.text();
    for (from, to, word) in [
        ("rounds = 2", "rounds = -2", "rounds"),
        ("rounds = 2", "rounds = 'two'", "rounds"),
        ("held_out = 0.25", "held_out = nan", "data.held_out"),
        ("seed = 11\n", "", "seed"),
        ("seed = 11", "sede = 11", "sede"),
        ("cpu_cores = 0.5", "cpu_cores = -0.5", "resources.cpu_cores"),
        ("name = 'plane'", "name = ", "line 1"),
    ] {
        assert!(good.contains(from), "{from}");
        fs::write(file, good.replacen(from, to, 1)).unwrap();
        refused(node.command(&["submit", file]), 2, &[word]);
    }
    let missing = directory.join("missing.toml");
    refused(node.command(&["submit", missing.to_str().unwrap()]), 2, &["missing.toml"]);
    fs::write(file, good).unwrap();
    refused(node.command(&["submit", file]), 3, &["no node runs", "start"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bundle_with_a_link_and_a_job_file_with_wrong_paths_are_refused_by_the_node() {
    let mut lab = Lab::new();
    let node = lab.start("node", &[]).await;
    let directory = lab.path().join("job");
    let file = Job { settle: "none", ..SHORT }.write(&directory);
    let file = file.to_str().unwrap();
    let submit = || lab.nodes[node].command(&["submit", file]);

    symlink("/etc/passwd", directory.join("bundle/passwd")).unwrap();
    refused(submit(), 1, &["passwd", "neither a file nor a directory"]);
    fs::remove_file(directory.join("bundle/passwd")).unwrap();

    let good = fs::read_to_string(file).unwrap();
    fs::write(file, good.replace("points.csv", "elsewhere.csv")).unwrap();
    refused(submit(), 1, &["elsewhere.csv"]);
    fs::write(file, good.replace("bundle = 'bundle'", "bundle = 'points.csv'")).unwrap();
    refused(submit(), 1, &["bundle"]);
    lab.nodes[node].client().health().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn names_that_are_none_and_names_of_nothing_are_told_apart() {
    let mut lab = Lab::new();
    let node = lab.start("node", &[]).await;
    let node = &lab.nodes[node];
    refused(node.command(&["jobs", "show", "garbage"]), 2, &["garbage"]);
    refused(node.command(&["logs", "garbage"]), 2, &["garbage"]);
    refused(node.command(&["shard", "get", "garbage", "/tmp/never"]), 2, &["garbage"]);
    let unknown = "00".repeat(32);
    refused(node.command(&["jobs", "show", &unknown]), 1, &["job"]);
    refused(node.command(&["jobs", "cancel", &unknown]), 1, &["job"]);
}

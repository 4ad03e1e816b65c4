//! What a script can't do, and how failures are told.

use std::{
    fs,
    process::{Command, Stdio},
    time::Duration,
};

use atlas_node::{
    clock,
    executor::{Control, ControlReply, Event, FailureKind, Input, RunSpec, launcher},
};

use super::host::{DEADLINE, Host, launcher_command};

/// Runs a script that fails, and says how.
async fn fails(script: &str) -> (FailureKind, String, u32) {
    let mut host = Host::new();
    let spec = host.spec(host.bundle(script));
    fails_with(&mut host, spec).await
}

async fn fails_with(host: &mut Host, spec: RunSpec) -> (FailureKind, String, u32) {
    host.tell(Input::Run(Box::new(spec)));
    host.until(|event| match event {
        Event::Failed { kind, message, attempts, .. } => Some((*kind, message.clone(), *attempts)),
        _ => None,
    })
    .await
}

fn is_active(name: &str) -> bool {
    let all = launcher::protections(&launcher_command()).unwrap();
    let found = all.iter().find(|protection| protection.name == name).expect("a known protection");
    if !found.active {
        eprintln!("skipped here: no {name}: {}", found.reason);
    }
    found.active
}

/// A script that tries each line, and writes down which of them worked.
async fn attempts(lines: &[&str]) -> Vec<bool> {
    let mut host = Host::new();
    let tries: String = lines.iter().map(|line| format!("    lambda: {line},\n")).collect();
    let script = format!(
        "import json, os, socket, urllib.request, subprocess, pathlib\ndef ok(f):\n    try:\n        f()\n        return True\n    \
         except BaseException as e:\n        print(repr(e))\n        return False\nresults = [ok(f) for f in [\n{tries}]]\n\
         open('out/model.safetensors', 'w').write(json.dumps(results))\n\
         open('events.jsonl', 'a').write(json.dumps({{'event': 'done', 'samples': 1}}) + '\\n')\n"
    );
    let spec = host.spec(host.bundle(&script));
    host.tell(Input::Run(Box::new(spec)));
    let found = host.until(|event| match event {
        Event::Finished { outputs, .. } => Some(outputs.directory.clone()),
        _ => None,
    });
    let directory = found.await;
    serde_json::from_slice(&fs::read(directory.join("model.safetensors")).unwrap()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn exit_codes_decide_whether_a_script_is_started_again() {
    let (kind, message, attempts) = fails("import sys; print('no such shard', file=sys.stderr); sys.exit(65)").await;
    assert_eq!((kind, attempts), (FailureKind::BadData, 1));
    assert!(message.contains("no such shard"), "{message}");
    let (kind, message, attempts) = fails("raise ValueError('a defect')").await;
    assert_eq!((kind, attempts), (FailureKind::Crash, 3));
    assert!(message.contains("a defect"), "{message}");
    let (kind, message, attempts) = fails("import os; os.kill(os.getpid(), 11)").await;
    assert_eq!((kind, attempts), (FailureKind::Crash, 3));
    assert!(message.contains("signal 11"), "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_script_that_goes_without_done_has_not_finished() {
    let (kind, message, _) = fails("pass").await;
    assert_eq!(kind, FailureKind::Crash);
    assert!(message.contains("never said `done`"), "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn too_much_memory_is_out_of_memory() {
    let mut host = Host::new();
    let script = "import atlas_script\ndef train(job):\n    held = []\n    while True:\n        held.append(bytearray(8 << 20))\n\
                  atlas_script.main(train=train)";
    let mut spec = host.spec(host.bundle(script));
    spec.resources.memory_bytes = 64 << 20;
    let (kind, message, _) = fails_with(&mut host, spec).await;
    assert_eq!(kind, FailureKind::OutOfMemory);
    assert!(message.contains("out of memory"), "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn writing_too_much_is_an_output_limit() {
    let mut host = Host::new();
    let script = "import atlas_script\ndef train(job):\n    for i in range(10**9):\n        open(f'out/{i % 512}', 'wb').write(bytes(1 << 20))\n\
                  atlas_script.main(train=train)";
    let mut spec = host.spec(host.bundle(script));
    spec.resources.storage_bytes = 16 << 20;
    let (kind, message, _) = fails_with(&mut host, spec).await;
    assert_eq!(kind, FailureKind::OutputLimit, "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_script_writes_nowhere_but_in_its_work_directory() {
    if !is_active("landlock") {
        return;
    }
    let outside = tempfile::tempdir().unwrap();
    let secret = outside.path().join("secret");
    fs::write(&secret, "s").unwrap();
    let secret = secret.display().to_string();
    let tried = attempts(&[
        "open('tmp/a', 'w')",
        "open(os.environ['TMPDIR'] + '/b', 'w')",
        &format!("open('{secret}').read()"),
        &format!("open('{secret}', 'w')"),
        "open('/tmp/atlas-test-outside', 'w')",
        "open('in/model.safetensors', 'a')",
        "open('job.json', 'a')",
        "open('../../launch.json', 'a')",
        "os.listdir('/home')",
        "os.listdir('/root')",
    ])
    .await;
    assert_eq!(tried, [vec![true; 2], vec![false; 8]].concat());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_script_reaches_no_network() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    if !is_active("network namespace") && !is_active("landlock") {
        return;
    }
    let connect = format!("socket.create_connection(('127.0.0.1', {port}), timeout=5)");
    let send = format!("socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', {port}))");
    assert_eq!(attempts(&["socket.socket()", &connect, &send]).await, [true, false, false]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_environment_is_what_the_contract_lists() {
    let tried = attempts(&[
        "1 / ('CARGO_MANIFEST_DIR' not in os.environ)",
        "1 / (os.environ['HOME'] == os.environ['ATLAS_WORK_DIR'] == os.getcwd())",
        "1 / os.path.isdir(os.environ['ATLAS_CHANNEL_TRAIN'])",
        "1 / (len(os.environ['ATLAS_SOCKET']) <= 107)",
        "1 / (len(os.environ['ATLAS_SEED']) == 64)",
        "1 / all(n.startswith(('ATLAS_', 'SM_', 'PYTHON')) or n in ('PATH', 'LANG', 'HOME', 'TMPDIR', 'LC_CTYPE') for n in os.environ)",
    ])
    .await;
    assert_eq!(tried, [true; 6]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_script_prints_is_its_log() {
    let mut host = Host::new();
    let script =
        "print('hello from the script')\nopen('events.jsonl', 'a').write('{\"event\": \"done\", \"samples\": 1}\\n')";
    let spec = host.spec(host.bundle(script));
    let task = spec.task;
    host.tell(Input::Run(Box::new(spec)));
    host.until(|event| matches!(event, Event::Finished { .. }).then_some(())).await;
    host.tell(Input::Ask { id: 5, peer: None, task, control: Control::Log { from: None, max: 1000 } });
    let reply = host.until(|event| match event {
        Event::ControlAnswered { id: 5, result } => Some(result.clone()),
        _ => None,
    });
    let Ok(ControlReply::Log { from: 0, bytes }) = reply.await else {
        panic!("a log");
    };
    assert_eq!(bytes, b"hello from the script\n");
}

/// Holds its standard input, an end of the pipe that the launcher watches, and leaves a child in a session of its own.
const ORPHAN: &str = "import os, sys, time, subprocess\n\
    if os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0:\n        time.sleep(600)\n    time.sleep(600)\n\
    open('tmp/up', 'w').close()\ntime.sleep(600)";

/// How many processes have `mark` in their environment.
fn alive(mark: &str) -> usize {
    let all = fs::read_dir("/proc").unwrap().flatten();
    let environments = all.filter_map(|entry| fs::read(entry.path().join("environ")).ok());
    environments.filter(|bytes| String::from_utf8_lossy(bytes).contains(mark)).count()
}

fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = clock::now() + DEADLINE;
    while !condition() {
        assert!(clock::now() < deadline, "{what}");
        std::thread::park_timeout(Duration::from_millis(5));
    }
}

#[test]
fn when_the_node_is_killed_no_descendant_remains() {
    kill_the_node("isolate");
}

/// The second stage is all that is left of the chain where a host has no namespaces.
#[test]
fn when_the_node_is_killed_no_descendant_remains_even_without_namespaces() {
    kill_the_node("init");
}

fn kill_the_node(first_stage: &str) {
    let directory = tempfile::tempdir().unwrap();
    let work = directory.path();
    fs::create_dir(work.join("tmp")).unwrap();
    let mark = format!("ATLAS_TEST_MARK={}", work.display());
    let spec = launcher::Spec {
        program: "/usr/bin/env".into(),
        arguments: ["python3", "-c", ORPHAN].map(str::to_owned).into(),
        environment: [
            ("ATLAS_TEST_MARK".to_owned(), work.display().to_string()),
            ("PATH".to_owned(), std::env::var("PATH").unwrap()),
        ]
        .into(),
        directory: work.into(),
        readable: vec!["/".into()],
        writable: vec![work.into()],
        limits: launcher::Limits::default(),
    };
    let path = work.join("launch.json");
    spec.write(&path).unwrap();
    // The node: a shell that holds the other end of the launcher's pipe, and is killed without a word.
    let command = launcher_command();
    let script = format!(
        "mkfifo {0}/pipe; {1} {2} {first_stage} {3} < {0}/pipe & exec 3> {0}/pipe; exec tail -f /dev/null",
        work.display(),
        command[0].display(),
        command[1].display(),
        path.display()
    );
    let quiet = || Stdio::null();
    let mut node = Command::new("sh").args(["-c", &script]).stdout(quiet()).stderr(quiet()).spawn().unwrap();
    wait_for("the script started", || work.join("tmp/up").exists() && alive(&mark) >= 3);
    node.kill().unwrap();
    node.wait().unwrap();
    wait_for("all descendants are gone", || alive(&mark) == 0);
}

//! What a script does that means harm, or is broken in every way: the node says what it was, and nothing is left behind.

use std::{fs, path::Path, time::Duration};

use atlas_node::{
    clock,
    executor::{Control, ControlReply, Event, FailureKind, Input, Outputs, ProcessState, RunSpec, StopMode},
    protocol::State as _,
    types::TaskId,
};

use super::host::Host;
use crate::e2e::{
    node::processes_of,
    wait::{STOP, until},
};

/// A script's own words for `done`.
const DONE: &str = "open('events.jsonl', 'a').write('{\"event\": \"done\", \"samples\": 1}\\n')\n";

/// How a run ended.
#[derive(Debug)]
enum End {
    Finished(Box<Outputs>),
    Failed(FailureKind, String, u32),
}

async fn run(host: &mut Host, spec: RunSpec) -> End {
    host.tell(Input::Run(Box::new(spec)));
    host.until(|event| match event {
        Event::Finished { outputs, .. } => Some(End::Finished(outputs.clone())),
        Event::Failed { kind, message, attempts, .. } => Some(End::Failed(*kind, message.clone(), *attempts)),
        _ => None,
    })
    .await
}

/// Runs a script of plain Python, with the limits of [`Host::spec`].
async fn script(text: &str) -> (Host, End) {
    let mut host = Host::new();
    let spec = host.spec(host.bundle(text));
    let end = run(&mut host, spec).await;
    (host, end)
}

async fn failed(text: &str) -> (Host, FailureKind, String) {
    let (host, end) = script(text).await;
    match end {
        End::Failed(kind, message, _) => (host, kind, message),
        End::Finished(_) => panic!("`{text}` finished"),
    }
}

/// After the task is forgotten, neither a process nor a file of it is left.
async fn nothing_remains(host: &mut Host) {
    let task = TaskId { job: host.spec(host.bundle("")).task.job, slot: 0 };
    host.tell(Input::Forget { task });
    host.perform_what_waits();
    let work = host.directory.path().join("executor/work");
    let entries = |path: &Path| fs::read_dir(path).unwrap().count();
    until("the work directory is empty and no process is left", STOP, async || {
        let left = processes_of(&work);
        (left.is_empty() && entries(&work) == 0).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_exit_code_of_the_contract_decides_what_follows() {
    for (code, kind, attempts) in [
        (64, FailureKind::BadConfig, 1),
        (65, FailureKind::BadData, 1),
        (69, FailureKind::MissingResource, 1),
        (70, FailureKind::Crash, 2),
        (75, FailureKind::Crash, 3),
        (0, FailureKind::Crash, 3),
        (1, FailureKind::Crash, 3),
        (2, FailureKind::Crash, 3),
        (255, FailureKind::Crash, 3),
    ] {
        let text = format!("import sys, os; print('the reason', file=sys.stderr, flush=True); os._exit({code})");
        let (_host, end) = script(&text).await;
        let End::Failed(found, message, tries) = end else { panic!("exit {code} without `done` is no success") };
        assert_eq!((found, tries), (kind, attempts), "exit {code}: {message}");
        let word = match code {
            0 => "never said `done`",
            75 => "nobody had asked",
            _ => "the reason",
        };
        assert!(message.contains(word), "exit {code}: {message}");
    }
    let (_host, end) = script(&format!("open('out/model.safetensors', 'w').write('m')\n{DONE}")).await;
    assert!(matches!(end, End::Finished(_)), "{end:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_in_its_output_and_events_is_kept_or_skipped_and_its_work_counts() {
    let garbage = "import sys, os\nnoise = bytes(range(256)) * 40\nsys.stdout.buffer.write(noise)\n\
                   events = open('events.jsonl', 'ab')\nevents.write(noise)\nevents.write(b'\\n{}\\n[]\\nnull\\n\"x\"\\n')\n\
                   events.write(b'{\"event\": \"progress\", \"step\": -1}\\n{\"event\": \"done\", \"samples\": \"many\"}\\n')\n\
                   for _ in range(2000):\n    events.write(b'[' * 1000 + b'\\n')\nevents.write(b'x' * 100000 + b'\\n')\n\
                   events.flush()\nopen('out/model.safetensors', 'w').write('m')\n";
    let (mut host, end) = script(&format!("{garbage}{DONE}")).await;
    let End::Finished(outputs) = end else { panic!("{end:?}") };
    assert_eq!((outputs.samples, outputs.loss), (1, None));
    let task = host.spec(host.bundle("")).task;
    host.tell(Input::Ask { id: 5, peer: None, task, control: Control::Log { from: Some(0), max: 60_000 } });
    let log = host.until(|event| match event {
        Event::ControlAnswered { id: 5, result: Ok(ControlReply::Log { bytes, .. }) } => Some(bytes.clone()),
        _ => None,
    });
    assert!(log.await == (0..=255).collect::<Vec<u8>>().repeat(40), "the log is what it printed, byte for byte");
    nothing_remains(&mut host).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gigabyte_of_output_leaves_its_end_and_no_more() {
    let text = "import os\nline = b'a line of a script that prints without end\\n' * 8000\nleft = 1 << 30\n\
                while left > 0:\n    left -= os.write(1, line)\nos.write(1, b'the last line\\n')\n\
                open('out/model.safetensors', 'w').write('m')\n";
    let (mut host, end) = script(&format!("{text}{DONE}")).await;
    assert!(matches!(end, End::Finished(_)), "{end:?}");
    let spec = host.spec(host.bundle(""));
    let log = host.directory.path().join("executor/logs").join(spec.task.to_string());
    let kept: u64 = fs::read_dir(log).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len()).sum();
    assert!(kept < 6 << 20, "{kept} bytes of log are kept");
    // The pipe may be read to its end only after `done` was.
    let mut tail = Vec::new();
    for id in 5.. {
        host.tell(Input::Ask { id, peer: None, task: spec.task, control: Control::Log { from: None, max: 14 } });
        tail = host
            .until(|event| match event {
                Event::ControlAnswered { id: found, result: Ok(ControlReply::Log { bytes, .. }) } if *found == id => {
                    Some(bytes.clone())
                }
                _ => None,
            })
            .await;
        if tail == b"the last line\n" || id > 1_000 {
            break;
        }
    }
    assert_eq!(tail, b"the last line\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn events_without_end_are_an_output_limit() {
    let (mut host, kind, message) =
        failed("events = open('events.jsonl', 'a')\nwhile True:\n    events.write('x' * 65535 + '\\n')").await;
    assert_eq!(kind, FailureKind::OutputLimit, "{message}");
    assert!(message.contains("the events file grew over 67108864 bytes"), "{message}");
    nothing_remains(&mut host).await;
}

/// Thousands of sleeping children, one after the other: the machine that runs the tests has to live on. As root the kernel sets
/// no limit and the node counts; for anybody else `fork` fails at 512 and the script with it.
#[tokio::test(flavor = "multi_thread")]
async fn a_script_that_forks_without_end_is_stopped_and_none_of_its_children_lives() {
    let text = "import os, time\nfor _ in range(20000):\n    if os.fork() == 0:\n        os.setsid()\n        time.sleep(600)\n\
                time.sleep(600)";
    let mut host = Host::new();
    let mut spec = host.spec(host.bundle(text));
    // Pages that the children share count for each: memory is not what this is about.
    spec.resources.memory_bytes = 1 << 40;
    let End::Failed(kind, message, _) = run(&mut host, spec).await else { panic!("it finished") };
    let counted = kind == FailureKind::OutputLimit && message.contains("what it started grew over 512 processes");
    let refused = kind == FailureKind::Crash && message.contains("BlockingIOError");
    assert!(counted || refused, "{kind}: {message}");
    nothing_remains(&mut host).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn children_that_a_script_leaves_behind_end_with_it() {
    let text = "import os, time\nfor _ in range(3):\n    if os.fork() == 0:\n        os.setsid()\n        if os.fork() == 0:\n            \
                time.sleep(600)\n        os._exit(0)\nopen('out/model.safetensors', 'w').write('m')\n";
    let (mut host, end) = script(&format!("{text}{DONE}")).await;
    assert!(matches!(end, End::Finished(_)), "{end:?}");
    nothing_remains(&mut host).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_script_that_ignores_sigterm_is_killed_when_its_grace_is_over() {
    let mut host = Host::new();
    let text = "import signal, time\nfor name in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):\n    \
                signal.signal(name, signal.SIG_IGN)\nevents = open('events.jsonl', 'a')\nwhile True:\n    \
                events.write('{\"event\": \"progress\", \"step\": 1}\\n')\n    events.flush()\n    time.sleep(0.01)";
    let spec = host.spec(host.bundle(text));
    let task = spec.task;
    host.tell(Input::Run(Box::new(spec)));
    host.until(|event| matches!(event, Event::Progress { .. }).then_some(())).await;
    host.tell(Input::CheckpointNow { task });
    host.tell(Input::Stop { task, mode: StopMode::Checkpoint });
    host.until(|event| matches!(event, Event::Progress { .. }).then_some(())).await;
    assert_eq!(host.state.progress(&task).unwrap().state, ProcessState::Stopping, "it goes on, and the node waits");
    // The grace passes.
    host.state.on_timeout(clock::now() + Duration::from_secs(21));
    let preempted = host.until(|event| match event {
        Event::Stopped { preempted, .. } => Some(*preempted),
        _ => None,
    });
    assert!(!preempted.await, "nothing was saved");
    nothing_remains(&mut host).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_of_all_its_children_together_is_counted() {
    let mut host = Host::new();
    let text = "import os, time\nfor _ in range(6):\n    if os.fork() == 0:\n        held = bytearray(os.urandom(1 << 20) * 24)\n        \
                time.sleep(600)\ntime.sleep(600)";
    let mut spec = host.spec(host.bundle(text));
    spec.resources.memory_bytes = 100 << 20;
    let end = run(&mut host, spec).await;
    let End::Failed(kind, message, 1) = end else { panic!("{end:?}") };
    assert_eq!(kind, FailureKind::OutOfMemory, "{message}");
    assert!(message.contains("resources.memory_gb"), "it says what to ask for: {message}");
    nothing_remains(&mut host).await;
}

/// What is written where no path reaches, or behind more files than are looked at, is written all the same.
#[tokio::test(flavor = "multi_thread")]
async fn what_fills_the_disk_in_hiding_is_an_output_limit() {
    let deep = "import os, time\nos.chdir('tmp')\nfor _ in range(30000):\n    os.mkdir('d')\n    os.chdir('d')\n\
                open('hidden', 'wb').write(bytes(1 << 20))\ntime.sleep(600)";
    let (mut host, kind, message) = failed(deep).await;
    assert_eq!(kind, FailureKind::OutputLimit, "{message}");
    assert!(message.contains("64 levels of directories"), "{message}");
    // Removing them must not end the node either.
    nothing_remains(&mut host).await;

    let wide = "import os, time\nfor n in range(120000):\n    os.close(os.open(f'tmp/{n}', os.O_CREAT | os.O_WRONLY))\ntime.sleep(600)";
    let (mut host, kind, message) = failed(wide).await;
    assert_eq!(kind, FailureKind::OutputLimit, "{message}");
    assert!(message.contains("100000 files and directories"), "{message}");
    nothing_remains(&mut host).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn results_that_are_links_pipes_or_absent_are_named_and_never_followed() {
    for (lines, words) in [
        ("os.symlink('/etc/passwd', 'out/model.safetensors')", "`model.safetensors` is neither a file nor a directory"),
        ("os.mkfifo('out/model.safetensors')", "`model.safetensors` is neither a file nor a directory"),
        ("os.rmdir('out'); os.symlink('/etc', 'out')", "is neither a file nor a directory"),
        ("os.rmdir('out')", "outputs are not there"),
        ("[open(f'out/{n}', 'w') for n in range(1100)] and None", "too many entries"),
        ("os.makedirs('out/a/b/c/d/e/f')", "nested too deep"),
    ] {
        // The limit on open files is one of its own.
        let text = format!("import os\nimport resource\n{lines}\n{DONE}import time; time.sleep(600)");
        let text = text.replace("[open(f'out/{n}', 'w') for", "[os.close(os.open(f'out/{n}', os.O_CREAT)) for");
        let (_host, kind, message) = failed(&text).await;
        assert_eq!(kind, FailureKind::Crash, "{lines}: {message}");
        assert!(message.contains(words), "{lines}: {message}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_file_that_is_none_is_ignored_and_a_long_one_is_cut() {
    for lines in [
        "os.mkfifo('out/failure.json')",
        "os.symlink('/etc/passwd', 'out/failure.json')",
        "open('out/failure.json', 'w').write('[' * 60000)",
        "open('out/failure.json', 'w').write('x' * 100000)",
        "os.mkdir('out/failure.json')",
    ] {
        let text =
            format!("import os, sys\n{lines}\nprint('its last words', file=sys.stderr, flush=True)\nos._exit(64)");
        let (_host, kind, message) = failed(&text).await;
        assert_eq!(kind, FailureKind::BadConfig, "{lines}: {message}");
        assert!(message.contains("exit code 64: its last words"), "{lines}: {message}");
    }
}

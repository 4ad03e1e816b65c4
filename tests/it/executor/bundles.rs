//! What a bundle may bring or leave beside the usual: its own Python, and a gradient in place of a model.

use std::{fs, path::PathBuf};

use atlas_node::{
    executor::{Event, Input, Outputs, RunSpec},
    store::Files,
    types::{ContentId, OutputKind},
};

use super::host::{Host, python};

const DONE: &str = "import json, os\n\
    def done():\n    \
        with open(os.environ['ATLAS_EVENTS_FILE'], 'a') as events:\n        \
            events.write(json.dumps({'event': 'done', 'steps': 10, 'samples': 1}) + '\\n')\n";

async fn finished(host: &mut Host, spec: RunSpec) -> Box<Outputs> {
    host.tell(Input::Run(Box::new(spec)));
    host.until(|event| match event {
        Event::Finished { outputs, .. } => Some(outputs.clone()),
        _ => None,
    })
    .await
}

/// A bundle with files beside its script.
fn bundle(host: &Host, manifest: &str, script: &str, files: &[(&str, &str)]) -> ContentId {
    let path = host.directory.path().join("own");
    fs::create_dir(&path).unwrap();
    let head = "contract = 'atlas-script/1'\nname = 't'\nversion = '1'\nentry = ['main.py']\n";
    fs::write(path.join("atlas.toml"), format!("{head}{manifest}")).unwrap();
    fs::write(path.join("main.py"), format!("{DONE}{script}")).unwrap();
    for (name, text) in files {
        let file = path.join(name);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, text).unwrap();
    }
    host.import(&path)
}

fn safetensors(values: [f32; 2]) -> Vec<u8> {
    let header = format!("{:<56}", r#"{"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#);
    let values = values.iter().flat_map(|value| value.to_le_bytes());
    (header.len() as u64).to_le_bytes().into_iter().chain(header.into_bytes()).chain(values).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gradient_becomes_the_model_of_one_step_downhill() {
    let mut host = Host::new();
    let script = "with open('out/gradients.json', 'w') as file:\n    \
        json.dump({'gradients': {'w': [0.25, -1.0]}}, file)\ndone()\n";
    let bundle = bundle(&host, "", script, &[]);
    let model = host.files.import_bytes(&safetensors([1.0, 2.0])).unwrap();
    let spec = RunSpec { output: OutputKind::Gradient, model, ..host.spec(bundle) };
    let outputs = finished(&mut host, spec).await;
    let trained = fs::read(outputs.checkpoint.unwrap().join("model.safetensors")).unwrap();
    assert_eq!(trained, safetensors([0.75, 3.0]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bundle_brings_its_packages() {
    let mut host = Host::new();
    let script = "import vendored\nassert vendored.ANSWER == 42\ndone()\n";
    let packages = [("vendor/vendored.py", "ANSWER = 42\n")];
    let bundle = bundle(&host, "[python]\nsite_packages = 'vendor'\n", script, &packages);
    let spec = host.spec(bundle);
    finished(&mut host, spec).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bundle_brings_its_interpreter() {
    let mut host = Host::new();
    // A whole Python would be 30 MB: this one passes on to the machine's, and says that it was asked.
    let python = fs::canonicalize(resolved(python())).unwrap();
    let own = format!("#!/bin/sh\nOWN_PYTHON=1 exec {} \"$@\"\n", python.display());
    let script = "assert os.environ['OWN_PYTHON'] == '1'\ndone()\n";
    let bundle = bundle(&host, "[python]\ninterpreter = 'python/run'\n", script, &[("python/run", &own)]);
    let spec = host.spec(bundle);
    finished(&mut host, spec).await;
}

/// The interpreter's own path: not a name to be searched for, not a shim.
fn resolved(python: PathBuf) -> String {
    let output = std::process::Command::new(python).args(["-c", "import sys; print(sys.executable)"]).output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

//! What this process and its host are: what is known at once, and what takes a look.

use std::path::{Path, PathBuf};

use tokio::sync::mpsc;

use super::coordinator::{Facts, Host, Input};
use crate::{
    api,
    config::{Config, LedgerMode},
    executor::{
        edge::{Python, Supervisor},
        launcher::Protection,
    },
    resource,
    types::{Digest, Resources, words},
};

/// What is known at the start. Interpreter and protections follow with [`examine`].
pub(super) fn facts(config: &Config, detected: &resource::Detected) -> Facts {
    Facts {
        pid: std::process::id(),
        data_dir: config.data_dir.clone(),
        protections: Vec::new(),
        class_id: class_id(None),
        kat_root: Digest([0; 32]),
        python: api::Python::default(),
        resource_notes: resource_notes(&detected.sources),
        warnings: config.warnings.iter().chain(&detected.warnings).cloned().collect(),
        ipfs_endpoint: config.ipfs_api.clone().unwrap_or_default(),
        carries_ledger: config.ledger.mode == LedgerMode::Embedded,
    }
}

/// Tries the interpreter and the protections, which takes as long as the interpreter needs to import numpy, and tells
/// the coordinator; then the known answer, which `file` keeps. A start does not wait for it.
pub(super) fn examine(supervisor: &Supervisor, resources: Resources, file: PathBuf, inputs: mpsc::Sender<Input>) {
    let supervisor = supervisor.clone();
    tokio::spawn(async move {
        let looking = supervisor.clone();
        let Ok(host) = tokio::task::spawn_blocking(move || look(&looking, resources)).await else { return };
        let (class_id, able) = (host.class_id, host.python.path.is_some());
        // The loop is gone only when the node exits.
        let _ = inputs.send(Input::Host(Box::new(host))).await;
        if able && let Some(answer) = known_answer(&supervisor, class_id, &file).await {
            let _ = inputs.send(Input::KnownAnswer(answer)).await;
        }
    });
}

/// Blocks for some 0.2 s.
fn look(supervisor: &Supervisor, resources: Resources) -> Host {
    let mut warnings = Vec::new();
    let protections = supervisor.protections().unwrap_or_else(|error| {
        warnings.push(format!("the protections of this host could not be tried: {error}"));
        Vec::new()
    });
    let found = supervisor.python();
    if let Err(error) = &found {
        warnings.push(format!("no usable Python, so no work is taken: {error}; set `executor.python`"));
    }
    let found = found.ok();
    Host {
        protections: protections.into_iter().map(shown).collect(),
        class_id: class_id(found.as_ref()),
        // Without an interpreter nothing can be run, so nothing is offered.
        lends: if found.is_some() { resources } else { Resources::default() },
        python: found.map_or_else(api::Python::default, |python| api::Python {
            path: Some(python.path),
            version: Some(python.version),
        }),
        warnings,
    }
}

fn shown(protection: Protection) -> api::Protection {
    api::Protection { name: protection.name, active: protection.active, reason: Some(protection.reason) }
}

/// What the bits of a deterministic bundle's result depend on: architecture, instruction set as far as the bundle's pinned
/// kernels use it, interpreter and library builds, and one thread (proof.md, `class_id`).
fn class_id(python: Option<&Python>) -> Digest {
    #[cfg(target_arch = "x86_64")]
    let instructions = format!("avx2 {} fma {}", is_x86_feature_detected!("avx2"), is_x86_feature_detected!("fma"));
    #[cfg(not(target_arch = "x86_64"))]
    let instructions = String::new();
    let (version, libraries) = python.map_or_else(Default::default, |python| (&*python.version, &*python.libraries));
    let parts =
        [std::env::consts::ARCH, std::env::consts::OS, &instructions, version, &libraries.join(", "), "1 thread"];
    Digest::of_parts("atlas/class/v1", &[parts.join("/").as_bytes()])
}

/// The known answer of this class of hosts: from the last run, or computed now, which takes a second of one core.
async fn known_answer(supervisor: &Supervisor, class_id: Digest, file: &Path) -> Option<Digest> {
    let line = |answer: &Digest| format!("{class_id} {answer}\n");
    let kept = tokio::fs::read_to_string(file).await.unwrap_or_default();
    let kept =
        kept.split_whitespace().nth(1).and_then(|answer| answer.parse().ok()).filter(|answer| line(answer) == kept);
    if kept.is_some() {
        return kept;
    }
    let answer = match supervisor.known_answer().await {
        Ok(answer) => answer,
        Err(error) => {
            tracing::warn!(error = words(&error), "receipts carry no known answer");
            return None;
        }
    };
    if let Err(error) = tokio::fs::write(file, line(&answer)).await {
        tracing::warn!(path = %file.display(), %error, "the known answer will be computed again at the next start");
    }
    Some(answer)
}

/// What decided each amount, in words.
fn resource_notes(sources: &resource::Sources) -> Vec<String> {
    let named = [("cpu", sources.cpu), ("memory", sources.memory), ("storage", sources.storage), ("gpu", sources.gpu)];
    named.iter().map(|(resource, limit)| format!("{resource}: {limit}")).collect()
}

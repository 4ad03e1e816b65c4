//! What this process and its host are: what is known at once, and what takes a look.

use tokio::sync::mpsc;

use super::coordinator::{Facts, Host, Input};
use crate::{
    api,
    config::{Config, LedgerMode},
    executor::{edge::Supervisor, launcher::Protection},
    resource,
    types::{Digest, Resources},
};

/// What is known at the start. Interpreter and protections follow with [`examine`].
pub(super) fn facts(config: &Config, detected: &resource::Detected) -> Facts {
    Facts {
        pid: std::process::id(),
        data_dir: config.data_dir.clone(),
        protections: Vec::new(),
        class_id: class_id(None),
        python: api::Python::default(),
        resource_notes: resource_notes(&detected.sources),
        warnings: config.warnings.iter().chain(&detected.warnings).cloned().collect(),
        ipfs_endpoint: config.ipfs_api.clone().unwrap_or_default(),
        carries_ledger: config.ledger.mode == LedgerMode::Embedded,
    }
}

/// Tries the interpreter and the protections, which takes as long as the interpreter needs to import numpy, and tells
/// the coordinator. A start does not wait for it.
pub(super) fn examine(supervisor: &Supervisor, resources: Resources, inputs: mpsc::Sender<Input>) {
    let supervisor = supervisor.clone();
    tokio::task::spawn_blocking(move || {
        let host = look(&supervisor, resources);
        // The loop is gone only when the node exits.
        let _ = inputs.blocking_send(Input::Host(Box::new(host)));
    });
}

/// Blocks for some 0.2 s.
fn look(supervisor: &Supervisor, resources: Resources) -> Host {
    let mut warnings = Vec::new();
    let protections = supervisor.protections().unwrap_or_else(|error| {
        warnings.push(format!("the protections of this host could not be tried: {error}"));
        Vec::new()
    });
    let python = match supervisor.python() {
        Ok((path, version)) => api::Python { path: Some(path), version: Some(version) },
        Err(error) => {
            warnings.push(format!("no usable Python, so no work is taken: {error}; set `executor.python`"));
            api::Python::default()
        }
    };
    Host {
        protections: protections.into_iter().map(shown).collect(),
        class_id: class_id(python.version.as_deref()),
        // Without an interpreter nothing can be run, so nothing is offered.
        lends: if python.path.is_some() { resources } else { Resources::default() },
        python,
        warnings,
    }
}

fn shown(protection: Protection) -> api::Protection {
    api::Protection { name: protection.name, active: protection.active, reason: Some(protection.reason) }
}

fn class_id(python: Option<&str>) -> Digest {
    let class = format!("{}/{}/{python:?}", std::env::consts::ARCH, std::env::consts::OS);
    Digest::of_parts("atlas/class/v1", &[class.as_bytes()])
}

/// What decided each amount, in words.
fn resource_notes(sources: &resource::Sources) -> Vec<String> {
    let named = [("cpu", sources.cpu), ("memory", sources.memory), ("storage", sources.storage), ("gpu", sources.gpu)];
    named.iter().map(|(resource, limit)| format!("{resource}: {limit}")).collect()
}

//! What the coordinator's and the shard protocol's edges do on a simulated machine.
//!
//! Updates, aggregates, checks and loads are done by the code that does them in production, over the simulated store.
//! Only keeping a checkpoint is written here, because there is no directory to copy from.

use std::{collections::BTreeMap, io};

use bytes::Bytes;

use super::{content::Directory, fault::Lie, machine::Machine, scripts::Scripts};
use crate::{
    api, codec,
    node::{
        edges::{Answer, Prepared, Request},
        keeping,
    },
    proof,
    recovery::{
        self,
        edge::{KeepRequest, Kept},
    },
    round,
    shard::{
        edge::{Done, Stored, Work},
        wire::Slot,
    },
    tensor::{
        checkpoint::{MANIFEST, MAX_TRACE, MODEL, OPTIMIZER, STATE},
        root,
    },
    types::{CheckpointManifest, ContentId, Digest, NodeKey, OrCause as _},
};

/// Does one piece of the coordinator's work.
pub(super) fn perform(machine: &Machine, scripts: &Scripts, request: Request) -> Answer {
    let store = &*machine.store;
    match request {
        Request::Recovery(request) => Answer::Recovery(Box::new(recovery(machine, scripts, *request))),
        Request::Round(request) => Answer::Round(Box::new(round::edge::perform(store, &request))),
        Request::Proof(request) => Answer::Proof(Box::new(proof::edge::perform(store, &request))),
        Request::Measure(request) => Answer::Prepared(Ok(measure(machine, *request))),
        Request::Pin { root, reason, keep } => {
            store.pin(root, reason, keep);
            Answer::Pinned(Ok(()))
        }
        Request::Prepare(_) => Answer::Prepared(Err("a simulated machine has no job files".into())),
        Request::ListRoots => Answer::Roots(Vec::new()),
        Request::Keep { owner, root, most } => Answer::Kept(keep_object(machine, &owner, root, most)),
        Request::LetGo { owner, root } => {
            store.pin(root, &keeping::reason(&owner), false);
            Answer::LetGo(Ok(()))
        }
        Request::Directory { .. } => Answer::Directory(Err("no Kubo is simulated".into())),
        Request::CarryLedger { .. } => Answer::Carried(Err("a simulated machine carries no ledger".into())),
        _ => Answer::Files(Err(api::Error::new(api::ErrorCode::Invalid, "a simulated machine has no files"))),
    }
}

/// As `node::keeping::keep`, of a block.
fn keep_object(machine: &Machine, owner: &NodeKey, root: ContentId, most: u64) -> Result<u64, String> {
    let bytes = machine.store.get(&root).ok_or("part of it is not here")?.len() as u64;
    if bytes > most {
        return Err(format!("it has {bytes} bytes, its owner said {most}"));
    }
    machine.sync();
    machine.store.pin(root, &keeping::reason(owner), true);
    Ok(bytes)
}

/// Planted bug: the model that updates were combined to is another one.
pub(super) fn spoil(answer: &mut Answer) {
    if let Answer::Round(answer) = answer
        && let round::edge::Answer::Aggregated { result: Ok(aggregated), .. } = &mut **answer
    {
        aggregated.params_root = Digest::of(&aggregated.params_root.0);
    }
}

/// A liar's answer in place of the true one.
pub(super) fn lie(lie: Lie, machine: &Machine, answer: &mut Answer) {
    match (lie, &mut *answer) {
        (Lie::Root, _) => spoil(answer),
        (Lie::Attest, Answer::Proof(answer)) => answer.result = Ok(()),
        (Lie::Receipt, Answer::Recovery(answer)) => {
            if let recovery::edge::Answer::Kept { result: Ok(kept), .. } = &mut **answer {
                kept.state_root = Digest::of(&kept.state_root.0);
                kept.trace.pop();
                kept.trace.push(kept.state_root);
            }
        }
        (Lie::Update, Answer::Round(answer)) => {
            if let round::edge::Answer::Packaged { result: Ok(package), .. } = &mut **answer {
                let update = machine.store.get(&package.update_cid).unwrap_or_default();
                let update = flipped(&update);
                package.update_cid = machine.store.import(&update);
                package.update_digest = Digest::of(&update);
            }
        }
        _ => {}
    }
}

/// Other bytes than were asked for.
pub(super) fn corrupt(done: &mut Done) {
    if let Done::Read(slots) = done {
        for slot in slots {
            if let Slot::Present(bytes) = slot {
                *bytes = flipped(bytes).into();
            }
        }
    }
}

fn flipped(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    if let Some(last) = bytes.last_mut() {
        *last ^= 1;
    }
    bytes
}

fn measure(machine: &Machine, request: api::SubmitPrepared) -> Prepared {
    let spec = &request.spec;
    let size = |cid: &ContentId| machine.store.get(cid).map_or(0, |bytes| bytes.len() as u64);
    let roots = [spec.bundle, spec.model, spec.dataset_cid].into_iter().chain(spec.held_out);
    let mut sizes: BTreeMap<ContentId, u64> = roots.map(|root| (root, size(&root))).collect();
    sizes.extend(request.shards.iter().map(|shard| (shard.cid, shard.size)));
    Prepared { spec: request.spec, shards: request.shards, sizes, data_key: None }
}

fn recovery(machine: &Machine, scripts: &Scripts, request: recovery::edge::Request) -> recovery::edge::Answer {
    match request {
        recovery::edge::Request::Keep { id, request } => {
            let (task, result) = (request.task, keep(machine, scripts, request).map(Box::new));
            recovery::edge::Answer::Kept { id, task, result: result.or_cause() }
        }
        recovery::edge::Request::Load { id, root, now } => {
            let result = recovery::edge::load(&*machine.store, &root, now).map(Box::new);
            let result = result.or_cause();
            recovery::edge::Answer::Loaded { id, result }
        }
    }
}

/// As `recovery::edge::keep`, from what the script wrote in memory.
fn keep(machine: &Machine, scripts: &Scripts, request: KeepRequest) -> Result<Kept, recovery::edge::Error> {
    if request.trace.len() >= MAX_TRACE {
        return Err(recovery::edge::Error::TraceFull);
    }
    let gone = || io::Error::new(io::ErrorKind::NotFound, "the checkpoint's directory is gone");
    let directory = scripts.directory(&request.directory).ok_or_else(gone)?;
    let file = |name: &str| directory.0.get(name).map(|bytes| bytes.as_ref());
    let root_of = |bytes: Option<&[u8]>| bytes.map(root::of_file).transpose().map_err(io::Error::other);
    let model = file(MODEL).ok_or_else(gone)?;
    let params_root = root_of(Some(model))?.ok_or_else(gone)?;
    let opt_root = root_of(file(OPTIMIZER))?.unwrap_or(root::NO_OPTIMIZER);
    let state_root = root::state_root(&params_root, &opt_root, request.step, &[]);
    let state = directory.to_block();
    let (cid, size) = (super::content::name(&state), state.len() as u64);
    let trace: Vec<Digest> = request.trace.iter().copied().chain([state_root]).collect();
    let manifest = CheckpointManifest {
        task: request.task,
        generation: request.generation,
        epoch: request.round,
        iteration: request.step,
        node: machine.keypair.node_key(),
        cid,
        size,
        state_root,
        opt_root,
        trace: trace.clone(),
        timestamp: request.now,
    };
    let manifest = codec::encode(&machine.keypair.seal(&manifest));
    let whole = Directory::of([(MANIFEST, manifest), (STATE, state)]).to_block();
    Ok(Kept {
        root: machine.store.import(&whole),
        state: cid,
        model: super::content::name(model),
        optimizer: file(OPTIMIZER).map(super::content::name),
        size,
        params_root,
        opt_root,
        state_root,
        trace,
    })
}

/// Does one piece of the shard protocol's work.
pub(super) fn perform_shard(machine: &Machine, work: Work) -> Done {
    let store = &*machine.store;
    match work {
        Work::Missing { root, .. } => match store.get(&root) {
            Some(bytes) => Done::Missing { missing: Vec::new(), more: false, bytes: bytes.len() as u64 },
            None => Done::Missing { missing: vec![root], more: false, bytes: 0 },
        },
        Work::Put { blocks } => Done::Put(blocks.iter().map(|(cid, bytes)| put(machine, cid, bytes)).collect()),
        Work::Read { cids, .. } => {
            Done::Read(cids.iter().map(|cid| store.get(cid).map_or(Slot::Missing, Slot::Present)).collect())
        }
        Work::Has { cids } => Done::Has(cids.iter().map(|cid| store.has(cid)).collect()),
        Work::Seal { root, pins } => {
            machine.sync();
            pins.iter().for_each(|reason| store.pin(root, reason, true));
            Done::Sealed
        }
        Work::Release { .. } => Done::Released,
        Work::Unpin { root, reason } => {
            store.pin(root, &reason, false);
            Done::Released
        }
    }
}

fn put(machine: &Machine, cid: &ContentId, bytes: &Bytes) -> Stored {
    if machine.store.put(cid, bytes) {
        Stored::Kept { bytes: bytes.len() as u64, missing: Vec::new() }
    } else {
        Stored::Mismatch
    }
}

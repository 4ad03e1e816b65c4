//! A worker's finished round, for tests.

use super::{Expected, Work, build, edge};
use crate::{
    codec,
    identity::Keypair,
    store::Files as _,
    tensor::{
        checkpoint::{MANIFEST, MODEL, STATE},
        root,
        testing::{Store, model},
        update,
    },
    types::{CheckpointManifest, CheckpointRef, ContentId, Digest, JobId, Metrics, Receipt, TaskId, Time, UpdateCodec},
};

pub(crate) const NOW: Time = Time(1_000_000_000_000);
const STEPS: u32 = 10;

/// What to vary of an honest worker.
#[derive(Clone)]
pub(crate) struct Worker {
    pub(crate) secret: u8,
    pub(crate) trained: Vec<f32>,
    pub(crate) codec: UpdateCodec,
    pub(crate) middle: Digest,
    pub(crate) now: Time,
}

impl Default for Worker {
    fn default() -> Self {
        let trained = vec![0.25, -0.5, 1.0, 0.125];
        Self { secret: 7, trained, codec: UpdateCodec::F32, middle: Digest([5; 32]), now: NOW }
    }
}

fn cid(byte: u8) -> ContentId {
    let hash = multihash::Multihash::wrap(0x12, &[byte; 32]).unwrap();
    ContentId(cid::Cid::new_v1(0x55, hash))
}

impl Worker {
    pub(crate) fn keypair(&self) -> Keypair {
        Keypair::from_secret(&[self.secret; 32])
    }

    pub(crate) fn expected(&self) -> Expected {
        Expected {
            task: TaskId { job: JobId([1; 32]), slot: 2 },
            round: 3,
            generation: 4,
            lease_tx: Digest([6; 32]),
            holder: self.keypair().node_key(),
            in_params_root: root::of_tensors(&model(&[0.0; 4])),
            in_opt_root: root::NO_OPTIMIZER,
            bundle: cid(1),
            shard: cid(2),
            seed: crate::proof::seed::seed(1, 2, 3),
            local_steps: STEPS,
        }
    }

    /// A receipt for content that is nowhere.
    pub(crate) fn receipt(&self) -> Receipt {
        let expected = self.expected();
        build(&expected, self.work(vec![expected.start_root(), self.middle, Digest([8; 32])], cid(3), cid(4), &[]))
            .unwrap()
    }

    fn work(&self, trace: Vec<Digest>, checkpoint: ContentId, update_cid: ContentId, update: &[u8]) -> Work {
        Work {
            timestamp: self.now,
            class_id: Digest([0; 32]),
            kat_root: Digest([0; 32]),
            trace,
            out_opt_root: root::NO_OPTIMIZER,
            update_digest: Digest::of(update),
            update_cid,
            update_length: update.len() as u64,
            checkpoint: CheckpointRef { cid: checkpoint, round: 3, step: STEPS },
            metrics: Metrics { iterations: u64::from(STEPS), samples: 320, ..Metrics::default() },
        }
    }

    /// Stores model, checkpoint and update, and asks to check the receipt of it.
    pub(crate) fn finish(&self, store: &Store) -> edge::Request {
        let expected = self.expected();
        let (base, trained) = (model(&[0.0; 4]), model(&self.trained));
        let base_model = store.files.import_bytes(&base.to_safetensors()).unwrap();
        let update = update::encode_difference(&base, &trained, self.codec).unwrap();
        let update_cid = store.files.import_bytes(&update).unwrap();
        let end = root::state_root(&root::of_tensors(&trained), &root::NO_OPTIMIZER, STEPS, &[]);
        let trace = vec![expected.start_root(), self.middle, end];
        let checkpoint = self.keep(store, &trace, &trained.to_safetensors());
        let receipt = build(&expected, self.work(trace, checkpoint, update_cid, &update)).unwrap();
        edge::Request { id: 1, receipt, generation: 4, base_model, codec: self.codec, now: self.now }
    }

    fn keep(&self, store: &Store, trace: &[Digest], model: &[u8]) -> ContentId {
        let directory = tempfile::tempdir_in(store.directory.path()).unwrap();
        let state = directory.path().join(STATE);
        std::fs::create_dir(&state).unwrap();
        std::fs::write(state.join(MODEL), model).unwrap();
        let imported = store.files.import_path(&state).unwrap();
        let manifest = self.manifest(trace, imported.cid);
        std::fs::write(directory.path().join(MANIFEST), codec::encode(&self.keypair().seal(&manifest))).unwrap();
        store.files.import_path(directory.path()).unwrap().cid
    }

    pub(crate) fn manifest(&self, trace: &[Digest], state: ContentId) -> CheckpointManifest {
        let expected = self.expected();
        CheckpointManifest {
            task: expected.task,
            generation: expected.generation,
            epoch: expected.round,
            iteration: STEPS,
            node: expected.holder,
            cid: state,
            size: 0,
            state_root: *trace.last().unwrap(),
            opt_root: root::NO_OPTIMIZER,
            trace: trace.to_vec(),
            timestamp: self.now,
        }
    }
}

//! Eight updates of 100 MB become the next model, beside numpy's mean of the same arrays and a copy of as many bytes.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::Arc,
};

use anyhow::{Context as _, Result};
use atlas_node::{
    clock,
    round::{
        aggregate::{Contribution, norm_clipped_mean},
        edge::{self, AggregateRequest, Update as Named},
    },
    shard::Files,
    store::{BlockStore, Files as _, Quota},
    tensor::{Dtype, Spec, Tensors, update},
    types::{AggregationRule, ContentId, Digest, OuterStep, UpdateCodec},
};

use super::{Arguments, report::Report};

/// Elements of one update: 100 MB.
const ELEMENTS: usize = 25_000_000;
/// Updates of the round.
const UPDATES: u32 = 8;
/// Bytes of all updates: what a figure divides by its time.
const BYTES: usize = UPDATES as usize * ELEMENTS * 4;

/// Asked for one mean at a time, so that the runs of both alternate.
const NUMPY: &str = r"
import sys, time
import numpy as np
updates = np.stack([np.fromfile(path, dtype='<f4') for path in sys.argv[1:]])
np.mean(updates[:, :1000], axis=0)
print('ready', flush=True)
for line in sys.stdin:
    began = time.perf_counter()
    mean = np.mean(updates, axis=0)
    print(time.perf_counter() - began, flush=True)
";

/// The round's content, in memory and in a store.
struct Round {
    files: Files,
    base: Tensors,
    contributions: Vec<Contribution>,
    request: AggregateRequest,
}

pub(crate) fn measure(arguments: &Arguments, report: &mut Report) -> Result<()> {
    let directory = tempfile::tempdir()?;
    let round = Round::new(directory.path())?;
    let mut numpy = Numpy::start(&arguments.python, directory.path())?;
    let source = vec![1_u8; BYTES];
    let mut copy = vec![2_u8; BYTES];
    let (mut ours, mut whole, mut means, mut copies) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for _ in 0..arguments.runs {
        ours.push(speed(|| {
            norm_clipped_mean(&round.base, None, &round.contributions, OuterStep::default()).map(drop)
        })?);
        means.push(BYTES as f64 / numpy.mean_seconds()? / 1e9);
        copies.push(speed(|| {
            copy.copy_from_slice(std::hint::black_box(&source));
            Ok::<(), std::convert::Infallible>(())
        })?);
        whole.push(speed(|| edge::aggregate(&round.files, &round.request).map(drop))?);
    }
    report.add("8 x 100 MB f32, arithmetic", "GB/s", &ours, "");
    report.add("the same from store to store, with roots", "GB/s", &whole, "");
    report.add("numpy.mean of the same", "GB/s", &means, "");
    report.add("copy of as many bytes, one thread", "GB/s", &copies, "");
    report.ratio("arithmetic to numpy.mean", &ours, &means, ">= 2");
    report.ratio("arithmetic to the copy", &ours, &copies, ">= 0.5");
    Ok(())
}

/// Gigabytes of updates a second.
fn speed<E: std::error::Error + Send + Sync + 'static>(work: impl FnOnce() -> Result<(), E>) -> Result<f64> {
    let began = clock::now_micros();
    work()?;
    Ok(BYTES as f64 / (clock::now_micros() - began) as f64 / 1e3)
}

impl Round {
    /// Writes the updates to `directory`: as they travel into a store, and as plain floats for numpy.
    fn new(directory: &Path) -> Result<Self> {
        let store = BlockStore::open(&directory.join("blocks"), Quota { bytes: 16 << 30 })?;
        let files = Files::new(Arc::clone(&store));
        let base = tensors(0)?;
        let base_model = files.import_bytes(&base.to_safetensors())?;
        let (mut contributions, mut updates) = (Vec::new(), Vec::new());
        for slot in 0..UPDATES {
            let trained = tensors(slot + 1)?;
            let bytes = update::encode_difference(&base, &trained, UpdateCodec::F32)?;
            let (cid, digest) = (files.import_bytes(&bytes)?, Digest::of(&bytes));
            let update = update::Update::parse(bytes.into())?;
            write_floats(&directory.join(format!("{slot}.f32")), &update)?;
            updates.push(Named { slot, cid, digest, samples: 100 });
            contributions.push(Contribution { slot, samples: 100, update });
        }
        Ok(Self { files, base, contributions, request: request(base_model, updates) })
    }
}

fn request(base_model: ContentId, updates: Vec<Named>) -> AggregateRequest {
    AggregateRequest {
        base_model,
        momentum: None,
        updates,
        outer: OuterStep::default(),
        codec: UpdateCodec::F32,
        rule: AggregationRule::NormClippedMean,
    }
}

/// A model whose values are small, differ from seed to seed, and need no long look at them.
fn tensors(seed: u32) -> Result<Tensors> {
    let mut word = u64::from(seed) + 0x9e37_79b9_7f4a_7c15;
    let mut data = Vec::with_capacity(4 * ELEMENTS);
    for _ in 0..ELEMENTS {
        word = word.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let value = f32::from(u16::try_from(word >> 48)?) / 65_536.0 - 0.5;
        data.extend_from_slice(&value.to_le_bytes());
    }
    let mut tensors = Tensors::default();
    tensors.insert("weights".into(), Spec { dtype: Dtype::F32, shape: vec![ELEMENTS] }, data.into())?;
    Ok(tensors)
}

fn write_floats(path: &Path, update: &update::Update) -> Result<()> {
    let (_, payload) = update.payloads().next().context("the update has a tensor")?;
    let mut values = vec![0.0; payload.elements];
    payload.read(0, &mut values);
    let bytes: Vec<u8> = values.iter().flat_map(|value: &f32| value.to_le_bytes()).collect();
    Ok(fs::write(path, bytes)?)
}

/// A Python process that has the updates in memory.
struct Numpy {
    child: Child,
    questions: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Numpy {
    fn start(python: &Path, directory: &Path) -> Result<Self> {
        let paths = (0..UPDATES).map(|slot| directory.join(format!("{slot}.f32")));
        let mut child = Command::new(python)
            .args(["-c", NUMPY])
            .args(paths)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("{} can't be run; name one that has numpy with --python", python.display()))?;
        let questions = child.stdin.take().context("its stdin is a pipe")?;
        let answers = BufReader::new(child.stdout.take().context("its stdout is a pipe")?);
        let mut numpy = Self { child, questions, answers };
        numpy.line().context("numpy did not start; name a Python that has it with --python")?;
        Ok(numpy)
    }

    fn mean_seconds(&mut self) -> Result<f64> {
        self.questions.write_all(b"mean\n")?;
        Ok(self.line()?.trim().parse()?)
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        let read = self.answers.read_line(&mut line)?;
        anyhow::ensure!(read > 0, "it ended");
        Ok(line)
    }
}

impl Drop for Numpy {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

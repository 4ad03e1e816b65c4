//! The environment of a script: exactly what the contract lists. Pure.

use std::{collections::BTreeMap, path::Path};

use super::{Mode, RunSpec, bundle::Bundle, python::Interpreter, spec::GRACE};

/// What a script gets beside its run.
pub(super) struct Surroundings<'a> {
    pub(super) bundle: &'a Bundle,
    pub(super) interpreter: &'a Interpreter,
    /// The contract's work directory.
    pub(super) work_dir: &'a Path,
    /// Where the session listens, or the server.
    pub(super) socket: &'a Path,
    /// The checkpoint to continue from, and its step.
    pub(super) resume: Option<(u32, &'a Path)>,
}

/// Names and values.
pub(super) type Environment = BTreeMap<String, String>;

/// What every script gets, whatever its mode.
pub(super) fn base(around: &Surroundings<'_>, mode: Mode) -> Environment {
    let work = text(around.work_dir);
    let mut all = Environment::new();
    let mut set = |name: &str, value: String| all.insert(name.to_owned(), value);
    set("PATH", "/usr/local/bin:/usr/bin:/bin".to_owned());
    set("LANG", "C.UTF-8".to_owned());
    set("HOME", work.clone());
    set("TMPDIR", format!("{work}/tmp"));
    // Bytecode beside the sources would be refused, and tried again at each start.
    set("PYTHONDONTWRITEBYTECODE", "1".to_owned());
    set("PYTHONUNBUFFERED", "1".to_owned());
    if let Some(packages) = &around.interpreter.site_packages {
        set("PYTHONPATH", text(packages));
    }
    set("ATLAS_CONTRACT", "1".to_owned());
    set("ATLAS_MODE", mode.as_str().to_owned());
    set("ATLAS_JOB_FILE", format!("{work}/job.json"));
    set("ATLAS_WORK_DIR", work.clone());
    set("ATLAS_MODEL_DIR", format!("{work}/in"));
    set("ATLAS_OUTPUT_DIR", format!("{work}/out"));
    set("ATLAS_CHECKPOINT_DIR", format!("{work}/ckpt"));
    set("ATLAS_EVENTS_FILE", format!("{work}/events.jsonl"));
    set("ATLAS_GRACE_SECS", GRACE.as_secs().to_string());
    set("ATLAS_DEVICE", "cpu".to_owned());
    set("ATLAS_SOCKET", text(around.socket));
    // SageMaker's words for where a script leaves its results.
    set("SM_MODEL_DIR", format!("{work}/out"));
    set("SM_OUTPUT_DATA_DIR", format!("{work}/out"));
    if around.bundle.deterministic {
        all.extend(pinned(around.interpreter));
    }
    all
}

/// What the script of one round gets.
pub(super) fn of_run(spec: &RunSpec, around: &Surroundings<'_>) -> Environment {
    let mut all = base(around, spec.mode);
    let channel = spec.mode.channel();
    let data = format!("{}/in/data/{channel}", text(around.work_dir));
    let mut set = |name: &str, value: String| all.insert(name.to_owned(), value);
    set(&format!("ATLAS_CHANNEL_{}", channel.to_uppercase()), data.clone());
    set(&format!("SM_CHANNEL_{}", channel.to_uppercase()), data);
    set("SM_HPS", spec.config.clone());
    set("ATLAS_TASK_ID", spec.task.to_string());
    set("ATLAS_ROUND", spec.round.to_string());
    set("ATLAS_ATTEMPT", spec.attempt.to_string());
    set("ATLAS_SEED", spec.seed.to_string());
    set("ATLAS_START_STEP", around.resume.map_or(0, |(step, _)| step).to_string());
    set("ATLAS_STOP_STEP", spec.stop_step.to_string());
    set("ATLAS_CHECKPOINT_EVERY", spec.checkpoint_every.to_string());
    set("ATLAS_SESSION", u8::from(spec.session).to_string());
    if let Some((_, path)) = around.resume {
        set("ATLAS_RESUME_FROM", text(path));
    }
    all
}

/// One thread and one instruction set everywhere: each of the two changes the bits.
fn pinned(interpreter: &Interpreter) -> Environment {
    let fixed = [
        ("OMP_NUM_THREADS", "1"),
        ("MKL_NUM_THREADS", "1"),
        ("OPENBLAS_NUM_THREADS", "1"),
        ("OPENBLAS_CORETYPE", "Haswell"),
        ("ATEN_CPU_CAPABILITY", "avx2"),
        ("ONEDNN_MAX_CPU_ISA", "AVX2"),
        ("MKL_CBWR", "COMPATIBLE"),
        ("MKL_DYNAMIC", "FALSE"),
        ("OMP_DYNAMIC", "FALSE"),
        ("PYTHONHASHSEED", "0"),
        ("CUBLAS_WORKSPACE_CONFIG", ":4096:8"),
        ("NPY_DISABLE_CPU_FEATURES", interpreter.disabled_features.as_str()),
    ];
    // numpy reads an empty list as a feature without a name, and warns.
    let said = fixed.into_iter().filter(|(_, value)| !value.is_empty());
    said.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

/// Our own directories are UTF-8; the supervisor checks it when it starts.
pub(super) fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

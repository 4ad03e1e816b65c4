//! GPUs by NVML, NVIDIA's management library.
//!
//! It is asked in a thread of its own: a driver can hang for ever (and has, see pitfalls), and then the thread is left
//! behind, the node goes on without GPUs and says so. No library is no error: most machines have none.
//!
//! Tried against libraries that are absent, hang and answer; real hardware was not tried yet.

use std::{ffi::OsString, path::Path, sync::mpsc, thread, time::Duration};

use nvml_wrapper::{Nvml, error::NvmlError};

/// The library's name; the loader looks for it.
pub(super) const LIBRARY: &str = "libnvidia-ml.so.1";
/// How long the driver may take. A cold one without persistence mode takes about two seconds a GPU.
pub(super) const TIMEOUT: Duration = Duration::from_secs(10);
/// GPUs looked at; no machine has more, and a driver that says so is wrong.
const MAX_GPUS: u32 = 64;

/// One GPU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gpu {
    /// Its index, as in `CUDA_VISIBLE_DEVICES`.
    pub index: u32,
    /// Its product name, as the driver says it; empty if it does not.
    pub name: String,
    /// Its UUID, as the driver says it; empty if it does not.
    pub uuid: String,
    /// Bytes of its memory; 0 if the driver does not say.
    pub memory_bytes: u64,
}

/// What asking for GPUs came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Found {
    Gpus(Vec<Gpu>),
    /// There is no library; not worth a warning.
    NoLibrary,
    /// There is a library, but no answer that can be used.
    Unusable(String),
}

/// Asks the library at `path`, for `timeout` at most.
pub(super) fn find(path: &Path, timeout: Duration) -> Found {
    let (sender, receiver) = mpsc::channel();
    let path: OsString = path.into();
    let asked = thread::Builder::new().name("gpu-detection".into()).spawn(move || {
        // A failure means that nobody waits any more.
        let _ = sender.send(ask(&path));
    });
    if let Err(error) = asked {
        return Found::Unusable(format!("no thread could be started to ask the GPU driver: {error}"));
    }
    match receiver.recv_timeout(timeout) {
        Ok(found) => found,
        Err(mpsc::RecvTimeoutError::Timeout) => Found::Unusable(format!(
            "the GPU driver did not answer within {timeout:?}; the node goes on without GPUs (try `nvidia-smi`)"
        )),
        Err(mpsc::RecvTimeoutError::Disconnected) => {
            Found::Unusable("asking the GPU driver failed in an unexpected way; the node goes on without GPUs".into())
        }
    }
}

fn ask(path: &OsString) -> Found {
    let library = match Nvml::builder().lib_path(path).init() {
        Ok(library) => library,
        // The loader (dlopen(3)) tells its reasons apart by text alone.
        Err(NvmlError::LibloadingError(error)) if format!("{error:?}").contains("No such file") => {
            return Found::NoLibrary;
        }
        Err(NvmlError::LibloadingError(error)) => {
            return Found::Unusable(format!("the GPU driver's library can't be loaded: {error}"));
        }
        Err(error) => return Found::Unusable(format!("the GPU driver can't be used: {error}")),
    };
    match library.device_count() {
        Ok(count) => Found::Gpus((0..count.min(MAX_GPUS)).filter_map(|index| look_at(&library, index)).collect()),
        Err(error) => Found::Unusable(format!("the GPU driver does not say how many GPUs there are: {error}")),
    }
}

/// One that the driver lists but does not give out (lost from the bus, no permission) can't be lent.
fn look_at(library: &Nvml, index: u32) -> Option<Gpu> {
    let device = library.device_by_index(index).ok()?;
    Some(Gpu {
        index,
        name: device.name().unwrap_or_default(),
        uuid: device.uuid().unwrap_or_default(),
        memory_bytes: device.memory_info().map_or(0, |memory| memory.total),
    })
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    /// Compiles a shared object from C; `None`, with the reason printed, where there is no compiler.
    fn library(directory: &Path, source: &str) -> Option<std::path::PathBuf> {
        let (input, output) = (directory.join("nvml.c"), directory.join("libnvml.so"));
        std::fs::write(&input, source).unwrap();
        match Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&output).arg(&input).status() {
            Ok(status) => {
                assert!(status.success(), "the stand-in for NVML does not compile");
                Some(output)
            }
            Err(error) => {
                println!("skipped: no C compiler to make a stand-in for NVML with ({error})");
                None
            }
        }
    }

    #[test]
    fn an_absent_library_is_no_error() {
        assert_eq!(find(Path::new("/nonexistent/libnvidia-ml.so"), TIMEOUT), Found::NoLibrary);
    }

    #[test]
    fn a_file_that_is_no_library_is_named() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let Found::Unusable(reason) = find(file.path(), TIMEOUT) else { panic!("an empty file is no library") };
        assert!(reason.contains("can't be loaded"), "{reason}");
    }

    #[test]
    fn a_library_that_hangs_is_given_up_on_and_named() {
        let directory = tempfile::tempdir().unwrap();
        let source = "#include <unistd.h>\nint nvmlInit_v2(void) { for (;;) pause(); }";
        let Some(path) = library(directory.path(), source) else { return };
        let Found::Unusable(reason) = find(&path, Duration::from_millis(200)) else { panic!("it can't have answered") };
        assert!(reason.contains("did not answer"), "{reason}");
    }

    #[test]
    fn a_library_that_fails_is_named_with_its_reason() {
        let directory = tempfile::tempdir().unwrap();
        let Some(path) = library(directory.path(), "int nvmlInit_v2(void) { return 9; }") else { return };
        let Found::Unusable(reason) = find(&path, TIMEOUT) else { panic!("a failed start is no answer") };
        assert!(reason.contains("can't be used"), "{reason}");
    }

    #[test]
    fn a_library_that_answers_is_believed() {
        let directory = tempfile::tempdir().unwrap();
        // The second of two devices is lost: it is listed but can't be lent.
        let source = r#"
            #include <string.h>
            typedef struct { unsigned version; unsigned long long total, reserved, free, used; } memory;
            int nvmlInit_v2(void) { return 0; }
            int nvmlShutdown(void) { return 0; }
            int nvmlDeviceGetCount_v2(unsigned *count) { *count = 2; return 0; }
            int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **device) {
                *device = (void *)1; return index == 0 ? 0 : 15;
            }
            int nvmlDeviceGetName(void *device, char *name, unsigned length) { strcpy(name, "Stand-in"); return 0; }
            int nvmlDeviceGetUUID(void *device, char *uuid, unsigned length) { strcpy(uuid, "GPU-1"); return 0; }
            int nvmlDeviceGetMemoryInfo_v2(void *device, memory *info) { info->total = 24000000000ULL; return 0; }
        "#;
        let Some(path) = library(directory.path(), source) else { return };
        let gpu = Gpu { index: 0, name: "Stand-in".into(), uuid: "GPU-1".into(), memory_bytes: 24_000_000_000 };
        assert_eq!(find(&path, TIMEOUT), Found::Gpus(vec![gpu]));
    }
}

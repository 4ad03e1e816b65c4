//! What this process may use of the machine. Reads files and asks the kernel: run it off the event loop.

use std::{
    fmt, io,
    path::{Path, PathBuf},
    time::Duration,
};

use sysinfo::{MemoryRefreshKind, RefreshKind, System};

use super::{
    Caps, Gpu,
    cgroup::{self, Groups},
    gpu,
};
use crate::types::Resources;

/// Where to look. The default is this machine; tests look elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    /// The process's control groups (cgroups(7)).
    pub membership: PathBuf,
    /// Where the control group hierarchies are mounted.
    pub cgroup_root: PathBuf,
    /// NVIDIA's management library; a bare name is looked for by the loader.
    pub nvml_library: PathBuf,
    /// How long the GPU driver may take to answer.
    pub gpu_timeout: Duration,
}

impl Default for Machine {
    fn default() -> Self {
        Self {
            membership: "/proc/self/cgroup".into(),
            cgroup_root: "/sys/fs/cgroup".into(),
            nvml_library: gpu::LIBRARY.into(),
            gpu_timeout: gpu::TIMEOUT,
        }
    }
}

/// What decided an amount: the smallest of several.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// The machine has no more.
    Machine,
    /// The CPUs that the process may run on (sched_setaffinity(2), cpusets).
    Affinity,
    /// A control group of version 1.
    CgroupV1,
    /// A control group of version 2.
    CgroupV2,
    /// The operator lends no more.
    Operator,
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Machine => "machine",
            Self::Affinity => "affinity",
            Self::CgroupV1 => "cgroup v1",
            Self::CgroupV2 => "cgroup v2",
            Self::Operator => "operator",
        })
    }
}

/// Which limit won, for each resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sources {
    /// Of CPU.
    pub cpu: Limit,
    /// Of memory.
    pub memory: Limit,
    /// Of storage.
    pub storage: Limit,
    /// Of GPUs.
    pub gpu: Limit,
}

/// What this node can lend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Detected {
    /// How much.
    pub resources: Resources,
    /// The GPUs behind `resources.gpu_count`.
    pub gpus: Vec<Gpu>,
    /// What decided each amount.
    pub sources: Sources,
    /// What an operator should know: a driver that hangs, a cap beyond what there is.
    pub warnings: Vec<String>,
}

/// The machine could not be looked at.
#[derive(Debug, thiserror::Error)]
pub enum DetectError {
    /// The CPUs of this process are not known.
    #[error("the kernel does not say on which CPUs this process may run")]
    Affinity(#[source] io::Error),
    /// The machine's memory is not known.
    #[error("the size of the memory can't be read; is /proc mounted? Set `resources.memory_gb` once it is")]
    Memory,
    /// The data directory's disk is not known.
    #[error("the free space of `{path}` can't be read; check `--data-dir`")]
    Storage {
        /// The data directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Looks at the machine (origin: `detect_resources`). Takes as long as the GPU driver, at most `machine.gpu_timeout`.
///
/// Storage is what is free on the disk of `data_directory`, which must exist.
pub fn detect(machine: &Machine, data_directory: &Path, caps: &Caps) -> Result<Detected, DetectError> {
    let groups = Groups::read(&machine.membership, &machine.cgroup_root);
    let cpu = Amount::new(cpus()?, Limit::Affinity).within(groups.cpu_millicores());
    let memory = Amount::new(memory()?, Limit::Machine).within(groups.memory_bytes());
    let storage = Amount::new(storage(data_directory)?, Limit::Machine);
    let mut warnings = Vec::new();
    let cpu = cpu.capped("cpu_cores", caps.cpu_millicores, &mut warnings);
    let memory = memory.capped("memory_gb", caps.memory_bytes, &mut warnings);
    let storage = storage.capped("storage_gb", caps.storage_bytes, &mut warnings);
    let (gpus, gpu) = gpus(machine, caps, &mut warnings);
    Ok(Detected {
        resources: Resources {
            cpu_millicores: cpu.amount,
            memory_bytes: memory.amount,
            storage_bytes: storage.amount,
            gpu_count: u32::try_from(gpus.len()).unwrap_or(u32::MAX),
        },
        gpus,
        sources: Sources { cpu: cpu.limit, memory: memory.limit, storage: storage.limit, gpu },
        warnings,
    })
}

/// An amount and what made it so small.
#[derive(Clone, Copy)]
struct Amount {
    amount: u64,
    limit: Limit,
}

impl Amount {
    fn new(amount: u64, limit: Limit) -> Self {
        Self { amount, limit }
    }

    fn within(self, group: Option<cgroup::Found>) -> Self {
        let Some(group) = group.filter(|group| group.amount < self.amount) else {
            return self;
        };
        Self { amount: group.amount, limit: if group.version == 1 { Limit::CgroupV1 } else { Limit::CgroupV2 } }
    }

    fn capped(self, key: &str, cap: Option<u64>, warnings: &mut Vec<String>) -> Self {
        let Some(cap) = cap else {
            return self;
        };
        if cap > self.amount {
            warnings.push(format!(
                "`resources.{key}` allows more than there is; what there is (by {}) is lent instead",
                self.limit
            ));
            return self;
        }
        Self { amount: cap, limit: Limit::Operator }
    }
}

/// Thousandths of a core on which this process may run.
fn cpus() -> Result<u64, DetectError> {
    let cpus = rustix::thread::sched_getaffinity(None).map_err(|error| DetectError::Affinity(error.into()))?;
    Ok(u64::from(cpus.count()) * 1_000)
}

fn memory() -> Result<u64, DetectError> {
    let wanted = RefreshKind::nothing().with_memory(MemoryRefreshKind::nothing().with_ram());
    let bytes = System::new_with_specifics(wanted).map_err(|_| DetectError::Memory)?.total_memory();
    if bytes == 0 { Err(DetectError::Memory) } else { Ok(bytes) }
}

/// Bytes that a process without privileges may still write there.
fn storage(path: &Path) -> Result<u64, DetectError> {
    let disk = rustix::fs::statvfs(path)
        .map_err(|error| DetectError::Storage { path: path.to_owned(), source: error.into() })?;
    Ok(disk.f_bavail.saturating_mul(disk.f_frsize))
}

fn gpus(machine: &Machine, caps: &Caps, warnings: &mut Vec<String>) -> (Vec<Gpu>, Limit) {
    if !caps.gpu_enabled {
        return (Vec::new(), Limit::Operator);
    }
    match gpu::find(&machine.nvml_library, machine.gpu_timeout) {
        gpu::Found::Gpus(gpus) => (gpus, Limit::Machine),
        gpu::Found::NoLibrary => (Vec::new(), Limit::Machine),
        gpu::Found::Unusable(reason) => {
            warnings.push(reason);
            (Vec::new(), Limit::Machine)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A machine with control groups of version 2 as given, and no GPU.
    fn machine(directory: &Path, files: &[(&str, &str)]) -> Machine {
        std::fs::write(directory.join("membership"), "0::/node\n").unwrap();
        std::fs::create_dir_all(directory.join("cgroup/node")).unwrap();
        for (name, text) in files {
            std::fs::write(directory.join("cgroup/node").join(name), text).unwrap();
        }
        Machine {
            membership: directory.join("membership"),
            cgroup_root: directory.join("cgroup"),
            nvml_library: "/nonexistent".into(),
            ..Machine::default()
        }
    }

    #[test]
    fn this_machine_has_something_to_lend() {
        let directory = tempfile::tempdir().unwrap();
        let here = Machine { nvml_library: "/nonexistent".into(), ..Machine::default() };
        let found = detect(&here, directory.path(), &Caps::default()).unwrap();
        assert!(found.resources.cpu_millicores > 0 && found.resources.memory_bytes > 0, "{found:?}");
        assert!(found.resources.storage_bytes > 0, "{found:?}");
        assert_eq!(found.warnings, Vec::<String>::new());
    }

    #[test]
    fn a_control_group_wins_over_the_machine_and_the_operator_over_both() {
        let directory = tempfile::tempdir().unwrap();
        let machine = machine(directory.path(), &[("cpu.max", "25000 100000"), ("memory.max", "64000000")]);
        let found = detect(&machine, directory.path(), &Caps::default()).unwrap();
        assert_eq!((found.resources.cpu_millicores, found.resources.memory_bytes), (250, 64_000_000));
        assert_eq!((found.sources.cpu, found.sources.memory), (Limit::CgroupV2, Limit::CgroupV2));

        let caps = Caps::from_units(Some(0.1), Some(1e5), Some(0.000_001), true).unwrap();
        let found = detect(&machine, directory.path(), &caps).unwrap();
        assert_eq!((found.resources.cpu_millicores, found.sources.cpu), (100, Limit::Operator));
        assert_eq!((found.resources.memory_bytes, found.sources.memory), (64_000_000, Limit::CgroupV2));
        assert_eq!((found.resources.storage_bytes, found.sources.storage), (1_000, Limit::Operator));
        assert_eq!(found.warnings.len(), 1, "a cap beyond what there is is said: {:?}", found.warnings);
    }

    #[test]
    fn a_missing_data_directory_names_the_flag() {
        let error =
            detect(&Machine::default(), Path::new("/nonexistent"), &Caps { gpu_enabled: false, ..Caps::default() })
                .unwrap_err();
        assert!(error.to_string().contains("--data-dir"), "{error}");
    }
}

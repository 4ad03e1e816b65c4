//! Third stage: takes away what the script does not need, then becomes the script.

use std::{convert::Infallible, fs, os::unix::process::CommandExt, path::Path, process::Command};

use landlock::{
    ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, RestrictionStatus, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetError, Scope, path_beneath_rules,
};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use rustix::thread::{
    CapabilitySet, CapabilitySets, remove_capability_from_bounding_set, set_capabilities, set_no_new_privs,
};

use super::{Error, Limits, Spec};

/// The newest Landlock that is asked for; an older kernel gives what it has.
const LANDLOCK: ABI = ABI::V6;
/// What every program needs to read: the loader, libraries, time zones, certificates, its own `/proc`.
const SYSTEM: [&str; 11] = [
    "/usr",
    "/lib",
    "/lib64",
    "/bin",
    "/etc/ld.so.cache",
    "/etc/localtime",
    "/etc/ssl",
    "/proc",
    "/sys/devices/system/cpu",
    "/dev/urandom",
    "/dev/random",
];
/// Devices that may be written.
const DEVICES: [&str; 3] = ["/dev/null", "/dev/zero", "/dev/full"];

/// Confines this process, and turns it into the script.
pub(super) fn run(spec: &Spec) -> Result<u8, Error> {
    // `init` is single-minded but may be killed by the host; without a PID namespace nothing else would tell the script.
    let _ = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL));
    limit(&spec.limits)?;
    drop_capabilities();
    // Both are best effort: `protections` says what a host lacks.
    let _ = set_no_new_privs(true);
    let _ = restrict_files(spec);
    become_script(spec).map(|never| match never {})
}

fn become_script(spec: &Spec) -> Result<Infallible, Error> {
    let mut command = Command::new(&spec.program);
    command.args(&spec.arguments).env_clear().envs(&spec.environment).current_dir(&spec.directory);
    Err(Error::Program(spec.program.clone(), command.exec()))
}

fn limit(limits: &Limits) -> Result<(), Error> {
    // Outside a user namespace of its own the limit counts all that the operator runs, and the script could start nothing.
    let processes = if in_own_user_namespace() { limits.processes } else { 0 };
    let wanted = [
        ("address space", Resource::RLIMIT_AS, limits.address_space),
        ("file size", Resource::RLIMIT_FSIZE, limits.file_size),
        ("open files", Resource::RLIMIT_NOFILE, limits.open_files),
        ("processes", Resource::RLIMIT_NPROC, processes),
    ];
    for (name, resource, value) in wanted.into_iter().filter(|(_, _, value)| *value > 0) {
        lower(resource, value).map_err(|error| Error::Limit(name, error.into()))?;
    }
    // A core file of a model is large and of no use to anyone.
    lower(Resource::RLIMIT_CORE, 0).map_err(|error| Error::Limit("core file", error.into()))
}

/// Never raises: a host that allows less has its reason.
fn lower(resource: Resource, value: u64) -> nix::Result<()> {
    let (_, hard) = getrlimit(resource)?;
    let value = value.min(hard);
    setrlimit(resource, value, value)
}

/// The bounding set goes too, or `exec` as root would bring them all back.
pub(super) fn drop_capabilities() -> bool {
    for capability in CapabilitySet::all().iter() {
        let _ = remove_capability_from_bounding_set(capability);
    }
    let none = CapabilitySet::empty();
    set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none }).is_ok()
}

/// Files by path, TCP not at all, no signals to and no abstract sockets of processes outside.
fn restrict_files(spec: &Spec) -> Result<RestrictionStatus, RulesetError> {
    let readable = SYSTEM.iter().map(Path::new).chain(spec.readable.iter().map(AsRef::as_ref));
    let writable = DEVICES.iter().map(Path::new).chain(spec.writable.iter().map(AsRef::as_ref));
    restrict(readable, writable)
}

/// Landlock with these paths; those that don't exist are left out.
pub(super) fn restrict<'a>(
    readable: impl Iterator<Item = &'a Path>,
    writable: impl Iterator<Item = &'a Path>,
) -> Result<RestrictionStatus, RulesetError> {
    Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(LANDLOCK))?
        .handle_access(AccessNet::from_all(LANDLOCK))?
        .scope(Scope::from_all(LANDLOCK))?
        .create()?
        .add_rules(path_beneath_rules(readable, AccessFs::from_read(LANDLOCK)))?
        .add_rules(path_beneath_rules(writable, AccessFs::from_all(LANDLOCK)))?
        .restrict_self()
}

/// Whether this is a namespace that `isolate` made: it maps one user. The host's own maps all 2^32.
fn in_own_user_namespace() -> bool {
    let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    map.split_whitespace().nth(2) == Some("1")
}

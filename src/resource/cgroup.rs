//! The limits of this process's control groups, version 1 and 2.
//!
//! A limit binds all below it, so the smallest on the way from the process's group up to the root counts.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// A limit and the version of the hierarchy that it stands in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Found {
    pub(super) amount: u64,
    pub(super) version: u8,
}

/// The files of `/proc/self/cgroup` and `/sys/fs/cgroup` are a few hundred bytes; more is not what we think it is.
const MAX_FILE: u64 = 64 * 1024;

/// The hierarchies that this process is in.
#[derive(Clone, Debug)]
pub(super) struct Groups {
    root: PathBuf,
    /// From `/proc/self/cgroup`: controllers (empty for version 2) and path.
    memberships: Vec<(Vec<String>, String)>,
}

impl Groups {
    /// Reads `membership` (`/proc/self/cgroup`, see cgroups(7)); `root` is where the hierarchies are mounted. A
    /// host without control groups has no limits.
    pub(super) fn read(membership: &Path, root: &Path) -> Self {
        let text = read_text(membership).unwrap_or_default();
        let memberships = text
            .lines()
            .filter_map(|line| {
                let mut fields = line.splitn(3, ':').skip(1);
                let (controllers, path) = (fields.next()?, fields.next()?);
                let controllers = controllers.split(',').filter(|name| !name.is_empty()).map(String::from).collect();
                Some((controllers, path.to_owned()))
            })
            .collect();
        Self { root: root.to_owned(), memberships }
    }

    /// Thousandths of a core that the quota allows.
    pub(super) fn cpu_millicores(&self) -> Option<Found> {
        let v2 = self.smallest("", &|group| {
            let text = read_text(&group.join("cpu.max"))?;
            let (quota, period) = text.trim().split_once(' ')?;
            millicores(quota.parse().ok()?, period.parse().ok()?)
        });
        let v1 = self.smallest("cpu", &|group| {
            let quota = read_number(&group.join("cpu.cfs_quota_us"))?;
            millicores(quota, read_number(&group.join("cpu.cfs_period_us"))?)
        });
        smaller(v2, v1)
    }

    /// Bytes of memory that are allowed.
    pub(super) fn memory_bytes(&self) -> Option<Found> {
        // Version 1 says "no limit" with a number near 2⁶³: the machine's own size is smaller then.
        let v2 = self.smallest("", &|group| read_number(&group.join("memory.max")));
        let v1 = self.smallest("memory", &|group| read_number(&group.join("memory.limit_in_bytes")));
        smaller(v2, v1)
    }

    /// The smallest limit from the process's group up to the root of the hierarchy of `controller` (empty for
    /// version 2).
    fn smallest(&self, controller: &str, limit: &dyn Fn(&Path) -> Option<u64>) -> Option<u64> {
        let (controllers, path) = self.memberships.iter().find(|(controllers, _)| {
            if controller.is_empty() {
                controllers.is_empty()
            } else {
                controllers.iter().any(|name| name == controller)
            }
        })?;
        let mount = self.mount(controllers)?;
        // In a container the path may be the host's and not exist below the mount: then the mount is our group.
        let group = Path::new(path.trim_start_matches('/'));
        let climbable = group.components().all(|part| matches!(part, std::path::Component::Normal(_)));
        let group = if climbable { group } else { Path::new("") };
        group.ancestors().filter_map(|ancestor| limit(&mount.join(ancestor))).min()
    }

    /// Where a hierarchy is mounted, by the names that systemd and container runtimes use.
    fn mount(&self, controllers: &[String]) -> Option<PathBuf> {
        let names = if controllers.is_empty() {
            // `unified` beside version 1 (hybrid), else the root itself.
            vec!["unified".to_owned(), String::new()]
        } else {
            [controllers.join(",")].into_iter().chain(controllers.iter().cloned()).collect()
        };
        names.iter().map(|name| self.root.join(name)).find(|mount| mount.is_dir())
    }
}

fn smaller(v2: Option<u64>, v1: Option<u64>) -> Option<Found> {
    let found = |version| move |amount| Found { amount, version };
    v2.map(found(2)).into_iter().chain(v1.map(found(1))).min()
}

/// A quota of less than a thousandth of a core is still one.
fn millicores(quota: u64, period: u64) -> Option<u64> {
    quota.saturating_mul(1_000).checked_div(period).map(|millicores| millicores.max(1))
}

/// `None` for no file, no number, and the words for no limit (`max`, `-1`).
fn read_number(path: &Path) -> Option<u64> {
    read_text(path)?.trim().parse().ok()
}

fn read_text(path: &Path) -> Option<String> {
    use std::io::Read;
    let mut text = String::new();
    fs::File::open(path).ok()?.take(MAX_FILE).read_to_string(&mut text).ok()?;
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Host(tempfile::TempDir);

    impl Host {
        fn new(membership: &str, files: &[(&str, &str)]) -> Self {
            let host = Self(tempfile::tempdir().unwrap());
            fs::write(host.0.path().join("membership"), membership).unwrap();
            for (path, text) in files {
                let path = host.0.path().join("cgroup").join(path);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, text).unwrap();
            }
            host
        }

        fn groups(&self) -> Groups {
            Groups::read(&self.0.path().join("membership"), &self.0.path().join("cgroup"))
        }
    }

    #[test]
    fn version_2_takes_the_smallest_limit_on_the_way_up() {
        let host = Host::new(
            "0::/user.slice/node\n",
            &[
                ("cgroup.controllers", "cpu memory\n"),
                ("user.slice/cpu.max", "150000 100000\n"),
                ("user.slice/memory.max", "max\n"),
                ("user.slice/node/cpu.max", "max 100000\n"),
                ("user.slice/node/memory.max", "536870912\n"),
            ],
        );
        assert_eq!(host.groups().cpu_millicores(), Some(Found { amount: 1_500, version: 2 }));
        assert_eq!(host.groups().memory_bytes(), Some(Found { amount: 536_870_912, version: 2 }));
    }

    #[test]
    fn version_1_is_found_under_joined_and_single_names() {
        let host = Host::new(
            "5:memory:/docker/1\n4:cpu,cpuacct:/docker/1\n1:name=systemd:/x\n",
            &[
                ("cpu,cpuacct/docker/1/cpu.cfs_quota_us", "50000"),
                ("cpu,cpuacct/docker/1/cpu.cfs_period_us", "100000"),
                ("memory/docker/1/memory.limit_in_bytes", "1000000"),
                ("memory/memory.limit_in_bytes", "9223372036854771712"),
            ],
        );
        assert_eq!(host.groups().cpu_millicores(), Some(Found { amount: 500, version: 1 }));
        assert_eq!(host.groups().memory_bytes(), Some(Found { amount: 1_000_000, version: 1 }));
    }

    #[test]
    fn a_path_of_the_host_that_the_container_does_not_have_falls_back_to_the_mount() {
        let host = Host::new(
            "4:memory:/kubepods/pod1/abc\n0::/../outside\n",
            &[("memory/memory.limit_in_bytes", "2000000"), ("unified/cpu.max", "25000 100000")],
        );
        assert_eq!(host.groups().memory_bytes(), Some(Found { amount: 2_000_000, version: 1 }));
        assert_eq!(host.groups().cpu_millicores(), Some(Found { amount: 250, version: 2 }));
    }

    #[test]
    fn no_limit_no_file_and_nonsense_are_no_limit() {
        let host = Host::new(
            "4:cpu:/\n3:memory:/\n0::/\n",
            &[
                ("cpu/cpu.cfs_quota_us", "-1"),
                ("cpu/cpu.cfs_period_us", "100000"),
                ("memory/memory.limit_in_bytes", "lots"),
                ("unified/cpu.max", "100000 0"),
            ],
        );
        assert_eq!(host.groups().cpu_millicores(), None);
        assert_eq!(host.groups().memory_bytes(), None);
        let nowhere = Groups::read(Path::new("/nonexistent"), Path::new("/nonexistent"));
        assert_eq!(nowhere.cpu_millicores(), None);
    }
}

//! A file or directory has the CID that Kubo gives it (profile `unixfs-v1-2025`, IPIP-499), and comes back from either.

use std::{
    fs::{self, File},
    io::Write as _,
    path::{Path, PathBuf},
};

use atlas_node::{shard::archive, store::Files as _, types::ContentId};

use super::{daemon::Kubo, empty_store};
use crate::content::bytes;

/// A chunk of this profile.
const CHUNK: usize = 1 << 20;
/// Children of a branch of this profile.
const WIDTH: usize = 1024;
/// Directories are sharded from this many bytes of names and CIDs on.
const SHARDED_FROM: usize = 256 * 1024;
/// Bytes of a CID, as the threshold counts them.
const CID_BYTES: usize = 36;

fn file(directory: &Path, name: &str, length: usize) -> PathBuf {
    let path = directory.join(name);
    fs::write(&path, bytes(length, length as u64)).unwrap();
    path
}

/// A file of zeros that takes no space.
fn sparse(directory: &Path, name: &str, length: u64) -> PathBuf {
    let path = directory.join(name);
    File::create(&path).unwrap().set_len(length).unwrap();
    path
}

/// A directory of `count` small files with names of `letters` letters.
fn directory(parent: &Path, name: &str, count: usize, letters: usize) -> PathBuf {
    let path = parent.join(name);
    fs::create_dir(&path).unwrap();
    for number in 0..count {
        fs::write(path.join(format!("{number:0letters$}")), number.to_string()).unwrap();
    }
    path
}

fn odd_names(parent: &Path) -> PathBuf {
    let path = parent.join("odd names");
    fs::create_dir_all(path.join("empty directory")).unwrap();
    for name in
        [" ", "-", "a b", "ünï", "日本", "\u{1f980}", "new\nline", "%2e%2e", "...", "CON", "a\\b", "é", "e\u{301}"]
    {
        fs::write(path.join(name), name).unwrap();
    }
    fs::write(path.join("empty"), "").unwrap();
    fs::write(path.join("n".repeat(255)), "long").unwrap();
    path
}

/// What is imported: sizes around each boundary of the format.
fn cases(scratch: &Path) -> Vec<PathBuf> {
    let sizes = [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK + 5];
    let mut cases: Vec<PathBuf> = sizes.iter().map(|size| file(scratch, &format!("file-{size}"), *size)).collect();
    for chunks in [WIDTH, WIDTH + 1, 3 * 1024] {
        cases.push(sparse(scratch, &format!("sparse-{chunks}"), (chunks * CHUNK) as u64));
    }
    cases.extend([0, 1, 10_000].map(|count| directory(scratch, &format!("directory-{count}"), count, 5)));
    // Entries of 100 bytes: one fewer than are sharded, and as many as are.
    let entry = 64 + CID_BYTES;
    let last_basic = SHARDED_FROM / entry;
    cases
        .extend([last_basic, last_basic + 1].map(|count| directory(scratch, &format!("threshold-{count}"), count, 64)));
    cases.push(odd_names(scratch));
    cases
}

#[test]
fn every_file_and_directory_has_the_cid_that_kubo_gives_it_and_comes_back_whole() {
    let scratch = tempfile::tempdir().unwrap();
    let kubo = Kubo::new();
    for case in cases(scratch.path()) {
        let (place, files) = empty_store();
        let ours = files.import_path(&case).unwrap().cid;
        let path = case.to_str().unwrap();
        let theirs = kubo.word(&["add", "--only-hash", "--quieter", "--recursive", "--hidden", path]);
        assert_eq!(ours.to_string(), theirs, "{path}");
        let back = place.path().join("back");
        files.export(&ours, &back).unwrap();
        assert_same(&case, &back);
    }
}

/// The same names with the same bytes.
fn assert_same(one: &Path, other: &Path) {
    if one.is_dir() {
        let names = |path: &Path| {
            let mut names: Vec<_> = fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name()).collect();
            names.sort();
            names
        };
        assert_eq!(names(one), names(other));
        names(one).iter().for_each(|name| assert_same(&one.join(name), &other.join(name)));
    } else {
        let same = std::process::Command::new("cmp").args([one, other]).status().unwrap();
        assert!(same.success(), "{} and {}", one.display(), other.display());
    }
}

#[test]
fn an_archive_goes_from_kubo_to_us_and_from_us_to_kubo() {
    let scratch = tempfile::tempdir().unwrap();
    let kubo = Kubo::new();
    let large = file(scratch.path(), "large", 5 * CHUNK + 7);
    let many = directory(scratch.path(), "many", 4_000, 64);
    for case in [large, many] {
        let path = case.to_str().unwrap();
        let root: ContentId = kubo.word(&["add", "--quieter", "--recursive", path]).parse().unwrap();
        let exported = kubo.run(&["dag", "export", &root.to_string()]);
        let (place, files) = empty_store();
        assert_eq!(archive::import(files.store(), &exported[..]).unwrap(), [root]);
        files.export(&root, &place.path().join("back")).unwrap();
        assert_same(&case, &place.path().join("back"));

        let stranger = Kubo::new();
        let car = place.path().join("out.car");
        let mut out = File::create(&car).unwrap();
        archive::export(files.store(), &root, &mut |piece| out.write_all(&piece)).unwrap();
        stranger.run(&["dag", "import", car.to_str().unwrap()]);
        let back = place.path().join("from kubo");
        stranger.run(&["get", "--output", back.to_str().unwrap(), &root.to_string()]);
        assert_same(&case, &back);
    }
}

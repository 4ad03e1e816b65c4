//! `tests/README.md` names the test behind each kind of bad input; a name without its test is a promise that nobody keeps.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// The column of the tables that names tests.
const SHOWN_BY: &str = "shown by";

#[test]
fn every_test_that_the_readme_names_exists() {
    let tests = tests_of_the_source();
    let named = named(&fs::read_to_string(root().join("tests/README.md")).unwrap());
    assert!(named.len() > 50, "only {} rows were found", named.len());
    let mut missing = Vec::new();
    for (row, names) in &named {
        assert!(!names.is_empty(), "no test is named for `{row}`");
        missing.extend(names.iter().filter(|name| !tests.contains(*name)).map(|name| format!("{row}: {name}")));
    }
    assert!(missing.is_empty(), "tests/README.md names tests that don't exist:\n{}", missing.join("\n"));
}

#[test]
fn the_reader_of_the_readme_finds_names_and_the_reader_of_the_source_finds_tests() {
    let table = "| what | it does | shown by |\n| --- | --- | --- |\n| a `x` | b | `one_test` `two` |\n\n| other | table |\n| c | `no` |\n";
    assert_eq!(named(table), [("a `x`".to_owned(), vec!["one_test".to_owned(), "two".to_owned()])]);
    let tests = tests_in(
        "#[test]\nfn one() {}\n#[tokio::test(flavor = \"multi_thread\")]\n    async fn two() {}\n#[test]\n#[ignore]\nfn three() {}\n\
         fn helper() {}\nproptest! {\n    #[test]\n    fn four(\n        bytes: u8) {}\n}\n/// `#[test]`\nfn five() {}\n",
    );
    assert_eq!(tests, ["one", "two", "three", "four"]);
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The first cell of each row of a table whose last column is [`SHOWN_BY`], and the names in its last.
fn named(text: &str) -> Vec<(String, Vec<String>)> {
    let mut rows = Vec::new();
    let mut inside = false;
    for line in text.lines() {
        let Some(cells) = line.strip_prefix('|').and_then(|line| line.strip_suffix('|')) else {
            inside = false;
            continue;
        };
        let cells: Vec<&str> = cells.split('|').map(str::trim).collect();
        let (Some(first), Some(last)) = (cells.first(), cells.last()) else { continue };
        if *last == SHOWN_BY {
            inside = true;
        } else if inside && !last.starts_with("---") {
            let names = last.split('`').skip(1).step_by(2).map(str::to_owned).collect();
            rows.push(((*first).to_owned(), names));
        }
    }
    rows
}

fn tests_of_the_source() -> BTreeSet<String> {
    let mut files = Vec::new();
    ["src", "tests"].iter().for_each(|folder| collect(&root().join(folder), &mut files));
    files.iter().flat_map(|file| tests_in(&fs::read_to_string(file).unwrap())).collect()
}

fn collect(directory: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

/// The functions behind a test attribute.
fn tests_in(source: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut marked = false;
    for line in source.lines().map(str::trim) {
        let function = line.strip_prefix("async ").unwrap_or(line).strip_prefix("fn ");
        if line.starts_with("#[test]") || line.starts_with("#[tokio::test") {
            marked = true;
        } else if let Some(rest) = function {
            if std::mem::take(&mut marked) {
                found.extend(rest.split(['(', '<']).next().map(str::to_owned));
            }
        } else if !line.starts_with('#') {
            marked = false;
        }
    }
    found
}

//! Finds out what an interpreter is: where it lives, so that a script may read that and nothing else, and which CPU
//! features numpy would pick by itself, so that it does not.

use std::{
    collections::BTreeSet,
    io,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use serde::Deserialize;

use super::{bundle::Bundle, work_dir::WorkDir};

/// Prints what is asked, as one line of JSON. `-I` keeps the environment and the current directory out.
const QUESTION: &str = r"
import json, os, sys
features, libraries = [], []
try:
    import numpy
    from numpy._core._multiarray_umath import __cpu_dispatch__ as features
    blas = numpy.show_config(mode='dicts')['Build Dependencies']['blas']
    libraries = ['numpy ' + numpy.__version__, blas['name'] + ' ' + blas['version']]
except (ImportError, KeyError):
    pass
paths = [p for p in sys.path if os.path.isabs(p) and os.path.exists(p)]
print(json.dumps({
    'executable': sys.executable,
    'version': sys.version.split()[0],
    'roots': [sys.prefix, sys.base_prefix, sys.exec_prefix, os.path.dirname(os.path.realpath(sys.executable))] + paths,
    'features': list(features),
    'libraries': libraries,
}))
";

/// An interpreter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Interpreter {
    /// Its absolute path; not a shim and not a link out of a virtual environment.
    pub(super) executable: PathBuf,
    /// Its version.
    pub(super) version: String,
    /// Builds of libraries on which the bits of a result depend.
    pub(super) libraries: Vec<String>,
    /// Directories that it must be able to read.
    pub(super) roots: BTreeSet<PathBuf>,
    /// The value of `NPY_DISABLE_CPU_FEATURES`: numpy's AVX-512 groups. Without it `np.exp` differs between machines.
    pub(super) disabled_features: String,
    /// Packages that a bundle brings.
    pub(super) site_packages: Option<PathBuf>,
}

#[derive(Deserialize)]
struct Answer {
    executable: PathBuf,
    version: String,
    roots: Vec<PathBuf>,
    features: Vec<String>,
    libraries: Vec<String>,
}

impl Interpreter {
    /// Asks the interpreter at `path`, or, if `python3` is not to be found, `python`. Blocks for about 0.2 s.
    ///
    /// # Errors
    /// If it can't be run or does not answer.
    pub(super) fn detect(path: &Path) -> io::Result<Self> {
        match Self::ask(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && path == Path::new("python3") => {
                Self::ask(Path::new("python")).map_err(|_| error)
            }
            result => result,
        }
    }

    /// What runs a bundle that lies in `work`: this interpreter, or the bundle's own, with the packages that it brings. A
    /// bundle's interpreter is a stranger's program: it is asked nothing here, and runs in the sandbox alone.
    ///
    /// # Errors
    /// If the bundle's interpreter can't be made executable.
    pub(super) fn of_bundle(&self, bundle: &Bundle, work: &WorkDir) -> io::Result<Self> {
        let mut own = self.clone();
        if let Some(name) = &bundle.python.interpreter {
            own.executable = work.make_executable(name)?;
            own.version = String::new();
        }
        own.site_packages = bundle.python.site_packages.as_ref().map(|name| work.bundle().join(name));
        Ok(own)
    }

    fn ask(path: &Path) -> io::Result<Self> {
        let output = Command::new(path).args(["-I", "-B", "-c", QUESTION]).stdin(Stdio::null()).output()?;
        let refuse = |why: String| io::Error::other(format!("`{}` is no usable Python: {why}", path.display()));
        if !output.status.success() {
            return Err(refuse(String::from_utf8_lossy(&output.stderr).trim().to_owned()));
        }
        let answer: Answer = serde_json::from_slice(&output.stdout).map_err(|error| refuse(error.to_string()))?;
        let avx512 = |feature: &&String| feature.contains("AVX512") || *feature == "X86_V4";
        let disabled: Vec<_> = answer.features.iter().filter(avx512).cloned().collect();
        Ok(Self {
            executable: answer.executable,
            version: answer.version,
            libraries: answer.libraries,
            roots: answer.roots.into_iter().filter(|root| root.as_path() != Path::new("/")).collect(),
            disabled_features: disabled.join(" "),
            site_packages: None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interpreter_says_where_it_lives() {
        let python = Interpreter::detect(Path::new("python3")).unwrap();
        assert!(python.executable.is_absolute());
        assert!(python.roots.iter().any(|root| python.executable.starts_with(root)));
        assert!(Interpreter::detect(Path::new("/nowhere/python3")).is_err());
    }
}

//! Compiles the kernels in this folder to fat binaries, which `src/cuda` embeds. A part of the build script.
//!
//! `QM_CUDA` says what happens where there is no compiler for them: `auto` (the default) builds a library for processors
//! only, `on` fails, and `off` never looks for one. `QM_CUDA_ARCHS` names the architectures, such as `80,90a`.

use std::collections::hash_map::DefaultHasher;
use std::env;
use std::fmt::Write as _;
use std::fs;
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Mutex;

/// Every generation since Ampere. Code for one runs on later members of its generation, code for 9.0a on 9.0 only.
const ARCHITECTURES: &str = "80,86,89,90a,100,120";

/// The first CUDA version that compiles for all of these.
const OLDEST: (u32, u32) = (12, 8);

type Result<T> = std::result::Result<T, String>;

/// The compiler, its version, and all that it says of itself.
struct Nvcc {
    program: PathBuf,
    version: (u32, u32),
    identity: String,
}

pub fn build() -> Result<()> {
    println!("cargo::rerun-if-changed=kernels");
    for name in ["QM_CUDA", "QM_CUDA_ARCHS", "QM_CUDA_NVCC", "CUDA_HOME", "CUDA_PATH"] {
        println!("cargo::rerun-if-env-changed={name}");
    }
    let wish = env::var("QM_CUDA").unwrap_or_else(|_| "auto".into()).to_ascii_lowercase();
    let found = match wish.as_str() {
        "off" => Ok(None),
        "auto" | "on" | "" => Nvcc::find(),
        other => return Err(format!("QM_CUDA is {other:?}, expected auto, on or off")),
    };
    let folder = PathBuf::from(env::var_os("OUT_DIR").ok_or("no OUT_DIR")?).join("kernels");
    fs::create_dir_all(&folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    let nvcc = match found {
        Ok(Some(nvcc)) => nvcc,
        Ok(None) if wish == "on" => return Err(format!("QM_CUDA is on, and {}", Nvcc::MISSING)),
        Err(unfit) if wish == "on" => return Err(format!("QM_CUDA is on, and {unfit}")),
        Ok(None) => return embed(&folder, &[], None, &[]),
        Err(unfit) => {
            println!("cargo::warning=the library is built without CUDA: {unfit}");
            return embed(&folder, &[], None, &[]);
        }
    };
    println!("cargo::rerun-if-changed={}", nvcc.program.display());
    // Where a compiler's own headers lie beside it, they change with the sources: see tests/emulator.
    let headers = nvcc.program.with_file_name("include");
    if headers.is_dir() {
        println!("cargo::rerun-if-changed={}", headers.display());
    }
    let wished = env::var("QM_CUDA_ARCHS").unwrap_or_default();
    let wished = if wished.trim().is_empty() { ARCHITECTURES } else { wished.as_str() };
    let architectures: Vec<&str> = wished.split([',', ';', ' ']).filter(|name| !name.is_empty()).collect();
    let sources = sources(Path::new("kernels"), "cu")?;
    // A folder for each compiler, so that builds with one and the other keep what they have.
    let mut program = DefaultHasher::new();
    nvcc.program.hash(&mut program);
    let images = folder.join(program.finish().to_string());
    fs::create_dir_all(&images).map_err(|e| format!("{}: {e}", images.display()))?;
    let fat_binary = |source: &PathBuf| (name(source), images.join(name(source) + ".fatbin"));
    compile_all(&nvcc, &architectures, &sources, &images)?;
    let images: Vec<_> = sources.iter().map(fat_binary).collect();
    embed(&folder, &images, Some(nvcc.version), &architectures)
}

impl Nvcc {
    const MISSING: &str =
        "no nvcc was found: by QM_CUDA_NVCC, in CUDA_HOME, on the path, or in target/tools/cuda, which tests/run fills";

    /// The compiler that `QM_CUDA_NVCC` names, of the toolkit at `CUDA_HOME` or `CUDA_PATH`, of the path, or of
    /// `target/tools/cuda`, where `tests/run` puts one: the first that is new enough, an error where none of them is, and
    /// nothing where there is none.
    fn find() -> Result<Option<Self>> {
        let variable = |name: &str| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let in_toolkit = |home: PathBuf| home.join("bin/nvcc");
        let on_path = env::var_os("PATH").unwrap_or_default();
        let named = variable("QM_CUDA_NVCC")
            .into_iter()
            .chain(["CUDA_HOME", "CUDA_PATH"].into_iter().filter_map(variable).map(in_toolkit))
            .chain(env::split_paths(&on_path).map(|folder| folder.join("nvcc")))
            .chain([PathBuf::from("target/tools/cuda/nvidia/cu13/bin/nvcc")]);
        let mut unfit = Vec::new();
        for program in named.filter(|program| program.is_file()) {
            match Self::check(program) {
                Ok(nvcc) => return Ok(Some(nvcc)),
                Err(why) => unfit.push(why),
            }
        }
        if unfit.is_empty() { Ok(None) } else { Err(unfit.join("; ")) }
    }

    /// `program`, if it is new enough.
    fn check(program: PathBuf) -> Result<Self> {
        let version = run(Command::new(&program).arg("--version"))?;
        let text = String::from_utf8_lossy(&version.stdout).into_owned();
        let number = text.split("release ").nth(1).and_then(|rest| rest.split([',', ' ']).next()).unwrap_or_default();
        let parts = number.split_once('.').and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?)));
        let version = parts.ok_or_else(|| format!("{} tells no version: {text}", program.display()))?;
        if version < OLDEST {
            return Err(format!(
                "{} is of CUDA {number}, {}.{} or later is needed",
                program.display(),
                OLDEST.0,
                OLDEST.1
            ));
        }
        Ok(Self { program, version, identity: text })
    }

    /// What is compiled for: machine code for each architecture, and for later ones the portable form of the oldest.
    ///
    /// A portable form costs as much time as machine code of it, and kernels have two: for devices before 9.0 and since
    /// (`common/ptx.cuh`). Architectures share the form of the oldest of their kind, except for those with a letter, whose
    /// form is nobody else's.
    fn targets(architectures: &[&str]) -> Vec<String> {
        let portable = |name: &str| name.parse::<u32>().ok();
        let has_clusters = |number: u32| number >= 90;
        let form_of = |name: &str| match portable(name) {
            None => name.to_string(),
            Some(own) => {
                let alike = architectures.iter().filter_map(|name| portable(name));
                let oldest = alike.filter(|other| has_clusters(*other) == has_clusters(own)).min();
                oldest.unwrap_or(own).to_string()
            }
        };
        let oldest = architectures.iter().filter_map(|name| portable(name)).min();
        let mut forms: Vec<(String, Vec<String>)> = Vec::new();
        let code = architectures.iter().map(|name| (form_of(name), format!("sm_{name}")));
        let kept = oldest.map(|number| (number.to_string(), format!("compute_{number}")));
        for (form, code) in code.chain(kept) {
            match forms.iter_mut().find(|(known, _)| *known == form) {
                Some((_, all)) => all.push(code),
                None => forms.push((form, vec![code])),
            }
        }
        forms.iter().map(|(form, code)| format!("-gencode=arch=compute_{form},code=[{}]", code.join(","))).collect()
    }

    fn compile(&self, targets: &[String], source: &Path, out: &Path) -> Result<()> {
        let mut command = Command::new(&self.program);
        command.args(["--fatbin", "--std=c++17", "-O3", "-I", "kernels", "--compress-mode=size"]).args(targets);
        run(command.arg("-o").arg(out).arg(source)).map(|_| ())
    }
}

fn run(command: &mut Command) -> Result<Output> {
    let output = command.output().map_err(|e| format!("{}: {e}", command.get_program().to_string_lossy()))?;
    if output.status.success() {
        return Ok(output);
    }
    let mut text = format!("{command:?} failed:");
    for line in String::from_utf8_lossy(&output.stderr).lines().chain(String::from_utf8_lossy(&output.stdout).lines()) {
        // A directive of a build script is one line.
        let _ = write!(text, " | {line}");
    }
    Err(text)
}

/// Files below `folder` that end in `extension`, in an order that does not change.
fn sources(folder: &Path, extension: &str) -> Result<Vec<PathBuf>> {
    let failed = |e: std::io::Error| format!("{}: {e}", folder.display());
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if path.is_dir() {
            found.extend(sources(&path, extension)?);
        } else if path.extension().is_some_and(|e| e == extension) {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// `attention_decode` of `kernels/attention/decode.cu`: what its module is called.
fn name(source: &Path) -> String {
    let relative = source.strip_prefix("kernels").unwrap_or(source).with_extension("");
    relative.to_string_lossy().replace(['/', '\\'], "_")
}

fn read(file: &Path) -> Result<String> {
    fs::read_to_string(file).map_err(|e| format!("{}: {e}", file.display()))
}

/// Adds the headers of this folder that `file` includes, and those that they include, to `files`.
fn with_headers(file: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for line in read(file)?.lines() {
        let Some(name) = line.strip_prefix("#include \"").and_then(|rest| rest.strip_suffix('"')) else { continue };
        let header = Path::new("kernels").join(name);
        if !files.contains(&header) {
            files.push(header.clone());
            with_headers(&header, files)?;
        }
    }
    Ok(())
}

/// Compiles what has changed, on as many threads as Cargo allows.
fn compile_all(nvcc: &Nvcc, architectures: &[&str], sources_: &[PathBuf], folder: &Path) -> Result<()> {
    let targets = Nvcc::targets(architectures);
    let mut shared = DefaultHasher::new();
    (&nvcc.identity, &targets, read(Path::new("kernels/build.rs"))?).hash(&mut shared);
    let queue = Mutex::new(sources_.iter());
    let work = || -> Result<()> {
        loop {
            let Some(source) = queue.lock().map_err(|_| "a thread of the build panicked")?.next() else {
                return Ok(());
            };
            let mut key = shared.clone();
            let mut files = vec![source.clone()];
            with_headers(source, &mut files)?;
            files.iter().try_for_each(|file| read(file).map(|text| text.hash(&mut key)))?;
            let key = key.finish().to_string();
            let (out, mark) = (folder.join(name(source) + ".fatbin"), folder.join(name(source) + ".key"));
            if out.is_file() && fs::read_to_string(&mark).is_ok_and(|known| known == key) {
                continue;
            }
            // A compilation that is interrupted leaves no mark, and is done again.
            let _ = fs::remove_file(&mark);
            nvcc.compile(&targets, source, &out)?;
            fs::write(&mark, key).map_err(|e| format!("{}: {e}", mark.display()))?;
        }
    };
    let jobs = env::var("NUM_JOBS").ok().and_then(|n| n.parse().ok()).unwrap_or(1usize);
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..jobs).map(|_| scope.spawn(work)).collect();
        let outcomes = threads.into_iter().map(|thread| thread.join().unwrap_or(Err("a thread panicked".into())));
        outcomes.collect::<Vec<_>>().into_iter().collect()
    })
}

/// Writes the Rust source that embeds the fat binaries: `images` are their names and files.
fn embed(
    folder: &Path,
    images: &[(String, PathBuf)],
    version: Option<(u32, u32)>,
    architectures: &[&str],
) -> Result<()> {
    let mut text = String::new();
    let _ = writeln!(text, "/// The CUDA version that the kernels were compiled with.");
    let _ = writeln!(text, "pub const VERSION: Option<(u32, u32)> = {version:?};");
    let _ = writeln!(text, "/// The architectures that they were compiled for.");
    let _ = writeln!(text, "pub const ARCHITECTURES: &[&str] = &{architectures:?};");
    let _ = writeln!(text, "/// Fat binaries by name.");
    let _ = writeln!(text, "pub const IMAGES: &[(&str, &Image)] = &[");
    for (name, file) in images {
        let _ = writeln!(text, "    ({name:?}, &Aligned(*include_bytes!({file:?}))),");
    }
    let _ = writeln!(text, "];");
    let out = folder.join("images.rs");
    fs::write(&out, text).map_err(|e| format!("{}: {e}", out.display()))
}

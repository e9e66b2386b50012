//! `cargo xtask ebpf`: builds the kernel side, and proves that the committed objects are what the sources give.
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

use crate::{command, object, rust_src, rustc, tools::BPF_LINKER, tree};

/// How to build the kernel side.
#[derive(clap::Args)]
pub struct Args {
    /// Build in a temporary copy of the tree and compare, byte for byte, with what is committed; write nothing
    #[arg(long)]
    check: bool,
}

/// The binaries of mpsec-ebpf; each becomes `<name>.bpf.o`.
const BINARIES: &[&str] = &["mpsec", "mptcpify", "anchors"];
/// What `bpf_target_arch` can be: the machines that the agent runs on. Registers of probes differ between them.
const ARCHITECTURES: [&str; 2] = ["x86_64", "aarch64"];
const TARGET: &str = "bpfel-unknown-none";

/// File contents by name, in the folder of committed objects.
type Files = BTreeMap<String, Vec<u8>>;

/// `cargo xtask ebpf [--check]`
pub fn main(root: &Path, args: &Args) -> Result<ExitCode> {
    let toolchain = Toolchain::find(root)?;
    let prebuilt = root.join(object::PREBUILT);
    if args.check {
        let differences = check(root, &toolchain, &prebuilt)?;
        return Ok(report(&differences));
    }
    let files = build(root, &tree::target(root).join("ebpf"), &toolchain)?;
    write(&prebuilt, &files)?;
    for (name, bytes) in files.iter().filter(|(name, _)| is_object(name)) {
        println!("{}/{name}: {} bytes", object::PREBUILT, bytes.len());
        print!("{}", object::inventory(bytes)?);
    }
    Ok(ExitCode::SUCCESS)
}

/// Everything that shapes the objects, beside the sources.
pub struct Toolchain {
    rustc: String,
    linker: PathBuf,
    rust_src: PathBuf,
}

impl Toolchain {
    /// Finds the parts, or installs them.
    pub fn find(root: &Path) -> Result<Self> {
        let rustc = rustc::version(root)?;
        Ok(Self { rust_src: rust_src::find_or_fetch(root, &rustc)?, linker: BPF_LINKER.find_or_install(root)?, rustc })
    }
}

/// A copy in another folder, so that a path that found its way into an object shows as a difference.
fn check(root: &Path, toolchain: &Toolchain, prebuilt: &Path) -> Result<Vec<String>> {
    let scratch = tempfile::Builder::new().prefix("mpsec-ebpf-").tempdir()?;
    let copy = scratch.path().join("another/place");
    for path in object::hashes(root)?.into_keys().chain(["Cargo.toml".to_owned()]) {
        let to = copy.join(&path);
        fs::create_dir_all(to.parent().context("a file without a folder")?)?;
        fs::copy(root.join(&path), to).with_context(|| format!("copying {path}"))?;
    }
    let built = build(&copy, &scratch.path().join("target"), toolchain)?;
    let committed = read(prebuilt)?;
    let names: BTreeSet<_> = built.keys().chain(committed.keys()).collect();
    let mut differences = Vec::new();
    for name in names {
        match (committed.get(name), built.get(name)) {
            (Some(committed), Some(built)) => differences.extend(difference(name, committed, built)?),
            (None, _) => differences.push(format!("{name} is not committed")),
            (_, None) => differences.push(format!("{name} is committed and no longer built")),
        }
    }
    Ok(differences)
}

fn report(differences: &[String]) -> ExitCode {
    if differences.is_empty() {
        println!("OK: {} is what the sources give, built in another folder", object::PREBUILT);
        return ExitCode::SUCCESS;
    }
    println!("DIFFERENT (committed against built):");
    for difference in differences {
        println!("  {difference}");
    }
    println!("`cargo xtask ebpf` writes the objects anew; commit them with the sources.");
    ExitCode::FAILURE
}

fn difference(name: &str, committed: &[u8], built: &[u8]) -> Result<Option<String>> {
    if is_object(name) {
        let difference = object::first_difference(committed, built)?;
        return Ok(difference.map(|difference| format!("{name}: {difference}")));
    }
    let (committed, built) = (String::from_utf8_lossy(committed), String::from_utf8_lossy(built));
    let mut lines = committed.lines().zip(built.lines());
    let line = lines.find(|(committed, built)| committed != built);
    Ok((committed != built).then(|| match line {
        Some((committed, built)) => format!("{name}: `{committed}` against `{built}`"),
        None => format!("{name}: {} bytes against {}", committed.len(), built.len()),
    }))
}

/// Builds every binary and returns the whole folder of committed objects.
fn build(tree: &Path, target: &Path, toolchain: &Toolchain) -> Result<Files> {
    let mut files = Files::new();
    let by_architecture = ARCHITECTURES
        .iter()
        .map(|arch| compile(tree, &target.join(arch), arch, toolchain))
        .collect::<Result<Vec<_>>>()?;
    for name in BINARIES {
        let objects: Vec<_> = by_architecture.iter().map(|built| &built[name]).collect();
        if objects.iter().all(|object| *object == objects[0]) {
            add(&mut files, format!("{name}.bpf.o"), objects[0])?;
            continue;
        }
        for (arch, object) in ARCHITECTURES.iter().zip(objects) {
            add(&mut files, format!("{name}.{arch}.bpf.o"), object)?;
        }
    }
    let sources = object::Sources {
        rustc: toolchain.rustc.clone(),
        bpf_linker: BPF_LINKER.version.to_owned(),
        files: object::hashes(tree)?,
    };
    files.insert(object::RECORD.to_owned(), sources.to_string().into_bytes());
    Ok(files)
}

/// Adds an object, its hash, and the list of what it offers.
fn add(files: &mut Files, name: String, object: &[u8]) -> Result<()> {
    let problems = object::problems(object)?;
    if !problems.is_empty() {
        bail!("{name} must not be used:\n  {}", problems.join("\n  "));
    }
    let hash = object::hex(&Sha256::digest(object));
    files.insert(format!("{name}.sha256"), format!("{hash}  {name}\n").into_bytes());
    files.insert(format!("{name}.txt"), object::inventory(object)?.to_string().into_bytes());
    files.insert(name, object.to_vec());
    Ok(())
}

/// One run of cargo: all binaries for one `bpf_target_arch`, stripped.
fn compile(tree: &Path, target: &Path, arch: &str, toolchain: &Toolchain) -> Result<BTreeMap<&'static str, Vec<u8>>> {
    let mut cargo = cargo(tree, "build", arch, &toolchain.rust_src)?;
    cargo
        .env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_LINKER", &toolchain.linker)
        .env("RUSTC_WRAPPER", std::env::current_exe()?)
        .env(rustc::WRAPPER_VARIABLE, "1")
        .arg("--target-dir")
        .arg(target);
    command::run(&mut cargo).with_context(|| format!("building the kernel side for {arch}"))?;
    BINARIES
        .iter()
        .map(|name| {
            let path = target.join(TARGET).join("release").join(name);
            let raw = fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
            Ok((*name, object::strip(&raw)?))
        })
        .collect()
}

/// `cargo build` or `cargo clippy` for the kernel's target, with `core` built from source.
pub fn cargo(tree: &Path, subcommand: &str, arch: &str, rust_src: &Path) -> Result<Command> {
    let dir = tree.join("mpsec-ebpf");
    let mut cargo = command::cargo(&dir);
    cargo
        .args([subcommand, "--locked", "--release", "--bins", "--target", TARGET])
        .args(["-Z", "build-std=core"])
        // The options for the target are for everyday compilers too, once the variable says that we mean it.
        .env("RUSTC_BOOTSTRAP", "1")
        .env("__CARGO_TESTS_ONLY_SRC_ROOT", rust_src.join("library"))
        .env("CARGO_ENCODED_RUSTFLAGS", flags(tree, &dir, arch, rust_src)?.join("\x1f"));
    Ok(cargo)
}

/// Later prefixes win: rust-src may lie within the tree.
fn flags(tree: &Path, dir: &Path, arch: &str, rust_src: &Path) -> Result<Vec<String>> {
    let mut flags = vec![
        format!("--cfg=bpf_target_arch=\"{arch}\""),
        // Instructions on halves of registers, which every kernel since 5.1 knows: fewer of them, and so less time a packet.
        "-Ctarget-cpu=v3".to_owned(),
        "-Cdebuginfo=2".to_owned(),
        "-Clink-arg=--btf".to_owned(),
    ];
    let mut remap = |from: &Path, to: &str| {
        flags.push(format!("--remap-path-prefix={}={to}", from.display()));
    };
    remap(tree, "/mpsec");
    let packages = packages(dir)?;
    for registry in packages.iter().filter_map(|package| package.parent()).collect::<BTreeSet<_>>() {
        remap(registry, "/cargo");
    }
    for package in &packages {
        // The helpers are the same for every machine, and only the folder would tell them apart.
        let bindings = package.join("src").join(arch);
        if bindings.is_dir() {
            let name = package.file_name().unwrap_or_default().to_string_lossy();
            remap(&bindings, &format!("/cargo/{name}/src/any"));
        }
    }
    remap(rust_src, "/rust");
    Ok(flags)
}

/// The folders of the crates that the kernel side takes from elsewhere; fetches them if need be.
fn packages(dir: &Path) -> Result<BTreeSet<PathBuf>> {
    let mut cargo = command::cargo(dir);
    cargo.args(["metadata", "--locked", "--format-version", "1"]);
    let metadata: serde_json::Value = serde_json::from_str(&command::stdout(&mut cargo)?)?;
    let packages = metadata["packages"].as_array().context("no packages in cargo's metadata")?;
    Ok(packages
        .iter()
        .filter(|package| !package["source"].is_null())
        .filter_map(|package| package["manifest_path"].as_str())
        .filter_map(|manifest| Some(Path::new(manifest).parent()?.to_owned()))
        .collect())
}

fn is_object(name: &str) -> bool {
    name.ends_with(".bpf.o")
}

/// What is committed, without files that this command never writes.
fn read(prebuilt: &Path) -> Result<Files> {
    let mut files = Files::new();
    for path in tree::files(prebuilt)? {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name == object::RECORD || name.contains(".bpf.o") {
            files.insert(name, fs::read(&path)?);
        }
    }
    Ok(files)
}

fn write(prebuilt: &Path, files: &Files) -> Result<()> {
    fs::create_dir_all(prebuilt)?;
    for name in read(prebuilt)?.keys().filter(|name| !files.contains_key(*name)) {
        fs::remove_file(prebuilt.join(name))?;
    }
    for (name, bytes) in files {
        fs::write(prebuilt.join(name), bytes).with_context(|| format!("writing {name}"))?;
    }
    Ok(())
}

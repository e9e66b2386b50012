//! docs/kernels.md: on which kernels MPSec was tested, what works on each, and how long each is supported; in short in the
//! readme, too. It is made from docs/kernels.json, which runs of `cargo xtask vm --report` write.
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    fs::{self, File},
    path::Path,
};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::trials::Trials;

/// What runs are kept in.
const RESULTS: &str = "docs/kernels.json";
/// What people read.
const PAGE: &str = "docs/kernels.md";
/// What they read first, and between which lines the short form of the page stands there.
const README: &str = "README.md";
const MARKS: [&str; 2] = ["<!-- made by cargo xtask vm --report -->\n", "<!-- end -->\n"];
/// What the releases of Debian's `cloud` kernels end with.
const FLAVOUR: &str = "-cloud-amd64";
/// Until when a series gets corrections: those that kernel.org calls longterm, as its page of active releases
/// (www.kernel.org/category/releases.html) says in November 2026.
const SUPPORT: &[(&str, &str)] = &[("6.1", "December 2027"), ("6.12", "December 2028"), ("6.18", "December 2028")];
/// A series that is not longterm.
const SHORT: &str = "some weeks after the next release";
/// The first word of a test's name, and what such tests are about; in the order of the page. What is not here stands behind,
/// under its own name.
const SUBJECTS: &[(&str, &str)] = &[
    ("kernel_twin", "the packet classifier in the kernel's own test runs"),
    ("system::classes", "classes of crafted frames, by TCX and by clsact"),
    ("system::bulk", "counters under bulk traffic, with and without offloads"),
    ("system::devices", "kinds of network devices"),
    ("system::hotplug", "devices that come, go, and change"),
    ("system::overflow", "more devices than there is room for"),
    ("system::survive", "start, stop, kill; what others attached stays"),
    ("system::netns", "other network namespaces"),
    ("subflows", "subflows, from the first SYN to the last ACK"),
    ("system::mptcp_truth", "bytes of subflows, equal to a capture's and the programs'"),
    ("system::mptcp_life", "subflows that come, go, and fall silent"),
    ("system::mptcp_probes", "retransmissions, resets, time-outs, by the way in that the kernel has"),
    ("system::ways", "the same by tracepoint, fentry and kprobe, and what functions alone tell"),
    ("system::netem", "paths that lose, delay, reorder and repeat packets"),
    ("system::mptcp_wrong", "what is wrong with MPTCP, named"),
    ("mptcp", "path manager, events and lists of sockets, by netlink and by BPF iterator"),
    ("rtnl", "links, addresses, routes and rules"),
    ("system::act", "plan, apply, release"),
    ("pm", "the path manager in user space: ndiffports, fullmesh"),
    ("system::failover", "failover of a path"),
    ("force", "MPTCP for programs that ask for TCP"),
    ("system::force", "the same for curl, a web server and iperf3, by the agent's file"),
    ("system::lab", "the tests' own oracles agree"),
    ("system::laboratory", "scenarios of `mpsec lab`"),
    ("system::ipsec", "IPsec"),
    ("system::doctor", "`mpsec doctor mptcp`"),
    ("system::status", "`mpsec status`"),
    ("system::top", "`mpsec top`"),
    ("system::api", "the JSON API"),
    ("system::control_api", "changes by socket, HTTPS and command"),
    ("system::http", "the HTTP server"),
    ("system::reload", "changes of the configuration while running"),
    ("system::refuse", "what is refused at the start"),
    ("system::flood", "memory under a flood"),
    ("system::fleet", "the plays for fleets, read by Ansible"),
    ("system::prometheus", "dashboards, rules and metrics, with a real Prometheus"),
    ("system::multipath", "the same of MPTCP"),
    ("system::harness", "the tests' own tools"),
];

/// What is known of the kernels, by series.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Results(BTreeMap<String, OfKernel>);

/// What is known of one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OfKernel {
    /// Its release.
    pub release: String,
    /// The day of the last run.
    pub day: String,
    /// What `mpsec doctor` says that it has.
    pub features: Vec<Feature>,
    /// How the tests ended.
    #[serde(flatten)]
    pub trials: Trials,
}

/// A feature of a kernel, as `mpsec doctor --json` tells it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Feature {
    id: String,
    name: String,
    #[serde(default)]
    needed_for: String,
    state: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

/// The features in what `mpsec doctor --json` printed.
pub fn features(json: &str) -> Result<Vec<Feature>> {
    #[derive(Deserialize)]
    struct Doctor {
        features: Vec<Feature>,
    }
    let doctor: Doctor = serde_json::from_str(json).context("`mpsec doctor --json` printed something else")?;
    Ok(doctor.features)
}

/// Adds what was seen and writes all files anew. Runs of other kernels that end at the same time wait for each other.
pub fn write(root: &Path, seen: Vec<(String, OfKernel)>) -> Result<()> {
    let lock = crate::tree::target(root).join("vm/report.lock");
    let what = || format!("locking {}", lock.display());
    let held = File::create(&lock).with_context(what)?;
    held.lock().with_context(what)?;
    let mut results = read(root)?;
    seen.into_iter().for_each(|(series, kernel)| results.add(series, kernel));
    let text = serde_json::to_string_pretty(&results)? + "\n";
    fs::write(root.join(RESULTS), text).with_context(|| format!("writing {RESULTS}"))?;
    pages(root, &results)?
        .into_iter()
        .try_for_each(|(name, text)| fs::write(root.join(name), text).with_context(|| format!("writing {name}")))
}

/// What people read of these results, by the file that it lies in.
pub fn pages(root: &Path, results: &Results) -> Result<[(&'static str, String); 2]> {
    let readme = fs::read_to_string(root.join(README)).with_context(|| format!("reading {README}"))?;
    Ok([(PAGE, page(results)), (README, with_table(&readme, results)?)])
}

/// The readme, with the short form of these results in its place.
fn with_table(readme: &str, results: &Results) -> Result<String> {
    let [begin, end] = MARKS;
    let place = readme.split_once(begin).and_then(|(before, rest)| Some((before, rest.split_once(end)?.1)));
    let (before, after) = place.with_context(|| format!("{README} has no lines {begin:?} and {end:?}"))?;
    let kernels = results.in_order();
    let of =
        |cell: fn(&str, &OfKernel) -> String| kernels.iter().map(|(series, kernel)| cell(series, kernel)).collect();
    let mut rows = vec![
        ("release tested".to_owned(), of(|_, kernel| kernel.release.replace(FLAVOUR, ""))),
        ("supported until".to_owned(), of(|series, _| supported_until(series).to_owned())),
    ];
    rows.extend(tested(&kernels, &mut Notes::default()));
    // The notes are on the page.
    let bare = |cell: &String| cell.split(" [").next().unwrap_or_default().to_owned();
    rows.iter_mut().for_each(|(_, cells)| *cells = cells.iter().map(bare).collect());
    Ok(format!("{before}{begin}{}{end}{after}", table("tests that passed", &kernels, &rows)))
}

fn supported_until(series: &str) -> &'static str {
    SUPPORT.iter().find(|(name, _)| *name == series).map_or(SHORT, |(_, until)| *until)
}

/// What is known so far.
pub fn read(root: &Path) -> Result<Results> {
    let path = root.join(RESULTS);
    if !path.exists() {
        return Ok(Results::default());
    }
    let text = fs::read_to_string(&path).with_context(|| format!("reading {RESULTS}"))?;
    serde_json::from_str(&text).with_context(|| format!("{RESULTS} is not what a run writes"))
}

impl Results {
    fn add(&mut self, series: String, seen: OfKernel) {
        let known = self.0.entry(series).or_default();
        // What another release did and had says nothing of this one.
        if known.release != seen.release {
            *known = OfKernel::default();
        }
        known.trials.add(seen.trials);
        known.release = seen.release;
        known.day = seen.day;
        if !seen.features.is_empty() {
            known.features = seen.features;
        }
    }

    /// The tests that passed on a release, or could not run there.
    #[must_use]
    pub fn said_on(&self, series: &str, release: &str) -> Vec<&str> {
        let kernel = self.0.get(series).filter(|kernel| kernel.release == release);
        let trials = kernel.into_iter().map(|kernel| &kernel.trials);
        trials.flat_map(|trials| trials.passed.iter().chain(trials.skipped.keys())).map(String::as_str).collect()
    }

    /// The oldest first.
    fn in_order(&self) -> Vec<(&str, &OfKernel)> {
        let mut all: Vec<_> = self.0.iter().map(|(series, kernel)| (series.as_str(), kernel)).collect();
        let numbers = |series: &str| series.split('.').map(|part| part.parse().unwrap_or(0)).collect::<Vec<u32>>();
        all.sort_by_key(|(series, _)| numbers(series));
        all
    }
}

/// The page that these results give.
#[must_use]
pub fn page(results: &Results) -> String {
    let kernels = results.in_order();
    let mut notes = Notes::default();
    let tested = table("test", &kernels, &tested(&kernels, &mut notes));
    let features = table("what", &kernels, &has(&kernels, &mut notes));
    format!(
        "# Kernels\n\n\
         What MPSec does on Debian's own kernels (the `cloud` flavour, x86_64) in virtual machines under QEMU's emulation. This page\n\
         is made by `cargo xtask vm --kernel all --report`, from docs/kernels.json, which has the name of every test. A whole run takes\n\
         hours a kernel; one of some tests only leaves what the others last said on the same release, perhaps of an older MPSec.\n\n\
         {}\n## What was tested\n\n\
         How many tests of each kind passed. Where it is not all of them, the note says why the others could not run there, or which\n\
         failed. Where fewer tests of a kind ran on one kernel than on another, the run was for some of them only.\n\n{tested}\n\
         ## What the kernels have\n\n\
         As `mpsec doctor` says it, run as root.\n\n{features}\n\
         ## Notes\n\n{notes}",
        summary(&kernels)
    )
}

fn summary(kernels: &[(&str, &OfKernel)]) -> String {
    let mut text = "| series | tested | on | supported until | passed | failed | skipped |\n\
                    | --- | --- | --- | --- | --- | --- | --- |\n"
        .to_owned();
    for (series, kernel) in kernels {
        let OfKernel { release, day, trials, .. } = kernel;
        let until = supported_until(series);
        let [passed, failed, skipped] = [trials.passed.len(), trials.failed.len(), trials.skipped.len()];
        // A text in memory takes everything.
        let _ = writeln!(text, "| {series} | {release} | {day} | {until} | {passed} | {failed} | {skipped} |");
    }
    text + "\nSupport is that of kernel.org (its page of active releases, November 2026); Debian's may end later.\n"
}

/// Rows: what, and a cell for each kernel.
fn table(what: &str, kernels: &[(&str, &OfKernel)], rows: &[(String, Vec<String>)]) -> String {
    let heads: Vec<_> = kernels.iter().map(|(series, _)| *series).collect();
    let mut text = format!("| {what} | {} |\n|{}\n", heads.join(" | "), " --- |".repeat(heads.len() + 1));
    for (name, cells) in rows {
        let _ = writeln!(text, "| {name} | {} |", cells.join(" | "));
    }
    text
}

fn tested(kernels: &[(&str, &OfKernel)], notes: &mut Notes) -> Vec<(String, Vec<String>)> {
    let mut found = BTreeSet::new();
    for (_, kernel) in kernels {
        let Trials { passed, failed, skipped } = &kernel.trials;
        found.extend(passed.iter().chain(failed).chain(skipped.keys()).map(|name| subject(name)));
    }
    let known = SUBJECTS.iter().map(|(name, _)| *name).filter(|name| found.contains(name));
    let others = found.iter().copied().filter(|name| SUBJECTS.iter().all(|(known, _)| known != name));
    let subjects: Vec<_> = known.chain(others).collect();
    let row = |name: &&str| {
        let title = SUBJECTS.iter().find(|(known, _)| known == name).map_or(*name, |(_, title)| *title);
        (title.to_owned(), kernels.iter().map(|(_, kernel)| cell(&kernel.trials, name, notes)).collect())
    };
    subjects.iter().map(row).collect()
}

/// The subject of a test: its program, and for the many tests of `system` its module.
fn subject(name: &str) -> &str {
    let parts = if name.starts_with("system::") { 2 } else { 1 };
    name.match_indices("::").nth(parts - 1).map_or(name, |(at, _)| &name[..at])
}

fn cell(trials: &Trials, about: &str, notes: &mut Notes) -> String {
    let count = |names: &BTreeSet<String>| names.iter().filter(|name| subject(name) == about).count();
    let failed: Vec<_> = trials.failed.iter().filter(|name| subject(name) == about).collect();
    let skipped: Vec<_> = trials.skipped.iter().filter(|(name, _)| subject(name) == about).collect();
    let passed = count(&trials.passed);
    let all = passed + failed.len() + skipped.len();
    if all == 0 {
        return "not run".to_owned();
    }
    let failures = failed.iter().map(|name| format!("failed: {name}"));
    let reasons: BTreeSet<_> = skipped.iter().map(|(_, reason)| (*reason).clone()).collect();
    let marks: Vec<_> = failures.chain(reasons).map(|text| notes.mark(&text)).collect();
    match (passed, marks.is_empty()) {
        (passed, true) => format!("{passed}"),
        (0, false) if failed.is_empty() => format!("none {}", marks.join(" ")),
        (passed, false) => format!("{passed} of {all} {}", marks.join(" ")),
    }
}

fn has(kernels: &[(&str, &OfKernel)], notes: &mut Notes) -> Vec<(String, Vec<String>)> {
    // The newest kernel's agent knows all of them, in the order in which they are told.
    let mut order: Vec<(&str, &str)> = Vec::new();
    for feature in kernels.iter().rev().flat_map(|(_, kernel)| &kernel.features) {
        if order.iter().all(|(id, _)| *id != feature.id) {
            order.push((&feature.id, &feature.name));
        }
    }
    let mut cell = |kernel: &OfKernel, id: &str| {
        let Some(feature) = kernel.features.iter().find(|feature| feature.id == id) else {
            return "not known".to_owned();
        };
        match (feature.state.as_str(), &feature.reason) {
            ("available", _) => "yes".to_owned(),
            ("missing", None) => "no".to_owned(),
            ("missing", Some(reason)) => format!("no {}", notes.mark(reason)),
            (state, None) => state.to_owned(),
            (state, Some(reason)) => format!("{state} {}", notes.mark(reason)),
        }
    };
    let mut rows = Vec::new();
    for (id, name) in order {
        rows.push((name.to_owned(), kernels.iter().map(|(_, kernel)| cell(kernel, id)).collect()));
    }
    rows
}

/// Reasons, each once.
#[derive(Default)]
struct Notes(Vec<String>);

impl Notes {
    fn mark(&mut self, text: &str) -> String {
        let at = self.0.iter().position(|known| known == text).unwrap_or_else(|| {
            self.0.push(text.to_owned());
            self.0.len() - 1
        });
        format!("[{}]", at + 1)
    }
}

impl std::fmt::Display for Notes {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        (1..).zip(&self.0).try_for_each(|(number, text)| writeln!(out, "{number}. {text}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kernel(release: &str) -> OfKernel {
        let mut trials = Trials::default();
        trials.passed.insert("system::classes::rx_clsact".into());
        trials.passed.insert("pm::many".into());
        trials.skipped.insert("system::classes::rx_tcx".into(), "no TCX".into());
        trials.failed.insert("system::new::thing".into());
        let json = r#"{"features": [{"id": "tcx", "name": "TCX", "state": "missing", "reason": "too old"},
                                    {"id": "bpf", "name": "bpf(2)", "state": "available", "section": "eBPF"}]}"#;
        OfKernel { release: release.into(), day: "2026-11-29".into(), features: features(json).unwrap(), trials }
    }

    #[test]
    fn every_kind_of_test_has_its_row_and_every_reason_its_note() {
        let mut results = Results::default();
        results.add("6.12".into(), kernel("6.12.1"));
        results.add("6.1".into(), kernel("6.1.0"));
        let page = page(&results);
        for line in [
            "| 6.1 | 6.1.0 | 2026-11-29 | December 2027 | 2 | 1 | 1 |",
            "| test | 6.1 | 6.12 |",
            "| classes of crafted frames, by TCX and by clsact | 1 of 2 [1] | 1 of 2 [1] |",
            "| the path manager in user space: ndiffports, fullmesh | 1 | 1 |",
            "| system::new | 0 of 1 [2] | 0 of 1 [2] |",
            "| TCX | no [3] | no [3] |",
            "| bpf(2) | yes | yes |",
            "1. no TCX",
            "2. failed: system::new::thing",
            "3. too old",
        ] {
            assert!(page.lines().any(|have| have == line), "{line}\n{page}");
        }
    }

    #[test]
    fn the_readme_has_the_table_and_keeps_the_rest() {
        let mut results = Results::default();
        results.add("6.12".into(), kernel("6.12.1-2-cloud-amd64"));
        let [begin, end] = MARKS;
        let made = with_table(&format!("# A\n{begin}old\n{end}B\n"), &results).unwrap();
        assert!(made.starts_with("# A\n") && made.ends_with("B\n") && !made.contains("old"), "{made}");
        for line in [
            "| release tested | 6.12.1-2 |",
            "| supported until | December 2028 |",
            "| classes of crafted frames, by TCX and by clsact | 1 of 2 |",
        ] {
            assert!(made.lines().any(|have| have == line), "{line}\n{made}");
        }
        assert_eq!(with_table(&made, &results).unwrap(), made);
        assert!(with_table("# A\n", &results).is_err());
    }

    #[test]
    fn another_release_begins_anew_and_the_same_one_goes_on() {
        let mut results = Results::default();
        results.add("6.1".into(), kernel("6.1.0"));
        results.add("6.1".into(), OfKernel { release: "6.1.0".into(), ..OfKernel::default() });
        assert_eq!((results.0["6.1"].trials.passed.len(), results.0["6.1"].features.len()), (2, 2));
        let said = ["pm::many", "system::classes::rx_clsact", "system::classes::rx_tcx"];
        assert_eq!((results.said_on("6.1", "6.1.0"), results.said_on("6.1", "6.1.1").len()), (said.to_vec(), 0));
        let other = OfKernel { release: "6.1.1".into(), ..OfKernel::default() };
        results.add("6.1".into(), other.clone());
        assert_eq!(results.0["6.1"], other);
    }
}

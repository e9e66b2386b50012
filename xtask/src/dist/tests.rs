//! What lies in packaging/ is what the package, the image and the manifest say it is.

use super::*;

fn root() -> PathBuf {
    tree::root().expect("the tree")
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The sources in `[package.metadata.deb] assets`, which lie below mpsec-agent.
fn assets() -> Vec<String> {
    let manifest = read("mpsec-agent/Cargo.toml");
    let table = manifest.split_once("assets = [").expect("a list of assets").1;
    let table = table.split_once("\n]").expect("the end of the list").0;
    let sources = table.lines().filter_map(|line| line.trim().strip_prefix("[\"")?.split_once('"'));
    sources.map(|(source, _)| source.to_owned()).collect()
}

#[test]
fn everything_that_the_package_holds_is_there() {
    let assets = assets();
    assert!(assets.len() > 10, "{assets:?}");
    for asset in assets {
        let path = asset.strip_prefix("../").expect("assets lie outside of the crate");
        // What is made on the way, and patterns.
        if !path.starts_with("target/dist/") && !path.contains('*') {
            assert!(root().join(path).exists(), "{path} is not there");
        }
    }
}

#[test]
fn the_image_is_built_from_what_is_laid_out() {
    let laid_out: Vec<&str> = CONTAINER.iter().map(|(_, to)| *to).chain(["mpsec"]).collect();
    let file = read("packaging/container/Containerfile");
    let copies: Vec<&str> = file.lines().filter(|line| line.starts_with("COPY ")).collect();
    assert_eq!(copies.len(), 2);
    for copy in copies {
        let source = copy.split_whitespace().skip(1).find(|word| !word.starts_with("--")).expect("a source");
        assert!(laid_out.contains(&source), "{source} is not in the folder that the image is built from");
    }
    assert!(file.contains(&format!("mpsec:{}", env!("CARGO_PKG_VERSION"))), "the version in the example is another");
    for (from, _) in CONTAINER.iter().chain(PLAIN) {
        assert!(root().join(from).exists(), "{from} is not there");
    }
}

#[test]
fn the_documented_container_has_what_the_unit_has_and_may_use_it() {
    let profile: serde_json::Value = serde_json::from_str(&read("packaging/container/seccomp.json")).expect("JSON");
    assert_eq!(profile["defaultAction"], "SCMP_ACT_ALLOW");
    let refused = profile["syscalls"][0]["names"].as_array().expect("names");
    assert!(refused.len() > 20, "{refused:?}");
    // setns is what CAP_SYS_ADMIN is given for where other namespaces are watched.
    for needed in ["bpf", "perf_event_open", "setns", "setsockopt", "prctl"] {
        assert!(refused.iter().all(|name| name != needed), "{needed} is refused");
    }
    let text = read("docs/service.md");
    let command = text.split_once("\npodman run ").and_then(|(_, rest)| rest.split_once("```")).expect("the command").0;
    let words: Vec<&str> = command.split_whitespace().collect();
    let added = words.windows(2).filter(|pair| pair[0] == "--cap-add").map(|pair| format!("CAP_{}", pair[1]));
    let unit = read("packaging/mpsec.service");
    let granted = settings(&unit).into_iter().find(|(key, _)| key == "AmbientCapabilities").expect("capabilities").1;
    let granted: std::collections::BTreeSet<String> = granted.split(' ').map(str::to_owned).collect();
    assert_eq!(added.collect::<std::collections::BTreeSet<_>>(), granted);
    assert!(words.contains(&"seccomp=target/dist/container/seccomp.json"), "{command}");
}

#[test]
fn check_sums_are_as_sha256sum_has_them() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = |name: &str| {
        let file = folder.path().join(name);
        fs::create_dir_all(file.parent().expect("a folder")).expect("a folder");
        fs::write(&file, "abc").expect("a file");
        file
    };
    let made = [file("b/c"), file("a")];
    // The lock, an earlier revision, an earlier list, and what is made on the way.
    for other in [".lock", "mpsec_0.0.9-1_amd64.deb", SUMS, "stage/b"] {
        file(other);
    }
    let sums = check_sums(folder.path(), &made).expect("sums");
    let expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    assert_eq!(sums, ["a", "b/c"].map(|name| (expected.to_owned(), name.to_owned())));
    assert!(check_sums(Path::new("/elsewhere"), &made).is_err());
}

#[test]
fn what_is_laid_out_is_all_that_lies_there() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut made = lay_out(&root(), &root().join("Cargo.toml"), folder.path()).expect("files");
    made.sort();
    assert_eq!(made, tree::files(folder.path()).expect("a list"));
    assert_eq!(made.len(), 2 + CONTAINER.len() + PLAIN.len());
}

/// Settings of a unit, each with its value.
fn settings(unit: &str) -> Vec<(String, String)> {
    let lines = unit.lines().filter(|line| !line.starts_with('#'));
    lines.filter_map(|line| line.split_once('=')).map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}

#[test]
fn the_unit_has_three_capabilities_and_no_more() {
    let unit = settings(&read("packaging/mpsec.service"));
    let value =
        |key: &str| unit.iter().filter(|(name, _)| name == key).map(|(_, value)| value.as_str()).collect::<Vec<_>>();
    let three = ["CAP_BPF CAP_NET_ADMIN CAP_PERFMON"];
    assert_eq!(value("AmbientCapabilities"), three);
    assert_eq!(value("CapabilityBoundingSet"), three);
    assert_eq!((value("User"), value("Group")), (vec!["mpsec"], vec!["mpsec"]));
    assert_eq!(value("ReadWritePaths"), ["/proc/sys/net"]);
    // It would make /etc/mpsec writable, where the agent's user has keys.
    assert_eq!(value("ConfigurationDirectory"), [""; 0]);
}

/// A time in a unit, in seconds.
fn seconds(unit: &[(String, String)], key: &str) -> u64 {
    let value = &unit.iter().find(|(name, _)| name == key).unwrap_or_else(|| panic!("no {key}")).1;
    match value.strip_suffix("min") {
        Some(minutes) => minutes.parse::<u64>().expect("minutes") * 60,
        None => value.strip_suffix('s').expect("a unit of time").parse().expect("seconds"),
    }
}

#[test]
fn the_unit_waits_for_what_is_late_at_boot_but_not_for_ever() {
    let unit = settings(&read("packaging/mpsec.service"));
    let burst =
        unit.iter().find(|(key, _)| key == "StartLimitBurst").expect("a limit").1.parse::<u64>().expect("a number");
    let (pause, interval) = (seconds(&unit, "RestartSec"), seconds(&unit, "StartLimitIntervalSec"));
    assert!(burst * pause >= 120, "{burst} starts, {pause} s apart");
    // A start that fails takes a while itself; the limit is to be reached all the same.
    assert!(burst * (pause + 2) < interval, "{burst} starts, {pause} s apart, never fall into {interval} s");
}

/// The documents of the manifest, by kind.
fn manifest(kind: &str) -> serde_json::Value {
    use serde::Deserialize as _;
    let text = read("packaging/kubernetes/daemonset.yaml");
    let documents = serde_yaml_ng::Deserializer::from_str(&text);
    let mut all = documents.map(|document| serde_json::Value::deserialize(document).expect("YAML that is JSON"));
    all.find(|document| document["kind"] == kind).unwrap_or_else(|| panic!("no {kind}"))
}

fn names(list: &serde_json::Value) -> Vec<&str> {
    list.as_array().into_iter().flatten().filter_map(|entry| entry["name"].as_str()).collect()
}

#[test]
fn the_manifest_is_whole_and_asks_for_no_more_than_the_unit() {
    let set = manifest("DaemonSet");
    assert_eq!(set["apiVersion"], "apps/v1");
    let template = &set["spec"]["template"];
    assert_eq!(set["spec"]["selector"]["matchLabels"], template["metadata"]["labels"]);
    let pod = &template["spec"];
    assert_eq!(pod["hostNetwork"], true, "it counts on the node's interfaces");
    assert_eq!(pod["nodeSelector"]["kubernetes.io/arch"], "amd64", "the image holds a program for that alone");
    let container = &pod["containers"][0];
    assert_eq!(container["image"], format!("mpsec:{}", env!("CARGO_PKG_VERSION")));
    let security = &container["securityContext"];
    assert_eq!(security["capabilities"]["drop"], serde_json::json!(["ALL"]));
    let unit = read("packaging/mpsec.service");
    let granted = settings(&unit).into_iter().find(|(key, _)| key == "AmbientCapabilities").expect("capabilities").1;
    let asked = security["capabilities"]["add"].as_array().expect("capabilities");
    let asked: Vec<String> = asked.iter().filter_map(|name| Some(format!("CAP_{}", name.as_str()?))).collect();
    assert_eq!(
        asked.iter().map(String::as_str).collect::<std::collections::BTreeSet<_>>(),
        granted.split(' ').collect()
    );
    assert!(security["privileged"].is_null(), "it needs no privileged container");
    let (mut mounts, mut volumes) = (names(&container["volumeMounts"]), names(&pod["volumes"]));
    mounts.sort_unstable();
    volumes.sort_unstable();
    assert_eq!(mounts, volumes);
    for document in [manifest("ConfigMap"), set.clone()] {
        assert_eq!(document["metadata"]["namespace"], manifest("Namespace")["metadata"]["name"]);
    }
    assert!(manifest("ConfigMap")["data"]["mpsec.toml"].as_str().is_some_and(|text| text.contains("[http]")));
}

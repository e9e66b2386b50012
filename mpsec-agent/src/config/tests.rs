//! Tests of the settings: files, flags, environment, and what is said of bad ones.

use std::path::{Path, PathBuf};

use proptest::prelude::*;

use super::*;

fn parse(text: &str) -> Result<Config, ConfigError> {
    Config::from_toml(text, Path::new("test.toml"))
}

fn messages(text: &str) -> Vec<String> {
    parse(text).expect_err("this must not parse").problems().iter().map(|problem| problem.message.clone()).collect()
}

fn flag(name: &str, values: &[&str]) -> Override {
    let key = KEYS.iter().find(|key| key.name == name).expect("a key of the table");
    Override { key, values: values.iter().map(ToString::to_string).collect(), given: Given::Flag }
}

#[test]
fn the_default_file_documents_every_key_and_equals_the_defaults() {
    let text = default_toml();
    assert_eq!(parse(&text).unwrap(), Config::default());
    let uncommented: String = text
        .lines()
        .map(|line| line.strip_prefix('#').filter(|rest| !rest.starts_with([' ', '#'])).unwrap_or(line))
        .fold(String::new(), |all, line| all + line + "\n");
    let mut config = Config::default();
    let keys = file::read(&uncommented, Path::new("default"), &mut config).unwrap();
    assert_eq!(keys.len(), KEYS.len(), "{uncommented}");
    assert_eq!(config, Config::default());
}

#[test]
fn the_checked_in_default_file_is_current() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/mpsec.toml");
    if std::env::var_os("MPSEC_BLESS").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, default_toml()).unwrap();
    }
    let text = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(text, default_toml(), "stale; MPSEC_BLESS=1 cargo test -p mpsec-agent config:: rewrites it");
}

#[test]
fn every_key_is_read_from_a_file() {
    let config = parse(
        r#"
        netns = ["red"]
        log = { level = "warn,mpsec_agent=trace", format = "text", kernel = "debug" }
        [http]
        listen = "[::1]:80"
        web_config = "/etc/mpsec/web.yml"
        max_connections = 0x10
        [interfaces]
        include = ["eth*", "wg0"]
        exclude = "eth9"
        max_interfaces = 16384
        attach = "clsact"
        [classify]
        wireguard_ports = [1, 65535]
        [mptcp]
        count = false
        max_subflows = 1024
        probes = "tp_btf"
        subflow_series = true
        max_subflow_series = 7
        [paths]
        remote_prefix_ipv4 = 16
        remote_prefix_ipv6 = 48
        peers = ["office=192.0.2.0/24", "office=2001:db8::/32"]
        max_paths = 9
        [agent]
        control_socket = "/tmp/a"
        kernel_stats = true
        "#,
    )
    .unwrap();
    assert_eq!(config.http.listen, ["[::1]:80".parse().unwrap()]);
    assert_eq!(config.http.web_config, Some(PathBuf::from("/etc/mpsec/web.yml")));
    assert_eq!(config.http.max_connections, 16);
    assert_eq!(config.interfaces.attach, Attach::Clsact);
    assert_eq!(config.classify.wireguard_ports.padded(), [1, 65535, 0, 0]);
    assert!(config.agent.kernel_stats);
    let mptcp = MptcpConfig {
        count: false,
        max_subflows: 1024,
        probes: Probes::TpBtf,
        subflow_series: true,
        max_subflow_series: 7,
    };
    assert_eq!(config.mptcp, mptcp);
    assert_eq!(config.paths.remote_name("192.0.2.1".parse().unwrap()), "office");
    assert_eq!(config.paths.remote_name("192.0.3.1".parse().unwrap()), "192.0.0.0/16");
    assert_eq!(config.paths.max_paths, 9);
    assert_eq!(config.netns, ["red".parse().unwrap()]);
    assert_eq!(config.log.kernel, KernelLog::Debug);
    let wants = |name| config.interfaces.filter.wants(name);
    assert!(wants("eth0") && wants("wg0") && !wants("eth9") && !wants("wg1") && !wants("aeth0"));
    assert_eq!(parse(&config.to_toml()).unwrap(), config);
}

#[test]
fn the_table_of_subflows_fits_the_host() {
    let slots = |count, max_subflows, cpus| MptcpConfig { count, max_subflows, ..MptcpConfig::default() }.slots(cpus);
    assert_eq!([1, 2, 8, 16, 128, 4096].map(|cpus| slots(true, 0, cpus)), [32_768, 32_768, 32_768, 16_384, 4096, 4096]);
    assert_eq!((slots(true, 50_000, 128), slots(false, 50_000, 2)), (50_000, 0));
}

#[test]
fn namespaces_are_tables_of_their_own() {
    let config = parse("[[netns]]\nname = \"blue\"\n[[netns]]\nname = \"pod\"\npath = \"/proc/7/ns/net\"\n").unwrap();
    assert_eq!(config.netns, ["blue".parse().unwrap(), "pod=/proc/7/ns/net".parse().unwrap()]);
    assert_eq!(parse(&config.to_toml()).unwrap(), config);
    let table = [
        ("[[netns]]\nname = 7", "netns: expected a string, not an integer"),
        ("[[netns]]\npath = \"/x\"", "netns: a table without the key `name` is not expected here"),
        ("[[netns]]\nname = \"a\"\nfile = \"/x\"", "netns: unknown key `file`; expected name and path"),
        ("[[netns]]\nname = \"a\"\n[[netns]]\nname = \"a\"\npath = \"/x\"", "netns: a is named twice"),
    ];
    for (text, message) in table {
        assert_eq!(messages(text), [message], "{text}");
    }
}

#[test]
fn all_mistakes_are_told_at_once_with_their_places() {
    let text = "[http]\nlisten = [\"nowhere\", \":1\"]\nlisen = 3\nmax_connections = 0\n\n[interface]\n[interfaces]\n\
                attach = \"tcxx\"\ninclude = \"[\"\n[log]\nlevel = \"inof\"\nkernel_stats = true\nformat = 7\n";
    let error = parse(text).unwrap_err();
    assert_eq!(error.exit_code(), 64);
    let expected = "\
test.toml:2:11: http.listen: expected host:port, such as 127.0.0.1:9475, [::1]:9475 or localhost:9475
  2 | listen = [\"nowhere\", \":1\"]
    |           ^^^^^^^^^
test.toml:2:22: http.listen: for every address write 0.0.0.0:1 (IPv4) or [::]:1 (IPv6 and IPv4)
  2 | listen = [\"nowhere\", \":1\"]
    |                      ^^^^
test.toml:3:1: unknown key `lisen` in [http]; did you mean `listen`?
  3 | lisen = 3
    | ^^^^^
test.toml:4:19: http.max_connections: expected a whole number from 1 to 65536, found 0
  4 | max_connections = 0
    |                   ^
test.toml:6:2: unknown section `interface`; did you mean [interfaces]?
  6 | [interface]
    |  ^^^^^^^^^
test.toml:8:10: interfaces.attach: \"tcxx\" is not one of auto, tcx, clsact; did you mean \"tcx\"?
  8 | attach = \"tcxx\"
    |          ^^^^^^
test.toml:9:11: interfaces.include: no shell pattern: unclosed character class; missing ']'; expected one such as eth*
  9 | include = \"[\"
    |           ^^^
test.toml:11:9: log.level: \"inof\" is no level; expected off, error, warn, info, debug, trace, or directives such as \
\"info,mpsec_agent=debug\"
  11 | level = \"inof\"
     |         ^^^^^^
test.toml:12:1: unknown key `kernel_stats` in [log]; it belongs in [agent]
  12 | kernel_stats = true
     | ^^^^^^^^^^^^
test.toml:13:10: log.format: expected a string, found a number
  13 | format = 7
     |          ^";
    assert_eq!(error.to_string(), expected);
}

#[test]
fn values_out_of_range_are_refused() {
    for (text, part) in [
        ("interfaces.max_interfaces = 16385", "from 1 to 16384, found 16385"),
        ("interfaces.max_interfaces = 99999999999999999999", "out of any range"),
        ("interfaces.max_interfaces = 1.5", "a float is not expected"),
        ("interfaces.include = [[\"a\"]]", "a list in a list"),
        ("interfaces.include = [\"a\", \"a\"]", "given twice"),
        ("classify.wireguard_ports = [1,2,3,4,5]", "at most 4 ports, found 5"),
        ("classify.wireguard_ports = 0", "from 1 to 65535, found 0"),
        ("agent.control_socket = \"\"", "expected a path"),
        ("agent.kernel_stats = 1", "expected true or false, found a number"),
        ("http = 3", "`http` is a section"),
        ("listen = \"a:1\"", "belongs in [http]"),
        ("http.listen = \"a:b\"", "no port number"),
        ("http.listen = \"[::1:1\"", "expected host:port"),
        ("http = {", "unclosed"),
    ] {
        let found = messages(text);
        assert!(found.iter().any(|message| message.contains(part)), "{text}: {found:?}");
    }
    let long = format!("agent.control_socket = \"/{}\"", "x".repeat(107));
    assert!(messages(&long)[0].contains("107 bytes"));
}

#[test]
fn flags_win_over_the_file_and_origins_are_told() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("mpsec.toml");
    std::fs::write(&path, "[http]\nmax_connections = 3\nlisten = \"a:1\"\n").unwrap();
    let mut env = flag("interfaces.exclude", &["{eth,wl}*, lo"]);
    env.given = Given::Env;
    let overrides = vec![env, flag("http.listen", &["b:2", "c:3,d:4"]), flag("agent.kernel_stats", &["true"])];
    let loaded = Loader { path: Some(path.clone()), overrides }.load().unwrap();
    let listen: Vec<_> = loaded.config.http.listen.iter().map(ToString::to_string).collect();
    assert_eq!(listen, ["b:2", "c:3", "d:4"]);
    assert_eq!(loaded.config.interfaces.filter.exclude.patterns(), ["{eth,wl}*", "lo"]);
    assert_eq!(loaded.origins["http.listen"], Origin::Flag("listen"));
    assert_eq!(loaded.origins["interfaces.exclude"], Origin::Env("MPSEC_EXCLUDE"));
    assert_eq!(loaded.origins["http.max_connections"], Origin::File { path: path.clone(), line: 2 });
    assert_eq!(loaded.origins["log.level"], Origin::Default);
    let shown = Show(&loaded).to_string();
    assert!(shown.contains("# env MPSEC_EXCLUDE") && shown.contains("# flag --listen"), "{shown}");
    assert_eq!(Config::from_toml(&shown, &path).unwrap(), loaded.config);
}

#[test]
fn a_file_that_was_asked_for_must_be_there() {
    let loader = Loader { path: Some("/nonexistent/mpsec.toml".into()), overrides: Vec::new() };
    let error = loader.load().unwrap_err();
    assert!(error.to_string().starts_with("/nonexistent/mpsec.toml: cannot be read"), "{error}");
    if Path::new(DEFAULT_PATH).exists() {
        eprintln!("skipped: {DEFAULT_PATH} exists on this machine, so its absence cannot be tried");
        return;
    }
    assert_eq!(Loader::default().load().unwrap().config, Config::default());
}

#[test]
fn bad_flags_and_bad_lines_are_told_together() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("mpsec.toml");
    std::fs::write(&path, "[http]\nmax_connections = -1\n").unwrap();
    let overrides = vec![flag("interfaces.max_interfaces", &["x"]), flag("agent.kernel_stats", &["maybe"])];
    let error = Loader { path: Some(path), overrides }.load().unwrap_err();
    assert_eq!(error.problems().len(), 3);
    assert!(error.to_string().contains("--max-interfaces \"x\": expected a whole number"), "{error}");
}

#[test]
fn a_reload_names_what_it_cannot_change() {
    let old = Config::default();
    let new =
        parse("[http]\nlisten = \"a:1\"\nweb_config = \"x\"\n[interfaces]\nexclude = \"a\"\nattach = \"tcx\"").unwrap();
    assert_eq!(old.needs_restart(&new), ["http.listen", "http.web_config", "interfaces.attach"]);
    assert_eq!(old.changed_keys(&new).len(), 4);
    assert!(old.needs_restart(&old).is_empty());
}

#[test]
fn names_of_the_table_are_unique() {
    for (index, key) in KEYS.iter().enumerate() {
        for other in &KEYS[index + 1..] {
            assert!(key.name != other.name && key.flag != other.flag && key.env != other.env, "{key:?}");
        }
        assert!(key.env.starts_with("MPSEC_"));
    }
}

/// A value for a random key: sometimes right, sometimes not.
fn any_line() -> impl Strategy<Value = String> {
    let value = prop_oneof![
        any::<i64>().prop_map(|n| n.to_string()),
        any::<bool>().prop_map(|b| b.to_string()),
        any::<String>().prop_map(|s| toml::Value::String(s).to_string()),
        prop::collection::vec(any::<String>(), 0..4)
            .prop_map(|all| toml::Value::Array(all.into_iter().map(toml::Value::String).collect()).to_string()),
        Just("\"127.0.0.1:1\"".to_owned()),
        Just("\"keep\"".to_owned()),
        Just("[\"wan*=backup+ipv6\", \"lte0=10mbit\", \"192.0.2.1=signal+port:7\"]".to_owned()),
        Just("[\"wan*=cubic\", \"wan1=192.0.2.1\", \"stale_loss_cnt=2\"]".to_owned()),
        prop::collection::vec("[a-z0-9*.:]{1,6}=[a-z0-9.:+]{1,8}", 1..3)
            .prop_map(|all| toml::Value::Array(all.into_iter().map(toml::Value::String).collect()).to_string()),
    ];
    (0..KEYS.len(), value).prop_map(|(index, value)| format!("{} = {value}\n", KEYS[index].name))
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]

    #[test]
    fn no_text_makes_it_panic(text in any::<String>()) {
        if let Err(error) = parse(&text) {
            prop_assert!(!error.to_string().is_empty());
        }
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("mpsec.toml");
        std::fs::write(&path, &bytes).unwrap();
        let _ = Loader { path: Some(path), overrides: Vec::new() }.load().map_err(|error| error.to_string());
    }

    #[test]
    fn what_parses_round_trips(lines in prop::collection::vec(any_line(), 0..4)) {
        match parse(&lines.concat()) {
            Ok(config) => prop_assert_eq!(parse(&config.to_toml()).unwrap(), config),
            Err(error) => prop_assert!(!error.problems().is_empty()),
        }
    }

    #[test]
    fn no_flag_makes_it_panic(index in 0..KEYS.len(), values in prop::collection::vec(any::<String>(), 0..3)) {
        let overrides = vec![Override { key: &KEYS[index], values, given: Given::Flag }];
        let _ = Loader { path: Some("/dev/null".into()), overrides }.load().map_err(|error| error.to_string());
    }
}

#[test]
fn what_changes_the_host_is_left_alone_unless_it_is_asked_for() {
    assert_eq!(Config::default().multipath, MultipathConfig::default());
    let config = parse(
        r#"
        [mptcp]
        enabled = true
        path_manager = "backup"
        endpoints = ["wan0", "lte*=backup+ipv4"]
        limit_subflows = 4
        scheduler = "default"
        path_max_rate = "lte*=10mbit"
        reordering = "5"
        sysctls = ["stale_loss_cnt=2"]
        manage_routes = true
        gateways = ["wan1=192.0.2.1"]
        [mptcp.force]
        clients = "/sys/fs/cgroup/a.slice"
        "#,
    )
    .unwrap();
    let multipath = &config.multipath;
    assert_eq!((multipath.enabled, multipath.reordering, multipath.recovery), (Some(true), Some(5), None));
    assert_eq!(multipath.force.clients, [PathBuf::from("a.slice")]);
    assert_eq!(parse(&config.to_toml()).unwrap(), config);
}

#[test]
fn what_would_change_the_host_wrongly_is_refused() {
    for (text, part) in [
        ("mptcp.path_manager = \"fullmash\"", "did you mean \"fullmesh\""),
        ("mptcp.enabled = \"yess\"", "expected on, off or keep"),
        ("mptcp.limit_subflows = 65", "from 0 to 64"),
        ("mptcp.scheduler = \"a b\"", "no name of the kernel's"),
        ("mptcp.sysctls = [\"close_timeout=1\", \"close_timeout=2\"]", "close_timeout is set twice"),
        ("[mptcp.force]\nclient = \"a\"", "unknown key `client` in [mptcp.force]; did you mean `clients`"),
        ("[mptcp.force]\nclients = \"../a\"", "is no cgroup"),
        ("mptcp.force = 3", "`mptcp.force` is a section"),
    ] {
        let found = messages(text);
        assert!(found.iter().any(|message| message.contains(part)), "{text}: {found:?}");
    }
}

#[test]
fn keys_are_set_while_the_agent_runs() {
    let set = Override::set("mptcp.path_manager=fullmesh").unwrap();
    let file = Loader { path: None, overrides: vec![flag("mptcp.path_manager", &["default"]), set] };
    let loaded = file.load().unwrap();
    assert_eq!(loaded.config.multipath.path_manager, Some(multipath::PathManagerMode::Fullmesh));
    assert_eq!(loaded.origins["mptcp.path_manager"], Origin::Set);
    for (text, part) in [
        ("mptcp.path_manger=x", "did you mean mptcp.path_manager?"),
        ("http.listen=a:1", "restart"),
        ("mptcp.enabled", "expected KEY=VALUE"),
    ] {
        let error = Override::set(text).unwrap_err();
        assert!(error.contains(part), "{error}");
    }
}

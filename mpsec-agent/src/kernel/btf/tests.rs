//! Tests of the BTF reader: against the running kernel, bpftool and damaged input.

use std::process::Command;
use std::sync::LazyLock;

use proptest::prelude::*;

use super::*;

/// A tiny BTF: `int`, `struct inner { int a; int b:3; }`, `struct outer { int x; union { struct inner in; int y; };
/// struct inner *p; int tail[4]; }`, and a typedef of it.
static TINY: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut strings = vec![0];
    let mut name = |text: &str| {
        let at = strings.len() as u32;
        strings.extend_from_slice(text.as_bytes());
        strings.push(0);
        at
    };
    let info = |kind: u32, vlen: u32, flag: bool| (u32::from(flag) << 31) | (kind << 24) | vlen;
    let mut types: Vec<u32> = Vec::new();
    types.extend([name("int"), info(1, 0, false), 4, 0x0100_0020]);
    types.extend([name("inner"), info(4, 2, true), 8, name("a"), 1, 0, name("b"), 1, (3 << 24) | 37]);
    types.extend([0, info(5, 2, false), 8, name("in"), 2, 0, name("y"), 1, 0]);
    types.extend([0, info(2, 0, false), 2]);
    types.extend([0, info(3, 0, false), 0, 1, 1, 4]);
    types.extend([
        name("outer"),
        info(4, 4, false),
        40,
        name("x"),
        1,
        0,
        0,
        3,
        32,
        name("p"),
        4,
        128,
        name("tail"),
        5,
        192,
    ]);
    types.extend([name("outer_t"), info(8, 0, false), 6]);
    types.extend([name("colour"), info(6, 2, true), 4, name("RED"), 7, name("BLUE"), (-1_i32).cast_unsigned()]);
    let types: Vec<u8> = types.iter().flat_map(|word| word.to_ne_bytes()).collect();
    let lengths = [24, 0, types.len() as u32, types.len() as u32, strings.len() as u32];
    let header =
        raw::MAGIC.to_ne_bytes().into_iter().chain([1, 0]).chain(lengths.iter().flat_map(|word| word.to_ne_bytes()));
    header.chain(types).chain(strings).collect()
});

fn tiny() -> KernelBtf {
    KernelBtf::parse(TINY.clone()).unwrap()
}

/// This kernel's BTF, or nothing where it has none.
fn kernel() -> Option<KernelBtf> {
    match KernelBtf::load() {
        Ok(btf) => Some(btf),
        Err(error) => {
            eprintln!("skipped: {error}");
            None
        }
    }
}

fn plain(bit_offset: u32, bit_size: u32) -> Member {
    Member { bit_offset, bit_size, bitfield: false }
}

#[test]
fn paths_lead_through_anonymous_members_and_bitfields() {
    let btf = tiny();
    assert_eq!(btf.offset_of("outer", "x").unwrap(), plain(0, 32));
    assert_eq!(btf.offset_of("outer", "in.a").unwrap(), plain(32, 32));
    assert_eq!(btf.offset_of("outer", "in").unwrap(), plain(32, 64));
    assert_eq!(btf.offset_of("outer", "y").unwrap(), plain(32, 32));
    assert_eq!(btf.offset_of("outer", "tail").unwrap(), plain(192, 128));
    assert_eq!(btf.offset_of("outer", "p").unwrap(), plain(128, usize::BITS));
    let bits = btf.offset_of("outer", "in.b").unwrap();
    assert_eq!(bits, Member { bit_offset: 69, bit_size: 3, bitfield: true });
    assert_eq!((bits.byte_offset(), bits.bit_shift(), bits.byte_size()), (8, 5, 1));
    assert_eq!(btf.size_of("outer").unwrap(), 40);
    assert_eq!(btf.enum_value("colour", "BLUE").unwrap(), -1);
    assert_eq!(btf.id_of("outer_t", BtfKind::Typedef).unwrap(), 7);
}

#[test]
fn what_is_absent_is_named() {
    let btf = tiny();
    let said = |error: BtfError| error.to_string();
    assert_eq!(said(btf.offset_of("outer", "z").unwrap_err()), "this kernel's outer has no member z");
    assert_eq!(said(btf.offset_of("outer", "p.a").unwrap_err()), "this kernel's outer has no member p.a");
    assert_eq!(said(btf.offset_of("oute", "x").unwrap_err()), "this kernel has no type oute");
    assert_eq!(said(btf.resolve_first("outer", &["u", "v"]).unwrap_err()), "this kernel's outer has no member u or v");
    assert_eq!(btf.resolve_first("outer", &["u", "y"]).unwrap(), plain(32, 32));
    assert!(matches!(KernelBtf::parse(Vec::new()), Err(BtfError::Damaged(_))));
}

#[test]
fn a_structure_that_contains_itself_ends() {
    let mut bytes = TINY.clone();
    // Both members of the anonymous union lose their names and become that union.
    let union = 24 + (4 + 9) * 4;
    for member in [union + 12, union + 24] {
        bytes[member..member + 8].copy_from_slice(&[0_u32.to_ne_bytes(), 3_u32.to_ne_bytes()].concat());
    }
    let btf = KernelBtf::parse(bytes).unwrap();
    assert!(matches!(btf.offset_of("outer", "y"), Err(BtfError::Damaged(_))));
}

#[test]
fn this_kernel_is_as_it_must_be() {
    let Some(btf) = kernel() else { return };
    eprintln!("mapped: {}", btf.is_mapped());
    assert_eq!(btf.offset_of("list_head", "next").unwrap(), plain(0, usize::BITS));
    assert_eq!(btf.offset_of("list_head", "prev").unwrap().bit_offset, usize::BITS);
    assert_eq!(btf.offset_of("sk_buff", "len").unwrap().byte_size(), 4);
    assert_eq!(btf.offset_of("sk_buff", "cb").unwrap().byte_size(), 48);
    let encapsulation = btf.offset_of("sk_buff", "encapsulation").unwrap();
    assert!(encapsulation.bitfield && encapsulation.bit_size == 1, "{encapsulation:?}");
    let family = btf.offset_of("sock", "__sk_common.skc_family").unwrap();
    assert_eq!(family, btf.offset_of("sock_common", "skc_family").unwrap());
    assert_eq!(family.byte_size(), 2);
    assert!(btf.size_of("tcp_sock").unwrap() > btf.size_of("inet_connection_sock").unwrap());
    assert!(btf.id_of("tcp_v4_connect", BtfKind::Func).is_ok());
}

#[test]
fn ids_agree_with_those_of_aya() {
    let Some(btf) = kernel() else { return };
    let other = aya_obj::btf::Btf::from_sys_fs().unwrap();
    for (name, kind, their_kind) in [
        ("sk_buff", BtfKind::Struct, aya_obj::btf::BtfKind::Struct),
        ("tcp_sock", BtfKind::Struct, aya_obj::btf::BtfKind::Struct),
        ("btf_trace_tcp_retransmit_skb", BtfKind::Typedef, aya_obj::btf::BtfKind::Typedef),
        ("tcp_sendmsg", BtfKind::Func, aya_obj::btf::BtfKind::Func),
    ] {
        assert_eq!(btf.id_of(name, kind).unwrap(), other.id_by_type_name_kind(name, their_kind).unwrap(), "{name}");
    }
}

/// Every named direct member of some large structures, as bpftool sees them.
#[test]
fn offsets_agree_with_those_of_bpftool() {
    let Some(btf) = kernel() else { return };
    let Ok(dump) = Command::new("bpftool").args(["btf", "dump", "file", VMLINUX, "format", "raw"]).output() else {
        return eprintln!("skipped: no bpftool on this machine");
    };
    let dump = String::from_utf8_lossy(&dump.stdout);
    let mut compared = 0;
    for structure in ["sk_buff", "tcp_sock", "inet_connection_sock", "mptcp_sock", "net_device", "task_struct"] {
        let head = format!("] STRUCT '{structure}' size=");
        let Some(start) = dump.find(&head) else { continue };
        for line in dump[start..].lines().skip(1).take_while(|line| line.starts_with('\t')) {
            let fields: Vec<_> = line.split_whitespace().collect();
            let value = |name: &str| fields.iter().find_map(|f| f.strip_prefix(name)?.parse::<u32>().ok());
            let name = fields[0].trim_matches('\'');
            if name == "(anon)" {
                continue;
            }
            let ours = btf.offset_of(structure, name).unwrap();
            assert_eq!(Some(ours.bit_offset), value("bits_offset="), "{structure}.{name}");
            assert_eq!(ours.bitfield.then_some(ours.bit_size), value("bitfield_size="), "{structure}.{name}");
            compared += 1;
        }
    }
    if compared == 0 {
        return eprintln!("skipped: bpftool printed nothing that could be compared");
    }
    assert!(compared > 300, "{compared}");
}

fn ask_everything(btf: &KernelBtf) {
    for path in ["x", "y", "in.a", "in.b", "tail", "p", "nothing", "", ".", "in."] {
        let _ = btf.offset_of("outer", path);
        let _ = btf.resolve_first("inner", &[path, "a"]);
    }
    let _ = btf.enum_value("colour", "BLUE");
    let _ = (btf.size_of("outer"), btf.id_of("outer_t", BtfKind::Typedef));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..Default::default() })]

    #[test]
    fn no_damage_makes_it_panic(changes in prop::collection::vec((0..TINY.len(), any::<u8>()), 1..6), cut in 0..TINY.len()) {
        let mut bytes = TINY.clone();
        changes.iter().for_each(|(at, byte)| bytes[*at] = *byte);
        if changes.len() == 5 {
            bytes.truncate(cut);
        }
        if let Ok(btf) = KernelBtf::parse(bytes) {
            ask_everything(&btf);
        }
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
        let bytes: Vec<u8> = raw::MAGIC.to_ne_bytes().into_iter().chain([1, 0]).chain(bytes).collect();
        if let Ok(btf) = KernelBtf::parse(bytes) {
            ask_everything(&btf);
        }
    }
}

#[test]
fn a_tracepoint_has_a_context_and_its_arguments() {
    let Some(btf) = kernel() else { return };
    // inet_sock_set_state(sk, oldstate, newstate), since 4.16 (include/trace/events/sock.h).
    assert_eq!(btf.parameters_of("btf_trace_inet_sock_set_state").unwrap(), 4);
    assert!(matches!(btf.parameters_of("btf_trace_of_nothing"), Err(BtfError::NoType(_))));
    // A number, and no function.
    assert!(matches!(btf.parameters_of("u32"), Err(BtfError::Damaged(_))));
}

//! Puts the type information of an object into one order.
//!
//! LLVM ends BTF with the types that are declared and not defined, in the order of addresses in its memory
//! (`BTFDebug::endModule` walks a map that is keyed by pointers, LLVM 22). The same build gives another order now and
//! then; sorted by name they are always the same.
use std::{collections::BTreeSet, ops::Range};

use anyhow::{Context, Result, ensure};

const MAGIC: u32 = 0xeb9f;
const FORWARD: u32 = 7;
/// Name, information, and size or type.
const COMMON_WORDS: usize = 3;

/// The same types with the forward declarations at the end sorted by name.
pub(super) fn with_sorted_forwards(btf: &[u8]) -> Result<Vec<u8>> {
    let header = Header::read(btf)?;
    let mut words = words(&btf[header.types.clone()]);
    let mut strings = btf[header.strings.clone()].to_vec();
    let types = types(&words)?;
    let forwards = types.iter().rev().take_while(|kind| kind.is_forward).count();
    let first = types.len() - forwards;

    let mut order: Vec<usize> = (first..types.len()).collect();
    let declaration = |&index: &usize| {
        let at = types[index].at;
        Ok::<_, anyhow::Error>((string(&strings, words[at])?.to_vec(), words[at + 1]))
    };
    let keys = order.iter().map(declaration).collect::<Result<Vec<_>>>()?;
    order.sort_by_key(|index| &keys[index - first]);

    let old = words.clone();
    for (index, &from) in (first..).zip(&order) {
        let (to, from) = (types[index].at, types[from].at);
        words[to..to + COMMON_WORDS].copy_from_slice(&old[from..from + COMMON_WORDS]);
    }
    for &at in types.iter().flat_map(|kind| &kind.references) {
        // Type numbers begin with 1; 0 is void.
        if let Some(place) = order.iter().position(|index| index + 1 == words[at] as usize) {
            words[at] = u32::try_from(first + place + 1)?;
        }
    }
    sort_names(&mut words, &mut strings, &types, first)?;

    let mut sorted = btf.to_vec();
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    sorted[header.types].copy_from_slice(&bytes);
    sorted[header.strings].copy_from_slice(&strings);
    Ok(sorted)
}

/// Names that only the declarations use lie in one piece, in the order in which LLVM met them.
fn sort_names(words: &mut [u32], strings: &mut [u8], types: &[Type], first: usize) -> Result<()> {
    let (others, forwards) = types.split_at(first);
    let shared: BTreeSet<u32> = others.iter().flat_map(|kind| &kind.names).map(|&at| words[at]).collect();
    let own: BTreeSet<u32> = forwards.iter().map(|kind| words[kind.at]).collect();
    let own: Vec<u32> = own.difference(&shared).copied().collect();
    let mut names = Vec::new();
    for (place, &offset) in own.iter().enumerate() {
        let name = string(strings, offset)?.to_vec();
        let end = offset as usize + name.len() + 1;
        let next = own.get(place + 1).map_or(end, |&next| next as usize);
        ensure!(end == next, "names of forward declarations are scattered");
        names.push((name, offset));
    }
    names.sort();
    let mut at = own.first().map_or(0, |&offset| offset as usize);
    let mut moved = Vec::new();
    for (name, offset) in names {
        strings[at..at + name.len()].copy_from_slice(&name);
        strings[at + name.len()] = 0;
        moved.push((offset, u32::try_from(at)?));
        at += name.len() + 1;
    }
    for forward in forwards {
        let name = &mut words[forward.at];
        if let Some((_, to)) = moved.iter().find(|(from, _)| from == name) {
            *name = *to;
        }
    }
    Ok(())
}

struct Header {
    types: Range<usize>,
    strings: Range<usize>,
}

impl Header {
    fn read(btf: &[u8]) -> Result<Self> {
        ensure!(btf.len() >= 24, "BTF is shorter than its header");
        let fields = words(&btf[..24]);
        ensure!(fields[0] & 0xffff == MAGIC, "not BTF in little-endian order");
        let section = |offset: u32, length: u32| {
            let start = fields[1] as usize + offset as usize;
            let range = start..start + length as usize;
            btf.get(range.clone()).map(|_| range).context("BTF is cut short")
        };
        Ok(Self { types: section(fields[2], fields[3])?, strings: section(fields[4], fields[5])? })
    }
}

/// Where in the words of the type section a type begins and speaks of others.
struct Type {
    at: usize,
    is_forward: bool,
    references: Vec<usize>,
    names: Vec<usize>,
}

fn types(words: &[u32]) -> Result<Vec<Type>> {
    let mut types = Vec::new();
    let mut at = 0;
    while at < words.len() {
        let information = *words.get(at + 1).context("a type is cut short")?;
        let (kind, count) = ((information >> 24) & 0x1f, (information & 0xffff) as usize);
        let shape = Shape::of(kind).with_context(|| format!("unknown kind of type {kind}"))?;
        let members = at + COMMON_WORDS;
        let count = if shape.is_counted { count } else { 1 };
        let end = members + count * shape.member_words;
        ensure!(end <= words.len(), "a type is cut short");
        let each = |places: &'static [usize]| {
            let starts = (members..end).step_by(shape.member_words.max(1));
            starts.flat_map(move |start| places.iter().map(move |place| start + place))
        };
        types.push(Type {
            at,
            is_forward: kind == FORWARD,
            references: shape.is_reference.then_some(at + 2).into_iter().chain(each(shape.types)).collect(),
            names: std::iter::once(at).chain(each(shape.names)).collect(),
        });
        at = end;
    }
    Ok(types)
}

/// How a kind of type is laid out (include/uapi/linux/btf.h, Linux 6.18).
struct Shape {
    /// Whether the third word is the number of a type.
    is_reference: bool,
    /// Whether members are counted, or there is exactly one.
    is_counted: bool,
    member_words: usize,
    /// Which words of a member are numbers of types.
    types: &'static [usize],
    /// Which words of a member are names.
    names: &'static [usize],
}

impl Shape {
    #[rustfmt::skip]
    fn of(kind: u32) -> Option<Self> {
        let shape = |is_reference, is_counted, member_words, types, names| {
            Some(Self { is_reference, is_counted, member_words, types, names })
        };
        match kind {
            1 => shape(false, false, 1, &[], &[]),               // integer
            2 | 8..=12 | 18 => shape(true, false, 0, &[], &[]),  // pointer, typedef, qualifiers, function, type tag
            3 => shape(false, false, 3, &[0, 1], &[]),           // array
            4 | 5 => shape(false, true, 3, &[1], &[0]),          // struct, union
            6 => shape(false, true, 2, &[], &[0]),               // enum
            7 | 16 => shape(false, false, 0, &[], &[]),          // forward declaration, float
            13 => shape(true, true, 2, &[1], &[0]),              // function prototype
            14 | 17 => shape(true, false, 1, &[], &[]),          // variable, declaration tag
            15 => shape(false, true, 3, &[0], &[]),              // data section
            19 => shape(false, true, 3, &[], &[0]),              // 64-bit enum
            _ => None,
        }
    }
}

fn words(bytes: &[u8]) -> Vec<u32> {
    let (words, _) = bytes.as_chunks::<4>();
    words.iter().map(|word| u32::from_le_bytes(*word)).collect()
}

fn string(strings: &[u8], offset: u32) -> Result<&[u8]> {
    let rest = strings.get(offset as usize..).context("a name lies outside the strings")?;
    rest.split(|&byte| byte == 0).next().context("a name without an end")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An integer `int`, pointers to each forward declaration in the order given, then the declarations as LLVM might
    /// have ordered them.
    fn btf(pointees: &[&str], declarations: &[&str]) -> Vec<u8> {
        let mut strings = b"\0int\0".to_vec();
        let mut types = vec![1, 1 << 24, 4, 32];
        for pointee in pointees {
            let place = declarations.iter().position(|name| name == pointee).expect("declared");
            types.extend([0, 2 << 24, u32::try_from(1 + pointees.len() + place + 1).expect("small")]);
        }
        for name in declarations {
            types.extend([u32::try_from(strings.len()).expect("small"), FORWARD << 24, 0]);
            strings.extend(name.bytes().chain([0]));
        }
        let (types_len, strings_len) = (types.len() * 4, strings.len());
        let header = [MAGIC | 1 << 16, 24, 0, types_len, types_len, strings_len];
        let mut bytes = Vec::new();
        for word in header.into_iter().chain(types.iter().map(|&word| word as usize)) {
            bytes.extend(u32::try_from(word).expect("small").to_le_bytes());
        }
        bytes.extend(strings);
        bytes
    }

    const MAGIC: usize = super::MAGIC as usize;

    #[test]
    fn any_order_becomes_the_same() {
        let pointees = ["bpf_sock", "bpf_flow_keys", "x"];
        let sorted = btf(&pointees, &["bpf_flow_keys", "bpf_sock", "x"]);
        for order in
            [["bpf_flow_keys", "bpf_sock", "x"], ["bpf_sock", "x", "bpf_flow_keys"], ["x", "bpf_sock", "bpf_flow_keys"]]
        {
            let result = with_sorted_forwards(&btf(&pointees, &order)).expect("valid");
            assert_eq!(result, sorted, "{order:?}");
        }
    }

    #[test]
    fn nothing_to_sort_is_left_alone() {
        for few in [btf(&[], &[]), btf(&["a"], &["a"])] {
            assert_eq!(with_sorted_forwards(&few).expect("valid"), few);
        }
    }

    #[test]
    fn broken_input_is_an_error() {
        let good = btf(&["a", "b"], &["b", "a"]);
        assert!(with_sorted_forwards(&good[..good.len() - 1]).is_err());
        assert!(with_sorted_forwards(&good[..20]).is_err());
        let mut unknown_kind = good.clone();
        unknown_kind[31] = 31;
        assert!(with_sorted_forwards(&unknown_kind).is_err());
        for cut in 0..good.len() {
            _ = with_sorted_forwards(&good[..cut]);
        }
    }
}

//! Loading a program that modifies what a function of the kernel returns (BPF_MODIFY_RETURN, kernel/bpf/trampoline.c,
//! Linux 5.7 to 6.18), for which aya has no type: an object with such programs is taken apart by aya-obj and handed to
//! bpf(2) here. Its programs are in sections that are named for fexit, which aya-obj knows.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::{CStr, c_char};
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};

use aya::maps::MapData;
use aya_obj::generated::{bpf_attach_type, bpf_attr, bpf_cmd, bpf_insn, bpf_prog_type};
use aya_obj::{EbpfSectionKind, Object};

use super::features::syscall::{call, call_for_fd, empty, load_despite_signals};

/// Room for what the verifier says.
const LOG_LEN: usize = 1 << 16;

/// Bytes of a program's name, without its end (BPF_OBJ_NAME_LEN, include/uapi/linux/bpf.h).
const NAME_LEN: usize = 15;

/// Why the program is not in force.
#[derive(Debug, thiserror::Error)]
pub enum TracingError {
    /// The object is not what this loader expects.
    #[error("the eBPF object cannot be used: {0}")]
    Object(String),
    /// A map could not be made.
    #[error("the kernel made no map {name}: {error}")]
    Map {
        /// Name of the map.
        name: String,
        /// What the call says.
        error: String,
    },
    /// The kernel refused the program.
    #[error("this kernel refuses programs that modify a return value: {error}{}{log}", if log.is_empty() { "" } else { "\n" })]
    Refused {
        /// Of the system call: `EPERM` without CAP_BPF and CAP_PERFMON, and on kernels that are built to refuse them.
        error: io::Error,
        /// What the verifier says; empty where the program never came so far.
        log: String,
    },
    /// The program was loaded and could not be attached.
    #[error("the kernel does not attach the program: {0}")]
    NotAttached(#[source] io::Error),
}

/// A program that is loaded, and in force nowhere yet.
#[derive(Debug)]
pub struct Loaded {
    program: OwnedFd,
    maps: BTreeMap<String, MapData>,
}

/// Keeps the program in force; once it is dropped, the function is the kernel's own again.
#[derive(Debug)]
pub struct Attached {
    _link: OwnedFd,
}

impl Loaded {
    /// Loads the program `name` of `object` for the kernel's function of the type number `function`, with the values of its
    /// read-only globals.
    ///
    /// # Errors
    /// See [`TracingError`].
    pub fn modify_return(
        object: &[u8],
        name: &str,
        globals: &[(&str, &[u8])],
        function: u32,
    ) -> Result<Loaded, TracingError> {
        let mut object = Object::parse(object).map_err(unusable)?;
        let globals: HashMap<_, _> = globals.iter().map(|(name, value)| (*name, (*value, true))).collect();
        object.patch_map_data(globals).map_err(unusable)?;
        let maps = make_maps(&object)?;
        let fds = maps.iter().map(|(name, map)| (name.as_str(), map.fd().as_fd().as_raw_fd()));
        let kinds = object.maps.clone();
        let placed = fds.filter_map(|(name, fd)| Some((name, fd, kinds.get(name)?)));
        // What is called and never taken the address of: the compiler's own functions, such as memset.
        let called: HashSet<usize> = object.functions.keys().map(|(section, _)| *section).collect();
        object.relocate_maps(placed, &called).map_err(unusable)?;
        object.relocate_calls(&called).map_err(unusable)?;
        let program = object.programs.get(name).ok_or_else(|| unusable(format!("it has no program {name}")))?;
        let instructions = &object.functions[&program.function_key()].instructions;
        Ok(Loaded { program: load(name, instructions, &object.license, function)?, maps })
    }

    /// Takes a map out, to be read and written.
    ///
    /// # Errors
    /// [`TracingError::Object`] if there is none.
    pub fn take_map(&mut self, name: &str) -> Result<MapData, TracingError> {
        self.maps.remove(name).ok_or_else(|| unusable(format!("it has no map {name}")))
    }

    /// Puts the program in force.
    ///
    /// # Errors
    /// [`TracingError::NotAttached`], for instance when too many programs are on this function already.
    pub fn attach(&self) -> Result<Attached, TracingError> {
        let mut attr = empty();
        attr.link_create.__bindgen_anon_1.prog_fd = self.program.as_raw_fd().cast_unsigned();
        attr.link_create.attach_type = bpf_attach_type::BPF_MODIFY_RETURN as u32;
        // SAFETY: a link's attributes hold no pointers, and the command gives a descriptor.
        let link = unsafe { call_for_fd(bpf_cmd::BPF_LINK_CREATE, &mut attr) };
        Ok(Attached { _link: link.map_err(TracingError::NotAttached)? })
    }
}

fn unusable(error: impl ToString) -> TracingError {
    TracingError::Object(error.to_string())
}

fn make_maps(object: &Object) -> Result<BTreeMap<String, MapData>, TracingError> {
    let make = |(name, map): (&String, &aya_obj::Map)| {
        let failed = |error: String| TracingError::Map { name: name.clone(), error };
        let made = MapData::create(map.clone(), name, None);
        let made = made.map_err(|error| failed(format!("{:#}", anyhow::Error::from(error))))?;
        if map.section_kind() == EbpfSectionKind::Rodata {
            fill_and_freeze(made.fd().as_fd(), map.data()).map_err(|error| failed(error.to_string()))?;
        }
        Ok((name.clone(), made))
    };
    object.maps.iter().map(make).collect()
}

/// Writes the only value of an array, for good: the verifier then takes it for a constant.
fn fill_and_freeze(map: BorrowedFd<'_>, value: &[u8]) -> io::Result<()> {
    let key = 0_u32;
    let mut attr = element(map);
    // SAFETY: `attr` is all zeroes but for the map's descriptor, so that this is the member of the union that is in use.
    let entry = unsafe { &mut attr.__bindgen_anon_2 };
    entry.key = (&raw const key) as u64;
    entry.__bindgen_anon_1.value = value.as_ptr() as u64;
    // SAFETY: key and value outlive the call, and have the sizes that the map was made with.
    unsafe { call(bpf_cmd::BPF_MAP_UPDATE_ELEM, &mut attr) }?;
    // SAFETY: nothing but the descriptor is read of the attributes.
    unsafe { call(bpf_cmd::BPF_MAP_FREEZE, &mut element(map)) }.map(drop)
}

fn element(map: BorrowedFd<'_>) -> bpf_attr {
    let mut attr = empty();
    attr.__bindgen_anon_2.map_fd = map.as_raw_fd().cast_unsigned();
    attr
}

/// BPF_PROG_LOAD without type information of the program, which only programs of several functions need.
fn load(name: &str, instructions: &[bpf_insn], license: &CStr, function: u32) -> Result<OwnedFd, TracingError> {
    let mut log = vec![0_u8; LOG_LEN];
    let mut attr = empty();
    // SAFETY: `attr` is all zeroes, which every member of the union accepts.
    let program = unsafe { &mut attr.__bindgen_anon_3 };
    program.prog_type = bpf_prog_type::BPF_PROG_TYPE_TRACING as u32;
    program.expected_attach_type = bpf_attach_type::BPF_MODIFY_RETURN as u32;
    program.attach_btf_id = function;
    program.insns = instructions.as_ptr() as u64;
    program.insn_cnt = instructions.len() as u32;
    program.license = license.as_ptr() as u64;
    // What bpftool shows; the last byte stays zero.
    for (to, from) in program.prog_name.iter_mut().take(NAME_LEN).zip(name.bytes()) {
        *to = from as c_char;
    }
    (program.log_buf, program.log_size, program.log_level) = (log.as_mut_ptr() as u64, log.len() as u32, 1);
    // SAFETY: instructions, license and log outlive the call, and their lengths are those given; the command gives a
    // descriptor.
    let loaded =
        load_despite_signals(|| unsafe { call_for_fd(bpf_cmd::BPF_PROG_LOAD, &mut attr) }, io::Error::raw_os_error);
    loaded.map_err(|error| {
        let log = CStr::from_bytes_until_nul(&log).map(CStr::to_string_lossy).unwrap_or_default();
        TracingError::Refused { error, log: log.trim().to_owned() }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_object_or_lacks_the_program_is_said() {
        let refused = |object: &[u8], name: &str| match Loaded::modify_return(object, name, &[], 1) {
            Err(TracingError::Object(reason)) => reason,
            other => panic!("{other:?}"),
        };
        assert!(!refused(b"no object", "x").is_empty());
        let absent = Loaded::modify_return(super::super::force::OBJECT, "no_such", &[("NO_SUCH", &[0])], 1);
        assert!(matches!(absent, Err(TracingError::Object(reason)) if reason.contains("NO_SUCH")));
    }
}

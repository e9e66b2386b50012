//! What tells this run of the machine from every other one.

use std::io;

/// The running kernel's own name for this boot: a random UUID, made anew at each (proc_do_uuid, drivers/char/random.c, Linux
/// 6.18). Indices of interfaces, tokens and cookies of namespaces mean something only together with it.
pub fn boot_id() -> io::Result<String> {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    Ok(text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_a_uuid_and_stays() {
        let id = boot_id().expect("every kernel has one");
        assert_eq!((id.len(), id.matches('-').count()), (36, 4), "{id}");
        assert_eq!(boot_id().expect("every kernel has one"), id);
    }
}

//! `mpsec completions` and `mpsec man`: what packages install beside the program, made from the same command line.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use clap::Args;

/// `mpsec completions`.
#[derive(Debug, Args)]
pub struct CompletionsArgs {
    /// The shell that is to complete
    pub shell: clap_complete::Shell,
}

/// `mpsec man`.
#[derive(Debug, Args)]
pub struct ManArgs {
    /// The folder to write to, which is made if it is not there
    pub directory: PathBuf,
}

/// The script that completes `mpsec` in this shell.
#[must_use]
pub fn completions(shell: clap_complete::Shell, mut command: clap::Command) -> String {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command, "mpsec", &mut script);
    String::from_utf8_lossy(&script).into_owned()
}

/// Writes a manual page for `mpsec` and for each of its subcommands.
///
/// # Errors
/// What the file system says.
pub fn manual(directory: &Path, command: clap::Command) -> io::Result<()> {
    fs::create_dir_all(directory)?;
    clap_mangen::generate_to(command, directory)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli;

    #[test]
    fn each_shell_has_a_script_that_knows_subcommands_and_settings() {
        for shell in [clap_complete::Shell::Bash, clap_complete::Shell::Zsh, clap_complete::Shell::Fish] {
            let script = completions(shell, cli::command("test"));
            for word in ["doctor", "control-socket", "path-manager"] {
                assert!(script.contains(word), "{shell} does not complete {word}");
            }
        }
    }

    #[test]
    fn each_subcommand_has_a_page() {
        let folder = tempfile::tempdir().expect("a folder");
        manual(folder.path(), cli::command("test")).expect("pages");
        for subcommand in cli::command("test").get_subcommands() {
            let page = folder.path().join(format!("mpsec-{}.1", subcommand.get_name()));
            let text = fs::read_to_string(&page).unwrap_or_else(|error| panic!("{}: {error}", page.display()));
            assert!(text.contains(".TH mpsec"), "{text}");
        }
        let run = fs::read_to_string(folder.path().join("mpsec-run.1")).expect("a page of the agent");
        assert!(run.contains("metrics on") || run.contains("listen"), "settings are told");
    }
}

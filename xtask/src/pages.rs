//! Man pages and completions of the programs, made from what their command lines are.

use anyhow::{Context, Result};
use clap_complete::Shell;
use clap_mangen::Man;
use control::cli::{self, completions};
use std::fs;
use std::path::{Path, PathBuf};

/// The section of the programs and of their subcommands. All of them are for root.
const SECTION: &str = "8";
/// The shells that are completed in.
const SHELLS: [Shell; 3] = [Shell::Bash, Shell::Zsh, Shell::Fish];

/// How the file with a program's completions is called, for the shell to find it.
fn file_name(shell: Shell, program: &str) -> String {
    match shell {
        Shell::Zsh => format!("_{program}"),
        Shell::Fish => format!("{program}.fish"),
        _ => program.to_owned(),
    }
}

/// Writes `man/PROGRAM.8`, `man/PROGRAM-SUBCOMMAND.8` and `completions/SHELL/...` of all programs
/// below a directory, and tells which files those are.
///
/// The same programs make the same bytes.
///
/// # Errors
/// What the system answered.
pub fn write(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut written = Vec::new();
    let mut put = |path: PathBuf, bytes: &[u8]| -> Result<()> {
        let parent = path.parent().unwrap_or(directory);
        fs::create_dir_all(parent).with_context(|| format!("making {}", parent.display()))?;
        fs::write(&path, bytes).with_context(|| format!("writing {}", path.display()))?;
        written.push(path);
        Ok(())
    };
    for command in cli::commands() {
        let program = command.get_name().to_owned();
        for (name, page) in pages(command.clone())? {
            put(
                directory.join("man").join(format!("{name}.{SECTION}")),
                &page,
            )?;
        }
        for shell in SHELLS {
            let path = directory
                .join("completions")
                .join(shell.to_string())
                .join(file_name(shell, &program));
            put(path, completions::of(&command, shell).as_bytes())?;
        }
    }
    Ok(written)
}

/// A program's pages, one for it and one for each subcommand however deep.
fn pages(command: clap::Command) -> Result<Vec<(String, Vec<u8>)>> {
    // Makes usage lines and global options known to the subcommands.
    let mut command = command.disable_help_subcommand(true);
    command.build();
    let mut pages = Vec::new();
    let name = command.get_name().to_owned();
    render(command, &name, &mut pages)?;
    Ok(pages)
}

fn render(command: clap::Command, name: &str, pages: &mut Vec<(String, Vec<u8>)>) -> Result<()> {
    for subcommand in command.get_subcommands() {
        if !subcommand.is_hide_set() {
            let name = format!("{name}-{}", subcommand.get_name());
            render(subcommand.clone(), &name, pages)?;
        }
    }
    let source = format!("Portcullis {}", env!("CARGO_PKG_VERSION"));
    let page = Man::new(command)
        .title(name.to_uppercase())
        .section(SECTION)
        .source(source)
        .manual("Portcullis")
        .date("");
    let mut text = Vec::new();
    page.render(&mut text)
        .with_context(|| format!("making the page {name}"))?;
    pages.push((name.to_owned(), text));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn every_subcommand_has_a_page_that_man_can_read_and_they_are_the_same_each_time() {
        let first = tempfile::tempdir().unwrap();
        let second = tempfile::tempdir().unwrap();
        let files = write(first.path()).unwrap();
        assert_eq!(files.len(), write(second.path()).unwrap().len());
        for file in &files {
            let name = file.strip_prefix(first.path()).unwrap();
            let bytes = fs::read(file).unwrap();
            assert_eq!(bytes, fs::read(second.path().join(name)).unwrap());
        }
        for page in [
            "man/portcullis.8",
            "man/portcullis-workstation-add.8",
            "man/portcullis-agent-enroll.8",
            "man/portcullisd.8",
            "completions/bash/portcullis",
            "completions/zsh/_portcullis-agent",
            "completions/fish/portcullisd.fish",
        ] {
            assert!(first.path().join(page).exists(), "{page}");
        }
        let add =
            fs::read_to_string(first.path().join("man/portcullis-workstation-add.8")).unwrap();
        assert!(add.contains(".TH PORTCULLIS-WORKSTATION-ADD 8"), "{add}");
        assert!(add.contains("Examples:"), "{add}");
    }

    #[test]
    fn a_shell_that_reads_the_completions_asks_the_program_that_is_in_the_path() {
        let directory = tempfile::tempdir().unwrap();
        write(directory.path()).unwrap();
        let file = directory.path().join("completions/bash/portcullis");
        // Stands for the program: it says what it is asked.
        let script = format!(
            "portcullis() {{ echo \"$COMPLETE:$*\"; }}; source {}; \
             COMP_WORDS=(portcullis workstation ro); COMP_CWORD=2; COMP_TYPE=9; \
             _clap_complete_portcullis portcullis ro workstation; echo \"${{COMPREPLY[*]}}\"",
            file.display()
        );
        let output = Command::new("bash").args(["-c", &script]).output().unwrap();
        assert_eq!(
            String::from_utf8_lossy(&output.stdout).trim(),
            "bash:-- portcullis workstation ro",
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        let text = |name| fs::read_to_string(directory.path().join(name)).unwrap();
        let zsh = text("completions/zsh/_portcullis-agent");
        assert!(zsh.starts_with("#compdef portcullis-agent"), "{zsh}");
        let fish = text("completions/fish/portcullisd.fish");
        assert!(
            fish.contains("COMPLETE=fish") && fish.contains("portcullisd"),
            "{fish}"
        );
    }
}

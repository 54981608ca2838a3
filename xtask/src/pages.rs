//! Man pages and completions of the programs, made from what their command lines are.

use anyhow::{Context, Result};
use clap::builder::Resettable;
use clap_complete::Shell;
use clap_mangen::Man;
use control::cli::help::{Block, blocks};
use control::cli::{self, completions};
use std::fmt::Write as _;
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
    let programs = cli::commands().map(|other| other.get_name().to_owned());
    let others: Vec<_> = programs
        .into_iter()
        .filter(|other| *other != name)
        .collect();
    render(command, &name, &others, &mut pages)?;
    Ok(pages)
}

fn render(
    command: clap::Command,
    name: &str,
    related: &[String],
    pages: &mut Vec<(String, Vec<u8>)>,
) -> Result<()> {
    let shown = command.get_subcommands().filter(|one| !one.is_hide_set());
    let below: Vec<_> = shown
        .map(|one| (one, format!("{name}-{}", one.get_name())))
        .collect();
    for (subcommand, own) in &below {
        let siblings = below.iter().map(|(_, other)| other);
        let siblings = siblings.filter(|other| *other != own);
        let related: Vec<_> = std::iter::once(name.to_owned())
            .chain(siblings.cloned())
            .collect();
        render((*subcommand).clone(), own, &related, pages)?;
    }
    let help = command.get_after_help().map(ToString::to_string);
    let source = format!("Portcullis {}", env!("CARGO_PKG_VERSION"));
    // What stands below the arguments it would fill like prose, examples too; and the version is in the footer.
    let command = command
        .after_help(Resettable::Reset)
        .version(Resettable::Reset);
    let page = Man::new(command)
        .title(name.to_uppercase())
        .section(SECTION)
        .source(source)
        .manual("Portcullis")
        .date("");
    let mut text = Vec::new();
    page.render(&mut text)
        .with_context(|| format!("making the page {name}"))?;
    text.extend(rest(&help.unwrap_or_default(), related).into_bytes());
    pages.push((name.to_owned(), text));
    Ok(())
}

/// The sections that end a page: of what stands below the arguments in the help, and where else to look.
fn rest(help: &str, related: &[String]) -> String {
    let (mut codes, mut notes, mut examples) = (String::new(), String::new(), String::new());
    for block in blocks(help) {
        match block {
            Block::ExitCodes(of_all, meanings) => {
                if !of_all.is_empty() {
                    let (first, rest) = of_all.split_at(1);
                    codes += &format!("{}{}.\n", first.to_uppercase(), escaped(rest));
                }
                for (code, meaning) in meanings {
                    codes += &format!(".TP\n{code}\n{}\n", escaped(&meaning));
                }
            }
            Block::Prose(lines) => lines.iter().for_each(|line| notes += &prose(line)),
            Block::Examples(heading, lines) => {
                // The section is called that already.
                if !["Example:", "Examples:"].contains(&heading) {
                    examples += &format!(".PP\n{}\n", escaped(heading));
                }
                examples += ".PP\n.EX\n";
                for line in lines {
                    examples += &(escaped(line) + "\n");
                }
                examples += ".EE\n";
            }
        }
    }
    let mut text = String::new();
    for (section, content) in [
        ("\"EXIT STATUS\"", codes),
        ("NOTES", notes),
        ("EXAMPLES", examples),
    ] {
        if !content.is_empty() {
            let _ = write!(text, ".SH {section}\n{content}");
        }
    }
    text += ".SH \"SEE ALSO\"\n";
    for (at, name) in related.iter().enumerate() {
        let comma = if at + 1 < related.len() { "," } else { "" };
        let _ = writeln!(text, ".BR {} ({SECTION}){comma}", escaped(name));
    }
    text
}

/// A paragraph; or a line of a list, whose entries stand below what they are about.
fn prose(line: &str) -> String {
    let text = escaped(line.trim_start());
    match line.len() - line.trim_start().len() {
        0 => format!(".PP\n{text}\n"),
        2 => format!(".TP\n{text}\n"),
        _ => text + "\n",
    }
}

/// Text for roff: each character is printed as it is, and can be copied into a shell.
fn escaped(text: &str) -> String {
    let mut all = String::new();
    // A line that begins so would be a request.
    if text.starts_with(['.', '\'']) {
        all += "\\&";
    }
    for one in text.chars() {
        match one {
            '\\' => all += "\\(rs",
            '-' => all += "\\-",
            '\'' => all += "\\(aq",
            '`' => all += "\\(ga",
            '^' => all += "\\(ha",
            '~' => all += "\\(ti",
            other => all.push(other),
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use control::cli::help;
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
        assert!(!add.contains("EXTRA"), "{add}");
        assert!(
            add.contains("\n.SH EXAMPLES\n.PP\n.EX\nportcullis "),
            "{add}"
        );
        assert!(add.contains("\\-\\-output"), "{add}");
        assert!(
            add.contains("\n.BR portcullis\\-workstation\\-rotate (8)"),
            "{add}"
        );
        let status = fs::read_to_string(first.path().join("man/portcullis-status.8")).unwrap();
        assert!(
            status.contains("\n.SH \"EXIT STATUS\"\nThose of monitoring plugins.\n.TP\n0\n"),
            "{status}"
        );
    }

    /// A page as it is shown in a terminal of 80 columns.
    fn shown(page: &Path) -> String {
        let output = Command::new("groff")
            .args(["-man", "-Tascii", "-ww", "-rLL=80n", "-P-cbou"])
            .arg(page)
            .output()
            .expect("groff is not there: `./run setup` installs it (apt-get install groff-base)");
        let warnings = String::from_utf8_lossy(&output.stderr);
        assert!(warnings.is_empty(), "{}: {warnings}", page.display());
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn assert_whole(command: &clap::Command, name: &str, man: &Path) {
        let text = shown(&man.join(format!("{name}.{SECTION}")));
        let lines: Vec<_> = text.lines().map(str::trim).collect();
        let help = command.get_after_help().map(ToString::to_string);
        let help = help.unwrap_or_default();
        assert!(!help::examples(&help).is_empty(), "{name}");
        for example in help::examples(&help) {
            assert!(lines.contains(&example), "{name}: {example}: {text}");
        }
        let below = command.get_subcommands().filter(|one| !one.is_hide_set());
        for one in below.filter(|one| one.get_name() != "help") {
            assert_whole(one, &format!("{name}-{}", one.get_name()), man);
        }
    }

    #[test]
    fn an_example_stands_on_its_page_as_it_is_typed_and_in_one_line() {
        let directory = tempfile::tempdir().unwrap();
        write(directory.path()).unwrap();
        for command in cli::commands() {
            let name = command.get_name().to_owned();
            assert_whole(&command, &name, &directory.path().join("man"));
        }
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

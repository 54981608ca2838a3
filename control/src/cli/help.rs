//! What stands below the arguments on a help page: examples, exit codes, and prose, each a block with an
//! empty line before the next.
//!
//! A paragraph is one line, which clap wraps at the width there is. A line of an example is never wrapped at
//! 80 columns, so that it can be run as it stands: what explains it is a comment of the shell's, behind it or
//! on a line above. Man pages ([`blocks`]) and the tests that run every example ([`examples`]) read it again.

/// A block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Block<'a> {
    /// Lines for a shell, below what announces them.
    Examples(&'a str, Vec<&'a str>),
    /// What the program ends with: what is said of all, then each code with its meaning.
    ExitCodes(&'a str, Vec<(&'a str, String)>),
    /// Anything else.
    Prose(Vec<&'a str>),
}

/// The blocks of what stands below the arguments.
pub fn blocks(help: &str) -> Vec<Block<'_>> {
    help.split("\n\n").map(block).collect()
}

fn block(text: &str) -> Block<'_> {
    let mut lines = text.lines();
    let first = lines.next().unwrap_or_default();
    if first.starts_with("Example") || first.starts_with("Then on ") {
        let examples = lines.map(|line| line.strip_prefix("  ").unwrap_or(line));
        return Block::Examples(first, examples.collect());
    }
    if let Some(rest) = first.strip_prefix("Exit codes") {
        let of_all = rest.trim_matches([' ', ':', '(', ')']);
        let mut codes: Vec<(&str, String)> = Vec::new();
        for line in lines {
            match (line.trim().split_once("  "), codes.last_mut()) {
                (Some((code, meaning)), _) => codes.push((code, meaning.to_owned())),
                (None, Some((_, meaning))) => *meaning += &format!(" {}", line.trim()),
                (None, None) => {}
            }
        }
        return Block::ExitCodes(of_all, codes);
    }
    Block::Prose(text.lines().collect())
}

/// The examples, each as it is to be run.
pub fn examples(help: &str) -> Vec<&str> {
    let lines = blocks(help).into_iter().flat_map(|block| match block {
        Block::Examples(_, lines) => lines,
        Block::ExitCodes(..) | Block::Prose(_) => Vec::new(),
    });
    lines.filter(|line| !line.starts_with('#')).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn examples_exit_codes_and_prose_are_told_apart() {
        let help = "Columns:\n  port: one\n\nExamples:\n  a b    # why\n  # what for\n  c | d '$1'\n\n\
                    Then on the other:\n  e\n\nExit codes (of monitoring):\n  0  fine\n  1  odd: see\n     there";
        assert_eq!(examples(help), ["a b    # why", "c | d '$1'", "e"]);
        let blocks = blocks(help);
        assert_eq!(blocks[0], Block::Prose(vec!["Columns:", "  port: one"]));
        let codes = vec![("0", "fine".to_owned()), ("1", "odd: see there".to_owned())];
        assert_eq!(blocks[3], Block::ExitCodes("of monitoring", codes));
    }
}

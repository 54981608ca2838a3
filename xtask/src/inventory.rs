//! The inventory of `unsafe` in docs/unsafe.md, held against the tree: every file that has any, how
//! often, and what for.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};

/// Where the inventory is.
const PAGE: &str = "docs/unsafe.md";
/// The crates.
const CRATES: [&str; 6] = ["wire", "ebpf", "dataplane", "control", "benches", "xtask"];
/// What stands in the place of a reason that is still to be given.
const MISSING: &str = "?";

/// How often each file says `unsafe`, by its path from the root.
///
/// # Errors
/// When a file cannot be read.
pub fn of_tree(root: &Path) -> Result<BTreeMap<String, usize>> {
    let mut found = BTreeMap::new();
    for name in CRATES {
        search(root, &root.join(name), &mut found)?;
    }
    Ok(found)
}

fn search(root: &Path, directory: &Path, found: &mut BTreeMap<String, usize>) -> Result<()> {
    let entries = fs::read_dir(directory)
        .with_context(|| format!("looking for sources in {}", directory.display()))?;
    for entry in entries {
        let path = entry?.path();
        if path.is_dir() {
            if path.file_name().is_some_and(|name| name != "target") {
                search(root, &path, found)?;
            }
        } else if path.extension().is_some_and(|extension| extension == "rs")
            && !path.ends_with(file!())
        {
            // (This file has none, and speaks of little else.)
            let text =
                fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
            let count = count(&text);
            if count > 0 {
                let name = path.strip_prefix(root)?.display().to_string();
                found.insert(name, count);
            }
        }
    }
    Ok(())
}

/// Blocks, functions, implementations and attributes that are `unsafe`, outside of comments.
fn count(text: &str) -> usize {
    let code = text
        .lines()
        .map(|line| line.split("//").next().unwrap_or(""));
    code.map(|line| {
        let words: Vec<&str> = line
            .split(|c: char| c.is_whitespace() || c == '(')
            .filter(|word| !word.is_empty())
            .collect();
        let said =
            |at: usize| words[at].ends_with("unsafe") && !words[at].contains(['"', '`', '_']);
        (0..words.len()).filter(|at| said(*at)).count()
    })
    .sum()
}

/// The rows of the page: count and reason by file.
fn of_page(text: &str) -> BTreeMap<String, (usize, String)> {
    let rows = text.lines().filter_map(|line| {
        let mut cells = line.trim().trim_matches('|').split('|').map(str::trim);
        let file = cells.next()?.strip_prefix('`')?.strip_suffix('`')?;
        let count = cells.next()?.parse().ok()?;
        Some((file.to_owned(), (count, cells.next()?.to_owned())))
    });
    rows.collect()
}

/// Whether the page is true.
///
/// # Errors
/// What is not, and how to mend it.
pub fn check(root: &Path) -> Result<()> {
    let page = of_page(&fs::read_to_string(root.join(PAGE)).context(PAGE)?);
    let tree = of_tree(root)?;
    let mut wrong = Vec::new();
    for (file, count) in &tree {
        match page.get(file) {
            None => wrong.push(format!("{file} has {count} and is not listed")),
            Some((listed, _)) if listed != count => {
                wrong.push(format!("{file} has {count}, not {listed}"));
            }
            Some((_, reason)) if reason.is_empty() || reason == MISSING => {
                wrong.push(format!("{file} is listed without a reason"));
            }
            Some(_) => {}
        }
    }
    let gone = page.keys().filter(|file| !tree.contains_key(*file));
    wrong.extend(gone.map(|file| format!("{file} is listed and has none")));
    ensure!(
        wrong.is_empty(),
        "{PAGE} is not true any more ({}); `cargo xtask unsafe` counts again, and leaves a ? where a reason is to be given",
        wrong.join("; ")
    );
    Ok(())
}

/// Counts again and writes the page's table, with the reasons it had.
///
/// # Errors
/// When a file cannot be read or written.
pub fn write(root: &Path) -> Result<()> {
    let path = root.join(PAGE);
    let text = fs::read_to_string(&path).context(PAGE)?;
    let known = of_page(&text);
    let head = text.lines().take_while(|line| !line.starts_with("| `"));
    let mut new: Vec<String> = head.map(str::to_owned).collect();
    for (file, count) in of_tree(root)? {
        let reason = known.get(&file).map_or(MISSING, |(_, reason)| reason);
        new.push(format!("| `{file}` | {count} | {reason} |"));
    }
    fs::write(&path, new.join("\n") + "\n").with_context(|| format!("writing {PAGE}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_inventory_of_unsafe_equals_the_tree() {
        check(&crate::tasks::root().unwrap()).unwrap();
    }

    #[test]
    fn code_is_counted_and_what_is_said_of_it_is_not() {
        let text = "unsafe impl Send for A {}\n// unsafe {\nlet a = unsafe { b() };\n#[unsafe(no_mangle)]\n\
                    let close = |x| unsafe { close(x) }; let c = \"unsafe\"; // unsafe\n#![deny(unsafe_code)]\n";
        assert_eq!(count(text), 4);
    }

    #[test]
    fn a_page_that_lies_is_found_out() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        for name in CRATES {
            fs::create_dir_all(root.join(name)).unwrap();
        }
        fs::create_dir(root.join("docs")).unwrap();
        fs::write(root.join("wire/a.rs"), "unsafe { b() }\n").unwrap();
        let lists = |row: &str| {
            fs::write(
                root.join(PAGE),
                format!("| file | n | what for |\n|---|---|---|\n{row}\n"),
            )
            .unwrap();
            check(root).map_err(|error| error.to_string())
        };
        lists("| `wire/a.rs` | 1 | it must |").unwrap();
        assert!(lists("").unwrap_err().contains("not listed"));
        assert!(
            lists("| `wire/a.rs` | 2 | it must |")
                .unwrap_err()
                .contains("has 1, not 2")
        );
        assert!(
            lists("| `wire/a.rs` | 1 | ? |")
                .unwrap_err()
                .contains("without a reason")
        );
        let gone = "| `wire/a.rs` | 1 | it must |\n| `wire/b.rs` | 1 | it must |";
        assert!(lists(gone).unwrap_err().contains("has none"));
        lists("").unwrap_err();
        write(root).unwrap();
        assert!(
            check(root)
                .unwrap_err()
                .to_string()
                .contains("without a reason")
        );
    }
}

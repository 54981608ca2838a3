//! The recipes of docs/operations.md, so that they can be run as they stand there.

use anyhow::{Context, Result};

/// A block of shell, and the machine it is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    /// The machine's name.
    pub machine: String,
    /// The lines.
    pub text: String,
}

/// The blocks of a recipe, in their order. They are fenced as `sh MACHINE`.
///
/// # Errors
/// There is no such recipe, or it has nothing to run.
pub fn blocks(document: &str, title: &str) -> Result<Vec<Block>> {
    let heading = format!("### {title}\n");
    let (_, rest) = document
        .split_once(&heading)
        .with_context(|| format!("docs/operations.md has no recipe `{title}`"))?;
    let recipe = rest.split("\n## ").next().unwrap_or(rest);
    let recipe = recipe.split("\n### ").next().unwrap_or(recipe);
    let fences = recipe.split("```sh ").skip(1);
    let blocks: Vec<Block> = fences
        .filter_map(|fence| {
            let (machine, rest) = fence.split_once('\n')?;
            let (text, _) = rest.split_once("```")?;
            Some(Block {
                machine: machine.to_owned(),
                text: text.to_owned(),
            })
        })
        .collect();
    (!blocks.is_empty())
        .then_some(blocks)
        .with_context(|| format!("the recipe `{title}` has nothing to run"))
}

/// The titles of all recipes.
pub fn titles(document: &str) -> Vec<&str> {
    let recipes = document
        .split_once("\n## Recipes\n")
        .map_or("", |(_, rest)| rest);
    let recipes = recipes.split("\n## ").next().unwrap_or("");
    recipes
        .lines()
        .filter_map(|line| line.strip_prefix("### "))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recipes_blocks_are_its_own_in_their_order() {
        let text = "\n## Recipes\n### One\n```sh a\nx\n```\nand\n```sh b\ny\nz\n```\n### Two\n```sh c\nw\n```\n## Else\n### Three\n";
        let of = |title| blocks(text, title).unwrap();
        let block = |machine: &str, text: &str| Block {
            machine: machine.into(),
            text: text.into(),
        };
        assert_eq!(of("One"), [block("a", "x\n"), block("b", "y\nz\n")]);
        assert_eq!(of("Two"), [block("c", "w\n")]);
        assert!(blocks(text, "Three").is_err());
        assert_eq!(titles(text), ["One", "Two"]);
    }
}

//! The files of Workstations as they lie in their directory: those that can be used, and those that cannot.

use super::{Broken, EXTENSION, Name, Registry, Workstation};
use crate::files;
use crate::keys::KeyId;
use crate::problem::{Kind, Problem};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs;
use std::net::IpAddr;
use std::path::Path;

impl Registry {
    pub(super) fn read_directory(
        &self,
    ) -> Result<(BTreeMap<Name, Workstation>, Vec<Broken>), Problem> {
        let tried = format!("reading the directory {}", self.directory.display());
        let io = |error| Problem::io(&tried, &error);
        files::check_directory(&self.directory)?;
        let mut found = BTreeMap::new();
        let mut broken = Vec::new();
        let mut paths = Vec::new();
        for entry in fs::read_dir(&self.directory).map_err(io)? {
            let path = entry.map_err(io)?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            // Editors leave hidden files and copies; only NAME.toml counts.
            if !name.starts_with('.') && path.extension().is_some_and(|e| e == EXTENSION) {
                paths.push(path);
            }
        }
        paths.sort();
        for path in paths {
            match self.read_workstation(&path) {
                Ok(workstation) => {
                    found.insert(workstation.name.clone(), workstation);
                }
                Err(problem) => broken.push(Broken {
                    name: stem(&path),
                    problem,
                    reserved: mentioned_in(&path),
                }),
            }
        }
        for (name, problem) in conflicts(&found) {
            if let Some(workstation) = found.remove(&name) {
                broken.push(Broken {
                    name: name.to_string(),
                    problem,
                    reserved: (
                        workstation.addresses().collect(),
                        workstation.key_ids().collect(),
                    ),
                });
            }
        }
        Ok((found, broken))
    }

    fn read_workstation(&self, path: &Path) -> Result<Workstation, Problem> {
        let text = files::read_secret(path)?;
        let workstation = Workstation::parse(path, &text)?;
        let tried = format!("reading {}", path.display());
        for address in workstation.addresses() {
            self.check_address(&tried, address)?;
        }
        match &workstation.port {
            Some(port) if !self.ports.contains(port) => Err(self.no_such_port(tried, port)),
            _ => Ok(workstation),
        }
    }
}

fn stem(path: &Path) -> String {
    path.file_stem()
        .unwrap_or_default()
        .to_string_lossy()
        .into()
}

/// Addresses and key ids that stand in quotes in a file, however broken it is.
fn mentioned_in(path: &Path) -> (Vec<IpAddr>, Vec<KeyId>) {
    let Ok(text) = files::read(path) else {
        return Default::default();
    };
    let quoted = || text.split(['"', '\'']).skip(1).step_by(2);
    (
        quoted().filter_map(|word| word.parse().ok()).collect(),
        quoted().filter_map(|word| word.parse().ok()).collect(),
    )
}

/// Workstations that share what each must have to itself. All of them are off: which of them is the
/// right one cannot be known.
fn conflicts(found: &BTreeMap<Name, Workstation>) -> Vec<(Name, Problem)> {
    let mut owners: HashMap<String, Vec<&Name>> = HashMap::new();
    for workstation in found.values() {
        let things = workstation
            .addresses()
            .map(|address| format!("the address {address}"))
            .chain(workstation.key_ids().map(|id| format!("the key id {id}")))
            .chain(
                workstation
                    .public_keys()
                    .map(|key| format!("the public key {key}")),
            );
        // Once for each, though next keys may be of the same key pair.
        for thing in things.collect::<HashSet<_>>() {
            owners.entry(thing).or_default().push(&workstation.name);
        }
    }
    let mut problems = BTreeMap::new();
    for (thing, names) in owners {
        for name in names.iter().filter(|_| names.len() > 1) {
            let others: Vec<_> = names
                .iter()
                .filter(|other| other != &name)
                .map(|other| other.as_str())
                .collect();
            let problem = Problem::new(
                Kind::Conflict,
                format!("using the Workstation {name}"),
                format!("{thing} also belongs to {}", others.join(", ")),
                "remove all but one of them, or change the file by hand; then `portcullis reload`",
            );
            problems.insert((*name).clone(), problem);
        }
    }
    problems.into_iter().collect()
}

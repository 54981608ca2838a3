//! What each Workstation may reach, as its workers are told.

use super::*;
use crate::rules::{self, Rule};
use crate::workstation::Name;
use dataplane::policy::{PeerRules, Policy};
use std::collections::HashMap;
use std::sync::Weak;

/// Policies in use, by the rules they were made of. Workstations with the same rules share one, so
/// that thousands of them do not push it out of the workers' caches.
#[derive(Default)]
pub(super) struct Policies(HashMap<Vec<Rule>, Weak<Policy>>);

impl Policies {
    fn of(&mut self, rules: &[Rule], peers: Vec<PeerRules>) -> Arc<Policy> {
        let compile = |peers| {
            Arc::new(Policy {
                peers,
                ..rules::compile(rules)
            })
        };
        if !peers.is_empty() {
            return compile(peers);
        }
        if let Some(known) = self.0.get(rules).and_then(Weak::upgrade) {
            return known;
        }
        self.0.retain(|_, policy| policy.strong_count() > 0);
        let policy = compile(Vec::new());
        self.0.insert(rules.to_vec(), Arc::downgrade(&policy));
        policy
    }
}

impl Daemon {
    /// The policy of a Workstation as the registry has it now. What is towards others, and from them,
    /// holds by their slots.
    pub(super) fn policy(&mut self, id: WorkstationId) -> Arc<Policy> {
        let Some(workstation) = self.registry.by_slot(id) else {
            return Arc::default();
        };
        let own = (&workstation.name, workstation.allow.as_slice());
        let peers = self.registry.workstations().filter_map(|(other, peer)| {
            let theirs = (other, &peer.name, peer.allow.as_slice());
            (other != id).then(|| rules::between(own, theirs))?
        });
        let peers = peers.collect();
        self.policies.of(&workstation.allow, peers)
    }

    /// Looks at the machine's addresses and tells the workers when they have changed.
    pub(super) fn look_around(&mut self) -> Result<(), Problem> {
        let (name, addresses) = (&self.config.host_interface, &self.config.host_addresses);
        let found = hostif::surroundings(&self.links, name, addresses)
            .map_err(|error| monitor::problem("looking at this machine's addresses", error))?;
        if found != *self.surroundings {
            self.surroundings = Arc::new(found);
            for worker in 0..self.pool.len() {
                let command = Command::SetSurroundings(Arc::clone(&self.surroundings));
                self.pool.give(worker, command);
            }
        }
        Ok(())
    }

    /// Looks whether what Workstations may reach is still all that they can, and sees to it.
    pub(super) fn guard_surroundings(&mut self) {
        if let Err(problem) = self.look_around() {
            tracing::warn!(%problem, remedy = problem.remedy, "a new address of this machine would not be noticed");
        }
        let kept = self.helper.keep_in();
        match &kept {
            Ok(true) => tracing::warn!(
                "the routing rule that keeps Workstations' packets on this machine was gone or \
                 stood behind another; it is back in its place"
            ),
            Err(problem) if self.let_out.as_ref() != Some(problem) => {
                tracing::error!(%problem, remedy = problem.remedy, "Workstations' packets might be forwarded");
            }
            Ok(false) | Err(_) => {}
        }
        self.let_out = kept.err();
    }

    /// The Workstations whose policies hang on that of the one named `name` with these rules: it, those
    /// it names, and those that name it.
    pub(super) fn related(&self, name: &Name, rules: &[Rule]) -> Vec<WorkstationId> {
        let all = self.registry.workstations();
        all.filter(|(_, other)| {
            other.name == *name
                || rules::name(rules, &other.name)
                || rules::name(&other.allow, name)
        })
        .map(|(id, _)| id)
        .collect()
    }

    /// Tells the workers what is different now in what these Workstations may reach. Called when
    /// rules have changed, and when a Workstation that rules may name has come or gone, in the
    /// latter case before its slot is used again.
    pub(super) fn refresh_policies(&mut self, ids: Vec<WorkstationId>) {
        for id in ids {
            let policy = self.policy(id);
            let Some(served) = self.served.get_mut(&id) else {
                continue;
            };
            if served.policy == policy {
                continue;
            }
            served.policy = Arc::clone(&policy);
            for worker in 0..self.pool.len() {
                let command = Command::SetPolicy(id, Arc::clone(&policy));
                self.pool.give(worker, command);
            }
        }
    }
}

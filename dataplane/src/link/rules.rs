//! The routing rule that keeps what comes in on an interface on this host.
//!
//! It stands behind the rule that looks into the table of local addresses and before every other that
//! could route the packet: what is not for an address of this host (after redirection, where the
//! firewall does that) is dropped, whatever is set to be forwarded. The per-interface `forwarding`
//! settings would not do: IPv6 looks only at the one for all interfaces, and switching IPv4
//! forwarding on switches it on for each.
//!
//! Rules that others add stand before ours if they are given no priority; so it is looked at again,
//! and put before them. Rules by a firewall mark may stay before it: who marks a packet means it.

use super::{LinkError, Links, refused};
use rtnetlink::packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use rtnetlink::packet_route::route::RouteProtocol;
use rtnetlink::packet_route::rule::{RuleAction, RuleAttribute, RuleFlags, RuleMessage};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};
use std::io;

pub(super) const FAMILIES: [AddressFamily; 2] = [AddressFamily::Inet, AddressFamily::Inet6];
pub(super) const TABLE_LOCAL: u32 = 255;

/// What a rule is to a packet that came in on the interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    /// It is ours.
    Ours,
    /// It does not lead the packet off this host.
    Harmless,
    /// It may.
    Leads,
}

impl Links {
    /// Whether the rule stands, in both families, where it must.
    ///
    /// # Errors
    /// What the kernel answered.
    pub fn is_kept_in(&self, interface: &str) -> Result<bool, LinkError> {
        for family in FAMILIES {
            if let Some(rules) = self.rules(family, interface)?
                && !stands(&rules)
            {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Puts the rule where it must stand. True when it did not stand there. The interface need not
    /// exist.
    ///
    /// # Errors
    /// What the kernel answered, or that another rule has the first priority there is.
    pub fn keep_in(&self, interface: &str) -> Result<bool, LinkError> {
        let mut changed = false;
        for family in FAMILIES {
            let Some(rules) = self.rules(family, interface)? else {
                continue;
            };
            if stands(&rules) {
                continue;
            }
            changed = true;
            let leads = rules.iter().filter(|(_, role)| *role == Role::Leads);
            let first = leads.map(|(priority, _)| *priority).min();
            let what = || format!("keeping packets from {interface} on this host");
            let priority = first.unwrap_or(u32::MAX).checked_sub(1).ok_or_else(|| {
                let why = "a routing rule of priority 0 stands before any other; give it another";
                refused(what())(io::Error::other(why))
            })?;
            // Never without: the new one first.
            let add = RouteNetlinkMessage::NewRule(message(family, interface, priority));
            self.netlink
                .change(add, NLM_F_CREATE | NLM_F_EXCL)
                .map_err(refused(what()))?;
            for (old, _) in rules.iter().filter(|(_, role)| *role == Role::Ours) {
                self.remove_rule(family, interface, *old)?;
            }
        }
        Ok(changed)
    }

    /// Takes the rule away.
    ///
    /// # Errors
    /// What the kernel answered.
    pub fn let_out(&self, interface: &str) -> Result<(), LinkError> {
        for family in FAMILIES {
            let rules = self.rules(family, interface)?.unwrap_or_default();
            for (priority, _) in rules.iter().filter(|(_, role)| *role == Role::Ours) {
                self.remove_rule(family, interface, *priority)?;
            }
        }
        Ok(())
    }

    fn remove_rule(
        &self,
        family: AddressFamily,
        interface: &str,
        priority: u32,
    ) -> Result<(), LinkError> {
        let rule = RouteNetlinkMessage::DelRule(message(family, interface, priority));
        match self.netlink.change(rule, 0) {
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
            other => other.map_err(refused(format!("removing the routing rule of {interface}"))),
        }
    }

    fn rules(
        &self,
        family: AddressFamily,
        interface: &str,
    ) -> Result<Option<Vec<(u32, Role)>>, LinkError> {
        let rules = self.rule_messages(family)?;
        let judged = |rule: &RuleMessage| (priority(rule), role(rule, interface));
        Ok(rules.map(|rules| rules.iter().map(judged).collect()))
    }

    /// The rules of a family in the order they are gone through; `None` where the kernel has no such
    /// family.
    pub(super) fn rule_messages(
        &self,
        family: AddressFamily,
    ) -> Result<Option<Vec<RuleMessage>>, LinkError> {
        let mut query = RuleMessage::default();
        query.header.family = family;
        let answer = match self.netlink.dump(RouteNetlinkMessage::GetRule(query)) {
            Err(error)
                if matches!(
                    error.raw_os_error(),
                    Some(libc::EAFNOSUPPORT | libc::EOPNOTSUPP)
                ) =>
            {
                return Ok(None);
            }
            other => other.map_err(refused("listing routing rules"))?,
        };
        let rules = answer.into_iter().filter_map(|message| match message {
            RouteNetlinkMessage::NewRule(rule) if rule.header.family == family => Some(rule),
            _ => None,
        });
        // A kernel without the family answers for all.
        let rules: Vec<_> = rules.collect();
        Ok((!rules.is_empty()).then_some(rules))
    }
}

/// Whether ours stands before all that lead elsewhere.
fn stands(rules: &[(u32, Role)]) -> bool {
    let first = rules.iter().find(|(_, role)| *role != Role::Harmless);
    first.is_some_and(|(_, role)| *role == Role::Ours)
}

pub(super) fn priority(rule: &RuleMessage) -> u32 {
    let found = rule
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            RuleAttribute::Priority(priority) => Some(*priority),
            _ => None,
        });
    found.unwrap_or(0)
}

fn role(rule: &RuleMessage, interface: &str) -> Role {
    let inverted = rule.header.flags.contains(RuleFlags::Invert);
    let mut table = u32::from(rule.header.table);
    let (mut here, mut elsewhere, mut marked, mut narrow) = (false, false, false, false);
    for attribute in &rule.attributes {
        match attribute {
            RuleAttribute::Table(has) => table = *has,
            RuleAttribute::Iifname(name) if name == interface => here = true,
            RuleAttribute::Iifname(_) => elsewhere = true,
            RuleAttribute::FwMark(mark) if *mark != 0 => marked = true,
            // Those of VRFs: they hold for interfaces in one.
            RuleAttribute::L3MDev(true) => elsewhere = true,
            RuleAttribute::Priority(_)
            | RuleAttribute::Protocol(_)
            | RuleAttribute::SuppressPrefixLen(u32::MAX)
            | RuleAttribute::SuppressIfGroup(u32::MAX)
            | RuleAttribute::FwMark(_)
            | RuleAttribute::FwMask(_) => {}
            _ => narrow = true,
        }
    }
    let narrow = narrow
        || inverted
        || marked
        || (rule.header.dst_len, rule.header.src_len, rule.header.tos) != (0, 0, 0);
    match rule.header.action {
        RuleAction::Blackhole if here && !narrow => Role::Ours,
        RuleAction::ToTable if table == TABLE_LOCAL => Role::Harmless,
        RuleAction::ToTable | RuleAction::Goto if inverted || !(elsewhere || marked) => Role::Leads,
        _ => Role::Harmless,
    }
}

fn message(family: AddressFamily, interface: &str, priority: u32) -> RuleMessage {
    let mut rule = RuleMessage::default();
    rule.header.family = family;
    rule.header.action = RuleAction::Blackhole;
    rule.attributes = vec![
        RuleAttribute::Iifname(interface.to_owned()),
        RuleAttribute::Priority(priority),
        // Network managers remove rules that they do not know; the kernel's own they leave.
        RuleAttribute::Protocol(RouteProtocol::Kernel),
    ];
    rule
}

//! The kill switch's first line: a routing table of its own, and the rules that lead there.
//!
//! Rules of the kernel's own protocol number are left alone by network managers. What others put before
//! ours is noticed at the next look, and ours are put before it; only a rule for the very mark may stay.

use super::super::rules::{FAMILIES, TABLE_LOCAL, priority};
use super::super::{LinkError, Links, refused};
use super::{KillSwitch, SETTINGS, Surroundings};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use rtnetlink::packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use rtnetlink::packet_route::rule::{RuleAction, RuleAttribute, RuleFlags, RuleMessage};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};
use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The routing table of the kill switch ("pc" in ASCII).
pub const KILL_SWITCH_TABLE: u32 = 0x7063;

/// Where the rule stands unless somebody's stands before it.
const PRIORITY: u32 = 5;
/// Metrics: what is open goes before what is closed.
const OPEN: u32 = 1;
const CLOSED: u32 = i32::MAX as u32;
/// A closed IPv4 default has less of a metric by a bit for each setting that was off before.
const NOTES: u32 = (1 << SETTINGS.len()) - 1;

/// What a rule is to packets of this host, and to those it forwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    /// Ours, by which everything but the mark goes into our table.
    Detour,
    /// It leads into our table, but not as it should.
    Stale,
    /// It may lead a packet without the mark elsewhere.
    Leads,
    /// It does not.
    Harmless,
}

/// A route of the table, as far as it tells them apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Route {
    prefix: IpNet,
    /// Over this interface, or unreachable.
    over: Option<u32>,
    metric: u32,
    /// The source of those who choose none.
    source: Option<IpAddr>,
}

impl Links {
    pub(super) fn rules_stand(&self, switch: &KillSwitch) -> Result<bool, LinkError> {
        for family in FAMILIES {
            if let Some(rules) = self.policy_rules(family, switch.mark)?
                && !stand(&rules)
            {
                return Ok(false);
            }
        }
        Ok(true)
    }

    pub(super) fn raise_rules(&self, switch: &KillSwitch) -> Result<bool, LinkError> {
        let mut changed = false;
        for family in FAMILIES {
            let Some(rules) = self.policy_rules(family, switch.mark)? else {
                continue;
            };
            if stand(&rules) {
                continue;
            }
            changed = true;
            let leads = rules.iter().filter(|(role, _)| *role == Role::Leads);
            let first = leads.map(|(_, rule)| priority(rule)).min();
            let what = || "leading everything but the tunnel's own packets into the tunnel";
            let before = first.unwrap_or(u32::MAX).checked_sub(1).ok_or_else(|| {
                let why = "a routing rule of priority 0 stands before any other; give it another";
                refused(what())(io::Error::other(why))
            })?;
            let at = before.min(PRIORITY);
            // Never without: the new one first.
            let add = RouteNetlinkMessage::NewRule(detour(family, switch.mark, at));
            match self.netlink.change(add, NLM_F_CREATE | NLM_F_EXCL) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                other => other.map_err(refused(what()))?,
            }
            for (role, rule) in &rules {
                match role {
                    Role::Detour if priority(rule) == at => {}
                    Role::Detour | Role::Stale => self.remove_policy_rule(rule)?,
                    Role::Leads | Role::Harmless => {}
                }
            }
        }
        Ok(changed)
    }

    pub(super) fn lower_rules(&self) -> Result<(), LinkError> {
        for family in FAMILIES {
            // Of whatever mark.
            let rules = self.policy_rules(family, 0)?.unwrap_or_default();
            for (role, rule) in &rules {
                if matches!(role, Role::Detour | Role::Stale) {
                    self.remove_policy_rule(rule)?;
                }
            }
        }
        Ok(())
    }

    fn remove_policy_rule(&self, rule: &RuleMessage) -> Result<(), LinkError> {
        let remove = RouteNetlinkMessage::DelRule(rule.clone());
        match self.netlink.change(remove, 0) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other.map_err(refused("removing a routing rule of the kill switch")),
        }
    }

    /// The rules of a family in the order they are gone through; `None` where the kernel has no such
    /// family.
    fn policy_rules(
        &self,
        family: AddressFamily,
        mark: u32,
    ) -> Result<Option<Vec<(Role, RuleMessage)>>, LinkError> {
        let rules = self.rule_messages(family)?;
        let judged = |rule: RuleMessage| (role(&rule, mark), rule);
        Ok(rules.map(|rules| rules.into_iter().map(judged).collect()))
    }

    pub(super) fn table_stands(
        &self,
        switch: &KillSwitch,
        around: &Surroundings,
    ) -> Result<bool, LinkError> {
        let (present, wanted) = (self.table()?, self.wanted_routes(switch, around)?);
        let is_wanted =
            |(route, _): &(Option<Route>, _)| route.is_some_and(|route| wanted.contains(&route));
        Ok(present.len() == wanted.len() && present.iter().all(is_wanted))
    }

    /// Makes the table exactly what it must be.
    pub(super) fn raise_table(
        &self,
        switch: &KillSwitch,
        around: &Surroundings,
    ) -> Result<bool, LinkError> {
        let (present, wanted) = (self.table()?, self.wanted_routes(switch, around)?);
        let is_there = |route: &&Route| present.iter().any(|(has, _)| *has == Some(**route));
        let missing: Vec<_> = wanted.iter().filter(|route| !is_there(route)).collect();
        let add = |route: &Route| {
            let message = RouteNetlinkMessage::NewRoute(message(route));
            match self.netlink.change(message, NLM_F_CREATE | NLM_F_EXCL) {
                // The interface went away or down since it was looked at: closed is right.
                Err(error)
                    if route.over.is_some()
                        && matches!(error.raw_os_error(), Some(libc::ENODEV | libc::ENETDOWN)) =>
                {
                    Ok(())
                }
                other => other.map_err(refused(format!(
                    "adding the route to {} to the kill switch's table",
                    route.prefix
                ))),
            }
        };
        // What closes comes first; what is another's makes room before what is to stand in its place.
        let (open, closed): (Vec<_>, Vec<_>) = missing
            .iter()
            .copied()
            .partition(|route| route.over.is_some());
        closed.into_iter().try_for_each(add)?;
        let mut changed = !missing.is_empty();
        for (route, message) in &present {
            if !route.is_some_and(|route| wanted.contains(&route)) {
                changed = true;
                self.remove_from_table(message)?;
            }
        }
        open.into_iter().try_for_each(add)?;
        Ok(changed)
    }

    pub(super) fn lower_table(&self) -> Result<(), LinkError> {
        let present = self.table()?;
        present
            .iter()
            .try_for_each(|(_, message)| self.remove_from_table(message))
    }

    fn remove_from_table(&self, message: &RouteMessage) -> Result<(), LinkError> {
        let mut message = message.clone();
        message.attributes.retain(|attribute| {
            matches!(
                attribute,
                RouteAttribute::Destination(_)
                    | RouteAttribute::Oif(_)
                    | RouteAttribute::Gateway(_)
                    | RouteAttribute::Priority(_)
                    | RouteAttribute::Table(_)
            )
        });
        match self
            .netlink
            .change(RouteNetlinkMessage::DelRoute(message), 0)
        {
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(()),
            other => other.map_err(refused("removing a route of the kill switch's table")),
        }
    }

    /// What is in the table; `None` for what is no route of ours.
    fn table(&self) -> Result<Vec<(Option<Route>, RouteMessage)>, LinkError> {
        let mut routes = Vec::new();
        for family in FAMILIES {
            let mut query = RouteMessage::default();
            query.header.address_family = family;
            let answer = match self.netlink.dump(RouteNetlinkMessage::GetRoute(query)) {
                Err(error)
                    if matches!(
                        error.raw_os_error(),
                        Some(libc::EAFNOSUPPORT | libc::EOPNOTSUPP)
                    ) =>
                {
                    continue;
                }
                other => other.map_err(refused("listing routes"))?,
            };
            routes.extend(answer.into_iter().filter_map(|message| {
                match message {
                    RouteNetlinkMessage::NewRoute(message)
                        if message.header.address_family == family
                            && message
                                .attributes
                                .contains(&RouteAttribute::Table(KILL_SWITCH_TABLE)) =>
                    {
                        Some((route_of(&message), message))
                    }
                    _ => None,
                }
            }));
        }
        Ok(routes)
    }

    /// The settings that were off before the kill switch stood, by the table's closed IPv4 default.
    pub(super) fn noted_in_table(&self) -> Result<Vec<&'static str>, LinkError> {
        let notes = self.table()?.into_iter().filter_map(|(route, _)| {
            let route = route?;
            let is_note = matches!(route.prefix, IpNet::V4(prefix) if prefix.prefix_len() == 0)
                && route.over.is_none();
            let bits = CLOSED.checked_sub(route.metric)?;
            (is_note && bits <= NOTES).then_some(bits)
        });
        let all = notes.fold(0, |all, bits| all | bits);
        let noted = SETTINGS.into_iter().enumerate();
        Ok(noted
            .filter(|(bit, _)| all & 1 << bit != 0)
            .map(|(_, setting)| setting)
            .collect())
    }

    fn wanted_routes(
        &self,
        switch: &KillSwitch,
        around: &Surroundings,
    ) -> Result<BTreeSet<Route>, LinkError> {
        let defaults = [
            IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::UNSPECIFIED, 0)),
            IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::UNSPECIFIED, 0)),
        ];
        let routes = switch.routes.iter().map(IpNet::trunc);
        let closed = routes.clone().chain(defaults).map(|prefix| Route {
            prefix,
            over: None,
            metric: CLOSED,
            source: None,
        });
        let over = around.tunnel.into_iter().flat_map(|index| {
            let routes = routes.clone().filter(|prefix| match prefix {
                IpNet::V4(_) => true,
                IpNet::V6(_) => around.has_ipv6,
            });
            routes.map(move |prefix| Route {
                prefix,
                over: Some(index),
                metric: OPEN,
                source: None,
            })
        });
        // Two interfaces may have the same prefix (fe80::/64), but not by the same metric.
        let lan = around.lan.iter().map(|(index, address)| Route {
            prefix: address.trunc(),
            over: Some(*index),
            metric: OPEN.saturating_add(*index),
            // IPv6 chooses by itself.
            source: Some(address.addr()).filter(IpAddr::is_ipv4),
        });
        let mut wanted: BTreeSet<_> = closed.chain(over).chain(lan).collect();
        let bits = SETTINGS
            .iter()
            .enumerate()
            .map(|(bit, setting)| u32::from(around.off_before.contains(setting)) << bit);
        let note = Route {
            prefix: defaults[0],
            over: None,
            metric: CLOSED,
            source: None,
        };
        wanted.remove(&note);
        wanted.insert(Route {
            metric: CLOSED - bits.sum::<u32>(),
            ..note
        });
        if self.rule_messages(AddressFamily::Inet6)?.is_none() {
            wanted.retain(|route| matches!(route.prefix, IpNet::V4(_)));
        }
        Ok(wanted)
    }
}

/// Whether ours stands before all that lead elsewhere, and nothing else of ours is left.
fn stand(rules: &[(Role, RuleMessage)]) -> bool {
    let place = |wanted: Role| rules.iter().position(|(role, _)| *role == wanted);
    place(Role::Stale).is_none()
        && place(Role::Detour)
            .is_some_and(|detour| place(Role::Leads).is_none_or(|leads| detour < leads))
}

fn role(rule: &RuleMessage, mark: u32) -> Role {
    let mut table = u32::from(rule.header.table);
    let (mut has_mark, mut mask) = (None, None);
    for attribute in &rule.attributes {
        match attribute {
            RuleAttribute::Table(has) => table = *has,
            RuleAttribute::FwMark(has) => has_mark = Some(*has),
            RuleAttribute::FwMask(has) => mask = Some(*has),
            _ => {}
        }
    }
    let inverted = rule.header.flags.contains(RuleFlags::Invert);
    let for_the_mark = has_mark == Some(mark) && mask == Some(u32::MAX);
    // At whatever priority; and the kernel says more than it was told, of what is at its default.
    let counts = |attribute: &&RuleAttribute| {
        !matches!(
            attribute,
            RuleAttribute::Priority(_)
                | RuleAttribute::SuppressPrefixLen(u32::MAX)
                | RuleAttribute::SuppressIfGroup(u32::MAX)
        )
    };
    let ours = detour(rule.header.family, mark, 0);
    let is_ours = || {
        let of_rule = || rule.attributes.iter().filter(counts);
        let mut of_ours = ours.attributes.iter().filter(counts);
        of_rule().count() == of_ours.clone().count()
            && of_ours.all(|attribute| of_rule().any(|has| has == attribute))
    };
    let selects_all = (rule.header.dst_len, rule.header.src_len, rule.header.tos) == (0, 0, 0);
    match rule.header.action {
        RuleAction::ToTable if inverted && selects_all && is_ours() => Role::Detour,
        RuleAction::ToTable if table == KILL_SWITCH_TABLE => Role::Stale,
        RuleAction::ToTable if table == TABLE_LOCAL => Role::Harmless,
        RuleAction::ToTable | RuleAction::Goto if inverted || !for_the_mark => Role::Leads,
        _ => Role::Harmless,
    }
}

fn detour(family: AddressFamily, mark: u32, priority: u32) -> RuleMessage {
    let mut rule = RuleMessage::default();
    rule.header.family = family;
    rule.header.action = RuleAction::ToTable;
    rule.header.flags = RuleFlags::Invert;
    rule.attributes = vec![
        RuleAttribute::Priority(priority),
        RuleAttribute::Table(KILL_SWITCH_TABLE),
        // Network managers remove rules that they do not know; the kernel's own they leave.
        RuleAttribute::Protocol(RouteProtocol::Kernel),
        RuleAttribute::FwMark(mark),
        RuleAttribute::FwMask(u32::MAX),
    ];
    rule
}

fn message(route: &Route) -> RouteMessage {
    let (address, length) = (route.prefix.addr(), route.prefix.prefix_len());
    let mut message = RouteMessage::default();
    message.header.address_family = match address {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    };
    message.header.destination_prefix_length = length;
    // Network managers remove routes that they do not know; the kernel's own they leave.
    message.header.protocol = RouteProtocol::Kernel;
    message.header.scope = RouteScope::Universe;
    message.header.kind = RouteType::Unreachable;
    message.attributes = vec![
        RouteAttribute::Table(KILL_SWITCH_TABLE),
        RouteAttribute::Priority(route.metric),
    ];
    if length > 0 {
        let address = match address {
            IpAddr::V4(address) => RouteAddress::Inet(address),
            IpAddr::V6(address) => RouteAddress::Inet6(address),
        };
        message
            .attributes
            .push(RouteAttribute::Destination(address));
    }
    if let Some(index) = route.over {
        message.header.kind = RouteType::Unicast;
        if address.is_ipv4() {
            message.header.scope = RouteScope::Link;
        }
        message.attributes.push(RouteAttribute::Oif(index));
    }
    if let Some(IpAddr::V4(source)) = route.source {
        let source = RouteAddress::Inet(source);
        message.attributes.push(RouteAttribute::PrefSource(source));
    }
    message
}

/// The route of a message; `None` for what is no route of ours.
fn route_of(message: &RouteMessage) -> Option<Route> {
    let unspecified = match message.header.address_family {
        AddressFamily::Inet => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        _ => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    let (mut address, mut over, mut metric, mut source) = (unspecified, None, 0, None);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(v4)) => address = IpAddr::V4(*v4),
            RouteAttribute::Destination(RouteAddress::Inet6(v6)) => address = IpAddr::V6(*v6),
            RouteAttribute::PrefSource(RouteAddress::Inet(v4)) => source = Some(IpAddr::V4(*v4)),
            RouteAttribute::PrefSource(_) => return None,
            RouteAttribute::Oif(index) => over = Some(*index),
            RouteAttribute::Priority(has) => metric = *has,
            RouteAttribute::Gateway(_)
            | RouteAttribute::Via(_)
            | RouteAttribute::MultiPath(_)
            | RouteAttribute::Source(_)
            | RouteAttribute::NhId(_) => return None,
            _ => {}
        }
    }
    let over = match message.header.kind {
        RouteType::Unicast => Some(over?),
        // IPv6 says that it is over lo.
        RouteType::Unreachable => None,
        _ => return None,
    };
    let prefix = IpNet::new(address, message.header.destination_prefix_length).ok()?;
    Some(Route {
        prefix,
        over,
        metric,
        source,
    })
}

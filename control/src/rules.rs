//! Rules for what a Workstation may reach, as people write them: `tcp/9050`, `udp/5000-5010`, `icmp`,
//! `any`; alone towards the Gateway, with `@transparent` towards addresses that are nobody's here,
//! with `@NAME` towards another Workstation.

use crate::workstation::Name;
use dataplane::WorkstationId;
use dataplane::policy::{Match, PeerRules, Policy, PortRange};
use serde::de::{Deserializer, Error as _};
use serde::{Deserialize, Serialize, Serializer};
use std::fmt;
use std::str::FromStr;

/// Rules that a Workstation may have.
pub const MOST: usize = 256;
/// What stands behind the `@` for transparent proxying.
pub const TRANSPARENT: &str = "transparent";
const FORM: &str = "a rule is any, icmp, tcp, udp, tcp/PORT, udp/PORT or tcp/FIRST-LAST; it may end \
                    in @transparent or in @ and a Workstation's name";

/// Where a rule leads.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Target {
    /// The Gateway's own addresses on the host interface.
    Gateway,
    /// Addresses that are nobody's here, for the Gateway to redirect.
    Transparent,
    /// Another Workstation.
    Workstation(Name),
}

/// A rule: what it lets through, and where to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Rule {
    /// What it lets through.
    pub what: Match,
    /// Where to.
    pub to: Target,
}

/// What a Workstation has for which none were given: Tor's usual ports, and ping.
pub fn usual() -> Vec<Rule> {
    let port = |port| PortRange {
        first: port,
        last: port,
    };
    [
        Match::Tcp(port(9050)),
        Match::Tcp(port(9040)),
        Match::Udp(port(5353)),
        Match::Icmp,
    ]
    .map(|what| Rule {
        what,
        to: Target::Gateway,
    })
    .into()
}

impl Rule {
    fn leads_to(&self, peer: &Name) -> bool {
        matches!(&self.to, Target::Workstation(name) if name == peer)
    }
}

impl FromStr for Rule {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (what, to) = match text.split_once('@') {
            None => (text, Target::Gateway),
            Some((what, TRANSPARENT)) => (what, Target::Transparent),
            Some((what, name)) => {
                let name = name.parse().map_err(|_| bad(text))?;
                (what, Target::Workstation(name))
            }
        };
        let what = parse_match(what).ok_or_else(|| bad(text))?;
        Ok(Self { what, to })
    }
}

fn bad(text: &str) -> String {
    let shown: String = text.chars().take(80).collect();
    format!("`{}` is no rule; {FORM}", shown.escape_debug())
}

fn parse_match(text: &str) -> Option<Match> {
    let (protocol, ports) = match text.split_once('/') {
        None => (text, None),
        Some((protocol, ports)) => (protocol, Some(ports)),
    };
    let range = match ports {
        None => PortRange {
            first: 0,
            last: u16::MAX,
        },
        Some(ports) => {
            let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
            PortRange {
                first: port(first)?,
                last: port(last)?,
            }
        }
    };
    match (protocol, ports) {
        ("any", None) => Some(Match::Any),
        ("icmp", None) => Some(Match::Icmp),
        ("tcp", _) if range.first <= range.last => Some(Match::Tcp(range)),
        ("udp", _) if range.first <= range.last => Some(Match::Udp(range)),
        _ => None,
    }
}

/// A port in plain digits: no sign, which `u16` would take.
fn port(text: &str) -> Option<u16> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| plain)
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.what {
            Match::Any => f.write_str("any")?,
            Match::Icmp => f.write_str("icmp")?,
            Match::Tcp(range) => write_ports(f, "tcp", range)?,
            Match::Udp(range) => write_ports(f, "udp", range)?,
        }
        match &self.to {
            Target::Gateway => Ok(()),
            Target::Transparent => write!(f, "@{TRANSPARENT}"),
            Target::Workstation(name) => write!(f, "@{name}"),
        }
    }
}

fn write_ports(f: &mut fmt::Formatter<'_>, protocol: &str, range: PortRange) -> fmt::Result {
    match (range.first, range.last) {
        (0, u16::MAX) => f.write_str(protocol),
        (first, last) if first == last => write!(f, "{protocol}/{first}"),
        (first, last) => write!(f, "{protocol}/{first}-{last}"),
    }
}

impl Serialize for Rule {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Rule {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(D::Error::custom)
    }
}

/// Rules as a list of a configuration file.
pub fn list(rules: &[Rule]) -> String {
    let quoted: Vec<_> = rules.iter().map(|rule| format!("\"{rule}\"")).collect();
    format!("[{}]", quoted.join(", "))
}

/// A rule to add (`+tcp/9050`, or without the sign) or to take away (`-udp/53`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Whether it is added.
    pub add: bool,
    /// The rule.
    pub rule: Rule,
}

impl FromStr for Change {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (add, rule) = match (text.strip_prefix('+'), text.strip_prefix('-')) {
            (None, Some(rule)) => (false, rule),
            (Some(rule), _) => (true, rule),
            (None, None) => (true, text),
        };
        Ok(Self {
            add,
            rule: rule.parse()?,
        })
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", if self.add { '+' } else { '-' }, self.rule)
    }
}

impl Serialize for Change {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Change {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(D::Error::custom)
    }
}

/// The rules after all changes, in their order. A rule that is there already is not added again.
///
/// # Errors
/// More rules than [`MOST`].
pub fn apply(rules: &[Rule], changes: &[Change]) -> Result<Vec<Rule>, String> {
    let mut rules = rules.to_vec();
    for Change { add, rule } in changes {
        let at = rules.iter().position(|has| has == rule);
        match (add, at) {
            (true, None) => rules.push(rule.clone()),
            (false, Some(at)) => drop(rules.remove(at)),
            // As it is to be already: asked twice is asked once.
            (true, Some(_)) | (false, None) => {}
        }
    }
    check_count(&rules)?;
    Ok(rules)
}

/// Whether a Workstation may have so many.
///
/// # Errors
/// It may not.
pub fn check_count(rules: &[Rule]) -> Result<(), String> {
    match rules.len() {
        0..=MOST => Ok(()),
        more => Err(format!(
            "{more} rules are more than the {MOST} there may be"
        )),
    }
}

/// Whether one of the rules leads to the Workstation `peer`.
pub fn name(rules: &[Rule], peer: &Name) -> bool {
    rules.iter().any(|rule| rule.leads_to(peer))
}

/// The policy that a Workstation's rules make, but for those towards others.
pub fn compile(rules: &[Rule]) -> Policy {
    Policy {
        gateway: towards(rules, &Target::Gateway).collect(),
        transparent: towards(rules, &Target::Transparent).collect(),
        peers: Vec::new(),
    }
}

/// The rules between a Workstation and another; `None` where neither has any.
pub fn between(
    (name, rules): (&Name, &[Rule]),
    (id, other, others): (WorkstationId, &Name, &[Rule]),
) -> Option<PeerRules> {
    let towards = |rules: &[Rule], to: &Name| {
        let rules = rules.iter().filter(|rule| rule.leads_to(to));
        rules.map(|rule| rule.what).collect()
    };
    let peer = PeerRules {
        peer: id,
        to: towards(rules, other),
        from: towards(others, name),
    };
    (!peer.to.is_empty() || !peer.from.is_empty()).then_some(peer)
}

fn towards<'a>(rules: &'a [Rule], to: &'a Target) -> impl Iterator<Item = Match> + 'a {
    rules
        .iter()
        .filter(move |rule| rule.to == *to)
        .map(|rule| rule.what)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_form_is_read_and_written_the_same() {
        for text in [
            "any",
            "icmp",
            "tcp",
            "udp",
            "tcp/9050",
            "udp/53",
            "tcp/0",
            "udp/65535",
            "tcp/9000-9100",
            "tcp@transparent",
            "udp/53@transparent",
            "any@transparent",
            "icmp@beta",
            "tcp/22@web-1.lan",
        ] {
            assert_eq!(text.parse::<Rule>().unwrap().to_string(), text);
        }
        for (text, same) in [
            ("tcp/0-65535", "tcp"),
            ("udp/7-7", "udp/7"),
            ("tcp/0080", "tcp/80"),
        ] {
            assert_eq!(text.parse::<Rule>().unwrap().to_string(), same);
        }
    }

    #[test]
    fn what_is_no_rule_is_refused_and_the_form_told() {
        for text in [
            "",
            "tcp/",
            "tcp/-",
            "tcp/65536",
            "tcp/-1",
            "tcp/+1",
            "tcp/9-8",
            "tcp/1-2-3",
            "icmp/8",
            "any/1",
            "sctp/1",
            "TCP/1",
            "tcp/80 ",
            "tcp/http",
            "tcp@",
            "tcp/1@Beta",
            "tcp/1@a@b",
            "@beta",
            "tcp,udp",
            "all",
        ] {
            let error = text.parse::<Rule>().unwrap_err();
            assert!(error.contains("tcp/PORT"), "{text}: {error}");
        }
    }

    #[test]
    fn changes_are_applied_in_order_or_not_at_all() {
        let changes = |texts: &[&str]| -> Vec<Change> {
            texts.iter().map(|text| text.parse().unwrap()).collect()
        };
        let text = |rules: &[Rule]| list(rules);
        let after = apply(
            &usual(),
            &changes(&["-icmp", "+tcp/80", "tcp/80", "-tcp/9040"]),
        )
        .unwrap();
        assert_eq!(text(&after), r#"["tcp/9050", "udp/5353", "tcp/80"]"#);
        assert_eq!(apply(&after, &changes(&["+any", "-any"])).unwrap(), after);
        let twice = apply(&after, &changes(&["-tcp/9050", "-tcp/9050", "-udp/1"])).unwrap();
        assert_eq!(text(&twice), r#"["udp/5353", "tcp/80"]"#);
        let many: Vec<String> = (0..=MOST).map(|port| format!("tcp/{port}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert!(apply(&[], &changes(&many)).is_err());
        assert_eq!(apply(&[], &changes(&many[1..])).unwrap().len(), MOST);
    }

    proptest! {
        #[test]
        fn no_text_makes_parsing_panic_and_what_is_read_is_written_back(text in "[a-z0-9/@+-]{0,24}|\\PC{0,30}") {
            if let Ok(change) = text.parse::<Change>() {
                prop_assert_eq!(change.to_string().parse(), Ok(change));
            }
        }
    }
}

//! The kill switch's second line in the kernel: its tables of nf_tables, over nfnetlink. Each is replaced
//! as a whole, between two packets.
//!
//! No program is run for it: what may run one has more of a system at its feet than netlink. The messages
//! are those of `netlink-packet-netfilter`, which is kept by those who keep `rtnetlink`.

use super::super::netlink::Netlink;
use super::super::{LinkError, Links, refused};
use super::ruleset::{Chain, Rule, chains};
use super::{KillSwitch, SETTINGS, Surroundings};
use netlink_packet_netfilter::nftables::{
    Bitwise, ChainAttribute, ChainMessage, ExpressionAttribute, Expressions, Hook, HookNumber,
    InetHookNumber, ListAttribute, NfTablesMessage, RuleAttribute, RuleMessage, TableAttribute,
    TableFlags, TableMessage,
};
use netlink_packet_netfilter::none::ControlMessage;
use netlink_packet_netfilter::{
    NetfilterHeader, NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily,
};
use rtnetlink::packet_core::{NLM_F_ACK, NLM_F_APPEND, NLM_F_CREATE};
use rtnetlink::sys::protocols::NETLINK_NETFILTER;
use std::io;

/// The families that there is a table for.
const FAMILIES: [NetfilterProtoFamily; 2] = [NetfilterProtoFamily::Inet, NetfilterProtoFamily::ARP];
/// The name of both tables.
const TABLE: &str = "portcullis-kill-switch";
/// What all chains are.
const FILTER: &str = "filter";
/// What a comment is among a table's user data.
const COMMENT: u8 = 0;

/// The table as it is.
#[derive(Debug, Default)]
struct Table {
    flags: u32,
    /// The netlink port of who owns it.
    owner: Option<u32>,
    comment: String,
}

impl Table {
    /// Whether its owner has ended. It persists, and anybody may change it.
    fn is_orphan(&self) -> bool {
        self.flags == TableFlags::Persisent.bits()
    }

    /// Not dormant, nor such that it would go with its owner.
    fn is_active(&self) -> bool {
        let persists = TableFlags::Persisent.bits();
        let owned = TableFlags::Owner.bits() | persists;
        [0, persists, owned].contains(&self.flags)
    }

    /// The settings that were off before the kill switch stood, in the order of their names.
    fn noted(&self) -> Vec<&'static str> {
        let was_off = |setting: &&str| self.comment.contains(&format!("{setting}=0"));
        SETTINGS.into_iter().filter(was_off).collect()
    }
}

impl Links {
    pub(super) fn firewall_stands(
        &self,
        switch: &KillSwitch,
        around: &Surroundings,
    ) -> Result<bool, LinkError> {
        for family in FAMILIES {
            let table = self.firewall_table(family)?;
            if !self.is_as_it_must(family, table.as_ref(), switch, around)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn is_as_it_must(
        &self,
        family: NetfilterProtoFamily,
        table: Option<&Table>,
        switch: &KillSwitch,
        around: &Surroundings,
    ) -> Result<bool, LinkError> {
        let active =
            table.is_some_and(|table| table.is_active() && table.noted() == around.off_before);
        Ok(active && self.chains(family)? == chains(family, switch, around))
    }

    /// Puts up the tables that are not as they must be, or not ours.
    pub(super) fn raise_firewall(
        &self,
        switch: &KillSwitch,
        around: &Surroundings,
    ) -> Result<bool, LinkError> {
        let off = around
            .off_before
            .iter()
            .map(|setting| format!("{setting}=0"));
        let comment = format!("kill switch; before: {}", off.collect::<Vec<_>>().join(" "));
        let mut changed = false;
        for family in FAMILIES {
            let table = self.firewall_table(family)?;
            // Of another's, which is about to end, a later look makes it ours.
            if table.as_ref().is_some_and(|table| !table.is_orphan())
                && self.is_as_it_must(family, table.as_ref(), switch, around)?
            {
                continue;
            }
            let wanted = chains(family, switch, around);
            let replace = |flags| {
                let messages = replacement(table.is_some(), flags, &comment, &wanted);
                self.netfilter()?.batch(batch(family, messages))
            };
            match replace(TableFlags::Owner | TableFlags::Persisent) {
                // Before Linux 6.9.
                Err(error)
                    if matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::EINVAL)) =>
                {
                    replace(TableFlags::empty())
                }
                other => other,
            }
            .map_err(refused_by_netfilter(
                "putting up the kill switch's nf_tables table",
            ))?;
            changed = true;
        }
        Ok(changed)
    }

    /// That nobody else owns a table.
    pub(super) fn claim_firewall(&self) -> Result<(), LinkError> {
        for family in FAMILIES {
            let owner = self.firewall_table(family)?.and_then(|table| table.owner);
            if let Some(owner) = owner
                && owner != self.netfilter_port()?
            {
                let why = "another process owns its nf_tables table; end that first";
                let what = refused("taking the kill switch away");
                return Err(what(io::Error::other(why)));
            }
        }
        Ok(())
    }

    /// The settings that were off before the kill switch stood, by the tables' comments.
    pub(super) fn noted_in_firewall(&self) -> Result<Vec<&'static str>, LinkError> {
        let mut noted = Vec::new();
        for family in FAMILIES {
            let table = self.firewall_table(family)?;
            noted.extend(table.iter().flat_map(Table::noted));
        }
        Ok(noted)
    }

    pub(super) fn lower_firewall(&self) -> Result<(), LinkError> {
        for family in FAMILIES {
            if self.firewall_table(family)?.is_none() {
                continue;
            }
            let messages = vec![(NfTablesMessage::DeleteTable(named(Vec::new())), 0)];
            let what = refused_by_netfilter("removing the kill switch's nf_tables table");
            self.netfilter()
                .and_then(|netfilter| netfilter.batch(batch(family, messages)))
                .map_err(what)?;
        }
        Ok(())
    }

    fn netfilter(&self) -> io::Result<&Netlink<NetfilterMessage>> {
        if let Some(open) = self.netfilter.get() {
            return Ok(open);
        }
        let open = Netlink::of(NETLINK_NETFILTER, 0)?;
        Ok(self.netfilter.get_or_init(|| open))
    }

    fn netfilter_port(&self) -> Result<u32, LinkError> {
        let port = self.netfilter().and_then(Netlink::port);
        port.map_err(refused("asking a netfilter socket for its port"))
    }

    /// The table, if there is one. Where the kernel has no nf_tables there is none.
    fn firewall_table(&self, family: NetfilterProtoFamily) -> Result<Option<Table>, LinkError> {
        let query = NfTablesMessage::GetTable(named(Vec::new()));
        let netfilter = self.netfilter();
        let answer = match netfilter.and_then(|netfilter| netfilter.get(message(family, query))) {
            // Without nfnetlink, without nf_tables (`nfnetlink_rcv_msg`), without the table.
            Err(error)
                if matches!(
                    error.raw_os_error(),
                    Some(libc::EPROTONOSUPPORT | libc::EINVAL | libc::EOPNOTSUPP | libc::ENOENT)
                ) =>
            {
                return Ok(None);
            }
            other => other.map_err(refused_by_netfilter("looking for the kill switch's table"))?,
        };
        let mut table = Table::default();
        let found = answer.into_iter().find_map(|answer| match answer.inner {
            NetfilterMessageInner::NfTables(NfTablesMessage::NewTable(found)) => Some(found),
            _ => None,
        });
        let Some(found) = found else {
            return Ok(None);
        };
        for attribute in found.attributes {
            match attribute {
                TableAttribute::Flags(flags) => table.flags = flags.bits(),
                TableAttribute::Owner(owner) => table.owner = Some(owner),
                TableAttribute::UserData(bytes) => table.comment = comment(&bytes),
                _ => {}
            }
        }
        Ok(Some(table))
    }

    /// The chains of a table with their rules, as far as they can be told from the wanted ones.
    fn chains(&self, family: NetfilterProtoFamily) -> Result<Vec<Chain>, LinkError> {
        let what = || refused_by_netfilter("listing the kill switch's table");
        let netfilter = self.netfilter().map_err(what())?;
        let query = NfTablesMessage::GetChain(ChainMessage { attributes: vec![] });
        let mut chains = Vec::new();
        for answer in netfilter.dump(message(family, query)).map_err(what())? {
            if let NetfilterMessageInner::NfTables(NfTablesMessage::NewChain(chain)) = answer.inner
                && chain
                    .attributes
                    .contains(&ChainAttribute::Table(TABLE.to_owned()))
            {
                chains.push(chain_of(&chain));
            }
        }
        let query = NfTablesMessage::GetRule(RuleMessage {
            attributes: vec![RuleAttribute::Table(TABLE.to_owned())],
        });
        for answer in netfilter.dump(message(family, query)).map_err(what())? {
            let NetfilterMessageInner::NfTables(NfTablesMessage::NewRule(rule)) = answer.inner
            else {
                continue;
            };
            let (name, rule) = rule_of(rule);
            if let Some(chain) = chains.iter_mut().find(|chain| chain.name == name) {
                chain.rules.push(rule);
            }
        }
        Ok(chains)
    }
}

/// What the kernel means by its answers here.
fn refused_by_netfilter(what: &'static str) -> impl FnOnce(io::Error) -> LinkError {
    move |source| {
        let why = match source.raw_os_error() {
            Some(libc::EPROTONOSUPPORT | libc::ENOENT | libc::EOPNOTSUPP) => {
                "; does the kernel have nf_tables, for the families inet and arp and with socket and fib expressions (CONFIG_NF_TABLES_INET, CONFIG_NF_TABLES_ARP, CONFIG_NFT_SOCKET, CONFIG_NFT_FIB_INET)?"
            }
            Some(libc::EPERM) => {
                "; CAP_NET_ADMIN is needed, and no other process that owns the table"
            }
            _ => return refused(what)(source),
        };
        refused(what)(io::Error::new(source.kind(), format!("{source}{why}")))
    }
}

/// As one transaction, of which each part is acknowledged.
fn batch(
    family: NetfilterProtoFamily,
    messages: Vec<(NfTablesMessage, u16)>,
) -> Vec<(NetfilterMessage, u16)> {
    let bound = |control| {
        let subsystem = libc::NFNL_SUBSYS_NFTABLES as u16;
        let header = NetfilterHeader::new(NetfilterProtoFamily::Unspec, 0, subsystem);
        (NetfilterMessage::new(header, control), 0)
    };
    let inner = messages
        .into_iter()
        .map(|(inner, flags)| (message(family, inner), flags | NLM_F_ACK));
    std::iter::once(bound(ControlMessage::BatchBegin))
        .chain(inner)
        .chain([bound(ControlMessage::BatchEnd)])
        .collect()
}

fn message(family: NetfilterProtoFamily, inner: NfTablesMessage) -> NetfilterMessage {
    NetfilterMessage::new(NetfilterHeader::new(family, 0, 0), inner)
}

/// What makes a table one with these chains.
fn replacement(
    is_present: bool,
    flags: TableFlags,
    comment: &str,
    wanted: &[Chain],
) -> Vec<(NfTablesMessage, u16)> {
    let mut messages = Vec::new();
    if is_present {
        messages.push((NfTablesMessage::DeleteTable(named(Vec::new())), 0));
    }
    let mut comment = comment.as_bytes().to_vec();
    comment.truncate(usize::from(u8::MAX) - 1);
    comment.push(0);
    let user_data = [vec![COMMENT, comment.len() as u8], comment].concat();
    let table = named(vec![
        TableAttribute::Flags(flags),
        TableAttribute::UserData(user_data),
    ]);
    messages.push((NfTablesMessage::NewTable(table), NLM_F_CREATE));
    for chain in wanted {
        let message = NfTablesMessage::NewChain(chain_message(chain));
        messages.push((message, NLM_F_CREATE));
        for rule in &chain.rules {
            let rule = NfTablesMessage::NewRule(rule_message(&chain.name, rule));
            messages.push((rule, NLM_F_CREATE | NLM_F_APPEND));
        }
    }
    messages
}

fn named(mut attributes: Vec<TableAttribute>) -> TableMessage {
    attributes.insert(0, TableAttribute::Name(TABLE.to_owned()));
    TableMessage { attributes }
}

/// The comment among a table's user data: type, length and value of each.
fn comment(mut user_data: &[u8]) -> String {
    while let [kind, length, rest @ ..] = user_data {
        let Some((value, more)) = rest.split_at_checked(usize::from(*length)) else {
            break;
        };
        if *kind == COMMENT {
            return String::from_utf8_lossy(value).into_owned();
        }
        user_data = more;
    }
    String::new()
}

fn chain_message(chain: &Chain) -> ChainMessage {
    ChainMessage {
        attributes: vec![
            ChainAttribute::Table(TABLE.to_owned()),
            ChainAttribute::Name(chain.name.clone()),
            ChainAttribute::Type(FILTER.to_owned()),
            ChainAttribute::Hook(vec![
                Hook::Number(chain.hook.into()),
                Hook::Priority(chain.priority.cast_unsigned()),
            ]),
            ChainAttribute::Policy(u32::from(chain.accepts)),
        ],
    }
}

fn chain_of(message: &ChainMessage) -> Chain {
    let mut chain = Chain {
        name: String::new(),
        hook: InetHookNumber::Other(u32::MAX),
        priority: 0,
        accepts: true,
        rules: Vec::new(),
    };
    let mut is_filter = false;
    for attribute in &message.attributes {
        match attribute {
            ChainAttribute::Name(name) => chain.name.clone_from(name),
            ChainAttribute::Type(kind) => is_filter = kind == FILTER,
            ChainAttribute::Policy(policy) => chain.accepts = *policy != 0,
            ChainAttribute::Hook(hook) => {
                for part in hook {
                    match part {
                        Hook::Number(HookNumber::Inet(hook)) => chain.hook = *hook,
                        Hook::Priority(priority) => chain.priority = priority.cast_signed(),
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    if !is_filter {
        chain.hook = InetHookNumber::Other(u32::MAX);
    }
    chain
}

fn rule_message(chain: &str, rule: &Rule) -> RuleMessage {
    let expressions = rule.iter().cloned().map(ListAttribute::from);
    RuleMessage {
        attributes: vec![
            RuleAttribute::Table(TABLE.to_owned()),
            RuleAttribute::Chain(chain.to_owned()),
            RuleAttribute::Expressions(expressions.collect()),
        ],
    }
}

/// The name of a rule's chain, and its expressions as we would have sent them.
fn rule_of(message: RuleMessage) -> (String, Rule) {
    let (mut chain, mut rule) = (String::new(), Vec::new());
    for attribute in message.attributes {
        match attribute {
            RuleAttribute::Chain(name) => chain = name,
            RuleAttribute::Expressions(elements) => {
                for element in elements {
                    let ListAttribute::Element(parts) = element else {
                        continue;
                    };
                    rule.extend(parts.into_iter().filter_map(|part| match part {
                        ExpressionAttribute::Data(expression) => Some(plain(expression)),
                        _ => None,
                    }));
                }
            }
            _ => {}
        }
    }
    (chain, rule)
}

/// Without what the kernel says although it is as always.
fn plain(mut expression: Expressions) -> Expressions {
    if let Expressions::Bitwise(attributes) = &mut expression {
        attributes.retain(|attribute| *attribute != Bitwise::Op(0));
    }
    expression
}

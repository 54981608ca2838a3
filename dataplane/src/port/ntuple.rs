//! Steering in the NIC: frames of a source address go to a receive queue of our choice (an "ntuple"
//! rule, as `ethtool -N IF flow-type ether src MAC action QUEUE` makes it).
//!
//! `ether` gives a NIC nothing to spread frames by; with a rule for each Workstation they come in
//! where its session is, and nothing is handed from worker to worker. Many drivers have no such rules;
//! then nothing changes. Only rules that were made here are ever removed, and each is compared before
//! it is.

use super::ethtool;
use std::collections::BTreeMap;
use std::io;

const GET_RULE_COUNT: u32 = 0x2e;
const GET_RULE: u32 = 0x2f;
const GET_ALL_RULES: u32 = 0x30;
const DELETE_RULE: u32 = 0x31;
const INSERT_RULE: u32 = 0x32;
/// ETHER_FLOW: the rule compares the Ethernet header.
const ETHER_FLOW: u32 = 0x12;
/// RX_CLS_LOC_SPECIAL: the driver chooses places by itself.
const CHOOSES_PLACES: u64 = 0x8000_0000;
/// RX_CLS_LOC_ANY: let it choose.
const ANY_PLACE: u32 = 0xffff_ffff;
/// Rules a NIC may have for one of ours to be added by a place of our choice.
const MOST_RULES: usize = 2048;

/// `struct ethtool_rx_flow_spec` of linux/ethtool.h, its unions as bytes.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct FlowSpec {
    flow_type: u32,
    header: [u8; 52],
    header_more: [u8; 20],
    mask: [u8; 52],
    mask_more: [u8; 20],
    queue: u64,
    location: u32,
}

/// `struct ethtool_rxnfc`, with room for the places of all rules.
#[repr(C)]
#[derive(Debug, Clone)]
pub struct Request {
    command: u32,
    flow_type: u32,
    data: u64,
    rule: FlowSpec,
    count: u32,
    places: [u32; MOST_RULES],
}

impl Request {
    fn new(command: u32) -> Box<Self> {
        Box::new(Self {
            command,
            flow_type: 0,
            data: 0,
            rule: FlowSpec {
                flow_type: 0,
                header: [0; 52],
                header_more: [0; 20],
                mask: [0; 52],
                mask_more: [0; 20],
                queue: 0,
                location: 0,
            },
            count: 0,
            places: [0; MOST_RULES],
        })
    }
}

/// What a request asks for, for whoever passes it on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asks {
    /// What there is; anyone may ask.
    Reading,
    /// That a rule be made.
    Making(Rule),
    /// That the rule at this place be removed.
    Removing(u32),
}

impl Request {
    /// What it asks for; `None` when it is nothing that is asked here.
    pub fn asks(&self) -> Option<Asks> {
        let spec = &self.rule;
        match self.command {
            GET_RULE_COUNT | GET_RULE | GET_ALL_RULES => Some(Asks::Reading),
            DELETE_RULE => Some(Asks::Removing(spec.location)),
            INSERT_RULE => {
                let rule = Rule {
                    source: spec.header[6..12].try_into().ok()?,
                    queue: spec.queue.try_into().ok()?,
                    place: spec.location,
                };
                rule.is(spec).then_some(Asks::Making(rule))
            }
            _ => None,
        }
    }

    /// The answer to [`Asks::Making`]: where the rule is.
    pub fn made_at(&mut self, place: u32) {
        self.rule.location = place;
    }
}

impl Nic {
    /// Makes a rule at its place, or where the driver likes. Where it is.
    ///
    /// # Errors
    /// What the kernel answered.
    pub fn make(&mut self, rule: &Rule) -> io::Result<u32> {
        let mut insert = Request::new(INSERT_RULE);
        insert.rule = rule.spec();
        self.call(&mut insert)?;
        Ok(insert.rule.location)
    }

    /// Removes the rule at a place, if it is of the kind that is made here: by a source address and
    /// nothing else.
    ///
    /// # Errors
    /// What the kernel answered; EPERM for a rule of another kind.
    pub fn unmake(&mut self, place: u32) -> io::Result<()> {
        let mut stands = Request::new(GET_RULE);
        stands.rule.location = place;
        self.call(&mut stands)?;
        stands.command = INSERT_RULE;
        if stands.asks().is_none() {
            return Err(io::Error::from_raw_os_error(libc::EPERM));
        }
        let mut delete = Request::new(DELETE_RULE);
        delete.rule.location = place;
        self.call(&mut delete)
    }
}

/// What answers: a NIC, or in tests something like it.
pub trait Classifier {
    /// Carries the request out and fills in the answer.
    ///
    /// # Errors
    /// What the kernel answered.
    fn call(&mut self, request: &mut Request) -> io::Result<()>;
}

/// A NIC of this machine, by the name of its interface.
#[derive(Debug)]
pub struct Nic(pub String);

impl Classifier for Nic {
    fn call(&mut self, request: &mut Request) -> io::Result<()> {
        ethtool::ask(&self.0, request)
    }
}

/// A rule that was made here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rule {
    /// The source address.
    pub source: [u8; 6],
    /// The queue its frames go to.
    pub queue: u32,
    /// Its place in the NIC's table.
    pub place: u32,
}

impl Rule {
    fn spec(&self) -> FlowSpec {
        let mut spec = Request::new(0).rule;
        spec.flow_type = ETHER_FLOW;
        // struct ethhdr: destination, source, EtherType.
        spec.header[6..12].copy_from_slice(&self.source);
        spec.mask[6..12].copy_from_slice(&[0xff; 6]);
        spec.queue = self.queue.into();
        spec.location = self.place;
        spec
    }

    /// Whether that is what stands in the NIC.
    fn is(&self, spec: &FlowSpec) -> bool {
        let own = self.spec();
        own.flow_type == spec.flow_type
            && own.header[..14] == spec.header[..14]
            && own.mask[..14] == spec.mask[..14]
            && own.queue == spec.queue
    }
}

/// The rules that were made on one NIC.
#[derive(Debug)]
pub struct Rules<C> {
    nic: C,
    made: BTreeMap<[u8; 6], Rule>,
    unsupported: bool,
}

impl<C: Classifier> Rules<C> {
    /// None yet.
    pub fn new(nic: C) -> Self {
        Self {
            nic,
            made: BTreeMap::new(),
            unsupported: false,
        }
    }

    /// Sends what comes from `source` to `queue`. `Ok(false)` when this NIC has no such rules, now or
    /// as it was found before.
    ///
    /// # Errors
    /// What the kernel answered to a NIC that has them.
    pub fn guide(&mut self, source: [u8; 6], queue: u32) -> io::Result<bool> {
        if self.unsupported {
            return Ok(false);
        }
        if let Some(rule) = self.made.get(&source) {
            if rule.queue == queue {
                return Ok(true);
            }
            self.release(source)?;
        }
        match self.insert(source, queue) {
            Ok(rule) => {
                self.made.insert(source, rule);
                Ok(true)
            }
            Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {
                self.unsupported = true;
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    fn insert(&mut self, source: [u8; 6], queue: u32) -> io::Result<Rule> {
        let mut count = Request::new(GET_RULE_COUNT);
        self.nic.call(&mut count)?;
        let place = match count.data & CHOOSES_PLACES {
            0 => self.free_place(count.count)?,
            _ => ANY_PLACE,
        };
        let rule = Rule {
            source,
            queue,
            place,
        };
        let mut insert = Request::new(INSERT_RULE);
        insert.rule = rule.spec();
        self.nic.call(&mut insert)?;
        Ok(Rule {
            place: insert.rule.location,
            ..rule
        })
    }

    /// The last free place: what others have there goes before ours.
    fn free_place(&mut self, rules: u32) -> io::Result<u32> {
        if rules as usize > MOST_RULES {
            return Err(io::Error::from_raw_os_error(libc::ENOSPC));
        }
        let mut all = Request::new(GET_ALL_RULES);
        all.count = rules;
        self.nic.call(&mut all)?;
        let taken = &all.places[..(all.count.min(rules)) as usize];
        let size = u32::try_from(all.data).unwrap_or(0);
        let mut free = (0..size).rev().filter(|place| !taken.contains(place));
        free.next()
            .ok_or_else(|| io::Error::from_raw_os_error(libc::ENOSPC))
    }

    /// Removes the rule of a source, where there is one and it still stands as it was made.
    ///
    /// # Errors
    /// What the kernel answered; the rule is forgotten all the same.
    pub fn release(&mut self, source: [u8; 6]) -> io::Result<()> {
        match self.made.remove(&source) {
            Some(rule) => self.remove(&rule),
            None => Ok(()),
        }
    }

    /// Removes a rule that an earlier process of ours has made, if it still stands.
    ///
    /// # Errors
    /// What the kernel answered.
    pub fn remove(&mut self, rule: &Rule) -> io::Result<()> {
        let mut stands = Request::new(GET_RULE);
        stands.rule.location = rule.place;
        if self.nic.call(&mut stands).is_err() || !rule.is(&stands.rule) {
            return Ok(());
        }
        let mut delete = Request::new(DELETE_RULE);
        delete.rule.location = rule.place;
        self.nic.call(&mut delete)
    }

    /// Removes all that were made here.
    pub fn release_all(&mut self) {
        for source in self.made.keys().copied().collect::<Vec<_>>() {
            // The NIC may be gone, and its rules with it.
            let _ = self.release(source);
        }
    }

    /// The rules that were made here and not removed.
    pub fn made(&self) -> impl Iterator<Item = &Rule> {
        self.made.values()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: [u8; 6] = [2, 0, 0, 0, 0, 1];
    const TWO: [u8; 6] = [2, 0, 0, 0, 0, 2];

    /// A NIC with a table of eight places.
    #[derive(Default)]
    struct Fake {
        rules: BTreeMap<u32, FlowSpec>,
        chooses: bool,
        answer: Option<i32>,
        calls: usize,
    }

    impl Classifier for Fake {
        fn call(&mut self, request: &mut Request) -> io::Result<()> {
            self.calls += 1;
            if let Some(errno) = self.answer {
                return Err(io::Error::from_raw_os_error(errno));
            }
            let missing = || io::Error::from_raw_os_error(libc::ENOENT);
            match request.command {
                GET_RULE_COUNT => {
                    request.count = self.rules.len() as u32;
                    request.data = 8 | if self.chooses { CHOOSES_PLACES } else { 0 };
                }
                GET_ALL_RULES => {
                    assert_eq!(request.count as usize, self.rules.len());
                    request.data = 8;
                    for (place, taken) in request.places.iter_mut().zip(self.rules.keys()) {
                        *place = *taken;
                    }
                }
                GET_RULE => {
                    let place = request.rule.location;
                    request.rule = *self.rules.get(&place).ok_or_else(missing)?;
                }
                DELETE_RULE => {
                    let place = request.rule.location;
                    self.rules.remove(&place).ok_or_else(missing)?;
                }
                INSERT_RULE => {
                    if self.chooses {
                        assert_eq!(request.rule.location, ANY_PLACE);
                        request.rule.location = 3;
                    }
                    assert!(request.rule.location < 8);
                    self.rules.insert(request.rule.location, request.rule);
                }
                other => panic!("command {other:#x}"),
            }
            Ok(())
        }
    }

    #[test]
    fn requests_have_the_kernels_layout() {
        use std::mem::offset_of;
        assert_eq!(size_of::<FlowSpec>(), 168);
        assert_eq!(offset_of!(FlowSpec, queue), 152);
        assert_eq!(offset_of!(FlowSpec, location), 160);
        assert_eq!(offset_of!(Request, rule), 16);
        assert_eq!(offset_of!(Request, count), 184);
        assert_eq!(offset_of!(Request, places), 188);
    }

    #[test]
    fn a_rule_compares_the_source_address_alone_and_takes_a_free_place() {
        let mut others = Fake::default();
        others.rules.insert(7, Request::new(0).rule);
        let mut rules = Rules::new(others);
        assert!(rules.guide(ONE, 2).unwrap());
        assert!(rules.guide(TWO, 3).unwrap());
        assert!(rules.guide(TWO, 3).unwrap(), "it is there already");
        let spec = rules.nic.rules[&6];
        assert_eq!((spec.flow_type, spec.queue), (ETHER_FLOW, 2));
        assert_eq!(
            spec.header[..14],
            [0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 1, 0, 0]
        );
        assert_eq!(spec.mask[..6], [0; 6]);
        assert_eq!(spec.mask[6..12], [0xff; 6]);
        assert_eq!(spec.mask[12..], [0; 40]);
        assert!(rules.guide(ONE, 1).unwrap(), "it moves");
        assert_eq!(rules.nic.rules[&6].queue, 1);
        rules.release(TWO).unwrap();
        rules.release_all();
        assert_eq!(rules.nic.rules.keys().collect::<Vec<_>>(), [&7]);
    }

    #[test]
    fn a_driver_that_chooses_places_is_let_choose() {
        let mut rules = Rules::new(Fake {
            chooses: true,
            ..Fake::default()
        });
        assert!(rules.guide(ONE, 2).unwrap());
        assert_eq!(rules.made().next().unwrap().place, 3);
        rules.release(ONE).unwrap();
        assert!(rules.nic.rules.is_empty());
    }

    #[test]
    fn a_place_that_somebody_else_has_taken_since_is_left_alone() {
        let mut rules = Rules::new(Fake::default());
        rules.guide(ONE, 2).unwrap();
        let place = rules.made().next().unwrap().place;
        rules.nic.rules.get_mut(&place).unwrap().queue = 1;
        rules.release(ONE).unwrap();
        assert_eq!(rules.nic.rules.len(), 1);
        let gone = Rule {
            source: TWO,
            queue: 0,
            place: 0,
        };
        rules.remove(&gone).unwrap();
    }

    #[test]
    fn a_nic_without_rules_is_asked_once() {
        let mut rules = Rules::new(Fake {
            answer: Some(libc::EOPNOTSUPP),
            ..Fake::default()
        });
        assert!(!rules.guide(ONE, 2).unwrap());
        assert!(!rules.guide(TWO, 2).unwrap());
        assert_eq!(rules.nic.calls, 1);
    }

    #[test]
    fn a_full_table_is_an_error_and_nothing_is_overwritten() {
        let mut full = Fake::default();
        for place in 0..8 {
            full.rules.insert(place, Request::new(0).rule);
        }
        let mut rules = Rules::new(full);
        let error = rules.guide(ONE, 2).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENOSPC));
        assert!(rules.nic.rules.values().all(|rule| rule.flow_type == 0));
    }
}

//! Each check is made to fail by a planted fact, and by nothing else: the healthy facts have no finding
//! that is not in order.

use super::facts::*;
use super::*;
use crate::api::{PortState, PortStatus};
use crate::choices::{Admission, Xdp, ZeroCopy};
use crate::config::{BusyPoll, Rings};
use dataplane::engine::Engine;
use dataplane::link::{LinkInfo, Master, XdpFeatures};
use dataplane::port::ethtool::{RingSize, Survey};
use dataplane::wall::{AttachMode, Inspection, Link, Standing};
use setup::{FastPathSetup, Service};

fn setup() -> Setup {
    let port = |interface: &str, admission| PortSetup {
        interface: interface.into(),
        admission,
        udp: false,
        shared: None,
        rings: Rings::default(),
        addresses: match admission {
            Admission::Tunnel => Vec::new(),
            _ => vec!["10.9.0.1/24".parse().unwrap()],
        },
    };
    Setup {
        daemon: "portcullisd",
        start: "portcullisd".into(),
        configuration: "/etc/portcullis/portcullis.toml".into(),
        state_directory: "/var/lib/portcullis".into(),
        runtime_directory: "/run/portcullis".into(),
        pin_directory: "/sys/fs/bpf/portcullis".into(),
        engine: Engine::Auto,
        host_interface: "portcullis0".into(),
        kept_in: true,
        services: vec![Service {
            tcp: true,
            port: 9050,
            addresses: vec!["10.152.152.10".parse().unwrap()],
            workstation: "alpha".into(),
        }],
        ports: vec![
            port("eth1", Admission::Tunnel),
            port("eth2", Admission::Pinned),
        ],
        fast_path: Some(FastPathSetup {
            interface: Some("eth3".into()),
        }),
    }
}

fn link(name: &str, index: u32) -> LinkInfo {
    LinkInfo {
        index,
        name: name.into(),
        mac: Some([2, 0, 0, 0, 0, index as u8]),
        mtu: 1500,
        up: true,
        carrier: true,
        loopback: false,
        ethernet: true,
        master: None,
        kind: None,
        addresses: Vec::new(),
    }
}

fn port(name: &str, index: u32) -> Port {
    Port {
        link: Some(link(name, index)),
        survey: Survey {
            driver: Some("igc".into()),
            queues: 4,
            most_queues: Some(4),
            ring: Some(RingSize {
                now: 1024,
                most: 4096,
            }),
            gro: Some(true),
            lro: Some(false),
            rxvlan: Some(false),
            ntuple: Some(true),
        },
        features: Some(XdpFeatures::new(0x3f)),
        interrupts: vec![(40, "0".into()), (41, "1".into())],
        rp_filter: Some(1),
        forwarding: Some(0),
        hooks: Some(Ok(Inspection {
            xdp: Some(Standing {
                mode: Some(AttachMode::Native),
                program: 7,
            }),
            admission: Link::On {
                ifindex: index,
                program: 7,
            },
            guards: [8, 9].map(|program| Link::On {
                ifindex: index,
                program,
            }),
            tcx: Some([vec![8], vec![9]]),
        })),
        ..Port::default()
    }
}

fn status(name: &str, index: u32) -> PortStatus {
    PortStatus {
        interface: name.into(),
        mac: Some(format!("02:00:00:00:00:{index:02x}")),
        state: PortState::Up,
        zero_copy: Some(true),
        ..PortStatus::default()
    }
}

fn facts() -> Facts {
    Facts {
        root: true,
        kernel: Kernel {
            release: "6.12.1-amd64".into(),
            af_xdp: Some(true),
            tx_budget: Some(true),
            tun: true,
            jit: Some(1),
            landlock: Some(true),
            missing: Some(Vec::new()),
        },
        cpu: Cpu {
            cores: 4,
            features: vec!["aes", "vaes", "avx512f"],
            clock_source: Some("tsc".into()),
            seeded: Some(true),
            time: 1_800_000_000,
        },
        memory: Memory {
            huge_pages: Some((64, 64)),
            free: Some(1 << 30),
            read_only: Some(false),
        },
        routing: Routing {
            forwards_v4: Some(false),
            forwards_v6: Some(false),
            kept_in: Some(true),
            ..Routing::default()
        },
        files: vec![File {
            path: "/var/lib/portcullis/gateway.key".into(),
            what: "the private key",
            forbidden: 0o077,
            mode: Some(0o100600),
        }],
        tun: Some(Tun {
            persistent: Some(true),
            addresses: vec!["10.152.152.10/24".parse().unwrap()],
        }),
        listeners: Some(vec![Listener {
            tcp: true,
            address: "0.0.0.0".parse().unwrap(),
            port: 9050,
        }]),
        daemon: Daemon {
            ports: Some(vec![status("eth1", 2), status("eth2", 3)]),
            warnings: Vec::new(),
            silent: None,
            process: Some(Process {
                capabilities: 0,
                seccomp: 2,
                memlock_unlimited: true,
            }),
        },
        ports: vec![port("eth1", 2), port("eth2", 3)],
        fast_path: Some(port("eth3", 4)),
    }
}

/// What is not in order: level, subject, check and the remedy.
fn amiss(setup: &Setup, facts: &Facts) -> Vec<(Level, String, String, String)> {
    let report = examine(setup, facts);
    let amiss = report.findings.into_iter().filter(|f| f.level != Level::Ok);
    amiss
        .map(|f| {
            let remedy = f.remedy.expect("what is amiss has a remedy");
            (f.level, f.subject, f.check, remedy)
        })
        .collect()
}

#[test]
fn a_healthy_gateway_has_nothing_to_mend() {
    let report = examine(&setup(), &facts());
    let amiss: Vec<_> = report
        .findings
        .iter()
        .filter(|f| f.level != Level::Ok)
        .collect();
    assert!(amiss.is_empty(), "{amiss:#?}");
    assert_eq!(report.verdict, Level::Ok);
    assert!(report.findings.len() > 40, "{}", report.findings.len());
    let text = text(&report, false, false);
    assert!(
        text.contains("[ OK ]") && text.contains("everything is as it should be"),
        "{text}"
    );
    assert_eq!(super::show::text(&report, true, false).lines().count(), 2);
}

/// Plants one thing, and expects one finding with a command in it.
fn planted(
    plant: impl FnOnce(&mut Setup, &mut Facts),
    level: Level,
    subject: &str,
    check: &str,
    remedy: &str,
) {
    let (mut setup, mut facts) = (setup(), facts());
    plant(&mut setup, &mut facts);
    let found = amiss(&setup, &facts);
    let [(found_level, found_subject, found_check, found_remedy)] = &found[..] else {
        panic!("{check}: one finding, not {found:#?}");
    };
    assert_eq!(
        (*found_level, &**found_subject, &**found_check),
        (level, subject, check)
    );
    assert!(found_remedy.contains(remedy), "{check}: {found_remedy}");
}

use Level::{Fail, Warn};

#[test]
fn the_kernels_checks_fail_each_at_its_own_cause() {
    let kernel = |plant: fn(&mut Kernel), level, check: &str, remedy: &str| {
        planted(
            |_, facts| plant(&mut facts.kernel),
            level,
            "kernel",
            check,
            remedy,
        );
    };
    kernel(
        |k| k.release = "5.10.0".into(),
        Fail,
        "version",
        "linux-image",
    );
    kernel(
        |k| k.release = "6.1.0-18-amd64".into(),
        Warn,
        "version",
        "backports",
    );
    kernel(|k| k.release = "what".into(), Warn, "version", "uname");
    kernel(
        |k| k.missing = Some(vec!["CONFIG_TUN"]),
        Fail,
        "config",
        "linux-image",
    );
    kernel(
        |k| k.af_xdp = Some(false),
        Fail,
        "AF_XDP",
        "CONFIG_XDP_SOCKETS",
    );
    kernel(|k| k.tun = false, Fail, "tun", "modprobe tun");
    kernel(
        |k| k.jit = Some(0),
        Fail,
        "BPF JIT",
        "sysctl -w net.core.bpf_jit_enable=1",
    );
    kernel(
        |k| k.jit = Some(2),
        Warn,
        "BPF JIT",
        "sysctl -w net.core.bpf_jit_enable=1",
    );
    kernel(|k| k.landlock = Some(false), Warn, "Landlock", "lsm=");
}

#[test]
fn the_machines_checks_fail_each_at_its_own_cause() {
    let machine = |plant: fn(&mut Setup, &mut Facts), level, check: &str, remedy: &str| {
        planted(plant, level, "machine", check, remedy);
    };
    machine(|_, f| f.cpu.features.clear(), Warn, "AEAD", "cpu model");
    machine(|s, _| s.engine = Engine::AesGcm, Warn, "AEAD", "engine");
    machine(|_, f| f.cpu.cores = 1, Warn, "cores", "two cores");
    machine(|_, f| f.cpu.seeded = Some(false), Fail, "random", "rng");
    machine(
        |_, f| f.cpu.clock_source = Some("hpet".into()),
        Warn,
        "clock source",
        "clocksource0",
    );
    machine(|_, f| f.cpu.time = 86_400, Warn, "clock", "date -s");
    machine(|_, f| f.memory.free = Some(1 << 20), Warn, "disk", "du -xh");
    machine(
        |_, f| f.memory.read_only = Some(true),
        Fail,
        "disk",
        "remount,rw",
    );
    machine(
        |s, f| {
            s.ports[0].rings.huge_pages = true;
            f.memory.huge_pages = Some((0, 0));
        },
        Warn,
        "huge pages",
        "vm.nr_hugepages",
    );
}

#[test]
fn what_might_be_forwarded_is_found() {
    let routing = |plant: fn(&mut Routing), level, check: &str, remedy: &str| {
        planted(
            |_, facts| plant(&mut facts.routing),
            level,
            "routing",
            check,
            remedy,
        );
    };
    routing(
        |r| r.kept_in = Some(false),
        Fail,
        "kept in",
        "systemctl restart portcullisd",
    );
    routing(
        |r| r.forwards_v4 = Some(true),
        Warn,
        "forwarding",
        "sysctl -w net.ipv4.ip_forward=0",
    );
    routing(
        |r| r.forwards_v6 = Some(true),
        Warn,
        "forwarding",
        "net.ipv6.conf.all.forwarding=0",
    );
    for (local, reserved, warned) in [
        ((32768, 60999), vec![], true),
        ((32768, 51887), vec![], false),
        ((51888, 51888), vec![(51889, 60000)], true),
        ((32768, 60999), vec![(8080, 8080), (51000, 52000)], false),
    ] {
        let (mut setup, mut facts) = (setup(), facts());
        setup.ports[0].shared = Some(51888);
        facts.routing.local_ports = Some(local);
        facts.routing.reserved_ports = reserved;
        let found = amiss(&setup, &facts);
        let is_it = |found: &(Level, String, String, String)| found.2 == "local ports";
        let finding = found.iter().find(|found| is_it(found));
        assert_eq!(finding.is_some(), warned, "{local:?}: {found:?}");
        // What is reserved already stays so.
        let mends = |(.., remedy): &(_, _, _, String)| match local {
            (51888, _) => remedy.contains("=51889-60000,51888 "),
            _ => remedy.contains("=51888 "),
        };
        assert!(finding.is_none_or(mends), "{finding:?}");
    }
    let eth1 = |f: &mut Facts| f.ports[0].routes = vec!["10.1.0.0/24".into()];
    planted(
        |_, f| eth1(f),
        Fail,
        "eth1",
        "routes",
        "ip route delete 10.1.0.0/24 dev eth1",
    );
    let eth2 = |f: &mut Facts| f.ports[1].rp_filter = Some(0);
    planted(
        |_, f| eth2(f),
        Warn,
        "eth2",
        "rp_filter",
        "sysctl -w net.ipv4.conf.eth2.rp_filter=1",
    );
    let eth2 = |f: &mut Facts| f.ports[1].forwarding = Some(1);
    planted(
        |_, f| eth2(f),
        Fail,
        "eth2",
        "forwarding",
        "sysctl -w net.ipv4.conf.eth2.forwarding=0",
    );
}

#[test]
fn files_that_others_can_use_are_found_with_the_mode_they_should_have() {
    planted(
        |_, f| f.files[0].mode = Some(0o100644),
        Fail,
        "files",
        "mode",
        "chmod 0600 /var/lib/portcullis/gateway.key",
    );
}

#[test]
fn a_host_interface_that_is_none_or_would_not_last_is_found() {
    let tun = |plant: fn(&mut Facts), level, remedy: &str| {
        planted(
            |_, facts| plant(facts),
            level,
            "portcullis0",
            "host interface",
            remedy,
        );
    };
    tun(|f| f.tun = None, Fail, "systemctl restart");
    tun(
        |f| f.tun.as_mut().unwrap().persistent = Some(false),
        Warn,
        "systemctl restart",
    );
    tun(
        |f| f.tun.as_mut().unwrap().persistent = None,
        Fail,
        "ip link delete dev portcullis0",
    );
}

#[test]
fn a_service_that_nobody_offers_is_found_and_tors_line_is_told() {
    let listens = |address: &str| {
        let listener = Listener {
            tcp: true,
            address: address.parse().unwrap(),
            port: 9050,
        };
        move |_: &mut Setup, f: &mut Facts| f.listeners = Some(vec![listener])
    };
    planted(
        listens("127.0.0.1"),
        Warn,
        "services",
        "listener",
        "SocksPort 10.152.152.10:9050",
    );
    let (setup, mut facts) = (setup(), facts());
    listens("10.152.152.10")(&mut setup.clone(), &mut facts);
    assert!(amiss(&setup, &facts).is_empty());
}

#[test]
fn the_daemons_checks_fail_each_at_its_own_cause() {
    let daemon = |plant: fn(&mut Facts), level, check: &str, remedy: &str| {
        planted(|_, facts| plant(facts), level, "portcullisd", check, remedy);
    };
    let process = |f: &mut Facts| f.daemon.process.as_mut().unwrap().capabilities = 1 << 12;
    daemon(process, Fail, "capabilities", "restart");
    let process = |f: &mut Facts| f.daemon.process.as_mut().unwrap().capabilities = 1 << 14;
    daemon(process, Warn, "capabilities", "LimitMEMLOCK");
    let process = |f: &mut Facts| f.daemon.process.as_mut().unwrap().seccomp = 0;
    daemon(process, Fail, "system calls", "restart");
    let process = |f: &mut Facts| f.daemon.process.as_mut().unwrap().memlock_unlimited = false;
    daemon(process, Warn, "locked memory", "LimitMEMLOCK=infinity");
    daemon(
        |f| f.daemon.warnings = vec!["a".into()],
        Warn,
        "warning",
        "portcullis show",
    );
    daemon(
        |f| {
            f.daemon = Daemon {
                silent: Some("stuck".into()),
                ..Daemon::default()
            }
        },
        Fail,
        "running",
        "journalctl",
    );
    daemon(
        |f| f.daemon = Daemon::default(),
        Warn,
        "running",
        "portcullisd",
    );
    planted(|_, f| f.root = false, Warn, "doctor", "root", "as root");
}

/// Plants a fact of the tunnel port.
fn at_port(
    plant: impl FnOnce(&mut PortSetup, &mut Port, &mut PortStatus),
    level: Level,
    check: &str,
    remedy: &str,
) {
    let plant = |setup: &mut Setup, facts: &mut Facts| {
        let status = &mut facts.daemon.ports.as_mut().unwrap()[0];
        plant(&mut setup.ports[0], &mut facts.ports[0], status);
    };
    planted(plant, level, "eth1", check, remedy);
}

fn of(port: &mut Port) -> &mut LinkInfo {
    port.link.as_mut().unwrap()
}

#[test]
fn an_interface_that_can_have_no_fast_path_is_found() {
    let at = |plant: fn(&mut FastPathSetup, &mut Port), level, check, remedy| {
        let plant = |setup: &mut Setup, facts: &mut Facts| {
            let (wanted, found) = (&mut setup.fast_path, &mut facts.fast_path);
            plant(wanted.as_mut().unwrap(), found.as_mut().unwrap());
        };
        planted(plant, level, "fast path", check, remedy);
    };
    at(
        |wanted, _| wanted.interface = None,
        Fail,
        "interface",
        "interface = ",
    );
    at(|_, found| found.link = None, Warn, "interface", "ip link");
    let none = |_: &mut FastPathSetup, found: &mut Port| {
        found.features = Some(XdpFeatures::new(0));
    };
    at(none, Warn, "native XDP", "leave fast_path out");
    let bonded = |_: &mut FastPathSetup, found: &mut Port| {
        of(found).master = Some(Master {
            index: 9,
            name: "bond0".into(),
            kind: "bond".into(),
        });
    };
    at(bonded, Warn, "master", "nomaster");
    let bond = |_: &mut FastPathSetup, found: &mut Port| found.members = vec!["eth4".into()];
    at(bond, Warn, "members", "leave fast_path out");
}

#[test]
fn an_interface_that_is_no_isolated_port_is_found() {
    at_port(
        |_, p, _| {
            of(p).master = Some(Master {
                index: 9,
                name: "br0".into(),
                kind: "bridge".into(),
            });
        },
        Fail,
        "isolation",
        "ip link set dev eth1 nomaster",
    );
    let address = |p: &mut Port| of(p).addresses = vec!["10.1.0.1/24".parse().unwrap()];
    at_port(
        |_, p, _| address(p),
        Fail,
        "isolation",
        "ip address delete 10.1.0.1/24 dev eth1",
    );
    at_port(
        |_, p, _| p.upper = vec!["eth1.5".into()],
        Fail,
        "upper",
        "ip link delete dev eth1.5",
    );
    at_port(|_, p, _| of(p).carrier = false, Warn, "carrier", "cable");
    at_port(|_, p, _| of(p).up = false, Warn, "carrier", "portcullisd");
    at_port(
        |_, p, _| of(p).mtu = 1000,
        Warn,
        "MTU",
        "ip link set dev eth1 mtu 1500",
    );
    at_port(
        |_, p, _| of(p).mtu = 9500,
        Fail,
        "MTU",
        "ip link set dev eth1 mtu 9000",
    );
    let single = |p: &mut Port| p.features = Some(XdpFeatures::new(0b1111));
    at_port(
        |_, p, _| {
            of(p).mtu = 9000;
            single(p);
        },
        Fail,
        "MTU",
        "mtu 1500",
    );
    let (setup, mut facts) = (setup(), facts());
    facts.ports[0] = Port::default();
    facts.daemon.ports = Some(vec![status("eth2", 3)]);
    let found = amiss(&setup, &facts);
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!((found[0].0, &*found[0].2), (Fail, "interface"));
}

#[test]
fn what_a_driver_cannot_do_is_found() {
    let none = |p: &mut Port| p.features = Some(XdpFeatures::new(0));
    at_port(|_, p, _| none(p), Warn, "native XDP", "igc");
    at_port(
        |s, p, _| {
            none(p);
            s.rings.xdp = Xdp::Native;
        },
        Fail,
        "native XDP",
        "xdp = \"auto\"",
    );
    at_port(
        |s, _, _| s.rings.xdp = Xdp::Generic,
        Warn,
        "native XDP",
        "generic",
    );
    let copies = |p: &mut Port| p.features = Some(XdpFeatures::new(0b10_0111));
    at_port(
        |s, p, _| {
            copies(p);
            s.rings.zero_copy = ZeroCopy::On;
        },
        Fail,
        "zero-copy",
        "zero_copy = \"auto\"",
    );
    at_port(
        |s, _, _| s.rings.zero_copy = ZeroCopy::Off,
        Warn,
        "zero-copy",
        "zero_copy",
    );
    at_port(
        |_, _, s| s.zero_copy = Some(false),
        Warn,
        "copy mode",
        "journalctl",
    );
    // One whose zero-copy may send nothing, whatever it says itself.
    at_port(
        |s, p, _| {
            p.survey.driver = Some("virtio_net".into());
            s.rings.zero_copy = ZeroCopy::On;
        },
        Warn,
        "zero-copy",
        "zero_copy = \"auto\"",
    );
    // An older kernel does not tell: then the table of drivers does.
    at_port(
        |_, p, _| {
            p.features = None;
            p.survey.driver = Some("e1000e".into());
            p.survey.queues = 1;
        },
        Warn,
        "native XDP",
        "igc",
    );
}

/// Datagrams have addresses and ports, which any NIC spreads them by.
#[test]
fn several_queues_without_rules_are_in_order_over_udp() {
    let (mut setup, mut facts) = (setup(), facts());
    setup.ports[0].udp = true;
    facts.ports[0].survey.ntuple = None;
    assert_eq!(amiss(&setup, &facts), []);
}

#[test]
fn queues_rings_interrupts_and_polling_are_found() {
    at_port(
        |_, p, _| p.survey.ntuple = Some(false),
        Warn,
        "queues",
        "ethtool -K eth1 ntuple on",
    );
    at_port(
        |_, p, _| {
            p.survey.ntuple = None;
            p.survey.driver = Some("virtio_net".into());
        },
        Warn,
        "queues",
        "ethtool -L eth1 combined 1",
    );
    at_port(
        |s, _, _| s.rings.queues = Some(8),
        Warn,
        "queues",
        "queues = \"auto\"",
    );
    at_port(
        |s, p, _| {
            s.rings.queues = Some(8);
            p.survey.most_queues = Some(16);
        },
        Warn,
        "queues",
        "ethtool -L eth1 combined 8",
    );
    let small = Some(RingSize {
        now: 256,
        most: 4096,
    });
    at_port(
        |_, p, _| p.survey.ring = small,
        Warn,
        "ring",
        "ethtool -G eth1 rx 4096",
    );
    let same = vec![(40, "0".to_owned()), (41, "0".to_owned())];
    at_port(
        |_, p, _| p.interrupts = same,
        Warn,
        "interrupts",
        "/proc/irq/40/smp_affinity_list",
    );
    let busy = Some(BusyPoll {
        microseconds: 20,
        budget: 64,
        prefer: true,
    });
    at_port(
        |s, _, _| s.rings.busy_poll = busy,
        Warn,
        "busy polling",
        "napi_defer_hard_irqs",
    );
    at_port(
        |_, _, s| s.busy_poll = Some(false),
        Warn,
        "busy polling",
        "busy_poll",
    );
    at_port(
        |_, _, s| s.ring_losses = [("rx_ring_full".to_owned(), 3)].into(),
        Warn,
        "losses",
        "ring_size",
    );
}

#[test]
fn offloads_that_hide_frames_from_xdp_are_found() {
    at_port(
        |_, p, _| p.survey.lro = Some(true),
        Warn,
        "LRO",
        "ethtool -K eth1 lro off",
    );
    at_port(
        |_, p, _| p.survey.rxvlan = Some(true),
        Warn,
        "VLAN stripping",
        "rxvlan off",
    );
    at_port(
        |_, p, _| {
            p.survey.driver = Some("veth".into());
            p.survey.gro = Some(false);
        },
        Warn,
        "GRO",
        "ethtool -K eth1 gro on",
    );
}

fn hooks(port: &mut Port) -> &mut Inspection {
    port.hooks.as_mut().unwrap().as_mut().unwrap()
}

#[test]
fn a_wall_that_does_not_stand_and_programs_of_others_are_found() {
    at_port(
        |_, p, _| p.hooks = Some(Err("EPERM".into())),
        Warn,
        "wall",
        "as root",
    );
    at_port(
        |_, p, _| hooks(p).xdp.as_mut().unwrap().program = 99,
        Fail,
        "wall",
        "xdp off",
    );
    at_port(
        |_, p, _| hooks(p).xdp.as_mut().unwrap().mode = Some(AttachMode::Generic),
        Warn,
        "wall",
        "native XDP",
    );
    at_port(
        |_, p, _| {
            hooks(p).xdp = None;
            hooks(p).admission = Link::Severed;
        },
        Fail,
        "wall",
        "systemctl restart",
    );
    at_port(
        |_, p, _| {
            hooks(p).admission = Link::Unpinned;
        },
        Fail,
        "wall",
        "bpftool prog show id 7",
    );
    at_port(
        |_, p, _| {
            hooks(p).xdp = None;
            hooks(p).admission = Link::Unpinned;
        },
        Fail,
        "wall",
        "systemctl restart",
    );
    at_port(
        |_, p, _| {
            hooks(p).guards[1] = Link::Unpinned;
            hooks(p).tcx.as_mut().unwrap()[1].clear();
        },
        Fail,
        "guards",
        "systemctl restart",
    );
    at_port(|_, p, _| hooks(p).tcx = None, Warn, "guards", "6.6");
    at_port(
        |_, p, _| hooks(p).tcx.as_mut().unwrap()[0].push(50),
        Warn,
        "tc programs",
        "id 50",
    );
    at_port(
        |_, p, _| hooks(p).tcx.as_mut().unwrap()[0].insert(0, 50),
        Fail,
        "tc programs",
        "id 50",
    );
}

#[test]
fn a_port_that_is_down_open_or_another_than_the_wall_knows_is_found() {
    at_port(
        |_, _, s| {
            s.state = PortState::Down;
            s.reason = Some("no ring".into());
        },
        Fail,
        "port",
        "journalctl",
    );
    at_port(
        |_, _, s| s.mac = Some("02:00:00:00:00:99".into()),
        Fail,
        "MAC address",
        "restart",
    );
    let open = |s: &mut Setup| s.ports[1].admission = Admission::Open;
    planted(|s, _| open(s), Warn, "eth2", "admission", "pinned");
}

#[test]
fn an_agent_is_examined_without_what_only_a_gateway_has() {
    let setup = Setup {
        kept_in: false,
        services: Vec::new(),
        ..setup()
    };
    let mut facts = facts();
    facts.routing.forwards_v4 = Some(true);
    facts.routing.kept_in = Some(false);
    assert_eq!(amiss(&setup, &facts), []);
}

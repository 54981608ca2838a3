//! Interface management with a real kernel, in network namespaces of their own. Needs root.

mod netns;

use ipnet::IpNet;
use netns::{Netns, Tap, in_namespace, in_quiet_namespace, run, veth};
use portcullis_dataplane::link::{
    LinkChange, LinkError, LinkEvent, LinkMonitor, Links, Unfit, disable_ipv6, port_fitness,
    set_threaded_napi,
};
use std::time::{Duration, Instant};

/// An interface of that name with a carrier, once it is up; the kernel has veth everywhere.
fn add(name: &str) {
    run(&format!(
        "ip link add {name} type veth peer name {name}-peer"
    ));
    run(&format!("ip link set {name}-peer up"));
}

fn nets(all: &[&str]) -> Vec<IpNet> {
    all.iter().map(|net| net.parse().unwrap()).collect()
}

#[test]
fn an_interface_is_found_as_it_is() {
    in_namespace(|| {
        run("ip link add pa type veth peer name pb");
        run("ip link set pa address 02:00:00:00:00:0a mtu 1400");
        run("ip address add 10.1.0.1/24 dev pa");
        let links = Links::open().unwrap();
        let link = links.find("pa").unwrap();
        assert_eq!(link.name, "pa");
        assert_eq!(link.mac, Some([2, 0, 0, 0, 0, 10]));
        assert_eq!((link.mtu, link.up, link.carrier), (1400, false, false));
        assert_eq!(link.kind.as_deref(), Some("veth"));
        assert_eq!(link.addresses, nets(&["10.1.0.1/24"]));
        assert!(link.ethernet && !link.loopback && link.master.is_none());
        links.set_up(link.index).unwrap();
        let peer = links.find("pb").unwrap();
        links.set_up(peer.index).unwrap();
        links.set_mtu(link.index, 1300).unwrap();
        let link = links.get(link.index).unwrap();
        assert!(link.up && link.carrier);
        assert_eq!(link.mtu, 1300);
        links.set_down(link.index).unwrap();
        links.set_mac(link.index, [2, 0, 0, 0, 0, 11]).unwrap();
        let link = links.find("pa").unwrap();
        assert_eq!((link.up, link.mac), (false, Some([2, 0, 0, 0, 0, 11])));
        assert_eq!(links.list().unwrap().len(), 3);
        assert!(links.find("lo").unwrap().loopback);
        assert!(matches!(links.find("pz"), Err(LinkError::NotFound(_))));
        assert!(matches!(links.get(9999), Err(LinkError::NotFound(_))));
        assert!(matches!(
            links.find("a-name-that-is-far-too-long"),
            Err(LinkError::NotFound(_))
        ));
        links.delete(link.index).unwrap();
        assert!(matches!(links.find("pa"), Err(LinkError::NotFound(_))));
    });
}

#[test]
fn what_an_interfaces_driver_counts_is_told() {
    in_quiet_namespace(|| {
        veth(1);
        let links = Links::open().unwrap();
        let sender = Tap::sending_on("a");
        let before = [links.statistics("a"), links.statistics("b")].map(Result::unwrap);
        for _ in 0..10 {
            sender.send(&[2; 100]).expect("send");
        }
        let end = Instant::now() + Duration::from_secs(5);
        loop {
            let [a, b] = [links.statistics("a"), links.statistics("b")].map(Result::unwrap);
            let sent = (
                a.tx_frames - before[0].tx_frames,
                a.tx_bytes - before[0].tx_bytes,
            );
            let arrived = (
                b.rx_frames - before[1].rx_frames,
                b.rx_bytes - before[1].rx_bytes,
            );
            if (sent, arrived) == ((10, 1000), (10, 1000)) {
                break;
            }
            assert!(Instant::now() < end, "{sent:?} {arrived:?}");
        }
        let nobody = links.statistics("pz");
        assert!(matches!(nobody, Err(LinkError::NotFound(_))));
    });
}

#[test]
fn a_call_within_a_runtime_works() {
    in_namespace(|| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        let name = runtime.block_on(async { Links::open().unwrap().get(1).unwrap().name });
        assert_eq!(name, "lo");
    });
}

#[test]
fn addresses_become_exactly_those_wanted() {
    in_namespace(|| {
        add("pa");
        run("ip link set pa up");
        let links = Links::open().unwrap();
        let index = links.find("pa").unwrap().index;
        links
            .set_addresses(index, &nets(&["10.1.0.1/24", "10.1.0.2/24", "fd01::1/64"]))
            .unwrap();
        // A mark that a removed and added address would lose.
        run("ip address change 10.1.0.2/24 dev pa valid_lft 5000 preferred_lft 5000");
        run("ip address change fd01::1/64 dev pa valid_lft 5000 preferred_lft 5000");
        links
            .set_addresses(index, &nets(&["10.1.0.1/24", "fd01::1/64", "10.2.0.1/32"]))
            .unwrap();
        let shown = run("ip -o address show dev pa scope global");
        assert_eq!(shown.lines().count(), 3, "{shown}");
        assert!(shown.contains("10.2.0.1/32") && !shown.contains("10.1.0.2/"));
        let kept = shown.lines().find(|line| line.contains("fd01::1")).unwrap();
        assert!(!kept.contains("forever"), "{kept}");
        // The primary goes; what was secondary to it stays wanted.
        links
            .set_addresses(index, &nets(&["10.1.0.3/24", "10.1.0.1/24"]))
            .unwrap();
        links.set_addresses(index, &nets(&["10.1.0.3/24"])).unwrap();
        let global = |address: &IpNet| !address.to_string().starts_with("fe80");
        let left: Vec<_> = links.addresses(index).unwrap();
        let left: Vec<_> = left.into_iter().filter(global).collect();
        assert_eq!(left, nets(&["10.1.0.3/24"]));
        let address = "10.1.0.3/24".parse().unwrap();
        assert!(links.add_address(index, address).is_err());
        links.replace_address(index, address).unwrap();
        links.remove_address(index, address).unwrap();
        links.remove_address(index, address).unwrap();
    });
}

#[test]
fn routes_are_set_replaced_and_removed() {
    in_namespace(|| {
        for name in ["pa", "pb"] {
            add(name);
            run(&format!("ip link set {name} up"));
        }
        let links = Links::open().unwrap();
        let [a, b] = ["pa", "pb"].map(|name| links.find(name).unwrap().index);
        links
            .add_address(a, "10.1.0.1/32".parse().unwrap())
            .unwrap();
        links
            .add_address(a, "fd01::1/128".parse().unwrap())
            .unwrap();
        let four: IpNet = "10.9.1.1/16".parse().unwrap();
        let six: IpNet = "fd09::/16".parse().unwrap();
        links
            .add_route(four, a, Some("10.1.0.1".parse().unwrap()))
            .unwrap();
        links
            .add_route(six, a, Some("fd01::1".parse().unwrap()))
            .unwrap();
        assert!(
            run("ip route").contains("10.9.0.0/16 dev pa proto static scope link src 10.1.0.1")
        );
        assert!(run("ip -6 route").contains("fd09::/16 dev pa proto static src fd01::1"));
        assert!(links.add_route(four, a, None).is_err());
        links.replace_route(four, b, None).unwrap();
        assert!(run("ip route").contains("10.9.0.0/16 dev pb"));
        assert!(!run("ip route").contains("10.9.0.0/16 dev pa"));
        let default: IpNet = "0.0.0.0/0".parse().unwrap();
        links.replace_route(default, a, None).unwrap();
        assert!(run("ip route").contains("default dev pa"));
        links.remove_route(default, a).unwrap();
        links.remove_route(four, b).unwrap();
        links.remove_route(four, b).unwrap();
        links.remove_route(six, a).unwrap();
        assert_eq!(run("ip route").trim(), "");
        let error = links.add_route(four, a, Some("fd01::1".parse().unwrap()));
        assert!(error.is_err());
    });
}

#[test]
fn unfit_ports_are_told_apart() {
    in_namespace(|| {
        let links = Links::open().unwrap();
        let verdict = |name: &str| port_fitness(&links.find(name).unwrap());
        run("ip link add pa type veth peer name pb");
        run("ip link set pa up");
        run("ip link set pb up");
        // The kernel gives both link-local addresses; they do not count.
        assert_eq!(verdict("pa"), Ok(()));
        run("ip link add br0 type bridge");
        run("ip link set pa master br0");
        let Err(Unfit::Member { master, .. }) = verdict("pa") else {
            panic!("a bridge's port is fit");
        };
        assert_eq!(
            (master.name.as_str(), master.kind.as_str()),
            ("br0", "bridge")
        );
        run("ip link set dev pa nomaster");
        assert_eq!(verdict("pa"), Ok(()));
        run("ip address add 2001:db8::1/64 dev pa");
        assert!(matches!(verdict("pa"), Err(Unfit::Address { .. })));
        run("ip address delete 2001:db8::1/64 dev pa");
        run("ip address add 192.0.2.1/24 dev pa");
        assert!(matches!(verdict("pa"), Err(Unfit::Address { .. })));
        assert!(matches!(verdict("br0"), Err(Unfit::Kind { .. })));
        assert!(matches!(verdict("lo"), Err(Unfit::Loopback(_))));
        run("ip tuntap add dev tun9 mode tun");
        assert!(verdict("tun9").is_err());
        let listed = links.list().unwrap();
        let listed = listed.iter().find(|link| link.name == "pa").unwrap();
        assert_eq!(listed, &links.find("pa").unwrap());
    });
}

#[test]
fn ipv6_is_switched_off_in_this_namespace_only() {
    in_namespace(|| {
        run("ip link add pa type veth peer name pb");
        std::thread::spawn(|| {
            Netns::enter_new();
            add("pa");
            assert!(disable_ipv6("pa").unwrap());
            assert_eq!(
                run("cat /proc/thread-self/net/dev").matches("pa:").count(),
                1
            );
        })
        .join()
        .unwrap();
        let read = || std::fs::read_to_string("/proc/sys/net/ipv6/conf/pa/disable_ipv6").unwrap();
        assert_eq!(read().trim(), "0");
        assert!(disable_ipv6("pa").unwrap());
        assert_eq!(read().trim(), "1");
        run("ip link set pa up");
        run("ip link set pb up");
        let links = Links::open().unwrap();
        assert_eq!(links.find("pa").unwrap().addresses, []);
        assert!(!disable_ipv6("none").unwrap());
        assert!(disable_ipv6("../all").is_err());
    });
}

fn wait(monitor: &mut LinkMonitor, what: impl Fn(&LinkEvent) -> bool) -> LinkEvent {
    let deadline = Instant::now() + Duration::from_secs(5);
    while Instant::now() < deadline {
        if let Some(event) = monitor.wait(Duration::from_millis(200)).unwrap()
            && what(&event)
        {
            return event;
        }
    }
    panic!("the event did not come");
}

#[test]
fn changes_are_told_as_they_happen() {
    in_namespace(|| {
        let mut monitor = LinkMonitor::open().unwrap();
        let lo = monitor.next().unwrap().unwrap();
        assert_eq!(lo.name, "lo");
        assert!(matches!(lo.change, LinkChange::Added { up: true, .. }));
        run("ip link add pa type veth peer name pb");
        let added = wait(&mut monitor, |event| event.name == "pa");
        assert_eq!(
            added.change,
            LinkChange::Added {
                up: false,
                carrier: false
            }
        );
        run("ip link set pa up");
        run("ip link set pb up");
        wait(&mut monitor, |event| {
            let both = LinkChange::State {
                up: true,
                carrier: true,
            };
            event.name == "pa" && event.change == both
        });
        run("ip link add br0 type bridge");
        run("ip link set pa master br0");
        run("ip link set pa nomaster");
        run("ip link set pb down");
        let event = wait(&mut monitor, |event| event.name == "pa");
        // Leaving the bridge was no removal.
        let unplugged = LinkChange::State {
            up: true,
            carrier: false,
        };
        assert_eq!(event.change, unplugged);
        run("ip link set pb name pc");
        let event = wait(&mut monitor, |event| event.name == "pc");
        assert_eq!(event.change, LinkChange::Renamed { from: "pb".into() });
        run("ip link delete pa");
        let removed = |event: &LinkEvent| event.change == LinkChange::Removed;
        let gone = wait(&mut monitor, |event| event.name == "pa" && removed(event));
        assert_eq!(gone.index, added.index);
        add("pa");
        let again = wait(&mut monitor, |event| event.name == "pa");
        assert!(matches!(again.change, LinkChange::Added { .. }));
        assert_ne!(again.index, added.index);
    });
}

#[test]
fn lost_messages_end_in_the_right_state() {
    in_namespace(|| {
        add("pa");
        add("pb");
        let mut monitor = LinkMonitor::open().unwrap();
        let links = Links::open().unwrap();
        let index = links.find("pa").unwrap().index;
        // More than the socket's buffer holds, and nobody reads.
        for _ in 0..400 {
            links.set_up(index).unwrap();
            links.set_down(index).unwrap();
        }
        run("ip link delete pb");
        links.set_up(index).unwrap();
        add("pc");
        let mut last = std::collections::HashMap::new();
        while let Some(event) = monitor.next().unwrap() {
            last.insert(event.name.clone(), event.change);
        }
        assert!(monitor.resyncs() > 0, "nothing was lost");
        assert!(matches!(last["pa"], LinkChange::State { up: true, .. }));
        assert_eq!(last["pb"], LinkChange::Removed);
        assert!(matches!(last["pc"], LinkChange::Added { .. }));
        run("ip link delete pc");
        wait(&mut monitor, |event| {
            event.name == "pc" && event.change == LinkChange::Removed
        });
    });
}

/// What sysfs, as this network namespace has it, says of an interface.
fn in_sysfs(interface: &str, file: &str) -> String {
    let script = format!("mount -t sysfs sysfs /sys && cat /sys/class/net/{interface}/{file}");
    let output = std::process::Command::new("unshare")
        .args(["--mount", "sh", "-c", &script])
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// The nice values of the kernel threads whose name begins so.
fn nice_of_threads(name: &str) -> Vec<i32> {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let stats = processes.filter_map(|p| std::fs::read_to_string(p.path().join("stat")).ok());
    let nice = |stat: String| -> Option<i32> {
        let (_, rest) = stat.split_once(&format!("({name}"))?;
        let (_, fields) = rest.split_once(") ")?;
        fields.split(' ').nth(16)?.parse().ok()
    };
    stats.filter_map(nice).collect()
}

#[test]
fn an_interface_of_this_namespace_gets_napi_threads_and_loses_them() {
    in_namespace(|| {
        add("pa");
        // veth has NAPI only once it is up and has something to do with it.
        run("ip link set pa up");
        run("ethtool -K pa gro on");
        let index = Links::open().unwrap().find("pa").unwrap().index;
        for on in [true, false] {
            set_threaded_napi("pa", index, on).unwrap();
            assert_eq!(in_sysfs("pa", "threaded").trim() == "1", on);
            // Receive work is not to wait behind programs: as without a thread.
            if on {
                assert_eq!(nice_of_threads("napi/pa-"), [-20]);
            }
        }
        let before = std::fs::read_dir("/sys/class/net").unwrap().count();
        let error = set_threaded_napi("pz", index + 1, true).unwrap_err();
        assert!(
            error.to_string().contains("/sys/class/net/pz/threaded"),
            "{error}"
        );
        assert!(matches!(
            set_threaded_napi("../pa", index, true),
            Err(LinkError::Name(_))
        ));
        // The mounts of this process are as they were.
        assert_eq!(std::fs::read_dir("/sys/class/net").unwrap().count(), before);
    });
}

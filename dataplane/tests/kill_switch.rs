//! The kill switch with a real kernel: that it stands as it must, is put back, and is gone without a
//! trace. What it does to packets is tested end to end. Needs root.

mod netns;

use netns::{in_namespace, run};
use portcullis_dataplane::link::{KillSwitch, Links};
use std::process::Command;
use std::time::{Duration, Instant};

const MARK: u32 = 0x5043_4c53;

fn output(command: &str) -> String {
    let output = Command::new("sh").args(["-c", command]).output().unwrap();
    assert!(output.status.success(), "{command}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn sh(command: &str) {
    let status = Command::new("sh").args(["-c", command]).status().unwrap();
    assert!(status.success(), "{command}");
}

/// What `nft` says of who owns the table.
fn owner(listing: &str) -> String {
    let line = listing.lines().find(|line| line.contains("progname"));
    let at = line.and_then(|line| line.find(" # progname").map(|at| &line[at..]));
    at.unwrap_or_default().to_owned()
}

fn switch() -> KillSwitch {
    KillSwitch {
        interface: "tun0".to_owned(),
        routes: vec!["0.0.0.0/0".parse().unwrap(), "::/0".parse().unwrap()],
        addresses: vec![[10, 152, 152, 11].into()],
        mark: MARK,
        lan: false,
    }
}

/// Ends what owns the table. A child that another test's thread is just starting has its socket, too,
/// until it runs its program.
fn end(links: Links) {
    drop(links);
    let start = Instant::now();
    while listing().contains("progname") {
        assert!(start.elapsed() < Duration::from_secs(10), "{}", listing());
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Everything that the kill switch may touch, as the tools for it show it. The kernel's own routes of
/// link-local addresses and multicast come when it has found an address to be no duplicate.
fn listing() -> String {
    output(
        "nft list ruleset; ip rule; ip -6 rule; ip route show table all; \
         ip -6 route show table all | grep -Ev '^([a-z]+ )?(fe80|ff00)::'; \
         cat /proc/sys/net/ipv4/conf/all/src_valid_mark",
    )
}

/// A host with an uplink that has addresses and routes, and a tunnel.
fn lay() {
    run("ip link add up0 type veth peer name far0");
    run("ip link set far0 up");
    run("ip link set up0 up");
    run("ip address add 192.0.2.2/24 dev up0");
    run("ip -6 address add 2001:db8::2/64 dev up0 nodad");
    run("ip route add default via 192.0.2.1");
    run("ip -6 route add default via 2001:db8::1");
    lay_tunnel();
}

fn lay_tunnel() {
    run("ip tuntap add tun0 mode tun");
    run("ip link set tun0 up");
    run("ip address add 10.152.152.11/24 dev tun0");
    run("ip -6 address add fd50::11/64 dev tun0 nodad");
}

/// Its routes come and go with the kernel's detection of routers and addresses.
fn quiet() {
    for setting in ["accept_ra", "router_solicitations", "autoconf"] {
        std::fs::write(format!("/proc/sys/net/ipv6/conf/default/{setting}"), "0").unwrap();
    }
}

/// Tries it, and says whether there was something to put back; afterwards it stands.
fn raise(links: &Links, switch: &KillSwitch) -> bool {
    let changed = links.raise_kill_switch(switch).unwrap();
    assert!(links.kill_switch_stands(switch).unwrap());
    assert!(
        !links.raise_kill_switch(switch).unwrap(),
        "it is never content"
    );
    changed
}

#[test]
fn it_is_put_up_once_and_gone_without_a_trace() {
    in_namespace(|| {
        quiet();
        lay();
        // Others', which must stay.
        run("ip rule add priority 100 fwmark 0x8000 lookup 100");
        run("nft add table inet others");
        let before = listing();
        let links = Links::open().unwrap();
        assert!(!links.kill_switch_stands(&switch()).unwrap());
        links.lower_kill_switch().unwrap();
        assert_eq!(listing(), before, "there was none to take away");
        assert!(raise(&links, &switch()));
        assert_ne!(listing(), before);
        links.lower_kill_switch().unwrap();
        assert!(!links.kill_switch_stands(&switch()).unwrap());
        assert_eq!(listing(), before);
        links.lower_kill_switch().unwrap();
        assert_eq!(listing(), before);
    });
}

/// Each of these is a hole; each is seen, and mended.
#[test]
fn whatever_is_changed_about_it_is_seen_and_put_back() {
    in_namespace(|| {
        quiet();
        lay();
        let links = Links::open().unwrap();
        assert!(raise(&links, &switch()));
        let as_raised = listing();
        let holes = [
            "ip rule delete priority 5",
            "ip -6 rule delete priority 5",
            "ip rule flush; ip rule add priority 32766 lookup main; ip rule add priority 32767 lookup default",
            "ip rule add priority 5 not fwmark 0x50434c54 lookup 28771",
            "ip route flush table 28771",
            "ip -6 route flush table 28771",
            "ip route delete unreachable default table 28771",
            "ip route add 198.51.100.0/24 dev up0 table 28771",
            "ip -6 route add 2001:db8:1::/48 dev up0 table 28771",
            "ip route replace default dev up0 metric 1 table 28771",
            "ip route add default via 192.0.2.1 table 28771",
            "echo 0 > /proc/sys/net/ipv4/conf/all/src_valid_mark",
        ];
        for hole in holes {
            sh(hole);
            assert!(!links.kill_switch_stands(&switch()).unwrap(), "{hole}");
            assert!(raise(&links, &switch()), "{hole}");
            assert_eq!(listing(), as_raised, "{hole}");
        }
    });
}

/// A table that nobody owns can be changed by anybody, until the next start.
#[test]
fn what_is_done_to_its_nftables_table_while_no_process_lives_is_undone_by_the_next() {
    in_namespace(|| {
        quiet();
        lay();
        let links = Links::open().unwrap();
        raise(&links, &switch());
        let as_raised = listing();
        end(links);
        let table = "inet portcullis-kill-switch";
        let holes = [
            format!("insert rule {table} postrouting accept"),
            format!("flush chain {table} postrouting"),
            format!("insert rule {table} input accept"),
            format!("add chain {table} postrouting '{{ policy accept; }}'"),
            format!("flush chain {table} input; nft delete chain {table} input"),
            format!("add chain {table} more '{{ type filter hook output priority 0; }}'"),
            format!("delete table {table}"),
            "delete table arp portcullis-kill-switch".to_owned(),
            "flush table arp portcullis-kill-switch".to_owned(),
            format!("delete table {table}; nft add table {table}"),
            "flush ruleset".to_owned(),
        ];
        for hole in holes {
            sh(&format!("nft {hole}"));
            let links = Links::open().unwrap();
            assert!(!links.kill_switch_stands(&switch()).unwrap(), "{hole}");
            assert!(raise(&links, &switch()), "{hole}");
            assert_eq!(listing(), as_raised, "{hole}");
            end(links);
        }
    });
}

/// Where in the order of rules that goes everywhere stands; all others are behind it.
fn place(listing: &str, rule: &str) -> usize {
    let at = listing.lines().position(|line| line.contains(rule));
    at.unwrap_or_else(|| panic!("no rule {rule} in {listing}"))
}

#[test]
fn its_rules_stand_before_all_that_lead_elsewhere_and_behind_that_of_its_own_mark() {
    in_namespace(|| {
        quiet();
        lay();
        let links = Links::open().unwrap();
        raise(&links, &switch());
        let ours = "not from all fwmark 0x50434c53 lookup 28771";
        for family in ["-4", "-6"] {
            let others = [
                "priority 3 lookup 100",
                "priority 2 fwmark 0x8000 lookup 100",
                "priority 2 fwmark 0x50434c53/0xffff0000 lookup 100",
                "priority 1 iif up0 lookup 100",
                "priority 1 uidrange 0-0 lookup 100",
            ];
            for other in others {
                links.lower_kill_switch().unwrap();
                raise(&links, &switch());
                sh(&format!("ip {family} rule add {other}"));
                assert!(!links.kill_switch_stands(&switch()).unwrap(), "{other}");
                assert!(raise(&links, &switch()), "{other}");
                let rules = output(&format!("ip {family} rule"));
                assert!(place(&rules, ours) < place(&rules, "lookup 100"), "{rules}");
                assert_eq!(rules.matches(ours).count(), 1, "{rules}");
                sh(&format!("ip {family} rule delete {other}"));
            }
            sh(&format!(
                "ip {family} rule add priority 0 fwmark 0x50434c53 lookup 100"
            ));
            assert!(links.kill_switch_stands(&switch()).unwrap());
            sh(&format!(
                "ip {family} rule delete priority 0 fwmark 0x50434c53 lookup 100"
            ));
            links.lower_kill_switch().unwrap();
            sh(&format!("ip {family} rule add priority 0 lookup 100"));
            let refused = links.raise_kill_switch(&switch()).unwrap_err().to_string();
            assert!(refused.contains("priority 0"), "{refused}");
            sh(&format!("ip {family} rule delete priority 0 lookup 100"));
            raise(&links, &switch());
        }
        links.lower_kill_switch().unwrap();
        assert!(!listing().contains("28771"));
    });
}

/// Both want to be before all that lead elsewhere, and neither leads there for the other.
#[test]
fn it_stands_beside_the_rule_that_keeps_the_tunnels_packets_on_this_host() {
    in_namespace(|| {
        quiet();
        lay();
        let links = Links::open().unwrap();
        for _ in 0..2 {
            links.keep_in("tun0").unwrap();
            links.raise_kill_switch(&switch()).unwrap();
            links.keep_in("tun0").unwrap();
            assert!(!links.raise_kill_switch(&switch()).unwrap());
            assert!(!links.keep_in("tun0").unwrap());
            assert!(links.is_kept_in("tun0").unwrap());
            assert!(links.kill_switch_stands(&switch()).unwrap());
            links.lower_kill_switch().unwrap();
        }
    });
}

#[test]
fn what_does_not_open_first_stands_although_something_is_refused() {
    in_namespace(|| {
        quiet();
        lay();
        sh("ip rule add priority 0 lookup 100");
        let links = Links::open().unwrap();
        links.raise_kill_switch(&switch()).unwrap_err();
        let listing = listing();
        assert!(listing.contains("policy drop"), "{listing}");
        assert!(listing.contains("unreachable default"), "{listing}");
    });
}

#[test]
fn a_tunnel_that_is_not_there_leaves_everything_unreachable() {
    in_namespace(|| {
        quiet();
        lay();
        run("ip link delete tun0");
        let links = Links::open().unwrap();
        let table = || output("ip route show table 28771; ip -6 route show table 28771");
        let closed = |table: String| {
            assert_eq!(table.matches("unreachable default").count(), 2, "{table}");
            assert!(!table.contains("tun0"), "{table}");
        };
        raise(&links, &switch());
        closed(table());
        for _ in 0..2 {
            lay_tunnel();
            assert!(raise(&links, &switch()));
            assert_eq!(
                table().matches("default dev tun0").count(),
                2,
                "{}",
                table()
            );
            run("ip link set tun0 down");
            // Before anybody looks.
            closed(table());
            links.raise_kill_switch(&switch()).unwrap();
            run("ip link set tun0 up");
            assert!(raise(&links, &switch()));
            run("ip link set tun0 down");
            run("ip link set tun0 name tun1");
            closed(table());
            links.raise_kill_switch(&switch()).unwrap();
            run("ip link delete tun1");
            closed(table());
        }
        lay_tunnel();
        std::fs::write("/proc/sys/net/ipv6/conf/tun0/disable_ipv6", "1").unwrap();
        raise(&links, &switch());
        assert_eq!(
            table().matches("default dev tun0").count(),
            1,
            "{}",
            table()
        );
        assert_eq!(
            table().matches("unreachable default").count(),
            2,
            "{}",
            table()
        );
    });
}

#[test]
fn another_mark_or_other_routes_take_the_place_of_the_old_ones() {
    in_namespace(|| {
        quiet();
        lay();
        let links = Links::open().unwrap();
        raise(&links, &switch());
        let mut other = switch();
        other.mark = 7;
        other.routes = vec!["10.152.152.0/24".parse().unwrap()];
        assert!(!links.kill_switch_stands(&other).unwrap());
        assert!(raise(&links, &other));
        let listing = listing();
        assert!(!listing.contains("50434c53"), "{listing}");
        assert!(!listing.contains("default dev tun0"), "{listing}");
        assert!(listing.contains("unreachable 10.152.152.0/24"), "{listing}");
        for (mark, interface) in [
            (0, "tun0"),
            (7, ""),
            (7, "a-name-that-is-too-long"),
            (7, "lo"),
        ] {
            let bad = KillSwitch {
                mark,
                interface: interface.to_owned(),
                ..switch()
            };
            links.raise_kill_switch(&bad).unwrap_err();
        }
        assert_eq!(self::listing(), listing);
    });
}

#[test]
fn a_lan_is_open_while_it_is_connected_and_never_by_what_a_dhcp_server_pushed() {
    in_namespace(|| {
        quiet();
        lay();
        let links = Links::open().unwrap();
        let mut lan = switch();
        lan.lan = true;
        lan.routes.push("10.152.152.0/24".parse().unwrap());
        run("ip address add 192.168.7.2/24 dev up0");
        run("ip address add 10.152.152.130/25 dev up0");
        // Option 121, and a netmask of one bit.
        run("ip route add 10.9.0.0/16 via 192.0.2.1");
        run("ip route add 0.0.0.0/1 via 192.0.2.1");
        run("ip address add 9.9.9.9/1 dev up0");
        assert!(raise(&links, &lan));
        let open = || output("ip route show table 28771 dev up0");
        assert_eq!(open().lines().count(), 1, "{}", open());
        assert!(open().starts_with("192.168.7.0/24 "), "{}", open());
        let links_local = output("ip -6 route show table 28771 dev up0");
        assert_eq!(links_local.lines().count(), 1, "{links_local}");
        let listing = self::listing();
        assert!(
            listing.contains(
                "iif 0 oif \"up0\" ip daddr 192.168.7.0/24 fib saddr . oif type local accept"
            ),
            "{listing}"
        );
        assert!(
            listing.contains("ip daddr 10.152.152.0/24 drop"),
            "{listing}"
        );
        run("ip address delete 192.168.7.2/24 dev up0");
        assert!(raise(&links, &lan));
        assert_eq!(open(), "");
        assert!(
            !self::listing().contains("192.168.7.0"),
            "{}",
            self::listing()
        );
    });
}

/// From Linux 6.9 on: a table that belongs to a process, and outlives it.
#[test]
fn nobody_else_can_change_its_nftables_table_while_its_process_lives() {
    in_namespace(|| {
        quiet();
        lay();
        let before = listing();
        let links = Links::open().unwrap();
        raise(&links, &switch());
        let as_raised = listing();
        sh("nft flush ruleset");
        for refused in [
            "nft delete table inet portcullis-kill-switch",
            "nft flush chain inet portcullis-kill-switch postrouting",
            "nft insert rule inet portcullis-kill-switch postrouting accept",
        ] {
            assert!(
                !Command::new("sh")
                    .args(["-c", refused])
                    .status()
                    .unwrap()
                    .success()
            );
        }
        assert_eq!(listing(), as_raised);
        let second = Links::open().unwrap();
        assert!(second.kill_switch_stands(&switch()).unwrap());
        assert!(!second.raise_kill_switch(&switch()).unwrap());
        let refused = second.lower_kill_switch().unwrap_err().to_string();
        assert!(refused.contains("another process"), "{refused}");
        assert_eq!(listing(), as_raised, "half taken away");

        end(links);
        let orphaned = as_raised.replace(&owner(&as_raised), "");
        let orphaned = orphaned.replace("flags owner", "flags ");
        assert_eq!(listing(), orphaned, "its owner has ended");
        assert!(second.kill_switch_stands(&switch()).unwrap());
        assert!(raise(&second, &switch()), "it is the next one's");
        assert_eq!(listing(), as_raised);
        end(second);

        // Now there is nobody to hold it, and the next one puts it back.
        sh("nft flush ruleset");
        let third = Links::open().unwrap();
        assert!(!third.kill_switch_stands(&switch()).unwrap());
        assert!(raise(&third, &switch()));
        assert_eq!(listing(), as_raised);
        end(third);
        Links::open().unwrap().lower_kill_switch().unwrap();
        assert_eq!(listing(), before);
    });
}

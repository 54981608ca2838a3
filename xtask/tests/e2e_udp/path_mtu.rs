//! Paths that carry less than Ethernet, or more.

use std::time::Duration;

use portcullis_xtask::rig::*;
use wire::limits::ETH_LEN;

use crate::download::Download;
use crate::{PATIENCE, only_v4, passes, wait_seen_at};

#[test]
fn a_path_that_silently_loses_large_packets_is_found_out_and_tcp_gets_through() {
    use portcullis_xtask::middlebox::Impairment;
    let mut networks = only_v4();
    assert_eq!(networks.workstation.tunnel_mtu().unwrap(), 1412);
    for carries in [1400, 1280, 1346] {
        networks.middlebox.impair(Impairment {
            largest: ETH_LEN + carries,
            ..Impairment::default()
        });
        networks.workstation.stop().unwrap();
        networks.workstation.start().unwrap();
        finds(
            &networks,
            carries,
            &format!("the MTU of a path of {carries}"),
        );
    }
}

/// The largest packet inside on an IPv4 path that carries `path` bytes one way is found, and TCP passes both ways.
fn finds(networks: &Networks, path: usize, what: &str) {
    let fits = path - 28 - 40;
    wait_for(what, PATIENCE, || {
        let mtu = networks.workstation.tunnel_mtu().unwrap();
        (mtu <= fits && mtu + 8 > fits).then_some(())
    })
    .unwrap_or_else(|_| panic!("{what}: {:?}", networks.workstation.tunnel_mtu()));
    let mtu = networks.workstation.tunnel_mtu().unwrap();
    println!("{what}: {mtu} inside, of {fits} that would fit");
    let (host, gateway) = (
        networks.workstation.namespace(),
        networks.gateway.namespace(),
    );
    // The Gateway hears of it a round trip later.
    wait_for("an echo as large", PATIENCE, || {
        let asked = ping(host, GATEWAY_V4.into(), [mtu - 28], Duration::from_secs(1));
        (asked.unwrap().answered == 1).then_some(())
    })
    .unwrap_or_else(|error| panic!("{what}: {error}"));
    let rates = iperf3(gateway, host, GATEWAY_V4.into(), 1).unwrap();
    assert!(rates.up > 1e5 && rates.down > 1e5, "{what}: {rates:?}");
}

/// What the routers say by ICMP about it is nobody's to believe.
#[test]
fn a_path_that_is_narrower_one_way_than_the_other_is_found_out() {
    let mut networks = only_v4();
    for (router, interface, way) in [
        (&networks.internet, "ih", "towards the Workstation"),
        (&networks.home, "hw", "towards the Gateway"),
    ] {
        router
            .ip(&format!("link set dev {interface} mtu 1300"))
            .unwrap();
        networks.workstation.stop().unwrap();
        networks.workstation.start().unwrap();
        finds(&networks, 1300, way);
        router
            .ip(&format!("link set dev {interface} mtu 1500"))
            .unwrap();
    }
}

/// The Gateway's kernel knows nothing of a session's MTU but what it is told.
#[test]
fn a_connection_goes_on_when_the_workstation_moves_to_a_narrower_path() {
    use portcullis_xtask::middlebox::Impairment;
    let networks = only_v4();
    networks.elsewhere().unwrap();
    wait_seen_at(&networks, &["203.0.113.2:"]);
    networks.middlebox.impair(Impairment {
        largest: ETH_LEN + 1300,
        ..Impairment::default()
    });
    let download = Download::start(&networks);
    wait_for("the download", PATIENCE, || {
        (download.arrived() > 1 << 20).then_some(())
    })
    .unwrap();
    networks.at_home().unwrap();
    wait_seen_at(&networks, &["198.51.100.2:"]);
    wait_for("the MTU of the path", PATIENCE, || {
        let mtu = networks.workstation.tunnel_mtu().unwrap();
        (1192..=1232).contains(&mtu).then_some(())
    })
    .unwrap();
    let before = download.arrived();
    wait_for("the download to go on", PATIENCE, || {
        (download.arrived() > before + (1 << 20)).then_some(())
    })
    .unwrap_or_else(|_| panic!("{} more bytes", download.arrived() - before));
}

#[test]
fn a_path_that_carries_more_than_ethernet_does_is_used_in_full() {
    require_root().unwrap();
    let mut networks = networks(&Programs::find().unwrap(), false).unwrap();
    for (host, interface) in [
        (networks.gateway.namespace(), "wan"),
        (&networks.internet, "ig"),
        (&networks.internet, "iw"),
        (networks.workstation.namespace(), WLAN),
    ] {
        host.ip(&format!("link set dev {interface} mtu 9000"))
            .unwrap();
    }
    networks.elsewhere().unwrap();
    networks.start().unwrap();
    let found = |mtu: u32, what: &str| {
        wait_for(what, PATIENCE, || {
            (networks.workstation.tunnel_mtu().unwrap() == mtu as usize).then_some(())
        })
        .unwrap_or_else(|_| panic!("{what}: {:?}", networks.workstation.tunnel_mtu()));
        passes(&networks);
    };
    // IPv6 and UDP headers, the tunnel's own.
    found(9000 - 48 - 40, "the MTU of a jumbo path");
    networks.at_home().unwrap();
    found(1500 - 48 - 40, "the MTU at home");
    networks.elsewhere().unwrap();
    found(9000 - 48 - 40, "the MTU of a jumbo path again");
}

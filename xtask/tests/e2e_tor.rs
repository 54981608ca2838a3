//! A Gateway as it is meant: a real Tor behind the tunnel, in a Tor network of its own, with the files of
//! `packaging/tor` as they are. Needs root, the programs and tor (`cargo xtask test` sees to them).

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use portcullis_xtask::rig::*;

/// The page's server, on the far side of the exits.
const PAGE: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 80);
const NAME: &str = "page.test";
const PORT: u16 = 80;
/// A page's size.
const SIZE: u64 = 300_000;
/// The Gateway's uplink, and where the relays are on it.
const UPLINK: [Ipv4Addr; 2] = [
    Ipv4Addr::new(198, 51, 100, 2),
    Ipv4Addr::new(198, 51, 100, 1),
];
const CONTROL: u16 = 9051;

fn packaged(file: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../packaging/tor")
        .join(file)
}

/// A connection to the page by the Gateway's SOCKS port; the request sent.
fn socks(host: &Namespace, path: &str) -> anyhow::Result<BufReader<TcpStream>> {
    portcullis_xtask::rig::socks(host, (GATEWAY_V4, 9050).into(), (NAME, PORT), path)
}

/// How many bytes the page has by SOCKS, after its head.
fn page_by_socks(host: &Namespace) -> anyhow::Result<usize> {
    let mut page = socks(host, &format!("/{SIZE}"))?;
    let mut line = String::new();
    while page.read_line(&mut line)? > 2 {
        line.clear();
    }
    let mut body = Vec::new();
    Ok(page.read_to_end(&mut body)?)
}

/// The circuits of the streams that Tor has now, and where they lead.
fn circuits(gateway: &Namespace) -> Vec<(String, String)> {
    let control = || -> anyhow::Result<String> {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, CONTROL))?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        stream.write_all(b"AUTHENTICATE\r\nGETINFO stream-status\r\nQUIT\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    };
    let text = gateway.run(control).unwrap();
    let streams = text.lines().filter(|line| line.contains(" SUCCEEDED "));
    let words = streams.map(|line| line.split_whitespace().collect::<Vec<_>>());
    let pairs = words.filter_map(|words| {
        let at = words.iter().position(|&word| word == "SUCCEEDED")?;
        Some((
            (*words.get(at + 1)?).to_owned(),
            (*words.get(at + 2)?).to_owned(),
        ))
    });
    pairs.collect()
}

#[test]
fn pages_come_through_tunnel_and_tor_by_socks_and_transparently_and_no_other_way() {
    let _turn = Serial::acquire().unwrap();
    require_root().unwrap();
    let mut rig = many(&Programs::find().unwrap(), 2).unwrap();
    let internet = Arc::new(Namespace::create("internet").unwrap());
    let gw = Arc::clone(rig.gateway.namespace());
    veth((&gw, "uplink"), (&internet, "relays"), 1500).unwrap();
    for (host, interface, address) in [(&gw, "uplink", UPLINK[0]), (&internet, "relays", UPLINK[1])]
    {
        host.ip(&format!("addr add {address}/24 dev {interface}"))
            .unwrap();
        set_link(host, interface, true).unwrap();
    }
    gw.ip(&format!("route add default via {}", UPLINK[1]))
        .unwrap();
    internet.ip(&format!("addr add {PAGE}/32 dev lo")).unwrap();
    let _page = HttpServer::start(&internet, PORT).unwrap();
    let _names = NameServer::start(&internet, NAME, PAGE).unwrap();
    let network = TorNetwork::start(&internet, UPLINK[1]).unwrap();
    // What the Gateway sends to the Internet otherwise than to Tor's relays.
    let leaked = Capture::filtered(&internet, Some("relays"), 100, |frame| {
        let to = frame.bytes.get(30..34);
        frame.kind != PacketKind::Outgoing
            && frame.ethertype() == 0x0800
            && to != Some(&UPLINK[1].octets()[..])
    })
    .unwrap();

    rig.start().unwrap();
    // As the defaults are, and w2 with a transparent proxy.
    for name in ["w1", "w2"] {
        let rules = "-any +tcp/9050 +tcp/9040 +udp/5353 +icmp";
        rig.gateway
            .cli(&format!("workstation allow {name} {rules}"))
            .unwrap();
    }
    rig.gateway
        .cli("workstation allow w2 +tcp@transparent +udp/53@transparent")
        .unwrap();
    gw.exec(
        "nft",
        &format!("-f {}", packaged("portcullis.nft").display()),
    )
    .unwrap();
    let torrc = format!(
        "%include {}\nControlPort {CONTROL}\n",
        packaged("portcullis.torrc").display()
    );
    let mut tor = network.client(&gw, &torrc).unwrap();
    let [w1, w2] = [0, 1].map(|at: usize| Arc::clone(rig.workstations[at].namespace()));

    for host in [&w1, &w2] {
        assert_eq!(
            page_by_socks(host).unwrap(),
            SIZE as usize,
            "{}",
            host.label()
        );
    }
    let far = SocketAddr::from((Ipv4Addr::new(192, 0, 2, 53), 53));
    assert_eq!(
        resolve(&w2, far, NAME).unwrap(),
        PAGE,
        "any name server's name is Tor's to find"
    );
    let got = download(&w2, (PAGE.into(), PORT), SIZE, &AtomicU64::new(0)).unwrap();
    assert_eq!(got.sha256, body_sha256(SIZE));
    assert!(resolve(&w1, far, NAME).is_err(), "w1 is not allowed it");
    assert!(download(&w1, (PAGE.into(), PORT), SIZE, &AtomicU64::new(0)).is_err());

    let held = [&w1, &w1, &w2].map(|host| socks(host, "/paced/1000").unwrap());
    let of = circuits(&gw);
    let mut used: Vec<&str> = of.iter().map(|(circuit, _)| circuit.as_str()).collect();
    used.sort_unstable();
    assert_eq!(used.len(), 3, "{of:?}");
    used.dedup();
    assert_eq!(
        used.len(),
        2,
        "two Workstations share a circuit, or one has two: {of:?}"
    );
    drop(held);

    tor.stop(Duration::from_secs(40)).unwrap();
    assert!(
        page_by_socks(&w1).is_err(),
        "Tor is gone, and nothing else answers"
    );
    assert!(download(&w2, (PAGE.into(), PORT), SIZE, &AtomicU64::new(0)).is_err());
    leaked.settle().unwrap();
    assert_eq!(leaked.frames().len(), 0, "{}", leaked.summary());
}

use super::agent::RawAgent;
use super::check::Check;
use super::*;
use crate::choices::{Admission, MacAddress, ThreadedNapi, Virtualised, Xdp};
use crate::encapsulation::{Encapsulation, UdpPort};
use crate::enrolment;
use crate::log::Format;
use crate::problem::{Kind, Problem};
use dataplane::engine::Engine;
use dataplane::keys::{Cipher, Protection};
use proptest::prelude::*;
use std::time::Duration;

const GOOD: &str = r#"state_directory = "/var/lib/portcullis"
runtime_directory = "/run/portcullis"
pin_directory = "/sys/fs/bpf/portcullis"
workers = 1
max_workstations = 64
engine = "auto"
[host]
interface = "portcullis0"
addresses = ["10.152.152.10/18", "fd50:6f72:7463::1/64"]
[[port]]
interface = "eth1"
xdp = "auto"
ring_size = 2048
zero_copy = "auto"
ethertype = 0x88B5
"#;

fn gateway(text: &str) -> Result<Gateway, Problem> {
    Gateway::parse(Path::new("p.toml"), text)
}

fn agent(text: &str) -> Result<Agent, Problem> {
    Agent::parse(Path::new("a.toml"), text)
}

#[test]
fn the_documented_configuration_is_read() {
    let config = gateway(GOOD).unwrap();
    assert_eq!(config.workers, Some(1));
    assert_eq!(config.max_workstations, 64);
    assert_eq!(config.host_interface, "portcullis0");
    assert_eq!(config.host_addresses[0].to_string(), "10.152.152.10/18");
    assert_eq!(config.ports.len(), 1);
    assert_eq!(config.ports[0].encapsulation, Encapsulation::Ether(0x88B5));
    assert_eq!(config.ports[0].rings, Rings::default());
}

#[test]
fn what_is_left_out_has_its_default() {
    let least = "[host]\naddresses = [\"10.0.0.1/24\"]\n[[port]]\ninterface = \"eth1\"\n";
    let config = gateway(least).unwrap();
    assert_eq!(config.state_directory, Path::new("/var/lib/portcullis"));
    assert_eq!(config.runtime_directory, Path::new("/run/portcullis"));
    assert_eq!(config.pin_directory, Path::new(PIN_DIRECTORY));
    assert_eq!(config.workers, None);
    assert_eq!(config.engine, Engine::Auto);
    assert_eq!(config.ports[0].rings.size, 2048);
}

#[test]
fn metrics_are_served_nowhere_unless_told_and_never_where_workstations_reach() {
    const KEYLESS: &str =
        "[[port]]\ninterface = \"eth3\"\nadmission = \"open\"\naddresses = [\"10.152.200.1/24\"]\n";
    let with = |lines: &str| gateway(&format!("{lines}\n{GOOD}{KEYLESS}"));
    assert_eq!(with("").unwrap().metrics_address, None);
    for good in ["127.0.0.1:9477", "127.3.2.1:1", "[::1]:9477"] {
        let config = with(&format!("metrics_address = \"{good}\"")).unwrap();
        assert_eq!(config.metrics_address, good.parse().ok());
    }
    let refused = |address: &str, more: &str| {
        let problem = with(&format!("metrics_address = \"{address}\"\n{more}")).unwrap_err();
        assert!(problem.tried.starts_with("p.toml:1:19"), "{problem}");
        assert!(problem.remedy.contains("127.0.0.1:9477"), "{problem:?}");
        problem.happened
    };
    assert!(refused("192.0.2.7:9477", "").contains("from other machines"));
    const BEYOND: &str = "metrics_beyond_loopback = true";
    let config = with(&format!("metrics_address = \"192.0.2.7:9477\"\n{BEYOND}")).unwrap();
    assert!(config.metrics_address.is_some());
    // Whatever is said: the Gateway's own address in the tunnel, that on a port without keys, all there are.
    for (address, why) in [
        ("10.152.152.10:9477", "which Workstations reach"),
        ("[::ffff:10.152.152.10]:9477", "which Workstations reach"),
        ("[fd50:6f72:7463::1]:9477", "which Workstations reach"),
        ("10.152.200.1:9477", "which Workstations reach"),
        ("0.0.0.0:9477", "every address"),
        ("[::]:9477", "every address"),
        ("[::ffff:0.0.0.0]:9477", "every address"),
        ("localhost:9477", "metrics_address is"),
    ] {
        let happened = refused(address, BEYOND);
        assert!(happened.contains(why), "{address}: {happened}");
    }
}

#[test]
fn who_administers_and_how_the_log_looks_can_be_said() {
    let with = |line: &str| gateway(&format!("{line}\n{GOOD}"));
    assert_eq!(with("").unwrap().admin_group, None);
    let config = with("admin_group = \"portcullis-admin\"\nlog_format = \"json\"").unwrap();
    assert_eq!(config.admin_group.as_deref(), Some("portcullis-admin"));
    assert_eq!(config.log_format, Format::Json);
    assert_eq!(
        agent("log_format = \"text\"").unwrap().log_format,
        Format::Text
    );
    for bad in [
        "admin_group = \"\"",
        "admin_group = \"a b\"",
        "log_format = \"xml\"",
    ] {
        assert!(with(bad).is_err(), "{bad}");
    }
}

#[test]
fn cores_are_a_list_of_numbers_and_ranges() {
    let cores = |text: &str| {
        let text = GOOD.replacen("workers = 1", &format!("cores = {text}"), 1);
        gateway(&text).unwrap().cores
    };
    assert_eq!(gateway(GOOD).unwrap().cores, Cores::Auto);
    assert_eq!(cores("\"auto\""), Cores::Auto);
    assert_eq!(cores("\"off\""), Cores::Off);
    assert_eq!(cores("[2, 3]"), Cores::These(vec![2, 3]));
    assert_eq!(
        cores("[\"4-6\", 1, \"9\"]"),
        Cores::These(vec![4, 5, 6, 1, 9])
    );
}

#[test]
fn a_ports_queues_and_polling_are_read() {
    let more = "queues = 4\nhuge_pages = true\ntx_budget = 128\nbusy_poll = 20\nbusy_poll_budget = 16\nprefer_busy_poll = false\nthreaded_napi = \"off\"\n";
    let rings = gateway(&format!("{GOOD}{more}")).unwrap().ports[0].rings;
    assert_eq!(rings.queues, Some(4));
    assert!(rings.huge_pages);
    assert_eq!(rings.tx_budget, 128);
    let polling = BusyPoll {
        microseconds: 20,
        budget: 16,
        prefer: false,
    };
    assert_eq!(rings.busy_poll, Some(polling));
    assert_eq!(rings.threaded_napi, ThreadedNapi::Off);
    let agent = agent(&format!("{more}core = 1\nspin = 0\n")).unwrap();
    assert_eq!(agent.rings, rings);
    assert_eq!((agent.core, agent.spin), (Some(1), Duration::ZERO));
}

/// A change to the good configuration, and where and how it is then refused.
struct Bad {
    from: &'static str,
    to: &'static str,
    place: &'static str,
    happened: &'static str,
    remedy: &'static str,
}

const BAD: &[Bad] = &[
    Bad {
        from: "workers = 1",
        to: "wokers = 1",
        place: "p.toml:4:1",
        happened: "unknown field `wokers`, expected one of `state_directory`",
        remedy: "correct the spelling",
    },
    Bad {
        from: "workers = 1",
        to: "workers = 0",
        place: "p.toml:4:11",
        happened: "workers is 0",
        remedy: "from 1 to 256",
    },
    Bad {
        from: "workers = 1",
        to: "workers = one",
        place: "p.toml:4:11",
        happened: "",
        remedy: "text stands in quotes",
    },
    Bad {
        from: "workers = 1",
        to: "workers = \"one\"",
        place: "p.toml:4:11",
        happened: "invalid type: string \"one\"",
        remedy: "in the form that is expected",
    },
    Bad {
        from: "workers = 1",
        to: "workers = 1\nworkers = 2",
        place: "p.toml:5:1",
        happened: "duplicate key",
        remedy: "remove one of the two",
    },
    Bad {
        from: "workers = 1",
        to: "cores = [1, \"3-2\"]",
        place: "p.toml:4:9",
        happened: "cores contains \"3-2\"",
        remedy: "a list like [2, 3] or [\"2-5\", 8]",
    },
    Bad {
        from: "workers = 1",
        to: "cores = 3",
        place: "p.toml:4:9",
        happened: "cores is 3",
        remedy: "a list like [2, 3]",
    },
    Bad {
        from: "workers = 1",
        to: "cores = [1, \"0-2\"]",
        place: "p.toml:4:9",
        happened: "core 1 is named twice",
        remedy: "each core once",
    },
    Bad {
        from: "workers = 1",
        to: "workers = 3\ncores = [1, 2]",
        place: "p.toml:5:9",
        happened: "there are 3 workers and 2 cores",
        remedy: "a core for each worker",
    },
    Bad {
        from: "workers = 1",
        to: "spin = -1",
        place: "p.toml:4:8",
        happened: "spin (in microseconds) is -1",
        remedy: "from 0 to 100000",
    },
    Bad {
        from: "ring_size = 2048",
        to: "queues = 0",
        place: "p.toml:13:10",
        happened: "queues is 0",
        remedy: "from 1 to 128, or \"all\"",
    },
    Bad {
        from: "ring_size = 2048",
        to: "ring_size = 64\ntx_budget = 65",
        place: "p.toml:14:13",
        happened: "tx_budget is 65",
        remedy: "from 32 to 64",
    },
    Bad {
        from: "ring_size = 2048",
        to: "busy_poll = 10001",
        place: "p.toml:13:13",
        happened: "busy_poll (in microseconds) is 10001",
        remedy: "from 0 to 10000",
    },
    Bad {
        from: "ring_size = 2048",
        to: "busy_poll_budget = 0",
        place: "p.toml:13:20",
        happened: "busy_poll_budget is 0",
        remedy: "from 1 to 256",
    },
    Bad {
        from: "max_workstations = 64",
        to: "max_workstations = 4097",
        place: "p.toml:5:20",
        happened: "max_workstations is 4097",
        remedy: "from 1 to 4096",
    },
    Bad {
        from: "engine = \"auto\"",
        to: "engine = \"openssl\"",
        place: "p.toml:6:10",
        happened: "unknown variant `openssl`, expected one of `auto`, `vaes`, `aws-lc-rs`, `aes-gcm`",
        remedy: "use one of the values",
    },
    Bad {
        from: "state_directory = \"/var",
        to: "state_directory = \"var",
        place: "p.toml:1:19",
        happened: "the path `var/lib/portcullis` is relative",
        remedy: "from the root on, like /var/lib/portcullis",
    },
    Bad {
        from: "addresses = [\"10.152.152.10/18\", \"fd50:6f72:7463::1/64\"]\n",
        to: "",
        place: "p.toml:7:1",
        happened: "missing field `addresses`",
        remedy: "add what is missing",
    },
    Bad {
        from: "[\"10.152.152.10/18\", \"fd50:6f72:7463::1/64\"]",
        to: "[]",
        place: "p.toml:9:13",
        happened: "no address",
        remedy: "like \"10.152.152.10/18\"",
    },
    Bad {
        from: "10.152.152.10/18",
        to: "10.152.152.10",
        place: "p.toml:9:14",
        happened: "`10.152.152.10` is not an address with a prefix length",
        remedy: "like \"10.152.152.10/18\"",
    },
    Bad {
        from: "10.152.152.10/18",
        to: "10.152.128.0/18",
        place: "p.toml:9:14",
        happened: "10.152.128.0 is the network or broadcast address",
        remedy: "inside the prefix",
    },
    Bad {
        from: "10.152.152.10/18",
        to: "10.152.191.255/18",
        place: "p.toml:9:14",
        happened: "10.152.191.255 is the network or broadcast address",
        remedy: "inside the prefix",
    },
    Bad {
        from: "10.152.152.10/18",
        to: "10.152.152.10/31",
        place: "p.toml:9:14",
        happened: "the prefix length of 10.152.152.10/31 is 31",
        remedy: "from 8 to 30",
    },
    Bad {
        from: "10.152.152.10/18",
        to: "10.152.152.10/0",
        place: "p.toml:9:14",
        happened: "is 0",
        remedy: "from 8 to 30",
    },
    Bad {
        from: "10.152.152.10/18",
        to: "127.0.0.1/8",
        place: "p.toml:9:14",
        happened: "127.0.0.1 cannot be a host's address",
        remedy: "give a private address",
    },
    Bad {
        from: "fd50:6f72:7463::1/64",
        to: "fe80::1/64",
        place: "p.toml:9:34",
        happened: "fe80::1 cannot be a host's address",
        remedy: "give a private address",
    },
    Bad {
        from: "fd50:6f72:7463::1/64",
        to: "10.152.129.1/24",
        place: "p.toml:9:34",
        happened: "10.152.129.1/24 overlaps 10.152.152.10/18",
        remedy: "no address in common",
    },
    Bad {
        from: "[[port]]\ninterface = \"eth1\"\nxdp = \"auto\"\nring_size = 2048\nzero_copy = \"auto\"\nethertype = 0x88B5\n",
        to: "",
        place: "p.toml:10:1",
        happened: "there is no [[port]]",
        remedy: "add a [[port]] section",
    },
    Bad {
        from: "interface = \"eth1\"\n",
        to: "",
        place: "p.toml:10:1",
        happened: "missing field `interface`",
        remedy: "add what is missing",
    },
    Bad {
        from: "ethertype = 0x88B5\n",
        to: "[[port]]\ninterface = \"eth1\"\n",
        place: "p.toml:16:13",
        happened: "the port eth1 is configured already, in line 11",
        remedy: "remove one of the two",
    },
    Bad {
        from: "interface = \"eth1\"",
        to: "interface = \"portcullis0\"",
        place: "p.toml:11:13",
        happened: "portcullis0 is the host interface's name too",
        remedy: "name a wired interface",
    },
    Bad {
        from: "interface = \"eth1\"",
        to: "interface = \"enx0123456789abcdef\"",
        place: "p.toml:11:13",
        happened: "it has 19 characters, and 15 are the most",
        remedy: "as `ip link` shows it",
    },
    Bad {
        from: "interface = \"eth1\"",
        to: "interface = \"eth/1\"",
        place: "p.toml:11:13",
        happened: "`eth/1` is no interface's name",
        remedy: "as `ip link` shows it",
    },
    Bad {
        from: "interface = \"eth1\"",
        to: "interface = \"..\"",
        place: "p.toml:11:13",
        happened: "`..` is no interface's name",
        remedy: "as `ip link` shows it",
    },
    Bad {
        from: "interface = \"eth1\"",
        to: "interface = \"\"",
        place: "p.toml:11:13",
        happened: "the interface's name is empty",
        remedy: "as `ip link` shows it",
    },
    Bad {
        from: "interface = \"portcullis0\"",
        to: "interface = \"lo\"",
        place: "p.toml:8:13",
        happened: "loopback",
        remedy: "as `ip link` shows it",
    },
    Bad {
        from: "xdp = \"auto\"",
        to: "xdp = \"offload\"",
        place: "p.toml:12:7",
        happened: "unknown variant `offload`, expected one of `auto`, `native`, `generic`",
        remedy: "use one of the values",
    },
    Bad {
        from: "ring_size = 2048",
        to: "ring_size = 2000",
        place: "p.toml:13:13",
        happened: "ring_size is 2000",
        remedy: "a power of two from 64 to 32768",
    },
    Bad {
        from: "ring_size = 2048",
        to: "ring_size = 65536",
        place: "p.toml:13:13",
        happened: "ring_size is 65536",
        remedy: "a power of two from 64 to 32768",
    },
    Bad {
        from: "zero_copy = \"auto\"",
        to: "zero_copy = true",
        place: "p.toml:14:13",
        happened: "",
        remedy: "",
    },
    Bad {
        from: "ethertype = 0x88B5",
        to: "ethertype = 0x0800",
        place: "p.toml:15:13",
        happened: "the EtherType 0x0800 belongs to IPv4",
        remedy: "0x88B5 or 0x88B6",
    },
    Bad {
        from: "ethertype = 0x88B5",
        to: "ethertype = 1500",
        place: "p.toml:15:13",
        happened: "1500 is not an EtherType",
        remedy: "0x88B5 or 0x88B6",
    },
    Bad {
        from: "ethertype = 0x88B5",
        to: "ethertype = 0x188B5",
        place: "p.toml:15:13",
        happened: "is not an EtherType",
        remedy: "0x88B5 or 0x88B6",
    },
    Bad {
        from: "[host]",
        to: "[host",
        place: "p.toml:7:6",
        happened: "",
        remedy: "correct that line",
    },
];

#[test]
fn a_bad_configuration_is_refused_with_its_place_and_remedy() {
    for bad in BAD {
        let text = GOOD.replacen(bad.from, bad.to, 1);
        assert_ne!(text, GOOD, "{} changes nothing", bad.from);
        let problem = gateway(&text).expect_err(bad.to);
        assert_eq!(problem.tried, bad.place, "{} -> {problem:?}", bad.to);
        assert!(problem.happened.contains(bad.happened), "{problem:?}");
        assert!(problem.remedy.contains(bad.remedy), "{problem:?}");
        assert!(!problem.remedy.is_empty());
    }
}

#[test]
fn a_missing_configuration_is_answered_with_init() {
    let problem = Gateway::load(Path::new("/nonexistent/p.toml")).unwrap_err();
    assert_eq!(problem.kind, Kind::NotFound);
    assert!(
        problem
            .remedy
            .contains("portcullis --config /nonexistent/p.toml init")
    );
}

#[test]
fn an_agent_needs_no_configuration() {
    let config = Agent::load(Path::new("/nonexistent/agent.toml")).unwrap();
    assert_eq!(config.interface, None);
    assert_eq!(config.mac_address, MacAddress::Keep);
    assert_eq!(config.minimum_protection, Protection::Encrypt);
    assert_eq!(config.minimum_cipher, Cipher::Aes256Gcm);
    assert_eq!(config.virtualised, Virtualised::Auto);
    let routes: Vec<_> = config.routes.iter().map(ToString::to_string).collect();
    assert_eq!(routes, ["0.0.0.0/0", "::/0"]);
    assert_eq!(
        config.state_directory,
        Path::new("/var/lib/portcullis-agent")
    );
}

#[test]
fn every_engine_is_chosen_by_the_name_it_is_shown_by() {
    for engine in Engine::ALL {
        let text = format!("engine = \"{}\"", engine.name());
        match agent(&text) {
            Ok(config) => assert_eq!(config.engine, engine),
            Err(problem) => assert!(!engine.available(), "{problem}"),
        }
    }
}

#[test]
fn an_engine_that_the_cpu_lacks_is_refused_with_its_place_and_another() {
    let text = "engine = \"vaes\"";
    let check = Check {
        path: Path::new("a.toml"),
        text,
    };
    let raw: RawAgent = toml::from_str(text).unwrap();
    let problem = check.engine(raw.engine.as_ref(), |_| false).unwrap_err();
    let text = format!("{problem}. {}", problem.remedy);
    for part in ["a.toml:1:10", "lacks", "VAES and VPCLMULQDQ", "\"auto\""] {
        assert!(text.contains(part), "{text}");
    }
}

#[test]
fn the_documented_agent_configuration_is_read() {
    let config = agent(
        "interface = \"eth0\"\nroutes = [\"2000::/3\"]\nminimum_protection = \"authenticate\"\n\
         minimum_cipher = \"aes-128-gcm\"\nvirtualised = true\nxdp = \"generic\"\nring_size = 64\n\
         zero_copy = \"off\"\nengine = \"aes-gcm\"\nmac_address = \"random\"\n[host]\ninterface = \"tunnel\"\n",
    )
    .unwrap();
    assert_eq!(config.interface.as_deref(), Some("eth0"));
    assert_eq!(config.mac_address, MacAddress::Random);
    assert_eq!(config.minimum_protection, Protection::Authenticate);
    assert_eq!(config.minimum_cipher, Cipher::Aes128Gcm);
    assert_eq!(config.virtualised, Virtualised::Yes);
    assert_eq!(config.rings.size, 64);
    assert_eq!(config.host_interface, "tunnel");
}

#[test]
fn a_bad_agent_configuration_is_refused_with_its_place_and_remedy() {
    for (text, place, happened, remedy) in [
        ("x = 1", "a.toml:1:1", "unknown field `x`", "spelling"),
        ("virtualised = \"maybe\"", "a.toml:1:15", "maybe", ""),
        (
            "virtualised = 3",
            "a.toml:1:15",
            "expected \"auto\"",
            "form",
        ),
        (
            "minimum_protection = \"none\"",
            "a.toml:1:22",
            "no protection `none`",
            "one of",
        ),
        (
            "minimum_cipher = \"auto\"",
            "a.toml:1:18",
            "no cipher `auto`",
            "one of",
        ),
        (
            "routes = [\"10.0.0.1/8\"]",
            "a.toml:1:11",
            "address bits",
            "\"10.0.0.0/8\"",
        ),
        (
            "routes = [\"all\"]",
            "a.toml:1:11",
            "not an IP prefix",
            "0.0.0.0/0",
        ),
        (
            "interface = \"portcullis0\"",
            "a.toml:1:13",
            "host interface",
            "wired",
        ),
        (
            "\n[host]\ninterface = \"a b\"",
            "a.toml:3:13",
            "`a b`",
            "ip link",
        ),
        (
            "ring_size = -1",
            "a.toml:1:13",
            "ring_size is -1",
            "power of two",
        ),
    ] {
        let problem = agent(text).expect_err(text);
        assert_eq!(problem.tried, place, "{text}: {problem:?}");
        assert!(problem.happened.contains(happened), "{problem:?}");
        assert!(problem.remedy.contains(remedy), "{problem:?}");
    }
}

#[test]
fn ports_with_different_ethertypes_need_a_named_port() {
    let text = format!("{GOOD}[[port]]\ninterface = \"eth2\"\nethertype = 0x88B6\n");
    let config = gateway(&text).unwrap();
    let ether = |ethertype| enrolment::Encapsulation::Ether { ethertype };
    let found = config.encapsulation_for(Some("eth2")).unwrap();
    assert_eq!(found, ether(0x88B6));
    let problem = config.encapsulation_for(None).unwrap_err();
    assert!(problem.remedy.contains("eth1, eth2"), "{problem:?}");
    assert!(config.encapsulation_for(Some("eth3")).is_err());
    let found = gateway(GOOD).unwrap().encapsulation_for(None).unwrap();
    assert_eq!(found, ether(0x88B5));
}

/// Pieces that lead a generated text deep into the checks.
fn toml_like() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        Just("[host]\n".to_owned()),
        Just("[[port]]\n".to_owned()),
        Just("addresses = [\"10.0.0.1/24\"]\n".to_owned()),
        Just("interface = \"eth1\"\n".to_owned()),
        ("(workers|max_workstations|ring_size|ethertype|routes|virtualised|xdp|engine|interface|addresses|state_directory)",
         prop_oneof![any::<i64>().prop_map(|n| n.to_string()), "\"[ -~]{0,20}\"", "\\[\"[0-9a-f:./]{0,20}\"\\]", "[^\"]{0,6}"])
            .prop_map(|(key, value)| format!("{key} = {value}\n")),
        "\\PC{0,20}\n",
    ];
    proptest::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn no_text_makes_parsing_panic(text in toml_like()) {
        for outcome in [gateway(&text).map(drop), agent(&text).map(drop)] {
            if let Err(problem) = outcome {
                prop_assert!(!problem.happened.is_empty() && !problem.remedy.is_empty());
            }
        }
    }

    #[test]
    fn no_bytes_make_parsing_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let text = String::from_utf8_lossy(&bytes);
        let _ = gateway(&text);
        let _ = agent(&text);
    }
}

const PINNED: &str = r#"[[port]]
interface = "eth2"
admission = "pinned"
xdp = "generic"
addresses = ["10.152.200.1/24", "fd50:6f72:7464::1/64"]
[[port.pin]]
mac = "02:00:00:00:00:02"
addresses = ["10.152.200.2", "fd50:6f72:7464::2"]
[[port.pin]]
mac = "2:0:0:0:0:A3"
addresses = ["10.152.200.3"]
rate = 1000
"#;

#[test]
fn a_pinned_port_has_addresses_and_pins_and_an_open_one_is_never_the_default() {
    let config = gateway(&format!("{GOOD}{PINNED}")).unwrap();
    assert_eq!(config.ports.len(), 1);
    assert_eq!(config.keyless.len(), 1);
    let port = &config.keyless[0];
    assert_eq!(port.admission(), Admission::Pinned);
    assert_eq!(port.xdp, Xdp::Generic);
    assert_eq!(port.addresses.len(), 2);
    let pins = port.pins.as_ref().unwrap();
    assert_eq!((pins[0].mac, pins[0].rate), ([2, 0, 0, 0, 0, 2], RATE));
    assert_eq!(pins[0].addresses[1].to_string(), "fd50:6f72:7464::2");
    assert_eq!((pins[1].mac, pins[1].rate), ([2, 0, 0, 0, 0, 0xa3], 1000));
    // A tunnel's Workstation cannot be bound to it.
    assert!(config.encapsulation_for(Some("eth2")).is_err());

    let open = "[host]\naddresses = [\"10.0.0.1/24\"]\n[[port]]\ninterface = \"eth1\"\nadmission = \"open\"\n";
    let config = gateway(open).unwrap();
    assert!(config.ports.is_empty());
    assert_eq!(config.keyless[0].admission(), Admission::Open);
    assert!(config.encapsulation_for(None).is_err());
    let silent = open.replace("admission = \"open\"\n", "");
    assert!(gateway(&silent).unwrap().keyless.is_empty());
}

#[test]
fn what_is_wrong_with_a_port_without_keys_is_said_with_what_to_write() {
    let cases = [
        (
            "admission = \"pinned\"",
            "admission = \"tunnel\"",
            "its admission is \"tunnel\"",
        ),
        ("admission = \"pinned\"", "admission = \"open\"", "has pins"),
        ("admission = \"pinned\"", "admission = \"opne\"", "opne"),
        ("xdp = \"generic\"", "ring_size = 64", "settings of one"),
        (
            "xdp = \"generic\"",
            "threaded_napi = \"on\"",
            "settings of one",
        ),
        (
            "addresses = [\"10.152.200.1/24\", \"fd50:6f72:7464::1/64\"]\n",
            "",
            "no address of its own",
        ),
        (
            "10.152.200.1/24",
            "10.152.152.20/24",
            "overlaps 10.152.152.10/18 of the host interface",
        ),
        ("fd50:6f72:7464::1/64", "10.152.200.9/28", "overlaps"),
        ("10.152.200.1/24", "10.152.200.0/24", "network or broadcast"),
        (
            "02:00:00:00:00:02",
            "03:00:00:00:00:02",
            "not the address of one interface",
        ),
        (
            "02:00:00:00:00:02",
            "00:00:00:00:00:00",
            "not the address of one interface",
        ),
        ("02:00:00:00:00:02", "02:00:00:00:00", "not a MAC address"),
        ("02:00:00:00:00:02", "2:0:0:0:0:a3", "has a pin already"),
        ("10.152.200.3", "10.152.200.2", "pinned already"),
        ("10.152.200.3", "10.152.200.1", "the Gateway's own"),
        ("10.152.200.3", "10.152.200.255", "the network's"),
        (
            "10.152.200.3",
            "10.152.201.3",
            "none of the port's prefixes",
        ),
        ("10.152.200.3", "10.152.200.3/24", "not an IP address"),
        ("[\"10.152.200.3\"]", "[]", "pins 0 addresses"),
        ("rate = 1000", "rate = 1", "rate (in frames a second) is 1"),
        ("rate = 1000", "rates = 1", "rates"),
    ];
    for (from, to, words) in cases {
        assert!(PINNED.contains(from), "{from}");
        let problem = gateway(&format!("{GOOD}{}", PINNED.replacen(from, to, 1))).unwrap_err();
        assert!(problem.happened.contains(words), "{to}: {problem}");
        assert!(!problem.remedy.is_empty());
    }
    let twice = format!("{GOOD}{PINNED}{}", PINNED.replace("eth2", "eth3"));
    let problem = gateway(&twice).unwrap_err();
    assert!(problem.happened.contains("of eth2"), "{problem}");
    let (head, _) = PINNED.split_once("[[port.pin]]").unwrap();
    let problem = gateway(&format!("{GOOD}{head}")).unwrap_err();
    assert!(problem.happened.contains("has 0 pins"), "{problem}");
}

#[test]
fn the_account_is_a_name_or_a_number_and_never_root() {
    let with = |user: &str| {
        let text = format!(
            "user = \"{user}\"\n[host]\naddresses = [\"10.0.0.1/24\"]\n[[port]]\ninterface = \"eth1\"\n"
        );
        Gateway::parse(Path::new("p"), &text)
    };
    assert_eq!(
        with("portcullis").unwrap().user.as_deref(),
        Some("portcullis")
    );
    assert_eq!(with("64077").unwrap().user.as_deref(), Some("64077"));
    for wrong in ["", "0", "root", "a b", "../x"] {
        assert!(
            with(wrong).unwrap_err().remedy.contains("account"),
            "{wrong:?}"
        );
    }
    let agent = Agent::parse(Path::new("p"), "user = \"tunnel\"\n").unwrap();
    assert_eq!(agent.user.as_deref(), Some("tunnel"));
}

const OVER_UDP: &str = "[host]\naddresses = [\"10.0.0.1/24\"]\n[[port]]\ninterface = \"eth1\"\nencapsulation = \"udp\"\n\
                        addresses = [\"192.0.2.1\", \"2001:db8::1\"]\n";

#[test]
fn a_port_over_udp_is_read_with_its_defaults_and_found_at_its_addresses_unless_told_otherwise() {
    let port = |text: &str| gateway(text).unwrap().ports.remove(0).encapsulation;
    let wanted = UdpPort {
        port: 51888,
        addresses: vec!["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()],
        shared: false,
        stealth: true,
        endpoints: vec!["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()],
    };
    assert_eq!(port(OVER_UDP), Encapsulation::Udp(wanted.clone()));
    let answers = UdpPort {
        stealth: false,
        ..wanted.clone()
    };
    let text = format!("{OVER_UDP}stealth = false\n");
    assert_eq!(port(&text), Encapsulation::Udp(answers));
    let more = format!("{OVER_UDP}udp_port = 500\nendpoint = [\"gw.example\", \"192.0.2.9:7\"]\n");
    let endpoints = vec![
        "gw.example".parse().unwrap(),
        "192.0.2.9:7".parse().unwrap(),
    ];
    let wanted = UdpPort {
        port: 500,
        endpoints: endpoints.clone(),
        ..wanted
    };
    assert_eq!(port(&more), Encapsulation::Udp(wanted));
    let enrolled = gateway(&more).unwrap().encapsulation_for(None).unwrap();
    assert_eq!(enrolled, enrolment::Encapsulation::Udp { endpoints });
    // Where a shared port is found must be said before anyone can be enrolled.
    let shared = OVER_UDP.replace(
        "addresses = [\"192.0.2.1\", \"2001:db8::1\"]",
        "shared = true",
    );
    let config = gateway(&shared).unwrap();
    assert!(config.ports[0].encapsulation.is_shared());
    let problem = config.encapsulation_for(None).unwrap_err();
    assert!(problem.remedy.contains("endpoint"), "{problem:?}");
}

#[test]
fn what_is_wrong_with_a_port_over_udp_is_said_where_it_stands() {
    let addresses = "addresses = [\"192.0.2.1\", \"2001:db8::1\"]\n";
    for (from, to, happened) in [
        (addresses, "", "has no address"),
        (
            addresses,
            "addresses = [\"192.0.2.1/24\"]\n",
            "is no IP address",
        ),
        (
            addresses,
            "addresses = [\"127.0.0.1\"]\n",
            "no address of a machine",
        ),
        (
            addresses,
            "addresses = [\"192.0.2.1\", \"192.0.2.2\"]\n",
            "same IP version",
        ),
        (
            "encapsulation = \"udp\"\n",
            "shared = true\n",
            "its encapsulation is \"ether\"",
        ),
        (
            addresses,
            "shared = true\nethertype = 0x88B5\n",
            "has an EtherType",
        ),
        (addresses, "shared = true\nudp_port = 0\n", "udp_port"),
        (
            addresses,
            "shared = true\nendpoint = [\"a b\"]\n",
            "no endpoint",
        ),
        (
            addresses,
            "shared = true\nendpoint = [\"a\", \"A\"]\n",
            "named twice",
        ),
        (addresses, "shared = true\nendpoint = []\n", "0 endpoints"),
        ("encapsulation = \"udp\"", "encapsulation = \"tcp\"", "tcp"),
    ] {
        let text = OVER_UDP.replace(from, to);
        let problem = gateway(&text).unwrap_err();
        assert!(problem.happened.contains(happened), "{text}: {problem:?}");
    }
}

#[test]
fn without_the_kill_switch_nothing_may_lead_the_tunnels_own_packets_into_it() {
    let agent = |text: &str| Agent::parse(Path::new("a.toml"), text);
    let config = agent("endpoint = [\"gw.example\", \"[2001:db8::1]:5\"]\nlan = true\n").unwrap();
    assert!(config.kill_switch && config.lan);
    assert_eq!(config.endpoints.unwrap().len(), 2);
    for routes in ["", "routes = [\"10.0.0.0/8\", \"::/0\"]\n"] {
        let problem = agent(&format!("kill_switch = false\n{routes}")).unwrap_err();
        assert!(problem.happened.contains("own packets"), "{problem:?}");
    }
    let split = agent("kill_switch = false\nroutes = [\"10.152.128.0/18\"]\n").unwrap();
    assert!(!split.kill_switch);
}

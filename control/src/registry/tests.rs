use super::*;
use crate::keyring::Known;
use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;

fn config(state: &Path) -> Gateway {
    let text = format!(
        "state_directory = \"{}\"\nmax_workstations = 4\n[host]\n\
         addresses = [\"10.0.0.2/29\", \"fd00::1/64\"]\n\
         [[port]]\ninterface = \"eth1\"\n[[port]]\ninterface = \"eth2\"\n",
        state.display()
    );
    Gateway::parse(Path::new("p.toml"), &text).unwrap()
}

struct Rig {
    directory: tempfile::TempDir,
    config: Gateway,
}

impl Rig {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let config = config(&directory.path().join("state"));
        Self { directory, config }
    }

    fn open(&self) -> Registry {
        Registry::open(&self.config).unwrap()
    }

    fn file(&self, name: &str) -> PathBuf {
        self.config.state_directory.join(DIRECTORY).join(name)
    }
}

fn new(name: &str) -> New {
    New::named(name.parse().unwrap())
}

fn names(registry: &Registry) -> Vec<String> {
    registry
        .workstations()
        .map(|(_, w)| w.name.to_string())
        .collect()
}

#[test]
fn workstations_survive_a_restart() {
    let rig = Rig::new();
    let mut registry = rig.open();
    let (_, private) = registry.add(new("alpha")).unwrap();
    registry.add(new("beta")).unwrap();
    let before: Vec<_> = registry.workstations().map(|(_, w)| w.clone()).collect();
    assert_eq!(before[0].public_key, private.unwrap().public());
    drop(registry);
    let registry = rig.open();
    let after: Vec<_> = registry.workstations().map(|(_, w)| w.clone()).collect();
    assert_eq!(before, after);
    assert!(registry.broken().is_empty());
    let mode = fs::metadata(rig.file("alpha.toml"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o7777, 0o600);
}

#[test]
fn addresses_are_the_next_free_ones_and_never_the_gateways_network_or_broadcast() {
    let mut rig = Rig::new();
    rig.config.max_workstations = 10;
    let mut registry = rig.open();
    let mut given = Vec::new();
    for at in 0..5 {
        let (slot, _) = registry.add(new(&format!("w{at}"))).unwrap();
        let workstation = registry.by_slot(slot).unwrap();
        given.push((
            workstation.v4.unwrap().to_string(),
            workstation.v6.unwrap().to_string(),
        ));
    }
    let expected = [
        ("10.0.0.3", "fd00::2"),
        ("10.0.0.4", "fd00::3"),
        ("10.0.0.5", "fd00::4"),
        ("10.0.0.6", "fd00::5"),
        ("10.0.0.1", "fd00::6"),
    ];
    for (given, expected) in given.iter().zip(expected) {
        assert_eq!((given.0.as_str(), given.1.as_str()), expected);
    }
    let problem = registry.add(new("w5")).unwrap_err();
    assert!(problem.happened.contains("every address"), "{problem}");
    registry.remove("w2").unwrap();
    let (slot, _) = registry.add(new("w5")).unwrap();
    assert_eq!(
        registry.by_slot(slot).unwrap().v4.unwrap().to_string(),
        "10.0.0.5"
    );
}

#[test]
fn an_address_that_cannot_be_given_is_refused() {
    let rig = Rig::new();
    let mut registry = rig.open();
    registry.add(new("alpha")).unwrap();
    for (addresses, happened, remedy) in [
        (
            &["10.0.1.1"][..],
            "in no prefix",
            "10.0.0.0/29 or fd00::/64",
        ),
        (&["10.0.0.2"], "Gateway's own", "leave it out"),
        (&["10.0.0.0"], "network or broadcast", "leave it out"),
        (&["10.0.0.7"], "network or broadcast", "leave it out"),
        (&["fd00::"], "network or broadcast", "leave it out"),
        (&["10.0.0.3"], "belongs to alpha", "another address"),
        (&["10.0.0.5", "10.0.0.6"], "two addresses", "at most one"),
    ] {
        let mut request = new("beta");
        request.addresses = addresses.iter().map(|a| a.parse().unwrap()).collect();
        let problem = registry.add(request).unwrap_err();
        assert!(
            problem.happened.contains(happened),
            "{addresses:?}: {problem}"
        );
        assert!(
            problem.remedy.contains(remedy),
            "{addresses:?}: {problem:?}"
        );
    }
    let mut request = new("beta");
    request.addresses = vec!["10.0.0.6".parse().unwrap()];
    let (slot, _) = registry.add(request).unwrap();
    let beta = registry.by_slot(slot).unwrap();
    assert_eq!(beta.v4.unwrap().to_string(), "10.0.0.6");
    assert!(beta.v6.is_some(), "the other family is chosen");
}

#[test]
fn a_name_is_given_once_and_a_port_must_exist() {
    let rig = Rig::new();
    let mut registry = rig.open();
    registry.add(new("alpha")).unwrap();
    let problem = registry.add(new("alpha")).unwrap_err();
    assert_eq!(problem.kind, Kind::Conflict);
    assert!(problem.remedy.contains("workstation remove alpha"));
    let mut request = new("beta");
    request.port = Some("eth9".into());
    let problem = registry.add(request.clone()).unwrap_err();
    assert!(problem.remedy.contains("eth1, eth2"), "{problem:?}");
    request.port = Some("eth2".into());
    registry.add(request).unwrap();
}

#[test]
fn slots_are_stable_and_used_again_only_after_release() {
    let rig = Rig::new();
    let mut registry = rig.open();
    let slots: Vec<_> = ["a", "b", "c", "d"]
        .map(|name| registry.add(new(name)).unwrap().0)
        .into();
    assert_eq!(slots, [0, 1, 2, 3]);
    assert!(
        registry
            .add(new("e"))
            .unwrap_err()
            .remedy
            .contains("max_workstations")
    );
    let (slot, gone) = registry.remove("b").unwrap().unwrap();
    assert_eq!((slot, gone.name.as_str()), (1, "b"));
    let problem = registry.add(new("e")).unwrap_err();
    assert!(problem.remedy.contains("being erased"), "{problem:?}");
    registry.release(0);
    assert!(
        registry.add(new("e")).is_err(),
        "a slot in use is not released"
    );
    registry.release(slot);
    registry.release(99);
    assert_eq!(registry.add(new("e")).unwrap().0, 1);
    assert_eq!(registry.get("c").unwrap().0, 2);
}

#[test]
fn a_broken_file_turns_its_workstation_off_and_no_other() {
    let rig = Rig::new();
    let mut registry = rig.open();
    for name in ["alpha", "beta", "gamma"] {
        registry.add(new(name)).unwrap();
    }
    let beta = registry.get("beta").unwrap().1.clone();
    fs::set_permissions(rig.file("alpha.toml"), fs::Permissions::from_mode(0o644)).unwrap();
    let misspelt = beta.to_text().replace("enabled = true", "enabled = yes");
    files::write_secret(&rig.file("beta.toml"), &misspelt).unwrap();
    files::write_secret(&rig.file("Not a name.toml"), "").unwrap();
    drop(registry);
    let mut registry = rig.open();
    assert_eq!(names(&registry), ["gamma"]);
    let broken: Vec<_> = registry
        .broken()
        .iter()
        .map(|broken| (broken.name.as_str(), broken.problem.report("portcullis")))
        .collect();
    assert_eq!(broken.len(), 3);
    assert!(
        broken
            .iter()
            .any(|(name, text)| *name == "alpha" && text.contains("chmod 600"))
    );
    assert!(
        broken
            .iter()
            .any(|(name, text)| *name == "beta" && text.contains("beta.toml:"))
    );

    // Mended, it is as it was, and nobody got its address meanwhile.
    let (slot, _) = registry.add(new("delta")).unwrap();
    assert_ne!(
        registry.by_slot(slot).unwrap().v4,
        registry.get("gamma").unwrap().1.v4
    );
    files::write_secret(&rig.file("beta.toml"), &beta.to_text()).unwrap();
    fs::set_permissions(rig.file("alpha.toml"), fs::Permissions::from_mode(0o600)).unwrap();
    let changes = registry.reload().unwrap();
    assert_eq!(changes.added.len(), 2);
    assert_eq!(names(&registry), ["alpha", "beta", "delta", "gamma"]);

    // A broken one can be removed by its name.
    assert_eq!(registry.remove("Not a name").unwrap(), None);
    assert!(registry.broken().is_empty());
    assert!(!rig.file("Not a name.toml").exists());
}

#[test]
fn workstations_that_share_an_address_or_a_key_are_all_off() {
    let rig = Rig::new();
    let mut registry = rig.open();
    for name in ["alpha", "beta", "gamma"] {
        registry.add(new(name)).unwrap();
    }
    let alpha = registry.get("alpha").unwrap().1.clone();
    let beta = registry.get("beta").unwrap().1.clone();
    let copies = [
        Workstation {
            v4: alpha.v4,
            ..beta.clone()
        },
        Workstation {
            v6: alpha.v6,
            ..beta.clone()
        },
        Workstation {
            key_id: alpha.key_id,
            ..beta.clone()
        },
        Workstation {
            public_key: alpha.public_key,
            ..beta.clone()
        },
    ];
    for copy in copies {
        files::write_secret(&rig.file("beta.toml"), &copy.to_text()).unwrap();
        let changes = registry.reload().unwrap();
        assert_eq!(names(&registry), ["gamma"]);
        let alpha = &registry
            .broken()
            .iter()
            .find(|b| b.name == "alpha")
            .unwrap()
            .problem;
        assert!(alpha.happened.contains("also belongs to beta"), "{alpha}");
        for (slot, _) in changes.removed {
            registry.release(slot);
        }
        files::write_secret(&rig.file("beta.toml"), &beta.to_text()).unwrap();
        registry.reload().unwrap();
        assert_eq!(names(&registry), ["alpha", "beta", "gamma"]);
    }
}

#[test]
fn reload_tells_what_changed() {
    let rig = Rig::new();
    let mut registry = rig.open();
    for name in ["alpha", "beta"] {
        registry.add(new(name)).unwrap();
    }
    assert_eq!(registry.reload().unwrap(), Changes::default());
    let mut alpha = registry.get("alpha").unwrap().1.clone();
    alpha.enabled = false;
    files::write_secret(&rig.file("alpha.toml"), &alpha.to_text()).unwrap();
    fs::remove_file(rig.file("beta.toml")).unwrap();
    let changes = registry.reload().unwrap();
    assert_eq!(changes.changed, [0]);
    assert_eq!(changes.removed.len(), 1);
    assert_eq!(changes.removed[0].0, 1);
    assert!(!registry.get("alpha").unwrap().1.enabled);
    // Rules end no session, unless something else has changed with them.
    for (enabled, changed, ruled) in [(false, vec![], vec![0]), (true, vec![0], vec![])] {
        alpha
            .allow
            .push(format!("tcp/{}", 80 + changed.len()).parse().unwrap());
        alpha.enabled = enabled;
        files::write_secret(&rig.file("alpha.toml"), &alpha.to_text()).unwrap();
        let changes = registry.reload().unwrap();
        assert_eq!((changes.changed, changes.ruled), (changed, ruled));
        assert_eq!(registry.get("alpha").unwrap().1, &alpha);
    }
}

#[test]
fn a_workstation_whose_address_or_port_is_no_longer_ours_is_off() {
    let mut rig = Rig::new();
    let mut request = new("alpha");
    request.port = Some("eth2".into());
    rig.open().add(request).unwrap();
    rig.config.ports.pop();
    let registry = rig.open();
    assert!(
        registry.broken()[0]
            .problem
            .happened
            .contains("no port eth2")
    );
    drop(registry);
    let mut rig = Rig {
        directory: rig.directory,
        config: rig.config,
    };
    rig.config.host_addresses = vec!["10.9.0.1/24".parse().unwrap()];
    let registry = rig.open();
    assert!(
        registry.broken()[0]
            .problem
            .happened
            .contains("in no prefix")
    );
}

#[test]
fn change_touches_only_what_may_change() {
    let rig = Rig::new();
    let mut registry = rig.open();
    registry.add(new("alpha")).unwrap();
    let before = registry.get("alpha").unwrap().1.clone();
    registry
        .change("alpha", |alpha| {
            alpha.enabled = false;
            alpha.port = Some("eth2".into());
            alpha.psk = Psk::new([1; 32]).unwrap();
            alpha.v4 = None;
        })
        .unwrap();
    drop(registry);
    let mut registry = rig.open();
    let after = registry.get("alpha").unwrap().1.clone();
    let expected = Workstation {
        enabled: false,
        port: Some("eth2".into()),
        ..before
    };
    assert_eq!(after, expected);
    assert!(
        registry
            .change("alpha", |a| a.port = Some("eth7".into()))
            .is_err()
    );
    assert_eq!(
        registry.change("beta", |_| {}).unwrap_err().kind,
        Kind::NotFound
    );
    assert_eq!(registry.remove("beta").unwrap_err().kind, Kind::NotFound);
    assert_eq!(registry.remove("../lock").unwrap_err().kind, Kind::NotFound);
}

#[test]
fn a_second_process_is_told_who_owns_the_state() {
    let rig = Rig::new();
    let registry = rig.open();
    let problem = Registry::open(&rig.config).unwrap_err();
    assert_eq!(problem.kind, Kind::Conflict);
    assert!(
        problem
            .happened
            .contains(&format!("process {}", std::process::id()))
    );
    assert!(problem.remedy.contains("ps -p"));
    // One that is done in a moment is waited for.
    drop(registry);
    let registry = rig.open();
    let brief = std::thread::spawn(move || {
        std::thread::sleep(std::time::Duration::from_millis(150));
        drop(registry);
    });
    rig.open();
    brief.join().unwrap();
}

#[test]
fn the_gateways_key_is_made_once_and_never_in_place_of_a_lost_one() {
    let rig = Rig::new();
    let mut registry = rig.open();
    let key = registry.keyring().unwrap();
    assert_eq!(registry.keyring().unwrap(), key);
    registry.add(new("alpha")).unwrap();
    fs::remove_file(rig.config.state_directory.join(GATEWAY_KEY)).unwrap();
    let problem = registry.keyring().unwrap_err();
    assert!(
        problem.happened.contains("1 Workstations are enrolled"),
        "{problem}"
    );
    assert!(problem.remedy.contains("from a copy"));
}

#[test]
fn a_look_takes_no_lock_and_makes_nothing() {
    let rig = Rig::new();
    assert_eq!(inspect(&rig.config).unwrap(), (vec![], vec![]));
    assert!(!rig.config.state_directory.exists());
    let mut registry = rig.open();
    registry.add(new("alpha")).unwrap();
    files::write_secret(&rig.file("beta.toml"), "").unwrap();
    let (usable, broken) = inspect(&rig.config).unwrap();
    assert_eq!((usable.len(), broken.len()), (1, 1));
}

#[test]
fn a_crash_at_any_step_leaves_every_workstation_as_it_was_or_as_it_was_to_be() {
    type Action = fn(&mut Registry);
    let actions: [(&str, Action); 6] = [
        ("rotate", |registry| {
            let gateway = registry.keyring().unwrap().public();
            registry.rotate("alpha", None, gateway, 78).unwrap();
        }),
        ("promote", |registry| registry.promote(0).unwrap()),
        ("cancel", |registry| {
            registry.cancel_rotation("alpha").unwrap();
        }),
        ("add", |registry| drop(registry.add(new("beta")).unwrap())),
        ("change", |registry| {
            registry
                .change("alpha", |alpha| alpha.enabled = false)
                .unwrap();
        }),
        ("remove", |registry| drop(registry.remove("alpha").unwrap())),
    ];
    for (what, action) in actions {
        let mut outcomes = HashSet::new();
        for steps in 0.. {
            let rig = Rig::new();
            let mut registry = rig.open();
            let gateway = registry.keyring().unwrap().public();
            registry.add(new("alpha")).unwrap();
            registry.rotate("alpha", None, gateway, 77).unwrap();
            let before: Vec<_> = registry.workstations().map(|(_, w)| w.clone()).collect();
            let finished = files::crash::after(steps, || action(&mut registry)).is_some();
            drop(registry);
            let registry = rig.open();
            assert!(
                registry.broken().is_empty(),
                "{what} {steps}: {:?}",
                registry.broken()
            );
            let files = fs::read_dir(rig.config.state_directory.join(DIRECTORY)).unwrap();
            assert_eq!(
                files.count(),
                names(&registry).len(),
                "{what} {steps}: leftovers"
            );
            let after: Vec<_> = registry.workstations().map(|(_, w)| w.clone()).collect();
            let done = match what {
                "add" => after.len() == 2,
                "change" => !after[0].enabled,
                "rotate" => after[0].next.as_ref().unwrap().until == 78,
                "promote" => after[0].key_id == before[0].next.as_ref().unwrap().key_id,
                "cancel" => after[0].next.is_none(),
                _ => after.is_empty(),
            };
            if !done {
                assert_eq!(after, before, "{what} {steps}");
            }
            outcomes.insert(done);
            if finished {
                assert!(done, "{what}");
                break;
            }
        }
        assert_eq!(
            outcomes.len(),
            2,
            "{what}: both outcomes must have been seen"
        );
    }
}

#[test]
fn a_rotation_waits_beside_the_keys_in_use_and_takes_their_place_once() {
    let rig = Rig::new();
    let mut registry = rig.open();
    let gateway = registry.keyring().unwrap().public();
    registry.add(new("alpha")).unwrap();
    registry.add(new("beta")).unwrap();
    let before = registry.get("alpha").unwrap().1.clone();
    let (slot, private) = registry.rotate("alpha", None, gateway, 77).unwrap();
    let waiting = registry.get("alpha").unwrap().1.clone();
    let next = waiting.next.clone().unwrap();
    assert_eq!(next.public_key, private.unwrap().public());
    assert_ne!((next.key_id, &next.psk), (before.key_id, &before.psk));
    assert_eq!(
        Workstation {
            next: None,
            ..waiting.clone()
        },
        before
    );
    // Another rotation voids the first one's keys.
    registry.rotate("alpha", None, gateway, 78).unwrap();
    let again = registry.get("alpha").unwrap().1.next.clone().unwrap();
    assert_ne!(again.key_id, next.key_id);
    drop(registry);
    let mut registry = rig.open();
    assert_eq!(registry.get("alpha").unwrap().1.next, Some(again.clone()));
    for _ in 0..2 {
        registry.promote(slot).unwrap();
        let after = registry.get("alpha").unwrap().1;
        assert_eq!((after.key_id, &after.psk), (again.key_id, &again.psk));
        assert_eq!(after.gateway_key, Some(gateway));
        assert_eq!((after.v4, after.next.as_ref()), (before.v4, None));
    }
    assert_eq!(
        registry.rotate("gamma", None, gateway, 0).unwrap_err().kind,
        Kind::NotFound
    );
}

#[test]
fn a_key_pair_of_its_own_is_kept_over_rotations_and_is_nobody_elses() {
    let rig = Rig::new();
    let mut registry = rig.open();
    let keyring = registry.keyring().unwrap();
    let own = |seed| Some(PrivateKey::new([seed; 32]).unwrap().public());
    let with = |name, public_key| New {
        public_key,
        ..new(name)
    };
    let (_, private) = registry.add(with("alpha", own(1))).unwrap();
    assert_eq!(private, None);
    registry
        .rotate("alpha", None, keyring.public(), 77)
        .unwrap();
    let next = registry.get("alpha").unwrap().1.next.clone().unwrap();
    assert_eq!((Some(next.public_key), next.own_key), (own(1), true));
    registry
        .rotate("alpha", own(2), keyring.public(), 77)
        .unwrap();
    for taken in [own(1), own(2)] {
        let problem = registry.add(with("beta", taken)).unwrap_err();
        assert!(problem.happened.contains("belongs to alpha"), "{problem}");
    }
    let problem = registry
        .add(with("beta", Some(keyring.public())))
        .unwrap_err();
    assert!(problem.happened.contains("the Gateway itself"), "{problem}");
    // The file is as good as what is in memory: its own key is no conflict.
    drop(registry);
    assert!(rig.open().broken().is_empty());
}

#[test]
fn the_gateways_old_key_is_not_given_up_while_somebody_knows_no_other() {
    let rig = Rig::new();
    let mut registry = rig.open();
    let first = registry.keyring().unwrap().public();
    registry.add(new("alpha")).unwrap();
    registry.add(new("beta")).unwrap();
    assert_eq!(registry.retire_key(false).unwrap().1, Vec::<String>::new());
    let keyring = registry.rotate_key().unwrap();
    assert_eq!(registry.rotate_key().unwrap_err().kind, Kind::Conflict);
    // Which key they know is written down, for when there have been more.
    drop(registry);
    let mut registry = rig.open();
    assert!(
        registry
            .workstations()
            .all(|(_, w)| w.gateway_key == Some(first))
    );
    assert_eq!(registry.keyring().unwrap(), keyring);
    let (slot, _) = registry
        .rotate("alpha", None, keyring.public(), 77)
        .unwrap();
    let problem = registry.retire_key(false).unwrap_err();
    assert!(
        problem.happened.contains("alpha, beta would be"),
        "{problem}"
    );
    registry.promote(slot).unwrap();
    let problem = registry.retire_key(false).unwrap_err();
    assert!(problem.happened.starts_with("beta would be"), "{problem}");
    let (keyring, locked_out) = registry.retire_key(true).unwrap();
    assert_eq!((keyring.old(), locked_out), (None, vec!["beta".into()]));
    assert_eq!(keyring.known(Some(first)), Known::Retired);
}

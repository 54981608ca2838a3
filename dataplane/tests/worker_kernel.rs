//! A worker's thread on a real kernel, while its interfaces are set down and removed. Needs root.

mod netns;

use crossbeam::channel::unbounded;
use netns::{Redirect, in_quiet_namespace, run, veth};
use portcullis_dataplane::counters::WorkerCounters;
use portcullis_dataplane::engine::Engine;
use portcullis_dataplane::host::tun::Tun;
use portcullis_dataplane::port::xsk::{XskConfig, XskPort};
use portcullis_dataplane::wall::PortTables;
use portcullis_dataplane::worker::run::orders;
use portcullis_dataplane::worker::{Command, Event, PortSetup, Worker, WorkerConfig};
use std::sync::Arc;
use std::thread::sleep;
use std::time::Duration;
use wire::Role;

#[test]
fn a_worker_neither_spins_nor_fails_on_what_is_down_and_tells_what_is_gone() {
    in_quiet_namespace(|| {
        veth(1);
        let _walls = ["a", "b"].map(Redirect::attach);
        let port = XskPort::open(&XskConfig {
            ring_size: 64,
            ..XskConfig::new("b")
        });
        let port = port.expect("AF_XDP: this test must run as root");
        let mut host = Tun::open("inner0", 1).expect("a TUN device");
        run("ip link set inner0 up");
        let (commands, receiver, bell) = orders().unwrap();
        let (sender, events) = unbounded();
        let counters = Arc::new(WorkerCounters::default());
        let worker = Worker::new(
            WorkerConfig {
                role: Role::Gateway,
                engine: Engine::Auto,
            },
            host.remove(0),
            receiver,
            sender,
            Arc::clone(&counters),
        );
        let setup = PortSetup {
            id: 0,
            io: port,
            tables: Arc::new(PortTables::in_memory(4, 4).unwrap()),
            mac: [2, 0, 0, 0, 0, 1],
            encapsulation: portcullis_dataplane::path::Encapsulation::Ether(
                wire::limits::ETHERTYPE,
            ),
        };
        commands.give(Command::AddPort(Box::new(setup)));
        let thread = std::thread::spawn(move || worker.run(&bell, Duration::ZERO));
        sleep(Duration::from_millis(100));

        for down in ["b", "a", "inner0"] {
            run(&format!("ip link set dev {down} down"));
            let before = counters.wakeups.get();
            sleep(Duration::from_millis(300));
            let wakeups = counters.wakeups.get() - before;
            assert!(wakeups < 30, "{wakeups} wakeups while {down} is down");
            run(&format!("ip link set dev {down} up"));
        }
        assert!(events.try_iter().next().is_none(), "nothing has failed");

        let soon = Duration::from_secs(10);
        run("ip link del dev a");
        let event = events.recv_timeout(soon).expect("the port is reported");
        assert!(
            matches!(event, Event::PortFailed { port: 0, .. }),
            "{event:?}"
        );
        let before = counters.wakeups.get();
        sleep(Duration::from_millis(300));
        assert!(counters.wakeups.get() - before < 30, "it turns in vain");

        run("ip link del dev inner0");
        let event = events
            .recv_timeout(soon)
            .expect("the host interface is reported");
        assert!(matches!(event, Event::HostFailed(_)), "{event:?}");
        thread.join().unwrap().unwrap();
    });
}

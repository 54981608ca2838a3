//! The wall on real interfaces: raised, taken over, killed under, removed, and what gets past it.
//!
//! Needs root. Each test has network namespaces of its own (`netns/mod.rs` has the drawing).

mod netns;

use std::io::{BufRead, BufReader};
use std::mem::ManuallyDrop;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use netns::{FAR_MAC, NEAR_MAC, Netns, Pair, Pins, Tap, attach_xdp, config, empty_xdp, run};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use portcullis_dataplane::wall::{
    AttachMode, GuardHook, Wall, WallError, XdpRequest, ensure_bpffs, links, lower, verify,
};
use wire::Verdict;

fn frame(ethertype: u16) -> Vec<u8> {
    let mut frame = [&NEAR_MAC[..], &FAR_MAC, &ethertype.to_be_bytes()].concat();
    frame.resize(60, 0x5a);
    frame
}

#[test]
fn it_is_attached_natively_while_the_link_is_down_and_drops_from_the_first_frame() {
    let pair = Pair::new();
    let wall = Wall::raise(&pair.config()).expect("the wall");
    assert_eq!(wall.mode().expect("its mode"), AttachMode::Native);
    pair.up();
    let seen = Tap::on("near0");
    let sender = pair.far.within(|| Tap::on("far0"));
    for _ in 0..100 {
        sender.send(&frame(0x0800)).expect("sent");
    }
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(seen.drain().len(), 0);
    assert!(wall.verdicts().expect("verdicts")[1] >= 100);
}

/// Frames sent from the far end until dropped, as fast as one thread can.
struct Flood {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<u64>>,
}

impl Flood {
    fn start(far: &Netns) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let sender = far.within(|| Tap::on("far0"));
        let told = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut sent = 0;
            let end = Instant::now() + Duration::from_secs(60);
            while !told.load(Ordering::Relaxed) && Instant::now() < end {
                sent += u64::from(sender.send(&frame(0x0800)).is_ok());
                if sent.is_multiple_of(64) {
                    std::thread::sleep(Duration::from_micros(200));
                }
            }
            sent
        });
        Self {
            stop,
            thread: Some(thread),
        }
    }

    fn end(mut self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().expect("it runs");
        thread.join().expect("it does not panic")
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn pass_after_lowering(pair: &Pair, seen: &Tap) -> usize {
    lower("near0", &pair.pins.0).expect("the wall down");
    let sender = pair.far.within(|| Tap::on("far0"));
    for _ in 0..10 {
        sender.send(&frame(0x0800)).expect("sent");
    }
    std::thread::sleep(Duration::from_millis(50));
    seen.drain().len()
}

#[test]
fn two_hundred_take_overs_under_load_keep_the_link_and_let_no_frame_pass() {
    let pair = Pair::new();
    let config = pair.config();
    let mut wall = Wall::raise(&config).expect("the wall");
    let first = links("near0", &pair.pins.0).expect("the links");
    pair.up();
    let seen = Tap::on("near0");
    let flood = Flood::start(&pair.far);
    let mut dropped = 0;
    for _ in 0..200 {
        let next = Wall::raise(&config).expect("the next wall");
        let now = links("near0", &pair.pins.0).expect("the links");
        for (now, first) in now.iter().zip(first) {
            let (now, first) = (now.expect("a link"), first.expect("a link"));
            assert_eq!((now.id, now.ifindex), (first.id, first.ifindex));
        }
        let running = now.map(|link| link.expect("a link").program);
        assert_eq!(running, next.programs().expect("the programs"));
        dropped += wall.verdict(Verdict::Foreign).expect("verdicts");
        wall = next;
    }
    let sent = flood.end();
    std::thread::sleep(Duration::from_millis(50));
    dropped += wall.verdict(Verdict::Foreign).expect("verdicts");
    assert_eq!(seen.drain().len(), 0, "of {sent} frames");
    assert!(
        sent > 1000 && dropped >= sent,
        "{dropped} of {sent} counted"
    );
    assert!(
        pass_after_lowering(&pair, &seen) >= 10,
        "the tap sees what passes"
    );
}

const CHILD: &str = "PORTCULLIS_TEST_CHILD_PINS";

/// Not a test of its own: the process that the next test kills.
#[test]
fn a_process_that_raises_a_wall_and_waits_to_be_killed() {
    let Ok(pins) = std::env::var(CHILD) else {
        return;
    };
    let pins = ManuallyDrop::new(Pins(pins.into()));
    let wall = Wall::raise(&config("near0", &pins)).expect("the wall");
    println!("raised");
    std::thread::sleep(Duration::from_secs(60));
    drop(wall);
}

#[test]
fn the_wall_stands_after_its_process_is_killed() {
    let pair = Pair::new();
    let mut child = Command::new(std::env::current_exe().expect("this program"))
        .args(["--exact", "--nocapture"])
        .arg("a_process_that_raises_a_wall_and_waits_to_be_killed")
        .env(CHILD, &pair.pins.0)
        .stdout(Stdio::piped())
        .spawn()
        .expect("a child");
    let output = BufReader::new(child.stdout.take().expect("its output"));
    let raised = output
        .lines()
        .map_while(Result::ok)
        .any(|line| line.contains("raised"));
    assert!(raised, "the child raises the wall");
    let before = links("near0", &pair.pins.0).expect("the links");
    pair.up();
    let seen = Tap::on("near0");
    let flood = Flood::start(&pair.far);
    std::thread::sleep(Duration::from_millis(100));
    child.kill().expect("SIGKILL");
    child.wait().expect("its end");
    std::thread::sleep(Duration::from_millis(300));
    assert!(before.iter().all(Option::is_some));
    assert_eq!(links("near0", &pair.pins.0).expect("the links"), before);
    let wall = Wall::raise(&pair.config()).expect("the next wall");
    std::thread::sleep(Duration::from_millis(100));
    let sent = flood.end();
    assert!(sent > 1000);
    assert_eq!(seen.drain().len(), 0, "of {sent} frames");
    assert!(wall.verdict(Verdict::Foreign).expect("verdicts") > 0);
    assert!(pass_after_lowering(&pair, &seen) >= 10);
}

#[test]
fn an_interface_removed_and_added_again_gets_a_wall_again() {
    let pair = Pair::new();
    let first = pair.config();
    let wall = Wall::raise(&first).expect("the wall");
    let links_of = || {
        links("near0", &pair.pins.0)
            .expect("the links")
            .map(|link| link.expect("a link"))
    };
    let old = links_of();
    run("ip link del near0");
    assert!(
        links_of().iter().all(|link| link.ifindex == 0),
        "dead links"
    );
    assert!(wall.mode().is_err());
    // Once with an index of its own, and once with that of the interface before it.
    for same_index in [false, true] {
        let index = if same_index {
            run("ip link del near0");
            format!("index {}", first.ifindex)
        } else {
            String::new()
        };
        run(&format!(
            "ip link add near0 {index} address 02:00:00:00:00:01 type veth peer name far0 netns {}",
            pair.far.path()
        ));
        let config = pair.config();
        assert_eq!(config.ifindex == first.ifindex, same_index);
        let wall = Wall::raise(&config).expect("the wall again");
        let new = links_of();
        assert_ne!(new[0].id, old[0].id);
        assert_ne!(new[1].id, old[1].id);
        assert!(new.iter().all(|link| link.ifindex == config.ifindex));
        pair.up();
        let seen = Tap::on("near0");
        let sender = pair.far.within(|| Tap::on("far0"));
        (0..50).for_each(|_| sender.send(&frame(0x0800)).expect("sent"));
        std::thread::sleep(Duration::from_millis(50));
        assert_eq!(seen.drain().len(), 0);
        assert!(wall.verdict(Verdict::Foreign).expect("verdicts") >= 50);
    }
}

#[test]
fn a_pin_of_an_interface_of_the_same_name_and_index_elsewhere_is_not_taken_for_ours() {
    let pair = Pair::new();
    let wall = Wall::raise(&pair.config()).expect("the wall");
    let elsewhere = Netns::enter_new();
    let index = pair.near.within(|| netns::ifindex("near0"));
    run(&format!(
        "ip link add near0 index {index} type veth peer name other0 index 77"
    ));
    let other = Wall::raise(&pair.config()).expect("a wall elsewhere");
    assert_eq!(other.mode().expect("its mode"), AttachMode::Native);
    let running = links("near0", &pair.pins.0).expect("the links")[0].expect("a link");
    assert_eq!(running.program, other.programs().expect("programs")[0]);
    assert_ne!(running.program, wall.programs().expect("programs")[0]);
    drop(elsewhere);
}

#[test]
fn an_interface_with_a_program_of_somebody_else_is_refused_in_words() {
    let pair = Pair::new();
    let theirs = attach_xdp(&empty_xdp(), "near0");
    let error = Wall::raise(&pair.config()).expect_err("it is occupied");
    assert!(matches!(error, WallError::Occupied { .. }));
    let words = error.to_string();
    assert!(
        words.contains("near0 already has an XDP program"),
        "{words}"
    );
    assert!(words.contains("ip link set dev near0 xdp off"), "{words}");
    let untouched = links("near0", &pair.pins.0).expect("the links");
    assert_eq!(untouched, [None, None]);
    drop(theirs);
    Wall::raise(&pair.config()).expect("the wall, once it is free");
}

#[test]
fn a_wall_is_not_opened_to_change_its_mode() {
    let pair = Pair::new();
    let mut config = pair.config();
    config.mode = XdpRequest::Generic;
    let wall = Wall::raise(&config).expect("the wall");
    assert_eq!(wall.mode().expect("its mode"), AttachMode::Generic);
    config.mode = XdpRequest::Native;
    let error = Wall::raise(&config).expect_err("another mode");
    assert!(matches!(error, WallError::OtherMode { .. }), "{error}");
    assert_eq!(wall.mode().expect("its mode"), AttachMode::Generic);
    config.mode = XdpRequest::Auto;
    let next = Wall::raise(&config).expect("the wall as it stands");
    assert_eq!(next.mode().expect("its mode"), AttachMode::Generic);
    lower("near0", &pair.pins.0).expect("down");
    config.mode = XdpRequest::Native;
    let next = Wall::raise(&config).expect("the wall in the other mode");
    assert_eq!(next.mode().expect("its mode"), AttachMode::Native);
}

#[test]
fn without_native_mode_auto_is_generic_and_native_is_refused() {
    let pair = Pair::new();
    // A macvlan has no XDP in its driver.
    run("ip link add link near0 name plain0 type macvlan");
    let mut wanted = config("plain0", &pair.pins);
    wanted.mode = XdpRequest::Native;
    let error = Wall::raise(&wanted).expect_err("no native mode");
    assert!(
        error.to_string().contains("native mode on plain0"),
        "{error}"
    );
    wanted.mode = XdpRequest::Auto;
    let wall = Wall::raise(&wanted).expect("the wall");
    assert_eq!(wall.mode().expect("its mode"), AttachMode::Generic);
}

#[test]
fn where_the_mtu_may_be_why_native_mode_is_refused_the_refusal_says_so() {
    let pair = Pair::new();
    run("ip link set dev near0 mtu 9000");
    run("ip link add link near0 name plain0 mtu 9000 type macvlan");
    let mut wanted = config("plain0", &pair.pins);
    wanted.mode = XdpRequest::Native;
    let error = Wall::raise(&wanted).expect_err("no native mode");
    for said in ["9000", "multi-buffer", "ip link set dev plain0 mtu 1500"] {
        assert!(error.to_string().contains(said), "{error}");
    }
}

#[test]
fn the_mtu_can_be_raised_beyond_a_page_while_a_wall_stands_at_either_end() {
    let pair = Pair::new();
    let _near = Wall::raise(&pair.config()).expect("the wall");
    let far = Pins::new();
    let _far = pair
        .far
        .within(|| Wall::raise(&config("far0", &far)).expect("the wall"));
    for mtu in [9000, 1500] {
        run(&format!("ip link set dev near0 mtu {mtu}"));
        pair.far
            .within(|| run(&format!("ip link set dev far0 mtu {mtu}")));
    }
}

fn ingress_guard_holds(hook: GuardHook) {
    let pair = Pair::new();
    let mut config = pair.config();
    config.guard = hook;
    let wall = Wall::raise(&config).expect("the wall");
    pair.up();
    let protocols = Tap::of_type("near0", 0x0800);
    let sender = pair.far.within(|| Tap::on("far0"));
    // Whatever takes the XDP program away, or leaves it out as veth does while its link goes down:
    // the link goes with its last reference.
    std::fs::remove_file(pair.pins.0.join("near0/admission")).expect("the pin removed");
    let start = std::time::Instant::now();
    while wall.ingress_guard_drops().expect("drops") == 0 {
        assert!(start.elapsed() < Duration::from_secs(5), "XDP still drops");
        sender.send(&frame(0x0800)).expect("sent");
        std::thread::sleep(Duration::from_millis(1));
    }
    for _ in 0..10 {
        sender.send(&frame(0x0800)).expect("sent");
    }
    let next = Wall::raise(&config).expect("the wall whole again");
    assert_eq!(protocols.drain(), Vec::<Vec<u8>>::new());
    drop((wall, next));
    lower("near0", &pair.pins.0).expect("down");
    sender.send(&frame(0x0800)).expect("sent");
    std::thread::sleep(Duration::from_millis(50));
    assert!(!protocols.drain().is_empty(), "a guard was left behind");
}

#[test]
fn what_gets_past_xdp_is_dropped_by_the_ingress_guard_on_tcx() {
    ingress_guard_holds(GuardHook::Auto);
}

#[test]
fn what_gets_past_xdp_is_dropped_by_the_ingress_guard_on_clsact() {
    ingress_guard_holds(GuardHook::Clsact);
}

/// Makes the kernel ask for the addresses of neighbours it has not asked for yet.
fn make_the_kernel_send(turn: u8) {
    let socket = std::net::UdpSocket::bind("10.77.0.1:0").expect("a socket");
    let _sent = socket.send_to(b"asks by ARP first", (format!("10.77.0.{turn}"), 9));
    let socket = std::net::UdpSocket::bind("[fd77::1]:0").expect("a socket");
    let _sent = socket.send_to(b"asks by ND first", (format!("fd77::{turn}"), 9));
}

fn guard_holds(hook: GuardHook) {
    let pair = Pair::new();
    let mut config = pair.config();
    config.guard = hook;
    run("ip addr add 10.77.0.1/24 dev near0");
    run("ip -6 addr add fd77::1/64 dev near0 nodad");
    let first = Wall::raise(&config).expect("the wall");
    let captured = pair.far.within(|| Tap::on("far0"));
    pair.up();
    // MLD reports, duplicate address detection and router solicitations come within these seconds.
    std::thread::sleep(Duration::from_secs(3));
    make_the_kernel_send(10);
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(captured.drain(), Vec::<Vec<u8>>::new());
    assert!(first.guard_drops().expect("drops") >= 3);

    // A second process takes over, and both are gone.
    let second = Wall::raise(&config).expect("the next wall");
    make_the_kernel_send(11);
    std::thread::sleep(Duration::from_millis(200));
    assert!(second.guard_drops().expect("drops") >= 1);
    let filters = run("tc filter show dev near0 egress");
    let expected = usize::from(hook == GuardHook::Clsact);
    assert_eq!(filters.matches("handle 0x").count(), expected, "{filters}");
    drop((first, second));
    make_the_kernel_send(12);
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(captured.drain(), Vec::<Vec<u8>>::new());

    lower("near0", &pair.pins.0).expect("down");
    assert_eq!(run("tc filter show dev near0 egress"), "");
    make_the_kernel_send(13);
    std::thread::sleep(Duration::from_millis(1200));
    assert!(!captured.drain().is_empty(), "the capture sees what leaves");
}

#[test]
fn nothing_of_the_kernel_leaves_a_port_with_the_guard_on_tcx() {
    guard_holds(GuardHook::Auto);
}

#[test]
fn nothing_of_the_kernel_leaves_a_port_with_the_guard_on_clsact() {
    guard_holds(GuardHook::Clsact);
}

#[test]
fn lowering_leaves_nothing_and_may_be_done_twice() {
    let pair = Pair::new();
    let wall = Wall::raise(&pair.config()).expect("the wall");
    lower("near0", &pair.pins.0).expect("down");
    assert!(wall.mode().is_err());
    assert_eq!(
        links("near0", &pair.pins.0).expect("the links"),
        [None, None]
    );
    assert!(!pair.pins.0.join("near0").exists());
    lower("near0", &pair.pins.0).expect("nothing to do");
    lower("absent0", &pair.pins.0).expect("nothing to do");
}

#[test]
fn the_bpf_file_system_is_mounted_where_there_is_none_and_once() {
    // A mount namespace of this thread's own.
    unshare(CloneFlags::CLONE_NEWNS).expect("a mount namespace");
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(None::<&str>, "/", None::<&str>, private, None::<&str>).expect("private mounts");
    let place = tempfile::tempdir().expect("a directory");
    let pins = place.path().join("pins");
    let mounts = || {
        let table = std::fs::read_to_string("/proc/thread-self/mounts").expect("the mounts");
        let pins = pins.display().to_string();
        table.lines().filter(|line| line.contains(&pins)).count()
    };
    ensure_bpffs(&pins).expect("mounted");
    assert_eq!(mounts(), 1);
    ensure_bpffs(&pins.join("near0")).expect("a directory on it");
    ensure_bpffs(&pins).expect("nothing to do");
    assert_eq!(mounts(), 1);
    assert!(pins.join("near0").is_dir());
    nix::mount::umount(&pins).expect("unmounted");
}

#[test]
fn a_size_out_of_range_is_refused_in_words() {
    let pair = Pair::new();
    for slots in [0, (1 << 16) + 1] {
        let mut config = pair.config();
        config.session_slots = slots;
        let words = Wall::raise(&config).expect_err("refused").to_string();
        assert!(words.contains("session slots of port near0"), "{words}");
    }
}

#[test]
fn this_kernel_takes_every_program_in_each_way_in_which_it_is_used() {
    let all = verify().unwrap();
    let refused: Vec<_> = all.iter().filter(|one| one.answer.is_err()).collect();
    assert!(refused.is_empty(), "{refused:#?}");
    let names: Vec<&str> = all.iter().map(|one| one.program.as_str()).collect();
    for name in [
        "admission at the Gateway over udp, shared",
        "admission at the Workstation",
        "ingress_udp at the Gateway over udp, answering",
        "guard_udp at the Gateway over udp",
        "ingress_shared at the Gateway over udp, shared, answering",
    ] {
        assert!(names.contains(&name), "{names:?}");
    }
}

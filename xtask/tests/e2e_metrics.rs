//! The metrics of the real daemon: as promtool and a real Prometheus take them, and held against the alert rules
//! and the dashboard. Needs root, the programs (`cargo xtask test` builds them), and Debian's prometheus
//! (`./run setup` unpacks it).

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use portcullis_xtask::rig::*;
use portcullis_xtask::tools::{prometheus, promtool};
use serde_json::Value;

const WAIT: Duration = Duration::from_secs(60);
const METRICS: &str = "127.0.0.1:9477";

fn packaging(name: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    root.join("packaging").join(name)
}

/// A Gateway that serves metrics over TCP, with traffic of two Workstations.
fn rig() -> Many {
    require_root().unwrap();
    let mut rig = many(&Programs::find().unwrap(), 2).unwrap();
    let text = rig.gateway.configuration(&["lan"]);
    let head = format!("metrics_address = \"{METRICS}\"\n");
    rig.gateway.configure(&(head + &text)).unwrap();
    rig.start().unwrap();
    for workstation in &mut rig.workstations {
        assert!(workstation.reaches(Duration::from_secs(2)));
        workstation.rekey().unwrap();
    }
    rig
}

fn curl(rig: &Many, arguments: &str) -> String {
    rig.gateway
        .namespace()
        .exec(
            "curl",
            &format!("--silent --show-error --max-time 10 {arguments}"),
        )
        .unwrap()
}

fn metrics(rig: &Many) -> String {
    curl(rig, &format!("http://{METRICS}/metrics"))
}

/// The value of a series, whatever the order of its labels.
fn value(text: &str, name: &str, labels: &[&str]) -> Option<f64> {
    text.lines()
        .filter(|line| line.starts_with(&format!("{name}{{")))
        .find(|line| labels.iter().all(|label| line.contains(label)))
        .and_then(|line| line.rsplit_once(' ')?.1.parse().ok())
}

/// Names of metrics that stand in a text.
fn named(text: &str) -> BTreeSet<String> {
    text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
        .filter(|word| word.starts_with("portcullis_"))
        .map(str::to_owned)
        .collect()
}

#[test]
fn the_metrics_are_sound_and_count_what_happens() {
    let _turn = Serial::acquire().unwrap();
    let rig = rig();
    let before = metrics(&rig);
    assert!(rig.workstations[0].reaches(Duration::from_secs(2)));
    let text = metrics(&rig);
    for (name, labels) in [
        ("portcullis_workstation_packets_total", &["w1", "rx"][..]),
        ("portcullis_workstation_bytes_total", &["w1", "tx"]),
        ("portcullis_workstation_frames_total", &["w1", "admitted"]),
        ("portcullis_port_frames_total", &["lan", "admitted"]),
        ("portcullis_port_packets_total", &["lan", "rx"]),
        ("portcullis_port_bytes_total", &["lan", "tx"]),
        ("portcullis_batch_seconds_count", &["worker=\"0\""]),
    ] {
        let (then, now) = (value(&before, name, labels), value(&text, name, labels));
        assert!(
            now > then && now.is_some(),
            "{name} {labels:?}: {then:?}, {now:?}"
        );
    }
    for (name, labels, right) in [
        ("portcullis_workstation_sessions", &["w2"][..], 1.0..=1.0),
        ("portcullis_workstation_rekeys_total", &["w2"], 1.0..=9.0),
        (
            "portcullis_workstation_handshakes_total",
            &["w2", "confirmed"],
            2.0..=19.0,
        ),
        ("portcullis_port_up", &["lan"], 1.0..=1.0),
        (
            "portcullis_port_pool_frames",
            &["lan", "receiving"],
            1.0..=1e6,
        ),
        ("portcullis_workstation_queue_frames", &["w1"], 0.0..=256.0),
        (
            "portcullis_workstation_aead_blocks_left",
            &["w1"],
            6.8e10..=6.88e10,
        ),
    ] {
        let now = value(&text, name, labels);
        assert!(
            now.is_some_and(|now| right.contains(&now)),
            "{name} {labels:?}: {now:?}"
        );
    }
    // On the control socket it is the same, and nothing else is on the TCP port.
    let socket = rig.gateway.directory().join("run/control.sock");
    let there = curl(
        &rig,
        &format!("--unix-socket {} http://x/metrics", socket.display()),
    );
    assert!(named(&text).is_subset(&named(&there)));
    for path in ["v1/status", "v1/workstations", ""] {
        let code = curl(
            &rig,
            &format!("-o /dev/null -w %{{http_code}} http://{METRICS}/{path}"),
        );
        assert_eq!(code, "404", "{path}");
    }
    let code = curl(
        &rig,
        &format!("-o /dev/null -w %{{http_code}} -X POST http://{METRICS}/metrics"),
    );
    assert_eq!(code, "405");
    // Who asks without pause is told to ask less often, and gets it a second later.
    let many = format!("-w %{{http_code}}\\n -o /dev/null http://{METRICS}/metrics?[1-100]");
    let codes = curl(&rig, &many);
    let told = |code: &str| codes.lines().filter(|line| *line == code).count();
    assert!(told("200") >= 5 && told("429") >= 10, "{codes}");
    assert_eq!(told("200") + told("429"), 100, "{codes}");
    pause(Duration::from_secs(1)).unwrap();
    assert!(metrics(&rig).contains("portcullis_info"));

    let mut check = Command::new(promtool().unwrap())
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    std::io::Write::write_all(&mut check.stdin.take().unwrap(), text.as_bytes()).unwrap();
    let output = check.wait_with_output().unwrap();
    assert!(
        output.status.success() && output.stderr.is_empty(),
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );

    // What is alerted on and drawn is there.
    let there = named(&text);
    for name in ["prometheus/portcullis.rules.yml", "grafana/portcullis.json"] {
        let file = fs::read_to_string(packaging(name)).unwrap();
        if name.ends_with("json") {
            serde_json::from_str::<Value>(&file).unwrap();
        }
        let wanted = named(&file);
        assert!(wanted.len() > 5);
        for metric in wanted {
            // These come only with something dropped.
            let dropped = ["portcullis_workstation_drops_total"].contains(&metric.as_str());
            assert!(
                there.contains(&metric) || dropped,
                "{name} names {metric}, which there is not"
            );
        }
    }
}

#[test]
fn the_alert_rules_are_sound_and_fire_on_what_they_are_for() {
    for arguments in [
        ["check", "rules", "portcullis.rules.yml"],
        ["test", "rules", "portcullis.rules.test.yml"],
    ] {
        let output = Command::new(promtool().unwrap())
            .args(arguments)
            .current_dir(packaging("prometheus"))
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
    }
}

#[test]
fn a_real_prometheus_scrapes_them_and_evaluates_the_rules() {
    let _turn = Serial::acquire().unwrap();
    let rig = rig();
    let scratch = Scratch::new("prometheus").unwrap();
    let config = scratch.path().join("prometheus.yml");
    let rules = packaging("prometheus/portcullis.rules.yml");
    fs::write(
        &config,
        format!(
            "global: {{scrape_interval: 1s, evaluation_interval: 1s}}\n\
             rule_files: [{}]\n\
             scrape_configs:\n\
             - job_name: portcullis\n  static_configs: [{{targets: [\"{METRICS}\"]}}]\n",
            rules.display()
        ),
    )
    .unwrap();
    let mut command = rig.gateway.namespace().command(prometheus().unwrap());
    command
        .arg(format!("--config.file={}", config.display()))
        .arg(format!(
            "--storage.tsdb.path={}",
            scratch.path().join("data").display()
        ))
        .arg("--web.listen-address=127.0.0.1:9478");
    let log = scratch.path().join("log");
    let mut process = Process::start("prometheus", command, &log).unwrap();
    let ask = |path: &str| -> Option<Value> {
        let arguments =
            format!("--silent --globoff --max-time 5 http://127.0.0.1:9478/api/v1/{path}");
        let text = rig.gateway.namespace().exec("curl", &arguments).ok()?;
        serde_json::from_str(&text).ok()
    };
    let asked = wait_for("a scrape", WAIT, || {
        assert!(process.exited().is_none(), "{}", process.log_tail(20));
        let answer = ask(
            "query?query=portcullis_workstation_packets_total{workstation=\"w1\",direction=\"rx\"}",
        )?;
        let value = answer["data"]["result"][0]["value"][1]
            .as_str()?
            .parse::<f64>()
            .ok()?;
        let up = ask("query?query=up{job=\"portcullis\"}")?;
        (value > 0.0 && up["data"]["result"][0]["value"][1] == "1").then_some(())
    });
    asked.unwrap();
    wait_for("all rules to be evaluated", WAIT, || {
        let answer = ask("rules")?;
        let rules = answer["data"]["groups"][0]["rules"].as_array()?.clone();
        let good = |rule: &Value| rule["health"] == "ok";
        (rules.len() > 5 && rules.iter().all(good)).then_some(())
    })
    .unwrap();
    let quantile =
        "query?query=histogram_quantile(0.99,sum%20by(le)(portcullis_batch_seconds_bucket))";
    let answer = ask(quantile).unwrap();
    let value: f64 = answer["data"]["result"][0]["value"][1]
        .as_str()
        .unwrap()
        .parse()
        .unwrap();
    assert!(value > 0.0 && value < 10.0, "{answer}");
    process.stop(WAIT).unwrap();
}

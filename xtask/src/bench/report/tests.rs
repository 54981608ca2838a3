use super::*;

/// Figures of every suite, as they are called.
fn figures() -> Vec<Figure> {
    let mut all = Vec::new();
    let mut add = |metric: &str, unit: &str, value: f64, bound: Option<f64>, method: &str| {
        let samples = [value * 0.9, value, value * 1.2];
        let mut figure = Figure::of(metric, unit, &samples, bound, method).unwrap();
        figure.config +=
            " | cargo xtask bench --quick | 2 x CPU <fast> & cheap, Linux 6 | 2026-01-01T00:00:00Z";
        all.push(figure);
    };
    for (way, rate) in [("up", 3.9), ("down", 3.7), ("ws", 3.0)] {
        if way != "ws" {
            add(
                &format!("plain.tcp.{way}.gbps"),
                "Gbit/s",
                18.0,
                None,
                "iperf3",
            );
            add(
                &format!("e2e.tcp.{way}.gbps"),
                "Gbit/s",
                rate,
                Some(18.0),
                "iperf3",
            );
            add(
                &format!("peers.openvpn.tcp.{way}.gbps"),
                "Gbit/s",
                1.3,
                None,
                "p",
            );
            add(
                &format!("peers.portcullis.tcp.{way}.gbps"),
                "Gbit/s",
                3.8,
                None,
                "p",
            );
        }
    }
    add("e2e.ws8.tcp.up.gbps", "Gbit/s", 3.0, Some(10.0), "x");
    add("e2e.cpu.s_per_gb", "s/GB", 3.0, None, "x");
    for payload in [64, 1300] {
        for kind in ["ndr", "pdr"] {
            add(
                &format!("e2e.udp{payload}.{kind}.kpps"),
                "kpps",
                240.0,
                Some(300.0),
                "x",
            );
        }
    }
    for infix in ["", "load."] {
        for percentile in ["p50", "p99"] {
            add(
                &format!("e2e.rtt.{infix}{percentile}.us"),
                "us",
                140.0,
                Some(7.0),
                "x",
            );
        }
    }
    for (load, method) in [
        ("50kpps", "x"),
        ("300kpps", "x"),
        ("", "all; sent 480 kpps, in"),
    ] {
        let load = if load.is_empty() {
            String::new()
        } else {
            format!(".{load}")
        };
        add(
            &format!("flood.forged{load}.goodput.gbps"),
            "Gbit/s",
            3.0,
            Some(3.5),
            method,
        );
        add(
            &format!("flood.forged{load}.rtt.p99.us"),
            "us",
            900.0,
            Some(700.0),
            method,
        );
    }
    for size in [64, 512, 1400] {
        for engine in ["", ".vaes", ".aws-lc-rs"] {
            add(
                &format!("aead.seal.{size}{engine}.ns"),
                "ns",
                90.0 + f64::from(size) / 8.0,
                None,
                "c",
            );
        }
        add(
            &format!("pipeline.open.{size}.mpps"),
            "Mpps",
            6.0,
            Some(11.0),
            "p",
        );
        add(
            &format!("pipeline.open.{size}.gbps"),
            "Gbit/s",
            20.0,
            Some(31.0),
            "p",
        );
    }
    for sessions in [10, 10_000] {
        add(
            &format!("pipeline.open.64.sessions{sessions}.mpps"),
            "Mpps",
            5.0,
            Some(9.0),
            "p",
        );
    }
    add("pipeline.open.imix.mpps", "Mpps", 4.0, None, "p");
    add("restart.1.ms", "ms", 160.0, None, "x");
    add("restart.64.ms", "ms", 700.0, None, "x");
    for verdict in ["foreign", "bad_tag", "admitted"] {
        add(
            &format!("admission.{verdict}.ns"),
            "ns",
            30.0,
            Some(12.0),
            "x",
        );
    }
    all
}

/// The page's elements: it is written so that a parser of XML reads it, which forgives nothing.
fn parsed(html: &str) -> roxmltree::Document<'_> {
    let body = html.strip_prefix("<!DOCTYPE html>\n").unwrap();
    roxmltree::Document::parse(body).unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn the_page_is_well_formed_and_has_a_plot_for_every_suite() {
    let html = page(&figures());
    let document = parsed(&html);
    let captions: Vec<&str> = document
        .descendants()
        .filter(|node| node.has_tag_name("figcaption"))
        .filter_map(|node| node.text())
        .collect();
    for title in [
        "TCP, Workstation to Gateway",
        "TCP, Gateway to Workstation",
        "UDP of 64 bytes, none lost",
        "UDP of 1300 bytes, at most 1 % lost",
        "CPU of both tunnel programs",
        "Echo round trip, idle, p50",
        "Echo round trip, under TCP, p99",
        "Goodput of a Workstation against the flood's rate",
        "kill -9 of the Gateway to the first reply",
        "Frame rate against frame size, one core",
        "Throughput against frame size, one core",
        "Cost of a frame against the number of sessions",
        "AEAD seal: throughput",
        "AEAD seal: frame rate",
        "Cost of a verdict over an empty program",
    ] {
        assert!(
            captions.contains(&title),
            "{title} is not among {captions:?}"
        );
    }
    let drawings = document
        .descendants()
        .filter(|node| node.attribute("viewBox").is_some());
    assert_eq!(drawings.count(), captions.len());
    assert!(!html.contains("NaN") && !html.contains("inf\""));
}

#[test]
fn the_page_loads_nothing() {
    let html = page(&figures());
    for outside in [
        "http:", "https:", "//", "url(", "@import", "<script", "<link", "src=", "href=",
    ] {
        assert!(!html.contains(outside), "{outside}");
    }
}

#[test]
fn every_figure_is_in_the_table_with_where_it_was_measured() {
    let figures = figures();
    let html = page(&figures);
    let document = parsed(&html);
    let rows: Vec<&str> = document
        .descendants()
        .filter(|node| node.has_tag_name("tr"))
        .filter_map(|row| row.first_element_child()?.text())
        .collect();
    for figure in &figures {
        assert!(rows.contains(&figure.metric.as_str()), "{}", figure.metric);
    }
    assert!(html.contains("2 x CPU &lt;fast&gt; &amp; cheap, Linux 6"));
    assert!(html.contains("cargo xtask bench --quick") && html.contains("2026-01-01T00:00:00Z"));
}

#[test]
fn bound_and_peers_are_drawn_with_ours() {
    let html = page(&figures());
    let document = parsed(&html);
    let plot = |title: &str| {
        let caption = document
            .descendants()
            .find(|node| node.text() == Some(title))
            .unwrap();
        let figure = caption.parent().unwrap();
        let classes: Vec<&str> = figure
            .descendants()
            .filter_map(|node| node.attribute("class"))
            .collect();
        let texts: Vec<&str> = figure
            .descendants()
            .filter_map(|node| node.text())
            .collect();
        (classes, texts)
    };
    let (classes, texts) = plot("TCP, Workstation to Gateway");
    assert!(
        classes.contains(&"limit") && texts.contains(&"openvpn"),
        "{texts:?}"
    );
    assert!(texts.contains(&"8 Workstations, sum"));
    let (classes, texts) = plot("Goodput of a Workstation against the flood's rate");
    assert!(
        classes.contains(&"curve bound") && texts.contains(&"forged"),
        "{texts:?}"
    );
    let (classes, texts) = plot("Frame rate against frame size, one core");
    assert!(
        classes.contains(&"curve bound") && texts.contains(&"open"),
        "{texts:?}"
    );
}

#[test]
fn only_suites_that_ran_have_plots_and_a_page_of_nothing_is_a_page() {
    let all = figures();
    let some: Vec<Figure> = all
        .iter()
        .filter(|figure| figure.suite() == "aead")
        .cloned()
        .collect();
    let html = page(&some);
    assert_eq!(
        parsed(&html)
            .descendants()
            .filter(|node| node.has_tag_name("figcaption"))
            .count(),
        2
    );
    parsed(&page(&[]));
    // A peer that could not be had.
    let mut none = all[2].clone();
    (none.n, none.value) = (0, 0.0);
    assert!(!page(&[none]).contains("<figcaption>"));
}

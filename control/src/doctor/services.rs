//! Whether something listens where Workstations are sent.

use super::facts::{Facts, Listener};
use super::setup::Service;
use super::{Finding, Setup};

const SUBJECT: &str = "services";

pub(super) fn check(setup: &Setup, facts: &Facts) -> Vec<Finding> {
    let Some(listeners) = &facts.listeners else {
        return Vec::new();
    };
    let one = |service: &Service| {
        let name = format!(
            "{}/{}",
            if service.tcp { "tcp" } else { "udp" },
            service.port
        );
        let hears = |listener: &&Listener| {
            listener.tcp == service.tcp
                && listener.port == service.port
                && (listener.address.is_unspecified()
                    || service.addresses.contains(&listener.address))
        };
        let Some(address) = service.addresses.first() else {
            return Finding::ok(
                SUBJECT,
                "listener",
                format!("{name}: the Gateway has no address"),
            );
        };
        match listeners.iter().find(hears) {
            Some(listener) => Finding::ok(
                SUBJECT,
                "listener",
                format!("something listens on {} for {name}", listener.address),
            ),
            None => Finding::warn(
                SUBJECT,
                "listener",
                format!(
                    "{} may reach {name}, and nothing listens there on {address}",
                    service.workstation
                ),
                remedy(service, &address.to_string()),
            ),
        }
    };
    setup.services.iter().map(one).collect()
}

fn remedy(service: &Service, address: &str) -> String {
    let line = match (service.tcp, service.port) {
        (true, 9050) => "SocksPort",
        (true, 9040) => "TransPort",
        (false, 5353 | 53) => "DNSPort",
        _ => {
            return format!(
                "start the service, or take the rule away: portcullis workstation allow {} -{}/{}",
                service.workstation,
                if service.tcp { "tcp" } else { "udp" },
                service.port
            );
        }
    };
    format!(
        "echo '{line} {address}:{}' >> /etc/tor/torrc && systemctl restart tor",
        service.port
    )
}

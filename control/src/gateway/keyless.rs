//! The ports for Workstations without keys.

use super::*;
use crate::keyless;

/// The configured ones, each of which could be raised.
pub fn ports(config: &config::Gateway, links: &Links) -> Result<Vec<keyless::Port>, Problem> {
    let ports: Vec<_> = config
        .keyless
        .iter()
        .map(|port| keyless::Port::new(port.clone(), &config.pin_directory))
        .collect();
    for port in &ports {
        port.check(links)?;
    }
    Ok(ports)
}

impl Daemon {
    /// Raises all of them, as a daemon does when it starts.
    pub(super) fn raise_keyless(&mut self) -> Result<(), Problem> {
        let links = &self.links;
        self.keyless
            .iter_mut()
            .try_for_each(|port| port.raise(links))
    }

    pub(super) fn keyless_event(&mut self, event: &LinkEvent) {
        for port in &mut self.keyless {
            port.notice(event, &self.links);
        }
    }

    /// Looks after those that are up, and for those that are not.
    pub(super) fn watch_keyless(&mut self) {
        for port in &mut self.keyless {
            port.watch(&self.links);
        }
    }

    /// Applies what differs in `fresh` where only the pins, rates and addresses of ports do that are
    /// there already. False, and nothing has changed, where more does.
    pub(super) fn reload_keyless(&mut self, fresh: &config::Gateway) -> Result<bool, Problem> {
        let mut same = self.config.clone();
        same.keyless.clone_from(&fresh.keyless);
        let key = |port: &config::KeylessPort| (port.interface.clone(), port.admission(), port.xdp);
        let ours = self.config.keyless.iter().map(key);
        if same != *fresh || !ours.eq(fresh.keyless.iter().map(key)) {
            return Ok(false);
        }
        for (at, port) in self.keyless.iter_mut().enumerate() {
            port.change(&fresh.keyless[at], &self.links)?;
            // One that fails leaves those before it as they are now.
            self.config.keyless[at].clone_from(&fresh.keyless[at]);
        }
        Ok(true)
    }
}

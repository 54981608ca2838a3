//! What an agent is asked by its control socket.

use super::{Agent, GATEWAY, Reach};
use crate::api::{AgentControl, AgentStatus};
use crate::asker::Asker;
use crate::explain::{self, Explain, Explained, Gate};
use crate::problem::Problem;
use crate::watch::{self, Stream, Watch};
use crossbeam::channel::Sender;
use std::collections::HashMap;
use std::sync::Arc;
use wire::Role;

/// What it is asked.
pub(super) enum Request {
    Status(Sender<AgentStatus>),
    Down(Sender<Result<(), Problem>>),
    Explain(Explain, Sender<Result<Vec<Explained>, Problem>>),
    Watch(Watch, Sender<Result<Stream, Problem>>),
}

impl Agent {
    /// What the port would do with frames, by its tables as they are now.
    pub(super) fn explain(&self, request: &Explain) -> Result<Vec<Explained>, Problem> {
        let Reach::Cable(own) = &self.reach else {
            return Err(explain::over_networks());
        };
        let interface = &own.plan.interface;
        let port = explain::Port {
            interface: interface.clone(),
            mac: self.links.find(interface).ok().and_then(|link| link.mac),
            gate: Gate::Tunnel {
                role: Role::Workstation,
                encapsulation: own.plan.encapsulation.admission(),
                tables: own.up.as_ref().map(|up| Arc::clone(&up.tables)),
            },
        };
        explain::answer(&[port], request, |_| Some(self.identity.name.to_string()))
    }

    /// Begins to show somebody what is dropped.
    pub(super) fn watch(&self, request: &Watch) -> Result<Stream, Problem> {
        self.show_port();
        let names = HashMap::from([(GATEWAY, self.identity.name.to_string())]);
        self.hub.watch(request, names)
    }

    /// Tells those who watch of a port that came or went.
    pub(super) fn show_port(&self) {
        let Reach::Cable(own) = &self.reach else {
            return;
        };
        let port = own.up.as_ref().map(|up| watch::Port {
            interface: own.plan.interface.clone(),
            samples: up.wall.samples(),
            pins: None,
        });
        if !self.hub.knows(port.iter().map(|port| &port.samples)) {
            self.hub.set_ports(port.into_iter().collect());
        }
    }
}

impl AgentControl for Asker<Request> {
    fn status(&self) -> Result<AgentStatus, Problem> {
        self.ask(Request::Status)
    }

    fn down(&self) -> Result<(), Problem> {
        self.ask(Request::Down)?
    }

    fn explain(&self, request: Explain) -> Result<Vec<Explained>, Problem> {
        self.ask(|answer| Request::Explain(request, answer))?
    }

    fn watch(&self, request: Watch) -> Result<Stream, Problem> {
        self.ask(|answer| Request::Watch(request, answer))?
    }
}

//! The control API: HTTP and JSON over a Unix socket, of mode 0660 in the runtime directory.
//!
//! | request | answer |
//! |---|---|
//! | `GET /v1/openapi.json` | the OpenAPI document of all this |
//! | `GET /v1/status` | [`Status`]; at an agent [`AgentStatus`] |
//! | `GET /v1/events` | what happens from then on, an [`Event`](crate::events::Event) a line |
//! | `GET /v1/workstations` | a list of [`WorkstationStatus`] |
//! | `POST /v1/workstations` with [`AddWorkstation`] | 201 and [`Added`], the enrolment file in it |
//! | `POST /v1/workstations/NAME/allow` with [`Allow`] | [`Allowed`], when the rules are in force |
//! | `DELETE /v1/workstations/NAME` | [`Removed`], when its sessions are gone |
//! | `PATCH /v1/workstations/NAME` with [`SetWorkstation`] | [`SetWorkstation`] as it is now |
//! | `POST /v1/workstations/NAME/disable`, `/enable` | [`Switched`], when its sessions are gone |
//! | `POST /v1/workstations/NAME/rotation` with [`RotateWorkstation`] | [`Rotated`], the enrolment file in it |
//! | `DELETE /v1/workstations/NAME/rotation` | [`Done`]: it keeps the keys it has |
//! | `POST /v1/key/rotate` | [`KeyRotated`] |
//! | `POST /v1/key/retire` with [`RetireKey`] | [`KeyRetired`] |
//! | `POST /v1/reload` | [`Reloaded`] |
//! | `POST /v1/explain` with [`Explain`](crate::explain::Explain) | a list of [`Explained`](crate::explain::Explained), one for each frame |
//! | `POST /v1/watch` with [`Watch`](crate::watch::Watch) | a [`Line`](crate::watch::Line) for each sample of a dropped frame, as they come |
//! | `POST /v1/down` (agent) | [`Done`] |
//!
//! GET reads and everything else changes; who may do which is in [`peer`]. Changes are written to the
//! [audit log](crate::audit). What clients can take up is bounded in `limits`.
//!
//! Errors are [`ErrorBody`] with a fitting status code. [`socket`] holds the socket, [`server`]
//! answers on it, [`client`] asks. What is said is in `status` and `message`; `change` does the
//! registry's part of a change, and `control` is what the server asks of a daemon.

mod change;
pub mod client;
mod control;
mod diagnosis;
mod document;
mod limits;
mod message;
pub mod peer;
mod routes;
mod schema;
pub mod server;
pub mod socket;
mod status;

pub use change::*;
pub use control::*;
pub use message::*;
pub use status::*;

//! Who is at the other end of the control socket, and what that one may do.
//!
//! The kernel says who connected: user, group, process, and the supplementary groups the process had
//! then. (Those of the process, not of the user in the group file: the daemon cannot read that file, and
//! a process that gave its groups up is not given them back.)
//!
//! | who | may read | may change |
//! |---|---|---|
//! | root, and the account the daemon runs as | yes | yes |
//! | members of `admin_group`, where one is configured | yes | yes |
//! | members of the socket's group (`portcullis`) | yes | no |

use crate::problem::{Kind, Problem};
use nix::unistd::{Gid, Group, geteuid};
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;
use tokio::net::UnixStream;

/// The end of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Peer {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) pid: Option<i32>,
    /// Supplementary groups.
    pub(crate) groups: Vec<u32>,
}

impl Peer {
    /// Who made a connection.
    ///
    /// # Errors
    /// The kernel does not say.
    pub(crate) fn of(stream: &UnixStream) -> io::Result<Self> {
        let credentials = stream.peer_cred()?;
        Ok(Self {
            uid: credentials.uid(),
            gid: credentials.gid(),
            pid: credentials.pid(),
            // One whose groups are not known is in none.
            groups: supplementary_groups(stream).unwrap_or_default(),
        })
    }

    fn is_in(&self, group: u32) -> bool {
        self.gid == group || self.groups.contains(&group)
    }
}

/// SO_PEERGROUPS.
fn supplementary_groups(stream: &UnixStream) -> io::Result<Vec<u32>> {
    /// NGROUPS_MAX.
    const MOST: usize = 65_536;
    let mut groups = vec![0u32; 64];
    loop {
        let mut bytes = std::mem::size_of_val(groups.as_slice()) as libc::socklen_t;
        // SAFETY: the kernel writes at most `bytes` bytes into `groups`, which has as many, and says in
        // `bytes` how many it has written or needs; both live to the end of the call.
        let answer = unsafe {
            libc::getsockopt(
                stream.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_PEERGROUPS,
                groups.as_mut_ptr().cast(),
                &raw mut bytes,
            )
        };
        let needed = bytes as usize / size_of::<u32>();
        if answer == 0 {
            groups.truncate(needed);
            return Ok(groups);
        }
        let error = io::Error::last_os_error();
        if error.raw_os_error() != Some(libc::ERANGE) || needed <= groups.len() || needed > MOST {
            return Err(error);
        }
        groups.resize(needed, 0);
    }
}

/// What a call needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Right {
    /// It only looks.
    Read,
    /// It changes something.
    Change,
}

/// A group whose members may change things.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdminGroup {
    name: String,
    gid: Gid,
}

impl AdminGroup {
    /// The group of that name or number, where one is configured. Asked before the daemon gives up
    /// the files that say so.
    ///
    /// # Errors
    /// There is no such group.
    pub fn find(name: Option<&str>) -> Result<Option<Self>, Problem> {
        let Some(name) = name else { return Ok(None) };
        let tried = format!("looking for the group {name}, which is to administer");
        if let Ok(number) = name.parse() {
            return Ok(Some(Self {
                name: name.to_owned(),
                gid: Gid::from_raw(number),
            }));
        }
        let found = Group::from_name(name).map_err(|errno| Problem::io(&tried, &errno.into()))?;
        match found {
            Some(group) => Ok(Some(Self {
                name: name.to_owned(),
                gid: group.gid,
            })),
            None => Err(Problem::new(
                Kind::NotFound,
                tried,
                "there is no such group",
                format!("make it: groupadd --system {name}; or take admin_group out"),
            )),
        }
    }
}

/// Who may do what.
#[derive(Debug, Clone)]
pub(crate) struct Rights {
    own: u32,
    /// The socket's group.
    readers: Option<u32>,
    admins: Option<AdminGroup>,
}

impl Rights {
    /// The rights on the socket at `path`, of a daemon that has become whom it runs as.
    pub(crate) fn on(path: &Path, admins: Option<AdminGroup>) -> Self {
        use std::os::unix::fs::MetadataExt;
        Self {
            own: geteuid().as_raw(),
            readers: path.metadata().map(|metadata| metadata.gid()).ok(),
            admins,
        }
    }

    /// Whether one may change things.
    pub(crate) fn may_change(&self, peer: &Peer) -> bool {
        let admin = |group: &AdminGroup| peer.is_in(group.gid.as_raw());
        peer.uid == 0 || peer.uid == self.own || self.admins.as_ref().is_some_and(admin)
    }

    /// Whether one has a right.
    ///
    /// # Errors
    /// It has not: who it is, what is missing, and what to do.
    pub(crate) fn check(&self, peer: &Peer, right: Right) -> Result<(), Problem> {
        let reader = |group: u32| peer.is_in(group);
        if self.may_change(peer) || (right == Right::Read && self.readers.is_some_and(reader)) {
            return Ok(());
        }
        let pid = peer.pid.map(|pid| format!(", process {pid}"));
        let tried = format!("asking as user {}{}", peer.uid, pid.unwrap_or_default());
        let (happened, remedy) = match (right, &self.admins) {
            (Right::Read, _) => (
                "this user has not the right to read, which members of the socket's group have".to_owned(),
                "become a member (usermod --append --groups portcullis USER) and log in again; or run it \
                 as root"
                    .to_owned(),
            ),
            (Right::Change, Some(AdminGroup { name, .. })) => (
                format!("this user may read, and has not the right to change, which root and members of {name} have"),
                format!("run it as root (sudo); or become a member (usermod --append --groups {name} USER) and log in again"),
            ),
            (Right::Change, None) => (
                "this user may read, and has not the right to change, which root has".to_owned(),
                "run it as root (sudo); or name a group whose members may, as admin_group in the \
                 configuration"
                    .to_owned(),
            ),
        };
        Err(Problem::new(Kind::Forbidden, tried, happened, remedy))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(uid: u32, gid: u32, groups: &[u32]) -> Peer {
        Peer {
            uid,
            gid,
            pid: Some(7),
            groups: groups.to_vec(),
        }
    }

    #[test]
    fn reading_and_changing_are_two_rights() {
        let mut rights = Rights {
            own: 500,
            readers: Some(501),
            admins: AdminGroup::find(Some("502")).unwrap(),
        };
        use Right::{Change, Read};
        for (who, reads, changes) in [
            (peer(0, 0, &[]), true, true),
            (peer(500, 500, &[]), true, true),
            (peer(1000, 1000, &[]), false, false),
            (peer(1000, 501, &[]), true, false),
            (peer(1000, 1000, &[4, 501]), true, false),
            (peer(1000, 502, &[]), true, true),
            (peer(1000, 1000, &[501, 502]), true, true),
        ] {
            assert_eq!(rights.check(&who, Read).is_ok(), reads, "{who:?}");
            assert_eq!(rights.check(&who, Change).is_ok(), changes, "{who:?}");
        }
        rights.admins = None;
        let problem = rights.check(&peer(1000, 502, &[501]), Change).unwrap_err();
        let text = problem.report("x");
        for said in [
            "user 1000",
            "process 7",
            "right to change",
            "sudo",
            "admin_group",
        ] {
            assert!(text.contains(said), "{text}");
        }
    }

    #[test]
    fn a_group_that_is_named_must_be_there() {
        assert_eq!(AdminGroup::find(None), Ok(None));
        let problem = AdminGroup::find(Some("no-such-group")).unwrap_err();
        assert!(problem.remedy.contains("groupadd"), "{problem}");
        let root = AdminGroup::find(Some("root")).unwrap().unwrap();
        assert_eq!(root.gid.as_raw(), 0);
    }
}

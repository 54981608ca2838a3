//! Bounds on what clients of the control socket can take up: connections and requests, those who may
//! change things apart from those who may only read, and each user apart from the others. So one that
//! may read cannot lock an administrator out, nor another reader.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Connections served at once of those who may change things, and as many of those who may only read.
pub(crate) const SERVED: usize = 32;
/// Connections of one user served at once.
const SERVED_EACH: usize = 16;
/// Connections of one user that are served or wait to be.
const OPEN_EACH: usize = 64;
/// The same, of all who may only read, and of all who may change things.
const OPEN: usize = 192;
/// How long one waits to be served.
const WAIT: Duration = Duration::from_secs(10);
/// Requests a second of one user, and how many at once: one who may only read, and one who may change
/// things; and of all together who scrape metrics over TCP and are no users.
const RATES: [(f64, f64); 3] = [(20.0, 60.0), (400.0, 800.0), (5.0, 20.0)];
/// The class of the last.
const SCRAPE: usize = 2;
/// Users whose rates are remembered, beyond those that have used theirs up.
const REMEMBERED: usize = 256;

/// The bounds, and what is taken up.
#[derive(Debug)]
pub(crate) struct Limits {
    served: [Arc<Semaphore>; 2],
    users: Mutex<HashMap<(usize, u32), User>>,
    buckets: Mutex<HashMap<(usize, u32), Bucket>>,
}

#[derive(Debug)]
struct User {
    open: usize,
    served: Arc<Semaphore>,
}

#[derive(Debug)]
struct Bucket {
    left: f64,
    at: Instant,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            served: [SERVED, SERVED].map(|served| Arc::new(Semaphore::new(served))),
            users: Mutex::default(),
            buckets: Mutex::default(),
        }
    }
}

/// What is said to one that is over a bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TooMany;

/// A connection that is counted until it is dropped.
#[derive(Debug)]
pub(crate) struct Open {
    limits: Arc<Limits>,
    class: usize,
    uid: u32,
}

/// A connection that is served.
#[derive(Debug)]
pub(crate) struct Place {
    _class: OwnedSemaphorePermit,
    _user: OwnedSemaphorePermit,
    _open: Open,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Counts only: what a panic left is as good.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Limits {
    /// Counts a connection.
    ///
    /// # Errors
    /// There are too many of this user, or of this class.
    pub(crate) fn open(self: &Arc<Self>, uid: u32, changes: bool) -> Result<Open, TooMany> {
        let class = usize::from(changes);
        let mut users = lock(&self.users);
        let all: usize = users
            .iter()
            .filter(|((of, _), _)| *of == class)
            .map(|(_, user)| user.open)
            .sum();
        let user = users.entry((class, uid)).or_insert_with(|| User {
            open: 0,
            served: Arc::new(Semaphore::new(SERVED_EACH)),
        });
        if user.open >= OPEN_EACH || all >= OPEN {
            if user.open == 0 {
                users.remove(&(class, uid));
            }
            return Err(TooMany);
        }
        user.open += 1;
        drop(users);
        Ok(Open {
            limits: Arc::clone(self),
            class,
            uid,
        })
    }

    /// Counts a request.
    ///
    /// # Errors
    /// There are too many of this user.
    pub(crate) fn request(&self, uid: u32, changes: bool, now: Instant) -> Result<(), TooMany> {
        self.take(usize::from(changes), uid, now)
    }

    /// Counts a scrape over TCP.
    ///
    /// # Errors
    /// There are too many.
    pub(crate) fn scrape(&self, now: Instant) -> Result<(), TooMany> {
        self.take(SCRAPE, 0, now)
    }

    fn take(&self, class: usize, uid: u32, now: Instant) -> Result<(), TooMany> {
        let (rate, most) = RATES[class];
        let mut buckets = lock(&self.buckets);
        let left = |bucket: &Bucket, rate: f64, most: f64| {
            let passed = now.saturating_duration_since(bucket.at).as_secs_f64();
            (bucket.left + passed * rate).min(most)
        };
        if buckets.len() >= REMEMBERED {
            // A full one is as good as none.
            buckets.retain(|(class, _), bucket| {
                let (rate, most) = RATES[*class];
                left(bucket, rate, most) < most
            });
        }
        let bucket = buckets.entry((class, uid)).or_insert(Bucket {
            left: most,
            at: now,
        });
        bucket.left = left(bucket, rate, most);
        bucket.at = now;
        if bucket.left < 1.0 {
            return Err(TooMany);
        }
        bucket.left -= 1.0;
        Ok(())
    }

    /// Waits until no connection is served any more.
    pub(crate) async fn idle(&self) {
        for served in &self.served {
            let _ = served.acquire_many(SERVED as u32).await;
        }
    }
}

impl Open {
    /// Waits until the connection can be served. None when that takes too long.
    pub(crate) async fn served(self) -> Option<Place> {
        let of_user = lock(&self.limits.users)
            .get(&(self.class, self.uid))
            .map(|user| Arc::clone(&user.served))?;
        let of_class = Arc::clone(&self.limits.served[self.class]);
        tokio::time::timeout(WAIT, async {
            // The user's first: who waits for one of its own keeps nobody else's place.
            let user = of_user.acquire_owned().await.ok()?;
            let class = of_class.acquire_owned().await.ok()?;
            Some(Place {
                _class: class,
                _user: user,
                _open: self,
            })
        })
        .await
        .ok()
        .flatten()
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let mut users = lock(&self.limits.users);
        if let Some(user) = users.get_mut(&(self.class, self.uid)) {
            user.open -= 1;
            if user.open == 0 {
                users.remove(&(self.class, self.uid));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_has_a_rate_of_its_own_and_gets_it_back() {
        let limits = Limits::default();
        let start = Instant::now();
        let take = |uid, changes, at| {
            (0..10_000)
                .take_while(|_| limits.request(uid, changes, at).is_ok())
                .count()
        };
        assert_eq!(take(1000, false, start), 60);
        assert_eq!(take(1001, false, start), 60);
        assert_eq!(take(0, true, start), 800);
        assert_eq!(take(1000, false, start + Duration::from_secs(2)), 40);
        assert_eq!(take(1000, false, start + Duration::from_secs(60)), 60);
        for uid in 2000..12_000 {
            let later = start + Duration::from_secs(u64::from(uid));
            limits.request(uid, false, later).unwrap();
        }
        assert!(lock(&limits.buckets).len() <= REMEMBERED);
    }

    #[tokio::test(flavor = "current_thread")]
    async fn connections_of_readers_leave_room_for_others() {
        let limits = Arc::new(Limits::default());
        let mut open = Vec::new();
        for uid in 1000..1100 {
            while let Ok(one) = limits.open(uid, false) {
                open.push(one);
            }
        }
        assert_eq!(open.len(), OPEN);
        let mut served = Vec::new();
        for one in open.drain(..SERVED_EACH).chain([]) {
            served.push(one.served().await.unwrap());
        }
        let waits = |one: Open| tokio::time::timeout(Duration::from_millis(20), one.served());
        // The same user's next waits, another's does not, and no administrator's.
        assert!(waits(open.remove(0)).await.is_err());
        let other = open.iter().position(|one| one.uid != 1000).unwrap();
        assert!(waits(open.remove(other)).await.is_ok());
        assert!(waits(limits.open(0, true).unwrap()).await.is_ok());
        drop(served);
        drop(open);
        assert!(lock(&limits.users).is_empty());
    }
}

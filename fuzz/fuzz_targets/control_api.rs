//! The control API: arbitrary bytes on a connection to a Gateway's socket, through the real server.
//! Each answer is HTTP with JSON in it, none says that answering failed, and only a sound request
//! to add reaches the registry.
#![no_main]

use control::api::server::{Routes, converse_for_tests, routes_for_tests};
use control::api::{
    AddWorkstation, Added, Allow, Allowed, Control, KeyRetired, KeyRotated, Reloaded, Removed,
    RetireKey, RotateWorkstation, Rotated, SetWorkstation, Status, Switched,
};
use control::problem::{Kind, Problem};
use libfuzzer_sys::fuzz_target;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::cell::RefCell;
use std::fmt::Debug;
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::runtime::{Builder, Runtime};

struct Fake;

/// What was read is the same when it was written and read again.
fn survives<T: Serialize + DeserializeOwned + PartialEq + Debug>(request: T) -> T {
    let text = serde_json::to_string(&request).expect("a request as JSON");
    assert_eq!(
        serde_json::from_str::<T>(&text).ok().as_ref(),
        Some(&request)
    );
    request
}

fn none(tried: &str, name: &str) -> Problem {
    Problem::new(Kind::NotFound, tried, name, "none")
}

impl Control for Fake {
    fn status(&self) -> Result<Status, Problem> {
        Ok(Status::default())
    }

    fn add(&self, request: AddWorkstation) -> Result<Added, Problem> {
        let new = survives(request).into_new()?;
        Ok(Added {
            name: new.name.to_string(),
            key_id: "00000001".into(),
            addresses: new.addresses,
            enrolment: String::new(),
        })
    }

    fn set(&self, _: &str, request: SetWorkstation) -> Result<SetWorkstation, Problem> {
        Ok(survives(request))
    }

    fn switch(&self, name: &str, enabled: bool) -> Result<Switched, Problem> {
        let name = name.to_owned();
        Ok(Switched { name, enabled })
    }

    fn rotate(&self, name: &str, request: RotateWorkstation) -> Result<Rotated, Problem> {
        survives(request);
        Err(none("rotating", name))
    }

    fn cancel_rotation(&self, _: &str) -> Result<(), Problem> {
        Ok(())
    }

    fn rotate_key(&self) -> Result<KeyRotated, Problem> {
        Err(none("rotating", "the key"))
    }

    fn retire_key(&self, request: RetireKey) -> Result<KeyRetired, Problem> {
        survives(request);
        Err(none("retiring", "the key"))
    }

    fn allow(&self, name: &str, request: Allow) -> Result<Allowed, Problem> {
        survives(request);
        Err(none("allowing", name))
    }

    fn remove(&self, name: &str) -> Result<Removed, Problem> {
        Err(none("removing", name))
    }

    fn reload(&self) -> Result<Reloaded, Problem> {
        Ok(Reloaded::default())
    }
}

thread_local! {
    // Its clock leaps to the next deadline when nothing else is left to do: a client that only
    // waits, or takes nothing of a stream of events, meets the server's bounds at once.
    static RUNTIME: RefCell<Runtime> = RefCell::new(
        Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .max_blocking_threads(1)
            .build()
            .expect("a runtime")
    );
    // Made once: every run would take that much longer.
    static ROUTES: Routes = routes_for_tests(Arc::new(Fake));
}

fuzz_target!(|bytes: &[u8]| {
    let answer = RUNTIME.with_borrow(|runtime| {
        runtime.block_on(async {
            let (mut client, server) = tokio::io::duplex(1 << 20);
            client.write_all(bytes).await.expect("room for the request");
            client.shutdown().await.expect("half of the stream closed");
            converse_for_tests(server, ROUTES.with(Routes::clone)).await;
            let mut answer = Vec::new();
            client.read_to_end(&mut answer).await.expect("the answer");
            answer
        })
    });
    if answer.is_empty() {
        return;
    }
    assert!(
        answer.starts_with(b"HTTP/1."),
        "{:?}",
        answer.escape_ascii().to_string()
    );
    let head = answer
        .windows(4)
        .position(|bytes| bytes == b"\r\n\r\n")
        .expect("a head");
    assert_ne!(
        answer[9..12],
        *b"500",
        "{:?}",
        answer.escape_ascii().to_string()
    );
    let (head, body) = (&answer[..head], &answer[head + 4..]);
    let json = head
        .windows(16)
        .any(|bytes| bytes.eq_ignore_ascii_case(b"application/json"));
    // An answer to HEAD has no body, and what follows is the next answer.
    let head_only = bytes.trim_ascii_start().starts_with(b"HEAD");
    if json && !head_only && !body.is_empty() {
        let mut values =
            serde_json::Deserializer::from_slice(body).into_iter::<serde_json::Value>();
        assert!(
            values.next().is_some_and(|value| value.is_ok()),
            "{:?}",
            body.escape_ascii().to_string()
        );
    }
});

//! The outbox before a kernel that answers as it likes.

use std::collections::VecDeque;

use proptest::prelude::*;

use super::*;

fn outbox(lengths: &[u32]) -> Outbox {
    let mut outbox = Outbox::new(lengths.len(), true);
    for (slot, len) in lengths.iter().enumerate() {
        outbox.push(Place::of_length(slot as u32, *len));
    }
    outbox
}

fn shapes(lengths: &[u32]) -> Vec<(usize, u16)> {
    let outbox = outbox(lengths);
    let messages = outbox.messages(&outbox.pending);
    messages.iter().map(|m| (m.frames, m.segment)).collect()
}

/// Slots of frames that went, with the length of their segments; slots of those that are done with; and
/// the outcome.
type Flushed = (Vec<(u32, u16)>, Vec<u32>, Result<usize, i32>);

/// Flushes once before a kernel that gives these answers and then takes everything.
fn flush(outbox: &mut Outbox, answers: &[Result<usize, i32>]) -> Flushed {
    let mut answers = VecDeque::from(answers.to_vec());
    let mut went = Vec::new();
    let (done, outcome) = outbox.flush(|frames, messages| {
        let answer = answers.pop_front().unwrap_or(Ok(messages.len()));
        let mut frames = frames.iter();
        for message in &messages[..answer.unwrap_or(0)] {
            let frames = frames.by_ref().take(message.frames);
            went.extend(frames.map(|place| (place.slot(), message.segment)));
        }
        answer
    });
    let done = done.map(|place| place.slot()).collect();
    (went, done, outcome)
}

#[test]
fn frames_of_one_length_make_a_message_and_a_shorter_one_ends_it() {
    assert_eq!(shapes(&[100]), [(1, 0)]);
    assert_eq!(shapes(&[100, 100, 60, 60]), [(3, 100), (1, 0)]);
    assert_eq!(shapes(&[60, 100, 100]), [(1, 0), (2, 100)]);
    assert_eq!(shapes(&[100, 0, 0, 100]), [(1, 0), (1, 0), (1, 0), (1, 0)]);
    assert_eq!(shapes(&[10; 70]), [(64, 10), (6, 10)]);
    // 45 x 1424 is 64080; with another one, 65504, and headers it would be more than 64 KiB.
    assert_eq!(shapes(&[1424; 50]), [(45, 1424), (5, 1424)]);
    assert_eq!(shapes(&[9216; 10]), [(7, 9216), (3, 9216)]);
    assert_eq!(shapes(&[24; 300]), [(64, 24); 4]);
    assert_eq!(shapes(&[1, 2].repeat(12)).len(), MOST_MESSAGES.min(13));
}

#[test]
fn a_refusal_that_is_not_repeated_costs_no_frame() {
    for errno in [
        libc::ECONNREFUSED,
        libc::EHOSTUNREACH,
        libc::EMSGSIZE,
        libc::EPROTO,
    ] {
        let mut outbox = outbox(&[50, 50, 90]);
        let (went, done, outcome) = flush(&mut outbox, &[Err(errno)]);
        assert_eq!(went, [(0, 50), (1, 50), (2, 0)]);
        assert_eq!((done, outcome), (vec![0, 1, 2], Ok(0)));
        assert_eq!(
            (outbox.refusals, outbox.dropped, outbox.too_large),
            (1, 0, 0)
        );
    }
}

#[test]
fn a_refusal_that_is_repeated_costs_the_message_and_no_other() {
    for errno in [libc::EPERM, libc::EACCES, libc::ENETUNREACH, libc::EIO] {
        let mut outbox = outbox(&[50, 90, 90]);
        let (went, done, outcome) = flush(&mut outbox, &[Err(errno), Err(errno)]);
        assert_eq!(went, [(1, 90), (2, 90)]);
        assert_eq!((done, outcome), (vec![0, 1, 2], Ok(0)));
        assert_eq!((outbox.refusals, outbox.dropped), (2, 1));
    }
}

#[test]
fn what_is_too_large_is_dropped_and_what_is_smaller_behind_it_is_not() {
    let mut outbox = outbox(&[1400, 1400, 1400, 80, 1400]);
    let too_large = Err(libc::EMSGSIZE);
    let (went, done, outcome) = flush(&mut outbox, &[too_large; 2]);
    assert_eq!(went, [(3, 0), (4, 0)]);
    assert_eq!((done, outcome), (vec![0, 1, 2, 3, 4], Ok(0)));
    assert_eq!((outbox.too_large, outbox.dropped), (3, 0));
    assert!(outbox.sends_trains());
}

#[test]
fn where_trains_are_refused_frames_go_one_by_one_for_good() {
    for errno in [libc::EIO, libc::EINVAL] {
        let mut outbox = outbox(&[500; 5]);
        let (went, done, outcome) = flush(&mut outbox, &[Err(errno)]);
        assert_eq!(went, [(0, 0), (1, 0), (2, 0), (3, 0), (4, 0)]);
        assert_eq!((done.len(), outcome), (5, Ok(0)));
        assert!(!outbox.sends_trains());
        assert_eq!((outbox.dropped, outbox.refusals), (0, 0));
    }
}

#[test]
fn an_old_kernel_that_calls_large_trains_invalid_keeps_getting_small_ones() {
    let mut outbox = outbox(&[1400, 1400, 80, 80]);
    let answers = [Err(libc::EINVAL), Err(libc::EMSGSIZE), Err(libc::EMSGSIZE)];
    let (went, _, outcome) = flush(&mut outbox, &answers);
    assert_eq!(went, [(2, 80), (3, 80)]);
    assert_eq!(outcome, Ok(0));
    assert_eq!(outbox.too_large, 2);
    assert!(outbox.sends_trains());
}

#[test]
fn without_room_frames_stay_and_are_sent_later() {
    for errno in [libc::EAGAIN, libc::ENOBUFS] {
        let mut outbox = outbox(&[70, 80, 90]);
        let (went, done, outcome) = flush(&mut outbox, &[Ok(1), Err(errno)]);
        assert_eq!((went, done, outcome), (vec![(0, 0)], vec![0], Ok(2)));
        let (went, _, outcome) = flush(&mut outbox, &[]);
        assert_eq!((went, outcome), (vec![(1, 0), (2, 0)], Ok(0)));
    }
}

#[test]
fn a_link_that_is_down_keeps_its_frames() {
    for errno in [libc::ENETDOWN, libc::ENODEV] {
        let mut outbox = outbox(&[70, 80]);
        let (_, done, outcome) = flush(&mut outbox, &[Err(errno)]);
        assert_eq!((done.len(), outcome), (0, Err(errno)));
        assert_eq!(flush(&mut outbox, &[]).1, [0, 1]);
    }
}

#[test]
fn when_single_frames_are_invalid_too_trains_are_not_at_fault() {
    // As older kernels say where the own address is gone.
    let mut outbox = outbox(&[70, 70, 70]);
    let (went, done, outcome) = flush(&mut outbox, &[Err(libc::EINVAL); 3]);
    assert_eq!(went, [(1, 70), (2, 70)]);
    assert_eq!((done.len(), outcome, outbox.dropped), (3, Ok(0), 1));
    assert!(outbox.sends_trains());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_frame_is_done_with_once_in_order_whatever_the_kernel_answers(
        flushes in prop::collection::vec(
            (prop::collection::vec(0u32..6, 0..40),
             prop::collection::vec(prop_oneof![
                4 => (0usize..4).prop_map(Ok),
                4 => prop::sample::select(vec![
                    libc::EAGAIN, libc::ENOBUFS, libc::ECONNREFUSED, libc::EMSGSIZE, libc::EPERM,
                    libc::EIO, libc::EINVAL, libc::ENETDOWN, libc::ENETUNREACH, libc::EADDRNOTAVAIL,
                ]).prop_map(Err),
             ], 0..8)), 1..20)
    ) {
        let mut outbox = Outbox::new(0, true);
        let (mut pushed, mut done, mut sent) = (0, Vec::new(), 0);
        for (lengths, answers) in flushes {
            for len in lengths {
                outbox.push(Place::of_length(pushed, len * 250));
                pushed += 1;
            }
            let mut answers = VecDeque::from(answers);
            let mut calls = 0;
            let before = done.len();
            let (gone, outcome) = outbox.flush(|frames, messages| {
                calls += 1;
                assert!(messages.iter().map(|m| m.frames).sum::<usize>() <= frames.len());
                let answer = answers.pop_front().unwrap_or(Ok(messages.len()));
                let answer = answer.map(|count| count.min(messages.len()));
                sent += messages[..answer.unwrap_or(0)].iter().map(|m| m.frames).sum::<usize>();
                answer
            });
            done.extend(gone.map(|place| place.slot()));
            prop_assert!(calls <= 3 * (done.len() - before) + 8, "{} calls", calls);
            let waiting = outcome.unwrap_or(outbox.pending.len());
            prop_assert_eq!(done.len() + waiting, pushed as usize);
        }
        let (gone, outcome) = outbox.flush(|_, messages| {
            sent += messages.iter().map(|m| m.frames).sum::<usize>();
            Ok(messages.len())
        });
        done.extend(gone.map(|place| place.slot()));
        prop_assert_eq!(outcome, Ok(0));
        prop_assert_eq!(&done, &(0..pushed).collect::<Vec<_>>());
        let lost = outbox.dropped + outbox.too_large;
        prop_assert_eq!(sent as u64 + lost, u64::from(pushed), "each was sent or counted");
    }
}

//! Header and handshake message decoders: no input panics, and what decodes encodes to the same
//! bytes.
#![no_main]

use control::handshake::message::{self, Answer, Challenge, Inner, Offer};
use libfuzzer_sys::fuzz_target;
use wire::Header;
use wire::header::kind;
use wire::limits::{COUNTER_LIMIT, HEADER_LEN, MAX_PAYLOAD, TAG_LEN};

fuzz_target!(|bytes: &[u8]| {
    match Header::decode(bytes) {
        Ok(header) => {
            assert_eq!(header.encode(), bytes[..HEADER_LEN]);
            assert!(header.frame_len() <= HEADER_LEN + MAX_PAYLOAD + TAG_LEN);
            if header.kind == kind::DATA {
                assert!(header.counter < COUNTER_LIMIT && header.index != 0);
            } else {
                assert_eq!(header.length % 8, 0);
            }
            let parsed = message::parse(bytes);
            assert_eq!(parsed.is_some(), bytes.len() >= header.frame_len());
            if let Some((again, payload)) = parsed {
                assert_eq!(again, header);
                assert_eq!(payload.len(), header.frame_len() - HEADER_LEN);
            }
        }
        Err(_) => assert!(message::parse(bytes).is_none()),
    }
    if let Some(inner) = Inner::decode(bytes) {
        let again = inner.encode();
        assert_eq!(again, bytes[..again.len()]);
    }
    if let Some(offer) = Offer::decode(bytes) {
        assert_eq!(offer.encode(), bytes);
    }
    if let Some(answer) = Answer::decode(bytes) {
        assert_eq!(answer.encode(), bytes);
    }
    if let Some(challenge) = bytes.try_into().ok().and_then(Challenge::decode) {
        assert_eq!(challenge.encode(), bytes);
    }
    if let Some(boot_id) = message::decode_reset(bytes) {
        assert_eq!(message::encode_reset(&boot_id), bytes);
    }
});

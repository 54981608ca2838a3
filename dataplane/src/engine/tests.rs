//! What holds for every engine.

use super::*;
use proptest::prelude::*;

const ENGINES: [Engine; 3] = [Engine::Vaes, Engine::AwsLcRs, Engine::AesGcm];

proptest! {
    #[test]
    fn every_engine_seals_to_the_same_bytes_and_opens_what_the_others_sealed(
        key: [u8; 32], nonce: [u8; 12],
        associated in prop::collection::vec(any::<u8>(), 0..64),
        payload in prop::collection::vec(any::<u8>(), 0..2000),
    ) {
        for cipher in Cipher::ALL {
            let mut results = Vec::new();
            for engine in ENGINES {
                let mut sealed = payload.clone();
                let mut tag = [0; TAG_LEN];
                engine.key(cipher, &key).unwrap().seal(&nonce, &associated, &mut sealed, &mut tag).unwrap();
                sealed.extend_from_slice(&tag);
                results.push(sealed);
            }
            prop_assert_eq!(&results[0], &results[1]);
            for engine in ENGINES {
                let mut opened = results[0].clone();
                engine.key(cipher, &key).unwrap().open(&nonce, &associated, &mut opened).unwrap();
                prop_assert_eq!(&opened[..payload.len()], &payload[..]);
            }
        }
    }

    #[test]
    fn no_engine_opens_a_frame_with_any_bit_flipped(
        key: [u8; 32], nonce: [u8; 12], payload in prop::collection::vec(any::<u8>(), 0..300),
        at: prop::sample::Index, bit in 0u8..8, in_associated: bool,
    ) {
        for (cipher, engine) in Cipher::ALL.into_iter().flat_map(|c| ENGINES.map(|e| (c, e))) {
            let aead = engine.key(cipher, &key).unwrap();
            let mut associated = [7u8; 24];
            let mut sealed = payload.clone();
            let mut tag = [0; TAG_LEN];
            aead.seal(&nonce, &associated, &mut sealed, &mut tag).unwrap();
            sealed.extend_from_slice(&tag);
            let target = if in_associated { &mut associated[..] } else { &mut sealed[..] };
            let at = at.index(target.len());
            target[at] ^= 1 << bit;
            prop_assert_eq!(aead.open(&nonce, &associated, &mut sealed), Err(Forged));
        }
    }
}

/// Test case 14 of the GCM specification (McGrew and Viega): zero key, zero nonce, one zero block.
#[test]
fn every_engine_gives_the_published_gcm_vector() {
    for engine in ENGINES {
        let aead = engine.key(Cipher::Aes256Gcm, &[0; 32]).unwrap();
        let (mut block, mut tag) = ([0u8; 16], [0; TAG_LEN]);
        aead.seal(&[0; 12], &[], &mut block, &mut tag).unwrap();
        assert_eq!(
            u128::from_be_bytes(block),
            0xcea7403d4d606b6e074ec5d3baf39d18
        );
        assert_eq!(u128::from_be_bytes(tag), 0xd0d1c8a799996bf0265b98b5d48ab919);
    }
}

#[test]
fn a_frame_too_short_for_a_tag_is_forged_and_does_not_panic() {
    for (cipher, engine) in Cipher::ALL
        .into_iter()
        .flat_map(|c| ENGINES.map(|e| (c, e)))
    {
        let aead = engine.key(cipher, &[1; 32]).unwrap();
        assert_eq!(aead.open(&[0; 12], &[], &mut [0; 15]), Err(Forged));
    }
}

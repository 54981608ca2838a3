//! What holds for every engine.

use super::*;
use proptest::prelude::*;

/// The engines that this CPU has.
fn engines() -> Vec<Engine> {
    Engine::ALL.into_iter().filter(|e| e.available()).collect()
}

/// A key in every engine, and in every form of ours.
fn keys(cipher: Cipher, key: &[u8; 32]) -> Vec<(String, Box<dyn Aead>)> {
    let mut keys: Vec<_> = engines()
        .into_iter()
        .map(|engine| (engine.name().to_owned(), engine.key(cipher, key).unwrap()))
        .collect();
    #[cfg(target_arch = "x86_64")]
    for form in vaes::Form::ALL {
        keys.extend(
            form.key(cipher, key)
                .map(|aead| (format!("{form:?}"), aead)),
        );
    }
    keys
}

/// What Wycheproof's vectors of one algorithm say of the ciphers with nonces and tags of our
/// lengths, and how many they are.
fn wycheproof(name: wycheproof::aead::TestName, cipher_of: fn(usize) -> Option<Cipher>) -> usize {
    let set = wycheproof::aead::TestSet::load(name).unwrap();
    let mut count = 0;
    for group in set.test_groups {
        let Some(cipher) = cipher_of(group.key_size) else {
            continue;
        };
        if (group.nonce_size, group.tag_size) != (8 * NONCE_LEN, 8 * TAG_LEN) {
            continue;
        }
        for test in group.tests {
            let mut key = [0; 32];
            key[..test.key.len()].copy_from_slice(&test.key);
            let nonce = test.nonce.as_slice().try_into().unwrap();
            let valid = test.result == wycheproof::TestResult::Valid;
            for (engine, aead) in keys(cipher, &key) {
                let place = format!("{name:?} {} with {engine}: {}", test.tc_id, test.comment);
                let mut sealed = [&test.ct[..], &test.tag[..]].concat();
                let opened = aead.open(&nonce, &test.aad, &mut sealed);
                assert_eq!(opened.is_ok(), valid, "{place}");
                if valid {
                    assert_eq!(sealed[..test.pt.len()], test.pt[..], "{place}");
                }
                let (mut text, mut tag) = (test.pt.to_vec(), [0; TAG_LEN]);
                aead.seal(&nonce, &test.aad, &mut text, &mut tag).unwrap();
                let same = text == test.ct[..] && tag == test.tag[..];
                assert_eq!(same, valid, "{place}");
            }
            count += 1;
        }
    }
    count
}

#[test]
fn every_engine_decides_wycheproofs_gcm_vectors_as_they_say() {
    let count = wycheproof(wycheproof::aead::TestName::AesGcm, |bits| match bits {
        128 => Some(Cipher::Aes128Gcm),
        256 => Some(Cipher::Aes256Gcm),
        _ => None,
    });
    assert!(count >= 100, "{count}");
}

#[test]
fn every_engine_decides_wycheproofs_gcm_siv_vectors_as_they_say() {
    let count = wycheproof(wycheproof::aead::TestName::AesGcmSiv, |bits| match bits {
        256 => Some(Cipher::Aes256GcmSiv),
        _ => None,
    });
    assert!(count >= 50, "{count}");
}

#[test]
fn auto_is_our_own_engine_where_the_cpu_has_it_and_never_one_it_lacks() {
    let auto = Engine::Auto.resolve();
    assert!(auto.available());
    assert_eq!(auto == Engine::Vaes, Engine::Vaes.available());
    assert!(Engine::AwsLcRs.available() && Engine::AesGcm.available());
}

#[test]
fn a_key_can_be_prefetched_in_every_engine() {
    for cipher in Cipher::ALL {
        for (_, aead) in keys(cipher, &[3; 32]) {
            aead.prefetch();
        }
    }
}

proptest! {
    #[test]
    fn every_engine_seals_to_the_same_bytes_and_opens_what_the_others_sealed(
        key: [u8; 32], nonce: [u8; 12],
        associated in prop::collection::vec(any::<u8>(), 0..64),
        payload in prop::collection::vec(any::<u8>(), 0..2000),
    ) {
        for cipher in Cipher::ALL {
            let mut results = Vec::new();
            for engine in engines() {
                let mut sealed = payload.clone();
                let mut tag = [0; TAG_LEN];
                engine.key(cipher, &key).unwrap().seal(&nonce, &associated, &mut sealed, &mut tag).unwrap();
                sealed.extend_from_slice(&tag);
                results.push(sealed);
            }
            prop_assert!(results.iter().all(|result| *result == results[0]));
            for engine in engines() {
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
        for (cipher, engine) in Cipher::ALL.into_iter().flat_map(|c| engines().into_iter().map(move |e| (c, e))) {
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
    for engine in engines() {
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
        .flat_map(|c| engines().into_iter().map(move |e| (c, e)))
    {
        let aead = engine.key(cipher, &[1; 32]).unwrap();
        assert_eq!(aead.open(&[0; 12], &[], &mut [0; 15]), Err(Forged));
    }
}

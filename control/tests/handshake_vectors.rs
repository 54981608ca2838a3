//! Fixed vectors: what a second implementation must compute too (docs/protocol.md lists them), and
//! the Noise pattern against the published vectors of another implementation.

use dataplane::keys::{Cipher, Protection, SessionKeys};
use portcullis_control::handshake::cookie::{Origin, cookie};
use portcullis_control::handshake::message::{self, Answer, Challenge, Inner, Offer};
use portcullis_control::handshake::noise::{
    Initiator, NoiseError, Responder, Secrets, is_usable, public_key,
};
use portcullis_control::handshake::{Padding, Parameters, kdf};
use snow::params::CipherChoice;
use snow::resolvers::{CryptoResolver, DefaultResolver};
use std::net::{Ipv4Addr, Ipv6Addr};
use wire::header::kind;
use wire::{Header, Role};

fn hex32(text: &str) -> [u8; 32] {
    hex::decode(text).unwrap().try_into().unwrap()
}

fn counting() -> [u8; 32] {
    std::array::from_fn(|at| at as u8)
}

const KEY_ID: u32 = 0x1234_5678;
const NONCE: u64 = 0x0102_0304_0506_0708;
const MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 0x0a];
const GATEWAY_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 0x01];
const BOOT_ID: [u8; 8] = [0xb0, 0xb1, 0xb2, 0xb3, 0xb4, 0xb5, 0xb6, 0xb7];

/// The cacophony project's vector for this very pattern (its file, as `snow` ships it).
#[test]
fn the_noise_pattern_equals_the_published_vector() {
    let initiator_static =
        hex32("e61ef9919cde45dd5f82166404bd08e38bceb5dfdfded0a34c8df7ed542214d1");
    let responder_static =
        hex32("4a3acbfdb163dec651dfa3194dece676d437029c62a408b4c5ea9114246e4893");
    let psk = hex32("54686973206973206d7920417573747269616e20706572737065637469766521");
    let responder_public = public_key(&responder_static);
    assert_eq!(
        responder_public,
        hex32("31e0303fd6418d2f8c0e78b91f22e8caed0fbe48656dcf4767e4834f701b8f62")
    );
    let initiator_public = public_key(&initiator_static);
    let prologue = b"John Galt";
    let ours = Secrets {
        static_private: &initiator_static,
        peer_public: &responder_public,
        psk: &psk,
    };
    let theirs = Secrets {
        static_private: &responder_static,
        peer_public: &initiator_public,
        psk: &psk,
    };
    let (mut initiator, first) = Initiator::start(
        ours,
        prologue,
        hex32("893e28b9dc6ca8d611ab664754b8ceb7bac5117349a4439a6b0569da977c464a"),
        b"Ludwig von Mises",
    )
    .unwrap();
    assert_eq!(
        hex::encode(&first),
        "ca35def5ae56cec33dc2036731ab14896bc4c75dbb07a61f879f8e3afa4c7944f70d65fedfd7ad294f4c8f5c1324c7c90e54cd8af05652112a27b261e11ce99d9d517c4a1e0753038edb26066b4087b4c230aafa22b0552550b723eb69374a674d306a84e1852e30af2e2dbefeb4fd2f"
    );
    let (responder, payload) = Responder::read(
        theirs,
        prologue,
        hex32("bbdb4cdbd309f1a1f2e1456967fe288cadd6f712d65dc7b7793d5e63da6b375b"),
        &first,
    )
    .unwrap();
    assert_eq!(payload, b"Ludwig von Mises");
    let (second, gateway) = responder.answer(b"Murray Rothbard").unwrap();
    assert_eq!(
        hex::encode(&second),
        "95ebc60d2b1fa672c1f46a8aa265ef51bfe38e7ccb39ec5be34069f1448088434190dae84b6887641a5f81e03d83f7be91fa1134c18dde966e18fc404b97a8"
    );
    let (payload, station) = initiator.finish(&second).unwrap();
    assert_eq!(payload, b"Murray Rothbard");
    let hash = hex32("60f2139120264f109f2bd525a8d94877d7896d64394c34a7abedbc114154a6d5");
    assert_eq!((gateway.hash, station.hash), (hash, hash));
    assert_eq!((&gateway.w2g, &gateway.g2w), (&station.w2g, &station.g2w));
    // The transport messages of the vector are sealed with the split.
    for (key, plaintext, sealed) in [
        (
            &station.w2g,
            "462e20412e20486179656b",
            "061b631b380a639a0801920ddf205e2dbf6606c3328683c6af50fc",
        ),
        (
            &station.g2w,
            "4361726c204d656e676572",
            "c4b5ecd181f80279f2cc41217d490ed56459e3e3fb5e758e522d0d",
        ),
    ] {
        let mut cipher = DefaultResolver
            .resolve_cipher(&CipherChoice::AESGCM)
            .unwrap();
        cipher.set(key);
        let mut out = [0; 27];
        cipher.encrypt(0, &[], &hex::decode(plaintext).unwrap(), &mut out);
        assert_eq!(hex::encode(out), sealed);
    }
}

#[test]
fn the_keys_derived_from_a_psk_are_the_fixed_vectors() {
    let psk = counting();
    let knock = kdf::knock_keys(&psk);
    let words = |key: [u64; 2]| hex::encode(key.map(u64::to_le_bytes).concat());
    assert_eq!(words(knock.w2g), "8083579b280c29523f1427a324430502");
    assert_eq!(words(knock.g2w), "d35486da065fee43796a3ceab2fc834c");
    assert_eq!(
        hex::encode(kdf::noise_psk(&psk).as_slice()),
        "59fb3eeeb833d6b8e160de5ffeefba1fef8ce1247399d5bba9a0f45372b055ff"
    );
}

#[test]
fn the_session_keys_derived_from_a_split_are_the_fixed_vectors() {
    let (w2g, g2w) = (counting(), counting().map(|byte| byte + 0x20));
    for (cipher, protection, expected) in [
        (
            Cipher::Aes256Gcm,
            Protection::Encrypt,
            "edc851017b67162b1bdf91f64cfc23d44ceda8f240a2d7670011bd043e9c8380 1c2c8bb6916ad993d2af9c13 7afe113572169834af78b526d36f4cda / 4a7b8d67d5a0b9a923a4224b51dcf415d28b5b9fb27c860893dbfe501a75d244 09f076e62848d0322ef68a49 1b0285a362ef6b38361eb3f3fa1e760b",
        ),
        (
            Cipher::Aes128Gcm,
            Protection::Authenticate,
            "4515d1a8821dda1df7938ce993f215d0 d0f06ec54404d33043a6604f ba5755663a8643f8ca4838b6e3c56b58 / 4fbffd2732a0aedbf54fef4e42b6f067 5a7f2d0912a4850b3a2a21f0 bbb7e89219ac88a0585d0ad9edaff3b2",
        ),
        (
            Cipher::Aes256GcmSiv,
            Protection::Encrypt,
            "dd7bc8211b3e32c32ddc1b91f15067b926d29eb1db3de24685ea0e6dd7fc2621 1751424cde607446cbc8dfad 8e31bcda6ad79b13c2543eb97732b0bd / ef30d4fcd6cbf8518d86d006fe0a12c881cf5490a082a04447b2cf7d371dcb91 264e9abf6869b8b37805cd1e 6ec7d898f036cc6ae954c3b5f49766f9",
        ),
    ] {
        let keys = SessionKeys::derive(Role::Workstation, &w2g, &g2w, cipher, protection);
        let gateway = SessionKeys::derive(Role::Gateway, &w2g, &g2w, cipher, protection);
        assert_eq!(keys.send.aead, gateway.receive.aead);
        assert_eq!(keys.receive.iv, gateway.send.iv);
        let direction = |keys: &dataplane::keys::DirectionKeys| {
            format!(
                "{} {} {}",
                hex::encode(&keys.aead[..cipher.key_len()]),
                hex::encode(keys.iv),
                hex::encode(keys.admission.map(u64::to_le_bytes).concat())
            )
        };
        assert_eq!(
            format!("{} / {}", direction(&keys.send), direction(&keys.receive)),
            expected
        );
    }
}

fn challenge() -> Challenge {
    Challenge {
        cookie: cookie(&counting(), KEY_ID, NONCE, &Origin::ether(7, MAC)),
        boot_id: BOOT_ID,
        mac: GATEWAY_MAC,
    }
}

#[test]
fn the_cookie_is_the_fixed_vector() {
    assert_eq!(
        hex::encode(challenge().cookie),
        "3cc2bc37a7d28e3e75a150bde8eb2d55"
    );
}

#[test]
fn the_prologues_are_the_fixed_vectors() {
    let mut head = [0; 16];
    head.copy_from_slice(&Header::new(kind::INITIATION, 160, KEY_ID, NONCE).encode()[..16]);
    assert_eq!(
        hex::encode(kdf::hello_prologue(&head, &challenge().encode())),
        "706f727463756c6c697320312068656c6c6f1300a0007856341208070605040302013cc2bc37a7d28e3e75a150bde8eb2d55b0b1b2b3b4b5b6b70200000000010000"
    );
    assert_eq!(
        hex::encode(kdf::rekey_prologue(KEY_ID, NONCE, &counting())),
        "706f727463756c6c697320312072656b6579785634120807060504030201000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f"
    );
}

/// A whole handshake with every secret fixed.
#[test]
fn every_frame_of_a_handshake_is_the_fixed_vector() {
    let psk = counting();
    let knock = kdf::knock_keys(&psk);
    let noise_psk = kdf::noise_psk(&psk);
    let (station, gateway) = ([0x21; 32], [0x11; 32]);
    let (station_public, gateway_public) = (public_key(&station), public_key(&gateway));
    assert_eq!(
        hex::encode(station_public),
        "7d34a4815fa6b982535e60af3bd9b49556816080f1641ff81d2b7c8ae8268a44"
    );
    assert_eq!(
        hex::encode(gateway_public),
        "7b4e909bbe7ffe44c465a220037d608ee35897d31ef972f07f74892cb0f73f13"
    );
    let hello = message::frame(kind::HELLO, KEY_ID, NONCE, knock.w2g, &[0; 32]);
    assert_eq!(
        hex::encode(&hello),
        "110020007856341208070605040302018b78b34cceb6447b0000000000000000000000000000000000000000000000000000000000000000"
    );
    let challenge = challenge().encode();
    let frame = message::frame(kind::CHALLENGE, KEY_ID, NONCE, knock.g2w, &challenge);
    assert_eq!(
        hex::encode(&frame),
        "12002000785634120807060504030201cc65422c512243143cc2bc37a7d28e3e75a150bde8eb2d55b0b1b2b3b4b5b6b70200000000010000"
    );

    let mut head = [0; 16];
    head.copy_from_slice(&Header::new(kind::INITIATION, 160, KEY_ID, NONCE).encode()[..16]);
    let prologue = kdf::hello_prologue(&head, &challenge);
    let offer = Offer {
        index: 0xaaaa_0001,
        mtu: 1460,
        ciphers: 0b101,
        protections: 0b01,
        mac: MAC,
        virtualised: false,
    };
    let secrets = Secrets {
        static_private: &station,
        peer_public: &gateway_public,
        psk: &noise_psk,
    };
    let (mut initiator, first) =
        Initiator::start(secrets, &prologue, [0x31; 32], &offer.encode()).unwrap();
    let frame = message::frame(
        kind::INITIATION,
        KEY_ID,
        NONCE,
        knock.w2g,
        &[challenge.as_slice(), &first].concat(),
    );
    assert_eq!(
        hex::encode(&frame),
        "1300a0007856341208070605040302015475a474a0a4f7f13cc2bc37a7d28e3e75a150bde8eb2d55b0b1b2b3b4b5b6b7020000000001000004f5f29162c31a8defa18e6e742224ee806fc1718a278be859ba5620402b8f3adcf1bb1312e80730a8759213e79cbdd941b429f21dadb68e6d265b1523a687ee8729032f5326911455c68554ccfd95e357efe5e02b89dbb24c16e7da81cb71db788dd75d0133dfa53dba34a0fc99466857fb523f1e134f890abd21e5024eed5f"
    );

    let answer = Answer {
        index: 0xbbbb_0002,
        boot_id: BOOT_ID,
        mac: GATEWAY_MAC,
        cipher: Cipher::Aes256Gcm,
        protection: Protection::Encrypt,
        padding: Padding::Sixteen,
        parameters: Parameters {
            mtu: 1460,
            v4: Some((Ipv4Addr::new(10, 152, 152, 11), 18)),
            v6: Some((Ipv6Addr::new(0xfd19, 0xc33d, 0x88bc, 0, 0, 0, 0, 0x11), 64)),
            gateway_v4: Some(Ipv4Addr::new(10, 152, 152, 10)),
            gateway_v6: Some(Ipv6Addr::new(0xfd19, 0xc33d, 0x88bc, 0, 0, 0, 0, 0x10)),
        },
    };
    let secrets = Secrets {
        static_private: &gateway,
        peer_public: &station_public,
        psk: &noise_psk,
    };
    let (responder, payload) = Responder::read(secrets, &prologue, [0x41; 32], &first).unwrap();
    assert_eq!(Offer::decode(&payload), Some(offer));
    let (second, split) = responder.answer(&answer.encode()).unwrap();
    let frame = message::frame(kind::RESPONSE, KEY_ID, NONCE, knock.g2w, &second);
    assert_eq!(
        hex::encode(&frame),
        "14008000785634120807060504030201736ce6722f5a0d737a1a4e709bf085ac494aba0469b9b1eda0ab1f78b16aabb79ffeda90623e8522d2947c021378e3bc811a20fbad5652787ac90343700caa23092f3d738baaebc8702016ec8362c11b2eeeb598c88133991b2f70621330f25a699dc072c3c5329c32f6bf5877b484a25a12d841cf5f220a74c8116ca046c7b3487665c754365b6a"
    );
    let (payload, ours) = initiator.finish(&second).unwrap();
    assert_eq!(Answer::decode(&payload), Some(answer));
    assert_eq!(
        hex::encode(&payload),
        "0200bbbbb0b1b2b3b4b5b6b7020000000001b405010101120a98980b40fd19c33d88bc000000000000000000110a98980afd19c33d88bc00000000000000000010000000000000000000000000000000"
    );
    assert_eq!(
        hex::encode(split.hash),
        "38aacd300416aab85b44d079839894572b83f249e5a238f16f02194d141bb6a4"
    );
    assert_eq!(
        hex::encode(split.w2g.as_slice()),
        "bd9df3af0364e9e2ea251f48f6a1855344c81ca845a43b99f6fd7552a2573f63"
    );
    assert_eq!(
        hex::encode(split.g2w.as_slice()),
        "c0aada18482982376d2171ef99083413956a65558421a3172b672236e0a7a141"
    );
    assert_eq!(
        (&ours.w2g, &ours.g2w, ours.hash),
        (&split.w2g, &split.g2w, split.hash)
    );

    let reset = message::frame(
        kind::RESET,
        KEY_ID,
        NONCE,
        knock.g2w,
        &message::encode_reset(&BOOT_ID),
    );
    assert_eq!(
        hex::encode(&reset),
        "16002000785634120807060504030201535a12208212903db0b1b2b3b4b5b6b7000000000000000000000000000000000000000000000000"
    );
    assert_eq!(
        hex::encode(Inner::Ping([0xcc; 16]).encode()),
        "0300000000000000cccccccccccccccccccccccccccccccc"
    );
}

fn secrets<'a>(private: &'a [u8; 32], public: &'a [u8; 32], psk: &'a [u8; 32]) -> Secrets<'a> {
    Secrets {
        static_private: private,
        peer_public: public,
        psk,
    }
}

#[test]
fn a_message_2_that_does_not_open_leaves_the_genuine_one_openable() {
    let (station, gateway, psk) = ([0x21; 32], [0x11; 32], [7; 32]);
    let (station_public, gateway_public) = (public_key(&station), public_key(&gateway));
    let (mut initiator, first) = Initiator::start(
        secrets(&station, &gateway_public, &psk),
        b"p",
        [1; 32],
        &[0; 32],
    )
    .unwrap();
    let (responder, _) = Responder::read(
        secrets(&gateway, &station_public, &psk),
        b"p",
        [2; 32],
        &first,
    )
    .unwrap();
    let (second, _) = responder.answer(&[9; 80]).unwrap();
    for at in 0..second.len() {
        let mut altered = second.clone();
        altered[at] ^= 1;
        assert_eq!(
            initiator.finish(&altered).err(),
            Some(NoiseError::DoesNotOpen),
            "byte {at}"
        );
        assert!(initiator.finish(&second[..at]).is_err());
    }
    assert_eq!(initiator.finish(&second).unwrap().0, [9; 80]);
    assert!(initiator.finish(&second).is_err(), "a handshake ends once");
}

/// Compromise of every long-term secret afterwards: a whole run repeated with all of them, the same
/// prologue and payloads, and other ephemerals has other keys, and whoever holds both static keys
/// and the PSK but neither ephemeral cannot open message 2, let alone split.
/// Property 5: long-term secrets alone do not give the keys of a session.
#[test]
fn session_keys_hang_on_the_ephemerals_of_both_sides() {
    let (station, gateway, psk) = ([0x21; 32], [0x11; 32], [7; 32]);
    let (station_public, gateway_public) = (public_key(&station), public_key(&gateway));
    let run = |one: [u8; 32], two: [u8; 32]| {
        let (mut initiator, first) = Initiator::start(
            secrets(&station, &gateway_public, &psk),
            b"p",
            one,
            &[0; 32],
        )
        .unwrap();
        let (responder, _) =
            Responder::read(secrets(&gateway, &station_public, &psk), b"p", two, &first).unwrap();
        let (second, split) = responder.answer(&[0; 80]).unwrap();
        initiator.finish(&second).unwrap();
        (first, second, split)
    };
    let (_, second, genuine) = run([1; 32], [2; 32]);
    for (one, two) in [([1; 32], [3; 32]), ([3; 32], [2; 32])] {
        let (.., other) = run(one, two);
        assert_ne!(genuine.w2g, other.w2g);
        assert_ne!(genuine.g2w, other.g2w);
        assert_ne!(genuine.hash, other.hash);
    }
    // The initiator's place taken with its static key and PSK, and a guessed ephemeral.
    let (mut guess, _) = Initiator::start(
        secrets(&station, &gateway_public, &psk),
        b"p",
        [4; 32],
        &[0; 32],
    )
    .unwrap();
    assert_eq!(guess.finish(&second).err(), Some(NoiseError::DoesNotOpen));
}

#[test]
fn keys_of_low_order_are_not_usable() {
    assert!(is_usable(&public_key(&[0x21; 32])));
    for low in [
        "0000000000000000000000000000000000000000000000000000000000000000",
        "0100000000000000000000000000000000000000000000000000000000000000",
        "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
        "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    ] {
        assert!(!is_usable(&hex32(low)), "{low}");
    }
}

/// Input length, keyed hash and derived key (32 bytes each) of the BLAKE3 authors' vectors
/// (`test_vectors.json`), the two modes used here.
const BLAKE3: [(usize, &str, &str); 7] = [
    (
        0,
        "92b2b75604ed3c761f9d6f62392c8a9227ad0ea3f09573e783f1498a4ed60d26",
        "2cc39783c223154fea8dfb7c1b1660f2ac2dcbd1c1de8277b0b0dd39b7e50d7d",
    ),
    (
        1,
        "6d7878dfff2f485635d39013278ae14f1454b8c0a3a2d34bc1ab38228a80c95b",
        "b3e2e340a117a499c6cf2398a19ee0d29cca2bb7404c73063382693bf66cb06c",
    ),
    (
        1023,
        "c951ecdf03288d0fcc96ee3413563d8a6d3589547f2c2fb36d9786470f1b9d6e",
        "74a16c1c3d44368a86e1ca6df64be6a2f64cce8f09220787450722d85725dea5",
    ),
    (
        1024,
        "75c46f6f3d9eb4f55ecaaee480db732e6c2105546f1e675003687c31719c7ba4",
        "7356cd7720d5b66b6d0697eb3177d9f8d73a4a5c5e968896eb6a689684302706",
    ),
    (
        1025,
        "357dc55de0c7e382c900fd6e320acc04146be01db6a8ce7210b7189bd664ea69",
        "effaa245f065fbf82ac186839a249707c3bddf6d3fdda22d1b95a3c970379bcb",
    ),
    (
        2048,
        "879cf1fa2ea0e79126cb1063617a05b6ad9d0b696d0d757cf053439f60a99dd1",
        "7b2945cb4fef70885cc5d78a87bf6f6207dd901ff239201351ffac04e1088a23",
    ),
    (
        2049,
        "9f29700902f7c86e514ddc4df1e3049f258b2472b6dd5267f61bf13983b78dd5",
        "2ea477c5515cc3dd606512ee72bb3e0e758cfae7232826f35fb98ca1bcbdf273",
    ),
];

#[test]
fn blake3_keyed_and_deriving_equals_the_published_vectors() {
    let key = b"whats the Elvish word for friend";
    let context = "BLAKE3 2019-12-27 16:29:52 test vectors context";
    for (length, keyed, derived) in BLAKE3 {
        let input: Vec<u8> = (0..length).map(|at| (at % 251) as u8).collect();
        let hash = blake3::keyed_hash(key, &input);
        assert_eq!(hash.as_bytes(), &hex32(keyed), "{length} bytes, keyed");
        // As the cookie and the random generator take it: the stream's start is the hash.
        let mut start = [0; 32];
        blake3::Hasher::new_keyed(key)
            .update(&input)
            .finalize_xof()
            .fill(&mut start);
        assert_eq!(start, hex32(keyed), "{length} bytes, as a stream");
        assert_eq!(
            blake3::derive_key(context, &input),
            hex32(derived),
            "{length} bytes, deriving"
        );
    }
}

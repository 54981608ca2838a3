//! Segmentation of whatever a host interface might give: no header panics it, every packet lies
//! within its bounds and is sound, and together they carry the payload once.
#![no_main]

use dataplane::host::segment::{Segmenter, finish};
use dataplane::host::vnet::{self, VnetHeader};
use dataplane::inner;
use libfuzzer_sys::fuzz_target;
use portcullis_fuzz::Input;

fn packet(input: &mut Input) -> (VnetHeader, Vec<u8>) {
    let how = input.u8();
    let mut header = VnetHeader {
        flags: input.u8() & 3,
        gso_type: input.u8(),
        header_len: input.u8().into(),
        gso_size: input.u16() % 2000,
        checksum_start: input.u8().into(),
        checksum_offset: input.u8().into(),
    };
    if how & 1 == 0 {
        return (header, input.rest().to_vec());
    }
    // A sound super-packet, then flipped.
    let (v6, udp) = (how & 2 != 0, how & 4 != 0);
    let ip = if v6 { 40 } else { 20 };
    let transport = if udp {
        8
    } else {
        20 + 4 * usize::from(how >> 4 & 3)
    };
    let payload = usize::from(input.u16()) % 9000;
    let mut packet = vec![0x11; ip + transport + payload];
    let len = packet.len();
    if v6 {
        packet[0] = 0x60;
        packet[4..6].copy_from_slice(&((len - 40) as u16).to_be_bytes());
        packet[6] = if udp { 17 } else { 6 };
    } else {
        packet[0] = 0x45;
        packet[2..4].copy_from_slice(&(len as u16).to_be_bytes());
        packet[6..8].fill(0);
        packet[9] = if udp { 17 } else { 6 };
    }
    if udp {
        packet[ip + 4..ip + 6].copy_from_slice(&((len - ip) as u16).to_be_bytes());
    } else {
        packet[ip + 12] = (transport as u8 / 4) << 4;
    }
    header.flags = vnet::FLAG_NEEDS_CHECKSUM;
    header.gso_type = match (udp, v6) {
        (true, _) => vnet::GSO_UDP_L4,
        (false, true) => vnet::GSO_TCPV6,
        (false, false) => vnet::GSO_TCPV4,
    };
    header.header_len = (ip + transport) as u16;
    header.checksum_start = ip as u16;
    header.checksum_offset = if udp { 6 } else { 16 };
    if how & 8 != 0 {
        let mut bytes = header.to_bytes();
        input.flip(&mut bytes);
        header = VnetHeader::from_bytes(&bytes);
        input.flip(&mut packet);
    }
    // More would be many thousand packets for one input.
    header.gso_size = header
        .gso_size
        .max(if header.gso_size == 0 { 0 } else { 16 });
    (header, packet)
}

fuzz_target!(|bytes: &[u8]| {
    let (header, packet) = packet(&mut Input::new(bytes));
    let mut copy = packet.clone();
    let finished = finish(&header, &mut copy);
    let Ok(mut segmenter) = Segmenter::new(header, &packet) else {
        assert!(finished.is_err(), "two answers about one packet");
        return;
    };
    let _ = (segmenter.source(), segmenter.destination());
    assert!(segmenter.packet().len() <= packet.len());
    let (longest, count) = (segmenter.max_segment_len(), segmenter.remaining());
    let mut out = vec![0; longest];
    let (mut given, mut payload) = (0, 0);
    let single = header.gso_type == vnet::GSO_NONE;
    loop {
        let len = segmenter.next_len();
        assert!(len <= longest);
        if len > 0 {
            assert_eq!(
                segmenter.next(&mut out[..len - 1]),
                None,
                "too small, and taken"
            );
        }
        let Some(written) = segmenter.next(&mut out) else {
            break;
        };
        assert_eq!(written, len);
        given += 1;
        let segment = &out[..written];
        if single {
            assert_eq!(finished, Ok(written));
            assert_eq!(segment, &copy[..written], "two ways to finish a packet");
        } else {
            // A jumbogram's length field is 0: no sound packet, nor was the super-packet.
            let sound = inner::packet(segment).expect("an unsound segment");
            assert_eq!(sound.len, written);
            payload += written;
        }
    }
    assert_eq!(given, count);
    if !single {
        let headers = segmenter.packet().len();
        assert!(payload >= headers, "payload was lost");
    }
});

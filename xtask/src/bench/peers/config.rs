//! What other tunnels are told: the text of their configurations. Both ends are on one cable of MTU
//! 1500, and each tunnel gets the largest inner MTU that leaves its packets whole.

use std::net::Ipv4Addr;

/// The outer addresses, the Gateway's first.
pub(super) const OUTER: [Ipv4Addr; 2] = [Ipv4Addr::new(192, 0, 2, 1), Ipv4Addr::new(192, 0, 2, 2)];
/// The inner addresses, the Gateway's first.
pub(super) const INNER: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 99, 0, 1), Ipv4Addr::new(10, 99, 0, 2)];
/// The UDP port of both ends.
const PORT: u16 = 51_820;

/// IPv4 20, UDP 8, WireGuard's header 16 and tag 16 leave this of 1500 bytes.
pub(super) const WIREGUARD_MTU: u32 = 1440;
/// IPv4 20, UDP 8, opcode and peer id 4, packet id 4, tag 16 leave this of 1500 bytes.
const OPENVPN_MTU: u32 = 1448;

/// What `wg setconf` reads, for the end at `here` (0 the Gateway, 1 the Workstation). It holds the
/// private key: the file must be the reader's alone.
pub(super) fn wireguard(here: usize, private_key: &str, public_key_there: &str) -> String {
    let there = 1 - here;
    format!(
        "[Interface]\n\
         PrivateKey = {private_key}\n\
         ListenPort = {PORT}\n\
         [Peer]\n\
         PublicKey = {public_key_there}\n\
         AllowedIPs = {}/32\n\
         Endpoint = {}:{PORT}\n",
        INNER[there], OUTER[there]
    )
}

/// OpenVPN's configuration of one end; `directory` holds `cert.pem` and `key.pem`, `fingerprint` is
/// of the other end's certificate. Point to point, AES-256-GCM, no compression, buffers that
/// hold what a burst of TCP is, everything in the program itself.
pub(super) fn openvpn(here: usize, interface: &str, directory: &str, fingerprint: &str) -> String {
    let there = 1 - here;
    let role = ["tls-server", "tls-client"][here];
    format!(
        "dev {interface}\n\
         dev-type tun\n\
         mode p2p\n\
         {role}\n\
         proto udp4\n\
         local {}\n\
         lport {PORT}\n\
         remote {} {PORT}\n\
         ifconfig {} {}\n\
         tun-mtu {OPENVPN_MTU}\n\
         mssfix 0\n\
         dh none\n\
         cert {directory}/cert.pem\n\
         key {directory}/key.pem\n\
         peer-fingerprint {fingerprint}\n\
         data-ciphers AES-256-GCM\n\
         auth none\n\
         allow-compression no\n\
         disable-dco\n\
         fast-io\n\
         sndbuf 2097152\n\
         rcvbuf 2097152\n\
         verb 3\n",
        OUTER[here], OUTER[there], INNER[here], INNER[there]
    )
}

/// The fingerprint in what `openssl x509 -fingerprint` writes.
pub(super) fn fingerprint(output: &str) -> Option<&str> {
    let (_, value) = output.trim().split_once('=')?;
    let pairs = value.split(':');
    let good = |pair: &str| pair.len() == 2 && pair.bytes().all(|b| b.is_ascii_hexdigit());
    (pairs.clone().count() == 32 && pairs.clone().all(good)).then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_end_names_the_other_and_never_itself_as_its_peer() {
        let ends = [wireguard(0, "a=", "B="), wireguard(1, "b=", "A=")];
        for (here, text) in ends.iter().enumerate() {
            let there = 1 - here;
            assert!(text.contains(&format!("Endpoint = {}:{PORT}\n", OUTER[there])));
            assert!(text.contains(&format!("AllowedIPs = {}/32\n", INNER[there])));
            assert!(!text.contains(&OUTER[here].to_string()));
        }
        assert!(ends[0].contains("PrivateKey = a=\n") && ends[0].contains("PublicKey = B=\n"));

        let text = openvpn(1, "tun7", "/d", "AA:BB");
        assert!(text.contains(&format!("local {}\n", OUTER[1])));
        assert!(text.contains(&format!("remote {} {PORT}\n", OUTER[0])));
        assert!(text.contains(&format!("ifconfig {} {}\n", INNER[1], INNER[0])));
        assert!(text.contains("tls-client\n") && !text.contains("tls-server"));
    }

    #[test]
    fn openvpn_encrypts_with_aes_256_gcm_only_and_compresses_nothing() {
        let text = openvpn(0, "tun7", "/d", "AA:BB");
        for line in [
            "data-ciphers AES-256-GCM",
            "allow-compression no",
            "disable-dco",
        ] {
            assert!(text.lines().any(|l| l == line), "{line}");
        }
        // The keys are in files: none is in the text.
        assert!(!text.contains("BEGIN"));
    }

    #[test]
    fn a_fingerprint_is_32_bytes_or_none_at_all() {
        let bytes = vec!["0F"; 32].join(":");
        let line = format!("sha256 Fingerprint={bytes}\n");
        assert_eq!(fingerprint(&line), Some(bytes.as_str()));
        assert_eq!(fingerprint("sha256 Fingerprint=0F:1F\n"), None);
        assert_eq!(fingerprint(&line.replace("0F", "0G")), None);
        assert_eq!(fingerprint("unable to load certificate"), None);
    }
}

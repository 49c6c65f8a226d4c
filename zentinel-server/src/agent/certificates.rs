//! Whether the proxy could serve with the certificates that a configuration names.
//!
//! The proxy starts without a listener whose certificate or key it cannot read, and with one whose
//! certificate and key do not belong together, which then fails every handshake.

use super::activator::Rejection;
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use rustls::{Error, InconsistentKeys};
use std::path::{Path, PathBuf};
use zentinel_compiler::document::{Document, Node};

/// Reads every pair of a listener; `place` says where a path of the configuration is looked up. A file that
/// cannot be read is none of this check's business.
pub(super) fn check_certificates(
    document: &Document,
    place: impl Fn(&str) -> PathBuf,
) -> Result<(), Rejection> {
    for node in document.nodes().filter(|node| matches!(node.name(), "tls" | "sni") && is_listeners(*node)) {
        let (Some(certificate), Some(key)) = (node.setting("cert-file"), node.setting("key-file")) else {
            continue;
        };
        check_pair(&place(certificate), &place(key)).map_err(|why| {
            Rejection::new("bad_certificate", format!("{certificate} and {key}: {why} ({})", node.path()))
        })?;
    }
    Ok(())
}

fn is_listeners(node: Node<'_>) -> bool {
    node.ancestors().any(|above| above.name() == "listener")
}

fn check_pair(certificate: &Path, key: &Path) -> Result<(), String> {
    let (Ok(certificate), Ok(key)) = (std::fs::read(certificate), std::fs::read(key)) else {
        return Ok(());
    };
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&certificate).collect();
    let chain = chain.map_err(|error| format!("the certificate cannot be read: {error}"))?;
    if chain.is_empty() {
        return Err("the first holds no certificate".to_owned());
    }
    let key =
        PrivateKeyDer::from_pem_slice(&key).map_err(|error| format!("the second holds no key: {error}"))?;
    let key = any_supported_type(&key).map_err(|error| format!("the key cannot be used: {error}"))?;
    // Other doubts are not the proxy's: it takes certificates that this library would not.
    match CertifiedKey::new(chain, key).keys_match() {
        Err(Error::InconsistentKeys(InconsistentKeys::KeyMismatch)) => {
            Err("they do not belong together".to_owned())
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::generate_simple_self_signed;

    #[test]
    fn only_pairs_that_belong_together_are_good() {
        let directory = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(directory.path().join(name), text).unwrap();
        let [own, other] = [1, 2].map(|_| generate_simple_self_signed(["edge.invalid".to_owned()]).unwrap());
        write("own.pem", &own.cert.pem());
        write("own.key", &own.signing_key.serialize_pem());
        write("other.key", &other.signing_key.serialize_pem());
        write("none", "neither a certificate nor a key\n");
        write("both", &(own.cert.pem() + &own.signing_key.serialize_pem()));
        let check = |block: &str, certificate: &str, key: &str| {
            let kdl = format!(
                "{block} \"edge\" {{\n tls {{\n sni {{\n cert-file \"{certificate}\"\n key-file \"{key}\"\n }}\n }}\n}}\n"
            );
            check_certificates(&Document::parse(&kdl).unwrap(), |path| directory.path().join(path))
                .map_err(|rejection| (rejection.reason, rejection.message))
        };
        assert_eq!(check("listener", "own.pem", "own.key"), Ok(()));
        assert_eq!(check("listener", "both", "both"), Ok(()));
        assert_eq!(check("listener", "absent", "own.key"), Ok(()), "found elsewhere");
        assert_eq!(check("agent", "none", "none"), Ok(()), "not read by a listener");
        for (certificate, key, why) in [
            ("none", "own.key", "holds no certificate"),
            ("own.pem", "none", "holds no key"),
            ("own.pem", "own.pem", "holds no key"),
            ("own.pem", "other.key", "do not belong together"),
        ] {
            let (reason, message) = check("listener", certificate, key).unwrap_err();
            assert_eq!(reason, "bad_certificate");
            assert!(message.contains(why) && message.contains("tls/sni"), "{message}");
        }
    }
}

//! A certificate for `localhost` that signs itself, as files.

use std::path::PathBuf;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

pub struct Certificate {
    pub cert: PathBuf,
    pub key: PathBuf,
    _directory: tempfile::TempDir,
}

impl Certificate {
    pub fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let certified = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        let (cert, key) = (directory.path().join("cert.pem"), directory.path().join("key.pem"));
        std::fs::write(&cert, certified.cert.pem()).unwrap();
        std::fs::write(&key, certified.signing_key.serialize_pem()).unwrap();
        Self { cert, key, _directory: directory }
    }

    /// For a backend that speaks TLS.
    pub fn server_config(&self) -> rustls::ServerConfig {
        let chain = CertificateDer::from_pem_file(&self.cert).unwrap();
        let key = PrivateKeyDer::from_pem_file(&self.key).unwrap();
        rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![chain], key)
            .unwrap()
    }

    /// The value of a listener's `tls`.
    pub fn yaml(&self) -> String {
        format!("{{cert: '{}', key: '{}'}}", self.cert.display(), self.key.display())
    }
}

//! A certificate for `localhost` that signs itself, as files.

use std::path::PathBuf;

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

    /// The value of a listener's `tls`.
    pub fn yaml(&self) -> String {
        format!("{{cert: '{}', key: '{}'}}", self.cert.display(), self.key.display())
    }
}

//! The listener of a started target: its protocol and its certificate.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use super::error::TargetError;
use crate::client::tls::Trust;
use crate::protocol::ClientProtocol;

/// The name that the certificate is for.
pub(super) const SERVER_NAME: &str = "localhost";

/// The listener of a started target.
#[derive(Debug, Clone, Default)]
pub(super) struct ListenerSpec {
    pub(super) client_protocol: ClientProtocol,
    /// Where TLS is spoken.
    pub(super) certificate: Option<Certificate>,
}

/// A self-signed certificate, in two PEM files.
#[derive(Debug, Clone)]
pub(super) struct Certificate {
    pub(super) cert: PathBuf,
    pub(super) key: PathBuf,
}

impl ListenerSpec {
    /// With TLS, generates a certificate (ECDSA, P-256) in `directory`.
    pub(super) fn prepare(client_protocol: ClientProtocol, directory: &Path) -> Result<Self, TargetError> {
        let certificate = if client_protocol.protocol.has_tls() { Some(Certificate::make(directory)?) } else { None };
        Ok(Self { client_protocol, certificate })
    }

    /// What a client has to trust.
    pub(super) fn trust(&self) -> Trust {
        self.certificate.as_ref().map_or(Trust::System, |certificate| Trust::File(certificate.cert.clone()))
    }

    /// The `Host` to ask for at `address`.
    pub(super) fn authority(&self, address: SocketAddr) -> String {
        match self.certificate {
            Some(_) => format!("{SERVER_NAME}:{}", address.port()),
            None => address.to_string(),
        }
    }
}

impl Certificate {
    fn make(directory: &Path) -> Result<Self, TargetError> {
        let refuse = |source| TargetError::Start { program: "a TLS listener".to_owned(), source };
        let made = rcgen::generate_simple_self_signed(vec![SERVER_NAME.to_owned()]);
        let made = made.map_err(|error| refuse(std::io::Error::other(error)))?;
        let (cert, key) = (directory.join("certificate.pem"), directory.join("key.pem"));
        std::fs::write(&cert, made.cert.pem()).map_err(refuse)?;
        std::fs::write(&key, made.signing_key.serialize_pem()).map_err(refuse)?;
        Ok(Self { cert, key })
    }
}

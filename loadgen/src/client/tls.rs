//! The client side of TLS: which certificates are trusted, and what ALPN offers.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use thiserror::Error;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::client::Resumption;
use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::rustls::{ClientConfig, DigitallySignedStruct, Error as RustlsError, RootCertStore, SignatureScheme};

use super::end::EndReason;

const HTTP_1_1: &[u8] = b"http/1.1";
const HTTP_2: &[u8] = b"h2";

/// Which certificates are trusted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Trust {
    /// Those that the system's authorities have signed (or those in `SSL_CERT_FILE`).
    #[default]
    System,
    /// Those that the authorities in this PEM file have signed, and no others.
    File(PathBuf),
    /// All of them.
    Any,
}

/// Why TLS cannot be used.
#[derive(Debug, Error)]
pub enum TlsError {
    /// The file with the authorities' certificates.
    #[error("--cacert {}: {why}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The system's authorities.
    #[error(
        "cannot find the certificates that this system trusts: {0}\n  remedy: install ca-certificates, or use --cacert or --insecure"
    )]
    System(String),
    /// The name that certificates would have to be for.
    #[error("`{0}` is not a valid server name for TLS (use a DNS name or an IP address)")]
    Name(String),
    /// What the library refuses.
    #[error("cannot set up TLS")]
    Setup(#[source] RustlsError),
}

/// Makes TLS connections of one kind.
#[derive(Clone)]
pub struct Connector {
    inner: TlsConnector,
    wants_http2: bool,
}

impl Connector {
    /// Reads what `trust` names. ALPN offers HTTP/2 or HTTP/1.1, never both: the measurement decides which one it is of.
    ///
    /// # Errors
    /// When there are no certificates to trust.
    pub fn new(trust: &Trust, wants_http2: bool) -> Result<Self, TlsError> {
        let provider = Arc::new(ring::default_provider());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider));
        let builder = builder.with_safe_default_protocol_versions().map_err(TlsError::Setup)?;
        let mut config = match trust {
            Trust::System => builder.with_root_certificates(system_roots()?).with_no_client_auth(),
            Trust::File(path) => builder.with_root_certificates(file_roots(path)?).with_no_client_auth(),
            Trust::Any => {
                let verifier = Arc::new(NoVerifier { provider });
                builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth()
            }
        };
        config.alpn_protocols = vec![if wants_http2 { HTTP_2 } else { HTTP_1_1 }.to_vec()];
        // Each stream stands for a new visitor: no session is resumed, every handshake is complete.
        config.resumption = Resumption::disabled();
        Ok(Self { inner: TlsConnector::from(Arc::new(config)), wants_http2 })
    }

    /// Performs the handshake; the certificate must be valid for `name`, which SNI also carries unless it is an address.
    ///
    /// # Errors
    /// Why there is no connection; also when HTTP/2 is wanted and the server has not chosen it.
    pub async fn connect(&self, name: &str, io: TcpStream) -> Result<TlsStream<TcpStream>, EndReason> {
        let name = server_name(name).map_err(|_| EndReason::Certificate("other_name"))?;
        let stream = self.inner.connect(name, io).await.map_err(|error| EndReason::from_handshake(&error))?;
        if self.wants_http2 && stream.get_ref().1.alpn_protocol() != Some(HTTP_2) {
            return Err(EndReason::NoHttp2);
        }
        Ok(stream)
    }
}

/// Reads a host as the name in a certificate.
///
/// # Errors
/// When it can be none.
pub fn server_name(host: &str) -> Result<ServerName<'static>, TlsError> {
    ServerName::try_from(host.to_owned()).map_err(|_| TlsError::Name(host.to_owned()))
}

fn system_roots() -> Result<RootCertStore, TlsError> {
    let found = rustls_native_certs::load_native_certs().map_err(|error| TlsError::System(error.to_string()))?;
    let mut roots = RootCertStore::empty();
    // One that cannot be read must not make the others useless: some systems carry odd ones.
    let (usable, _) = roots.add_parsable_certificates(found);
    if usable == 0 { Err(TlsError::System("there are none".to_owned())) } else { Ok(roots) }
}

fn file_roots(path: &Path) -> Result<RootCertStore, TlsError> {
    let refuse = |why: String| TlsError::File { path: path.to_owned(), why };
    let text = std::fs::read(path).map_err(|error| refuse(error.to_string()))?;
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&text) {
        let certificate = certificate.map_err(|error| refuse(error.to_string()))?;
        roots.add(certificate).map_err(|error| refuse(error.to_string()))?;
    }
    if roots.is_empty() { Err(refuse("no certificate in it (PEM)".to_owned())) } else { Ok(roots) }
}

/// Accepts every certificate. Signatures are still verified, so that a handshake costs the same.
#[derive(Debug)]
struct NoVerifier {
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for NoVerifier {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, RustlsError> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, RustlsError> {
        verify_tls12_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, RustlsError> {
        verify_tls13_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

impl std::fmt::Debug for Connector {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Connector").field("wants_http2", &self.wants_http2).finish_non_exhaustive()
    }
}

//! Certificates and keys of listeners: loads the files, and names the one that cannot be used.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use pingora::tls::{self, CryptoProvider};
use rustls::CertificateError;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use x509_parser::parse_x509_certificate;

use crate::config::{Listen, Problem, Tls};

/// A certificate with its chain and its key.
pub(crate) struct Certificate {
    /// What rustls serves.
    pub(crate) key: CertifiedKey,
    /// The certificate is not valid now. Clients refuse it, and the listener works.
    pub(crate) warning: Option<Problem>,
    /// Of the content of both files.
    pub(crate) fingerprint: u64,
}

/// The contents of the two files.
pub(crate) struct Pair {
    cert: Vec<u8>,
    key: Vec<u8>,
}

/// The certificate that a listener serves. Handshakes from its replacement on get the new one; connections stay as they are.
#[derive(Debug)]
pub(crate) struct Served(ArcSwap<CertifiedKey>);

impl Served {
    pub(crate) fn new(certificate: CertifiedKey) -> Arc<Self> {
        Arc::new(Self(ArcSwap::from_pointee(certificate)))
    }

    pub(crate) fn replace(&self, certificate: CertifiedKey) {
        self.0.store(Arc::new(certificate));
    }

    /// Serves what another listener serves.
    pub(crate) fn replace_with(&self, other: &Self) {
        self.0.store(other.0.load_full());
    }
}

impl ResolvesServerCert for Served {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.load_full())
    }
}

impl Pair {
    /// Reads the files of `tls`; keys of problems are relative to it.
    pub(crate) fn read(config: &Tls) -> Result<Self, Problem> {
        Ok(Self { cert: read("cert", &config.cert)?, key: read("key", &config.key)? })
    }

    /// The same for the same contents.
    pub(crate) fn fingerprint(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        (&self.cert, &self.key).hash(&mut hasher);
        hasher.finish()
    }
}

/// Checks the certificates of all listeners, without binding anything; returns the warnings.
///
/// # Errors
/// When one cannot be used.
pub(crate) fn check(listeners: &[Listen]) -> Result<Vec<Problem>, Problem> {
    let mut warnings = Vec::new();
    for (at, listen) in listeners.iter().enumerate() {
        let Some(config) = &listen.tls else { continue };
        let at = at.to_string();
        let parents = ["listen", &at, "tls"];
        let certificate = load(config).map_err(|problem| problem.under(&parents))?;
        warnings.extend(certificate.warning.map(|problem| problem.under(&parents)));
    }
    Ok(warnings)
}

/// Loads the files of `tls`; keys of problems are relative to it.
pub(crate) fn load(config: &Tls) -> Result<Certificate, Problem> {
    parse(config, &Pair::read(config)?)
}

/// Reads a certificate and its key from the contents of the files of `tls`.
pub(crate) fn parse(config: &Tls, pair: &Pair) -> Result<Certificate, Problem> {
    tls::install_default_crypto_provider();
    let chain = chain(&config.cert, &pair.cert)?;
    let private = private_key(&config.key, &pair.key)?;
    let warning = not_valid_now(&config.cert, &chain, SystemTime::now())?;
    let bug = || Problem::new(&["cert"], "cannot be used: no cryptography provider", "report this: it is a bug");
    let provider = CryptoProvider::get_default().ok_or_else(bug)?;
    let key = CertifiedKey::from_der(chain, private, provider).map_err(|error| match error {
        rustls::Error::InconsistentKeys(_) => {
            let what = format!("is {}, which is not the key of {}", quoted(&config.key), quoted(&config.cert));
            Problem::new(&["key"], what, "name two files that belong together; the first certificate in cert counts")
        }
        rustls::Error::InvalidCertificate(reason) => {
            let reason = match &reason {
                CertificateError::Other(other) => other.to_string(),
                known => known.to_string(),
            };
            let what = format!("is {}, which cannot be used: {reason}", quoted(&config.cert));
            Problem::new(&["cert"], what, "issue it as an X.509 v3 certificate")
        }
        error => {
            let what = format!("is {}, which cannot be used: {error}", quoted(&config.key));
            Problem::new(&["key"], what, "use an RSA key of 2048 bits or more, an ECDSA key (P-256, P-384) or Ed25519")
        }
    })?;
    Ok(Certificate { key, warning, fingerprint: pair.fingerprint() })
}

fn chain(path: &Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, Problem> {
    let chain = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>();
    let chain = chain.map_err(|error| damaged("cert", path, &error.to_string()))?;
    if chain.is_empty() {
        let (what, remedy) = if PrivateKeyDer::from_pem_slice(pem).is_ok() {
            ("holds a private key and no certificate", "name the certificate here and the key at `key`")
        } else {
            ("holds no certificate in PEM", "name a file with `-----BEGIN CERTIFICATE-----`, such as fullchain.pem")
        };
        return Err(Problem::new(&["cert"], format!("is {}, which {what}", quoted(path)), remedy));
    }
    Ok(chain)
}

fn private_key(path: &Path, pem: &[u8]) -> Result<PrivateKeyDer<'static>, Problem> {
    use rustls::pki_types::pem::Error;
    let contains = |text: &str| memchr::memmem::find(pem, text.as_bytes()).is_some();
    if contains("-----BEGIN ENCRYPTED PRIVATE KEY-----") || contains("Proc-Type: 4,ENCRYPTED") {
        let what = format!("is {}, which is encrypted", quoted(path));
        return Err(Problem::new(&["key"], what, "decrypt it: `openssl pkey -in KEY -out PLAIN_KEY`"));
    }
    PrivateKeyDer::from_pem_slice(pem).map_err(|error| match error {
        Error::NoItemsFound => {
            let what = format!("is {}, which holds no private key in PEM", quoted(path));
            let remedy = "name a file with `-----BEGIN PRIVATE KEY-----`, such as privkey.pem";
            Problem::new(&["key"], what, remedy)
        }
        error => damaged("key", path, &error.to_string()),
    })
}

fn read(key: &str, path: &Path) -> Result<Vec<u8>, Problem> {
    std::fs::read(path).map_err(|error| {
        let what = format!("is {}, which cannot be read: {error}", quoted(path));
        Problem::new(&[key], what, "check the path and its permissions")
    })
}

fn damaged(key: &str, path: &Path, error: &str) -> Problem {
    Problem::new(&[key], format!("is {}, which is damaged: {error}", quoted(path)), "copy the PEM file again")
}

/// Checks the times of each certificate in a file.
fn not_valid_now(path: &Path, chain: &[CertificateDer<'_>], now: SystemTime) -> Result<Option<Problem>, Problem> {
    for (number, certificate) in (1..).zip(chain) {
        let (_, parsed) =
            parse_x509_certificate(certificate).map_err(|error| damaged("cert", path, &error.to_string()))?;
        let (from, until) = (parsed.validity().not_before.timestamp(), parsed.validity().not_after.timestamp());
        let now = now.duration_since(UNIX_EPOCH).map_or(0, |now| i64::try_from(now.as_secs()).unwrap_or(i64::MAX));
        let (state, since) = match () {
            () if now > until => ("expired on", until),
            () if now < from => ("is not valid before", from),
            () => continue,
        };
        let which = if number == 1 { String::new() } else { format!(" certificate {number} of") };
        let what = format!("is {}:{which} it {state} {}, and clients refuse it", quoted(path), date(since));
        return Ok(Some(Problem::new(&["cert"], what, "renew it, and reload sse-proxy")));
    }
    Ok(None)
}

fn date(timestamp: i64) -> String {
    let time = UNIX_EPOCH + Duration::from_secs(timestamp.max(0).unsigned_abs());
    humantime::format_rfc3339_seconds(time).to_string()
}

fn quoted(path: &Path) -> String {
    format!("`{}`", path.display())
}

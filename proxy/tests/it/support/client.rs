//! A client that sees every byte and every kind of end.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, SignatureScheme, StreamOwned};

use super::DEADLINE;

pub struct Client {
    pub socket: TcpStream,
    tls: Option<Box<StreamOwned<ClientConnection, TcpStream>>>,
    buffered: Vec<u8>,
}

/// A response head.
#[derive(Debug)]
pub struct Head {
    pub status: u16,
    pub text: String,
}

impl Head {
    /// The value of a header, by its name in lower case; several are joined with a comma.
    pub fn header(&self, name: &str) -> Option<String> {
        let values: Vec<&str> = self
            .text
            .lines()
            .skip(1)
            .filter_map(|line| line.split_once(": "))
            .filter(|(key, _)| key.eq_ignore_ascii_case(name))
            .map(|(_, value)| value)
            .collect();
        (!values.is_empty()).then(|| values.join(", "))
    }
}

impl Client {
    pub fn connect(address: SocketAddr) -> Self {
        let socket = TcpStream::connect(address).unwrap();
        Self::over(socket)
    }

    /// With the smallest receive buffer the kernel gives, so that not reading shows soon.
    pub fn connect_small(address: SocketAddr) -> Self {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.set_recv_buffer_size(1).unwrap();
        socket.connect(&address.into()).unwrap();
        Self::over(socket.into())
    }

    /// Over a connection that the test has made.
    pub fn over(socket: TcpStream) -> Self {
        socket.set_nodelay(true).unwrap();
        socket.set_read_timeout(Some(DEADLINE)).unwrap();
        Self { socket, tls: None, buffered: Vec::new() }
    }

    /// Over TLS, with HTTP/1.1, with any certificate.
    pub fn connect_tls(address: SocketAddr) -> Self {
        Self::connect(address).with_tls()
    }

    /// The same, with the smallest receive buffer the kernel gives.
    pub fn connect_small_tls(address: SocketAddr) -> Self {
        Self::connect_small(address).with_tls()
    }

    fn with_tls(mut self) -> Self {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
            .with_no_client_auth();
        let connection = ClientConnection::new(Arc::new(config), "localhost".try_into().unwrap()).unwrap();
        self.tls = Some(Box::new(StreamOwned::new(connection, self.socket.try_clone().unwrap())));
        self
    }

    pub fn send(&mut self, text: &str) {
        self.try_send(text).unwrap();
    }

    /// Sends to a proxy that may have closed the connection already.
    pub fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        match &mut self.tls {
            Some(tls) => tls.write_all(bytes.as_ref()).and_then(|()| tls.flush()),
            None => self.socket.write_all(bytes.as_ref()),
        }
    }

    fn fill(&mut self) -> io::Result<usize> {
        let mut buffer = [0; 8192];
        let count = match &mut self.tls {
            Some(tls) => tls.read(&mut buffer)?,
            None => self.socket.read(&mut buffer)?,
        };
        self.buffered.extend_from_slice(&buffer[..count]);
        Ok(count)
    }

    pub fn read_head(&mut self) -> Head {
        loop {
            if let Some(at) = self.buffered.windows(4).position(|end| end == b"\r\n\r\n") {
                let rest = self.buffered.split_off(at + 4);
                let text = String::from_utf8(std::mem::replace(&mut self.buffered, rest)).unwrap();
                let status = text.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_default();
                return Head { status, text };
            }
            assert_ne!(self.fill().expect("a response head"), 0, "closed within the head: {:?}", self.text());
        }
    }

    /// Reads until the bytes of the connection, framing included, satisfy `done`; gives all of them so far.
    pub fn read_until(&mut self, done: impl Fn(&[u8]) -> bool) -> &[u8] {
        while !done(&self.buffered) {
            let count = self.fill().unwrap_or_else(|error| panic!("{error} after {}", self.shown()));
            assert_ne!(count, 0, "closed after {}", self.shown());
        }
        &self.buffered
    }

    /// Reads until the body, chunked framing taken off, contains `text`.
    pub fn read_until_body_has(&mut self, text: &str) -> String {
        self.read_until(|bytes| contains(&dechunk(bytes).0, text.as_bytes()));
        String::from_utf8_lossy(&dechunk(&self.buffered).0).into_owned()
    }

    /// Reads at most so many bytes from the socket, below TLS, and drops them; an end is an error.
    pub fn skip_some(&mut self, count: usize) -> io::Result<usize> {
        let mut buffer = vec![0; count];
        self.socket
            .read(&mut buffer)
            .and_then(|count| if count == 0 { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(count) })
    }

    /// The next bytes of the connection.
    pub fn read_exactly(&mut self, count: usize) -> Vec<u8> {
        self.read_until(|bytes| bytes.len() >= count);
        self.buffered.drain(..count).collect()
    }

    /// The certificate that the server has sent, in DER.
    pub fn certificate(&mut self) -> Vec<u8> {
        if self.tls.as_ref().is_some_and(|tls| tls.conn.is_handshaking()) {
            self.handshake();
        }
        let tls = self.tls.as_ref().expect("a connection over TLS");
        tls.conn.peer_certificates().expect("a certificate")[0].to_vec()
    }

    /// Brings the TLS handshake to its end.
    pub fn handshake(&mut self) {
        let tls = self.tls.as_mut().expect("a connection over TLS");
        tls.conn.complete_io(&mut tls.sock).unwrap();
    }

    /// Everything up to the end of the connection. An error is the kind of end: reset, or the deadline.
    pub fn read_to_end(&mut self) -> io::Result<Vec<u8>> {
        while self.fill()? > 0 {}
        Ok(std::mem::take(&mut self.buffered))
    }

    /// Drops what has been read and not given out yet.
    pub fn forget(&mut self) {
        self.buffered.clear();
    }

    /// The end of what has been read, as a message shows it.
    fn shown(&self) -> String {
        let last = &self.buffered[self.buffered.len().saturating_sub(500)..];
        format!("{} bytes, at last {:?}", self.buffered.len(), String::from_utf8_lossy(last))
    }

    /// What has been read and not given out yet.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.buffered).into_owned()
    }
}

/// Trusts whatever certificate a test's proxy has.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

pub fn contains(bytes: &[u8], wanted: &[u8]) -> bool {
    bytes.windows(wanted.len()).any(|window| window == wanted)
}

/// What the proxy sends in place of a chunk to signal a broken stream.
pub const BROKEN: &[u8] = b"ff\n";

/// The body in a chunked response so far, and what follows the last chunk's size line once that has come (trailers and
/// the closing line end). Written for these tests: it shares nothing with the proxy.
pub fn dechunk(mut wire: &[u8]) -> (Vec<u8>, Option<Vec<u8>>) {
    let mut body = Vec::new();
    loop {
        if wire == BROKEN {
            return (body, None);
        }
        let Some(line) = wire.windows(2).position(|end| end == b"\r\n") else { return (body, None) };
        let size = std::str::from_utf8(&wire[..line]).unwrap();
        let size = usize::from_str_radix(size, 16).unwrap_or_else(|_| panic!("no chunk size: {size:?}"));
        wire = &wire[line + 2..];
        if size == 0 {
            return (body, Some(wire.to_vec()));
        }
        if wire.len() < size + 2 {
            body.extend_from_slice(&wire[..wire.len().min(size)]);
            return (body, None);
        }
        assert_eq!(&wire[size..size + 2], b"\r\n", "a chunk ends with a line end");
        body.extend_from_slice(&wire[..size]);
        wire = &wire[size + 2..];
    }
}

/// The body of a chunked response that was ended in order.
pub fn body_of(wire: &[u8]) -> Vec<u8> {
    let (body, end) = dechunk(wire);
    assert_eq!(end.as_deref(), Some(&b"\r\n"[..]), "no clean end in {:?}", String::from_utf8_lossy(wire));
    body
}

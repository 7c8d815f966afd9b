//! Opens the connection of an exchange: TCP with or without TLS, sent whole or in pieces.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use super::{End, Protocol, Request, Shared, Way, http1, http2};

/// A [`Way`] that a thread can own.
pub(super) struct Owned {
    address: SocketAddr,
    pub(super) protocol: Protocol,
    certificate: Option<CertificateDer<'static>>,
    in_pieces: bool,
    pub(super) stalled: bool,
    first: Vec<u8>,
}

impl Owned {
    pub(super) fn of(way: &Way<'_>) -> Self {
        let Way { address, protocol, in_pieces, stalled, .. } = *way;
        let certificate = way.certificate.map(|file| CertificateDer::from_pem_file(file).expect("a certificate"));
        Self { address, protocol, certificate, in_pieces, stalled, first: way.first.to_vec() }
    }

    pub(super) async fn send(&self, request: Request, seen: &Shared) -> io::Result<End> {
        let socket = TcpSocket::new_v4()?;
        if self.stalled {
            socket.set_recv_buffer_size(1)?;
        }
        let socket = socket.connect(self.address).await?;
        socket.set_nodelay(true)?;
        let mut socket = Pieces { socket, left: if self.in_pieces { PIECES_BYTES } else { 0 }, pause: None };
        socket.write_all(&self.first).await?;
        match &self.certificate {
            None => self.run(socket, request, seen).await,
            Some(certificate) => {
                let mut roots = RootCertStore::empty();
                roots.add(certificate.clone()).expect("a trusted certificate");
                let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
                let config = config.with_safe_default_protocol_versions().expect("versions of TLS");
                let mut config = config.with_root_certificates(roots).with_no_client_auth();
                let name: &[u8] = if self.protocol.is_http_2() { b"h2" } else { b"http/1.1" };
                config.alpn_protocols = vec![name.to_vec()];
                let server = ServerName::try_from("localhost").expect("a name");
                let connection = TlsConnector::from(Arc::new(config)).connect(server, socket).await?;
                assert_eq!(connection.get_ref().1.alpn_protocol(), Some(name), "the protocol that was asked for");
                self.run(connection, request, seen).await
            }
        }
    }

    async fn run<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        connection: S,
        request: Request,
        seen: &Shared,
    ) -> io::Result<End> {
        match self.protocol {
            Protocol::Http10 | Protocol::Http11 | Protocol::Http11Tls => {
                http1::send(self, connection, request, seen).await
            }
            Protocol::Http2 | Protocol::Http2Tls => http2::send(self, connection, request, seen).await,
        }
    }
}

/// How much of what is sent is sent in pieces.
const PIECES_BYTES: usize = 1200;

/// A connection whose first bytes are sent a few at a time, each in its own segment.
struct Pieces {
    socket: TcpStream,
    left: usize,
    pause: Option<Pin<Box<tokio::time::Sleep>>>,
}

impl AsyncWrite for Pieces {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        const PIECE_BYTES: usize = 24;
        if self.left == 0 {
            return Pin::new(&mut self.socket).poll_write(context, bytes);
        }
        if let Some(pause) = &mut self.pause {
            std::task::ready!(pause.as_mut().poll(context));
            self.pause = None;
        }
        let piece = &bytes[..bytes.len().min(PIECE_BYTES)];
        let written = std::task::ready!(Pin::new(&mut self.socket).poll_write(context, piece))?;
        self.left = self.left.saturating_sub(written);
        self.pause = Some(Box::pin(tokio::time::sleep(Duration::from_millis(1))));
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(context)
    }
}

impl AsyncRead for Pieces {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_read(context, buffer)
    }
}

//! A TLS client for tests, as a device has one: with the gateway's authority, and maybe a certificate of its own.

use crate::uninterrupted::Uninterrupted;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned, SupportedProtocolVersion};
use std::io::{self, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// A connection.
pub type Secured = StreamOwned<ClientConnection, Uninterrupted<TcpStream>>;

/// Every version that is still spoken.
pub const BOTH: &[&SupportedProtocolVersion] = &[&rustls::version::TLS13, &rustls::version::TLS12];

/// More than a gateway on this machine should take for anything.
const SOON: Duration = Duration::from_secs(20);

/// Connects with the authority `ca` and maybe a certificate of one's own, and does the handshake as far as the client sees it.
///
/// # Errors
/// The handshake's.
///
/// # Panics
/// When the files in `folder` or the connection are not there.
pub fn secured(
    address: SocketAddr,
    folder: &Path,
    versions: &[&'static SupportedProtocolVersion],
    own: Option<&str>,
) -> io::Result<Secured> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(folder.join("ca.crt")).unwrap()).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots);
    let config = match own {
        None => config.with_no_client_auth(),
        Some(own) => {
            let chain = CertificateDer::pem_file_iter(folder.join(format!("{own}.crt"))).unwrap();
            let chain = chain.collect::<Result<_, _>>().unwrap();
            let key = PrivateKeyDer::from_pem_file(folder.join(format!("{own}.key"))).unwrap();
            config.with_client_auth_cert(chain, key).unwrap()
        }
    };
    let client = ClientConnection::new(Arc::new(config), ServerName::try_from("localhost").unwrap()).unwrap();
    let socket = TcpStream::connect(address).unwrap();
    socket.set_read_timeout(Some(SOON)).unwrap();
    socket.set_write_timeout(Some(SOON)).unwrap();
    let mut stream = StreamOwned::new(client, Uninterrupted(socket));
    stream.flush()?;
    Ok(stream)
}

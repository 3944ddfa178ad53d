//! One GET of a set of keys, over http or https.
//!
//! A client with a pool, redirects and proxies would be a good deal of code for one request in five minutes: this is
//! hyper on one connection, and TLS as the database's connections have it. Certificates are checked by the roots of
//! this machine (`SSL_CERT_FILE` names others), or where it has none by those that Mozilla trusts. Redirects are not
//! followed: who fetches keys knows where they are.

use std::{fmt, pin::pin, str::FromStr};

use http_body_util::{BodyExt, Empty, LengthLimitError, Limited};
use hyper::{
    Request, StatusCode, Uri,
    body::Bytes,
    client::conn::http1,
    header::{ACCEPT, CONNECTION, HOST, USER_AGENT},
};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, rustls::pki_types::ServerName};

use super::JwksError;
use crate::tls::connector;

/// Where to fetch a set of keys.
#[derive(Clone)]
pub struct JwksUrl {
    uri: Uri,
    /// As the name is resolved: an IPv6 address without its brackets.
    host: String,
    port: u16,
    tls: Option<TlsConnector>,
}

/// The query may hold a secret.
impl fmt::Debug for JwksUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "JwksUrl({}:{})", self.host, self.port)
    }
}

#[derive(Debug, thiserror::Error)]
pub enum JwksUrlError {
    #[error("it is not a URL that begins with http:// or https:// and names a host")]
    Form,
    #[error("a URL with a user or a password is not taken")]
    User,
    #[error("the host is no name for TLS")]
    Host,
    #[error("TLS cannot be set up")]
    Tls(#[from] tokio_rustls::rustls::Error),
}

#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    #[error("no connection")]
    Connect(#[source] std::io::Error),
    #[error("no TLS")]
    Tls(#[source] std::io::Error),
    #[error("the exchange failed")]
    Http(#[source] hyper::Error),
    #[error("the request cannot be made")]
    Request(#[from] hyper::http::Error),
    #[error("the answer is {0}")]
    Status(StatusCode),
    #[error("the answer broke off")]
    Body(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl FromStr for JwksUrl {
    type Err = JwksUrlError;

    fn from_str(text: &str) -> Result<Self, JwksUrlError> {
        let uri: Uri = text.parse().map_err(|_| JwksUrlError::Form)?;
        let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
            return Err(JwksUrlError::Form);
        };
        if authority.as_str().contains('@') {
            return Err(JwksUrlError::User);
        }
        let host = authority
            .host()
            .trim_start_matches('[')
            .trim_end_matches(']')
            .to_owned();
        let (tls, port) = match scheme {
            _ if host.is_empty() => return Err(JwksUrlError::Form),
            "http" => (None, 80),
            "https" => {
                ServerName::try_from(host.as_str()).map_err(|_| JwksUrlError::Host)?;
                (Some(connector()?), 443)
            }
            _ => return Err(JwksUrlError::Form),
        };
        let port = uri.port_u16().unwrap_or(port);
        Ok(Self { uri, host, port, tls })
    }
}

impl JwksUrl {
    /// Whether whoever stands between could put keys of his own there.
    pub fn is_open(&self) -> bool {
        let address = self.host.parse::<std::net::IpAddr>();
        let loopback = self.host == "localhost" || address.is_ok_and(|address| address.is_loopback());
        self.tls.is_none() && !loopback
    }

    /// The caller has a limit on the time.
    pub(super) async fn fetch(&self, limit: usize) -> Result<Vec<u8>, JwksError> {
        let stream = TcpStream::connect((self.host.as_str(), self.port)).await;
        let stream = stream.map_err(FetchError::Connect)?;
        match &self.tls {
            None => self.get(stream, limit).await,
            Some(tls) => {
                let name = ServerName::try_from(self.host.clone());
                let name = name.map_err(|error| FetchError::Tls(std::io::Error::other(error)))?;
                let stream = tls.connect(name, stream).await.map_err(FetchError::Tls)?;
                self.get(stream, limit).await
            }
        }
    }

    async fn get(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        limit: usize,
    ) -> Result<Vec<u8>, JwksError> {
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(FetchError::Http)?;
        let path = self.uri.path_and_query().map_or("/", |path| path.as_str());
        let authority = self.uri.authority().map_or("", |authority| authority.as_str());
        let request = Request::get(path)
            .header(HOST, authority)
            .header(ACCEPT, "application/jwk-set+json, application/json")
            .header(USER_AGENT, concat!("chat-system/", env!("CARGO_PKG_VERSION")))
            .header(CONNECTION, "close")
            .body(Empty::<Bytes>::new())
            .map_err(FetchError::Request)?;
        let exchange = async move {
            let answer = sender.send_request(request).await.map_err(FetchError::Http)?;
            if answer.status() != StatusCode::OK {
                return Err(FetchError::Status(answer.status()).into());
            }
            match Limited::new(answer.into_body(), limit).collect().await {
                Ok(body) => Ok(body.to_bytes().to_vec()),
                Err(error) if error.is::<LengthLimitError>() => Err(JwksError::Large),
                Err(error) => Err(FetchError::Body(error).into()),
            }
        };
        // The connection works while it is awaited, and may end before all of its answer was taken.
        let (mut exchange, connection) = (pin!(exchange), pin!(connection));
        tokio::select! {
            done = &mut exchange => done,
            _ended = connection => exchange.await,
        }
    }
}

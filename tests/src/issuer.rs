//! Somebody else's service that signs tokens: keys, and a small HTTP server that publishes them.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use base64::{Engine, engine::general_purpose::STANDARD};
use jsonwebtoken::{Algorithm, EncodingKey, Header, jwk::Jwk};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        ServerConfig,
        crypto::ring,
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    },
};

use crate::server::now;

/// A key with a name.
#[derive(Clone)]
pub struct SigningKey {
    kid: String,
    algorithm: Algorithm,
    private: EncodingKey,
}

/// A file of `tests/keys`.
pub fn key_file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("keys").join(name)
}

impl SigningKey {
    /// A new Ed25519 key.
    pub fn new(kid: &str) -> SigningKey {
        // PKCS #8: what stands before the 32 bytes of every such key.
        const HEAD: [u8; 16] = [48, 46, 2, 1, 0, 48, 5, 6, 3, 43, 101, 112, 4, 34, 4, 32];
        let seed: [u8; 32] = rand::random();
        let der = [&HEAD[..], &seed].concat();
        SigningKey::with(kid, Algorithm::EdDSA, EncodingKey::from_ed_der(&der))
    }

    /// The key in `tests/keys` of that algorithm.
    pub fn of(kid: &str, algorithm: Algorithm) -> SigningKey {
        let der = |name| {
            let pem = std::fs::read_to_string(key_file(name)).expect("a key of the tests");
            let base64: String = pem.lines().filter(|line| !line.starts_with('-')).collect();
            STANDARD.decode(base64).expect("PEM")
        };
        let private = match algorithm {
            Algorithm::RS256 => EncodingKey::from_rsa_der(&der("rsa.pem")),
            Algorithm::ES256 => EncodingKey::from_ec_der(&der("p256.pem")),
            Algorithm::EdDSA => EncodingKey::from_ed_der(&der("ed25519.pem")),
            other => panic!("there is no key for {other:?}"),
        };
        SigningKey::with(kid, algorithm, private)
    }

    fn with(kid: &str, algorithm: Algorithm, private: EncodingKey) -> SigningKey {
        SigningKey {
            kid: kid.into(),
            algorithm,
            private,
        }
    }

    /// A token for a user, good for an hour.
    pub fn token(&self, user: &str) -> String {
        self.sign(&json!({"sub": user, "exp": now() + 3600}))
    }

    /// A token with any claims.
    pub fn sign(&self, claims: &Value) -> String {
        let mut header = Header::new(self.algorithm);
        header.kid = Some(self.kid.clone());
        jsonwebtoken::encode(&header, claims, &self.private).expect("claims are JSON")
    }

    fn public(&self) -> Value {
        let jwk = Jwk::from_encoding_key(&self.private, self.algorithm).expect("a sound key");
        let mut jwk = serde_json::to_value(jwk).expect("a key is JSON");
        jwk["kid"] = json!(self.kid);
        jwk["use"] = json!("sig");
        jwk
    }
}

/// A JWKS of the public halves.
pub fn jwks(keys: &[&SigningKey]) -> String {
    let keys: Vec<_> = keys.iter().map(|key| key.public()).collect();
    json!({ "keys": keys }).to_string()
}

/// The server. Dropped, it is gone.
pub struct Issuer {
    url: String,
    state: Arc<State>,
    task: JoinHandle<()>,
}

#[derive(Default)]
struct State {
    /// None: it fails.
    published: Mutex<Option<String>>,
    fetches: AtomicUsize,
}

impl Issuer {
    /// Fails until it publishes.
    pub async fn start() -> Issuer {
        Issuer::listen(None).await
    }

    /// Over TLS, with the certificate `tls.pem` of `tests/keys`.
    pub async fn start_tls() -> Issuer {
        let certificate = CertificateDer::from_pem_file(key_file("tls.pem")).expect("a certificate");
        let key = PrivateKeyDer::from_pem_file(key_file("tls-key.pem")).expect("its key");
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("versions of TLS")
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)
            .expect("a certificate with its key");
        Issuer::listen(Some(TlsAcceptor::from(Arc::new(config)))).await
    }

    async fn listen(tls: Option<TlsAcceptor>) -> Issuer {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("it listens");
        let scheme = if tls.is_some() { "https" } else { "http" };
        let state = Arc::new(State::default());
        Issuer {
            url: format!("{scheme}://{address}/.well-known/jwks.json"),
            task: tokio::spawn(serve(listener, tls, state.clone())),
            state,
        }
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    /// From now on it publishes these.
    pub fn publish(&self, keys: &[&SigningKey]) {
        self.answer(Some(jwks(keys)));
    }

    /// From now on it answers with this, or with a failure.
    pub fn answer(&self, body: Option<String>) {
        *self.state.published.lock().expect("no panic holds it") = body;
    }

    /// How often it was asked.
    pub fn fetches(&self) -> usize {
        self.state.fetches.load(Ordering::SeqCst)
    }
}

impl Drop for Issuer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(listener: TcpListener, tls: Option<TlsAcceptor>, state: Arc<State>) {
    while let Ok((stream, _)) = listener.accept().await {
        tokio::spawn(exchange(stream, tls.clone(), state.clone()));
    }
}

async fn exchange(stream: TcpStream, tls: Option<TlsAcceptor>, state: Arc<State>) {
    match tls {
        None => answer(stream, &state).await,
        Some(tls) => {
            // Whoever does not trust the certificate goes.
            if let Ok(stream) = tls.accept(stream).await {
                answer(stream, &state).await;
            }
        }
    }
}

async fn answer(mut stream: impl AsyncRead + AsyncWrite + Unpin, state: &State) {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => request.push(byte),
            Err(_) => return,
        }
    }
    let body = state.published.lock().expect("no panic holds it").clone();
    state.fetches.fetch_add(1, Ordering::SeqCst);
    let answer = match body {
        Some(body) => format!(
            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        ),
        None => "HTTP/1.1 500 Internal Server Error\r\ncontent-length: 0\r\n\r\n".into(),
    };
    // Whoever asked may be gone.
    let _ = stream.write_all(answer.as_bytes()).await;
    let _ = stream.shutdown().await;
}

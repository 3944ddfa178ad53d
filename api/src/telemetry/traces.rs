//! Traces, sent to a collector by OTLP over HTTP with protobuf.
//!
//! What is a span: a request (which takes over its caller's `traceparent`), the command in it, the batch that the writer
//! commits (with a link to each command in it: they are of several requests), and its delivery, which ends when the
//! last reader that listens has been handed the batch's events. Events of the log, the other lines that are logged,
//! are not sent, and of a span nothing that the caller wrote but its method and its request id: no path, no query, no
//! token, no content.
//!
//! The exporter's own HTTP clients bring a second one with a second TLS: this one is hyper, and TLS as the keys' is.

use std::time::Duration;

use anyhow::Context;
use async_trait::async_trait;
use axum::http::HeaderMap;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{client::conn::http1, header::HOST};
use hyper_util::rt::TokioIo;
use opentelemetry::{KeyValue, propagation::TextMapPropagator, trace::TracerProvider};
use opentelemetry_http::{Bytes, HeaderExtractor, HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::{Resource, propagation::TraceContextPropagator, trace::SdkTracerProvider};
use tokio::{net::TcpStream, runtime::Handle};
use tokio_rustls::{TlsConnector, rustls::pki_types::ServerName};
use tracing::{Span, Subscriber};
use tracing_opentelemetry::{OpenTelemetryLayer, OpenTelemetrySpanExt};
use tracing_subscriber::{Layer, filter::filter_fn, registry::LookupSpan};

use crate::tls::connector;

/// How long the last ones may take when the server ends.
const LAST: Duration = Duration::from_secs(3);
/// Bytes of a collector's answer.
const ANSWER: usize = 1 << 20;
const EXCHANGE: Duration = Duration::from_secs(10);

/// Where the traces go to. To be ended after everything that makes any.
pub(super) struct Exporter(SdkTracerProvider);

impl Exporter {
    /// Begins to export, on this runtime.
    pub(super) fn start(endpoint: Option<&str>) -> anyhow::Result<Self> {
        let client = Client {
            runtime: Handle::current(),
            tls: connector().context("TLS cannot be set up")?,
        };
        let exporter = SpanExporter::builder().with_http().with_http_client(client);
        let exporter = match endpoint {
            Some(base) => exporter.with_endpoint(format!("{}/v1/traces", base.trim_end_matches('/'))),
            // Of the standard's variables.
            None => exporter,
        };
        let exporter = exporter.build().context("traces cannot be exported")?;
        let resource =
            Resource::builder().with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")));
        // The standard's variable wins over our name.
        let resource = match std::env::var_os("OTEL_SERVICE_NAME") {
            Some(_) => resource,
            None => resource.with_service_name("chat-system"),
        };
        let provider = SdkTracerProvider::builder()
            .with_batch_exporter(exporter)
            .with_resource(resource.build());
        Ok(Self(provider.build()))
    }

    pub(super) fn layer<S>(&self) -> impl Layer<S> + Send + Sync + use<S>
    where
        S: Subscriber + for<'span> LookupSpan<'span> + Send + Sync + 'static,
    {
        let layer = OpenTelemetryLayer::new(self.0.tracer("chat-system"))
            .with_location(false)
            .with_threads(false)
            .with_level(false)
            .with_tracked_inactivity(false)
            .with_context_activation(false);
        layer.with_filter(filter_fn(|metadata| {
            metadata.is_span() && metadata.target().starts_with("chat_")
        }))
    }

    pub(super) fn end(&self) {
        if let Err(error) = self.0.shutdown_with_timeout(LAST) {
            tracing::warn!(error = %error, "the last traces cannot be sent");
        }
    }
}

/// A request is part of its caller's trace.
pub(super) fn begin_request(span: &Span, headers: &HeaderMap, method: &str) {
    let parent = TraceContextPropagator::new().extract(&HeaderExtractor(headers));
    // Without a layer for it nobody wants to know.
    let _ = span.set_parent(parent);
    span.set_attribute("http.request.method", crate::problem::short(method));
}

pub(super) fn end_request(span: &Span, route: Option<&str>, status: u16) {
    if let Some(route) = route {
        span.set_attribute("http.route", route.to_owned());
    }
    span.set_attribute("http.response.status_code", i64::from(status));
}

/// One request on a connection of its own: the exporter sends every few seconds.
#[derive(Clone)]
struct Client {
    runtime: Handle,
    tls: TlsConnector,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Client")
    }
}

#[async_trait]
impl HttpClient for Client {
    /// Called on the exporter's own thread, which has no runtime.
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let client = self.clone();
        let exchange = async move { tokio::time::timeout(EXCHANGE, client.exchange(request)).await? };
        self.runtime.spawn(exchange).await?
    }
}

impl Client {
    async fn exchange(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let uri = request.uri();
        let host = uri.host().ok_or("the endpoint has no host")?;
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let secure = uri.scheme_str() == Some("https");
        let port = uri.port_u16().unwrap_or(if secure { 443 } else { 80 });
        let stream = TcpStream::connect((host.as_str(), port)).await?;
        if secure {
            let stream = self.tls.connect(ServerName::try_from(host)?, stream).await?;
            Self::ask(TokioIo::new(stream), request).await
        } else {
            Self::ask(TokioIo::new(stream), request).await
        }
    }

    async fn ask<IO>(io: IO, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError>
    where
        IO: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
    {
        let (mut sender, connection) = http1::handshake(io).await?;
        let connection = tokio::spawn(connection);
        let (mut head, body) = request.into_parts();
        if let Some(authority) = head.uri.authority() {
            head.headers.insert(HOST, authority.as_str().parse()?);
        }
        let path = head.uri.path_and_query().map_or("/", |path| path.as_str());
        head.uri = path.parse()?;
        let answer = sender
            .send_request(Request::from_parts(head, Full::new(body)))
            .await?;
        let (head, body) = answer.into_parts();
        let body = Limited::new(body, ANSWER).collect().await?.to_bytes();
        connection.abort();
        Ok(Response::from_parts(head, body))
    }
}

//! The HTTP side: which path answers what, and who may ask. Reads only; no cross-origin access; a `Host` that is a
//! name somebody else controls is refused, so that a web page cannot reach the gateway through the browser (DNS rebinding).

use super::bounded::Bounded;
use super::{Admin, metrics};
use crate::listen::BindError;
use crate::web::host_is_ours;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, HOST, X_CONTENT_TYPE_OPTIONS};
use axum::http::{HeaderValue, StatusCode};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde::Serialize;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::TcpListener;

/// Connections of administrators and their tools at the same time; the next ones wait in the kernel.
const CONNECTIONS: usize = 32;

/// How long a request may take, from its whole head to the end of its answer's making.
const REQUEST_WITHIN: Duration = Duration::from_secs(10);

/// The media type of the metrics (OpenMetrics 1.0).
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Takes the address (`admin.listen`). Must run inside the runtime.
///
/// # Errors
/// [`BindError`] when the address cannot be had.
pub fn bind(address: SocketAddr) -> Result<TcpListener, BindError> {
    crate::listen::bind_admin(address)
}

/// Answers for ever; dropping the future ends it.
///
/// # Errors
/// None in practice: failures of single connections do not end it.
pub async fn serve(listener: TcpListener, admin: Admin) -> io::Result<()> {
    let router = looking().layer(from_fn(guard)).with_state(admin);
    axum::serve(Bounded::new(listener, CONNECTIONS), router).await
}

/// Everything that only looks.
pub(super) fn looking() -> Router<Admin> {
    Router::new()
        .route("/", get(index))
        .route("/health", get(health))
        .route("/health/live", get(live))
        .route("/metrics", get(metrics))
        .route("/status", get(status))
}

/// What `GET /health` answers.
#[derive(Debug, Serialize)]
struct Health {
    /// The driver turns.
    live: bool,
    /// Devices' messages are taken and made safe.
    ready: bool,
    /// What an operator should know; a gateway whose uplink is away is ready all the same.
    problems: Vec<String>,
}

async fn index() -> &'static str {
    concat!(
        "tidegate ",
        env!("CARGO_PKG_VERSION"),
        "\n\n/health       200 when messages are taken, 503 when not, with the reasons\n\
         /health/live  200 when the process works at all\n\
         /metrics      for Prometheus\n\
         /status       everything, as JSON; `tidegate status` prints it\n"
    )
}

async fn health(State(admin): State<Admin>) -> Response {
    let health = match admin.status().await {
        Some(status) => Health { live: true, ready: status.ready, problems: status.problems },
        None => not_live(),
    };
    let code = if health.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (code, Json(health)).into_response()
}

async fn live(State(admin): State<Admin>) -> Response {
    match admin.status().await {
        Some(_) => (StatusCode::OK, "alive\n").into_response(),
        None => (StatusCode::SERVICE_UNAVAILABLE, Json(not_live())).into_response(),
    }
}

fn not_live() -> Health {
    Health {
        live: false,
        ready: false,
        problems: vec![
            "the gateway's driver does not answer; it is stopping, or hangs and must be restarted".to_owned(),
        ],
    }
}

async fn status(State(admin): State<Admin>) -> Response {
    match admin.status().await {
        Some(status) => Json(status).into_response(),
        None => (StatusCode::SERVICE_UNAVAILABLE, Json(not_live())).into_response(),
    }
}

async fn metrics(State(admin): State<Admin>) -> Response {
    let Some(view) = admin.view().await else {
        return (StatusCode::SERVICE_UNAVAILABLE, Json(not_live())).into_response();
    };
    match metrics::encode(view) {
        Ok(text) => ([(CONTENT_TYPE, HeaderValue::from_static(OPENMETRICS))], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

/// Checks who asks, bounds the time, and says that answers are neither kept nor guessed at.
pub(super) async fn guard(request: Request<Body>, next: Next) -> Response {
    let host = request.headers().get(HOST).map(|value| value.to_str().unwrap_or(""));
    if !host.is_none_or(host_is_ours) {
        let advice = "Ask by IP address or as localhost: other host names are refused, so that a web page cannot reach the gateway through a browser.\n";
        return (StatusCode::MISDIRECTED_REQUEST, advice).into_response();
    }
    let answer = tokio::time::timeout(REQUEST_WITHIN, next.run(request)).await;
    let mut response = answer.unwrap_or_else(|_| StatusCode::SERVICE_UNAVAILABLE.into_response());
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

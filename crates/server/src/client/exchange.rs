//! One request and its answer, over any stream of bytes.

use std::error::Error;
use std::io;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper::header::{CONTENT_TYPE, HOST};
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;

use crate::api::{Code, Failure};

/// The bytes that an answer may have: thousands of jobs.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// Why there is no answer of use.
#[derive(Debug)]
pub(super) enum Trouble {
    /// Nothing was sent.
    Unreachable(io::Error),
    /// The connection ended between request and answer.
    Lost(String),
    /// No answer came in time.
    Silent,
    /// It is not an answer of a host of this version.
    Unintelligible(String),
    /// The host says no.
    Refused(Failure),
}

impl Trouble {
    /// What happened, in words.
    pub(super) fn describe(&self, process: Option<u32>) -> String {
        let host = match process {
            Some(process) => format!("the host (process {process})"),
            None => "the host".to_owned(),
        };
        match self {
            Self::Unreachable(error) => format!("{host} is not reached: {error}"),
            Self::Lost(why) => format!("{host} closed the connection: {why}"),
            Self::Silent => format!("{host} does not answer; is it stopped?"),
            Self::Unintelligible(why) => format!(
                "the answer of {host} is not understood: {why}; it may be of another version"
            ),
            Self::Refused(failure) => failure.message.clone(),
        }
    }

    pub(super) fn failure(self, process: Option<u32>) -> Failure {
        match self {
            Self::Refused(failure) => failure,
            other => Failure::new(Code::Lost, other.describe(process)),
        }
    }
}

/// Sends a request, and returns the body of its answer if that is not an error.
pub(super) async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    method: Method,
    path: &str,
    body: Vec<u8>,
    longest: Duration,
) -> Result<Bytes, Trouble> {
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(HOST, "localhost")
        .header(CONTENT_TYPE, "application/json")
        .body(Full::new(Bytes::from(body)))
        .map_err(|error| Trouble::Unreachable(io::Error::other(error)))?;
    let exchange = async {
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(lost)?;
        let ask = async {
            let response = sender.send_request(request).await.map_err(lost)?;
            let status = response.status();
            let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX);
            let body = body.collect().await.map_err(|error| match error {
                error if error.is::<http_body_util::LengthLimitError>() => {
                    Trouble::Unintelligible("it is too long".to_owned())
                }
                error => Trouble::Lost(causes(error.as_ref())),
            })?;
            Ok((status, body.to_bytes()))
        };
        // The connection moves the bytes of both, and need not end by itself.
        let mut connection = std::pin::pin!(connection);
        let mut ask = std::pin::pin!(ask);
        tokio::select! {
            biased;
            answer = &mut ask => answer,
            // It has ended: the answer is there, or never comes.
            _ = &mut connection => ask.await,
        }
    };
    let (status, body) = timeout(longest, exchange)
        .await
        .map_err(|_| Trouble::Silent)??;
    if status.is_success() {
        return Ok(body);
    }
    Err(match serde_json::from_slice(&body) {
        Ok(failure) => Trouble::Refused(failure),
        Err(_) => Trouble::Unintelligible(format!("HTTP status {status}")),
    })
}

fn lost(error: hyper::Error) -> Trouble {
    Trouble::Lost(causes(&error))
}

/// The error with its causes, in one line.
pub(crate) fn causes(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    text
}

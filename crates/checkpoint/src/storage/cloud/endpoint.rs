//! How a bucket is reached, for how long that is tried, and what went wrong.

use std::error::Error as StdError;
use std::time::Duration;

use object_store::client::{HttpError, HttpErrorKind};
use object_store::{
    BackoffConfig, ClientConfigKey, ClientOptions, Error as StoreError, RetryConfig,
};

use super::Remote;
use crate::{Error, Result};

/// The longest foreign text that a message repeats.
const TEXT_CHARS_MAX: usize = 300;

/// How long things may take.
#[derive(Clone, Copy)]
pub(in crate::storage) struct Limits {
    /// One request with its answer.
    pub(in crate::storage) request: Duration,
    connect: Duration,
    /// For this long a call sends a request again, where that may help.
    pub(in crate::storage) retry: Duration,
    /// A call, that is a request with all that is tried again.
    pub(in crate::storage) call: Duration,
}

impl Limits {
    /// Such that a call fails well within `patience`, and says why.
    pub(in crate::storage) fn within(patience: Duration) -> Self {
        let at_most = |seconds: u64, share: Duration| {
            Duration::from_secs(seconds).min(share.max(Duration::from_millis(10)))
        };
        Self {
            request: at_most(30, patience / 4),
            connect: at_most(5, patience / 8),
            retry: at_most(10, patience / 8),
            call: at_most(45, patience / 2),
        }
    }

    /// For a client, which can be built from then on: it takes its cryptography from the process.
    pub(super) fn options(&self) -> ClientOptions {
        // If there is one, it stays.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let milliseconds = |limit: Duration| format!("{}ms", limit.as_millis().max(1));
        ClientOptions::new()
            .with_config(ClientConfigKey::Timeout, milliseconds(self.request))
            .with_config(ClientConfigKey::ConnectTimeout, milliseconds(self.connect))
    }

    pub(super) fn retries(&self) -> RetryConfig {
        RetryConfig {
            backoff: BackoffConfig {
                max_backoff: self.retry / 4,
                init_backoff: Duration::from_millis(100).min(self.retry / 8),
                ..BackoffConfig::default()
            },
            retry_timeout: self.retry,
            ..RetryConfig::default()
        }
    }
}

/// What differs between those who keep buckets, as far as messages and requests need it.
#[derive(Debug)]
pub(super) struct Provider {
    /// The variable with the address of the server.
    pub(super) endpoint: &'static str,
    /// The variable that allows it to be reached without encryption.
    pub(super) allow_http: &'static str,
    /// The variables that credentials belong in.
    pub(super) credentials: &'static str,
    /// What is said when there are none.
    pub(super) no_credentials: &'static str,
    /// Part of the address at which the machine is asked for credentials.
    pub(super) machine: &'static str,
    /// The code that says that there is no such bucket.
    pub(super) no_bucket: &'static str,
    /// The user metadata that holds the token of a put.
    pub(super) token: &'static str,
    /// Whether an upload in parts can be completed on condition that there is no such object.
    pub(super) completes_on_condition: bool,
}

/// Where requests go, as far as messages need it.
#[derive(Clone, Debug)]
pub(in crate::storage) struct Endpoint {
    pub(super) provider: &'static Provider,
    pub(super) url: String,
    pub(super) allows_http: bool,
    /// Whether there are no credentials in the environment, so that they are asked of the machine.
    pub(super) asks_for_credentials: bool,
}

impl Endpoint {
    /// The error of a client that cannot be made.
    pub(super) fn unusable(&self, remote: &Remote, error: &StoreError) -> Error {
        let why = shortened(&error.to_string());
        Error::Incompatible(format!("{remote} cannot be reached: {why}"))
    }

    /// Refuses what would only fail later, and with a worse message.
    pub(super) fn check(&self) -> Result<()> {
        let Provider {
            endpoint,
            allow_http,
            credentials,
            ..
        } = self.provider;
        let authority = self.url.split_once("://").map_or("", |(_, rest)| rest);
        let authority = authority.split('/').next().unwrap_or_default();
        if authority.contains('@') {
            return Err(Error::Incompatible(format!(
                "the URL of {endpoint} has a user name in it; credentials are set by {credentials}"
            )));
        }
        if authority.is_empty() {
            return Err(Error::Incompatible(format!(
                "{endpoint}=`{}` is not a URL (http://host:port or https://host is expected)",
                self.url
            )));
        }
        if self.url.starts_with("http://") && !self.allows_http {
            return Err(Error::Incompatible(format!(
                "{endpoint}=`{}` is not encrypted; {allow_http}=true allows that",
                self.url
            )));
        }
        Ok(())
    }

    /// The error of a call.
    pub(in crate::storage) fn failed(
        &self,
        action: &'static str,
        object: String,
        source: &StoreError,
    ) -> Error {
        let why = self.cause(source);
        let no_bucket = why.contains(self.provider.no_bucket);
        match source {
            // Of an object. When the bucket is missing, so is it for every other call.
            StoreError::NotFound { .. } if action == "reading" && !no_bucket => {
                return Error::NotFound(format!("{object} does not exist"));
            }
            StoreError::AlreadyExists { .. } | StoreError::Precondition { .. } => {
                return Error::AlreadyExists { object };
            }
            _ => {}
        }
        Error::Storage {
            action,
            object,
            source: format!("{why}, at endpoint {}", self.url).into(),
        }
    }

    /// What happened, in few words and without a secret: what is said about a wrong signature repeats
    /// what was signed, tokens included.
    fn cause(&self, source: &StoreError) -> String {
        let text = source.to_string();
        if self.asks_for_credentials && text.contains(self.provider.machine) {
            return format!(
                "there are no credentials: {}, and the machine does not provide any",
                self.provider.no_credentials
            );
        }
        if let Some(error) = http_error(source) {
            let mut innermost: &dyn StdError = error;
            while let Some(deeper) = innermost.source() {
                innermost = deeper;
            }
            let what = match error.kind() {
                HttpErrorKind::Connect => "cannot connect",
                HttpErrorKind::Timeout => "no answer in time",
                _ => "the connection failed",
            };
            return format!("{what}: {}", shortened(&innermost.to_string()));
        }
        let status = text
            .split_once("status code: ")
            .map(|(_, rest)| rest.split([':', '<']).next().unwrap_or_default().trim());
        let element = |name: &str| {
            let (_, rest) = text.split_once(&format!("<{name}>"))?;
            Some(rest.split_once("</")?.0.trim())
        };
        match (status, element("Code"), element("Message")) {
            (status, Some(code), message) => {
                let parts = [status, Some(code), message];
                let parts: Vec<&str> = parts.into_iter().flatten().collect();
                shortened(&parts.join(": "))
            }
            (Some(status), None, _) => shortened(status),
            (None, None, _) => match source {
                StoreError::Generic { source, .. } => shortened(&source.to_string()),
                _ => shortened(&text),
            },
        }
    }
}

/// As much of a foreign text as a message repeats.
pub(in crate::storage) fn shortened(text: &str) -> String {
    let line: String = text.chars().take(TEXT_CHARS_MAX).collect();
    line.replace(['\n', '\r'], " ")
}

/// As the crate below reads it.
pub(super) fn is_true(value: Option<String>) -> bool {
    value.is_some_and(|it| {
        ["1", "true", "on", "yes", "y"].contains(&it.to_ascii_lowercase().as_str())
    })
}

fn http_error(error: &StoreError) -> Option<&HttpError> {
    let mut next: Option<&(dyn StdError + 'static)> = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        next = error.source();
    }
    None
}

/// Whether a condition was not met, or could not be decided because of another request.
pub(super) fn is_condition(error: &StoreError) -> bool {
    matches!(
        error,
        StoreError::AlreadyExists { .. } | StoreError::Precondition { .. }
    )
}

/// Whether a request may have been carried out though there was no answer.
pub(super) fn is_lost(error: &StoreError) -> bool {
    http_error(error).is_some_and(|error| {
        matches!(
            error.kind(),
            HttpErrorKind::Timeout | HttpErrorKind::Interrupted | HttpErrorKind::Unknown
        )
    })
}

/// Whether the storage does not know what it was asked.
pub(super) fn is_unknown_to_it(error: &StoreError) -> bool {
    let text = error.to_string();
    text.contains("501 Not Implemented") || text.contains("<Code>NotImplemented</Code>")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::cloud::aws;

    fn endpoint() -> Endpoint {
        Endpoint {
            provider: &aws::PROVIDER,
            url: "http://127.0.0.1:1".to_owned(),
            allows_http: true,
            asks_for_credentials: false,
        }
    }

    fn cause(text: &str) -> String {
        endpoint().cause(&StoreError::Generic {
            store: "S3",
            source: text.to_owned().into(),
        })
    }

    #[test]
    fn what_the_storage_answers_is_told_without_what_was_signed() {
        let answer = "Error performing PUT http://x/b/k in 1ms - Server returned non-2xx status code: 403 Forbidden: <?xml version=\"1.0\"?><Error><Code>SignatureDoesNotMatch</Code><Message>It does not match.</Message><CanonicalRequest>x-amz-security-token:secret</CanonicalRequest></Error>";
        assert_eq!(
            cause(answer),
            "403 Forbidden: SignatureDoesNotMatch: It does not match."
        );
        assert_eq!(
            cause(
                "Error performing PUT http://x in 1ms - Server returned non-2xx status code: 502 Bad Gateway: <html>secret</html>"
            ),
            "502 Bad Gateway"
        );
    }

    #[test]
    fn credentials_are_asked_of_the_machine_only_where_none_are_set() {
        let asks = |variables: &[(&str, &str)]| {
            let text = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
            let variables: Vec<(String, String)> = variables.iter().map(text).collect();
            let bucket = Remote::parse("s3://b/x", "directory").unwrap();
            let limits = Limits::within(Duration::from_secs(60));
            let (_, endpoint) = aws::connect(&bucket, &limits, &variables).unwrap();
            endpoint.asks_for_credentials
        };
        assert!(asks(&[("AWS_REGION", "eu-central-1"), ("HOME", "/")]));
        assert!(!asks(&[("AWS_SKIP_SIGNATURE", "true")]));
        assert!(!asks(&[
            ("AWS_ACCESS_KEY_ID", "x"),
            ("AWS_SECRET_ACCESS_KEY", "x")
        ]));
    }

    #[test]
    fn an_endpoint_that_cannot_be_right_is_refused_at_once() {
        let check = |url: &str, allows_http| {
            let endpoint = Endpoint {
                url: url.to_owned(),
                allows_http,
                ..endpoint()
            };
            endpoint.check().map_err(|error| error.to_string())
        };
        assert_eq!(check("http://127.0.0.1:9000", true), Ok(()));
        assert_eq!(check("https://s3.example.com", false), Ok(()));
        let message = check("http://127.0.0.1:9000", false).unwrap_err();
        assert!(message.contains("AWS_ALLOW_HTTP"));
        let message = check("https://me:secret@s3.example.com", false).unwrap_err();
        assert!(message.contains("user name") && !message.contains("secret"));
        assert!(
            check("s3.example.com", false)
                .unwrap_err()
                .contains("is not a URL")
        );
    }

    #[test]
    fn a_call_ends_within_the_patience_of_a_checkpoint() {
        for patience in [200, 1000, 20_000, 600_000] {
            let patience = Duration::from_millis(patience);
            let limits = Limits::within(patience);
            assert!(limits.retry + limits.request < limits.call);
            assert!(limits.call <= patience / 2);
        }
    }
}

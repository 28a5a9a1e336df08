//! How a bucket is reached, for how long that is tried, and what went wrong.

use std::error::Error as StdError;
use std::time::Duration;

use object_store::aws::{AmazonS3, AmazonS3Builder, AmazonS3ConfigKey};
use object_store::client::{HttpError, HttpErrorKind};
use object_store::{
    BackoffConfig, ClientConfigKey, ClientOptions, Error as StoreError, RetryConfig,
};

use super::Bucket;
use crate::{Error, Result};

/// The longest foreign text that a message repeats.
const TEXT_CHARS_MAX: usize = 300;

/// How long things may take.
pub(super) struct Limits {
    /// One request with its answer.
    request: Duration,
    connect: Duration,
    /// For this long a call sends a request again, where that may help.
    retry: Duration,
    /// A call, that is a request with all that is tried again.
    pub(super) call: Duration,
}

impl Limits {
    /// Such that a call fails well within `patience`, and says why.
    pub(super) fn within(patience: Duration) -> Self {
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

    fn retries(&self) -> RetryConfig {
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

/// Clients for a bucket by those of the environment's `variables` that begin with `AWS_`: one for
/// everything, one whose requests are all on the condition that there is no such object.
pub(super) fn connect(
    bucket: &Bucket,
    limits: &Limits,
    variables: &[(String, String)],
) -> Result<(AmazonS3, AmazonS3, Endpoint)> {
    let milliseconds = |limit: Duration| format!("{}ms", limit.as_millis().max(1));
    let mut options = ClientOptions::new()
        .with_config(ClientConfigKey::Timeout, milliseconds(limits.request))
        .with_config(
            ClientConfigKey::ConnectTimeout,
            milliseconds(limits.connect),
        );
    let mut builder = AmazonS3Builder::new();
    for (name, value) in variables {
        if !name.starts_with("AWS_") {
            continue;
        }
        match name.to_ascii_lowercase().parse() {
            Ok(AmazonS3ConfigKey::Client(key)) => options = options.with_config(key, value),
            Ok(key) => builder = builder.with_config(key, value),
            // Other programs have variables of their own.
            Err(_) => {}
        }
    }
    let endpoint = Endpoint::of(&builder, &options, bucket);
    endpoint.check()?;
    let builder = builder
        .with_bucket_name(bucket.name())
        // One object at a time is deleted, in the way that every storage knows.
        .with_disable_bulk_delete(true)
        .with_retry(limits.retries());
    let condition = "if-none-match".parse().ok().zip("*".parse().ok());
    let conditional = options
        .clone()
        .with_default_headers(condition.into_iter().collect());
    let build = |options| {
        let built = builder.clone().with_client_options(options).build();
        built.map_err(|error| {
            let why = Endpoint::shortened(&error.to_string());
            Error::Incompatible(format!("{bucket} cannot be reached: {why}"))
        })
    };
    Ok((build(options)?, build(conditional)?, endpoint))
}

/// Where requests go, as far as messages need it.
#[derive(Clone, Debug)]
pub(in crate::storage) struct Endpoint {
    url: String,
    allows_http: bool,
    /// Whether there are no credentials in the environment, so that they are asked of the machine.
    asks_for_credentials: bool,
}

impl Endpoint {
    fn of(builder: &AmazonS3Builder, options: &ClientOptions, bucket: &Bucket) -> Self {
        let value = |key| builder.get_config_value(&key);
        let set = |key| value(key).is_some();
        let region = value(AmazonS3ConfigKey::Region).unwrap_or_else(|| "us-east-1".to_owned());
        let allows_http = options.get_config_value(&ClientConfigKey::AllowHttp);
        Self {
            url: value(AmazonS3ConfigKey::S3Endpoint)
                .or_else(|| value(AmazonS3ConfigKey::Endpoint))
                .unwrap_or_else(|| format!("https://s3.{region}.amazonaws.com/{}", bucket.name())),
            allows_http: is_true(allows_http),
            asks_for_credentials: !set(AmazonS3ConfigKey::AccessKeyId)
                && !set(AmazonS3ConfigKey::SecretAccessKey)
                && !set(AmazonS3ConfigKey::WebIdentityTokenFile)
                && !set(AmazonS3ConfigKey::ContainerCredentialsRelativeUri)
                && !set(AmazonS3ConfigKey::ContainerCredentialsFullUri)
                && !is_true(value(AmazonS3ConfigKey::SkipSignature)),
        }
    }

    /// Refuses what would only fail later, and with a worse message.
    fn check(&self) -> Result<()> {
        let authority = self.url.split_once("://").map_or("", |(_, rest)| rest);
        let authority = authority.split('/').next().unwrap_or_default();
        if authority.contains('@') {
            return Err(Error::Incompatible(
                "the URL of AWS_ENDPOINT_URL has a user name in it; credentials are set by AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY".to_owned(),
            ));
        }
        if authority.is_empty() {
            return Err(Error::Incompatible(format!(
                "AWS_ENDPOINT_URL=`{}` is not a URL (http://host:port or https://host is expected)",
                self.url
            )));
        }
        if self.url.starts_with("http://") && !self.allows_http {
            return Err(Error::Incompatible(format!(
                "AWS_ENDPOINT_URL=`{}` is not encrypted; AWS_ALLOW_HTTP=true allows that",
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
        let no_bucket = why.contains("NoSuchBucket");
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

    /// What happened, in few words and without a secret: what S3 says about a wrong signature repeats
    /// what was signed, tokens included.
    fn cause(&self, source: &StoreError) -> String {
        let text = source.to_string();
        // The path that credentials are asked at, on every cloud.
        if self.asks_for_credentials && text.contains("/latest/") {
            return "there are no credentials: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY are not set, and the machine does not provide any".to_owned();
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
            return format!("{what}: {}", Self::shortened(&innermost.to_string()));
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
                Self::shortened(&parts.join(": "))
            }
            (Some(status), None, _) => Self::shortened(status),
            (None, None, _) => match source {
                StoreError::Generic { source, .. } => Self::shortened(&source.to_string()),
                _ => Self::shortened(&text),
            },
        }
    }

    fn shortened(text: &str) -> String {
        let line: String = text.chars().take(TEXT_CHARS_MAX).collect();
        line.replace(['\n', '\r'], " ")
    }
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

    fn endpoint() -> Endpoint {
        Endpoint {
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
            let bucket = Bucket::parse("s3://b/x", "directory").unwrap();
            let limits = Limits::within(Duration::from_secs(60));
            let (_, _, endpoint) = connect(&bucket, &limits, &variables).unwrap();
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

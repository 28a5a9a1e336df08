//! S3 and what speaks its protocol, by the environment's variables that begin with `AWS_`.

use std::sync::Arc;

use object_store::ClientConfigKey;
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::client::HttpRequest;

use super::conditional::{Completion, Conditional};
use super::endpoint::{Endpoint, Limits, Provider, is_true};
use super::{Client, Remote};
use crate::Result;

pub(super) const PROVIDER: Provider = Provider {
    endpoint: "AWS_ENDPOINT_URL",
    allow_http: "AWS_ALLOW_HTTP",
    credentials: "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    no_credentials: "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY are not set",
    machine: "/latest/",
    no_bucket: "NoSuchBucket",
    token: "highwater-put",
    completes_on_condition: true,
};

/// A client for a bucket.
pub(super) fn connect(
    remote: &Remote,
    limits: &Limits,
    variables: &[(String, String)],
) -> Result<(Arc<dyn Client>, Endpoint)> {
    let mut options = limits.options();
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
    let value = |key| builder.get_config_value(&key);
    let region = value(AmazonS3ConfigKey::Region).unwrap_or_else(|| "us-east-1".to_owned());
    let endpoint = Endpoint {
        provider: &PROVIDER,
        url: value(AmazonS3ConfigKey::S3Endpoint)
            .or_else(|| value(AmazonS3ConfigKey::Endpoint))
            .unwrap_or_else(|| format!("https://s3.{region}.amazonaws.com/{}", remote.name())),
        allows_http: is_true(options.get_config_value(&ClientConfigKey::AllowHttp)),
        asks_for_credentials: !is_true(value(AmazonS3ConfigKey::SkipSignature))
            && [
                AmazonS3ConfigKey::AccessKeyId,
                AmazonS3ConfigKey::SecretAccessKey,
                AmazonS3ConfigKey::WebIdentityTokenFile,
                AmazonS3ConfigKey::ContainerCredentialsRelativeUri,
                AmazonS3ConfigKey::ContainerCredentialsFullUri,
            ]
            .into_iter()
            .all(|key| value(key).is_none()),
    };
    endpoint.check()?;
    let client = builder
        .with_bucket_name(remote.name())
        // One object at a time is deleted, in the way that every storage knows.
        .with_disable_bulk_delete(true)
        .with_retry(limits.retries())
        .with_client_options(options)
        .with_http_connector(Conditional(Parts))
        .build()
        .map_err(|error| endpoint.unusable(remote, &error))?;
    Ok((Arc::new(client), endpoint))
}

/// A list of parts makes them the object. Signatures do not cover the condition.
#[derive(Clone, Debug)]
struct Parts;

impl Completion for Parts {
    fn is_completion(&self, request: &HttpRequest) -> bool {
        let query = request.uri().query().unwrap_or_default();
        request.method() == "POST" && query.split('&').any(|it| it.starts_with("uploadId="))
    }
}

//! Google Cloud Storage, by the environment's variables that begin with `GOOGLE_`.

use std::sync::Arc;

use object_store::ClientConfigKey;
use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};

use super::endpoint::{Endpoint, Limits, Provider, is_true};
use super::{Client, Remote};
use crate::Result;

pub(super) const PROVIDER: Provider = Provider {
    endpoint: "GOOGLE_BASE_URL",
    allow_http: "GOOGLE_ALLOW_HTTP",
    credentials: "GOOGLE_APPLICATION_CREDENTIALS",
    no_credentials: "GOOGLE_APPLICATION_CREDENTIALS and GOOGLE_SERVICE_ACCOUNT are not set",
    machine: "computeMetadata",
    no_bucket: "NoSuchBucket",
    token: "highwater-put",
    // Requests of an upload in parts take no preconditions.
    completes_on_condition: false,
};

/// A client for a bucket.
pub(super) fn connect(
    remote: &Remote,
    limits: &Limits,
    variables: &[(String, String)],
) -> Result<(Arc<dyn Client>, Endpoint)> {
    let mut options = limits.options();
    let mut builder = GoogleCloudStorageBuilder::new();
    for (name, value) in variables {
        if !name.starts_with("GOOGLE_") {
            continue;
        }
        match name.to_ascii_lowercase().parse() {
            Ok(GoogleConfigKey::Client(key)) => options = options.with_config(key, value),
            Ok(key) => builder = builder.with_config(key, value),
            // Other programs have variables of their own.
            Err(_) => {}
        }
    }
    let value = |key| builder.get_config_value(&key);
    let endpoint = Endpoint {
        provider: &PROVIDER,
        url: value(GoogleConfigKey::BaseUrl)
            .unwrap_or_else(|| "https://storage.googleapis.com".to_owned()),
        allows_http: is_true(options.get_config_value(&ClientConfigKey::AllowHttp)),
        asks_for_credentials: !is_true(value(GoogleConfigKey::SkipSignature))
            && [
                GoogleConfigKey::ServiceAccount,
                GoogleConfigKey::ServiceAccountKey,
                GoogleConfigKey::ApplicationCredentials,
                GoogleConfigKey::BearerToken,
            ]
            .into_iter()
            .all(|key| value(key).is_none()),
    };
    endpoint.check()?;
    let client = builder
        .with_bucket_name(remote.name())
        .with_retry(limits.retries())
        .with_client_options(options)
        .build()
        .map_err(|error| endpoint.unusable(remote, &error))?;
    Ok((Arc::new(client), endpoint))
}

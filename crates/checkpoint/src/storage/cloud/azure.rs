//! Azure Blob Storage, by the environment's variables that begin with `AZURE_`.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, OnceLock, Weak};

use object_store::ClientConfigKey;
use object_store::azure::{
    AzureAuthorizer, AzureConfigKey, AzureCredential, MicrosoftAzureBuilder,
};
use object_store::client::{CredentialProvider, HttpRequest};

use super::conditional::{Completion, Conditional};
use super::endpoint::{Endpoint, Limits, Provider, is_true};
use super::{Client, Remote};
use crate::{Error, Result};

/// What the emulator is called by programs that have not set it.
const EMULATOR: &str = "http://127.0.0.1:10000";

pub(super) const PROVIDER: Provider = Provider {
    endpoint: "AZURE_STORAGE_ENDPOINT",
    allow_http: "AZURE_ALLOW_HTTP",
    credentials: "AZURE_STORAGE_ACCOUNT_KEY",
    no_credentials: "AZURE_STORAGE_ACCOUNT_KEY, AZURE_STORAGE_SAS_TOKEN and AZURE_CLIENT_ID with AZURE_CLIENT_SECRET and AZURE_TENANT_ID are not set",
    machine: "/metadata/identity",
    no_bucket: "ContainerNotFound",
    // The name of metadata is an identifier there, so it has no hyphen.
    token: "highwater_put",
    completes_on_condition: true,
};

/// A client for a container.
pub(super) fn connect(
    remote: &Remote,
    limits: &Limits,
    variables: &[(String, String)],
) -> Result<(Arc<dyn Client>, Endpoint)> {
    let mut options = limits.options();
    let mut builder = MicrosoftAzureBuilder::new();
    for (name, value) in variables {
        if !name.starts_with("AZURE_") {
            continue;
        }
        match name.to_ascii_lowercase().parse() {
            Ok(AzureConfigKey::Client(key)) => options = options.with_config(key, value),
            Ok(key) => builder = builder.with_config(key, value),
            // Other programs have variables of their own.
            Err(_) => {}
        }
    }
    let value = |key| builder.get_config_value(&key);
    let is_emulator = is_true(value(AzureConfigKey::UseEmulator));
    let account = match (value(AzureConfigKey::AccountName), is_emulator) {
        (Some(account), _) => account,
        (None, true) => "devstoreaccount1".to_owned(),
        (None, false) => {
            return Err(Error::Incompatible(format!(
                "{remote} cannot be reached: AZURE_STORAGE_ACCOUNT_NAME is not set, it says in which storage account the container is"
            )));
        }
    };
    let url = match value(AzureConfigKey::Endpoint) {
        _ if is_emulator => variables
            .iter()
            .find(|(name, _)| name == "AZURITE_BLOB_STORAGE_URL")
            .map_or_else(|| EMULATOR.to_owned(), |(_, url)| url.clone()),
        Some(url) => url,
        None => format!("https://{account}.blob.core.windows.net"),
    };
    let endpoint = Endpoint {
        provider: &PROVIDER,
        url,
        allows_http: is_emulator || is_true(options.get_config_value(&ClientConfigKey::AllowHttp)),
        asks_for_credentials: !is_emulator
            && !is_true(value(AzureConfigKey::SkipSignature))
            && !is_true(value(AzureConfigKey::UseAzureCli))
            && [
                AzureConfigKey::AccessKey,
                AzureConfigKey::SasKey,
                AzureConfigKey::Token,
                AzureConfigKey::ClientSecret,
                AzureConfigKey::FederatedTokenFile,
            ]
            .into_iter()
            .all(|key| value(key).is_none()),
    };
    endpoint.check()?;
    let completion = Blocks {
        account: account.into(),
        credentials: Arc::new(OnceLock::new()),
    };
    let client = builder
        .with_container_name(remote.name())
        .with_retry(limits.retries())
        .with_client_options(options)
        .with_http_connector(Conditional(completion.clone()))
        .build()
        .map_err(|error| endpoint.unusable(remote, &error))?;
    let client = Arc::new(client);
    // Weakly: it may hold the client that holds this.
    let credentials = Arc::downgrade(client.credentials());
    completion.credentials.get_or_init(|| credentials);
    Ok((client, endpoint))
}

type Credentials = Weak<dyn CredentialProvider<Credential = AzureCredential>>;

/// A list of blocks makes them the blob. With an account's key, the signature covers the condition.
#[derive(Clone, Debug)]
struct Blocks {
    account: Arc<str>,
    /// There once the client is.
    credentials: Arc<OnceLock<Credentials>>,
}

impl Completion for Blocks {
    fn is_completion(&self, request: &HttpRequest) -> bool {
        let query = request.uri().query().unwrap_or_default();
        request.method() == "PUT" && query.split('&').any(|it| it == "comp=blocklist")
    }

    fn sign(
        &self,
        mut request: HttpRequest,
    ) -> Pin<Box<dyn Future<Output = object_store::Result<HttpRequest>> + Send + '_>> {
        Box::pin(async move {
            let credentials = self.credentials.get().and_then(Weak::upgrade);
            let is_signed = request.headers().contains_key("authorization");
            if let Some(credentials) = credentials.filter(|_| is_signed) {
                let credential = credentials.get_credential().await?;
                // The others do not look at headers.
                if matches!(*credential, AzureCredential::AccessKey(_)) {
                    request.headers_mut().remove("authorization");
                    AzureAuthorizer::new(&credential, &self.account).try_authorize(&mut request)?;
                }
            }
            Ok(request)
        })
    }
}

//! Switches of the environment that take away what protects a bucket. They are the user's to set; that
//! they are set must not go unseen.

use object_store::ClientConfigKey;
use object_store::aws::AmazonS3ConfigKey;
#[cfg(feature = "azure")]
use object_store::azure::AzureConfigKey;
#[cfg(feature = "gcs")]
use object_store::gcp::GoogleConfigKey;

use super::endpoint::is_true;

/// A switch that is on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Weakened {
    /// The variable, as it is written.
    pub variable: String,
    /// What it does.
    pub what: &'static str,
}

/// The switches among the environment's `variables` that are on. Each counts only if a bucket is used.
#[must_use]
pub fn weakened(variables: &[(String, String)]) -> Vec<Weakened> {
    let switches = variables.iter().filter_map(|(variable, value)| {
        if !is_true(Some(value.clone())) {
            return None;
        }
        let name = variable.to_ascii_lowercase();
        let what = if variable.starts_with("AWS_") {
            match name.parse().ok()? {
                AmazonS3ConfigKey::Client(key) => of_client(key),
                AmazonS3ConfigKey::SkipSignature => Some(UNSIGNED),
                AmazonS3ConfigKey::UnsignedPayload => Some(
                    "signatures leave out what is written, so only encryption protects it on its way",
                ),
                AmazonS3ConfigKey::ImdsV1Fallback => Some(
                    "the machine is asked for credentials without a token, so other programs may obtain them",
                ),
                _ => None,
            }
        } else {
            elsewhere(variable, &name)
        }?;
        Some(Weakened {
            variable: variable.clone(),
            what,
        })
    });
    let mut switches: Vec<Weakened> = switches.collect();
    switches.sort_by(|a, b| a.variable.cmp(&b.variable));
    switches
}

const UNSIGNED: &str = "requests are not signed, so the bucket cannot know who sends them";

/// The switches that all clients have.
fn of_client(key: ClientConfigKey) -> Option<&'static str> {
    match key {
        ClientConfigKey::AllowHttp => Some(
            "the bucket may be reached without encryption, so others on the way may read and change checkpoints",
        ),
        ClientConfigKey::AllowInvalidCertificates => Some(
            "any certificate is accepted, so others on the way may pass for the bucket, and read and change checkpoints",
        ),
        _ => None,
    }
}

/// Those of Azure and Google.
#[allow(unused_variables, reason = "a build without both has no switches here")]
fn elsewhere(variable: &str, name: &str) -> Option<&'static str> {
    #[cfg(feature = "azure")]
    if variable.starts_with("AZURE_") {
        return match name.parse().ok()? {
            AzureConfigKey::Client(key) => of_client(key),
            AzureConfigKey::SkipSignature => Some(UNSIGNED),
            AzureConfigKey::UseEmulator => Some(
                "an emulator takes the place of Azure, with a key that everybody knows, and without encryption",
            ),
            _ => None,
        };
    }
    #[cfg(feature = "gcs")]
    if variable.starts_with("GOOGLE_") {
        return match name.parse().ok()? {
            GoogleConfigKey::Client(key) => of_client(key),
            GoogleConfigKey::SkipSignature => Some(UNSIGNED),
            _ => None,
        };
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn switches_that_are_on_are_found_however_they_are_written() {
        let on = |variables: &[(&str, &str)]| -> Vec<String> {
            let text = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
            let variables: Vec<_> = variables.iter().map(text).collect();
            let found = weakened(&variables).into_iter();
            found.map(|it| it.variable).collect()
        };
        assert_eq!(
            on(&[
                ("AWS_SKIP_SIGNATURE", "1"),
                ("AWS_ALLOW_HTTP", "true"),
                ("AWS_UNSIGNED_PAYLOAD", "Yes"),
                ("AWS_ALLOW_INVALID_CERTIFICATES", "on"),
                ("AWS_IMDSV1_FALLBACK", "TRUE"),
                ("AWS_REGION", "true"),
                ("AWS_NO_SUCH_VARIABLE", "true"),
                ("ALLOW_HTTP", "true"),
            ]),
            [
                "AWS_ALLOW_HTTP",
                "AWS_ALLOW_INVALID_CERTIFICATES",
                "AWS_IMDSV1_FALLBACK",
                "AWS_SKIP_SIGNATURE",
                "AWS_UNSIGNED_PAYLOAD",
            ]
        );
        assert!(on(&[("AWS_ALLOW_HTTP", "false"), ("AWS_SKIP_SIGNATURE", "")]).is_empty());
    }
}

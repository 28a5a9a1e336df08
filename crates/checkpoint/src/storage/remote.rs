//! `s3://bucket/key`, `az://container/key`, `gs://bucket/key`, `hdfs://namenode:port/path`.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::{Permissions, Storage};
use crate::{Error, Result};

/// What a URL begins with, for what is reached over a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// `s3://`: S3, and what speaks its protocol.
    S3,
    /// `az://`: Azure Blob Storage.
    Azure,
    /// `gs://`: Google Cloud Storage.
    Google,
    /// `hdfs://`: the file system of Hadoop.
    Hdfs,
}

impl Scheme {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::S3, Self::Azure, Self::Google, Self::Hdfs];

    /// The one that is written like this.
    #[must_use]
    pub fn of(word: &str) -> Option<Self> {
        let mut all = Self::ALL.into_iter();
        all.find(|scheme| word.eq_ignore_ascii_case(scheme.word()))
    }

    /// As it is written.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::S3 => "s3",
            Self::Azure => "az",
            Self::Google => "gs",
            Self::Hdfs => "hdfs",
        }
    }

    /// What people call it.
    #[must_use]
    pub fn title(self) -> &'static str {
        match self {
            Self::S3 => "S3",
            Self::Azure => "Azure",
            Self::Google => "Google Cloud Storage",
            Self::Hdfs => "HDFS",
        }
    }

    /// The one that is meant by what other programs write.
    #[must_use]
    pub fn meant(word: &str) -> Option<Self> {
        Some(match word.to_ascii_lowercase().as_str() {
            "s3a" | "s3n" => Self::S3,
            "azure" | "adl" | "abfs" | "abfss" | "wasb" | "wasbs" => Self::Azure,
            "gcs" => Self::Google,
            "viewfs" | "webhdfs" => Self::Hdfs,
            _ => return None,
        })
    }

    /// A URL as it is expected.
    #[must_use]
    pub fn example(self) -> &'static str {
        match self {
            Self::S3 => "s3://bucket/directory",
            Self::Azure => "az://container/directory",
            Self::Google => "gs://bucket/directory",
            Self::Hdfs => "hdfs://namenode:port/directory",
        }
    }

    /// The feature that builds it in.
    #[cfg(not(all(feature = "azure", feature = "gcs", feature = "hdfs")))]
    fn feature(self) -> &'static str {
        match self {
            Self::S3 => "default",
            Self::Azure => "azure",
            Self::Google => "gcs",
            Self::Hdfs => "hdfs",
        }
    }

    /// What is before the directory.
    fn container(self) -> &'static str {
        match self {
            Self::S3 | Self::Google => "a bucket",
            Self::Azure => "a container",
            Self::Hdfs => "a NameNode",
        }
    }

    /// Where credentials come from, as they are not part of a URL.
    fn credentials(self) -> &'static str {
        match self {
            Self::S3 => "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_ENDPOINT_URL",
            Self::Azure => {
                "AZURE_STORAGE_ACCOUNT_NAME, AZURE_STORAGE_ACCOUNT_KEY, AZURE_STORAGE_ENDPOINT"
            }
            Self::Google => "GOOGLE_APPLICATION_CREDENTIALS",
            Self::Hdfs => "HADOOP_USER_NAME, HADOOP_CONF_DIR",
        }
    }
}

/// A directory or an object that is reached over a network: what a URL with a [`Scheme`] names. The key is
/// taken as it is, because that is how such URLs are written everywhere: nothing in it is decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remote {
    scheme: Scheme,
    /// The bucket, the container, or the NameNode with its port.
    name: String,
    /// Components between single slashes; empty: the bucket itself.
    key: String,
}

impl Remote {
    /// Reads a URL; `what` is named in messages.
    ///
    /// # Errors
    /// [`Error::Incompatible`] if it is none.
    pub fn parse(url: &str, what: &str) -> Result<Self> {
        let refuse = |why: &str| Err(Error::Incompatible(format!("{what} `{url}` {why}")));
        let Some((scheme, rest)) = url.split_once("://") else {
            return refuse("is not a URL");
        };
        let Some(scheme) = Scheme::of(scheme) else {
            return refuse("is not an s3://, az://, gs:// or hdfs:// URL");
        };
        let (name, key) = rest.split_once('/').unwrap_or((rest, ""));
        let (host, port) = match name.split_once(':') {
            Some((host, port)) if scheme == Scheme::Hdfs => (host, Some(port)),
            _ => (name, None),
        };
        if host.contains(['@', ':']) {
            // The URL may hold a password, so it is not repeated.
            return Err(Error::Incompatible(format!(
                "{what} has more than {} after {}://; credentials and endpoint come from the environment ({})",
                scheme.container(),
                scheme.word(),
                scheme.credentials()
            )));
        }
        let plain = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
        // Azure has containers whose names begin so: `$root`, `$web`.
        let host_name = match scheme {
            Scheme::Azure => host.strip_prefix('$').unwrap_or(host),
            _ => host,
        };
        if host_name.is_empty() || !host_name.chars().all(plain) {
            let no_brackets = match host.starts_with('[') {
                true => "; an address of IPv6 needs a name for it",
                false => "",
            };
            return refuse(&format!(
                "does not name {} ({} is expected{no_brackets})",
                scheme.container(),
                scheme.example()
            ));
        }
        if port.is_some_and(|port| port.parse::<u16>().is_err()) {
            return refuse(&format!(
                "has no port from 0 to 65535 after its colon ({} is expected)",
                scheme.example()
            ));
        }
        let key = key.trim_end_matches('/');
        if scheme == Scheme::Hdfs && key.contains(':') {
            return refuse("has a colon in its directory, which HDFS does not take");
        }
        if key.contains(['?', '#', '\\']) || key.chars().any(char::is_control) {
            return refuse("has a character that cannot be part of a directory's name");
        }
        let odd = |part: &str| part.is_empty() || part == "." || part == "..";
        if !key.is_empty() && key.split('/').any(odd) {
            return refuse("has a component that is empty, `.` or `..`");
        }
        Ok(Self {
            scheme,
            name: name.to_owned(),
            key: key.to_owned(),
        })
    }

    /// How it is reached.
    #[must_use]
    pub fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// The bucket's name, the container's, or the NameNode with its port.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The key, without slashes around it; empty: the bucket itself.
    #[must_use]
    pub fn key(&self) -> &str {
        &self.key
    }

    /// The bucket itself.
    #[must_use]
    pub fn root(&self) -> Self {
        Self {
            scheme: self.scheme,
            name: self.name.clone(),
            key: String::new(),
        }
    }

    /// A storage that reaches it, with credentials and endpoint from the environment's `variables`
    /// ([`super::environment`], as a rule). No call takes longer than half of `patience`. Nothing is sent yet.
    ///
    /// # Errors
    /// [`Error::Incompatible`] if the variables do not make sense or this program was built without
    /// what it takes, [`Error::Storage`] if no thread can be started.
    pub fn open(
        &self,
        patience: Duration,
        variables: &[(String, String)],
    ) -> Result<Arc<dyn Storage>> {
        match self.scheme {
            #[cfg(feature = "hdfs")]
            Scheme::Hdfs => Ok(Arc::new(super::HdfsStorage::open(
                self, patience, variables,
            )?)),
            #[cfg(not(feature = "hdfs"))]
            Scheme::Hdfs => Err(self.not_built_in()),
            #[cfg(not(feature = "azure"))]
            Scheme::Azure => Err(self.not_built_in()),
            #[cfg(not(feature = "gcs"))]
            Scheme::Google => Err(self.not_built_in()),
            _ => Ok(Arc::new(super::CloudStorage::open(
                self, patience, variables,
            )?)),
        }
    }

    /// As [`Remote::open`], for writing: makes sure that it exists, that it may be written, and that of several
    /// who make an object exactly one succeeds. What is made in HDFS has these `permissions`; buckets know none.
    ///
    /// # Errors
    /// As [`Remote::open`]; [`Error::Incompatible`] if the storage does not hold what it must,
    /// [`Error::Storage`] if it cannot be reached or refuses.
    pub fn create(
        &self,
        patience: Duration,
        variables: &[(String, String)],
        permissions: Permissions,
    ) -> Result<Arc<dyn Storage>> {
        #[cfg(not(feature = "hdfs"))]
        let _ = permissions;
        match self.scheme {
            #[cfg(feature = "hdfs")]
            Scheme::Hdfs => Ok(Arc::new(super::HdfsStorage::create(
                self,
                patience,
                variables,
                permissions,
            )?)),
            #[cfg(not(feature = "hdfs"))]
            Scheme::Hdfs => Err(self.not_built_in()),
            #[cfg(not(feature = "azure"))]
            Scheme::Azure => Err(self.not_built_in()),
            #[cfg(not(feature = "gcs"))]
            Scheme::Google => Err(self.not_built_in()),
            _ => Ok(Arc::new(super::CloudStorage::create(
                self, patience, variables,
            )?)),
        }
    }

    #[cfg(not(all(feature = "azure", feature = "gcs", feature = "hdfs")))]
    fn not_built_in(&self) -> Error {
        let (title, feature) = (self.scheme.title(), self.scheme.feature());
        Error::Incompatible(format!(
            "{self} is in {title}, which this program was built without (cargo's feature `{feature}` adds it)"
        ))
    }
}

impl fmt::Display for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme.word(), self.name)?;
        match self.key.as_str() {
            "" => Ok(()),
            key => write!(f, "/{key}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(url: &str) -> String {
        match Remote::parse(url, "directory") {
            Err(Error::Incompatible(message)) => message,
            other => panic!("{url}: {other:?}"),
        }
    }

    #[test]
    fn a_url_names_a_bucket_and_a_key() {
        for (url, shown) in [
            ("s3://b", "s3://b"),
            ("s3://b/", "s3://b"),
            ("S3://b.c-d/x y/%20//", "s3://b.c-d/x y/%20"),
            ("s3://b/x/chk-1/_metadata", "s3://b/x/chk-1/_metadata"),
            ("az://container/x/", "az://container/x"),
            ("az://$root/x", "az://$root/x"),
            ("gs://b_c/x", "gs://b_c/x"),
            (
                "hdfs://namenode:40010/flink/checkpoints",
                "hdfs://namenode:40010/flink/checkpoints",
            ),
            ("hdfs://nameservice/x", "hdfs://nameservice/x"),
        ] {
            assert_eq!(Remote::parse(url, "directory").unwrap().to_string(), shown);
        }
    }

    #[test]
    fn what_is_none_is_refused_and_a_password_not_repeated() {
        assert!(refused("s3:///x").contains("does not name a bucket"));
        assert!(refused("az:///x").contains("does not name a container"));
        assert!(refused("hdfs:///x").contains("does not name a NameNode"));
        assert!(refused("hdfs://[::1]:8020/x").contains("IPv6 needs a name"));
        assert!(refused("hdfs://host:port/x").contains("no port"));
        assert!(refused("hdfs://host:99999/x").contains("no port"));
        assert!(refused("s3://b/x//y").contains("component that is empty"));
        assert!(refused("s3://b/../x").contains("component that is empty"));
        assert!(refused("s3://b/x?region=y").contains("cannot be part"));
        for (url, variable) in [
            ("s3://AKID:secret@b/x", "AWS_ACCESS_KEY_ID"),
            ("az://account:secret@b/x", "AZURE_STORAGE_ACCOUNT_KEY"),
            ("gs://secret@b/x", "GOOGLE_APPLICATION_CREDENTIALS"),
            ("hdfs://me@secret:9000/x", "HADOOP_USER_NAME"),
        ] {
            let message = refused(url);
            assert!(
                message.contains(variable) && !message.contains("secret"),
                "{message}"
            );
        }
    }
}

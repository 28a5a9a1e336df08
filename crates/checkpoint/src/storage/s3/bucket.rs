//! `s3://bucket/key`.

use std::fmt;

use crate::{Error, Result};

/// A bucket and a key in it: what an `s3://` URL names. The key is taken as it is, because that is how
/// such URLs are written everywhere: nothing in it is decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bucket {
    bucket: String,
    /// Components between single slashes; empty: the bucket itself.
    key: String,
}

impl Bucket {
    /// Reads an `s3://` URL; `what` is named in messages.
    ///
    /// # Errors
    /// [`Error::Incompatible`] if it is none.
    pub fn parse(url: &str, what: &str) -> Result<Self> {
        let refuse = |why: &str| Err(Error::Incompatible(format!("{what} `{url}` {why}")));
        let Some((scheme, rest)) = url.split_once("://") else {
            return refuse("is not a URL");
        };
        if !scheme.eq_ignore_ascii_case("s3") {
            return refuse("is not an s3:// URL");
        }
        let (bucket, key) = rest.split_once('/').unwrap_or((rest, ""));
        if bucket.contains(['@', ':']) {
            // The URL may hold a password, so it is not repeated.
            return Err(Error::Incompatible(format!(
                "{what} has more than a bucket behind s3://; credentials and endpoint come from the environment (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_ENDPOINT_URL)"
            )));
        }
        let plain = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
        if bucket.is_empty() || !bucket.chars().all(plain) {
            return refuse("does not name a bucket (s3://bucket/directory is expected)");
        }
        let key = key.trim_end_matches('/');
        if key.contains(['?', '#', '\\']) || key.chars().any(char::is_control) {
            return refuse("has a character that cannot be part of a directory's name");
        }
        let odd = |part: &str| part.is_empty() || part == "." || part == "..";
        if !key.is_empty() && key.split('/').any(odd) {
            return refuse("has a component that is empty, `.` or `..`");
        }
        Ok(Self {
            bucket: bucket.to_owned(),
            key: key.to_owned(),
        })
    }

    /// The bucket's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.bucket
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
            bucket: self.bucket.clone(),
            key: String::new(),
        }
    }
}

impl fmt::Display for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "s3://{}", self.bucket)?;
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
        match Bucket::parse(url, "directory") {
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
        ] {
            assert_eq!(Bucket::parse(url, "directory").unwrap().to_string(), shown);
        }
    }

    #[test]
    fn what_is_none_is_refused_and_a_password_not_repeated() {
        assert!(refused("s3:///x").contains("does not name a bucket"));
        assert!(refused("s3://b/x//y").contains("component that is empty"));
        assert!(refused("s3://b/../x").contains("component that is empty"));
        assert!(refused("s3://b/x?region=y").contains("cannot be part"));
        let message = refused("s3://AKID:secret@b/x");
        assert!(message.contains("AWS_ACCESS_KEY_ID") && !message.contains("secret"));
    }
}

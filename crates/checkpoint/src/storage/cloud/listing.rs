//! What is in a directory, page by page.
//!
//! Pages come from outside: a server (or a proxy before it) may send one that leads to itself, pages
//! without end, or names that were not asked for. So each page is checked before the next is asked for,
//! and what is kept of them has a limit.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use object_store::list::PaginatedListOptions;
use object_store::{Error as StoreError, Result};

use super::Client;
use crate::storage::{Listing, Object};

/// The most objects and directories that one directory may have. They are held in memory: some hundred
/// bytes each.
pub(super) const LISTED_MAX: usize = if cfg!(test) { 20_000 } else { 1_000_000 };

/// Lists `directory`, a key with a slash at its end, or nothing for the bucket itself. Names in the listing are
/// without `prefix`.
pub(super) async fn list(client: &dyn Client, directory: &str, prefix: &str) -> Result<Listing> {
    let mut directories = BTreeSet::new();
    let mut objects = BTreeMap::new();
    let mut listed = 0;
    let mut page_token = None;
    loop {
        let options = PaginatedListOptions {
            delimiter: Some(Cow::Borrowed("/")),
            page_token: page_token.clone(),
            ..PaginatedListOptions::default()
        };
        let asked = (!directory.is_empty()).then_some(directory);
        let page = client.list_paginated(asked, options).await?;
        listed += page.result.objects.len() + page.result.common_prefixes.len();
        if listed > LISTED_MAX {
            return Err(refused(format!("it has more than {LISTED_MAX} objects")));
        }
        let name = |key: &str| match key.strip_prefix(prefix) {
            Some(name) if key.starts_with(directory) => Ok(name.to_owned()),
            _ => Err(refused(format!(
                "the answer names `{}`, which is not in it",
                key.escape_debug()
            ))),
        };
        for found in page.result.common_prefixes {
            directories.insert(name(found.as_ref())?);
        }
        for found in page.result.objects {
            let key = found.location.as_ref();
            // Other programs mark a directory by an object of its name.
            if key == directory.trim_end_matches('/') {
                continue;
            }
            let name = name(key)?;
            let object = Object {
                name: name.clone(),
                size: found.size,
                modified_at: found.last_modified.timestamp_millis(),
            };
            objects.insert(name, object);
        }
        match page.page_token {
            None => break,
            next if next == page_token => {
                return Err(refused(
                    "the answer leads to the same page again".to_owned(),
                ));
            }
            next => page_token = next,
        }
    }
    Ok(Listing {
        directories: directories.into_iter().collect(),
        objects: objects.into_values().collect(),
    })
}

fn refused(why: String) -> StoreError {
    StoreError::Generic {
        store: "cloud",
        source: why.into(),
    }
}

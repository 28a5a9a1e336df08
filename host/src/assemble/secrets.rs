//! Looks up the secrets that a job file refers to, at the start.

use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use job_file::operator::OperatorSection;
use job_file::problem::Problems;
use job_file::secret::{SecretSource, is_secret_name};
use operator::text::size;
use wasm::Secret;

/// No secret is longer.
const BYTES_MAX: u64 = 64 << 10;

/// What an operator gets, with the secrets in it, and what is not to be shown. What is wrong goes to `problems`.
pub(super) fn configuration(
    section: &OperatorSection,
    problems: &mut Problems,
) -> Option<(String, Vec<Secret>)> {
    let mut config = section.config.clone();
    let mut secrets = Vec::new();
    let mut complete = true;
    for secret in &section.secrets {
        match value(&secret.source) {
            Ok(value) => {
                if let Some(place) = config.pointer_mut(&secret.pointer) {
                    *place = value.clone().into();
                }
                let shown = secret.source.to_string();
                secrets.push(Secret { value, shown });
            }
            Err((message, hint)) => {
                complete = false;
                let key = format!("operator.{}.{}", section.node.id, secret.key);
                problems.push(secret.place.clone(), key, message, Some(hint));
            }
        }
    }
    // Those that it reads from its environment.
    for name in section.grants.env.iter().filter(|it| is_secret_name(it)) {
        if let Ok(value) = std::env::var(name) {
            let shown = SecretSource::Env(name.clone()).to_string();
            secrets.push(Secret { value, shown });
        }
    }
    complete.then(|| (config.to_string(), secrets))
}

/// A secret; or what is wrong with it, and what mends that.
fn value(source: &SecretSource) -> Result<String, (String, String)> {
    let (text, what, hint) = match source {
        SecretSource::Env(name) => {
            let hint = "set it where the host is started".to_owned();
            let what = format!("the environment variable `{name}`");
            let Some(value) = std::env::var_os(name) else {
                return Err((format!("{what} is not set"), hint));
            };
            (value.into_encoded_bytes(), what, hint)
        }
        SecretSource::File(path) => {
            let hint = "a table with nothing but `file` in it stands for what is in that file";
            let text = of_file(path)?;
            (
                text,
                format!("the file {}", path.display()),
                hint.to_owned(),
            )
        }
    };
    if text.len() as u64 > BYTES_MAX {
        let message = format!(
            "{what} has more than {}, which no secret has",
            size(BYTES_MAX)
        );
        return Err((message, hint));
    }
    let Ok(mut text) = String::from_utf8(text) else {
        return Err((format!("{what} is not UTF-8"), hint));
    };
    // Editors end a file with a line break.
    if matches!(source, SecretSource::File(_)) {
        text.truncate(text.trim_end_matches(['\n', '\r']).len());
    }
    match text.is_empty() {
        true => Err((format!("{what} is empty"), hint)),
        false => Ok(text),
    }
}

fn of_file(path: &Path) -> Result<Vec<u8>, (String, String)> {
    let shown = path.display();
    let unreadable = |error: std::io::Error| {
        let hint = "a table with nothing but `file` in it stands for what is in that file";
        (
            format!("the file {shown} cannot be read: {error}"),
            hint.to_owned(),
        )
    };
    let irregular = || {
        let hint = "name a file that holds the secret and nothing else";
        (format!("{shown} is not a file"), hint.to_owned())
    };
    // Asked before it is opened: a pipe would wait.
    if !fs::metadata(path).map_err(unreadable)?.is_file() {
        return Err(irregular());
    }
    let file = fs::File::open(path).map_err(unreadable)?;
    let found = file.metadata().map_err(unreadable)?;
    if !found.is_file() {
        return Err(irregular());
    }
    let mode = found.permissions().mode() & 0o777;
    if mode & 0o006 != 0 {
        let may = match mode & 0o004 {
            0 => "written",
            _ => "read",
        };
        let message =
            format!("the file {shown} may be {may} by every user of this machine (mode {mode:o})");
        return Err((message, format!("chmod 600 {shown}")));
    }
    let mut text = Vec::new();
    file.take(BYTES_MAX + 1)
        .read_to_end(&mut text)
        .map_err(unreadable)?;
    Ok(text)
}

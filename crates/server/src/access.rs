//! Who gets an answer on TCP: a request has to name this host, come from no foreign page, and have the token.
//!
//! That a client is on the same machine says little: any page that its browser shows can send requests to it. So the
//! `Host` has to be an address or a name that was allowed (else a name of a stranger could be made to resolve to
//! this host), a foreign `Origin` or `Sec-Fetch-Site` is refused, and what changes something is JSON, which a foreign
//! page cannot send without asking first.

use std::net::IpAddr;

use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderName, ORIGIN};
use hyper::http::request::Parts;
use hyper::{Method, StatusCode};
use sha2::{Digest, Sha256};

use crate::api::{Code, Failure};

/// The bytes that a token has at least.
const TOKEN_BYTES_MIN: usize = 16;

/// The bytes that a token has at most.
const TOKEN_BYTES_MAX: usize = 1024;

/// What a client has to show.
#[derive(Clone, PartialEq, Eq)]
pub struct Token([u8; 32]);

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token(..)")
    }
}

impl Token {
    /// A token, without the white space around it.
    ///
    /// # Errors
    /// It is too short or too long, or has characters that no header can carry, in words.
    pub fn new(text: &str) -> Result<Self, String> {
        let text = text.trim();
        if !(TOKEN_BYTES_MIN..=TOKEN_BYTES_MAX).contains(&text.len()) {
            return Err(format!(
                "the token has {} bytes, and {TOKEN_BYTES_MIN} to {TOKEN_BYTES_MAX} are allowed \
                 (`openssl rand -hex 24` makes one)",
                text.len()
            ));
        }
        if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err("the token has characters that are not printable ASCII".to_owned());
        }
        Ok(Self(Sha256::digest(text).into()))
    }

    /// Whether this is the token. Its digest is compared: how long that takes says nothing of the token.
    fn is(&self, text: &str) -> bool {
        let digest: [u8; 32] = Sha256::digest(text).into();
        digest == self.0
    }
}

/// Who gets an answer, and to what.
#[derive(Clone, Debug, Default)]
pub struct Access {
    /// What clients have to show, if anything.
    pub token: Option<Token>,
    /// Names by which this host is reached, beside addresses and `localhost`.
    pub hosts: Vec<String>,
    /// Nothing can be changed.
    pub read_only: bool,
    /// Below which directories clients may have savepoints written, beside that of the job.
    pub savepoint_directories: Vec<String>,
}

/// What a request asks for, as far as access goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// The page, which says nothing of any job.
    Page,
    /// Anything else.
    Data,
}

const FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
const FETCH_MODE: HeaderName = HeaderName::from_static("sec-fetch-mode");

impl Access {
    /// Whether the request gets an answer.
    ///
    /// # Errors
    /// It does not, with the status and in words.
    pub(crate) fn check(
        &self,
        request: &Parts,
        wanted: Wanted,
    ) -> Result<(), (StatusCode, Failure)> {
        let forbidden = |message: String| {
            Err((
                StatusCode::FORBIDDEN,
                Failure::new(Code::Forbidden, message),
            ))
        };
        let host = host_of(request)?;
        // Which of two counts would be for somebody else to say.
        for name in [ORIGIN, FETCH_SITE, FETCH_MODE, AUTHORIZATION, CONTENT_TYPE] {
            if request.headers.get_all(&name).iter().nth(1).is_some() {
                let message = format!("the header `{name}` stands there twice");
                return Err((StatusCode::BAD_REQUEST, Failure::bad_request(message)));
            }
        }
        if !self.knows(host) {
            let message = format!(
                "`{}` is no name of this host: it answers to addresses, `localhost` and `http.hosts`",
                operator::text::name(host)
            );
            return Err((
                StatusCode::MISDIRECTED_REQUEST,
                Failure::new(Code::Forbidden, message),
            ));
        }
        let is_foreign = header(request, &ORIGIN).is_some_and(|origin| {
            let authority = origin.split_once("://").map(|(_, authority)| authority);
            !authority.is_some_and(|authority| authority.eq_ignore_ascii_case(host))
        });
        if is_foreign {
            return forbidden("a page of another origin asks, and it may not".to_owned());
        }
        let is_foreign = match header(request, &FETCH_SITE) {
            None | Some("same-origin" | "none") => false,
            // Somebody follows a link to the page: that shows nothing to where the link was.
            Some(_) => wanted == Wanted::Data || header(request, &FETCH_MODE) != Some("navigate"),
        };
        if is_foreign {
            return forbidden("a page of another site asks, and it may not".to_owned());
        }
        let reads = matches!(request.method, Method::GET | Method::HEAD);
        if wanted == Wanted::Page && reads {
            return Ok(());
        }
        self.check_token(request)?;
        if reads {
            return Ok(());
        }
        if self.read_only {
            return forbidden("this host is read-only here (`http.read-only`)".to_owned());
        }
        let is_json = header(request, &CONTENT_TYPE).is_some_and(|kind| {
            let kind = kind.split(';').next().unwrap_or_default();
            kind.trim().eq_ignore_ascii_case("application/json")
        });
        if !is_json {
            let message = "what changes something is sent with `Content-Type: application/json`";
            return Err((
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                Failure::bad_request(message),
            ));
        }
        Ok(())
    }

    fn check_token(&self, request: &Parts) -> Result<(), (StatusCode, Failure)> {
        let Some(token) = &self.token else {
            return Ok(());
        };
        let shown = header(request, &AUTHORIZATION).and_then(|value| {
            let (scheme, shown) = value.split_once(' ')?;
            scheme
                .eq_ignore_ascii_case("bearer")
                .then_some(shown.trim())
        });
        let message = match shown {
            Some(shown) if token.is(shown) => return Ok(()),
            Some(_) => "the token is wrong",
            None => "this host wants a token: `Authorization: Bearer TOKEN`",
        };
        Err((
            StatusCode::UNAUTHORIZED,
            Failure::new(Code::Forbidden, message),
        ))
    }

    /// Whether a request to this host and port is for us. An address cannot be made to mean another machine; a
    /// name can.
    fn knows(&self, host: &str) -> bool {
        let (name, port) = match host.strip_prefix('[') {
            Some(rest) => rest.split_once(']').unwrap_or((rest, "]")),
            None => host.find(':').map_or((host, ""), |at| host.split_at(at)),
        };
        let is_port = |port: &str| {
            port.strip_prefix(':')
                .is_some_and(|it| it.parse::<u16>().is_ok())
        };
        if !port.is_empty() && !is_port(port) {
            return false;
        }
        name.eq_ignore_ascii_case("localhost")
            || name.parse::<IpAddr>().is_ok()
            || self
                .hosts
                .iter()
                .any(|known| known.eq_ignore_ascii_case(name))
    }

    /// Whether a client may have a savepoint written into this directory of this job, whose own is `own`.
    ///
    /// # Errors
    /// It may not, in words.
    pub(crate) fn check_savepoint(
        &self,
        directory: &str,
        own: Option<&str>,
    ) -> Result<(), Failure> {
        if self.is_allowed(directory, own.into_iter()) {
            return Ok(());
        }
        let message = format!(
            "no savepoint may be written to `{}` from here",
            operator::text::name(directory)
        );
        Err(Failure::new(Code::Forbidden, message).hint(
            "leave the directory out, or have it allowed: `http.savepoint-dirs` in the job file",
        ))
    }

    fn is_allowed<'a>(&'a self, directory: &str, own: impl Iterator<Item = &'a str>) -> bool {
        let allowed = self.savepoint_directories.iter().map(String::as_str);
        allowed.chain(own).any(|above| is_below(directory, above))
    }

    /// Whether a savepoint may be deleted: below the same directories, of which `own` are those of the jobs.
    ///
    /// # Errors
    /// It may not, in words.
    pub(crate) fn check_disposal<'a>(
        &'a self,
        savepoint: &str,
        own: impl Iterator<Item = &'a str>,
    ) -> Result<(), Failure> {
        if self.is_allowed(savepoint, own) {
            return Ok(());
        }
        let message = format!(
            "no savepoint may be deleted at `{}` from here",
            operator::text::name(savepoint)
        );
        Err(Failure::new(Code::Forbidden, message).hint(
            "have its directory allowed (`http.savepoint-dirs` in the job file), or use `host savepoints dispose`",
        ))
    }
}

/// A directory without the scheme that a path may have, and without slashes at its end. Of a path, many slashes in a row are
/// one, as for whoever opens it; in a bucket they have empty names between them.
fn plain(directory: &str) -> String {
    let path = directory.strip_prefix("file://").unwrap_or(directory);
    let mut plain = path.to_owned();
    if !path.contains("://") {
        while plain.contains("//") {
            plain = plain.replace("//", "/");
        }
    }
    plain.truncate(plain.trim_end_matches('/').len());
    plain
}

/// Whether two directories are the same one, by their names.
pub(crate) fn is_same(one: &str, other: &str) -> bool {
    plain(one) == plain(other)
}

/// Whether a directory is another one or in it, by their names.
fn is_below(directory: &str, above: &str) -> bool {
    let (directory, above) = (plain(directory), plain(above));
    // Neither `..` nor what is one to somebody else: `%2e` in a URL, an empty name in a bucket.
    let goes_astray = |name: &str| {
        // What reads a URL drops control characters, and blanks at its ends.
        matches!(name.trim(), "." | "..")
            || name.contains(['%', '\\'])
            || name.contains(char::is_control)
    };
    if directory.split('/').any(goes_astray) || above.is_empty() {
        return false;
    }
    match directory.strip_prefix(&above) {
        Some(rest) => rest.is_empty() || rest.starts_with('/'),
        None => false,
    }
}

/// The host and port that the request is for.
fn host_of(request: &Parts) -> Result<&str, (StatusCode, Failure)> {
    let mut hosts = request.headers.get_all(HOST).iter();
    match (hosts.next(), hosts.next()) {
        (Some(host), None) => host.to_str().map_err(drop),
        _ => Err(()),
    }
    .map_err(|()| {
        let message = "the request does not say once to which `Host` it goes";
        (StatusCode::BAD_REQUEST, Failure::bad_request(message))
    })
}

fn header<'a>(request: &'a Parts, name: &HeaderName) -> Option<&'a str> {
    let value = request.headers.get(name)?;
    // What is no text is no value that anything is compared with.
    Some(value.to_str().unwrap_or("\u{fffd}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(method: &str, headers: &[(&str, &str)]) -> Parts {
        let mut request = hyper::Request::builder().method(method).uri("/v1/jobs");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    fn status(access: &Access, method: &str, headers: &[(&str, &str)]) -> u16 {
        let checked = access.check(&parts(method, headers), Wanted::Data);
        checked.map_or_else(|(status, _)| status.as_u16(), |()| 200)
    }

    const LOCAL: (&str, &str) = ("host", "localhost:8081");
    const JSON: (&str, &str) = ("content-type", "application/json; charset=UTF-8");

    #[test]
    fn a_directory_is_the_same_however_it_is_written() {
        for other in [
            "/s/a",
            "/s//a",
            "//s///a//",
            "file:///s/a/",
            "file:////s//a",
        ] {
            assert!(is_same("/s/a", other), "{other}");
        }
        for other in ["/s", "/s/b", "/s/a/b", "s3://s/a"] {
            assert!(!is_same("/s/a", other), "{other}");
        }
        assert!(is_same("s3://b/a", "s3://b/a/"));
        assert!(
            !is_same("s3://b/a", "s3://b//a"),
            "another name in a bucket"
        );
    }

    #[test]
    fn a_request_has_to_name_this_host() {
        let access = Access {
            hosts: vec!["flows.example.org".to_owned()],
            ..Access::default()
        };
        for host in [
            "localhost",
            "LocalHost:80",
            "127.0.0.1:8081",
            "10.1.2.3",
            "[::1]:8081",
            "[fe80::1]",
            "Flows.example.org:443",
        ] {
            assert_eq!(status(&access, "GET", &[("host", host)]), 200, "{host}");
        }
        for host in [
            "evil.example.org",
            "localhost.example.org",
            "127.0.0.1.nip.io",
            "xflows.example.org",
            "[::1]evil",
            "[::1",
            "127.0.0.1:99999",
            "localhost:80:80",
            "",
        ] {
            assert_eq!(status(&access, "GET", &[("host", host)]), 421, "{host}");
        }
        assert_eq!(status(&access, "GET", &[]), 400);
        assert_eq!(status(&access, "GET", &[LOCAL, ("host", "evil")]), 400);
    }

    #[test]
    fn a_foreign_page_gets_nothing() {
        let access = Access::default();
        let same = ("origin", "http://localhost:8081");
        assert_eq!(status(&access, "GET", &[LOCAL, same]), 200);
        for origin in [
            "http://evil",
            "http://localhost:9",
            "null",
            "",
            "localhost:8081",
        ] {
            assert_eq!(status(&access, "GET", &[LOCAL, ("origin", origin)]), 403);
        }
        for (site, expected) in [
            ("same-origin", 200),
            ("none", 200),
            ("same-site", 403),
            ("cross-site", 403),
        ] {
            let headers = [
                LOCAL,
                ("sec-fetch-site", site),
                ("sec-fetch-mode", "navigate"),
            ];
            assert_eq!(status(&access, "GET", &headers), expected, "{site}");
        }
        let link = parts(
            "GET",
            &[
                LOCAL,
                ("sec-fetch-site", "cross-site"),
                ("sec-fetch-mode", "navigate"),
            ],
        );
        assert!(access.check(&link, Wanted::Page).is_ok());
        let script = parts(
            "GET",
            &[
                LOCAL,
                ("sec-fetch-site", "cross-site"),
                ("sec-fetch-mode", "no-cors"),
            ],
        );
        assert!(access.check(&script, Wanted::Page).is_err());
    }

    #[test]
    fn a_change_is_json_and_not_where_nothing_may_change() {
        let mut access = Access::default();
        assert_eq!(status(&access, "POST", &[LOCAL, JSON]), 200);
        assert_eq!(status(&access, "PATCH", &[LOCAL]), 415);
        let form = ("content-type", "text/plain");
        assert_eq!(status(&access, "POST", &[LOCAL, form]), 415);
        access.read_only = true;
        assert_eq!(status(&access, "POST", &[LOCAL, JSON]), 403);
        assert_eq!(status(&access, "GET", &[LOCAL]), 200);
    }

    #[test]
    fn a_token_is_wanted_of_everybody_once_there_is_one() {
        let token = Token::new(" 0123456789abcdef\n").unwrap();
        let access = Access {
            token: Some(token),
            ..Access::default()
        };
        for (shown, expected) in [
            ("Bearer 0123456789abcdef", 200),
            ("bearer 0123456789abcdef", 200),
            ("Bearer 0123456789abcdeF", 401),
            ("Bearer ", 401),
            ("Bearer", 401),
            ("Basic 0123456789abcdef", 401),
        ] {
            let headers = [LOCAL, ("authorization", shown)];
            assert_eq!(status(&access, "GET", &headers), expected, "{shown}");
        }
        assert_eq!(status(&access, "GET", &[LOCAL]), 401);
        assert!(access.check(&parts("GET", &[LOCAL]), Wanted::Page).is_ok());
        for bad in ["short", "0123456789 abcdef", "0123456789abcd\u{e9}f", ""] {
            assert!(Token::new(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn savepoints_stay_below_what_is_allowed() {
        let access = Access {
            savepoint_directories: vec![
                "/data/savepoints/".to_owned(),
                "s3://bucket/sp".to_owned(),
            ],
            ..Access::default()
        };
        let own = Some("/jobs/own");
        for good in [
            "/data/savepoints",
            "/data/savepoints/today",
            "file:///data/savepoints/x",
            "s3://bucket/sp/1",
            "/jobs/own",
        ] {
            assert!(access.check_savepoint(good, own).is_ok(), "{good}");
        }
        for bad in [
            "/data/savepoints-of-others",
            "/data",
            "/data/savepoints/../../etc",
            "/data/savepoints/%2e%2e/x",
            "file:///data/savepoints/.\t./.\t./home/x",
            "file:///data/savepoints/.\n./x",
            "file:///data/savepoints/.. ",
            "/data/savepoints/\r../x",
            "s3://bucket/spare",
            "s3://other/sp",
            "/",
            "",
        ] {
            assert!(access.check_savepoint(bad, own).is_err(), "{bad}");
        }
        assert!(
            Access::default()
                .check_savepoint("/anything", None)
                .is_err()
        );
    }
}

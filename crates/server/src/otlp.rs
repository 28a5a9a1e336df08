//! Sends the metrics of a process to a collector of OpenTelemetry, by OTLP over HTTP, as the variables of the
//! environment say that its specification has for that.

use std::cell::Cell;
use std::ffi::OsString;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use operator::clock::Clock;
use operator::text::name;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use reqwest::{Client, Url};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::oneshot;
use tokio::time::sleep;

use crate::client::exchange::causes;
use crate::metrics::{self, otlp};
use crate::{Jobs, rest};

/// Where it is sent if the variable has only the place of the collector.
const PATH: &str = "v1/metrics";

/// How often it is sent, as the specification has it.
const INTERVAL: Duration = Duration::from_secs(60);

/// How long a collector gets for an answer, as the specification has it.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The same for what is sent when the process ends.
const LAST_TIMEOUT: Duration = Duration::from_secs(2);

/// Where and how metrics are sent.
#[derive(Clone)]
pub struct OtlpOptions {
    endpoint: Url,
    headers: HeaderMap,
    interval: Duration,
    timeout: Duration,
    attributes: Vec<(String, String)>,
}

// Headers may have secrets.
impl fmt::Debug for OtlpOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OtlpOptions")
            .field("endpoint", &self.endpoint())
            .finish_non_exhaustive()
    }
}

impl OtlpOptions {
    /// Reads the variables of the environment that the specification of OpenTelemetry has. `None`: nothing is to be sent,
    /// because no endpoint is set or it is switched off.
    ///
    /// # Errors
    /// A variable makes no sense, in words.
    pub fn of(variable: impl Fn(&str) -> Option<OsString>) -> Result<Option<Self>, String> {
        let unreadable = Cell::new(None);
        let variable = |name: &str| {
            let value = variable(name)?.into_string();
            if value.is_err() {
                unreadable.set(Some(format!("{name} is not UTF-8")));
            }
            value.ok().filter(|value| !value.trim().is_empty())
        };
        let options = Self::read(variable)?;
        unreadable.into_inner().map_or(Ok(options), Err)
    }

    fn read(variable: impl Fn(&str) -> Option<String>) -> Result<Option<Self>, String> {
        let both = |what: &str| {
            let own = format!("OTEL_EXPORTER_OTLP_METRICS_{what}");
            let of_all = format!("OTEL_EXPORTER_OTLP_{what}");
            variable(&own)
                .map(|value| (own, value))
                .or_else(|| variable(&of_all).map(|value| (of_all, value)))
        };
        let is_off = variable("OTEL_SDK_DISABLED")
            .is_some_and(|it| it.eq_ignore_ascii_case("true"))
            || variable("OTEL_METRICS_EXPORTER").is_some_and(|it| it == "none");
        let Some((key, text)) = both("ENDPOINT").filter(|_| !is_off) else {
            return Ok(None);
        };
        let endpoint = endpoint(&key, &text)?;
        if let Some((key, protocol)) = both("PROTOCOL").filter(|(_, it)| it != "http/protobuf") {
            let protocol = name(&protocol);
            return Err(format!(
                "{key} is `{protocol}`, and only `http/protobuf` is spoken here: leave it out, and name the collector's port for HTTP (4318)"
            ));
        }
        let headers = match both("HEADERS") {
            Some((key, text)) => headers(&key, &text)?,
            None => HeaderMap::new(),
        };
        let milliseconds = |key: &str, default| match variable(key) {
            None => Ok(default),
            Some(text) => match text.trim().parse() {
                Ok(0) | Err(_) => Err(format!(
                    "{key} is `{}`, which is no number of milliseconds",
                    name(&text)
                )),
                Ok(ms) => Ok(Duration::from_millis(ms)),
            },
        };
        let timeout = match both("TIMEOUT") {
            Some((key, _)) => milliseconds(&key, TIMEOUT)?,
            None => TIMEOUT,
        };
        Ok(Some(Self {
            endpoint,
            headers,
            interval: milliseconds("OTEL_METRIC_EXPORT_INTERVAL", INTERVAL)?,
            timeout,
            attributes: attributes(&variable)?,
        }))
    }

    /// Where they are sent, as it may be shown: a query may have a secret in it.
    #[must_use]
    pub fn endpoint(&self) -> String {
        let mut endpoint = self.endpoint.clone();
        if endpoint.query().is_some() {
            endpoint.set_query(Some("..."));
        }
        endpoint.into()
    }
}

/// The address of the requests. The variable for metrics alone has it in full.
fn endpoint(key: &str, text: &str) -> Result<Url, String> {
    let wrong = |why: &str| format!("{key} is `{}`, {why}", name(text));
    let hint = "and should be an address such as `http://localhost:4318`";
    let mut url = Url::parse(text.trim()).map_err(|_| wrong(hint))?;
    if !matches!(url.scheme(), "http" | "https") || url.host().is_none() {
        return Err(wrong(hint));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(format!(
            "{key} has a user's name or password: they belong in OTEL_EXPORTER_OTLP_HEADERS"
        ));
    }
    if !key.contains("METRICS") {
        let path = url.path().trim_end_matches('/').to_owned();
        url.set_path(&format!("{path}/{PATH}"));
    }
    Ok(url)
}

/// `name=value` pairs, separated by commas and percent-encoded.
fn pairs(key: &str, text: &str) -> Result<Vec<(String, String)>, String> {
    let decode = |text: &str| {
        let decoded = percent_encoding::percent_decode_str(text.trim()).decode_utf8();
        decoded.map(std::borrow::Cow::into_owned)
    };
    let each = text.split(',').filter(|pair| !pair.trim().is_empty());
    each.map(|pair| {
        // Not what it is: it may be a secret.
        let wrong = || format!("{key} is not a list of `name=value`, separated by commas");
        let (name, value) = pair.split_once('=').ok_or_else(wrong)?;
        Ok((
            decode(name).map_err(|_| wrong())?,
            decode(value).map_err(|_| wrong())?,
        ))
    })
    .collect()
}

fn headers(key: &str, text: &str) -> Result<HeaderMap, String> {
    let mut headers = HeaderMap::new();
    for (name, value) in pairs(key, text)? {
        let wrong = || format!("{key} has a name or value that no header can have");
        let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| wrong())?;
        let mut value = HeaderValue::from_str(&value).map_err(|_| wrong())?;
        value.set_sensitive(true);
        headers.insert(name, value);
    }
    Ok(headers)
}

/// What is said of this process.
fn attributes(variable: &impl Fn(&str) -> Option<String>) -> Result<Vec<(String, String)>, String> {
    let key = "OTEL_RESOURCE_ATTRIBUTES";
    let mut attributes = match variable(key) {
        Some(text) => pairs(key, &text)?,
        None => Vec::new(),
    };
    let mut set = |key: &str, value: Option<String>, default: Option<String>| {
        let is_set = attributes.iter().any(|(known, _)| known == key);
        if let Some(value) = value {
            attributes.retain(|(known, _)| known != key);
            attributes.push((key.to_owned(), value));
        } else if let (false, Some(default)) = (is_set, default) {
            attributes.push((key.to_owned(), default));
        }
    };
    let service = variable("OTEL_SERVICE_NAME");
    set("service.name", service, Some("highwater".to_owned()));
    let version = env!("CARGO_PKG_VERSION").to_owned();
    set("service.version", None, Some(version));
    set("process.pid", None, Some(std::process::id().to_string()));
    Ok(attributes)
}

/// Sends metrics for as long as it lives.
#[derive(Debug)]
pub struct OtlpExporter {
    close: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl OtlpExporter {
    /// Begins to send those of these jobs.
    ///
    /// # Errors
    /// There is no thread to be had, or no certificates.
    #[expect(
        clippy::disallowed_methods,
        reason = "it sends what all jobs of the process have counted, before, between and after their attempts"
    )]
    pub fn start(
        jobs: Arc<dyn Jobs>,
        options: OtlpOptions,
        clock: Arc<dyn Clock>,
    ) -> io::Result<Self> {
        let sender = Sender::new(jobs, options, clock)?;
        let (close, closed) = oneshot::channel();
        let thread = thread::Builder::new()
            .name("otlp".to_owned())
            .spawn(move || sender.run(closed))?;
        Ok(Self {
            close: Some(close),
            thread: Some(thread),
        })
    }

    /// Sends them a last time, and ends. Takes two seconds at most.
    pub fn close(mut self) {
        drop(self.close.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that sends metrics panicked");
        }
    }
}

struct Sender {
    jobs: Arc<dyn Jobs>,
    options: OtlpOptions,
    clock: Arc<dyn Clock>,
    client: Client,
    runtime: Runtime,
    since_ms: i64,
}

impl Sender {
    fn new(jobs: Arc<dyn Jobs>, options: OtlpOptions, clock: Arc<dyn Clock>) -> io::Result<Self> {
        // The client asks for it when it is built. If there is one, it stays.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .map_err(io::Error::other)?;
        let runtime = Builder::new_current_thread()
            .enable_io()
            .enable_time()
            .build()?;
        Ok(Self {
            since_ms: clock.now_ms(),
            jobs,
            options,
            clock,
            client,
            runtime,
        })
    }

    fn run(&self, mut closed: oneshot::Receiver<()>) {
        rest::give_way();
        self.runtime.block_on(async {
            let mut is_well = true;
            // What is being sent at the end gives way to the last one.
            tokio::select! {
                biased;
                _ = &mut closed => {}
                () = async {
                    loop {
                        sleep(self.options.interval).await;
                        self.send(self.options.timeout, &mut is_well).await;
                    }
                } => {}
            }
            let timeout = self.options.timeout.min(LAST_TIMEOUT);
            self.send(timeout, &mut is_well).await;
        });
    }

    /// Sends them. That it fails is said once, not every minute.
    async fn send(&self, timeout: Duration, is_well: &mut bool) {
        let endpoint = self.options.endpoint();
        let sent = self.try_to_send(timeout).await;
        match (&sent, *is_well) {
            (Ok(()), false) => tracing::warn!("{endpoint} takes metrics again"),
            (Err(why), true) => tracing::warn!("metrics are not taken by {endpoint}: {why}"),
            _ => {}
        }
        *is_well = sent.is_ok();
    }

    async fn try_to_send(&self, timeout: Duration) -> Result<(), String> {
        let now_ms = self.clock.now_ms();
        let metrics = metrics::now(self.jobs.as_ref(), now_ms);
        let body = otlp::request(&metrics, &self.options.attributes, self.since_ms, now_ms);
        let request = self
            .client
            .post(self.options.endpoint.clone())
            .headers(self.options.headers.clone())
            .header("content-type", "application/x-protobuf")
            .timeout(timeout)
            .body(body);
        match request.send().await {
            Ok(answer) if answer.status().is_success() => Ok(()),
            Ok(answer) => Err(format!("it answers with status {}", answer.status())),
            // The address is said before.
            Err(error) => Err(operator::text::line(&causes(&error.without_url())).into_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStringExt as _;

    use super::*;

    fn read(set: &[(&str, &str)]) -> Result<Option<OtlpOptions>, String> {
        OtlpOptions::of(|wanted| {
            let found = set.iter().find(|(name, _)| *name == wanted);
            found.map(|(_, value)| OsString::from(*value))
        })
    }

    const ENDPOINT: (&str, &str) = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://localhost:4318");

    #[test]
    fn the_variables_of_the_specification_say_where_and_how_often() {
        assert!(read(&[]).unwrap().is_none());
        assert!(
            read(&[ENDPOINT, ("OTEL_SDK_DISABLED", "true")])
                .unwrap()
                .is_none()
        );
        assert!(
            read(&[ENDPOINT, ("OTEL_METRICS_EXPORTER", "none")])
                .unwrap()
                .is_none()
        );
        let plain = read(&[ENDPOINT]).unwrap().unwrap();
        assert_eq!(plain.endpoint(), "http://localhost:4318/v1/metrics");
        assert_eq!(plain.interval, INTERVAL);
        assert!(
            plain
                .attributes
                .contains(&("service.name".into(), "highwater".into()))
        );
        let own = (
            "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT",
            "https://c/otlp/x?k=secret",
        );
        let set = [
            ENDPOINT,
            own,
            ("OTEL_METRIC_EXPORT_INTERVAL", "250"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "api-key=a%20b, x=y"),
            ("OTEL_RESOURCE_ATTRIBUTES", "service.name=flows,team=a"),
        ];
        let own = read(&set).unwrap().unwrap();
        assert_eq!(own.endpoint(), "https://c/otlp/x?...");
        assert_eq!(own.interval, Duration::from_millis(250));
        assert_eq!(own.headers["api-key"], "a b");
        assert!(
            own.attributes
                .contains(&("service.name".into(), "flows".into()))
        );
        assert!(
            !format!("{own:?}").contains("a b"),
            "headers may have secrets"
        );
        let unreadable = OsString::from_vec(vec![0xff]);
        let why = OtlpOptions::of(|name| name.ends_with("TIMEOUT").then(|| unreadable.clone()));
        assert!(why.unwrap_err().contains("UTF-8"));
    }

    #[test]
    fn what_makes_no_sense_is_refused_by_its_name_and_without_its_secrets() {
        for (name, value, said) in [
            (
                "OTEL_EXPORTER_OTLP_ENDPOINT",
                "collector",
                "http://localhost:4318",
            ),
            (
                "OTEL_EXPORTER_OTLP_ENDPOINT",
                "http://me:secret@c",
                "belong in",
            ),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc", "http/protobuf"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "secret", "name=value"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "a b=secret", "no header"),
            ("OTEL_METRIC_EXPORT_INTERVAL", "0", "milliseconds"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "secret", "milliseconds"),
        ] {
            let set = match name {
                "OTEL_EXPORTER_OTLP_ENDPOINT" => vec![(name, value)],
                _ => vec![ENDPOINT, (name, value)],
            };
            let why = read(&set).unwrap_err();
            assert!(why.contains(name) && why.contains(said), "{why}");
            let is_quoted = name.ends_with("TIMEOUT");
            assert!(is_quoted || !why.contains("secret"), "{why}");
        }
    }
}

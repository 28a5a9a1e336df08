//! How a NameNode is reached, and what is said of what goes wrong there.

use std::io::ErrorKind;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use hdfs_native::{Client, ClientBuilder, HdfsError};
use tokio::runtime::Handle;

use super::Failure;
use crate::storage::cloud::{Limits, shortened};
use crate::storage::remote::Remote;
use crate::{Error, Result};

/// Who the client is.
const USER: &str = "HADOOP_USER_NAME";
/// Where Hadoop's configuration is.
const CONFIGURATION: &str = "HADOOP_CONF_DIR";

/// A directory in which there is no configuration. Without one, the crate below looks for others.
const NO_CONFIGURATION: &str = "/dev/null";

/// How often a NameNode is tried that cannot be reached.
const ATTEMPTS: u32 = 3;

/// A NameNode, or several of one name of which one answers.
pub(super) struct Server {
    remote: Remote,
    user: Option<String>,
    configuration: Option<String>,
    limits: Limits,
    handle: Handle,
    /// Calls share its connections. `None` once it did not answer.
    client: Mutex<Option<Client>>,
}

impl Server {
    pub(super) fn new(
        remote: &Remote,
        limits: &Limits,
        variables: &[(String, String)],
        handle: Handle,
    ) -> Result<Self> {
        let value = |name: &str| {
            let mut named = variables.iter().filter(|(it, _)| it == name);
            named.next().map(|(_, value)| value.clone())
        };
        let server = Self {
            remote: remote.root(),
            user: value(USER),
            configuration: value(CONFIGURATION),
            limits: *limits,
            handle,
            client: Mutex::new(None),
        };
        let refused = |why: String| Err(Error::Incompatible(why));
        if server.user.as_deref() == Some("") {
            return refused(format!(
                "{USER} is empty; without it, who runs the process is the user"
            ));
        }
        if let Some(directory) = &server.configuration {
            let holds = |file: &str| Path::new(directory).join(file).is_file();
            if !holds("core-site.xml") && !holds("hdfs-site.xml") {
                return refused(format!(
                    "{CONFIGURATION}=`{directory}` has neither a core-site.xml nor an hdfs-site.xml in it"
                ));
            }
        }
        // Nothing is sent by it.
        match server.client() {
            Ok(_) => Ok(server),
            Err(Failure::Hdfs(HdfsError::InvalidArgument(_))) if !server.has_port() => {
                refused(format!(
                    "{remote} has no port, and {CONFIGURATION} leads to no configuration that says which NameNodes `{}` has ({} is expected)",
                    remote.name(),
                    remote.scheme().example()
                ))
            }
            Err(failure) => refused(format!("{remote} cannot be reached: {}", cause(&failure))),
        }
    }

    fn has_port(&self) -> bool {
        self.remote.name().contains(':')
    }

    /// What calls go through.
    pub(super) fn client(&self) -> Result<Client, Failure> {
        let mut client = self.client.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = &*client {
            return Ok(client.clone());
        }
        let mut builder = ClientBuilder::new()
            .with_url(self.remote.to_string())
            .with_io_runtime(self.handle.clone())
            .with_config_dir(self.configuration.as_deref().unwrap_or(NO_CONFIGURATION));
        let request = self.limits.request.as_millis().max(1);
        let mut settings = vec![("dfs.client.socket-timeout", request.to_string())];
        if self.has_port() {
            // One NameNode: pauses that grow from twice this, by half more at most, end with the time for what is
            // tried again. With several, it is their configuration that says how long one takes over.
            let pause = self.limits.retry.as_millis() / 21;
            settings.push(("dfs.client.failover.max.attempts", ATTEMPTS.to_string()));
            settings.push(("dfs.client.failover.sleep.base.millis", pause.to_string()));
        }
        builder = builder.with_config(settings);
        // With a configuration, the crate below decides by it (and reads the same variable): Kerberos has
        // users of its own.
        if let (Some(user), None) = (&self.user, &self.configuration) {
            builder = builder.with_user(user);
        }
        let new = builder.build()?;
        *client = Some(new.clone());
        Ok(new)
    }

    /// The error of a call.
    pub(super) fn failed(&self, action: &'static str, object: String, failure: Failure) -> Error {
        if let Failure::Silence(_) = failure {
            // A connection to a machine that is gone would go on saying nothing.
            *self.client.lock().unwrap_or_else(PoisonError::into_inner) = None;
        }
        if failure.is_missing() && action == "reading" {
            return Error::NotFound(format!("{object} does not exist"));
        }
        let mend = match &failure {
            // It is not said which of them it was.
            Failure::Hdfs(HdfsError::IOError(_)) | Failure::Silence(_) => {
                " or a DataNode that it names (the URL wants the port of the NameNode's RPC, as in `fs.defaultFS`)"
                    .to_owned()
            }
            _ => match failure.exception() {
                Some("AccessControlException" | "AuthorizationException") => {
                    format!(" ({USER} says who asks, if it is not who runs the process)")
                }
                Some("SafeModeException") => {
                    " (it takes no changes until it has left safe mode)".to_owned()
                }
                _ => String::new(),
            },
        };
        let (why, name) = (cause(&failure), self.remote.name());
        Error::Storage {
            action,
            object,
            source: format!("{why}, at NameNode {name}{mend}").into(),
        }
    }
}

/// What happened, in few words: what a NameNode says has the trace of its program in it.
fn cause(failure: &Failure) -> String {
    let first_line = |text: &str| shortened(text.lines().next().unwrap_or_default());
    match failure {
        Failure::Silence(why) => why.clone(),
        Failure::Other(why) => shortened(&why.to_string()),
        Failure::Hdfs(HdfsError::IOError(error)) => {
            let what = match error.kind() {
                ErrorKind::ConnectionAborted
                | ErrorKind::ConnectionReset
                | ErrorKind::BrokenPipe
                | ErrorKind::UnexpectedEof
                | ErrorKind::TimedOut => "the connection failed",
                _ => "cannot connect",
            };
            format!("{what}: {}", shortened(&error.to_string()))
        }
        Failure::Hdfs(HdfsError::RPCError(_, text) | HdfsError::FatalRPCError(_, text)) => {
            let exception = failure.exception().unwrap_or_default();
            format!("{}: {}", shortened(exception), first_line(text))
        }
        // The nodes are listed in full, in the words of a debugger.
        Failure::Hdfs(HdfsError::DataTransferError(text)) if text.starts_with("All DataNodes") => {
            "no DataNode that has the data gives it: they are down, or not to be reached from here"
                .to_owned()
        }
        Failure::Hdfs(HdfsError::AlreadyExists(text)) => first_line(text),
        Failure::Hdfs(error) => first_line(&error.to_string()),
    }
}

//! Which connectors there are: from a name and a table of the job file to something the runtime can start.

use job_file::hints::suggest;
use job_file::options::Options;
use job_file::problem::Problem;

use super::connector::{
    PreparedSink, PreparedSource, SinkConnector, SinkContext, SourceConnector, SourceContext,
};
use super::{discard, file_sink, file_source, generator, stdin, stdout};

/// The connectors that a host knows.
#[derive(Clone, Debug)]
pub struct Registry {
    sources: Vec<SourceConnector>,
    sinks: Vec<SinkConnector>,
}

impl Default for Registry {
    /// All connectors of this crate.
    fn default() -> Self {
        Self {
            sources: vec![
                file_source::CONNECTOR,
                generator::CONNECTOR,
                stdin::CONNECTOR,
            ],
            sinks: vec![file_sink::CONNECTOR, stdout::CONNECTOR, discard::CONNECTOR],
        }
    }
}

impl Registry {
    /// The registry with one more source; of two with one name the later one counts.
    #[must_use]
    pub fn with_source(mut self, connector: SourceConnector) -> Self {
        self.sources.retain(|known| known.name != connector.name);
        self.sources.push(connector);
        self
    }

    /// The registry with one more sink; of two with one name the later one counts.
    #[must_use]
    pub fn with_sink(mut self, connector: SinkConnector) -> Self {
        self.sinks.retain(|known| known.name != connector.name);
        self.sinks.push(connector);
        self
    }

    /// The names of all sources.
    #[must_use]
    pub fn source_names(&self) -> Vec<&'static str> {
        self.sources.iter().map(|known| known.name).collect()
    }

    /// The names of all sinks.
    #[must_use]
    pub fn sink_names(&self) -> Vec<&'static str> {
        self.sinks.iter().map(|known| known.name).collect()
    }

    /// Prepares a source.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn source(
        &self,
        connector: &str,
        options: Options,
        context: &SourceContext<'_>,
    ) -> Result<PreparedSource, Vec<Problem>> {
        match self.sources.iter().find(|known| known.name == connector) {
            Some(known) => (known.prepare)(options, context),
            None => {
                let (known, others) = (self.source_names(), self.sink_names());
                Err(vec![unknown(connector, &known, &others, "source", "sink")])
            }
        }
    }

    /// Prepares a sink.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn sink(
        &self,
        connector: &str,
        options: Options,
        context: &SinkContext<'_>,
    ) -> Result<PreparedSink, Vec<Problem>> {
        match self.sinks.iter().find(|known| known.name == connector) {
            Some(known) => (known.prepare)(options, context),
            None => {
                let (known, others) = (self.sink_names(), self.source_names());
                Err(vec![unknown(connector, &known, &others, "sink", "source")])
            }
        }
    }
}

fn unknown(
    connector: &str,
    known: &[&str],
    others: &[&str],
    role: &str,
    other_role: &str,
) -> Problem {
    let message = match others.contains(&connector) {
        true => format!("`{connector}` is a {other_role}, not a {role}"),
        false => format!("there is no {role} `{connector}`"),
    };
    Problem::new("connector", message).hint(suggest(connector, known, "use one of"))
}

//! What is wrong with a job file, reported so that it can be mended without a second try: every problem
//! with its place, the key's path, what is wrong, and a hint. All of them are reported at once.

use std::fmt;
use std::sync::Arc;

use operator::text::line;

/// Where a key or value was written.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// In a file, lines and columns counted from 1.
    File {
        /// The file as the user named it.
        file: Arc<str>,
        /// The line.
        line: usize,
        /// The column, in characters.
        column: usize,
    },
    /// In an option of the command line, as it was typed.
    Option(Arc<str>),
}

impl Place {
    /// The beginning of a file, for what is missing from it.
    pub fn start_of(file: &Arc<str>) -> Self {
        Self::File {
            file: Arc::clone(file),
            line: 1,
            column: 1,
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { file, line, column } => write!(f, "{file}:{line}:{column}"),
            Self::Option(option) => f.write_str(option),
        }
    }
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// Where. A connector knows its keys only: who knows the file says it with [`Problem::at`].
    pub place: Option<Place>,
    /// The path of the key, tables of a list by their id: `operator.count.parallelism`; from a connector, the
    /// path within its table. Empty where no key is concerned.
    pub key: String,
    /// What is wrong, in one line: lowercase, no full stop.
    pub message: String,
    /// What would mend it.
    pub hint: Option<String>,
}

impl Problem {
    /// A problem with a key whose place is not known yet.
    pub fn new(key: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            place: None,
            key: key.into(),
            message: message.into(),
            hint: None,
        }
    }

    /// The problem with a hint.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The problem with its place, and with the path that its key has in the whole file.
    #[must_use]
    pub fn at(mut self, place: Place, path: impl Into<String>) -> Self {
        self.place = Some(place);
        self.key = path.into();
        self
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(place) = &self.place {
            write!(f, "{}: ", line(&place.to_string()))?;
        }
        if !self.key.is_empty() {
            write!(f, "{}: ", line(&self.key))?;
        }
        f.write_str(&line(&self.message))?;
        if let Some(hint) = &self.hint {
            write!(f, "\n  hint: {}", line(hint))?;
        }
        Ok(())
    }
}

/// Everything that is wrong.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Problems(Vec<Problem>);

impl Problems {
    /// Notes a problem.
    pub fn push(
        &mut self,
        place: Place,
        key: impl Into<String>,
        message: impl Into<String>,
        hint: Option<String>,
    ) {
        self.0.push(Problem {
            place: Some(place),
            key: key.into(),
            message: message.into(),
            hint,
        });
    }

    /// Notes problems that know their places.
    pub fn extend(&mut self, problems: impl IntoIterator<Item = Problem>) {
        self.0.extend(problems);
    }

    /// Whether nothing is wrong.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// `value`, if nothing is wrong.
    pub fn or<T>(self, value: T) -> Result<T, Self> {
        if self.is_empty() {
            Ok(value)
        } else {
            Err(self)
        }
    }
}

impl fmt::Display for Problems {
    /// One `error:` paragraph per problem, in the order of the file, each problem once.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut sorted: Vec<&Problem> = self.0.iter().collect();
        sorted.sort();
        sorted.dedup();
        for (i, problem) in sorted.into_iter().enumerate() {
            if i > 0 {
                writeln!(f)?;
            }
            write!(f, "error: {problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}

/// A problem in one line, as tests compare it: `` `path`: is required; hint: … ``.
#[cfg(any(test, feature = "testing"))]
#[must_use]
pub fn brief(problem: &Problem) -> String {
    let hint = problem.hint.as_ref();
    let hint = hint.map_or_else(String::new, |hint| format!("; hint: {hint}"));
    format!("`{}`: {}{hint}", problem.key, problem.message)
}

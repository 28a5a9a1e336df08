//! How the bytes of a record are to be read: what an output says about its records, so that a sink
//! can write them without knowing the operator.

/// How the values (and keys) on a port are encoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Format {
    /// Fields in the [row encoding](crate::row), for keys and values alike. The names and types of
    /// the value's columns, where the producer declares them; empty where it does not.
    Row(Vec<Column>),
    /// One UTF-8 text per value (keys as well).
    Text,
    /// One JSON document per value; keys are text.
    Json,
    /// Bytes that mean nothing to anybody but operators.
    Bytes,
}

/// A named field of a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    /// The column's name, unique in its row.
    pub name: String,
    /// What its text stands for.
    pub kind: ColumnKind,
}

/// What a field's text stands for, for sinks whose format tells numbers from text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ColumnKind {
    /// Text.
    Text,
    /// A whole number in decimal digits.
    Integer,
    /// A number with a fraction.
    Float,
    /// `true` or `false`.
    Boolean,
}

/// What is known about the records that leave a source or an operator's output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// The output's name; sources and single outputs are called `out`.
    pub name: String,
    /// Whether records carry a key.
    pub keyed: bool,
    /// Names of the key's fields, where declared (a key is a row as well).
    pub key_columns: Vec<Column>,
    /// How values are encoded.
    pub format: Format,
}

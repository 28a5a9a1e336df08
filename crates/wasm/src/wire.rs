//! The types of `wit/operator.wit` as they cross the border, and those of `wit/0.1/operator.wit` that differ.
//!
//! What goes to the guest borrows from the host's columns; what comes from the guest is a view of
//! the guest's memory where it is on the data path, and owned where it is not.

use super::secrets::Secrets;
use dataflow::operator_state::Scope;
use dataflow::port::{Column, ColumnKind, Format, Port};
use dataflow::state::{Fired, Refresh, StateKind, TimeDomain, Ttl, TtlTime};
use dataflow::{Cells, CellsRef};
use operator::{Failure, FailureKind};
use wasmtime::StoreContext;
use wasmtime::component::{ComponentType, Lift, Lower, WasmList};

#[cfg(target_endian = "big")]
compile_error!("columns are read in place, and a guest's memory is little-endian");

/// `cells`, on the way to the guest.
#[derive(ComponentType, Lower)]
#[component(record)]
pub(super) struct CellsArg<'a> {
    data: &'a [u8],
    offsets: &'a [u32],
}

impl<'a> From<&'a Cells> for CellsArg<'a> {
    fn from(cells: &'a Cells) -> Self {
        Self {
            data: cells.data(),
            offsets: cells.offsets(),
        }
    }
}

/// `cells`, as the result of an import.
#[derive(ComponentType, Lower)]
#[component(record)]
pub(super) struct CellsResult {
    data: Vec<u8>,
    offsets: Vec<u32>,
}

impl From<Cells> for CellsResult {
    fn from(cells: Cells) -> Self {
        let (data, offsets) = cells.into_parts();
        Self { data, offsets }
    }
}

/// `cells` in the guest's memory, not looked at yet.
#[derive(ComponentType, Lift)]
#[component(record)]
pub(super) struct CellsView {
    data: WasmList<u8>,
    offsets: WasmList<u32>,
}

impl CellsView {
    /// The most bytes that one key, value, field or element may have.
    pub(super) const CELL_BYTES_MAX: usize = 16 << 20;

    /// How many cells it claims to have.
    pub(super) fn count(&self) -> usize {
        self.offsets.len().saturating_sub(1)
    }

    /// How many bytes it has.
    pub(super) fn byte_len(&self) -> usize {
        self.data.len()
    }

    /// The cells in place, once their offsets are known to be right.
    pub(super) fn read<'a, T: 'static>(
        &self,
        store: &'a StoreContext<'_, T>,
        column: &str,
    ) -> Result<CellsRef<'a>, Failure> {
        let cells = CellsRef::new(
            self.data.as_le_slice(store),
            self.offsets.as_le_slice(store),
        )
        .map_err(|error| protocol(format!("{column}: {error}")))?;
        if cells.byte_len() > Self::CELL_BYTES_MAX
            && cells
                .into_cells()
                .any(|cell| cell.len() > Self::CELL_BYTES_MAX)
        {
            return Err(protocol(format!(
                "{column}: one of them is larger than {} MiB",
                Self::CELL_BYTES_MAX >> 20
            )));
        }
        Ok(cells)
    }
}

/// `cells`, returned by an exported function.
#[derive(ComponentType, Lift)]
#[component(record)]
pub(super) struct CellsReturned {
    data: Vec<u8>,
    offsets: Vec<u32>,
}

impl CellsReturned {
    /// The cells, once their offsets are known to be right, and there are as many as there should be.
    pub(super) fn read(self, count: usize) -> Result<Cells, Failure> {
        let cells = Cells::from_parts(self.data, self.offsets)
            .map_err(|error| protocol(format!("values: {error}")))?;
        if cells.len() != count {
            let message = format!("{count} values became {}", cells.len());
            return Err(protocol(message));
        }
        let is_large = |cell: &[u8]| cell.len() > CellsView::CELL_BYTES_MAX;
        let some_large = cells.iter().any(is_large);
        match some_large {
            false => Ok(cells),
            true => Err(protocol(format!(
                "values: one of them is larger than {} MiB",
                CellsView::CELL_BYTES_MAX >> 20
            ))),
        }
    }
}

/// A failure that is the guest's fault: it passed something that does not fit.
pub(super) fn protocol(message: impl Into<String>) -> Failure {
    Failure::new(FailureKind::Protocol, message)
}

/// `batch`.
#[derive(ComponentType, Lower)]
#[component(record)]
pub(super) struct BatchArg<'a> {
    pub(super) input: u32,
    pub(super) values: CellsArg<'a>,
    pub(super) timestamps: &'a [i64],
    pub(super) keys: CellsArg<'a>,
    #[component(name = "key-numbers")]
    pub(super) key_numbers: &'a [u32],
}

/// `fired`.
#[derive(ComponentType, Lower)]
#[component(record)]
pub(super) struct FiredArg<'a> {
    domain: WireTimeDomain,
    keys: CellsArg<'a>,
    #[component(name = "key-numbers")]
    key_numbers: &'a [u32],
    times: &'a [i64],
    tags: &'a [u32],
}

impl<'a> From<&'a Fired> for FiredArg<'a> {
    fn from(fired: &'a Fired) -> Self {
        Self {
            domain: match fired.domain {
                TimeDomain::Event => WireTimeDomain::EventTime,
                TimeDomain::Processing => WireTimeDomain::ProcessingTime,
            },
            keys: (&fired.keys.keys).into(),
            key_numbers: &fired.keys.numbers,
            times: &fired.times,
            tags: &fired.tags,
        }
    }
}

/// `loaded`.
#[derive(ComponentType, Lower)]
#[component(record)]
pub(super) struct Loaded {
    pub(super) values: CellsResult,
    pub(super) absent: Vec<u32>,
}

/// `page`.
#[derive(ComponentType, Lower)]
#[component(record)]
pub(super) struct Page {
    pub(super) fields: CellsResult,
    pub(super) values: CellsResult,
    pub(super) more: bool,
}

/// `scanned`.
#[derive(ComponentType, Lower)]
#[component(record)]
pub(super) struct Scanned {
    pub(super) keys: CellsResult,
    pub(super) values: CellsResult,
    pub(super) cursor: Vec<u8>,
    pub(super) more: bool,
}

/// `failure`.
#[derive(ComponentType, Lift)]
#[component(record)]
pub(super) struct WireFailure {
    kind: WireFailureKind,
    message: String,
    record: Option<u32>,
}

/// `failure-kind`.
#[derive(Clone, Copy, ComponentType, Lift)]
#[expect(dead_code, reason = "made from the guest's bytes by `Lift`")]
#[component(enum)]
#[repr(u8)]
pub(super) enum WireFailureKind {
    #[component(name = "failed")]
    Failed,
    #[component(name = "config")]
    Config,
}

impl WireFailure {
    /// The same without the secrets that the guest was given.
    pub(super) fn without(self, secrets: &Secrets) -> Self {
        let message = secrets.hidden(&self.message).into_owned();
        Self { message, ..self }
    }
}

impl From<WireFailure> for Failure {
    fn from(failure: WireFailure) -> Self {
        let kind = match failure.kind {
            WireFailureKind::Failed => FailureKind::Returned,
            WireFailureKind::Config => FailureKind::Config,
        };
        let record = failure.record.map(|record| record as usize);
        let mut message = super::complaint::one_line(&failure.message);
        if message.is_empty() {
            message.push_str("failed without a message");
        }
        Self {
            record,
            ..Self::new(kind, message)
        }
    }
}

/// `level` of the log.
#[derive(Clone, Copy, ComponentType, Lift)]
#[expect(dead_code, reason = "made from the guest's bytes by `Lift`")]
#[component(enum)]
#[repr(u8)]
pub(super) enum Level {
    #[component(name = "trace")]
    Trace,
    #[component(name = "debug")]
    Debug,
    #[component(name = "info")]
    Info,
    #[component(name = "warn")]
    Warn,
    #[component(name = "error")]
    Error,
}

/// `kind` of a metric.
#[derive(Clone, Copy, ComponentType, Lift)]
#[expect(dead_code, reason = "made from the guest's bytes by `Lift`")]
#[component(enum)]
#[repr(u8)]
pub(super) enum WireMetricKind {
    #[component(name = "counter")]
    Counter,
    #[component(name = "gauge")]
    Gauge,
    #[component(name = "histogram")]
    Histogram,
}

/// `time-domain`.
#[derive(Clone, Copy, ComponentType, Lift, Lower)]
#[component(enum)]
#[repr(u8)]
pub(super) enum WireTimeDomain {
    #[component(name = "event-time")]
    EventTime,
    #[component(name = "processing-time")]
    ProcessingTime,
}

/// `column-kind`.
#[derive(Clone, Copy, ComponentType, Lift, Lower)]
#[component(enum)]
#[repr(u8)]
pub(super) enum WireColumnKind {
    #[component(name = "text")]
    Text,
    #[component(name = "integer")]
    Integer,
    #[component(name = "float")]
    Float,
    #[component(name = "boolean")]
    Boolean,
}

/// `column`.
#[derive(Clone, ComponentType, Lift, Lower)]
#[component(record)]
pub(super) struct WireColumn {
    name: String,
    kind: WireColumnKind,
}

/// `format`.
#[derive(Clone, ComponentType, Lift, Lower)]
#[component(variant)]
pub(super) enum WireFormat {
    #[component(name = "row")]
    Row(Vec<WireColumn>),
    #[component(name = "text")]
    Text,
    #[component(name = "json")]
    Json,
    #[component(name = "bytes")]
    Bytes,
}

/// `port`.
#[derive(Clone, ComponentType, Lift, Lower)]
#[component(record)]
pub(super) struct WirePort {
    name: String,
    keyed: bool,
    #[component(name = "key-columns")]
    key_columns: Vec<WireColumn>,
    format: WireFormat,
}

/// `state-kind`.
#[derive(Clone, Copy, ComponentType, Lift)]
#[expect(dead_code, reason = "made from the guest's bytes by `Lift`")]
#[component(enum)]
#[repr(u8)]
pub(super) enum WireStateKind {
    #[component(name = "value")]
    Value,
    #[component(name = "map")]
    Map,
    #[component(name = "list")]
    List,
}

/// `state-scope`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ComponentType, Lift)]
#[expect(dead_code, reason = "made from the guest's bytes by `Lift`")]
#[component(enum)]
#[repr(u8)]
pub(super) enum StateScope {
    #[component(name = "keyed")]
    Keyed,
    #[component(name = "operator-split")]
    OperatorSplit,
    #[component(name = "operator-union")]
    OperatorUnion,
    #[component(name = "broadcast")]
    Broadcast,
}

impl StateScope {
    /// That of operator state; `None` if it is keyed.
    pub(super) fn of_operator(self) -> Option<Scope> {
        match self {
            Self::Keyed => None,
            Self::OperatorSplit => Some(Scope::Split),
            Self::OperatorUnion => Some(Scope::Union),
            Self::Broadcast => Some(Scope::Broadcast),
        }
    }

    /// Its name in the world.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Keyed => "keyed",
            Self::OperatorSplit => "operator-split",
            Self::OperatorUnion => "operator-union",
            Self::Broadcast => "broadcast",
        }
    }
}

/// `ttl-refresh`.
#[derive(Clone, Copy, ComponentType, Lift)]
#[expect(dead_code, reason = "made from the guest's bytes by `Lift`")]
#[component(enum)]
#[repr(u8)]
pub(super) enum WireTtlRefresh {
    #[component(name = "write")]
    Write,
    #[component(name = "read")]
    Read,
}

/// `ttl`.
#[derive(Clone, Copy, ComponentType, Lift)]
#[component(record)]
pub(super) struct WireTtl {
    millis: u64,
    refresh: WireTtlRefresh,
    time: WireTimeDomain,
}

impl From<WireTtl> for Ttl {
    fn from(ttl: WireTtl) -> Self {
        Self {
            millis: ttl.millis,
            refresh: match ttl.refresh {
                WireTtlRefresh::Write => Refresh::Write,
                WireTtlRefresh::Read => Refresh::Read,
            },
            time: match ttl.time {
                WireTimeDomain::EventTime => TtlTime::Event,
                WireTimeDomain::ProcessingTime => TtlTime::Processing,
            },
        }
    }
}

/// What of 0.1 differs.
pub(super) mod v01 {
    use super::{
        ComponentType, Lift, StateScope, WireDescription, WirePort, WireState, WireStateKind,
        WireTimeDomain, WireTtl, WireTtlRefresh,
    };

    /// `state-scope`.
    #[derive(Clone, Copy, PartialEq, Eq, ComponentType, Lift)]
    #[expect(dead_code, reason = "made from the guest's bytes by `Lift`")]
    #[component(enum)]
    #[repr(u8)]
    pub(in super::super) enum WireStateScope {
        #[component(name = "keyed")]
        Keyed,
        #[component(name = "operator")]
        Operator,
        #[component(name = "broadcast")]
        Broadcast,
    }

    /// `state-descriptor`.
    #[derive(ComponentType, Lift)]
    #[component(record)]
    pub(in super::super) struct WireState01 {
        name: String,
        kind: WireStateKind,
        scope: WireStateScope,
        schema: String,
        #[component(name = "schema-version")]
        schema_version: u32,
        ttl: Option<u64>,
    }

    /// `description`.
    #[derive(ComponentType, Lift)]
    #[component(record)]
    pub(in super::super) struct WireDescription01 {
        inputs: Vec<String>,
        outputs: Vec<WirePort>,
        states: Vec<WireState01>,
        #[component(name = "uses-timers")]
        uses_timers: bool,
    }

    impl WireDescription01 {
        /// The same in the words of 0.2.
        ///
        /// # Errors
        /// It has state that the functions of 0.1 cannot reach.
        pub(in super::super) fn upgrade(self) -> Result<WireDescription, String> {
            let states = self.states.into_iter().map(|state| {
                let scope = match state.scope {
                    WireStateScope::Keyed => Ok(StateScope::Keyed),
                    WireStateScope::Operator => Err("operator"),
                    WireStateScope::Broadcast => Err("broadcast"),
                };
                let scope = scope.map_err(|scope| {
                    format!(
                        "state `{}` has the scope `{scope}`, which a component of version 0.1 cannot use; \
                         build it with bindings of version 0.2 (wit/operator.wit)",
                        operator::text::shown(&state.name, 128)
                    )
                })?;
                // In 0.1 an entry that expires lives this long after its last write, by the clock.
                let ttl = state.ttl.map(|millis| WireTtl {
                    millis,
                    refresh: WireTtlRefresh::Write,
                    time: WireTimeDomain::ProcessingTime,
                });
                Ok(WireState {
                    name: state.name,
                    kind: state.kind,
                    scope,
                    schema: state.schema,
                    schema_version: state.schema_version,
                    ttl,
                })
            });
            Ok(WireDescription {
                inputs: self.inputs,
                outputs: self.outputs,
                states: states.collect::<Result<_, String>>()?,
                uses_timers: self.uses_timers,
            })
        }
    }
}

/// `state-descriptor`.
#[derive(ComponentType, Lift)]
#[component(record)]
pub(super) struct WireState {
    pub(super) name: String,
    pub(super) kind: WireStateKind,
    pub(super) scope: StateScope,
    pub(super) schema: String,
    #[component(name = "schema-version")]
    pub(super) schema_version: u32,
    pub(super) ttl: Option<WireTtl>,
}

/// `description`.
#[derive(ComponentType, Lift)]
#[component(record)]
pub(super) struct WireDescription {
    pub(super) inputs: Vec<String>,
    pub(super) outputs: Vec<WirePort>,
    pub(super) states: Vec<WireState>,
    #[component(name = "uses-timers")]
    pub(super) uses_timers: bool,
}

/// `open-context`.
#[derive(ComponentType, Lower)]
#[component(record)]
pub(super) struct OpenContext<'a> {
    pub(super) config: &'a str,
    pub(super) operator: &'a str,
    pub(super) subtask: u32,
    pub(super) parallelism: u32,
    #[component(name = "key-groups")]
    pub(super) key_groups: u32,
    pub(super) inputs: &'a [WirePort],
    pub(super) states: &'a [String],
    pub(super) restored: bool,
}

impl From<WireTimeDomain> for TimeDomain {
    fn from(domain: WireTimeDomain) -> Self {
        match domain {
            WireTimeDomain::EventTime => Self::Event,
            WireTimeDomain::ProcessingTime => Self::Processing,
        }
    }
}

impl From<WireStateKind> for StateKind {
    fn from(kind: WireStateKind) -> Self {
        match kind {
            WireStateKind::Value => Self::Value,
            WireStateKind::Map => Self::Map,
            WireStateKind::List => Self::List,
        }
    }
}

impl From<WireColumn> for Column {
    fn from(column: WireColumn) -> Self {
        let kind = match column.kind {
            WireColumnKind::Text => ColumnKind::Text,
            WireColumnKind::Integer => ColumnKind::Integer,
            WireColumnKind::Float => ColumnKind::Float,
            WireColumnKind::Boolean => ColumnKind::Boolean,
        };
        Self {
            name: column.name,
            kind,
        }
    }
}

impl From<&Column> for WireColumn {
    fn from(column: &Column) -> Self {
        let kind = match column.kind {
            ColumnKind::Text => WireColumnKind::Text,
            ColumnKind::Integer => WireColumnKind::Integer,
            ColumnKind::Float => WireColumnKind::Float,
            ColumnKind::Boolean => WireColumnKind::Boolean,
        };
        Self {
            name: column.name.clone(),
            kind,
        }
    }
}

impl From<WirePort> for Port {
    fn from(port: WirePort) -> Self {
        let columns = |columns: Vec<WireColumn>| columns.into_iter().map(Column::from).collect();
        let format = match port.format {
            WireFormat::Row(row) => Format::Row(columns(row)),
            WireFormat::Text => Format::Text,
            WireFormat::Json => Format::Json,
            WireFormat::Bytes => Format::Bytes,
        };
        Self {
            name: port.name,
            keyed: port.keyed,
            key_columns: columns(port.key_columns),
            format,
        }
    }
}

impl From<&Port> for WirePort {
    fn from(port: &Port) -> Self {
        let columns = |columns: &[Column]| columns.iter().map(WireColumn::from).collect();
        let format = match &port.format {
            Format::Row(row) => WireFormat::Row(columns(row)),
            Format::Text => WireFormat::Text,
            Format::Json => WireFormat::Json,
            Format::Bytes => WireFormat::Bytes,
        };
        Self {
            name: port.name.clone(),
            keyed: port.keyed,
            key_columns: columns(&port.key_columns),
            format,
        }
    }
}

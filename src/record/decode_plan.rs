//! How the bytes of one pair of key and value schemas are read, decided once per pair.

use std::sync::Arc;

use super::{
    column_plan::ColumnPlan,
    form::{Presence, presence},
};
use crate::avro::{
    name::unescape,
    schema::{MESSAGE_VALUE, TRANSACTION_VALUE},
    skip::Skip,
    writer::{Field, Shape, Type, Writer},
};

/// What a value schema turns out to be.
#[derive(Debug)]
pub(super) enum DecodePlan {
    /// A change event's envelope.
    Envelope(EnvelopePlan),
    /// A logical message, or where a transaction begins or ends: it changes no row.
    Nothing,
}

/// How an envelope is read, and the columns of its rows.
#[derive(Debug)]
pub(super) struct EnvelopePlan {
    pub(super) writer: Arc<Writer>,
    pub(super) steps: Vec<Step>,
    pub(super) columns: Vec<ColumnPlan>,
    /// Indices into `columns`, in key order.
    pub(super) key: Vec<usize>,
    /// Another producer wrote it.
    pub(super) is_foreign: bool,
}

/// One field of the envelope, in the order of its bytes.
#[derive(Debug)]
pub(super) enum Step {
    Before(Presence),
    After(Presence),
    Source(Vec<SourceRun>),
    Transaction(Presence, Vec<TransactionStep>),
    Op,
    Skip(Skip),
}

/// Fields of the source block that lie next to each other.
#[derive(Debug)]
pub(super) enum SourceRun {
    /// What the events of one transaction have in common.
    Shared(Vec<SourceStep>),
    /// What each event has of its own.
    OfEvent(Skip),
}

/// Fields of the source block that are each event's own.
const OF_EVENT: [&str; 2] = ["sequence", "lsn"];

/// One field of a shared run.
#[derive(Debug)]
pub(super) enum SourceStep {
    TsMs(Presence),
    Schema(Presence),
    Table(Presence),
    Skip(Skip),
}

/// One field of the transaction block.
#[derive(Debug)]
pub(super) enum TransactionStep {
    Id,
    TotalOrder,
    Skip(Skip),
}

impl DecodePlan {
    /// Compiles the plan of a pair of schemas, or says what the value schema lacks.
    pub(super) fn compile(key: Option<&Writer>, value: &Arc<Writer>) -> Result<Self, String> {
        let fields = value.fields(&value.root).ok_or("it is not a record")?;
        let has = |name: &str| fields.iter().any(|field| field.name == name);
        // By its name too: a flat record may have such columns.
        if value.name().as_deref() == Some(MESSAGE_VALUE) && has("message") && has("op") && !has("after") {
            return Ok(Self::Nothing);
        }
        if value.name().as_deref() == Some(TRANSACTION_VALUE) && has("status") && !has("after") {
            return Ok(Self::Nothing);
        }
        for name in ["before", "after", "source", "op"] {
            if !has(name) {
                return Err(format!("it has no field {name}"));
            }
        }
        let steps = merged(fields.iter().map(|field| step(value, field)), |step, next| match (step, next) {
            (Step::Skip(skip), Step::Skip(next)) => {
                skip.append(next);
                None
            }
            (_, next) => Some(next),
        })?;
        let columns = columns(value, fields)?;
        let key = key.map_or(Ok(Vec::new()), |key| key_columns(key, &columns))?;
        let is_foreign = !columns.is_empty() && columns.iter().all(|column| column.is_foreign);
        let columns = with_key(columns, &key);
        Ok(Self::Envelope(EnvelopePlan { writer: Arc::clone(value), steps, columns, key, is_foreign }))
    }
}

/// Steps one after the other; `join` takes the next one in where it can, and gives it back where not.
fn merged<S>(
    steps: impl Iterator<Item = Result<S, String>>,
    join: impl Fn(&mut S, S) -> Option<S>,
) -> Result<Vec<S>, String> {
    let mut all: Vec<S> = Vec::new();
    for step in steps {
        let step = step?;
        let left = if let Some(last) = all.last_mut() { join(last, step) } else { Some(step) };
        all.extend(left);
    }
    Ok(all)
}

fn step(writer: &Writer, field: &Field) -> Result<Step, String> {
    let (presence, ty) = presence(writer, &field.ty)?;
    Ok(match field.name.as_str() {
        "before" => Step::Before(presence),
        "after" => Step::After(presence),
        "source" => {
            if presence != Presence::Always {
                return Err("its source can be null".into());
            }
            Step::Source(source_runs(writer, ty)?)
        }
        "transaction" => Step::Transaction(presence, transaction_steps(writer, ty)?),
        "op" => match writer.resolve(&field.ty.shape) {
            Shape::String => Step::Op,
            _ => return Err("its op is not a string".into()),
        },
        _ => Step::Skip(Skip::over(writer, &field.ty.shape)),
    })
}

/// The runs of the record `source`, or why it is none.
pub(super) fn source_runs(writer: &Writer, ty: &Type) -> Result<Vec<SourceRun>, String> {
    let fields = writer.fields(ty).ok_or("its source is not a record")?;
    for name in ["schema", "table", "ts_ms"] {
        if !fields.iter().any(|field| field.name == name) {
            return Err(format!("its source has no field {name}"));
        }
    }
    let runs = fields.chunk_by(|field, next| is_of_event(field) == is_of_event(next));
    runs.map(|run| match run {
        [first, ..] if is_of_event(first) => {
            let mut skip = Skip::default();
            for field in run {
                skip.append(Skip::over(writer, &field.ty.shape));
            }
            Ok(SourceRun::OfEvent(skip))
        }
        _ => source_steps(writer, run).map(SourceRun::Shared),
    })
    .collect()
}

fn is_of_event(field: &Field) -> bool {
    OF_EVENT.contains(&field.name.as_str())
}

fn source_steps(writer: &Writer, fields: &[Field]) -> Result<Vec<SourceStep>, String> {
    let steps = fields.iter().map(|field| {
        let typed = |expected: fn(&Shape) -> bool| {
            let (presence, ty) = presence(writer, &field.ty)?;
            let matches = expected(writer.resolve(&ty.shape));
            matches.then_some(presence).ok_or_else(|| format!("its source's {} has another type", field.name))
        };
        Ok(match field.name.as_str() {
            "ts_ms" => SourceStep::TsMs(typed(|shape| matches!(shape, Shape::Long))?),
            "schema" => SourceStep::Schema(typed(|shape| matches!(shape, Shape::String))?),
            "table" => SourceStep::Table(typed(|shape| matches!(shape, Shape::String))?),
            _ => SourceStep::Skip(Skip::over(writer, &field.ty.shape)),
        })
    });
    merged(steps, |step, next| match (step, next) {
        (SourceStep::Skip(skip), SourceStep::Skip(next)) => {
            skip.append(next);
            None
        }
        (_, next) => Some(next),
    })
}

fn transaction_steps(writer: &Writer, ty: &Type) -> Result<Vec<TransactionStep>, String> {
    let fields = writer.fields(ty).ok_or("its transaction is not a record")?;
    let step = |field: &Field| match (field.name.as_str(), writer.resolve(&field.ty.shape)) {
        ("id", Shape::String) => TransactionStep::Id,
        ("total_order", Shape::Long) => TransactionStep::TotalOrder,
        _ => TransactionStep::Skip(Skip::over(writer, &field.ty.shape)),
    };
    Ok(fields.iter().map(step).collect())
}

fn columns(writer: &Writer, envelope: &[Field]) -> Result<Vec<ColumnPlan>, String> {
    let row = |name: &str| {
        let field =
            envelope.iter().find(|field| field.name == name).ok_or_else(|| format!("it has no field {name}"))?;
        let (_, ty) = presence(writer, &field.ty)?;
        let place = if let Shape::Named(place) = ty.shape { Some(place) } else { None };
        let fields = writer.fields(ty).ok_or_else(|| format!("its {name} is not a record"))?;
        Ok::<_, String>((place, fields))
    };
    let ((before, _), (after, fields)) = (row("before")?, row("after")?);
    if before != after {
        return Err("before and after are different records".into());
    }
    fields.iter().map(|field| ColumnPlan::compile(writer, field)).collect()
}

fn key_columns(key: &Writer, columns: &[ColumnPlan]) -> Result<Vec<usize>, String> {
    let fields = key.fields(&key.root).ok_or("its key is not a record")?;
    let find = |field: &Field| {
        let name = unescape(&field.name);
        let index = columns.iter().position(|column| *column.shape.name == *name);
        index.ok_or_else(|| format!("key field {} is no column", field.name))
    };
    fields.iter().map(find).collect()
}

/// Key columns accept no NULL, whatever their field says.
fn with_key(mut columns: Vec<ColumnPlan>, key: &[usize]) -> Vec<ColumnPlan> {
    for index in key {
        if let Some(column) = columns.get_mut(*index) {
            column.shape.nullable = false;
        }
    }
    columns
}

impl EnvelopePlan {
    /// The column of this name.
    pub(super) fn column(&self, name: &str) -> Option<usize> {
        self.columns.iter().position(|column| *column.shape.name == *name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::avro::schema;

    fn compile(json: &str) -> Result<DecodePlan, String> {
        DecodePlan::compile(None, &Arc::new(Writer::parse(json).unwrap()))
    }

    #[test]
    fn a_row_with_a_message_s_columns_is_no_message() {
        for schema in [schema::message_value(), schema::transaction_value()] {
            assert!(matches!(compile(&schema.json), Ok(DecodePlan::Nothing)));
        }
        let row = r#"{"type": "record", "name": "Value", "namespace": "shop.public.notes", "fields": [
            {"name": "op", "type": "string"}, {"name": "message", "type": "string"}]}"#;
        assert_eq!(compile(row).unwrap_err(), "it has no field before");
    }

    /// Debezium's schemas do not tell a label with a comma from two.
    #[test]
    fn an_enumeration_has_labels_only_where_walrelay_has_written_them() {
        let labels = |parameters: &str| {
            let ty = format!(
                r#"{{"type": "string", "connect.name": "io.debezium.data.Enum", "connect.parameters": {parameters}}}"#
            );
            let json = format!(
                r#"{{"type": "record", "name": "Value", "fields": [{{"name": "m", "type": ["null", {ty}]}}]}}"#
            );
            let writer = Writer::parse(&json).unwrap();
            let column = ColumnPlan::compile(&writer, &writer.fields(&writer.root).unwrap()[0]).unwrap();
            column.shape.labels.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(labels(r#"{"allowed": "sad,so, so"}"#), [""; 0]);
        assert_eq!(labels(r#"{"allowed": "sad,glad", "walrelay.type": "public.mood"}"#), ["sad", "glad"]);
        let both =
            r#"{"allowed": "sad,so, so", "walrelay.type": "public.mood", "walrelay.labels": "[\"sad\",\"so, so\"]"}"#;
        assert_eq!(labels(both), ["sad", "so, so"]);
    }
}

//! How the bytes of one pair of key and value schemas are read, decided once per pair.

use std::sync::Arc;

use crate::{
    avro::{
        cursor::{Cursor, DecodeError},
        name::unescape,
        schema::{NAME_PARAMETER, NULLABLE_PARAMETER, PARAMETERS, TYPE_PARAMETER},
        writer::{Field, Shape, Type, Writer},
    },
    event::ShapeColumn,
    types::{ByteString, Codec, FieldType, Unscaled, Value},
};

/// What a value schema turns out to be.
#[derive(Debug)]
pub(super) enum DecodePlan {
    /// A change event's envelope.
    Envelope(EnvelopePlan),
    /// A logical message, which changes no row.
    Message,
}

/// How an envelope is read, and the columns of its rows.
#[derive(Debug)]
pub(super) struct EnvelopePlan {
    pub(super) writer: Arc<Writer>,
    pub(super) steps: Vec<Step>,
    pub(super) columns: Vec<ColumnPlan>,
    /// Indices into `columns`, in key order.
    pub(super) key: Vec<usize>,
}

/// One field of the envelope, in the order of its bytes.
#[derive(Debug)]
pub(super) enum Step {
    Before(Presence),
    After(Presence),
    Source(Vec<SourceStep>),
    Transaction(Presence, Vec<TransactionStep>),
    Op,
    Skip(Shape),
}

/// One field of the source block.
#[derive(Debug)]
pub(super) enum SourceStep {
    TsMs(Presence),
    Schema(Presence),
    Table(Presence),
    Skip(Shape),
}

/// One field of the transaction block.
#[derive(Debug)]
pub(super) enum TransactionStep {
    Id,
    TotalOrder,
    Skip(Shape),
}

/// Whether a field can be null, and by which branch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Presence {
    Always,
    Unless { null_branch: usize },
}

/// How one column is read.
#[derive(Debug)]
pub(super) struct ColumnPlan {
    pub(super) shape: ShapeColumn,
    pub(super) codec: Codec,
    presence: Presence,
    primitive: Primitive,
    /// Written by another producer, which has only the placeholder for a value that it was not sent.
    pub(super) has_only_placeholder: bool,
}

#[derive(Clone, Copy, Debug)]
enum Primitive {
    Boolean,
    Int,
    Long,
    Float,
    Double,
    Bytes,
    Decimal,
    String,
    VariableScaleDecimal,
    Point,
}

impl DecodePlan {
    /// Compiles the plan of a pair of schemas, or says what the value schema lacks.
    pub(super) fn compile(key: Option<&Writer>, value: &Arc<Writer>) -> Result<Self, String> {
        let fields = value.fields(&value.root).ok_or("it is not a record")?;
        let has = |name: &str| fields.iter().any(|field| field.name == name);
        if has("message") && has("op") && !has("after") {
            return Ok(Self::Message);
        }
        for name in ["before", "after", "source", "op"] {
            if !has(name) {
                return Err(format!("it has no field {name}"));
            }
        }
        let steps = fields.iter().map(|field| step(value, field)).collect::<Result<_, _>>()?;
        let columns = columns(value, fields)?;
        let key = key.map_or(Ok(Vec::new()), |key| key_columns(key, &columns))?;
        Ok(Self::Envelope(EnvelopePlan { writer: Arc::clone(value), steps, columns: with_key(columns, &key), key }))
    }
}

impl Presence {
    /// Reads the branch, if there is one, and tells whether a value follows.
    pub(super) fn read(self, cursor: &mut Cursor<'_>) -> Result<bool, DecodeError> {
        match self {
            Self::Always => Ok(true),
            Self::Unless { null_branch } => Ok(cursor.branch(2)? != null_branch),
        }
    }
}

impl ColumnPlan {
    /// Reads a column: `None` is null.
    pub(super) fn read<'a>(&self, cursor: &mut Cursor<'a>) -> Result<Option<Value<'a>>, DecodeError> {
        if !self.presence.read(cursor)? {
            return Ok(None);
        }
        Ok(Some(match self.primitive {
            Primitive::Boolean => Value::Boolean(cursor.boolean()?),
            Primitive::Int => Value::Int(cursor.int()?),
            Primitive::Long => Value::Long(cursor.long()?),
            Primitive::Float => Value::Float(cursor.float()?),
            Primitive::Double => Value::Double(cursor.double()?),
            Primitive::Bytes => Value::Bytes(ByteString::Raw(cursor.bytes()?)),
            Primitive::Decimal => Value::Decimal(Unscaled::TwosComplement(cursor.bytes()?)),
            Primitive::String => Value::Text(cursor.string()?),
            Primitive::Point => {
                let (x, y) = (cursor.double()?, cursor.double()?);
                if cursor.branch(2)? == 1 {
                    cursor.bytes()?;
                }
                if cursor.branch(2)? == 1 {
                    cursor.int()?;
                }
                Value::Point { x, y }
            }
            Primitive::VariableScaleDecimal => {
                let scale = cursor.int()?;
                Value::VariableScaleDecimal { scale, unscaled: Unscaled::TwosComplement(cursor.bytes()?) }
            }
        }))
    }
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
            Step::Source(source_steps(writer, ty)?)
        }
        "transaction" => Step::Transaction(presence, transaction_steps(writer, ty)?),
        "op" => match writer.resolve(&field.ty.shape) {
            Shape::String => Step::Op,
            _ => return Err("its op is not a string".into()),
        },
        _ => Step::Skip(field.ty.shape.clone()),
    })
}

fn source_steps(writer: &Writer, ty: &Type) -> Result<Vec<SourceStep>, String> {
    let fields = writer.fields(ty).ok_or("its source is not a record")?;
    for name in ["schema", "table", "ts_ms"] {
        if !fields.iter().any(|field| field.name == name) {
            return Err(format!("its source has no field {name}"));
        }
    }
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
            _ => SourceStep::Skip(field.ty.shape.clone()),
        })
    });
    steps.collect()
}

fn transaction_steps(writer: &Writer, ty: &Type) -> Result<Vec<TransactionStep>, String> {
    let fields = writer.fields(ty).ok_or("its transaction is not a record")?;
    let step = |field: &Field| match (field.name.as_str(), writer.resolve(&field.ty.shape)) {
        ("id", Shape::String) => TransactionStep::Id,
        ("total_order", Shape::Long) => TransactionStep::TotalOrder,
        _ => TransactionStep::Skip(field.ty.shape.clone()),
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
    fields.iter().map(|field| column(writer, field)).collect()
}

fn column(writer: &Writer, field: &Field) -> Result<ColumnPlan, String> {
    let (presence, ty) = presence(writer, &field.ty)?;
    let (avro, primitive) =
        primitive(writer, ty).ok_or_else(|| format!("field {} has a type that no column is written as", field.name))?;
    let attribute = |name: &str| ty.attributes[name].as_str();
    let decimal_scale = (attribute("logicalType") == Some("decimal"))
        .then(|| ty.attributes["scale"].as_u64().map_or(Some(0), |scale| u32::try_from(scale).ok()))
        .flatten();
    let connect_name = match primitive {
        Primitive::VariableScaleDecimal => Some("io.debezium.data.VariableScaleDecimal"),
        Primitive::Point => Some("io.debezium.data.geometry.Point"),
        _ => attribute("connect.name"),
    };
    let parameter = |name: &str| {
        let in_type = ty.attributes[PARAMETERS][name].as_str();
        in_type.or_else(|| field.attributes[PARAMETERS][name].as_str())
    };
    let type_sql = parameter(TYPE_PARAMETER);
    let codec = Codec::of_field(FieldType { avro, connect_name, decimal_scale, type_sql })
        .ok_or_else(|| format!("field {} has the unknown type {}", field.name, connect_name.unwrap_or(avro)))?;
    let primitive = match primitive {
        Primitive::Bytes if decimal_scale.is_some() => Primitive::Decimal,
        other => other,
    };
    Ok(ColumnPlan {
        shape: ShapeColumn {
            name: parameter(NAME_PARAMETER).map_or_else(|| unescape(&field.name).into(), Arc::from),
            type_sql: type_sql.unwrap_or_else(|| codec.sql_name()).into(),
            nullable: presence != Presence::Always && parameter(NULLABLE_PARAMETER) != Some("false"),
        },
        codec,
        presence,
        primitive,
        has_only_placeholder: type_sql.is_none() && codec.has_placeholder(),
    })
}

fn primitive(writer: &Writer, ty: &Type) -> Option<(&'static str, Primitive)> {
    Some(match writer.resolve(&ty.shape) {
        Shape::Boolean => ("boolean", Primitive::Boolean),
        Shape::Int => ("int", Primitive::Int),
        Shape::Long => ("long", Primitive::Long),
        Shape::Float => ("float", Primitive::Float),
        Shape::Double => ("double", Primitive::Double),
        Shape::Bytes => ("bytes", Primitive::Bytes),
        Shape::String => ("string", Primitive::String),
        Shape::Record(fields) => match fields.as_slice() {
            [scale, value]
                if (scale.name.as_str(), value.name.as_str()) == ("scale", "value")
                    && matches!((&scale.ty.shape, &value.ty.shape), (Shape::Int, Shape::Bytes)) =>
            {
                ("record", Primitive::VariableScaleDecimal)
            }
            [x, y, wkb, srid] if is_point(writer, [x, y, wkb, srid]) => ("record", Primitive::Point),
            _ => return None,
        },
        _ => return None,
    })
}

/// Whether the fields are those of Debezium's `Point`, its optional ones with null first.
fn is_point(writer: &Writer, fields: [&Field; 4]) -> bool {
    let named = fields.map(|field| field.name.as_str()) == ["x", "y", "wkb", "srid"];
    let [x, y, wkb, srid] = fields.map(|field| &field.ty);
    let optional = |ty: &Type, wanted: fn(&Shape) -> bool| matches!(presence(writer, ty), Ok((Presence::Unless { null_branch: 0 }, ty)) if wanted(writer.resolve(&ty.shape)));
    named
        && matches!((&x.shape, &y.shape), (Shape::Double, Shape::Double))
        && optional(wkb, |shape| matches!(shape, Shape::Bytes))
        && optional(srid, |shape| matches!(shape, Shape::Int))
}

/// A type with the null of its union taken off.
fn presence<'a>(writer: &'a Writer, ty: &'a Type) -> Result<(Presence, &'a Type), String> {
    let Shape::Union(branches) = &ty.shape else { return Ok((Presence::Always, ty)) };
    let is_null = |branch: &Type| matches!(writer.resolve(&branch.shape), Shape::Null);
    match branches.as_slice() {
        [null, other] if is_null(null) => Ok((Presence::Unless { null_branch: 0 }, other)),
        [other, null] if is_null(null) => Ok((Presence::Unless { null_branch: 1 }, other)),
        _ => Err("it has a union of other than null and one type".into()),
    }
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

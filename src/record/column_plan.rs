//! How one column of a row is read, decided once per schema: the form of its Avro bytes, and the codec for its text.

use crate::{
    avro::{
        cursor::{Cursor, DecodeError},
        name::unescape,
        schema::{
            ALLOWED_PARAMETER, BASE_PARAMETER, ENCODING_PARAMETER, LABELS_PARAMETER, MISSING_PARAMETER, NAME_PARAMETER,
            NULLABLE_PARAMETER, PARAMETERS, SOURCE_TYPE_PARAMETER, TYPE_PARAMETER,
        },
        writer::{Field, Shape, Type, Writer},
    },
    event::ShapeColumn,
    types::{self, ByteString, Codec, FieldType, Placeholder, RenderError, Unscaled, Value},
};

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
    value: ValuePlan,
    /// Written by another producer, which has only the placeholder for a value that it was not sent.
    pub(super) is_foreign: bool,
}

/// How a value is read.
#[derive(Debug)]
struct ValuePlan {
    presence: Presence,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Scalar(Form, Codec),
    /// Blocks of such items.
    Array(Box<ValuePlan>),
    /// Blocks of keys and string values.
    Map(Presence),
}

/// The form of a scalar value's bytes.
#[derive(Clone, Copy, Debug)]
enum Form {
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

/// What a column holds.
#[derive(Clone, Copy, Debug)]
pub(super) enum Found<'a> {
    /// A value.
    One(Value<'a>),
    /// An array or a map, whose blocks begin here; they were read once.
    Many(Cursor<'a>),
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
    /// Compiles the plan of a row's field, or says why no column is written like that.
    pub(super) fn compile(writer: &Writer, field: &Field) -> Result<Self, String> {
        let (presence, ty) = presence(writer, &field.ty)?;
        let parameter = |name: &str| {
            let in_type = ty.attributes[PARAMETERS][name].as_str();
            in_type.or_else(|| field.attributes[PARAMETERS][name].as_str())
        };
        let type_sql = parameter(TYPE_PARAMETER);
        let base = parameter(BASE_PARAMETER).or(type_sql);
        let source = SourceSays {
            type_sql: base,
            source_type: parameter(SOURCE_TYPE_PARAMETER),
            encoding: parameter(ENCODING_PARAMETER),
        };
        let value = ValuePlan::compile(writer, &field.ty, source)
            .map_err(|problem| format!("field {} has {problem}", field.name))?;
        let shape = ShapeColumn {
            name: parameter(NAME_PARAMETER).map_or_else(|| unescape(&field.name).into(), Into::into),
            type_sql: type_sql.map_or_else(|| value.sql_name().into(), Into::into),
            guessed: type_sql.is_none(),
            nullable: presence != Presence::Always && parameter(NULLABLE_PARAMETER) != Some("false"),
            missing: parameter(MISSING_PARAMETER).map(Into::into),
            labels: match parameter(LABELS_PARAMETER) {
                Some(json) => serde_json::from_str(json)
                    .map_err(|_| format!("field {} has labels that are no JSON", field.name))?,
                // Where nothing tells them apart, one with a comma would be taken for two.
                None => allowed(writer, ty)
                    .filter(|_| type_sql.is_some())
                    .map_or_else(Vec::new, |all| all.split(',').map(Into::into).collect()),
            },
        };
        Ok(Self { shape, is_foreign: type_sql.is_none(), value })
    }

    /// Reads a column: `None` is null.
    pub(super) fn read<'a>(&self, cursor: &mut Cursor<'a>) -> Result<Option<Found<'a>>, DecodeError> {
        self.value.read(cursor)
    }

    /// Whether the value stands for one that was not sent.
    pub(super) fn is_placeholder(&self, found: Found<'_>, placeholder: &Placeholder) -> bool {
        self.is_foreign && self.value.is_placeholder(found, placeholder)
    }

    /// Appends the value as PostgreSQL's text, if that leaves `out` below a size.
    pub(super) fn append_text(&self, found: Found<'_>, out: &mut Vec<u8>, most: usize) -> Result<(), TextError> {
        self.value.append_text(found, out, most)
    }
}

/// The labels that a type, or the type of its items, allows.
fn allowed<'a>(writer: &'a Writer, ty: &'a Type) -> Option<&'a str> {
    let of = |ty: &'a Type| ty.attributes[PARAMETERS][ALLOWED_PARAMETER].as_str();
    match writer.resolve(&ty.shape) {
        Shape::Array(item) => presence(writer, item).ok().and_then(|(_, item)| of(item)),
        _ => of(ty),
    }
}

/// Why a value is not turned into text.
#[derive(Debug)]
pub(super) enum TextError {
    /// It has none.
    Render(RenderError),
    /// The text would be beyond the size: a schema may say that a bit string is padded to 80 million digits.
    Beyond,
}

impl From<RenderError> for TextError {
    fn from(error: RenderError) -> Self {
        Self::Render(error)
    }
}

/// What a field's parameters say of the source's column.
#[derive(Clone, Copy, Default)]
struct SourceSays<'a> {
    type_sql: Option<&'a str>,
    source_type: Option<&'a str>,
    encoding: Option<&'a str>,
}

impl ValuePlan {
    fn compile(writer: &Writer, ty: &Type, source: SourceSays<'_>) -> Result<Self, String> {
        let (presence, ty) = presence(writer, ty).map_err(|_| "a union of other than null and one type".to_owned())?;
        if let Shape::Array(item) = writer.resolve(&ty.shape) {
            let item = Self::compile(
                writer,
                item,
                SourceSays { type_sql: source.type_sql.and_then(|sql| sql.strip_suffix("[]")), ..source },
            )?;
            return match item.kind {
                Kind::Scalar(..) => Ok(Self { presence, kind: Kind::Array(Box::new(item)) }),
                Kind::Array(_) | Kind::Map(_) => Err("an array of arrays or maps".into()),
            };
        }
        if let Shape::Map(values) = writer.resolve(&ty.shape) {
            let (values, ty) = self::presence(writer, values)?;
            let is_text = matches!(writer.resolve(&ty.shape), Shape::String);
            return if is_text {
                Ok(Self { presence, kind: Kind::Map(values) })
            } else {
                Err("a map of no strings".into())
            };
        }
        let (avro, form) = form(writer, ty).ok_or("a type that no column is written as")?;
        let attribute = |name: &str| ty.attributes[name].as_str();
        let decimal_scale = (attribute("logicalType") == Some("decimal"))
            .then(|| ty.attributes["scale"].as_u64().map_or(Some(0), |scale| u32::try_from(scale).ok()))
            .flatten();
        let connect_name = match form {
            Form::VariableScaleDecimal => Some("io.debezium.data.VariableScaleDecimal"),
            Form::Point => Some("io.debezium.data.geometry.Point"),
            _ => attribute("connect.name"),
        };
        let SourceSays { type_sql, source_type, encoding } = source;
        let length = ty.attributes[PARAMETERS]["length"].as_str();
        let codec =
            Codec::of_field(FieldType { avro, connect_name, decimal_scale, type_sql, source_type, length, encoding })
                .ok_or_else(|| format!("the unknown type {}", connect_name.unwrap_or(avro)))?;
        let form = match form {
            Form::Bytes if decimal_scale.is_some() => Form::Decimal,
            other => other,
        };
        Ok(Self { presence, kind: Kind::Scalar(form, codec) })
    }

    /// SQL that a column is declared by when its writer did not say the source's type.
    fn sql_name(&self) -> String {
        match &self.kind {
            Kind::Scalar(_, codec) => codec.sql_name().to_owned(),
            Kind::Array(item) => format!("{}[]", item.sql_name()),
            Kind::Map(_) => "hstore".to_owned(),
        }
    }

    fn read<'a>(&self, cursor: &mut Cursor<'a>) -> Result<Option<Found<'a>>, DecodeError> {
        if !self.presence.read(cursor)? {
            return Ok(None);
        }
        match &self.kind {
            Kind::Scalar(form, _) => form.read(cursor).map(|value| Some(Found::One(value))),
            Kind::Array(item) => {
                let begin = *cursor;
                item.each(cursor, |_| Ok::<_, DecodeError>(()))?;
                Ok(Some(Found::Many(begin)))
            }
            Kind::Map(values) => {
                let begin = *cursor;
                each_pair(*values, cursor, |_, _| Ok::<_, DecodeError>(()))?;
                Ok(Some(Found::Many(begin)))
            }
        }
    }

    /// Calls `visit` with the items of an array, in its blocks.
    fn each<'a, E: From<DecodeError>>(
        &self,
        cursor: &mut Cursor<'a>,
        mut visit: impl FnMut(Option<Found<'a>>) -> Result<(), E>,
    ) -> Result<(), E> {
        each_in_blocks(cursor, |cursor| visit(self.read(cursor)?))
    }

    fn append_text(&self, found: Found<'_>, out: &mut Vec<u8>, most: usize) -> Result<(), TextError> {
        let within = |length: usize| if length <= most { Ok(()) } else { Err(TextError::Beyond) };
        match (&self.kind, found) {
            (Kind::Scalar(_, codec), Found::One(value)) => {
                within(out.len().saturating_add(codec.least_text()))?;
                codec.render(value, out)?;
                within(out.len())
            }
            (Kind::Array(item), Found::Many(mut cursor)) => {
                let (mut text, mut separator) = (Vec::new(), None);
                out.push(b'{');
                item.each(&mut cursor, |found| {
                    out.extend(separator.replace(b','));
                    let Some(found) = found else {
                        out.extend_from_slice(b"NULL");
                        return Ok(());
                    };
                    text.clear();
                    item.append_text(found, &mut text, most).map_err(ItemError::Text)?;
                    types::append_item(&text, out);
                    within(out.len()).map_err(ItemError::Text)
                })
                .map_err(|error| match error {
                    ItemError::Text(error) => error,
                    ItemError::Bytes => RenderError("array").into(),
                })?;
                out.push(b'}');
                Ok(())
            }
            (Kind::Map(values), Found::Many(mut cursor)) => {
                let start = out.len();
                each_pair(*values, &mut cursor, |key, value| {
                    types::append_pair(key, value, start, out);
                    within(out.len()).map_err(ItemError::Text)
                })
                .map_err(|error| match error {
                    ItemError::Text(error) => error,
                    ItemError::Bytes => RenderError("hstore").into(),
                })
            }
            _ => Err(RenderError("array").into()),
        }
    }

    /// Debezium's stand-ins for a value that it was not sent: the text, its bytes, an array with the text, its character codes as
    /// numbers, or the UUID that is named by it; an object in place of an `hstore`.
    fn is_placeholder(&self, found: Found<'_>, placeholder: &Placeholder) -> bool {
        match (&self.kind, found) {
            (Kind::Scalar(_, codec), Found::One(Value::Text(text))) => {
                text == placeholder.text() || codec.is_hstore() && text == placeholder.pair()
            }
            (Kind::Scalar(..), Found::One(Value::Bytes(ByteString::Raw(bytes)))) => bytes == placeholder.octets(),
            (Kind::Array(item), Found::Many(mut cursor)) => {
                let codes = placeholder.octets().iter().map(|octet| i64::from(octet.cast_signed()));
                let (mut count, mut all, mut codes) = (0, true, codes);
                let mut are_codes = true;
                let walked = item.each(&mut cursor, |found| {
                    count += 1;
                    let is_uuid = matches!(found, Some(Found::One(Value::Text(text))) if text == placeholder.uuid());
                    all &= is_uuid || found.is_some_and(|found| item.is_placeholder(found, placeholder));
                    let code = match found {
                        Some(Found::One(Value::Int(code))) => Some(i64::from(code)),
                        Some(Found::One(Value::Long(code))) => Some(code),
                        _ => None,
                    };
                    are_codes &= code.is_some() && code == codes.next();
                    Ok::<_, DecodeError>(())
                });
                walked.is_ok() && (count == 1 && all || are_codes && codes.next().is_none())
            }
            (Kind::Map(values), Found::Many(mut cursor)) => {
                let (mut count, mut all) = (0, true);
                let walked = each_pair(*values, &mut cursor, |key, value| {
                    count += 1;
                    all &= key == placeholder.text() && value == Some(placeholder.text());
                    Ok::<_, DecodeError>(())
                });
                walked.is_ok() && count == 1 && all
            }
            _ => false,
        }
    }
}

/// Calls `visit` with the pairs of a map, in its blocks.
fn each_pair<'a, E: From<DecodeError>>(
    values: Presence,
    cursor: &mut Cursor<'a>,
    mut visit: impl FnMut(&'a str, Option<&'a str>) -> Result<(), E>,
) -> Result<(), E> {
    each_in_blocks(cursor, |cursor| {
        let key = cursor.string()?;
        let value = if values.read(cursor)? { Some(cursor.string()?) } else { None };
        visit(key, value)
    })
}

/// Calls `read` at each item of an array or a map.
fn each_in_blocks<'a, E: From<DecodeError>>(
    cursor: &mut Cursor<'a>,
    mut read: impl FnMut(&mut Cursor<'a>) -> Result<(), E>,
) -> Result<(), E> {
    loop {
        let (count, _) = cursor.block()?;
        if count == 0 {
            return Ok(());
        }
        for _ in 0..count {
            read(cursor)?;
        }
    }
}

/// What ends the walk over an array.
enum ItemError {
    Text(TextError),
    Bytes,
}

impl From<DecodeError> for ItemError {
    fn from(_: DecodeError) -> Self {
        Self::Bytes
    }
}

impl Form {
    fn read<'a>(self, cursor: &mut Cursor<'a>) -> Result<Value<'a>, DecodeError> {
        Ok(match self {
            Self::Boolean => Value::Boolean(cursor.boolean()?),
            Self::Int => Value::Int(cursor.int()?),
            Self::Long => Value::Long(cursor.long()?),
            Self::Float => Value::Float(cursor.float()?),
            Self::Double => Value::Double(cursor.double()?),
            Self::Bytes => Value::Bytes(ByteString::Raw(cursor.bytes()?)),
            Self::Decimal => Value::Decimal(Unscaled::TwosComplement(cursor.bytes()?)),
            Self::String => Value::Text(cursor.string()?),
            Self::Point => {
                let (x, y) = (cursor.double()?, cursor.double()?);
                if cursor.branch(2)? == 1 {
                    cursor.bytes()?;
                }
                if cursor.branch(2)? == 1 {
                    cursor.int()?;
                }
                Value::Point { x, y }
            }
            Self::VariableScaleDecimal => {
                let scale = cursor.int()?;
                Value::VariableScaleDecimal { scale, unscaled: Unscaled::TwosComplement(cursor.bytes()?) }
            }
        })
    }
}

fn form(writer: &Writer, ty: &Type) -> Option<(&'static str, Form)> {
    Some(match writer.resolve(&ty.shape) {
        Shape::Boolean => ("boolean", Form::Boolean),
        Shape::Int => ("int", Form::Int),
        Shape::Long => ("long", Form::Long),
        Shape::Float => ("float", Form::Float),
        Shape::Double => ("double", Form::Double),
        Shape::Bytes => ("bytes", Form::Bytes),
        Shape::String => ("string", Form::String),
        Shape::Record(fields) => match fields.as_slice() {
            [scale, value]
                if (scale.name.as_str(), value.name.as_str()) == ("scale", "value")
                    && matches!((&scale.ty.shape, &value.ty.shape), (Shape::Int, Shape::Bytes)) =>
            {
                ("record", Form::VariableScaleDecimal)
            }
            [x, y, wkb, srid] if is_point(writer, [x, y, wkb, srid]) => ("record", Form::Point),
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
pub(super) fn presence<'a>(writer: &'a Writer, ty: &'a Type) -> Result<(Presence, &'a Type), String> {
    let Shape::Union(branches) = &ty.shape else { return Ok((Presence::Always, ty)) };
    let is_null = |branch: &Type| matches!(writer.resolve(&branch.shape), Shape::Null);
    match branches.as_slice() {
        [null, other] if is_null(null) => Ok((Presence::Unless { null_branch: 0 }, other)),
        [other, null] if is_null(null) => Ok((Presence::Unless { null_branch: 1 }, other)),
        _ => Err("it has a union of other than null and one type".into()),
    }
}

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
    record::form::{self, Form, Presence, form, presence},
    types::{self, ByteString, Codec, FieldType, Placeholder, RenderError, Value},
};

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

/// Where a column's value begins in the body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Null,
    At(usize),
}

/// What a column holds.
#[derive(Clone, Copy, Debug)]
pub enum Found<'a> {
    /// A value.
    One(Value<'a>),
    /// An array or a map, whose blocks begin here; they were read once.
    Many(Cursor<'a>),
}

impl ColumnPlan {
    /// The column with its type, for an error.
    pub(super) fn described(&self) -> String {
        format!("{} ({})", self.shape.name, self.shape.type_sql)
    }

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
        let may_be_encoded = type_sql.is_none() && source.may_be_encoded() && is_text(writer, ty);
        let shape = ShapeColumn {
            name: parameter(NAME_PARAMETER).map_or_else(|| unescape(&field.name).into(), Into::into),
            type_sql: match (type_sql, source.source_type) {
                (Some(type_sql), _) => type_sql.into(),
                (None, Some("BYTEA")) if may_be_encoded => "bytea".into(),
                (None, Some("_BYTEA")) if may_be_encoded => "bytea[]".into(),
                (None, _) => value.sql_name().into(),
            },
            may_be_encoded,
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

    /// Moves past a column and tells where its value lies.
    #[inline]
    pub(super) fn place(&self, cursor: &mut Cursor<'_>) -> Result<Place, DecodeError> {
        if !self.value.presence.read(cursor)? {
            return Ok(Place::Null);
        }
        let place = Place::At(cursor.offset());
        self.value.skip(cursor)?;
        Ok(place)
    }

    /// Reads the value that lies here.
    #[inline]
    pub(super) fn value<'a>(&self, cursor: &mut Cursor<'a>) -> Result<Found<'a>, DecodeError> {
        match &self.value.kind {
            Kind::Scalar(form, _) => form.read(cursor).map(Found::One),
            Kind::Array(_) | Kind::Map(_) => Ok(Found::Many(*cursor)),
        }
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

/// Whether values are texts of no type that a name tells, or arrays of such.
fn is_text(writer: &Writer, ty: &Type) -> bool {
    match writer.resolve(&ty.shape) {
        Shape::Array(item) => {
            presence(writer, item).is_ok_and(|(_, item)| matches!(item.shape, Shape::String) && is_text(writer, item))
        }
        Shape::String => ty.attributes["connect.name"].is_null(),
        _ => false,
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

impl SourceSays<'_> {
    /// Whether a text may be bytes in an encoding: nothing tells that it is, or that it is none.
    fn may_be_encoded(self) -> bool {
        let is_text = |name: &str| matches!(name.trim_start_matches('_'), "TEXT" | "VARCHAR" | "BPCHAR");
        self.encoding.is_none() && !self.source_type.is_some_and(is_text)
    }
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
                Kind::Scalar(..) | Kind::Map(_) => Ok(Self { presence, kind: Kind::Array(Box::new(item)) }),
                Kind::Array(_) => Err("an array of arrays".into()),
            };
        }
        if let Shape::Map(values) = writer.resolve(&ty.shape) {
            let (values, ty) = form::presence(writer, values)?;
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

    /// Moves past a value that is there. What has many is read, so that it is known to be whole.
    #[inline]
    fn skip(&self, cursor: &mut Cursor<'_>) -> Result<(), DecodeError> {
        match &self.kind {
            Kind::Scalar(form, _) => form.skip(cursor),
            Kind::Array(_) | Kind::Map(_) => {
                // A copy, so that the cursor itself stays in registers.
                let mut copy = *cursor;
                self.walk(&mut copy)?;
                *cursor = copy;
                Ok(())
            }
        }
    }

    fn walk(&self, cursor: &mut Cursor<'_>) -> Result<(), DecodeError> {
        match &self.kind {
            Kind::Scalar(form, _) => form.skip(cursor),
            Kind::Array(item) => item.each(cursor, |_| Ok::<_, DecodeError>(())),
            Kind::Map(values) => each_pair(*values, cursor, |_, _| Ok::<_, DecodeError>(())),
        }
    }

    fn read<'a>(&self, cursor: &mut Cursor<'a>) -> Result<Option<Found<'a>>, DecodeError> {
        if !self.presence.read(cursor)? {
            return Ok(None);
        }
        if let Kind::Scalar(form, _) = &self.kind {
            return form.read(cursor).map(|value| Some(Found::One(value)));
        }
        let begin = *cursor;
        self.skip(cursor)?;
        Ok(Some(Found::Many(begin)))
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
            (Kind::Scalar(..), Found::One(Value::Text(text))) => {
                text == placeholder.text() || text == placeholder.pair()
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

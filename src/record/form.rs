//! The forms of the bytes of scalar values, and of fields that can be null.

use crate::{
    avro::{
        cursor::{Cursor, DecodeError},
        writer::{Field, Shape, Type, Writer},
    },
    types::{ByteString, Unscaled, Value},
};

/// Whether a field can be null, and by which branch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Presence {
    Always,
    Unless { null_branch: usize },
}

/// The form of a scalar value's bytes.
#[derive(Clone, Copy, Debug)]
pub(super) enum Form {
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

impl Presence {
    /// Reads the branch, if there is one, and tells whether a value follows.
    #[inline]
    pub(super) fn read(self, cursor: &mut Cursor<'_>) -> Result<bool, DecodeError> {
        match self {
            Self::Always => Ok(true),
            Self::Unless { null_branch } => cursor.present(null_branch),
        }
    }
}

impl Form {
    /// Moves past a value.
    #[inline]
    pub(super) fn skip(self, cursor: &mut Cursor<'_>) -> Result<(), DecodeError> {
        match self {
            Self::Boolean => drop(cursor.fixed(1)?),
            Self::Int | Self::Long => cursor.skip_number()?,
            Self::Float => drop(cursor.fixed(4)?),
            Self::Double => drop(cursor.fixed(8)?),
            Self::Bytes | Self::Decimal | Self::String => drop(cursor.bytes()?),
            Self::Point | Self::VariableScaleDecimal => {
                let mut copy = *cursor;
                self.read(&mut copy)?;
                *cursor = copy;
            }
        }
        Ok(())
    }

    /// Reads a value.
    #[inline]
    pub(super) fn read<'a>(self, cursor: &mut Cursor<'a>) -> Result<Value<'a>, DecodeError> {
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

/// Avro's name of a scalar type, and its form; `None` where no column is written as such.
pub(super) fn form(writer: &Writer, ty: &Type) -> Option<(&'static str, Form)> {
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

//! A registered schema as its reader needs it: the shape of the bytes together with the attributes that Avro itself ignores.
//!
//! apache-avro checks the schema; its own tree drops the attributes of primitive types (`connect.name`, `connect.parameters`),
//! so the shape is taken from the JSON.

use std::collections::HashMap;

use serde_json::Value;

use crate::avro::cursor::{Cursor, DecodeError, Problem};

/// Nesting beyond which skipping gives up; real envelopes need five.
const DEEPEST: usize = 32;
/// Values that are skipped at most, for each byte that is left and in any case: records of records may have a great many values
/// without a byte.
const VALUES_A_BYTE: usize = DEEPEST;
const VALUES: usize = 100_000;

/// A schema cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum WriterError {
    /// It is not a valid Avro schema.
    #[error("not an Avro schema")]
    Invalid(#[source] Box<apache_avro::Error>),
    /// It is not JSON.
    #[error("not JSON")]
    Json(#[source] serde_json::Error),
    /// It uses something that Avro defines and this reader does not know.
    #[error("type {0} is not understood")]
    Unknown(String),
}

/// A writer's schema.
#[derive(Clone, Debug)]
pub struct Writer {
    named: Vec<Shape>,
    /// The outermost type.
    pub root: Type,
}

/// A type with the attributes that stand beside it.
#[derive(Clone, Debug)]
pub struct Type {
    /// The shape of its bytes.
    pub shape: Shape,
    /// The JSON object of the type without the types in it; null where the schema has only a name.
    pub attributes: Value,
}

/// The shape of a type's bytes.
#[derive(Clone, Debug)]
pub enum Shape {
    /// `null`
    Null,
    /// `boolean`
    Boolean,
    /// `int`
    Int,
    /// `long`
    Long,
    /// `float`
    Float,
    /// `double`
    Double,
    /// `bytes`
    Bytes,
    /// `string`
    String,
    /// `fixed` of a size
    Fixed(usize),
    /// `enum`
    Enum,
    /// `array`
    Array(Box<Type>),
    /// `map`
    Map(Box<Type>),
    /// A union's branches
    Union(Vec<Type>),
    /// A record's fields
    Record(Vec<Field>),
    /// A named type, by its place in the writer.
    Named(usize),
}

/// A record's field.
#[derive(Clone, Debug)]
pub struct Field {
    /// The name in the schema.
    pub name: String,
    /// The type.
    pub ty: Type,
    /// The JSON object of the field without its type.
    pub attributes: Value,
}

impl Writer {
    /// Reads a registered schema.
    pub fn parse(json: &str) -> Result<Self, WriterError> {
        apache_avro::Schema::parse_str(json).map_err(|error| WriterError::Invalid(Box::new(error)))?;
        let json: Value = serde_json::from_str(json).map_err(WriterError::Json)?;
        let mut builder = Builder { named: Vec::new(), places: HashMap::new() };
        let root = builder.ty(&json, "")?;
        Ok(Self { named: builder.named, root })
    }

    /// The full name of the outermost type, if it has one.
    #[must_use]
    pub fn name(&self) -> Option<String> {
        let text = |attribute: &str| self.root.attributes[attribute].as_str();
        Some(full_name(text("name")?, text("namespace").unwrap_or_default()))
    }

    /// The shape behind a name.
    #[must_use]
    pub fn resolve<'a>(&'a self, shape: &'a Shape) -> &'a Shape {
        match shape {
            Shape::Named(place) => self.named.get(*place).unwrap_or(&Shape::Null),
            other => other,
        }
    }

    /// The fields of a record, or `None` if the type is none.
    #[must_use]
    pub fn fields<'a>(&'a self, ty: &'a Type) -> Option<&'a [Field]> {
        match self.resolve(&ty.shape) {
            Shape::Record(fields) => Some(fields),
            _ => None,
        }
    }

    /// Reads past a value.
    pub fn skip(&self, shape: &Shape, cursor: &mut Cursor<'_>) -> Result<(), DecodeError> {
        let mut left = cursor.remaining().saturating_mul(VALUES_A_BYTE).saturating_add(VALUES);
        self.skip_nested(shape, cursor, 0, &mut left)
    }

    fn skip_nested(
        &self,
        shape: &Shape,
        cursor: &mut Cursor<'_>,
        depth: usize,
        left: &mut usize,
    ) -> Result<(), DecodeError> {
        if depth > DEEPEST {
            return Err(cursor.error(Problem::Depth, "a nested value"));
        }
        if *left == 0 {
            return Err(cursor.error(Problem::Values, "a nested value"));
        }
        *left -= 1;
        match self.resolve(shape) {
            Shape::Null | Shape::Named(_) => {}
            Shape::Boolean => drop(cursor.boolean()?),
            Shape::Int | Shape::Enum => drop(cursor.int()?),
            Shape::Long => drop(cursor.long()?),
            Shape::Float => drop(cursor.float()?),
            Shape::Double => drop(cursor.double()?),
            Shape::Bytes | Shape::String => drop(cursor.bytes()?),
            Shape::Fixed(size) => drop(cursor.fixed(*size)?),
            Shape::Array(items) => self.skip_blocks((&items.shape, false), cursor, depth + 1, left)?,
            Shape::Map(values) => self.skip_blocks((&values.shape, true), cursor, depth + 1, left)?,
            Shape::Union(branches) => {
                let branch = cursor.branch(branches.len())?;
                self.skip_nested(&branches[branch].shape, cursor, depth + 1, left)?;
            }
            Shape::Record(fields) => {
                for field in fields {
                    self.skip_nested(&field.ty.shape, cursor, depth + 1, left)?;
                }
            }
        }
        Ok(())
    }

    fn skip_blocks(
        &self,
        (shape, keyed): (&Shape, bool),
        cursor: &mut Cursor<'_>,
        depth: usize,
        left: &mut usize,
    ) -> Result<(), DecodeError> {
        loop {
            let (count, size) = cursor.block()?;
            if count == 0 {
                return Ok(());
            }
            if let Some(size) = size {
                cursor.fixed(size)?;
                continue;
            }
            for _ in 0..count {
                let before = cursor.remaining();
                if keyed {
                    cursor.bytes()?;
                }
                self.skip_nested(shape, cursor, depth, left)?;
                if cursor.remaining() == before {
                    // Items without bytes: reading them one by one could take for ever, and finds nothing.
                    break;
                }
            }
        }
    }
}

struct Builder {
    named: Vec<Shape>,
    places: HashMap<String, usize>,
}

impl Builder {
    fn ty(&mut self, json: &Value, namespace: &str) -> Result<Type, WriterError> {
        let shape = match json {
            Value::String(name) => self.by_name(name, namespace)?,
            Value::Array(branches) => {
                Shape::Union(branches.iter().map(|branch| self.ty(branch, namespace)).collect::<Result<_, _>>()?)
            }
            Value::Object(object) => match object.get("type") {
                Some(Value::String(name)) => self.complex(name, json, namespace)?,
                Some(inner) => return Ok(Type { attributes: attributes(json), ..self.ty(inner, namespace)? }),
                None => return Err(unknown(json)),
            },
            other => return Err(unknown(other)),
        };
        Ok(Type { shape, attributes: attributes(json) })
    }

    fn complex(&mut self, name: &str, json: &Value, namespace: &str) -> Result<Shape, WriterError> {
        match name {
            "record" | "error" => self.record(json, namespace),
            "enum" => Ok(self.define(json, namespace, Shape::Enum).1),
            "fixed" => {
                let size = json["size"].as_u64().and_then(|size| usize::try_from(size).ok());
                let shape = Shape::Fixed(size.ok_or_else(|| unknown(json))?);
                Ok(self.define(json, namespace, shape).1)
            }
            "array" => Ok(Shape::Array(Box::new(self.ty(&json["items"], namespace)?))),
            "map" => Ok(Shape::Map(Box::new(self.ty(&json["values"], namespace)?))),
            other => self.by_name(other, namespace),
        }
    }

    fn record(&mut self, json: &Value, namespace: &str) -> Result<Shape, WriterError> {
        // The place is taken before the fields are read, since they may name the record itself.
        let (namespace, reference) = self.define(json, namespace, Shape::Null);
        let fields = json["fields"].as_array().ok_or_else(|| unknown(json))?;
        let fields = fields
            .iter()
            .map(|field| {
                let name = field["name"].as_str().ok_or_else(|| unknown(field))?.to_owned();
                Ok(Field { name, ty: self.ty(&field["type"], &namespace)?, attributes: attributes(field) })
            })
            .collect::<Result<Vec<_>, WriterError>>()?;
        if let Shape::Named(place) = reference
            && let Some(shape) = self.named.get_mut(place)
        {
            *shape = Shape::Record(fields);
        }
        Ok(reference)
    }

    fn define(&mut self, json: &Value, enclosing: &str, shape: Shape) -> (String, Shape) {
        let name = json["name"].as_str().unwrap_or_default();
        let namespace = match name.rsplit_once('.') {
            Some((namespace, _)) => namespace,
            None => json["namespace"].as_str().unwrap_or(enclosing),
        };
        let place = self.named.len();
        self.named.push(shape);
        self.places.insert(full_name(name, namespace), place);
        (namespace.to_owned(), Shape::Named(place))
    }

    fn by_name(&self, name: &str, namespace: &str) -> Result<Shape, WriterError> {
        Ok(match name {
            "null" => Shape::Null,
            "boolean" => Shape::Boolean,
            "int" => Shape::Int,
            "long" => Shape::Long,
            "float" => Shape::Float,
            "double" => Shape::Double,
            "bytes" => Shape::Bytes,
            "string" => Shape::String,
            name => {
                let place = self.places.get(&full_name(name, namespace)).or_else(|| self.places.get(name));
                Shape::Named(*place.ok_or_else(|| WriterError::Unknown(name.to_owned()))?)
            }
        })
    }
}

/// What stands in a type or a field besides other types: those would be kept once more at each level around them.
fn attributes(json: &Value) -> Value {
    const TYPES: [&str; 4] = ["type", "fields", "items", "values"];
    let Some(object) = json.as_object() else { return Value::Null };
    let own = object.iter().filter(|(name, _)| !TYPES.contains(&name.as_str()));
    Value::Object(own.map(|(name, value)| (name.clone(), value.clone())).collect())
}

fn full_name(name: &str, namespace: &str) -> String {
    if name.contains('.') || namespace.is_empty() { name.to_owned() } else { format!("{namespace}.{name}") }
}

fn unknown(json: &Value) -> WriterError {
    WriterError::Unknown(json["type"].as_str().unwrap_or("without a name").to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Records within records, `width` fields each, and no byte in the innermost.
    fn empty(depth: usize, width: usize) -> Writer {
        let field = |number, ty: &str| format!(r#"{{"name":"f{number}","type":{ty}}}"#);
        let mut ty = r#""null""#.to_owned();
        for level in 0..depth {
            let name = format!(r#""R{level}""#);
            let first = field(0, &ty);
            // Where it was defined, a name is enough.
            let again = if level == 0 { r#""null""#.to_owned() } else { format!(r#""R{}""#, level - 1) };
            let fields: Vec<_> = std::iter::once(first).chain((1..width).map(|number| field(number, &again))).collect();
            ty = format!(r#"{{"type":"record","name":{name},"fields":[{}]}}"#, fields.join(","));
        }
        Writer::parse(&ty).unwrap()
    }

    #[test]
    fn values_without_bytes_do_not_take_for_ever() {
        let writer = empty(3, 10);
        writer.skip(&writer.root.shape, &mut Cursor::new(&[])).unwrap();
        let writer = empty(30, 10);
        let error = writer.skip(&writer.root.shape, &mut Cursor::new(&[])).unwrap_err();
        assert_eq!(error.problem, Problem::Values);
    }

    #[test]
    fn what_a_type_holds_is_kept_once() {
        let doc = "d".repeat(1000);
        let mut ty = format!(r#"{{"type":"string","doc":"{doc}"}}"#);
        for level in 0..30 {
            ty = format!(r#"{{"type":"record","name":"R{level}","fields":[{{"name":"f","type":{ty}}}]}}"#);
        }
        let writer = Writer::parse(&ty).unwrap();
        let kept = format!("{writer:?}").matches(&doc).count();
        assert_eq!(kept, 1);
        let field = &writer.fields(&writer.root).unwrap()[0];
        assert!(field.attributes["type"].is_null() && field.attributes["name"] == "f");
    }
}

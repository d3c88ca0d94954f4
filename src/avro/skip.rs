//! Reading past what nobody asks for, compiled once: a record's fields become a flat list of moves.

use crate::avro::{
    cursor::{Cursor, DecodeError},
    writer::{Shape, Writer},
};

/// Records within records that are made flat; what lies deeper is walked by its shape.
const DEEPEST: usize = 4;
/// Moves of one value; the rest is walked by its shape. A short schema can name a record again and again.
const MOST: usize = 1_000;

/// Values that lie next to each other.
#[derive(Clone, Debug, Default)]
pub struct Skip(Vec<Move>);

#[derive(Clone, Debug)]
enum Move {
    /// A number of variable length.
    Number,
    /// As many bytes.
    Bytes(usize),
    /// A length and as many bytes.
    Sized,
    /// A union of null and a number of variable length.
    OptionalNumber { null_branch: usize },
    /// A union of null and a length with as many bytes.
    OptionalSized { null_branch: usize },
    /// A union of null and any other type.
    Optional { null_branch: usize, then: Skip },
    /// Anything else.
    Shape(Shape),
}

impl Skip {
    /// The moves over a value of this shape.
    #[must_use]
    pub fn over(writer: &Writer, shape: &Shape) -> Self {
        let mut skip = Self::default();
        skip.add(writer, shape, 0, &mut 0);
        skip
    }

    /// Adds what follows.
    pub fn append(&mut self, mut next: Self) {
        self.0.append(&mut next.0);
    }

    fn add(&mut self, writer: &Writer, shape: &Shape, depth: usize, made: &mut usize) {
        *made += 1;
        match writer.resolve(shape) {
            _ if depth > DEEPEST || *made > MOST => self.0.push(Move::Shape(shape.clone())),
            Shape::Null => {}
            Shape::Boolean => self.0.push(Move::Bytes(1)),
            Shape::Int | Shape::Long | Shape::Enum => self.0.push(Move::Number),
            Shape::Float => self.0.push(Move::Bytes(4)),
            Shape::Double => self.0.push(Move::Bytes(8)),
            Shape::Fixed(size) => self.0.push(Move::Bytes(*size)),
            Shape::Bytes | Shape::String => self.0.push(Move::Sized),
            Shape::Record(fields) => {
                for field in fields {
                    self.add(writer, &field.ty.shape, depth + 1, made);
                }
            }
            Shape::Union(branches) => {
                let is_null = |branch: usize| matches!(writer.resolve(&branches[branch].shape), Shape::Null);
                let null_branch = (branches.len() == 2).then(|| (0..2).find(|branch| is_null(*branch))).flatten();
                let Some(null_branch) = null_branch else { return self.0.push(Move::Shape(shape.clone())) };
                let mut then = Self::default();
                then.add(writer, &branches[1 - null_branch].shape, depth + 1, made);
                self.0.push(match then.0.as_slice() {
                    [Move::Number] => Move::OptionalNumber { null_branch },
                    [Move::Sized] => Move::OptionalSized { null_branch },
                    _ => Move::Optional { null_branch, then },
                });
            }
            Shape::Array(_) | Shape::Map(_) | Shape::Named(_) => self.0.push(Move::Shape(shape.clone())),
        }
    }

    /// Moves the cursor past the values.
    ///
    /// # Errors
    /// The bytes end, or are not of these shapes.
    pub fn run(&self, writer: &Writer, cursor: &mut Cursor<'_>) -> Result<(), DecodeError> {
        // A copy stays in registers.
        let mut at = *cursor;
        for step in &self.0 {
            match step {
                Move::Number => at.skip_number()?,
                Move::Bytes(size) => drop(at.fixed(*size)?),
                Move::Sized => drop(at.bytes()?),
                Move::OptionalNumber { null_branch } => {
                    if at.present(*null_branch)? {
                        at.skip_number()?;
                    }
                }
                Move::OptionalSized { null_branch } => {
                    if at.present(*null_branch)? {
                        at.bytes()?;
                    }
                }
                Move::Optional { .. } | Move::Shape(_) => {
                    let mut inner = at;
                    step.walk(writer, &mut inner)?;
                    at = inner;
                }
            }
        }
        *cursor = at;
        Ok(())
    }
}

impl Move {
    /// A move that is made of others.
    fn walk(&self, writer: &Writer, cursor: &mut Cursor<'_>) -> Result<(), DecodeError> {
        match self {
            Self::Optional { null_branch, then } if cursor.present(*null_branch)? => then.run(writer, cursor),
            Self::Shape(shape) => writer.skip(shape, cursor),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A record with everything that an envelope has besides rows, and a type that names itself.
    const SCHEMA: &str = r#"{"type":"record","name":"R","fields":[
        {"name":"a","type":"boolean"},{"name":"b","type":"int"},{"name":"c","type":["null","long"]},
        {"name":"d","type":["string","null"]},{"name":"e","type":"double"},{"name":"f","type":"float"},
        {"name":"g","type":{"type":"fixed","name":"F","size":3}},{"name":"h","type":{"type":"array","items":"int"}},
        {"name":"i","type":{"type":"map","values":"bytes"}},{"name":"j","type":["null","int","string"]},
        {"name":"k","type":["null","R"]}]}"#;

    /// Bytes of one such record without the last field.
    const BODY: &[u8] =
        b"\x01\xFE\xFF\x03\x02\x80\x01\x00\x04xy\0\0\0\0\0\0\0\0\0\0\0\0abc\x02\x05\0\x02\x02k\x02v\0\x04\x02z";

    fn count(skip: &Skip) -> usize {
        let inner = |step: &Move| if let Move::Optional { then, .. } = step { count(then) } else { 0 };
        skip.0.iter().map(|step| 1 + inner(step)).sum()
    }

    /// Each has a hundred fields of its own kind, two levels of which are not too deep.
    #[test]
    fn a_record_that_names_itself_often_is_not_unrolled() {
        let fields: Vec<String> =
            (0..100).map(|number| format!(r#"{{"name":"f{number}","type":["null","R"]}}"#)).collect();
        let json = format!(r#"{{"type":"record","name":"R","fields":[{}]}}"#, fields.join(","));
        let writer = Writer::parse(&json).unwrap();
        let skip = Skip::over(&writer, &writer.root.shape);
        assert!(count(&skip) < 2 * MOST, "{} moves", count(&skip));
        let body = [[2_u8].as_slice(), &[0; 199]].concat();
        let mut cursor = Cursor::new(&body);
        skip.run(&writer, &mut cursor).unwrap();
        cursor.finish().unwrap();
    }

    #[test]
    fn moves_end_where_the_shape_does() {
        let writer = Writer::parse(SCHEMA).unwrap();
        let skip = Skip::over(&writer, &writer.root.shape);
        // Nested deeper than is made flat.
        for depth in 0..8 {
            let body = [[BODY, b"\x02"].concat().repeat(depth), [BODY, b"\0"].concat()].concat();
            for walk in [true, false] {
                let mut cursor = Cursor::new(&body);
                let done =
                    if walk { writer.skip(&writer.root.shape, &mut cursor) } else { skip.run(&writer, &mut cursor) };
                done.unwrap();
                cursor.finish().unwrap();
            }
            for end in 0..body.len() {
                let mut cursor = Cursor::new(&body[..end]);
                skip.run(&writer, &mut cursor).unwrap_err();
            }
        }
    }
}

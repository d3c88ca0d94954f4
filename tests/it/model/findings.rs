//! What the checker found wrong.

use super::history::Row;

/// As many are shown: the first ones tell most.
const SHOWN: usize = 12;

/// Sentences that each name a table and a place.
#[derive(Default)]
pub struct Findings(Vec<String>);

impl Findings {
    pub fn add(&mut self, finding: String) {
        self.0.push(finding);
    }

    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn text(&self) -> String {
        let shown: Vec<_> = self.0.iter().take(SHOWN).map(String::as_str).collect();
        format!("{} findings:\n- {}", self.0.len(), shown.join("\n- "))
    }
}

/// How two rows differ: the columns of the second one that the first has otherwise, shortened.
pub fn difference(one: &Row, other: &Row) -> String {
    let differs = |(name, value): &(&String, &Option<String>)| one.get(*name) != Some(*value);
    let columns = other.iter().filter(differs).map(|(name, value)| {
        format!(
            "{name} is {} and not {}",
            short(value.as_ref()),
            one.get(name).map_or("absent".to_owned(), |v| short(v.as_ref()))
        )
    });
    columns.collect::<Vec<_>>().join(", ")
}

fn short(value: Option<&String>) -> String {
    value.map_or("NULL".to_owned(), |text| {
        let cut: String = text.chars().take(24).collect();
        if cut.len() < text.len() { format!("{cut}… ({} bytes)", text.len()) } else { cut }
    })
}

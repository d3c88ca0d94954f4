//! The history of a server's timelines (manual, `TIMELINE_HISTORY`).

use crate::lsn::Lsn;

/// Where a timeline was left for the next one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TimelineSwitch {
    /// The timeline that ended.
    pub timeline: u32,
    /// WAL of that timeline is valid below this position.
    pub switch: Lsn,
}

/// Reads a history file: lines `timeline <tab> LSN <tab> reason`, comments behind `#`. `None` if a line is not so.
#[must_use]
pub fn parse_history(content: &str) -> Option<Vec<TimelineSwitch>> {
    let lines = content.lines().map(|line| line.split('#').next().unwrap_or_default().trim());
    lines.filter(|line| !line.is_empty()).map(parse_line).collect()
}

fn parse_line(line: &str) -> Option<TimelineSwitch> {
    let mut fields = line.split_ascii_whitespace();
    let timeline = fields.next()?.parse().ok()?;
    let switch = fields.next()?.parse().ok()?;
    Some(TimelineSwitch { timeline, switch })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn history_files_list_the_switch_points() {
        let content = "1\t0/3000158\tno recovery target specified\n# comment\n\n2\t1/A0\tbefore 2020\n";
        let expected = [
            TimelineSwitch { timeline: 1, switch: Lsn(0x300_0158) },
            TimelineSwitch { timeline: 2, switch: Lsn(0x1_0000_00A0) },
        ];
        assert_eq!(parse_history(content).unwrap(), expected);
        assert_eq!(parse_history("x\t0/1\n"), None);
    }
}

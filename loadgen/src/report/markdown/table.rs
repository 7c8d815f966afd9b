//! A Markdown table that leaves out columns without values.

/// What stands where there is no value.
pub(super) const NOTHING: &str = "–";

/// A table under construction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Table {
    head: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// No rows yet; the first column holds names.
    pub(super) fn new(head: &[&str]) -> Self {
        Self { head: head.iter().map(ToString::to_string).collect(), rows: Vec::new() }
    }

    /// Adds a row.
    pub(super) fn row(&mut self, name: &str, cells: impl IntoIterator<Item = String>) {
        self.rows.push(std::iter::once(name.to_owned()).chain(cells).collect());
    }

    /// As Markdown, with an empty line after it; nothing at all without rows.
    pub(super) fn text(&self) -> String {
        let has_value = |column: usize| {
            column == 0 || self.rows.iter().any(|row| row.get(column).is_some_and(|cell| cell != NOTHING))
        };
        let columns: Vec<usize> = (0..self.head.len()).filter(|column| has_value(*column)).collect();
        if self.rows.is_empty() || columns.len() < 2 {
            return String::new();
        }
        let line = |cells: &[String]| {
            let cells: Vec<&str> =
                columns.iter().map(|column| cells.get(*column).map_or(NOTHING, String::as_str)).collect();
            format!("| {} |\n", cells.join(" | ")).replace("|  |", "| |")
        };
        let rule: String = columns.iter().map(|column| if *column == 0 { "|---" } else { "|---:" }).collect();
        let rows: String = self.rows.iter().map(|row| line(row)).collect();
        format!("{}{rule}|\n{rows}\n", line(&self.head))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_column_without_a_value_is_left_out() {
        let mut table = Table::new(&["", "a", "b"]);
        assert_eq!(table.text(), "");
        table.row("x", ["1".to_owned(), NOTHING.to_owned()]);
        table.row("y", [NOTHING.to_owned(), NOTHING.to_owned()]);
        assert_eq!(table.text(), "| | a |\n|---|---:|\n| x | 1 |\n| y | – |\n\n");
    }
}

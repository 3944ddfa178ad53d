//! What the tests of the documents need to know of Markdown: headings, tables, code, links.

use std::{fs, path::Path};

/// A table: the cells of its head, and those of each row, without the bars.
#[derive(Clone, Debug, PartialEq)]
pub struct Table {
    pub head: Vec<String>,
    pub rows: Vec<Vec<String>>,
}

/// A block between fences: its language, what is in it, and the headings that it stands under, the nearest last.
#[derive(Clone, Debug, PartialEq)]
pub struct Block {
    pub language: String,
    pub text: String,
    pub under: Vec<String>,
}

/// One document.
#[derive(Clone, Debug)]
pub struct Document {
    /// Without what is between fences: it stands for itself there.
    prose: String,
    pub tables: Vec<(Vec<String>, Table)>,
    pub blocks: Vec<Block>,
    headings: Vec<String>,
}

impl Document {
    pub fn read(path: &Path) -> Document {
        Document::parse(
            &fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display())),
        )
    }

    pub fn parse(text: &str) -> Document {
        let mut document = Document {
            prose: String::new(),
            tables: Vec::new(),
            blocks: Vec::new(),
            headings: Vec::new(),
        };
        let mut under: Vec<(usize, String)> = Vec::new();
        let names =
            |under: &[(usize, String)]| under.iter().map(|(_, name)| name.clone()).collect::<Vec<_>>();
        let mut block: Option<(usize, Block)> = None;
        let mut table: Option<Table> = None;
        for line in text.lines().chain([""]) {
            let begin = line.trim_start();
            if let Some((indent, open)) = &mut block {
                if begin.starts_with("```") {
                    document.blocks.extend(block.take().map(|(_, block)| block));
                } else {
                    open.text += line.get(*indent..).unwrap_or_default();
                    open.text += "\n";
                }
                continue;
            }
            if let Some(language) = begin.strip_prefix("```") {
                let open = Block {
                    language: language.trim().into(),
                    text: String::new(),
                    under: names(&under),
                };
                block = Some((line.len() - begin.len(), open));
                continue;
            }
            if line.starts_with('|') {
                let cells = cells(line);
                match &mut table {
                    None => {
                        let rows = Vec::new();
                        table = Some(Table { head: cells, rows });
                    }
                    Some(table)
                        if cells
                            .iter()
                            .all(|cell| cell.chars().all(|c| "-: ".contains(c)) && !cell.is_empty()) =>
                    {
                        assert_eq!(table.rows.len(), 0, "a second line of dashes");
                    }
                    Some(table) => table.rows.push(cells),
                }
            } else {
                document
                    .tables
                    .extend(table.take().map(|table| (names(&under), table)));
            }
            let level = line.bytes().take_while(|byte| *byte == b'#').count();
            if (1..=6).contains(&level) && line.as_bytes().get(level) == Some(&b' ') {
                let name = line[level..].trim().to_owned();
                under.retain(|(other, _)| *other < level);
                under.push((level, name.clone()));
                document.headings.push(name);
            }
            document.prose += line;
            document.prose += "\n";
        }
        assert!(block.is_none(), "a block without an end: {block:?}");
        document
    }

    /// What links to headings end in, as they are made on the sites that show Markdown.
    pub fn anchors(&self) -> Vec<String> {
        let anchor = |heading: &String| {
            let kept = heading
                .chars()
                .filter(|c| c.is_alphanumeric() || " -_".contains(*c));
            kept.collect::<String>().to_lowercase().replace(' ', "-")
        };
        self.headings.iter().map(anchor).collect()
    }

    /// The targets of links.
    pub fn links(&self) -> Vec<&str> {
        let after = self.prose.split("](").skip(1);
        after
            .filter_map(|rest| rest.split_once(')'))
            .map(|(target, _)| target)
            .collect()
    }

    /// What stands between backticks, but in the text of links, whose targets say more.
    pub fn code(&self) -> Vec<&str> {
        let parts: Vec<_> = self.prose.split('`').collect();
        let inside = parts.iter().enumerate().filter(|(at, _)| at % 2 == 1);
        let is_link = |at: usize| parts.get(at + 1).is_some_and(|after| after.starts_with("]("));
        inside
            .filter(|(at, _)| !is_link(*at))
            .map(|(_, code)| *code)
            .collect()
    }

    /// The blocks of a language under a heading, at any depth.
    pub fn blocks_under(&self, heading: &str, language: &str) -> Vec<&Block> {
        let fits =
            |block: &&Block| block.language == language && block.under.iter().any(|name| name == heading);
        self.blocks.iter().filter(fits).collect()
    }

    /// All tables whose head begins so.
    pub fn tables_with(&self, head: &[&str]) -> Vec<&Table> {
        let tables = self.tables.iter().map(|(_, table)| table);
        tables
            .filter(|table| {
                table.head.iter().zip(head).all(|(a, b)| a == b) && table.head.len() >= head.len()
            })
            .collect()
    }
}

/// A bar in a cell is written `\|`.
fn cells(line: &str) -> Vec<String> {
    let line = line.trim().trim_start_matches('|').replace("\\|", "\u{0}");
    let line = line.strip_suffix('|').unwrap_or(&line);
    line.split('|')
        .map(|cell| cell.trim().replace('\u{0}', "|"))
        .collect()
}

/// The first code in a cell, or all of the cell.
pub fn value(cell: &str) -> &str {
    cell.split('`').nth(1).unwrap_or(cell)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# Top\n\nSee [here](#a-b) and [`x.rs`](src/x.rs#l1), `y.rs`.\n\n## A, b!\n\n| a | b |\n|---|:-:|\n\
        | `1` \\| 2 | |\n\n1. First:\n\n   ```sh\n   run [no](link)\n     more\n   ```\n\n## C\n\n```sql\nSELECT\n```\n";

    #[test]
    fn a_document_is_taken_apart() {
        let document = Document::parse(TEXT);
        assert_eq!(document.anchors(), ["top", "a-b", "c"]);
        assert_eq!(document.links(), ["#a-b", "src/x.rs#l1"]);
        assert_eq!(document.code(), ["y.rs", "1"]);
        let [table] = document.tables_with(&["a"])[..] else {
            panic!("one table")
        };
        assert_eq!(table.rows, [["`1` | 2", ""]]);
        assert_eq!(value(&table.rows[0][0]), "1");
        let [block] = document.blocks_under("A, b!", "sh")[..] else {
            panic!("one block")
        };
        assert_eq!(
            (block.text.as_str(), block.under.len()),
            ("run [no](link)\n  more\n", 2)
        );
        assert_eq!(document.blocks_under("Top", "sql").len(), 1);
        assert_eq!(document.blocks_under("A, b!", "sql").len(), 0);
    }
}

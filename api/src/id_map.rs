//! The file of `--map-ids`: new names for users whose ids in the legacy table are no user ids.
//!
//! A line is `old,new`. The old id is as it is, up to the last comma, or quoted and escaped as in JSON, which is how
//! `migrate check` lists ids: its lines need only the new names.

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    path::Path,
};

use anyhow::{Context, bail};
use chat_domain::ids::UserId;
use chat_migration::IdMap;

/// The first line may say what the columns are.
const HEADER: &str = "old,new";

/// Reads the file, and refuses it with the line that is wrong.
pub(crate) fn read(path: &Path) -> anyhow::Result<IdMap> {
    let shown = path.display();
    let bytes = fs::read(path).with_context(|| format!("{shown} cannot be read"))?;
    let text = String::from_utf8(bytes)
        .ok()
        .with_context(|| format!("{shown} is not UTF-8"))?;
    parse(&text).with_context(|| shown.to_string())
}

fn parse(text: &str) -> anyhow::Result<IdMap> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut ids = BTreeMap::new();
    let mut lines: HashMap<String, usize> = HashMap::new();
    for (line, number) in text.lines().zip(1..) {
        if line.is_empty() || (number == 1 && line == HEADER) {
            continue;
        }
        let (old, new) = parse_line(line).with_context(|| format!("line {number}"))?;
        if let Some(other) = lines.insert(new.clone(), number) {
            bail!("line {number}: {new} is the new name of line {other} already");
        }
        if ids.insert(old.clone(), new).is_some() {
            bail!("line {number}: {old:?} has a new name already");
        }
    }
    if ids.is_empty() {
        bail!("there is no line with an old id and a new one");
    }
    Ok(ids)
}

fn parse_line(line: &str) -> anyhow::Result<(String, String)> {
    let (old, new) = line
        .rsplit_once(',')
        .context("there is no comma: a line is the old id, a comma, and the new one")?;
    let old = if old.starts_with('"') {
        serde_json::from_str(old)
            .ok()
            .context("an old id that begins with a quote is quoted and escaped as in JSON")?
    } else {
        old.to_owned()
    };
    if UserId::parse(&old).is_ok() {
        bail!("{old:?} is a user id as it is, and stays");
    }
    let Ok(new) = UserId::parse(new) else {
        bail!("the new id {new:?} is not 1 to 32 of A-Z a-z 0-9 . _ @ + : -");
    };
    Ok((old, new.as_str().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_ids_are_plain_or_quoted_as_json_does() {
        let text = "\u{feff}old,new\r\nBob Smith,bob\r\n\r\n\"a, \\\"b\\\"\\n\",ab\n,nobody\na,b,c\n";
        let expected = [
            ("Bob Smith", "bob"),
            ("a, \"b\"\n", "ab"),
            ("", "nobody"),
            ("a,b", "c"),
        ];
        let expected: IdMap = expected.map(|(old, new)| (old.into(), new.into())).into();
        assert_eq!(parse(text).unwrap(), expected);
    }

    #[test]
    fn a_line_that_is_wrong_is_named() {
        for (text, says) in [
            ("", "there is no line with an old id and a new one"),
            ("old,new\n", "there is no line with an old id and a new one"),
            ("Bob Smith\n", "line 1: there is no comma"),
            (
                "b b,b\nbob,robert\n",
                "line 2: \"bob\" is a user id as it is, and stays",
            ),
            ("b b,\n", "line 1: the new id \"\" is not 1 to 32 of"),
            ("b b,b b\n", "line 1: the new id \"b b\" is not 1 to 32 of"),
            (
                "b b,bob\nb c,bob\n",
                "line 2: bob is the new name of line 1 already",
            ),
            ("b b,bob\nb b,rob\n", "line 2: \"b b\" has a new name already"),
            ("\"b\"\"b\",bob\n", "line 1: an old id that begins with a quote"),
        ] {
            let error = format!("{:#}", parse(text).unwrap_err());
            assert!(error.starts_with(says), "{text:?}: {error}");
        }
    }
}

//! Events and triggers of the database that change what the server keeps.
//!
//! An event that deletes old messages, as one may have kept a chat small before, would take them out of the history and
//! leave them in the log. What the user of the server has no right to see is not found here.

use std::collections::{HashMap, HashSet};

use sea_orm::{ConnectionTrait, DbErr};

use super::TABLES;
use crate::database::Database;

/// Says which there are, a line each.
pub(super) async fn find(database: &Database) -> Result<Vec<String>, DbErr> {
    let rows = async |select: &str| {
        let rows = database
            .pool
            .query_all_raw(database.statement(select, []))
            .await?;
        let text = |row: &sea_orm::QueryResult, column| row.try_get_by_index::<Option<String>>(column);
        rows.iter()
            .map(|row| Ok([text(row, 0)?, text(row, 1)?, text(row, 2)?]))
            .collect::<Result<Vec<_>, DbErr>>()
    };
    let routines = rows(
        "SELECT CAST(routine_name AS CHAR), CAST(routine_definition AS CHAR), NULL FROM information_schema.routines \
         WHERE routine_schema = DATABASE()",
    )
    .await?;
    let routines = routines.into_iter().map(|[name, body, _]| (name, body));
    let changing = changing_routines(routines.filter_map(|(name, body)| Some((name?, body))).collect());
    let events = rows(
        "SELECT CAST(event_name AS CHAR), CAST(event_definition AS CHAR), \
         CASE WHEN event_schema = DATABASE() THEN NULL ELSE CAST(DATABASE() AS CHAR) END \
         FROM information_schema.events WHERE status = 'ENABLED' ORDER BY event_schema, event_name",
    )
    .await?;
    let mut found = Vec::new();
    for [name, body, elsewhere] in events {
        let words = words(body.as_deref().unwrap_or_default());
        // What stands in another database has to name this one.
        let is_about_us = elsewhere.is_none_or(|ours| words.contains(&ours.to_ascii_lowercase()));
        if let Some(table) = changed(&words, &changing)
            && is_about_us
        {
            let name = name.unwrap_or_default();
            found.push(format!(
                "the event {name} changes {table}: drop it, or disable it"
            ));
        }
    }
    let triggers = rows(
        "SELECT CAST(trigger_name AS CHAR), CAST(action_statement AS CHAR), CAST(event_object_table AS CHAR) \
         FROM information_schema.triggers WHERE trigger_schema = DATABASE() ORDER BY trigger_name",
    )
    .await?;
    for [name, body, on] in triggers {
        let (name, on) = (name.unwrap_or_default(), on.unwrap_or_default());
        let words = words(body.as_deref().unwrap_or_default());
        let rewrites = TABLES.contains(&on.as_str()) && words.windows(2).any(|pair| pair == ["set", "new"]);
        let table = if rewrites {
            Some(on.as_str())
        } else {
            changed(&words, &changing)
        };
        if let Some(table) = table {
            found.push(format!("the trigger {name} changes {table}: drop it"));
        }
    }
    Ok(found)
}

/// The routines that change a table of ours, themselves or by one that they call. One whose text is hidden may.
fn changing_routines(routines: HashMap<String, Option<String>>) -> HashSet<String> {
    let routines: Vec<_> = routines
        .into_iter()
        .map(|(name, body)| (name.to_ascii_lowercase(), body.map(|body| words(&body))))
        .collect();
    let mut changing = HashSet::new();
    loop {
        let more: Vec<_> = routines
            .iter()
            .filter(|(name, _)| !changing.contains(name))
            .filter(|(_, body)| {
                body.as_ref()
                    .is_none_or(|words| changed(words, &changing).is_some())
            })
            .map(|(name, _)| name.clone())
            .collect();
        if more.is_empty() {
            return changing;
        }
        changing.extend(more);
    }
}

/// Words in lower case, and each other character that is no space by itself. Quoted names are words, comments are left
/// out.
fn words(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        let is_word = |c: char| c.is_alphanumeric() || c == '_' || c == '$';
        let end = if rest.starts_with("/*") {
            let end = rest.find("*/").map_or(rest.len(), |at| at + 2);
            rest = rest[end..].trim_start();
            continue;
        } else if rest.starts_with("-- ") || first == '#' {
            rest = rest[rest.find('\n').unwrap_or(rest.len())..].trim_start();
            continue;
        } else if is_word(first) {
            rest.find(|c| !is_word(c)).unwrap_or(rest.len())
        } else {
            first.len_utf8()
        };
        if first != '`' {
            words.push(rest[..end].to_ascii_lowercase());
        }
        rest = rest[end..].trim_start();
    }
    words
}

/// The first table of ours that statements change, or a routine of which that is known or possible.
fn changed<'w>(words: &'w [String], changing: &HashSet<String>) -> Option<&'w str> {
    words.iter().enumerate().find_map(|(at, verb)| {
        let after = &words[at + 1..];
        let is_statement = at == 0 || !["for", "on", "key", "."].contains(&words[at - 1].as_str());
        // What the verb is about ends here; of those that name one table, with the first word that is none of theirs.
        let target = match verb.as_str() {
            "delete" | "drop" | "rename" | "truncate" | "alter" => until(after, &["where", ";"]),
            "update" => until(after, &["set", ";"]),
            "insert" | "replace" | "load" => {
                let end = until(after, &["(", "select", "values", "value", "set", ";"]);
                if end.is_empty() { end } else { named_one(verb, end) }
            }
            "call" => {
                let routine = until(after, &["(", ";"]).last()?;
                return changing.contains(routine).then_some(routine.as_str());
            }
            _ => return None,
        };
        let found = target.iter().find(|word| TABLES.contains(&word.as_str()));
        found.filter(|_| is_statement).map(String::as_str)
    })
}

fn until<'w>(words: &'w [String], ends: &[&str]) -> &'w [String] {
    let end = words.iter().position(|word| ends.contains(&word.as_str()));
    &words[..end.unwrap_or(words.len())]
}

/// Of `LOAD DATA … INTO TABLE name …` what comes after INTO.
fn named_one<'w>(verb: &str, words: &'w [String]) -> &'w [String] {
    let into = words.iter().position(|word| word == "into");
    match into {
        Some(at) if verb == "load" => &words[at + 1..],
        _ => words,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changes(body: &str) -> Option<String> {
        let changing = changing_routines(
            [
                ("Purge", Some("BEGIN DELETE FROM messages WHERE sent_at < 1; END")),
                ("weekly", Some("BEGIN CALL purge(); END")),
                ("hidden", None),
                ("report", Some("SELECT COUNT(*) FROM messages")),
            ]
            .map(|(name, body)| (name.to_owned(), body.map(str::to_owned)))
            .into(),
        );
        changed(&words(body), &changing).map(str::to_owned)
    }

    #[test]
    fn a_statement_that_changes_a_table_of_ours_is_found() {
        for body in [
            "DELETE FROM messages WHERE sent_at < UNIX_TIMESTAMP() - 86400",
            "delete from `chat`.`messages` order by _id limit 10",
            "DELETE m FROM messages m JOIN users u ON u.id = m.sender_id",
            "BEGIN SELECT 1; UPDATE LOW_PRIORITY messages SET data = NULL; END",
            "UPDATE users u JOIN messages m ON m.sender_id = u.id SET m.data = ''",
            "INSERT IGNORE INTO messages (sender_id) VALUES ('a')",
            "REPLACE messages SELECT * FROM old",
            "TRUNCATE TABLE messages",
            "TRUNCATE outbox",
            "ALTER TABLE messages DROP PARTITION p1",
            "DROP TABLE IF EXISTS a, messages",
            "RENAME TABLE messages TO messages_old",
            "LOAD DATA INFILE 'x' INTO TABLE messages",
            "CALL purge()",
            "CALL chat.weekly(1)",
            "CALL hidden",
        ] {
            assert!(changes(body).is_some(), "{body}");
        }
    }

    #[test]
    fn one_that_only_reads_it_or_changes_another_is_not() {
        for body in [
            "INSERT INTO statistics SELECT COUNT(*) FROM messages",
            "INSERT INTO statistics (n) SELECT COUNT(*) FROM messages ON DUPLICATE KEY UPDATE n = 1",
            "DELETE FROM sessions WHERE user_id NOT IN (SELECT sender_id FROM messages)",
            "UPDATE users SET seen = (SELECT MAX(sent_at) FROM messages)",
            "UPDATE statistics SET name = REPLACE(name, 'a', 'messages')",
            "SELECT * FROM users FOR UPDATE; SELECT * FROM messages",
            "DELETE FROM messages_archive",
            "-- DELETE FROM messages\nDELETE FROM sessions",
            "/* DELETE FROM messages */ DELETE FROM sessions",
            "CALL report()",
            "",
        ] {
            assert_eq!(changes(body), None, "{body}");
        }
    }
}

//! Other names for users whose ids in the legacy table are no user ids.
//!
//! The table `adoption_ids` keeps the names that are used, so that an adoption which was interrupted goes on with them
//! and `down` gives every row its old name back. Only ids outside of the grammar get another name, and no two users get
//! the same one: so each new name stands for one old name, whatever comes to the log later.

use std::collections::{BTreeMap, HashSet};

use sea_orm_migration::{DbErr, SchemaManager};

use super::Sql;
use super::check::{Finding, Report, Verdict, list_of};
use super::sql::{id, is_outside_grammar};
use crate::dialect::Dialect;
use crate::error::{During, Result};

/// New names by the old ones. The new ones are user ids and differ from each other; the old ones are no user ids.
pub type IdMap = BTreeMap<String, String>;

pub(crate) const TABLE: &str = "adoption_ids";

/// How many names one statement writes.
const NAMES_IN_A_STATEMENT: usize = 500;

/// Keeps the names. Safe to run again.
pub(super) async fn store(manager: &SchemaManager<'_>, sql: &Sql<'_>, ids: &IdMap) -> Result<()> {
    let dialect = Dialect::of(manager);
    let mut table = dialect.table(TABLE);
    table
        // As bytes: text is compared without the spaces at its end. Four for each of 32 characters.
        .col(dialect.var_bytes_key("old_id", 128))
        .col(dialect.text("new_id", 32));
    dialect
        .create(manager, table, [])
        .await
        .during("make the table of new names")?;
    sql.run(&format!("DELETE FROM {TABLE}")).await?;
    let names: Vec<_> = ids.iter().collect();
    for names in names.chunks(NAMES_IN_A_STATEMENT) {
        let rows: Vec<_> = names
            .iter()
            .map(|(old, new)| format!("({}, '{new}')", bytes(old)))
            .collect();
        sql.run(&format!(
            "INSERT INTO {TABLE} (old_id, new_id) VALUES {}",
            rows.join(", ")
        ))
        .await?;
    }
    Ok(())
}

/// The names that are kept; none where there is no such table.
pub(super) async fn stored(sql: &Sql<'_>) -> Result<IdMap> {
    if !sql.exists(TABLE).await? {
        return Ok(IdMap::new());
    }
    let select = format!("SELECT CONVERT(old_id USING utf8mb4) AS old_id, new_id FROM {TABLE}");
    let rows = sql.rows(&select).await?;
    let read = rows
        .iter()
        .map(|row| Ok((row.try_get("", "old_id")?, row.try_get("", "new_id")?)));
    read.collect::<Result<_, DbErr>>().during("read the new names")
}

/// What a name that can be any text is in a statement, whatever its `sql_mode`.
fn bytes(text: &str) -> String {
    let digits: String = text.bytes().map(|byte| format!("{byte:02x}")).collect();
    format!("x'{digits}'")
}

/// How rows of the legacy table are read while they go over.
pub(super) struct Names {
    is_mapped: bool,
}

impl Names {
    pub(super) async fn of(sql: &Sql<'_>) -> Result<Self> {
        let is_mapped = !stored(sql).await?.is_empty();
        Ok(Self { is_mapped })
    }

    /// The id of a column as the log has it.
    pub(super) fn new_id(&self, column: &str) -> String {
        let id = id(column);
        if !self.is_mapped {
            return id;
        }
        format!("COALESCE((SELECT i.new_id FROM {TABLE} i WHERE i.old_id = CAST({id} AS BINARY)), {id})")
    }

    /// The id of a column of ours as the legacy table had it.
    pub(super) fn old_id(&self, column: &str) -> String {
        if !self.is_mapped {
            return column.into();
        }
        format!(
            "COALESCE((SELECT CONVERT(i.old_id USING utf8mb4) COLLATE utf8mb4_bin FROM {TABLE} i \
             WHERE i.new_id = {column}), {column})"
        )
    }

    /// The name of the conversation of a row.
    pub(super) fn conversation(&self) -> String {
        let (sender, receiver) = (self.new_id("sender_id"), self.new_id("reciver_id"));
        format!(
            "IF({sender} <= {receiver}, CONCAT({sender}, ',', {receiver}), CONCAT({receiver}, ',', {sender}))"
        )
    }
}

/// All ids of the table, each once, as a table of one column `user_id`. As bytes: text is compared without the spaces
/// at its end.
pub(super) fn users(table: &str) -> String {
    let bytes = |column: &str| format!("CAST({} AS BINARY)", id(column));
    let (sender, receiver) = (bytes("sender_id"), bytes("reciver_id"));
    format!(
        "(SELECT {} AS user_id FROM (SELECT {sender} AS bytes FROM {table} UNION SELECT {receiver} FROM {table}) \
         ids) users",
        id("bytes")
    )
}

/// Finds the ids that are no user ids and have no other name, and looks what the names given would do. With names given
/// this process holds all ids of the table.
pub(super) async fn look(sql: &Sql<'_>, table: &str, ids: &IdMap, report: &mut Report) -> Result<()> {
    let (bad, users) = (is_outside_grammar("user_id"), users(table));
    if ids.is_empty() {
        let count: i64 = sql
            .value(&format!(
                "SELECT CAST(COUNT(*) AS SIGNED) FROM {users} WHERE {bad}"
            ))
            .await?;
        let select = format!(
            "SELECT user_id FROM {users} WHERE {bad} ORDER BY user_id LIMIT {}",
            Finding::LISTED
        );
        let listed = if count > 0 {
            sql.column(&select).await?
        } else {
            Vec::new()
        };
        report.findings.extend(refused(count.unsigned_abs(), listed));
        return Ok(());
    }
    let select = format!("SELECT user_id FROM {users} WHERE {bad} ORDER BY user_id");
    let outside: Vec<String> = sql.column(&select).await?;
    let valid: HashSet<String> = sql
        .column(&format!("SELECT user_id FROM {users} WHERE NOT {bad}"))
        .await?
        .into_iter()
        .collect();
    let (named, unnamed): (Vec<_>, Vec<_>) = outside.into_iter().partition(|old| ids.contains_key(old));
    let count = unnamed.len() as u64;
    report.findings.extend(refused(
        count,
        unnamed.into_iter().take(Finding::LISTED).collect(),
    ));
    let taken: Vec<_> = named
        .iter()
        .filter(|old| valid.contains(&ids[*old]))
        .map(|old| format!("{:?} for {old:?}", ids[old]))
        .collect();
    report.findings.extend(list_of(
        Verdict::Refused,
        "new names are those of other users in the table: choose others",
        taken,
    ));
    let renamed = named.iter().map(|old| format!("{old:?} as {}", ids[old]));
    report.findings.extend(list_of(
        Verdict::Adopted,
        "ids get the names that you gave them, and the old ones back with `migrate down`",
        renamed.collect(),
    ));
    report.ids = named
        .into_iter()
        .map(|old| (old.clone(), ids[&old].clone()))
        .collect();
    let unused = ids.keys().filter(|old| !report.ids.contains_key(*old));
    report.findings.extend(list_of(
        Verdict::Adopted,
        "names that you gave are for ids that are not in the table: they are not used",
        unused.map(|old| format!("{old:?}")).collect(),
    ));
    Ok(())
}

fn refused(count: u64, listed: Vec<String>) -> Option<Finding> {
    (count > 0).then(|| Finding {
        verdict: Verdict::Refused,
        count,
        text: "ids are not 1 to 32 of A-Z a-z 0-9 . _ @ + : - as a user id must be: give these users others, or \
               name new ones with --map-ids"
            .into(),
        // Quoted and escaped: they may hold anything.
        examples: listed
            .iter()
            .take(Finding::EXAMPLES)
            .map(|id| format!("{id:?}"))
            .collect(),
        listed,
    })
}

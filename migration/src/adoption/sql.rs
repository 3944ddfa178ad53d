//! Statements on the session that holds the turn, and the expressions that a row of the original system's is read by.

use sea_orm_migration::sea_orm::{ConnectionTrait, DbBackend, QueryResult, Statement, TryGetable};
use sea_orm_migration::{DbErr, IntoSchemaManagerConnection, SchemaManagerConnection};

use crate::error::{During, Result};

/// Nobody serves meanwhile, who would wait as well.
pub(super) const DDL_WAIT_S: u32 = 120;

const OPERATION: &str = "work on the legacy table";

pub(crate) struct Sql<'c> {
    session: SchemaManagerConnection<'c>,
}

impl<'c> Sql<'c> {
    pub(crate) fn new(session: impl IntoSchemaManagerConnection<'c>) -> Self {
        Self {
            session: session.into_database_executor(),
        }
    }

    /// Fixes what statements mean, and ends the transaction that the turn began: from here on each says where one
    /// begins.
    ///
    /// MariaDB keeps what a subquery gave for a value, and compares values as their column does: it would give the new name
    /// of `Bob` to `bob`, too. Only MariaDB reads that comment.
    pub(crate) async fn prepare(&self) -> Result<()> {
        self.run("COMMIT").await?;
        self.run(
            "SET SESSION sql_mode = 'STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION', time_zone = '+00:00' \
             /*M!101100 , optimizer_switch = 'subquery_cache=off' */",
        )
        .await?;
        self.run("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED")
            .await?;
        self.wait_for_tables(DDL_WAIT_S).await
    }

    /// How long a statement waits for a transaction that uses its table.
    pub(super) async fn wait_for_tables(&self, seconds: u32) -> Result<()> {
        self.run(&format!("SET SESSION lock_wait_timeout = {seconds}"))
            .await
            .map(|_| ())
    }

    /// Runs a statement; how many rows it changed.
    pub(crate) async fn run(&self, sql: &str) -> Result<i64> {
        let done = self.session.execute_unprepared(sql).await.during(OPERATION)?;
        Ok(done.rows_affected().cast_signed())
    }

    pub(crate) async fn rows(&self, sql: &str) -> Result<Vec<QueryResult>> {
        let statement = Statement::from_string(DbBackend::MySql, sql);
        self.session.query_all_raw(statement).await.during(OPERATION)
    }

    pub(crate) async fn row(&self, sql: &str) -> Result<Option<QueryResult>> {
        let statement = Statement::from_string(DbBackend::MySql, sql);
        self.session.query_one_raw(statement).await.during(OPERATION)
    }

    /// The first column of the first row.
    pub(crate) async fn value<T: TryGetable>(&self, sql: &str) -> Result<T> {
        let row = self.row(sql).await?;
        let row = row.ok_or_else(|| DbErr::RecordNotFound(sql.into()));
        row.and_then(|row| row.try_get_by_index(0)).during(OPERATION)
    }

    /// The first column of every row.
    pub(crate) async fn column<T: TryGetable>(&self, sql: &str) -> Result<Vec<T>> {
        let rows = self.rows(sql).await?;
        let read = rows.iter().map(|row| row.try_get_by_index(0));
        read.collect::<Result<_, DbErr>>().during(OPERATION)
    }

    /// The names of a table's columns; none where there is no such table.
    pub(crate) async fn columns(&self, table: &str) -> Result<Vec<String>> {
        self.column(&format!(
            "SELECT CAST(column_name AS CHAR) FROM information_schema.columns \
             WHERE table_schema = DATABASE() AND table_name = '{table}' ORDER BY ordinal_position"
        ))
        .await
    }

    pub(crate) async fn exists(&self, table: &str) -> Result<bool> {
        Ok(!self.columns(table).await?.is_empty())
    }

    /// The statement that made a table, with how far its counting has come.
    pub(crate) async fn definition(&self, table: &str) -> Result<String> {
        let row = self.row(&format!("SHOW CREATE TABLE `{table}`")).await?;
        let row = row.ok_or_else(|| DbErr::RecordNotFound(table.into()));
        row.and_then(|row| row.try_get_by_index(1)).during(OPERATION)
    }

    /// Exchanges tables, all of them or none, once nobody uses them.
    pub(crate) async fn rename(&self, renames: &[(&str, &str)]) -> Result<()> {
        let renames: Vec<_> = renames
            .iter()
            .map(|(from, to)| format!("`{from}` TO `{to}`"))
            .collect();
        let renames = format!("RENAME TABLE {}", renames.join(", "));
        self.run(&renames).await.map(|_| ())
    }
}

/// An id as the log has it, compared byte for byte.
pub(super) fn id(column: &str) -> String {
    format!("CONVERT({column} USING utf8mb4) COLLATE utf8mb4_bin")
}

/// Whether an id cannot be one of ours.
pub(super) fn is_outside_grammar(column: &str) -> String {
    format!("({column} = '' OR {} REGEXP '[^A-Za-z0-9._@+:-]')", id(column))
}

/// Whether the data of a row are bytes that are no text. The way over UTF-16 finds surrogates, which MariaDB takes for
/// UTF-8. For a SELECT only: there MariaDB replaces what it cannot read, elsewhere it refuses the statement.
pub(super) const IS_NO_TEXT: &str = "(data IS NOT NULL AND NOT COALESCE(CAST(CONVERT(CONVERT(CONVERT(data USING \
     utf8mb4) USING utf16) USING utf8mb4) AS BINARY) = data, FALSE))";

/// The number that a table gives out next, as the statement says that made it.
pub(super) fn next_number(definition: &str) -> i64 {
    let after = definition.rsplit_once(" AUTO_INCREMENT=").map(|(_, after)| after);
    let digits = after.and_then(|after| after.split(|c: char| !c.is_ascii_digit()).next());
    digits.and_then(|digits| digits.parse().ok()).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::next_number;

    #[test]
    fn the_next_number_stands_in_the_definition_once_there_was_one() {
        let definition = "CREATE TABLE `messages` (\n  `_id` int unsigned NOT NULL AUTO_INCREMENT,\n  PRIMARY KEY (`_id`)\n) \
                          ENGINE=InnoDB";
        assert_eq!(next_number(definition), 1);
        let counted = format!("{definition} AUTO_INCREMENT=4294967295 DEFAULT CHARSET=utf8mb4");
        assert_eq!(next_number(&counted), 4_294_967_295);
    }
}

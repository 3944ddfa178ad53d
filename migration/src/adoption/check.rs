//! What is odd about a legacy table, what becomes of it, and what has to be mended first.
//!
//! The rows are looked at in steps, inside the database, so that this process holds numbers only. While old clients write it is a look at one table that grows.

use sea_orm_migration::DbErr;
use tracing::info;

use super::{
    IdMap, Sql, Steps,
    ids::{self, users},
    sql::IS_NO_TEXT,
    sql::id,
};
use crate::error::{During, Result};

/// The largest content that the service can be configured to take; no door carries more.
const LARGEST_CONTENT: u64 = 16 << 20;

/// What a packet needs beside the content of a row.
const BESIDE_CONTENT: u64 = 1024;

/// How many rows are looked at before the log says how far that is.
const TOLD_AFTER: i64 = 250_000;

/// Measured with a million rows of a few bytes, on two cores that did other things too; the slower of MariaDB and MySQL.
const ROWS_IN_A_SECOND: u64 = 6_000;
const BYTES_IN_A_SECOND: u64 = 20 << 20;
/// What a row takes in the new tables beside twice its content.
const BYTES_OF_A_ROW: u64 = 600;

#[derive(Clone, Copy, Debug)]
pub struct CheckOptions {
    /// The largest content that the service takes, in bytes.
    pub content_limit: u64,
}

impl Default for CheckOptions {
    fn default() -> Self {
        Self {
            content_limit: LARGEST_CONTENT,
        }
    }
}

/// What becomes of something odd.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is adopted, in the way that the text says.
    Adopted,
    /// It stands in the way; the text says what to do.
    Refused,
}

/// Something odd.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    pub verdict: Verdict,
    /// How many rows, or other things.
    pub count: u64,
    pub text: String,
    /// The first few, by `_id` or name.
    pub examples: Vec<String>,
    /// Where somebody has to do something with each of them: they themselves, [`Finding::LISTED`] at most.
    pub listed: Vec<String>,
}

impl Finding {
    /// How many examples are named.
    pub const EXAMPLES: usize = 5;
    /// How many are listed.
    pub const LISTED: usize = 1_000;
}

/// What is in the table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    pub messages: u64,
    pub first: i64,
    pub last: i64,
    /// Bytes of content.
    pub bytes: u64,
    pub findings: Vec<Finding>,
    /// Those of the new names given that are used.
    pub ids: IdMap,
}

impl Report {
    pub fn is_refused(&self) -> bool {
        self.findings.iter().any(|f| f.verdict == Verdict::Refused)
    }

    /// What stands in the way, on one line.
    pub fn refusals(&self) -> String {
        let refused = self.findings.iter().filter(|f| f.verdict == Verdict::Refused);
        let texts: Vec<_> = refused.map(ToString::to_string).collect();
        texts.join("; ")
    }

    /// About how long an adoption takes.
    pub fn seconds(&self) -> u64 {
        1 + self.messages / ROWS_IN_A_SECOND + self.bytes / BYTES_IN_A_SECOND
    }

    /// About how much more disk it needs while it is at work, before the legacy table is dropped.
    pub fn disk_bytes(&self) -> u64 {
        2 * self.bytes + BYTES_OF_A_ROW * self.messages
    }
}

impl std::fmt::Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.count, self.text)?;
        if !self.examples.is_empty() {
            let more = if self.count > self.examples.len() as u64 {
                ", …"
            } else {
                ""
            };
            write!(f, " ({}{more})", self.examples.join(", "))?;
        }
        Ok(())
    }
}

/// A kind of odd row.
struct Odd {
    condition: String,
    verdict: Verdict,
    text: &'static str,
}

/// Looks at the table's form and at every row of it.
pub(super) async fn examine(
    sql: &Sql<'_>,
    table: &str,
    options: CheckOptions,
    ids: &IdMap,
) -> Result<Report> {
    let mut report = Report::default();
    form(sql, table, &mut report).await?;
    if report.is_refused() {
        // The rows of another form are not ours to read.
        return Ok(report);
    }
    let odd = kinds(sql, options).await?;
    let mut found: Vec<_> = odd.iter().map(|odd| odd.new_finding()).collect();
    let mut back = Finding {
        verdict: Verdict::Adopted,
        count: 0,
        text: "rows are older than the row before them: the order stays that of _id, and sent_at as it is"
            .into(),
        examples: Vec::new(),
        listed: Vec::new(),
    };
    let mut after = -1;
    let mut before = 0;
    let mut told = 0;
    let mut steps = Steps::new();
    while let Some((last, count)) = steps.next(sql, table, after).await? {
        let range = format!("_id > {after} AND _id <= {last}");
        look(sql, table, &range, &odd, &mut found, &mut report).await?;
        before = look_back(sql, table, &range, before, &mut back).await?;
        if report.messages == 0 {
            report.first = sql
                .value(&format!("SELECT CAST(MIN(_id) AS SIGNED) FROM {table}"))
                .await?;
        }
        report.messages += count.unsigned_abs();
        report.last = last;
        after = last;
        told += count;
        if told >= TOLD_AFTER {
            info!(rows = report.messages, "rows are looked at");
            told = 0;
        }
    }
    found.push(back);
    report.findings.extend(found.into_iter().filter(|f| f.count > 0));
    ids::look(sql, table, ids, &mut report).await?;
    differ_in_case(sql, table, &mut report).await?;
    let unused = report.last - report.first + 1 - report.messages.cast_signed();
    if report.messages > 0 && unused > 0 {
        report.findings.push(Finding {
            verdict: Verdict::Adopted,
            count: unused.unsigned_abs(),
            text: "numbers between the first _id and the last have no row: they stay holes".into(),
            examples: Vec::new(),
            listed: Vec::new(),
        });
    }
    Ok(report)
}

pub(super) async fn last_id(sql: &Sql<'_>, table: &str) -> Result<i64> {
    sql.value(&format!(
        "SELECT CAST(COALESCE(MAX(_id), 0) AS SIGNED) FROM {table}"
    ))
    .await
}

async fn kinds(sql: &Sql<'_>, options: CheckOptions) -> Result<Vec<Odd>> {
    use Verdict::{Adopted, Refused};
    let packet: i64 = sql
        .value("SELECT CAST(@@GLOBAL.max_allowed_packet AS SIGNED)")
        .await?;
    let packet = packet.unsigned_abs().saturating_sub(BESIDE_CONTENT);
    let limit = options.content_limit;
    let odd = |condition: &str, verdict, text| Odd {
        condition: condition.into(),
        verdict,
        text,
    };
    let size = "COALESCE(OCTET_LENGTH(data), 0)";
    Ok(vec![
        odd(
            "_id = 0",
            Refused,
            "rows have _id 0, which is no position in a log: give them another one",
        ),
        odd(
            &format!("{size} > {LARGEST_CONTENT}"),
            Refused,
            "rows have more than 16 MiB of data, which no door can carry: shorten or delete them",
        ),
        odd(
            &format!("{size} > {packet} AND {size} <= {LARGEST_CONTENT}"),
            Refused,
            "rows have more data than a packet of the database server: raise its max_allowed_packet",
        ),
        odd(
            &format!("{size} > {limit} AND {size} <= {LARGEST_CONTENT}"),
            Adopted,
            "rows have more data than a message may have now (CHAT_CONTENT_LIMIT): they are adopted whole",
        ),
        odd(
            "data IS NULL",
            Adopted,
            "rows have no data: messages without content, as erased ones are",
        ),
        odd(
            "data IS NOT NULL AND OCTET_LENGTH(data) = 0",
            Adopted,
            "rows have empty data: empty text",
        ),
        odd(
            IS_NO_TEXT,
            Adopted,
            "rows have data that is no UTF-8: application/octet-stream, where all else is text/plain",
        ),
        odd(
            &format!("{} = {}", id("sender_id"), id("reciver_id")),
            Adopted,
            "rows are from somebody to the same: notes to oneself",
        ),
        odd("sent_at = 0", Adopted, "rows have sent_at 0: they stay in 1970"),
        odd(
            "sent_at > UNIX_TIMESTAMP() + 5",
            Adopted,
            "rows were sent in the future: sent_at stays as it is, and new messages have the true time",
        ),
        odd(
            "recived_at < sent_at",
            Adopted,
            "rows were received before they were sent: both stay as they are",
        ),
        odd(
            "recived_at IS NULL",
            Adopted,
            "rows were never received: they count as received and read, and recived_at stays null",
        ),
    ])
}

impl Odd {
    fn new_finding(&self) -> Finding {
        Finding {
            verdict: self.verdict,
            count: 0,
            text: self.text.into(),
            examples: Vec::new(),
            listed: Vec::new(),
        }
    }
}

/// Counts the odd rows of one step.
async fn look(
    sql: &Sql<'_>,
    table: &str,
    range: &str,
    odd: &[Odd],
    found: &mut [Finding],
    report: &mut Report,
) -> Result<()> {
    let sum = |condition: &str| format!("CAST(COALESCE(SUM({condition}), 0) AS SIGNED)");
    let mut columns = vec![sum("OCTET_LENGTH(data)")];
    columns.extend(odd.iter().map(|odd| sum(&odd.condition)));
    let row = sql
        .row(&format!(
            "SELECT {} FROM {table} WHERE {range}",
            columns.join(", ")
        ))
        .await?;
    let number = |column: usize| -> Result<u64, DbErr> {
        let row = row.as_ref().ok_or_else(|| DbErr::RecordNotFound(table.into()))?;
        row.try_get_by_index::<i64>(column).map(i64::unsigned_abs)
    };
    let operation = "look at the rows";
    report.bytes += number(0).during(operation)?;
    for (column, (odd, finding)) in odd.iter().zip(found).enumerate() {
        let count = number(column + 1).during(operation)?;
        finding.count += count;
        let wanted = Finding::EXAMPLES - finding.examples.len();
        if count > 0 && wanted > 0 {
            let select = format!(
                "SELECT CONCAT('_id ', _id) FROM {table} WHERE {range} AND {} ORDER BY _id LIMIT {wanted}",
                odd.condition
            );
            finding.examples.extend(sql.column::<String>(&select).await?);
        }
    }
    Ok(())
}

/// Counts the rows of one step whose time is before that of the row before; returns the time of the last.
async fn look_back(sql: &Sql<'_>, table: &str, range: &str, before: i64, back: &mut Finding) -> Result<i64> {
    let rows = format!(
        "FROM (SELECT _id, sent_at, COALESCE(LAG(sent_at) OVER (ORDER BY _id), {before}) AS sent_before FROM {table} \
         WHERE {range}) looked"
    );
    let count: i64 = sql
        .value(&format!(
            "SELECT CAST(COALESCE(SUM(sent_at < sent_before), 0) AS SIGNED) {rows}"
        ))
        .await?;
    back.count += count.unsigned_abs();
    let wanted = Finding::EXAMPLES - back.examples.len();
    if count > 0 && wanted > 0 {
        let select = format!(
            "SELECT CONCAT('_id ', _id) {rows} WHERE sent_at < sent_before ORDER BY _id LIMIT {wanted}"
        );
        back.examples.extend(sql.column::<String>(&select).await?);
    }
    sql.value(&format!(
        "SELECT CAST(sent_at AS SIGNED) FROM {table} WHERE {range} ORDER BY _id DESC LIMIT 1"
    ))
    .await
}

async fn differ_in_case(sql: &Sql<'_>, table: &str, report: &mut Report) -> Result<()> {
    let users = users(table);
    let alike = format!(
        "FROM (SELECT GROUP_CONCAT(user_id ORDER BY user_id SEPARATOR ' and ') AS alike FROM {users} \
         GROUP BY LOWER(user_id) HAVING COUNT(*) > 1) alike"
    );
    let count: i64 = sql
        .value(&format!("SELECT CAST(COUNT(*) AS SIGNED) {alike}"))
        .await?;
    if count > 0 {
        let select = format!(
            "SELECT CAST(alike AS CHAR) {alike} ORDER BY 1 LIMIT {}",
            Finding::EXAMPLES
        );
        report.findings.push(Finding {
            verdict: Verdict::Adopted,
            count: count.unsigned_abs(),
            text:
                "groups of ids differ only in case: each is a user of its own, and sees its own messages only"
                    .into(),
            examples: sql.column(&select).await?,
            listed: Vec::new(),
        });
    }
    Ok(())
}

/// What is found of these things; nothing where there are none.
pub(super) fn list_of(verdict: Verdict, text: &str, found: Vec<String>) -> Option<Finding> {
    (!found.is_empty()).then(|| Finding {
        verdict,
        count: found.len() as u64,
        text: text.into(),
        examples: found.into_iter().take(Finding::EXAMPLES).collect(),
        listed: Vec::new(),
    })
}

/// What must be so of each column: its type, whether it may be null, and what else there is to it.
const FORM: [&str; 6] = [
    "_id int unsigned not null auto_increment",
    "sender_id varchar(32) not null",
    "reciver_id varchar(32) not null",
    "sent_at int unsigned not null",
    "recived_at int unsigned",
    "data longblob",
];

/// Compares the table with the one that the original document makes, and looks for what hangs on it.
async fn form(sql: &Sql<'_>, table: &str, report: &mut Report) -> Result<()> {
    let of_table = format!("table_schema = DATABASE() AND table_name = '{table}'");
    let mut add = |verdict, text: &str, examples| report.findings.extend(list_of(verdict, text, examples));
    // MariaDB writes the width of a number, which says nothing.
    let columns: Vec<String> = sql
        .column(&format!(
            "SELECT CAST(TRIM(CONCAT(column_name, ' ', REPLACE(LOWER(column_type), 'int(10)', 'int'), \
             IF(is_nullable = 'NO', ' not null', ''), \
             IF(column_default IS NULL OR column_default = 'NULL', '', CONCAT(' default ', column_default)), \
             IF(extra = '', '', CONCAT(' ', LOWER(extra))))) AS CHAR) FROM information_schema.columns \
             WHERE {of_table} ORDER BY ordinal_position"
        ))
        .await?;
    let strange = columns.iter().filter(|column| !FORM.contains(&column.as_str()));
    add(
        Verdict::Refused,
        "columns are not as in the legacy table, and would be lost: drop them, or give them that form",
        strange.cloned().collect(),
    );
    let missing = FORM
        .iter()
        .filter(|column| !columns.iter().any(|found| found == *column));
    add(
        Verdict::Refused,
        "columns of the legacy table are missing",
        missing.map(ToString::to_string).collect(),
    );
    let engine: Vec<String> = sql
        .column(&format!(
            "SELECT CAST(CONCAT(table_type, ' ', COALESCE(engine, '')) AS CHAR) FROM information_schema.tables \
             WHERE {of_table} AND NOT (table_type = 'BASE TABLE' AND engine = 'InnoDB')"
        ))
        .await?;
    add(
        Verdict::Refused,
        "table is not an ordinary one on InnoDB: ALTER TABLE messages ENGINE = InnoDB",
        engine,
    );
    let indexes = |condition: &str| {
        format!(
            "SELECT form FROM (SELECT CAST(CONCAT(index_name, ' (', GROUP_CONCAT(COALESCE(column_name, \
             'an expression') ORDER BY seq_in_index), ')') AS CHAR) AS form, MIN(non_unique) AS may_repeat \
             FROM information_schema.statistics WHERE {of_table} GROUP BY index_name) indexes WHERE {condition} \
             ORDER BY form"
        )
    };
    let unique: Vec<String> = sql
        .column(&indexes("may_repeat = 0 AND form <> 'PRIMARY (_id)'"))
        .await?;
    add(
        Verdict::Refused,
        "unique keys are not in the legacy table, and cannot be kept: drop them",
        unique,
    );
    let key: Vec<String> = sql.column(&indexes("form = 'PRIMARY (_id)'")).await?;
    if key.is_empty() {
        add(
            Verdict::Refused,
            "table has not the primary key (_id), by which rows are taken over",
            vec![table.into()],
        );
    }
    let other: Vec<String> = sql
        .column(&indexes(
            "may_repeat = 1 AND form <> 'message_time_index (sent_at)'",
        ))
        .await?;
    add(
        Verdict::Adopted,
        "indexes are not in the legacy table: they go, and come back with `migrate down`",
        other,
    );
    let foreign: Vec<String> = sql
        .column(&format!(
            "SELECT CAST(CONCAT(constraint_name, ' of ', table_name) AS CHAR) FROM \
             information_schema.key_column_usage WHERE referenced_table_name IS NOT NULL AND \
             ((table_schema = DATABASE() AND table_name = '{table}') OR \
             (referenced_table_schema = DATABASE() AND referenced_table_name = '{table}'))"
        ))
        .await?;
    add(
        Verdict::Refused,
        "foreign keys begin or end at the table, and cannot be kept: drop them",
        foreign,
    );
    let checks: Vec<String> = sql
        .column(&format!(
            "SELECT CAST(constraint_name AS CHAR) FROM information_schema.table_constraints \
             WHERE {of_table} AND constraint_type = 'CHECK'"
        ))
        .await?;
    add(
        Verdict::Refused,
        "checks are not in the legacy table, and messages that come later may break them: drop them",
        checks,
    );
    let partitions: Vec<String> = sql
        .column(&format!(
            "SELECT CAST(partition_name AS CHAR) FROM information_schema.partitions \
             WHERE {of_table} AND partition_name IS NOT NULL ORDER BY partition_ordinal_position"
        ))
        .await?;
    add(
        Verdict::Refused,
        "partitions are not in the legacy table, and may have no place for messages that come later: \
         ALTER TABLE messages REMOVE PARTITIONING",
        partitions,
    );
    let triggers: Vec<String> = sql
        .column(&format!(
            "SELECT CAST(trigger_name AS CHAR) FROM information_schema.triggers \
             WHERE event_object_schema = DATABASE() AND event_object_table = '{table}'"
        ))
        .await?;
    let sees_triggers = !triggers.is_empty() || may_see(sql, "TRIGGER").await?;
    add(
        Verdict::Refused,
        "triggers hang on the table, and would be lost: drop them",
        triggers,
    );
    if !sees_triggers {
        add(
            Verdict::Adopted,
            "kind of thing this user cannot see: triggers, which would be lost (an administrator's SHOW TRIGGERS tells)",
            vec!["no right TRIGGER".into()],
        );
    }
    if !may_see(sql, "EVENT").await? {
        add(
            Verdict::Adopted,
            "kind of thing this user cannot see: events, one of which may delete messages (an administrator's SHOW EVENTS \
             tells)",
            vec!["no right EVENT".into()],
        );
    }
    let views: Vec<String> = sql
        .column(
            "SELECT CAST(table_name AS CHAR) FROM information_schema.views WHERE table_schema = DATABASE() \
             AND (COALESCE(view_definition, '') = '' OR view_definition LIKE '%messages%')",
        )
        .await?;
    add(
        Verdict::Adopted,
        "views may read the table: they will read the new one, and fail while rows are taken over",
        views,
    );
    Ok(())
}

/// Whether this user has the right to see the things of a kind.
async fn may_see(sql: &Sql<'_>, right: &str) -> Result<bool> {
    let grants: Vec<String> = sql.column("SHOW GRANTS").await?;
    let sees = |grant: &String| {
        let rights = grant.split(" ON ").next().unwrap_or_default();
        rights.contains("ALL PRIVILEGES")
            || rights
                .split(", ")
                .any(|granted| granted.trim_start_matches("GRANT ") == right)
    };
    Ok(grants.iter().any(sees))
}

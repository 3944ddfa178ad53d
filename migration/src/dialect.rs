//! The columns and tables that the migrations are made of, where the databases differ: in this one place.
//!
//! Everything is compared byte for byte. SQLite does so by itself (BINARY); MySQL and MariaDB get `utf8mb4_bin`,
//! whatever the database's default is. `utf8mb4_bin` also ignores spaces at the end, which no identifier may have.
//! Numbers are signed BIGINT: SeaORM can read neither `u64` on SQLite nor `i64` from an unsigned BIGINT.

use sea_orm_migration::SchemaManager;
use sea_orm_migration::sea_orm::{DbBackend, DbErr};
use sea_orm_migration::sea_query::{ColumnDef, Index, IndexCreateStatement, Table, TableCreateStatement};

pub(crate) struct Dialect {
    is_sqlite: bool,
}

impl Dialect {
    pub(crate) fn of(manager: &SchemaManager<'_>) -> Self {
        Self {
            is_sqlite: manager.get_database_backend() == DbBackend::Sqlite,
        }
    }

    pub(crate) fn table(&self, name: &'static str) -> TableCreateStatement {
        let mut table = Table::create().table(name).if_not_exists().take();
        if !self.is_sqlite {
            table
                .engine("InnoDB")
                .character_set("utf8mb4")
                .collate("utf8mb4_bin")
                .extra("ROW_FORMAT=DYNAMIC");
        }
        table
    }

    /// A table that SQLite keeps in the order of its primary key, as InnoDB does with all of them.
    pub(crate) fn clustered_table(&self, name: &'static str) -> TableCreateStatement {
        let mut table = self.table(name);
        if self.is_sqlite {
            table.extra("WITHOUT ROWID");
        }
        table
    }

    /// A numeric primary key that is written explicitly. On SQLite it is the row id itself.
    pub(crate) fn key(&self, name: &'static str) -> ColumnDef {
        self.number(name).primary_key().take()
    }

    pub(crate) fn tiny_key(&self, name: &'static str) -> ColumnDef {
        let mut column = ColumnDef::new(name);
        if self.is_sqlite {
            column.integer()
        } else {
            column.tiny_integer()
        };
        column.not_null().primary_key().take()
    }

    pub(crate) fn number(&self, name: &'static str) -> ColumnDef {
        ColumnDef::new(name).big_integer().not_null().take()
    }

    /// Whole seconds since 1970, as the legacy table has them.
    pub(crate) fn seconds(&self, name: &'static str) -> ColumnDef {
        ColumnDef::new(name).unsigned().not_null().take()
    }

    pub(crate) fn text(&self, name: &'static str, length: u32) -> ColumnDef {
        let mut column = ColumnDef::new(name);
        if self.is_sqlite {
            column.text()
        } else {
            column.string_len(length)
        };
        column.not_null().take()
    }

    pub(crate) fn long_text(&self, name: &'static str) -> ColumnDef {
        let mut column = ColumnDef::new(name);
        if self.is_sqlite {
            column.text()
        } else {
            column.custom("LONGTEXT")
        };
        column.not_null().take()
    }

    pub(crate) fn bytes(&self, name: &'static str, length: u32) -> ColumnDef {
        let mut column = ColumnDef::new(name);
        if self.is_sqlite {
            column.blob()
        } else {
            column.binary_len(length)
        };
        column.not_null().take()
    }

    /// A primary key of bytes, which are compared as they are.
    pub(crate) fn var_bytes_key(&self, name: &'static str, most: u32) -> ColumnDef {
        let mut column = ColumnDef::new(name);
        if self.is_sqlite {
            column.blob()
        } else {
            column.var_binary(most)
        };
        column.not_null().primary_key().take()
    }

    /// Content: raw bytes, null once it is erased.
    pub(crate) fn content(&self, name: &'static str) -> ColumnDef {
        let mut column = ColumnDef::new(name);
        if self.is_sqlite {
            column.blob()
        } else {
            column.custom("LONGBLOB")
        };
        column.null().take()
    }

    /// Creates the table and its indexes. MySQL knows no `CREATE INDEX IF NOT EXISTS`, so there they are part of the
    /// table, which a crash leaves whole or not at all; SQLite knows no index inside a table, and has a transaction.
    pub(crate) async fn create<const N: usize>(
        &self,
        manager: &SchemaManager<'_>,
        mut table: TableCreateStatement,
        mut indexes: [IndexCreateStatement; N],
    ) -> Result<(), DbErr> {
        if !self.is_sqlite {
            indexes.iter_mut().for_each(|index| _ = table.index(index));
            return manager.create_table(table).await;
        }
        let name = table.get_table_name().cloned();
        manager.create_table(table).await?;
        for mut index in indexes {
            if let Some(name) = name.clone() {
                index.table(name);
            }
            manager.create_index(index.if_not_exists().take()).await?;
        }
        Ok(())
    }
}

pub(crate) fn index<const N: usize>(name: &'static str, columns: [&'static str; N]) -> IndexCreateStatement {
    let mut index = Index::create().name(name).take();
    for column in columns {
        index.col(column);
    }
    index
}

pub(crate) fn unique<const N: usize>(name: &'static str, columns: [&'static str; N]) -> IndexCreateStatement {
    index(name, columns).unique().take()
}

/// Drops the tables that are there.
pub(crate) async fn drop_tables(manager: &SchemaManager<'_>, names: &[&'static str]) -> Result<(), DbErr> {
    for name in names {
        manager
            .drop_table(Table::drop().table(*name).if_exists().take())
            .await?;
    }
    Ok(())
}

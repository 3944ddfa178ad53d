//! Where the database is: its URL, the pragmas of an SQLite file, and the lock file that keeps a second process away from
//! such a file.

mod tls;

use std::{
    fs::{DirBuilder, File},
    io,
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use sea_orm::{
    DbErr,
    sqlx::{
        self, ConnectOptions,
        mysql::MySqlConnectOptions,
        sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous},
    },
};

pub(crate) use self::tls::is_refusal;

#[derive(Debug, thiserror::Error)]
pub enum DatabaseError {
    #[error(
        "the database URL is not understood: it is sqlite://PATH or mysql://USER:PASSWORD@HOST:PORT/NAME; \
         an SQLite one may end in ?journal_mode=MODE&synchronous=LEVEL"
    )]
    Url(#[source] Option<Box<dyn std::error::Error + Send + Sync>>),
    #[error("the database URL: {0}")]
    Parameter(String),
    #[error("the database URL: {parameter}: {} cannot be read", path.display())]
    Certificate {
        parameter: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error("there is no TLS with the database as the URL asks for it")]
    Tls(#[source] DbErr),
    #[error("the folder of the SQLite file cannot be made: {0}")]
    Folder(PathBuf, #[source] io::Error),
    #[error("the SQLite file {0} cannot be opened")]
    File(PathBuf, #[source] io::Error),
    #[error("another process uses the SQLite file {0}: one server process on a file")]
    InUse(PathBuf),
    #[error("the lock file {0} cannot be opened")]
    LockFile(PathBuf, #[source] io::Error),
    #[error("the database does not answer")]
    Unreachable(#[source] DbErr),
}

impl DatabaseError {
    /// Whether the database may be there later. What it says itself, it would say again.
    pub fn may_pass(&self) -> bool {
        matches!(self, Self::Unreachable(error) if may_pass(error))
    }
}

/// Whether the same may be done later: the connection broke, or the server takes none now.
pub fn may_pass(error: &DbErr) -> bool {
    use sea_orm::RuntimeErr::SqlxError;
    let (DbErr::Conn(SqlxError(error)) | DbErr::Query(SqlxError(error)) | DbErr::Exec(SqlxError(error))) =
        error
    else {
        return false;
    };
    match error.as_ref() {
        sqlx::Error::Io(_) | sqlx::Error::PoolTimedOut | sqlx::Error::Protocol(_) => true,
        sqlx::Error::Database(error) => match error.try_downcast_ref::<sqlx::mysql::MySqlDatabaseError>() {
            // Too many connections, the server is starting or stopping, or somebody ended the query, the connection or
            // the session.
            Some(error) => matches!(error.number(), 1040 | 1053 | 1203 | 1317 | 1927 | 3169 | 4031),
            None => false,
        },
        _ => false,
    }
}

/// Where the database is, without a connection yet.
#[derive(Clone)]
pub enum Location {
    Sqlite { file: PathBuf, pragmas: Pragmas },
    Server(Box<MySqlConnectOptions>),
}

/// The pragmas of an SQLite file that the promises depend on. The URL may set others,
/// `sqlite://PATH?journal_mode=wal&synchronous=full`; what does not keep the promises is refused when the server
/// starts ([`requirements`](crate::requirements)), not here.
#[derive(Debug, Clone)]
pub struct Pragmas {
    journal_mode: SqliteJournalMode,
    synchronous: SqliteSynchronous,
}

impl Default for Pragmas {
    fn default() -> Self {
        Self {
            journal_mode: SqliteJournalMode::Wal,
            synchronous: SqliteSynchronous::Full,
        }
    }
}

impl Pragmas {
    /// Reads them from the query of a URL. A parameter that is misspelt is an error, for it would be ignored.
    fn parse(query: &str) -> Option<Self> {
        let mut pragmas = Self::default();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            match pair.split_once('=')? {
                ("journal_mode", mode) => pragmas.journal_mode = mode.parse().ok()?,
                // SQLite knows them by number too, and gives them back so.
                ("synchronous", "0") => pragmas.synchronous = SqliteSynchronous::Off,
                ("synchronous", "1") => pragmas.synchronous = SqliteSynchronous::Normal,
                ("synchronous", "2") => pragmas.synchronous = SqliteSynchronous::Full,
                ("synchronous", "3") => pragmas.synchronous = SqliteSynchronous::Extra,
                ("synchronous", level) => pragmas.synchronous = level.parse().ok()?,
                _ => return None,
            }
        }
        Some(pragmas)
    }
}

impl Location {
    pub fn parse(url: &str) -> Result<Self, DatabaseError> {
        if let Some(path) = url.strip_prefix("sqlite:") {
            let path = path.strip_prefix("//").unwrap_or(path);
            let (path, query) = path.split_once('?').unwrap_or((path, ""));
            let pragmas = Pragmas::parse(query).ok_or(DatabaseError::Url(None))?;
            if path.is_empty() || path == ":memory:" {
                return Err(DatabaseError::Url(None));
            }
            return Ok(Self::Sqlite {
                file: path.into(),
                pragmas,
            });
        }
        if !url.starts_with("mysql://") && !url.starts_with("mariadb://") {
            return Err(DatabaseError::Url(None));
        }
        tls::check_parameters(url)?;
        let options =
            MySqlConnectOptions::from_str(url).map_err(|e| DatabaseError::Url(Some(Box::new(e))))?;
        if options.get_database().is_none_or(str::is_empty) {
            return Err(DatabaseError::Url(None));
        }
        // What sqlx would log of a statement, of a slow one even by default, holds messages and keys.
        Ok(Self::Server(Box::new(options.disable_statement_logging())))
    }

    /// The SQLite file, if others on this machine than its owner can read it.
    pub fn file_open_to_others(&self) -> Option<&Path> {
        let Self::Sqlite { file, .. } = self else {
            return None;
        };
        let mode = |path: &Path| path.metadata().map_or(0, |metadata| metadata.mode());
        let can_enter = mode(folder_of(file).unwrap_or(Path::new("."))) & 0o011 != 0;
        (can_enter && mode(file) & 0o044 != 0).then_some(file)
    }

    /// How every connection to the file is opened.
    pub(crate) fn sqlite_options(file: &Path, pragmas: &Pragmas) -> SqliteConnectOptions {
        SqliteConnectOptions::new()
            .disable_statement_logging()
            .filename(file)
            .create_if_missing(true)
            .journal_mode(pragmas.journal_mode)
            .synchronous(pragmas.synchronous)
            .busy_timeout(Duration::from_secs(5))
            .foreign_keys(true)
    }
}

/// A lock of the operating system on a file beside the SQLite file; the system frees it when the process ends in
/// whatever way.
#[derive(Debug)]
pub struct FileLock {
    _file: File,
}

impl FileLock {
    /// Takes the lock, or says at once that another process has it. Servers need none: `None`.
    pub fn take(location: &Location) -> Result<Option<Self>, DatabaseError> {
        let Location::Sqlite { file, .. } = location else {
            return Ok(None);
        };
        make_folder(file)?;
        make_private(file)?;
        let mut path = file.clone().into_os_string();
        path.push(".lock");
        let path = PathBuf::from(path);
        let opened = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(PRIVATE)
            .open(&path);
        let lock = opened.map_err(|e| DatabaseError::LockFile(path.clone(), e))?;
        match lock.try_lock() {
            Ok(()) => Ok(Some(Self { _file: lock })),
            Err(std::fs::TryLockError::WouldBlock) => Err(DatabaseError::InUse(file.clone())),
            Err(std::fs::TryLockError::Error(e)) => Err(DatabaseError::LockFile(path, e)),
        }
    }
}

/// For the owner alone.
const PRIVATE: u32 = 0o600;
const PRIVATE_FOLDER: u32 = 0o700;

fn folder_of(file: &Path) -> Option<&Path> {
    file.parent().filter(|folder| !folder.as_os_str().is_empty())
}

/// One that is there stays as it is.
pub(crate) fn make_folder(file: &Path) -> Result<(), DatabaseError> {
    let Some(folder) = folder_of(file) else {
        return Ok(());
    };
    let made = DirBuilder::new()
        .recursive(true)
        .mode(PRIVATE_FOLDER)
        .create(folder);
    made.map_err(|e| DatabaseError::Folder(folder.into(), e))
}

/// Makes the file, empty, where there is none: SQLite would let everybody read it. The files beside it get its rights.
pub(crate) fn make_private(file: &Path) -> Result<(), DatabaseError> {
    let made = File::options()
        .write(true)
        .create_new(true)
        .mode(PRIVATE)
        .open(file);
    match made {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            Err(DatabaseError::File(file.into(), error))
        }
        _ => Ok(()),
    }
}

//! One test on several databases.

/// Writes `async fn name(kind: Kind) { … }` as the tests `name::sqlite`, `name::mariadb` and `name::mysql`.
///
/// ```ignore
/// chat_tests::on_each_database! {
///     async fn a_message_gets_the_next_seq(kind) {
///         let database = Database::fresh(kind).await;
///     }
/// }
/// ```
#[macro_export]
macro_rules! on_each_database {
    ($($(#[$about:meta])* async fn $name:ident($kind:ident) $body:block)+) => {$(
        $(#[$about])*
        mod $name {
            use super::*;

            $crate::scenario!($kind, $body);

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn sqlite() {
                scenario($crate::Kind::Sqlite).await;
            }

            $crate::on_database_servers!(@tests $name);
        }
    )+};
}

/// The same on MariaDB and MySQL only.
#[macro_export]
macro_rules! on_database_servers {
    (@tests $name:ident) => {
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn mariadb() {
            scenario($crate::Kind::MariaDb).await;
        }

        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn mysql() {
            if !$crate::databases::not_run($crate::Kind::MySql, concat!(stringify!($name), "::mysql")).await {
                scenario($crate::Kind::MySql).await;
            }
        }
    };
    ($($(#[$about:meta])* async fn $name:ident($kind:ident) $body:block)+) => {$(
        $(#[$about])*
        mod $name {
            use super::*;

            $crate::scenario!($kind, $body);

            $crate::on_database_servers!(@tests $name);
        }
    )+};
}

#[doc(hidden)]
#[macro_export]
macro_rules! scenario {
    ($kind:ident, $body:block) => {
        async fn scenario($kind: $crate::Kind) $body
    };
}

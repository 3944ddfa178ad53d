//! TLS to the database: a server with a certificate of a private authority, made by openssl for each test.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use chat_infrastructure::{database::Database as Connected, location::Location, session::Session};
use chat_tests::{
    Database, DatabaseServer, Kind, Outcome, Server, ok, on_database_servers, reply, run, run_alone,
};
use sea_orm::{ConnectionTrait, DbBackend, Statement};
use tempfile::TempDir;

/// Keys and certificates in a folder: of two authorities, and of the first one a server's, for `localhost`, and a
/// client's.
struct Certificates(TempDir);

impl Certificates {
    fn new() -> Self {
        let certificates = Self(tempfile::tempdir().unwrap());
        for authority in ["ca", "other-ca"] {
            let name = format!("/CN=chat test {authority}");
            certificates.openssl(&[
                "req",
                "-x509",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:P-256",
                "-nodes",
                "-days",
                "2",
                "-subj",
                &name,
                "-keyout",
                &format!("{authority}-key.pem"),
                "-out",
                &format!("{authority}.pem"),
            ]);
        }
        std::fs::write(certificates.path("server.ext"), "subjectAltName=DNS:localhost\n").unwrap();
        std::fs::write(certificates.path("client.ext"), "extendedKeyUsage=clientAuth\n").unwrap();
        for who in ["server", "client"] {
            let (key, request, certificate) = (
                format!("{who}-key.pem"),
                format!("{who}.csr"),
                format!("{who}.pem"),
            );
            let name = format!("/CN=chat test {who}");
            certificates.openssl(&[
                "req", "-newkey", "rsa:2048", "-nodes", "-subj", &name, "-keyout", &key, "-out", &request,
            ]);
            certificates.openssl(&[
                "x509",
                "-req",
                "-in",
                &request,
                "-CA",
                "ca.pem",
                "-CAkey",
                "ca-key.pem",
                "-CAcreateserial",
                "-days",
                "2",
                "-extfile",
                &format!("{who}.ext"),
                "-out",
                &certificate,
            ]);
        }
        certificates
    }

    fn openssl(&self, arguments: &[&str]) {
        let output = Command::new("openssl")
            .current_dir(self.0.path())
            .args(arguments)
            .output();
        let output = output.expect("openssl is installed (tests/prepare)");
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    async fn server(&self, kind: Kind) -> DatabaseServer {
        let option = |name: &str, file: &str| format!("--{name}={}", self.path(file).display());
        let arguments = [
            option("ssl-ca", "ca.pem"),
            option("ssl-cert", "server.pem"),
            option("ssl-key", "server-key.pem"),
            "--require-secure-transport=ON".into(),
        ];
        DatabaseServer::dedicated(kind, &arguments.each_ref().map(String::as_str)).await
    }

    /// The database by the server's right name, with these parameters, in which `{}` is the folder.
    fn url(&self, database: &Database, parameters: &str) -> String {
        let folder = self.0.path().display().to_string();
        let url = database.url().replace("@127.0.0.1:", "@localhost:");
        format!("{url}?{}", parameters.replace("{}", &folder))
    }
}

const RIGHT: &str = "ssl-mode=VERIFY_IDENTITY&ssl-ca={}/ca.pem";

/// The one line with which the server refuses to start.
async fn refusal(database: &Database, url: &str) -> String {
    let settings = [("CHAT_DATABASE_URL", url), ("CHAT_LOG", "off")];
    let Outcome { code, stderr, .. } = run(database, &["serve"], &settings).await;
    assert_eq!((code, stderr.lines().count()), (1, 1), "{stderr}");
    stderr
}

/// The cipher of a connection as each part of the server opens one: the writer, a reader.
async fn ciphers(url: &str) -> [String; 2] {
    const ASK: &str = "SHOW SESSION STATUS LIKE 'Ssl_cipher'";
    let location = Location::parse(url).unwrap();
    let connected = Connected::connect(location.clone(), 1).await.unwrap();
    let of_reader = connected
        .pool
        .query_one_raw(Statement::from_string(DbBackend::MySql, ASK))
        .await;
    let mut session = Session::connect(&location, connected.flavor).await.unwrap();
    let of_writer = session.script(ASK.into()).await.unwrap();
    let read = |row: &sea_orm::QueryResult| {
        let bytes = |_| {
            row.try_get_by_index::<Vec<u8>>(1)
                .map(|bytes| String::from_utf8(bytes).unwrap())
        };
        row.try_get_by_index::<String>(1).or_else(bytes).unwrap()
    };
    [read(&of_reader.unwrap().unwrap()), read(&of_writer[0])]
}

on_database_servers! {
    async fn every_connection_is_encrypted_and_the_server_is_who_it_should_be(kind) {
        let certificates = Certificates::new();
        let server = certificates.server(kind).await;
        let database = server.fresh().await;
        let right = certificates.url(&database, RIGHT);

        // Migrations first, on a connection of their own; the database takes none in clear.
        let settings = [("CHAT_DATABASE_URL", right.as_str())];
        let migrated = run(&database, &["migrate", "up"], &settings).await;
        assert_eq!(migrated.code, 0, "{migrated:?}");
        let mut node = Server::start(&database, &settings).await;
        node.client("alice").send("bob", "hi", None).await.unwrap();
        let page = node.client("bob").poll("0", 0).await.unwrap();
        assert_eq!(page["events"][0]["message"]["text"], "hi");
        node.stop().await;
        for command in ["verify", "rebuild"] {
            let done = run(&database, &[command], &settings).await;
            assert_eq!(done.code, 0, "{done:?}");
        }
        for mode in ["PREFERRED", "REQUIRED", "VERIFY_CA&ssl-ca={}/ca.pem", "VERIFY_IDENTITY&ssl-ca={}/ca.pem"] {
            let url = certificates.url(&database, &format!("ssl-mode={mode}"));
            for cipher in ciphers(&url).await {
                assert!(cipher.contains("AES") || cipher.contains("CHACHA20"), "{mode}: {cipher:?}");
            }
        }

        // Another authority, or none of ours; and another name than the certificate's, which one mode looks at.
        let foreign = certificates.url(&database, "ssl-mode=VERIFY_CA&ssl-ca={}/other-ca.pem");
        let public = certificates.url(&database, "ssl-mode=VERIFY_IDENTITY");
        let wrong_name = right.replace("@localhost:", "@127.0.0.1:");
        for url in [&foreign, &public, &wrong_name] {
            let line = refusal(&database, url).await;
            assert!(line.contains("there is no TLS with the database as the URL asks for it"), "{line}");
            assert!(line.contains("certificate") && !line.contains("mysql://"), "{line}");
        }
        let any_name = wrong_name.replace("VERIFY_IDENTITY", "VERIFY_CA");
        let status = run(&database, &["migrate", "status"], &[("CHAT_DATABASE_URL", &any_name)]).await;
        assert_eq!(status.code, 0, "{status:?}");
        let line = refusal(&database, &certificates.url(&database, "ssl-mode=DISABLED")).await;
        assert!(line.starts_with("chat-system: the database does not answer: "), "{line}");
    }

    async fn a_client_s_certificate_is_shown_where_it_is_asked_for(kind) {
        let certificates = Certificates::new();
        let server = certificates.server(kind).await;
        let database = server.fresh().await;
        let user = database.url();
        let user = user.strip_prefix("mysql://").unwrap().split(':').next().unwrap();
        server.execute(&format!("ALTER USER `{user}`@`%` REQUIRE X509")).await;
        let without = certificates.url(&database, RIGHT);
        let line = refusal(&database, &without).await;
        assert!(line.contains("Access denied"), "{line}");
        let with = format!("{RIGHT}&ssl-cert={{}}/client.pem&ssl-key={{}}/client-key.pem");
        let with = certificates.url(&database, &with);
        let node = Server::start(&database, &[("CHAT_DATABASE_URL", &with)]).await;
        node.client("alice").send("bob", "hi", None).await.unwrap();
        let history = ok(node.client("bob").get("/v1/conversations")).await.unwrap();
        assert_eq!(history["conversations"][0]["last_message"]["text"], "hi");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_without_tls_is_refused_where_it_is_asked_for() {
    // The harness's own MariaDB has none.
    let database = Database::fresh(Kind::MariaDb).await;
    for mode in ["REQUIRED", "VERIFY_IDENTITY"] {
        let line = refusal(&database, &format!("{}?ssl-mode={mode}", database.url())).await;
        assert!(line.contains("server does not support TLS"), "{mode}: {line}");
    }
    let url = format!("{}?ssl-mode=PREFERRED", database.url());
    let node = Server::start(&database, &[("CHAT_DATABASE_URL", &url)]).await;
    assert_eq!(reply(node.client("alice").get("/readyz")).await.status, 200);
    assert_eq!(ciphers(&url).await, ["", ""]);
}

#[tokio::test]
async fn what_a_url_says_wrongly_is_one_line() {
    for (parameters, says) in [
        ("sslmode=REQUIRED", "there is no parameter \"sslmode\""),
        ("ssl-mode=VERIFY_CA", "ssl-mode=VERIFY_CA needs ssl-ca"),
        (
            "ssl-mode=VERIFY_CA&ssl-ca=/nowhere/ca.pem",
            "ssl-ca: /nowhere/ca.pem cannot be read",
        ),
    ] {
        let url = format!("mysql://chat:secret@127.0.0.1:1/chat?{parameters}");
        for command in ["serve", "migrate", "verify"] {
            let arguments = if command == "migrate" {
                vec![command, "up"]
            } else {
                vec![command]
            };
            let Outcome { code, stderr, .. } = run_alone(&arguments, &[("CHAT_DATABASE_URL", &url)]).await;
            assert_eq!((code, stderr.lines().count()), (1, 1), "{stderr}");
            assert!(stderr.contains(says) && !stderr.contains("secret"), "{stderr}");
        }
    }
    assert!(!Path::new("/nowhere").exists());
}

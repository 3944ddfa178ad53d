//! A real nginx in front of nodes, with the file that is shipped or with nginx's own defaults.

use std::{
    fs::{self, File},
    path::Path,
    time::Duration,
};

use tempfile::TempDir;

use crate::{
    Client, Server, eventually, free_port,
    guard::{Process, temporary_folder},
};

const PROGRAM: &str = "/usr/sbin/nginx";
const SHIPPED: &str = include_str!("../../docker/nginx.conf");
const READY_LIMIT: Duration = Duration::from_secs(30);

/// What somebody writes who knows nothing of chat: nginx's defaults, round robin, and the three lines for websockets
/// that every tutorial has.
const DEFAULT: &str = "
error_log /dev/stderr;
events {}
http {
    access_log /dev/stdout;
    upstream chat {
        server chat-1:3000;
        server chat-2:3000;
    }
    server {
        listen 80;
        location / {
            proxy_pass http://chat;
        }
        location /socket.io/ {
            proxy_pass http://chat;
            proxy_http_version 1.1;
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection upgrade;
        }
    }
}
";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Configuration {
    /// `docker/nginx.conf`.
    Shipped,
    /// nginx as it comes out of its box: it buffers, and speaks HTTP/1.0 to the nodes.
    Default,
}

impl Configuration {
    pub const ALL: [Configuration; 2] = [Configuration::Shipped, Configuration::Default];
}

/// An nginx that runs. Dropped, it is killed.
#[derive(Debug)]
pub struct Nginx {
    port: u16,
    _process: Process,
    folder: TempDir,
}

impl Nginx {
    /// Starts it in front of one or two nodes, and waits until it answers. It compresses whatever it may, for every
    /// client that asks: what must not be compressed has to say so itself.
    pub async fn start(configuration: Configuration, nodes: &[&Server]) -> Nginx {
        loop {
            let folder = temporary_folder("nginx");
            let port = free_port();
            let text = substituted(configuration, port, nodes, folder.path());
            fs::write(folder.path().join("nginx.conf"), text).expect("the folder takes files");
            let output = |name| File::create(folder.path().join(name)).expect("the folder takes files");
            // One process without workers: whoever ends it has ended all of it.
            let mut process = Process::start(Path::new(PROGRAM), |command| {
                command
                    .arg("-p")
                    .arg(folder.path())
                    .arg("-c")
                    .arg(folder.path().join("nginx.conf"))
                    .args(["-g", "daemon off; master_process off; pid nginx.pid;"])
                    .stdout(output("stdout"))
                    .stderr(output("stderr"));
            })
            .await;
            let client = Client::new(&format!("http://127.0.0.1:{port}"), "");
            let mut code = None;
            eventually("nginx answers", READY_LIMIT, || {
                code = process.exit_code();
                let request = client.get("/healthz").send();
                async move { code.is_some() || request.await.is_ok_and(|answer| answer.status() == 200) }
            })
            .await;
            let nginx = Nginx {
                port,
                _process: process,
                folder,
            };
            if code.is_none() {
                return nginx;
            }
            let log = nginx.log();
            assert!(log.contains("Address already in use"), "nginx ended: {log}");
        }
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// What it has written so far, requests and errors.
    pub fn log(&self) -> String {
        let read = |name| fs::read_to_string(self.folder.path().join(name)).unwrap_or_default();
        read("stdout") + &read("stderr")
    }
}

/// The configuration with the addresses of a test, and with its temporary files where the test has its own.
fn substituted(configuration: Configuration, port: u16, nodes: &[&Server], folder: &Path) -> String {
    let text = match configuration {
        Configuration::Shipped => SHIPPED,
        Configuration::Default => DEFAULT,
    };
    let replace = |text: String, from: &str, to: &str| {
        assert!(text.contains(from), "{configuration:?} has no {from}");
        text.replace(from, to)
    };
    let node = |node: &&Server| format!("server 127.0.0.1:{};", node.port());
    let first = nodes.first().map(node).expect("a node");
    let second = nodes.get(1).map(node).unwrap_or_default();
    let mut own =
        "http {\n gzip on; gzip_types *; gzip_min_length 0; gzip_proxied any; gzip_http_version 1.0;\n"
            .to_string();
    for kind in ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"] {
        own += &format!(" {kind}_temp_path {}/{kind};\n", folder.display());
    }
    let text = replace(text.to_string(), "server chat-1:3000;", &first);
    let text = replace(text, "server chat-2:3000;", &second);
    let text = replace(text, "listen 80;", &format!("listen 127.0.0.1:{port};"));
    replace(text, "http {\n", &own)
}

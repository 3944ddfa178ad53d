//! A real proxy in front of nodes: nginx with the file that is shipped or with its own defaults, or HAProxy.

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

const NGINX: &str = "/usr/sbin/nginx";
const HAPROXY: &str = "/usr/sbin/haproxy";
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

/// HAProxy with what its own manual has for such a service: a node's health is what `/readyz` says, and an address stays
/// with its node where socket.io polls.
const OF_HAPROXY: &str = "
global
    log stdout format raw local0
defaults
    mode http
    log global
    option httplog
    option forwardfor
    option redispatch
    timeout connect 5s
    timeout client 90s
    timeout server 90s
    timeout tunnel 1h
    default-server check inter 500ms
frontend in
    bind :80
    use_backend sticky if { path_beg /socket.io/ }
    default_backend chat
backend chat
    balance leastconn
    option httpchk GET /readyz
    server one chat-1:3000
    server other chat-2:3000
backend sticky
    balance source
    hash-type consistent
    option httpchk GET /readyz
    server one chat-1:3000
    server other chat-2:3000
";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Configuration {
    /// `docker/nginx.conf`.
    Shipped,
    /// nginx as it comes out of its box: it buffers, and speaks HTTP/1.0 to the nodes.
    Default,
    HaProxy,
}

impl Configuration {
    pub const ALL: [Configuration; 3] = [
        Configuration::Shipped,
        Configuration::Default,
        Configuration::HaProxy,
    ];

    /// Whether an address stays with its node.
    pub fn is_sticky(self) -> bool {
        self != Configuration::Default
    }
}

/// A proxy that runs. Dropped, it is killed.
#[derive(Debug)]
pub struct Front {
    port: u16,
    _process: Process,
    folder: TempDir,
}

impl Front {
    /// Starts it in front of one or two nodes, and waits until it answers. nginx compresses whatever it may, for every
    /// client that asks: what must not be compressed has to say so itself.
    pub async fn start(configuration: Configuration, nodes: &[&Server]) -> Front {
        loop {
            let folder = temporary_folder("front");
            let port = free_port();
            let text = match configuration {
                Configuration::HaProxy => of_haproxy(port, nodes),
                Configuration::Shipped | Configuration::Default => {
                    of_nginx(configuration, port, nodes, folder.path())
                }
            };
            let written = folder.path().join("front.conf");
            fs::write(&written, text).expect("the folder takes files");
            let output = |name| File::create(folder.path().join(name)).expect("the folder takes files");
            // One process without workers: whoever ends it has ended all of it.
            let program = match configuration {
                Configuration::HaProxy => HAPROXY,
                Configuration::Shipped | Configuration::Default => NGINX,
            };
            let mut process = Process::start(Path::new(program), |command| {
                match configuration {
                    Configuration::HaProxy => command.arg("-db").arg("-f").arg(&written),
                    Configuration::Shipped | Configuration::Default => command
                        .arg("-p")
                        .arg(folder.path())
                        .arg("-c")
                        .arg(&written)
                        .args(["-g", "daemon off; master_process off; pid nginx.pid;"]),
                };
                command.stdout(output("stdout")).stderr(output("stderr"));
            })
            .await;
            let client = Client::new(&format!("http://127.0.0.1:{port}"), "");
            let mut code = None;
            eventually("the proxy answers", READY_LIMIT, || {
                code = process.exit_code();
                let request = client.get("/healthz").send();
                async move { code.is_some() || request.await.is_ok_and(|answer| answer.status() == 200) }
            })
            .await;
            let front = Front {
                port,
                _process: process,
                folder,
            };
            if code.is_none() {
                return front;
            }
            let log = front.log();
            let in_use = ["Address already in use", "cannot bind socket"];
            assert!(in_use.iter().any(|text| log.contains(text)), "it ended: {log}");
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

fn of_haproxy(port: u16, nodes: &[&Server]) -> String {
    let bound = OF_HAPROXY.replace("bind :80", &format!("bind 127.0.0.1:{port}"));
    let named = bound.lines().filter_map(|line| {
        let place = ["chat-1:3000", "chat-2:3000"]
            .iter()
            .position(|name| line.ends_with(name));
        match place {
            None => Some(line.to_string()),
            Some(place) => {
                let node = format!("127.0.0.1:{}", nodes.get(place)?.port());
                Some(line.replace(["chat-1:3000", "chat-2:3000"][place], &node))
            }
        }
    });
    named.map(|line| line + "\n").collect()
}

/// The configuration with the addresses of a test, and with its temporary files where the test has its own.
fn of_nginx(configuration: Configuration, port: u16, nodes: &[&Server], folder: &Path) -> String {
    let text = match configuration {
        Configuration::Shipped => SHIPPED,
        Configuration::Default | Configuration::HaProxy => DEFAULT,
    };
    let replace = |text: String, from: &str, to: &str| {
        assert!(text.contains(from), "{configuration:?} has no {from}");
        text.replace(from, to)
    };
    let most = match configuration {
        Configuration::Shipped => " max_fails=0",
        _ => "",
    };
    let node = |node: &&Server| format!("server 127.0.0.1:{}{most};", node.port());
    let first = nodes.first().map(node).expect("a node");
    let second = nodes.get(1).map(node).unwrap_or_default();
    let mut own =
        "http {\n gzip on; gzip_types *; gzip_min_length 0; gzip_proxied any; gzip_http_version 1.0;\n"
            .to_string();
    for kind in ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"] {
        own += &format!(" {kind}_temp_path {}/{kind};\n", folder.display());
    }
    let text = replace(text.to_string(), &format!("server chat-1:3000{most};"), &first);
    let text = replace(text, &format!("server chat-2:3000{most};"), &second);
    let text = replace(text, "listen 80;", &format!("listen 127.0.0.1:{port};"));
    replace(text, "http {\n", &own)
}

//! A Galera cluster: MariaDB servers that commit together, so that each has what any of them acknowledged.

use std::{path::Path, time::Duration};

use sea_orm::sqlx;

use super::DatabaseServer;
use crate::harness::wait::{eventually, free_port};

const LIMIT: Duration = Duration::from_secs(90);
const PROVIDER: &str = "/usr/lib/galera/libgalera_smm.so";
/// Where the program is that hands the state of one server to another.
const PROGRAMS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/harness/galera");

/// A server that is silent for so long is left behind by the others.
const PATIENCE: &str = "evs.keepalive_period=PT0.2S;evs.inactive_check_period=PT0.1S;evs.suspect_timeout=PT1S;\
                        evs.inactive_timeout=PT2S;evs.install_timeout=PT2S;evs.join_retrans_period=PT0.2S";

impl DatabaseServer {
    /// So many servers that commit together.
    pub async fn cluster(count: usize) -> Vec<DatabaseServer> {
        assert!(
            Path::new(PROVIDER).exists(),
            "Galera is needed for this test: apt-get install galera-4"
        );
        let groups: Vec<_> = (0..count).map(|_| free_port()).collect();
        let all: Vec<_> = groups.iter().map(|port| format!("127.0.0.1:{port}")).collect();
        let path = std::env::var("PATH").unwrap_or_default();
        let mut servers = Vec::new();
        for group in groups {
            let options = format!(
                "base_host=127.0.0.1;base_port={group};gmcast.listen_addr=tcp://127.0.0.1:{group};\
                 ist.recv_addr=127.0.0.1:{};{PATIENCE};gcache.size=64M",
                free_port()
            );
            let arguments = [
                "--wsrep-on=ON",
                "--binlog-format=ROW",
                "--innodb-autoinc-lock-mode=2",
                "--wsrep-cluster-name=test",
                "--wsrep-node-address=127.0.0.1",
                "--wsrep-sst-method=local",
            ];
            let mut arguments = arguments.map(String::from).to_vec();
            arguments.extend([
                format!("--wsrep-provider={PROVIDER}"),
                format!("--wsrep-provider-options={options}"),
                format!("--wsrep-cluster-address=gcomm://{}", all.join(",")),
            ]);
            let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
            let environment = vec![("PATH".into(), format!("{PROGRAMS}:{path}"))];
            // The first one begins the cluster; the others get what it has.
            let server = DatabaseServer::of_a_cluster(&arguments, environment, servers.is_empty()).await;
            server.when_synced().await;
            servers.push(server);
        }
        servers
    }

    /// Waits until it has what the others of its cluster have, and takes part.
    pub async fn when_synced(&self) {
        eventually("a server is one of its cluster", LIMIT, || async {
            let state = "SELECT variable_value FROM information_schema.global_status \
                         WHERE variable_name = 'WSREP_LOCAL_STATE_COMMENT'";
            self.try_text(state).await.is_some_and(|state| state == "Synced")
        })
        .await;
    }

    /// Waits until it knows that it has lost most of its cluster, and tells it to be the whole of it.
    pub async fn go_on_alone(&self) {
        eventually("a server has lost its cluster", LIMIT, || async {
            let status = "SELECT variable_value FROM information_schema.global_status \
                          WHERE variable_name = 'WSREP_CLUSTER_STATUS'";
            self.try_text(status)
                .await
                .is_some_and(|status| status != "Primary")
        })
        .await;
        self.execute("SET GLOBAL wsrep_provider_options = 'pc.bootstrap=YES'")
            .await;
    }

    /// Where its files stand in the log of the cluster, by its own account. It must not run.
    pub(super) async fn place_in_the_cluster(&self) -> String {
        let before = self.log().len();
        let mut process = self.run(&["--wsrep-recover".into()]).await;
        process.wait(LIMIT).await;
        let log = self.log().split_off(before);
        let mut lines = log.lines().rev();
        let place = lines.find_map(|line| line.split_once("WSREP: Recovered position:"));
        let place = place.map(|(_, place)| place.trim().to_owned());
        place.unwrap_or_else(|| panic!("it does not say where it stands:\n{log}"))
    }

    async fn try_text(&self, select: &'static str) -> Option<String> {
        let mut root = self.connect().await.ok()?;
        sqlx::query_scalar(select).fetch_one(&mut root).await.ok()
    }
}

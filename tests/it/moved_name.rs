//! A host name that leads elsewhere by now: it is looked up at each connection.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use walrelay::cli::demo::{parts::Server, settings::free_port};

use crate::support::{LIMIT, Network, Scenario};

const NAME: &str = "source.walrelay.test";

/// A program that runs walrelay where this file is `/etc/hosts`; `None` where the machine does not allow that.
fn with_hosts(program: &Path, folder: &Path, hosts: &Path) -> Option<PathBuf> {
    let script = folder.join("walrelay");
    let mount = format!("mount --bind '{}' /etc/hosts", hosts.display());
    let inside = format!("{mount} && exec '{}' \"$@\"", program.display());
    let inside = inside.replace('\'', "'\\''");
    let text = format!("#!/bin/sh\nexec unshare --user --map-root-user --mount sh -c '{inside}' sh \"$@\"\n");
    fs::write(&script, text).expect("the folder can be written");
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).expect("the mode can be set");
    let tried = Command::new(&script).arg("--version").output();
    tried.is_ok_and(|output| output.status.success()).then_some(script)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_leads_to_another_address_is_followed_by_the_same_process() {
    let mut scenario = Scenario::new("moved").await;
    let hosts = scenario.folder().join("hosts");
    let lead = |address: &str| fs::write(&hosts, format!("{address} {NAME}\n127.0.0.1 localhost\n")).unwrap();
    lead("127.0.0.1");
    let Some(program) = with_hosts(&scenario.program, scenario.folder(), &hosts) else {
        eprintln!("skipped: this machine does not let its users have mounts of their own (unshare --user --mount)");
        return;
    };
    scenario.source("CREATE TABLE things (id int PRIMARY KEY); INSERT INTO things VALUES (1)").await;
    let first = Network::before_source(&mut scenario).await;
    first.allow_all();
    let second = Network::at(&mut scenario, "127.0.0.5", first.port()).await;
    second.allow_all();
    scenario.settings.set("source.host", NAME);
    scenario.program = program;
    let (mut capture, _apply) = (scenario.capture().await, scenario.apply().await);
    scenario.await_equal("things").await;

    lead("127.0.0.5");
    let nobody = Server { port: free_port(), ..scenario.parts.source.clone() };
    first.lead_to(&nobody);
    first.cut();
    scenario.source("INSERT INTO things VALUES (2)").await;
    scenario.await_equal("things").await;
    capture.check_alive().unwrap_or_else(|error| panic!("{error}"));
    capture.stop(LIMIT).await.unwrap_or_else(|error| panic!("{error}"));
}

//! `amqps`: a certificate that is not in order means no link, and never a byte in plain text. `openssl s_server` stands for
//! the broker and prints what it was told after the handshake.

use crate::amqp091::amqp;
use std::io::Read;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tidegate::config::UpstreamKind;
use tidegate_tests::ports::free_port;
use tidegate_tests::publications::{Driven, SOON};
use tidegate_tests::wait::wait_for;

/// Where `a_link_is_tried` finds its URL.
const URL: &str = "TIDEGATE_TEST_URL";

/// Lets go of the server however the test ends.
struct Server {
    child: Child,
    port: u16,
}

impl Server {
    fn start(folder: &Path, certificate: &str) -> Self {
        let port = free_port();
        let log = || std::fs::OpenOptions::new().create(true).append(true).open(folder.join("log")).unwrap();
        let child = Command::new("openssl")
            .args([
                "s_server",
                "-quiet",
                "-accept",
                &format!("127.0.0.1:{port}"),
                "-key",
                "server.key",
                "-cert",
            ])
            .arg(certificate)
            .current_dir(folder)
            .stdin(Stdio::piped())
            .stdout(log())
            .stderr(log())
            .spawn()
            .unwrap();
        Self { child, port }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn openssl(folder: &Path, arguments: &str) {
    let output = Command::new("openssl").args(arguments.split(' ')).current_dir(folder).output().unwrap();
    assert!(output.status.success(), "openssl {arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

/// An authority and certificates of it for `localhost`: one in order, one that ran out yesterday.
fn certificates(folder: &Path) {
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes";
    openssl(folder, &format!("req -x509 {key} -keyout ca.key -out ca.crt -days 30 -subj /CN=authority"));
    openssl(
        folder,
        &format!(
            "req {key} -keyout server.key -out server.csr -subj /CN=localhost -addext subjectAltName=DNS:localhost"
        ),
    );
    for (name, days) in [("good.crt", 30), ("expired.crt", -1)] {
        let sign = format!(
            "x509 -req -in server.csr -CA ca.crt -CAkey ca.key -copy_extensions copy -days {days} -out {name}"
        );
        openssl(folder, &sign);
    }
}

/// What a server heard from an upstream: with this certificate, called by this host name, by a machine that trusts the
/// authority or not. Trust is a matter of the environment, so the upstream runs in a process of its own.
fn heard(folder: &Path, certificate: &str, host: &str, trusted: bool) -> String {
    let _ = std::fs::remove_file(folder.join("log"));
    let server = Server::start(folder, certificate);
    // It serves one connection after the other: this one must be gone.
    wait_for(SOON, || std::net::TcpStream::connect(("127.0.0.1", server.port)).ok().map(drop)).unwrap();
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "tls::a_link_is_tried", "--ignored"])
        .env(URL, format!("amqps://{host}:{}", server.port))
        .stdout(Stdio::null());
    if trusted {
        command.env("SSL_CERT_FILE", folder.join("ca.crt"));
    }
    assert!(command.status().unwrap().success());
    let mut heard = Vec::new();
    std::fs::File::open(folder.join("log")).unwrap().read_to_end(&mut heard).unwrap();
    String::from_utf8_lossy(&heard).into_owned()
}

#[test]
#[ignore = "run by the other tests of this file, in an environment that they make"]
fn a_link_is_tried() {
    let mut settings = amqp(&[std::env::var(URL).unwrap()], "telemetry", true);
    settings.connect_timeout = Duration::from_secs(1);
    let mut driven = Driven::start(UpstreamKind::Amqp(settings));
    // The server speaks no AMQP, so there is never a link; what matters is what it heard.
    driven.expect_silence(Duration::from_secs(2));
}

#[test]
fn only_a_certificate_in_order_makes_it_speak() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    certificates(folder);
    let good = heard(folder, "good.crt", "localhost", true);
    assert!(good.contains("AMQP"), "with everything in order it should begin to speak AMQP: {good}");
    for (certificate, host, trusted, why) in [
        ("good.crt", "localhost", false, "an authority that nobody trusts"),
        ("good.crt", "127.0.0.1", true, "a certificate for another host"),
        ("expired.crt", "localhost", true, "a certificate that ran out"),
    ] {
        let heard = heard(folder, certificate, host, trusted);
        assert!(!heard.contains("AMQP"), "{why}: {heard}");
    }
}

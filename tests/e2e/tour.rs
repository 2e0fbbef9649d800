//! The tour in the README, line by line, as a newcomer copies it. Only addresses and the folder differ, so that it can run
//! beside other gateways and brokers.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // test code: it panics where the world is not as it must be

use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;
use tidegate_tests::gateway::{Gateway, binary};
use tidegate_tests::rabbit::{self, Rabbit};
use tidegate_tests::wait::wait_for;

fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// The lines of the README's shell blocks in the section under this heading, up to the next heading of any size.
fn lines_under(heading: &str) -> Vec<String> {
    let readme = std::fs::read_to_string(root().join("README.md")).unwrap();
    let (_, section) =
        readme.split_once(&format!("\n{heading}\n")).expect("the heading stands in the README");
    let section = section.split("\n#").next().unwrap();
    let blocks = section.split("```sh\n").skip(1);
    let lines: Vec<String> =
        blocks.flat_map(|block| block.split("```").next().unwrap().lines()).map(str::to_owned).collect();
    assert!(!lines.is_empty(), "{heading} has lines to copy");
    lines
}

/// Runs a line of the README in `folder`, its addresses replaced by those of this gateway.
fn copy_and_run(line: &str, gateway: &Gateway, folder: &Path) -> Output {
    let line = line
        .replace("-p 1883", &format!("-p {}", gateway.mqtt.port()))
        .replace("coap://127.0.0.1/", &format!("coap://{}/", gateway.coap))
        .replace("127.0.0.1:8080", &gateway.admin.to_string())
        .replace("tidegate-data", gateway.data().to_str().unwrap())
        .replace("tidegate status", &format!("tidegate status --config {}", gateway.config().display()))
        .replace("target/release/tidegate", binary().to_str().unwrap());
    let output = Command::new("sh").args(["-c", &line]).current_dir(folder).output().unwrap();
    assert!(output.status.success(), "{line}\n{}", String::from_utf8_lossy(&output.stderr));
    output
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[output.stdout.clone(), output.stderr.clone()].concat()).into_owned()
}

#[test]
fn every_line_of_the_tour_does_what_the_readme_says() {
    let gateway = Gateway::start("");
    let lines = lines_under("## A tour of five minutes");
    let run = |at: usize| said(&copy_and_run(&lines[at], &gateway, root()));
    assert!(run(0).contains("received PUBACK"));
    assert!(run(1).contains("2.04"));
    let upstream = run(2);
    assert!(
        upstream.contains(r#""payload":"71.5""#) && upstream.contains(r#""payload":"71.6""#),
        "{upstream}"
    );
    assert!(run(3).contains("2 accepted"));
    assert!(run(4).contains("ready"));
    assert!(run(5).contains("tidegate_"));
    assert_eq!(lines.len(), 6, "every line of the tour is looked at here");
}

#[test]
fn the_tour_goes_on_to_a_broker_and_through_its_absence() {
    let mut broker = Rabbit::start(&rabbit::Setup::default());
    broker.exchange("telemetry");
    broker.queue("tour", "telemetry", "#", &[]);
    let lines = lines_under("### To RabbitMQ");
    assert_eq!(lines.len(), 2, "every line of this part is looked at here");
    let example = std::fs::read_to_string(root().join("config/examples/local-rabbitmq.toml")).unwrap();
    let checked = Command::new("sh")
        .args(["-c", &lines[0].replace("target/release/tidegate", binary().to_str().unwrap())])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(checked.status.success(), "{}", said(&checked));
    assert!(lines[1].starts_with("target/release/tidegate run --config "));

    let mut gateway = Gateway::prepare("");
    std::fs::write(gateway.folder().join("password"), rabbit::PASSWORD).unwrap();
    gateway.configure(&format!(
        "{example}\nurls = [\"{}\"]\nusername = \"{}\"\npassword_file = \"password\"\nreconnect_max = \"1 s\"\n",
        broker.url(),
        rabbit::USER
    ));
    gateway.start_again();
    let publish = lines_under("## A tour of five minutes").remove(0);
    let consumer = broker.consume("tour");
    assert!(said(&copy_and_run(&publish, &gateway, root())).contains("received PUBACK"));
    assert_eq!(consumer.take(1)[0].body, b"71.5");

    broker.stop();
    assert!(said(&copy_and_run(&publish, &gateway, root())).contains("received PUBACK"));
    let waits = || (gateway.metric("tidegate_route_waiting_messages") >= 1.0).then_some(());
    assert!(wait_for(Duration::from_secs(30), waits).is_some(), "the backlog rises");
    broker.start_again();
    assert_eq!(consumer.take(2)[1].body, b"71.5");
    let drained = || (gateway.metric("tidegate_route_waiting_messages") == 0.0).then_some(());
    assert!(wait_for(Duration::from_secs(60), drained).is_some(), "and falls");
}

//! What the commands print and how they exit, called as a library: no process, no gateway.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on says so by panicking")]

use std::ffi::OsString;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tidegate::cli::{Exit, Start, run_with};
use tidegate_tests::uninterrupted::uninterrupted;

struct Answer {
    exit: Exit,
    out: String,
    err: String,
    started: Option<Start>,
}

fn tidegate(args: &[&str]) -> Answer {
    let (mut out, mut err, mut started) = (Vec::new(), Vec::new(), None);
    let args = ["tidegate"].iter().chain(args).map(OsString::from);
    let exit = run_with(args, &mut out, &mut err, |start| {
        started = Some(start);
        Exit::Well
    });
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Answer { exit, out: text(out), err: text(err), started }
}

fn config(folder: &Path, text: &str) -> String {
    let path = folder.join("tidegate.toml");
    std::fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn exit_codes_are_what_the_manual_says() {
    assert_eq!([Exit::Well, Exit::Failure, Exit::Usage, Exit::Configuration].map(Exit::code), [0, 1, 2, 78]);
}

#[test]
fn a_wrong_command_line_exits_2_and_help_exits_0() {
    for args in [&["rum"][..], &[], &["run", "--confg", "x"], &["status", "--admin", "nowhere"]] {
        let answer = tidegate(args);
        assert_eq!(answer.exit, Exit::Usage, "{args:?}");
        assert!(answer.err.contains("--help") || answer.err.contains("Usage"), "{}", answer.err);
    }
    for args in [&["--help"][..], &["run", "--help"], &["--version"]] {
        let answer = tidegate(args);
        assert_eq!((answer.exit, answer.err.as_str()), (Exit::Well, ""), "{args:?}");
        assert!(answer.out.contains("tidegate"), "{}", answer.out);
    }
}

#[test]
fn run_hands_over_the_configuration_and_where_it_came_from() {
    let folder = tempfile::tempdir().unwrap();
    let file = config(folder.path(), "[gateway]\nid = \"site-a\"\n");
    let started = tidegate(&["run", "--config", &file, "--log", "debug"]).started.unwrap();
    assert_eq!(started.config.gateway.as_str(), "site-a");
    assert_eq!(started.file, Some(PathBuf::from(&file)));
    assert_eq!(started.log.as_deref(), Some("debug"));
    assert_eq!(tidegate(&["--config", &file, "run"]).started.unwrap().file, Some(PathBuf::from(file)));
    assert_eq!(tidegate(&["run"]).started.unwrap().file, None);
}

#[test]
fn run_and_check_refuse_a_wrong_configuration_alike() {
    let folder = tempfile::tempdir().unwrap();
    let file = config(folder.path(), "[mqtt]\nlisen = []\n[coap]\nlisten = 1\n");
    let (run, check) = (tidegate(&["run", "--config", &file]), tidegate(&["check", "--config", &file]));
    assert_eq!((run.exit, check.exit), (Exit::Configuration, Exit::Configuration));
    assert!(run.started.is_none());
    assert_eq!(run.err, check.err);
    assert!(check.err.contains(&format!("{file}:2:1")), "{}", check.err);
    assert!(check.err.contains(&format!("{file}:4:10")), "{}", check.err);
    assert!(check.err.ends_with("The configuration has 2 mistakes.\n"), "{}", check.err);
    assert_eq!(check.out, "");
}

#[test]
fn check_says_what_a_good_configuration_means_and_warns() {
    let folder = tempfile::tempdir().unwrap();
    let file = config(
        folder.path(),
        "[access]\nanonymous = \"never\"\n[upstream.cloud]\nkind = \"amqp\"\n[[route]]\ntopic = \"a/#\"\n",
    );
    let answer = tidegate(&["check", "--config", &file]);
    assert_eq!(answer.exit, Exit::Well);
    assert!(answer.err.starts_with("warning: no device can connect"), "{}", answer.err);
    for part in
        ["is well.", "127.0.0.1:5683", "amqp://127.0.0.1:5672 as guest", "cloud:a/#: a/# to cloud, relayed"]
    {
        assert!(answer.out.contains(part), "{part}: {}", answer.out);
    }
}

/// Answers one request with `answer` and gives the request back.
fn gateway(answer: String) -> (SocketAddr, std::thread::JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let thread = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let mut request = Vec::new();
        let mut chunk = [0; 1_024];
        while !request.windows(4).any(|w| w == b"\r\n\r\n") {
            let n = uninterrupted(|| stream.read(&mut chunk)).unwrap();
            request.extend_from_slice(&chunk[..n]);
        }
        stream.write_all(answer.as_bytes()).unwrap();
        String::from_utf8(request).unwrap()
    });
    (address, thread)
}

const STATUS: &str =
    "{\"gateway\":\"site-a\",\"ready\":true,\"uptime_seconds\":75,\"clock_synchronised\":true}";

#[test]
fn status_is_laid_out_for_a_person_and_handed_on_to_a_script() {
    let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{STATUS}", STATUS.len());
    let (address, thread) = gateway(answer.clone());
    let human = tidegate(&["status", "--admin", &address.to_string()]);
    assert_eq!((human.exit, human.err.as_str()), (Exit::Well, ""));
    assert!(human.out.starts_with("site-a takes messages"), "{}", human.out);
    assert!(human.out.contains("up 1 min 15 s"), "{}", human.out);
    let request = thread.join().unwrap();
    assert!(request.starts_with("GET /status HTTP/1.1\r\n"), "{request}");
    assert!(request.contains(&format!("Host: {address}\r\n")), "{request}");

    let (address, thread) = gateway(answer);
    let script = tidegate(&["status", "--json", "--admin", &address.to_string()]);
    let json: serde_json::Value = serde_json::from_str(&script.out).unwrap();
    assert_eq!(json["uptime_seconds"], 75);
    thread.join().unwrap();
}

#[test]
fn status_finds_the_admin_port_in_a_configuration_whose_password_it_may_not_read() {
    let (address, thread) = gateway("HTTP/1.1 503 No\r\n\r\n".to_owned());
    let folder = tempfile::tempdir().unwrap();
    let text = format!(
        "[admin]\nlisten = \"{address}\"\n[upstream.cloud]\nkind = \"amqp\"\nusername = \"a\"\npassword_file = \"gone\"\n"
    );
    let answer = tidegate(&["status", "--config", &config(folder.path(), &text)]);
    assert_eq!(answer.exit, Exit::Failure);
    assert!(answer.err.contains("the gateway answered 503"), "{}", answer.err);
    thread.join().unwrap();
}

#[test]
fn status_of_a_gateway_that_does_not_run_says_so() {
    // Bound and dropped: nobody listens there now.
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let answer = tidegate(&["status", "--admin", &address.to_string()]);
    assert_eq!(answer.exit, Exit::Failure);
    assert!(answer.err.contains("nobody listens there"), "{}", answer.err);
    assert!(answer.err.contains("is it running?"), "{}", answer.err);
}

#[test]
fn status_of_a_stranger_says_so() {
    let (address, thread) = gateway("SSH-2.0-OpenSSH_9.2\r\n".to_owned());
    let answer = tidegate(&["status", "--admin", &address.to_string()]);
    assert_eq!(answer.exit, Exit::Failure);
    assert!(answer.err.contains("not Tidegate"), "{}", answer.err);
    thread.join().unwrap();
}

#[test]
fn status_without_an_admin_port_says_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    for (text, part) in [
        ("[admin]\nlisten = \"\"\n", "nobody to ask"),
        ("[admin]\nlisten = \"127.0.0.1:0\"\n", "--admin"),
        ("[admin]\nlisten = \"here\"\n", "--admin ADDRESS:PORT"),
    ] {
        let answer = tidegate(&["status", "--config", &config(folder.path(), text)]);
        assert_ne!(answer.exit, Exit::Well);
        assert!(answer.err.contains(part), "{}", answer.err);
    }
}

#[test]
fn an_oscore_context_fits_the_configuration_once_its_secret_is_in_its_file() {
    let folder = tempfile::tempdir().unwrap();
    let added = tidegate(&["device", "add", "boiler-3", "--oscore"]);
    assert_eq!(added.exit, Exit::Well);
    let secret = added.err.split_whitespace().find(|word| word.len() == 32).unwrap();
    assert!(!added.out.contains(secret), "{}", added.out);
    let id = added.out.split('"').nth(1).unwrap();
    assert!(added.err.contains(&format!("sender id {id}, recipient id 01")), "{}", added.err);
    let file = config(folder.path(), &added.out);
    let missing = tidegate(&["check", "--config", &file]);
    assert_eq!(missing.exit, Exit::Configuration, "{}", missing.err);
    std::fs::write(folder.path().join("boiler-3.oscore"), secret).unwrap();
    let found = tidegate(&["check", "--config", &file]);
    assert_eq!(found.exit, Exit::Well, "{}", found.err);
    assert!(
        !tidegate(&["device", "add", "boiler-3", "--oscore"]).err.contains(secret),
        "another one each time"
    );
}

#[test]
fn commands_that_read_the_store_say_where_they_looked_for_it() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let file = config(folder.path(), &format!("[gateway]\nid = \"site-a\"\ndata_dir = {data:?}\n"));
    for command in [&["dead", "list"][..], &["dead", "export"], &["spool", "list"], &["dead", "requeue", "1"]]
    {
        let answer = tidegate(&[command, &["--config", &file]].concat());
        assert_eq!(answer.exit, Exit::Failure, "{command:?}");
        assert!(
            answer.err.contains("data/tidegate.db") && answer.err.contains("--data-dir"),
            "{}",
            answer.err
        );
        assert!(!data.exists(), "nothing is made");
    }
    for wrong in
        [&["dead", "list", "--since", "yesterday"][..], &["dead", "list", "--topic", "a/#/b"], &["dead"]]
    {
        assert_eq!(tidegate(wrong).exit, Exit::Usage, "{wrong:?}");
    }
}

#[test]
fn a_dictionary_is_trained_on_messages_and_taken_by_the_configuration() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let messages = (0..2_000).map(|n| (format!("sensors/d{}/t", n % 9), format!("{{\"t\":{}.5}}", n % 90)));
    let made = tidegate_tests::batches::dictionary(folder.path(), messages);
    let text = "[upstream.cloud]\nkind = \"amqp\"\n[[route]]\ntopic = \"a\"\nbatch = {}\ncompress = \"zstd\"\n\
                dictionary = \"readings.dict\"\n";
    let file = config(folder.path(), text);
    let answer = tidegate(&["check", "--config", &file]);
    assert_eq!(answer.exit, Exit::Well, "{}", answer.err);
    assert_eq!(answer.err, "");
    // What is there is not written over.
    let before = std::fs::read(&made).unwrap();
    let again = ["dictionary", "--output", made.to_str().unwrap(), &path("messages.jsonl")];
    let answer = tidegate(&again);
    assert_eq!(answer.exit, Exit::Failure);
    assert!(answer.err.contains("cannot be written"), "{}", answer.err);
    assert_eq!(std::fs::read(&made).unwrap(), before);
    // Every format; and too little to train on.
    for format in ["senml", "length-prefixed"] {
        let output = path(format);
        let answer =
            tidegate(&["dictionary", "--format", format, "--output", &output, &path("messages.jsonl")]);
        assert_eq!((answer.exit, answer.out.lines().count()), (Exit::Well, 2), "{}", answer.err);
    }
    std::fs::write(path("few.jsonl"), "no message\n").unwrap();
    let answer = tidegate(&["dictionary", "--output", &path("none"), &path("few.jsonl")]);
    assert_eq!(answer.exit, Exit::Failure);
    assert!(answer.err.contains("passed over") && answer.err.contains("too few"), "{}", answer.err);
    let answer = tidegate(&["dictionary", "--output", &path("none"), &path("no-such-file")]);
    assert!(answer.err.contains("cannot be read"), "{}", answer.err);
}

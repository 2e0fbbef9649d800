//! What the JSON Lines file promises beside the contract.

use crate::contract::Place;
use std::path::PathBuf;
use tempfile::TempDir;
use tidegate::config::{self, UpstreamKind};
use tidegate_engine::event::Outcome;
use tidegate_engine::message::Properties;
use tidegate_tests::publications::{Driven, message, publication};

pub(crate) struct Folder(TempDir);

impl Folder {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("out/messages.jsonl")
    }

    fn lines(&self) -> Vec<serde_json::Value> {
        let text = std::fs::read_to_string(self.path()).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

impl Place for Folder {
    fn kind(&self) -> UpstreamKind {
        UpstreamKind::File(config::File { path: self.path(), max_size: 100 << 20, keep: 3 })
    }

    fn arrived(&mut self, _last: u64) -> Vec<String> {
        self.lines().iter().map(|line| line["payload"].as_str().unwrap().to_owned()).collect()
    }

    fn spoil(&mut self) {
        // A file where its directory should be: the medium is not mounted, so to say. Works for root too.
        let directory = self.path().parent().unwrap().to_owned();
        std::fs::rename(&directory, self.0.path().join("away")).unwrap();
        std::fs::write(directory, "").unwrap();
    }

    fn mend(&mut self) {
        let directory = self.path().parent().unwrap().to_owned();
        std::fs::remove_file(&directory).unwrap();
        std::fs::rename(self.0.path().join("away"), directory).unwrap();
    }
}

#[test]
fn a_line_says_everything_about_its_message() {
    let folder = Folder::new();
    let mut driven = Driven::start(folder.kind());
    driven.expect_up();
    let mut plain = publication(message(41), "sensors.boiler-3.temperature");
    plain.resend = true;
    let mut rich = message(42);
    rich.payload = vec![0xff, 0x00].into();
    rich.received.synchronised = false;
    rich.retain = true;
    rich.properties = Some(Box::new(Properties {
        content_type: Some("application/cbor".into()),
        response_topic: Some("answers/1".into()),
        correlation_data: Some(vec![1, 2, 3].into()),
        expiry_seconds: Some(60),
        user: vec![("a".into(), "1".into()), ("a".into(), "2".into())],
        ..Properties::default()
    }));
    driven.publish(vec![plain, publication(rich, "another.key")]);
    assert_eq!(driven.settled(2), [(41, Outcome::Confirmed), (42, Outcome::Confirmed)]);
    assert_eq!(
        folder.lines(),
        [
            serde_json::json!({
                "id": "site-a/boiler-3/7/41", "device": "boiler-3", "topic": "sensors/boiler-3/temperature",
                "received": 1_700_000_000_123_u64, "clock": "synchronised", "qos": 1,
                "payload": "reading 41", "resend": true,
            }),
            serde_json::json!({
                "id": "site-a/boiler-3/7/42", "device": "boiler-3", "topic": "sensors/boiler-3/temperature",
                "received": 1_700_000_000_123_u64, "clock": "unsynchronised", "qos": 1,
                "payload_base64": "/wA=", "content_type": "application/cbor", "response_topic": "answers/1",
                "correlation_base64": "AQID", "expiry_seconds": 60, "user": [["a", "1"], ["a", "2"]],
                "routing_key": "another.key", "retain": true,
            }),
        ]
    );
}

#[test]
fn a_torn_line_is_cut_off_before_anything_is_written() {
    let folder = Folder::new();
    std::fs::create_dir_all(folder.path().parent().unwrap()).unwrap();
    std::fs::write(folder.path(), "{\"id\":\"whole\"}\n{\"id\":\"to").unwrap();
    let mut driven = Driven::start(folder.kind());
    driven.expect_up();
    driven.publish(vec![publication(message(1), "k")]);
    driven.settled(1);
    let ids: Vec<_> = folder.lines().iter().map(|line| line["id"].as_str().unwrap().to_owned()).collect();
    assert_eq!(ids, ["whole", "site-a/boiler-3/7/1"]);
}

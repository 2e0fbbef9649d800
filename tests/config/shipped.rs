//! The configurations that ship with Tidegate are right, and say what the defaults are.

use super::surroundings;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use tidegate::config::{Config, UpstreamKind, parse};
use tidegate_engine::event::Drain;
use tidegate_engine::event::Packing;
use tidegate_tests::batches::dictionary;
use tidegate_tests::certificates::{Authority, SERVER};

fn shipped(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../config").join(name);
    std::fs::read_to_string(path).unwrap()
}

/// Sets every key that is not set: takes the "#" off every line where no space follows it.
fn uncommented(text: &str) -> String {
    text.lines()
        .map(|line| match line.strip_prefix('#') {
            Some(key) if !key.is_empty() && !key.starts_with(' ') => key,
            _ => line,
        })
        .fold(String::new(), |text, line| text + line + "\n")
}

fn meant(text: &str, folder: &Path) -> Config {
    std::fs::write(folder.join("cloud.password"), "guest\n").unwrap();
    std::fs::create_dir_all(folder.join("devices")).unwrap();
    if !folder.join("server.crt").exists() {
        Authority::new(folder, "ca").issue("server", SERVER);
        let devices = Authority::new(folder, "devices");
        devices.revoke(&[]);
        std::fs::rename(folder.join("devices.crt"), folder.join("devices-ca.crt")).unwrap();
    }
    if text.contains("readings.dict") && !folder.join("readings.dict").exists() {
        let messages = (0..2_000).map(|n| ("readings/a/b".to_owned(), format!("{{\"t\":{}.5}}", n % 90)));
        dictionary(folder, messages);
    }
    std::fs::write(folder.join("boiler-3.oscore"), "000102030405060708090a0b0c0d0e0f\n").unwrap();
    for secret in ["cloud.password", "boiler-3.oscore"] {
        std::fs::set_permissions(folder.join(secret), std::fs::Permissions::from_mode(0o600)).unwrap();
    }
    parse(text, Some(&folder.join("tidegate.toml")), &surroundings())
        .unwrap_or_else(|wrong| panic!("{wrong}"))
}

#[test]
fn the_shipped_configuration_means_the_defaults() {
    let folder = tempfile::tempdir().unwrap();
    let shipped = meant(&shipped("tidegate.toml"), folder.path());
    assert_eq!(shipped, meant("", folder.path()));
    assert_eq!(shipped.warnings, []);
}

#[test]
fn what_the_shipped_configuration_shows_as_a_default_is_one() {
    let folder = tempfile::tempdir().unwrap();
    let all = meant(&uncommented(&shipped("tidegate.toml")), folder.path());
    let least = "[upstream.file]\nkind = \"file\"\n[upstream.cloud]\nkind = \"amqp\"\n\
                 [[route]]\ntopic = \"#\"\nupstream = \"file\"\n";
    let least = meant(least, folder.path());
    // By default a backlog leaves as fast as the upstream takes it.
    let mut upstreams = all.upstreams;
    upstreams.iter_mut().for_each(|upstream| upstream.drain = Drain::default());
    assert_eq!(upstreams, least.upstreams);
    assert_eq!(all.limits, least.limits);
    // Examples stand where the default is nothing.
    assert_eq!(all.mqtt.tls.unwrap().listen, ["127.0.0.1:8883".parse().unwrap()]);
    assert_eq!(all.mqtt.websocket.listen, ["127.0.0.1:8083".parse().unwrap()]);
    assert_eq!(all.mqtt.websocket.tls.unwrap().listen, ["127.0.0.1:8084".parse().unwrap()]);
    assert_eq!(all.mqtt.proxies.len(), 1);
    assert_eq!(all.coap_dtls.unwrap().listen, ["127.0.0.1:5684".parse().unwrap()]);
    assert_eq!(all.coap_multicast, ["lo"]);
    assert_eq!(all.coap_streams.listen, ["127.0.0.1:5683".parse().unwrap()]);
    assert_eq!(all.coap_streams.tls.unwrap().listen, ["127.0.0.1:5684".parse().unwrap()]);
    assert_eq!(all.coap_streams.websocket.listen, ["127.0.0.1:8085".parse().unwrap()]);
    assert_eq!(all.coap_streams.websocket.tls.unwrap().listen, ["127.0.0.1:8086".parse().unwrap()]);
    assert_eq!(all.coap_streams.proxies.len(), 1);
    assert_eq!((all.serial.len(), all.keys.len()), (1, 1));
    let [device] = &all.devices[..] else { panic!("{:?}", all.devices) };
    assert_eq!(device.publish[0].as_str(), "sensors/boiler-3/#");
    assert_eq!(device.subscribe[0].as_str(), "commands/boiler-3/#");
    assert_eq!(all.gateway.as_str(), "site-a");
    assert_eq!(all.data_dir, PathBuf::from("/var/lib/tidegate"));
    let mut routes = all.routes;
    let batches = routes.pop().unwrap();
    let least_batches = "[upstream.cloud]\nkind = \"amqp\"\n[[route]]\ntopic = \"readings\"\nbatch = {}\n";
    let least_batches = meant(least_batches, folder.path()).routes.remove(0);
    assert_eq!(batches.durability, least_batches.durability);
    let packing = (*batches.packing.unwrap()).clone();
    assert!(packing.compression.is_some());
    assert_eq!(Packing { compression: None, ..packing }, *least_batches.packing.unwrap());
    assert_eq!(routes[0].routing_key.take().as_deref(), Some("{topic}"));
    // What a route may take and discard is an example, too.
    routes[0].policy = least.routes[0].policy;
    assert_eq!(routes, least.routes);
}

#[test]
fn the_rabbitmq_example_is_right() {
    let folder = tempfile::tempdir().unwrap();
    let config = meant(&shipped("examples/rabbitmq.toml"), folder.path());
    assert_eq!(config.warnings, []);
    assert!(matches!(&config.upstreams[0].kind, UpstreamKind::Amqp(amqp) if amqp.username == "site-a"));
    assert_eq!(
        config.routes.iter().map(|route| route.name.as_str()).collect::<Vec<_>>(),
        ["alarms", "readings"]
    );
}

#[test]
fn the_examples_of_coap_paths_are_right_and_go_before_the_shipped_ones() {
    let folder = tempfile::tempdir().unwrap();
    let plain = meant("", folder.path()).coap_resources;
    for (name, count) in [("examples/thingsboard.toml", 4), ("examples/coap-any-path.toml", 1)] {
        let config = meant(&shipped(name), folder.path());
        assert_eq!(config.warnings, []);
        let (own, shipped) = config.coap_resources.split_at(count);
        assert_eq!(shipped, plain, "{name}");
        assert!(own.iter().all(|resource| !plain.contains(resource)));
    }
    let none = meant("[coap]\nshipped_resources = false\n", folder.path());
    assert_eq!(none.coap_resources, []);
}

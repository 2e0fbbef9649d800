//! Devices that look for the gateway by multicast (RFC 7252, 8): in a network namespace of the test's own, where no other host
//! hears it, with libcoap's client over IPv4 and IPv6; and bytes on the loopback interface.

use crate::said;
use std::net::UdpSocket;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::Duration;
use tidegate_tests::gateway::{Gateway, binary};
use tidegate_tests::uninterrupted::uninterrupted;
use tidegate_wire::coap::{Code, Header, Kind, Message, OptionNumber, Token, Writer};

/// Makes a network with one interface, runs the gateway `$1` with the configuration `$2` on it, and asks at port `$3`.
const SCRIPT: &str = "
    set -eu
    ip link set lo up
    ip link add field0 type veth peer name field1
    ip address add 192.0.2.1/24 dev field0
    ip -6 address add fd01::1/64 dev field0 nodad
    ip link set field0 up
    ip link set field1 up
    ip route add 224.0.0.0/4 dev field0
    $1 run --config $2 & gateway=$!
    trap 'kill $gateway' EXIT
    ask() { coap-client-notls -v 6 \"$@\" 2>&1 || true; }
    for try in $(seq 300); do ask -B 1 coap://192.0.2.1:$3/ | grep -q 4.01 && break; done
    echo \"v4: $(ask -N -B 6 \"coap://224.0.1.187:$3/.well-known/core?rt=core.ps\")\"
    echo \"link: $(ask -N -B 6 \"coap://[ff02::fd%field0]:$3/.well-known/core?rt=core.ps\")\"
    echo \"site: $(ask -N -B 6 \"coap://[ff05::fd]:$3/.well-known/core?rt=core.ps\")\"
    echo \"unicast: $(ask -B 6 \"coap://192.0.2.1:$3/.well-known/core?rt=core.ps\")\"
    echo \"silent: $(ask -N -B 6 \"coap://224.0.1.187:$3/t/sensors/a/x\")\"
    echo end
";

#[test]
fn devices_find_the_gateway_by_multicast_without_credentials_and_get_nothing_else() {
    let gateway = Gateway::prepare("");
    let folder = gateway.folder();
    let (config, port) = (folder.join("multicast.toml"), gateway.coap.port());
    let secret = folder.join("boiler-3.oscore");
    std::fs::write(&secret, "000102030405060708090a0b0c0d0e0f").unwrap();
    std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(0o600)).unwrap();
    let text = format!(
        "[gateway]\nid = \"test-site\"\ndata_dir = \"data\"\n[mqtt]\nlisten = []\n[admin]\nlisten = \"\"\n\
         [coap]\nlisten = [\"0.0.0.0:{port}\", \"[::]:{port}\"]\nmulticast = [\"field0\"]\n\
         [device.boiler-3]\noscore = {{ device_id = \"5a02\", secret_file = \"boiler-3.oscore\" }}\n"
    );
    std::fs::write(&config, text).unwrap();
    let output = Command::new("unshare")
        .args([
            "--user",
            "--map-root-user",
            "--net",
            "--pid",
            "--fork",
            "--kill-child",
            "sh",
            "-c",
            SCRIPT,
            "sh",
        ])
        .args([binary().as_os_str(), config.as_os_str()])
        .arg(port.to_string())
        .output()
        .expect("unshare is part of util-linux");
    let said = said(&output);
    let part = |name: &str, next: &str| {
        let (_, rest) = said.split_once(name).unwrap_or_else(|| panic!("no {name} in {said}"));
        rest.split_once(next).unwrap_or_else(|| panic!("no {next} in {said}")).0
    };
    for (name, next) in [("v4: ", "link: "), ("link: ", "site: "), ("site: ", "unicast: ")] {
        assert!(part(name, next).contains("</ps>;rt=core.ps"), "{name}{said}");
    }
    assert!(part("unicast: ", "silent: ").contains("c:4.01"), "{said}");
    // Its log shows the question and no answer.
    assert!(!part("silent: ", "end\n").contains(" c:4."), "{said}");
}

#[test]
fn what_comes_to_the_group_is_answered_from_the_listener_and_never_a_con() {
    let mut gateway = Gateway::prepare("");
    let file = gateway.folder().join("tidegate.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replace("[coap]\n", "[coap]\nmulticast = [\"lo\"]\n")).unwrap();
    gateway.start_again();
    let device = UdpSocket::bind("127.0.0.1:0").unwrap();
    // Longer than an answer to a group waits (RFC 7252, 8.2).
    device.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let ask = |kind, id, path: [&str; 2]| {
        let mut buffer = [0; 64];
        let header = Header { kind, code: Code::GET, message_id: id };
        let mut writer = Writer::new(&mut buffer, header, Token::new(&[u8::try_from(id).unwrap()]).unwrap());
        for segment in path {
            writer = writer.option(OptionNumber::URI_PATH, segment.as_bytes());
        }
        device.send_to(writer.finish().unwrap(), ("224.0.1.187", gateway.coap.port())).unwrap();
    };
    let mut buffer = [0; 1_500];
    // Nothing repeats a NON to a group, and the first may be lost: so it is asked again, as devices do.
    let answered = (0..6).find_map(|round| {
        // Had the first two an answer it would come before that of the last one: refusals do not wait.
        ask(Kind::Confirmable, 3 * round + 1, [".well-known", "core"]);
        ask(Kind::NonConfirmable, 3 * round + 2, ["t", "nothing"]);
        ask(Kind::NonConfirmable, 3 * round + 3, [".well-known", "core"]);
        uninterrupted(|| device.recv_from(&mut buffer)).ok()
    });
    let (count, from) = answered.expect("an answer");
    let answer = Message::parse(&buffer[..count]).unwrap();
    assert_eq!((answer.kind(), answer.code(), from), (Kind::NonConfirmable, Code::CONTENT, gateway.coap));
    assert_eq!(answer.token().as_bytes().first().map(|id| id % 3), Some(0), "{answer:?}");
}

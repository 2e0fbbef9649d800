//! MQTT over WebSocket, with a client library that knows nothing of us.

use crate::tls::{BOTH, Secured, gateway as gateway_with_tls, secured};
use crate::{SOON, arrived, closed, connect, greeted, logged, publish, somewhere, tcp};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use tidegate_tests::gateway::Gateway;
use tidegate_tests::uninterrupted::Uninterrupted;
use tungstenite::client::IntoClientRequest;
use tungstenite::handshake::HandshakeError;
use tungstenite::protocol::frame::coding::CloseCode;
use tungstenite::protocol::frame::{Frame, coding::Data, coding::OpCode};
use tungstenite::{Error, Message, WebSocket};

fn gateway(rest: &str) -> (Gateway, SocketAddr) {
    let mut gateway = Gateway::prepare("");
    let address = somewhere();
    gateway.configure(&format!("[mqtt.websocket]\nlisten = [\"{address}\"]\n{rest}"));
    gateway.start_again();
    (gateway, address)
}

fn upgraded<S: Read + Write>(stream: S, headers: &[(&'static str, &str)]) -> Result<WebSocket<S>, u16> {
    let mut request = "ws://127.0.0.1:8083/mqtt".into_client_request().unwrap();
    for (name, value) in headers {
        request.headers_mut().insert(*name, value.parse().unwrap());
    }
    match tungstenite::client(request, stream) {
        Ok((socket, answer)) => {
            assert_eq!(answer.headers()["Sec-WebSocket-Protocol"], headers[0].1);
            Ok(socket)
        }
        Err(HandshakeError::Failure(Error::Http(answer))) => Err(answer.status().as_u16()),
        Err(error) => panic!("{error}"),
    }
}

const MQTT: (&str, &str) = ("Sec-WebSocket-Protocol", "mqtt");

fn open(address: SocketAddr) -> WebSocket<Uninterrupted<TcpStream>> {
    upgraded(tcp(address), &[MQTT]).unwrap()
}

fn binary<S: Read + Write>(socket: &mut WebSocket<S>) -> Vec<u8> {
    loop {
        match socket.read().unwrap() {
            Message::Binary(bytes) => return bytes.to_vec(),
            Message::Pong(_) => {}
            other => panic!("{other:?}"),
        }
    }
}

fn talks<S: Read + Write>(socket: &mut WebSocket<S>, id: &str) {
    socket.send(Message::binary(connect(id))).unwrap();
    assert_eq!(binary(socket), [0x20, 2, 0, 0]);
    socket.send(Message::binary(publish("sensors/boiler-3/temperature", 7))).unwrap();
    assert_eq!(binary(socket), [0x40, 2, 0, 7]);
}

#[test]
fn devices_publish_over_websocket_and_secure_websocket() {
    let secure = somewhere();
    let rest = format!("[mqtt.websocket.tls]\nlisten = [\"{secure}\"]\n");
    let (gateway, _, _) = gateway_with_tls(&rest, |_| {});
    let socket: Secured = secured(secure, gateway.folder(), BOTH, None).unwrap();
    talks(&mut upgraded(socket, &[MQTT]).unwrap(), "secure");
    arrived(&gateway, 1);

    let (gateway, address) = self::gateway("");
    talks(&mut open(address), "plain");
    talks(&mut upgraded(tcp(address), &[("Sec-WebSocket-Protocol", "mqttv3.1")]).unwrap(), "old");
    arrived(&gateway, 2);
}

#[test]
fn packets_span_frames_and_frames_hold_packets() {
    let (gateway, address) = gateway("");
    let mut socket = open(address);
    // A message of fragments, a byte each, with pings between [MQTT-6.0.0-2].
    let packet = connect("spanning");
    for (at, byte) in packet.iter().enumerate() {
        let opcode = if at == 0 { OpCode::Data(Data::Binary) } else { OpCode::Data(Data::Continue) };
        socket.send(Message::Frame(Frame::message(vec![*byte], opcode, at + 1 == packet.len()))).unwrap();
        socket.send(Message::Ping(vec![at as u8].into())).unwrap();
    }
    assert_eq!(binary(&mut socket), [0x20, 2, 0, 0]);
    // Many packets in one frame, an empty frame, and one packet that is larger than what is read at once.
    let many: Vec<u8> = (1..=20).flat_map(|packet| publish("sensors/many", packet)).collect();
    socket.send(Message::binary(many)).unwrap();
    socket.send(Message::binary(Vec::new())).unwrap();
    let mut acknowledged = Vec::new();
    while acknowledged.len() < 20 * 4 {
        acknowledged.extend(binary(&mut socket));
    }
    let expected: Vec<u8> = (1..=20).flat_map(|packet| [0x40, 2, 0, packet]).collect();
    assert_eq!(acknowledged, expected);
    let payload = vec![b'x'; 100_000];
    let body = [&[0, 12][..], b"sensors/huge", &[0, 21], &payload].concat();
    let length = [body.len() as u8 | 0x80, (body.len() >> 7) as u8 | 0x80, (body.len() >> 14) as u8];
    socket.send(Message::binary([&[0x32][..], &length, &body].concat())).unwrap();
    assert_eq!(binary(&mut socket), [0x40, 2, 0, 21]);
    arrived(&gateway, 21);
}

#[test]
fn a_subscriber_gets_more_than_the_socket_takes_at_once() {
    let (_gateway, address) = gateway("");
    let mut subscriber = open(address);
    subscriber.send(Message::binary(connect("subscriber"))).unwrap();
    assert_eq!(binary(&mut subscriber), [0x20, 2, 0, 0]);
    subscriber.send(Message::binary([&[0x82, 14, 0, 1, 0, 9][..], b"sensors/#", &[0]].concat())).unwrap();
    assert_eq!(binary(&mut subscriber), [0x90, 3, 0, 1, 0]);
    let mut publisher = open(address);
    publisher.send(Message::binary(connect("publisher"))).unwrap();
    assert_eq!(binary(&mut publisher), [0x20, 2, 0, 0]);
    let mut wanted = 0;
    for number in 0..40_u8 {
        let body = [&[0, 9][..], b"sensors/a", &vec![number; 16_000]].concat();
        let packet = [&[0x30, body.len() as u8 | 0x80, (body.len() >> 7) as u8 & 0x7f][..], &body].concat();
        wanted += packet.len();
        publisher.send(Message::binary(packet)).unwrap();
        // Pings in the midst of it must not tear a frame.
        subscriber.send(Message::Ping(vec![number; 100].into())).unwrap();
    }
    let mut stream = Vec::new();
    while stream.len() < wanted {
        stream.extend(binary(&mut subscriber));
    }
    let mut numbers: Vec<u8> = stream.chunks(wanted / 40).map(|packet| *packet.last().unwrap()).collect();
    numbers.dedup();
    assert_eq!(numbers, (0..40).collect::<Vec<_>>());
}

#[test]
fn pings_are_answered_and_a_close_is_returned() {
    let (_gateway, address) = gateway("");
    let mut socket = open(address);
    // Before the first MQTT packet as well as after.
    socket.send(Message::Ping(b"first".to_vec().into())).unwrap();
    assert_eq!(socket.read().unwrap(), Message::Pong(b"first".to_vec().into()));
    talks(&mut socket, "pinging");
    socket.send(Message::Ping(Vec::new().into())).unwrap();
    assert_eq!(socket.read().unwrap(), Message::Pong(Vec::new().into()));
    socket.close(None).unwrap();
    let ended = loop {
        match socket.read() {
            Ok(Message::Close(frame)) => assert_eq!(frame.unwrap().code, CloseCode::Normal),
            Ok(other) => panic!("{other:?}"),
            Err(error) => break error,
        }
    };
    assert!(matches!(ended, Error::ConnectionClosed), "{ended}");
}

#[test]
fn the_gateway_closes_with_a_closing_handshake() {
    let (_gateway, address) = gateway("");
    let mut socket = open(address);
    talks(&mut socket, "twice");
    socket.send(Message::binary(connect("twice"))).unwrap(); // [MQTT-3.1.0-2]
    match socket.read().unwrap() {
        Message::Close(Some(frame)) => assert_eq!(frame.code, CloseCode::Normal),
        other => panic!("{other:?}"),
    }
}

#[test]
fn text_and_what_breaks_the_protocol_closes_with_its_code() {
    let (_gateway, address) = gateway("");
    // Frames as they stand on the wire, masked with zeros where they are masked.
    let frames: [(&str, &[u8], u16); 9] = [
        ("text [MQTT-6.0.0-1]", &[0x81, 0x82, 0, 0, 0, 0, b'h', b'i'], 1_003),
        ("no mask", &[0x82, 0x02, 0x10, 0x0c], 1_002),
        ("a reserved bit", &[0xc2, 0x80, 0, 0, 0, 0], 1_002),
        ("a reserved opcode", &[0x83, 0x80, 0, 0, 0, 0], 1_002),
        ("a continuation of nothing", &[0x80, 0x80, 0, 0, 0, 0], 1_002),
        ("a message inside another", &[0x02, 0x80, 0, 0, 0, 0, 0x82, 0x80, 0, 0, 0, 0], 1_002),
        ("a ping in two", &[0x09, 0x80, 0, 0, 0, 0], 1_002),
        ("a ping of 126 bytes", &[0x89, 0xfe, 0, 126, 0, 0, 0, 0], 1_002),
        ("a frame of 2^62 bytes", &[0x82, 0xff, 0x40, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], 1_009),
    ];
    for (what, bytes, code) in frames {
        let mut socket = open(address);
        socket.get_mut().write_all(bytes).unwrap();
        match socket.read() {
            Ok(Message::Close(Some(frame))) => assert_eq!(u16::from(frame.code), code, "{what}"),
            other => panic!("{what}: {other:?}"),
        }
    }
}

#[test]
fn what_is_no_websocket_client_of_mqtt_is_refused_in_the_words_of_http() {
    let (gateway, address) = gateway("origins = [\"https://dashboard.example\"]\n");
    let agent = ("User-Agent", "Mozilla/5.0");
    let upgraded = |headers: &[_]| upgraded(tcp(address), headers).map(drop);
    assert_eq!(upgraded(&[("Sec-WebSocket-Protocol", "chat")]), Err(400));
    assert_eq!(upgraded(&[MQTT, ("Origin", "http://evil.example"), agent]), Err(403));
    assert_eq!(upgraded(&[MQTT, ("Origin", "https://dashboard.example"), agent]), Ok(()));
    assert_eq!(upgraded(&[MQTT, ("Origin", "http://127.0.0.1:8080"), agent]), Ok(()));
    // A program that sends an origin, as paho does.
    assert_eq!(upgraded(&[MQTT, ("Origin", "http://gateway.lan:8083")]), Ok(()));
    let mut stream = tcp(address);
    stream.write_all(&connect("plain")).unwrap();
    stream.write_all(b"\r\n\r\n").unwrap();
    let mut answer = String::new();
    let _ = stream.read_to_string(&mut answer);
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    logged(&gateway, "mqtt.websocket.origins");
}

#[test]
fn a_stalled_request_is_closed_in_time() {
    let (gateway, address) = gateway("[limits]\nhandshake_timeout = \"300 ms\"\n");
    let mut stream = tcp(address);
    stream.write_all(b"GET /mqtt HTTP/1.1\r\nHost: x\r\n").unwrap();
    assert!(closed(&mut stream));
    logged(&gateway, "limits.handshake_timeout");
}

#[test]
fn a_stalled_publish_is_closed_and_nothing_of_it_is_stored() {
    let (gateway, address) = gateway("");
    let mut socket = open(address);
    // Keep-alive of one second: after one and a half the gateway gives up (attack M04; NanoMQ CVE-2026-25627).
    let mut hello = connect("stalling");
    let keep_alive = hello.windows(2).position(|bytes| bytes == [0, 60]).unwrap();
    hello[keep_alive + 1] = 1;
    socket.send(Message::binary(hello)).unwrap();
    assert_eq!(binary(&mut socket), [0x20, 2, 0, 0]);
    // A PUBLISH of 4096 bytes in one frame, of which three arrive.
    let head = [0x82, 0xfe, 0x10, 0x03, 0, 0, 0, 0, 0x32, 0x80, 0x20, 0, 9, b's'];
    socket.get_mut().write_all(&head).unwrap();
    socket.get_mut().set_read_timeout(Some(SOON)).unwrap();
    match socket.read() {
        Ok(Message::Close(_)) | Err(_) => {}
        other => panic!("{other:?}"),
    }
    assert_eq!(gateway.upstream_lines().len(), 0);
    let mut neighbour = tcp(gateway.mqtt);
    assert_eq!(greeted(&mut neighbour, "neighbour").unwrap(), 0);
}

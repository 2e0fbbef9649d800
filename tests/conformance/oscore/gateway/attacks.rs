//! What somebody on the way can do with what he has recorded, and what devices with poor memories bring about.

use super::{BUFFER, Client, Gateway, TOPIC, at, context, parameters, publish, setup, view};
use std::sync::Arc;
use tidegate_engine::event::{DeviceSetup, Input, Output};
use tidegate_engine::id::DeviceId;
use tidegate_oscore::{Context, Observation, Parameters, Replay, Sequence, Session};
use tidegate_wire::coap::{Code, Kind, OptionNumber};

fn reload(gateway: &mut Gateway, change: impl FnOnce(&mut tidegate_engine::event::Setup)) {
    let mut changed = setup(1);
    change(&mut changed);
    gateway.engine.handle(at(gateway.now), Input::Reload(Box::new(changed)));
    gateway.run();
}

#[test]
fn a_context_that_was_taken_away_and_given_back_takes_nothing_that_it_has_taken_before() {
    let (mut client, mut gateway) = (Client::new(), Gateway::new());
    let (sealed, exchange) = client.request(Code::POST, 1, &TOPIC, b"open");
    let answers = gateway.datagram(5_000, &sealed);
    let challenge = client.open(&exchange, None, &answers[0]);
    client.echo = view(&challenge).option(OptionNumber::ECHO).map(<[u8]>::to_vec);
    let (recorded, _) = client.request(Code::POST, 1, &TOPIC, b"open");
    gateway.datagram(5_000, &recorded);
    assert_eq!(gateway.payloads(), [b"open"]);
    // The device is taken out for a while, or called something else.
    reload(&mut gateway, |setup| setup.devices.clear());
    reload(&mut gateway, |_| {});
    gateway.datagram(6_000, &recorded);
    reload(&mut gateway, |setup| setup.devices[0].id = DeviceId::new("boiler-9").unwrap());
    gateway.datagram(6_000, &recorded);
    assert_eq!(gateway.payloads(), [b"open"], "it was recorded on the way");
}

#[test]
fn what_answers_a_request_is_bound_to_no_other_one_with_its_token() {
    let (mut client, mut gateway) = (Client::new(), Gateway::new());
    client.ask(&mut gateway, Code::POST, 9, &TOPIC, b"0", None);
    let (first, first_exchange) = client.request(Code::POST, 9, &TOPIC, b"1");
    let (second, second_exchange) = client.request(Code::POST, 9, &TOPIC, b"2");
    let mut batches = Vec::new();
    let mut answers = Vec::new();
    for (datagram, commits) in [(Some(first), 0), (Some(second), 0), (None, 1)] {
        if let Some(bytes) = datagram {
            let via = tidegate_engine::event::Via::Open;
            let input = Input::Datagram { endpoint: super::endpoint(5_000), via, bytes: bytes.into() };
            gateway.engine.handle(at(gateway.now), input);
        }
        for batch in batches.drain(..commits) {
            gateway.engine.handle(at(gateway.now), Input::Committed { batch });
        }
        while let Some(output) = gateway.engine.poll_output() {
            match output {
                Output::Commit(batch) => batches.push(batch.id),
                Output::SendTo { bytes, .. } => answers.push(bytes),
                _ => {}
            }
        }
    }
    let [answer] = &answers[..] else { panic!("the first is safe, the second is not: {answers:?}") };
    let mut buffer = [0; BUFFER];
    let session = &client.session;
    assert!(session.open_response(&first_exchange, None, &view(answer), &mut buffer).is_ok());
    // Its message id stands outside, where anybody can write another.
    assert!(session.open_response(&second_exchange, None, &view(answer), &mut buffer).is_err());
}

#[test]
fn devices_that_share_an_id_do_not_use_up_each_others_numbers() {
    let mut gateway = Gateway::new();
    let of = |own: &[u8], other: &[u8]| {
        let (secret, salt) = parameters();
        let parameters = Parameters {
            master_secret: &secret,
            master_salt: &salt,
            id_context: Some(b"other"),
            sender_id: own,
            recipient_id: other,
        };
        Context::derive(&parameters).unwrap()
    };
    reload(&mut gateway, |setup| {
        let other = DeviceSetup {
            id: DeviceId::new("aaa").unwrap(),
            oscore: Some(Arc::new(of(&[1], &[0x5A]))),
            ..setup.devices[0].clone()
        };
        setup.devices.insert(0, other);
    });
    let mut other = Client::new();
    other.session = Session::new(of(&[0x5A], &[1]), Sequence::reserved(0, 100), Replay::fresh());
    for _ in 0..5 {
        other.ask(&mut gateway, Code::POST, 1, &TOPIC, b"x", None);
    }
    let mut client = Client::new();
    let (answer, _) = client.ask(&mut gateway, Code::POST, 1, &TOPIC, b"mine", None);
    assert_eq!(view(&answer).code(), Code::CHANGED);
}

#[test]
fn what_is_too_long_to_be_read_is_told_so_and_not_that_it_is_forged() {
    let (mut device, mut gateway) = (super::device(), Gateway::new());
    publish(&mut device, &mut gateway, b"1");
    let mut client = Client::new();
    client.session = Session::new(context(&[0x5A], &[1]), Sequence::reserved(50, 100), Replay::fresh());
    let (mut sealed, _) = client.request(Code::POST, 1, &TOPIC, &[7; 1_500]);
    sealed.truncate(1_281);
    let answers = gateway.datagram(5_000, &sealed);
    assert_eq!(view(&answers[0]).code(), Code::REQUEST_ENTITY_TOO_LARGE);
}

#[test]
fn answers_that_were_kept_for_others_once_take_nobodys_room_for_ever() {
    const DEVICES: u16 = 300;
    let mut gateway = Gateway::new();
    let of = |number: u16, own: &[u8], other: &[u8]| {
        let (secret, salt) = parameters();
        let id_context = number.to_be_bytes();
        let parameters = Parameters {
            master_secret: &secret,
            master_salt: &salt,
            id_context: Some(&id_context),
            sender_id: own,
            recipient_id: other,
        };
        Context::derive(&parameters).unwrap()
    };
    let id = |number: u16| [&[0x60][..], &number.to_be_bytes()].concat();
    reload(&mut gateway, |setup| {
        let first = setup.devices[0].clone();
        setup.devices.extend((0..DEVICES).map(|number| DeviceSetup {
            id: DeviceId::new(&format!("d{number}")).unwrap(),
            oscore: Some(Arc::new(of(number, &[1], &id(number)))),
            ..first.clone()
        }));
    });
    let mut retained = TOPIC.to_vec();
    retained.push((15, b"retain=1"));
    Client::new().ask(&mut gateway, Code::POST, 1, &retained, &[7; 1_000], None);
    for number in 0..DEVICES {
        let mut client = Client::new();
        client.session =
            Session::new(of(number, &id(number), &[1]), Sequence::reserved(0, 100), Replay::fresh());
        for token in 0..20 {
            client.ask(&mut gateway, Code::GET, token, &TOPIC, b"", None);
        }
    }
    gateway.now += 300_000_000;
    let mut client = Client::new();
    client.session = Session::new(context(&[0x5A], &[1]), Sequence::reserved(50, 100), Replay::fresh());
    let (sealed, _) = client.request(Code::GET, 1, &TOPIC, b"");
    let first = gateway.datagram(5_001, &sealed);
    assert_eq!(first.len(), 1);
    assert_eq!(gateway.datagram(5_001, &sealed), first, "its ACK was lost");
}

#[test]
fn requests_that_were_recorded_use_up_neither_numbers_nor_the_medium() {
    let (mut client, mut gateway) = (Client::new(), Gateway::new());
    let recorded: Vec<_> = (0..40).map(|_| client.request(Code::POST, 1, &TOPIC, b"open").0).collect();
    gateway.restart();
    let before = gateway.puts;
    for round in 0..2_000 {
        let mut copy = recorded[round % 10].clone();
        // Under any message id.
        copy[2..4].copy_from_slice(&u16::try_from(round).unwrap().to_be_bytes());
        assert!(
            gateway.datagram(6_000, &copy).iter().all(|answer| view(answer).message_id() == round as u16)
        );
    }
    let answered: usize = (0..2_000).map(|round| gateway.datagram(6_000, &recorded[round % 40]).len()).sum();
    assert!(gateway.puts - before <= 1, "{}", gateway.puts - before);
    assert!(answered >= 500, "{answered}: those that are kept are answered still");
    // The device gets in meanwhile.
    gateway.now += 1_000_000;
    let (answer, _) = client.ask(&mut gateway, Code::POST, 1, &TOPIC, b"mine", None);
    assert_eq!(view(&answer).code(), Code::CHANGED);
    assert_eq!(gateway.payloads(), [b"mine"]);
}

#[test]
fn a_device_that_asks_from_many_ports_is_still_heard_at_the_one_where_it_observes() {
    let (mut client, mut gateway) = (Client::new(), Gateway::new());
    let mut observation = Observation::default();
    let mut options = vec![(6, &b""[..])];
    options.extend(TOPIC);
    client.ask(&mut gateway, Code::GET, 1, &options, b"", Some(&mut observation));
    for port in 7_000..7_010 {
        let (sealed, _) = client.request(Code::GET, 3, &TOPIC, b"");
        gateway.datagram(port, &sealed);
    }
    let (sealed, _) = client.request(Code::POST, 2, &TOPIC, b"1");
    let mut sent = gateway.datagram(7_000, &sealed);
    sent.extend(std::mem::take(&mut gateway.sent).into_iter().map(|(_, bytes)| bytes));
    let notification = sent.iter().find(|bytes| view(bytes).kind() == Kind::Confirmable).unwrap();
    gateway.datagram(5_000, &super::empty(Kind::Acknowledgement, view(notification).message_id()));
    for _ in 0..200 {
        gateway.now += 1_000_000;
        gateway.engine.handle(at(gateway.now), Input::Tick);
        gateway.run();
        assert!(gateway.sent.iter().all(|(endpoint, _)| endpoint.peer.port() != 5_000), "it goes again");
        gateway.sent.clear();
    }
    assert_eq!(gateway.engine.stats().coap.subscriptions, 1);
}

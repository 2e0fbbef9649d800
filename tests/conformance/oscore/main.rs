//! OSCORE (RFC 8613) as the device and the gateway share it: the standard's own messages, both roles against each
//! other, and what an attacker on the way can do. Contexts, messages and buffers come from here.

#![expect(clippy::unwrap_used, clippy::panic, reason = "in a test a panic is a finding")]

mod device;
mod gateway;
mod hostile;
mod roles;
mod state;
mod vectors;

use tidegate_oscore::{Context, Exchange, Opened, Parameters, Replay, Sequence, Session};
use tidegate_wire::coap::{Code, Header, Kind, Message, OptionNumber, Token, Writer};

/// Long enough for everything here.
const BUFFER: usize = 2_048;

fn hex(digits: &str) -> Vec<u8> {
    let digits: Vec<u8> = digits.chars().map(|c| u8::try_from(c.to_digit(16).unwrap()).unwrap()).collect();
    digits.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}

/// The parameters of C.1 on the client's side.
fn parameters() -> (Vec<u8>, Vec<u8>) {
    (hex("0102030405060708090a0b0c0d0e0f10"), hex("9e7ca92223786340"))
}

fn session(sender: &[u8], recipient: &[u8], sequence: Sequence, replay: Replay) -> Session {
    let (secret, salt) = parameters();
    let parameters = Parameters {
        master_secret: &secret,
        master_salt: &salt,
        id_context: None,
        sender_id: sender,
        recipient_id: recipient,
    };
    Session::new(Context::derive(&parameters).unwrap(), sequence, replay)
}

fn client() -> Session {
    session(&[], &[1], Sequence::reserved(0, 1_000), Replay::fresh())
}

fn server() -> Session {
    session(&[1], &[], Sequence::reserved(0, 1_000), Replay::fresh())
}

fn message(code: Code, options: &[(u16, &[u8])], payload: &[u8]) -> Vec<u8> {
    let kind = if code.is_request() { Kind::Confirmable } else { Kind::Acknowledgement };
    let header = Header { kind, code, message_id: 0x1234 };
    let mut buffer = [0; BUFFER];
    let mut writer = Writer::new(&mut buffer, header, Token::new(&[9, 8, 7]).unwrap());
    for (number, value) in options {
        writer = writer.option(OptionNumber(*number), value);
    }
    writer.payload(payload).finish().unwrap().to_vec()
}

fn view(datagram: &[u8]) -> Message<'_> {
    Message::parse(datagram).unwrap()
}

/// A protected request.
fn ask(client: &mut Session, plain: &[u8]) -> (Vec<u8>, Exchange) {
    let mut buffer = [0; BUFFER];
    let (sealed, exchange) = client.protect_request(&view(plain), &mut buffer).unwrap();
    (sealed.to_vec(), exchange)
}

/// An opened request that must be taken.
fn take(server: &mut Session, sealed: &[u8]) -> (Vec<u8>, Exchange) {
    let mut buffer = [0; BUFFER];
    match server.open_request(&view(sealed), &mut buffer) {
        Ok(Opened::Request { datagram, exchange }) => (datagram.to_vec(), exchange),
        other => panic!("not taken: {other:?}"),
    }
}

/// A protected response.
fn answer(server: &mut Session, exchange: &mut Exchange, plain: &[u8]) -> Vec<u8> {
    let mut buffer = [0; BUFFER];
    server.protect_response(exchange, &view(plain), &mut buffer).unwrap().to_vec()
}

//! The CoAP codec against the bytes of the RFCs, random messages, random bytes, and coap-lite in both directions.
//! Owns no behaviour of a server: one message at a time.
#![allow(clippy::unwrap_used, clippy::panic, reason = "in a test a panic is a finding")]

use coap_lite::{CoapOption, MessageClass, MessageType, Packet};
use proptest::collection::vec;
use proptest::prelude::{Just, Strategy, any, prop_oneof, proptest};
use tidegate_tests::property::property;
use tidegate_wire::coap::{
    Block, Code, Fault, Header, Kind, Message, OptionNumber, ParseError, Token, WriteError, Writer, content,
    uint,
};

/// A message as a test wants it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Wanted {
    header: Header,
    token: Vec<u8>,
    options: Vec<(u16, Vec<u8>)>,
    payload: Vec<u8>,
}

impl Wanted {
    fn new(kind: Kind, code: Code, message_id: u16) -> Self {
        Self { header: Header { kind, code, message_id }, token: vec![], options: vec![], payload: vec![] }
    }

    fn option(mut self, number: OptionNumber, value: &[u8]) -> Self {
        self.options.push((number.0, value.to_vec()));
        self
    }

    fn token(self, token: &[u8]) -> Self {
        Self { token: token.to_vec(), ..self }
    }

    fn payload(self, payload: &[u8]) -> Self {
        Self { payload: payload.to_vec(), ..self }
    }

    fn write<'b>(&self, buffer: &'b mut [u8]) -> Result<&'b [u8], WriteError> {
        let mut writer = Writer::new(buffer, self.header, Token::new(&self.token).unwrap());
        for (number, value) in &self.options {
            writer = writer.option(OptionNumber(*number), value);
        }
        writer.payload(&self.payload).finish()
    }

    fn bytes(&self) -> Vec<u8> {
        let room =
            16 + self.payload.len() + self.options.iter().map(|(_, value)| 5 + value.len()).sum::<usize>();
        self.write(&mut vec![0; room]).unwrap().to_vec()
    }

    fn read(bytes: &[u8]) -> Result<Self, ParseError> {
        let message = Message::parse(bytes)?;
        Ok(Self {
            header: message.header(),
            token: message.token().as_bytes().to_vec(),
            options: message.options().map(|option| (option.number.0, option.value.to_vec())).collect(),
            payload: message.payload().to_vec(),
        })
    }

    fn by_coap_lite(&self) -> Vec<u8> {
        let mut packet = Packet::new();
        packet.header.set_type(match self.header.kind {
            Kind::Confirmable => MessageType::Confirmable,
            Kind::NonConfirmable => MessageType::NonConfirmable,
            Kind::Acknowledgement => MessageType::Acknowledgement,
            Kind::Reset => MessageType::Reset,
        });
        packet.header.code = MessageClass::from(self.header.code.0);
        packet.header.message_id = self.header.message_id;
        packet.set_token(self.token.clone());
        for (number, value) in &self.options {
            packet.add_option(CoapOption::from(*number), value.clone());
        }
        packet.payload = self.payload.clone();
        packet.to_bytes_unlimited().unwrap()
    }
}

impl From<Packet> for Wanted {
    fn from(packet: Packet) -> Self {
        let kind = match packet.header.get_type() {
            MessageType::Confirmable => Kind::Confirmable,
            MessageType::NonConfirmable => Kind::NonConfirmable,
            MessageType::Acknowledgement => Kind::Acknowledgement,
            MessageType::Reset => Kind::Reset,
        };
        let options = packet.options();
        Self {
            header: Header {
                kind,
                code: Code(packet.header.code.into()),
                message_id: packet.header.message_id,
            },
            token: packet.get_token().to_vec(),
            options: options
                .flat_map(|(number, values)| values.iter().map(|value| (*number, value.clone())))
                .collect(),
            payload: packet.payload.clone(),
        }
    }
}

fn golden(wanted: &Wanted, bytes: &[u8]) {
    assert_eq!(wanted.bytes(), bytes);
    assert_eq!(Wanted::read(bytes).as_ref(), Ok(wanted));
}

// --------------------------------------------------------------------------------- bytes from the RFCs

#[test]
fn the_examples_of_rfc_7252_appendix_a() {
    // Figure 16: Confirmable request, piggy-backed response.
    let request =
        Wanted::new(Kind::Confirmable, Code::GET, 0x7D34).option(OptionNumber::URI_PATH, b"temperature");
    golden(&request, b"\x40\x01\x7d\x34\xbbtemperature");
    let response = Wanted::new(Kind::Acknowledgement, Code::CONTENT, 0x7D34).payload(b"22.3 C");
    golden(&response, b"\x60\x45\x7d\x34\xff22.3 C");
    // Figure 17: the same with a token.
    let request = Wanted::new(Kind::Confirmable, Code::GET, 0x7D35)
        .token(&[0x20])
        .option(OptionNumber::URI_PATH, b"temperature");
    golden(&request, b"\x41\x01\x7d\x35\x20\xbbtemperature");
    let response =
        Wanted::new(Kind::Acknowledgement, Code::CONTENT, 0x7D35).token(&[0x20]).payload(b"22.3 C");
    golden(&response, b"\x61\x45\x7d\x35\x20\xff22.3 C");
    // Figure 20: the empty acknowledgement before a separate response; and a reset for that response.
    golden(&Wanted::new(Kind::Acknowledgement, Code::EMPTY, 0x7D38), b"\x60\x00\x7d\x38");
    golden(&Wanted::new(Kind::Reset, Code::EMPTY, 0xAD7B), b"\x70\x00\xad\x7b");
}

#[test]
fn the_messages_of_rfc_8613_appendix_c() {
    // C.4: before and after protection; C.7: the response.
    let token = [0, 0, 0x39, 0x74];
    let unprotected = Wanted::new(Kind::Confirmable, Code::GET, 0x5D1F)
        .token(&token)
        .option(OptionNumber::URI_HOST, b"localhost")
        .option(OptionNumber::URI_PATH, b"tv1");
    golden(&unprotected, b"\x44\x01\x5d\x1f\x00\x00\x39\x74\x39localhost\x83tv1");
    let protected = Wanted::new(Kind::Confirmable, Code::POST, 0x5D1F)
        .token(&token)
        .option(OptionNumber::URI_HOST, b"localhost")
        .option(OptionNumber::OSCORE, b"\x09\x14")
        .payload(b"\x61\x2f\x10\x92\xf1\x77\x6f\x1c\x16\x68\xb3\x82\x5e");
    golden(
        &protected,
        b"\x44\x02\x5d\x1f\x00\x00\x39\x74\x39localhost\x62\x09\x14\xff\x61\x2f\x10\x92\xf1\x77\x6f\x1c\x16\x68\xb3\x82\x5e",
    );
    let response =
        Wanted::new(Kind::Acknowledgement, Code::CONTENT, 0x5D1F).token(&token).payload(b"Hello World!");
    golden(&response, b"\x64\x45\x5d\x1f\x00\x00\x39\x74\xffHello World!");
}

#[test]
fn deltas_and_lengths_are_extended_at_13_and_269() {
    for (number, value_bytes, header) in [
        (12_u16, 12, &b"\xcc"[..]),
        (13, 0, b"\xd0\x00"),
        (268, 13, b"\xdd\xff\x00"),
        (269, 268, b"\xed\x00\x00\xff"),
        (292, 269, b"\xee\x00\x17\x00\x00"),
        (65_535, 1, b"\xe1\xfe\xf2"),
    ] {
        let wanted = Wanted::new(Kind::Confirmable, Code::GET, 1)
            .option(OptionNumber(number), &vec![b'x'; value_bytes]);
        let bytes = wanted.bytes();
        assert_eq!(&bytes[4..4 + header.len()], header, "option {number}");
        assert_eq!(Wanted::read(&bytes), Ok(wanted));
    }
    // The longest value that the encoding can say.
    let longest = Wanted::new(Kind::Confirmable, Code::GET, 1).option(OptionNumber(1), &vec![0; 65_804]);
    assert_eq!(Wanted::read(&longest.bytes()), Ok(longest));
    let longer = Wanted::new(Kind::Confirmable, Code::GET, 1).option(OptionNumber(1), &vec![0; 65_805]);
    assert_eq!(longer.write(&mut vec![0; 70_000]), Err(WriteError::ValueTooLong));
}

#[test]
fn numbers_take_as_few_bytes_as_they_need_and_are_read_with_zeros_before_them() {
    for (number, value) in
        [(0, &b""[..]), (1, b"\x01"), (255, b"\xff"), (256, b"\x01\x00"), (u32::MAX, b"\xff\xff\xff\xff")]
    {
        let mut buffer = [0; 16];
        let header = Header { kind: Kind::Confirmable, code: Code::GET, message_id: 1 };
        let bytes = Writer::new(&mut buffer, header, Token::EMPTY)
            .uint(OptionNumber::MAX_AGE, number)
            .finish()
            .unwrap();
        let message = Message::parse(bytes).unwrap();
        assert_eq!(message.option(OptionNumber::MAX_AGE), Some(value));
        assert_eq!(message.option_uint(OptionNumber::MAX_AGE), Some(number));
    }
    assert_eq!(uint(b"\x00\x00\x07"), Some(7));
    assert_eq!(uint(b"\x00\x00\x00\x00\x07"), None);
}

#[test]
fn blocks_are_written_as_rfc_7959_says() {
    // RFC 7959, 3: "2:0/1/128" and "2:3/0/64" and the like.
    for (text, number, more, bytes, value) in [
        ("0/1/128", 0, true, 128, 0x0B),
        ("3/1/128", 3, true, 128, 0x3B),
        ("5/0/64", 5, false, 64, 0x52),
        ("0/0/16", 0, false, 16, 0),
        ("1048575/1/1024", 0xF_FFFF, true, 1024, 0xFF_FFFE),
    ] {
        let block = Block { number, more, exponent: u8::try_from(usize::ilog2(bytes) - 4).unwrap() };
        assert_eq!(block.to_uint(), value, "{text}");
        assert_eq!(block.bytes(), bytes);
        let value = block.to_uint().to_be_bytes();
        assert_eq!(Block::parse(&value[1..]), Some(block), "{text}");
        assert_eq!(block.offset(), u64::from(number) * bytes as u64);
    }
    assert_eq!(Block::parse(&[0x0F]), None, "size 7 is reserved");
    assert_eq!(Block::parse(&[0; 4]), None, "at most three bytes");
}

#[test]
fn option_numbers_say_how_to_treat_them() {
    // RFC 7252, table 4, and the RFCs that added to it.
    for (number, value, critical, is_unsafe, no_cache_key) in [
        (OptionNumber::IF_MATCH, 1, true, false, false),
        (OptionNumber::URI_HOST, 3, true, true, false),
        (OptionNumber::OBSERVE, 6, false, true, false),
        (OptionNumber::URI_PATH, 11, true, true, false),
        (OptionNumber::CONTENT_FORMAT, 12, false, false, false),
        (OptionNumber::MAX_AGE, 14, false, true, false),
        (OptionNumber::HOP_LIMIT, 16, false, false, false),
        (OptionNumber::BLOCK2, 23, true, true, false),
        (OptionNumber::BLOCK1, 27, true, true, false),
        (OptionNumber::SIZE1, 60, false, false, true),
        (OptionNumber::ECHO, 252, false, false, true),
        (OptionNumber::NO_RESPONSE, 258, false, true, false),
        (OptionNumber::REQUEST_TAG, 292, false, false, false),
    ] {
        assert_eq!(number.0, value);
        assert_eq!(
            (number.is_critical(), number.is_unsafe(), number.is_no_cache_key()),
            (critical, is_unsafe, no_cache_key),
            "{number:?}"
        );
    }
    assert_eq!(
        format!("{:?} {:?}", OptionNumber::REQUEST_TAG, OptionNumber(2049)),
        "Request-Tag option 2049"
    );
}

#[test]
fn codes_are_written_with_a_dot() {
    assert_eq!(Code::CHANGED.to_string(), "2.04");
    assert_eq!(Code::CONTINUE.0, 0x5F);
    assert_eq!(Code::TOO_MANY_REQUESTS.0, 0x9D);
    assert_eq!(Code::HOP_LIMIT_REACHED.to_string(), "5.08");
    assert!(Code::GET.is_request() && !Code::EMPTY.is_request() && Code::FORBIDDEN.is_response());
}

#[test]
fn media_types_lead_there_and_back() {
    for number in [0, 40, 41, 42, 47, 50, 60, 110, 112] {
        assert_eq!(content::media_type(number).and_then(content::format), Some(number));
    }
    assert_eq!(content::media_type(11_542), None);
}

// ------------------------------------------------------------------------------------ malformed messages

fn fault(bytes: &[u8]) -> Option<Fault> {
    match Message::parse(bytes) {
        Err(ParseError::Malformed(_, fault)) => Some(fault),
        _ => None,
    }
}

#[test]
fn every_format_error_of_rfc_7252_is_found() {
    assert_eq!(Message::parse(b"").unwrap_err(), ParseError::TooShort);
    assert_eq!(Message::parse(b"\x40\x01\x00").unwrap_err(), ParseError::TooShort);
    assert_eq!(Message::parse(b"\x00\x01\x00\x01").unwrap_err(), ParseError::Version(0));
    assert_eq!(Message::parse(b"\xC0\x01\x00\x01").unwrap_err(), ParseError::Version(3));
    for length in 9..=15 {
        assert_eq!(fault(&[&[0x40 | length, 1, 0, 1][..], &[0; 15]].concat()), Some(Fault::TokenLength));
    }
    assert_eq!(fault(b"\x42\x01\x00\x01\x07"), Some(Fault::Truncated), "token");
    assert_eq!(fault(b"\x40\x01\x00\x01\xb2t"), Some(Fault::Truncated), "value");
    assert_eq!(fault(b"\x40\x01\x00\x01\xd0"), Some(Fault::Truncated), "delta");
    assert_eq!(fault(b"\x40\x01\x00\x01\xe0\x01"), Some(Fault::Truncated), "delta");
    assert_eq!(fault(b"\x40\x01\x00\x01\x0e\x01"), Some(Fault::Truncated), "length");
    assert_eq!(fault(b"\x40\x01\x00\x01\xf0"), Some(Fault::ReservedNibble));
    assert_eq!(fault(b"\x40\x01\x00\x01\x0f"), Some(Fault::ReservedNibble));
    assert_eq!(fault(b"\x40\x01\x00\x01\xe0\xff\xff"), Some(Fault::OptionNumber));
    assert_eq!(fault(b"\x40\x01\x00\x01\xe0\xfe\xf2\x10"), Some(Fault::OptionNumber), "65535 and one more");
    assert_eq!(fault(b"\x40\x01\x00\x01\xff"), Some(Fault::EmptyPayload));
    assert_eq!(fault(b"\x40\x00\x00\x01\xff\x01"), Some(Fault::EmptyTrailing));
    assert_eq!(fault(b"\x61\x00\x00\x01\x01"), Some(Fault::EmptyTrailing));
    assert_eq!(fault(b"\x50\x00\x00\x01"), Some(Fault::KindAndCode), "an empty NON");
    assert_eq!(fault(b"\x60\x01\x00\x01"), Some(Fault::KindAndCode), "a request in an ACK");
    assert_eq!(fault(b"\x70\x45\x00\x01"), Some(Fault::KindAndCode), "a response in an RST");
    for class in [1_u8, 3, 6, 7] {
        assert_eq!(fault(&[0x40, class << 5, 0, 1]), Some(Fault::ReservedCode));
    }
}

#[test]
fn the_writer_keeps_to_its_buffer_and_to_the_order_of_options() {
    let wanted = Wanted::new(Kind::Confirmable, Code::POST, 1)
        .token(&[1, 2, 3])
        .option(OptionNumber::URI_PATH, b"t")
        .option(OptionNumber::SIZE1, b"\x01")
        .payload(b"payload");
    let bytes = wanted.bytes();
    for room in 0..bytes.len() {
        assert_eq!(wanted.write(&mut vec![0; room]), Err(WriteError::Full), "{room} bytes");
    }
    assert_eq!(wanted.write(&mut vec![0; bytes.len()]), Ok(&bytes[..]));
    let unordered = Wanted::new(Kind::Confirmable, Code::POST, 1)
        .option(OptionNumber::CONTENT_FORMAT, b"")
        .option(OptionNumber::URI_PATH, b"t");
    assert_eq!(unordered.write(&mut [0; 64]), Err(WriteError::Order));
    let header = wanted.header;
    let mut buffer = [0; 64];
    let late = Writer::new(&mut buffer, header, Token::EMPTY).payload(b"x").option(OptionNumber::SIZE1, b"");
    assert_eq!(late.finish(), Err(WriteError::Order), "an option behind the payload");
    assert_eq!(Token::new(&[0; 9]), None);
}

// ------------------------------------------------------------------------------------------ properties

/// Any message that may be sent.
fn messages() -> impl Strategy<Value = Wanted> {
    let kind_and_code = prop_oneof![
        (prop_oneof![Just(Kind::Confirmable), Just(Kind::NonConfirmable)], 1_u8..=31),
        (
            prop_oneof![Just(Kind::Confirmable), Just(Kind::NonConfirmable), Just(Kind::Acknowledgement)],
            prop_oneof![0x40_u8..=0x5F, 0x80_u8..=0xBF]
        ),
    ];
    let number = prop_oneof![4 => 0_u16..=60, 1 => 200_u16..=300, 1 => any::<u16>()];
    let value = prop_oneof![8 => vec(any::<u8>(), 0..=20), 1 => vec(any::<u8>(), 250..=300)];
    let payload = prop_oneof![Just(vec![]), vec(any::<u8>(), 1..=64)];
    (kind_and_code, any::<u16>(), vec(any::<u8>(), 0..=8), vec((number, value), 0..8), payload).prop_map(
        |((kind, code), message_id, token, mut options, payload)| {
            options.sort_by_key(|(number, _)| *number);
            Wanted { header: Header { kind, code: Code(code), message_id }, token, options, payload }
        },
    )
}

/// Bytes that are a message but for a few changes, or none at all.
fn near_messages() -> impl Strategy<Value = Vec<u8>> {
    let changed = (messages(), vec((any::<u16>(), any::<u8>()), 0..4), any::<u16>()).prop_map(
        |(wanted, changes, cut)| {
            let mut bytes = wanted.bytes();
            for (place, value) in changes {
                let length = bytes.len();
                bytes[usize::from(place) % length] = value;
            }
            if cut % 4 == 0 {
                bytes.truncate(usize::from(cut) % (bytes.len() + 1));
            }
            bytes
        },
    );
    prop_oneof![3 => changed, 1 => vec(any::<u8>(), 0..48)]
}

proptest! {
    #![proptest_config(property(4_000))]

    #[test]
    fn what_is_written_is_read_again(wanted in messages()) {
        assert_eq!(Wanted::read(&wanted.bytes()), Ok(wanted));
    }

    #[test]
    fn what_is_read_is_written_again(bytes in near_messages()) {
        if let Ok(wanted) = Wanted::read(&bytes) {
            // Not byte for byte: a sender may extend a delta that needs no extension.
            assert_eq!(Wanted::read(&wanted.bytes()), Ok(wanted));
        }
    }

    #[test]
    fn coap_lite_reads_what_we_write_and_we_read_what_it_writes(wanted in messages()) {
        let ours = wanted.bytes();
        assert_eq!(Wanted::from(Packet::from_bytes(&ours).unwrap()), wanted);
        assert_eq!(wanted.by_coap_lite(), ours);
    }

    /// Where both read bytes they read the same. Ours is stricter, and only in these points, each a MUST of RFC 7252:
    /// versions other than 1 (3), a payload marker without a payload (3), content in an empty message (4.1), codes of
    /// reserved classes (4.2 and 4.3), and codes that a type does not carry (4.3, table 1).
    #[test]
    fn we_read_what_coap_lite_reads_but_for_what_the_rfc_forbids(bytes in near_messages()) {
        match (Wanted::read(&bytes), Packet::from_bytes(&bytes)) {
            (Ok(ours), Ok(theirs)) => assert_eq!(ours, Wanted::from(theirs)),
            (Ok(ours), Err(error)) => panic!("only we read {bytes:02x?}: {ours:?}, {error:?}"),
            (Err(_), Err(_)) => {}
            (Err(error), Ok(_)) => assert!(
                matches!(
                    error,
                    ParseError::Version(_)
                        | ParseError::Malformed(
                            _,
                            Fault::EmptyPayload | Fault::EmptyTrailing | Fault::ReservedCode | Fault::KindAndCode
                        )
                ),
                "only coap-lite reads {bytes:02x?}: {error:?}"
            ),
        }
    }
}

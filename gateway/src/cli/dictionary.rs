//! `tidegate dictionary`: trains a dictionary for `compress` on messages of one's own. It reads JSON Lines, as `spool export` and the
//! file upstream write them, packs them as batches of few messages, which gain most, and writes the dictionary to a file.

use super::Exit;
use crate::upstream::{Body, dictionary_id, train};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::Deserialize;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read as _, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tidegate_engine::event::{Format, Packing, Publication, Senml};
use tidegate_engine::id::{DeviceId, GatewayId, LaneId, MessageId, Seq, Tag, UpstreamId};
use tidegate_engine::message::{Message, Properties, Qos, Source};
use tidegate_engine::time::Stamp;
use tidegate_engine::topic::Topic;

/// Messages of one sample.
const SAMPLE_MESSAGES: usize = 4;
/// And its length: the training looks at no more than 128 KiB of one.
const SAMPLE_BYTES: usize = 64 << 10;
/// Samples in all, in bytes: more make no better dictionary, and all of them stand in memory.
const SAMPLES_BYTES: usize = 32 << 20;
/// The longest line: a payload of the largest packet, escaped.
const LINE_BYTES: u64 = 32 << 20;

/// What `dictionary` takes.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Messages as JSON Lines: what `tidegate spool export` or an upstream of kind "file" has written
    #[arg(required = true, value_name = "MESSAGES")]
    messages: Vec<PathBuf>,
    /// Where to write the dictionary; it must not be there yet
    #[arg(long, short, value_name = "FILE")]
    output: PathBuf,
    /// The format of the batches that it is for
    #[arg(long, value_enum, default_value = "json")]
    format: FormatArg,
    /// Its length in KiB; twice as long is seldom much better
    #[arg(long, value_name = "KIB", default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=1_024))]
    size: u16,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum FormatArg {
    Json,
    Senml,
    LengthPrefixed,
}

impl From<FormatArg> for Format {
    fn from(format: FormatArg) -> Self {
        match format {
            FormatArg::Json => Self::Json,
            FormatArg::Senml => Self::Senml,
            FormatArg::LengthPrefixed => Self::LengthPrefixed,
        }
    }
}

/// What matters of a line.
#[derive(Deserialize)]
struct Line {
    id: String,
    topic: String,
    received: i64,
    clock: Option<String>,
    qos: Option<u8>,
    payload: Option<String>,
    payload_base64: Option<String>,
    content_type: Option<String>,
}

impl Line {
    /// The message, and whose gateway's it is; nothing when it cannot be one.
    fn message(self) -> Option<(GatewayId, Message)> {
        let mut id = self.id.split('/');
        let (gateway, device) = (GatewayId::new(id.next()?).ok()?, DeviceId::new(id.next()?).ok()?);
        let (epoch, seq) = (id.next()?.parse().ok()?, id.next()?.parse().ok()?);
        let payload = match (self.payload, self.payload_base64) {
            (Some(text), _) => Bytes::from(text),
            (None, Some(encoded)) => Bytes::from(STANDARD.decode(encoded).ok()?),
            (None, None) => return None,
        };
        let content_type = self.content_type;
        let message = Message {
            id: MessageId { epoch, seq: Seq(seq) },
            device,
            topic: Topic::new(&self.topic).ok()?,
            payload,
            received: Stamp {
                unix_ms: self.received,
                synchronised: self.clock.is_none_or(|clock| clock == "synchronised"),
            },
            qos: match self.qos {
                Some(0) => Qos::AtMostOnce,
                Some(2) => Qos::ExactlyOnce,
                _ => Qos::AtLeastOnce,
            },
            retain: false,
            duplicate: false,
            source: Source::Mqtt,
            properties: content_type
                .is_some()
                .then(|| Box::new(Properties { content_type, ..Properties::default() })),
        };
        Some((gateway, message))
    }
}

/// Batches of few messages.
struct Samples {
    packing: Packing,
    done: Vec<Vec<u8>>,
    bytes: usize,
    messages: usize,
    body: Body,
    count: usize,
}

impl Samples {
    fn new(format: Format) -> Self {
        let packing = Packing {
            max_messages: SAMPLE_MESSAGES,
            max_bytes: SAMPLE_BYTES,
            linger: Duration::ZERO,
            format,
            compression: None,
        };
        Self { body: Body::new(&packing), packing, done: Vec::new(), bytes: 0, messages: 0, count: 0 }
    }

    fn full(&self) -> bool {
        self.bytes >= SAMPLES_BYTES
    }

    fn add(&mut self, gateway: &GatewayId, message: Message) {
        let publication = Publication {
            upstream: UpstreamId(0),
            tag: Tag(0),
            lane: LaneId(0),
            routing_key: String::new(),
            senml: Senml::Untouched,
            packing: None,
            resend: false,
            salvaged: false,
            live: false,
            message: Arc::new(message),
        };
        if self.body.append(gateway, &publication) {
            self.count += 1;
            self.messages += 1;
        }
        if self.count == SAMPLE_MESSAGES {
            self.close();
        }
    }

    fn close(&mut self) {
        let body = std::mem::replace(&mut self.body, Body::new(&self.packing));
        if std::mem::take(&mut self.count) > 0 {
            let sample = body.finish();
            self.bytes += sample.len();
            self.done.push(sample);
        }
    }

    /// Takes all messages of a file; true when every line was one.
    fn read(&mut self, path: &Path) -> io::Result<bool> {
        let mut lines = BufReader::new(File::open(path)?);
        let mut all = true;
        let mut line = Vec::new();
        while !self.full() {
            line.clear();
            if lines.by_ref().take(LINE_BYTES).read_until(b'\n', &mut line)? == 0 {
                break;
            }
            match serde_json::from_slice::<Line>(&line).ok().and_then(Line::message) {
                Some((gateway, message)) => self.add(&gateway, message),
                None => all = false,
            }
        }
        self.close();
        Ok(all)
    }
}

pub(super) fn run(args: &Args, out: &mut dyn Write, err: &mut dyn Write) -> io::Result<Exit> {
    let mut samples = Samples::new(args.format.into());
    for path in &args.messages {
        match samples.read(path) {
            Ok(true) => {}
            Ok(false) => {
                writeln!(
                    err,
                    "warning: {}: some lines are no messages; they are passed over",
                    path.display()
                )?;
            }
            Err(error) => {
                writeln!(err, "error: {} cannot be read: {error}", path.display())?;
                return Ok(Exit::Failure);
            }
        }
    }
    let trained = train(&samples.done, usize::from(args.size) << 10).ok();
    let Some((dictionary, id)) = trained.and_then(|bytes| dictionary_id(&bytes).map(|id| (bytes, id))) else {
        writeln!(
            err,
            "error: {} messages are too few to train on, or too short: bring some thousand, or ask for a smaller dictionary (--size)",
            samples.messages
        )?;
        return Ok(Exit::Failure);
    };
    if let Err(error) = File::create_new(&args.output).and_then(|mut file| file.write_all(&dictionary)) {
        writeln!(err, "error: {} cannot be written: {error}", args.output.display())?;
        return Ok(Exit::Failure);
    }
    let name = args.output.file_name().unwrap_or_default().to_string_lossy();
    writeln!(out, "compress = \"zstd\"\ndictionary = \"{name}\"")?;
    writeln!(
        err,
        "# Dictionary {id}, {} bytes, of {} messages. Consumers need the same file before the gateway uses it.\n\
         # The two lines go into the [[route]], beside its `batch`.",
        dictionary.len(),
        samples.messages
    )?;
    Ok(Exit::Well)
}

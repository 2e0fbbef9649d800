//! The entries of SUBSCRIBE and UNSUBSCRIBE (MQTT 5.0, 3.8.3, 3.10.3): views over validated bytes, or slices to be sent.

use super::encode::Sink;
use super::error::Error;
use super::kind::{Qos, Version};
use super::read::Reader;
use super::text;

/// What is sent of retained messages when a subscription is made (MQTT 5.0, 3.8.3.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum RetainHandling {
    /// All of them; the only way before MQTT 5.
    #[default]
    Send = 0,
    /// All, if the subscription is new.
    SendIfNew = 1,
    /// None.
    DoNotSend = 2,
}

/// One entry of SUBSCRIBE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subscription<'a> {
    /// The topic filter; with MQTT 5 perhaps a shared one: see [`split_shared`](super::split_shared).
    pub filter: &'a str,
    /// The highest QoS that the subscriber wants.
    pub qos: Qos,
    /// Not what the subscriber itself published.
    pub no_local: bool,
    /// Keep the RETAIN flag as published.
    pub retain_as_published: bool,
    /// What is sent of retained messages.
    pub retain_handling: RetainHandling,
}

impl<'a> Subscription<'a> {
    /// An entry with MQTT 3.1.1's meaning.
    #[must_use]
    pub const fn new(filter: &'a str, qos: Qos) -> Self {
        Self {
            filter,
            qos,
            no_local: false,
            retain_as_published: false,
            retain_handling: RetainHandling::Send,
        }
    }

    /// `filter` reads the filter's bytes: with all checks, or without, where they were done before.
    fn read(reader: &mut Reader<'a>, version: Version, filter: ReadFilter) -> Result<Self, Error> {
        let filter = filter(reader.binary()?, version.is_v5())?;
        let options = reader.u8()?;
        let reserved = if version.is_v5() { 0xC0 } else { 0xFC };
        if options & reserved != 0 {
            return Err(Error::ReservedBits);
        }
        let qos = Qos::from_u8(options & 0x03).ok_or(Error::SubscriptionOptions)?;
        let retain_handling = match options >> 4 & 0x03 {
            0 => RetainHandling::Send,
            1 => RetainHandling::SendIfNew,
            2 => RetainHandling::DoNotSend,
            _ => return Err(Error::SubscriptionOptions),
        };
        let no_local = options & 0x04 != 0;
        if no_local && filter.starts_with("$share/") {
            return Err(Error::NoLocalOnShared);
        }
        Ok(Self { filter, qos, no_local, retain_as_published: options & 0x08 != 0, retain_handling })
    }

    fn write(&self, version: Version, sink: &mut impl Sink) {
        sink.binary(self.filter.as_bytes());
        let options = u8::from(self.no_local) << 2
            | u8::from(self.retain_as_published) << 3
            | (self.retain_handling as u8) << 4;
        sink.u8(self.qos as u8 | if version.is_v5() { options } else { 0 });
    }
}

type ReadFilter = fn(&[u8], bool) -> Result<&str, Error>;

macro_rules! entries {
    ($(#[$doc:meta])* $name:ident, $item:ty, $read:expr, $write:expr) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug)]
        pub struct $name<'a>(Source<'a, $item>);

        impl<'a> $name<'a> {
            /// Entries to be sent; at least one [MQTT-3.8.3-2, MQTT-3.10.3-2].
            #[must_use]
            pub const fn new(list: &'a [$item]) -> Self {
                Self(Source::List(list))
            }

            /// All, in their order, which is that of the acknowledgement's codes.
            pub fn iter(&self) -> impl Iterator<Item = $item> + Clone + use<'a> {
                let (version, mut reader, list) = match self.0 {
                    Source::Wire(version, bytes) => (version, Reader::new(bytes), [].as_slice()),
                    Source::List(list) => (Version::V5, Reader::new(&[]), list),
                };
                // The bytes were validated: an error here is their end.
                let read: fn(&mut Reader<'a>, Version, ReadFilter) -> Result<$item, Error> = $read;
                let next = move || read(&mut reader, version, |bytes, _| text::known_filter(bytes)).ok();
                core::iter::from_fn(next).chain(list.iter().copied())
            }

            pub(super) fn read(reader: Reader<'a>, version: Version) -> Result<Self, Error> {
                let bytes = reader.rest();
                let mut reader = reader;
                if reader.is_empty() {
                    return Err(Error::NoEntries);
                }
                let read: fn(&mut Reader<'a>, Version, ReadFilter) -> Result<$item, Error> = $read;
                while !reader.is_empty() {
                    read(&mut reader, version, text::topic_filter)?;
                }
                Ok(Self(Source::Wire(version, bytes)))
            }

            pub(super) fn write<S: Sink>(&self, version: Version, sink: &mut S) {
                let write: fn(&$item, Version, &mut S) = $write;
                self.iter().for_each(|entry| write(&entry, version, sink));
            }
        }

        impl PartialEq for $name<'_> {
            fn eq(&self, other: &Self) -> bool {
                self.iter().eq(other.iter())
            }
        }

        impl Eq for $name<'_> {}
    };
}

#[derive(Clone, Copy, Debug)]
enum Source<'a, T> {
    Wire(Version, &'a [u8]),
    List(&'a [T]),
}

entries! {
    /// The entries of SUBSCRIBE.
    Subscriptions, Subscription<'a>,
    Subscription::read,
    Subscription::write
}

entries! {
    /// The topic filters of UNSUBSCRIBE.
    Filters, &'a str,
    |reader, version, filter| filter(reader.binary()?, version.is_v5()),
    |filter, _, sink| sink.binary(filter.as_bytes())
}

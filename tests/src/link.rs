//! A bare MQTT connection over TCP for tests: sends packets, hands over those that come, one by one. It keeps no session and obeys no
//! rule by itself: what a client does with a packet is the test's to say, the wrong thing included.

use crate::mqtt::{Hello, encode};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;
use tidegate_wire::mqtt::{self, Packet, PacketId, Properties, Publish, Qos, ReasonCode, Version, frame};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

/// The longest that a server may take to answer CONNECT on a busy machine.
const ANSWER_WITHIN: Duration = Duration::from_secs(20);

/// A connection.
#[derive(Debug)]
pub struct Link {
    stream: TcpStream,
    version: Version,
    input: Vec<u8>,
    output: Vec<u8>,
    chunk: Vec<u8>,
}

impl Link {
    /// Opens a connection and nothing more.
    ///
    /// # Errors
    /// What the operating system says.
    pub async fn open(address: SocketAddr, version: Version) -> io::Result<Self> {
        Self::over(TcpStream::connect(address).await?, version)
    }

    /// Opens a connection from this address of the machine.
    ///
    /// # Errors
    /// What the operating system says.
    pub async fn open_from(source: IpAddr, address: SocketAddr, version: Version) -> io::Result<Self> {
        let socket = TcpSocket::new_v4()?;
        socket.bind((source, 0).into())?;
        Self::over(socket.connect(address).await?, version)
    }

    fn over(stream: TcpStream, version: Version) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        Ok(Self { stream, version, input: Vec::new(), output: Vec::new(), chunk: vec![0; 16_384] })
    }

    /// Opens a connection and says hello. Gives whether a session was present.
    ///
    /// # Errors
    /// No connection, no CONNACK in time, or a refusal.
    pub async fn connect(address: SocketAddr, hello: &Hello<'_>) -> io::Result<(Self, bool)> {
        let mut link = Self::open(address, hello.version).await?;
        link.write(&hello.bytes()).await?;
        let answer = link.next(ANSWER_WITHIN, |packet| match packet {
            Packet::ConnAck(answer) if answer.reason == ReasonCode::SUCCESS => Ok(answer.session_present),
            other => Err(wrong(&other)),
        });
        let present = answer.await?.ok_or(io::ErrorKind::TimedOut)??;
        Ok((link, present))
    }

    /// Adds a packet to what is written next.
    pub fn put(&mut self, packet: &Packet<'_>) {
        self.output.extend_from_slice(&encode(self.version, packet));
    }

    /// Adds a PUBLISH to what is written next.
    pub fn put_publish(
        &mut self,
        topic: &str,
        payload: &[u8],
        qos: Qos,
        packet_id: PacketId,
        dup: bool,
        retain: bool,
    ) {
        self.put(&Packet::Publish(Publish {
            dup,
            qos,
            retain,
            topic,
            packet_id: Some(packet_id).filter(|_| qos != Qos::AtMostOnce),
            properties: Properties::EMPTY,
            payload,
        }));
    }

    /// Writes what was put.
    ///
    /// # Errors
    /// When the connection has ended.
    pub async fn flush(&mut self) -> io::Result<()> {
        if !self.output.is_empty() {
            self.stream.write_all(&self.output).await?;
            self.output.clear();
        }
        Ok(())
    }

    /// Ends this side of the connection: the server reads its end, and may go on to write.
    ///
    /// # Errors
    /// When the connection has ended.
    pub async fn close_writing(&mut self) -> io::Result<()> {
        self.stream.shutdown().await
    }

    /// Writes bytes as they are.
    ///
    /// # Errors
    /// When the connection has ended.
    pub async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes).await
    }

    /// Reads the next packet; `None` when none comes in time.
    ///
    /// # Errors
    /// When the connection has ended, or what comes is no packet.
    pub async fn next<T>(
        &mut self,
        within: Duration,
        read: impl FnOnce(Packet<'_>) -> T,
    ) -> io::Result<Option<T>> {
        let until = tokio::time::Instant::now() + within;
        loop {
            if let Some(frame) = frame(&self.input).map_err(|error| wrong(&error))?
                && let Some(bytes) = self.input.get(..frame.total_bytes())
            {
                let packet = mqtt::decode(self.version, bytes).map_err(|error| wrong(&error))?;
                let got = read(packet);
                self.input.drain(..frame.total_bytes());
                return Ok(Some(got));
            }
            let Ok(count) = tokio::time::timeout_at(until, self.stream.read(&mut self.chunk)).await else {
                return Ok(None);
            };
            match count? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                count => self.input.extend_from_slice(&self.chunk[..count]),
            }
        }
    }

    /// Waits until the server has closed the connection, whatever it sends before; false when it does not in time.
    pub async fn closed(&mut self, within: Duration) -> bool {
        let until = tokio::time::Instant::now() + within;
        loop {
            match tokio::time::timeout_at(until, self.stream.read(&mut self.chunk)).await {
                Ok(Ok(0) | Err(_)) => return true,
                Ok(Ok(_)) => {}
                Err(_) => return false,
            }
        }
    }
}

/// What came and should not have.
pub fn wrong(what: &dyn std::fmt::Debug) -> io::Error {
    io::Error::other(format!("from the gateway: {what:?}"))
}

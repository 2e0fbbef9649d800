//! Every bound of the engine, in one place: each queue, table and buffer is held to one of these.
//! The configuration may change some; the defaults fit a board with 512 MB.

use crate::time::Duration;

/// The bounds. Sizes are in bytes, counts are counts, durations are elapsed time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Stream connections in all.
    pub connections: usize,
    /// Stream connections of one peer address.
    pub connections_per_address: usize,
    /// Stream connections whose CONNECT has not been accepted yet; and CoAP's that have not said their CSM and, where that is asked,
    /// who they are.
    pub connections_unauthenticated: usize,
    /// Handshakes below MQTT and CoAP (TLS, WebSocket, PROXY) under way at once; the next ones wait.
    pub handshakes: usize,
    /// From the beginning of such a handshake to its end.
    pub handshake_timeout: Duration,
    /// From the opening of a connection to its whole CONNECT, or to its CSM and who it is.
    pub connect_timeout: Duration,
    /// The largest packet before the CONNECT is accepted: nothing larger is even awaited.
    pub packet_bytes_unauthenticated: usize,
    /// The largest packet; advertised as Maximum Packet Size.
    pub packet_bytes: usize,
    /// The longest topic name or filter.
    pub topic_bytes: usize,
    /// The most levels of a topic name or filter.
    pub topic_levels: usize,
    /// MQTT user properties of one packet.
    pub user_properties: usize,
    /// QoS 1 and 2 messages of one client that are not acknowledged yet; advertised as Receive Maximum.
    pub receive_maximum: u16,
    /// Topic aliases that a client may set; advertised as Topic Alias Maximum.
    pub topic_alias_maximum: u16,
    /// The longest keep-alive; a longer wish is answered with Server Keep Alive.
    pub keep_alive_max: Duration,
    /// The longest that a session outlives its connection.
    pub session_expiry_max: Duration,
    /// Sessions, connected or not.
    pub sessions: usize,
    /// Subscriptions of one session.
    pub subscriptions_per_session: usize,
    /// Messages that wait for one subscriber.
    pub outgoing_messages: usize,
    /// Bytes that wait for one subscriber, in its queue and in its connection's buffer together; or for a CoAP stream.
    pub outgoing_bytes: usize,
    /// Retained messages. Zero: none, and CONNACK says so.
    pub retained_messages: usize,
    /// Bytes that retained messages take in memory.
    pub retained_bytes: usize,
    /// Sessions of one device: it may have several clients, a dashboard among them.
    pub sessions_per_device: usize,
    /// Slow verifications of passwords that are ordered and not answered, in all: so many for devices at addresses where they have
    /// signed in before, and so many for all others.
    pub verifications: usize,
    /// And for one device.
    pub verifications_per_device: usize,
    /// How long a refused sign-in waits for its answer, from its CONNECT on: the same whatever was wrong, so that the time
    /// tells nothing. Longer than a slow verification takes.
    pub refusal_delay: Duration,
    /// Sign-ins from one address, or slow ones as one device, that may fail before the next must wait.
    pub guesses: u32,
    /// The first such wait; it doubles with each failure.
    pub guess_wait: Duration,
    /// The longest such wait; after twice as long without a failure all is forgotten.
    pub guess_wait_max: Duration,
    /// The longest such wait for a device at an address where it has signed in before.
    pub guess_wait_known_max: Duration,
    /// Takeovers of one client identifier in a minute: in one burst, or spread over it. A device on a bad link needs several; two
    /// that fight for one identifier have no end.
    pub takeovers_per_minute: u32,
    /// CONNECTs with a will of one device in a minute. One that says good-bye does not count: only what may be published does.
    pub wills_per_minute: u32,
    /// The same for all clients of one address that are nobody in particular; not on the loopback interface, where an address
    /// says nothing about who comes.
    pub wills_per_minute_and_address: u32,
    /// Those whose takeovers, and those whose wills, are counted; beyond it those with the fewest are forgotten.
    pub rated: usize,
    /// Addresses, and devices, of which failures are remembered; beyond it those with the fewest and oldest are forgotten.
    pub guessers: usize,
    /// How often `$SYS` topics are published while somebody subscribes; zero: never (`mqtt.sys_interval`).
    pub sys_interval: Duration,
    /// Bytes that wait for all subscribers together, in queues and buffers. A message that several wait for counts for each.
    /// Above three quarters of it QoS 0 is dropped. CoAP's streams have as much together, apart from it. What recovery loads was written within this bound, and is held to it.
    pub outgoing_bytes_in_all: usize,
    /// How long a subscriber whose session outlives its connection may take to acknowledge a message before the message is
    /// committed for it, and its publisher no longer waits.
    pub outgoing_spill_after: Duration,
    /// The longest that CONNACK, SUBACK and UNSUBACK wait for the store before the client is told that it cannot be
    /// served.
    pub record_patience: Duration,
    /// The largest CoAP message.
    pub coap_message_bytes: usize,
    /// DTLS associations of one address; beyond it the one that was silent for longest makes room.
    pub dtls_associations: usize,
    /// A DTLS association that was silent for so long ends.
    pub dtls_idle: Duration,
    /// CoAP peers remembered for deduplication, and the exchanges kept for each.
    pub coap_peers: usize,
    /// Exchanges remembered for one CoAP peer.
    pub coap_exchanges_per_peer: usize,
    /// Bytes of answers that are remembered because they say more than 2.04, in all.
    pub coap_reply_bytes: usize,
    /// Messages that one CoAP peer may send a second, and in one burst.
    pub coap_requests_per_second: u32,
    /// The largest body that comes in blocks.
    pub coap_body_bytes: usize,
    /// Bytes of bodies that come or go in blocks and are not through, for each direction.
    pub coap_block_bytes: usize,
    /// Such bodies, for each direction.
    pub coap_transfers: usize,
    /// Bodies that one CoAP peer may send in blocks at once.
    pub coap_transfers_per_peer: usize,
    /// Observations; and requests whose answer waits for a command.
    pub coap_observers: usize,
    /// Observations of one CoAP peer.
    pub coap_observers_per_peer: usize,
    /// Exchanges of one device with OSCORE that are remembered, to answer them and their repetitions.
    pub oscore_exchanges_per_device: usize,
    /// Observations of one device with OSCORE.
    pub oscore_observations_per_device: usize,
    /// New challenges of one device with OSCORE a second, and at once.
    pub oscore_challenges_per_second: u32,
    /// Challenges of one device that are kept, for requests that come again.
    pub oscore_challenges_per_device: usize,
    /// Addresses of one device with OSCORE that are not told of as new.
    pub oscore_places_per_device: usize,
    /// OSCORE contexts with the same id, told apart by ID Contexts, that a request without one is tried with.
    pub oscore_contexts_per_id: usize,
    /// All protected answers that are kept for repetitions, in bytes; what does not fit is protected anew.
    pub oscore_reply_bytes: usize,
    /// Records of a SenML pack that is to be resolved.
    pub senml_records: usize,
    /// The longest such pack, before and after.
    pub senml_bytes: usize,
    /// A CoAP stream that was silent for so long is asked by a ping whether it lives.
    pub coap_stream_idle: Duration,
    /// Messages handed over to one upstream and not settled (window).
    pub upstream_window: usize,
    /// An upstream that leaves a message unsettled for so long is reset and gets it again.
    pub confirm_timeout: Duration,
    /// How often an upstream may refuse a message (return, nack) before it goes to the dead letters.
    /// Faults of the link do not count.
    pub upstream_attempts: u8,
    /// The first wait before a refused message is tried again; it doubles with each attempt.
    pub retry_after: Duration,
    /// Messages of one lane kept in memory; the rest of a backlog is on the disk only.
    pub lane_memory_messages: usize,
    /// Bytes of one lane kept in memory.
    pub lane_memory_bytes: usize,
    /// Bytes of messages accepted and neither committed nor confirmed, and of changes of records that are not committed, in
    /// all. Above it devices are told to hold.
    pub unsafe_bytes: usize,
    /// Bytes of messages waiting on the disk in all (`spool.max_size`). Above it devices are told to hold.
    pub spool_bytes: u64,
    /// Bytes of dead letters that are sent again and not through, in memory beside what a lane may have there. Above it no
    /// further ones are taken back.
    pub requeued_bytes: usize,
    /// Messages that are handed over one by one, each with a write of its own, after lives that ended soon and badly.
    pub careful_messages: usize,
    /// Changes gathered into one commit at the most.
    pub commit_ops: usize,
    /// Bytes gathered into one commit at the most.
    pub commit_bytes: usize,
    /// Changes that wait for the next commit, while one runs, from which on those who send much are not read: a larger group
    /// is hardly faster, and who has one message waits for all of it.
    pub commit_enough: usize,
    /// Delivered rows whose removal may wait for the next commit: the most that a crash sends again.
    pub forgets_waiting: usize,
    /// The longest that the removal of delivered rows waits for a commit to ride on.
    pub forget_after: Duration,
    /// How often it is written down how long messages have waited that are to expire, while any are on the disk: what a crash forgets of it.
    pub ages_every: Duration,
    /// The wait before a failed commit is tried again.
    pub commit_retry_after: Duration,
    /// Entries of the ledger of losses that are not being told of; beyond it those that have most in common become one.
    pub ledger_entries: usize,
    /// How long the ledger gathers losses of one device, topic and reason before it tells of them.
    pub tombstone_after: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 4_096,
            connections_per_address: 64,
            connections_unauthenticated: 128,
            // More than `connections_per_address`: one address cannot have them all.
            handshakes: 128,
            handshake_timeout: Duration::from_secs(5),
            connect_timeout: Duration::from_secs(10),
            packet_bytes_unauthenticated: 8 << 10,
            packet_bytes: 256 << 10,
            topic_bytes: 512,
            topic_levels: 16,
            user_properties: 32,
            receive_maximum: 32,
            topic_alias_maximum: 16,
            keep_alive_max: Duration::from_secs(1_200),
            session_expiry_max: Duration::from_secs(7 * 86_400),
            sessions: 8_192,
            subscriptions_per_session: 64,
            outgoing_messages: 1_000,
            outgoing_bytes: 1 << 20,
            retained_messages: 1_000,
            retained_bytes: 4 << 20,
            sessions_per_device: 64,
            verifications: 32,
            verifications_per_device: 4,
            refusal_delay: Duration::from_secs(1),
            guesses: 5,
            guess_wait: Duration::from_secs(1),
            guess_wait_max: Duration::from_secs(300),
            guess_wait_known_max: Duration::from_secs(10),
            // One every five seconds: less than what a client that reconnects at once makes, more than what a bad link does.
            takeovers_per_minute: 12,
            wills_per_minute: 12,
            // Four for each of `connections_per_address`: a whole site behind one address may lose its power and come back.
            wills_per_minute_and_address: 256,
            // As many as `connections`; some 200 bytes each.
            rated: 4_096,
            guessers: 4_096,
            sys_interval: Duration::from_secs(10),
            outgoing_bytes_in_all: 32 << 20,
            outgoing_spill_after: Duration::from_millis(250),
            record_patience: Duration::from_secs(10),
            // 8 KiB each.
            dtls_associations: 2_000,
            // Devices that sleep for hours must not begin anew at every reading.
            dtls_idle: Duration::from_secs(86_400),
            coap_message_bytes: 1_280,
            coap_peers: 4_096,
            coap_exchanges_per_peer: 32,
            coap_reply_bytes: 4 << 20,
            coap_requests_per_second: 1_000,
            coap_body_bytes: 1 << 20,
            coap_block_bytes: 8 << 20,
            coap_transfers: 256,
            coap_transfers_per_peer: 4,
            coap_observers: 256,
            coap_observers_per_peer: 32,
            // A device has one at a time (RFC 7252, 4.7: NSTART), and some have a few.
            oscore_exchanges_per_device: 16,
            oscore_observations_per_device: 16,
            // Each takes a number: who has recorded requests could otherwise have them used up, and the medium worn by reserving more.
            oscore_challenges_per_second: 16,
            oscore_challenges_per_device: 16,
            oscore_places_per_device: 4,
            // Each is a decryption that anybody can cause.
            oscore_contexts_per_id: 8,
            oscore_reply_bytes: 4 << 20,
            // A reading a second of an hour, and then some.
            senml_records: 4_096,
            // As `coap_body_bytes`. It is held several times over while it is resolved.
            senml_bytes: 1 << 20,
            // As `keep_alive_max`.
            coap_stream_idle: Duration::from_secs(1_200),
            upstream_window: 256,
            confirm_timeout: Duration::from_secs(30),
            upstream_attempts: 5,
            retry_after: Duration::from_millis(500),
            lane_memory_messages: 4_096,
            lane_memory_bytes: 4 << 20,
            unsafe_bytes: 16 << 20,
            spool_bytes: 1 << 30,
            requeued_bytes: 4 << 20,
            // A window: what a life may have died of was under way. Seconds on a slow card.
            careful_messages: 256,
            commit_ops: 4_096,
            commit_bytes: 4 << 20,
            commit_enough: 512,
            forgets_waiting: 4_096,
            forget_after: Duration::from_secs(1),
            // A small write a minute, while many more are.
            ages_every: Duration::from_secs(60),
            commit_retry_after: Duration::from_secs(1),
            // Each is a record of some hundred bytes, and a message on a link that was just away.
            ledger_entries: 256,
            tombstone_after: Duration::from_secs(5),
        }
    }
}

"""The tour with paho-mqtt (Python), the reference client: one connection a role, callbacks on its network thread.

usage: tour_paho.py URL VERSION NAME [CA]     URL: mqtt://, mqtts://, ws:// or wss://; VERSION: 4 (3.1.1) or 5
Prints `ok STEP` for each step; the first that fails ends it with the reason and code 1.
"""

import queue
import socket
import sys
from urllib.parse import urlsplit

import paho.mqtt.client as mqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

# Seconds that any one answer may take on a busy machine.
WITHIN = 30

URL, VERSION, NAME = urlsplit(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
CA = sys.argv[4] if len(sys.argv) > 4 else None
V5 = VERSION == 5
EVERY_BYTE = bytes(range(256)) * 3
# The QoS of what is sent while the subscriber is away. Two are handed over in order only among their own kind: QoS 2 comes
# with its PUBREL.
AWAY = (1, 1, 1, 2, 2, 2)


def properties(packet, **values):
    made = Properties(packet)
    for name, value in values.items():
        setattr(made, name, value)
    return made


class Member:
    """A connection whose events arrive in queues."""

    def __init__(self, role, clean=True, will=None):
        self.messages, self.subscribed = queue.Queue(), queue.Queue()
        self.connected, self.ended = queue.Queue(), queue.Queue()
        self.client = mqtt.Client(
            mqtt.CallbackAPIVersion.VERSION2,
            client_id=f"{NAME}-{role}",
            protocol=VERSION,
            transport="websockets" if URL.scheme in ("ws", "wss") else "tcp",
            reconnect_on_failure=False,
            **({} if V5 else {"clean_session": clean}),
        )
        if URL.scheme in ("ws", "wss"):
            self.client.ws_set_options(path=URL.path or "/mqtt")
        if URL.scheme in ("mqtts", "wss"):
            self.client.tls_set(ca_certs=CA)
        if will:
            self.client.will_set(*will)
        self.client.on_connect = lambda c, u, flags, reason, p: self.connected.put((flags, reason, p))
        self.client.on_disconnect = lambda c, u, flags, reason, p: self.ended.put(reason)
        self.client.on_subscribe = lambda c, u, mid, reasons, p: self.subscribed.put(reasons)
        self.client.on_message = lambda c, u, message: self.messages.put(message)
        more = {}
        if V5:
            more["clean_start"] = clean
            if not clean:
                more["properties"] = properties(PacketTypes.CONNECT, SessionExpiryInterval=300)
        self.client.connect(URL.hostname, URL.port, keepalive=30, **more)
        self.client.loop_start()
        self.flags, reason, self.connack = self.connected.get(timeout=WITHIN)
        assert not reason.is_failure, f"CONNACK {reason}"

    def subscribe(self, topic, qos, identifier=None):
        if V5:
            more = properties(PacketTypes.SUBSCRIBE, SubscriptionIdentifier=identifier) if identifier else None
            self.client.subscribe(topic, options=SubscribeOptions(qos=qos), properties=more)
        else:
            self.client.subscribe(topic, qos)
        reasons = self.subscribed.get(timeout=WITHIN)
        assert [reason.value for reason in reasons] == [qos], f"SUBACK {reasons} for QoS {qos} of {topic}"

    def publish(self, topic, payload, qos, retain=False, more=None):
        sent = self.client.publish(topic, payload, qos, retain, more)
        sent.wait_for_publish(WITHIN)
        assert sent.is_published(), f"no acknowledgement of QoS {qos} within {WITHIN} s"

    def take(self, topic, payload, qos, retain=False):
        got = self.messages.get(timeout=WITHIN)
        found = (got.topic, got.payload, got.qos, bool(got.retain))
        assert found == (topic, payload, qos, retain), f"{found} instead of {(topic, payload, qos, retain)}"
        return got

    def leave(self):
        self.client.disconnect()
        self.ended.get(timeout=WITHIN)
        self.client.loop_stop()

    def vanish(self):
        """Ends the connection without DISCONNECT, whatever the transport above the socket."""
        end = socket.socket(fileno=socket.dup(self.client.socket().fileno()))
        end.shutdown(socket.SHUT_RDWR)
        end.close()
        self.ended.get(timeout=WITHIN)
        self.client.loop_stop()


def connect():
    member = Member("first")
    if V5:
        assert member.connack.ReceiveMaximum >= 1
    member.leave()


def round_trip(qos):
    publisher, subscriber = Member(f"pub-{qos}"), Member(f"sub-{qos}")
    topic = f"tour/{NAME}/qos/{qos}/é"
    subscriber.subscribe(topic, qos)
    for payload in (EVERY_BYTE, b"", b"21.5"):
        publisher.publish(topic, payload, qos)
        subscriber.take(topic, payload, qos)
    publisher.leave()
    subscriber.leave()


def retained():
    publisher, topic, beside = Member("keeper"), f"tour/{NAME}/retained", f"tour/{NAME}/mark"
    publisher.publish(topic, b"first", 1, retain=True)
    publisher.publish(topic, b"last", 1, retain=True)
    late = Member("late")
    late.subscribe(topic, 1)
    late.take(topic, b"last", 1, retain=True)
    publisher.publish(topic, b"live", 1, retain=True)
    late.take(topic, b"live", 1, retain=False)
    publisher.publish(topic, b"", 1, retain=True)
    late.take(topic, b"", 1, retain=False)
    later = Member("later")
    later.subscribe(topic, 1)
    later.subscribe(beside, 1)
    publisher.publish(beside, b"nothing came before", 1)
    later.take(beside, b"nothing came before", 1)
    for member in (publisher, late, later):
        member.leave()


def will():
    watcher, topic = Member("watcher"), f"tour/{NAME}/will"
    watcher.subscribe(topic, 1)
    orderly = Member("orderly", will=(topic, b"must not be sent", 1))
    orderly.leave()
    Member("victim", will=(topic, b"gone", 1)).vanish()
    watcher.take(topic, b"gone", 1)
    watcher.leave()


def resume():
    topic = f"tour/{NAME}/resume"
    sleeper = Member("sleeper", clean=False)
    assert not sleeper.flags.session_present, "a new session is said to be present"
    sleeper.subscribe(topic, 2)
    sleeper.leave()
    publisher = Member("meanwhile")
    for number, qos in enumerate(AWAY):
        publisher.publish(topic, b"%d" % number, qos)
    publisher.leave()
    sleeper = Member("sleeper", clean=False)
    assert sleeper.flags.session_present, "the session is gone"
    for number, qos in enumerate(AWAY):
        sleeper.take(topic, b"%d" % number, qos)
    sleeper.leave()
    last = Member("sleeper", clean=True)
    assert not last.flags.session_present, "a clean start found a session"
    last.leave()


def shared():
    topic, count = f"tour/{NAME}/shared", 20
    members = [Member("member-1"), Member("member-2")]
    for member in members:
        member.subscribe(f"$share/crew/{topic}", 1)
        member.subscribe(f"{topic}/end", 1)
    publisher = Member("sharer")
    for number in range(count):
        publisher.publish(topic, b"%d" % number, 1)
    publisher.publish(f"{topic}/end", b"end", 1)
    parts = []
    for member in members:
        part = []
        while (got := member.messages.get(timeout=WITHIN)).topic == topic:
            part.append(int(got.payload))
        parts.append(part)
    assert sorted(parts[0] + parts[1]) == list(range(count)), f"not each message once: {parts}"
    assert all(parts), f"one member had all the work: {parts}"
    for member in members + [publisher]:
        member.leave()


def v5_properties():
    publisher, subscriber, topic = Member("speaker"), Member("listener"), f"tour/{NAME}/properties"
    subscriber.subscribe(topic, 1, identifier=7)
    users = [("unit", "°C"), ("unit", "K"), ("place", "boiler")]
    publisher.publish(topic, b"full", 1, more=properties(
        PacketTypes.PUBLISH, PayloadFormatIndicator=1, ContentType="text/plain", ResponseTopic=f"{topic}/answer",
        CorrelationData=b"\x00\x01\xff", MessageExpiryInterval=100, UserProperty=users))
    got = subscriber.take(topic, b"full", 1).properties
    assert got.UserProperty == users, got.UserProperty
    assert got.PayloadFormatIndicator == 1 and got.ContentType == "text/plain", got
    assert got.ResponseTopic == f"{topic}/answer" and got.CorrelationData == b"\x00\x01\xff", got
    assert 0 < got.MessageExpiryInterval <= 100, got
    assert got.SubscriptionIdentifier == [7], got
    for member in (publisher, subscriber):
        member.leave()


def topic_alias():
    publisher, subscriber, topic = Member("short"), Member("long"), f"tour/{NAME}/alias"
    subscriber.subscribe(topic, 1)
    alias = properties(PacketTypes.PUBLISH, TopicAlias=1)
    publisher.publish(topic, b"whole", 1, more=alias)
    # paho sends an empty topic as long as there is an alias; its own check of topics wants to be told.
    publisher.publish("", b"alias", 1, more=alias)
    subscriber.take(topic, b"whole", 1)
    subscriber.take(topic, b"alias", 1)
    for member in (publisher, subscriber):
        member.leave()


STEPS = [("connect", connect)]
STEPS += [(f"qos{qos}", lambda qos=qos: round_trip(qos)) for qos in (0, 1, 2)]
STEPS += [("retained", retained), ("will", will), ("resume", resume)]
if V5:
    STEPS += [("shared", shared), ("properties", v5_properties), ("topic-alias", topic_alias)]

for name, step in STEPS:
    try:
        step()
    except Exception as error:
        print(f"FAILED {name}: {type(error).__name__} {error}", flush=True)
        sys.exit(1)
    print(f"ok {name}", flush=True)

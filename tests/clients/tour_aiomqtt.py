"""The tour with aiomqtt (Python, asyncio), as home automation and services use it.

usage: tour_aiomqtt.py URL VERSION NAME [CA]     URL: mqtt://, mqtts://, ws:// or wss://; VERSION: 4 (3.1.1) or 5
Prints `ok STEP` for each step; the first that fails ends it with the reason and code 1.
"""

import asyncio
import contextlib
import socket
import sys
from urllib.parse import urlsplit

import aiomqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

# Seconds that any one step may take on a busy machine.
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


def member(role, clean=True, will=None):
    """A connection, made on entering and ended in order on leaving."""
    session = {"clean_session": clean}
    if V5:
        session = {"clean_start": clean}
        if not clean:
            session["properties"] = properties(PacketTypes.CONNECT, SessionExpiryInterval=300)
    websocket = URL.scheme in ("ws", "wss")
    return aiomqtt.Client(
        URL.hostname,
        URL.port,
        identifier=f"{NAME}-{role}",
        protocol=aiomqtt.ProtocolVersion(VERSION),
        transport="websockets" if websocket else "tcp",
        websocket_path=(URL.path or "/mqtt") if websocket else None,
        tls_params=aiomqtt.TLSParameters(ca_certs=CA) if URL.scheme in ("mqtts", "wss") else None,
        will=will,
        keepalive=30,
        timeout=WITHIN,
        **session,
    )


async def subscribe(client, topic, qos, identifier=None):
    more = {}
    if V5:
        more["options"] = SubscribeOptions(qos=qos)
        if identifier:
            more["properties"] = properties(PacketTypes.SUBSCRIBE, SubscriptionIdentifier=identifier)
    granted = await client.subscribe(topic, **(more or {"qos": qos}))
    values = [getattr(grant, "value", grant) for grant in granted]
    assert values == [qos], f"SUBACK {granted} for QoS {qos} of {topic}"


async def take(client, topic, payload, qos, retain=False):
    got = await anext(aiter(client.messages))
    found = (str(got.topic), got.payload, got.qos, bool(got.retain))
    assert found == (topic, payload, qos, retain), f"{found} instead of {(topic, payload, qos, retain)}"
    return got


async def connect():
    async with member("first"):
        pass


async def round_trip(qos):
    topic = f"tour/{NAME}/qos/{qos}/é"
    async with member(f"pub-{qos}") as publisher, member(f"sub-{qos}") as subscriber:
        await subscribe(subscriber, topic, qos)
        for payload in (EVERY_BYTE, b"", b"21.5"):
            await publisher.publish(topic, payload, qos)
            await take(subscriber, topic, payload, qos)


async def retained():
    topic, beside = f"tour/{NAME}/retained", f"tour/{NAME}/mark"
    async with member("keeper") as publisher, member("late") as late, member("later") as later:
        await publisher.publish(topic, b"first", 1, retain=True)
        await publisher.publish(topic, b"last", 1, retain=True)
        await subscribe(late, topic, 1)
        await take(late, topic, b"last", 1, retain=True)
        await publisher.publish(topic, b"live", 1, retain=True)
        await take(late, topic, b"live", 1, retain=False)
        await publisher.publish(topic, b"", 1, retain=True)
        await take(late, topic, b"", 1, retain=False)
        await subscribe(later, topic, 1)
        await subscribe(later, beside, 1)
        await publisher.publish(beside, b"nothing came before", 1)
        await take(later, beside, b"nothing came before", 1)


async def will():
    topic = f"tour/{NAME}/will"
    async with member("watcher") as watcher:
        await subscribe(watcher, topic, 1)
        async with member("orderly", will=aiomqtt.Will(topic, b"must not be sent", 1)):
            pass
        with contextlib.suppress(aiomqtt.MqttError):
            async with member("victim", will=aiomqtt.Will(topic, b"gone", 1)) as victim:
                # The library has no way to vanish: the socket is taken from the client that it wraps.
                end = socket.socket(fileno=socket.dup(victim._client.socket().fileno()))
                end.shutdown(socket.SHUT_RDWR)
                end.close()
                await anext(aiter(victim.messages))
        await take(watcher, topic, b"gone", 1)


async def resume():
    topic = f"tour/{NAME}/resume"
    async with member("sleeper", clean=False) as sleeper:
        await subscribe(sleeper, topic, 2)
    async with member("meanwhile") as publisher:
        for number, qos in enumerate(AWAY):
            await publisher.publish(topic, b"%d" % number, qos)
    # The library does not tell whether CONNACK said that the session is present: what comes without SUBSCRIBE shows it.
    async with member("sleeper", clean=False) as sleeper:
        for number, qos in enumerate(AWAY):
            await take(sleeper, topic, b"%d" % number, qos)
    async with member("sleeper", clean=True):
        pass


async def shared():
    topic, count = f"tour/{NAME}/shared", 20
    async with member("member-1") as one, member("member-2") as two, member("sharer") as publisher:
        for each in (one, two):
            await subscribe(each, f"$share/crew/{topic}", 1)
            await subscribe(each, f"{topic}/end", 1)
        for number in range(count):
            await publisher.publish(topic, b"%d" % number, 1)
        await publisher.publish(f"{topic}/end", b"end", 1)
        parts = []
        for each in (one, two):
            part = []
            async for got in each.messages:
                if str(got.topic) != topic:
                    break
                part.append(int(got.payload))
            parts.append(part)
        assert sorted(parts[0] + parts[1]) == list(range(count)), f"not each message once: {parts}"
        assert all(parts), f"one member had all the work: {parts}"


async def v5_properties():
    topic = f"tour/{NAME}/properties"
    users = [("unit", "°C"), ("unit", "K"), ("place", "boiler")]
    async with member("speaker") as publisher, member("listener") as subscriber:
        await subscribe(subscriber, topic, 1, identifier=7)
        await publisher.publish(topic, b"full", 1, properties=properties(
            PacketTypes.PUBLISH, PayloadFormatIndicator=1, ContentType="text/plain", ResponseTopic=f"{topic}/answer",
            CorrelationData=b"\x00\x01\xff", MessageExpiryInterval=100, UserProperty=users))
        got = (await take(subscriber, topic, b"full", 1)).properties
        assert got.UserProperty == users, got.UserProperty
        assert got.PayloadFormatIndicator == 1 and got.ContentType == "text/plain", got
        assert got.ResponseTopic == f"{topic}/answer" and got.CorrelationData == b"\x00\x01\xff", got
        assert 0 < got.MessageExpiryInterval <= 100, got
        assert got.SubscriptionIdentifier == [7], got


async def topic_alias():
    topic, alias = f"tour/{NAME}/alias", properties(PacketTypes.PUBLISH, TopicAlias=1)
    async with member("short") as publisher, member("long") as subscriber:
        await subscribe(subscriber, topic, 1)
        await publisher.publish(topic, b"whole", 1, properties=alias)
        await publisher.publish("", b"alias", 1, properties=alias)
        await take(subscriber, topic, b"whole", 1)
        await take(subscriber, topic, b"alias", 1)


STEPS = [("connect", connect)]
STEPS += [(f"qos{qos}", lambda qos=qos: round_trip(qos)) for qos in (0, 1, 2)]
STEPS += [("retained", retained), ("will", will), ("resume", resume)]
if V5:
    STEPS += [("shared", shared), ("properties", v5_properties), ("topic-alias", topic_alias)]

for name, step in STEPS:
    try:
        asyncio.run(asyncio.wait_for(step(), WITHIN))
    except Exception as error:
        print(f"FAILED {name}: {type(error).__name__} {error}", flush=True)
        sys.exit(1)
    print(f"ok {name}", flush=True)

// The tour with MQTT.js (Node), the client of dashboards and flows; the same code runs in browsers over WebSocket.
// It finds the package by NODE_PATH (tests/run installs it into target/clients).
//
// usage: tour_mqttjs.cjs URL VERSION NAME [CA]     URL: mqtt://, mqtts://, ws:// or wss://; VERSION: 4 (3.1.1) or 5
// Prints `ok STEP` for each step; the first that fails ends it with the reason and code 1.
"use strict";
const assert = require("node:assert/strict");
const fs = require("node:fs");
const { once } = require("node:events");
const mqtt = require("mqtt");

// Milliseconds that any one answer may take on a busy machine.
const WITHIN_MS = 30_000;
const [url, version, name, ca] = process.argv.slice(2);
const V5 = version === "5";
const EVERY_BYTE = Buffer.from(Array.from({ length: 768 }, (_, i) => i % 256));
// The QoS of what is sent while the subscriber is away.
const AWAY = [1, 1, 1, 2, 2, 2];

/** A connection whose messages are kept until somebody takes them. */
class Member {
  static async connect(role, options = {}) {
    const { clean = true, aliases = 0, will } = options;
    const member = new Member();
    member.waiting = [];
    member.kept = [];
    member.client = mqtt.connect(url, {
      clientId: `${name}-${role}`,
      protocolVersion: Number(version),
      clean,
      will,
      keepalive: 30,
      reconnectPeriod: 0,
      ca: ca && fs.readFileSync(ca),
      properties: V5 ? { topicAliasMaximum: aliases, sessionExpiryInterval: clean ? 0 : 300 } : undefined,
    });
    // Before CONNACK is handled: what waits for a session comes right behind it.
    member.client.on("message", (topic, payload, packet) => {
      // The packet is as it came: the library puts topics back beside it, where it got an alias.
      const got = { ...packet, topic };
      const taker = member.waiting.shift();
      taker ? taker(got) : member.kept.push(got);
    });
    [member.connack] = await once(member.client, "connect", { signal: AbortSignal.timeout(WITHIN_MS) });
    // A connection that is cut on purpose ends with an error or without one.
    member.client.on("error", () => {});
    return member;
  }

  async subscribe(topic, qos, identifier) {
    const properties = identifier ? { subscriptionIdentifier: identifier } : undefined;
    const granted = await this.client.subscribeAsync(topic, { qos, properties });
    assert.deepEqual(granted.map((each) => each.qos), [qos], `granted for ${topic}`);
  }

  publish(topic, payload, qos, more = {}) {
    return this.client.publishAsync(topic, payload, { qos, ...more });
  }

  next() {
    if (this.kept.length) return this.kept.shift();
    return new Promise((resolve) => this.waiting.push(resolve));
  }

  async take(topic, payload, qos, retain = false) {
    const got = await this.next();
    assert.deepEqual(
      { topic: got.topic, payload: got.payload.toString("latin1"), qos: got.qos, retain: got.retain },
      { topic, payload: Buffer.from(payload).toString("latin1"), qos, retain },
    );
    return got;
  }

  leave() {
    return this.client.endAsync();
  }

  // Ends the connection without DISCONNECT.
  async vanish() {
    const closed = once(this.client, "close");
    this.client.stream.destroy();
    await closed;
  }
}

async function connect() {
  const member = await Member.connect("first");
  assert.equal(V5 ? member.connack.reasonCode : member.connack.returnCode, 0);
  await member.leave();
}

async function roundTrip(qos) {
  const [publisher, subscriber] = [await Member.connect(`pub-${qos}`), await Member.connect(`sub-${qos}`)];
  const topic = `tour/${name}/qos/${qos}/é`;
  await subscriber.subscribe(topic, qos);
  for (const payload of [EVERY_BYTE, "", "21.5"]) {
    await publisher.publish(topic, payload, qos);
    await subscriber.take(topic, payload, qos);
  }
  await publisher.leave();
  await subscriber.leave();
}

async function retained() {
  const [topic, beside] = [`tour/${name}/retained`, `tour/${name}/mark`];
  const publisher = await Member.connect("keeper");
  await publisher.publish(topic, "first", 1, { retain: true });
  await publisher.publish(topic, "last", 1, { retain: true });
  const late = await Member.connect("late");
  await late.subscribe(topic, 1);
  await late.take(topic, "last", 1, true);
  await publisher.publish(topic, "live", 1, { retain: true });
  await late.take(topic, "live", 1, false);
  await publisher.publish(topic, "", 1, { retain: true });
  await late.take(topic, "", 1, false);
  const later = await Member.connect("later");
  await later.subscribe(topic, 1);
  await later.subscribe(beside, 1);
  await publisher.publish(beside, "nothing came before", 1);
  await later.take(beside, "nothing came before", 1);
  for (const member of [publisher, late, later]) await member.leave();
}

async function will() {
  const topic = `tour/${name}/will`;
  const watcher = await Member.connect("watcher");
  await watcher.subscribe(topic, 1);
  const last = (payload) => ({ will: { topic, payload, qos: 1, retain: false } });
  await (await Member.connect("orderly", last("must not be sent"))).leave();
  await (await Member.connect("victim", last("gone"))).vanish();
  await watcher.take(topic, "gone", 1);
  await watcher.leave();
}

async function resume() {
  const topic = `tour/${name}/resume`;
  let sleeper = await Member.connect("sleeper", { clean: false });
  assert.equal(sleeper.connack.sessionPresent, false, "a new session is said to be present");
  await sleeper.subscribe(topic, 2);
  await sleeper.leave();
  const publisher = await Member.connect("meanwhile");
  for (const [number, qos] of AWAY.entries()) await publisher.publish(topic, `${number}`, qos);
  await publisher.leave();
  sleeper = await Member.connect("sleeper", { clean: false });
  assert.equal(sleeper.connack.sessionPresent, true, "the session is gone");
  for (const [number, qos] of AWAY.entries()) await sleeper.take(topic, `${number}`, qos);
  await sleeper.leave();
  sleeper = await Member.connect("sleeper");
  assert.equal(sleeper.connack.sessionPresent, false, "a clean start found a session");
  await sleeper.leave();
}

async function shared() {
  const [topic, count] = [`tour/${name}/shared`, 20];
  const members = [await Member.connect("member-1"), await Member.connect("member-2")];
  for (const member of members) {
    await member.subscribe(`$share/crew/${topic}`, 1);
    await member.subscribe(`${topic}/end`, 1);
  }
  const publisher = await Member.connect("sharer");
  for (let number = 0; number < count; number++) await publisher.publish(topic, `${number}`, 1);
  await publisher.publish(`${topic}/end`, "end", 1);
  const parts = [];
  for (const member of members) {
    const part = [];
    for (let got = await member.next(); got.topic === topic; got = await member.next()) part.push(Number(got.payload));
    parts.push(part);
  }
  const all = parts.flat().sort((a, b) => a - b);
  assert.deepEqual(all, Array.from({ length: count }, (_, i) => i), `not each message once: ${JSON.stringify(parts)}`);
  assert(parts.every((part) => part.length), `one member had all the work: ${JSON.stringify(parts)}`);
  for (const member of [...members, publisher]) await member.leave();
}

async function properties() {
  const topic = `tour/${name}/properties`;
  const [publisher, subscriber] = [await Member.connect("speaker"), await Member.connect("listener")];
  await subscriber.subscribe(topic, 1, 7);
  const sent = {
    payloadFormatIndicator: true,
    contentType: "text/plain",
    responseTopic: `${topic}/answer`,
    correlationData: Buffer.from([0, 1, 255]),
    messageExpiryInterval: 100,
    userProperties: { unit: ["°C", "K"], place: "boiler" },
  };
  await publisher.publish(topic, "full", 1, { properties: sent });
  const got = { ...(await subscriber.take(topic, "full", 1)).properties };
  assert(got.messageExpiryInterval > 0 && got.messageExpiryInterval <= 100, `expiry ${got.messageExpiryInterval}`);
  got.messageExpiryInterval = 100;
  got.userProperties = { ...got.userProperties };
  assert.deepEqual(got, { ...sent, subscriptionIdentifier: 7 });
  await publisher.leave();
  await subscriber.leave();
}

async function topicAlias() {
  const topic = `tour/${name}/alias`;
  // The subscriber takes aliases too.
  const [publisher, subscriber] = [await Member.connect("short"), await Member.connect("long", { aliases: 8 })];
  await subscriber.subscribe(topic, 2);
  for (const qos of [1, 2]) {
    await publisher.publish(topic, "whole", qos, { properties: { topicAlias: 1 } });
    await publisher.publish("", "alias", qos, { properties: { topicAlias: 1 } });
    await subscriber.take(topic, "whole", qos);
    await subscriber.take(topic, "alias", qos);
  }
  await publisher.leave();
  await subscriber.leave();
}

const steps = [["connect", connect]];
for (const qos of [0, 1, 2]) steps.push([`qos${qos}`, () => roundTrip(qos)]);
steps.push(["retained", retained], ["will", will], ["resume", resume]);
if (V5) steps.push(["shared", shared], ["properties", properties], ["topic-alias", topicAlias]);

async function within(step) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`nothing happens within ${WITHIN_MS} ms`)), WITHIN_MS);
  });
  await Promise.race([step(), late]);
  clearTimeout(timer);
}

(async () => {
  for (const [step, run] of steps) {
    try {
      await within(run);
    } catch (error) {
      console.log(`FAILED ${step}: ${error.message}`);
      process.exit(1);
    }
    console.log(`ok ${step}`);
  }
  process.exit(0);
})();

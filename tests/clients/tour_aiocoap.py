"""The tour with aiocoap (Python) and OSCORE: publishing, blocks both ways, observing, over a restart of the gateway.

usage: tour_aiocoap.py URL CONTEXT                URL: coap://HOST:PORT; CONTEXT: a folder with settings.json
Prints `ok STEP` for each step; the first that fails ends it with the reason and code 1. At `restart` it prints `now restart` and
waits for a line on its standard input: meanwhile the gateway is killed and started again.
"""

import asyncio
import sys

import aiocoap
from aiocoap.credentials import CredentialsMap
from aiocoap.numbers.codes import Code
from aiocoap.oscore import FilesystemSecurityContext

# Seconds that any one step may take on a busy machine: four repetitions of a lost message.
WITHIN = 60

URL, CONTEXT = sys.argv[1], sys.argv[2]
TOPIC = f"{URL}/t/sensors/boiler-3"
# More than a block of 1,024 bytes.
LARGE = bytes(index % 251 for index in range(5_000))


async def ask(client, code, uri, payload=b"", expected=Code.CHANGED):
    answer = await asyncio.wait_for(client.request(aiocoap.Message(code=code, uri=uri, payload=payload)).response, WITHIN)
    assert answer.code is expected, f"{uri}: {answer.code} {answer.payload!r}"
    return answer


async def confirmable(client):
    await ask(client, Code.POST, f"{TOPIC}/temperature", b"71.5")
    await ask(client, Code.PUT, f"{TOPIC}/temperature?retain=1", b"71.6")


async def read(client):
    answer = await ask(client, Code.GET, f"{TOPIC}/temperature", expected=Code.CONTENT)
    assert answer.payload == b"71.6", answer.payload


async def rights(client):
    await ask(client, Code.POST, f"{URL}/t/sensors/boiler-4/temperature", b"1", expected=Code.FORBIDDEN)
    await ask(client, Code.GET, f"{URL}/nowhere", expected=Code.NOT_FOUND)


async def non_confirmable(client):
    # Nothing is promised for one, so that it is looked for until it is there.
    message = aiocoap.Message(code=Code.POST, uri=f"{TOPIC}/non?retain=1", payload=b"non", transport_tuning=aiocoap.Unreliable)
    client.request(message)
    for _ in range(20):
        message = aiocoap.Message(code=Code.GET, uri=f"{TOPIC}/non")
        answer = await asyncio.wait_for(client.request(message).response, WITHIN)
        if answer.payload == b"non":
            return
    raise AssertionError("it never came")


async def blocks(client):
    await ask(client, Code.POST, f"{TOPIC}/large?retain=1", LARGE)
    answer = await ask(client, Code.GET, f"{TOPIC}/large", expected=Code.CONTENT)
    assert answer.payload == LARGE, len(answer.payload)


async def observe(client, name):
    """Every value that is published arrives, in order."""
    message = aiocoap.Message(code=Code.GET, uri=f"{TOPIC}/{name}", observe=0)
    observing = client.request(message)
    await asyncio.wait_for(observing.response, WITHIN)
    notifications = observing.observation.__aiter__()
    for value in range(5):
        await ask(client, Code.POST, f"{TOPIC}/{name}", str(value).encode())
        notification = await asyncio.wait_for(notifications.__anext__(), WITHIN)
        assert notification.payload == str(value).encode(), (value, notification.payload)
    observing.observation.cancel()


async def restart(client):
    print("now restart", flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
    await ask(client, Code.POST, f"{TOPIC}/temperature", b"after")
    await observe(client, "after")


async def stranger(client):
    """Without the key the device's name is worth nothing."""
    plain = await aiocoap.Context.create_client_context()
    await ask(plain, Code.POST, f"{URL}/telemetry/t/boiler-3", b"1", expected=Code.UNAUTHORIZED)
    await plain.shutdown()


async def main():
    client = await aiocoap.Context.create_client_context()
    credentials = CredentialsMap()
    credentials[f"{URL}/*"] = FilesystemSecurityContext(basedir=CONTEXT)
    client.client_credentials = credentials
    steps = {
        "confirmable": confirmable,
        "read": read,
        "rights": rights,
        "non-confirmable": non_confirmable,
        "blocks": blocks,
        "observe": lambda client: observe(client, "observed"),
        "stranger": stranger,
        "restart": restart,
    }
    for name, step in steps.items():
        try:
            await step(client)
        except Exception as error:
            print(f"FAILED {name}: {error!r}", flush=True)
            sys.exit(1)
        print(f"ok {name}", flush=True)
    await client.shutdown()


asyncio.run(main())

"""aiocoap's tour: CON and NON, discovery, blocks both ways, conditions, Observe, commands. One line a step; an error ends it.

Usage: tour_aiocoap.py coap://HOST:PORT
"""

import asyncio
import sys

import aiocoap
from aiocoap import Code, Message, NON


def need(what, wanted, got):
    if wanted != got:
        sys.exit(f"{what}: {got!r} instead of {wanted!r}")


async def main(base):
    context = await aiocoap.Context.create_client_context()

    async def ask(code, path, payload=b"", **options):
        message = Message(code=code, uri=base + path, payload=payload)
        for name, value in options.items():
            if name == "mtype":
                message.mtype = value
            else:
                setattr(message.opt, name, value)
        return await context.request(message).response

    response = await ask(Code.POST, "/t/sensors/aiocoap/x", b"21.5")
    need("con", Code.CHANGED, response.code)
    print("ok con")
    response = await ask(Code.PUT, "/ps/sensors/aiocoap/x", b"21.6", mtype=NON)
    need("non", Code.CHANGED, response.code)
    print("ok non")

    response = await ask(Code.GET, "/.well-known/core")
    need("format", 40, int(response.opt.content_format))
    need("links", True, b"</ps>;rt=core.ps;obs" in response.payload)
    print("ok discovery")

    body = bytes(ord("a") + n * 7 % 23 for n in range(100_000))
    response = await ask(Code.PUT, "/ps/sensors/aiocoap/body?retain=1", body, content_format=60)
    need("upload", Code.CHANGED, response.code)
    response = await ask(Code.GET, "/ps/sensors/aiocoap/body")
    need("download", (Code.CONTENT, 60, body), (response.code, int(response.opt.content_format), response.payload))
    response = await ask(Code.POST, "/ps/sensors/aiocoap/body", b"x" * ((1 << 20) + 1))
    need("beyond", Code.REQUEST_ENTITY_TOO_LARGE, response.code)
    # The largest body that is taken, and the smallest blocks there are, both ways.
    body = bytes(ord("a") + n * 7 % 23 for n in range(1 << 20))
    response = await ask(Code.PUT, "/ps/sensors/aiocoap/large?retain=1", body)
    need("largest upload", Code.CHANGED, response.code)
    need("largest download", body, (await ask(Code.GET, "/ps/sensors/aiocoap/large")).payload)
    body = body[:3_000]
    response = await ask(Code.PUT, "/ps/sensors/aiocoap/small?retain=1", body, block1=(0, False, 0))
    need("upload by 16", Code.CHANGED, response.code)
    response = await ask(Code.GET, "/ps/sensors/aiocoap/small", block2=(0, False, 0))
    need("download by 16", (body, 0), (response.payload, response.opt.block2.size_exponent))
    print("ok blocks")

    tag = (await ask(Code.GET, "/ps/sensors/aiocoap/body")).opt.etag
    response = await ask(Code.GET, "/ps/sensors/aiocoap/body", etags=[tag])
    need("etag", (Code.VALID, b""), (response.code, response.payload))
    response = await ask(Code.PUT, "/ps/sensors/aiocoap/body", b"x", if_none_match=True)
    need("if-none-match", Code.PRECONDITION_FAILED, response.code)
    response = await ask(Code.GET, "/ps/sensors/aiocoap/body", accept=50)
    need("accept", Code.NOT_ACCEPTABLE, response.code)
    response = await ask(Code.FETCH, "/ps/sensors/aiocoap/body", b"x")
    need("fetch", Code.METHOD_NOT_ALLOWED, response.code)
    response = await ask(Code.DELETE, "/ps/sensors/aiocoap/body")
    need("delete", Code.DELETED, response.code)
    response = await ask(Code.GET, "/ps/sensors/aiocoap/body")
    need("gone", Code.NOT_FOUND, response.code)
    print("ok conditions")

    request = context.request(Message(code=Code.GET, uri=base + "/ps/sensors/aiocoap/watched", observe=0))
    need("observe", Code.CONTENT, (await request.response).code)
    seen = aiter(request.observation)
    large = b"y" * 5_000
    for value in [b"1", b"2", large, b"3"]:
        response = await ask(Code.POST, "/t/sensors/aiocoap/watched", value)
        need("publish", Code.CHANGED, response.code)
        need("notified", value, (await asyncio.wait_for(anext(seen), 30)).payload)
    request.observation.cancel()
    print("ok observe")

    request = context.request(Message(code=Code.GET, uri=base + "/command/t/pump-1", observe=0))
    need("commands", Code.CONTENT, (await request.response).code)
    seen = aiter(request.observation)
    response = await ask(Code.POST, "/t/commands/pump-1/speed", b"9")
    need("command", Code.CHANGED, response.code)
    command = await asyncio.wait_for(anext(seen), 30)
    need("command", (b"9", ("hono-command=speed",)), (command.payload, command.opt.location_query))
    answer = "/" + "/".join(["command_response", "t", "pump-1", command.opt.location_path[-1]])
    response = await ask(Code.POST, answer + "?hono-cmd-status=200", b"done")
    need("answer", Code.CHANGED, response.code)
    print("ok command")
    await context.shutdown()


asyncio.run(main(sys.argv[1]))

"""aiocoap as an observer that does not give up: prints each value, and asks anew when it has heard nothing for a while, or when
asking came to nothing, for a gateway that was restarted knows nothing of it.

Usage: observe_aiocoap.py coap://HOST:PORT/PATH
"""

import asyncio
import sys

import aiocoap
from aiocoap import Code, Message

SILENCE_SECONDS = 2


async def watch(context, uri):
    request = context.request(Message(code=Code.GET, uri=uri, observe=0))
    try:
        response = await asyncio.wait_for(request.response, 4)
        print(response.payload.decode(), flush=True)
        notifications = aiter(request.observation)
        while True:
            response = await asyncio.wait_for(anext(notifications), SILENCE_SECONDS)
            print(response.payload.decode(), flush=True)
    finally:
        if not request.observation.cancelled:
            request.observation.cancel()


async def main(uri):
    context = await aiocoap.Context.create_client_context()
    while True:
        try:
            await watch(context, uri)
        except (asyncio.TimeoutError, aiocoap.error.Error, StopAsyncIteration):
            pass


asyncio.run(main(sys.argv[1]))

"""A server with aiocoap (Python) that takes what is posted under /t with OSCORE, and nothing without.

usage: server_aiocoap.py PORT CONTEXT             CONTEXT: a folder with settings.json
Prints `ready`, then each payload it takes on a line of its own. Ends with its standard input.
"""

import asyncio
import sys

import aiocoap
from aiocoap import resource
from aiocoap.credentials import CredentialsMap
from aiocoap.numbers.codes import Code
from aiocoap.oscore import FilesystemSecurityContext
from aiocoap.oscore_sitewrapper import OscoreSiteWrapper


class Taking(resource.Resource):
    async def render_post(self, request):
        if not getattr(request.remote, "authenticated_claims", None):
            return aiocoap.Message(code=Code.UNAUTHORIZED)
        print(request.payload.decode(), flush=True)
        return aiocoap.Message(code=Code.CHANGED)


async def main():
    site = resource.Site()
    site.add_resource(["t"], Taking())
    credentials = CredentialsMap()
    context = FilesystemSecurityContext(basedir=sys.argv[2])
    context.authenticated_claims = ["device"]
    credentials[":device"] = context
    server = await aiocoap.Context.create_server_context(
        OscoreSiteWrapper(site, credentials), bind=("127.0.0.1", int(sys.argv[1])), server_credentials=credentials
    )
    print("ready", flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    await server.shutdown()


asyncio.run(main())

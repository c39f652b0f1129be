"""A relay that stops as uvicorn does, as a control: restarts must make requests fail."""

import sys

from relay.cli import main
from relay.server.http_server import HttpServer


async def drain(self, grace=5.0):
    self.should_exit = True
    await self.shutdown(sockets=[self._listener])
    await self._main_loop


if __name__ == "__main__":
    HttpServer.drain = drain
    main(sys.argv[1:])

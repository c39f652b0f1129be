"""The baseline of the ingress: a route that only answers JSON, on uvicorn as it comes.

`python bare.py PORT`
"""

import sys

import uvicorn
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route


async def callback(_):
    return JSONResponse(
        {"id": "019aaf3e-7b7c-7000-8000-000000000000", "type": "com.sumotext.web_form"}
    )


app = Starlette(routes=[Route("/callbacks/{source}", callback)])

if __name__ == "__main__":
    uvicorn.run(
        app,
        host="127.0.0.1",
        port=int(sys.argv[1]),
        loop="uvloop",
        http="httptools",
        log_level="warning",
        access_log=False,
    )

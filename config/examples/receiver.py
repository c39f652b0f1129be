"""A receiver to try the `webhook` sink with: checks each signature, and prints what came.

    python config/examples/receiver.py data/hook.secret 9000

The first argument names the file with the secret, the second the port. One of your own does the
same three things: check the signature, leave out what it has already, answer 2xx when it is safe.
"""

import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from standardwebhooks import Webhook, WebhookVerificationError

webhook = Webhook(Path(sys.argv[1]).read_text().strip())
seen = set()


class Receiver(BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        try:
            event = webhook.verify(body, dict(self.headers))
        except WebhookVerificationError:
            print("refused: the signature does not fit", flush=True)
            self.answer(401)
            return
        known = "again" if event["id"] in seen else "new"
        seen.add(event["id"])
        line = f"{known} {event['type']} {event['data']['mobile'][-4:]} {event['id']}\n"
        print(line, end="", flush=True)  # in one go, as others print at the same time
        self.answer(204)

    def answer(self, status):
        self.send_response(status)
        self.end_headers()

    def log_message(self, *args):
        """What is printed above is enough."""


print("waiting for events", flush=True)
try:
    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[2])), Receiver).serve_forever()
except KeyboardInterrupt:
    print()

# ruff: noqa: ARG002  a method takes what the relay gives it, as a user writes it
"""Texter, a made-up vendor: JSON arrays of messages, signed over the raw body.

sources:
  texter: {plugin: texter, options: {secrets: ["${TEXTER_SECRET}"]}}
"""

import hashlib
import hmac
import json

import pydantic

import relay


class Options(relay.Options):
    secrets: list[relay.Key] = pydantic.Field(min_length=1)


class Texter(relay.Source):
    Options = Options
    kinds = ("message",)
    authenticates = True

    def verify(self, request):
        given = request.headers.get("x-texter-signature", "")
        known = [self._signature(secret, request.body) for secret in self.options.secrets]
        if not any(hmac.compare_digest(given.encode(), each.encode()) for each in known):
            raise relay.Unauthorized("the signature is wrong or missing")
        return relay.Answer("Texter may come") if request.method == "GET" else None

    def split(self, callback):
        found = relay.json_of(callback)
        if isinstance(found, dict):
            return [callback.body]
        return [json.dumps(each).encode() for each in found]

    def parse(self, callback):
        given = relay.json_of(callback)
        number = relay.e164(given.get("from", ""), "US")
        if number is None:
            raise relay.InvalidCallback("`from` is no number")
        text = given["text"]
        return self.event(
            callback,
            type="com.texter.message",
            data={"sender": number, "words": text},
            contact=number,
            consent=relay.OPT_OUT if text.strip().upper() == "STOP" else None,
            dedup_key=given["id"],
            topic=text.split()[0],
        )

    def answer(self, results):
        return relay.Answer(" ".join(map(self._word, results)), status=202)

    def refusal(self, status, detail):
        return relay.Answer(f"<error>{detail}</error>", content_type="text/xml")

    def sample(self, kind, number, values, url):
        content = {"id": "sample-1", "from": number, "text": "JOIN", **dict(values)}
        body = json.dumps([content]).encode()
        signature = self._signature(self.options.secrets[0], body)
        return relay.Outgoing(
            body=body,
            content_type="application/json",
            headers={"X-Texter-Signature": signature},
        )

    def _word(self, result):
        if isinstance(result, relay.Invalid):
            return "unclear"
        return "again" if result.repeated else "kept"

    def _signature(self, secret, body):
        return hmac.new(secret.get_secret_value().encode(), body, hashlib.sha256).hexdigest()


@relay.hookimpl
def register_sources(register):
    register("texter", Texter)

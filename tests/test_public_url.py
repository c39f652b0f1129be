"""The URL that a source verifies is the one that its sender called."""

import logging
import ssl
from ipaddress import ip_network
from types import SimpleNamespace

import pytest
from certificates import certify
from crowd import crowd

from relay import Answer, Source
from relay.config.loader import SourceConfig
from relay.server import ingress
from relay.server.access import TrustedProxies
from relay.server.connections import ConnectionLimiter

PROXY, STRANGER = 9, 8
"""The last part of the sender's address."""
TARGET = b"/callbacks/mine/a-token?x=%2B1&y=a+b"
HTTPS = b"X-Forwarded-Proto: https\r\n"


class Mine(Source):
    """Answers with the URL, and stores nothing."""

    def verify(self, request):
        return Answer(request.url)

    def parse(self, callback):
        raise NotImplementedError


def application(public_url=None):
    config = SimpleNamespace(
        sources={"mine": SourceConfig(plugin="mine", public_url=public_url)},
        source_plugins={"mine": Mine("mine", None, logging.getLogger("test"))},
    )
    return ingress.app(SimpleNamespace(now=lambda: 0), config)


async def url(target=TARGET, *headers, sender=STRANGER, public_url=None, host=b"a.example", **tls):
    """The URL that the source is given."""
    proxies = TrustedProxies([ip_network(f"127.0.0.{PROXY}/32")])
    limiter = ConnectionLimiter(total=10, per_client=5, proxies=proxies)
    options = {"tls": tls.pop("certificate")} if tls else {}
    lines = b"".join([b"Host: %s\r\n" % host, b"Connection: close\r\n", *headers])
    async with crowd(application(public_url), limiter=limiter, **options) as clients:
        if options:
            context = ssl.create_default_context(cafile=str(options["tls"][0]))
            reader, writer = await clients.open(sender, ssl=context, server_hostname="localhost")
        else:
            reader, writer = await clients.open(sender)
        writer.write(b"GET %s HTTP/1.1\r\n%s\r\n" % (target, lines))
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 ")
        return body.decode()


SHOWN = "://a.example" + TARGET.decode()


@pytest.mark.parametrize(
    ("sender", "headers", "scheme"),
    [
        (STRANGER, [], "http"),
        (PROXY, [], "http"),
        (PROXY, [HTTPS], "https"),
        (PROXY, [b"X-Forwarded-Proto: HTTPS\r\n"], "https"),
        (PROXY, [b"X-Forwarded-Proto: http\r\n"], "http"),
        # One that is no scheme, or two of them, say nothing.
        (PROXY, [b"X-Forwarded-Proto: ftp\r\n"], "http"),
        (PROXY, [b"X-Forwarded-Proto: https, http\r\n"], "http"),
        (PROXY, [HTTPS, b"X-Forwarded-Proto: http\r\n"], "http"),
        # Who is no trusted proxy may claim what it likes.
        (STRANGER, [HTTPS], "http"),
        # The Host header counts, no header about another one.
        (PROXY, [HTTPS, b"X-Forwarded-Host: b.example\r\n"], "https"),
        (PROXY, [HTTPS, b"Forwarded: host=b.example;proto=http\r\n"], "https"),
    ],
)
async def test_the_scheme_is_the_one_that_a_trusted_proxy_was_called_by(sender, headers, scheme):
    assert await url(TARGET, *headers, sender=sender) == scheme + SHOWN


async def test_without_a_proxy_the_scheme_is_the_listener_s(tmp_path):
    assert await url(certificate=certify(tmp_path)) == "https" + SHOWN


@pytest.mark.parametrize(
    ("target", "host", "found"),
    [
        (b"/callbacks/mine", b"a.example:8443", "http://a.example:8443/callbacks/mine"),
        (b"/callbacks/mine/", b"A.example", "http://A.example/callbacks/mine/"),
        (b"/callbacks/mine?b=1&a=%41", b"[::1]:80", "http://[::1]:80/callbacks/mine?b=1&a=%41"),
        (b"/callbacks/m%69ne/a%20b", b"a", "http://a/callbacks/m%69ne/a%20b"),
        (b"/callbacks/mine&a=1?b=2", b"a", "http://a/callbacks/mine&a=1?b=2"),
    ],
)
async def test_the_url_stays_as_it_came(target, host, found):
    assert await url(target, host=host) == found


@pytest.mark.parametrize("sender", [PROXY, STRANGER])
@pytest.mark.parametrize(
    ("public_url", "target", "found"),
    [
        ("https://b.example/sms", TARGET, "https://b.example/sms/a-token?x=%2B1&y=a+b"),
        ("https://b.example/sms/", TARGET, "https://b.example/sms/a-token?x=%2B1&y=a+b"),
        ("https://b.example/sms", b"/callbacks/mine?a=1", "https://b.example/sms?a=1"),
        ("https://b.example/sms", b"/callbacks/mine&a=1?b=2", "https://b.example/sms&a=1?b=2"),
        (
            "https://b.example/callbacks/mine",
            b"/callbacks/mine",
            "https://b.example/callbacks/mine",
        ),
    ],
)
async def test_public_url_stands_for_all_up_to_the_name(sender, public_url, target, found):
    assert await url(target, HTTPS, sender=sender, public_url=public_url) == found

"""`relay send`: a callback, as Sumotext would send it."""

import click
import httpx

from relay.cli import options, samples
from relay.cli.output import print_json
from relay.config.interpolate import PLACEHOLDER
from relay.config.loader import Config

TIMEOUT = 30.0
FORM = {"Content-Type": "application/x-www-form-urlencoded"}
ANYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104  dialled, not bound


@click.command()
@click.argument("kind", type=click.Choice(list(samples.SAMPLES)))
@click.argument("pairs", nargs=-1, type=samples.pair, metavar="[NAME=VALUE]…")
@options.config
@options.as_json
@click.option("--source", help="The source; the first of relay.yaml unless told.")
@click.option("--post", is_flag=True, help="As a form, not as a query.")
@click.option("--real", is_flag=True, help="Not marked as a test: CRM sinks take it too.")
def send(
    kind: str,
    pairs: tuple[tuple[str, str], ...],
    config: Config,
    as_json: bool,
    source: str | None,
    post: bool,
    real: bool,
) -> None:
    """Send a callback to the running relay, as Sumotext would.

    The contact's number is read from standard input, or asked for. What else the callback
    says can be set: relay send web_form Name=Bill msg=STOP
    """
    source = options.source_name(config, source)
    headers = token_header(config, source)
    if not real:
        headers["X-Relay-Test"] = "true"
    number = samples.contact_number(needed=real)
    answer = post_or_get(
        config, source, headers, samples.callback_of(kind, pairs, number), post=post
    )
    if as_json:
        print_json(answer)
    else:
        click.echo(f"Stored as {answer['type']}, event {answer['id']}.")


def post_or_get(
    config: Config,
    source: str,
    headers: dict[str, str],
    pairs: samples.Pairs,
    *,
    post: bool = False,
) -> dict[str, str]:
    """Send a callback; what the relay answers. Raises ClickException unless it took it."""
    url = _url(config, source)
    # The certificate names the public host and not this address; nothing leaves the machine.
    with httpx.Client(verify=False, trust_env=False, timeout=TIMEOUT, headers=headers) as http:  # noqa: S501
        try:
            if post:
                response = http.post(url, content=samples.encoded(pairs), headers=FORM)
            else:
                response = http.get(f"{url}?{samples.encoded(pairs)}")
        except httpx.TransportError as error:
            listen = config.server.listen
            raise click.ClickException(
                f"nothing answers at {listen}: is the relay running? (relay run)"
            ) from error
    try:
        answer = response.json()
    except ValueError:
        raise click.ClickException(f"what answers at {config.server.listen} is no relay") from None
    if not response.is_success:
        raise click.ClickException(f"refused with {response.status_code}: {answer['detail']}")
    return dict(answer)


def _url(config: Config, source: str) -> str:
    listen = config.server.listen
    host = ANYWHERE.get(listen.host, listen.host)
    host = f"[{host}]" if ":" in host else host
    return f"http{'s' if config.server.tls else ''}://{host}:{listen.port}/callbacks/{source}"


def token_header(config: Config, source: str) -> dict[str, str]:
    """What makes the listener take it. Raises ClickException where no token is known here."""
    tokens = [token.get_secret_value() for token in config.sources[source].tokens]
    for token in tokens:
        if not PLACEHOLDER.search(token):
            return {"X-Relay-Token": token}
    if tokens and (unset := PLACEHOLDER.search(tokens[0])):
        raise click.ClickException(
            f"the token {unset[0]} is not known here: set it for this command as for the relay"
        )
    return {}

"""The refusals of a sign-in: what is done about each, by the flow that the sink signs in with.

The errors are those of "OAuth 2.0 Client Credentials Flow" and "OAuth 2.0 JWT Bearer Flow", with
the descriptions that users have recorded; `invalid_grant` commonly comes without one.
"""

from relay.crm import Action, Rule

APP = "in the External Client App's OAuth policies"
HOUR_LIMIT_PROBE = 300.0
"""Seconds to the next sign-in, where a user has had 3,600 of them within an hour."""


def _code(code: str) -> frozenset[str]:
    return frozenset({code})


GRANT = _code("invalid_grant")


def _rules(user: str, grant: str, client: str, flow: str, rest: str) -> tuple[Rule, ...]:
    """The table of one flow: its user, and the advice for what another flow would mean by it."""
    rate = (
        f"{user} has signed in more than 3,600 times within an hour, which the relay does not: the"
        " Login History of the user names the other program; give each a user of its own"
    )
    return (
        Rule(Action.RETRY, frozenset({408, 420, 429, *range(500, 600)})),
        Rule(Action.RETRY, code=_code("rate_limit_exceeded"), after=60.0, advice=rate),
        Rule(Action.PAUSE, text="login rate exceeded", after=HOUR_LIMIT_PROBE, advice=rate),
        Rule(
            Action.PAUSE, code=GRANT, text="no client credentials user",
            advice=f"choose a Run As user {APP}",
        ),
        Rule(
            Action.PAUSE, code=GRANT, text="not supported on this domain",
            advice="login_url should be your My Domain, https://NAME.my.salesforce.com",
        ),
        Rule(
            Action.PAUSE, code=GRANT, text="hasn't approved this consumer",
            advice=f'set "Admin approved users are pre-authorized" {APP}, with a permission set of'
            f" {user}",
        ),
        Rule(Action.PAUSE, code=GRANT, text="inactive", advice=f"activate {user}"),
        Rule(Action.PAUSE, code=GRANT, advice=grant),
        Rule(Action.PAUSE, code=_code("invalid_client_id"), advice="correct client_id"),
        Rule(Action.PAUSE, code=_code("invalid_client"), advice=client),
        Rule(
            Action.PAUSE, code=_code("invalid_app_access"),
            advice=f"approve the app for {user} (a permission set)",
        ),
        Rule(
            Action.PAUSE, code=_code("unsupported_grant_type"), advice=f"enable the {flow} {APP}"
        ),
        Rule(Action.PAUSE, code=_code("inactive_user"), advice=f"activate {user}"),
        Rule(Action.PAUSE, code=_code("inactive_org"), advice="the org is closed or moved"),
        Rule(Action.PAUSE, advice=f"correct {rest}"),
    )  # fmt: skip


CLIENT_CREDENTIALS_RULES = _rules(
    user="the app's Run As user",
    grant=f"check that the client credentials flow is enabled {APP}, that its Run As user is"
    " active and may use the API, and that login_url is the org's own My Domain",
    client="correct client_id or client_secret",
    flow="client credentials flow",
    rest="login_url, client_id and client_secret",
)
JWT_RULES = _rules(
    user="jwt.username",
    grant="check jwt.username, jwt.key against the app's certificate, jwt.audience and the clock"
    " of this machine",
    client="correct client_id, or jwt.key against the app's certificate",
    flow="JWT bearer flow",
    rest="login_url, client_id and jwt",
)

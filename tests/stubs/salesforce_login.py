"""How one signs in to the Salesforce stub: with a secret, or with an assertion.

Help pages "OAuth 2.0 Client Credentials Flow" and "OAuth 2.0 JWT Bearer Flow"; the errors are as
users have recorded them.
"""

import base64
import binascii
import secrets
from collections.abc import Callable, Mapping
from urllib.parse import parse_qsl

import jwt
from starlette.requests import Request
from starlette.responses import Response
from stubs.vendor import answer

JWT_GRANT = "urn:ietf:params:oauth:grant-type:jwt-bearer"
AUDIENCES = ("https://login.salesforce.com", "https://test.salesforce.com")
LONGEST_ASSERTION = 180


class Login:
    """The token endpoint and the sessions that it began.

    `generic_hosts`: login hosts that know no client credentials. `instance_url`: where data is to
    be asked for, if not where the token was. `jwt_key`: the certificate's public key as PEM;
    `username`: whom it may sign in. `sign_ins` counts the tokens given.
    """

    def __init__(
        self,
        client_id: str,
        client_secret: str,
        jwt_key: str | bytes | None,
        username: str,
        clock: Callable[[], float],
    ) -> None:
        self.client_id = client_id
        self.client_secret = client_secret
        self.jwt_key = jwt_key
        self.username = username
        self.instance_url: str | None = None
        self.generic_hosts = {"login.salesforce.com", "test.salesforce.com"}
        self.tokens: set[str] = set()
        self.sign_ins = 0
        self._clock = clock
        self._refusal: tuple[str, str | None] | None = None

    def refuse_sign_in(self, error: str, description: str | None = None) -> None:
        """Whoever signs in hears this, until `allow_sign_in`."""
        self._refusal = error, description

    def allow_sign_in(self) -> None:
        self._refusal = None

    def expire_tokens(self) -> None:
        """Every session is over; signing in helps."""
        self.tokens.clear()

    revoke_all = expire_tokens

    async def token(self, request: Request) -> Response:
        form = _form(request, (await request.body()).decode("latin-1"))
        if self._refusal:
            return _no_token(*self._refusal)
        match form.get("grant_type"):
            case "client_credentials":
                refusal = self._by_secret(request, form)
            case grant if grant == JWT_GRANT:
                refusal = self._by_assertion(request, form)
            case _:
                refusal = _no_token("unsupported_grant_type", "grant type not supported")
        return refusal or self._signed_in(request)

    def _by_secret(self, request: Request, form: Mapping[str, str]) -> Response | None:
        if request.url.hostname in self.generic_hosts:
            return _no_token("invalid_grant", "request not supported on this domain")
        client, secret = _basic(request) or (form.get("client_id"), form.get("client_secret"))
        if client != self.client_id:
            return _no_token("invalid_client_id", "client identifier invalid")
        if secret != self.client_secret:
            return _no_token("invalid_client", "invalid client credentials")
        return None

    def _by_assertion(self, request: Request, form: Mapping[str, str]) -> Response | None:
        """The checks of the help page "OAuth 2.0 JWT Bearer Flow": RS256, iss, sub, aud, exp."""
        if "client_secret" in form:
            return _no_token("invalid_request", "an assertion comes without a client_secret")
        try:
            claims = jwt.decode(
                form.get("assertion", ""),
                self.jwt_key or "",
                algorithms=["RS256"],
                options={"verify_aud": False, "verify_exp": False, "verify_iat": False},
            )
        except (jwt.PyJWTError, ValueError):
            return _no_token("invalid_grant", "invalid assertion")
        if claims.get("iss") != self.client_id:
            return _no_token("invalid_client_id", "client identifier invalid")
        if claims.get("aud") not in {*AUDIENCES, base(request)}:
            return _no_token("invalid_grant", "audience is invalid")
        expires = claims.get("exp")
        if type(expires) is not int:
            return _no_token("invalid_grant", "exp should be a number of seconds")
        if not 0 < expires - self._clock() <= LONGEST_ASSERTION:
            return _no_token("invalid_grant", "expired authorization code")
        if claims.get("sub") != self.username:
            return _no_token("invalid_grant", "user hasn't approved this consumer")
        return None

    def _signed_in(self, request: Request) -> Response:
        """A grant repeated gives the same session while it lasts."""
        self.sign_ins += 1
        if not self.tokens:
            self.tokens.add(f"00DHs0000000001!{secrets.token_urlsafe(40)}")
        (token,) = self.tokens
        content = {
            "access_token": token,
            "signature": base64.b64encode(secrets.token_bytes(32)).decode(),
            "scope": "api",
            "instance_url": self.instance_url or base(request),
            "id": "https://login.salesforce.com/id/00DHs0000000001MAA/005Hs0000000001IAA",
            "token_type": "Bearer",
            "issued_at": str(int(self._clock() * 1000)),
        }
        return answer(200, content, {"cache-control": "no-store"})

    def at_home(self, request: Request) -> bool:
        """Whether this is the host that the token was for."""
        return self.instance_url in {None, base(request)}


def _form(request: Request, body: str) -> dict[str, str]:
    """The form of a token request; what stands in the URL is no secret and does not count."""
    kind = request.headers.get("content-type", "").partition(";")[0]
    if kind != "application/x-www-form-urlencoded" or request.url.query:
        return {}
    return dict(parse_qsl(body, keep_blank_values=True))


def _basic(request: Request) -> tuple[str, str] | None:
    scheme, _, encoded = request.headers.get("authorization", "").partition(" ")
    if scheme != "Basic":
        return None
    try:
        client, _, secret = base64.b64decode(encoded, validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        return None
    return client, secret


def _no_token(error: str, description: str | None = None) -> Response:
    content = {"error": error}
    if description is not None:
        content["error_description"] = description
    return answer(400, content)


def base(request: Request) -> str:
    return f"{request.url.scheme}://{request.url.netloc}"

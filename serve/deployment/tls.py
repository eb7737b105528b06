"""TLS of the HTTP API: Ray Serve's proxy terminates it with ``serve.tls_cert`` and ``serve.tls_key``.

``ray_app`` starts the proxy with it; the commands on the same machine reach the proxy with ``trust_own_certificate``.
"""

import ipaddress
import ssl
from typing import Any

from looper.platform.settings import ServeSettings


def http_options(serve: ServeSettings, port: int) -> dict[str, Any]:
    """Return Ray Serve's HTTP options.

    Args:
        serve: Settings with the address, and with the certificate if there is one.
        port: TCP port to listen on.

    Returns:
        Arguments of Ray Serve's ``HTTPOptions``.
    """
    options: dict[str, Any] = {"host": serve.host, "port": port}
    if serve.tls_cert and serve.tls_key:
        options |= {"ssl_keyfile": str(serve.tls_key), "ssl_certfile": str(serve.tls_cert)}
    return options


def base_url(serve: ServeSettings, port: int) -> str:
    """Return the address of the HTTP API.

    Args:
        serve: Settings with the host, and with the certificate if there is one.
        port: TCP port that the API listens on.

    Returns:
        The URL, with ``https`` where there is a certificate.
    """
    return f"{'https' if serve.tls_cert else 'http'}://{serve.host}:{port}"


def trust_own_certificate(serve: ServeSettings) -> ssl.SSLContext | bool:
    """Return the ``verify`` argument for httpx with which this machine reaches its own HTTP API.

    Exactly the certificate of the settings is trusted, whoever signed it. Its host name is not compared, because it is
    the name that clients use, and not the address that the API listens on.

    Args:
        serve: Settings with the certificate, if there is one.

    Returns:
        The context, or True where there is no certificate.
    """
    if serve.tls_cert is None:
        return True
    context = ssl.create_default_context(cafile=str(serve.tls_cert))
    context.check_hostname = False
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    return context


def find_exposure(serve: ServeSettings) -> str | None:
    """Return a warning if keys and prompts would cross a network unencrypted, else None.

    Args:
        serve: Settings with the address, and with the certificate if there is one.
    """
    try:
        is_local = ipaddress.ip_address(serve.host).is_loopback
    except ValueError:
        is_local = serve.host == "localhost"
    if is_local or serve.tls_cert:
        return None
    return (
        f"serve.host {serve.host} is reached over the network without TLS, so others can read API keys and prompts: "
        "set serve.tls_cert and serve.tls_key, or put an ingress in front (docs/tls.md)"
    )

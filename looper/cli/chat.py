"""``looper chat``: sends one message to a skill of the running cluster."""

from typing import Annotated

import typer


def chat(
    model: Annotated[
        str,
        typer.Argument(
            metavar="TENANT/INSTANCE", help="Name of the skill; with @channel or @digest for a certain version."
        ),
    ],
    message: Annotated[str, typer.Argument(help="The message.")],
    max_tokens: Annotated[int, typer.Option(min=1, help="Maximum number of tokens in the response.")] = 256,
) -> None:
    """Send a message to a skill of the running cluster, as an OpenAI client does, and print the response.

    Example: `looper chat acme/helpdesk "Order 1207 arrived broken"`
    """
    from datetime import timedelta

    import openai

    from looper.cluster.state import read_state
    from looper.platform.catalog import Catalog
    from looper.platform.domain.errors import LooperError, NotFound
    from looper.platform.domain.names import ModelName
    from looper.platform.domain.scopes import Scope
    from looper.platform.settings import load_settings
    from looper.platform.tenancy import issue_key
    from looper.serve.deployment.tls import trust_own_certificate

    settings, name = load_settings(), ModelName.parse(model)
    state = read_state(settings)
    if state is None or state.url is None:
        raise NotFound("no cluster is running: looper up")
    # A user who can read the catalog may act for every tenant, so a key that expires soon gives away nothing.
    key = issue_key(Catalog.open(settings), name.instance.tenant, scopes={Scope.INFER}, lifetime=timedelta(minutes=10))
    http = openai.DefaultHttpxClient(verify=trust_own_certificate(settings.serve))
    client = openai.OpenAI(base_url=f"{state.url}/v1", api_key=key, max_retries=0, http_client=http)
    try:
        with client.chat.completions.create(
            model=str(name), messages=[{"role": "user", "content": message}], max_tokens=max_tokens, stream=True
        ) as stream:
            for chunk in stream:
                for choice in chunk.choices:
                    typer.echo(choice.delta.content or "", nl=False)
    except openai.APIStatusError as error:
        body = error.body if isinstance(error.body, dict) else {}
        raise LooperError(str(body.get("message") or error)) from error
    except openai.OpenAIError as error:
        raise LooperError(f"{state.url} did not answer: {error}") from error
    typer.echo("")

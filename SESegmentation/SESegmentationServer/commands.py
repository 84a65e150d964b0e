"""The command of the server and its options; what it does is imported when it is called."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from SESegmentationLib.cli.usage import Commands

serve_app = Commands(invoke_without_command=True, help="Run a server that segments for other programs and other users.")
token_app = Commands(help="Manage who may use your server: a token for each user.", no_args_is_help=True)
serve_app.add_typer(token_app, name="token")

Name = Annotated[str, typer.Argument(metavar="NAME", help="Name of the user.")]
Tokens = Annotated[
    Path | None, typer.Option(metavar="FILE", help="The file of tokens, instead of your own.", show_default=False)
]


def add_commands(app: typer.Typer) -> None:
    """Add it to ``app``."""
    app.add_typer(serve_app, name="serve")


@serve_app.callback()
def serve(
    context: typer.Context,
    host: Annotated[
        str, typer.Option(help="Address to listen on. Any other than this one needs a certificate.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 8399,
    certificate: Annotated[
        Path | None, typer.Option(metavar="FILE.pem", help="TLS: the certificate, with its chain.")
    ] = None,
    key: Annotated[Path | None, typer.Option(metavar="FILE.pem", help="TLS: the certificate's private key.")] = None,
    tokens: Tokens = None,
    address: Annotated[
        str | None, typer.Option(help="A Ray cluster to use, for example auto or 10.0.0.1:6379.")
    ] = None,
    replicas: Annotated[
        int, typer.Option(min=0, help="At most this many processes segment; 0: one per GPU, or per computer.")
    ] = 0,
    cores: Annotated[int, typer.Option(min=0, help="Cores per process without a GPU; 0: all, shared.")] = 0,
    device: Annotated[Literal["auto", "cpu", "cuda", "mps"], typer.Option(help="Where networks run.")] = "auto",
    upload_megabytes: Annotated[int, typer.Option(min=1, help="The largest volume accepted.")] = 2048,
    job_minutes: Annotated[float, typer.Option(min=0.01, help="The longest that a job may take.")] = 60.0,
    jobs_per_user: Annotated[int, typer.Option(min=1, help="How many jobs a user may have at once.")] = 32,
    dicomweb: Annotated[
        str | None, typer.Option(metavar="URL", help="MONAI Label, OHIF: the archive to fetch series from.")
    ] = None,
    origin: Annotated[
        list[str] | None, typer.Option(metavar="URL", help="MONAI Label, OHIF: a web page that may ask; repeatable.")
    ] = None,
    keep: Annotated[
        float, typer.Option(min=1, help="Seconds to keep a job or result after its client has gone.")
    ] = 60.0,
) -> None:
    """Serve until Ctrl-C: this computer alone, unless --host names another address of it."""
    if context.invoked_subcommand is not None:
        return
    from SESegmentationLib.cli import say

    from .serving import serve_until_signal
    from .settings import ServerLimits, ServerSettings

    limits = ServerLimits(
        upload_bytes=upload_megabytes * 10**6,
        job_seconds=60 * job_minutes,
        jobs_per_user=jobs_per_user,
        keep_seconds=keep,
    )
    settings = ServerSettings(
        host=host,
        port=port,
        certificate=certificate,
        key=key,
        tokens=tokens,
        address=address,
        replicas=replicas,
        cores=cores,
        device=device,
        dicomweb=dicomweb,
        origins=tuple(origin or ()),
        limits=limits,
    )

    def ready(chosen: ServerSettings) -> None:
        say(f"Serving at {chosen.url} ({chosen.device}). Ctrl-C ends it.")

    say("Starting ...")
    serve_until_signal(settings, ready)
    say("Ended.")


@token_app.command("add")
def token_add(name: Name, tokens: Tokens = None) -> None:
    """Make a token for a user, and print it; it is shown only once."""
    from SESegmentationLib.cli import say

    from .tokens import TokenStore

    say(TokenStore(tokens).add(name))


@token_app.command("list")
def token_list(tokens: Tokens = None) -> None:
    """List the users who have a token, and since when."""
    from SESegmentationLib.cli import say

    from .tokens import TokenStore

    for entry in TokenStore(tokens).entries():
        say(f"{entry.name} {entry.added}")


@token_app.command("revoke")
def token_revoke(name: Name, tokens: Tokens = None) -> None:
    """Revoke a user's token; it is refused at once."""
    from SESegmentationLib.cli import say

    from .tokens import TokenStore

    TokenStore(tokens).revoke(name)
    say(f"The token of {name} is revoked.")

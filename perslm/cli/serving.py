"""``perslm serve``."""

from __future__ import annotations

from typing import Annotated

import typer

from perslm.cli.common import StoreOption, WeightOption, add_command
from perslm.cli.learning import Prepare, listed
from perslm.errors import MissingExtraError


def register(app: typer.Typer) -> None:
    """Add this module's command to ``app``."""
    add_command(
        app,
        serve,
        "perslm serve --store redis://db:6379",
        "perslm serve --http unix:/run/perslm.sock",
        "perslm serve --http 0.0.0.0:8443 --keys keys.json --tls-cert cert.pem --tls-key key.pem",
        "perslm serve --http 127.0.0.1:8377 --grpc 127.0.0.1:8378 --workers 4",
    )


def serve(
    http: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            envvar="PERSLM_HTTP",
            help="HOST:PORT or unix:/PATH; port 0 takes a free one. By default 127.0.0.1:8377, or "
            "no HTTP if --grpc is given.",
        ),
    ] = None,
    grpc: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            envvar="PERSLM_GRPC",
            help="HOST:PORT or unix:/PATH for gRPC, beside HTTP or alone.",
        ),
    ] = None,
    insecure: Annotated[
        bool,
        typer.Option(
            "--insecure",
            help="Listen where other machines can connect although nothing authenticates them or "
            "encrypts what they send.",
        ),
    ] = False,
    keys: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            envvar="PERSLM_KEYS",
            help="The API keys of those who may call; perslm keys makes them.",
        ),
    ] = None,
    tls_cert: Annotated[
        str | None,
        typer.Option(metavar="FILE", envvar="PERSLM_TLS_CERT", help="Speak TLS: a PEM file."),
    ] = None,
    tls_key: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            envvar="PERSLM_TLS_KEY",
            help="The certificate's key, if it is not in the same file.",
        ),
    ] = None,
    tls_client_ca: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            envvar="PERSLM_TLS_CLIENT_CA",
            help="Accept only callers with a certificate of these authorities.",
        ),
    ] = None,
    behind_proxy: Annotated[
        bool,
        typer.Option("--behind-proxy", help="A proxy in front does TLS; listen without."),
    ] = False,
    master_keys: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            envvar="PERSLM_MASTER_KEYS",
            help="File of the master keys, for a store whose models are encrypted.",
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            envvar="PERSLM_WORKERS",
            help="Processes that share the addresses, each with models of its own in memory; by "
            "default 1.",
        ),
    ] = None,
    languages: Annotated[
        str,
        typer.Option(
            envvar="PERSLM_LANGUAGES",
            metavar="CODES",
            help="Languages to learn of messages that are sent to be learned, as perslm build has "
            "them.",
        ),
    ] = "en",
    keep: Annotated[
        str,
        typer.Option(
            envvar="PERSLM_KEEP", metavar="KINDS", help="Zones of them to keep, as perslm build."
        ),
    ] = "",
    weight: WeightOption = None,
    estimator: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            envvar="PERSLM_ESTIMATOR",
            help="How counts become probabilities: backoff (the default), katz, witten_bell, "
            "absolute or kneser_ney.",
        ),
    ] = None,
    store: StoreOption = None,
) -> None:
    """Answer scoring requests over HTTP, gRPC or both until interrupted.

    The first lines printed say where it listens; /docs there documents the requests, for gRPC the
    reflection service and perslm/v1/scorer.proto. Every setting
    can also be given as an environment variable PERSLM_… (see service/settings.py).
    """
    try:
        from service.run import end_process
        from service.run import serve as serve_until_told
        from service.settings import Settings
    except ModuleNotFoundError as error:
        raise MissingExtraError("the scoring service", "service") from error
    settings = Settings.from_environment(
        http=http,
        grpc=grpc,
        weight=weight,
        estimator=estimator,
        store=store,
        insecure=insecure or None,
        keys=keys,
        tls_cert=tls_cert,
        tls_key=tls_key,
        tls_client_ca=tls_client_ca,
        behind_proxy=behind_proxy or None,
        master_keys=master_keys,
        workers=workers,
    )
    serve_until_told(settings, prepare=Prepare(listed(languages), listed(keep)))
    end_process()

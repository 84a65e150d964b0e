"""Starting a server on Ray, and ending it with nothing left: neither processes nor files."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import ssl
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

from SESegmentationLib.errors import DependencyError, SegmentationError, UsageError, install_advice
from SESegmentationLib.plain_text import first_line

from .local_ray import connect, private_folder, restrict_to_this_process, start_local_ray
from .settings import ServerSettings
from .tokens import TokenStore

NAME = "sesegmentation"
_GPU_SLOTS, _MOST_SLOTS = 4, 8
_PEM = "Name PEM files of a certificate and its key, which has no password."
#: OpenSSL's X509_V_ERR_CERT_NOT_YET_VALID and X509_V_ERR_CERT_HAS_EXPIRED
_OUT_OF_DATE = (9, 10)
#: jobs wait in the board, streams in the ingress: there is no other queue
_MANY = 10_000


def serve_until_signal(settings: ServerSettings, ready: Callable[[ServerSettings], None]) -> None:
    """Serve until Ctrl-C or SIGTERM.

    Args:
        settings: of the server.
        ready: called once it answers.

    Raises:
        SegmentationError: it cannot start.
    """
    check(settings)
    ended = threading.Event()
    with _signals(ended), running(settings) as chosen:
        _handle_signals(ended)  # Ray has its own
        ready(chosen)
        ended.wait()


def check(settings: ServerSettings) -> None:
    """Check that the server may start with these settings.

    Raises:
        UsageError: others could reach it without TLS or a token; the address is taken; a file is not there.
        SegmentationError: the file of tokens cannot be read.
        DependencyError: Ray is not installed.
    """
    if find_spec("ray") is None or find_spec("limits") is None or find_spec("fastapi") is None:
        raise DependencyError("The server needs Ray Serve.", install_advice('"ray[serve]" limits prometheus-client'))
    if (settings.certificate is None) != (settings.key is None):
        raise UsageError("TLS needs a certificate and its key.", "Give both --certificate and --key.")
    entries = TokenStore(settings.tokens).entries()  # a damaged file is reported, also where no token is needed
    if not settings.loopback:
        if settings.certificate is None:
            raise UsageError(
                f"On {settings.host} other computers reach the server, and what they send could be intercepted.",
                "Give --certificate and --key for TLS, or leave out --host to serve this computer alone.",
            )
        if not entries:
            raise UsageError(
                f"On {settings.host} other computers reach the server, but no user has a token.",
                "Make one for each user first: sesegment serve token add NAME",
            )
    for path in filter(None, (settings.certificate, settings.key)):
        if not os.access(path, os.R_OK) or not path.is_file():
            raise UsageError(f"{path} cannot be read.", _PEM)
    if settings.certificate and settings.key:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        try:
            context.load_cert_chain(settings.certificate, settings.key, lambda: "")
        except (ssl.SSLError, ValueError) as error:
            raise UsageError(f"{settings.certificate} and {settings.key} are no certificate and key.", _PEM) from error
        _refuse_out_of_date(context, settings.certificate)
    _check_address(settings)


def _check_address(settings: ServerSettings) -> None:
    """Raise UsageError where the server cannot listen."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        with socket.socket(family) as probe:  # fails where the system has no IPv6
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((settings.host, settings.port))
    except (OSError, ValueError, TypeError) as error:  # the latter of names that no network can have
        why = (error.strerror if isinstance(error, OSError) else "it is no address") or str(error)
        raise UsageError(
            f"The server cannot listen on {settings.url.rpartition('/')[2]}: {why}.",
            "Choose another --port or --host; a server may be running already, or was killed less than 15 s ago.",
        ) from error


def _refuse_out_of_date(context: ssl.SSLContext, certificate: Path) -> None:
    """Raise UsageError where every client would refuse the certificate for its dates: a handshake in memory tells."""
    trusting = ssl.create_default_context(cafile=certificate)
    trusting.check_hostname = False
    trusting.verify_flags = ssl.VerifyFlags.VERIFY_X509_PARTIAL_CHAIN  # its issuer need not be in the file
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client, server = trusting.wrap_bio(to_client, to_server), context.wrap_bio(to_server, to_client, server_side=True)
    try:
        for side in (client, server, client):
            with contextlib.suppress(ssl.SSLWantReadError):
                side.do_handshake()
    except ssl.SSLError as error:  # of any other only clients can tell
        if isinstance(error, ssl.SSLCertVerificationError) and error.verify_code in _OUT_OF_DATE:
            raise UsageError(
                f"{certificate} is out of date: {error.verify_message}.",
                "Renew the certificate, or correct the date of this computer.",
            ) from error


@contextlib.contextmanager
def running(settings: ServerSettings) -> Iterator[ServerSettings]:
    """A server that answers, until the context is left; the settings it has chosen."""
    with private_folder() as folder:
        _environment(folder)
        if settings.address is None:
            restrict_to_this_process()
        import ray
        from ray.exceptions import RayError

        try:
            try:
                _start_ray(settings, folder)
                chosen, replicas = _choose(settings)
                _deploy(chosen, replicas)
            except (RayError, RuntimeError, OSError, ValueError) as error:
                raise SegmentationError(
                    f"Ray cannot start the server: {first_line(str(error), type(error).__name__)}.",
                    "Close other programs, or choose fewer --cores; with --address, check that the cluster is running.",
                ) from error
            yield chosen
        finally:
            with contextlib.suppress(Exception):
                if settings.address is not None:
                    _withdraw()
            ray.shutdown()


def _environment(folder: Path) -> None:
    """What Ray reads from the environment, which its processes inherit: what they write is in ``folder`` too."""
    temporary = folder / "tmp"
    temporary.mkdir()
    os.environ["TMPDIR"] = str(temporary)
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ["RAY_SERVE_LOG_TO_STDERR"] = "0"
    os.environ["RAY_DEDUP_LOGS"] = "0"
    os.environ.setdefault("RAY_worker_niceness", "0")  # users wait for it; Ray's default is a low priority
    # what computes has threads of its own: each hop between threads and loops more costs a small job some ms
    os.environ["RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD"] = "0"
    os.environ["RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP"] = "0"
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as in the worker
    library = str(Path(__file__).resolve().parents[1])
    others = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if os.path.isabs(path)]
    os.environ["PYTHONPATH"] = os.pathsep.join(dict.fromkeys([library, *others]))


def _start_ray(settings: ServerSettings, folder: Path) -> None:
    if settings.address is None:
        start_local_ray(folder)
    else:
        connect(settings.address)


def _choose(settings: ServerSettings) -> tuple[ServerSettings, int]:
    """Fill in the settings left open, by the devices present; also returns how many replicas there can be."""
    import ray

    resources = ray.cluster_resources()
    gpus, cpus = int(resources.get("GPU", 0)), max(1, int(resources.get("CPU", 1)))
    device = settings.device
    if device == "auto":
        device = "cuda" if gpus else "cpu"
    if device.startswith("cuda"):
        if not gpus:
            raise UsageError("Ray finds no GPU.", "Choose --device cpu.")
        replicas = settings.replicas or gpus
        return replace(settings, device="cuda", cores=settings.cores or 1, slots=settings.slots or _GPU_SLOTS), replicas
    nodes = max(1, len([node for node in ray.nodes() if node["Alive"]]))
    replicas = settings.replicas or nodes
    cores = settings.cores or max(1, cpus // replicas)
    return replace(settings, device=device, cores=cores, slots=settings.slots or min(cores, _MOST_SLOTS)), replicas


def _deploy(settings: ServerSettings, replicas: int) -> None:
    import ray
    from ray import serve
    from ray.serve.config import HTTPOptions
    from ray.serve.schema import LoggingConfig

    from .deployments import Ingress, Replica

    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    quiet = LoggingConfig(enable_access_log=False, log_level="WARNING")
    gpu = settings.device == "cuda"
    share = min(1.0, ray.cluster_resources().get("GPU", 0) / replicas)
    serve.start(
        proxy_location="HeadOnly",
        http_options=HTTPOptions(
            host=settings.host,
            port=settings.port,
            ssl_certfile=str(settings.certificate) if settings.certificate else None,
            ssl_keyfile=str(settings.key) if settings.key else None,
        ),
        logging_config=quiet,
    )
    segmenter = serve.deployment(
        name="segmenter",
        max_ongoing_requests=settings.slots,
        ray_actor_options={"num_cpus": 0 if gpu else settings.cores, "num_gpus": share if gpu else 0},
        autoscaling_config={
            "min_replicas": 1,
            "max_replicas": replicas,
            "target_ongoing_requests": max(1.0, settings.slots / 2),
            "upscale_delay_s": 2.0,
        },
        health_check_period_s=2.0,
        graceful_shutdown_timeout_s=2.0,
        graceful_shutdown_wait_loop_s=0.5,
        logging_config=quiet,
    )(Replica)
    here = f"node:{ray.util.get_node_ip_address()}"
    ingress = serve.deployment(
        name="ingress",
        num_replicas=1,
        max_ongoing_requests=_MANY,
        ray_actor_options={"num_cpus": 0, "resources": {here: 0.001}},
        graceful_shutdown_timeout_s=2.0,
        graceful_shutdown_wait_loop_s=0.5,
        logging_config=quiet,
    )(Ingress)
    serve.run(ingress.bind(segmenter.bind(settings), settings, replicas), name=NAME, logging_config=quiet)


def _withdraw() -> None:
    """Leave a cluster as it was."""
    from ray import serve

    serve.delete(NAME)
    if not serve.status().applications:
        serve.shutdown()


@contextlib.contextmanager
def _signals(ended: threading.Event) -> Iterator[None]:
    """Signals set ``ended`` meanwhile, instead of ending the process."""
    before, wakeup = {number: signal.getsignal(number) for number in _ends()}, signal.set_wakeup_fd(-1)
    _handle_signals(ended)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(wakeup)


def _handle_signals(ended: threading.Event) -> None:
    def end(_number: int, _frame: object) -> None:
        if not ended.is_set():  # it takes some seconds, more while Ray starts
            with contextlib.suppress(OSError, ValueError):
                os.write(sys.stdout.fileno(), b"Ending ...\n")
        ended.set()

    for number in _ends():
        signal.signal(number, end)


def _ends() -> list[signal.Signals]:
    """The signals that end the server: Ctrl-C, of a service, and of a terminal that is closed unless under nohup."""
    closed = [signal.SIGHUP] if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN else []
    return [signal.SIGINT, signal.SIGTERM, *closed]

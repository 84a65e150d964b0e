"""Settings of a server: where it listens, which resources it uses, and the limits for its users."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from pathlib import Path

from SESegmentationLib.client.servers import PORT


@dataclass(frozen=True)
class ServerLimits:
    """Limits of the server.

    Attributes:
        upload_bytes: of one job.
        header_bytes: of the JSON in one upload.
        upload_seconds: for one upload, in s.
        silence_seconds: longest pause within an upload, in s.
        job_seconds: for one job, from its start, in s.
        keep_seconds: how long a job or a result is kept without a client, in s.
        jobs_per_user: waiting and running jobs of one user, and as many results that were not fetched.
        jobs: the same for all users together.
        streams_per_job: clients that follow one job at once.
        requests_per_minute: of one user.
        wrong_tokens_per_minute: from one address; beyond it the address has to wait.
        retries: how often a job is restarted when its replica is lost.
        spare_gigabytes: of main memory that must remain free after an upload.
    """

    upload_bytes: int = 2 << 30
    header_bytes: int = 1 << 20
    upload_seconds: float = 300.0
    silence_seconds: float = 30.0
    job_seconds: float = 3600.0
    keep_seconds: float = 60.0
    jobs_per_user: int = 32
    jobs: int = 512
    streams_per_job: int = 4
    requests_per_minute: int = 1200
    wrong_tokens_per_minute: int = 30
    retries: int = 2
    spare_gigabytes: float = 0.5


@dataclass(frozen=True)
class ServerSettings:
    """Of one server.

    Attributes:
        host: address to listen on.
        port: to listen on.
        certificate: PEM file of the certificate chain, for TLS.
        key: PEM file of its private key.
        tokens: file of the tokens; None: the user's own.
        address: of a Ray cluster to use; None: this computer alone.
        replicas: at most, which share the GPUs; 0: one for each GPU, or for each computer without one.
        cores: of one replica without a GPU; 0: all that are there, shared by the replicas.
        device: "auto", "cpu", "cuda" or "mps".
        slots: jobs of small volumes that one replica does side by side; 0: by its cores or its GPU.
        dicomweb: URL of an archive from which clients of MONAI Label may have series segmented.
        origins: of web pages that may use the server, for example "https://viewer.example".
    """

    host: str = "127.0.0.1"
    port: int = PORT
    certificate: Path | None = None
    key: Path | None = None
    tokens: Path | None = None
    address: str | None = None
    replicas: int = 0
    cores: int = 0
    device: str = "auto"
    slots: int = 0
    dicomweb: str | None = None
    origins: tuple[str, ...] = ()
    limits: ServerLimits = field(default_factory=ServerLimits)

    @property
    def loopback(self) -> bool:
        """Whether only programs on this computer can reach it."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    @property
    def url(self) -> str:
        """Where it is found."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.certificate else 'http'}://{host}:{self.port}"

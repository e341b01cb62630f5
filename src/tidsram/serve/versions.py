"""Versions of a decision: a bundle by its digest, or a single model by its SHA-256.

A version's models are read once, into memory that every worker of it reads; what is deployed is
written down, so that a node that starts again serves it again.
"""

import contextlib
import hashlib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta, Struct
from msgspec.structs import replace

from tidsram.errors import NodeError
from tidsram.estate.bundle import Manifest, ladder_of
from tidsram.estate.decisions import only_variant
from tidsram.estate.load import read_bundle, read_variant
from tidsram.estate.types import Decision

REMEMBERED: Final = 3  # versions before the one that is served
MAX_STATE_BYTES: Final = 1_000_000

_Digest = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]
_Path = Annotated[str, Meta(max_length=4096)]


class Version:
    """One version of a decision; `path` is where it lies, "" for what the estate declares.

    `model_fds` are its models in memory by rung, of the variants that are still served; none for a
    version that is only remembered.
    """

    def __init__(self, decision: Decision, path: str, sha256: str) -> None:
        self.decision, self.path, self.sha256 = decision, path, sha256
        self.model_fds: dict[int, int] = {}
        self.left_out: set[str] = set()
        self.inspected = False  # the models in memory are what a worker found to be loadable

    def __str__(self) -> str:
        where = self.path or "the estate's own"
        return f"version {self.sha256[:12]} ({where})"

    def forget_models(self) -> None:
        """Give the memory of its models back."""
        while self.model_fds:
            os.close(self.model_fds.popitem()[1])
        self.inspected = False


class Remembered(Struct, frozen=True, kw_only=True):
    """A version as it is written down."""

    path: _Path
    sha256: _Digest


class Choice(Struct, frozen=True, kw_only=True):
    """What a decision is served by, instead of what the estate declares; oldest before first."""

    version: Remembered
    instead_of: _Digest
    before: tuple[Remembered, ...] = ()


class Deployed(Struct, frozen=True, kw_only=True):
    """What was deployed at a site, by decision."""

    format: Literal[1] = 1
    decisions: dict[str, Choice] = {}


def model_memory(name: str, data: bytes) -> int:
    """Put the model's bytes into memory that each of its workers reads."""
    fd = os.memfd_create(f"tidsram-model-{name}", os.MFD_CLOEXEC)
    with os.fdopen(os.dup(fd), "wb") as out:
        out.write(data)
    return fd


def read_version(folder: Path, decision: Decision, path: str, sha256: str = "") -> Version:
    """Read another version of a decision, all of it; with a digest, only if it is still that one.

    `decision` is the estate's. Raises EstateError or ModelRefused where it is no whole bundle, and
    NodeError where it answers another question.
    """
    at = folder / path
    if at.is_dir():
        bundle = read_bundle(Path(), str(at))
        manifest = bundle.manifest
        _check_read_alike(decision, manifest, path)
        ladder = ladder_of(manifest, bundle.directory, decision.accuracy_floor)
        if not ladder:
            best = manifest.ladder[0].accuracy
            raise NodeError(
                f"{path} has no variant as accurate as {decision.name} must be: its best has "
                f"{best:g}, and the floor is {decision.accuracy_floor:g}. Make a better one."
            )
        found, digest = replace(decision, ladder=ladder), bundle.sha256
        found = replace(found, answer=manifest.answer or decision.answer, bundle_sha256=digest)
    else:
        found = replace(decision, ladder=only_variant(str(at)), bundle_sha256="")
        digest = ""
    version = Version(found, path, digest)
    read_models(version, folder)
    if sha256:
        check_same(version, sha256)
    return version


def read_models(version: Version, folder: Path) -> None:
    """Put all models of a version into memory; one that cannot be read raises ModelRefused."""
    digests = []
    try:
        for rung, variant in enumerate(version.decision.ladder):
            data = read_variant(folder, version.decision, variant)
            digests.append(hashlib.sha256(data).hexdigest())
            version.model_fds[rung] = model_memory(variant.name, data)
    except BaseException:
        version.forget_models()
        raise
    version.sha256 = version.sha256 or digest_of(digests)


def check_same(version: Version, sha256: str) -> None:
    """Raise NodeError, and forget the models, unless a version is still the one it was."""
    if version.sha256 != sha256:
        version.forget_models()
        raise NodeError(
            f"{version.path or version.decision.name} is {version.sha256[:12]} now, and was "
            f"{sha256[:12]} when it was served. Deploy it again, if that is what you want."
        )


def digest_of(digests: Iterable[str]) -> str:
    """Return the digest of a version that is no bundle by those of its models, best first."""
    known = list(digests)
    return known[0] if len(known) == 1 else hashlib.sha256("".join(known).encode()).hexdigest()


def _check_read_alike(served: Decision, manifest: Manifest, path: str) -> None:
    """Raise NodeError where askers would have to make questions or read answers in another way."""
    other = ""
    if manifest.question not in (None, served.question):
        other = "question"
    if manifest.answer is not None:
        threshold = manifest.answer.threshold  # this alone may differ from version to version
        if served.answer is None or replace(served.answer, threshold=threshold) != manifest.answer:
            other = "answer"
    if other:
        raise NodeError(
            f"the {other}'s table of {path} is not the one that is served, so askers would read "
            f"it wrongly. Start the node again with an estate that names it."
        )


class Store:
    """Where a site's deployed versions are written down."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> tuple[Deployed, str]:
        """Return what was deployed, and a sentence where that cannot be known."""
        try:
            with self._path.open("rb") as file:
                content = file.read(MAX_STATE_BYTES)
            return msgspec.json.decode(content, type=Deployed), ""
        except FileNotFoundError:
            return Deployed(), ""
        except (OSError, msgspec.MsgspecError, ValueError, RecursionError) as error:
            why = error.strerror if isinstance(error, OSError) else "it is damaged"
            return Deployed(), (
                f"warning: {self._path} cannot be read ({why}): what was deployed is not known, "
                f"and the estate's own versions are served. Deploy again what should be."
            )

    def write(self, choices: Mapping[str, Choice]) -> None:
        """Write it down, whole or not at all. Raises NodeError where that cannot be."""
        content = msgspec.json.format(msgspec.json.encode(Deployed(decisions=dict(choices))))
        beside = self._path.with_name(self._path.name + ".new")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with beside.open("wb") as file:
                file.write(content + b"\n")
                file.flush()
                os.fsync(file.fileno())
            beside.replace(self._path)
        except OSError as error:
            with contextlib.suppress(OSError):
                beside.unlink(missing_ok=True)
            raise NodeError(
                f"cannot write {self._path} ({error.strerror}), so that the version would be "
                f"forgotten at the next start; nothing was changed"
            ) from None

"""Write a bundle whole or not at all: what is half-written has no name that anybody loads."""

import ctypes
import errno
import fcntl
import glob
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import msgspec

from tidsram.errors import EstateError, TidsramError
from tidsram.estate.bundle import MANIFEST, VARIANTS, Manifest, parse_manifest
from tidsram.lab.facts import digest_of

_libc = ctypes.CDLL(None, use_errno=True)
_AT_FDCWD: Final = -100
_RENAME_EXCHANGE: Final = 2
NO_ROOM: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)


class BundleError(TidsramError):
    """A bundle cannot be written where it should be; the sentence says what to change."""

    code = "bundle"


def encode(manifest: Manifest) -> bytes:
    """Return the manifest as it is written: the same manifest always gives the same bytes."""
    return (
        msgspec.json.format(msgspec.json.encode(manifest, order="deterministic"), indent=1) + b"\n"
    )


def check_place(directory: Path) -> None:
    """Refuse a place that holds something else than a bundle: what is there would be lost."""
    if directory.is_symlink() or (directory.exists() and not directory.is_dir()):
        raise BundleError(f"{directory} is no directory; name another one with --out")
    if directory.is_dir() and not (directory / MANIFEST).is_file() and any(directory.iterdir()):
        raise BundleError(
            f"{directory} holds files and no bundle; name a new directory with --out, "
            f"or empty this one"
        )


@contextmanager
def unfinished(directory: Path) -> Iterator[Path]:
    """Make a hidden directory beside `directory` for what is not finished, and take it away again.

    Killed, a run leaves it behind; the next one for the same `directory` takes it away. Raises
    BundleError when there is no place for it, or no room left in it.
    """
    parent = directory.resolve().parent
    missing = [folder for folder in (parent, *parent.parents) if not folder.exists()]
    try:
        parent.mkdir(parents=True, exist_ok=True)
        made, lock = _make_locked(parent, f".{directory.name}.unfinished-")
    except OSError as error:
        raise _unwritable(directory, error) from None
    try:
        room = made / "room"  # whoever locks it, as we do its parent, need not wait for us
        room.mkdir()
        yield room
    except OSError as error:
        if error.errno in NO_ROOM:
            raise _unwritable(directory, error) from None
        raise
    finally:
        shutil.rmtree(made, ignore_errors=True)
        os.close(lock)
        for folder in missing:
            with suppress(OSError):  # it holds the finished bundle
                folder.rmdir()


def write_bundle(
    directory: Path,
    manifest: Manifest,
    variants: Mapping[str, bytes],
    beside: Mapping[str, bytes] | None = None,
) -> str:
    """Put a bundle in `directory`, in place of the one there; return its digest.

    `variants` are the models of the ladder by name; `beside` are files that are no part of the
    version, such as profiles, by their path in the bundle. Raises BundleError, and leaves what was
    there before, when the disk is full or the place cannot be written to.
    """
    check_place(directory)
    content = encode(manifest)
    _check_readable(content, directory)
    with unfinished(directory) as room:
        try:
            made = room / "bundle"
            (made / VARIANTS).mkdir(parents=True)
            for member in manifest.ladder:
                _write(made / VARIANTS / f"{member.name}.onnx", variants[member.name])
            for name, told in (beside or {}).items():
                (made / name).parent.mkdir(exist_ok=True)
                _write(made / name, told)
            _write(made / MANIFEST, content)
            _sync(*(file.parent for file in made.rglob("*")))
            _put(made, directory.resolve(), room / "before")
        except OSError as error:
            raise _unwritable(directory, error) from None
    return digest_of(content)


def _check_readable(content: bytes, directory: Path) -> None:
    """Refuse to write what nobody could load, such as a strange name out of the model."""
    try:
        parse_manifest(content, "its manifest")
    except EstateError as error:
        raise BundleError(f"{directory} would be a bundle that nothing loads: {error}") from None


def _make_locked(parent: Path, prefix: str) -> tuple[Path, int]:
    """Make a directory that is locked as long as its maker lives, and remove those of the dead."""
    with _held(parent):
        for left in parent.glob(f"{glob.escape(prefix)}*"):
            with suppress(OSError), _held(left, fcntl.LOCK_NB):
                shutil.rmtree(left, ignore_errors=True)
        made = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
        return made, _lock(made)


@contextmanager
def _held(directory: Path, wait: int = 0) -> Iterator[None]:
    lock = _lock(directory, wait)
    try:
        yield
    finally:
        os.close(lock)


def _lock(directory: Path, wait: int = 0) -> int:
    """Lock a directory; closing what is returned, or the end of this process, unlocks it."""
    held = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(held, fcntl.LOCK_EX | wait)
    except OSError:
        os.close(held)
        raise
    return held


def _put(made: Path, directory: Path, before: Path) -> None:
    """Rename the finished directory into its place; at no moment is there none."""
    if not directory.exists():
        made.rename(directory)
    else:
        try:
            _exchange(made, directory)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            # This file system cannot exchange, NFS for one: two steps, and back after one.
            directory.rename(before)
            try:
                made.rename(directory)
            except OSError:
                before.rename(directory)
                raise
    _sync(directory.parent)


def _exchange(one: Path, other: Path) -> None:
    """Let two directories change their names in one step."""
    names = (_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other))
    if _libc.renameat2(*names, _RENAME_EXCHANGE) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _write(file: Path, content: bytes) -> None:
    with file.open("xb") as opened:
        opened.write(content)
        opened.flush()
        os.fsync(opened.fileno())


def _sync(*directories: Path) -> None:
    for directory in dict.fromkeys(directories):
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _unwritable(directory: Path, error: OSError) -> BundleError:
    return BundleError(
        f"the bundle cannot be written to {directory} ({error.strerror or error}); "
        f"make room there or let this user write, or name another place with --out"
    )

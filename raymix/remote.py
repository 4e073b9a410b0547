"""Files on an object store, or any other file system that `pyarrow` reaches by a URI, as `pathlib` has them."""

from __future__ import annotations

import contextlib
import fnmatch
import functools
import posixpath
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import NamedTuple
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.fs

from raymix.types import UsageError

_PUTS_WHOLE = ("s3", "gcs", "abfs")
"""Object stores: what is written appears when its stream is closed, and not in parts."""


class StoreError(OSError):
    """An object store cannot be used now; the message is a sentence."""


class Stat(NamedTuple):
    """Size in bytes, and the time of the last change, 0 where the store does not say (folders of object stores)."""

    st_size: int
    st_mtime_ns: int


@dataclass(frozen=True, order=True)
class RemotePath:
    """The part of `pathlib.Path` that runs need, such as `RemotePath.of("s3://bucket/runs?region=eu-west-1")`.

    An object store has no folders: one is there as long as something is in it. What fails raises
    `StoreError`, or what `Path` would raise.
    """

    scheme: str
    host: str
    """Bucket, container or server."""
    path: str
    query: str = ""
    """Options of the file system, as `pyarrow.fs.FileSystem.from_uri` reads them."""

    @classmethod
    def of(cls, uri: str) -> RemotePath:
        """Raises `UsageError` for a URI that `pyarrow` cannot open, and for one that holds a secret."""
        parts = urlsplit(uri)
        if "#" in uri:
            raise UsageError(f"{uri} holds a #, which would end the path of a URI; choose another name")
        if parts.scheme == "s3" and "@" in parts.netloc:
            raise UsageError(
                "the storage's URI holds credentials, which would be printed and written down with the run; give them"
                " in the environment instead (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, on every node)"
            )
        if not parts.netloc:
            raise UsageError(f"{uri} names no bucket or server; write such as {parts.scheme}://bucket/runs")
        path = cls(parts.scheme, parts.netloc, posixpath.normpath("/" + parts.path).lstrip("/"), parts.query)
        _opened(path.scheme, path.host, path.query)
        return path

    def __str__(self) -> str:
        query = f"?{self.query}" if self.query else ""
        return f"{self.scheme}://{self.host}/{self.path}{query}"

    def __truediv__(self, name: str) -> RemotePath:
        return RemotePath(self.scheme, self.host, posixpath.join(self.path, name), self.query)

    @property
    def filesystem(self) -> pa.fs.FileSystem:
        return _opened(self.scheme, self.host, self.query)[0]

    @property
    def inside(self) -> str:
        """The path as `filesystem` wants it."""
        return posixpath.join(_opened(self.scheme, self.host, self.query)[1], self.path)

    @property
    def name(self) -> str:
        return posixpath.basename(self.path)

    @property
    def stem(self) -> str:
        return posixpath.splitext(self.name)[0]

    @property
    def suffix(self) -> str:
        return posixpath.splitext(self.name)[1]

    def with_suffix(self, suffix: str) -> RemotePath:
        return self.parent / (self.stem + suffix)

    @property
    def parent(self) -> RemotePath:
        return RemotePath(self.scheme, self.host, posixpath.dirname(self.path), self.query)

    def is_relative_to(self, other: RemotePath) -> bool:
        same_store = (self.scheme, self.host, self.query) == (other.scheme, other.host, other.query)
        return same_store and PurePosixPath(self.path).is_relative_to(other.path)

    def resolve(self) -> RemotePath:
        """Itself: there are no links."""
        return self

    def exists(self) -> bool:
        return self._info().type != pa.fs.FileType.NotFound

    def is_file(self) -> bool:
        return self._info().type == pa.fs.FileType.File

    def is_dir(self) -> bool:
        return self._info().type == pa.fs.FileType.Directory

    def stat(self) -> Stat:
        info = self._info()
        if info.type == pa.fs.FileType.NotFound:
            raise FileNotFoundError(f"there is no {self}")
        return Stat(info.size or 0, info.mtime_ns or 0)

    def _info(self) -> pa.fs.FileInfo:
        with self._reached():
            return self.filesystem.get_file_info(self.inside)

    @contextlib.contextmanager
    def _reached(self) -> Iterator[None]:
        """Says in a sentence that the store cannot be used."""
        try:
            yield
        except (FileNotFoundError, FileExistsError):
            raise
        except OSError as problem:
            reason = str(problem).splitlines()[0]
            raise StoreError(
                f"{self} cannot be used ({reason}); look at its name, your rights and the network, and try again"
            ) from problem

    def mkdir(self, parents: bool = False, exist_ok: bool = False) -> None:
        """`parents` are always made."""
        if not exist_ok and self.exists():
            raise FileExistsError(f"{self} is there already")
        with self._reached():
            self.filesystem.create_dir(self.inside, recursive=True)

    def iterdir(self) -> Iterator[RemotePath]:
        """Nothing where there is no such folder."""
        with self._reached():
            found = self.filesystem.get_file_info(pa.fs.FileSelector(self.inside, allow_not_found=True))
        for info in found:
            yield self / info.base_name

    def glob(self, pattern: str) -> Iterator[RemotePath]:
        """As `Path.glob`, without `**`."""
        first, _, rest = pattern.partition("/")
        for path in self.iterdir():
            if fnmatch.fnmatchcase(path.name, first):
                yield from path.glob(rest) if rest else [path]

    def read_bytes(self) -> bytes:
        with self._reached(), self.filesystem.open_input_stream(self.inside) as stream:
            return stream.read()

    def read_text(self) -> str:
        return self.read_bytes().decode()

    def write_bytes(self, data: bytes) -> None:
        """Write a file, whole or not at all, replacing any of that name."""
        whole = self.filesystem.type_name in _PUTS_WHOLE
        target = self if whole else self.parent / f".{uuid.uuid4().hex}.tmp"
        with self._reached():
            with self.filesystem.open_output_stream(target.inside) as stream:
                stream.write(data)
            if not whole:
                self.filesystem.move(target.inside, self.inside)

    def unlink(self) -> None:
        with self._reached():
            self.filesystem.delete_file(self.inside)

    def remove_tree(self) -> None:
        """Delete a folder with all that is in it."""
        with self._reached():
            self.filesystem.delete_dir(self.inside)


@functools.cache
def _opened(scheme: str, host: str, query: str) -> tuple[pa.fs.FileSystem, str]:
    """The file system, and what its paths begin with."""
    uri = f"{scheme}://{host}" + (f"?{query}" if query else "")
    try:
        return pa.fs.FileSystem.from_uri(uri)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError) as problem:
        reason = str(problem).splitlines()[0]
        raise UsageError(
            f"cannot open {uri} ({reason}); give a local path or a URI such as s3://bucket/runs or gs://bucket/runs"
        ) from problem

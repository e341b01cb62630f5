"""One TOML table being read: every complaint names file, table, key, value, what is allowed."""

from collections.abc import Iterator, Mapping, Sequence
from typing import NoReturn, TypeVar

from tidsram.errors import EstateError
from tidsram.estate import values
from tidsram.estate.values import LATER, VERSION, Reader, nearest, show, show_key

T = TypeVar("T")


class Table:
    """One table of an estate file, with its place for every complaint.

    `what` is what it declares ("a decision"); `keys` are those read, `later` those of the design
    that this version refuses. Creating one checks that the table holds nothing else; without
    `keys`, its keys are names.
    """

    def __init__(
        self,
        where: str,
        path: Sequence[str],
        what: str,
        content: Mapping[str, object],
        keys: Sequence[str] | None,
        *,
        later: Sequence[str] = (),
        item: str = "",
    ) -> None:
        self._where, self._path, self._what, self._content = where, path, what, content
        self._item = item  # a table in a list has no header of its own
        for key in content:
            if key in later:
                self.refuse(f"{self._entry(key)} {LATER}")
            if keys is not None and key not in keys:
                self._unknown(key, keys)

    def __contains__(self, key: str) -> bool:
        return key in self._content

    def get(self, key: str, read: Reader[T], default: T) -> T:
        """Read an optional key."""
        return self._read(key, read) if key in self._content else default

    def need(self, key: str, read: Reader[T], example: str) -> T:
        """Read a required key; the complaint about a missing one offers `example`."""
        if key not in self._content:
            self.refuse(f"{self._at()} has no {key}; add a line such as {example}")
        return self._read(key, read)

    def table(
        self, key: str, what: str, keys: Sequence[str], *, later: Sequence[str] = ()
    ) -> "Table | None":
        """Return the table under `key`; None without one."""
        if key not in self._content:
            return None
        inner = self._content[key]
        if not isinstance(inner, dict):
            self.refuse(f"{self._entry(key)} is not a table; write {self._at(key)} and its keys")
        return Table(self._where, (*self._path, key), what, inner, keys, later=later)

    def named(
        self,
        key: str,
        what: str,
        keys: Sequence[str] | None,
        *,
        later: Sequence[str] = (),
        read_name: Reader[str] = values.name,
    ) -> Iterator[tuple[str, "Table"]]:
        """Yield the name and table of each [key.NAME] below this table."""
        group = self._content.get(key, {})
        if not isinstance(group, dict):
            header = self._at(key, "NAME")
            self.refuse(f"{self._entry(key)} is not a table; write {header} and its keys")
        below = Table(self._where, (*self._path, key), what, group, None)
        return below.each(what, keys, later=later, read_name=read_name)

    def each(
        self,
        what: str,
        keys: Sequence[str] | None,
        *,
        later: Sequence[str] = (),
        read_name: Reader[str] = values.name,
    ) -> Iterator[tuple[str, "Table"]]:
        """Yield each name in this table and the table under it."""
        for name, inner in self._content.items():
            if not isinstance(inner, dict):
                self.refuse(
                    f"{self._at()} {show_key(name)} = {show(inner)} stands outside a table "
                    f"of its own; write {self._at('NAME')} above the keys of {what}"
                )
            try:
                read_name(name)
            except ValueError as error:
                self.refuse(f"{self._at(name)} {error}")
            yield name, Table(self._where, (*self._path, name), what, inner, keys, later=later)

    def listed(
        self, key: str, what: str, keys: Sequence[str], *, example: str
    ) -> "Iterator[Table]":
        """Yield each table of the list under `key`, which holds at least one."""
        items = self._content.get(key)
        if not isinstance(items, list) or not items or not all(isinstance(i, dict) for i in items):
            self.refuse(f"{self._entry(key)} is not a list of tables; write one like {example}")
        for index, inner in enumerate(items):
            yield Table(self._where, self._path, what, inner, keys, item=f"{key}[{index}]")

    def refuse_self(self, problem: str) -> NoReturn:
        """Raise for a table that is wrong as a whole; `problem` follows its header."""
        self.refuse(f"{self._at()} {problem}")

    def refuse_value(self, key: str, problem: str) -> NoReturn:
        """Raise for a value that is wrong beside others; `problem` follows `key = value`."""
        self.refuse(f"{self._entry(key)} {problem}")

    def refuse(self, problem: str) -> NoReturn:
        """Raise with a sentence that already names table and key."""
        raise EstateError(self._where, problem)

    def _read(self, key: str, read: Reader[T]) -> T:
        try:
            return read(self._content[key])
        except ValueError as error:
            self.refuse(f"{self._at()} {key} = {error}")

    def _unknown(self, key: str, known: Sequence[str]) -> NoReturn:
        inner = isinstance(self._content[key], dict)
        advice = nearest(key, known)
        if not advice:
            advice = f"; known are {', '.join(known)}"
            if inner and len(self._path) == 2 and not self._item:
                advice += f" (a name with a dot is quoted: {show(f'{self._path[1]}.{key}')})"
        kind = "table" if inner else "key"
        self.refuse(
            f"{self._entry(key)} is not a {kind} of {self._what} in version {VERSION}{advice}"
        )

    def _entry(self, key: str) -> str:
        """Name a key with its value; a table by its header."""
        value = self._content[key]
        if isinstance(value, dict) and not self._item:
            return self._at(key)
        return f"{self._at()} {show_key(key)} = {show(value)}".lstrip()

    def _at(self, *below: str) -> str:
        header = ".".join(show_key(name) for name in (*self._path, *below))
        return " ".join(filter(None, [f"[{header}]" if header else "", self._item]))

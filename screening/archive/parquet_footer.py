"""How many values the columns of a Parquet file claim, read from its footer in Thrift's compact protocol.

pyarrow 25 tells it too, by ``row_group(i).column(j)``, but a hostile footer makes that end the process (a C++ exception of its
size statistics passes where none may), which fuzzing found. Sources: Thrift's compact protocol
(https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md) and Parquet's ``parquet.thrift``.
"""

from __future__ import annotations

from collections.abc import Iterator

_TRUE, _FALSE, _BYTE, _I16, _I32, _I64, _DOUBLE, _BINARY, _LIST, _SET, _MAP, _STRUCT = range(1, 13)
_INTEGERS = (_I16, _I32, _I64)
_MAX_DEPTH = 32
# parquet.thrift: FileMetaData.row_groups; RowGroup.columns and .num_rows; ColumnChunk.meta_data; ColumnMetaData.num_values
_ROW_GROUPS, _COLUMNS, _NUM_ROWS, _META_DATA, _NUM_VALUES = 4, 1, 3, 3, 5


def values_of_groups(footer: bytes) -> Iterator[tuple[int, list[int]]]:
    """Yield of each row group its rows, and the values of its columns, as the footer claims them.

    Raises
    ------
    ValueError
        The footer is not what Thrift writes.
    """
    cursor = _Cursor(footer)
    try:
        for field, kind in cursor.fields():
            if (field, kind) == (_ROW_GROUPS, _LIST):
                for element in cursor.elements():
                    cursor.expect(element, _STRUCT)
                    yield _group(cursor)
            else:
                cursor.skip(kind)
    except IndexError as error:
        raise ValueError("its footer ends too early") from error


def _group(cursor: _Cursor) -> tuple[int, list[int]]:
    rows, values = 0, []
    for field, kind in cursor.fields():
        if (field, kind) == (_COLUMNS, _LIST):
            for element in cursor.elements():
                cursor.expect(element, _STRUCT)
                values.append(_values(cursor))
        elif (field, kind) == (_NUM_ROWS, _I64):
            rows = cursor.integer()
        else:
            cursor.skip(kind)
    return rows, values


def _values(cursor: _Cursor) -> int:
    """Return the values of a column chunk: field 5 of its field 3."""
    found = 0
    for outer, kind in cursor.fields():
        if (outer, kind) != (_META_DATA, _STRUCT):
            cursor.skip(kind)
            continue
        for field, inner in cursor.fields():
            if (field, inner) == (_NUM_VALUES, _I64):
                found = cursor.integer()
            else:
                cursor.skip(inner)
    return found


class _Cursor:
    """A place in bytes of the compact protocol. Whoever asks for fields or elements reads or skips the value of each."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def expect(self, kind: int, wanted: int) -> None:
        if kind != wanted:
            raise ValueError("its footer is not what Thrift writes")

    def fields(self) -> Iterator[tuple[int, int]]:
        """Yield number and type of the fields of a structure."""
        number = 0
        while head := self._byte():
            number = number + (head >> 4) if head >> 4 else self.integer()
            yield number, head & 0x0F

    def elements(self) -> Iterator[int]:
        """Yield the type of the elements of a list, once for each."""
        head = self._byte()
        count = head >> 4 if head >> 4 < 15 else self._varint()
        for _ in range(count):
            yield head & 0x0F

    def integer(self) -> int:
        value = self._varint()
        return value >> 1 ^ -(value & 1)

    def skip(self, kind: int, depth: int = 0, *, in_list: bool = False) -> None:
        if depth > _MAX_DEPTH:
            raise ValueError(f"its footer is nested more than {_MAX_DEPTH} deep")
        if kind in (_TRUE, _FALSE):
            self._at += in_list  # in a structure the type is the value
        elif kind == _BYTE:
            self._at += 1
        elif kind in _INTEGERS:
            self._varint()
        elif kind == _DOUBLE:
            self._at += 8
        elif kind == _BINARY:
            length = self._varint()
            self._at += length
        elif kind in (_LIST, _SET):
            for element in self.elements():
                self.skip(element, depth + 1, in_list=True)
        elif kind == _MAP:
            count = self._varint()
            types = self._byte() if count else 0
            for _ in range(count):
                self.skip(types >> 4, depth + 1, in_list=True)
                self.skip(types & 0x0F, depth + 1, in_list=True)
        elif kind == _STRUCT:
            for _, inner in self.fields():
                self.skip(inner, depth + 1)
        else:
            raise ValueError("its footer is not what Thrift writes")
        if self._at > len(self._data):
            raise ValueError("its footer ends too early")

    def _byte(self) -> int:
        self._at += 1
        return self._data[self._at - 1]

    def _varint(self) -> int:
        value = shift = 0
        while (octet := self._byte()) >= 0x80:
            value |= (octet & 0x7F) << shift
            shift += 7
            if shift > 63:
                raise ValueError("its footer is not what Thrift writes")
        return value | octet << shift

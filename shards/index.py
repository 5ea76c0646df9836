"""The index beside a tar: a Parquet file with the name, offset and size of each member."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Sequence
from pathlib import Path

import polars as pl
import pyarrow
import pyarrow.compute as compute
import pyarrow.parquet as parquet
from pyarrow import types

from shards.store import ShardError

SUFFIX = ".index.parquet"
SCHEMA = {
    "key": pl.String,
    "member": pl.String,
    "offset": pl.Int64,
    "size": pl.Int64,
    "group": pl.String,
    "content": pl.Int64,
}
"""Columns of an index. content: the first 8 bytes of the member's sha256, which identify equal content."""
SLACK_BYTES = 2**16
"""Bytes by which the names in an index may exceed the size of its tar, in which each member has a header."""
HEADER_BYTES = 512
"""Size of a member's header in a tar, at least."""

_TYPES = {
    pl.String: (types.is_string, types.is_large_string, types.is_string_view),
    pl.Int64: (types.is_int64,),
}


def index_path(tar: Path) -> Path:
    """Path of the index of a tar: `train-00000.tar` has `train-00000.index.parquet`."""
    return tar.with_name(tar.name.removesuffix(".tar") + SUFFIX)


def write_index(tar: Path, rows: list[tuple[str, str, int, int, str]], path: Path | None = None) -> None:
    """Write the index of a tar.

    rows: (key, member, offset, size, group) of each member; the members of a sample are adjacent. path: the file to
    write, by default the one beside the tar.
    """
    with tar.open("rb") as file:
        digests = [hashlib.sha256(os.pread(file.fileno(), size, offset)).digest() for _, _, offset, size, _ in rows]
    contents = [int.from_bytes(digest[:8], signed=True) for digest in digests]
    table = pl.DataFrame([(*row, content) for row, content in zip(rows, contents, strict=True)], SCHEMA, orient="row")
    table.write_parquet(path or index_path(tar), compression="lz4", statistics=False)  # the fastest to read


def read_index(
    data: bytes, tar_bytes: int, where: str, columns: Sequence[str] = tuple(SCHEMA)
) -> dict[str, pyarrow.Array]:
    """Read columns of an index; columns of repeated text may be dictionaries.

    The memory stays close to the size of the tar, whatever the index contains. It is read with one thread, because in a
    forked loader worker a thread pool would wait forever.

    data: the index. tar_bytes: size of its tar. where: name of the index in messages.

    Raises:
        ShardError: `data` is not an index, has other columns, types or empty cells, or has more members or longer names
            than fit in the tar.
    """
    try:
        metadata = parquet.read_metadata(io.BytesIO(data))
        groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
        parts = [group.column(number) for group in groups for number in range(group.num_columns)]
        if metadata.num_rows * HEADER_BYTES > tar_bytes:
            raise ShardError(f"{where} has {metadata.num_rows:,} members, more than fit in its tar")
        if sum(group.total_byte_size for group in groups) > tar_bytes + SLACK_BYTES:
            raise ShardError(f"{where} has names of more bytes than its tar")
        if missing := [name for name in columns if name not in metadata.schema.names]:
            raise ShardError(f"{where} has no column {missing[0]!r}: index the tars again")
        # A few bytes can encode endless repetitions of a long word; a dictionary holds it once.
        repeated = {part.path_in_schema for part in parts if part.has_dictionary_page}
        texts = sorted(name for name in repeated if SCHEMA.get(name) == pl.String)
        file = parquet.ParquetFile(io.BytesIO(data), metadata=metadata, read_dictionary=texts)
        read = file.read(list(columns), use_threads=False).unify_dictionaries()
        read.validate(full=True)
    except (pyarrow.ArrowException, OSError) as error:
        raise ShardError(f"{where} cannot be read ({' '.join(str(error).split())}): index the tars again") from error
    columns_by_name = {name: _without_chunks(read[name]) for name in columns}
    for name, column in columns_by_name.items():
        words = column.dictionary if isinstance(column, pyarrow.DictionaryArray) else column
        if not any(is_type(words.type) for is_type in _TYPES[SCHEMA[name]]):
            raise ShardError(f"{where} has {name}s of type {words.type}: index the tars again")
        if column.null_count:
            raise ShardError(f"{where} lacks {column.null_count:,} {name}s: index the tars again")
        if words is not column:
            lengths = compute.binary_length(words).cast("int64")
            longest = compute.max(lengths).as_py() or 0  # usually conclusive, and faster than the sum
            if longest * len(column) > tar_bytes + SLACK_BYTES < compute.sum(lengths.take(column.indices)).as_py():
                raise ShardError(f"{where} has names of more bytes than its tar")
    return columns_by_name


def _without_chunks(column: pyarrow.ChunkedArray) -> pyarrow.Array:
    """A column as one array, without a copy if it has one chunk."""
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()

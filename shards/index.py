"""The index beside a tar: where each member lies and what it is, in Parquet with a row a member."""

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
"""Columns of an index. content: the first 8 bytes of the member's sha256, by which equal contents are found."""
SLACK_BYTES = 2**16
"""What an index may have beyond the bytes of its tar, in which each member has a header."""
HEADER_BYTES = 512
"""What each member of a tar takes besides its content, at least."""

_TYPES = {
    pl.String: (types.is_string, types.is_large_string, types.is_string_view),
    pl.Int64: (types.is_int64,),
}


def index_path(tar: Path) -> Path:
    """Where the index of a tar lies: `train-00000.tar` has `train-00000.index.parquet`."""
    return tar.with_name(tar.name.removesuffix(".tar") + SUFFIX)


def write_index(tar: Path, rows: list[tuple[str, str, int, int, str]], path: Path | None = None) -> None:
    """Write the index of a tar: (key, member, offset, size, group) of each member, those of a sample together.

    path: the file to write, by default the one beside the tar.
    """
    with tar.open("rb") as file:
        digests = [hashlib.sha256(os.pread(file.fileno(), size, offset)).digest() for _, _, offset, size, _ in rows]
    contents = [int.from_bytes(digest[:8], signed=True) for digest in digests]
    table = pl.DataFrame([(*row, content) for row, content in zip(rows, contents, strict=True)], SCHEMA, orient="row")
    table.write_parquet(path or index_path(tar), compression="lz4", statistics=False)  # what is read fastest


def read_index(
    data: bytes, tar_bytes: int, where: str, columns: Sequence[str] = tuple(SCHEMA)
) -> dict[str, pyarrow.Array]:
    """Columns of the index of a tar of `tar_bytes` bytes, in little more memory than that; repeated texts may be
    dictionaries.

    Read by one thread: in a forked loader worker a pool of threads would wait for ever.

    Raises:
        ShardError: it is none, has other columns, types or empty cells, more members than the tar can have, or longer
            names; `where` is what the message calls it.
    """
    try:
        metadata = parquet.read_metadata(io.BytesIO(data))
        groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
        parts = [group.column(number) for group in groups for number in range(group.num_columns)]
        if metadata.num_rows * HEADER_BYTES > tar_bytes:
            raise ShardError(f"{where} has {metadata.num_rows:,} members, more than its tar can hold")
        if sum(group.total_byte_size for group in groups) > tar_bytes + SLACK_BYTES:
            raise ShardError(f"{where} has names of more bytes than its tar")
        if missing := [name for name in columns if name not in metadata.schema.names]:
            raise ShardError(f"{where} has no column {missing[0]!r}: index the tars again")
        # One long word may be repeated without end in few bytes: as a dictionary it is held once.
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
            longest = compute.max(lengths).as_py() or 0  # mostly enough, and found sooner than the sum
            if longest * len(column) > tar_bytes + SLACK_BYTES < compute.sum(lengths.take(column.indices)).as_py():
                raise ShardError(f"{where} has names of more bytes than its tar")
    return columns_by_name


def _without_chunks(column: pyarrow.ChunkedArray) -> pyarrow.Array:
    """A column as one array, without a copy where it is one already."""
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()

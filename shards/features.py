"""What `datasets` has to know of shards whose samples differ: `datasets.Features` as JSON.

Sounds and TIFF are bytes: `datasets.Audio` needs torchcodec even for what it does not decode, and `datasets.Image`
opens files with Pillow, which reads few of the TIFF files of science.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from modalities.files.magic import extensions_of

NAME = "features.json"

_TEXT = {"dtype": "string", "_type": "Value"}
_BYTES = {"dtype": "binary", "_type": "Value"}
_TYPES = {
    **{extension: {"_type": "Image"} for extension in extensions_of("image", has_mime=True)},
    "json": {"_type": "Json"},  # columns of any name and type, all of which a struct would have to know
    "txt": _TEXT,
}


def array_type(data: bytes) -> tuple[str, int]:
    """Type and number of axes of an array in an `.npy` file, by its header alone.

    Raises:
        ValueError: it is no such file, or holds Python objects.
    """
    file = io.BytesIO(data)
    version = np.lib.format.read_magic(file)
    # 3.0 differs from 2.0 in how names of fields are encoded, which are not asked for
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(file)
    if dtype.hasobject:
        raise ValueError("an array of Python objects cannot be read without running what it holds")
    return dtype.name, len(shape)


def features(members: Iterable[str], arrays: Mapping[str, Iterable[tuple[str, int]]]) -> dict[str, Any]:
    """Features by member, for `load_dataset("webdataset", features=Features.from_dict(...))`.

    arrays: the types and numbers of axes that each `.npy` member has.
    """
    types = {name: _type(name, arrays.get(name, ())) for name in sorted(members)}
    return {**types, "__key__": _TEXT, "__url__": _TEXT}


def _type(member: str, arrays: Iterable[tuple[str, int]]) -> Mapping[str, Any]:
    kinds = list(arrays)
    if not kinds:
        return _TYPES.get(member.rpartition(".")[2], _BYTES)
    if len({axes for _, axes in kinds}) > 1:
        return {"_type": "Json"}  # lists of any depth
    nested: dict[str, Any] = {"dtype": np.result_type(*(name for name, _ in kinds)).name, "_type": "Value"}
    for _ in range(kinds[0][1]):
        nested = {"feature": nested, "_type": "List"}
    return nested

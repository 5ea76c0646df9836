"""Write the features of a shard set for the library `datasets`, which otherwise guesses them from the first samples.

Sounds and TIFF are declared as bytes: `datasets.Audio` needs torchcodec even if nothing is decoded, and
`datasets.Image` opens files with Pillow, which reads few scientific TIFF files.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from modalities.files.magic import extensions_of

FEATURES_FILE = "features.json"

_TEXT = {"dtype": "string", "_type": "Value"}
_BYTES = {"dtype": "binary", "_type": "Value"}
_TYPES = {
    **{extension: {"_type": "Image"} for extension in extensions_of("image", has_mime=True)},
    "json": {"_type": "Json"},  # columns differ between samples; a struct would have to list all of them
    "txt": _TEXT,
}


def array_type(data: bytes) -> tuple[str, int]:
    """Type and number of axes of the array in an `.npy` file, from its header.

    Raises:
        ValueError: the bytes are no such file, or hold Python objects.
    """
    file = io.BytesIO(data)
    version = np.lib.format.read_magic(file)
    # 3.0 differs from 2.0 only in the encoding of field names, which are not read
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read_header(file)
    if dtype.hasobject:
        raise ValueError("an array of Python objects cannot be read without running the code in it")
    return dtype.name, len(shape)


def describe_features(members: Iterable[str], arrays: Mapping[str, Iterable[tuple[str, int]]]) -> dict[str, Any]:
    """Features by member, for `load_dataset("webdataset", features=Features.from_dict(...))`.

    arrays: the types and numbers of axes of each `.npy` member's arrays.
    """
    types = {name: _feature(name, arrays.get(name, ())) for name in sorted(members)}
    return {**types, "__key__": _TEXT, "__url__": _TEXT}


def _feature(member: str, arrays: Iterable[tuple[str, int]]) -> Mapping[str, Any]:
    array_types = list(arrays)
    if not array_types:
        return _TYPES.get(member.rpartition(".")[2], _BYTES)
    if len({axes for _, axes in array_types}) > 1:
        return {"_type": "Json"}  # lists of any depth
    feature: dict[str, Any] = {"dtype": np.result_type(*(name for name, _ in array_types)).name, "_type": "Value"}
    for _ in range(array_types[0][1]):
        feature = {"feature": feature, "_type": "List"}
    return feature

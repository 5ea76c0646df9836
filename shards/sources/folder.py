"""Base of sources that find files by a glob and read fields from their names."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePath

from shards.sources.base import Source
from shards.sources.fields import path_fields, pattern_fields


@dataclass(frozen=True, kw_only=True)
class FolderSource(Source):
    """Base of sources that read the files of a folder.

    Attributes:
        files: Glob of the files, relative to the raw folder.
        pattern: Form of the paths, with fields in braces: `{digit}_{speaker}_{take}.wav`, or with folders
            `{species}/{recorder}_{date}.flac`. It is matched against the end of a path, as many folders deep as the
            pattern; without a suffix it matches files of any suffix. A field is the shortest text that matches, and
            `{video:15}` is 15 characters long.
    """

    files: str = "**/*"
    pattern: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        pattern_fields(self.pattern)

    def name_fields(self, path: PurePath) -> dict[str, str]:
        """The fields of a path by `pattern`.

        Raises:
            ContentError: the path does not match the pattern.
        """
        return path_fields(self.pattern, path, self.suffixes)

"""Versions of the packages that shape data, for their releases may read the same file otherwise."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterable, Mapping

from modalities.base import Modality
from modalities.files.magic import FILE_TYPES
from modalities.files.reading import lazy_import
from shards.sources.base import Source

_COMPARING = {"perceptual": ("imagehash", "pillow", "scipy")}
_FORMATS = {
    package: {name for file_type in FILE_TYPES if package in file_type.packages for name in file_type.extensions}
    for package in {package for file_type in FILE_TYPES for package in file_type.packages}
}
"""Extensions by the package that is needed for them alone."""
_WAVEFORMS = frozenset({"wfdb", "pyedflib"})


def required_packages(
    modalities: Mapping[str, Modality], source: Source | None = None, kinds: Iterable[str] = ()
) -> tuple[str, ...]:
    """Packages by which a source and modalities read files, sorted.

    kinds: how contents are compared (`shards.dedupe`).
    """
    read = set(source.parsers if source else ())
    needed = {package for modality in modalities.values() for package in modality.requires}
    if read & _WAVEFORMS:  # the source reads recordings, so signals are arrays
        needed -= _WAVEFORMS
    if source is not None:
        needed |= {package for modality in modalities.values() for package in modality.build_requires}
    return tuple(sorted(read | needed | {package for kind in kinds for package in _COMPARING.get(kind, ())}))


def relevant_versions(versions: Mapping[str, str], members: Iterable[str]) -> dict[str, str]:
    """Those versions that matter to a data set with such members: no TIFF, no reader of TIFFs."""
    extensions = {name.rpartition(".")[2].lower() for name in members}
    return {k: version for k, version in versions.items() if not extensions.isdisjoint(_FORMATS.get(k, extensions))}


def installed_versions(names: Iterable[str]) -> dict[str, str]:
    """Versions of those packages that are installed; with soundfile, of libsndfile too."""
    version_by_name = {}
    for name in names:
        try:
            version_by_name[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        if name == "soundfile":
            version_by_name["libsndfile"] = lazy_import("soundfile", "soundfile").__libsndfile_version__
    return version_by_name


def version_differences(one: Mapping[str, str], other: Mapping[str, str]) -> list[tuple[str, str, str]]:
    """(package, version in one, version in the other) of packages that both name with different versions."""
    return [(name, one[name], other[name]) for name in sorted(one.keys() & other.keys()) if one[name] != other[name]]

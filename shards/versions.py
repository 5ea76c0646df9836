"""Versions of the packages that read raw data, because their releases may read the same file differently."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterable, Mapping

from modalities.base import Modality
from modalities.files.magic import FILE_TYPES
from modalities.files.reading import lazy_import
from shards.sources.base import Source

_COMPARISON_PACKAGES = {"perceptual": ("imagehash", "pillow", "scipy")}
_FORMATS = {
    package: {name for file_type in FILE_TYPES if package in file_type.packages for name in file_type.extensions}
    for package in {package for file_type in FILE_TYPES for package in file_type.packages}
}
"""By package, the extensions that it reads, if it reads no others."""
_WAVEFORMS = frozenset({"wfdb", "pyedflib"})


def required_packages(
    modalities: Mapping[str, Modality], source: Source | None = None, kinds: Iterable[str] = ()
) -> tuple[str, ...]:
    """Packages that a source and modalities need to read files, sorted.

    kinds: kinds of comparison (`shards.dedupe`).
    """
    parsers = set(source.parsers if source else ())
    needed = {package for modality in modalities.values() for package in modality.requires}
    if parsers & _WAVEFORMS:  # the source reads recordings, so signals are arrays
        needed -= _WAVEFORMS
    if source is not None:
        needed |= {package for modality in modalities.values() for package in modality.build_requires}
    return tuple(
        sorted(parsers | needed | {package for kind in kinds for package in _COMPARISON_PACKAGES.get(kind, ())})
    )


def relevant_versions(versions: Mapping[str, str], members: Iterable[str]) -> dict[str, str]:
    """The versions that affect a data set with these members: without TIFFs, the TIFF reader is omitted."""
    extensions = {name.rpartition(".")[2].lower() for name in members}
    return {k: version for k, version in versions.items() if not extensions.isdisjoint(_FORMATS.get(k, extensions))}


def installed_versions(names: Iterable[str]) -> dict[str, str]:
    """Versions of the installed packages among `names`; soundfile adds the version of libsndfile."""
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
    """(package, first version, second version) of packages whose versions differ."""
    return [(name, one[name], other[name]) for name in sorted(one.keys() & other.keys()) if one[name] != other[name]]

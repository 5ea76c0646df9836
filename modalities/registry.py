"""Registries of the classes that recipes name: modalities, sources and objectives."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterator, Mapping
from typing import TypeVar

from modalities.names import did_you_mean

T = TypeVar("T")
C = TypeVar("C", bound=type)


class Registry(Mapping[str, type[T]]):
    """Classes that implement one contract, by the name that recipes give them; a mapping from names to classes.

    A class of this project is decorated with `register`, and the `__init__.py` of its folder imports its module. An
    installed package adds its own classes through entry points of the registry's `group`:

        [project.entry-points."sensorium.modalities"]
        counts = "my_package.counts:Counts"

    The entry point names a class decorated with `register`; its name must be the class's name in recipes. Entry points
    are loaded once, when a name is not registered yet, or when all names are listed. The groups are
    `sensorium.modalities`, `sensorium.sources`, `sensorium.objectives`, `sensorium.mask_shapes` and
    `sensorium.mask_modes`.
    """

    def __init__(self, group: str, attribute: str = "type"):
        """group: of entry points. attribute: class attribute with the name."""
        self.group = group
        self.attribute = attribute
        self._classes: dict[str, type[T]] = {}
        self._is_complete = False

    def register(self, cls: C) -> C:
        """Class decorator: add a class under its name.

        Raises:
            ValueError: another class has the same name.
        """
        name = getattr(cls, self.attribute)
        other = self._classes.get(name)
        if other is not None and (other.__module__, other.__qualname__) != (cls.__module__, cls.__qualname__):
            raise ValueError(
                f"{cls.__module__}.{cls.__qualname__} cannot be registered as {name!r} in {self.group}: "
                f"{other.__module__}.{other.__qualname__} has this name"
            )
        self._classes[name] = cls
        return cls

    def find(self, name: object, key: str) -> type[T]:
        """The class registered as `name`; `key` is the recipe key that names it, for the error message.

        Raises:
            ValueError: nothing is registered under this name, or an installed package's entry point is broken.
        """
        if not isinstance(name, str) or name not in self:
            raise ValueError(f"{key} is {name!r}{did_you_mean(str(name), self)}")
        return self._classes[name]

    def __getitem__(self, name: str) -> type[T]:
        if name not in self._classes:
            self._load_entry_points()
        return self._classes[name]

    def __iter__(self) -> Iterator[str]:
        self._load_entry_points()
        return iter(list(self._classes))

    def __len__(self) -> int:
        self._load_entry_points()
        return len(self._classes)

    def _load_entry_points(self) -> None:
        """Import the classes of installed packages; importing registers them."""
        if self._is_complete:
            return
        for point in importlib.metadata.entry_points(group=self.group):
            package = point.dist.name if point.dist else "unknown"
            origin = f"entry point '{point.name}' of {self.group} in the installed package '{package}'"
            try:
                cls = point.load()
            except Exception as error:  # importing foreign code may raise anything
                raise ValueError(f"{origin} cannot be loaded ({type(error).__name__}: {error})") from error
            if self._classes.get(point.name) is not cls:
                raise ValueError(f"{origin} is not a class registered as '{point.name}': decorate it with register")
        self._is_complete = True

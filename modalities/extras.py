"""Optional packages and the extras of sensorium that install them."""

from __future__ import annotations

EXTRAS = {
    "rdkit": "molecules",
    "chembl_structure_pipeline": "molecules",
    "torchaudio": "audio",
    "soundfile": "audio",
    "wfdb": "biosignals",
    "pyedflib": "biosignals",
    "mne": "biosignals",
    "biopython": "sequences",
    "tifffile": "images",
    "imagecodecs": "images",
    "simplejpeg": "images",
    "imagehash": "images",
    "matplotlib": "report",
    "tensorboard": "tracking",
    "wandb": "tracking",
    "s3fs": "remote",
    "gcsfs": "remote",
    "ray": "ray",
}
"""Extra by package, as in pyproject.toml; packages of the base install have none."""


def install_command(package: str) -> str:
    """How to install a package: by its extra or, as models from the Hub do without sensorium, by itself."""
    extra = EXTRAS.get(package)
    return f"pip install 'sensorium[{extra}]' or pip install {package}" if extra else f"pip install {package}"

from __future__ import annotations

import dataclasses
import io
import json
import pickle
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from modalities import base
from modalities.base import MODALITY_TYPES, Modality, fitted, from_json
from modalities.dna import Dna
from modalities.files.reading import ContentError, lazy_import
from modalities.files.recording import Recording
from modalities.files.sound import Audio
from modalities.image import Image, Picture
from modalities.layers.positions import SineCosine
from modalities.lightcurve import LightCurve
from modalities.masks.masking import Masking
from modalities.masks.modes import MODES
from modalities.signal import Signal
from modalities.smiles import Smiles
from modalities.spectrogram import Spectrogram
from modalities.table import Table
from modalities.text import Text
from modalities.tokens import Tokens


def noise(height: int, width: int, *bands: str) -> Picture:
    """A picture of random pixels."""
    rng = np.random.default_rng(height * width)
    return Picture(rng.random((height, width, len(bands)), np.float32), bands)


def hiss(seconds: float, rate_hz: int, channels: int) -> Audio:
    """Random sound."""
    samples = np.random.default_rng(rate_hz).standard_normal((channels, round(seconds * rate_hz)))
    return Audio((samples * 0.1).astype(np.float32), rate_hz)


def waves(*channels: str, uneven: bool = False) -> Recording:
    """Random traces of a second at 100 Hz, or of about as long at random times."""
    rng = np.random.default_rng(len(channels))
    samples = rng.standard_normal((len(channels), 100)).astype(np.float32)
    times = np.cumsum(rng.random(100)) / 50 if uneven else None
    return Recording(samples, channels, ("uV",) * len(channels), 0.0 if uneven else 100.0, 0.5, times)


EXAMPLES: dict[str, Modality] = {
    "image": Image(size=16, patch=8, bands="rgb"),
    "bands": Image(size=12, patch=4, target="values", flip=True, crop=(0.5, 1.0), brightness=0.2),
    "smiles": Smiles(min_count=1, mask=Masking(mode="bert", final_ratio=0.5, ratio_steps=7)),
    "sound": Spectrogram(
        sample_rate_hz=8000, mel_bands=16, patch=(8, 4), length_s=0.3, time_mask_s=0.1, frequency_mask=4
    ),
    "frames": Spectrogram(sample_rate_hz=8000, mel_bands=16, patch=(16, 2), channels="keep", target="values"),
    "eeg": Signal(montage="eeg", sample_rate_hz=50, low_hz=1, high_hz=20, notch_hz=(16,), patch_s=0.2, window_s=0.7),
    "curve": LightCurve(errors=True, patch_points=5, normalize="mad", target="normalized", stem="mlp"),
    "table": Table(min_count=1, exclude=("label",)),
    "dates": Table(min_count=1, max_categories=1),
    "dna": Dna(kmer=3, stride=2, reverse_complement=True),
    "letters": Dna(vocabulary="character", length=12),
    "subwords": Dna(vocabulary="learned", vocabulary_size=24),
    "text": Text(vocabulary=300, kind="bpe", length=20),
}
"""Unfitted modalities, each kind at least once."""
RAWS: dict[str, list[Any]] = {
    "image": [noise(16, 24, "red", "green", "blue"), noise(40, 8, "red", "green", "blue")],
    "bands": [noise(12, 8, "nir", "red"), noise(9, 12, "red")],
    "smiles": ["CC(=O)O", "c1cc[nH]c1", "C[Cu-3]"],
    **{name: ["ACGTTGCANNRT", "GATTACAGATTACA"] for name in ("dna", "letters", "subwords")},
    "text": ["Insecta <Diptera>", "naïve 蝶"],
    "dates": [{"day": f"2015-11-0{i}", "length": f"{i} mm", "name": f"x{i}"} for i in range(1, 4)],
    "eeg": [waves("Fp1", "F3-C3", "Cz"), waves("Fp1", "Oz")],
    "curve": [waves("flux", "flux_error", uneven=True), waves("flux", "flux_error", uneven=True)],
    "sound": [hiss(0.2, 8000, 1), hiss(0.4, 11025, 1)],
    "frames": [hiss(0.2, 8000, 2), hiss(0.1, 16000, 1)],
    "table": [{"a b": 1.5, "kind": "é<x>", "on": True, "gone": None}, {"a b": 0.1, "kind": "y", "on": False}],
}
NAMES = sorted(EXAMPLES)


@pytest.fixture(scope="module")
def learned() -> dict[str, Modality]:
    """The modalities, fitted."""
    return {name: modality.fit(RAWS[name]) for name, modality in EXAMPLES.items()}


def back(modality: Modality) -> Modality:
    """The way through a file of JSON."""
    return from_json(json.loads(json.dumps(modality.to_json())))


def test_every_registered_modality_is_tested_here() -> None:
    assert {modality.type for modality in EXAMPLES.values()} == set(MODALITY_TYPES)


@pytest.mark.parametrize("type_", sorted(MODALITY_TYPES))
def test_defaults_round_trip_through_json(type_: str) -> None:
    assert back(MODALITY_TYPES[type_]()) == MODALITY_TYPES[type_]()


@pytest.mark.parametrize("name", NAMES)
def test_json_round_trip(name: str, learned: dict[str, Modality]) -> None:
    for modality in (EXAMPLES[name], learned[name]):
        assert back(modality) == modality
        assert type(back(modality)) is type(modality)
        assert hash(back(modality)) == hash(modality)
    assert learned[name] != EXAMPLES[name]
    for raw in RAWS[name]:
        same = zip(back(learned[name]).tokenize(raw), learned[name].tokenize(raw), strict=True)
        assert all((a == b).all() for a, b in same)


maskings = st.builds(
    Masking,
    kind=st.sampled_from(["random", "span", "block"]),
    ratio=st.floats(0, 1),
    mode=st.sampled_from(sorted(MODES)),
    span=st.integers(1, 99),
    final_ratio=st.none() | st.floats(0, 1),
    ratio_steps=st.integers(1, 99),
)


@given(maskings, st.lists(st.dictionaries(st.text(max_size=3), st.floats() | st.text(max_size=3) | st.booleans())))
def test_json_round_trip_of_any_table(mask: Masking, rows: list[dict[str, Any]]) -> None:
    try:
        table = Table(min_count=1, mask=mask).fit(rows)
    except ValueError:  # nothing to fit on, or homonyms
        table = Table(mask=mask)
    assert back(table) == table


@given(maskings, st.lists(st.text("CO[]+-H13", min_size=1, max_size=9), min_size=1))
def test_json_round_trip_of_any_smiles(mask: Masking, strings: list[str]) -> None:
    smiles = Smiles(min_count=1, mask=mask).fit(strings)
    assert back(smiles) == smiles


@given(maskings, st.lists(st.tuples(st.integers(1, 3), st.floats(-9, 9, width=32)), min_size=1))
def test_json_round_trip_of_any_image(mask: Masking, raws: list[tuple[int, float]]) -> None:
    pictures = [Picture(np.full((2, 3, n), x, np.float32), tuple("abc"[:n])) for n, x in raws]
    image = Image(size=8, patch=2, mask=mask).fit(pictures)
    assert back(image) == image


@given(st.binary(), st.lists(st.tuples(st.text(), st.lists(st.integers()).map(tuple))).map(tuple))
def test_binary_assets_round_trip_through_json(codes: bytes, nested: tuple[Any, ...]) -> None:
    @dataclass(frozen=True, kw_only=True)
    class Toy(Smiles):
        type: ClassVar[str] = "toy"
        codes: bytes = fitted(b"")
        nested: tuple[Any, ...] = fitted(())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MODALITY_TYPES, "_classes", dict(MODALITY_TYPES))
        base.register(Toy)
        toy = Toy(codes=codes, nested=nested, length=7)
        assert back(toy) == toy
        assert isinstance(toy.to_json()["codes"], dict)
        assert back(Toy()) == Toy()
    assert "toy" not in MODALITY_TYPES


@pytest.mark.parametrize("name", NAMES)
def test_unknown_fields_are_refused(name: str) -> None:
    state = EXAMPLES[name].to_json()
    with pytest.raises(ValueError, match="no field colour"):
        from_json({**state, "colour": 1})
    with pytest.raises(ValueError, match=r"no field mask\.colour"):
        from_json({**state, "mask": {**state["mask"], "colour": 1}})


@pytest.mark.parametrize("state", [{}, {"type": "smell"}, {"type": None}])
def test_unknown_types_are_refused(state: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"type of a modality is .*(smiles|image)"):
        from_json(state)


@pytest.mark.parametrize("name", NAMES)
def test_fit_learns_on_a_copy(name: str, learned: dict[str, Modality]) -> None:
    assert EXAMPLES[name] == back(EXAMPLES[name])
    for field in dataclasses.fields(EXAMPLES[name]):
        same = getattr(EXAMPLES[name], field.name) == getattr(learned[name], field.name)
        assert same or field.metadata.get("fitted"), field.name
    assert learned[name] == EXAMPLES[name].fit(iter(RAWS[name]))
    with pytest.raises(ValueError, match="to fit"):
        EXAMPLES[name].fit([])


def test_a_missing_parser_names_its_package() -> None:
    with pytest.raises(ValueError, match="pip install no-such-package"):
        lazy_import("no_such_module", "no-such-package")
    assert lazy_import("json", "json") is json


def test_content_errors_carry_their_reason() -> None:
    assert ContentError("why").reason == str(ContentError("why")) == "why"


def stacked(modality: Modality, raws: list[Any]) -> list[torch.Tensor]:
    """Values, ids and coordinates of several items."""
    tokens = [modality.tokenize(raw) for raw in raws]
    return [torch.from_numpy(np.concatenate(parts)) for parts in zip(*tokens, strict=True)]


class Trap:
    """Unpickling it leaves a trace."""

    sprung = False

    def __reduce__(self) -> tuple[Any, ...]:
        return setattr, (Trap, "sprung", True)


@pytest.mark.parametrize("name", NAMES)
def test_no_modality_loads_a_pickle(name: str, learned: dict[str, Modality]) -> None:
    array, buffer = np.empty(2, object), io.BytesIO()
    array[:] = Trap()
    np.save(buffer, array, allow_pickle=True)
    modality = learned[name]
    for data in (pickle.dumps(Trap()), buffer.getvalue()):
        for kinds in (("pkl",), ("pickle",), modality.extensions, *((kind,) for kind in modality.extensions)):
            with pytest.raises(ContentError):
                modality.tokenize(modality.decode(dict.fromkeys(kinds, data)))
    assert not Trap.sprung


@pytest.mark.parametrize("name", NAMES)
def test_positions_do_not_depend_on_content(name: str, learned: dict[str, Modality]) -> None:
    modality = learned[name]
    torch.manual_seed(0)
    embedding = modality.embedding(24)
    values, ids, coords = stacked(modality, RAWS[name])
    content, place = embedding(values, ids, coords)
    assert content.shape == place.shape == (len(ids), 24)

    other_ids = ids.clone()
    if modality.num_ids:
        other_ids[:, 0] = (ids[:, 0] - 1) % (modality.num_ids - 2) + 2
    changed, same = embedding(values + torch.randn_like(values), other_ids, coords)
    torch.testing.assert_close(same, place, rtol=0, atol=0)
    assert (changed != content).any(1).all()


@pytest.mark.parametrize("name", NAMES)
def test_positions_distinguish_tokens(name: str, learned: dict[str, Modality]) -> None:
    torch.manual_seed(0)
    _, place = learned[name].embedding(24)(*stacked(learned[name], RAWS[name][:1]))
    assert len(torch.unique(place, dim=0)) == len(place)


@pytest.mark.parametrize("name", NAMES)
def test_tokens_do_not_see_each_other(name: str, learned: dict[str, Modality]) -> None:
    torch.manual_seed(0)
    embedding = learned[name].embedding(24)
    parts = stacked(learned[name], RAWS[name])
    for full, alone in zip(embedding(*parts), embedding(*(part[1:2] for part in parts)), strict=True):
        torch.testing.assert_close(full[1:2], alone)


@pytest.mark.parametrize("name", NAMES)
def test_gradients_reach_all_parameters(name: str, learned: dict[str, Modality]) -> None:
    modality = learned[name]
    torch.manual_seed(0)
    modules = torch.nn.ModuleDict({"embedding": modality.embedding(24), "head": modality.head(24)})
    values, ids, coords = stacked(modality, RAWS[name])
    content, place = modules["embedding"](values, ids, coords)
    loss = modality.loss(modules["head"](content + place), values, ids)
    assert loss.shape == (len(ids),)
    loss.sum().backward()
    for parameter, weight in modules.named_parameters():
        assert weight.numel(), parameter
        assert weight.grad is not None, parameter
        assert torch.isfinite(weight.grad).all(), parameter
        assert weight.grad.any(), parameter


@pytest.mark.parametrize("name", NAMES)
def test_loss_is_float32_under_autocast(name: str, learned: dict[str, Modality]) -> None:
    modality = learned[name]
    values, ids, coords = stacked(modality, RAWS[name])
    with torch.autocast("cpu", torch.bfloat16):
        content, place = modality.embedding(24)(values, ids, coords)
        loss = modality.loss(modality.head(24)(content + place), values, ids)
    assert loss.dtype == torch.float32
    assert torch.isfinite(loss).all()


@pytest.mark.parametrize("name", NAMES)
def test_reconstructions_follow_the_contract_and_can_be_shown(name: str, learned: dict[str, Modality]) -> None:
    modality = learned[name]
    for raw in RAWS[name]:
        tokens = modality.tokenize(raw)
        rng = np.random.default_rng(0)
        prediction = rng.standard_normal((tokens.size, modality.head(8).out_features)).astype(np.float32)
        reconstruction = modality.reconstruct(prediction, tokens)
        assert isinstance(reconstruction, Tokens)
        assert [(p.shape, p.dtype) for p in reconstruction] == [(p.shape, p.dtype) for p in tokens]
        html = modality.show(tokens, np.arange(tokens.size) % 2 == 0, reconstruction)
        assert list(html) == ["original", "masked", "reconstructed"]
        assert len(set(html.values())) == 3


def test_positions_stay_distinct_in_long_sequences_under_autocast() -> None:
    coords = torch.arange(5000, 5100, dtype=torch.float32)[:, None]
    place = SineCosine(1, 64)
    calls: list[torch.Tensor] = []
    place.project.register_forward_hook(lambda _, inputs, __: calls.append(inputs[0]))
    with torch.autocast("cpu", torch.bfloat16):
        place(coords)
    angles = coords.double() * torch.tensor([10000.0 ** (-i / 32) for i in range(32)], dtype=torch.float64)
    expected = torch.cat([angles.sin(), angles.cos()], 1)
    torch.testing.assert_close(calls[0].double(), expected, rtol=0, atol=2e-3)

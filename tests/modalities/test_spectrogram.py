from __future__ import annotations

import base64
import io
import json
import os
import struct
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import soundfile
import torch
import torchaudio
from hypothesis import given, settings
from hypothesis import strategies as st

from modalities.base import from_json
from modalities.files.reading import ContentError, counted_changes
from modalities.files.sound import MAX_CHANNELS, Audio, clipped_share, resample
from modalities.spectrogram import FLOOR, Spectrogram
from modalities.tokens import Tokens

SMALL = {"sample_rate_hz": 8000, "mel_bands": 16, "patch": (8, 4), "target": "values"}


def noise(seconds: float = 0.5, rate_hz: int = 8000, channels: int = 1, seed: int = 0) -> Audio:
    """Random sound, a tenth of full scale."""
    shape = (channels, round(seconds * rate_hz))
    return Audio((np.random.default_rng(seed).standard_normal(shape) * 0.1).astype(np.float32), rate_hz)


def encoded(raw: Audio, kind: str, subtype: str | None = None) -> bytes:
    """A sound file's bytes."""
    buffer = io.BytesIO()
    soundfile.write(buffer, raw.samples.T, int(raw.rate_hz), format=kind.upper(), subtype=subtype)
    return buffer.getvalue()


def array(samples: np.ndarray) -> bytes:
    """An `.npy` file's bytes."""
    buffer = io.BytesIO()
    np.save(buffer, samples)
    return buffer.getvalue()


def small(**fields: Any) -> Spectrogram:
    """Few bands, for speed, fitted to noise."""
    return Spectrogram(**{**SMALL, **fields}).fit([noise()])


def assemble(modality: Spectrogram, tokens: Tokens) -> np.ndarray:
    """Energies `(C, mel_bands, frames)` from tokens, one patch at a time."""
    height, width = modality.patch
    frames = np.rint(
        tokens.coords[:, 0] * modality.sample_rate_hz / (modality.sample_rate_hz * modality.shift_ms // 1000)
    ).astype(int)
    result = np.full((tokens.ids[:, 1].max() - 1, modality.mel_bands, frames.max() + width), np.nan)
    for values, channel, frame, band in zip(
        tokens.values, tokens.ids[:, 1] - 2, frames, tokens.coords[:, 1].astype(int), strict=True
    ):
        result[channel, band : band + height, frame : frame + width] = values.reshape(height, width)
    return result * 2 * modality.std + modality.mean


# Kaldi's features


def reference(samples: np.ndarray) -> np.ndarray:
    """Features `(frames, 128)` by the numpy path of transformers' extractor for AST, which takes SSAST's settings."""
    from transformers.models.audio_spectrogram_transformer import (
        feature_extraction_audio_spectrogram_transformer as ast,
    )

    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings(action="ignore"):  # of filters without a bin
        patch.setattr(ast, "is_speech_available", lambda: False)
        extractor = ast.ASTFeatureExtractor()
        frames = 1 + (len(samples) - 400) // 160
        return extractor._extract_fbank_features(samples.astype(np.float64) - samples.mean(dtype=np.float64), frames)


TIME = np.arange(16_000) / 16_000


@pytest.mark.parametrize(
    "samples",
    [
        noise(1, 16_000).samples[0],
        np.sin(2 * np.pi * 440 * TIME) * 0.9,
        np.sin(2 * np.pi * 3500 * TIME**2) * 0.5 + 0.3,
        noise(0.3, 16_000).samples[0] * 1e-3,
        np.eye(1, 4000, 2000)[0],
    ],
    ids=["noise", "tone", "chirp with an offset", "faint", "click"],
)
def test_features_equal_those_of_transformers(samples: np.ndarray) -> None:
    result = Spectrogram().log_mel(Audio(samples[None].astype(np.float32), 16_000))
    np.testing.assert_allclose(result[0].T, reference(samples.astype(np.float32)), atol=1e-3)


@pytest.mark.skipif("SENSORIUM_DATA" not in os.environ, reason="SENSORIUM_DATA names no folder of real data")
def test_features_of_real_clips_equal_those_of_transformers() -> None:
    clips = sorted((Path(os.environ["SENSORIUM_DATA"]) / "spoken_digits" / "recordings").glob("*.wav"))[::40]
    assert clips
    modality = Spectrogram()
    for clip in clips:
        raw = modality.parse(clip)
        samples = resample(torch.from_numpy(raw.samples), raw.rate_hz, 16_000)
        np.testing.assert_allclose(modality.log_mel(raw)[0].T, reference(samples[0].numpy()), atol=1e-3)


def test_digital_silence_is_the_floor() -> None:
    samples = np.zeros((1, 8000), np.float32)
    samples[0, :200] = 0.5
    assert Spectrogram(**SMALL).log_mel(Audio(samples, 8000))[0, :, 90:] == pytest.approx(FLOOR)


# Tokens


@settings(max_examples=30)
@given(
    st.floats(0.03, 0.9),
    st.sampled_from([4000, 8000, 11025, 44100]),
    st.integers(1, 3),
    st.sampled_from([(16, 1), (16, 3), (8, 4), (4, 16)]),
    st.booleans(),
)
def test_sound_of_any_length_rate_and_channel_count(
    seconds: float, rate_hz: int, channels: int, patch: tuple[int, int], keep: bool
) -> None:
    raw = noise(seconds, rate_hz, channels)
    modality = Spectrogram(**{**SMALL, "patch": patch, "channels": "keep" if keep else "mono"})
    modality = modality.fit([modality.parse(raw)])
    tokens = modality.tokenize(modality.parse(raw))
    length = -(-raw.samples.shape[1] * 8000 // rate_hz)
    frames = 1 + (max(length, 200) - 200) // 80
    count = channels if keep else 1
    assert tuple(part.shape[1] for part in tokens) == modality.widths == (patch[0] * patch[1], 2, 2)
    assert tokens.size == count * (16 // patch[0]) * -(-frames // patch[1])
    assert [part.dtype for part in tokens] == [np.float32, np.int64, np.float32]
    assert np.isfinite(tokens.values).all()
    assert set(tokens.ids[:, 0]) == {2}
    assert set(tokens.ids[:, 1]) == {2 + i for i in range(count)}
    result = assemble(modality, tokens)
    np.testing.assert_allclose(result[..., :frames], modality.log_mel(modality.parse(raw)), atol=1e-3)
    np.testing.assert_allclose(result[..., frames:], FLOOR, atol=1e-3)


def test_defaults_equal_those_of_ssast() -> None:
    raw = noise(12, 16_000)
    tokens = Spectrogram().fit([raw]).tokenize(raw)
    assert tokens.size == 512
    frames = Spectrogram(patch=(128, 2)).fit([raw]).tokenize(raw)
    assert frames.size == 511
    assert not frames.coords[:, 1].any()
    np.testing.assert_allclose(np.diff(frames.coords[:, 0]), 0.02, atol=1e-5)


def test_fitted_values_have_a_std_of_one_half() -> None:
    raws = [noise(0.95, seed=i) for i in range(3)]  # 93 frames: a tail of silence
    modality = Spectrogram(**{**SMALL, "patch": (16, 1)}).fit(raws)
    values = np.concatenate([modality.tokenize(raw).values for raw in raws])
    assert values.mean() == pytest.approx(0, abs=1e-4)
    assert values.std() == pytest.approx(0.5, abs=1e-4)


@pytest.mark.parametrize("rate_hz", [4000, 11025, 16000, 22050, 44100, 44101, 48000, 250_000, 7999.5])
def test_resampling_keeps_a_tone(rate_hz: float) -> None:
    seconds = 0.3
    time = np.arange(round(seconds * rate_hz)) / rate_hz
    samples = torch.from_numpy(np.sin(2 * np.pi * 500 * time)[None].astype(np.float32))
    result = resample(samples, rate_hz, 8000)[0].numpy()
    assert len(result) == pytest.approx(seconds * 8000, abs=2)
    inner = slice(100, -100)
    expected = np.sin(2 * np.pi * 500 * np.arange(len(result)) / 8000)
    np.testing.assert_allclose(
        result[inner], expected[inner], atol=0.02 if rate_hz != 7999.5 else 0.1
    )  # a rounded ratio


@pytest.mark.parametrize("rate_hz", [22_050, 32_000, 44_100, 48_000])
def test_frequencies_above_nyquist_are_removed(rate_hz: int) -> None:
    time = np.arange(2 * rate_hz) / rate_hz
    for tone_hz, level in ((6500, 1.0), (8500, 0.0), (10_000, 0.0)):
        tone = torch.from_numpy(np.sin(2 * np.pi * tone_hz * time)[None].astype(np.float32))
        inner = resample(tone, rate_hz, 16_000)[0, 8000:-8000]
        assert float(inner.square().mean().sqrt()) * 2**0.5 == pytest.approx(level, abs=1e-5)


@pytest.mark.parametrize(("old", "new"), [(48_000, 16_000), (8000, 16_000), (44_100, 16_000), (11_025, 8000)])
@pytest.mark.parametrize("length", [1, 5, 100, 10_007])
def test_resampling_equals_torchaudio(old: int, new: int, length: int) -> None:
    samples = torch.from_numpy(np.random.default_rng(0).standard_normal((2, length)).astype(np.float32))
    expected = torchaudio.transforms.Resample(
        old, new, "sinc_interp_kaiser", 64, 0.9475937167399596, beta=14.769656459379492
    )
    torch.testing.assert_close(resample(samples, old, new), expected(samples))


def test_long_sound_is_cropped() -> None:
    samples = np.concatenate([noise(1).samples * level for level in (1e-3, 1e-2, 1)], 1)
    raw = Audio(samples, 8000)
    fields = {**SMALL, "length_s": 1.0}
    loud = {}
    for crop in ("first", "center"):
        modality = Spectrogram(**fields, crop=crop).fit([raw])
        loud[crop] = float(modality.log_mel(modality._part(raw, None)).mean())
        assert modality.tokenize(raw).coords[:, 0].max() < 1
    assert loud["first"] < loud["center"] - 4
    modality = Spectrogram(**fields).fit([raw])
    starts = {modality.tokenize(raw, np.random.default_rng(seed)).values.tobytes() for seed in range(9)}
    assert len(starts) == 9
    same = modality.tokenize(raw, np.random.default_rng(3)), modality.tokenize(raw, np.random.default_rng(3))
    assert all((a == b).all() for a, b in zip(*same, strict=True))
    assert Spectrogram(**{**fields, "length_s": None}).fit([raw]).tokenize(raw).coords[:, 0].max() > 2.9


def test_mono_is_the_mean_of_the_channels() -> None:
    raw = noise(channels=2)
    mono, keep = Spectrogram(**SMALL), Spectrogram(**SMALL, channels="keep")
    np.testing.assert_allclose(mono.parse(raw).samples[0], raw.samples.mean(0), atol=1e-7)
    assert (keep.parse(raw).samples == raw.samples).all()
    fitted = keep.fit([noise(), raw])
    assert fitted.channel_count == 2
    assert fitted.tokenize(noise()).size * 2 == fitted.tokenize(raw).size
    with pytest.raises(ContentError, match="more than 2 channels"):
        fitted.tokenize(noise(channels=3))


def test_spec_augment_masks_one_range_of_time_and_one_of_bands() -> None:
    raw = noise(1)
    modality = small(time_mask_s=0.3, frequency_mask=5)
    plain = assemble(modality, modality.tokenize(raw))
    widths = []
    for seed in range(60):
        changed = assemble(modality, modality.tokenize(raw, np.random.default_rng(seed))) != plain
        bands, frames = changed[0].sum(1), changed[0].sum(0)
        hidden = np.flatnonzero(bands == bands.max()), np.flatnonzero(frames == frames.max())
        full = bands.max() >= 98, frames.max() >= 16
        widths.append([len(part) if is_full else 0 for part, is_full in zip(hidden, full, strict=True)])
        for part, is_full in zip(hidden, full, strict=True):
            assert not is_full or len(part) == part[-1] - part[0] + 1
    maximum = np.array(widths).max(0)
    assert maximum[0] == 5
    assert 20 < maximum[1] <= 30
    assert np.array_equal(assemble(modality, modality.tokenize(raw)), plain)
    still = small()
    assert all(
        (a == b).all() for a, b in zip(still.tokenize(raw, np.random.default_rng(0)), still.tokenize(raw), strict=True)
    )


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"sample_rate_hz": 0}, "2 samples or more"),
        ({"sample_rate_hz": 100}, "2 samples or more"),
        ({"patch": (5, 4)}, "must divide 16 mel_bands"),
        ({"patch": (8, 0)}, "must divide"),
        ({"low_hz": 5000.0}, "low_hz and high_hz"),
        ({"high_hz": 4001.0}, "low_hz and high_hz"),
        ({"length_s": 0.01}, "shorter than a window"),
        ({"frequency_mask": 17}, "out of its range"),
        ({"max_clipped": -0.1}, "out of its range"),
    ],
)
def test_invalid_settings_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Spectrogram(**{**SMALL, **fields})


# Files


@pytest.mark.parametrize(("kind", "subtype"), [("wav", None), ("wav", "FLOAT"), ("wav", "PCM_U8"), ("flac", "PCM_24")])
@pytest.mark.parametrize("channels", [1, 2])
def test_files_keep_their_samples(tmp_path: Path, kind: str, subtype: str | None, channels: int) -> None:
    raw = noise(channels=channels, rate_hz=11025)
    modality = Spectrogram(**SMALL, channels="keep")
    data = encoded(raw, kind, subtype)
    (tmp_path / f"a.{kind.upper()}").write_bytes(data)
    for result in (modality.decode({kind: data}), modality.parse(data), modality.parse(tmp_path / f"a.{kind.upper()}")):
        assert result.rate_hz == 11025
        np.testing.assert_allclose(result.samples, raw.samples, atol=1 / 120 if subtype == "PCM_U8" else 1e-4)


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
def test_lossy_files(subtype: str) -> None:
    raw = noise(rate_hz=48_000)
    result = Spectrogram().decode({"ogg": encoded(raw, "ogg", subtype)})
    assert (result.rate_hz, result.samples.shape) == (48_000, raw.samples.shape)


def test_arrays(tmp_path: Path) -> None:
    raw = noise(channels=2)
    modality = Spectrogram(**SMALL, channels="keep")
    described = json.dumps({"sample_rate_hz": 8000}).encode()
    (tmp_path / "a.npy").write_bytes(array(raw.samples))
    (tmp_path / "a.json").write_bytes(described)
    for result in (
        modality.decode({"npy": array(raw.samples), "json": described}),
        modality.parse(tmp_path / "a.npy"),
        modality.parse(raw),
        modality.parse({"array": raw.samples.astype(np.float64), "sampling_rate": 8000}),
        modality.parse({"path": None, "bytes": encoded(raw, "wav", "FLOAT")}),
    ):
        assert result.rate_hz == 8000
        assert result.samples.dtype == np.float32
        assert (result.samples == raw.samples).all()
    whole_numbers = modality.parse(((raw.samples[0] * 2**15).astype(np.int16), 8000)).samples
    np.testing.assert_allclose(whole_numbers, raw.samples[:1], atol=1 / 2**15)


GOOD = noise(2, channels=1)


def wav(rate_hz: int = 8000) -> bytes:
    """A WAV file that declares a sample rate."""
    data = bytearray(encoded(GOOD, "wav"))
    data[24:28] = struct.pack("<I", rate_hz)
    return bytes(data)


def test_a_streamed_wav_has_no_stated_length() -> None:
    data = bytearray(encoded(GOOD, "wav"))
    data[40:44] = b"\xff\xff\xff\xff"
    assert Spectrogram().decode({"wav": bytes(data)}).samples.shape == GOOD.samples.shape


def test_sound_without_a_stated_length_is_read_completely_and_counted() -> None:
    data = bytearray(encoded(GOOD, "flac"))
    data[21] &= 0xF0
    data[22:26] = bytes(4)
    with counted_changes() as changes:
        result = Spectrogram().decode({"flac": bytes(data)})
    assert result.samples.shape == GOOD.samples.shape
    assert changes == {"flac audio that does not state its length: samples counted": 1}


def test_files_get_their_length_when_shards_are_built(tmp_path: Path) -> None:
    data = bytearray(encoded(GOOD, "wav"))
    data[40:44] = bytes(4)
    (tmp_path / "a.wav").write_bytes(data)
    with counted_changes() as changes:
        [(extension, member)] = Spectrogram().read_members(tmp_path / "a.wav").items()
        assert Spectrogram().decode({extension: member}).samples.shape == GOOD.samples.shape
    assert soundfile.info(io.BytesIO(member)).frames == GOOD.samples.shape[1]
    assert changes == {"wav audio that does not state its length: read to the end of the file": 1}


def test_telephone_sound_without_seeking() -> None:
    result = Spectrogram().decode({"wav": encoded(GOOD, "wav", "GSM610")})
    assert GOOD.samples.shape[1] <= result.samples.shape[1] < GOOD.samples.shape[1] + 320


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ({}, "audio without a recording"),
        ({"json": b"{}"}, "audio without a recording"),
        ({"wav": wav(), "flac": b""}, "audio of several recordings"),
        ({"mid": b"MThd"}, "audio of the unknown kind mid"),
        ({"wav": b""}, "empty audio file"),
        ({"wav": encoded(GOOD, "flac")}, "audio file is not wav"),
        ({"flac": encoded(GOOD, "wav")}, "audio file is not flac"),
        ({"ogg": encoded(GOOD, "flac")}, "audio file is not ogg"),
        ({"mp3": encoded(GOOD, "wav")}, "audio file is not mp3"),
        ({"mp3": b"ID3" + bytes(99)}, "unreadable mp3 audio"),
        ({"npy": encoded(GOOD, "flac")}, "audio file is not npy"),
        ({"wav": b"RIFF\0\0\0\0WAVEjunk"}, "unreadable wav audio"),
        ({"wav": wav()[:38]}, "unreadable wav audio"),
        ({"flac": b"fLaC" + bytes(99)}, "unreadable flac audio"),
        ({"ogg": b"OggS\0\6" + bytes(99)}, "unreadable ogg audio"),
        ({"wav": wav()[:9999]}, "truncated wav audio"),
        ({"flac": encoded(GOOD, "flac")[:-3000]}, "truncated flac audio"),
        ({"ogg": encoded(GOOD, "ogg")[:5000]}, "truncated ogg audio"),
        ({"wav": wav(0)}, "audio with a sample rate of 0"),
        ({"wav": encoded(Audio(GOOD.samples[:, :0], 8000), "wav")}, "audio without samples"),
        ({"wav": encoded(Audio(GOOD.samples[:, :199], 8000), "wav")}, "audio shorter than a window of 25 ms"),
        (
            {"wav": encoded(Audio(GOOD.samples * np.nan, 8000), "wav", "FLOAT")},
            "audio with samples that are not numbers",
        ),
        (
            {"wav": encoded(Audio(GOOD.samples + np.inf, 8000), "wav", "FLOAT")},
            "audio with samples that are not numbers",
        ),
        ({"wav": encoded(Audio(GOOD.samples * 0, 8000), "wav")}, "silent or constant audio"),
        ({"ogg": encoded(Audio(GOOD.samples * 0, 8000), "ogg")}, "silent or constant audio"),
        ({"wav": encoded(Audio(GOOD.samples * 0 + 0.5, 8000), "wav")}, "silent or constant audio"),
        ({"wav": encoded(Audio(np.sin(np.arange(8000) * 0.02)[None] * 3, 8000), "wav")}, "clipped audio"),
        ({"npy": array(GOOD.samples)}, "audio samples without sample_rate_hz"),
        ({"npy": array(GOOD.samples), "json": b"[8000]"}, "audio samples without sample_rate_hz"),
        ({"npy": array(GOOD.samples), "json": b"{"}, "description of a sound is not JSON"),
        ({"npy": array(GOOD.samples)[:999], "json": b"{}"}, "unreadable npy audio"),
        ({"npy": array(np.array([{}], object)), "json": b"{}"}, "unreadable npy audio"),
        ({"npy": array(GOOD.samples), "json": b'{"sample_rate_hz": 0}'}, "audio with a sample rate of 0"),
        (
            {"npy": array(GOOD.samples), "json": b'{"sample_rate_hz": 1%s}' % (b"0" * 400)},
            "audio samples without sample_rate_hz",
        ),
        ({"npy": array(GOOD.samples), "json": b'{"sample_rate_hz": -1}'}, "audio with an impossible sample rate"),
        ({"npy": array(GOOD.samples), "json": b'{"sample_rate_hz": NaN}'}, "audio with an impossible sample rate"),
        ({"npy": array(GOOD.samples * 1j)}, "audio array of complex64"),
        ({"npy": array(GOOD.samples.T)}, f"audio array that is not (channels, time), {MAX_CHANNELS} channels at most"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_unusable_files_have_a_reason_each(members: dict[str, bytes], reason: str) -> None:
    with np.errstate(all="ignore"), pytest.raises(ContentError) as caught:
        Spectrogram(sample_rate_hz=8000, channels="keep").decode(members)
    assert caught.value.reason == reason


@pytest.mark.parametrize("value", [None, 3, noise().samples, {"array": noise().samples}, (1, 2, 3), "no/such.wav", b""])
def test_values_that_are_not_sound(value: Any) -> None:
    with pytest.raises(ContentError):
        Spectrogram().parse(value)


@settings(max_examples=40)
@given(st.sampled_from(["wav", "flac", "ogg", "mp3"]), st.integers(0, 4000), st.binary(min_size=1, max_size=8))
def test_corrupted_files_give_sound_or_a_content_error(kind: str, place: int, damage: bytes) -> None:
    data = bytearray(encoded(noise(0.3), kind))
    place %= len(data)
    data[place : place + len(damage)] = damage
    try:
        result = Spectrogram(**SMALL).decode({kind: bytes(data)})
    except ContentError:
        return
    assert np.isfinite(result.samples).all()


def test_long_sound_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("modalities.spectrogram", "modalities.files.sound"):
        monkeypatch.setattr(f"{module}.MAX_SAMPLES", 9000)
    for kind in ("wav", "flac", "ogg", "mp3"):
        with pytest.raises(ContentError, match="more than 9,000 samples"):
            Spectrogram(**SMALL).decode({kind: encoded(GOOD, kind)})
    with pytest.raises(ContentError, match="more than 9,000 samples"):
        Spectrogram(**SMALL).parse(GOOD)
    low = Audio(noise(1).samples[:, :4500], 100)
    with pytest.raises(ContentError, match="at the recipe's rate"):
        Spectrogram(**SMALL, length_s=None).parse(low)
    assert Spectrogram(**SMALL).parse(low).rate_hz == 100


def test_clipping_is_the_share_of_samples_in_flat_runs_at_the_extremes() -> None:
    assert clipped_share(np.array([[0.0, 1, 1, 1, 0, -1, -1, 0, 0, 0]])) == pytest.approx(0.3)
    assert clipped_share(np.array([[1.0, 1, 1, 1, -1, -1, -1, -1, 0, 0]])) == pytest.approx(0.8)
    assert clipped_share(np.array([[1.0, -1] * 5])) == 0
    assert clipped_share(noise().samples) == 0
    loud = Audio(np.clip(noise().samples * 9, -0.5, 0.5), 8000)
    assert Spectrogram(**SMALL, max_clipped=1.0).parse(loud).rate_hz == 8000
    with pytest.raises(ContentError, match="clipped"):
        Spectrogram(**SMALL).parse(loud)


# Loss, reconstruction and pictures


def normalized(values: np.ndarray) -> np.ndarray:
    """Each patch by its own mean and std."""
    return np.stack([(row - row.mean()) / np.sqrt(row.var() + 1e-6) for row in values.astype(np.float64)])


@pytest.mark.parametrize("target", ["values", "normalized"])
def test_loss_is_the_squared_error_of_the_target(target: Any) -> None:
    modality = small(target=target)
    tokens = modality.tokenize(noise(seed=1))
    prediction = np.random.default_rng(1).standard_normal(tokens.values.shape).astype(np.float32)
    true_values = tokens.values if target == "values" else normalized(tokens.values)
    loss = modality.loss(*map(torch.from_numpy, (prediction, tokens.values, tokens.ids)))
    np.testing.assert_allclose(loss.numpy(), ((prediction - true_values) ** 2).mean(1), rtol=1e-4)
    perfect = modality.reconstruct(true_values.astype(np.float32), tokens)
    np.testing.assert_allclose(perfect.values, tokens.values, atol=1e-4)


@pytest.mark.parametrize("channels", [1, 2])
def test_show_draws_the_first_channel_with_low_bands_below(channels: int) -> None:
    raw = noise(channels=channels)
    modality = Spectrogram(**SMALL, channels="keep").fit([raw])
    tokens = modality.tokenize(raw)
    low = (tokens.coords == [0, 0]).all(1)
    parts = modality.show(tokens, low, tokens._replace(values=tokens.values * 0))
    pictures = {}
    for name, html in parts.items():
        data = html.split("base64,")[1].split('"')[0]
        pictures[name] = np.asarray(PIL.Image.open(io.BytesIO(base64.b64decode(data))))
    assert pictures["original"].shape == (16, 48, 3)
    assert (pictures["masked"][8:, :4] == [191, 204, 224]).all()
    for name in ("masked", "reconstructed"):
        changed = (pictures[name] != pictures["original"]).any(2)
        assert changed[8:, :4].any()
        changed[8:, :4] = False
        assert not changed.any()


def test_a_patch_stays_a_tuple_through_json() -> None:
    state = small().to_json()
    assert from_json(json.loads(json.dumps(state))) == small()
    assert isinstance(from_json(json.loads(json.dumps(state))).patch, tuple)  # type: ignore[attr-defined]

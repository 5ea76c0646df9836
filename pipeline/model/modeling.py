"""One transformer for all modalities: embeddings, shared trunk, fusion, decoder, heads."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedModel
from transformers.utils import ModelOutput

from modalities.base import Modality, from_json
from modalities.masks.masking import Action
from modalities.tokens import Tokens
from pipeline.model.batch import Batch, Pack, pack, visible_rows
from pipeline.model.blocks import Blocks, segment_mean
from pipeline.model.configuration import SensoriumConfig


@dataclass
class Encoding:
    """What the model computes for one view of a batch of B slots.

    pooled: `(B, dim)` mean of the trunk's tokens; embeddings: `(B, embedding)` of unit length. Both by modality, zero
    in slots without it. fused: `(B, dim)` over all modalities of a sample. tokens: `(T, dim)` by modality after fusion,
    in the batch's order, zero if dropped. unimodal_tokens: the same before fusion, when no token has seen another
    modality. layers: on request `(B, (depth + 1) * dim)` by modality, means of the input of each block and of the
    trunk's output. position_embeddings: `(T, dim)` by modality, all that a token is apart from its content.
    predictions: `(targets + 1, outputs)` by modality; the last row is the dummy's.
    """

    pooled: dict[str, torch.Tensor]
    embeddings: dict[str, torch.Tensor]
    tokens: dict[str, torch.Tensor]
    fused: torch.Tensor
    unimodal_tokens: dict[str, torch.Tensor] = field(default_factory=dict)
    layers: dict[str, torch.Tensor] = field(default_factory=dict)
    position_embeddings: dict[str, torch.Tensor] = field(default_factory=dict)
    predictions: dict[str, torch.Tensor] = field(default_factory=dict)


@dataclass
class SensoriumOutput(ModelOutput):
    """Output of `SensoriumModel`; see `Encoding` for the shapes."""

    embeddings: dict[str, torch.Tensor] | None = None
    pooled: dict[str, torch.Tensor] | None = None
    fused: torch.Tensor | None = None
    tokens: dict[str, torch.Tensor] | None = None


class InputEmbedding(nn.Module):
    """The way of one modality into the trunk: `(tokens seen, position)`, each `(T, dim)`."""

    def __init__(self, modality: Modality, dim: int):
        super().__init__()
        self.embedding = modality.embedding(dim)
        self.type_embedding = nn.Parameter(torch.zeros(dim))
        self.mask_token = nn.Parameter(torch.zeros(dim))
        self.norm = nn.LayerNorm(dim)
        self.context = modality.context(dim)

    def forward(self, content: Pack, masked: bool) -> tuple[torch.Tensor, torch.Tensor]:
        values, ids = (content.input_values, content.input_ids) if masked else (content.values, content.ids)
        x, position = self.embedding(values, ids, content.coords)
        position = position + self.type_embedding
        x = self.norm(x)
        if masked:
            x = torch.where((content.action == Action.MASK).unsqueeze(1), self.mask_token.to(x.dtype), x)
        else:
            x = x + 0 * self.mask_token  # every parameter takes part in every pass
        if self.context is not None:
            group = torch.cat([content.sample.unsqueeze(1), ids[:, 1:]], 1)  # of one sample, band or channel
            here = visible_rows(content) if masked else torch.ones_like(content.target)
            x = self.context(x, content.coords, group, here)
        return x + position, position


class Decoder(nn.Module):
    """All tokens of a sample attend to each other, so that one modality helps to fill in another (MultiMAE)."""

    def __init__(self, config: SensoriumConfig, modalities: dict[str, Modality]):
        super().__init__()
        width = config.decoder_dim
        self.project = nn.Linear(config.dim, width)
        self.drop_token = nn.Parameter(torch.zeros(config.dim))
        self.position = nn.Linear(config.dim, width, bias=False)
        self.blocks = Blocks(width, config.decoder_depth, config.decoder_heads, config.mlp_ratio)
        self.heads = nn.ModuleDict({name: modality.head(width) for name, modality in modalities.items()})

    def forward(
        self, tokens: dict[str, torch.Tensor], position_embeddings: dict[str, torch.Tensor], packs: dict[str, Pack]
    ) -> dict[str, torch.Tensor]:
        x = torch.cat(
            [
                torch.where(visible_rows(packs[name]).unsqueeze(1), tokens[name].float(), self.drop_token)
                for name in packs
            ]
        )
        position = torch.cat([position_embeddings[name] for name in packs])
        segment = torch.cat([packs[name].sample for name in packs])
        x = self.blocks(self.project(x) + self.position(position), segment)
        parts = x.split([len(packs[name].sample) for name in packs])
        predictions = {}
        for (name, content), part in zip(packs.items(), parts, strict=True):
            wanted = content.target.clone()
            wanted[-1] = True  # the dummy row runs through every head
            predictions[name] = self.heads[name](part[wanted])
        return predictions


class Projection(nn.Sequential):
    """From pooled features to contrastive embeddings by one hidden layer, so that features keep more (SimCLR)."""

    def __init__(self, dim: int, embedding: int):
        super().__init__(nn.Linear(dim, 2 * dim), nn.SiLU(), nn.Linear(2 * dim, embedding, bias=False))


class SensoriumModel(PreTrainedModel):
    """Shared trunk over segments of one (sample, modality), pooled and projected embeddings, fusion, decoder.

    `model(batch)` takes a `Batch`, or a list of samples `{modality: (values, ids, coords)}` as numpy arrays.
    """

    config_class = SensoriumConfig
    base_model_prefix = "sensorium"
    main_input_name = "batch"

    def __init__(self, config: SensoriumConfig):
        super().__init__(config)
        self.modalities: dict[str, Modality] = {name: from_json(state) for name, state in config.modalities.items()}
        self.input_embeddings = nn.ModuleDict(
            {name: InputEmbedding(m, config.dim) for name, m in self.modalities.items()}
        )
        self.trunk = Blocks(config.dim, config.depth, config.heads, config.mlp_ratio)
        self.projections = nn.ModuleDict({name: Projection(config.dim, config.embedding) for name in self.modalities})
        self.fusion = (
            Blocks(config.dim, config.fusion_depth, config.heads, config.mlp_ratio) if config.fusion_depth else None
        )
        self.decoder = Decoder(config, self.modalities)
        self.head: nn.Linear | None = None
        if config.head is not None:
            width = self.features_width(config.head["modalities"], config.head["features"] == "layers")
            self.head = nn.Linear(width, len(config.head["classes"]) or 1)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Linear maps by Glorot & Bengio 2010, as in MAE; learnt vectors by a normal of std 0.02."""
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=0.02)
        elif isinstance(module, nn.LayerNorm):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
        elif isinstance(module, InputEmbedding):
            nn.init.normal_(module.type_embedding, std=0.02)
            nn.init.normal_(module.mask_token, std=0.02)
        elif isinstance(module, Decoder):
            nn.init.normal_(module.drop_token, std=0.02)

    def pack(self, samples: Sequence[dict[str, Any]]) -> Batch:
        """A batch of samples given as tokens or triples of arrays by modality."""
        widths = {name: modality.widths for name, modality in self.modalities.items()}
        return pack([{name: Tokens(*parts) for name, parts in sample.items()} for sample in samples], widths)

    def forward(
        self,
        batch: Any,
        views: tuple[str, ...] | None = None,
        decode: bool = False,
        layers: bool = False,
        **_: Any,
    ) -> Any:
        """Encode a batch.

        views: encodings wanted, `full` (nothing masked) or `visible` (as the masks leave it), all in one call of the
        trunk; the result is then `{view: Encoding}`, otherwise the full encoding as a `SensoriumOutput`.
        decode: also predict the masked targets of `visible`. layers: also pool what goes into each block.
        """
        if not hasattr(batch, "packs"):  # by what it is: code from the Hub loads a processor's classes apart
            batch = self.pack(batch)
        with self._autocast():
            encodings = self._encode(batch.to(self.device), views or ("full",), decode, layers)
        if views is not None:
            return encodings
        full = encodings["full"]
        return SensoriumOutput(embeddings=full.embeddings, pooled=full.pooled, fused=full.fused, tokens=full.tokens)

    def features_width(self, modalities: Sequence[str], layers: bool) -> int:
        """Width of `features`."""
        return len(modalities) * (self.config.depth + 1 if layers else 1) * self.config.dim

    def features(self, batch: Batch, modalities: Sequence[str], layers: bool) -> torch.Tensor:
        """What a head reads, `(B, features_width)`: pooled tokens by modality, zero where a sample lacks it.

        layers: of what goes into each block too, not only of what comes out of the trunk.
        """
        full = self(batch.to(self.device), views=("full",), layers=layers)["full"]
        pooled = full.layers if layers else full.pooled
        return torch.cat([pooled[name] for name in modalities], dim=1)

    @torch.inference_mode()
    def predict(self, batch: Any) -> torch.Tensor:
        """The label that the model was fine-tuned on: `(B,)` in its own unit, or probabilities `(B, classes)`.

        batch: as in `forward`. `config.head` names the label and its classes.

        Raises:
            ValueError: the model was not fine-tuned.
        """
        if self.head is None:
            raise ValueError("the model has no head: it was not fine-tuned")
        state = self.config.head
        batch = batch if hasattr(batch, "packs") else self.pack(batch)
        with self._autocast():
            output = self.head(self.features(batch, state["modalities"], state["features"] == "layers")).float()
        if state["kind"] == "classification":
            return output.softmax(1)
        return output[:, 0].double() * state["std"] + state["mean"]

    def _autocast(self) -> AbstractContextManager[Any]:
        """Autocast to the weights' type where that is bfloat16 or float16, as after `.half()`.

        Batches stay float32, so that coordinates and spectra keep their resolution; autocast converts what goes into
        matrix products, as in training.
        """
        if self.dtype not in (torch.bfloat16, torch.float16):
            return nullcontext()
        return torch.autocast(self.device.type, self.dtype)

    def _encode(self, batch: Batch, views: tuple[str, ...], decode: bool, layers: bool) -> dict[str, Encoding]:
        slots = batch.size + 1
        inputs, segments, position_embeddings, wanted = [], [], {}, []
        for view in views:
            for name, content in batch.packs.items():
                x, position = self.input_embeddings[name](content, masked=view == "visible")
                keep = visible_rows(content) if view == "visible" else torch.ones_like(content.target)
                wanted.append((view, name, keep))
                position_embeddings[view, name] = position
                inputs.append(x[keep])
                segments.append((len(wanted) - 1) * slots + content.sample[keep])
        segment = torch.cat(segments)
        inner: list[torch.Tensor] | None = [] if layers else None
        x = self.trunk(torch.cat(inputs), segment, inner)
        pooled = segment_mean(x, segment, len(wanted) * slots).view(len(wanted), slots, -1)
        deep = segment_mean(torch.cat([*inner, x], 1), segment, len(wanted) * slots) if inner else pooled
        deep = deep.view(len(wanted), slots, -1)
        parts = x.split([len(part) for part in inputs])
        encodings = {}
        for view in views:
            unimodal_tokens, means, embeddings, seen = {}, {}, {}, {}
            for i, (owner, name, keep) in enumerate(wanted):
                if owner != view:
                    continue
                unimodal_tokens[name] = (
                    parts[i].new_zeros(len(keep), x.shape[1]).masked_scatter(keep.unsqueeze(1), parts[i])
                )
                seen[name] = keep
                means[name] = pooled[i]
                embeddings[name] = F.normalize(self.projections[name](pooled[i]).float(), dim=1, eps=1e-6)
            tokens, fused = self._fuse(batch, unimodal_tokens, means, seen)
            encodings[view] = Encoding(
                {name: mean[:-1] for name, mean in means.items()},
                {n: embedding[:-1].where(batch.present[n].unsqueeze(1), 0.0) for n, embedding in embeddings.items()},
                tokens,
                fused[:-1],
                unimodal_tokens,
                {name: deep[i, :-1] for i, (owner, name, _) in enumerate(wanted) if layers and owner == view},
                {name: position_embeddings[view, name] for name in batch.packs},
            )
            if decode and view == "visible":
                encodings[view].predictions = self.decoder(tokens, encodings[view].position_embeddings, batch.packs)
        return encodings

    def _fuse(
        self,
        batch: Batch,
        tokens: dict[str, torch.Tensor],
        means: dict[str, torch.Tensor],
        seen: dict[str, torch.Tensor],
    ) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        """Tokens after fusion and `(B + 1, dim)` of whole samples; without fusion blocks the mean over modalities.

        seen: `(T,)` bool by modality, which tokens are there; dropped ones stay zero.
        """
        if self.fusion is not None:
            here = torch.cat([seen[name] for name in tokens])
            sample = torch.cat([batch.packs[name].sample for name in tokens])[here]
            x = self.fusion(torch.cat(list(tokens.values()))[here], sample)
            whole = x.new_zeros(len(here), x.shape[1]).masked_scatter(here.unsqueeze(1), x)
            split = whole.split([len(part) for part in tokens.values()])
            return dict(zip(tokens, split, strict=True)), segment_mean(x, sample, batch.size + 1)
        present = torch.stack([F.pad(batch.present[name].float(), (0, 1), value=1.0) for name in means])
        total = (torch.stack(list(means.values())) * present.unsqueeze(2)).sum(0)
        return tokens, total / present.sum(0).clamp(min=1).unsqueeze(1)

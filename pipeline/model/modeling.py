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
from pipeline.model.batch import Batch, Pack, pack, predicted_rows, visible_rows
from pipeline.model.blocks import Blocks, segment_mean
from pipeline.model.configuration import SensoriumConfig


@dataclass(kw_only=True)
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
    """Input tokens of one modality for the trunk, and their position embeddings, each `(T, dim)`."""

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
            x = x + 0 * self.mask_token  # every parameter takes part in every forward pass
        if self.context is not None:
            group = torch.cat([content.sample.unsqueeze(1), ids[:, 1:]], 1)  # tokens of one sample, band or channel
            visible = visible_rows(content) if masked else torch.ones_like(content.target)
            x = self.context(x, content.coords, group, visible)
        return x + position, position


class Decoder(nn.Module):
    """Decoder of masked modeling: all tokens of a sample attend to each other, across modalities (MultiMAE)."""

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
        """Predictions `(targets + 1, outputs)` by modality from tokens and position embeddings `(T, dim)`."""
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
        return {
            name: self.heads[name](part[predicted_rows(content)])
            for (name, content), part in zip(packs.items(), parts, strict=True)
        }


class Projection(nn.Sequential):
    """Projection head from pooled features to contrastive embeddings; its hidden layer spares the features (SimCLR)."""

    def __init__(self, dim: int, embedding: int):
        super().__init__(nn.Linear(dim, 2 * dim), nn.SiLU(), nn.Linear(2 * dim, embedding, bias=False))


class SensoriumModel(PreTrainedModel):
    """Shared trunk over segments of one (sample, modality), then pooling, projection heads, fusion and decoder.

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
        """Initialize linear layers as Glorot & Bengio 2010, as MAE does, and vectors from a normal of std 0.02."""
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
        """Pack samples, each with tokens or triples (values, ids, coords) of arrays by modality."""
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

        views: `full` (without masks) or `visible` (under the masks), or both in one call of the trunk; the result is
        then `{view: Encoding}`. Without views it is the full encoding as a `SensoriumOutput`.
        decode: also predict the masked targets of `visible`. layers: also pool the input of each block.
        """
        if not hasattr(batch, "packs"):  # not isinstance: code from the Hub defines its own Batch class
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
        """Features for a head, `(B, features_width)`: pooled tokens by modality, zero if a sample lacks it.

        layers: also the pooled input of each block, not only the pooled output of the trunk.
        """
        full = self(batch.to(self.device), views=("full",), layers=layers)["full"]
        pooled = full.layers if layers else full.pooled
        return torch.cat([pooled[name] for name in modalities], dim=1)

    @torch.inference_mode()
    def predict(self, batch: Any) -> torch.Tensor:
        """Predict the label that the model was fine-tuned on: `(B,)` in its unit, or probabilities `(B, classes)`.

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
        """Autocast to the weights' type if it is bfloat16 or float16, for example after `.half()`.

        Batches stay float32, so that coordinates and spectra keep their resolution; autocast converts the inputs of
        matrix products, as in training.
        """
        if self.dtype not in (torch.bfloat16, torch.float16):
            return nullcontext()
        return torch.autocast(self.device.type, self.dtype)

    def _encode(self, batch: Batch, views: tuple[str, ...], decode: bool, layers: bool) -> dict[str, Encoding]:
        """Encodings of several views of a batch, all in one call of the trunk."""
        slots = batch.size + 1  # the last one is the dummies'
        parts = [(view, name) for view in views for name in batch.packs]
        inputs, segments, rows, position_embeddings = [], [], {}, {}
        for i, (view, name) in enumerate(parts):
            content = batch.packs[name]
            x, position_embeddings[view, name] = self.input_embeddings[name](content, masked=view == "visible")
            encoded = visible_rows(content) if view == "visible" else torch.ones_like(content.target)
            rows[view, name] = encoded
            inputs.append(x[encoded])
            segments.append(i * slots + content.sample[encoded])
        segment = torch.cat(segments)
        block_inputs: list[torch.Tensor] | None = [] if layers else None
        x = self.trunk(torch.cat(inputs), segment, block_inputs)
        pooled = segment_mean(x, segment, len(parts) * slots).view(len(parts), slots, -1)
        tokens = dict(zip(parts, x.split([len(part) for part in inputs]), strict=True))
        means = {part: pooled[i] for i, part in enumerate(parts)}
        encodings = {}
        for view in views:
            encoding = self._encode_view(
                batch,
                {name: tokens[view, name] for name in batch.packs},
                {name: means[view, name] for name in batch.packs},
                {name: rows[view, name] for name in batch.packs},
            )
            encoding.position_embeddings = {name: position_embeddings[view, name] for name in batch.packs}
            if decode and view == "visible":
                encoding.predictions = self.decoder(encoding.tokens, encoding.position_embeddings, batch.packs)
            encodings[view] = encoding
        if block_inputs:
            x = torch.cat([*block_inputs, x], 1)
            layer_means = segment_mean(x, segment, len(parts) * slots).view(len(parts), slots, -1)
            for i, (view, name) in enumerate(parts):
                encodings[view].layers[name] = layer_means[i, :-1]
        return encodings

    def _encode_view(
        self,
        batch: Batch,
        encoded_tokens: dict[str, torch.Tensor],
        means: dict[str, torch.Tensor],
        rows: dict[str, torch.Tensor],
    ) -> Encoding:
        """Embeddings and fused tokens of one view.

        encoded_tokens: output of the trunk. means: `(B + 1, dim)` pooled tokens. rows: `(T,)` bool, the encoded tokens.
        All by modality.
        """
        unimodal_tokens, embeddings = {}, {}
        for name, x in encoded_tokens.items():
            encoded = rows[name]
            unimodal_tokens[name] = x.new_zeros(len(encoded), x.shape[1]).masked_scatter(encoded.unsqueeze(1), x)
            embedding = F.normalize(self.projections[name](means[name]).float(), dim=1, eps=1e-6)
            embeddings[name] = embedding[:-1].where(batch.present[name].unsqueeze(1), 0.0)
        tokens, fused = self._fuse(batch, unimodal_tokens, means, rows)
        return Encoding(
            pooled={name: mean[:-1] for name, mean in means.items()},
            embeddings=embeddings,
            tokens=tokens,
            fused=fused[:-1],
            unimodal_tokens=unimodal_tokens,
        )

    def _fuse(
        self,
        batch: Batch,
        tokens: dict[str, torch.Tensor],
        means: dict[str, torch.Tensor],
        rows: dict[str, torch.Tensor],
    ) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        """Tokens after fusion, and features of whole samples `(B + 1, dim)`; without fusion blocks a mean of `means`.

        rows: `(T,)` bool by modality, the tokens that were encoded; the others stay zero.
        """
        if self.fusion is not None:
            encoded = torch.cat([rows[name] for name in tokens])
            sample = torch.cat([batch.packs[name].sample for name in tokens])[encoded]
            x = self.fusion(torch.cat(list(tokens.values()))[encoded], sample)
            all_rows = x.new_zeros(len(encoded), x.shape[1]).masked_scatter(encoded.unsqueeze(1), x)
            split = all_rows.split([len(part) for part in tokens.values()])
            return dict(zip(tokens, split, strict=True)), segment_mean(x, sample, batch.size + 1)
        present = torch.stack([F.pad(batch.present[name].float(), (0, 1), value=1.0) for name in means])
        total = (torch.stack(list(means.values())) * present.unsqueeze(2)).sum(0)
        return tokens, total / present.sum(0).clamp(min=1).unsqueeze(1)

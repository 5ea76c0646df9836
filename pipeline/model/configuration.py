"""Configuration of the model: its sizes and its fitted modalities."""

from __future__ import annotations

from typing import Any

from transformers import PretrainedConfig


class SensoriumConfig(PretrainedConfig):
    """All that is needed to build the model.

    modalities: JSON of each fitted modality, by name. dim, depth, heads, mlp_ratio: of the shared trunk. embedding:
    width of the contrastive embeddings. fusion_depth: number of blocks over all modalities of a sample; 0 for none.
    decoder_dim, decoder_depth, decoder_heads: of the decoder of masked modeling. head: label, kind, classes or mean and
    std, modalities and features of a fine-tuned model's head; None for other models.
    """

    model_type = "sensorium"

    def __init__(
        self,
        modalities: dict[str, dict[str, Any]] | None = None,
        dim: int = 384,
        depth: int = 6,
        heads: int = 6,
        mlp_ratio: float = 4.0,
        embedding: int = 256,
        fusion_depth: int = 0,
        decoder_dim: int = 192,
        decoder_depth: int = 2,
        decoder_heads: int = 3,
        head: dict[str, Any] | None = None,
        **kwargs: Any,
    ):
        self.modalities = modalities or {}
        self.dim = self.hidden_size = dim
        self.depth = depth
        self.heads = heads
        self.mlp_ratio = mlp_ratio
        self.embedding = embedding
        self.fusion_depth = fusion_depth
        self.decoder_dim = decoder_dim
        self.decoder_depth = decoder_depth
        self.decoder_heads = decoder_heads
        self.head = head
        super().__init__(**kwargs)

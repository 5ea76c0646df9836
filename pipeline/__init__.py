"""Pretrain, fine-tune, evaluate and export multimodal foundation models of scientific domains."""

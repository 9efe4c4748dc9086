"""Tiny models for transformers with random weights, saved to a folder as `save_pretrained` does."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    BlipConfig,
    BlipForConditionalGeneration,
    BlipImageProcessorPil,
    BlipProcessor,
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    GitConfig,
    GitForCausalLM,
    GitProcessor,
    GPT2Config,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
    VisionEncoderDecoderConfig,
    VisionEncoderDecoderModel,
    ViTConfig,
    ViTImageProcessorPil,
)

_SPECIAL = ["[PAD]", "[UNK]", "[START]", "[END]", "<image>", "user", "assistant"]
_WORDS = [
    *("a", "the", "cat", "dog", "sits", "on", "mat", "red", "car", "in", "street", "photo", "of"),
    *("describe", "this", "image", "one", "sentence", "what", "is", "brief"),
]
_SIDE = 32
# With larger weights than usual, so that a caption depends on its picture.
_LAYERS = {
    **{"num_hidden_layers": 1, "num_attention_heads": 2, "hidden_size": 16, "intermediate_size": 32},
    "initializer_range": 1.0,
}
_CHAT = (
    "{% for message in messages %}{{ message['role'] }} "
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}<image> {% else %}{{ part['text'] }} "
    "{% endif %}{% endfor %}{% endfor %}{% if add_generation_prompt %}assistant {% endif %}"
)


def tokenizer(frames: bool = False) -> PreTrainedTokenizerFast:
    """By words; with `frames`, a text gets a start and an end, as BLIP's has them."""
    words = {word: number for number, word in enumerate(_SPECIAL + _WORDS)}
    inner = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if frames:
        inner.post_processor = processors.TemplateProcessing("[START] $A [END]", None, [("[START]", 2), ("[END]", 3)])
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        **{"pad_token": "[PAD]", "unk_token": "[UNK]", "bos_token": "[START]", "eos_token": "[END]"},
    )


_SIZE = len(_SPECIAL + _WORDS)
_TOKENS = {"vocab_size": _SIZE, "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3}


def save_blip(folder: Path, seed: int = 0) -> Path:
    torch.manual_seed(seed)
    text = _LAYERS | _TOKENS | {"encoder_hidden_size": 16, "sep_token_id": 3, "max_position_embeddings": 128}
    vision = _LAYERS | {"image_size": _SIDE, "patch_size": 8}
    model = BlipForConditionalGeneration(BlipConfig(text_config=text, vision_config=vision, projection_dim=16))
    processor = BlipProcessor(BlipImageProcessorPil(size={"height": _SIDE, "width": _SIDE}), tokenizer(frames=True))
    return _saved(folder, model, processor)


def save_git(folder: Path, seed: int = 0) -> Path:
    torch.manual_seed(seed)
    vision = _LAYERS | {"image_size": _SIDE, "patch_size": 8}
    model = GitForCausalLM(GitConfig(vision_config=vision, **_LAYERS, **_TOKENS, max_position_embeddings=128))
    return _saved(folder, model, GitProcessor(_clip_processor(), tokenizer(frames=True)))


def save_vision_encoder_decoder(folder: Path, seed: int = 0) -> Path:
    torch.manual_seed(seed)
    encoder = ViTConfig(**_LAYERS, image_size=_SIDE, patch_size=8)
    decoder = GPT2Config(n_embd=16, n_layer=1, n_head=2, n_positions=128, initializer_range=1.0, **_TOKENS)
    config = VisionEncoderDecoderConfig.from_encoder_decoder_configs(encoder, decoder)
    config.decoder_start_token_id, config.pad_token_id, config.eos_token_id = 2, 0, 3
    model = VisionEncoderDecoderModel(config)
    model.generation_config.decoder_start_token_id = 2
    processor = ViTImageProcessorPil(size={"height": _SIDE, "width": _SIDE})
    return _saved(folder, model, processor, tokenizer())


def save_chat(folder: Path, seed: int = 0) -> Path:
    """A LLaVA, whose images become as many tokens as they have patches."""
    torch.manual_seed(seed)
    text = LlamaConfig(**_LAYERS, **_TOKENS, num_key_value_heads=2, max_position_embeddings=256)
    vision = CLIPVisionConfig(**_LAYERS, image_size=_SIDE, patch_size=8, projection_dim=16)
    config = LlavaConfig(text_config=text, vision_config=vision, image_token_id=4, vision_feature_layer=-1)
    model = LlavaForConditionalGeneration(config)
    words = tokenizer()
    words.add_special_tokens({"additional_special_tokens": ["<image>"]})
    processor = LlavaProcessor(
        _clip_processor(), words, patch_size=8, vision_feature_select_strategy="default", chat_template=_CHAT
    )
    processor.num_additional_image_tokens = 1
    return _saved(folder, model, processor)


def _clip_processor() -> CLIPImageProcessorPil:
    return CLIPImageProcessorPil(size={"shortest_edge": _SIDE}, crop_size={"height": _SIDE, "width": _SIDE})


def _saved(folder: Path, *parts: object) -> Path:
    for part in parts:
        part.save_pretrained(folder)
    return folder

"""Tiny random models in folders, built from their configurations: made in milliseconds.

Their outputs are nonsense that depends on the input, so that loading, batching and storing can be
tested without any download.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

_SPECIAL = ["<pad>", "<s>", "</s>", "<unk>"]
_SENTENCES = (
    "a plate of noodles with vegetables on a wooden table",
    "two people sitting at the counter of a small bar",
    "a street at night with lights and a sign over the door",
    "a bowl of soup, a glass of beer and a slice of bread",
    '{"gist": "good", "likes": [], "dislikes": [], "price": "none", "categories": []}',
)
_SMALL: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
_CHAT = (
    "{% for message in messages %}"
    "{{ '<s>' + message['role'] + '\n' + message['content'] + '</s>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<s>assistant\n' }}{% endif %}"
)


def byte_tokenizer(size: int = 400) -> Any:
    """A byte-level BPE tokenizer, trained here and now, that can spell everything."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    base = Tokenizer(models.BPE())
    base.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    base.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=_SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    base.train_from_iterator(_SENTENCES * 5, trainer)
    return _wrapped(base)


def word_tokenizer() -> Any:
    """A tokenizer whose tokens are whole words, so that even nonsense is made of words."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = sorted({word for text in _SENTENCES[:-1] for word in text.replace(",", "").split()})
    base = Tokenizer(
        models.WordLevel({word: index for index, word in enumerate([*_SPECIAL, *words])}, unk_token="<unk>")
    )
    base.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return _wrapped(base)


def _wrapped(base: Any) -> Any:
    from transformers import PreTrainedTokenizerFast

    tokens = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
    return PreTrainedTokenizerFast(tokenizer_object=base, padding_side="left", **tokens)


def drop_tensor(folder: Path, name: str) -> None:
    """Remove one tensor from the weights of a folder."""
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    del tensors[name]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def edit_json(path: Path, **fields: object) -> None:
    """Set fields of a JSON file; None removes one."""
    content = json.loads(path.read_text()) | fields
    path.write_text(json.dumps({name: value for name, value in content.items() if value is not None}))


def _special(tokenizer: Any) -> dict[str, int]:
    return {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }


def tiny_blip2_folder(path: Path, seed: int = 0) -> Path:
    """BLIP-2 over OPT with 80 thousand parameters; its vision model must not start as zeros."""
    import torch
    from transformers import (
        Blip2Config,
        Blip2ForConditionalGeneration,
        Blip2Processor,
        Blip2QFormerConfig,
        Blip2VisionConfig,
        OPTConfig,
    )
    from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

    tokenizer = word_tokenizer()
    images = BlipImageProcessorPil(size={"height": 32, "width": 32})
    vision = Blip2VisionConfig(
        **_SMALL, intermediate_size=64, image_size=32, patch_size=8, initializer_range=0.2
    )
    former = Blip2QFormerConfig(
        **_SMALL, vocab_size=32, intermediate_size=64, encoder_hidden_size=32, initializer_range=0.2
    )
    text = OPTConfig(
        **_SMALL,
        **_special(tokenizer),
        vocab_size=len(tokenizer),
        ffn_dim=64,
        word_embed_proj_dim=32,
        max_position_embeddings=128,
        init_std=0.3,
    )
    torch.manual_seed(seed)
    model = Blip2ForConditionalGeneration(
        Blip2Config(
            vision_config=vision,
            qformer_config=former,
            text_config=text,
            num_query_tokens=4,
            image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        )
    )
    torch.nn.init.normal_(model.query_tokens, std=0.5)
    model.save_pretrained(path)
    Blip2Processor(images, tokenizer, num_query_tokens=4).save_pretrained(path)
    return path


def tiny_blip_folder(path: Path, seed: int = 0) -> Path:
    """BLIP with 60 thousand parameters."""
    import torch
    from transformers import (
        BlipConfig,
        BlipForConditionalGeneration,
        BlipProcessor,
        BlipTextConfig,
        BlipVisionConfig,
    )
    from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

    tokenizer = word_tokenizer()
    small = _SMALL | {"intermediate_size": 64, "projection_dim": 16, "initializer_range": 0.4}
    text = BlipTextConfig(
        **small,
        **_special(tokenizer),
        sep_token_id=tokenizer.eos_token_id,
        vocab_size=len(tokenizer),
        encoder_hidden_size=32,
        max_position_embeddings=64,
    )
    vision = BlipVisionConfig(**small, image_size=32, patch_size=8)
    torch.manual_seed(seed)
    model = BlipForConditionalGeneration(
        BlipConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=16)
    )
    model.save_pretrained(path)
    BlipProcessor(BlipImageProcessorPil(size={"height": 32, "width": 32}), tokenizer).save_pretrained(path)
    return path


def tiny_resnet_folder(path: Path, seed: int = 0) -> Path:
    """ResNet of four bottleneck stages whose pooled width is 64."""
    import torch
    from transformers import ResNetConfig, ResNetModel
    from transformers.models.convnext.image_processing_pil_convnext import ConvNextImageProcessorPil

    torch.manual_seed(seed)
    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16, 32, 64], depths=[1, 1, 1, 1])
    ResNetModel(config).save_pretrained(path)
    ConvNextImageProcessorPil(size={"shortest_edge": 64}, crop_pct=0.875).save_pretrained(path)
    return path


def tiny_chat_folder(path: Path, seed: int = 0) -> Path:
    """An instruct model of Llama's kind with a chat template of the roles system, user and assistant."""
    import torch
    from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

    tokenizer = byte_tokenizer()
    tokenizer.chat_template = _CHAT
    torch.manual_seed(seed)
    model = LlamaForCausalLM(
        LlamaConfig(
            **_special(tokenizer),
            vocab_size=len(tokenizer),
            **_SMALL,
            intermediate_size=64,
            num_key_value_heads=1,
            max_position_embeddings=2048,
            initializer_range=0.3,
        )
    )
    model.generation_config = GenerationConfig(**_special(tokenizer), do_sample=True, temperature=0.7)
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path

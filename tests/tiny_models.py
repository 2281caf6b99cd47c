"""Tiny random models in folders, whose outputs are nonsense that depends on the input."""

import json
from pathlib import Path
from typing import Any

_TOKENS = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
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
    "{% for message in messages %}{{ '<s>' + message['role'] + '\n' + message['content'] + '</s>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<s>assistant\n' }}{% endif %}"
)


def results_in_blocks(model, photos, size):
    """What a captioner or an image encoder computes of photos, which come in blocks of a size."""
    numbered = list(enumerate(photos))
    blocks = (numbered[start : start + size] for start in range(0, len(numbered), size))
    return [result for _, result in sorted(model.compute(blocks), key=lambda pair: pair[0])]


def byte_tokenizer(size=400):
    """A byte-level BPE tokenizer, trained here and now, that can spell everything."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    base = Tokenizer(models.BPE())
    base.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    base.decoder = decoders.ByteLevel()
    options = {"special_tokens": _SPECIAL, "initial_alphabet": pre_tokenizers.ByteLevel.alphabet()}
    trainer = trainers.BpeTrainer(vocab_size=size, show_progress=False, **options)
    base.train_from_iterator(_SENTENCES * 5, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=base, padding_side="left", **_TOKENS)


def _word_tokenizer():
    """A tokenizer whose tokens are whole words, so that even nonsense is made of words."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = sorted({word for text in _SENTENCES[:-1] for word in text.replace(",", "").split()})
    vocabulary = {word: index for index, word in enumerate([*_SPECIAL, *words])}
    base = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    base.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=base, padding_side="left", **_TOKENS)


def drop_tensor(folder, name):
    """Remove one tensor from the weights of a folder."""
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    del tensors[name]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def edit_json(path, **fields):
    """Set fields of a JSON file; None removes one."""
    content = json.loads(path.read_text()) | fields
    path.write_text(json.dumps({name: value for name, value in content.items() if value is not None}))


def _special(tokenizer):
    return {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}


def _blip_parts():
    """Image processor and tokenizer of BLIP, and the token ids of its language model."""
    from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

    tokenizer = _word_tokenizer()
    special = {"vocab_size": len(tokenizer), **_special(tokenizer)}
    return BlipImageProcessorPil(size={"height": 32, "width": 32}), tokenizer, special


def tiny_blip2_folder(path: Path) -> Path:
    """BLIP-2 over OPT with 80 thousand parameters; its vision model must not start as zeros."""
    import torch
    import transformers as hf

    images, tokenizer, special = _blip_parts()
    small = _SMALL | {"intermediate_size": 64, "initializer_range": 0.2}
    text = _SMALL | special | {"ffn_dim": 64, "word_embed_proj_dim": 32, "init_std": 0.3}
    text["max_position_embeddings"] = 128
    torch.manual_seed(0)
    config = hf.Blip2Config(
        vision_config=hf.Blip2VisionConfig(**small, image_size=32, patch_size=8),
        qformer_config=hf.Blip2QFormerConfig(**small, vocab_size=32, encoder_hidden_size=32),
        text_config=hf.OPTConfig(**text),
        num_query_tokens=4,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
    )
    model = hf.Blip2ForConditionalGeneration(config)
    torch.nn.init.normal_(model.query_tokens, std=0.5)
    model.save_pretrained(path)
    hf.Blip2Processor(images, tokenizer, num_query_tokens=4).save_pretrained(path)
    return path


def tiny_blip_folder(path: Path) -> Path:
    """BLIP with 60 thousand parameters."""
    import torch
    import transformers as hf

    images, tokenizer, special = _blip_parts()
    small = _SMALL | {"intermediate_size": 64, "projection_dim": 16, "initializer_range": 0.4}
    text = small | special | {"encoder_hidden_size": 32, "max_position_embeddings": 64}
    text = hf.BlipTextConfig(**text, sep_token_id=tokenizer.eos_token_id).to_dict()
    vision = hf.BlipVisionConfig(**small, image_size=32, patch_size=8).to_dict()
    torch.manual_seed(0)
    config = hf.BlipConfig(text_config=text, vision_config=vision, projection_dim=16)
    hf.BlipForConditionalGeneration(config).save_pretrained(path)
    hf.BlipProcessor(images, tokenizer).save_pretrained(path)
    return path


def tiny_resnet_folder(path: Path) -> Path:
    """ResNet of four bottleneck stages whose pooled width is 64."""
    import torch
    from transformers import ResNetConfig, ResNetModel
    from transformers.models.convnext.image_processing_pil_convnext import ConvNextImageProcessorPil

    torch.manual_seed(0)
    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16, 32, 64], depths=[1, 1, 1, 1])
    ResNetModel(config).save_pretrained(path)
    ConvNextImageProcessorPil(size={"shortest_edge": 64}, crop_pct=0.875).save_pretrained(path)
    return path


def tiny_chat_folder(path: Path) -> Path:
    """An instruct model of Llama's kind with a chat template of the roles system, user and assistant."""
    import torch
    from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

    tokenizer = byte_tokenizer()
    tokenizer.chat_template = _CHAT
    small = _SMALL | {"intermediate_size": 64, "num_key_value_heads": 1, "initializer_range": 0.3}
    small |= {"vocab_size": len(tokenizer), "max_position_embeddings": 2048, **_special(tokenizer)}
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**small))
    model.generation_config = GenerationConfig(**_special(tokenizer), do_sample=True, temperature=0.7)
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path

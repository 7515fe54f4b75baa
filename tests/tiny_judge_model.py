"""A tiny Qwen2-VL that has learned to say how bright an image is, saved as on the hub."""

import json

import torch
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen2VLConfig, Qwen2VLForConditionalGeneration
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

SPECIAL = [
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
]
WORDS = ["?", "user", "assistant", "Style", "Score", ":", "2", "4", "9", "yes", "Yes", "no", "rate", "bright"]
WORDS += ["it", "a", "cat", "dog", "on", "the", "sofa", "of", "Image", "1", "or"]
CHAT = (
    "{% for message in messages %}<|im_start|> {{ message['role'] }} {% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %} {{ part['text'] }}"
    "{% endif %}{% endfor %}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|> assistant{% endif %}"
)
RATE, BRIGHT = "rate {prompt}", "bright ? {prompt}"
LEVELS = {"dark": 10, "bright": 245}
# It learns each prompt with the size of the same index, and the first prompt with all sizes.
PROMPTS = ("a cat", "the dog on the sofa", "a", "the cat of the dog on a sofa")
SIZES = ((40, 40), (90, 60), (60, 60), (60, 120))
# What the model learns to answer about a dark and a bright image.
ANSWERS = {RATE: ("Style Score : 2", "Style Score : 4"), BRIGHT: ("no", "Yes")}


def save_tiny_judge_model(folder, steps=60):
    """Train the model for some seconds and save it in a folder."""
    folder.mkdir(parents=True)
    _tokenizer().save_pretrained(folder)
    Qwen2VLImageProcessorPil(min_pixels=56 * 56, max_pixels=112 * 112).save_pretrained(folder)
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": CHAT}))
    torch.manual_seed(0)
    model = Qwen2VLForConditionalGeneration(_config())
    model.save_pretrained(folder)
    _train(model, folder, steps)
    model.save_pretrained(folder)
    return folder


def picture(level, size=(40, 40)):
    return Image.new("RGB", size, (level,) * 3)


def _tokenizer():
    vocabulary = {word: i for i, word in enumerate([*SPECIAL, *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="a"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<|endoftext|>",
        eos_token="<|im_end|>",
        additional_special_tokens=SPECIAL[1:],
    )


def _config():
    ids = {word: i for i, word in enumerate(SPECIAL)}
    text = {
        "vocab_size": len(SPECIAL) + len(WORDS),
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "rope_parameters": {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 10000.0},
        "eos_token_id": ids["<|im_end|>"],
        "pad_token_id": ids["<|endoftext|>"],
        "bos_token_id": None,
    }
    vision = {"depth": 1, "embed_dim": 16, "num_heads": 2, "mlp_ratio": 2, "hidden_size": 32}
    return Qwen2VLConfig(
        text_config=text,
        vision_config=vision,
        image_token_id=ids["<|image_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        video_token_id=ids["<|video_pad|>"],
        eos_token_id=ids["<|im_end|>"],
    )


def _train(model, folder, steps):
    from reward_core.models.judges.local_vlm import LocalVLM

    processor = LocalVLM(folder, "cpu").processor
    texts, images = [], []
    for template, answers in ANSWERS.items():
        for answer, level in zip(answers, LEVELS.values()):
            for prompt, size in [*zip(PROMPTS, SIZES), *((PROMPTS[0], size) for size in SIZES[1:])]:
                content = [{"type": "image"}, {"type": "text", "text": template.format(prompt=prompt)}]
                chat = processor.apply_chat_template(
                    [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
                )
                texts.append(f"{chat} {answer} <|im_end|>")
                images.append([picture(level, size)])
    inputs = processor(text=texts, images=images, padding=True, padding_side="left", return_tensors="pt")
    start = inputs["input_ids"] == processor.tokenizer.convert_tokens_to_ids("assistant")
    labels = inputs["input_ids"].masked_fill(start.cumsum(1) == 0, -100).masked_fill(start, -100)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(steps):
        loss = model(**inputs, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

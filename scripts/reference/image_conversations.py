"""What Transformers' processors and models make of conversations with images, for test/unit/image-text.test.ts.

    python scripts/reference/image_conversations.py

writes into test/fixtures/image-text a folder for each family: a made-up tokenizer, the processor's files, a chat template, a
config.json, and `expected.json`: ids, masks, what became of the images, and what greedy generation of the model in
test/fixtures/cases answers. Made with transformers 5.24.0, peft 0.21.2, torch 2.15.0, pillow 13.0.0 and num2words.
"""

import json
import shutil
import tempfile
from pathlib import Path

import torch
from peft import PeftModel
from PIL import Image
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import (
    AutoModelForImageTextToText,
    IdeficsForVisionText2Text,
    IdeficsProcessor,
    Idefics3Processor,
    LlavaProcessor,
    PreTrainedTokenizerFast,
    SmolVLMProcessor,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.idefics.image_processing_pil_idefics import IdeficsImageProcessorPil
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil
from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil
from transformers.models.smolvlm.video_processing_smolvlm import SmolVLMVideoProcessor

ROOT = Path(__file__).resolve().parents[2]
OUT = ROOT / "test/fixtures/image-text"
NEW_TOKENS = 10

LETTERS = [*"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789:.?!,'", "Ġ", "Ċ", "ĊĊ"]


def tokenizer(specials, at, **names):
    """Letters with two special tokens in front; `specials` follow the letters, and those of `at` have the ids given."""
    tokens = ["<pad>", "<s>", "</s>", *LETTERS, *specials]
    tokens += [f"<unused{i}>" for i in range(min(at.values()) - len(tokens))]
    vocab = {token: i for i, token in enumerate(tokens)} | at
    assert len(set(vocab.values())) == len(vocab), vocab
    made = Tokenizer(models.BPE(vocab=vocab, merges=[("Ċ", "Ċ")]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in ["<pad>", "<s>", "</s>", *specials, *at]])
    made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", eos_token="</s>", pad_token="<pad>", **names)


# In the manner of llava-hf's: images first, then the texts.
LLAVA_TEMPLATE = (
    "{% for message in messages %}{% if message['role'] != 'system' %}{{ message['role'].upper() + ': '}}{% endif %}"
    "{# Render all images first #}{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}"
    "{{ '<image>\n' }}{% endfor %}{# Render all text next #}{% if message['role'] != 'assistant' %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}{{ content['text'] + ' '}}{% endfor %}"
    "{% else %}{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}"
    "{% generation %}{{ content['text'] + ' '}}{% endgeneration %}{% endfor %}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
# In the manner of Idefics3's and SmolVLM's: parts in their order.
IDEFICS3_TEMPLATE = (
    "<|im_start|>{% for message in messages %}{{message['role'] | capitalize}}"
    "{% if message['content'][0]['type'] == 'image' %}{{':'}}{% else %}{{': '}}{% endif %}"
    "{% for line in message['content'] %}{% if line['type'] == 'text' %}{{line['text']}}"
    "{% elif line['type'] == 'image' %}{{ '<image>' }}{% endif %}{% endfor %}<end_of_utterance>\n"
    "{% endfor %}{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)
# The same with marks around what the assistant says.
MARKED_TEMPLATE = IDEFICS3_TEMPLATE.replace(
    "{% for line in", "{% if message['role'] == 'assistant' %}{% generation %}{{ message['content'][0]['text'] }}<end_of_utterance>"
    "{% endgeneration %}{{ '\n' }}{% else %}{% for line in"
).replace("{% endfor %}<end_of_utterance>\n", "{% endfor %}<end_of_utterance>{{ '\n' }}{% endif %}").replace("<image>", "<img>")

ROWS = [f"<row_{i}_col_{j}>" for i in (1, 2, 3) for j in (1, 2, 3)]


def llava():
    made = tokenizer([], {"<image>": 95}, extra_special_tokens={"image_token": "<image>"})
    images = CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size=16)
    # The model's tower has a class token, which the strategy "default" leaves out.
    return LlavaProcessor(images, made, patch_size=8, vision_feature_select_strategy="default", num_additional_image_tokens=1,
                          chat_template=LLAVA_TEMPLATE)


def idefics3():
    made = tokenizer(["<fake_token_around_image>", "<global-img>", "<end_of_utterance>", "<|im_start|>", *ROWS], {"<image>": 95})
    images = Idefics3ImageProcessorPil(size={"longest_edge": 48}, max_image_size={"longest_edge": 16})
    return Idefics3Processor(images, made, image_seq_len=4, chat_template=IDEFICS3_TEMPLATE)


def smolvlm():
    made = tokenizer(["<around>", "<whole>", "<end_of_utterance>", "<|im_start|>", *ROWS], {"<img>": 95}, extra_special_tokens={
        "image_token": "<img>", "fake_image_token": "<around>", "global_image_token": "<whole>",
        "end_of_utterance_token": "<end_of_utterance>"})
    images = SmolVLMImageProcessorPil(size={"longest_edge": 48}, max_image_size={"longest_edge": 16}, do_image_splitting=False)
    return SmolVLMProcessor(images, made, SmolVLMVideoProcessor(), image_seq_len=4, chat_template=MARKED_TEMPLATE)


def idefics():
    made = tokenizer(["<end_of_utterance>"], {"<fake_token_around_image>": 96, "<image>": 97})
    return IdeficsProcessor(IdeficsImageProcessorPil(image_size=16), made)


def text(text):
    return {"type": "text", "text": text}


IMAGE = {"type": "image"}
ASKED = [
    ("no image", [("user", [text("Hello there.")])], []),
    ("one image", [("user", [IMAGE, text("What is this?")])], ["small.png"]),
    ("two images", [("user", [IMAGE, IMAGE, text("Which is red?")])], ["small.png", "alpha.png"]),
    ("image between texts", [("user", [text("Look: "), IMAGE, text(" what is it?")])], ["tall.png"]),
    ("wide image", [("user", [IMAGE, text("And this?")])], ["wide.png"]),
    ("a later image", [("user", [IMAGE, text("A cat?")]), ("assistant", [text("No.")]), ("user", [IMAGE, text("And now?")])],
     ["small.png", "wide.png"]),
]
ANSWERED = [
    ("an answer", [("user", [IMAGE, text("What is this?")]), ("assistant", [text("A cat.")])], ["wide.png"]),
    ("two answers", [("user", [text("Hi")]), ("assistant", [text("Hello!")]), ("user", [IMAGE, IMAGE, text("See?")]),
                     ("assistant", [text("I do.")])], ["small.png", "tall.png"]),
]
# Idefics' processor has texts and images in a list.
LISTED = [
    ("no image", ["User: Hello there. Assistant:"]),
    ("one image", ["User:", "small.png", "What is this?"]),
    ("two images", ["User:", "small.png", "alpha.png", "Which?"]),
    ("images alone", ["small.png", "wide.png"]),
    ("image at the end", ["Look:", "tall.png"]),
    ("end of text between", ["tall.png", "One.</s>Two.", "small.png", "Three."]),
]


def read(name):
    return Image.open(ROOT / "test/fixtures/images/files" / name).convert("RGBA" if name == "alpha.png" else "RGB")


def model(family, folder, case):
    """The model of the case with the config of `folder`."""
    with tempfile.TemporaryDirectory() as both:
        shutil.copy(ROOT / f"test/fixtures/cases/{case}/base/model.safetensors", both)
        shutil.copy(folder / "config.json", both)
        kind = IdeficsForVisionText2Text if family == "idefics" else AutoModelForImageTextToText
        return kind.from_pretrained(both, dtype=torch.float32, attn_implementation="eager").eval()


def answer(model, inputs):
    with torch.no_grad():
        made = model.generate(**inputs, max_new_tokens=NEW_TOKENS, do_sample=False, eos_token_id=None, pad_token_id=0)
    return made[0, inputs["input_ids"].shape[1]:].tolist()


def images_of(inputs):
    """Shape and mean of the pixels, which test/unit/images.test.ts compares in full."""
    if "pixel_values" not in inputs:
        return None
    return {"shape": list(inputs["pixel_values"].shape), "mean": inputs["pixel_values"].double().mean().item()}


def conversation(messages):
    return [{"role": role, "content": parts} for role, parts in messages]


def rows_of(processor, model):
    for name, messages, images in ASKED:
        prompt = processor.apply_chat_template(conversation(messages), add_generation_prompt=True)
        special = not prompt.startswith("<s>")
        inputs = processor(text=prompt, images=[read(i) for i in images] or None, return_tensors="pt", add_special_tokens=special)
        yield {"name": name, "messages": conversation(messages), "images": images, "ids": inputs["input_ids"][0].tolist(),
               "pixels": images_of(inputs), "answer": answer(model, inputs)}


def trained_of(processor):
    for name, messages, images in ANSWERED:
        filled, files = [], iter(images)
        for message in conversation(messages):
            parts = [{**p, "image": read(next(files))} if p["type"] == "image" else p for p in message["content"]]
            filled.append({**message, "content": parts})
        marked = "{% generation %}" in processor.chat_template
        made = processor.apply_chat_template(filled, tokenize=True, return_dict=True, return_assistant_tokens_mask=marked)
        row = {"name": name, "messages": conversation(messages), "images": images, "ids": list(made["input_ids"][0])}
        yield row | ({"inside": list(made["assistant_masks"][0])} if marked else {})


def listed_of(processor, model):
    for name, prompt in LISTED:
        inputs = processor(text=[[read(p) if p.endswith(".png") else p for p in prompt]], return_tensors="pt")
        seen = inputs["image_attention_mask"][0].long()
        yield {"name": name, "text": "".join("<image>" if p.endswith(".png") else p for p in prompt),
               "images": [p for p in prompt if p.endswith(".png")], "ids": inputs["input_ids"][0].tolist(),
               "seen": seen.tolist(), "pixels": images_of(inputs), "answer": answer(model, inputs)}


def loss_of(network, batches):
    """Mean loss of the targets of all batches, each an input with labels."""
    total, count = 0.0, 0
    for inputs, labels in batches:
        with torch.no_grad():
            logits = network(**inputs).logits[0, :-1]
        total += torch.nn.functional.cross_entropy(logits, labels[1:], ignore_index=-100, reduction="sum").item()
        count += int((labels[1:] != -100).sum())
    return {"loss": total / count, "targets": count}


def losses_of(family, processor, network, case):
    """What training sees at its first step, and what an adapter of the case makes of it."""
    batches = []
    if family == "idefics":
        unseen = torch.tensor([96, 97])
        for _, prompt in LISTED[1:4]:
            inputs = processor(text=[[read(p) if p.endswith(".png") else p for p in prompt]], return_tensors="pt")
            ids = torch.cat([inputs["input_ids"][0], torch.tensor([2])])
            inputs["input_ids"], inputs["attention_mask"] = ids[None], torch.ones_like(ids)[None]
            seen = inputs["image_attention_mask"]
            inputs["image_attention_mask"] = torch.cat([seen, seen[:, -1:]], 1)
            batches.append((inputs, torch.where(torch.isin(ids, unseen), -100, ids)))
    for row in [] if family == "idefics" else trained_of(processor):
        prompt = processor.apply_chat_template(row["messages"])
        special = not prompt.startswith("<s>")
        inputs = processor(text=prompt, images=[read(i) for i in row["images"]], return_tensors="pt", add_special_tokens=special)
        ids = inputs["input_ids"][0]
        assert ids.tolist() == row["ids"]
        inside = row.get("inside") or answers_in(ids.tolist(), processor)
        batches.append((inputs, torch.where(torch.tensor(inside) == 1, ids, -100)))
    base = loss_of(network, batches)
    adapted = PeftModel.from_pretrained(network, ROOT / f"test/fixtures/cases/{case}/adapter").eval()
    return base | {"adapter": loss_of(adapted, batches)["loss"]}


def answers_in(ids, processor):
    """Between "Assistant:" and the end of the utterance, this included."""
    header = processor.tokenizer("Assistant:", add_special_tokens=False)["input_ids"]
    end = processor.tokenizer.convert_tokens_to_ids("<end_of_utterance>")
    inside = [0] * len(ids)
    for i in range(len(ids)):
        if ids[i:i + len(header)] == header:
            for j in range(i + len(header), ids.index(end, i) + 1):
                inside[j] = 1
    return inside


def write(make, case, changes):
    family = make.__name__
    folder = OUT / family
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    config = json.loads((ROOT / f"test/fixtures/cases/{case}/base/config.json").read_text())
    (config if family == "idefics" else config["text_config"])["max_position_embeddings"] = 512
    (folder / "config.json").write_text(json.dumps(config | changes, indent=1) + "\n")
    processor = make()
    processor.save_pretrained(folder)
    for name in ("video_preprocessor_config.json",):
        (folder / name).unlink(missing_ok=True)
    network = model(family, folder, case)
    if family == "idefics":
        expected = {"listed": list(listed_of(processor, network))}
    else:
        expected = {"asked": list(rows_of(processor, network)), "answered": list(trained_of(processor))}
    rows = {key: "[\n" + ",\n".join("  " + json.dumps(row) for row in rows) + "\n ]" for key, rows in expected.items()}
    rows["losses"] = json.dumps(losses_of(family, processor, network, case))
    (folder / "expected.json").write_text("{\n" + ",\n".join(f' "{k}": {v}' for k, v in rows.items()) + "\n}\n")


write(llava, "llava", {})
write(idefics3, "idefics3", {})
write(smolvlm, "idefics3", {"model_type": "smolvlm"})
write(idefics, "idefics", {})

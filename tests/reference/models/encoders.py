"""Writes clip_vit.json and dinov2.json, the reference numbers of src/compute/tests/parity/encoders.rs: features and logits of
tiny encoders of the package transformers for generated weights, pictures and prompts. The networks run in f64.

    python encoders.py      # needs torch and transformers

The committed files name the versions that wrote them.
"""

import json
import pathlib

import torch
import transformers
from transformers import CLIPConfig, CLIPModel, Dinov2Config, Dinov2ForImageClassification

from generate import parameter, uniform

HERE = pathlib.Path(__file__).parent
VERSIONS = {"torch": torch.__version__, "transformers": transformers.__version__}
# The numbers of tokens in a vocabulary of words; the last one ends a text.
START, END = 14, 15
PROMPTS = [[[1, 2, 3], [4, 3]], [[5, 6]], [[7, 8, 9, 10], [1, 11]]]


def numbers(tensor):
    return [float(f"{x:.9g}") for x in tensor.flatten().tolist()]


def published(name):
    """The name in published files. The package renames the attention of DINOv2 when it reads them."""
    for own, theirs in [("q_proj", "attention.query"), ("k_proj", "attention.key"), ("v_proj", "attention.value")]:
        name = name.replace(f".attention.{own}", f".attention.{theirs}") if name.startswith("dinov2") else name
    return name.replace(".attention.o_proj", ".attention.output.dense")


def filled(model):
    state = {name: tensor for name, tensor in model.state_dict().items() if not name.endswith("position_ids")}
    values = {name: torch.from_numpy(parameter(published(name), tuple(t.shape))) for name, t in state.items()}
    model.load_state_dict(values, strict=False)
    return model.double().eval(), [[published(name), list(t.shape)] for name, t in state.items()]


def write(name, value):
    value = {"versions": VERSIONS, **value}
    (HERE / f"{name}.json").write_text(json.dumps(value, separators=(",", ":")) + "\n")


def pictures(side):
    return torch.from_numpy(uniform("input", (2, 3, side, side), -2.0, 2.0)).double()


def clip(activation):
    text = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    text |= {"vocab_size": 16, "max_position_embeddings": 8, "bos_token_id": START, "eos_token_id": END}
    vision = {"hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 2, "num_attention_heads": 6}
    vision |= {"image_size": 64, "patch_size": 16}
    for tower in (text, vision):
        tower |= {"projection_dim": 24, "hidden_act": activation}
    model, tensors = filled(CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=24)))
    unit = torch.nn.functional.normalize
    with torch.no_grad():
        vision = model.vision_model(pixel_values=pictures(64))
        features = unit(model.visual_projection(vision.pooler_output), dim=-1)
        rows = []
        for prompts in PROMPTS:
            ids = [torch.tensor([[START, *prompt, END]]) for prompt in prompts]
            texts = [model.text_projection(model.text_model(input_ids=i).pooler_output) for i in ids]
            rows.append(unit(torch.stack([unit(text[0], dim=-1) for text in texts]).mean(0), dim=-1))
        logits = model.logit_scale.exp() * features @ torch.stack(rows).T
    return tensors, {"hidden_act": activation, "features": numbers(features), "logits": numbers(logits)}


def dino():
    config = Dinov2Config(
        hidden_size=48, num_hidden_layers=2, num_attention_heads=6, image_size=70, patch_size=14, num_labels=3
    )
    model, tensors = filled(Dinov2ForImageClassification(config))
    cases = []
    # At the side of the position embeddings, and resampled to the side that the import uses.
    for side in (70, 224):
        with torch.no_grad():
            x = pictures(side)
            tokens = model.dinov2(x).last_hidden_state
            features = torch.cat([tokens[:, 0], tokens[:, 1:].mean(1)], dim=1)
            cases.append({"side": side, "features": numbers(features), "logits": numbers(model(x).logits)})
    return tensors, cases


def main():
    cases = [clip("quick_gelu"), clip("gelu")]
    write("clip_vit", {"prompts": PROMPTS, "tensors": cases[0][0], "cases": [case for _, case in cases]})
    tensors, cases = dino()
    write("dinov2", {"tensors": tensors, "cases": cases})


main()

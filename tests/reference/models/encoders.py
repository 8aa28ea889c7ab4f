"""Writes clip_vit.json, siglip_vit.json, dinov2.json, vit.json and timm_mobilenetv2_100.json, the reference numbers of
src/compute/tests/parity/encoders.rs: features and logits of tiny encoders of the packages transformers and timm, and of timm's
MobileNetV2, for generated weights, pictures and prompts. The networks run in f64.

    python encoders.py [NAME …]     # needs torch, transformers and timm; NAME: clip, siglip, dino, timm

The committed files name the versions that wrote them.
"""

import json
import pathlib
import sys

import timm
import torch
import torchvision
import transformers
from timm.models.vision_transformer import VisionTransformer
from transformers import CLIPConfig, CLIPModel, Dinov2Config, Dinov2ForImageClassification, SiglipConfig, SiglipModel

from generate import parameter, uniform

HERE = pathlib.Path(__file__).parent
VERSIONS = {"torch": torch.__version__, "transformers": transformers.__version__, "timm": timm.__version__}
# The numbers of tokens in a vocabulary of words; the last one ends a text.
START, END = 14, 15
# What fills up a text of SigLIP, and the length of its texts.
PADDING, CONTEXT = 12, 8
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


def siglip():
    text = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    text |= {"vocab_size": 16, "max_position_embeddings": CONTEXT, "projection_size": 48}
    vision = {"hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 2, "num_attention_heads": 6}
    vision |= {"image_size": 64, "patch_size": 16}
    model, tensors = filled(SiglipModel(SiglipConfig(text_config=text, vision_config=vision)))
    unit = torch.nn.functional.normalize
    with torch.no_grad():
        features = unit(model.vision_model(pixel_values=pictures(64)).pooler_output, dim=-1)
        rows = []
        for prompts in PROMPTS:
            texts = []
            for prompt in prompts:
                ids = [START, *prompt, END]
                ids += [PADDING] * (CONTEXT - len(ids))
                texts.append(unit(model.text_model(input_ids=torch.tensor([ids])).pooler_output[0], dim=-1))
            rows.append(unit(torch.stack(texts).mean(0), dim=-1))
        logits = model.logit_scale.exp() * features @ torch.stack(rows).T + model.logit_bias
    return tensors, [{"features": numbers(features), "logits": numbers(logits)}]


def transformer():
    model = VisionTransformer(img_size=64, patch_size=16, embed_dim=128, depth=2, num_heads=2, num_classes=3)
    model, tensors = filled(model)
    with torch.no_grad():
        features = model.forward_head(model.forward_features(pictures(64)), pre_logits=True)
        return tensors, [{"features": numbers(features), "logits": numbers(model(pictures(64)))}]


def mobilenet():
    """The parameters are rounded to f16, as in a pack."""
    model = timm.create_model("mobilenetv2_100", num_classes=3)
    state = {name: tensor for name, tensor in model.state_dict().items() if not name.endswith("num_batches_tracked")}
    values = {name: torch.from_numpy(parameter(name, tuple(t.shape))).half() for name, t in state.items()}
    model.load_state_dict(values, strict=False)
    with torch.no_grad():
        logits = model.double().eval()(pictures(64))
    return [[name, list(t.shape)] for name, t in state.items()], [{"features": [], "logits": numbers(logits)}]


def main(chosen):
    if "clip" in chosen:
        cases = [clip("quick_gelu"), clip("gelu")]
        write("clip_vit", {"prompts": PROMPTS, "tensors": cases[0][0], "cases": [case for _, case in cases]})
    if "siglip" in chosen:
        tensors, cases = siglip()
        write("siglip_vit", {"prompts": PROMPTS, "tensors": tensors, "cases": cases})
    if "dino" in chosen:
        tensors, cases = dino()
        write("dinov2", {"tensors": tensors, "cases": cases})
    if "timm" in chosen:
        # The import takes the names of timm's ResNet50 for torchvision's.
        names = [list(model.state_dict()) for model in (timm.create_model("resnet50"), torchvision.models.resnet50())]
        assert names[0] == names[1]
        for name, (tensors, cases) in [("vit", transformer()), ("timm_mobilenetv2_100", mobilenet())]:
            write(name, {"tensors": tensors, "cases": cases})


main(sys.argv[1:] or ["clip", "siglip", "dino", "timm"])

"""Weights in other libraries' files mean the same after they were rewritten."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import CLIPModel

from ppd.errors import InputError
from ppd.rewards.aesthetic import AestheticHead
from ppd.rewards.clip_score import ClipScorer
from ppd.rewards.convert import clip_from_open_clip, convert_aesthetic, convert_open_clip
from tests.rewards.open_clip_reference import OpenClip, Visual


@pytest.fixture(scope="module")
def original(clip_folder: Path) -> OpenClip:
    """An OpenCLIP with random weights, of the sizes of the CLIP in the folder."""
    config = CLIPModel.from_pretrained(clip_folder).config
    torch.manual_seed(1)
    visual = Visual(width=48, layers=2, heads=3, patch=16, n_patches=4, out=24)
    text = config.text_config
    model = OpenClip(visual, 32, 2, text.num_attention_heads, text.vocab_size, text.max_position_embeddings)
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return model


@pytest.mark.parametrize("wrapped", [True, False])
def test_a_converted_clip_sees_and_reads_as_the_original(original, clip_folder, tmp_path, wrapped):
    weights = {"state_dict": original.state_dict(), "epoch": 1} if wrapped else original.state_dict()
    torch.save(weights, tmp_path / "hps.pt")
    convert_open_clip(tmp_path / "hps.pt", clip_folder, tmp_path / "hps")
    scorer = ClipScorer.from_pretrained(tmp_path / "hps")
    model, reference = scorer.model.double(), original.double()
    pixels = torch.rand(3, 3, 32, 32, dtype=torch.float64)
    end = scorer.tokenizer.eos_token_id
    assert end == model.config.text_config.eos_token_id
    ids = torch.tensor(scorer.tokenizer(["a red fox", "an owl"], padding="max_length", max_length=10).input_ids)
    with torch.no_grad():
        seen, read = model.get_image_features(pixels).pooler_output, model.get_text_features(ids).pooler_output
        torch.testing.assert_close(seen, reference.visual(pixels), atol=1e-9, rtol=0)
        torch.testing.assert_close(read, reference.read(ids, end), atol=1e-9, rtol=0)
    assert seen.std() > 0.1 and read.std() > 0.1
    assert model.logit_scale.item() == pytest.approx(original.logit_scale.item())
    original.float()


def test_weights_that_have_no_place_are_named(original, clip_folder, tmp_path):
    with pytest.raises(InputError, match="visual.attnpool"):
        clip_from_open_clip({"visual.attnpool.probe": torch.zeros(1)})
    torch.save({name: t for name, t in original.state_dict().items() if name != "ln_final.bias"}, tmp_path / "torn.pt")
    with pytest.raises(InputError, match="final_layer_norm.bias"):
        convert_open_clip(tmp_path / "torn.pt", clip_folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_aesthetic_head_is_rewritten_and_nothing_else_is_taken_for_it(tmp_path):
    head = AestheticHead()
    torch.save(head.state_dict(), tmp_path / "head.pth")
    convert_aesthetic(tmp_path / "head.pth", tmp_path / "head.safetensors")
    written = load_file(tmp_path / "head.safetensors")
    assert all(torch.equal(written[name], tensor) for name, tensor in head.state_dict().items())
    torch.save({"weight": torch.zeros(1, 768)}, tmp_path / "other.pth")
    with pytest.raises(InputError, match="not the aesthetic head"):
        convert_aesthetic(tmp_path / "other.pth", tmp_path / "other.safetensors")


class Hostile:
    """A pickle that would run code."""

    def __reduce__(self):
        return (print, ("it ran",))


def test_a_pickle_of_more_than_tensors_is_refused_and_never_run(tmp_path, capsys):
    torch.save({"state_dict": Hostile()}, tmp_path / "hostile.pth")
    with pytest.raises(InputError, match="no file of tensors"):
        convert_aesthetic(tmp_path / "hostile.pth", tmp_path / "out.safetensors")
    assert "it ran" not in capsys.readouterr().out
